"""Views or tokens of labelled images on disk, for methods that go over them again and again.

Float32 in one flat file in the work directory, mapped into memory, never larger than the bound
that was given: patch tokens are a thousand times an embedding. Removed with the work directory.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from triage.errors import PermanentError
from triage.learning.methods.looking import subjects_with_views, truth_of
from triage.learning.methods.material import Labelled, Material, Parts, Reals
from triage.learning.progress import Progress

MIB: Final = 1 << 20
Views = NDArray[np.float32]  # (V, C, S, S)
Make = Callable[[Views], NDArray[np.float32]]  # views to what is kept of each, (V, ...)


@dataclass(frozen=True, slots=True, kw_only=True)
class Kept:
    """What is kept of every view of N subjects, view after view."""

    rows: tuple[int, ...]  # of the table
    counts: tuple[tuple[int, ...], ...]  # views of each part of each subject
    values: NDArray[np.float32]  # (views of all, ...), mapped
    truth: Reals  # (N, F) with NaN
    groups: tuple[str, ...]

    def taken(self, subjects: Sequence[int] | NDArray[np.intp]) -> tuple[Tensor, Tensor]:
        """The views of these subjects (n, ...), and where they belong: (B, P, V) of truths."""
        ends = np.cumsum([sum(counts) for counts in self.counts])
        chosen = [self.counts[i] for i in subjects]
        values = [self.values[ends[i] - sum(self.counts[i]) : ends[i]] for i in subjects]
        shape = (len(chosen), max(map(len, chosen)), max(max(counts) for counts in chosen))
        seen = torch.zeros(shape, dtype=torch.bool)
        for i, counts in enumerate(chosen):
            for j, count in enumerate(counts):
                seen[i, j, :count] = True
        return torch.from_numpy(np.concatenate(values)), seen

    def labelled(self, vectors: NDArray[np.float32]) -> Labelled:
        """The subjects with the vectors (views of all, D) that a method made of them."""
        parts: list[Parts] = []
        first = 0
        for counts in self.counts:
            ends = first + np.cumsum(counts)
            parts.append(
                tuple(vectors[end - count : end] for end, count in zip(ends, counts, strict=True))
            )
            first = int(ends[-1])
        return Labelled(rows=self.rows, parts=tuple(parts), truth=self.truth, groups=self.groups)


def placed(vectors: Tensor, seen: Tensor) -> Tensor:
    """Vectors (n, D) of `Kept.taken` as (B, P, V, D), zeros where there is no view."""
    whole = vectors.new_zeros(*seen.shape, vectors.shape[-1])
    whole[seen.to(vectors.device)] = vectors
    return whole


def keep(material: Material, split: str, make: Make, *, what: str) -> Kept:
    """Render the images of a split and keep `make` of their views.

    Raises PermanentError where the bound of the material does not hold them.
    """
    path = material.work / f"{what}-{split}.float32"
    rows: list[int] = []
    counts: list[tuple[int, ...]] = []
    shape: tuple[int, ...] = (0,)
    written = 0
    total = len(material.splits[split])
    with path.open("wb") as file, Progress(f"Keeping {what} ({split})", total) as progress:
        for row, parts in subjects_with_views(material, split):
            made = np.concatenate([_in_batches(part, make, material.batch_size) for part in parts])
            written += made.nbytes
            _require_room(written, material.scratch_mib, what)
            file.write(np.ascontiguousarray(made, np.float32).tobytes())
            rows.append(row)
            counts.append(tuple(len(part) for part in parts))
            shape = made.shape[1:]
            progress.advance()
    return Kept(
        rows=tuple(rows),
        counts=tuple(counts),
        values=_mapped(path, shape),
        truth=truth_of(material, rows),
        groups=tuple(material.table.rows[row].patient for row in rows),
    )


def _in_batches(views: Views, make: Make, size: int) -> NDArray[np.float32]:
    made = [make(views[first : first + size]) for first in range(0, len(views), size)]
    return np.concatenate(made)


def _mapped(path: Path, shape: tuple[int, ...]) -> NDArray[np.float32]:
    if not path.stat().st_size:
        return np.empty((0, *shape), np.float32)
    # Copy on write: torch wants memory that it may write to, the file stays as it is.
    return np.memmap(path, np.float32, mode="c").reshape(-1, *shape)


def _require_room(written: int, scratch_mib: int, what: str) -> None:
    if written > scratch_mib * MIB:
        raise PermanentError(
            f"the {what} of these images take more than {scratch_mib} MiB of scratch space",
            hint="Raise --scratch-mib, choose smaller views or fewer images, or train another"
            " method.",
        )
