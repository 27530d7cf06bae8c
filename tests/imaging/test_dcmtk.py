"""The `dicom` rendering against DCMTK's, pixel by pixel.

Tolerance: one grey level of 256 after truncation, as DCMTK truncates where we keep fractions;
colour, which DCMTK does not truncate, one level before it. Padding is left out (we show it
black, DCMTK windows it), as are constant images (DCMTK shows them white or black by case) and
32-bit big endian samples, whose 16-bit words DCMTK swaps one by one.
"""

import csv
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from pydicom import uid
from pydicom.dataset import Dataset

from tests.assurance import Evidence, requirement
from tests.dicom_files import corpus_root, gradient, make_ct_slice, make_dx, make_image, write
from triage.errors import DecodeError
from triage.imaging.dataset import EXPLICIT_BIG, DecodeLimits, open_dataset
from triage.imaging.decode import Layout, Values, describe, iterate_frames
from triage.imaging.values import Meaning, meaning, usable_pixels
from triage.imaging.views import render

pytestmark = pytest.mark.skipif(shutil.which("dcmj2pnm") is None, reason="DCMTK is not installed")
LIMITS = DecodeLimits()
GREY_LEVELS = 1.0


def by_dcmtk(path: Path, mean: Meaning, target: Path) -> NDArray[np.uint8] | None:
    """First frame as 8-bit PGM or PPM; None where DCMTK has no decoder for it."""
    voi = ["+Wm"]
    if mean.window is not None:
        voi = ["+Wi", "1"]
    if mean.voi_table is not None:
        voi = ["+Wl", "1"]
    for tool in ("dcmj2pnm", "dcml2pnm"):
        command = [tool, "-q", "-O", "+op", *voi, str(path), str(target)]
        if subprocess.run(command, check=False, capture_output=True).returncode == 0:
            return read_pnm(target.read_bytes())
    return None


def read_pnm(data: bytes) -> NDArray[np.uint8]:
    magic, width, height = data.split(maxsplit=3)[:3]
    shape = (int(height), int(width)) + ((3,) if magic == b"P6" else ())
    return np.frombuffer(data[-int(np.prod(shape)) :], np.uint8).reshape(shape)


def first_frame(path: Path) -> tuple[Dataset, Layout, Values, Meaning]:
    ds = open_dataset(path, LIMITS)
    layout = describe(ds, LIMITS)
    return ds, layout, next(iterate_frames(ds, layout)), meaning(ds, layout, 0)


def worst_difference(path: Path, target: Path) -> float | None:
    """In grey levels of 256; None where DCMTK cannot say."""
    ds, layout, stored, mean = first_frame(path)
    expected = by_dcmtk(path, mean, target)
    usable = usable_pixels(stored, mean)
    if expected is None or not usable.any():
        return None
    grey = render(stored, ds, layout, mean, "dicom")[0].astype(np.float64) * 255
    if expected.ndim == 3:
        difference = np.abs(grey - expected @ np.asarray([0.299, 0.587, 0.114]))
    else:
        difference = np.abs(np.floor(grey + 1e-3) - expected)
    return float(difference[usable].max())


def with_voi_table(ds: Dataset) -> Dataset:
    item = Dataset()
    item.add_new("LUTDescriptor", "US", [256, 100, 12])
    entries = (np.sqrt(np.arange(256) / 255) * 4095).astype("<u2")
    item.add_new("LUTData", "OW", entries.tobytes())
    ds.VOILUTSequence = [item]
    return ds


def with_modality_table(ds: Dataset) -> Dataset:
    item = Dataset()
    item.add_new("LUTDescriptor", "US", [4096, 0, 16])
    item.add_new("LUTData", "OW", (np.arange(4096) ** 2 // 300).astype("<u2").tobytes())
    item.ModalityLUTType = "US"
    ds.ModalityLUTSequence = [item]
    return ds


SIGNED = (gradient().astype(np.int32) - 2000).astype(np.int16)
GREY_8 = gradient(maximum=255).astype(np.uint8)
COLOUR = np.stack([GREY_8, GREY_8[::-1], 255 - GREY_8], axis=-1)
SYNTHETIC: dict[str, Dataset] = {
    "plain 12 bits": make_dx(),
    "monochrome 1": make_dx(photometric="MONOCHROME1"),
    "window": make_dx(WindowCenter="1500", WindowWidth="800"),
    "window on monochrome 1": make_dx(
        photometric="MONOCHROME1", WindowCenter="1500", WindowWidth="800"
    ),
    "fractional window": make_dx(WindowCenter="1500.25", WindowWidth="333.5"),
    "several windows": make_dx(WindowCenter=["700", "90"], WindowWidth=["600", "9"]),
    "narrow window": make_dx(WindowCenter="1500", WindowWidth="1"),
    "sigmoid": make_dx(WindowCenter="1500", WindowWidth="800", VOILUTFunction="SIGMOID"),
    "voi table": with_voi_table(make_dx(gradient(maximum=400))),
    "modality table": with_modality_table(make_dx()),
    "signed": make_image(SIGNED, WindowCenter="-100", WindowWidth="1200"),
    "signed without window": make_image(SIGNED),
    "ct": make_ct_slice(SIGNED.astype(float), WindowCenter="40", WindowWidth="400"),
    "fractional slope": make_dx(RescaleSlope="0.37", RescaleIntercept="-12.5"),
    "overlay in the high bits": make_dx(gradient() | np.uint16(0xA000)),
    "8 bits": make_dx(GREY_8, bits_stored=8),
    "16 bits": make_dx(gradient(maximum=65535), bits_stored=16),
    "32 bits": make_image(gradient().astype(np.uint32) * 1000),
    "colour": make_image(COLOUR),
    "implicit": make_dx(transfer_syntax=uid.ImplicitVRLittleEndian),
    "big endian": make_dx(transfer_syntax=uid.ExplicitVRBigEndian),
    "deflated": make_dx(transfer_syntax=uid.DeflatedExplicitVRLittleEndian),
    "rle": make_dx(transfer_syntax=uid.RLELossless),
    "rle colour": make_image(COLOUR, transfer_syntax=uid.RLELossless),
    "jpeg baseline": make_dx(GREY_8, bits_stored=8, transfer_syntax=uid.JPEGBaseline8Bit),
    "jpeg baseline colour": make_image(COLOUR, transfer_syntax=uid.JPEGBaseline8Bit),
    "jpeg extended": make_dx(transfer_syntax=uid.JPEGExtended12Bit),
    "jpeg lossless": make_dx(transfer_syntax=uid.JPEGLossless),
    "jpeg lossless sv1": make_dx(transfer_syntax=uid.JPEGLosslessSV1),
    "jpeg-ls": make_dx(transfer_syntax=uid.JPEGLSLossless),
    "jpeg-ls near-lossless": make_dx(transfer_syntax=uid.JPEGLSNearLossless),
}


@requirement("I1", bound=f"DCMTK's rendering within {GREY_LEVELS:g} of 256 grey levels")
@pytest.mark.parametrize("ds", SYNTHETIC.values(), ids=SYNTHETIC)
def test_a_synthetic_image_looks_as_dcmtk_shows_it(
    ds: Dataset, tmp_path: Path, evidence: Evidence
) -> None:
    difference = worst_difference(write(ds, tmp_path / "x.dcm"), tmp_path / "x.pnm")
    assert difference is not None
    evidence.record(trials=1, losses=int(difference > GREY_LEVELS))
    assert difference <= GREY_LEVELS


@requirement("I1", bound=f"DCMTK's rendering within {GREY_LEVELS:g} of 256 grey levels")
@pytest.mark.skipif(corpus_root() is None, reason="the development data is not here")
def test_the_corpus_looks_as_dcmtk_shows_it(tmp_path: Path, evidence: Evidence) -> None:
    root = corpus_root()
    assert root is not None
    differences: dict[str, float] = {}
    with (root / "dicom" / "manifest.csv").open(newline="") as file:
        names = [row["file"] for row in csv.DictReader(file) if row["expected"] == "image"]
    for name in names:
        path = root / "dicom" / name
        if comparable(path):
            difference = worst_difference(path, tmp_path / "x.pnm")
            if difference is not None:
                differences[name] = difference
    others = {name: each for name, each in differences.items() if each > GREY_LEVELS}
    worst = f"{max(differences.values()):.2f} grey levels"
    evidence.record(trials=len(differences), losses=len(others), worst=worst)
    assert others == {}
    assert len(differences) > 0.7 * len(names)


def comparable(path: Path) -> bool:
    try:
        _ds, layout, stored, mean = first_frame(path)
    except DecodeError:
        return False
    seen: Any = stored[usable_pixels(stored, mean)]
    constant = not seen.size or seen.min() == seen.max()
    return not constant and not (layout.syntax == EXPLICIT_BIG and layout.bits_allocated == 32)
