"""deploy/CONFORMANCE.md is what the code says; what it says of negotiation is what is met."""

import shutil
import ssl
import struct
import subprocess
from collections.abc import Callable, Iterator, Sequence
from itertools import zip_longest
from pathlib import Path

import pytest
from pydicom import uid
from pydicom._uid_dict import UID_dictionary
from pydicom.charset import encode_string, python_encoding
from pynetdicom.association import Association
from pynetdicom.pdu_primitives import (
    AsynchronousOperationsWindowNegotiation,
    SCP_SCU_RoleSelectionNegotiation,
    SOPClassExtendedNegotiation,
)
from sqlalchemy import text

from tests.assurance import Evidence, requirement
from tests.deploy import conformance as tables
from tests.deploy.documents import section
from tests.deploy.live import (
    COMMITMENT,
    CT,
    DOCUMENT,
    MPEG4,
    NOT_SUPPORTED,
    associated,
    marked,
    open_door,
    proposing,
    receiving,
    stored,
)
from tests.dicom_files import gradient, make_dx
from tests.ingest.doors import Door, listening
from tests.ingest.raw_peer import (
    DX,
    EXPLICIT,
    IMPLICIT,
    calling,
    established,
    request,
)
from triage.database.connection import Database
from triage.ingest.header import decode_text
from triage.ingest.tls import server_context
from triage.store import Store


@requirement("N13")
def test_every_table_is_written_from_the_code() -> None:
    assert tables.rendered(DOCUMENT) == DOCUMENT, "run: python -m tests.deploy.conformance"
    assert sorted(name for _, name, _ in tables.MARKED.findall(DOCUMENT)) == sorted(tables.TABLES)


# --- 4.1 SOP classes: each row is proposed and accepted, all others of the Standard are refused


def batches(uids: Sequence[str]) -> Iterator[list[str]]:
    for start in range(0, len(uids), 128):
        yield list(uids[start : start + 128])


@requirement("N13", bound="each SOP class and syntax of the tables is accepted, no other class is")
def test_each_sop_class_of_the_tables_is_accepted(evidence: Evidence) -> None:
    classes = [row[1] for name in ("verification", "storage-classes") for row in marked(name)]
    assert len(classes) > 150
    accepted: list[str] = []
    with listening(Door()) as receiver:
        for batch in batches(classes):
            with associated(receiver.port, [(each, [EXPLICIT]) for each in batch]) as association:
                accepted += [str(each.abstract_syntax) for each in association.accepted_contexts]
    evidence.record(trials=len(classes), losses=len(set(classes) - set(accepted)))
    assert accepted == classes


@requirement("N13")
@requirement("N11")
def test_every_other_sop_class_of_the_standard_is_refused(evidence: Evidence) -> None:
    taken = {row[1] for name in ("verification", "storage-classes") for row in marked(name)}
    others = [str(each) for each, row in UID_dictionary.items() if row[1] == "SOP Class"]
    others = [each for each in others if each not in taken]
    assert COMMITMENT in others
    accepted = 0
    with listening(Door()) as receiver:
        for batch in batches(others):
            contexts = [(CT, [EXPLICIT]), *((each, [EXPLICIT]) for each in batch[:127])]
            with associated(receiver.port, contexts) as association:
                refused = association.rejected_contexts
                accepted += len(association.accepted_contexts) - 1
            assert {each.result for each in refused} == {NOT_SUPPORTED}
    evidence.record(code="N13", trials=len(others), losses=accepted)
    assert accepted == 0


def test_private_classes_and_those_of_a_later_edition_are_accepted() -> None:
    contexts = [("1.3.12.2.1107.5.9.1", [EXPLICIT]), ("1.2.840.10008.5.1.4.1.1.999", [EXPLICIT])]
    with listening(Door()) as receiver, associated(receiver.port, contexts) as association:
        assert len(association.accepted_contexts) == 2


# --- 4.4 transfer syntaxes: each alone, each before the next, unknown ones last


@requirement("N13")
def test_each_transfer_syntax_is_accepted_and_preferred_in_the_order_of_the_table(
    evidence: Evidence,
) -> None:
    rows = [row[2] for row in marked("transfer-syntaxes")]
    assert [row[0] for row in marked("transfer-syntaxes")] == list(
        map(str, range(1, len(rows) + 1))
    )
    pairs = list(zip(rows[1:], rows, strict=False))
    contexts = [(CT, [each]) for each in rows]
    contexts += [(CT, [later, better]) for later, better in pairs]
    contexts += [(CT, rows[::-1]), (CT, [MPEG4, rows[-1]]), (CT, [MPEG4])]
    expected = [*rows, *(better for _, better in pairs), rows[0], rows[-1], MPEG4]
    with listening(Door()) as receiver, associated(receiver.port, contexts) as association:
        accepted = {each.context_id: each.transfer_syntax for each in association.accepted_contexts}
    found = [str(accepted[number][0]) for number in sorted(accepted)]
    wrong = [pair for pair in zip_longest(found, expected) if pair[0] != pair[1]]
    evidence.record(trials=len(expected), losses=len(wrong))
    assert wrong == []


@requirement("N13")
@requirement("N4")
def test_an_instance_in_each_transfer_syntax_is_held(
    database: Database, store: Store, evidence: Evidence
) -> None:
    rows = [row[2] for row in marked("transfer-syntaxes")]
    with open_door(database, store) as intake, receiving(intake) as receiver:
        contexts = [(2 * place + 1, DX, (each,)) for place, each in enumerate(rows)]
        with established(receiver.port, contexts) as peer:
            for number, _, (syntax,) in contexts:
                bits = {"bits_stored": 8} if syntax == uid.JPEGBaseline8Bit else {}
                pixels = gradient(maximum=255).astype("uint8") if bits else None
                ds = make_dx(pixels, transfer_syntax=syntax, **bits)
                peer.say(stored(ds, context_id=number))
                assert peer.hear_status() == 0x0000, syntax
    with database.read() as connection:
        held = list(connection.execute(text("SELECT transfer_syntax_uid FROM instances")).scalars())
    evidence.record(trials=len(rows), losses=len(set(rows) - set(held)))
    assert sorted(held) == sorted(rows)


# --- 4.2 negotiation: each stance


@requirement("N13")
@requirement("N11")
def test_each_stance_of_negotiation_is_taken(evidence: Evidence) -> None:
    assert [row[0] for row in marked("negotiation")] == list(STANCES)
    for prove in STANCES.values():
        prove()
    evidence.record(code="N13", trials=len(STANCES))


def answered(association: Association, kind: type) -> list[object]:
    items = association.acceptor.primitive.user_information
    return [each for each in items if isinstance(each, kind)]


def window_is_one() -> None:
    item = AsynchronousOperationsWindowNegotiation()
    item.maximum_number_operations_invoked = item.maximum_number_operations_performed = 0
    with proposing(item) as association:
        (answer,) = answered(association, AsynchronousOperationsWindowNegotiation)
    assert answer.maximum_number_operations_invoked == 1  # type: ignore[attr-defined]
    assert answer.maximum_number_operations_performed == 1  # type: ignore[attr-defined]


def scp_only() -> None:
    item = SCP_SCU_RoleSelectionNegotiation()
    item.sop_class_uid, item.scu_role, item.scp_role = CT, True, True
    with proposing(item) as association:
        (answer,) = answered(association, SCP_SCU_RoleSelectionNegotiation)
    assert (answer.scu_role, answer.scp_role) == (True, False)  # type: ignore[attr-defined]


def level_two() -> None:
    item = SOPClassExtendedNegotiation()
    item.sop_class_uid, item.service_class_application_information = CT, bytes(6)
    with proposing(item) as association:
        (answer,) = answered(association, SOPClassExtendedNegotiation)
    information = answer.service_class_application_information  # type: ignore[attr-defined]
    level, signature_level, coercion = information[0], information[2], information[4]
    (said,) = [row[1] for row in marked("negotiation") if row[0].startswith("SOP Class extended")]
    assert said == (
        f"level {level}, digital signature level {signature_level},"
        f" {'element' if coercion else 'no element'} coercion"
    )


def common_is_not_needed() -> None:
    common = struct.pack(">H", len(CT)) + CT.encode() + struct.pack(">H", 0) + bytes(2)
    item = struct.pack(">BxH", 0x57, len(common)) + common
    with listening(Door()) as receiver, calling(receiver.port) as peer:
        peer.say(request(((1, CT, (EXPLICIT,)),), more=item))
        heard = peer.hear()
        assert heard is not None
        assert heard[0] == 2


def user_identity_is_not_answered() -> None:
    identity = bytes((1, 1)) + struct.pack(">H", 4) + b"user" + struct.pack(">H", 0)
    item = struct.pack(">BxH", 0x58, len(identity)) + identity
    with listening(Door()) as receiver, calling(receiver.port) as peer:
        peer.say(request(more=item))
        heard = peer.hear()
        assert heard is not None
        assert heard[0] == 2
        assert struct.pack(">BxH", 0x59, 2) not in heard[1]


def commitment_is_refused() -> None:
    with (
        listening(Door()) as receiver,
        associated(receiver.port, [(CT, [EXPLICIT]), (COMMITMENT, [IMPLICIT])]) as association,
    ):
        (refused,) = association.rejected_contexts
        assert (refused.abstract_syntax, refused.result) == (COMMITMENT, NOT_SUPPORTED)


def other_services_are_refused() -> None:
    others = ["1.2.840.10008.5.1.4.1.2.2.1", "1.2.840.10008.5.1.4.31", "1.2.840.10008.3.1.2.3.3"]
    contexts = [(CT, [EXPLICIT]), *((each, [IMPLICIT]) for each in others)]
    with listening(Door()) as receiver, associated(receiver.port, contexts) as association:
        assert {each.result for each in association.rejected_contexts} == {NOT_SUPPORTED}
        assert len(association.rejected_contexts) == len(others)


STANCES: dict[str, Callable[[], None]] = {
    "asynchronous operations window": window_is_one,
    "SCP/SCU role selection": scp_only,
    "SOP Class extended negotiation of storage": level_two,
    "SOP Class common extended negotiation": common_is_not_needed,
    "user identity": user_identity_is_not_answered,
    "storage commitment": commitment_is_refused,
    "query, retrieve, worklist and every other service": other_services_are_refused,
}


def test_the_implementation_names_itself() -> None:
    with proposing() as association:
        acceptor = association.acceptor
        said = [str(acceptor.implementation_class_uid), acceptor.implementation_version_name]
    assert [row[1] for row in marked("implementation")] == said


# --- 7 and 8: character sets, security


SAMPLES = ("Müller", "Nový", "Ĉapek", "Ādams", "Люкс", "قباني", "Διον", "שרון", "Çavuş", "ไทย")
SAMPLES += ("ﾔﾏﾀﾞ", "山田", "김희중", "王小东", "Doe")


def test_each_character_set_of_the_table_is_read() -> None:
    terms = [row[0] for row in marked("character-sets")]
    assert terms == tables.character_set_terms()
    for term in terms:
        sets = ["", term] if term.startswith("ISO 2022") else [term]
        read_back = [
            sample
            for sample in SAMPLES
            if (raw := encoded(sample, sets)) is not None and decode_text(raw, sets) == sample
        ]
        assert "Doe" in read_back, term
        assert len(read_back) > 1 or term in ("ISO 2022 IR 6",), term


def encoded(sample: str, sets: list[str]) -> bytes | None:
    try:
        return encode_string(sample, [python_encoding[each] for each in sets])
    except (UserWarning, ValueError):  # pydicom warns where a character has no place
        return None


@requirement("N13")
@requirement("N10")
def test_the_tls_profile_is_as_the_table_says(tmp_path: Path) -> None:
    if shutil.which("openssl") is None:
        pytest.skip("openssl is not installed")
    make = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -subj /CN=a"
    subprocess.run(
        [*make.split(), "-keyout", "a.key", "-out", "a.pem"],
        cwd=tmp_path,
        check=True,
        capture_output=True,
    )
    pem = str(tmp_path / "a.pem")
    context = server_context(certificate=pem, key=str(tmp_path / "a.key"), client_ca=pem)
    assert context.minimum_version is ssl.TLSVersion.TLSv1_2
    assert context.verify_mode is ssl.CERT_REQUIRED
    older = [each["name"] for each in context.get_ciphers() if each["protocol"] == "TLSv1.2"]
    assert older
    for name in older:
        assert name.startswith("ECDHE-"), name
        assert "GCM" in name or "CHACHA20-POLY1305" in name, name
    assert "audit" in section(DOCUMENT, "8. Security")
