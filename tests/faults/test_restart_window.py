"""The receiver dies while a series is still arriving: when it is back, the series closes, once."""

import json
import random
import shutil
import time
import urllib.request
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from sqlalchemy import func, select

from tests.assurance import Evidence, requirement
from tests.faults import peers
from tests.faults.killing import Daemon, Sent, send_once, write_objects
from tests.flows.program import until
from triage.database.connection import Database, migrate, open_database
from triage.database.tables import ResultRow, Series, Study
from triage.database.tables_house import JobRow
from triage.records import JobState, StudyState

pytestmark = pytest.mark.skipif(shutil.which("storescu") is None, reason="DCMTK is not installed")
SEED = 22
QUIET_S = 3.0
SLICES = 6
BACK_S = QUIET_S + 12.0  # after the restart: one sweep, one look, a busy machine
PEER_WAITS_S = 5 * QUIET_S


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[Daemon]:
    """Without a model: what counts is that the look takes place, once."""
    url = f"sqlite:///{tmp_path / 'triage.sqlite'}"
    migrate(url)
    made = Daemon(tmp_path, url, quiet_s=QUIET_S)
    yield made
    made.kill()


@pytest.fixture
def db(daemon: Daemon) -> Iterator[Database]:
    opened = open_database(daemon.program.url)
    yield opened
    opened.dispose()


@pytest.mark.long_only
@requirement("G8", bound="killed inside the window, the series closes once, in time")
def test_g8_a_series_whose_receiver_dies_inside_the_window_closes_once(
    daemon: Daemon, db: Database, tmp_path: Path, evidence: Evidence, long: bool
) -> None:
    draw = random.Random(SEED)
    rounds = 20 if long else 2
    looked_at, slowest_s = list[int](), 0.0
    for number in range(rounds):
        slices = one_series(tmp_path, number)
        daemon.stop()
        daemon.start()
        assert stored(slices, daemon.port)
        for _ in range(draw.randint(1, 2) if long else 1):
            time.sleep(draw.uniform(0, QUIET_S / 3))
            daemon.kill()
            # Down past the end of the window, or back before it.
            time.sleep(QUIET_S + 1 if number % 2 else 0.1)
            daemon.start()
        back_s = time.monotonic()
        series_id = wait_until_seen(db, slices)
        slowest_s = max(slowest_s, time.monotonic() - back_s)
        looked_at.append(series_id)
    let_sweeps_pass(db, daemon, tmp_path)
    daemon.stop()
    broken = sum(looks(db, series_id) != (1, 1) for series_id in looked_at)
    worst = f"{slowest_s:.1f} s after the restart, of a quiet period of {QUIET_S:g} s"
    others = beside(tmp_path / "peers") if long else {}
    evidence.record(trials=rounds, losses=broken, worst=worst, peers=others)
    assert broken == 0
    assert slowest_s < BACK_S


@requirement("G8", bound="slices after the restart belong to the same look")
def test_g8_slices_that_come_after_the_restart_belong_to_the_same_look(
    daemon: Daemon, db: Database, tmp_path: Path
) -> None:
    slices = one_series(tmp_path, 99)
    daemon.start()
    assert stored(slices[:3], daemon.port)
    daemon.kill()
    daemon.start()
    assert stored(slices[3:], daemon.port)
    series_id = wait_until_seen(db, slices)
    let_sweeps_pass(db, daemon, tmp_path)
    assert looks(db, series_id) == (1, 1)
    with db.read() as connection:
        images = connection.execute(select(Series.images).where(Series.id == series_id))
        assert images.scalar_one() == SLICES


def one_series(folder: Path, number: int) -> list[Sent]:
    """A CT series of its own study: objects are numbered in studies of fifty."""
    into = folder / f"series{number}"
    return write_objects(into, SLICES, radiographs_every=0, first=50 * number)


def stored(slices: Sequence[Sent], port: int) -> bool:
    told = send_once("storescu", [each.path for each in slices], port)
    return [status for _, status in told] == ["0000"] * len(slices)


def wait_until_seen(db: Database, slices: Sequence[Sent]) -> int:
    """Wait for the end of the look at this series; return its ID."""
    uid = slices[0].study_instance_uid

    def seen() -> int | None:
        with db.read() as connection:
            found = connection.execute(
                select(Series.id, Study.state)
                .join(Study, Study.id == Series.study_id)
                .where(Study.study_instance_uid == uid, Series.closes_at.is_(None))
            ).first()
            if found is None or found.state == StudyState.ARRIVING or not looks(db, found.id)[1]:
                return None
            return int(found.id)

    return until(seen)


def let_sweeps_pass(db: Database, daemon: Daemon, folder: Path) -> None:
    """Wait for the whole window of another series: one sweep a second finds what else is due."""
    other = one_series(folder, 98)
    assert stored(other, daemon.port)
    wait_until_seen(db, other)


def looks(db: Database, series_id: int) -> tuple[int, int]:
    """How many looks at a series were begun, and how many have a result."""
    with db.read() as connection:
        jobs = connection.execute(
            select(func.count())
            .select_from(JobRow)
            .where(JobRow.subject == "series", JobRow.subject_id == series_id)
            .where(JobRow.state != JobState.SUPERSEDED)
        ).scalar_one()
        results = connection.execute(
            select(func.count())
            .select_from(ResultRow)
            .where(ResultRow.subject == "series", ResultRow.subject_id == series_id)
        ).scalar_one()
    return int(jobs), int(results)


# --- the others


class OrthancWithWindow(peers.Orthanc):
    """Its window is as long as ours; else as packaged."""

    def command(self) -> list[str]:
        program, settings = super().command()
        document = json.loads(Path(settings).read_text("utf-8"))
        Path(settings).write_text(json.dumps(document | {"StableAge": int(QUIET_S)}), "utf-8")
        return [program, settings]

    def stable_series(self) -> int:
        """How many series it has told of as complete."""
        url = f"http://127.0.0.1:{self.web_port}/changes?limit=1000"
        with urllib.request.urlopen(url, timeout=30) as page:
            changes = json.loads(page.read())["Changes"]
        return sum(1 for each in changes if each["ChangeType"] == "StableSeries")


def beside(folder: Path) -> dict[str, str]:
    """What Orthanc does with a series whose window it dies in; storescp knows of no series."""
    if not OrthancWithWindow.installed():
        return {}
    return {OrthancWithWindow.name(): _orthanc_told(folder)}


def _orthanc_told(folder: Path) -> str:
    slices = one_series(folder, 1)
    usual = _stable_after(OrthancWithWindow(folder / "usual"), slices, killed=False)
    killed = _stable_after(OrthancWithWindow(folder / "killed"), slices, killed=True)
    return (
        f"StableSeries within {PEER_WAITS_S:g} s, StableAge {QUIET_S:g} s:"
        f" {_times(usual)} without a kill, {_times(killed)} after a kill inside the window"
        " (one series each)"
    )


def _stable_after(peer: OrthancWithWindow, slices: Sequence[Sent], *, killed: bool) -> int:
    try:
        peer.start()
        assert stored(slices, peer.port)
        if killed:
            peer.kill()
            peer.start()
        ends_s = time.monotonic() + PEER_WAITS_S
        while time.monotonic() < ends_s and not peer.stable_series():
            time.sleep(0.5)
        return peer.stable_series()
    finally:
        peer.kill()


def _times(count: int) -> str:
    return "never" if count == 0 else "once" if count == 1 else f"{count} times"
