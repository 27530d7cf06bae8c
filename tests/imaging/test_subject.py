"""A subject's files become views, digests and facts."""

import contextlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom import uid
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence

from tests.assurance import requirement
from tests.dicom_files import (
    gradient,
    make_ct_series,
    make_ct_slice,
    make_dx,
    make_image,
    make_mr_slice,
    make_sr,
    to_bytes,
    write,
)
from triage.errors import DecodeUnsupported, TriageError
from triage.imaging.dataset import DecodeLimits
from triage.imaging.subject import DecodedSubject, DecodeTask, decode_subject
from triage.imaging.views import RENDERINGS, view_digest
from triage.records import ViewSpec

DICOM = ViewSpec(rendering="dicom", size_px=32)
GOOGLE = ViewSpec(rendering="google-cxr", size_px=32)
CT = ViewSpec(rendering="ct-3-window", size_px=8, maximum_slices=3)
MR = ViewSpec(rendering="mr-volume", size_px=4)


def decoded(directory: Path, objects: list[Dataset], *specs: ViewSpec) -> DecodedSubject:
    paths = tuple(write(ds, directory / f"{i}") for i, ds in enumerate(objects))
    return decode_subject(DecodeTask(paths=paths, specs=specs))


def test_an_image_gives_one_view_per_spec(tmp_path: Path) -> None:
    result = decoded(tmp_path, [make_dx()], DICOM, GOOGLE)
    assert [result.views[s].shape for s in (DICOM, GOOGLE)] == [(1, 1, 32, 32)] * 2
    assert result.view_digests[DICOM] == (view_digest(result.views[DICOM][0]),)
    facts = result.facts
    assert (facts.rows, facts.columns, facts.number_of_frames) == (64, 48, 1)
    assert (facts.minimum, facts.maximum) == (0.0, float(gradient().max()))
    assert facts.finite
    assert not facts.blank


def test_without_specs_only_digests_and_facts_come(tmp_path: Path) -> None:
    pixels = gradient()
    objects = [make_dx(pixels), make_dx(pixels, transfer_syntax=uid.JPEG2000Lossless)]
    result = decoded(tmp_path, objects)
    assert result.views == {}
    assert len(result.pixel_digests) == 2
    assert len(set(result.pixel_digests)) == 1


def test_a_run_gives_equidistant_frames_in_order(tmp_path: Path) -> None:
    frames = np.stack([np.full((4, 4), 10 * i, np.uint16) for i in range(9)])
    spec = ViewSpec(rendering="dicom", size_px=4, maximum_slices=3)
    ds = make_dx(frames, WindowCenter="40.5", WindowWidth="81")  # 0..80
    result = decoded(tmp_path, [ds], spec)
    np.testing.assert_allclose(result.views[spec][:, 0, 0, 0], [0.0, 0.5, 1.0], atol=1e-6)
    assert result.facts.number_of_frames == 9


def test_ct_slices_come_ordered_by_position_whatever_the_order_of_arrival(tmp_path: Path) -> None:
    volume = np.linspace(-1000, 1000, 5)[:, None, None] + np.zeros((5, 8, 8))
    series = make_ct_series(volume)
    result = decoded(tmp_path, [series[i] for i in (3, 0, 4, 2, 1)], CT)
    assert result.views[CT].shape == (3, 3, 8, 8)
    expected = np.rint((volume[[0, 2, 4], 0, 0] + 1024) / 2048 * 255) / 255
    np.testing.assert_allclose(result.views[CT][:, 0, 0, 0], expected, atol=1e-6)
    assert len(set(result.pixel_digests)) == 5
    assert (result.facts.minimum, result.facts.maximum) == (-1000.0, 1000.0)


def test_localisers_are_decoded_but_not_shown(tmp_path: Path) -> None:
    series = make_ct_series(np.zeros((2, 8, 8)))
    scout = make_ct_slice(np.full((8, 8), 900.0), ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"])
    result = decoded(tmp_path, [scout, *series], CT)
    assert len(result.views[CT]) == 2
    assert len(result.pixel_digests) == 3
    assert result.views[CT][:, 0].max() < 0.51


def test_nothing_but_localisers_is_unsupported(tmp_path: Path) -> None:
    scout = make_ct_slice(np.zeros((8, 8)), ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"])
    with pytest.raises(DecodeUnsupported, match="localisers"):
        decoded(tmp_path, [scout], CT)


def test_an_mr_volume_has_one_range_over_all_its_slices(tmp_path: Path) -> None:
    planes = [np.full((4, 4), v, np.uint16) for v in (200, 100, 300)]
    series = [make_mr_slice(p, position_mm=float(i)) for i, p in enumerate(planes)]
    spec = ViewSpec(rendering="mr-volume", size_px=4, maximum_slices=2)
    result = decoded(tmp_path, series, spec)  # the slice with the minimum is not sampled
    np.testing.assert_allclose(result.views[spec][:, 0, 0, 0], [128 / 255, 1.0], atol=1e-6)


def test_a_localiser_does_not_set_the_range_of_an_mr_volume(tmp_path: Path) -> None:
    scout = make_mr_slice(
        np.full((4, 4), 4000, np.uint16), ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"]
    )
    planes = [np.full((4, 4), v, np.uint16) for v in (0, 200)]
    series = [make_mr_slice(p, position_mm=float(i)) for i, p in enumerate(planes)]
    result = decoded(tmp_path, [scout, *series], MR)
    np.testing.assert_allclose(result.views[MR][:, 0, 0, 0], [0.0, 1.0], atol=1e-6)


def test_an_enhanced_object_is_ordered_by_its_functional_groups(tmp_path: Path) -> None:
    frames = np.stack([np.full((8, 8), v, np.uint16) for v in (30, 10, 20)])
    ds = make_image(frames, sop_class_uid=uid.EnhancedCTImageStorage, modality="CT")
    ds.SharedFunctionalGroupsSequence = Sequence([shared_group()])
    ds.PerFrameFunctionalGroupsSequence = Sequence([position_group(z) for z in (3.0, 1.0, 2.0)])
    result = decoded(tmp_path, [ds], CT)
    expected = np.rint(np.asarray([10, 20, 30]) / 80 * 255) / 255  # slope 1, intercept 0
    np.testing.assert_allclose(result.views[CT][:, 2, 0, 0], expected, atol=1e-6)


def shared_group() -> Dataset:
    group, plane = Dataset(), Dataset()
    plane.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
    group.PlaneOrientationSequence = Sequence([plane])
    return group


def position_group(z: float) -> Dataset:
    group, plane = Dataset(), Dataset()
    plane.ImagePositionPatient = [0, 0, z]
    group.PlanePositionSequence = Sequence([plane])
    return group


BLANKS: dict[str, tuple[Any, bool]] = {
    "constant": (np.full((40, 40), 700, np.uint16), True),
    "one step of noise": (700 + np.indices((40, 40)).sum(0) % 2, True),
    "a marker on nothing": (np.where(np.arange(4000).reshape(50, 80) < 8, 4000, 0), True),
    "a radiograph": (gradient(), False),
    "a faint one": (700 + gradient() // 400, False),
}


@requirement("I4")
@pytest.mark.parametrize(("pixels", "blank"), BLANKS.values(), ids=BLANKS)
def test_blank_means_nothing_to_see(pixels: Any, blank: bool, tmp_path: Path) -> None:
    assert decoded(tmp_path, [make_dx(pixels.astype(np.uint16))]).facts.blank is blank


def test_padding_alone_is_blank(tmp_path: Path) -> None:
    ds = make_dx(np.full((8, 8), 5, np.uint16))
    ds.add_new("PixelPaddingValue", "US", 5)
    facts = decoded(tmp_path, [ds], DICOM).facts
    assert facts.blank
    assert (facts.minimum, facts.maximum) == (0.0, 0.0)


def test_non_finite_pixels_are_a_fact_and_not_in_the_view(tmp_path: Path) -> None:
    pixels = np.asarray([[0.0, 1.0], [np.nan, np.inf]], np.float32)
    result = decoded(tmp_path, [make_image(pixels)], DICOM, GOOGLE)
    assert not result.facts.finite
    assert result.facts.maximum == 1.0
    for spec in (DICOM, GOOGLE):
        assert np.isfinite(result.views[spec]).all()


def test_a_file_without_pixels_makes_the_subject_unsupported(tmp_path: Path) -> None:
    with pytest.raises(DecodeUnsupported):
        decoded(tmp_path, [make_dx(), make_sr()], DICOM)


HOSTILE = [
    to_bytes(make_dx(gradient(9, 7), WindowCenter="9", WindowWidth="40")),
    to_bytes(make_ct_slice(np.zeros((6, 6)), transfer_syntax=uid.JPEG2000Lossless)),
]


@settings(max_examples=150, deadline=None)
@given(
    seed=st.sampled_from(HOSTILE),
    changes=st.lists(st.tuples(st.integers(132, 3000), st.integers(0, 255)), max_size=6),
    rendering=st.sampled_from(RENDERINGS),
)
def test_damaged_files_give_finite_views_or_our_errors(
    tmp_path_factory: pytest.TempPathFactory,
    seed: bytes,
    changes: list[tuple[int, int]],
    rendering: str,
) -> None:
    data = bytearray(seed)
    for position, value in changes:
        data[position % len(data)] = value
    path = tmp_path_factory.getbasetemp() / "damaged"
    path.write_bytes(data)
    spec = ViewSpec(rendering=rendering, size_px=8)
    limits = DecodeLimits(maximum_decoded_mib=8)
    with contextlib.suppress(TriageError):
        view = decode_subject(DecodeTask(paths=(path,), specs=(spec,), limits=limits)).views[spec]
        assert np.isfinite(view).all()
        assert view.min() >= 0
        assert view.max() <= 1
