"""Every status of deploy/CONFORMANCE.md is brought about, by a real store and a real database."""

import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from sqlalchemy import text

from tests.assurance import Evidence, requirement
from tests.conftest import run_on_server
from tests.deploy.live import (
    CT,
    DOCUMENT,
    data_set,
    marked,
    open_door,
    receiving,
    stored,
)
from tests.dicom_files import gradient, make_dx, make_sr, to_bytes
from tests.ingest.raw_peer import (
    DX,
    EXPLICIT,
    IMPLICIT,
    VERIFICATION,
    echo_rq,
    elements,
    established,
    message,
    store_rq,
)
from triage.database.connection import Database, open_database
from triage.ingest.elements import Bounds
from triage.ingest.header import HeaderLimits
from triage.ingest.reception import LARGEST_KEPT_MIB
from triage.store import MIB, Store, open_store


@pytest.fixture
def database(sqlite_url: str) -> Iterator[Database]:
    opened = open_database(sqlite_url, lock_timeout_s=0.2)
    yield opened
    opened.dispose()


# --- 4.5 statuses: each is brought about over a socket, by a real store and a real database


def no_space(database: Database, tmp_path: Path) -> Iterator[int]:
    store = open_store(tmp_path / "small", minimum_free_mib=1 << 40)
    yield from answer_of(database, store)


def no_store(database: Database, tmp_path: Path) -> Iterator[int]:
    store = open_store(tmp_path / "gone", minimum_free_mib=0)
    shutil.rmtree(tmp_path / "gone")
    yield from answer_of(database, store)


def locked_database(database: Database, tmp_path: Path) -> Iterator[int]:
    """Another process's writer holds the lock of the SQLite database."""
    store = open_store(tmp_path / "sound", minimum_free_mib=0)
    url = f"sqlite:///{tmp_path / 'triage.sqlite'}"
    other = open_database(url)
    try:
        with other.write():
            yield from answer_of(database, store)
    finally:
        other.dispose()


def broken_database(database: Database, tmp_path: Path) -> Iterator[int]:
    """A statement that the database refuses is a defect: no other status names it."""
    with database.write() as connection:
        connection.execute(text("DROP TABLE object_events"))
    store = open_store(tmp_path / "sound", minimum_free_mib=0)
    yield from answer_of(database, store)


def answer_of(database: Database, store: Store) -> Iterator[int]:
    with (
        open_door(database, store) as intake,
        receiving(intake) as receiver,
        established(receiver.port) as peer,
    ):
        peer.say(stored(make_dx()))
        yield peer.hear_status()
    store.close() if store.root.exists() else None


def to_a_sound_receiver(*said: bytes) -> Callable[[Database, Path], Iterator[int]]:
    """Return what answers these messages where nothing is wrong with store and database."""

    def answers(database: Database, tmp_path: Path) -> Iterator[int]:
        contexts = ((1, DX, (EXPLICIT,)), (3, VERIFICATION, (IMPLICIT,)))
        store = open_store(tmp_path / "sound", minimum_free_mib=0)
        with (
            open_door(database, store) as intake,
            receiving(intake) as receiver,
            established(receiver.port, contexts) as peer,
        ):
            for each in said:
                peer.say(each)
                yield peer.hear_status()
        store.close()

    return answers


def above_the_limit(database: Database, tmp_path: Path) -> Iterator[int]:
    store = open_store(tmp_path / "sound", minimum_free_mib=0)
    with (
        open_door(database, store, HeaderLimits(maximum_object_mib=1)) as intake,
        receiving(intake, maximum_object_mib=1) as receiver,
        established(receiver.port) as peer,
    ):
        peer.say(stored(make_dx(PixelData=bytes(3 * MIB // 2))))
        yield peer.hear_status()
    store.close()


def echo_without_store(database: Database, tmp_path: Path) -> Iterator[int]:
    store = open_store(tmp_path / "small", minimum_free_mib=1 << 40)
    contexts = ((1, VERIFICATION, (IMPLICIT,)), (3, DX, (EXPLICIT,)))
    with (
        open_door(database, store) as intake,
        receiving(intake) as receiver,
        established(receiver.port, contexts) as peer,
    ):
        peer.say(message(echo_rq()))
        yield peer.hear_status()
    store.close()


def without(keyword: str) -> bytes:
    ds = make_dx()
    said = {"sop_class": str(ds.SOPClassUID), "instance": str(ds.SOPInstanceUID)}
    delattr(ds, keyword)
    return message(store_rq(**said), data_set(ds))


def nested(depth: int) -> bytes:
    """Return a report with sequences in sequences, explicit VR, of undefined length."""
    ds = make_sr()
    opened = b"\x41\x00\x10\x10SQ\0\0" + b"\xff" * 4 + b"\xfe\xff\x00\xe0" + b"\xff" * 4
    closed = b"\xfe\xff\x0d\xe0" + bytes(4) + b"\xfe\xff\xdd\xe0" + bytes(4)
    said = {"sop_class": str(ds.SOPClassUID), "instance": str(ds.SOPInstanceUID)}
    return message(store_rq(**said), data_set(ds) + opened * depth + closed * depth)


def asking(field: int) -> bytes:
    command = elements((2, DX), (0x0100, field), (0x0110, 1), (0x0700, 0), (0x0800, 0x0101))
    return message(command)


COMPOSITE = (0x0020, 0x0010, 0x0021)  # C-FIND, C-GET, C-MOVE
NORMALISED = (0x0100, 0x0110, 0x0120, 0x0130, 0x0140, 0x0150)
BROUGHT_ABOUT: dict[tuple[str, str], Callable[[Database, Path], Iterator[int]]] = {
    ("C-STORE", "0000"): to_a_sound_receiver(stored(make_dx()), nested(Bounds().maximum_depth)),
    ("C-STORE", "A700"): no_space,
    ("C-STORE", "A701"): no_store,
    ("C-STORE", "A702"): locked_database,
    ("C-STORE", "A900"): to_a_sound_receiver(
        stored(make_dx(), sop_class=CT), stored(make_dx(), instance="1.2.3")
    ),
    ("C-STORE", "C000"): to_a_sound_receiver(
        message(store_rq(), b"no data set"),
        message(store_rq(), data_set(make_dx())[:-100]),
        nested(Bounds().maximum_depth + 1),
    ),
    ("C-STORE", "C001"): to_a_sound_receiver(
        *map(without, ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID", "SOPClassUID"))
    ),
    ("C-STORE", "C002"): above_the_limit,
    ("C-STORE", "0110"): broken_database,
    ("C-STORE", "0122"): to_a_sound_receiver(stored(make_dx(), context_id=3)),
    ("C-ECHO", "0000"): to_a_sound_receiver(message(echo_rq(), context_id=3)),
    ("C-ECHO", "0110"): echo_without_store,
    ("C-FIND, C-GET, C-MOVE", "0122"): to_a_sound_receiver(*map(asking, COMPOSITE)),
    ("N-EVENT-REPORT, N-GET, N-SET, N-ACTION, N-CREATE, N-DELETE", "0211"): to_a_sound_receiver(
        *map(asking, NORMALISED)
    ),
}


def test_each_status_of_the_table_is_brought_about_below() -> None:
    assert [(row[0], row[1]) for row in marked("statuses")] == list(BROUGHT_ABOUT)


@requirement("N13")
@requirement("N3")
@pytest.mark.parametrize(("service", "status"), BROUGHT_ABOUT)
def test_the_status_is_met(
    service: str, status: str, database: Database, tmp_path: Path, evidence: Evidence
) -> None:
    heard = [f"{each:04X}" for each in BROUGHT_ABOUT[service, status](database, tmp_path)]
    wrong = [each for each in heard if each != status]
    evidence.record(code="N13", trials=len(heard), losses=len(wrong))
    assert heard
    assert wrong == []


@requirement("N2")
def test_postgresql_away_is_answered_as_a_database_away(postgres_url: str, store: Store) -> None:
    db = open_database(postgres_url, lock_timeout_s=0.2)
    name = urlsplit(postgres_url).path.removeprefix("/")
    server = postgres_url.replace(f"/{name}?", "/postgres?")
    with open_door(db, store) as intake, receiving(intake) as receiver:
        run_on_server(
            server,
            "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity"
            f" WHERE datname = '{name}'",
            f"ALTER DATABASE {name} RENAME TO {name}_away",
        )
        with established(receiver.port) as peer:
            peer.say(stored(make_dx()))
            assert peer.hear_status() == 0xA702
            run_on_server(server, f"ALTER DATABASE {name}_away RENAME TO {name}")
            peer.say(stored(make_dx()))
            assert peer.hear_status() == 0x0000
    db.dispose()


@pytest.mark.skipif(shutil.which("storescu") is None, reason="DCMTK is not installed")
def test_a_sender_of_another_maker_reads_the_statuses(database: Database, tmp_path: Path) -> None:
    store = open_store(tmp_path / "small", minimum_free_mib=1 << 40)
    file = tmp_path / "one.dcm"
    file.write_bytes(to_bytes(make_dx()))
    with open_door(database, store) as intake, receiving(intake) as receiver:
        command = ["storescu", "-v", "-aec", "TRIAGE", "127.0.0.1", str(receiver.port), str(file)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    store.close()
    assert "OutOfResources" in done.stdout + done.stderr


@requirement("N3")
def test_nothing_but_success_is_held_and_the_quarantine_keeps_what_was_refused(
    database: Database, tmp_path: Path
) -> None:
    said = to_a_sound_receiver(stored(make_dx(), sop_class=CT), without("StudyInstanceUID"))
    assert list(said(database, tmp_path)) == [0xA900, 0xC001]
    with database.read() as connection:
        assert connection.execute(text("SELECT count(*) FROM instances")).scalar_one() == 0
        kept = connection.execute(text("SELECT count(*) FROM quarantine")).scalar_one()
        assert kept == 2


@requirement("S2")
def test_elements_and_depth_are_bounded_as_the_text_says(database: Database, store: Store) -> None:
    limits = HeaderLimits(bounds=Bounds(maximum_elements=10))
    with (
        open_door(database, store, limits) as intake,
        receiving(intake) as receiver,
        established(receiver.port) as peer,
    ):
        peer.say(stored(make_dx()))
        assert peer.hear_status() == 0xC000
    bounds = Bounds()
    assert f"{bounds.maximum_elements:,} elements, {bounds.maximum_depth} nested" in DOCUMENT
    assert f"quarantine up to {LARGEST_KEPT_MIB} MiB" in DOCUMENT


# --- 4.7 same UID again


@requirement("N13")
@requirement("G1")
@requirement("G2")
def test_the_duplicate_rule_is_as_the_table_says(database: Database, store: Store) -> None:
    first, corrected, other = make_dx(), make_dx(), make_dx(gradient(maximum=100))
    for ds in (corrected, other):
        for keyword in ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID"):
            setattr(ds, keyword, first[keyword].value)
    corrected.StudyDescription = "Corrected"
    with (
        open_door(database, store) as intake,
        receiving(intake) as receiver,
        established(receiver.port) as peer,
    ):
        for ds in (first, first, corrected, other):
            peer.say(stored(ds))
            assert peer.hear_status() == 0x0000
    with database.read() as connection:
        rows = connection.execute(text("SELECT duplicates FROM instances ORDER BY id")).scalars()
        assert list(rows) == [1, 0, 0]  # revision and conflict are told apart by the worker
        events = connection.execute(text("SELECT state FROM object_events ORDER BY id")).scalars()
        assert list(events)[1] == "duplicate"
