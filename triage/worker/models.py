"""What the worker asks of a model: a few callables, whoever stands behind them.

`serving` fills these records from bundles; tests fill them with ten lines of arithmetic. Knows
neither torch nor the format of a bundle.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from triage.errors import TriageError
from triage.records import Caption, Finding, Mode, ModelIdentity, ViewSpec
from triage.rules.eligibility import IntendedUse

Vector: TypeAlias = NDArray[np.float32]  # (D,)
View: TypeAlias = NDArray[np.float32]  # (C, S, S) in 0..1, C is 1 or 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Encoded:
    """One view, embedded. `features` is what the captioner reuses, opaque to the worker."""

    vector: Vector
    features: object | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Remembered:
    """One view of a subject, and what the encoder of that bundle made of it, if still at hand."""

    bundle_digest: str
    view: View
    features: object | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Judgement:
    """What a head says of one subject. Out of distribution: no findings, whatever they were."""

    findings: tuple[Finding, ...]
    distance: float | None
    in_distribution: bool


Encode: TypeAlias = Callable[[Sequence[View]], Sequence[Encoded | TriageError]]
Classify: TypeAlias = Callable[[NDArray[np.float32]], Judgement]
Describe: TypeAlias = Callable[[Sequence[Remembered]], Sequence[Caption | TriageError]]


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadedModel:
    """One bundle that holds its known answer and is resident in this process.

    `encode` answers once per view, in order, with the error in the place of a view that failed
    even alone; raises DeviceFault. `classify` takes (V, D), all
    views of one subject; raises InferenceError. `describe` writes one caption per entry;
    raises as `encode` does. `check` raises KnownAnswerError.
    """

    identity: ModelIdentity
    mode: Mode
    view_spec: ViewSpec
    intended_use: IntendedUse
    not_for_clinical_use: bool
    cache_scope: str  # bundle.embedding_scope: what an embedding depends on beside the view
    encode: Encode
    classify: Classify | None  # None: bundle without a head
    check: Callable[[], None]
    describe: Describe | None = None
    served: bool = True  # False: it answers every question with its error
    # Why it is a shadow although configured to serve, and what to do; "" where it is as configured.
    shadow_reason: str = ""
    shadow_hint: str = ""
