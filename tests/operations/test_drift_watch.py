"""The sweep for drift on real databases: what it counts, what it costs, when it alarms."""

import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import delete, event, func, select

from tests.assurance import requirement
from tests.operations.looks import Looks
from triage.config import Config, DatabaseConfig, StoreConfig
from triage.database import drift_blocks, migrating
from triage.database.connection import Database, open_database
from triage.database.house import raise_alarm, record_decision
from triage.database.statements import insert_id
from triage.database.tables import Embedding, ResultRow
from triage.database.tables_house import Alarm
from triage.database.tables_learning import DriftBlock, DriftGroup, DriftLook
from triage.inference.bundle import Bundle, load_bundle
from triage.operations.drift_watch import (
    RESULTS_A_PAGE,
    RESULTS_A_SWEEP,
    STUDIES_A_SWEEP,
    DriftWatch,
    count_looks,
    drift_sweep,
    watch,
    watched_bundles,
)
from triage.operations.health import gather
from triage.pocket import BUNDLE
from triage.records import AlarmCode


@pytest.fixture(scope="module")
def bundle() -> Bundle:
    return load_bundle(BUNDLE, check_encoder=False)


@dataclass
class Site:
    db: Database
    config: Config
    looks: Looks

    def __post_init__(self) -> None:
        self.watch = DriftWatch(self.db, self.config)

    def sweep(self) -> None:
        while self.watch.run() or count_looks(self.db):
            pass

    def open_alarms(self) -> list[Any]:
        with self.db.read() as connection:
            a = Alarm.__table__.c
            rows = connection.execute(select(a).where(a.cleared_at.is_(None)).order_by(a.subject))
            return list(rows)

    def blocks(self, device: str) -> list[Any]:
        with self.db.read() as connection:
            group = select(DriftGroup.id).where(DriftGroup.device == device).scalar_subquery()
            b = DriftBlock.__table__.c
            return list(connection.execute(select(b).where(b.group_id == group).order_by(b.id)))

    def waiting(self) -> dict[str, int]:
        """Return the looks that wait, by device; as many as each group says."""
        g, look = DriftGroup, DriftLook
        with self.db.read() as connection:
            rows = connection.execute(
                select(g.device, g.waiting, func.count(look.result_id))
                .outerjoin(look, look.group_id == g.id)
                .group_by(g.id)
            ).all()
        assert all(row.waiting == row[2] for row in rows)
        return {row.device: row.waiting for row in rows}


def made(url: str, tmp_path: Path, bundle: Bundle) -> Site:
    looks: list[Looks] = []
    db = open_database(url, clock=lambda: looks[0].now)
    looks.append(Looks(db=db, bundle=bundle))
    (tmp_path / "store").mkdir()
    config = Config(
        demonstration=True,
        database=DatabaseConfig(url=url),
        store=StoreConfig(path=tmp_path / "store", minimum_free_mib=0),
    )
    return Site(db=db, config=config, looks=looks[0])


@pytest.fixture
def site(sqlite_url: str, tmp_path: Path, bundle: Bundle) -> Iterator[Site]:
    site = made(sqlite_url, tmp_path, bundle)
    yield site
    site.db.dispose()


@pytest.fixture
def any_site(database_url: str, tmp_path: Path, bundle: Bundle) -> Iterator[Site]:
    site = made(database_url, tmp_path, bundle)
    yield site
    site.db.dispose()


@requirement("M7", bound="the alarm names the device and closes when the change is over")
def test_a_device_that_changes_alarms_in_status_and_the_alarm_closes_when_it_is_over(
    any_site: Site,
) -> None:
    site = any_site
    site.looks.add(900)
    site.sweep()
    assert site.open_alarms() == []
    site.looks.add(400, shift=1.5)
    site.sweep()
    alarms = site.open_alarms()
    assert [each.subject.partition("/")[2] for each in alarms] == ["CR/CHEST", "CR/CHEST/ROOM 1"]
    assert "the images look different than before" in alarms[1].message
    (told, _) = [
        each for each in gather(site.config).document()["causes"] if each["alarm"] == "drift"
    ]
    assert told["weight"] == "degraded"
    assert "triage drift" in told["next_step"]
    assert told["runbook"] == "RUNBOOK.md#drift"
    site.looks.add(600)
    site.sweep()
    assert site.open_alarms() == []


def test_the_gate_that_keeps_more_from_the_model_alarms(site: Site) -> None:
    site.looks.add(800)
    site.looks.add(400, gate_rate=0.2)
    site.sweep()
    assert "the share that the gate keeps from the model" in site.open_alarms()[0].message


def test_what_was_summed_up_is_judged_after_its_embeddings_have_expired(site: Site) -> None:
    site.looks.add(800)
    site.sweep()
    with site.db.write() as connection:
        connection.execute(delete(Embedding))
    site.looks.add(400, shift=1.5)
    site.watch = DriftWatch(site.db, site.config)  # a daemon that was started anew
    site.sweep()
    assert "look different" in site.open_alarms()[0].message


def test_a_new_device_is_held_against_the_others(site: Site) -> None:
    site.looks.add(900)
    site.looks.add(400, station="ROOM 2", shift=1.5)
    site.sweep()
    messages = {each.subject.partition("/")[2]: each.message for each in site.open_alarms()}
    assert "different than those of all devices" in messages["CR/CHEST/ROOM 2"]
    assert "CR/CHEST/ROOM 1" not in messages


def test_a_study_counts_once_at_its_first_look(any_site: Site) -> None:
    site = any_site
    site.looks.add(30)
    site.looks.add(5, mode="shadow", bundle_digest="other")
    site.looks.add(4, analysis="not_eligible", distance=None, findings=[], embedding_keys=[])
    with site.db.write() as connection:  # looked at once more
        r = ResultRow.__table__
        row = connection.execute(select(r).where(r.c.id == 1)).one()._mapping
        again = dict(row) | {"id": 40, "current": False, "created_at": site.looks.now}
        insert_id(connection, ResultRow, **again)
    site.looks.count += 1
    site.sweep()
    assert site.waiting() == {"": 30, "ROOM 1": 30}


def test_a_result_that_was_written_just_now_is_left_for_the_next_sweep(site: Site) -> None:
    site.looks.add(10)
    with site.db.read() as connection:
        early = site.looks.now.replace(hour=8, minute=27, second=5)
        some = drift_blocks.uncounted(connection, now=early, limit=100)
    assert len(some.first) == 9


def test_two_sweeps_at_once_count_nothing_twice(any_site: Site) -> None:
    site = any_site
    site.looks.add(20)
    with site.db.read() as connection:
        some = drift_blocks.uncounted(connection, now=site.looks.now, limit=100)
    with site.db.write() as connection:
        assert drift_blocks.gather(connection, some)
    with site.db.write() as connection:
        assert not drift_blocks.gather(connection, some)
    assert site.waiting() == {"": 20, "ROOM 1": 20}


def test_two_sweeps_at_once_sum_up_nothing_twice(any_site: Site) -> None:
    site = any_site
    site.looks.add(120)
    count_looks(site.db)
    with site.db.read() as connection:
        full = drift_blocks.full_group(connection, block=100)
        assert full is not None
        looks = drift_blocks.looks_of(connection, full, block=100)
    done = []
    for _ in range(2):
        with site.db.write() as connection:
            done.append(
                drift_blocks.close_block(connection, full, looks, figures={}, features=None)
            )
    assert done == [True, False]
    assert (len(site.blocks("")), site.waiting()) == (1, {"": 20, "ROOM 1": 120})


def test_a_backlog_is_worked_off_in_even_shares_and_short_transactions(site: Site) -> None:
    site.looks.add(RESULTS_A_SWEEP + 500)
    written: list[int] = []
    with site.db.write() as connection:
        engine = connection.engine

    def note(_connection: Any, _cursor: Any, statement: str, values: Any, *_: Any) -> None:
        if statement.startswith("INSERT INTO drift_looks"):
            written.append(len(values))

    event.listen(engine, "before_cursor_execute", note)
    site.watch.run()
    event.remove(engine, "before_cursor_execute", note)
    assert written == [2 * RESULTS_A_PAGE] * (RESULTS_A_SWEEP // RESULTS_A_PAGE)
    # What a sweep counts it sums up as well: nothing grows, however much is left.
    assert 100 * len(site.blocks("")) == 100 * len(site.blocks("ROOM 1")) == STUDIES_A_SWEEP / 2
    assert site.waiting() == {"": 0, "ROOM 1": 0}
    site.sweep()
    closed = site.blocks("ROOM 1")
    assert len(closed) == (RESULTS_A_SWEEP + 500) // 100
    assert all(each.figures["studies"] == 100 for each in closed)
    assert all(a.ended_at <= b.started_at for a, b in pairwise(closed))


def test_nothing_is_counted_while_a_full_block_waits(site: Site) -> None:
    site.looks.add(RESULTS_A_SWEEP)
    while count_looks(site.db):  # as no sweep would
        pass
    site.looks.add(10)
    site.watch.run()
    with site.db.read() as connection:
        assert drift_blocks.reached(connection).not_counted == 10
    assert site.waiting() == {"": 0, "ROOM 1": 0}


def test_senders_that_make_up_devices_do_not_make_groups_without_end(site: Site) -> None:
    for number in range(12):
        site.looks.add(2, station=f"ROOM {number}")
    with site.db.read() as connection:
        some = drift_blocks.uncounted(connection, now=site.looks.now, limit=100)
    with site.db.write() as connection:
        drift_blocks.gather(connection, some, most_groups=6)
    groups = site.waiting()
    assert len(groups) == 6
    assert groups[""] == 24


def test_the_alarm_says_what_has_changed_today_and_is_one(site: Site) -> None:
    site.looks.add(800)
    site.looks.add(400, gate_rate=0.2)
    site.sweep()
    assert "look different" not in site.open_alarms()[1].message
    site.looks.add(400, gate_rate=0.2, shift=1.5)
    site.sweep()
    alarms = [each for each in site.open_alarms() if each.subject.endswith("ROOM 1")]
    assert len(alarms) == 1
    assert "look different" in alarms[0].message
    assert "the gate keeps" in alarms[0].message


def test_an_accepted_state_is_the_new_measure(site: Site) -> None:
    site.looks.add(800)
    site.looks.add(400, shift=1.5)
    site.sweep()
    assert site.open_alarms()
    digest = site.looks.bundle.identity.digest
    with site.db.write() as connection:
        detail = {"bundle_digest": digest, "modality": "CR", "body_part_examined": "CHEST"}
        for device in ("", "ROOM 1"):
            record_decision(
                connection,
                study_id=None,
                what=drift_blocks.ACCEPTED,
                by="physicist",
                detail=detail | {"device": device},
                now=site.looks.now,
            )
    site.looks.count += 30  # some time passes
    site.looks.add(1000, shift=1.5)
    site.sweep()
    assert site.open_alarms() == []
    site.looks.add(400)
    site.sweep()
    assert site.open_alarms()


def test_the_alarm_of_a_bundle_that_serves_no_more_is_closed(site: Site) -> None:
    site.looks.add(800)
    site.looks.add(400, shift=1.5)
    site.sweep()
    assert site.open_alarms()
    DriftWatch(site.db, replace(site.config, demonstration=False)).run()
    assert site.open_alarms() == []


def test_after_an_upgrade_what_was_said_before_it_is_counted(any_site: Site) -> None:
    site, url = any_site, any_site.config.database.url
    site.looks.add(120)
    site.sweep()
    site.db.dispose()
    migrating.downgrade(url, to="0002")
    migrating.upgrade(url)
    DriftWatch(site.db, site.config).run()
    assert (len(site.blocks("")), site.waiting()) == (1, {"": 20, "ROOM 1": 20})


def test_an_alarm_is_closed_where_nobody_watches_any_more(site: Site) -> None:
    with site.db.write() as connection:
        raise_alarm(
            connection,
            code=AlarmCode.DRIFT,
            subject="d/CR/CHEST",
            message="Drift.",
            next_step="See `triage drift`.",
            now=site.looks.now,
        )
    off = replace(site.config, drift=replace(site.config.drift, enabled=False))
    sweep = drift_sweep(site.db, off)
    assert [sweep.run(), sweep.run()] == [1, 0]
    assert site.open_alarms() == []


def test_a_bank_of_a_few_images_is_not_compared_and_ends_no_sweep(
    bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert bundle.bank is not None
    few = replace(bundle, bank=replace(bundle.bank, units=bundle.bank.units[:2]))
    monkeypatch.setattr("triage.inference.bundle.load_bundle", lambda *_, **__: few)
    _, watched = watch(tmp_path)
    assert (watched.features, watched.bank) == (None, None)


def test_the_features_of_a_bundle_are_the_same_at_every_start(site: Site) -> None:
    (first,) = watched_bundles(site.config).values()
    (again,) = watched_bundles(site.config).values()
    assert first.features is not None
    assert again.features is not None
    assert (first.features.directions == again.features.directions).all()
    # Of the shipped bundle: what was summed up by an earlier version must stay comparable.
    assert first.features.directions.shape[0] == 256


def test_the_sweep_needs_numpy_alone() -> None:
    program = (
        "import sys; from triage.config import Config;"
        "from triage.operations.drift_watch import drift_sweep, watched_bundles;"
        "watched_bundles(Config(demonstration=True));"
        "print(sorted({'torch', 'transformers', 'sklearn', 'scipy', 'matplotlib'}"
        " & set(sys.modules)))"
    )
    ran = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True
    )
    assert ran.stdout.strip() == "[]"
