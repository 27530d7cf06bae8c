"""The audit spool: messages on disk until they were delivered.

Owns the directory of `[audit] spool`: segments of messages, one message per line, written once,
named by their place in the order and by the numbers of the rows that they tell of. The directory is
0700 and a segment 0600, because this is the one place outside store and database that holds patient
data (DESIGN section 3.13). Only the role `schedule` writes here.
"""

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from triage.errors import StoreError, TransientError

MIB = 1024 * 1024
_SEGMENT = re.compile(r"(\d{12})-([a-z_]+)-(\d+)-(\d+)\.audit\Z")
_PART = "new.part"


class AuditUnavailable(TransientError):
    """Audit messages cannot be spooled or delivered now; they wait, and nothing is lost."""

    hint = "Check [audit] spool and the collector of [audit] host; `triage check` tries both."


@dataclass(frozen=True, slots=True, kw_only=True)
class Segment:
    """Some messages, in order: those of the rows of `mark` after `after`, up to `to`."""

    path: Path
    number: int
    mark: str
    after: int
    to: int

    def messages(self) -> list[str]:
        """Raises StoreError."""
        try:
            return self.path.read_text("utf-8").split("\n")[:-1]
        except OSError as error:
            raise _trouble(self.path, error) from error


class Spool:
    """The segments of one installation; of one thread."""

    def __init__(self, directory: Path, *, maximum_mib: int) -> None:
        self._directory = directory
        self._maximum_bytes = maximum_mib * MIB

    def open(self) -> None:
        """Make the directory where there is none and close it to others. Raises StoreError."""
        try:
            self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._directory.chmod(0o700)
            (self._directory / _PART).unlink(missing_ok=True)
        except OSError as error:
            raise _trouble(self._directory, error) from error

    def segments(self) -> list[Segment]:
        """Return what waits, the oldest first."""
        try:
            names = [path.name for path in self._directory.iterdir()]
        except OSError as error:
            raise _trouble(self._directory, error) from error
        found = [(name, match) for name in names if (match := _SEGMENT.match(name))]
        return sorted(
            (
                Segment(
                    path=self._directory / name,
                    number=int(match[1]),
                    mark=match[2],
                    after=int(match[3]),
                    to=int(match[4]),
                )
                for name, match in found
            ),
            key=lambda each: each.number,
        )

    @property
    def is_full(self) -> bool:
        """Whether nothing more is spooled until something was delivered or taken away."""
        held = 0
        for segment in self.segments():
            try:
                held += segment.path.stat().st_size
            except FileNotFoundError:
                continue  # taken away meanwhile
        return held >= self._maximum_bytes

    def after(self, mark: str, number: int) -> Segment | None:
        """Return the segment that tells of the rows of `mark` after `number`."""
        return next(
            (each for each in self.segments() if (each.mark, each.after) == (mark, number)), None
        )

    def write(self, mark: str, messages: Sequence[str], *, after: int, to: int) -> None:
        """Add a segment at the end; durable on return. Raises StoreError."""
        held = self.segments()
        number = held[-1].number + 1 if held else 1
        path = self._directory / f"{number:012d}-{mark}-{after}-{to}.audit"
        part = self._directory / _PART
        try:
            descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
            with os.fdopen(descriptor, "wb") as file:
                file.write("".join(f"{message}\n" for message in messages).encode("utf-8"))
                file.flush()
                os.fsync(file.fileno())
            part.rename(path)
            self._sync()
        except OSError as error:
            raise _trouble(path, error) from error

    def remove(self, segment: Segment) -> None:
        """Delete what was delivered. Raises StoreError."""
        try:
            segment.path.unlink(missing_ok=True)
        except OSError as error:
            raise _trouble(segment.path, error) from error

    def _sync(self) -> None:
        descriptor = os.open(self._directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _trouble(path: Path, error: OSError) -> StoreError:
    return StoreError(
        f"the audit spool {path.parent if path.suffix else path} cannot be used ({error.strerror})",
        hint="Check that [audit] spool is on a disk with space and belongs to the daemon's user.",
    )
