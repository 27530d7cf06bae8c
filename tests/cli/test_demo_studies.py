"""The demonstration holds one object of each kind, all of them invented."""

from collections import Counter
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
from pydicom import dcmread
from pydicom.dataset import FileDataset
from pydicom.uid import ExplicitVRLittleEndian, JPEG2000Lossless

from triage.cli.demo_studies import CT_SLICES, Exhibition, build
from triage.records import Analysis, ObjectState, Source

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


@pytest.fixture(scope="module")
def exhibition(tmp_path_factory: pytest.TempPathFactory) -> Exhibition:
    return build(tmp_path_factory.mktemp("demo"), NOW)


@pytest.fixture(scope="module")
def datasets(exhibition: Exhibition) -> dict[str, FileDataset]:
    return {
        each.what: dcmread(each.path)
        for each in exhibition.exhibits
        if each.state is not ObjectState.QUARANTINED
    }


def test_every_kind_of_object_is_there(exhibition: Exhibition) -> None:
    assert Counter(each.state for each in exhibition.exhibits) == {
        ObjectState.STORED: 9 + CT_SLICES + 1,
        ObjectState.DUPLICATE: 1,
        ObjectState.REVISION: 1,
        ObjectState.QUARANTINED: 2,
    }
    assert {each.source for each in exhibition.exhibits} == {Source.C_STORE, Source.FOLDER}


def test_every_study_that_can_be_read_has_a_plan(exhibition: Exhibition) -> None:
    studies = {each.study_instance_uid for each in exhibition.exhibits} - {""}
    assert studies == {plan.study_instance_uid for plan in exhibition.plans}
    assert Counter(plan.analysis for plan in exhibition.plans) == {
        Analysis.ANALYSED: 7,
        Analysis.NOT_ELIGIBLE: 3,
    }


def test_radiographs_are_of_12_bits_in_both_polarities_and_one_is_compressed(
    datasets: dict[str, FileDataset],
) -> None:
    radiographs = [each for each in datasets.values() if each.Modality in ("DX", "CR")]
    assert {each.BitsStored for each in radiographs} == {12}
    kinds = {(each.Modality, each.PhotometricInterpretation) for each in radiographs}
    assert kinds == {
        ("DX", "MONOCHROME1"),
        ("DX", "MONOCHROME2"),
        ("CR", "MONOCHROME1"),
        ("CR", "MONOCHROME2"),
    }
    syntaxes = Counter(str(each.file_meta.TransferSyntaxUID) for each in radiographs)
    assert set(syntaxes) == {ExplicitVRLittleEndian, JPEG2000Lossless}
    assert syntaxes[JPEG2000Lossless] == 1


def test_monochrome1_stores_the_same_picture_reversed(datasets: dict[str, FileDataset]) -> None:
    # Air is dark in a radiograph: least attenuation is lowest in MONOCHROME2, highest in 1.
    bright_air = datasets["DX, MONOCHROME1"].pixel_array
    dark_air = datasets["DX, normal"].pixel_array
    assert np.median(bright_air[:20, :20]) > np.median(bright_air)
    assert np.median(dark_air[:20, :20]) < np.median(dark_air)


def test_the_correction_changes_the_header_and_no_pixel(datasets: dict[str, FileDataset]) -> None:
    first, second = datasets["DX, name misspelt"], datasets["DX, name corrected"]
    assert first.SOPInstanceUID == second.SOPInstanceUID
    assert first.PatientName != second.PatientName
    assert first.PixelData == second.PixelData


def test_the_one_sent_twice_is_the_same_file(exhibition: Exhibition) -> None:
    path = {each.what: each.path for each in exhibition.exhibits}
    assert path["CR, first time"].read_bytes() == path["CR, the same again"].read_bytes()


def test_the_two_views_are_two_pictures_of_one_study(datasets: dict[str, FileDataset]) -> None:
    first, second = datasets["DX, view PA"], datasets["DX, view AP"]
    assert first.StudyInstanceUID == second.StudyInstanceUID
    assert first.SOPInstanceUID != second.SOPInstanceUID
    assert not np.array_equal(first.pixel_array, second.pixel_array)


def test_names_and_numbers_are_plainly_invented(datasets: dict[str, FileDataset]) -> None:
    for dataset in datasets.values():
        assert str(dataset.PatientName).startswith("DEMO^")
        assert dataset.PatientID.startswith("DEMO-")
        assert dataset.AccessionNumber.startswith("DEMO-")


def test_studies_are_of_today_so_that_none_counts_as_old(datasets: dict[str, FileDataset]) -> None:
    assert {each.StudyDate for each in datasets.values()} == {f"{NOW:%Y%m%d}"}


def test_the_ct_is_in_hounsfield_units(datasets: dict[str, FileDataset], tmp_path: Path) -> None:
    slice_ = datasets["CT, slice 1"]
    hounsfield = slice_.pixel_array * float(slice_.RescaleSlope) + float(slice_.RescaleIntercept)
    assert hounsfield.min() < -900
    assert hounsfield.max() > 100
