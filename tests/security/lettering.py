"""Capital letters painted into a picture, five pixels wide and seven high, enlarged.

The shapes are those that every display of dots has; only the letters that the trials use.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

LETTERS = {
    "A": "01110 10001 10001 11111 10001 10001 10001",
    "C": "01111 10000 10000 10000 10000 10000 01111",
    "D": "11110 10001 10001 10001 10001 10001 11110",
    "E": "11111 10000 10000 11110 10000 10000 11111",
    "G": "01111 10000 10000 10011 10001 10001 01111",
    "I": "11111 00100 00100 00100 00100 00100 11111",
    "L": "10000 10000 10000 10000 10000 10000 11111",
    "M": "10001 11011 10101 10101 10001 10001 10001",
    "N": "10001 11001 10101 10101 10011 10001 10001",
    "O": "01110 10001 10001 10001 10001 10001 01110",
    "P": "11110 10001 10001 11110 10000 10000 10000",
    "R": "11110 10001 10001 11110 10100 10010 10001",
    "S": "01111 10000 10000 01110 00001 00001 11110",
    "T": "11111 00100 00100 00100 00100 00100 00100",
    "U": "10001 10001 10001 10001 10001 10001 01110",
    "W": "10001 10001 10001 10101 10101 11011 10001",
    "Y": "10001 01010 00100 00100 00100 00100 00100",
    " ": "00000 00000 00000 00000 00000 00000 00000",
}


def lines_of(words: Sequence[str]) -> NDArray[np.bool_]:
    """Return the words as dots, one line below the other."""
    width = max(map(len, words)) * 6
    page = np.zeros((len(words) * 9, width), bool)
    for number, text in enumerate(words):
        for place, letter in enumerate(text):
            rows = [[dot == "1" for dot in row] for row in LETTERS[letter].split()]
            page[number * 9 : number * 9 + 7, place * 6 : place * 6 + 5] = rows
    return page


def write_words(
    pixels: NDArray[np.uint16], words: Sequence[str], brighter: float, *, share: float = 0.3
) -> NDArray[np.uint16]:
    """Return a copy with the words in its upper left corner, `share` of its width wide.

    They are `brighter` than what they stand on, up to the brightest value of the picture's type.
    """
    dots = lines_of(words)
    factor = max(1, int(pixels.shape[1] * share / dots.shape[1]))
    dots = np.kron(dots, np.ones((factor, factor), bool))
    written = pixels.astype(np.float64)
    margin = pixels.shape[0] // 50
    corner = written[margin : margin + dots.shape[0], margin : margin + dots.shape[1]]
    corner[dots] = np.minimum(corner[dots] + brighter, pixels.max())
    return np.rint(written).astype(pixels.dtype)
