"""Synthetic DICOM objects for tests: pixels in, data sets and Part 10 bytes out.

No patient data: the one patient is invented (tests/patient.py). `make_dx`, `make_cr` and
`make_ct_series` are what most tests want; `make_image` takes any element by keyword. `to_bytes`
writes Part 10 in the object's transfer syntax, `compress` re-encodes an object.
"""

import os
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import imagecodecs
import numpy as np
from numpy.typing import NDArray
from pydicom import uid
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import write_dataset, write_file_meta_info
from pydicom.pixels.encoders.base import get_encoder
from pydicom.sequence import Sequence
from pydicom.uid import generate_uid

from tests import patient

DEFLATED_IMAGE_FRAME: Final = "1.2.840.10008.1.2.8.1"
NATIVE: Final = (
    uid.ImplicitVRLittleEndian,
    uid.ExplicitVRLittleEndian,
    uid.ExplicitVRBigEndian,
    uid.DeflatedExplicitVRLittleEndian,
)

Pixels = NDArray[Any]


def gradient(rows: int = 64, columns: int = 48, *, maximum: int = 4095) -> NDArray[np.uint16]:
    """A diagonal ramp 0..maximum with a brighter rectangle: every row and column differs."""
    y, x = np.mgrid[0:rows, 0:columns]
    ramp = (y * 3 + x * 2) / (rows * 3 + columns * 2 - 5) * maximum * 0.9
    ramp[rows // 4 : rows // 2, columns // 4 : columns // 2] += maximum * 0.1
    return np.asarray(np.clip(np.rint(ramp), 0, maximum), np.uint16)


def make_image(
    pixels: Pixels,
    *,
    sop_class_uid: str = uid.SecondaryCaptureImageStorage,
    modality: str = "OT",
    photometric: str | None = None,
    bits_stored: int | None = None,
    patient_id: str = patient.ID,
    patient_name: str = patient.NAME,
    study_instance_uid: str | None = None,
    series_instance_uid: str | None = None,
    sop_instance_uid: str | None = None,
    transfer_syntax: str = uid.ExplicitVRLittleEndian,
    **elements: Any,
) -> Dataset:
    """An image object of `pixels` (N?, H, W, 3?), integer or float, signed by its dtype.

    `elements` are further DICOM keywords; None deletes one. A last axis of 3 is colour. A
    compressed `transfer_syntax` compresses.
    """
    ds = Dataset()
    ds.file_meta = FileMetaDataset()
    ds.SOPClassUID, ds.Modality = sop_class_uid, modality
    ds.SOPInstanceUID = sop_instance_uid or generate_uid()
    ds.StudyInstanceUID = study_instance_uid or generate_uid()
    ds.SeriesInstanceUID = series_instance_uid or generate_uid()
    ds.PatientName, ds.PatientID = patient_name, patient_id
    ds.PatientBirthDate, ds.AccessionNumber = patient.BIRTH_DATE, patient.ACCESSION_NUMBER
    ds.StudyDate, ds.StudyTime = "20240102", "030405"
    ds.InstanceNumber = 1
    _describe_pixels(ds, pixels, photometric, bits_stored)
    _set_pixels(ds, pixels)
    _set_elements(ds, elements)
    ds.file_meta.TransferSyntaxUID = uid.ExplicitVRLittleEndian
    if transfer_syntax != uid.ExplicitVRLittleEndian:
        compress(ds, transfer_syntax)
    _complete_meta(ds)
    return ds


def _set_elements(ds: Dataset, elements: dict[str, Any]) -> None:
    for keyword, value in elements.items():
        if value is not None:
            setattr(ds, keyword, value)
        elif keyword in ds:
            delattr(ds, keyword)


def _describe_pixels(
    ds: Dataset, pixels: Pixels, photometric: str | None, bits_stored: int | None
) -> None:
    colour = pixels.ndim > 2 and pixels.shape[-1] == 3
    spatial = pixels.shape[:-1] if colour else pixels.shape
    ds.SamplesPerPixel = 3 if colour else 1
    ds.PhotometricInterpretation = photometric or ("RGB" if colour else "MONOCHROME2")
    if colour:
        ds.PlanarConfiguration = 0
    if len(spatial) == 3:
        ds.NumberOfFrames = spatial[0]
    ds.Rows, ds.Columns = spatial[-2:]
    ds.BitsAllocated = pixels.dtype.itemsize * 8
    if pixels.dtype.kind != "f":
        ds.BitsStored = bits_stored or ds.BitsAllocated
        ds.HighBit = ds.BitsStored - 1
        ds.PixelRepresentation = int(pixels.dtype.kind == "i")


def _set_pixels(ds: Dataset, pixels: Pixels) -> None:
    raw = np.ascontiguousarray(pixels).astype(pixels.dtype.newbyteorder("<")).tobytes()
    raw += b"\0" * (len(raw) % 2)
    if pixels.dtype == np.float32:
        ds.FloatPixelData = raw
    elif pixels.dtype == np.float64:
        ds.DoubleFloatPixelData = raw
    else:
        ds.PixelData = raw
        ds["PixelData"].VR = "OB" if pixels.dtype.itemsize == 1 else "OW"


def _complete_meta(ds: Dataset) -> None:
    ds.file_meta.MediaStorageSOPClassUID = ds.get("SOPClassUID", "")
    ds.file_meta.MediaStorageSOPInstanceUID = ds.get("SOPInstanceUID", "")
    ds.file_meta.ImplementationClassUID = uid.UID("1.2.826.0.1.3680043.8.498.1")


def make_dx(pixels: Pixels | None = None, **elements: Any) -> Dataset:
    """A frontal chest radiograph for presentation: 12 bits in 16, MONOCHROME2, no window."""
    chest: dict[str, Any] = {
        "sop_class_uid": uid.DigitalXRayImageStorageForPresentation,
        "modality": "DX",
        "bits_stored": 12,
        "ImageType": ["ORIGINAL", "PRIMARY"],
        "PresentationIntentType": "FOR PRESENTATION",
        "BodyPartExamined": "CHEST",
        "ViewPosition": "PA",
        "PatientSex": "O",
        "PatientAge": "045Y",
        "StudyDescription": "Chest",
        "BurnedInAnnotation": "NO",
    }
    return make_image(gradient() if pixels is None else pixels, **(chest | elements))


def make_cr(pixels: Pixels | None = None, **elements: Any) -> Dataset:
    """The same as a computed radiograph."""
    computed: dict[str, Any] = {
        "sop_class_uid": uid.ComputedRadiographyImageStorage,
        "modality": "CR",
    }
    return make_dx(pixels, **(computed | elements))


def make_ct_slice(hounsfield: Pixels, *, position_mm: float = 0.0, **elements: Any) -> Dataset:
    """One axial slice of (H, W) Hounsfield units, stored unsigned with intercept -1024."""
    axial: dict[str, Any] = {
        "sop_class_uid": uid.CTImageStorage,
        "modality": "CT",
        "bits_stored": 12,
        "ImageType": ["ORIGINAL", "PRIMARY", "AXIAL"],
        "BodyPartExamined": "CHEST",
        "RescaleIntercept": "-1024",
        "RescaleSlope": "1",
        "ImageOrientationPatient": [1, 0, 0, 0, 1, 0],
        "ImagePositionPatient": [0, 0, position_mm],
        "SliceThickness": "5",
        "PixelSpacing": [1, 1],
        "AcquisitionNumber": 1,
    }
    stored = np.clip(np.rint(hounsfield) + 1024, 0, 4095).astype(np.uint16)
    return make_image(stored, **(axial | elements))


def make_ct_series(volume: Pixels | None = None, **elements: Any) -> list[Dataset]:
    """(N, H, W) Hounsfield units as N slices, 5 mm apart, one study and series."""
    if volume is None:
        volume = np.linspace(-1000, 1000, 4)[:, None, None] + np.zeros((4, 16, 16))
    shared = {"study_instance_uid": generate_uid(), "series_instance_uid": generate_uid()}
    shared |= elements
    return [
        make_ct_slice(plane, position_mm=5.0 * i, InstanceNumber=i + 1, **shared)
        for i, plane in enumerate(volume)
    ]


def make_mr_slice(pixels: Pixels, *, position_mm: float = 0.0, **elements: Any) -> Dataset:
    axial: dict[str, Any] = {
        "sop_class_uid": uid.MRImageStorage,
        "modality": "MR",
        "ImageType": ["ORIGINAL", "PRIMARY", "M"],
        "ImageOrientationPatient": [1, 0, 0, 0, 1, 0],
        "ImagePositionPatient": [0, 0, position_mm],
    }
    return make_image(pixels, **(axial | elements))


def make_sr(**elements: Any) -> Dataset:
    """A Basic Text SR: a good object without pixels."""
    ds = make_image(np.zeros((1, 1), np.uint8))
    for keyword in ("PixelData", "Rows", "Columns", "BitsAllocated", "BitsStored", "HighBit"):
        delattr(ds, keyword)
    for keyword in ("SamplesPerPixel", "PhotometricInterpretation", "PixelRepresentation"):
        delattr(ds, keyword)
    ds.SOPClassUID, ds.Modality = uid.BasicTextSRStorage, "SR"
    ds.CompletionFlag, ds.VerificationFlag = "COMPLETE", "UNVERIFIED"
    title = Dataset()
    title.CodeValue, title.CodingSchemeDesignator = "18782-3", "LN"
    title.CodeMeaning = "Radiology Report"
    ds.ValueType, ds.ConceptNameCodeSequence = "CONTAINER", Sequence([title])
    ds.ContinuityOfContent = "SEPARATE"
    for keyword, value in elements.items():
        setattr(ds, keyword, value)
    _complete_meta(ds)
    return ds


# --- transfer syntaxes


def compress(ds: Dataset, transfer_syntax: str) -> Dataset:
    """Re-encode `ds`, whose pixels are native little endian, in place; returns it.

    Lossy syntaxes keep a quality at which a smooth image stays within a few grey levels.
    """
    target = uid.UID(transfer_syntax)
    if target not in NATIVE:
        frames = [_encode(frame, ds, target) for frame in _frames(ds)]
        ds.PixelData = encapsulate(frames)
        ds["PixelData"].VR = "OB"
        if ds.SamplesPerPixel == 3 and target == uid.JPEGBaseline8Bit:
            ds.PhotometricInterpretation = "YBR_FULL"
    elif target == uid.ExplicitVRBigEndian and "PixelData" in ds:
        ds.PixelData = _swapped(ds.PixelData, ds.BitsAllocated)
    ds.file_meta.TransferSyntaxUID = target
    return ds


def _swapped(raw: bytes, bits_allocated: int) -> bytes:
    return (
        raw
        if bits_allocated == 8
        else np.frombuffer(raw, f"<u{bits_allocated // 8}")
        .astype(f">u{bits_allocated // 8}")
        .tobytes()
    )


def _frames(ds: Dataset) -> Pixels:
    kind = "i" if ds.PixelRepresentation else "u"
    dtype = np.dtype(f"<{kind}{ds.BitsAllocated // 8}")
    shape = [int(ds.get("NumberOfFrames", 1)), ds.Rows, ds.Columns]
    if ds.SamplesPerPixel == 3:
        shape.append(3)
    count = int(np.prod(shape))
    return np.frombuffer(ds.PixelData, dtype, count).reshape(shape)


def _encode(frame: Pixels, ds: Dataset, target: str) -> bytes:
    frame = np.ascontiguousarray(frame)
    if target == uid.RLELossless:
        return _rle(frame, ds)
    if target == DEFLATED_IMAGE_FRAME:
        deflate = zlib.compressobj(wbits=-zlib.MAX_WBITS)
        return deflate.compress(frame.tobytes()) + deflate.flush()
    bits = int(ds.BitsStored)
    unsigned = frame.view(frame.dtype.str.replace("i", "u"))  # JPEG and JPEG-LS know no sign
    # Colour JPEG becomes YCbCr without subsampling, as YBR_FULL says.
    lossy: dict[str, Any] = {"level": 98, "bitspersample": bits, "subsampling": "444"}
    encoders: dict[str, Callable[[], Any]] = {
        uid.JPEGBaseline8Bit: lambda: imagecodecs.jpeg8_encode(unsigned, **lossy),
        uid.JPEGExtended12Bit: lambda: imagecodecs.jpeg8_encode(unsigned, **lossy),
        uid.JPEGLossless: lambda: _jpeg_lossless(unsigned, bits, predictor=6),
        uid.JPEGLosslessSV1: lambda: _jpeg_lossless(unsigned, bits, predictor=1),
        uid.JPEGLSLossless: lambda: imagecodecs.jpegls_encode(unsigned, 0),
        uid.JPEGLSNearLossless: lambda: imagecodecs.jpegls_encode(unsigned, 2),
        uid.JPEG2000Lossless: lambda: _j2k(frame, reversible=True, bitspersample=bits),
        uid.JPEG2000: lambda: _j2k(frame, level=90, reversible=False, bitspersample=bits),
        uid.HTJ2KLossless: lambda: imagecodecs.htj2k_encode(frame, reversible=True),
        uid.HTJ2KLosslessRPCL: lambda: imagecodecs.htj2k_encode(frame, reversible=True),
        uid.HTJ2K: lambda: imagecodecs.htj2k_encode(frame, reversible=True),
    }
    return bytes(encoders[target]())


def _jpeg_lossless(frame: Pixels, bits: int, *, predictor: int) -> Any:
    return imagecodecs.jpeg8_encode(
        frame, lossless=True, predictor=predictor, bitspersample=bits, colorspace=None
    )


def _j2k(frame: Pixels, **options: Any) -> Any:
    return imagecodecs.jpeg2k_encode(frame, codecformat="J2K", **options)


def _rle(frame: Pixels, ds: Dataset) -> bytes:
    options = {
        "rows": ds.Rows,
        "columns": ds.Columns,
        "samples_per_pixel": ds.SamplesPerPixel,
        "number_of_frames": 1,
        "bits_allocated": ds.BitsAllocated,
        "bits_stored": ds.BitsStored,
        "pixel_representation": ds.PixelRepresentation,
        "photometric_interpretation": ds.PhotometricInterpretation,
        "planar_configuration": 0,
    }
    encoder = get_encoder(uid.RLELossless)
    return encoder.encode(frame, encoding_plugin="pydicom", **options)


# --- bytes


def to_bytes(ds: Dataset) -> bytes:
    """Part 10 bytes of `ds` in the transfer syntax of its file meta.

    Written element by element, as pydicom refuses to save syntaxes that it does not know.
    """
    syntax = ds.file_meta.TransferSyntaxUID
    meta, body = DicomBytesIO(), DicomBytesIO()
    meta.is_implicit_VR, meta.is_little_endian = False, True
    write_file_meta_info(meta, ds.file_meta, enforce_standard=True)
    body.is_implicit_VR = syntax == uid.ImplicitVRLittleEndian
    body.is_little_endian = syntax != uid.ExplicitVRBigEndian
    if "PixelData" in ds:
        encapsulated = ds.PixelData[:4] == b"\xfe\xff\x00\xe0" and syntax not in NATIVE
        ds["PixelData"].is_undefined_length = encapsulated
    write_dataset(body, ds)
    data = body.getvalue()
    if syntax == uid.DeflatedExplicitVRLittleEndian:
        deflate = zlib.compressobj(wbits=-zlib.MAX_WBITS)
        data = deflate.compress(data) + deflate.flush()
        data += b"\0" * (len(data) % 2)
    return b"\0" * 128 + b"DICM" + bytes(meta.getvalue()) + bytes(data)


def write(ds: Dataset, path: Path) -> Path:
    path.write_bytes(to_bytes(ds))
    return path


def corpus_root() -> Path | None:
    """The development data (with `dicom/manifest.csv`), or None where there is none."""

    repository = Path(__file__).resolve().parents[1]
    root = Path(os.environ.get("TRIAGE_TEST_DATA", repository.parent / "shared" / "data"))
    return root if (root / "dicom" / "manifest.csv").is_file() else None
