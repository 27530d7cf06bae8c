"""Progress of long work for the person who waits: a bar on a terminal, else plain lines.

Written to stderr, so that a verb's output stays its own. Plain lines come at the beginning, at
most every `LINE_S` seconds, and at the end: a log of a night's run stays short.
"""

import sys
import time
from collections.abc import Callable
from types import TracebackType
from typing import Final, Self, TextIO

BAR: Final = 30  # characters
REDRAW_S: Final = 0.1
LINE_S: Final = 10.0
_CLEAR: Final = "\r\x1b[K"


class Progress:
    """So many of `total` are done; used in a `with` statement, by one thread.

    `begun` of them were done before this run and say nothing about how long the rest takes.
    """

    def __init__(
        self,
        title: str,
        total: int,
        *,
        stream: TextIO | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._title, self._total = title, total
        self._stream = sys.stderr if stream is None else stream
        self._clock = clock
        self._bar = self._stream.isatty()
        self._done = self._counted = 0
        self._began_s = self._shown_s = clock()

    def __enter__(self) -> Self:
        self._show()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._show()
        if self._bar:
            self._write("\n")

    def advance(self, count: int = 1, *, free: bool = False) -> None:
        """Note that `count` more are done; `free` ones cost no time worth extrapolating."""
        self._done += count
        self._counted += 0 if free else count
        if self._clock() - self._shown_s >= (REDRAW_S if self._bar else LINE_S):
            self._show()

    def text(self) -> str:
        """Return the state in words, e.g. `Embedding: 12 of 40, about 20 s left`."""
        words = f"{self._title}: {self._done} of {self._total}"
        spent_s = self._clock() - self._began_s
        left = self._total - self._done
        if left > 0 and self._counted and spent_s >= 1.0:
            return f"{words}, about {_about(spent_s / self._counted * left)} left"
        if left <= 0:
            return f"{words} in {_about(spent_s)}"
        return words

    def _show(self) -> None:
        self._shown_s = self._clock()
        if not self._bar:
            self._write(f"{self.text()}\n")
            return
        filled = BAR if self._total <= 0 else min(BAR, BAR * self._done // self._total)
        self._write(f"{_CLEAR}[{'#' * filled}{'.' * (BAR - filled)}] {self.text()}")

    def _write(self, text: str) -> None:
        self._stream.write(text)
        self._stream.flush()


def _about(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 5400:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"
