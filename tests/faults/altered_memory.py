"""Weights of a running model, altered in the memory of its process, as a failing device would.

The bytes of one tensor are looked for in the process and overwritten through /proc/PID/mem. Nothing
of the program takes part, and what it loaded from disk was sound.
"""

import os
import re
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load_file

from triage.pocket import BUNDLE

PATCHES = re.compile(r"vision.*patch_embedding\.weight$")
NEEDLE_BYTES = 256
CHUNK_BYTES = 32 << 20


def patch_weights() -> NDArray[np.float32]:
    """Return the first layer of the built-in model's vision tower, as it lies in memory."""
    tensors = load_file(BUNDLE / "encoder" / "model.safetensors")
    (name,) = [name for name in tensors if PATCHES.search(name)]
    return np.ascontiguousarray(tensors[name], np.float32)


def overwrite(pid: int, before: NDArray[np.float32], after: NDArray[np.float32]) -> int:
    """Replace one tensor wherever it lies in the process; return in how many places."""
    needle, old, new = before.tobytes()[:NEEDLE_BYTES], before.tobytes(), after.tobytes()
    done = 0
    with Path(f"/proc/{pid}/mem").open("r+b", buffering=0) as memory:
        for start, end in _regions(pid):
            for place in _places(memory.fileno(), start, end, needle):
                if os.pread(memory.fileno(), len(old), place) == old:
                    os.pwrite(memory.fileno(), new, place)
                    done += 1
    return done


def _regions(pid: int) -> list[tuple[int, int]]:
    found = []
    for line in Path(f"/proc/{pid}/maps").read_text().splitlines():
        span, rights, *_ = line.split()
        if rights.startswith("r") and "[v" not in line:
            start, end = (int(part, 16) for part in span.split("-"))
            found.append((start, end))
    return found


def _places(descriptor: int, start: int, end: int, needle: bytes) -> list[int]:
    """Return where `needle` begins; regions that cannot be read hold none."""
    places: list[int] = []
    for base in range(start, end, CHUNK_BYTES):
        size = min(CHUNK_BYTES + len(needle), end - base)
        try:
            data = os.pread(descriptor, size, base)
        except OSError:
            continue
        at = data.find(needle)
        while 0 <= at < CHUNK_BYTES:
            places.append(base + at)
            at = data.find(needle, at + 1)
    return places
