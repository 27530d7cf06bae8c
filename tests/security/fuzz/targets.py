"""What is fuzzed: each place where bytes of strangers are first read, as a function of bytes.

A target returns quietly for whatever it is given; what it raises is a fault. The errors that the
program answers to are caught here, no others. Times and growth are the runner's business.
"""

import logging
import struct
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import structlog
from pydicom import uid

from tests.deploy.live import data_set
from tests.dicom_files import compress, corpus_root, make_ct_slice, make_dx, make_image, to_bytes
from tests.ingest.doors import Door
from tests.ingest.raw_peer import (
    RELEASE_RQ,
    echo_rq,
    fragment,
    item,
    message,
    p_data,
    request,
    store_rq,
)
from triage.config import ReceiverConfig
from triage.errors import ObjectRefused, TriageError
from triage.imaging.dataset import DecodeLimits, parse
from triage.imaging.decode import decode_frames, describe, iterate_frames
from triage.imaging.values import meaning
from triage.imaging.views import render
from triage.ingest.association import Association
from triage.ingest.commands import read_command, response
from triage.ingest.header import HeaderLimits, read_header
from triage.ingest.network_guard import ConnectionEnded, Limits
from triage.ingest.part10 import DataSet
from triage.ingest.pdu_reader import ProtocolError
from triage.ingest.reception import inspect
from triage.ingest.span import FileSpan
from triage.ingest.storage_service import StorageService

REGRESSIONS = Path(__file__).parent / "regressions"
LARGEST_SEED_BYTES = 1 << 18
HEADER_LIMITS = HeaderLimits(maximum_object_mib=64, maximum_inflated_mib=64, maximum_header_mib=16)
DECODE_LIMITS = DecodeLimits(
    maximum_file_mib=64, maximum_inflated_mib=16, maximum_decoded_mib=32, maximum_frame_mib=16
)
SYNTAXES = (
    uid.ImplicitVRLittleEndian,
    uid.ExplicitVRLittleEndian,
    uid.ExplicitVRBigEndian,
    uid.DeflatedExplicitVRLittleEndian,
    uid.JPEG2000Lossless,
)
PIXELS = np.arange(12 * 10, dtype=np.uint16).reshape(12, 10)


class Script:
    """A connection whose peer has said all it will say; stands where `Wire` stands."""

    peer_common_name = ""
    is_cut = False
    waited_s = 0.0

    def __init__(self, said: bytes) -> None:
        self._left = memoryview(said)

    def handshake(self, *, within_s: float) -> None:
        pass

    def wait_at_most(self, seconds: float) -> None:
        pass

    def receive(self, room: memoryview) -> int:
        count = min(len(room), len(self._left))
        if not count:
            raise ConnectionEnded("the peer closed the connection")
        room[:count] = self._left[:count]
        self._left = self._left[count:]
        return count

    def send(self, data: bytes) -> None:
        pass

    def close(self, *, wait_s: float = 0.0) -> None:
        pass


class Desk:
    """Admits everybody."""

    def admit(self, association: Association) -> bool:
        return True

    def dismiss(self, association: Association) -> None:
        pass

    def turned_away(self, **who: str) -> None:
        pass


def pdu(said: bytes) -> None:
    """A whole conversation: association request, messages, release, in any order."""
    service = StorageService(Door(), ReceiverConfig())  # type: ignore[arg-type]
    wire: Any = Script(said)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of odd UIDs; the daemon does so for its whole life
        Association(wire, "127.0.0.1", service=service, desk=Desk(), limits=Limits()).run()


def associated(said: bytes) -> None:
    """What comes after an association was accepted."""
    pdu(REQUEST + said)


def dimse(said: bytes) -> None:
    """A command set."""
    with suppress(ProtocolError):
        response(read_command(said), 0, "said")


def header(said: bytes) -> None:
    """A data set in the syntax that the first byte chooses."""
    syntax = SYNTAXES[said[0] % len(SYNTAXES)] if said else SYNTAXES[0]
    with suppress(ObjectRefused):
        read_header(DataSet(transfer_syntax_uid=syntax, encoded=said[1:]), HEADER_LIMITS)


def folder(said: bytes) -> None:
    """A file of the watched folder, before it is taken in."""

    def read(count: int, offset: int) -> bytes:
        return said[offset : offset + count]

    with suppress(ObjectRefused):
        inspect(FileSpan(read=read, start=0, size=len(said)), HEADER_LIMITS)


def image(said: bytes) -> None:
    """A stored file, in the decoder."""
    with warnings.catch_warnings(), suppress(TriageError):
        warnings.simplefilter("ignore")  # of numbers that no image has
        ds = parse(said, DECODE_LIMITS)
        layout = describe(ds, DECODE_LIMITS)
        for index, stored in enumerate(iterate_frames(ds, layout)):
            render(stored, ds, layout, meaning(ds, layout, index), "dicom")
            if index == 3:
                break
        decode_frames(ds, DECODE_LIMITS)


TARGETS: Mapping[str, Callable[[bytes], None]] = MappingProxyType(
    {each.__name__: each for each in (pdu, associated, dimse, header, folder, image)}
)
REQUEST = request(calling="ANY")


# --- seeds


def seeds(target: str) -> list[bytes]:
    """Return honest input of a target, to begin from."""
    return list(_SEEDS[target]())


def _conversations() -> Iterator[bytes]:
    store = message(store_rq(), data_set(make_dx(PIXELS)))
    window = item(0x53, struct.pack(">HH", 0, 0))
    yield REQUEST + store + RELEASE_RQ
    yield request(more=window) + message(echo_rq()) + RELEASE_RQ
    yield request(tuple((2 * n + 1, "1.2.3", ("1.2.840.10008.1.2",)) for n in range(9)))


def _messages() -> Iterator[bytes]:
    body = data_set(make_dx(PIXELS))
    yield message(store_rq(), body) + RELEASE_RQ
    yield message(echo_rq()) * 3 + RELEASE_RQ
    command = store_rq()
    halves = [
        fragment(command[:9], command=True, last=False),
        fragment(command[9:], command=True, last=True),
    ]
    pieces = [
        fragment(body[at : at + 99], command=False, last=at + 99 >= len(body))
        for at in range(0, len(body), 99)
    ]
    yield p_data(*halves) + p_data(*pieces[:3]) + b"".join(map(p_data, pieces[3:]))


def _commands() -> Iterator[bytes]:
    yield store_rq()
    yield echo_rq()


def _data_sets() -> Iterator[bytes]:
    for number, syntax in enumerate(SYNTAXES):
        yield bytes((number,)) + data_set(make_dx(PIXELS, transfer_syntax=syntax))


def _files() -> Iterator[bytes]:
    for syntax in SYNTAXES:
        yield to_bytes(make_dx(PIXELS, transfer_syntax=syntax))
    root = corpus_root()
    for path in sorted((root / "dicom").rglob("*")) if root else ():
        if path.is_file() and path.stat().st_size <= LARGEST_SEED_BYTES and path.suffix != ".csv":
            yield path.read_bytes()


def _images() -> Iterator[bytes]:
    yield from _files()
    for syntax in (uid.RLELossless, uid.JPEGLSLossless, uid.JPEGLossless, uid.JPEGExtended12Bit):
        yield to_bytes(compress(make_dx(PIXELS), syntax))
    yield to_bytes(make_ct_slice(np.zeros((8, 8))))
    yield to_bytes(_with_tables())
    colours = make_image(np.zeros((8, 8, 3), np.uint8))
    yield to_bytes(colours)
    yield to_bytes(compress(colours, uid.JPEGBaseline8Bit))


def _with_tables() -> Any:
    """An image of palette indices, with segments."""
    ds = make_dx(PIXELS.astype(np.uint8), bits_stored=8, photometric="PALETTE COLOR")
    for colour in ("Red", "Green", "Blue"):
        setattr(ds, f"{colour}PaletteColorLookupTableDescriptor", [8, 0, 16])
        name = f"Segmented{colour}PaletteColorLookupTableData"
        setattr(ds, name, struct.pack("<11H", 0, 2, 0, 10, 1, 4, 50, 2, 1, 0, 0))
        ds[name].VR = "OW"
    return ds


_SEEDS: Mapping[str, Callable[[], Iterator[bytes]]] = MappingProxyType(
    {
        "pdu": _conversations,
        "associated": _messages,
        "dimse": _commands,
        "header": _data_sets,
        "folder": _files,
        "image": _images,
    }
)


@contextmanager
def silence() -> Iterator[None]:
    """Let the program log nothing: it says a line for each broken conversation."""
    before = structlog.get_config()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    try:
        yield
    finally:
        structlog.configure(**before)
