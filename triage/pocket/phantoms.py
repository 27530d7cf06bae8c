"""Procedural chest radiographs: numbers from a seed, no patient behind any of them.

A phantom is the picture (`chest`), the truth about it and the caption that states it
(`lesions`). The same seed gives the same picture at any matrix size. Display values rise with
attenuation (MONOCHROME2). Numpy only; pictures that are no chest are in `others`.
"""

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from triage.pocket.chest import paint_chest
from triage.pocket.fields import Field, to_stored
from triage.pocket.lesions import (
    Kind,
    Lesion,
    Side,
    Size,
    caption,
    draw_lesion,
    draw_lesions,
    resized,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Phantom:
    """One radiograph: uint16 (H, W) of `bits_stored` bits, and the truth about it."""

    pixels: NDArray[np.uint16]
    bits_stored: int
    lesions: tuple[Lesion, ...]
    masks: Field  # (4, H, W) lesion cover 0..1, in the order of Kind

    @property
    def caption(self) -> str:
        return caption(self.lesions)

    @property
    def kinds(self) -> frozenset[Kind]:
        return frozenset(lesion.kind for lesion in self.lesions)


def generate(
    seed: int,
    *,
    finding: Kind | str | None = None,
    side: Side | str | None = None,
    size: Size | str | None = None,
    size_px: int = 1024,
    bits_stored: int | None = None,
) -> Phantom:
    """Make the phantom of a seed; what is not asked for is drawn from the seed.

    `finding` is a Kind, "normal", or None for the shares above. `size_px` is the longer side.
    """
    random = np.random.default_rng([seed, 1])
    lesions = draw_lesions(random)
    if finding == "normal":
        lesions = ()
    elif finding is not None:
        lesions = (draw_lesion(random, Kind(finding)),)
    lesions = tuple(
        resized(
            replace(lesion, side=Side(side) if side else lesion.side),
            Size(size) if size else lesion.size,
            random,
        )
        for lesion in lesions
    )
    random = np.random.default_rng([seed, 2])
    aspect = random.uniform(0.80, 1.0)
    portrait = (size_px, round(size_px * aspect))
    shape = portrait if random.random() < 0.7 else portrait[::-1]
    picture, masks = paint_chest(random, lesions, shape)
    bits = bits_stored or int(random.choice([12, 14]))
    return Phantom(
        pixels=to_stored(picture, bits, random), bits_stored=bits, lesions=lesions, masks=masks
    )
