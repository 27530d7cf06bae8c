"""From decoded subjects to results: embed together, classify one by one.

Every model answers for every subject that it was asked about; a failure belongs to one model and
one subject. Knows no SQL and no job.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from triage.errors import TransientError, TriageError
from triage.imaging.decode_pool import DecodedSubject
from triage.records import Analysis, AnalysisResult, Mode
from triage.worker.batching import Embedded, Views, cache_key, embed_subjects
from triage.worker.models import Judgement, LoadedModel, Vector

OUT_OF_DISTRIBUTION = "image is unlike those the model was made for"


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """One decoded subject and the models that shall look at it."""

    decoded: DecodedSubject
    models: tuple[LoadedModel, ...]


@dataclass(kw_only=True)
class Seen:
    """All answers about one subject. `embeddings` are new ones, to be kept."""

    results: list[AnalysisResult] = field(default_factory=list)
    errors: list[TriageError] = field(default_factory=list)  # of served models
    embeddings: dict[str, Vector] = field(default_factory=dict)
    features: dict[str, tuple[object | None, ...]] = field(default_factory=dict)  # bundle digest ->

    def failure(self) -> TriageError | None:
        """Return the error that decides about the job: one worth a retry first."""
        transient = [error for error in self.errors if isinstance(error, TransientError)]
        return next(iter([*transient, *self.errors]), None)

    @property
    def answered(self) -> bool:
        """Whether any served model has looked."""
        return any(
            result.mode is Mode.SERVE and result.analysis is Analysis.ANALYSED
            for result in self.results
        )


def keys_of(questions: Sequence[Question]) -> set[str]:
    """Return the cache keys of every view that is asked about."""
    return {
        cache_key(digest, model.cache_scope)
        for question in questions
        for model in question.models
        for digest in question.decoded.view_digests[model.view_spec]
    }


def look(
    questions: Sequence[Question], *, cached: Mapping[str, Vector], batch_size: int
) -> list[Seen]:
    """Answer all questions, model by model in common batches. Raises DeviceFault."""
    seen = [Seen() for _ in questions]
    models = {id(model): model for question in questions for model in question.models}
    for model in models.values():
        asked = [
            number
            for number, question in enumerate(questions)
            if any(model is each for each in question.models)
        ]
        views = [_views(questions[number].decoded, model) for number in asked]
        answers = embed_subjects(model, views, cached=cached, batch_size=batch_size)
        for number, answer in zip(asked, answers, strict=True):
            _note(seen[number], model, answer, cached)
    return seen


def _views(decoded: DecodedSubject, model: LoadedModel) -> Views:
    return Views(
        views=decoded.views[model.view_spec], digests=decoded.view_digests[model.view_spec]
    )


def _note(
    seen: Seen,
    model: LoadedModel,
    answer: Embedded | TriageError,
    cached: Mapping[str, Vector],
) -> None:
    if isinstance(answer, TriageError):
        _note_failure(seen, model, answer)
        return
    if model.classify is None:
        raise ValueError("a model without a head was asked")  # planning leaves it out
    try:
        judgement = model.classify(answer.vectors)
    except TriageError as error:
        _note_failure(seen, model, error)
        return
    for key, vector in zip(answer.keys, answer.vectors, strict=True):
        if key not in cached:
            seen.embeddings[key] = np.asarray(vector, dtype=np.float32)
    seen.features[model.identity.digest] = answer.features
    seen.results.append(_result(model, judgement, answer.keys))


def _note_failure(seen: Seen, model: LoadedModel, error: TriageError) -> None:
    if model.mode is Mode.SERVE:
        seen.errors.append(error)
    seen.results.append(failure(model, error))


def failure(model: LoadedModel, error: TriageError) -> AnalysisResult:
    """Return what is kept of a model that could not look."""
    return AnalysisResult(
        model=model.identity,
        mode=model.mode,
        analysis=Analysis.FAILED,
        reason=str(error),
        not_for_clinical_use=model.not_for_clinical_use,
    )


def _result(model: LoadedModel, judgement: Judgement, keys: tuple[str, ...]) -> AnalysisResult:
    """Out of distribution: no finding is told, however certain the head is."""
    fits = judgement.in_distribution
    return AnalysisResult(
        model=model.identity,
        mode=model.mode,
        analysis=Analysis.ANALYSED if fits else Analysis.NOT_ELIGIBLE,
        reason="" if fits else OUT_OF_DISTRIBUTION,
        findings=judgement.findings if fits else (),
        distance=judgement.distance,
        not_for_clinical_use=model.not_for_clinical_use,
        embedding_keys=keys,
    )
