"""Real associations on loopback: who is let in, in which syntax, and what each outcome answers."""

import socket
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from typing import Any

import pytest
from pydicom import uid
from pydicom.dataset import Dataset
from pynetdicom import AE, evt
from pynetdicom.association import Association
from pynetdicom.dimse_messages import C_STORE_RQ
from pynetdicom.dimse_primitives import C_STORE

from tests.assurance import requirement
from tests.dicom_files import make_dx
from tests.ingest.doors import Door, eventually, listening
from tests.ingest.raw_peer import REJECTED, hear_first, request
from triage.config import PeerConfig, ReceiverConfig
from triage.errors import (
    CommandMismatch,
    ConfigError,
    DatabaseRejected,
    DatabaseUnavailable,
    IdentifiersInvalid,
    ObjectRefused,
    ObjectUnparsable,
    OutOfSpace,
    StoreError,
)
from triage.ingest.negotiation import VERIFICATION
from triage.ingest.storage_scp import StorageReceiver

DX = uid.DigitalXRayImageStorageForPresentation
PRIVATE_STORAGE = "1.3.12.2.1107.5.9.1"


@contextmanager
def associated(
    port: int,
    *contexts: tuple[str, list[str]],
    calling: str = "SENDER",
    called: str = "TRIAGE",
) -> Iterator[Association]:
    entity = AE(ae_title=calling)
    for abstract, syntaxes in contexts or ((DX, [uid.ExplicitVRLittleEndian]),):
        entity.add_requested_context(abstract, syntaxes)
    association = entity.associate("127.0.0.1", port, ae_title=called)
    try:
        yield association
    finally:
        if association.is_established:
            association.release()


def sent(port: int, ds: Dataset | None = None, **how: Any) -> Dataset:
    ds = ds or make_dx()
    with associated(port, (ds.SOPClassUID, [ds.file_meta.TransferSyntaxUID]), **how) as association:
        assert association.is_established
        return association.send_c_store(ds)


# --- what is handed over


def test_bytes_syntax_priority_and_sender_reach_the_door_as_they_came() -> None:
    door, ds = Door(), make_dx(transfer_syntax=uid.ImplicitVRLittleEndian)
    with (
        listening(door) as receiver,
        associated(receiver.port, (DX, [uid.ImplicitVRLittleEndian]), calling="CT1") as association,
    ):
        encoded: list[bytes] = []
        association.bind(evt.EVT_DIMSE_SENT, lambda event: encoded.append(_data_set(event)))
        assert association.send_c_store(ds, priority=1).Status == 0x0000
    data, how = door.taken[0]
    assert data == encoded[0]
    assert how["transfer_syntax_uid"] == uid.ImplicitVRLittleEndian
    assert how["sender_ae_title"] == "CT1"
    assert how["c_store_priority"] == 1
    assert how["expected_sop_class_uid"] == DX
    assert how["expected_sop_instance_uid"] == ds.SOPInstanceUID


def _data_set(event: evt.Event) -> bytes:
    value: bytes = event.message.data_set.getvalue()
    return value


ANSWERS = {
    0xA700: OutOfSpace("x"),
    0xA701: StoreError("x"),
    0xA702: DatabaseUnavailable("x"),
    0xA900: CommandMismatch("x"),
    0xC000: ObjectUnparsable("x"),
    0xC001: IdentifiersInvalid("x"),
    0xC002: ObjectRefused("x"),
    0x0110: RuntimeError("a defect"),
}


@requirement("N3")
def test_each_outcome_has_its_status_and_a_comment() -> None:
    door = Door()
    with listening(door) as receiver:
        for status, error in ANSWERS.items():
            door.raises = error
            answer = sent(receiver.port)
            assert answer.Status == status, error
            assert answer.ErrorComment
        door.raises = DatabaseRejected("x" * 500 + "\\")
        answer = sent(receiver.port)
        assert answer.Status == 0x0110
        assert len(answer.ErrorComment) == 64
        door.raises = None
        assert sent(receiver.port).Status == 0x0000


# --- negotiation


def test_our_preference_decides_not_the_order_of_the_proposal() -> None:
    proposals = [uid.MPEG4HP41, uid.JPEG2000, uid.ExplicitVRBigEndian, uid.ImplicitVRLittleEndian]
    with listening(Door()) as receiver, associated(receiver.port, (DX, proposals)) as association:
        accepted = association.accepted_contexts
    assert [context.transfer_syntax for context in accepted] == [[uid.ImplicitVRLittleEndian]]


@requirement("N4")
def test_video_private_and_unknown_classes_are_accepted_and_served() -> None:
    door = Door()
    contexts = [
        (uid.VideoEndoscopicImageStorage, [uid.MPEG4HP41]),
        (PRIVATE_STORAGE, [uid.ExplicitVRLittleEndian]),
        ("1.2.840.10008.5.1.4.1.1.999", [uid.ExplicitVRLittleEndian]),
    ]
    ds = make_dx()
    ds.SOPClassUID = PRIVATE_STORAGE
    with listening(door) as receiver, associated(receiver.port, *contexts) as association:
        assert len(association.accepted_contexts) == 3
        assert association.send_c_store(ds).Status == 0x0000
    assert door.taken[0][1]["expected_sop_class_uid"] == PRIVATE_STORAGE


@requirement("N11")
def test_storage_commitment_is_not_offered() -> None:
    contexts = [
        (DX, [uid.ExplicitVRLittleEndian]),
        ("1.2.840.10008.1.20.1", [uid.ImplicitVRLittleEndian]),
    ]
    with listening(Door()) as receiver, associated(receiver.port, *contexts) as association:
        assert [context.abstract_syntax for context in association.accepted_contexts] == [DX]


@requirement("N7")
def test_the_full_number_of_contexts_is_answered() -> None:
    contexts = [
        (f"1.2.840.10008.5.1.4.1.1.{number}", [uid.ExplicitVRLittleEndian])
        for number in range(1, 129)
    ]
    with listening(Door()) as receiver, associated(receiver.port, *contexts) as association:
        assert len(association.accepted_contexts) == 128


@requirement("S1")
@pytest.mark.parametrize("sop_class_uid", ["31", "1.2.840.10008.5.1.4.1.2.2.1", DX])
@pytest.mark.parametrize("sop_instance_uid", ["1.2.3", "../../x"])
@pytest.mark.filterwarnings("ignore:.*Invalid value for VR UI")
def test_a_command_with_odd_identifiers_is_answered_and_the_association_goes_on(
    sop_class_uid: str, sop_instance_uid: str
) -> None:
    """Written by hand: the library's own sender would not."""
    door, ds = Door(), make_dx()
    with listening(door) as receiver, associated(receiver.port) as association:
        request = C_STORE()
        request.MessageID, request.Priority = 7, 0
        request.AffectedSOPClassUID = sop_class_uid
        request.AffectedSOPInstanceUID = "1.2.3"
        request.DataSet = BytesIO(b"whatever")
        message = C_STORE_RQ()
        message.primitive_to_message(request)
        message.command_set.AffectedSOPInstanceUID = sop_instance_uid
        message.context_id = association.accepted_contexts[0].context_id
        # Kept still to the end, or the sender's own loop takes an answer.
        association._reactor_checkpoint.clear()
        assert eventually(lambda: association._is_paused)
        for primitive in message.encode_msg(message.context_id, 16382):
            association.dul.send_pdu(primitive)
        _, answer = association.dimse.get_msg(block=True)
        assert answer.Status == 0x0000  # this door takes everything
        assert association.send_c_store(ds).Status == 0x0000
    assert door.taken[0][1]["expected_sop_class_uid"] == sop_class_uid
    assert door.taken[0][1]["expected_sop_instance_uid"] == sop_instance_uid


# --- admission


def rejected(*codes: int) -> tuple[int, bytes]:
    """An A-ASSOCIATE-RJ of result, source and reason (PS3.8 9.3.4)."""
    return REJECTED, bytes((0, *codes))


@requirement("N6")
def test_a_wrong_called_title_and_an_unknown_caller_are_rejected_with_their_codes() -> None:
    peers = (PeerConfig(ae_title="CT1", address="127.0.0.0/8"),)
    with listening(Door(), peers=peers) as receiver:
        port = receiver.port
        assert hear_first(port, request(calling="CT1", called="OTHER")) == rejected(1, 1, 7)
        assert hear_first(port, request(calling="CT2")) == rejected(1, 1, 3)
        with associated(receiver.port, calling="CT1") as association:
            assert association.is_established


def test_one_association_too_many_is_rejected_for_now() -> None:
    with listening(Door(), maximum_associations=1) as receiver, associated(receiver.port):
        assert hear_first(receiver.port, request()) == rejected(2, 3, 2)


@requirement("N5")
def test_monitoring_sees_whether_storing_works() -> None:
    door = Door()
    with listening(door) as receiver:
        echo = (VERIFICATION, [uid.ImplicitVRLittleEndian])
        with associated(receiver.port, echo) as association:
            assert association.send_c_echo().Status == 0x0000
        door.fault = "the store has no space"
        asked = request(((1, VERIFICATION, (uid.ImplicitVRLittleEndian,)),))
        assert hear_first(receiver.port, asked) == rejected(2, 3, 1)
        door.raises = OutOfSpace("the store has no space")
        assert sent(receiver.port).Status == 0xA700


# --- bounds


def test_an_object_far_above_the_limit_ends_the_association_before_it_fills_memory() -> None:
    door, ds = Door(), make_dx()
    ds.PixelData = bytes(3 * 1024 * 1024)
    with listening(door, maximum_object_mib=1) as receiver:
        with associated(receiver.port) as association:
            association.send_c_store(ds)
            assert eventually(lambda: association.is_aborted)
        assert sent(receiver.port).Status == 0x0000
    assert len(door.taken) == 1


@requirement("N8")
def test_idle_and_talkative_strangers_do_not_keep_a_sender_out() -> None:
    with listening(Door()) as receiver:
        idle = [socket.create_connection(("127.0.0.1", receiver.port)) for _ in range(10)]
        idle[0].sendall(b"GET / HTTP/1.1\r\n\r\n")
        idle[1].sendall(struct.pack(">BBL", 0x63, 0, 10))
        assert sent(receiver.port).Status == 0x0000
        for connection in idle:
            connection.close()


# --- start and stop


@requirement("N12")
def test_stopping_lets_a_transfer_under_way_finish() -> None:
    door = Door(hold=threading.Event())
    answers: list[int] = []
    receiver = StorageReceiver(door, ReceiverConfig(port=0))  # type: ignore[arg-type]
    receiver.start()
    port = receiver.port
    sender = threading.Thread(target=lambda: answers.append(sent(port).Status))
    sender.start()
    assert eventually(lambda: receiver.associations == 1)
    stopper = threading.Thread(target=receiver.stop, kwargs={"drain_s": 10})
    stopper.start()
    assert eventually(lambda: _refuses(port))
    assert not receiver.alive
    assert door.hold is not None
    door.hold.set()
    sender.join(10)
    stopper.join(10)
    assert answers == [0x0000]
    assert receiver.associations == 0


def test_a_port_in_use_is_refused_with_the_next_step() -> None:
    with listening(Door()) as receiver:
        second = StorageReceiver(Door(), ReceiverConfig(port=receiver.port))  # type: ignore[arg-type]
        with pytest.raises(ConfigError, match="cannot be listened on") as caught:
            second.start()
    assert "port" in caught.value.hint


def _refuses(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port)).close()
    except ConnectionError:
        return True
    return False
