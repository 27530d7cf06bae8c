"""Store and database are made to agree at last, where not at the first try."""

import threading

from sqlalchemy import text

from tests.assurance import requirement
from tests.dicom_files import make_dx, to_bytes
from tests.flows.program import until
from triage.database.connection import Database
from triage.ingest.intake import Intake
from triage.ingest.part10 import digest_of, split
from triage.operations.reconcile import NOTE
from triage.operations.upkeep import upkeep
from triage.records import Source
from triage.store import Store


def column(database: Database, statement: str) -> list[str]:
    with database.read() as connection:
        return list(connection.execute(text(statement)).scalars())


@requirement("D4")
def test_a_reconciliation_that_was_broken_off_is_tried_again_and_scrubbing_does_not_wait_for_it(
    database: Database, store: Store, intake: Intake
) -> None:
    intake.accept(to_bytes(make_dx()), source=Source.FOLDER)
    [damaged] = store.object_paths()
    store.resolve(damaged).write_bytes(b"")
    data = to_bytes(make_dx())
    orphan = store.stage([data], digest=digest_of(split(data)))
    store.commit([orphan])
    (store.root / NOTE).mkdir()  # neither read nor written: an OSError as of a full disk
    stop = threading.Event()
    threads = upkeep(database, store, intake, stop=stop, again_s=0.05)
    for thread in threads:
        thread.start()
    try:
        until(lambda: column(database, "SELECT subject FROM alarms") == [damaged])
        taken_in = "SELECT path FROM instances WHERE source = 'reconcile'"
        assert column(database, taken_in) == []
        (store.root / NOTE).rmdir()
        until(lambda: column(database, taken_in) == [orphan.path])
    finally:
        stop.set()
        assert all(thread.join() for thread in threads)
    assert [thread.failure for thread in threads] == [None, None]
