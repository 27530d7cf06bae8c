"""Receivers that are killed again and again while DCMTK sends: daemon, senders, the storm of both.

What counts as answered is what a sender read: the status and the SOP Instance UID of each C-STORE
response, from the debug output of storescu and dcmsend. Moments are drawn from a seed.
"""

import hashlib
import os
import random
import re
import signal
import subprocess
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

from tests.benchmarks.measuring import environment, free_port, program, wait_for_port
from tests.dicom_files import make_ct_slice, make_dx, to_bytes
from tests.faults.peers import digest
from tests.flows.program import Program
from triage.pocket.phantoms import generate

TITLE = "TRIAGE"
SENDERS = ("storescu", "dcmsend", "storescu", "dcmsend")
BATCH = 12  # objects of one association
AGAIN = 3  # of these, at most, answered before and sent once more
# Of the objects, by turns: what is sent once more would come back if it had been lost.
AGAIN_EVERY = 2
SLICES = 50  # of one CT study
RADIOGRAPHS_EVERY = 20  # objects
PREAMBLE_BYTES = 132
AT_START_UP = 0.1  # share of the kills that do not wait for the receiver to listen
START_UP_S = 1.2
MAIN_ALONE = 0.2  # share of the kills that leave the children to find out by themselves
RESPONSE = re.compile(
    r"Message Type +: C-STORE RSP.*?Affected SOP Instance UID +: ([\d.]+).*?"
    r"DIMSE Status +: 0x([0-9a-fA-F]{4})",
    re.DOTALL,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Sent:
    """One object as it is sent. `body` and `pixels` are digests: of the data set, of its pixels."""

    uid: str
    study_instance_uid: str
    path: Path
    body: str
    pixels: str


class Receiver(Protocol):
    """What can be killed and started again on the same folder and port."""

    port: int

    def start(self) -> object: ...

    def kill(self) -> None: ...


# --- objects


def write_objects(
    folder: Path, count: int, *, radiographs_every: int = RADIOGRAPHS_EVERY, first: int = 0
) -> list[Sent]:
    """Write small CT studies, and one radiograph among every so many objects (0: none).

    `first` numbers the objects; others have other pixels.
    """
    folder.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(first)
    made = []
    for number in range(first, first + count):
        if radiographs_every and number % radiographs_every == 0:
            phantom = generate(number, finding="normal", size_px=256)
            ds = make_dx(phantom.pixels, bits_stored=phantom.bits_stored)
        else:
            study = f"1.2.826.0.1.3680043.8.498.77.{1 + number // SLICES}"
            ds = make_ct_slice(
                noise.integers(-1000, 1000, (48, 48), dtype=np.int16),
                position_mm=2.0 * (number % SLICES),
                study_instance_uid=study,
                series_instance_uid=f"{study}.1",
                InstanceNumber=1 + number % SLICES,
            )
        data = to_bytes(ds)
        path = folder / f"{number:06}.dcm"
        path.write_bytes(data)
        made.append(
            Sent(
                uid=str(ds.SOPInstanceUID),
                study_instance_uid=str(ds.StudyInstanceUID),
                path=path,
                body=body_digest(data),
                pixels=digest(bytes(ds.PixelData)),
            )
        )
    return made


def body_digest(data: bytes) -> str:
    """Digest of the data set of a Part 10 file, which begins after group 2 (PS3.10 7.1)."""
    length = int.from_bytes(data[PREAMBLE_BYTES + 8 : PREAMBLE_BYTES + 12], "little")
    return hashlib.sha256(data[PREAMBLE_BYTES + 12 + length :]).hexdigest()


# --- the daemon


class Daemon:
    """`triage run` with all its processes, on one port; started and killed again and again."""

    def __init__(
        self,
        directory: Path,
        url: str,
        *,
        demonstration: bool = False,
        attempts: int = 20,
        quiet_s: float = 1.0,
        more: str = "",
    ) -> None:
        self.program = Program(directory, url, demonstration=demonstration, caption="never")
        self.port = free_port()
        written = self.program.configuration
        text = written.read_text()
        text = text.replace("port = 0\n", f"port = {self.port}\n")
        text = text.replace("[retry]\n", f"[retry]\nattempts = {attempts}\n")
        text = text.replace("quiet_s = 1.0\nmax_wait_s = 10.0", f"quiet_s = {quiet_s}")
        written.write_text(text + more)

    def launch(self) -> None:
        self.program.start()

    def start(self) -> "Daemon":
        """Launch it and wait until its port answers."""
        self.launch()
        assert self.program.process is not None
        wait_for_port(self.port, self.program.process)
        return self

    def require_alive(self) -> None:
        """Fail where it has ended by itself."""
        process = self.program.process
        assert process is not None
        if process.poll() is not None:
            said = self.program.log.read_text("utf-8", errors="replace")[-2000:]
            raise AssertionError(f"the daemon ended by itself ({process.returncode}): {said}")

    def kill(self, *, whole: bool = True) -> None:
        """SIGKILL to the daemon and, unless not `whole`, to everything that it started."""
        process = self.program.process
        if process is None:
            return
        others = descendants(process.pid) if whole else []
        process.kill()
        for pid in others:
            end_process(pid)
        process.wait()
        self.program.process = None

    def stop(self) -> int:
        return self.program.stop()


class Worker:
    """`triage run --role analyse` of a daemon's installation, without anyone who restarts it."""

    def __init__(self, daemon: Daemon, number: int) -> None:
        self.log = daemon.program.directory / f"worker{number}.log"
        self._command = [*program(daemon.program.configuration), "run", "--role", "analyse"]
        self._environment = environment(OMP_NUM_THREADS="1")
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def start(self) -> "Worker":
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                self._command, env=self._environment, stdout=log, stderr=log
            )
        return self

    def kill(self) -> None:
        """SIGKILL to it alone; its decoders end by themselves."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def stop(self) -> int:
        assert self._process is not None
        self._process.terminate()
        code = self._process.wait(60)
        self._process = None
        return code

    def told(self, event: str) -> int:
        """How often its log names an event, in all of its lives."""
        return self.log.read_text("utf-8", errors="replace").count(f'"{event}"')


def descendants(pid: int) -> list[int]:
    """Return the processes that `pid` and those below it have started."""
    parents: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with suppress(OSError, IndexError, ValueError):
                # The name of a program may hold spaces; what follows its bracket does not.
                parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
                parents.setdefault(parent, []).append(int(entry.name))
    found, left = [], [pid]
    while left:
        below = parents.get(left.pop(), [])
        found += below
        left += below
    return found


def end_process(pid: int) -> None:
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


# --- the senders


class Senders:
    """DCMTK senders in loops: what is not answered 0x0000 is sent again, some of the rest too.

    Half of what was answered is never sent again: the store has it from its one success or not at
    all. `answered` counts by UID how often 0x0000 was read, `others` the other statuses.
    """

    def __init__(
        self,
        objects: Iterable[Sent],
        port: int,
        *,
        seed: int,
        programs: Sequence[str] = SENDERS,
    ) -> None:
        self.answered: Counter[str] = Counter()
        self.others: Counter[str] = Counter()
        self._port = port
        self._backlog = deque(objects)
        self._repeated = {each.uid for each in list(self._backlog)[::AGAIN_EVERY]}
        self._pending: deque[Sent] = deque()
        self._held: list[Sent] = []  # answered at least once, and may be sent again
        self._open = 0  # in some sender's hands
        self._guard = threading.Lock()
        self._stopping = threading.Event()
        self._threads = [
            threading.Thread(target=self._run, args=(program, random.Random(seed + number)))
            for number, program in enumerate(programs)
        ]

    def __enter__(self) -> "Senders":
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopping.set()
        for thread in self._threads:
            thread.join()

    @property
    def stores(self) -> int:
        """How many 0x0000 were read."""
        return self.answered.total()

    def release(self, count: int) -> None:
        """Let so many more objects be sent."""
        with self._guard:
            for _ in range(min(count, len(self._backlog))):
                self._pending.append(self._backlog.popleft())

    def waiting(self) -> int:
        """How many released objects have no 0x0000 yet."""
        with self._guard:
            return len(self._pending) + self._open

    def backlog(self) -> int:
        return len(self._backlog)

    def _run(self, program: str, draw: random.Random) -> None:
        while not self._stopping.is_set():
            batch, fresh = self._take(draw)
            told = send_once(program, [each.path for each in batch], self._port) if batch else []
            self._note(batch, fresh, told)
            if not told:
                self._stopping.wait(0.1)

    def _take(self, draw: random.Random) -> tuple[list[Sent], int]:
        """Return what to send; the first of it, as many as the number says, is not answered yet."""
        with self._guard:
            fresh = [self._pending.popleft() for _ in range(min(BATCH, len(self._pending)))]
            self._open += len(fresh)
            again = min(draw.randint(0, AGAIN), len(self._held))
            return fresh + draw.sample(self._held, again), len(fresh)

    def _note(self, batch: Sequence[Sent], fresh: int, told: Sequence[tuple[str, str]]) -> None:
        success = {uid for uid, status in told if status == "0000"}
        with self._guard:
            self._open -= fresh
            for uid, status in told:
                (self.answered if status == "0000" else self.others)[
                    uid if status == "0000" else status
                ] += 1
            self._held += [each for each in batch[:fresh] if each.uid in success & self._repeated]
            self._pending.extend(each for each in batch[:fresh] if each.uid not in success)


def send_once(program: str, paths: Sequence[Path], port: int) -> list[tuple[str, str]]:
    """Send over one association; return UID and status of each response that was read."""
    command = [program, "-d", "-aec", TITLE, "-aet", "SENDER", "-to", "5", "-ta", "10", "-td", "30"]
    if program == "storescu":
        command.append("--no-halt")
    command += ["127.0.0.1", str(port), *map(str, paths)]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, errors="replace", check=False, timeout=120
        )
        output = done.stdout + done.stderr
    except subprocess.TimeoutExpired as late:
        output = b"".join(each for each in (late.stdout, late.stderr) if each).decode()
    return responses(output)


def responses(output: str) -> list[tuple[str, str]]:
    """Return UID and status of each C-STORE response in the debug output of a DCMTK sender."""
    blocks = output.split("INCOMING DIMSE MESSAGE")[1:]
    found = [RESPONSE.search(block.partition("END DIMSE MESSAGE")[0]) for block in blocks]
    return [(match[1], match[2].lower()) for match in found if match]


# --- both


def storm(
    receiver: Receiver,
    senders: Senders,
    *,
    kills: int,
    draw: random.Random,
    longest_s: float,
    at_work: Callable[[], object] | None = None,
    at_work_every: int = 10,
) -> None:
    """Start and kill `receiver` `kills` times while more and more is sent; it is dead at the end.

    Every so many lives wait for `at_work` first. A Daemon is also killed while it starts, and
    sometimes without its children, which must find out by themselves.
    """
    share = -(-senders.backlog() // kills)
    for number in range(kills):
        senders.release(share)
        if isinstance(receiver, Daemon) and draw.random() < AT_START_UP:
            receiver.launch()
            time.sleep(draw.uniform(0, START_UP_S))
        else:
            receiver.start()
            if at_work is not None and number % at_work_every == at_work_every - 1:
                at_work()
            time.sleep(draw.uniform(0, longest_s))
        if isinstance(receiver, Daemon):
            receiver.require_alive()
            receiver.kill(whole=draw.random() >= MAIN_ALONE)
        else:
            receiver.kill()


def finish(daemon: Daemon, senders: Senders, *, patience_s: float) -> None:
    """Wait until everything has its 0x0000, from a daemon that is left alone now."""
    senders.release(senders.backlog())
    deadline_s = time.monotonic() + patience_s
    while senders.waiting():
        daemon.require_alive()
        assert time.monotonic() < deadline_s, f"{senders.waiting()} objects are still not taken"
        time.sleep(0.1)
