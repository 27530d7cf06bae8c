"""One object on its way into a file of the store's own, chunk by chunk, never whole in memory.

Owns the layout of that file while it is written. The data set goes behind META_BYTES that are kept
free, so that our file meta information, whose UIDs stand in the data set, can be written when all
has come; its digest is computed on the way. What is no DICOM goes as it came, for the quarantine.

Knows neither rows nor policies: which errors are told to whom is the intake's business.
"""

import hashlib
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from itertools import chain

from triage.errors import ObjectRefused
from triage.ingest.header import HeaderLimits, read_header
from triage.ingest.part10 import (
    LONGEST_META,
    META_BYTES,
    DataSet,
    begin_digest,
    file_meta,
    split,
)
from triage.ingest.span import FileSpan, Span, pieces
from triage.records import Header
from triage.store import MIB, Bytes, Draft, Staged, Store

LARGEST_KEPT_MIB = 64
TOO_LARGE = "larger than [receiver] maximum_object_mib"


@dataclass(frozen=True, slots=True, kw_only=True)
class Received:
    """One object, as far as it was asked for. `refusal` says what was wrong with it already."""

    draft: Draft
    size_bytes: int  # as received; of what is refused at its beginning, what was kept
    transfer_syntax_uid: str = ""
    prefix: bytes = b""  # of a file: what stood before the data set; it is not in the draft
    digest: str = ""  # of the object, or of the bytes where they were refused at their beginning
    whole: bool = False
    refusal: ObjectRefused | None = None

    @property
    def data_set(self) -> DataSet:
        """The data set, in the draft."""
        size = self.draft.size_bytes - META_BYTES
        encoded = FileSpan(read=self.draft.read, start=META_BYTES, size=size)
        return DataSet(transfer_syntax_uid=self.transfer_syntax_uid, encoded=encoded)


@contextmanager
def receiving(
    store: Store, chunks: Iterable[Bytes], transfer_syntax_uid: str | None, limits: HeaderLimits
) -> Iterator[Received]:
    """Write `chunks` to a draft: a bare data set, or a file where there is no transfer syntax.

    What the iterator raises passes through; nothing is left behind then. At the end of the `with`
    the draft is gone unless it was staged.
    """
    coming = iter(chunks)
    if transfer_syntax_uid is None:
        beginning = _beginning(coming)
        try:
            found = split(beginning)
        except ObjectRefused as refusal:
            raw = chain((beginning,), coming)
            limit = min(LARGEST_KEPT_MIB, limits.maximum_object_mib) * MIB
            with store.draft() as draft:
                yield _received_as_it_is(draft, raw, limit, refusal)
            return
        prefix = bytes(beginning[: len(beginning) - len(found.encoded)])
        transfer_syntax_uid = found.transfer_syntax_uid
        coming = chain((memoryview(beginning)[len(prefix) :],), coming)
    else:
        prefix = b""
    digest = begin_digest(transfer_syntax_uid)
    limit = limits.maximum_object_mib * MIB - len(prefix)
    with store.draft(offset=META_BYTES) as draft:
        whole = _pour(coming, draft, digest, limit)
        yield Received(
            draft=draft,
            size_bytes=len(prefix) + draft.size_bytes - META_BYTES,
            transfer_syntax_uid=transfer_syntax_uid,
            prefix=prefix,
            digest=digest.hexdigest(),
            whole=whole,
            refusal=None if whole else ObjectRefused(TOO_LARGE),
        )


def header_of(
    received: Received,
    limits: HeaderLimits,
    inflating: AbstractContextManager[object] | None = None,
) -> Header:
    """Read the header of what came. Raises ObjectRefused or a subclass."""
    if received.refusal is not None:
        raise received.refusal
    return read_header(received.data_set, limits, inflating)


def inspect(
    file: FileSpan,
    limits: HeaderLimits,
    inflating: AbstractContextManager[object] | None = None,
) -> Header:
    """Read the header of a file where it lies. Raises ObjectRefused or a subclass."""
    if len(file) > limits.maximum_object_mib * MIB:
        raise ObjectRefused(TOO_LARGE)
    beginning = file[:LONGEST_META]
    found = split(beginning)
    encoded = file.after(len(beginning) - len(found.encoded))
    data_set = DataSet(transfer_syntax_uid=found.transfer_syntax_uid, encoded=encoded)
    return read_header(data_set, limits, inflating)


def stage_object(received: Received, header: Header) -> Staged:
    """Put our meta information before the data set and make the file durable."""
    meta = file_meta(
        sop_class_uid=header.sop_class_uid,
        sop_instance_uid=header.sop_instance_uid,
        transfer_syntax_uid=header.transfer_syntax_uid,
    )
    received.draft.write_at(0, meta)
    return received.draft.stage(received.digest)


def stage_aside(store: Store, received: Received, meta: bytes | None) -> Staged | None:
    """Make what was refused durable for the quarantine; None for what is not kept.

    A file is kept as it came; a bare data set gets `meta`, so that a person's tools can open it.
    """
    draft = received.draft
    if not received.whole or received.size_bytes > LARGEST_KEPT_MIB * MIB:
        return None
    if received.refusal is not None:
        return draft.stage(received.digest, aside=True)
    if meta is not None:
        draft.write_at(0, meta)
        file = FileSpan(read=draft.read, start=0, size=draft.size_bytes)
        return draft.stage(_sha256((file,)), aside=True)
    parts = (received.prefix, received.data_set.encoded)
    copied = chain.from_iterable(pieces(part, MIB) for part in parts)
    return store.stage_aside(copied, digest=_sha256(parts))


def _beginning(chunks: Iterator[Bytes]) -> Bytes:
    """Return the first chunks of a file, joined up to where its meta information must end."""
    first = next(chunks, b"")
    if len(first) >= LONGEST_META:
        return first
    joined = bytearray(first)
    for chunk in chunks:
        joined += chunk
        if len(joined) >= LONGEST_META:
            break
    return joined


def _received_as_it_is(
    draft: Draft, chunks: Iterator[Bytes], limit_bytes: int, refusal: ObjectRefused
) -> Received:
    """Write what was refused at its beginning, if it is of a kind that is kept."""
    digest = hashlib.sha256()
    kept = type(refusal) is not ObjectRefused
    whole = kept and _pour(chunks, draft, digest, limit_bytes)
    return Received(
        draft=draft,
        size_bytes=draft.size_bytes,
        digest=digest.hexdigest(),
        whole=whole,
        refusal=refusal,
    )


def _pour(chunks: Iterator[Bytes], draft: Draft, digest: "hashlib._Hash", limit_bytes: int) -> bool:
    """Write and digest what comes; False, before the excess is written, if that is too much."""
    limit_bytes += draft.size_bytes
    for chunk in chunks:
        if draft.size_bytes + len(chunk) > limit_bytes:
            return False
        draft.append(chunk)
        digest.update(chunk)
    return True


def _sha256(parts: Iterable[Span]) -> str:
    digest = hashlib.sha256()
    for part in parts:
        for piece in pieces(part, MIB):
            digest.update(piece)
    return digest.hexdigest()
