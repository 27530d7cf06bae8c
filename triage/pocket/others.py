"""Pictures that are no chest radiograph, and a CT-like volume; all from a seed.

They teach and test the gate (limb, skull, hand, noise, blank, photograph), and give the
demonstration something else to send. Display values rise with attenuation, as in `phantoms`.
"""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from triage.pocket.fields import Field, grain, grid, smooth_noise, step, stretch, to_stored

FOV_MM = 360.0  # side of a CT slice


def limb(seed: int, *, size_px: int = 1024) -> Field:
    """Forearm or lower leg: one or two long bones in soft tissue, (H, W) in 0..1."""
    random, x, y = _canvas(seed, size_px, turn=0.6)
    across = x + random.uniform(-0.1, 0.1) + random.uniform(-0.15, 0.15) * y**2
    flesh = random.uniform(0.25, 0.45) * (1 + 0.2 * y)
    picture = random.uniform(0.25, 0.4) * step(flesh - np.abs(across), 0.06)
    pair = random.random() < 0.7
    for place in (-0.14, 0.14) if pair else (0.0,):
        wide = random.uniform(0.05, 0.09) * (1.0 + 0.9 * np.abs(y) ** 4)
        away = np.abs(across - place * random.uniform(0.8, 1.2)) / wide
        cortex = np.exp(-(((away - 0.85) / 0.22) ** 2))
        picture += 0.35 * step(1.0 - away, 0.1) + random.uniform(0.1, 0.25) * cortex
    joint = random.uniform(0.55, 0.95)
    picture -= 0.25 * np.exp(-(((y - joint) / 0.03) ** 2)) * step(flesh - np.abs(across), 0.06)
    return _finish(random, picture)


def hand(seed: int, *, size_px: int = 1024) -> Field:
    """Five rays of phalanges from a wrist: a body part that the gate was not trained on."""
    random, x, y = _canvas(seed, size_px, turn=0.3)
    picture = np.zeros_like(x)
    for ray in range(5):
        angle = (ray - 2) * random.uniform(0.16, 0.24)
        along = -(y - 0.55) * np.cos(angle) + x * np.sin(angle)
        across = x * np.cos(angle) + (y - 0.55) * np.sin(angle)
        reach = random.uniform(0.9, 1.25) * (1.0 - 0.1 * abs(ray - 2))
        inside = step(along, 0.05) * step(reach - along, 0.05)
        picture = np.maximum(picture, 0.3 * inside * step(0.10 - np.abs(across), 0.03))
        joints = 1.0 - 0.8 * np.exp(-((np.sin(np.pi * along / 0.3) / 0.15) ** 2))
        picture += 0.35 * inside * joints * step(0.05 - np.abs(across), 0.015)
    picture += 0.35 * step(1.0 - np.hypot(x / 0.3, (y - 0.65) / 0.28), 0.1)
    return _finish(random, picture)


def skull(seed: int, *, size_px: int = 1024) -> Field:
    """An oval vault with a dense rim and two orbits."""
    random, x, y = _canvas(seed, size_px, turn=0.2)
    away = np.hypot(x / random.uniform(0.55, 0.75), y / random.uniform(0.7, 0.88))
    picture = 0.4 * step(1.0 - away, 0.04) + 0.4 * np.exp(-(((away - 0.93) / 0.05) ** 2))
    for sign in (-1.0, 1.0):
        orbit = np.hypot((x - 0.25 * sign) / 0.15, (y - 0.15) / 0.13)
        picture += -0.15 * step(1.0 - orbit, 0.1) + 0.15 * np.exp(-(((orbit - 1.0) / 0.1) ** 2))
    picture += 0.08 * smooth_noise(random, picture.shape, 12) * step(1.0 - away, 0.04)
    return _finish(random, picture)


def noise(seed: int, *, size_px: int = 1024) -> Field:
    """Noise of any grain, white to cloudy."""
    random, x, _ = _canvas(seed, size_px, turn=0.0)
    cells = int(np.exp(random.uniform(np.log(5), np.log(200))))
    picture = 0.5 + random.uniform(0.05, 0.25) * smooth_noise(random, x.shape, cells)
    return np.asarray(np.clip(picture, 0.0, 1.0), np.float32)


def blank(seed: int, *, size_px: int = 1024) -> Field:
    """One grey with a trace of detector noise and sometimes of the heel effect."""
    random, x, y = _canvas(seed, size_px, turn=0.0)
    picture = random.uniform(0.0, 1.0) + random.choice([0.0, 0.004]) * grain(random, x.shape)
    picture = picture + random.choice([0.0, 0.05]) * (x + y)
    return np.asarray(np.clip(picture, 0.0, 1.0), np.float32)


def photograph(seed: int, *, size_px: int = 1024) -> Field:
    """A lit scene: sky and ground, boxes and discs with shading, edges and texture."""
    random, x, y = _canvas(seed, size_px, turn=0.2)
    horizon = random.uniform(-0.5, 0.5)
    ground = step(y - horizon - 0.05 * smooth_noise(random, x.shape, 8), 0.01)
    picture = random.uniform(0.5, 0.95) + random.uniform(-0.3, 0.3) * y
    picture = picture * (1 - ground) + random.uniform(0.1, 0.7) * ground
    picture = picture + 0.08 * ground * smooth_noise(random, x.shape, 60)
    for _ in range(random.integers(3, 14)):
        at_x, at_y = random.uniform(-0.9, 0.9, 2)
        wide, tall = random.uniform(0.05, 0.45, 2)
        if random.random() < 0.5:
            cover = step(1.0 - np.hypot((x - at_x) / wide, (y - at_y) / tall), 0.02)
        else:
            cover = step(wide - np.abs(x - at_x), 0.01) * step(tall - np.abs(y - at_y), 0.01)
        shade = random.uniform(0.0, 1.0) + random.uniform(-0.5, 0.5) * (x - at_x)
        picture = picture * (1 - cover) + shade * cover
    return _finish(random, picture)


FAMILIES: dict[str, Callable[..., Field]] = {
    "limb": limb,
    "skull": skull,
    "noise": noise,
    "blank": blank,
    "photograph": photograph,
}


def stored(picture: Field, *, seed: int, bits_stored: int = 12) -> NDArray[np.uint16]:
    """Digitise a picture 0..1 as a panel would: uint16 (H, W) of `bits_stored` bits."""
    return to_stored(picture, bits_stored, np.random.default_rng([seed, 3]))


def ct_volume(seed: int, *, slices: int = 8, size_px: int = 256) -> NDArray[np.int16]:
    """A chest-like CT in Hounsfield units, (slices, size_px, size_px), apex first.

    Body, lungs, mediastinum, vertebra and couch on a field of FOV_MM; air outside is -1000.
    """
    random = np.random.default_rng([seed, 4])
    x, y = grid((size_px, size_px))
    volume = np.empty((slices, size_px, size_px), np.int16)
    for index in range(slices):
        depth = (index + 0.5) / slices
        hu = np.full(x.shape, -1000.0, np.float32)
        hu = _put(hu, np.hypot(x / 0.85, y / 0.62), 40.0)
        wide = 0.18 + 0.14 * np.sin(np.pi * min(0.9, depth + 0.2))
        for sign in (-1.0, 1.0):
            hu = _put(hu, np.hypot((x - 0.42 * sign) / wide, y / (wide * 1.35)), -850.0)
        hu = _put(hu, np.hypot((x - 0.1) / 0.26, (y + 0.08) / 0.2) + (depth < 0.4), 45.0)
        hu = _put(hu, np.hypot(x / 0.09, (y - 0.40) / 0.09), 350.0)
        hu = _put(hu, np.hypot(x / 0.8, (y - 0.75) / 0.04), 120.0)
        hu += 12.0 * stretch(random.standard_normal(x.shape, dtype=np.float32), x.shape)
        volume[index] = np.rint(hu).astype(np.int16)
    return volume


def _put(hu: Field, radius: Field, value: float) -> Field:
    cover = step(1.0 - radius, 0.03)
    return np.asarray(hu * (1 - cover) + np.float32(value) * cover, np.float32)


def _canvas(seed: int, size_px: int, *, turn: float) -> tuple[np.random.Generator, Field, Field]:
    """Coordinates of a frame of random aspect, turned by up to `turn` radians."""
    random = np.random.default_rng([seed, 5])
    shape = (size_px, round(size_px * random.uniform(0.7, 1.0)))
    x, y = grid(shape)
    angle = random.uniform(-turn, turn)
    return (
        random,
        np.asarray(np.cos(angle) * x + np.sin(angle) * y, np.float32),
        np.asarray(np.cos(angle) * y - np.sin(angle) * x, np.float32),
    )


def _finish(random: np.random.Generator, picture: NDArray[np.floating]) -> Field:
    picture = np.clip(picture * random.uniform(0.85, 1.1), 0.0, 1.0) ** random.uniform(0.75, 1.3)
    picture = picture + random.uniform(0.004, 0.015) * grain(random, picture.shape)
    return np.asarray(np.clip(picture, 0.0, 1.0), np.float32)
