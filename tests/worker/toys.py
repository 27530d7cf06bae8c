"""Toy models and toy images: an image's mean brightness is its embedding and its diagnosis."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from triage.errors import InferenceError, TriageError
from triage.imaging.decode_pool import DecodedSubject
from triage.imaging.views import view_digest
from triage.records import (
    Caption,
    Finding,
    ImageFacts,
    Mode,
    ModelIdentity,
    Rank,
    ViewSpec,
)
from triage.rules.eligibility import IntendedUse
from triage.worker.models import Encoded, Judgement, LoadedModel, Remembered, View

SPEC = ViewSpec(rendering="dicom", size_px=16)
BRIGHT = 0.6  # mean brightness from which the toy finding is flagged
FACTS = ImageFacts(
    rows=128, columns=128, number_of_frames=1, minimum=0, maximum=4095, finite=True, blank=False
)


@dataclass
class Toy:
    """A model of arithmetic that counts its calls. `poison` says which views it cannot take."""

    name: str = "toy"
    poison: Callable[[View], TriageError | None] = lambda view: None
    encoded: list[int] = field(default_factory=list)  # size of each batch
    described: list[Remembered] = field(default_factory=list)
    checks: list[TriageError | None] = field(default_factory=list)  # answers to come, then none

    def encode(self, views: Sequence[View]) -> list[Encoded | TriageError]:
        self.encoded.append(len(views))
        return [
            self.poison(view)
            or Encoded(
                vector=np.full(4, view.mean(), np.float32), features=f"kept {view.mean():.2f}"
            )
            for view in views
        ]

    def classify(self, vectors: NDArray[np.float32]) -> Judgement:
        brightness = float(vectors.mean(axis=1).max())
        return Judgement(
            findings=(finding(brightness),),
            distance=0.1,
            in_distribution=True,
        )

    def describe(self, entries: Sequence[Remembered]) -> list[Caption | TriageError]:
        self.described.extend(entries)
        return [
            Caption(text="Bright lung.", prompt_digest="0" * 64, model=self.identity)
            for _ in entries
        ]

    def check(self) -> None:
        if self.checks and (error := self.checks.pop(0)):
            raise error

    @property
    def identity(self) -> ModelIdentity:
        return ModelIdentity(name=self.name, version="1", digest=f"digest of {self.name}")

    def loaded(self, **changes: Any) -> LoadedModel:
        model = LoadedModel(
            identity=self.identity,
            mode=Mode.SERVE,
            view_spec=SPEC,
            intended_use=IntendedUse(modalities=("CR", "DX")),
            not_for_clinical_use=True,
            cache_scope=f"scope of {self.name}",
            encode=self.encode,
            classify=self.classify,
            check=self.check,
            describe=self.describe,
        )
        return replace(model, **changes)


def finding(probability: float) -> Finding:
    return Finding(
        name="brightness",
        code=None,
        probability=probability,
        operating_point=BRIGHT,
        flagged=probability >= BRIGHT,
        raises_to=Rank.HIGH,
    )


def poisoned_by(brightness: float) -> Callable[[View], TriageError | None]:
    """Return a poison: views of this brightness give no finite value."""

    def poison(view: View) -> TriageError | None:
        if abs(float(view.mean()) - brightness) < 1e-3:
            return InferenceError("not finite")
        return None

    return poison


def picture(brightness: float, *, views: int = 1, spec: ViewSpec = SPEC) -> DecodedSubject:
    """Return a decoded subject whose views are all of one brightness."""
    shape = (views, 1, spec.size_px, spec.size_px)
    stack = np.full(shape, brightness, np.float32) + np.arange(views, dtype=np.float32).reshape(
        -1, 1, 1, 1
    ) * np.float32(1e-6)
    return DecodedSubject(
        views={spec: stack},
        view_digests={spec: tuple(view_digest(view) for view in stack)},
        pixel_digests=(f"pixels {brightness}",),
        facts=FACTS,
    )
