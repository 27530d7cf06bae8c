"""Crops are cut from the picture in its own size, in one order, and cover it."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.dicom_files import make_ct_series, make_dx, write
from triage.errors import DecodeUnsupported
from triage.imaging.decode_pool import DecodePool
from triage.imaging.resize import resize
from triage.imaging.subject import DecodeTask, decode_subject
from triage.imaging.views import crop_slices, to_view, to_views, view_digest
from triage.records import ViewSpec

PLAIN = ViewSpec(rendering="dicom", size_px=32)
FOUR = ViewSpec(rendering="dicom", size_px=32, crops=2)


def radiograph(height: int = 96, width: int = 60) -> np.ndarray:
    random = np.random.default_rng(8)
    return random.integers(0, 4096, (height, width), dtype=np.uint16)


def test_crops_of_a_picture_that_is_not_square_match_those_made_by_hand() -> None:
    picture = np.random.default_rng(9).random((1, 96, 60), dtype=np.float32)
    views = to_views(picture, FOUR)
    assert views.shape == (5, 1, 32, 32)
    np.testing.assert_array_equal(views[0], to_view(picture, PLAIN))
    # Two thirds of 96 x 60 is 64 x 40, from 0 and 32 down and from 0 and 20 across.
    corners = [(0, 0), (0, 20), (32, 0), (32, 20)]
    for view, (top, left) in zip(views[1:], corners, strict=True):
        square = np.zeros((1, 64, 64), np.float32)
        square[:, :, 12:52] = picture[:, top : top + 64, left : left + 40]
        np.testing.assert_allclose(view, np.clip(resize(square, 32, 32), 0, 1), atol=1e-6)


def test_a_line_that_the_whole_image_blurs_is_sharp_in_a_crop() -> None:
    picture = np.zeros((1, 128, 128), np.float32)
    picture[:, :, 20] = 1.0
    whole, corner = to_views(picture, FOUR)[:2]
    assert corner.max() > 1.4 * whole.max()


@given(st.integers(1, 300), st.integers(1, 300), st.integers(1, 8))
@settings(max_examples=80, deadline=None)
def test_crops_cover_the_picture_and_never_leave_it(height: int, width: int, crops: int) -> None:
    seen = np.zeros((height, width), np.int64)
    boxes = crop_slices(height, width, crops)
    assert len(boxes) == crops**2
    assert len({(b[0].stop - b[0].start, b[1].stop - b[1].start) for b in boxes}) == 1
    for rows, columns in boxes:
        assert 0 <= rows.start < rows.stop <= height
        assert 0 <= columns.start < columns.stop <= width
        seen[rows, columns] += 1
    assert seen.min() >= 1
    # Laid out the same from either end: a picture turned round has the same crops, turned round.
    starts = sorted({rows.start for rows, _ in boxes})
    mirrored = sorted({height - rows.stop for rows, _ in boxes})
    assert np.abs(np.subtract(starts, mirrored)).max() <= 1


def test_a_decoded_image_has_the_whole_first_and_a_digest_for_each_view(tmp_path: Path) -> None:
    path = write(make_dx(radiograph()), tmp_path / "dx")
    decoded = decode_subject(DecodeTask(paths=(path,), specs=(PLAIN, FOUR)))
    views = decoded.views[FOUR]
    assert views.shape == (5, 1, 32, 32)
    np.testing.assert_array_equal(views[:1], decoded.views[PLAIN])
    assert decoded.view_digests[FOUR] == tuple(map(view_digest, views))
    assert len(set(decoded.view_digests[FOUR])) == 5
    assert decoded.view_digests[FOUR][0] == decoded.view_digests[PLAIN][0]


def test_a_series_has_no_crops_and_other_renderings_go_on(tmp_path: Path) -> None:
    paths = tuple(write(ds, tmp_path / f"{i}") for i, ds in enumerate(make_ct_series()))
    decoded = decode_subject(DecodeTask(paths=paths, specs=(PLAIN, FOUR)))
    assert set(decoded.views) == {PLAIN}
    assert "single images" in decoded.refused[FOUR]
    with pytest.raises(DecodeUnsupported, match="single images"):
        decode_subject(DecodeTask(paths=paths, specs=(FOUR,)))


def test_the_decode_pool_hands_over_more_crops_than_slices(tmp_path: Path) -> None:
    path = write(make_dx(radiograph()), tmp_path / "dx")
    spec = ViewSpec(rendering="dicom", size_px=16, maximum_slices=1, crops=3)
    with DecodePool(1, memory_mib=1024, timeout_s=60) as pool:
        decoded = pool.submit(DecodeTask(paths=(path,), specs=(spec,))).result(timeout=60)
    here = decode_subject(DecodeTask(paths=(path,), specs=(spec,)))
    np.testing.assert_array_equal(decoded.views[spec], here.views[spec])
    assert decoded.views[spec].shape == (10, 1, 16, 16)
