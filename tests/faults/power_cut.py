"""What a power cut leaves: a traced run, replayed without what was not synced.

strace writes down every change that a process makes to files and directories. `replayed` gives the
tree as a disk may hold it when the power goes at a line of that trace: a byte is there only if a
sync of its file began after it was written and was over before the cut, a name only if the same
holds for its directory. What was not synced is lost or, as a disk may also do, kept here and there.

Changes through a shared mapping are not seen: SQLite's -shm, which it makes anew, is left out.
"""

import random
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

CALLS = (
    "openat,creat,write,pwrite64,ftruncate,fsync,fdatasync,rename,renameat,renameat2,link,linkat,"
    "unlink,unlinkat,mkdir,mkdirat,rmdir,sendto,sendmsg"
)
UNKNOWN_CALLS = "writev,pwritev,pwritev2,fallocate,copy_file_range,sendfile,splice"  # not replayed
LINE = re.compile(r"(\d+) +(.*)")
BEGUN = re.compile(r"(.*) <unfinished \.\.\.>$")
RESUMED = re.compile(r"<\.\.\. (\w+) resumed>(.*)$")
CALL = re.compile(r"(\w+)\((.*)\) += (-?\d+)")
DESCRIPTOR = re.compile(r"(?:\d+|AT_FDCWD)<(.*)>")
HEX = re.compile(r"(?:\\x[0-9a-f]{2})+")


def strace(trace: Path) -> list[str]:
    """The words before a command; the traced process is the one that is started."""
    calls = f"trace={CALLS},{UNKNOWN_CALLS}"
    return ["strace", "-D", "-f", "-y", "-xx", "-s", "4000000", "-e", calls,
            "-e", "signal=none", "-o", str(trace)]  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """One system call; `begun` and `ended` are lines of the trace."""

    name: str
    arguments: tuple[str | bytes, ...]
    result: int
    begun: int
    ended: int


@dataclass(frozen=True, slots=True)
class Change:
    """Bytes at an offset, a new length (data is None), or what a name stands for (or nothing)."""

    offset: int = 0
    data: bytes | None = None
    name: str = ""
    inode: int | None = None


@dataclass(slots=True)
class Inode:
    """A file or directory: what it was, how it changed, when it was synced."""

    is_directory: bool
    content: bytes = b""
    entries: dict[str, int] = field(default_factory=dict)
    changes: list[tuple[int, int, Change]] = field(default_factory=list)  # begun, ended, what
    syncs: list[tuple[int, int]] = field(default_factory=list)  # begun, ended

    def kept(self, line: int, chance: random.Random | None) -> Iterator[Change]:
        """Yield what is there after a cut; of what was not synced, with `chance`, some."""
        synced = max((begun for begun, ended in self.syncs if ended < line), default=-1)
        for begun, ended, change in self.changes:
            if ended < synced or (begun < line and chance and chance.random() < 0.5):
                yield change


class Recording:
    """A trace, read: the tree before it, its changes, and what was said over the network."""

    def __init__(self, trace: Path, root: Path, before: Mapping[str, bytes]) -> None:
        """`root` is the folder that is followed; `before` its files then, by relative name."""
        self._root = str(root)
        self._inodes: list[Inode] = [Inode(is_directory=True)]
        self._now: dict[str, int] = {self._root: 0}  # path -> inode, as the process sees it
        self.said: list[tuple[int, bytes]] = []  # line at which it began, bytes
        self.lines = 0
        for name, content in sorted(before.items()):
            self._found(root / name, content)
        for call in self._calls(trace):
            self._follow(call)

    def replayed(self, line: int, into: Path, chance: random.Random | None = None) -> None:
        """Write the tree after a cut at `line` below `into`."""
        self._write(0, into, line, chance)

    # --- what was there

    def _found(self, path: Path, content: bytes) -> None:
        parents = [each for each in reversed(path.parents) if len(str(each)) >= len(self._root)]
        for parent in parents:
            if str(parent) not in self._now:
                self._named(str(parent), Inode(is_directory=True))
        self._named(str(path), Inode(is_directory=False, content=content))

    def _named(self, path: str, inode: Inode) -> None:
        number = self._add(inode)
        folder, _, name = path.rpartition("/")
        self._inodes[self._now[folder]].entries[name] = number
        self._now[path] = number

    def _add(self, inode: Inode) -> int:
        self._inodes.append(inode)
        return len(self._inodes) - 1

    # --- what happened

    def _calls(self, trace: Path) -> Iterator[Call]:
        begun: dict[str, tuple[int, str]] = {}
        with trace.open("r", encoding="ascii", errors="replace") as file:
            for number, text in enumerate(file):
                self.lines = number + 1
                match = LINE.match(text.rstrip("\n"))
                if match is None:
                    continue
                process, words = match.groups()
                if unfinished := BEGUN.match(words):
                    begun[process] = (number, unfinished[1])
                    self._hear(number, unfinished[1])
                    continue
                start = number
                if resumed := RESUMED.match(words):
                    start, first = begun.pop(process)
                    words = first + resumed[2]
                else:
                    self._hear(number, words)
                if call := CALL.match(words):
                    yield Call(name=call[1], arguments=_arguments(call[2]), result=int(call[3]),
                               begun=start, ended=number)  # fmt: skip

    def _hear(self, number: int, words: str) -> None:
        """A peer may have read a response as soon as the call has begun."""
        if words.startswith("sendto(") and (data := re.search(r'"((?:\\x..)+)"', words)):
            self.said.append((number, _decoded(data[1])))

    def _follow(self, call: Call) -> None:
        if call.result < 0:
            return
        if call.name in UNKNOWN_CALLS.split(","):
            path = call.arguments[0]
            assert not str(path).startswith(self._root), f"{call.name} is not replayed"
        elif call.name in ("pwrite64", "write", "ftruncate", "fsync", "fdatasync"):
            self._of_file(call)
        elif call.name in ("openat", "creat", "mkdir", "mkdirat"):
            self._makes(call)
        elif call.name.startswith(("rename", "link", "unlink", "rmdir")):
            self._names(call)

    def _of_file(self, call: Call) -> None:
        number = self._now.get(str(call.arguments[0]))
        if number is None:
            return
        inode = self._inodes[number]
        if call.name in ("fsync", "fdatasync"):
            inode.syncs.append((call.begun, call.ended))
        elif call.name == "ftruncate":
            change = Change(int(call.arguments[1]))
            inode.changes.append((call.begun, call.ended, change))
        else:
            data = call.arguments[1]
            assert isinstance(data, bytes)
            offset = int(call.arguments[3]) if call.name == "pwrite64" else self._length(inode)
            change = Change(offset, data[: call.result])
            inode.changes.append((call.begun, call.ended, change))

    def _length(self, inode: Inode) -> int:
        """Where a plain write goes: the files that are written so are written from their start."""
        return max(
            (c.offset + len(c.data) for _, _, c in inode.changes if c.data is not None),
            default=len(inode.content),
        )

    def _makes(self, call: Call) -> None:
        at = call.name in ("openat", "mkdirat")
        path = _joined(call.arguments, at=at)
        flags = str(call.arguments[2]) if call.name == "openat" and len(call.arguments) > 2 else ""
        makes = call.name != "openat" or "O_CREAT" in flags
        if makes and path not in self._now and path.rpartition("/")[0] in self._now:
            number = self._add(Inode(is_directory=call.name.startswith("mkdir")))
            self._entry(call, path, number)
        elif "O_TRUNC" in flags and path in self._now:
            changes = self._inodes[self._now[path]].changes
            changes.append((call.begun, call.ended, Change(0)))

    def _names(self, call: Call) -> None:
        at = "at" in call.name
        old = _joined(call.arguments, at=at)
        number = self._now.get(old)
        if number is None:
            return
        if call.name.startswith(("rename", "link")):
            self._entry(call, _joined(call.arguments[2 if at else 1 :], at=at), number)
        if not call.name.startswith("link"):
            self._entry(call, old, None)

    def _entry(self, call: Call, path: str, number: int | None) -> None:
        folder, _, name = path.rpartition("/")
        if folder in self._now:
            change = Change(name=name, inode=number)
            self._inodes[self._now[folder]].changes.append((call.begun, call.ended, change))
        if number is None:
            del self._now[path]
        else:
            self._now[path] = number

    # --- what is left

    def _write(self, number: int, path: Path, line: int, chance: random.Random | None) -> None:
        inode = self._inodes[number]
        if not inode.is_directory:
            path.parent.mkdir(parents=True, exist_ok=True)  # a folder of nothing is left out
            path.write_bytes(_content(inode, line, chance))
            return
        entries = dict(inode.entries)
        for change in inode.kept(line, chance):
            if change.inode is None:
                entries.pop(change.name, None)
            else:
                entries[change.name] = change.inode
        for name, child in entries.items():
            if not name.endswith("-shm"):
                self._write(child, path / name, line, chance)


def _content(inode: Inode, line: int, chance: random.Random | None) -> bytes:
    content = bytearray(inode.content)
    for change in inode.kept(line, chance):
        end = change.offset + len(change.data or b"")
        if len(content) < end:
            content += bytes(end - len(content))
        if change.data is None:
            del content[change.offset :]
        else:
            content[change.offset : end] = change.data
    return bytes(content)


def _arguments(words: str) -> tuple[str | bytes, ...]:
    """Strings as bytes, descriptors as the paths that they stand for, all else as it is written."""
    return tuple(_argument(each) for each in words.split(", "))


def _argument(word: str) -> str | bytes:
    if word.startswith('"'):
        return _decoded(word.strip('"'))
    if descriptor := DESCRIPTOR.fullmatch(word):
        return _decoded(descriptor[1]).decode(errors="replace")
    return word


def _joined(arguments: tuple[str | bytes, ...], *, at: bool) -> str:
    name = arguments[1 if at else 0]
    assert isinstance(name, bytes)
    return str(Path(str(arguments[0])) / name.decode()) if at else name.decode()


def _decoded(text: str) -> bytes:
    """Undo -xx; what is not escaped stays."""
    return HEX.sub(
        lambda match: bytes.fromhex(match[0].replace("\\x", "")).decode("latin-1"), text
    ).encode("latin-1")
