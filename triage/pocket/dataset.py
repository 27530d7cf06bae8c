"""Phantoms as the encoder sees them: square views, truth, captions and cover per patch.

A view is what the `dicom` rendering gives for the same pixels without a window: the image's own
minimum to maximum on 0..1, zero-padded to a square and resized with antialiasing.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from triage.imaging.resize import to_square
from triage.pocket.fields import Field
from triage.pocket.lesions import Kind, Lesion, Side, Size
from triage.pocket.others import FAMILIES
from triage.pocket.phantoms import generate

VIEW_PX = 112
PATCH_PX = 14
PATCHES = (VIEW_PX // PATCH_PX) ** 2
RENDER_PX = 224  # matrix at which phantoms are drawn for training; serving meets larger ones
TRUTHS = 4 * len(Kind)  # per kind: present, on the right, on the left, large


@dataclass(frozen=True, slots=True, kw_only=True)
class Dataset:
    """N pictures; all arrays share their first axis."""

    views: NDArray[np.uint16]  # (N, S, S), 0..65535 for 0..1: half the memory of float32
    truth: NDArray[np.float32]  # (N, TRUTHS) of 0 and 1, kinds in their order
    cover: NDArray[np.float32]  # (N, PATCHES, kinds) share of each patch under a lesion
    captions: tuple[str, ...]  # empty where there is no chest
    chest: NDArray[np.bool_]  # (N,)

    def __len__(self) -> int:
        return len(self.views)


def view(pixels: NDArray[np.generic]) -> NDArray[np.float32]:
    """Make one view (VIEW_PX, VIEW_PX) in 0..1 of stored or display values (H, W)."""
    values = pixels.astype(np.float32)
    span = float(values.max() - values.min())
    values = (values - values.min()) / (span or 1.0)
    return np.clip(to_square(values, VIEW_PX), 0.0, 1.0)


def truth(lesions: tuple[Lesion, ...]) -> NDArray[np.float32]:
    """State the lesions as TRUTHS zeros and ones."""
    stated = np.zeros((len(Kind), 4), np.float32)
    for lesion in lesions:
        row = stated[list(Kind).index(lesion.kind)]
        row[0] = 1.0
        row[1 if lesion.side is Side.RIGHT else 2] = 1.0
        row[3] = float(lesion.size is Size.LARGE)
    return stated.reshape(-1)


def chests(seeds: Iterable[int]) -> Dataset:
    """Draw the phantom of every seed at RENDER_PX."""
    phantoms = (generate(seed, size_px=RENDER_PX) for seed in seeds)
    rows = []
    for phantom in phantoms:
        cover = np.stack([to_square(mask, VIEW_PX // PATCH_PX) for mask in phantom.masks], axis=-1)
        rows.append(
            (view(phantom.pixels), truth(phantom.lesions), cover.reshape(PATCHES, -1), phantom)
        )
    return Dataset(
        views=np.stack([_sixteen_bits(row[0]) for row in rows]),
        truth=np.stack([row[1] for row in rows]),
        cover=np.stack([row[2] for row in rows]),
        captions=tuple(row[3].caption for row in rows),
        chest=np.ones(len(rows), np.bool_),
    )


def not_chests(
    seeds: Iterable[int], families: Sequence[Callable[..., Field]] = tuple(FAMILIES.values())
) -> Dataset:
    """Draw pictures of the families in turn; they have no lesion and no caption."""
    views = [
        _sixteen_bits(view(families[seed % len(families)](seed, size_px=RENDER_PX)))
        for seed in seeds
    ]
    return Dataset(
        views=np.stack(views),
        truth=np.zeros((len(views), TRUTHS), np.float32),
        cover=np.zeros((len(views), PATCHES, len(Kind)), np.float32),
        captions=("",) * len(views),
        chest=np.zeros(len(views), np.bool_),
    )


def joined(first: Dataset, second: Dataset) -> Dataset:
    """Both sets as one, in this order."""
    return Dataset(
        views=np.concatenate([first.views, second.views]),
        truth=np.concatenate([first.truth, second.truth]),
        cover=np.concatenate([first.cover, second.cover]),
        captions=first.captions + second.captions,
        chest=np.concatenate([first.chest, second.chest]),
    )


def batch(views: NDArray[np.uint16]) -> NDArray[np.float32]:
    """Turn stored views (B, S, S) into what an encoder takes: float32 (B, 1, S, S) in 0..1."""
    return (views.astype(np.float32) / 65535.0)[:, None]


def _sixteen_bits(values: NDArray[np.float32]) -> NDArray[np.uint16]:
    return np.asarray(np.rint(values * 65535.0), np.uint16)
