"""`triage send` hands files over as they are and tells what became of each."""

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from pydicom import dcmread
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import (
    CTImageStorage,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    generate_uid,
)
from pynetdicom import AE, evt

from tests.assurance import requirement
from triage.cli.command_line import main
from triage.cli.sending import Destination, files_below, send
from triage.errors import TransientError

SYNTAXES = (ExplicitVRLittleEndian, ImplicitVRLittleEndian, JPEG2000Lossless)
REFUSED_PATIENT = "REFUSE"
ABORTED_PATIENT = "ABORT"


@dataclass
class Peer:
    """A Storage SCP that keeps what it gets; it refuses one patient with A700."""

    port: int = 0
    received: dict[str, bytes] = field(default_factory=dict)
    priorities: list[int] = field(default_factory=list)
    aborts: int = 0  # so many objects are still to be answered by the end of their association

    def store(self, event: Any) -> Dataset | int:
        self.priorities.append(event.request.Priority)
        if event.dataset.PatientID == ABORTED_PATIENT and self.aborts:
            self.aborts -= 1
            event.assoc.abort()
        if event.dataset.PatientID == REFUSED_PATIENT:
            status = Dataset()
            status.Status, status.ErrorComment = 0xA700, "no space"
            return status
        uid = str(event.request.AffectedSOPInstanceUID)
        self.received[uid] = event.request.DataSet.getvalue()
        return 0x0000


@pytest.fixture
def peer() -> Iterator[Peer]:
    entity, kept = AE(ae_title="PEER"), Peer()
    entity.require_called_aet = True
    entity.add_supported_context(CTImageStorage, list(SYNTAXES))
    server = entity.start_server(
        ("127.0.0.1", 0), block=False, evt_handlers=[(evt.EVT_C_STORE, kept.store)]
    )
    kept.port = server.server_address[1]
    yield kept
    server.shutdown()


def write(path: Path, *, syntax: str = ExplicitVRLittleEndian, patient_id: str = "P1") -> str:
    """Write a small object and return its SOP Instance UID."""
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = syntax
    dataset.SOPClassUID, dataset.SOPInstanceUID = CTImageStorage, generate_uid()
    dataset.PatientID = patient_id
    path.parent.mkdir(parents=True, exist_ok=True)
    dataset.save_as(path, enforce_file_format=True)
    return str(dataset.SOPInstanceUID)


def destination(peer: Peer, **changes: Any) -> Destination:
    return Destination(host="127.0.0.1", port=peer.port, called_ae_title="PEER", **changes)


@requirement("G3")
def test_data_sets_arrive_byte_for_byte_in_their_own_syntax(peer: Peer, tmp_path: Path) -> None:
    uids = {write(tmp_path / f"{n}.dcm", syntax=syntax): n for n, syntax in enumerate(SYNTAXES)}
    sent = list(send(files_below([tmp_path]), destination(peer)))
    assert [each.status for each in sent] == [0, 0, 0]
    for uid, number in uids.items():
        whole = (tmp_path / f"{number}.dcm").read_bytes()
        assert whole.endswith(peer.received[uid])


def test_a_refusal_is_told_with_status_and_comment(peer: Peer, tmp_path: Path) -> None:
    write(tmp_path / "a.dcm", patient_id=REFUSED_PATIENT)
    write(tmp_path / "b.dcm")
    refused, stored = send(files_below([tmp_path]), destination(peer))
    assert (refused.stored, refused.status, refused.comment) == (False, 0xA700, "no space")
    assert stored.stored


def test_what_is_no_dicom_is_not_sent_and_keeps_nothing_else_back(
    peer: Peer, tmp_path: Path
) -> None:
    (tmp_path / "a.txt").write_text("no DICOM", "utf-8")
    uid = write(tmp_path / "b.dcm")
    results = {
        each.path.name: each.status for each in send(files_below([tmp_path]), destination(peer))
    }
    assert results == {"a.txt": None, "b.dcm": 0}
    assert set(peer.received) == {uid}


def test_folders_are_searched_to_the_bottom(peer: Peer, tmp_path: Path) -> None:
    uids = {write(tmp_path / "x" / "y" / "a.dcm"), write(tmp_path / "b.dcm")}
    list(send(files_below([tmp_path]), destination(peer)))
    assert set(peer.received) == uids


@pytest.mark.parametrize(("aborts", "statuses"), [(2, [0, 0, 0]), (3, [0, None, 0])])
def test_an_object_without_an_answer_is_sent_again_three_times_in_all(
    peer: Peer, tmp_path: Path, aborts: int, statuses: list[int | None]
) -> None:
    peer.aborts = aborts
    write(tmp_path / "a.dcm")
    write(tmp_path / "b.dcm", patient_id=ABORTED_PATIENT)
    write(tmp_path / "c.dcm")
    sent = list(send(files_below([tmp_path]), destination(peer)))
    assert [each.status for each in sent] == statuses


def test_the_priority_travels_with_each_object(peer: Peer, tmp_path: Path) -> None:
    write(tmp_path / "a.dcm")
    list(send([tmp_path / "a.dcm"], destination(peer), priority="high"))
    assert peer.priorities == [1]


def test_a_truncated_file_is_sent_as_it_is(peer: Peer, tmp_path: Path) -> None:
    path = tmp_path / "a.dcm"
    write(path)
    whole = path.read_bytes()
    path.write_bytes(whole[:-1])
    assert dcmread(path).file_meta.MediaStorageSOPInstanceUID
    (sent,) = send([path], destination(peer))
    assert sent.status is not None


def test_a_wrong_called_title_is_an_error_with_a_next_step(peer: Peer, tmp_path: Path) -> None:
    write(tmp_path / "a.dcm")
    wrong = Destination(host="127.0.0.1", port=peer.port, called_ae_title="OTHER")
    with pytest.raises(TransientError, match="rejected") as raised:
        list(send([tmp_path / "a.dcm"], wrong))
    assert "peers" in raised.value.hint


# pynetdicom drops the socket of a refused connection without closing it.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_nobody_listening_is_an_error_with_a_next_step(tmp_path: Path) -> None:
    write(tmp_path / "a.dcm")
    nobody = Destination(host="127.0.0.1", port=9, called_ae_title="PEER", timeout_s=2.0)
    with pytest.raises(TransientError, match="did not answer"):
        list(send([tmp_path / "a.dcm"], nobody))


def test_the_verb_prints_one_document_and_fails_if_one_file_was_not_stored(
    peer: Peer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write(tmp_path / "in" / "a.dcm")
    (tmp_path / "in" / "b.txt").write_text("no DICOM", "utf-8")
    config = tmp_path / "triage.toml"
    config.write_text(f'[receiver]\nport = {peer.port}\nae_title = "PEER"\n', "utf-8")
    code = main(["--config", str(config), "send", "--json", str(tmp_path / "in")])
    document = json.loads(capsys.readouterr().out)
    assert code == 1
    assert document["stored"] == 1
    assert {Path(each["path"]).name: each["stored"] for each in document["files"]} == {
        "a.dcm": True,
        "b.txt": False,
    }


@pytest.mark.parametrize("where", ["nowhere", "host:", ":1", "host:0", "host:70000"])
def test_an_unusable_destination_is_a_usage_error(
    where: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = tmp_path / "triage.toml"
    config.write_text("", "utf-8")
    assert main(["--config", str(config), "send", "--to", where, str(tmp_path)]) == 64
    assert "HOST:PORT" in capsys.readouterr().err
