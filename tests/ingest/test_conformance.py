"""The rows of the conformance statement are what the receiver does."""

import subprocess
import sys
from pathlib import Path

from tests.assurance import requirement
from tests.ingest.doors import Door, listening
from tests.ingest.raw_peer import REJECTED, calling, request
from triage.errors import ObjectRefused, StoreError, TriageError
from triage.ingest import conformance
from triage.ingest.negotiation import DECODABLE, is_storage
from triage.ingest.statuses import PROCESSING_FAILURE, STATUSES, status_of


def kinds(root: type[TriageError]) -> list[type[TriageError]]:
    return [root, *(kind for child in root.__subclasses__() for kind in kinds(child))]


def test_every_refusal_of_an_object_has_a_row_of_its_own() -> None:
    assert set(kinds(ObjectRefused)) <= set(STATUSES)


def test_no_two_causes_share_a_status() -> None:
    codes = [row.code for row in conformance.STATUS_ROWS if row.service == "C-STORE"]
    assert len(codes) == len(set(codes))


@requirement("N3")
def test_no_status_but_success_can_be_taken_for_stored() -> None:
    """Senders delete their copy after a warning (PS3.4 B.2.3) as after success."""
    for row in conformance.STATUS_ROWS:
        assert row.code == 0 or row.code >> 12 != 0xB, row
        assert row.code not in (1, 0x0107, 0x0111, 0x0116), row


def test_out_of_resources_is_the_only_refusal_that_asks_for_another_try() -> None:
    for row in conformance.STATUS_ROWS:
        if row.error is not None:
            assert row.retry == (row.code >> 8 == 0xA7), row


def test_an_error_is_answered_by_its_nearest_kind() -> None:
    class Torn(StoreError):
        pass

    assert status_of(Torn("x")) == 0xA701
    assert status_of(TriageError("x")) == PROCESSING_FAILURE


def test_every_row_that_a_request_alone_can_cause_is_answered_so() -> None:
    door = Door()
    requests = {
        (1, 1, 7): request(called="OTHER"),
        (1, 1, 2): request(application="1.2.3"),
        (1, 2, 2): request(version=0),
    }
    rows = {(row.result, row.source, row.diagnostic) for row in conformance.REJECTIONS}
    assert len(rows) == len(conformance.REJECTIONS)
    with listening(door) as receiver:
        for codes, said in requests.items():
            assert codes in rows
            with calling(receiver.port) as peer:
                peer.say(said)
                assert peer.hear() == (REJECTED, bytes((0, *codes)))


def test_classes_and_syntaxes_are_those_of_the_negotiation() -> None:
    assert [row.uid for row in conformance.transfer_syntaxes()] == list(DECODABLE)
    classes = conformance.storage_classes()
    assert all(is_storage(row.uid) and row.name for row in classes)
    assert {"CT Image Storage", "MR Image Storage"} <= {row.name for row in classes}
    assert not any("Commitment" in row.name for row in classes)
    assert conformance.verification_class().uid == "1.2.840.10008.1.1"


def test_every_row_has_its_name_whatever_was_imported_before() -> None:
    """The library for associations adds names to the dictionary of the other one."""
    code = "from triage.ingest import conformance; print(len(conformance.transfer_syntaxes()))"
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        check=True,
    )
    assert int(done.stdout) == len(DECODABLE)
