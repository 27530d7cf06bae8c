"""The grey chain: modality LUT, VOI tables and windows, padding, palettes."""

import math
from typing import Any

import numpy as np
import pytest
from pydicom import uid
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence

from tests.assurance import requirement
from tests.dicom_files import gradient, make_ct_slice, make_dx, make_image, to_bytes
from triage.errors import DecodeError
from triage.imaging.dataset import DecodeLimits, parse
from triage.imaging.decode import Layout, describe, iterate_frames
from triage.imaging.tables import Table, expand_segments, palette_colours
from triage.imaging.values import (
    Meaning,
    VoiFunction,
    Window,
    meaning,
    modality_values,
    stretched,
    usable_pixels,
    windowed,
)

LIMITS = DecodeLimits()


def opened(ds: Dataset) -> tuple[Dataset, Layout]:
    parsed = parse(to_bytes(ds), LIMITS)
    return parsed, describe(parsed, LIMITS)


def meaning_of(ds: Dataset, index: int = 0) -> Meaning:
    parsed, layout = opened(ds)
    return meaning(parsed, layout, index)


def modality_of(ds: Dataset) -> Any:
    parsed, layout = opened(ds)
    stored = next(iterate_frames(parsed, layout))
    return modality_values(stored, layout, meaning(parsed, layout, 0))


def lut(first: int, bits: int, entries: list[int]) -> Sequence:
    item = Dataset()
    item.add_new("LUTDescriptor", "SS" if first < 0 else "US", [len(entries) & 0xFFFF, first, bits])
    item.add_new("LUTData", "OW", np.asarray(entries, "<u2").tobytes())
    return Sequence([item])


# --- windows: PS3.3 C.11.2.1.2


@pytest.mark.parametrize(
    ("centre", "width", "value", "expected"),
    [
        (2048, 4096, 0, 0.0),
        (2048, 4096, 4095, 1.0),
        (2048, 1, 2047, 0.0),
        (2048, 1, 2048, 1.0),
        (0, 100, -50, 0.0),
        (0, 100, 49, 1.0),
        (0, 100, -0.5, 0.5),
        (0, 100, 24.25, 0.75),
    ],
)
def test_linear_windows_follow_the_standards_notes(
    centre: float, width: float, value: float, expected: float
) -> None:
    result = windowed(np.asarray([value], np.float64), Window(centre=centre, width=width))
    assert result[0] == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize(
    ("value", "expected"), [(-50, 0.0), (0, 0.5), (25, 0.75), (50, 1.0), (51, 1.0)]
)
def test_linear_exact_windows_have_no_half_pixel(value: float, expected: float) -> None:
    window = Window(centre=0, width=100, function=VoiFunction.LINEAR_EXACT)
    assert windowed(np.asarray([value], np.float64), window)[0] == pytest.approx(expected)


@pytest.mark.parametrize("value", [-200.0, -25.0, 0.0, 25.0, 1e9])
def test_sigmoid_windows_follow_the_formula(value: float) -> None:
    window = Window(centre=10, width=100, function=VoiFunction.SIGMOID)
    expected = 1 / (1 + math.exp(max(-700, -4 * (value - 10) / 100)))
    assert windowed(np.asarray([value]), window)[0] == pytest.approx(expected, abs=1e-12)


def test_the_first_of_several_windows_is_taken_with_its_fractions() -> None:
    ds = make_dx(WindowCenter=["40.5", "600"], WindowWidth=["80.25", "1600"])
    assert meaning_of(ds).window == Window(centre=40.5, width=80.25)


@pytest.mark.parametrize(
    ("width", "function", "usable"),
    [
        ("0", None, False),
        ("-5", None, False),
        ("0.5", None, False),
        ("1", None, True),
        ("0.5", "LINEAR_EXACT", True),
        ("0", "SIGMOID", False),
        ("10", "UNHEARD_OF", True),
    ],
)
def test_a_window_without_width_is_no_window(
    width: str, function: str | None, usable: bool
) -> None:
    ds = make_dx(WindowCenter="5", WindowWidth=width, VOILUTFunction=function)
    assert (meaning_of(ds).window is not None) is usable


def test_a_stretch_of_no_extent_is_a_step() -> None:
    np.testing.assert_array_equal(stretched(np.asarray([1.0, 2.0, 3.0]), 2.0, 2.0), [0, 0, 1])


# --- modality


def test_rescaling_reaches_below_zero_with_unsigned_storage() -> None:
    hounsfield = np.linspace(-1000, 1000, 24).reshape(4, 6).round()
    np.testing.assert_allclose(modality_of(make_ct_slice(hounsfield)), hounsfield)


def test_rescale_needs_both_slope_and_intercept() -> None:
    values = modality_of(make_dx(RescaleSlope="3"))
    np.testing.assert_array_equal(values, gradient())


def test_a_modality_table_goes_before_rescaling() -> None:
    ds = make_image(np.asarray([[0, 1, 2, 9]], np.uint8), RescaleSlope="7", RescaleIntercept="1")
    ds.ModalityLUTSequence = lut(1, 16, [100, 200, 300])
    np.testing.assert_array_equal(modality_of(ds), [[100, 100, 200, 300]])


def test_per_frame_groups_go_before_shared_ones_and_shared_before_the_top_level() -> None:
    ds = make_image(np.zeros((3, 2, 2), np.uint16), RescaleSlope="9", RescaleIntercept="9")
    ds.SharedFunctionalGroupsSequence = Sequence([group(slope=2, centre=50)])
    per_frame = [group(slope=3), group(centre=70), group()]
    ds.PerFrameFunctionalGroupsSequence = Sequence(per_frame)
    seen = [meaning_of(ds, i) for i in range(3)]
    assert [m.modality.slope for m in seen] == [3, 2, 2]  # type: ignore[union-attr]
    assert [m.window and m.window.centre for m in seen] == [50, 70, 50]


def group(slope: float | None = None, centre: float | None = None) -> Dataset:
    item = Dataset()
    if slope is not None:
        transformation = Dataset()
        transformation.RescaleSlope, transformation.RescaleIntercept = str(slope), "0"
        item.PixelValueTransformationSequence = Sequence([transformation])
    if centre is not None:
        window = Dataset()
        window.WindowCenter, window.WindowWidth = str(centre), "100"
        item.FrameVOILUTSequence = Sequence([window])
    return item


# --- tables


def test_a_voi_table_clamps_at_both_ends() -> None:
    ds = make_image(np.asarray([[0, 5, 6, 7, 200]], np.uint8))
    ds.VOILUTSequence = lut(5, 8, [10, 20, 250])
    table = meaning_of(ds).voi_table
    assert table is not None
    np.testing.assert_array_equal(
        table.look_up(np.asarray([0, 5, 6, 7, 200])), [10, 10, 20, 250, 250]
    )


def test_a_table_may_start_below_zero() -> None:
    ds = make_image(np.asarray([[-3, 0]], np.int16))
    ds.VOILUTSequence = lut(-2, 8, [1, 2, 3])
    table = meaning_of(ds).voi_table
    assert table is not None
    assert table.first == -2


def test_a_descriptor_of_zero_entries_means_65536() -> None:
    ds = make_image(np.asarray([[0, 65535]], np.uint16))
    ds.VOILUTSequence = lut(0, 16, [*range(65535), 7])
    ds.VOILUTSequence[0].LUTDescriptor = [0, 0, 16]
    table = meaning_of(ds).voi_table
    assert table is not None
    np.testing.assert_array_equal(table.look_up(np.asarray([5, 65534, 65535])), [5, 65534, 7])


@pytest.mark.parametrize("syntax", [uid.ExplicitVRLittleEndian, uid.ImplicitVRLittleEndian])
def test_a_table_shorter_than_its_descriptor_is_an_error(syntax: str) -> None:
    ds = make_dx(transfer_syntax=syntax)
    ds.VOILUTSequence = lut(0, 16, [1, 2, 3, 4])
    ds.VOILUTSequence[0].LUTDescriptor = [500, 0, 16]
    with pytest.raises(DecodeError, match="shorter than its descriptor"):
        meaning_of(ds)


# --- padding


def test_padding_is_matched_in_stored_values_of_the_right_sign() -> None:
    ds = make_image(np.asarray([[-2000, -5, 7]], np.int16))
    ds.add_new("PixelPaddingValue", "US", 0x10000 - 2000)
    ds.add_new("PixelPaddingRangeLimit", "SS", -5)
    parsed, layout = opened(ds)
    mean = meaning(parsed, layout, 0)
    assert mean.padding == (-2000, -5)
    stored = next(iterate_frames(parsed, layout))
    np.testing.assert_array_equal(usable_pixels(stored, mean), [[False, False, True]])


def test_non_finite_values_are_not_usable() -> None:
    pixels = np.asarray([[1.0, np.nan, np.inf]], np.float32)
    mean = meaning_of(make_image(pixels))
    np.testing.assert_array_equal(usable_pixels(pixels, mean), [[True, False, False]])


# --- palettes


def with_palette(ds: Dataset, bits: int, first: int = 0) -> Dataset:
    ds.PhotometricInterpretation = "PALETTE COLOR"
    top = (1 << bits) - 1
    for colour, entries in (("Red", [0, top]), ("Green", [top, 0]), ("Blue", [0, 0])):
        ds.add_new(f"{colour}PaletteColorLookupTableDescriptor", "US", [2, first, bits])
        data = np.asarray(entries, "<u2" if bits > 8 else "u1").tobytes()
        ds.add_new(f"{colour}PaletteColorLookupTableData", "OW", data)
    return ds


@pytest.mark.parametrize("bits", [8, 16])
def test_palettes_of_8_and_16_bits_give_the_same_colours(bits: int) -> None:
    stored = np.asarray([[0, 1, 9]], np.uint8)
    parsed, layout = opened(with_palette(make_image(stored), bits))
    colours = palette_colours(stored, parsed, layout)
    np.testing.assert_array_equal(colours, [[[0, 1, 0], [1, 0, 0], [1, 0, 0]]])


def test_a_missing_palette_is_an_error() -> None:
    ds = make_image(np.zeros((2, 2), np.uint8), photometric="PALETTE COLOR")
    parsed, layout = opened(ds)
    with pytest.raises(DecodeError, match="palette"):
        palette_colours(np.zeros((2, 2), np.uint8), parsed, layout)


def test_segmented_palettes_are_expanded() -> None:
    # discrete 0 10; linear in 4 steps to 50; indirect: the first segment again
    words = np.asarray([0, 2, 0, 10, 1, 4, 50, 2, 1, 0, 0], np.uint16)
    np.testing.assert_array_equal(expand_segments(words, 8), [0, 10, 20, 30, 40, 50, 0, 10])


@pytest.mark.parametrize(
    "words", [[1, 3, 9], [7, 1, 1], [0, 2, 5, 6], [2, 9, 0, 0], [2, 1, 9999, 0]]
)
def test_impossible_segments_are_an_error(words: list[int]) -> None:
    with pytest.raises((DecodeError, IndexError)):
        expand_segments(np.asarray(words, np.uint16), 100)


def test_an_indirect_segment_may_not_repeat_another_one() -> None:
    with pytest.raises(DecodeError, match="impossible segment"):
        expand_segments(np.asarray([0, 1, 7, 2, 65535, 0, 0], np.uint16), 4096)


def test_a_table_looks_up_rounded_values() -> None:
    table = Table(first=0, bits=8, entries=np.asarray([5, 6], np.uint16))
    np.testing.assert_array_equal(table.look_up(np.asarray([0.4, 0.6])), [5, 6])


@requirement("S2")
def test_segments_that_add_nothing_cannot_be_repeated_for_ever() -> None:
    words = np.concatenate([np.zeros(2 * 65535), np.tile([2, 65535, 0, 0], 20000)])
    with pytest.raises(DecodeError, match="impossible segment"):
        expand_segments(words.astype(np.uint16), 65535)
