"""Tokens of single views, kept on disk within a limit that the data scientist names.

A view has hundreds to thousands of tokens (MedGemma: 4096 x 1152), so they are never kept by the
daemon and here only where asked for: one file per view below `patches/` of an embedding directory,
float16 where all values fit, else float32. A limit is checked before anything is written.
"""

from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save as save_arrays

from triage.errors import PermanentError
from triage.learning.material.embedding_set import write_durably

PATCHES: Final = "patches"
TOKENS: Final = "tokens"
FLOAT16_MAXIMUM: Final = float(np.finfo(np.float16).max)
HEADER_BYTES: Final = 256  # of a file, about


class Patches:
    """The tokens in one embedding directory; raises PermanentError before it exceeds `limit_mib`.

    `keys` are those of the cache: the file name is made of a digest.
    """

    def __init__(self, directory: Path, limit_mib: int) -> None:
        self._directory = directory / PATCHES
        self._limit_mib = limit_mib
        self._directory.mkdir(mode=0o700, exist_ok=True)
        sizes = {path.stem: path.stat().st_size for path in self._directory.glob("*.safetensors")}
        self._keys = set(sizes)
        self._bytes = sum(sizes.values())

    def __contains__(self, key: object) -> bool:
        return key in self._keys

    def require_room(self, views: int, *, tokens: int, width: int) -> None:
        """Refuse at once what cannot fit: so many views, each with float16 (tokens, width)."""
        needed = views * (tokens * width * 2 + HEADER_BYTES)
        if needed > self._limit_mib << 20:
            raise PermanentError(
                f"the patch features of {views} views take {_mib(needed)} MiB at least,"
                f" --patch-mib allows {self._limit_mib}",
                hint="Raise --patch-mib, or label fewer images for this.",
            )

    def add(self, key: str, tokens: NDArray[np.float32]) -> None:
        """Keep the tokens (T, W) of one view."""
        fits = float(np.abs(tokens).max(initial=0.0)) <= FLOAT16_MAXIMUM
        kept: NDArray[Any] = tokens.astype(np.float16) if fits else tokens
        data = save_arrays({TOKENS: kept})
        if self._bytes + len(data) > self._limit_mib << 20:
            raise PermanentError(
                f"the patch features would take more than the {self._limit_mib} MiB of --patch-mib;"
                f" {len(self._keys)} views are kept",
                hint="Raise --patch-mib and run again; it goes on where it stopped.",
            )
        write_durably(self._directory / f"{key}.safetensors", data)
        self._keys.add(key)
        self._bytes += len(data)


def load_patches(directory: Path, key: str) -> NDArray[np.float32]:
    """Return the tokens (T, W) of the view with this cache key in an embedding directory.

    Raises PermanentError where they are not kept or damaged.
    """
    path = directory / PATCHES / f"{key}.safetensors"
    try:
        with safe_open(path, framework="numpy") as file:
            tokens = np.asarray(file.get_tensor(TOKENS), np.float32)
    except (SafetensorError, OSError) as error:
        raise PermanentError(
            f"{path} holds no patch features",
            hint="Run `triage embed` with --patch-features and the same --out.",
        ) from error
    if tokens.ndim != 2 or not np.isfinite(tokens).all():
        raise PermanentError(f"{path} is damaged", hint="Delete it and run `triage embed` again.")
    return tokens


def _mib(size_bytes: int) -> int:
    return -(-size_bytes // (1 << 20))
