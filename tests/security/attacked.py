"""One whole installation under attack: an object goes in, and what became of it comes back."""

import json
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tests.dicom_files import make_dx
from tests.flows.program import Program, until
from tests.ingest.raw_peer import DATA, RawPeer, established, message, store_rq
from tests.security.bombs import Hostile
from tests.security.watching import Growth, growing, processor_s

PATIENCE_S = 60.0
ENDED = ("failed", "not_eligible")


@dataclass(frozen=True, slots=True, kw_only=True)
class Fate:
    """What became of one object.

    status is that of the C-STORE response, None where the association ended instead; analysis and
    reason are of its study, empty where it is not listed.
    """

    name: str
    status: int | None
    analysis: str
    reason: str
    answered_s: float
    decided_s: float  # both from its first byte
    processor_s: float  # of all processes together
    growth: Growth

    @property
    def held(self) -> bool:
        return self.status == 0

    @property
    def is_kept_out(self) -> bool:
        """Refused, quarantined, or held and said not to be analysed, with a reason."""
        return not self.held or (self.analysis in ENDED and bool(self.reason))

    def told(self) -> str:
        """Return what became of it, for a failure's message."""
        return f"status {self.status}, {self.analysis} {self.reason}"


class TracedProgram(Program):
    """The program under strace: each file that it opens for writing or names, each program."""

    CALLS = "execve,connect,open,openat,creat,rename,renameat,renameat2,link,linkat,symlink,"
    CALLS += "symlinkat,mkdir,mkdirat,unlink,unlinkat"

    @property
    def trace(self) -> Path:
        return self.directory / "trace"

    def _command(self) -> list[str]:
        # -D: the program is the child of who started it, and hears its signals; not the tracer.
        tracing = [
            "strace",
            "-D",
            "-f",
            "--seccomp-bpf",
            "-y",
            "-s",
            "4096",
            "-e",
            f"trace={self.CALLS}",
        ]
        return [*tracing, "-qq", "-o", str(self.trace), *super()._command()]


@contextmanager
def attacked(
    folder: Path, sqlite_template: Path, kind: type[Program] = Program
) -> Iterator[Program]:
    """A started installation that has looked at one honest image; its worker has loaded all."""
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(sqlite_template, folder / "triage.sqlite")
    program = kind(folder, f"sqlite:///{folder / 'triage.sqlite'}")
    # What is loaded at the first use is not growth: an image of the size of a radiograph, twice.
    noise = np.random.default_rng(0).integers(0, 4096, (2048, 2048), dtype=np.uint16)
    honest = [make_dx(noise), make_dx(noise[::-1])]
    program.start()
    try:
        program.send(honest)
        for ds in honest:
            until(lambda ds=ds: analysis(program, ds.StudyInstanceUID)[0] not in ("", "pending"))
        yield program
    finally:
        program.stop()


def attack(program: Program, objects: Iterator[Hostile]) -> list[Fate]:
    """Send one after the other, each when the fate of the one before is known."""
    assert program.process is not None
    port, pid = program.port(), program.process.pid
    return [_send(program, port, pid, each) for each in objects]


def _send(program: Program, port: int, pid: int, sent: Hostile) -> Fate:
    before_s = processor_s(pid)
    with growing(pid) as growth:
        began_s = time.monotonic()
        status = status_of(port, sent)
        answered_s = time.monotonic() - began_s
        found = ("", "")
        if status == 0:
            found = until(lambda: _decided(program, sent.study_instance_uid))
        decided_s = time.monotonic() - began_s
    return Fate(
        name=sent.name,
        status=status,
        analysis=found[0],
        reason=found[1],
        answered_s=answered_s,
        decided_s=decided_s,
        processor_s=processor_s(pid) - before_s,
        growth=growth,
    )


def status_of(port: int, sent: Hostile) -> int | None:
    """Send one object over an association of its own; return the status of the answer."""
    said = message(
        store_rq(sop_class=sent.sop_class_uid, instance=sent.sop_instance_uid), sent.encoded
    )
    contexts = ((1, sent.sop_class_uid, (sent.transfer_syntax_uid,)),)
    with established(port, contexts) as peer:
        peer.connection.settimeout(PATIENCE_S)
        return _status(peer, said)


def _status(peer: RawPeer, said: bytes) -> int | None:
    """The status of the answer; None where the receiver ended the association."""
    try:
        peer.say(said)
        heard = peer.hear()
    except (TimeoutError, ConnectionError):
        return None
    if heard is None or heard[0] != DATA:
        return None
    body = heard[1]
    place = body.index(b"\x00\x00\x00\x09\x02\x00\x00\x00")  # (0000,0900), two bytes
    return int.from_bytes(body[place + 8 : place + 10], "little")


def _decided(program: Program, study_instance_uid: str) -> tuple[str, str] | None:
    found = analysis(program, study_instance_uid)
    return found if found[0] not in ("", "pending") else None


def analysis(program: Program, study_instance_uid: str) -> tuple[str, str]:
    """Return state and reason of a study's analysis; two empty words where it is not listed."""
    study: dict[str, Any] = program.worklist().get(study_instance_uid, {})
    return str(study.get("analysis", "")), str(study.get("analysis_reason") or "")


def listing(folder: Path) -> set[str]:
    """Return every path below a folder."""
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}


def alarm_of(program: Program) -> str:
    """What the program says of itself, for a failure's message."""
    return json.dumps([each["code"] for each in program.status()["causes"]])
