"""Damage for honest bytes: what breaks parsers, drawn from a seed.

Most of it is done to numbers that may be lengths, counts or tags, of two and four bytes in both
orders, since random bytes alone seldom come past the first check.
"""

import random
import struct
from collections.abc import Callable, Sequence
from typing import Final

NUMBERS: Final = (0, 1, 2, 7, 8, 0x7F, 0x80, 0xFF, 0x7FFF, 0x8000, 0xFFFE, 0xFFFF)
LARGE: Final = (0x7FFFFFFF, 0x80000000, 0xFFFFFFF0, 0xFFFFFFFE, 0xFFFFFFFF)
MOST_STEPS: Final = 6


def damaged(draw: random.Random, pool: Sequence[bytes]) -> bytes:
    """Return one of the pool with some things done to it."""
    data = bytearray(draw.choice(pool))
    for _ in range(draw.randint(1, MOST_STEPS)):
        draw.choice(_STEPS)(draw, data, pool)
    return bytes(data)


def _place(draw: random.Random, data: bytearray) -> int:
    """Anywhere, but in every other case near the beginning, where headers are."""
    most = len(data) if draw.random() < 0.5 else min(len(data), 1024)
    return draw.randrange(most) if most else 0


def _flip(draw: random.Random, data: bytearray, _: Sequence[bytes]) -> None:
    if data:
        data[_place(draw, data)] ^= 1 << draw.randrange(8)


def _byte(draw: random.Random, data: bytearray, _: Sequence[bytes]) -> None:
    if data:
        data[_place(draw, data)] = draw.randrange(256)


def _number(draw: random.Random, data: bytearray, _: Sequence[bytes]) -> None:
    short = draw.random() < 0.5
    value = draw.choice(NUMBERS) if short or draw.random() < 0.5 else draw.choice(LARGE)
    packed = struct.pack(draw.choice("<>") + ("H" if short else "L"), value)
    place = _place(draw, data)
    if place + len(packed) <= len(data):
        data[place : place + len(packed)] = packed


def _cut(draw: random.Random, data: bytearray, _: Sequence[bytes]) -> None:
    del data[_place(draw, data) :]


def _remove(draw: random.Random, data: bytearray, _: Sequence[bytes]) -> None:
    place = _place(draw, data)
    del data[place : place + draw.randint(1, 64)]


def _repeat(draw: random.Random, data: bytearray, _: Sequence[bytes]) -> None:
    place = _place(draw, data)
    data[place:place] = data[place : place + draw.randint(1, 64)] * draw.choice((1, 2, 50))


def _insert(draw: random.Random, data: bytearray, _: Sequence[bytes]) -> None:
    place = _place(draw, data)
    data[place:place] = draw.randbytes(draw.randint(1, 16))


def _join(draw: random.Random, data: bytearray, pool: Sequence[bytes]) -> None:
    other = draw.choice(pool)
    place, start = _place(draw, data), draw.randrange(len(other) + 1)
    data[place:] = other[start : start + LONGEST_JOINED]


LONGEST_JOINED: Final = 1 << 16
_STEPS: Final[Sequence[Callable[[random.Random, bytearray, Sequence[bytes]], None]]] = (
    _flip,
    _byte,
    _number,
    _number,
    _number,
    _cut,
    _remove,
    _repeat,
    _insert,
    _join,
)
