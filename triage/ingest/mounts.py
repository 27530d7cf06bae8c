"""On what kind of file system does a folder lie? (proc(5), /proc/self/mountinfo)

inotify is silent about what other hosts write on a network mount (inotify(7)), so such folders are
polled.
"""

import re
from pathlib import Path
from typing import Final

MOUNTINFO: Final = Path("/proc/self/mountinfo")
REMOTE: Final = frozenset(
    {
        *("9p", "afs", "ceph", "cifs", "davfs", "glusterfs", "lustre", "ncpfs", "nfs", "nfs4"),
        *("ocfs2", "smb3", "smbfs", "vboxsf", "virtiofs"),
    }
)
_OCTAL: Final = re.compile(r"\\([0-7]{3})")


def needs_polling(path: Path, mountinfo: str) -> bool:
    """Whether another host may write to `path` unseen; FUSE counts, what serves it is unknown."""
    kind = filesystem_type(path, mountinfo)
    return kind in REMOTE or kind.startswith("fuse")


def filesystem_type(path: Path, mountinfo: str) -> str:
    """Return the file system type of an absolute path; empty where no line covers it."""
    best, kind = -1, ""
    for line in mountinfo.splitlines():
        before, separator, after = line.partition(" - ")
        fields = before.split()
        if not separator or len(fields) < 5:
            continue
        mount = Path(_OCTAL.sub(lambda match: chr(int(match[1], 8)), fields[4]))
        # Later lines lie over earlier ones on the same directory.
        if path.is_relative_to(mount) and len(mount.parts) >= best:
            best, kind = len(mount.parts), after.split()[0]
    return kind
