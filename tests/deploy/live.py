"""What proofs of deploy/CONFORMANCE.md share: its tables, receivers, and ways to speak to them."""

import struct
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from pydicom.dataset import Dataset
from pynetdicom import AE, build_context
from pynetdicom.association import Association

from tests.deploy import conformance as tables
from tests.deploy.documents import read, table
from tests.dicom_files import to_bytes
from tests.ingest.doors import Door, listening
from tests.ingest.raw_peer import (
    EXPLICIT,
    message,
    store_rq,
)
from triage.config import ReceiverConfig
from triage.database.connection import Database
from triage.ingest.header import HeaderLimits
from triage.ingest.intake import Intake
from triage.ingest.network_guard import Limits
from triage.ingest.storage_scp import StorageReceiver
from triage.rules.policies import Policies
from triage.store import Store

DOCUMENT = read("CONFORMANCE.md")
CT = "1.2.840.10008.5.1.4.1.1.2"
COMMITMENT = "1.2.840.10008.1.20.1"
MPEG4 = "1.2.840.10008.1.2.4.102"
NOT_SUPPORTED = 3  # result of a presentation context (PS3.8 table 9-18)


def marked(name: str) -> list[list[str]]:
    """Return the rows of a table as they stand in the document."""
    (body,) = [found[0] for found in tables.MARKED.finditer(DOCUMENT) if found[2] == name]
    return table(body)


@contextmanager
def receiving(
    intake: Intake, *, limits: Limits | None = None, **config: object
) -> Iterator[StorageReceiver]:
    receiver = StorageReceiver(intake, ReceiverConfig(port=0, **config), limits=limits)  # type: ignore[arg-type]
    receiver.start()
    try:
        yield receiver
    finally:
        receiver.stop(drain_s=0)


@contextmanager
def open_door(db: Database, store: Store, limits: HeaderLimits | None = None) -> Iterator[Intake]:
    intake = Intake(db, store, policies=Policies(), limits=limits)
    intake.start()
    try:
        yield intake
    finally:
        intake.stop()


@contextmanager
def associated(port: int, contexts: Sequence[tuple[str, list[str]]]) -> Iterator[Association]:
    """Associate with pynetdicom, one presentation context for each entry."""
    entity = AE(ae_title="SENDER")
    built = [build_context(abstract, syntaxes) for abstract, syntaxes in contexts]
    association = entity.associate("127.0.0.1", port, contexts=built, ae_title="TRIAGE")
    try:
        assert association.is_established
        yield association
    finally:
        association.release()


@contextmanager
def proposing(*items: object) -> Iterator[Association]:
    entity = AE(ae_title="SENDER")
    entity.add_requested_context(CT, [EXPLICIT])
    with listening(Door()) as receiver:
        association = entity.associate(
            "127.0.0.1", receiver.port, ae_title="TRIAGE", ext_neg=list(items)
        )
        assert association.is_established
        yield association
        association.release()


def data_set(ds: Dataset) -> bytes:
    """Return the encoded data set without preamble and file meta information."""
    whole = to_bytes(ds)
    length = struct.unpack_from("<L", whole, 140)[0]
    return whole[144 + length :]


def stored(ds: Dataset, *, context_id: int = 1, **command: str) -> bytes:
    """Return a C-STORE message; `command` changes what the command says of the data set."""
    said = {"sop_class": str(ds.SOPClassUID), "instance": str(ds.SOPInstanceUID)} | command
    return message(store_rq(**said), data_set(ds), context_id=context_id)
