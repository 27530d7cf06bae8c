"""Every file of the corpus is read, or refused for the reason that the manifest expects."""

import csv
import warnings
from pathlib import Path

import pydicom
import pytest

from tests.dicom_files import corpus_root
from triage.errors import IdentifiersInvalid, ObjectRefused
from triage.ingest.header import HeaderLimits, read_header
from triage.ingest.part10 import split

ROOT = (corpus_root() or Path("absent")) / "dicom"
MANIFEST = ROOT / "manifest.csv"
ROWS = list(csv.DictReader(MANIFEST.read_text("utf-8").splitlines())) if MANIFEST.exists() else []
LIMITS = HeaderLimits()
COMPARED = ("PatientName", "PatientID", "StudyDescription", "Modality", "Rows", "InstitutionName")
SNAKE = ("patient_name", "patient_id", "study_description", "modality", "rows", "institution_name")


@pytest.mark.skipif(not ROWS, reason="the corpus is not there")
def test_what_the_manifest_expects_to_be_held_is_read() -> None:
    wrong = []
    for row in ROWS:
        try:
            header = read_header(split((ROOT / row["file"]).read_bytes()), LIMITS)
        except IdentifiersInvalid:
            continue  # comes before what the manifest says of the rest
        except ObjectRefused as refusal:
            if "reject" not in row["expected"]:
                wrong.append(f"{row['file']}: {refusal}")
            continue
        expected = {"image": True, "no-pixels": False}.get(row["expected"], header.has_pixels)
        if header.has_pixels != expected or row["expected"] == "reject":
            wrong.append(f"{row['file']}: read, has_pixels={header.has_pixels}")
    assert wrong == []


@pytest.mark.skipif(not ROWS, reason="the corpus is not there")
def test_values_are_those_that_pydicom_reads() -> None:
    differing = []
    for row in ROWS:
        path = ROOT / row["file"]
        try:
            header = read_header(split(path.read_bytes()), LIMITS)
        except ObjectRefused:
            continue
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            ds = pydicom.dcmread(path, force=True, stop_before_pixels=True)
            theirs = [str(ds.get(keyword, "") or "").strip() for keyword in COMPARED]
        ours = [str(getattr(header, name) or "") for name in SNAKE]
        if ours != theirs:
            differing.append((row["file"], ours, theirs))
    assert differing == []
