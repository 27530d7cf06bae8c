"""Paint a frontal chest: body, lungs with vessels, bones, devices, and the lesions in it.

The patient's left is at the right edge of the image, as in a PA or AP film. Values rise with
attenuation; a normal lung lies at about 0.2 of the display range before exposure.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, TypeAlias

import numpy as np

from triage.pocket.fields import Field, grain, grid, smooth_noise, step
from triage.pocket.lesions import Kind, Lesion, Side


@dataclass(frozen=True, slots=True, kw_only=True)
class Frame:
    """Where the body lies: coordinates of every pixel and the geometry of one patient."""

    x: Field
    y: Field
    lung_x: float
    lung_width: float
    apex_y: float
    middle_y: float
    base_y: tuple[float, float]  # diaphragm of the patient's right, left
    dome: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Lung:
    """One lung in its own coordinates, as lesions need it."""

    sign: float  # 1 for the patient's left
    across: Field  # -1 medial edge, 1 lateral edge
    radius: Field  # 1 at the pleura of apex and flank
    base_y: float
    air: Field  # 0..1


def paint_chest(
    random: np.random.Generator, lesions: tuple[Lesion, ...], shape: tuple[int, int]
) -> tuple[Field, Field]:
    """Display values (H, W) in 0..1 and lesion covers (4, H, W)."""
    frame = _frame(random, shape)
    masks = np.zeros((len(Kind), *shape), np.float32)
    picture = _soft_tissue(random, frame)
    for side in Side:
        mine = [lesion for lesion in lesions if lesion.side is side]
        picture += _lung(random, frame, side, mine, masks)
    picture += _bones(random, frame)
    picture += _devices(random, frame)
    picture = _expose(random, picture)
    return picture, masks


def _frame(random: np.random.Generator, shape: tuple[int, int]) -> Frame:
    """Place the patient: turned by up to six degrees, shifted, and of varied build."""
    grid_x, grid_y = grid(shape)
    turn = random.uniform(-0.10, 0.10)
    scale = random.uniform(0.86, 1.12)
    x = grid_x - random.uniform(-0.08, 0.08)
    y = grid_y - random.uniform(-0.08, 0.08)
    x, y = (
        (np.cos(turn) * x + np.sin(turn) * y) / scale,
        (np.cos(turn) * y - np.sin(turn) * x) / scale,
    )
    base = random.uniform(0.42, 0.66)
    return Frame(
        x=x.astype(np.float32),
        y=y.astype(np.float32),
        lung_x=random.uniform(0.35, 0.41),
        lung_width=random.uniform(0.27, 0.33),
        apex_y=random.uniform(-0.78, -0.68),
        middle_y=random.uniform(-0.35, -0.2),
        base_y=(base - random.uniform(-0.02, 0.08), base),
        dome=random.uniform(0.06, 0.18),
    )


def _soft_tissue(random: np.random.Generator, frame: Frame) -> Field:
    """Torso, shoulders, mediastinum, heart, abdomen and sometimes breast shadows."""
    x, y = frame.x, frame.y
    torso = step(1.0 - (np.abs(x) / random.uniform(0.82, 0.95)) ** 4, 0.12)
    neck = step(0.35 + 0.9 * (y + 1.0) - np.abs(x) * 0.8, 0.08)
    picture = random.uniform(0.52, 0.64) * torso * neck
    middle = random.uniform(0.10, 0.20) * step(random.uniform(0.12, 0.17) - np.abs(x), 0.03)
    heart_x, heart_y = random.uniform(0.07, 0.15), random.uniform(0.18, 0.32)
    wide, tall = random.uniform(0.23, 0.37), random.uniform(0.22, 0.30)
    heart = 1.0 - np.hypot((x - heart_x) / wide, (y - heart_y) / tall)
    picture += np.maximum(middle, random.uniform(0.22, 0.34) * step(heart, 0.05))
    picture += random.uniform(0.05, 0.16) * step(y - min(frame.base_y), 0.05) * torso
    picture += random.uniform(-0.06, 0.06) * x  # a turned patient: one side denser
    if random.random() < 0.4:
        drop, strength = random.uniform(0.15, 0.35), random.uniform(0.03, 0.09)
        for sign in (-1.0, 1.0):
            breast = 1.0 - np.hypot((x - 0.42 * sign) / 0.32, (y - drop) / 0.27)
            picture += strength * step(breast, 0.06)
    return np.asarray(picture, np.float32)


def _lung(
    random: np.random.Generator, frame: Frame, side: Side, lesions: list[Lesion], masks: Field
) -> Field:
    """One lung with its vessels and lesions, relative to the soft tissue; fills `masks`."""
    sign = 1.0 if side is Side.LEFT else -1.0
    base = frame.base_y[1 if side is Side.LEFT else 0]
    across = (frame.x * sign - frame.lung_x) / frame.lung_width
    above = np.maximum(0.0, (frame.middle_y - frame.y) / (frame.middle_y - frame.apex_y))
    radius = np.hypot(across, above)
    diaphragm = base - frame.dome * (1.0 - ((across + 0.2) / 1.2) ** 2)
    air = step(1.0 - radius, 0.05) * step(diaphragm - frame.y, 0.018)
    lung = Lung(sign=sign, across=across, radius=radius, base_y=base, air=air)
    vessels = _vessels(random, frame, sign) * air
    mottle = random.uniform(0.01, 0.035) * smooth_noise(random, air.shape, 14) * air
    picture = random.uniform(-0.44, -0.34) * air + mottle
    for lesion in lesions:
        change, cover, kept = _LESIONS[lesion.kind](random, frame, lesion, lung)
        picture += change
        vessels = vessels * kept
        masks[list(Kind).index(lesion.kind)] += cover
    return np.asarray(picture + vessels, np.float32)


def _vessels(random: np.random.Generator, frame: Frame, sign: float) -> Field:
    """Branches that leave the hilum radially and fade towards the pleura."""
    x, y = frame.x * sign - 0.17, frame.y - random.uniform(-0.12, 0.0)
    far, angle = np.hypot(x, y), np.arctan2(y, x)
    tree = np.zeros_like(far)
    for branches, start in ((random.integers(6, 9), 0.0), (random.integers(11, 15), 0.22)):
        wobble = random.uniform(0.3, 0.9) * np.sin(
            random.uniform(5, 9) * far + random.uniform(0, 6)
        )
        ridge = np.sin(branches * angle / 1.2 + random.uniform(0, 6) + wobble)
        tree += np.exp(-(ridge**2) / 0.06) * step(far - start, 0.04)
    strength = random.uniform(0.05, 0.09)
    tree = tree * np.exp(-far / random.uniform(0.35, 0.55))
    return np.asarray(strength * tree, np.float32)


def _bones(random: np.random.Generator, frame: Frame) -> Field:
    """Ribs behind and in front, clavicles and spine."""
    x, y = frame.x, frame.y
    cage = step(0.80 - np.abs(x), 0.05) * step(0.75 - np.abs(y + 0.02), 0.05)
    picture = np.zeros_like(x)
    spacing = random.uniform(0.14, 0.18)
    for slope, sharp, strength in (
        (random.uniform(0.35, 0.7), 0.10, random.uniform(0.03, 0.055)),
        (-random.uniform(0.4, 0.8), 0.16, random.uniform(0.015, 0.04)),
    ):
        level = y - slope * (np.abs(x) - 0.35) ** 2 * np.sign(slope) - slope * 0.35 * np.abs(x)
        ridge = np.cos(np.pi * level / spacing + random.uniform(0, 3))
        picture += strength * np.exp(-((1.0 - np.abs(ridge)) ** 2) / sharp) * cage
    height, tilt = random.uniform(-0.68, -0.56), random.uniform(0.1, 0.3)
    clavicle = np.abs(y - height + tilt * np.abs(x))
    picture += (
        random.uniform(0.05, 0.11)
        * np.exp(-((clavicle / 0.035) ** 2))
        * step(0.30 - np.abs(np.abs(x) - 0.36), 0.05)
    )
    spine = 1.0 + 0.3 * np.cos(2 * np.pi * y / random.uniform(0.13, 0.17))
    picture += random.uniform(0.03, 0.08) * spine * step(0.075 - np.abs(x), 0.02)
    return np.asarray(picture, np.float32)


def _devices(random: np.random.Generator, frame: Frame) -> Field:
    """Things that are no finding: a side marker, a catheter, electrodes with their wires."""
    x, y = frame.x, frame.y
    picture = np.zeros_like(x)
    if random.random() < 0.5:
        mark_x, mark_y = random.choice([-0.72, 0.72]), random.uniform(-0.85, -0.6)
        picture += (
            0.5 * step(0.035 - np.abs(x - mark_x), 0.01) * step(0.05 - np.abs(y - mark_y), 0.01)
        )
    if random.random() < 0.25:
        course = np.abs(x - 0.08 - random.uniform(0.0, 0.25) * np.exp(-(((y + 0.9) / 0.4) ** 2)))
        picture += (
            0.15 * np.exp(-((course / 0.014) ** 2)) * step(random.uniform(0.0, 0.2) - y, 0.02)
        )
    if random.random() < 0.25:
        for _ in range(random.integers(1, 4)):
            pad_x, pad_y = random.uniform(-0.6, 0.6), random.uniform(-0.5, 0.5)
            pad = np.hypot(x - pad_x, y - pad_y)
            picture += 0.45 * step(0.028 - pad, 0.008)
            wire = np.abs(x - pad_x - 0.35 * (y - pad_y) * random.uniform(-1, 1))
            picture += 0.10 * np.exp(-((wire / 0.012) ** 2)) * step(y - pad_y, 0.01)
    return np.asarray(picture, np.float32)


def _expose(random: np.random.Generator, picture: Field) -> Field:
    """Exposure, grain and collimation: display values in 0..1."""
    picture = np.clip(picture * random.uniform(0.85, 1.1) + random.uniform(-0.04, 0.08), 0.0, 1.2)
    picture = (picture / 1.2) ** random.uniform(0.75, 1.3)
    picture = picture + random.uniform(0.006, 0.015) * grain(random, picture.shape)
    if random.random() < 0.5:
        x, y = grid((picture.shape[0], picture.shape[1]))
        left, right, top, bottom = random.uniform(0.84, 1.0, 4)
        open_ = (x > -left) & (x < right) & (y > -top) & (y < bottom)
        picture = np.where(open_, picture, random.uniform(0.0, 0.05))
    return np.clip(picture, 0.0, 1.0).astype(np.float32)


# --- lesions


def _pneumothorax(
    _random: np.random.Generator, frame: Frame, lesion: Lesion, lung: Lung
) -> tuple[Field, Field, Field]:
    """Air between the pleurae at apex and flank: no vessels, darker, a fine line at its edge."""
    lateral = np.where(frame.y < frame.middle_y, lung.radius, lung.across)
    edge = 1.0 - lesion.extent
    beyond = step(lateral - edge, 0.04) * step(0.5 + lung.across, 0.15)
    low = step(frame.middle_y + 0.15 + lesion.extent - frame.y, 0.08)
    cover = lung.air * beyond * low
    line = np.exp(-(((lateral - edge) / 0.05) ** 2)) * lung.air * low
    line = line * step(0.5 + lung.across, 0.15)
    collapsed = 0.4 * lesion.contrast * lung.air * (1.0 - beyond) * low
    change = collapsed + 0.12 * line - lesion.contrast * cover
    return change, cover, 1.0 - cover


def _effusion(
    random: np.random.Generator, frame: Frame, lesion: Lesion, lung: Lung
) -> tuple[Field, Field, Field]:
    """Fluid that fills the lung from below and rises towards the flank."""
    height = lesion.extent * (lung.base_y - frame.apex_y)
    rise = random.uniform(0.04, 0.10) * np.clip(lung.across, -1.0, 1.2) ** 2
    level = lung.base_y - frame.dome * 0.5 - height - rise
    cover = lung.air * step(frame.y - level, 0.02)
    return lesion.contrast * cover, cover, 1.0 - 0.7 * cover


def _consolidation(
    random: np.random.Generator, frame: Frame, lesion: Lesion, lung: Lung
) -> tuple[Field, Field, Field]:
    """A patch with a ragged, soft edge and an uneven density."""
    ragged = _away(frame, lesion, lung) + 0.30 * smooth_noise(random, lung.air.shape, 9)
    patchy = 1.0 + 0.25 * smooth_noise(random, lung.air.shape, 26)
    cover = lung.air * step(1.0 - ragged, 0.22)
    return lesion.contrast * cover * patchy, cover, 1.0 - 0.5 * cover


def _nodule(
    _random: np.random.Generator, frame: Frame, lesion: Lesion, lung: Lung
) -> tuple[Field, Field, Field]:
    """A disc with a firm edge."""
    cover = lung.air * step(1.0 - _away(frame, lesion, lung), 0.15)
    return lesion.contrast * cover, cover, np.ones_like(cover)


def _away(frame: Frame, lesion: Lesion, lung: Lung) -> Field:
    """Distance from the lesion's centre in its radii."""
    at_x = lung.sign * (frame.lung_x + lesion.across * frame.lung_width * 0.8)
    at_y = frame.apex_y + 0.12 + lesion.down * (lung.base_y - frame.dome - frame.apex_y - 0.12)
    return np.asarray(np.hypot(frame.x - at_x, frame.y - at_y) / lesion.extent, np.float32)


# What a lesion adds, its cover 0..1, and the share of the vessels that stays visible.
Painter: TypeAlias = Callable[
    [np.random.Generator, Frame, Lesion, Lung], tuple[Field, Field, Field]
]
_LESIONS: Final[dict[Kind, Painter]] = {
    Kind.PNEUMOTHORAX: _pneumothorax,
    Kind.EFFUSION: _effusion,
    Kind.CONSOLIDATION: _consolidation,
    Kind.NODULE: _nodule,
}
