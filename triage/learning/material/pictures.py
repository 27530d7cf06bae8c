"""PNG and JPEG files as grey pictures: what public data sets and exports consist of.

Such a file has no window, no rescale and no photometric interpretation. Eight bits are taken as
they are (whoever exported them has chosen the window), sixteen bits are stretched from their
least to their greatest value, as both renderings do with a DICOM image that states no window;
colour becomes luminance (BT.601). Sixteen bits of colour are read as eight.

Bytes and pixels are bounded before anything is decoded. Messages quote nothing of the file.
"""

import io
import struct
import zlib
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from triage.errors import DecodeError, DecodeUnsupported, StoreError
from triage.imaging.values import luminance, stretched
from triage.imaging.views import VOLUME_RENDERINGS, Picture

MAXIMUM_FILE_MIB: Final = 256
MAXIMUM_PIXELS: Final = 1 << 26  # 256 MiB as float32; the largest detectors have 2 ** 25
MAGIC: Final = (b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff")  # PNG (ISO 15948), JPEG (ITU-T T.81)
# What Pillow raises on malformed input; anything else is a fault of this program.
_MALFORMED: Final = (
    ArithmeticError,
    AttributeError,
    EOFError,
    LookupError,
    NotImplementedError,
    OSError,  # also UnidentifiedImageError
    SyntaxError,
    TypeError,
    ValueError,
    struct.error,
    zlib.error,
    Image.DecompressionBombError,
    Image.DecompressionBombWarning,
)


def is_picture(path: Path) -> bool:
    """Whether the file begins as PNG or JPEG; anything else is taken as DICOM.

    Raises StoreError where it cannot be read.
    """
    try:
        with path.open("rb") as file:
            return file.read(8).startswith(MAGIC)
    except OSError as error:
        raise StoreError(f"the file cannot be read ({_words(error)})") from error


def read_picture(path: Path, rendering: str) -> Picture:
    """Return (1, H, W) float32 in 0..1.

    Raises DecodeError for what is malformed or too large, DecodeUnsupported for several images in
    one file and for renderings of volumes, StoreError where the file cannot be read.
    """
    if rendering in VOLUME_RENDERINGS:
        raise DecodeUnsupported(f"The rendering {rendering} is made for DICOM volumes only.")
    raw = _bytes(path)
    try:
        with Image.open(io.BytesIO(raw), formats=("PNG", "JPEG")) as image:
            _check(image)
            image.load()
            grey = _grey(ImageOps.exif_transpose(image))
    except _MALFORMED as error:
        raise DecodeError("The file cannot be decoded as PNG or JPEG.") from error
    return np.ascontiguousarray(grey, np.float32)[None]


def _bytes(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            raw = file.read((MAXIMUM_FILE_MIB << 20) + 1)
    except OSError as error:
        raise StoreError(f"the file cannot be read ({_words(error)})") from error
    if len(raw) > MAXIMUM_FILE_MIB << 20:
        raise DecodeError(f"The file is larger than {MAXIMUM_FILE_MIB} MiB.")
    return raw


def _check(image: Image.Image) -> None:
    """The header alone has been read."""
    if image.width * image.height > MAXIMUM_PIXELS:
        raise DecodeError(f"The image has more than {MAXIMUM_PIXELS} pixels.")
    if getattr(image, "is_animated", False):
        raise DecodeUnsupported("The file holds several images.")


def _grey(image: Image.Image) -> NDArray[np.float32]:
    """(H, W) in 0..1."""
    if image.mode.startswith("I"):  # I;16 and its kind: grey of sixteen bits
        values = np.asarray(image, np.float32)
        return np.asarray(stretched(values, float(values.min()), float(values.max())), np.float32)
    if image.mode in {"1", "L", "LA"}:
        return np.asarray(image.convert("L"), np.float32) / np.float32(255.0)
    return np.asarray(
        luminance(np.asarray(image.convert("RGB"), np.float32) / np.float32(255.0)), np.float32
    )


def _words(error: OSError) -> str:
    return error.strerror or type(error).__name__
