"""On what kind of file system does a folder lie? (proc(5), /proc/self/mountinfo)

inotify is silent about what other hosts write on a network mount (inotify(7)), so such folders are
polled. Without its mount, a mount point is an empty directory like any other: what ought to be
mounted is known from fstab(5), and from what was mounted before.
"""

import re
from pathlib import Path
from typing import Final

MOUNTINFO: Final = Path("/proc/self/mountinfo")
FSTAB: Final = Path("/etc/fstab")
REMOTE: Final = frozenset(
    {
        *("9p", "afs", "ceph", "cifs", "davfs", "glusterfs", "lustre", "ncpfs", "nfs", "nfs4"),
        *("ocfs2", "smb3", "smbfs", "vboxsf", "virtiofs"),
    }
)
_OCTAL: Final = re.compile(r"\\([0-7]{3})")


def text_of(path: Path) -> str:
    """Return what a file of the system says; empty where there is none."""
    try:
        return path.read_text("utf-8", "replace")
    except OSError:
        return ""


def needs_polling(path: Path, mountinfo: str) -> bool:
    """Whether another host may write to `path` unseen; FUSE counts, what serves it is unknown."""
    kind = filesystem_type(path, mountinfo)
    return kind in REMOTE or kind.startswith("fuse")


def filesystem_type(path: Path, mountinfo: str) -> str:
    """Return the file system type of an absolute path; empty where no line covers it."""
    return _innermost(path, mountinfo)[1]


def mount_point(path: Path, mountinfo: str) -> Path:
    """Return where the file system of an absolute path is mounted."""
    return _innermost(path, mountinfo)[0]


def unmounted(path: Path, mountinfo: str, fstab: str) -> Path | None:
    """Return the mount point at or above `path` that fstab(5) names and that is not mounted."""
    for line in fstab.splitlines() if mountinfo else ():
        fields = line.split()
        if len(fields) < 4 or line.lstrip().startswith("#") or not fields[1].startswith("/"):
            continue
        point = _unescaped(fields[1])
        if path.is_relative_to(point) and mount_point(point, mountinfo) != point:
            return point
    return None


def _innermost(path: Path, mountinfo: str) -> tuple[Path, str]:
    point, kind = Path("/"), ""
    for line in mountinfo.splitlines():
        before, separator, after = line.partition(" - ")
        fields = before.split()
        if not separator or len(fields) < 5:
            continue
        mount = _unescaped(fields[4])
        # Later lines lie over earlier ones on the same directory.
        if path.is_relative_to(mount) and len(mount.parts) >= len(point.parts):
            point, kind = mount, after.split()[0]
    return point, kind


def _unescaped(field: str) -> Path:
    return Path(_OCTAL.sub(lambda match: chr(int(match[1], 8)), field))
