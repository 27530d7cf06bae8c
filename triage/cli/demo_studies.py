"""The studies of the demonstration: generated, invented, one of each kind that a daemon meets.

Owns the files and what must become of each of them; knows neither network nor database. The
pictures come from the phantoms that the built-in model was made for; names and numbers are
plainly invented.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

import numpy as np
from imagecodecs import jpeg2k_encode
from numpy.typing import NDArray
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.uid import (
    BasicTextSRStorage,
    ComputedRadiographyImageStorage,
    CTImageStorage,
    DigitalXRayImageStorageForPresentation,
    ExplicitVRLittleEndian,
    JPEG2000Lossless,
    generate_uid,
)

from triage.pocket import others
from triage.pocket.phantoms import generate
from triage.records import Analysis, ObjectState, Source

SIZE_PX = 768
CT_SLICES = 6
MONOCHROME1, MONOCHROME2 = "MONOCHROME1", "MONOCHROME2"


@dataclass(frozen=True, slots=True, kw_only=True)
class Exhibit:
    """One object on its way in, and what must become of it."""

    what: str
    path: Path
    source: Source
    state: ObjectState
    study_instance_uid: str = ""  # "" = none can be read
    sop_instance_uid: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class StudyPlan:
    """What the worklist must say of one study, and which findings were painted into it."""

    study_instance_uid: str
    what: str
    analysis: Analysis
    planted: frozenset[str] = field(default=frozenset())


@dataclass(frozen=True, slots=True, kw_only=True)
class Exhibition:
    exhibits: tuple[Exhibit, ...]
    plans: tuple[StudyPlan, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Order:
    """Header values that all objects of one study share."""

    number: int
    patient_name: str
    study_description: str
    at: datetime
    study_instance_uid: str = field(default_factory=generate_uid)


class _Builder:
    """Writes files and keeps the books while the exhibition is put together."""

    def __init__(self, directory: Path, now: datetime) -> None:
        self.directory = directory
        self.now = now
        self.exhibits: list[Exhibit] = []
        self.plans: list[StudyPlan] = []

    def order(self, patient_name: str, study_description: str) -> _Order:
        return _Order(
            number=len(self.plans) + 1,
            patient_name=patient_name,
            study_description=study_description,
            at=self.now,
        )

    def plan(self, order: _Order, what: str, analysis: Analysis, planted: str = "") -> None:
        self.plans.append(
            StudyPlan(
                study_instance_uid=order.study_instance_uid,
                what=what,
                analysis=analysis,
                planted=frozenset({planted} if planted else ()),
            )
        )

    def add(
        self,
        dataset: Dataset,
        what: str,
        source: Source = Source.C_STORE,
        state: ObjectState = ObjectState.STORED,
    ) -> Path:
        path = self._path(source)
        dataset.save_as(path, enforce_file_format=True)
        self.exhibits.append(
            Exhibit(
                what=what,
                path=path,
                source=source,
                state=state,
                study_instance_uid=str(dataset.StudyInstanceUID),
                sop_instance_uid=str(dataset.SOPInstanceUID),
            )
        )
        return path

    def add_bytes(self, data: bytes, what: str) -> None:
        path = self._path(Source.FOLDER)
        path.write_bytes(data)
        self.exhibits.append(
            Exhibit(what=what, path=path, source=Source.FOLDER, state=ObjectState.QUARANTINED)
        )

    def _path(self, source: Source) -> Path:
        folder = self.directory / source
        folder.mkdir(parents=True, exist_ok=True)
        return folder / f"{len(self.exhibits) + 1:02d}.dcm"


def build(directory: Path, now: datetime) -> Exhibition:
    """Write all files below `directory` and return them in the order in which they go in."""
    builder = _Builder(directory, now)
    parts: Sequence[Callable[[_Builder], None]] = (
        _plain_studies,
        _two_views,
        _sent_twice,
        _resent_with_correction,
        _ct_series,
        _report,
        _something_else,
        _damaged,
    )
    for part in parts:
        part(builder)
    return Exhibition(exhibits=tuple(builder.exhibits), plans=tuple(builder.plans))


def _plain_studies(builder: _Builder) -> None:
    """12 bits, DX and CR, both polarities, one compressed; one of them left in the folder."""
    order = builder.order("DEMO^NORMAL", "Chest PA, invented")
    builder.add(_chest(order, 11, "normal", modality="DX"), "DX, normal")
    builder.plan(order, "DX, 12 bit, MONOCHROME2", Analysis.ANALYSED)

    order = builder.order("DEMO^PNEUMOTHORAX", "Chest PA, invented")
    builder.add(
        _chest(order, 12, "pneumothorax", modality="DX", polarity=MONOCHROME1), "DX, MONOCHROME1"
    )
    builder.plan(order, "DX, 12 bit, MONOCHROME1", Analysis.ANALYSED, "pneumothorax")

    order = builder.order("DEMO^EFFUSION", "Chest AP, invented")
    dataset = _chest(order, 13, "effusion", modality="CR", polarity=MONOCHROME1)
    builder.add(dataset, "CR, MONOCHROME1", Source.FOLDER)
    builder.plan(order, "CR, 12 bit, MONOCHROME1", Analysis.ANALYSED, "effusion")

    order = builder.order("DEMO^CONSOLIDATION", "Chest PA, invented")
    dataset = _chest(order, 14, "consolidation", modality="DX")
    _compress(dataset)
    builder.add(dataset, "DX, JPEG 2000")
    builder.plan(order, "DX, 12 bit, JPEG 2000", Analysis.ANALYSED, "consolidation")


def _compress(dataset: Dataset) -> None:
    """Turn the pixels into reversible JPEG 2000 (PS3.5 A.4.4), 12 bits as they were."""
    frame = jpeg2k_encode(
        dataset.pixel_array,
        codecformat="J2K",
        reversible=True,
        level=0,
        bitspersample=dataset.BitsStored,
    )
    dataset.PixelData = encapsulate([bytes(frame)])
    dataset["PixelData"].is_undefined_length = True
    dataset.file_meta.TransferSyntaxUID = JPEG2000Lossless


def _two_views(builder: _Builder) -> None:
    order = builder.order("DEMO^TWO^VIEWS", "Chest PA and AP, invented")
    series_instance_uid = generate_uid()
    for number, view_position in enumerate(("PA", "AP"), start=1):
        dataset = _chest(order, 15, "nodule", modality="DX", view_position=view_position)
        dataset.SeriesInstanceUID = series_instance_uid
        dataset.InstanceNumber = number
        if view_position == "AP":
            # The same patient once more: a little less exposure, so other pixels.
            _put_pixels(dataset, dataset.pixel_array - dataset.pixel_array // 16, 12, MONOCHROME2)
        builder.add(dataset, f"DX, view {view_position}")
    builder.plan(order, "two views", Analysis.ANALYSED, "nodule")


def _sent_twice(builder: _Builder) -> None:
    order = builder.order("DEMO^TWICE", "Chest PA, invented")
    dataset = _chest(order, 16, "normal", modality="CR")
    builder.add(dataset, "CR, first time")
    builder.add(dataset, "CR, the same again", state=ObjectState.DUPLICATE)
    builder.plan(order, "sent twice", Analysis.ANALYSED)


def _resent_with_correction(builder: _Builder) -> None:
    order = builder.order("DEMO^MISSPELT", "Chest PA, invented")
    dataset = _chest(order, 17, "effusion", modality="DX")
    builder.add(dataset, "DX, name misspelt")
    dataset.PatientName = "DEMO^CORRECTED"
    builder.add(dataset, "DX, name corrected", state=ObjectState.REVISION)
    builder.plan(order, "resent with a corrected name", Analysis.ANALYSED, "effusion")


def _ct_series(builder: _Builder) -> None:
    order = builder.order("DEMO^CT", "CT thorax, invented")
    volume = others.ct_volume(18, slices=CT_SLICES, size_px=128)
    series_instance_uid, frame_of_reference_uid = generate_uid(), generate_uid()
    for number, slice_ in enumerate(volume, start=1):
        dataset = _header(order, str(CTImageStorage), "CT")
        dataset.SeriesInstanceUID = series_instance_uid
        dataset.FrameOfReferenceUID = frame_of_reference_uid
        dataset.InstanceNumber = number
        dataset.BodyPartExamined = "CHEST"
        dataset.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
        dataset.ImagePositionPatient = [-180.0, -180.0, -40.0 * number]
        dataset.PixelSpacing = [others.FOV_MM / 128] * 2
        dataset.SliceThickness = 5.0
        stored = (slice_.astype(np.int32) + 1024).clip(0, 4095).astype(np.uint16)
        _put_pixels(dataset, stored, 12, MONOCHROME2)
        dataset.RescaleIntercept, dataset.RescaleType = -1024, "HU"
        builder.add(dataset, f"CT, slice {number}")
    builder.plan(order, f"CT series of {CT_SLICES}", Analysis.NOT_ELIGIBLE)


def _report(builder: _Builder) -> None:
    order = builder.order("DEMO^REPORT", "Report, invented")
    dataset = _header(order, str(BasicTextSRStorage), "SR")
    dataset.ValueType = "CONTAINER"
    dataset.ContinuityOfContent = "SEPARATE"
    dataset.CompletionFlag, dataset.VerificationFlag = "COMPLETE", "UNVERIFIED"
    title = Dataset()
    title.CodeValue, title.CodingSchemeDesignator = "18748-4", "LN"
    title.CodeMeaning = "Diagnostic imaging report"
    dataset.ConceptNameCodeSequence = [title]
    builder.add(dataset, "SR without pixels")
    builder.plan(order, "SR without pixels", Analysis.NOT_ELIGIBLE)


def _something_else(builder: _Builder) -> None:
    """A limb whose header does not say so: only the picture can tell."""
    order = builder.order("DEMO^LIMB", "Radiograph, invented")
    dataset = _header(order, str(DigitalXRayImageStorageForPresentation), "DX")
    pixels = others.stored(others.limb(19, size_px=SIZE_PX), seed=19)
    _put_pixels(dataset, pixels, 12, MONOCHROME2)
    builder.add(dataset, "DX of a limb", Source.FOLDER)
    builder.plan(order, "radiograph of something else", Analysis.NOT_ELIGIBLE)


def _damaged(builder: _Builder) -> None:
    order = builder.order("DEMO^TRUNCATED", "Chest PA, invented")
    path = builder.add(_chest(order, 20, "normal", modality="DX"), "to be cut", Source.FOLDER)
    whole = path.read_bytes()
    path.unlink()
    builder.exhibits.pop()
    builder.add_bytes(whole[: len(whole) // 3], "a truncated file")
    builder.add_bytes(
        b"This file has a .dcm name and no DICOM inside.\n" * 20, "a file that is no DICOM"
    )


def _chest(
    order: _Order,
    seed: int,
    finding: str,
    *,
    modality: str,
    polarity: str = MONOCHROME2,
    view_position: str = "PA",
) -> Dataset:
    size = None if finding == "normal" else "large"
    phantom = generate(seed, finding=finding, size=size, size_px=SIZE_PX, bits_stored=12)
    sop_class = (
        ComputedRadiographyImageStorage
        if modality == "CR"
        else DigitalXRayImageStorageForPresentation
    )
    dataset = _header(order, str(sop_class), modality)
    dataset.BodyPartExamined = "CHEST"
    dataset.ViewPosition = view_position
    _put_pixels(dataset, phantom.pixels, 12, polarity)
    return dataset


def _header(order: _Order, sop_class_uid: str, modality: str) -> Dataset:
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.SOPClassUID, dataset.SOPInstanceUID = sop_class_uid, generate_uid()
    dataset.StudyInstanceUID = order.study_instance_uid
    dataset.SeriesInstanceUID = generate_uid()
    dataset.SpecificCharacterSet = "ISO_IR 192"
    dataset.PatientName = order.patient_name
    dataset.PatientID = f"DEMO-{order.number:03d}"
    dataset.IssuerOfPatientID = "INVENTED"
    dataset.PatientBirthDate, dataset.PatientSex, dataset.PatientAge = "19700101", "O", "056Y"
    dataset.AccessionNumber = f"DEMO-A{order.number:03d}"
    dataset.StudyID, dataset.SeriesNumber, dataset.InstanceNumber = "1", 1, 1
    dataset.StudyDate, dataset.StudyTime = f"{order.at:%Y%m%d}", f"{order.at:%H%M%S}"
    dataset.ContentDate, dataset.ContentTime = dataset.StudyDate, dataset.StudyTime
    dataset.TimezoneOffsetFromUTC = "+0000"
    dataset.StudyDescription = order.study_description
    dataset.ReferringPhysicianName = "DEMO^REFERRER"
    dataset.InstitutionName, dataset.StationName = "Invented Hospital", "DEMO"
    dataset.Manufacturer = "triage demonstration"
    dataset.Modality = modality
    return dataset


def _put_pixels(
    dataset: Dataset, pixels: NDArray[np.uint16], bits_stored: int, polarity: str
) -> None:
    """Set the pixel module; `pixels` rise with attenuation, MONOCHROME1 stores them reversed."""
    stored = 2**bits_stored - 1 - pixels if polarity == MONOCHROME1 else pixels
    low, high = int(stored.min()), int(stored.max())
    dataset.Rows, dataset.Columns = stored.shape
    dataset.SamplesPerPixel, dataset.PixelRepresentation = 1, 0
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = 16, bits_stored, bits_stored - 1
    dataset.PhotometricInterpretation = polarity
    dataset.RescaleIntercept, dataset.RescaleSlope, dataset.RescaleType = 0, 1, "US"
    dataset.WindowCenter, dataset.WindowWidth = (low + high + 1) / 2, high - low + 1
    dataset.ImageType = ["ORIGINAL", "PRIMARY"]
    dataset.BurnedInAnnotation = "NO"
    if dataset.Modality != "CT":
        dataset.PresentationIntentType = "FOR PRESENTATION"
        dataset.PresentationLUTShape = "INVERSE" if polarity == MONOCHROME1 else "IDENTITY"
    dataset.PixelData = np.ascontiguousarray(stored, dtype="<u2").tobytes()
