"""Each named rendering shows what it says it shows."""

from typing import Any

import numpy as np
import pytest
from pydicom.dataset import Dataset

from tests.assurance import requirement
from tests.dicom_files import gradient, make_ct_slice, make_dx, make_image, make_mr_slice, to_bytes
from triage.errors import DecodeUnsupported
from triage.imaging.dataset import DecodeLimits, parse
from triage.imaging.decode import describe, iterate_frames
from triage.imaging.values import meaning
from triage.imaging.views import render, to_view, view_digest
from triage.records import ViewSpec

LIMITS = DecodeLimits()


def picture(ds: Dataset, rendering: str = "dicom", **options: Any) -> Any:
    parsed = parse(to_bytes(ds), LIMITS)
    layout = describe(parsed, LIMITS)
    stored = next(iterate_frames(parsed, layout))
    return render(stored, parsed, layout, meaning(parsed, layout, 0), rendering, **options)


def row(*values: float, **elements: Any) -> Dataset:
    return make_dx(np.asarray([values], np.uint16), **elements)


# --- dicom


def test_without_a_window_the_values_present_are_stretched() -> None:
    np.testing.assert_allclose(picture(row(100, 150, 200)), [[[0, 0.5, 1]]], atol=1e-6)


def test_a_window_is_applied_in_modality_units() -> None:
    ds = row(0, 10, 20, RescaleSlope="2", RescaleIntercept="-10", WindowCenter="10.5")
    ds.WindowWidth = "21"  # values -10, 10, 30; the window spans 0..20
    np.testing.assert_allclose(picture(ds), [[[0, 0.5, 1]]], atol=1e-6)


def test_a_voi_table_goes_before_a_window() -> None:
    ds = row(0, 1, 2, WindowCenter="1", WindowWidth="2")
    item = Dataset()
    item.add_new("LUTDescriptor", "US", [3, 0, 8])
    item.add_new("LUTData", "OW", np.asarray([255, 0, 51], "<u2").tobytes())
    ds.VOILUTSequence = [item]
    np.testing.assert_allclose(picture(ds), [[[1, 0, 0.2]]], atol=1e-6)


@requirement("I3")
def test_monochrome1_is_shown_inverted() -> None:
    ds = row(0, 1, 4, photometric="MONOCHROME1")
    np.testing.assert_allclose(picture(ds), [[[1, 0.75, 0]]], atol=1e-6)


@requirement("I3")
def test_presentation_lut_shape_inverts_and_never_twice() -> None:
    for photometric in ("MONOCHROME1", "MONOCHROME2"):
        ds = row(0, 1, 4, photometric=photometric, PresentationLUTShape="INVERSE")
        np.testing.assert_allclose(picture(ds), [[[1, 0.75, 0]]], atol=1e-6)


@pytest.mark.parametrize("photometric", ["MONOCHROME1", "MONOCHROME2"])
def test_padding_is_black_and_does_not_set_the_range(photometric: str) -> None:
    ds = row(4000, 100, 150, 200, photometric=photometric)
    ds.add_new("PixelPaddingValue", "US", 4000)
    shown = picture(ds)[0, 0]
    assert shown[0] == 0
    assert sorted(shown[1:]) == pytest.approx([0, 0.5, 1])


def test_nothing_but_padding_is_black() -> None:
    ds = row(7, 7, 7)
    ds.add_new("PixelPaddingValue", "US", 7)
    assert not picture(ds).any()


def test_colour_is_shown_as_luminance() -> None:
    pixels = np.asarray([[[255, 0, 0], [0, 255, 0], [0, 0, 255], [255, 255, 255]]], np.uint8)
    np.testing.assert_allclose(
        picture(make_image(pixels)), [[[0.299, 0.587, 0.114, 1.0]]], atol=1e-6
    )


def test_non_finite_values_never_reach_a_view() -> None:
    pixels = np.asarray([[np.nan, 0, 1], [np.inf, -np.inf, 0.5]], np.float32)
    shown = picture(make_image(pixels))
    np.testing.assert_array_equal(shown, [[[0, 0, 1], [0, 0, 0.5]]])


# --- google-cxr (reference values worked by hand from the published steps)


def test_google_cxr_stretches_what_the_window_leaves() -> None:
    ds = row(0, 100, 150, 200, 4000, WindowCenter="150", WindowWidth="101")  # 100..200
    np.testing.assert_allclose(picture(ds, "google-cxr"), [[[0, 0, 0.5, 1, 1]]], atol=1e-6)


def test_google_cxr_leaves_plain_8_bit_values_alone() -> None:
    ds = make_dx(np.asarray([[51, 102, 153]], np.uint8), bits_stored=8)
    np.testing.assert_allclose(picture(ds, "google-cxr"), [[[0.2, 0.4, 0.6]]], atol=1e-6)


def test_google_cxr_inverts_monochrome1_last_and_ignores_the_presentation_shape() -> None:
    ds = row(0, 1, 4, photometric="MONOCHROME1", PresentationLUTShape="INVERSE")
    np.testing.assert_allclose(picture(ds, "google-cxr"), [[[1, 0.75, 0]]], atol=1e-6)
    ds = row(0, 1, 4, PresentationLUTShape="INVERSE")
    np.testing.assert_allclose(picture(ds, "google-cxr"), [[[0, 0.25, 1]]], atol=1e-6)


def test_google_cxr_looks_at_padding_as_at_any_value() -> None:
    ds = row(0, 100, 200)
    ds.add_new("PixelPaddingValue", "US", 0)
    np.testing.assert_allclose(picture(ds, "google-cxr"), [[[0, 0.5, 1]]], atol=1e-6)


# --- volumes


def test_ct_windows_are_three_channels_rounded_to_8_bits() -> None:
    shown = picture(make_ct_slice(np.asarray([[-1000.0, 0, 40, 400]])), "ct-3-window")
    expected = [
        np.rint(np.asarray([24, 1024, 1064, 1424]) / 2048 * 255) / 255,
        np.rint(np.asarray([0, 135, 175, 350]) / 350 * 255) / 255,
        np.rint(np.asarray([0, 0, 40, 80]) / 80 * 255) / 255,
    ]
    assert shown.shape == (3, 1, 4)
    np.testing.assert_allclose(shown[:, 0], expected, atol=1e-6)


def test_air_is_black_in_ct_with_unsigned_storage() -> None:
    assert picture(make_ct_slice(np.full((2, 2), -1000.0)), "ct-3-window").max() < 0.02


def test_mr_is_stretched_over_the_range_of_the_volume() -> None:
    ds = make_mr_slice(np.asarray([[50, 100]], np.uint16))
    shown = picture(ds, "mr-volume", volume_range=(0.0, 200.0))
    np.testing.assert_allclose(shown, [[[64 / 255, 128 / 255]]], atol=0.5 / 255)


@pytest.mark.parametrize("rendering", ["ct-3-window", "mr-volume"])
def test_colour_is_no_volume(rendering: str) -> None:
    with pytest.raises(DecodeUnsupported, match="needs grey values"):
        picture(make_image(np.zeros((2, 2, 3), np.uint8)), rendering)


# --- to a square


def test_a_view_is_padded_before_it_is_resized() -> None:
    view = to_view(np.ones((1, 40, 20), np.float32), ViewSpec(rendering="dicom", size_px=20))
    assert view.shape == (1, 20, 20)
    assert view.dtype == np.float32
    assert view[0, :, 6:14].min() == 1
    assert not view[0, :, :4].any()


def test_a_rendering_is_the_same_in_12_bits_and_in_16() -> None:
    twelve = picture(make_dx(gradient()))
    sixteen = picture(make_dx(gradient() * 16, bits_stored=16))
    np.testing.assert_allclose(twelve, sixteen, atol=1e-6)


def test_the_view_digest_tells_shape_and_values() -> None:
    view = np.zeros((1, 4, 4), np.float32)
    other = view.copy()
    other[0, 0, 0] = np.nextafter(np.float32(0), np.float32(1))
    assert view_digest(view) == view_digest(view.copy())
    assert len({view_digest(v) for v in (view, other, view.reshape(1, 2, 8))}) == 3
