"""The numpy resize equals torch's, with and without antialiasing."""

import numpy as np
import pytest
import torch

from triage.imaging.resize import pad_to_square, resize

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


def test_padding_centres_the_image_on_black() -> None:
    padded = pad_to_square(np.ones((2, 3, 6), np.float32))
    assert padded.shape == (2, 6, 6)
    assert padded[:, 1:4].all()
    assert not padded[:, 0].any()
    assert not padded[:, 4:].any()


def test_a_square_image_is_not_padded() -> None:
    image = np.random.default_rng(0).random((5, 5), np.float32)
    np.testing.assert_array_equal(pad_to_square(image), image)
