"""Arrival-to-flag: from the row of an image to the commit of its flag, pocket model on CPU.

The stages are those that the worker logs with every analysed image (`triage.worker.stopwatch`):
what is neither decode nor model is the daemon's own share. Images are phantoms in the size of a
radiograph, no two alike, so that nothing comes from the cache.
"""

import json
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
from sqlalchemy import select

from tests.benchmarks import backlog, sending
from tests.benchmarks.measuring import (
    Conditions,
    Limit,
    Note,
    Row,
    at_most,
    configuration,
    daemon,
    free_port,
    need,
    say,
    triage,
)
from tests.dicom_files import make_dx, to_bytes
from triage.database.connection import Database, open_database
from triage.database.tables import Study
from triage.database.tables_house import JobRow
from triage.pocket import phantoms
from triage.records import JobKind, JobState

TITLE = "Arrival-to-flag, pocket model on CPU, radiographs of 10 MB"
EVERY_S = 0.5  # two DX per second
STEADY = 120  # radiographs, a minute
CT_IMAGES = 2_000
BACKLOG = 10_000
STAT_ORDERS = 12
STAT_EVERY_S = 4.0
PHANTOMS = 6
PHANTOM_PX = 2560
PATIENCE_S = 300.0
FLAG_S, OWN_S, FLOOD_S, STAT_S = 1.5, 0.1, 3.0, 3.0
PEERS = """
[logging]
format = "json"
[[receiver.peers]]
ae_title = "ROUTINE"
address = "127.0.0.1"
[[receiver.peers]]
ae_title = "STAT"
address = "127.0.0.1"
default_priority = "STAT"
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """The stages of one analysed image in seconds, as the worker logged them."""

    waited_s: float
    decode_s: float
    model_s: float
    total_s: float

    @property
    def own_s(self) -> float:
        return self.total_s - self.decode_s - self.model_s


@dataclass(frozen=True, slots=True, kw_only=True)
class House:
    """A running daemon, where to send to, and what there is to send."""

    config: Path
    port: int
    db: Database
    files: list[Path]  # radiographs of one study each

    def uids(self, files: Sequence[Path]) -> list[str]:
        return [path.name for path in files]


def measure(conditions: Conditions) -> Iterator[Row | Note]:
    """Yield seconds: alone at two per second, beside a large CT, beside a backlog."""
    need("dcmsend", package="dcmtk")
    with conditions.folder() as folder:
        say("  radiographs")
        pixels = [_pixels(seed) for seed in range(PHANTOMS)]
        steady = conditions.count(STEADY, least=10)
        files = _write(folder / "dx", pixels, 3 * steady)
        ct = sending.write_ct(folder / "ct", conditions.count(CT_IMAGES, least=20))
        yield from _steady(conditions, files[:steady])
        yield from _beside_ct(conditions, files[steady:], ct)
        orders = conditions.count(STAT_ORDERS, least=3)
        yield from _beside_backlog(conditions, files[:orders], pixels)
    yield Note(
        text="The total runs from the time at which the receiver writes the row. The daemon's own"
        " share is what is neither in the decoder process nor in the model. p95 is the smallest"
        " value that 95 % do not exceed; all figures are of one run."
    )


# --- the three situations


def _steady(conditions: Conditions, files: list[Path]) -> Iterator[Row]:
    say(f"  {len(files)} radiographs, two per second")
    with _house(conditions, files) as house:
        for path in files:
            _send_at_pace(house, path)
        looks = _looks(house, house.uids(files))
    totals = [look.total_s for look in looks]
    yield _row("arrival to flag, two DX per second, p50", totals, 0.5)
    yield _row("arrival to flag, two DX per second, p95", totals, 0.95, at_most(FLAG_S))
    yield _row("arrival to flag, two DX per second, longest", totals, 1.0)
    yield _row("of which waiting for a claim, p95", [look.waited_s for look in looks], 0.95)
    yield _row("of which decoding, p50", [look.decode_s for look in looks], 0.5)
    yield _row("of which the model, p50", [look.model_s for look in looks], 0.5)
    yield _row("the daemon's own share, p50", [look.own_s for look in looks], 0.5)
    yield _row("the daemon's own share, p95", [look.own_s for look in looks], 0.95, at_most(OWN_S))


def _beside_ct(conditions: Conditions, files: list[Path], ct: Path) -> Iterator[Row]:
    images = sum(1 for _ in ct.iterdir())
    say(f"  radiographs beside a CT of {images} images")
    sent: list[Path] = []
    with _house(conditions, files) as house:
        command = _dcmsend(house.port, "ROUTINE", "+sd", str(ct))
        flood = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        for path in files:
            _send_at_pace(house, path)
            sent.append(path)
            if flood.poll() is not None:
                break
        if flood.wait(PATIENCE_S):
            raise RuntimeError("dcmsend of the CT failed")
        looks = _looks(house, house.uids(sent))
    totals = [look.total_s for look in looks]
    what = f"arrival to flag, two DX per second beside a CT of {images:,} images"
    yield _row(f"{what}, p95 of {len(sent)}", totals, 0.95, at_most(FLOOD_S))


def _beside_backlog(
    conditions: Conditions, files: list[Path], pixels: list["np.typing.NDArray[np.uint16]"]
) -> Iterator[Row]:
    waiting = conditions.count(BACKLOG, least=200)
    say(f"  STAT orders beside a backlog of {waiting:,} studies")
    with conditions.folder() as folder:
        port = free_port()
        config = configuration(folder, port, demonstration=True, more=PEERS)
        triage(config, "migrate").check_returncode()
        backlog.queue_up(config, pixels, waiting)
        with _running(config, port, files) as house:
            _wait_until_done(house, 20)
            for path in files:
                _send(house, path, "STAT")
                time.sleep(STAT_EVERY_S)
            looks = _looks(house, house.uids(files))
            left = backlog.still_queued(house.db)
    if not left:
        raise RuntimeError("the backlog was worked off before the last STAT order")
    totals = [look.total_s for look in looks]
    what = f"arrival to flag of a STAT order, {waiting:,} routine studies queued"
    yield _row(f"{what}, p50", totals, 0.5)
    yield _row(f"{what}, longest of {len(files)}", totals, 1.0, at_most(STAT_S))


# --- the house


@contextmanager
def _house(conditions: Conditions, files: list[Path]) -> Iterator[House]:
    with conditions.folder() as folder:
        port = free_port()
        config = configuration(folder, port, demonstration=True, more=PEERS)
        with _running(config, port, files) as house:
            yield house


@contextmanager
def _running(config: Path, port: int, files: list[Path]) -> Iterator[House]:
    """A daemon whose model has spoken once: the first look of a process is not the usual one."""
    sending.warm(files[0].parent)
    db = open_database(f"sqlite:///{config.parent / 'triage.sqlite'}")
    with daemon(config, port):
        house = House(config=config, port=port, db=db, files=files)
        try:
            first = _write(config.parent / "first", [_pixels(PHANTOMS, size_px=512)], 2)
            for path in first:
                _send(house, path, "STAT")
            _looks(house, house.uids(first))
            yield house
        finally:
            db.dispose()


def _looks(house: House, uids: Sequence[str]) -> list[Look]:
    """Wait until each study is looked at; return what the worker logged of it."""
    j = JobRow
    analysed = (
        select(j.id)
        .join(Study, Study.id == j.study_id)
        .where(Study.study_instance_uid.in_(uids), j.kind == JobKind.ANALYSE)
        .where(j.state == JobState.DONE)
    )
    ends_at = time.monotonic() + PATIENCE_S
    jobs: list[int] = []
    while len(jobs) < len(uids):
        if time.monotonic() > ends_at:
            raise RuntimeError(f"{len(jobs)} of {len(uids)} studies were looked at in time")
        time.sleep(0.5)
        with house.db.read() as connection:
            jobs = list(connection.execute(analysed).scalars())
    time.sleep(0.2)  # the line is written after the commit
    logged = _logged(house.config.parent / "daemon.log")
    missing = [job for job in jobs if job not in logged]
    if missing:
        raise RuntimeError(f"{len(missing)} of {len(jobs)} studies were not analysed")
    return [logged[job] for job in jobs]


def _logged(path: Path) -> dict[int, Look]:
    looks = {}
    for line in path.read_text("utf-8").splitlines():
        said = json.loads(line) if line.startswith("{") else {}
        if said.get("event") == "job_analysed" and "total_ms" in said:
            stages = (said[f"{name}_ms"] / 1000 for name in ("waited", "decode", "model", "total"))
            waited_s, decode_s, model_s, total_s = stages
            looks[said["job_id"]] = Look(
                waited_s=waited_s, decode_s=decode_s, model_s=model_s, total_s=total_s
            )
    return looks


def _wait_until_done(house: House, count: int) -> None:
    """Wait until the worker is in the midst of the backlog."""
    ends_at = time.monotonic() + PATIENCE_S
    while len(_logged(house.config.parent / "daemon.log")) < count:
        if time.monotonic() > ends_at:
            raise RuntimeError("the backlog is not worked off")
        time.sleep(0.2)


# --- what is sent


def _pixels(seed: int, *, size_px: int = PHANTOM_PX) -> "np.typing.NDArray[np.uint16]":
    return phantoms.generate(seed, size_px=size_px, bits_stored=12).pixels


def _write(
    folder: Path, pixels: Sequence["np.typing.NDArray[np.uint16]"], count: int
) -> list[Path]:
    """Write `count` studies of one radiograph each, named by their Study Instance UID."""
    folder.mkdir()
    today = datetime.now(UTC).strftime("%Y%m%d")  # an old study would be left off the list
    files = []
    for number in range(count):
        shifted = np.roll(pixels[number % len(pixels)], number, axis=1)
        ds = make_dx(shifted, bits_stored=12, StudyDate=today)
        files.append(folder / ds.StudyInstanceUID)
        files[-1].write_bytes(to_bytes(ds))
    return files


def _send_at_pace(house: House, path: Path) -> None:
    begun = time.monotonic()
    _send(house, path, "ROUTINE")
    time.sleep(max(0.0, begun + EVERY_S - time.monotonic()))


def _send(house: House, path: Path, ae_title: str) -> None:
    command = _dcmsend(house.port, ae_title, str(path))
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)


def _dcmsend(port: int, ae_title: str, *words: str) -> list[str]:
    return ["dcmsend", "-aet", ae_title, "-aec", "TRIAGE", "127.0.0.1", str(port), *words]


def _row(what: str, values: Sequence[float], share: float, limit: Limit | None = None) -> Row:
    """The smallest value that at least `share` of the values do not exceed."""
    ordered = sorted(values)
    place = max(0, int(np.ceil(share * len(ordered))) - 1)
    return Row(what=what, values=(ordered[place],), unit="s", limit=limit)
