"""What can be wrong in a phantom: kinds, sides, sizes, and how hard they are to see.

The constants under "difficulty" were fixed before training; the model's card repeats them.
"""

from dataclasses import dataclass, replace
from enum import StrEnum

import numpy as np


class Kind(StrEnum):
    """The findings, most urgent first: the order in which a caption names them."""

    PNEUMOTHORAX = "pneumothorax"
    EFFUSION = "effusion"
    CONSOLIDATION = "consolidation"
    NODULE = "nodule"


class Side(StrEnum):
    """The patient's side."""

    LEFT = "left"
    RIGHT = "right"


class Size(StrEnum):
    SMALL = "small"
    LARGE = "large"


# --- difficulty: (lowest, highest) extent per size word, and lesion contrast.
# Extents: pneumothorax, share of the lung's half-width; effusion, share of the lung's height;
# consolidation and nodule, radius in half image widths. The gap between the words is wide
# enough that a reader with a ruler would never be in doubt.
EXTENT: dict[Kind, dict[Size, tuple[float, float]]] = {
    Kind.PNEUMOTHORAX: {Size.SMALL: (0.25, 0.35), Size.LARGE: (0.55, 0.75)},
    Kind.EFFUSION: {Size.SMALL: (0.12, 0.18), Size.LARGE: (0.34, 0.52)},
    Kind.CONSOLIDATION: {Size.SMALL: (0.15, 0.19), Size.LARGE: (0.28, 0.36)},
    Kind.NODULE: {Size.SMALL: (0.055, 0.070), Size.LARGE: (0.105, 0.135)},
}
# Contrast as a share of the display range before exposure; a normal lung is about 0.2 of it.
CONTRAST: dict[Kind, tuple[float, float]] = {
    Kind.PNEUMOTHORAX: (0.09, 0.15),
    Kind.EFFUSION: (0.22, 0.38),
    Kind.CONSOLIDATION: (0.15, 0.28),
    Kind.NODULE: (0.20, 0.34),
}
NORMAL_SHARE = 0.36
TWO_FINDINGS_SHARE = 0.10
NOUN = {Kind.EFFUSION: "pleural effusion"}
NO_FINDING = "No acute finding."


@dataclass(frozen=True, slots=True, kw_only=True)
class Lesion:
    """One finding. `extent` and `contrast` are in the units of EXTENT and CONTRAST."""

    kind: Kind
    side: Side
    size: Size
    extent: float
    contrast: float
    across: float  # place in the lung for round lesions, -1 medial to 1 lateral
    down: float  # 0 apex to 1 diaphragm


def caption(lesions: tuple[Lesion, ...]) -> str:
    """Say in one sentence what is there; findings in the order of Kind."""
    if not lesions:
        return NO_FINDING
    order = list(Kind)
    said = [
        f"{lesion.size} {lesion.side} {NOUN.get(lesion.kind, lesion.kind)}"
        for lesion in sorted(lesions, key=lambda lesion: order.index(lesion.kind))
    ]
    return " and ".join(said).capitalize() + "."


def draw_lesions(random: np.random.Generator) -> tuple[Lesion, ...]:
    """Nothing, one finding, or two kinds in opposite lungs."""
    lot = random.random()
    if lot < NORMAL_SHARE:
        return ()
    kinds = random.permutation(np.array(list(Kind), dtype=object))
    first = draw_lesion(random, kinds[0])
    if lot < 1.0 - TWO_FINDINGS_SHARE:
        return (first,)
    other = Side.LEFT if first.side is Side.RIGHT else Side.RIGHT
    return (first, replace(draw_lesion(random, kinds[1]), side=other))


def draw_lesion(random: np.random.Generator, kind: Kind) -> Lesion:
    """One lesion of a kind: side, size, extent, contrast and place."""
    size = Size(random.choice(list(Size)))
    return Lesion(
        kind=kind,
        side=Side(random.choice(list(Side))),
        size=size,
        extent=random.uniform(*EXTENT[kind][size]),
        contrast=random.uniform(*CONTRAST[kind]),
        across=random.uniform(-0.45, 0.6),
        down=random.uniform(0.2, 0.75),
    )


def resized(lesion: Lesion, size: Size, random: np.random.Generator) -> Lesion:
    """The lesion with an extent that fits the size word."""
    if size is lesion.size:
        return lesion
    extent = random.uniform(*EXTENT[lesion.kind][size])
    return replace(lesion, size=size, extent=extent)
