"""Ten lines of arithmetic in place of an encoder, that count what they are asked."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image

from triage.errors import InferenceError, TriageError
from triage.learning.material.labels import LabelRow
from triage.learning.material.lens import Lens
from triage.records import ViewSpec
from triage.rules.eligibility import IntendedUse
from triage.worker.models import Encoded, View

SPEC = ViewSpec(rendering="dicom", size_px=16)
SPOILT = 0.9  # a view brighter than this cannot be embedded


@dataclass(kw_only=True)
class Counting:
    """Mean, deviation and middle of each view; fails for views that are too bright."""

    asked: list[int] = field(default_factory=list)  # views of each batch

    def __call__(self, views: Sequence[View]) -> list[Encoded | TriageError]:
        self.asked.append(len(views))
        return [self._answer(view) for view in views]

    @staticmethod
    def _answer(view: View) -> Encoded | TriageError:
        if view.mean() > SPOILT:
            return InferenceError("too bright")
        values = (view.mean(), view.std(), view[0, 8, 8])
        return Encoded(vector=np.array(values, np.float32))


def lens_with(encode: Counting, *, scope: str = "toy|1|float32-cpu", spec: ViewSpec = SPEC) -> Lens:
    return Lens(spec=spec, scope=scope, encode=encode, use=IntendedUse())


def films(directory: Path, count: int) -> list[LabelRow]:
    """Write `count` different pictures and a row for each."""
    rows = []
    for number in range(count):
        pixels = np.full((20, 20), 10 + number, np.uint8)
        pixels[5:9, 5:9] = 200 - number
        Image.fromarray(pixels).save(directory / f"{number}.png")
        rows.append(film_row(f"{number}.png", number + 2))
    return rows


def film_row(subject: str, line: int) -> LabelRow:
    return LabelRow(subject=subject, group="", truth=(0.0,), split="", strata={}, line=line)
