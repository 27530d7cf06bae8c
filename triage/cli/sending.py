"""A small Storage SCU (PS3.4 Annex B): files go out as they are, in their own transfer syntax.

Serves `triage send` and the demonstration. Not the output side of the daemon: it keeps no queue. An
object whose answer was lost is sent again on a new association: a Storage SCP takes it twice.
"""

import itertools
import warnings
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from triage.errors import TransientError

CONTEXTS_PER_ASSOCIATION = (
    128  # presentation context IDs are the odd numbers 1 to 255 (PS3.8 9.3.2)
)
SUCCESS = 0x0000
WARNING = 0xB000  # class Bxxx: stored, with a remark (PS3.4 table B.2-1)
PRIORITIES = {"medium": 0, "high": 1, "low": 2}  # (0000,0700)
NOT_DICOM = "is no DICOM file with File Meta Information, not sent"
NOT_ACCEPTED = "its SOP class and transfer syntax were not accepted, not sent"
LOST = "the association ended before an answer"
ATTEMPTS = 3  # at one object, where no answer comes


@dataclass(frozen=True, slots=True, kw_only=True)
class Destination:
    """Where to send and under which names."""

    host: str
    port: int
    called_ae_title: str
    calling_ae_title: str = "TRIAGE_SEND"
    timeout_s: float = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Sent:
    """What became of one file: `status` is the DIMSE status, None where none was received."""

    path: Path
    status: int | None
    comment: str = ""

    @property
    def stored(self) -> bool:
        return self.status is not None and (
            self.status == SUCCESS or self.status & 0xF000 == WARNING
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Outgoing:
    path: Path
    context: tuple[str, str]  # SOP Class UID, Transfer Syntax UID


def files_below(paths: Iterable[Path]) -> list[Path]:
    """Return the files named, and those in the folders named, in a stable order."""
    found: list[Path] = []
    for path in paths:
        found += (
            sorted(each for each in path.rglob("*") if each.is_file()) if path.is_dir() else [path]
        )
    return found


def send(
    files: Sequence[Path], destination: Destination, *, priority: str = "medium"
) -> Iterator[Sent]:
    """Send the files in order and yield what became of each, those that are no DICOM first.

    As many associations as the presentation contexts need follow each other. Raises
    TransientError where the peer cannot be reached or takes no association.
    """
    outgoing: list[_Outgoing] = []
    for path in files:
        context = _context_of(path)
        if context is None:
            yield Sent(path=path, status=None, comment=NOT_DICOM)
        else:
            outgoing.append(_Outgoing(path=path, context=context))
    for batch in _batches(outgoing):
        yield from _send_batch(batch, destination, PRIORITIES[priority])


def _context_of(path: Path) -> tuple[str, str] | None:
    from pydicom.errors import InvalidDicomError
    from pydicom.filereader import read_file_meta_info

    try:
        with warnings.catch_warnings():
            # An ill-formed UID is for the receiver to judge.
            warnings.simplefilter("ignore")
            meta = read_file_meta_info(path)
        if not meta.MediaStorageSOPInstanceUID:
            return None
        return str(meta.MediaStorageSOPClassUID), str(meta.TransferSyntaxUID)
    except (InvalidDicomError, AttributeError, EOFError, ValueError, KeyError):
        return None
    except OSError as error:
        raise TransientError(
            f"{path} cannot be read ({error.strerror})", hint="Name readable files or folders."
        ) from error


def _batches(outgoing: Sequence[_Outgoing]) -> Iterator[list[_Outgoing]]:
    batch: list[_Outgoing] = []
    contexts: set[tuple[str, str]] = set()
    for each in outgoing:
        if each.context not in contexts and len(contexts) == CONTEXTS_PER_ASSOCIATION:
            yield batch
            batch, contexts = [], set()
        batch.append(each)
        contexts.add(each.context)
    if batch:
        yield batch


def _send_batch(
    batch: Sequence[_Outgoing], destination: Destination, priority: int
) -> Iterator[Sent]:
    """Yield one result per object, in order; one without an answer ends its association."""
    contexts = {each.context for each in batch}
    association = _associate(contexts, destination)
    try:
        for message_id, each in zip(itertools.cycle(range(1, 65536)), batch, strict=False):
            for _ in range(ATTEMPTS):
                if not association.is_established:
                    association = _associate(contexts, destination)
                sent = _store(association, each, message_id, priority)
                if sent.comment != LOST:
                    break
                association.abort()  # it may be half dead and still call itself established
            yield sent
    finally:
        if association.is_established:
            association.release()


def _associate(contexts: set[tuple[str, str]], destination: Destination) -> Any:
    from pynetdicom import AE, _config

    # The data set goes out as it lies on disk: nothing is decoded and written anew.
    _config.STORE_SEND_CHUNKED_DATASET = True
    entity = AE(ae_title=destination.calling_ae_title)
    entity.maximum_pdu_size = 131072
    entity.connection_timeout = entity.acse_timeout = destination.timeout_s
    entity.dimse_timeout = entity.network_timeout = destination.timeout_s
    for sop_class_uid, transfer_syntax_uid in sorted(contexts):
        entity.add_requested_context(sop_class_uid, transfer_syntax_uid)
    association = entity.associate(
        destination.host, destination.port, ae_title=destination.called_ae_title
    )
    if association.is_established:
        return association
    where = f"{destination.called_ae_title} at {destination.host}:{destination.port}"
    if association.is_rejected:
        raise TransientError(
            f"{where} rejected the association",
            hint="Check the AE titles and that this host is among [[receiver.peers]].",
        )
    raise TransientError(
        f"{where} did not answer or accepted nothing of what was proposed",
        hint="Check with `triage status` that the receiver is up, and host and port.",
    )


def _store(association: Any, each: _Outgoing, message_id: int, priority: int) -> Sent:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            answer = association.send_c_store(each.path, msg_id=message_id, priority=priority)
    except ValueError:
        return Sent(path=each.path, status=None, comment=NOT_ACCEPTED)
    except RuntimeError:
        return Sent(path=each.path, status=None, comment=LOST)
    if "Status" not in answer:
        return Sent(path=each.path, status=None, comment=LOST)
    return Sent(
        path=each.path, status=int(answer.Status), comment=str(answer.get("ErrorComment", ""))
    )
