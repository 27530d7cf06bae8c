"""When has a file been written to its end? (clinical.md 4.4)

A created file may be half there, and no message says that it is whole. It counts as complete when
its size and modification time have not changed for a while. A writer that closed it, or a rename,
is a hint that it may be complete already: the watcher then tries it at once, and goes back to
waiting if it is not a whole object.

Pure: files are told by `observe`, time is an argument (seconds of any monotonic clock).
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path


@dataclass(frozen=True, slots=True, kw_only=True)
class Stamp:
    """What changes when a file does."""

    size_bytes: int
    mtime_ns: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """A file that waits to be read."""

    path: Path
    stamp: Stamp
    unchanged_since_s: float
    closed: bool  # its writer has closed it, or it was moved here whole


class Tracker:
    """The files that are not read yet."""

    def __init__(self, *, stable_s: float) -> None:
        self._stable_s = stable_s
        self._candidates: dict[Path, Candidate] = {}

    def __len__(self) -> int:
        return len(self._candidates)

    def observe(self, path: Path, stamp: Stamp, now_s: float, *, closed: bool = False) -> None:
        """Tell how a file looks now; a changed stamp begins its wait anew."""
        known = self._candidates.get(path)
        if known is None or known.stamp != stamp:
            known = Candidate(path=path, stamp=stamp, unchanged_since_s=now_s, closed=closed)
        self._candidates[path] = replace(known, closed=known.closed or closed)

    def ready(self, now_s: float) -> Iterator[Candidate]:
        """Yield the files that may be read, longest unchanged first."""
        waiting = sorted(self._candidates.values(), key=lambda file: file.unchanged_since_s)
        return (file for file in waiting if file.closed or self.is_stable(file, now_s))

    def is_stable(self, candidate: Candidate, now_s: float) -> bool:
        """Whether a file has not changed for long enough to be judged."""
        return now_s - candidate.unchanged_since_s >= self._stable_s

    def not_whole(self, path: Path) -> None:
        """Take back the hint: this file was closed before its end."""
        if path in self._candidates:
            self._candidates[path] = replace(self._candidates[path], closed=False)

    def tried(self, candidate: Candidate, stamp: Stamp | None, now_s: float) -> None:
        """Let go of a file, unless another one stands under its name by now: that one waits.

        `stamp` is how the name looks now. A file that could not be read as it is, is not tried
        again before it is found again.
        """
        if stamp is None or stamp == candidate.stamp:
            self.forget(candidate.path)
        else:
            self.observe(candidate.path, stamp, now_s)

    def forget(self, path: Path) -> None:
        """Let go of a file that was read or is gone."""
        self._candidates.pop(path, None)
