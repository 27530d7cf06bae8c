"""The numpy resize equals torch's, with and without antialiasing."""

import tracemalloc

import numpy as np
import pytest
import torch

from triage.imaging.resize import resize, to_square

SIZES = [(64, 48, 32), (31, 77, 20), (20, 20, 20), (7, 5, 31), (513, 401, 112), (3, 400, 56)]


@pytest.mark.parametrize("antialias", [True, False])
@pytest.mark.parametrize(("height", "width", "size_px"), SIZES)
def test_resize_equals_torch_bilinear(
    height: int, width: int, size_px: int, antialias: bool
) -> None:
    image = np.random.default_rng(height).random((2, height, width), np.float32)
    expected = torch.nn.functional.interpolate(
        torch.from_numpy(image)[None],
        size=(size_px, size_px),
        mode="bilinear",
        antialias=antialias,
        align_corners=False,
    )[0].numpy()
    np.testing.assert_allclose(
        resize(image, size_px, size_px, antialias=antialias), expected, atol=1e-5
    )


def test_a_one_pixel_line_survives_only_with_antialiasing() -> None:
    image = np.zeros((1, 640), np.float32)
    image[0, 3] = 1.0  # between two sample points of the plain resize
    assert resize(image, 1, 64, antialias=True).sum() == pytest.approx(0.1, abs=0.005)
    assert resize(image, 1, 64, antialias=False).max() == 0.0


def test_a_constant_image_stays_constant() -> None:
    image = np.full((37, 53), 0.7, np.float32)
    for antialias in (True, False):
        np.testing.assert_allclose(resize(image, 16, 99, antialias=antialias), 0.7, atol=1e-6)


def test_a_square_has_the_image_centred_on_black() -> None:
    square = to_square(np.ones((2, 3, 6), np.float32), 6)
    assert square.shape == (2, 6, 6)
    assert square[:, 1:4].all()
    assert not square[:, 0].any()
    assert not square[:, 4:].any()


def test_a_square_image_of_that_size_stays_as_it_is() -> None:
    image = np.random.default_rng(0).random((5, 5), np.float32)
    np.testing.assert_array_equal(to_square(image, 5), image)


@pytest.mark.parametrize("antialias", [True, False])
@pytest.mark.parametrize(("height", "width", "size_px"), SIZES)
def test_a_square_equals_the_padded_image_resized(
    height: int, width: int, size_px: int, antialias: bool
) -> None:
    image = np.random.default_rng(width).random((2, height, width), np.float32)
    side = max(height, width)
    top, left = (side - height) // 2, (side - width) // 2
    padded = np.zeros((2, side, side), np.float32)
    padded[:, top : top + height, left : left + width] = image
    np.testing.assert_array_equal(
        to_square(image, size_px, antialias=antialias),
        resize(padded, size_px, size_px, antialias=antialias),
    )


def test_a_long_strip_takes_no_more_memory_than_itself() -> None:
    strip = np.ones((1, 40, 16384), np.float32)
    tracemalloc.start()
    to_square(strip, 64)
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert most < 32 * 2**20  # the square alone would be 1,024 MiB
