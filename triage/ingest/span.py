"""A run of bytes that is read piece by piece: in memory, or in a file that is never held whole.

Owns the way in which the header walk and the folder look at bytes. Files are read by pread(2), not
mapped: a foreign file that is cut short meanwhile gives fewer bytes, where a mapping would kill the
process (SIGBUS), and what was read is not charged to the process for as long as it looks.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol

from triage.store import Bytes


class Span(Protocol):
    """What `bytes` and a file have in common: a length, and slices without a step."""

    def __len__(self) -> int: ...

    def __getitem__(self, part: slice, /) -> Bytes: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class FileSpan:
    """`size` bytes of a file from `start` on; `read` takes a length and an offset in the file."""

    read: Callable[[int, int], bytes]
    start: int
    size: int

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, part: slice, /) -> bytes:
        start, stop, _ = part.indices(self.size)
        return self.read(max(0, stop - start), self.start + start)

    def after(self, start: int) -> "FileSpan":
        """Return what follows the first `start` bytes."""
        return FileSpan(read=self.read, start=self.start + start, size=self.size - start)


def pieces(span: Span, length: int) -> Iterator[Bytes]:
    """Yield the bytes of a span in order, `length` at a time."""
    for start in range(0, len(span), length):
        yield span[start : start + length]
