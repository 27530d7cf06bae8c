"""A pool of small decoder processes (DESIGN section 3.5).

Neither a codec nor an image can harm the caller: each task runs in a process without GPU and
network, under limits of memory and time. One that dies, hangs or grows too large is replaced and
costs only the task it was working on. What a process says is checked before it is believed: it
answers in JSON, never in pickle, and its arrays are read, never mapped, from a memory file that
the pool made, so nothing is left behind whichever side dies.
"""

import contextlib
import itertools
import math
import os
import queue
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import Future
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

import numpy as np
import structlog
from numpy.typing import NDArray

from triage.errors import DecodeCrashed, DecodeError, DecodeUnsupported, StoreError
from triage.imaging.decode_process import receive, send
from triage.imaging.subject import DecodedSubject, DecodeTask
from triage.imaging.views import RENDERINGS
from triage.records import ImageFacts, ViewSpec

__all__ = ["DecodePool", "DecodeTask", "DecodedSubject"]

_KINDS: Final = {kind.__name__: kind for kind in (DecodeError, DecodeUnsupported, StoreError)}
_START_TIMEOUT_S: Final = 60.0
_MAXIMUM_VIEW_PX: Final = 4096

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class _Ticket:
    task: DecodeTask
    future: Future[DecodedSubject]


class DecodePool:
    """`processes` decoders, each bounded by `memory_mib` and by `timeout_s` per task.

    Futures raise DecodeError, DecodeUnsupported, DecodeCrashed or, where a file cannot be read,
    StoreError. Thread-safe.
    """

    def __init__(
        self, processes: int = 2, *, memory_mib: int = 4096, timeout_s: float = 120.0
    ) -> None:
        self._memory_mib, self._timeout_s = memory_mib, timeout_s
        # By urgency, then in order of arrival; None, at the very end, ends a thread.
        self._tickets: queue.PriorityQueue[tuple[float, int, _Ticket | None]]
        self._tickets = queue.PriorityQueue()
        self._numbers = itertools.count()
        self._lock = threading.Lock()
        self._closed = False
        self._decoders: set[_Decoder] = set()
        self._threads = [
            threading.Thread(target=self._work, name=f"decode-{i}", daemon=True)
            for i in range(processes)
        ]
        for thread in self._threads:
            thread.start()

    def submit(self, task: DecodeTask, *, rank: int = 0) -> Future[DecodedSubject]:
        """Queue `task`; a lower `rank` goes first.

        Raises ValueError for an unknown rendering, RuntimeError once closed.
        """
        for spec in task.specs:
            if spec.rendering not in RENDERINGS or not 1 <= spec.size_px <= _MAXIMUM_VIEW_PX:
                raise ValueError(f"There is no rendering {spec.rendering} of {spec.size_px} px.")
        future: Future[DecodedSubject] = Future()
        with self._lock:
            if self._closed:
                raise RuntimeError("The decode pool is closed.")
            self._tickets.put((rank, next(self._numbers), _Ticket(task, future)))
        return future

    @property
    def failed(self) -> bool:
        """Whether a thread has ended by itself, as without memory: what it held has no answer."""
        return not self._closed and not all(thread.is_alive() for thread in self._threads)

    def close(self) -> None:
        """Cancel what waits, end the processes at once, join the threads."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
            for decoder in self._decoders:
                decoder.kill()
        for _ in self._threads:
            self._tickets.put((math.inf, next(self._numbers), None))
        for thread in self._threads:
            thread.join()
        for decoder in [*self._decoders]:  # of a thread that has ended by itself
            self._end(decoder)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    # --- one thread per process

    def _work(self) -> None:
        decoder = self._ready()
        while (ticket := self._tickets.get()[2]) is not None:
            if self._closed:
                ticket.future.cancel()
            if not ticket.future.set_running_or_notify_cancel():
                continue
            if decoder is not None and not decoder.is_usable():
                self._end(decoder)
                decoder = None
            # Top of the thread: whatever happens belongs to this task's future.
            try:
                decoder = decoder or self._start()
                result = decoder.run(ticket.task, self._timeout_s)
            except (DecodeError, StoreError) as error:  # the process itself is well
                ticket.future.set_exception(error)
            except BaseException as error:  # noqa: BLE001
                crash = _as_crash(error)
                log.warning("decoder_replaced", reason=str(crash))
                self._end(decoder)
                decoder = None
                ticket.future.set_exception(crash)
            else:
                ticket.future.set_result(result)
        self._end(decoder)

    def _ready(self) -> "_Decoder | None":
        """Start a process ahead of its first task; where that fails, the task tries again."""
        decoder: _Decoder | None = None
        try:
            decoder = self._start()
            decoder.wait_until_ready()
        except (OSError, DecodeCrashed) as error:
            log.warning("decoder_not_started", reason=str(_as_crash(error)))
            self._end(decoder)
            return None
        return decoder

    def _start(self) -> "_Decoder":
        decoder = _Decoder(self._memory_mib)
        with self._lock:
            if self._closed:
                decoder.kill()
            self._decoders.add(decoder)
        return decoder

    def _end(self, decoder: "_Decoder | None") -> None:
        if decoder is not None:
            with self._lock:
                self._decoders.discard(decoder)
            decoder.kill()
            decoder.reap()


class _Decoder:
    """One decoder process and its socket; used by one thread, killed by any."""

    def __init__(self, memory_mib: int) -> None:
        self._channel, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        with theirs:
            self._process = subprocess.Popen(
                [
                    sys.executable,
                    "-P",
                    "-m",
                    "triage.imaging.decode_process",
                    str(theirs.fileno()),
                    str(memory_mib),
                ],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
                env=_environment(),
            )
        self._ready = False
        self._killed = False

    def is_usable(self) -> bool:
        """False once the process has ended, on its own or by the kernel's or the pool's hand."""
        return not self._killed and self._process.poll() is None

    def kill(self) -> None:
        self._killed = True
        with contextlib.suppress(ProcessLookupError):
            self._process.kill()

    def reap(self) -> None:
        self._channel.close()
        self._process.wait()

    def wait_until_ready(self) -> None:
        """Wait until the process has started. Raises DecodeCrashed."""
        if not self._ready:
            self._answer(_START_TIMEOUT_S)
            self._ready = True

    def run(self, task: DecodeTask, timeout_s: float) -> DecodedSubject:
        """Raises DecodeCrashed if the process cannot be used any more afterwards."""
        self.wait_until_ready()
        started_s = time.monotonic()
        memory_fd = os.memfd_create("triage-views")
        try:
            request = {
                "paths": [str(path) for path in task.paths],
                "specs": [asdict(spec) for spec in task.specs],
                "limits": asdict(task.limits),
            }
            try:
                send(self._channel, request, memory_fd)
            except OSError:
                raise DecodeCrashed(f"The decoder process {self._ending()}.") from None
            subject = _subject(self._answer(timeout_s), task, memory_fd)
            return replace(subject, decode_s=time.monotonic() - started_s)
        finally:
            os.close(memory_fd)

    def _answer(self, timeout_s: float) -> dict[str, Any]:
        """The next message, by a deadline that the process cannot push by sending slowly.

        Without a thread to watch it: where memory is short, the start of one may wait for ever.
        """
        try:
            answer, _ = receive(self._channel, deadline_s=time.monotonic() + timeout_s)
            self._channel.settimeout(None)
        except TimeoutError:
            self.kill()
            raise DecodeCrashed(f"Decoding took longer than {timeout_s:g} seconds.") from None
        except (OSError, ValueError):
            answer = None
        if answer is None:
            raise DecodeCrashed(f"The decoder process {self._ending()}.")
        return answer

    def _ending(self) -> str:
        self.kill()
        code = self._process.wait()
        return f"was ended by signal {-code}" if code < 0 else f"ended with code {code}"


def _environment() -> dict[str, str]:
    """Only what Python needs: no secrets, no GPU, no threads."""
    roots = [str(Path(__file__).resolve().parents[2]), os.environ.get("PYTHONPATH", "")]
    kept = {k: os.environ[k] for k in ("PATH", "LANG", "LC_ALL", "TZ") if k in os.environ}
    return kept | {
        "PYTHONPATH": os.pathsep.join(filter(None, roots)),  # an empty entry means here
        "CUDA_VISIBLE_DEVICES": "",
        "OMP_NUM_THREADS": "1",
        "OPENBLAS_NUM_THREADS": "1",
    }


def _as_crash(error: BaseException) -> DecodeCrashed:
    if isinstance(error, DecodeCrashed):
        return error
    return DecodeCrashed(f"No decoder process could be used ({type(error).__name__}).")


# --- believing an answer


def _subject(answer: dict[str, Any], task: DecodeTask, memory_fd: int) -> DecodedSubject:
    if "crashed" in answer:
        raise DecodeCrashed(f"The decoder process {answer['crashed']}.")
    if "error" in answer:
        raise _KINDS.get(str(answer["error"]), DecodeError)(str(answer["message"]))
    try:
        views, digests, offset = {}, {}, 0
        said = zip(task.specs, map(str, answer["refused"]), strict=True)
        refused = {spec: reason for spec, reason in said if reason}
        made = [spec for spec in task.specs if spec not in refused]
        for spec, view in zip(made, answer["views"], strict=True):
            array = _array(memory_fd, offset, tuple(map(int, view["shape"])), spec)
            offset += array.nbytes
            views[spec], digests[spec] = array, tuple(map(str, view["digests"]))
            if len(digests[spec]) != len(array):
                raise ValueError("One digest per view is due.")
        pixel_digests = tuple(map(str, answer["pixel_digests"]))
        if len(pixel_digests) != len(task.paths):
            raise ValueError("One digest per file is due.")
        facts = _facts(answer["facts"])
    except (KeyError, TypeError, ValueError) as error:
        raise DecodeCrashed("The decoder process gave an answer that makes no sense.") from error
    return DecodedSubject(
        views=views,
        view_digests=digests,
        pixel_digests=pixel_digests,
        facts=facts,
        refused=refused,
    )


def _facts(stated: dict[str, Any]) -> ImageFacts:
    return ImageFacts(
        rows=int(stated["rows"]),
        columns=int(stated["columns"]),
        number_of_frames=int(stated["number_of_frames"]),
        minimum=float(stated["minimum"]),
        maximum=float(stated["maximum"]),
        finite=bool(stated["finite"]),
        blank=bool(stated["blank"]),
    )


def _array(
    memory_fd: int, offset: int, shape: tuple[int, ...], spec: ViewSpec
) -> NDArray[np.float32]:
    """A copy of what the process wrote; a short or impossible one is a ValueError."""
    count, channels, *square = shape
    if not 1 <= count <= max(spec.maximum_slices, 1 + spec.crops**2) or channels not in (1, 3):
        raise ValueError("An impossible number of views.")
    if square != [spec.size_px, spec.size_px]:
        raise ValueError("Views of another size.")
    array = np.empty(shape, np.float32)
    buffer, done = array.data.cast("B"), 0
    while done < len(buffer):
        read = os.preadv(memory_fd, [buffer[done:]], offset + done)
        if read == 0:
            raise ValueError("Fewer values than stated.")
        done += read
    if not np.isfinite(array).all():
        raise ValueError("Non-finite values.")
    return array
