"""Decode and render: images per second of processor time, against pydicom alone and DCMTK.

One radiograph of 2048 x 2048 pixels in each transfer syntax. `triage` parses, decodes, takes the
digest and the facts, renders and resizes to 448 px; pydicom alone decodes and applies the window;
DCMTK's command starts, decodes, applies a window and scales to the same size. Where pydicom or
DCMTK has no decoder for a syntax, there is no row.
"""

import resource
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import numpy as np
from pydicom import dcmread, uid
from pydicom.pixels.processing import apply_voi_lut

from tests.benchmarks.measuring import Conditions, Note, Row, by_turns, ratio, say
from tests.dicom_files import DEFLATED_IMAGE_FRAME, compress, make_dx, to_bytes
from triage.imaging.subject import DecodeTask, decode_subject
from triage.pocket import phantoms
from triage.records import ViewSpec

TITLE = "Decode and render, radiographs of 2048 x 2048 pixels, images per second and core"
IMAGES = 20  # of one run
SIZE_PX = 2048
SPEC = ViewSpec(rendering="dicom", size_px=448)
NATIVE, JPEG, JPEG_LS = "dcm2pnm", "dcmj2pnm", "dcml2pnm"
SYNTAXES: tuple[tuple[str, str, str, int], ...] = (
    # name, transfer syntax, DCMTK's command, bits stored
    ("implicit little endian", uid.ImplicitVRLittleEndian, NATIVE, 12),
    ("explicit little endian", uid.ExplicitVRLittleEndian, NATIVE, 12),
    ("explicit big endian", uid.ExplicitVRBigEndian, NATIVE, 12),
    ("deflated", uid.DeflatedExplicitVRLittleEndian, NATIVE, 12),
    ("deflated frames", DEFLATED_IMAGE_FRAME, "", 12),
    ("RLE", uid.RLELossless, NATIVE, 12),
    ("JPEG, 8 bits", uid.JPEGBaseline8Bit, JPEG, 8),
    ("JPEG, 12 bits", uid.JPEGExtended12Bit, JPEG, 12),
    ("JPEG lossless", uid.JPEGLossless, JPEG, 12),
    ("JPEG lossless SV1", uid.JPEGLosslessSV1, JPEG, 12),
    ("JPEG-LS", uid.JPEGLSLossless, JPEG_LS, 12),
    ("JPEG-LS near-lossless", uid.JPEGLSNearLossless, JPEG_LS, 12),
    ("JPEG 2000 lossless", uid.JPEG2000Lossless, "", 12),
    ("JPEG 2000", uid.JPEG2000, "", 12),
    ("HTJ2K lossless", uid.HTJ2KLossless, "", 12),
    ("HTJ2K", uid.HTJ2K, "", 12),
)


def measure(conditions: Conditions) -> Iterator[Row | Note]:
    """Yield a row for each peer and syntax, `triage` first."""
    images = conditions.count(IMAGES, least=2)
    with conditions.folder() as folder:
        for name, syntax, command, bits in SYNTAXES:
            say(f"  {name}")
            path = folder / syntax
            path.write_bytes(_radiograph(syntax, bits))
            peers: dict[str, Callable[[], float]] = {
                "triage": partial(_rate, images, partial(_triage, path))
            }
            if _pydicom_can(path):
                peers["pydicom alone"] = partial(_rate, images, partial(_pydicom, path))
            if command and shutil.which(command):
                peers["DCMTK"] = partial(_rate, images, partial(_dcmtk, command, path, folder))
            for run in peers.values():
                run()  # imports, tables, caches
            values = by_turns(peers, conditions)
            others = [peer for peer in peers if peer != "triage"]
            against = tuple(ratio(values["triage"], to=peer, of=values[peer]) for peer in others)
            unit = "images/s"
            yield Row(what=f"{name}: triage", values=values["triage"], unit=unit, ratios=against)
            for peer in others:
                yield Row(what=f"{name}: {peer}", values=values[peer], unit=unit)
    yield Note(
        text="Processor time, user and system, of one core. pydicom alone neither resizes nor takes"
        " a digest; DCMTK's time includes the start of its command."
    )


def _rate(images: int, look: Callable[[], object]) -> float:
    started = _processor_s()
    for _ in range(images):
        look()
    return images / (_processor_s() - started)


def _processor_s() -> float:
    """Processor time of this process and of the children that have ended."""
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + children.ru_utime + children.ru_stime


def _radiograph(syntax: str, bits: int) -> bytes:
    pixels = phantoms.generate(0, size_px=SIZE_PX, bits_stored=12).pixels
    square = np.resize(pixels, (SIZE_PX, SIZE_PX))
    top = (1 << bits) - 1
    stored = (square >> (12 - bits)).astype(np.uint8 if bits == 8 else np.uint16)
    ds = make_dx(stored, bits_stored=bits, WindowCenter=top // 2, WindowWidth=top)
    return to_bytes(compress(ds, syntax))


def _triage(path: Path) -> None:
    decode_subject(DecodeTask(paths=(path,), specs=(SPEC,)))


def _pydicom(path: Path) -> None:
    ds = dcmread(path)
    apply_voi_lut(ds.pixel_array, ds)


def _pydicom_can(path: Path) -> bool:
    """Whether pydicom has a decoder with what is installed."""
    try:
        _pydicom(path)
    except (NotImplementedError, RuntimeError, ValueError, AttributeError):
        return False
    return True


def _dcmtk(command: str, path: Path, folder: Path) -> None:
    words = ["+Wi", "1", "+Sxv", str(SPEC.size_px), "+opb", str(path), str(folder / "out.pgm")]
    subprocess.run([command, *words], check=True, capture_output=True)
