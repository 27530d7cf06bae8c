"""Scores of labelled subjects, through the code that serves.

Owns `Scored`, the one table that evaluation, comparison and calibration read, and its making: each
image or series of a subject is judged by `classify_subject`, as the daemon does, and a study has
the highest probability of its parts. What the gate turned away and what could not be read stay in
the table without a score: they are counted, never dropped. Reads no pixel.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

import numpy as np
from numpy.typing import NDArray

from triage.errors import InferenceError, PermanentError

if TYPE_CHECKING:
    from triage.inference.bundle import Bundle
    from triage.learning.material.embedding_set import EmbeddingSet
    from triage.learning.material.labels import LabelRow, LabelTable

NOT_EMBEDDED: Final = "no embedding of this subject"


@dataclass(frozen=True, slots=True, kw_only=True)
class Scored:
    """N subjects with F findings; a row without a score is `gated` or `failed`, with a reason."""

    findings: tuple[str, ...]
    subjects: tuple[str, ...]
    groups: tuple[str, ...]  # patients
    truth: NDArray[np.float64]  # (N, F) 1, 0, NaN = not known
    probabilities: NDArray[np.float64]  # (N, F); NaN without a score
    gated: NDArray[np.bool_]  # (N,) unlike the images that the bundle was made for
    failed: NDArray[np.bool_]  # (N,) could not be read, or gave an impossible answer
    reasons: tuple[str, ...]  # "" with a score
    strata: tuple[Mapping[str, str], ...]

    @property
    def has_score(self) -> NDArray[np.bool_]:
        return ~(self.gated | self.failed)

    def known(self, finding: int) -> NDArray[np.bool_]:
        """Rows (N,) with a score and a known truth for this finding."""
        return np.asarray(self.has_score & np.isfinite(self.truth[:, finding]), np.bool_)

    def take(self, rows: Sequence[int] | NDArray[np.intp]) -> "Scored":
        """Return these rows, in this order."""
        at = np.asarray(rows, np.intp)
        return replace(
            self,
            subjects=tuple(self.subjects[row] for row in at),
            groups=tuple(self.groups[row] for row in at),
            truth=self.truth[at],
            probabilities=self.probabilities[at],
            gated=self.gated[at],
            failed=self.failed[at],
            reasons=tuple(self.reasons[row] for row in at),
            strata=tuple(self.strata[row] for row in at),
        )


def score(
    bundle: "Bundle",
    embeddings: "EmbeddingSet",
    table: "LabelTable",
    rows: Sequence[int] | None = None,
) -> Scored:
    """Judge the `rows` of the table (all of them by default) by the bundle.

    The findings are those that both know, in the bundle's order, compared without regard to case.
    Raises PermanentError where they share none or the bundle has no head.
    """
    columns = require_shared(bundle, table)
    chosen = [table.rows[row] for row in (range(len(table.rows)) if rows is None else rows)]
    judged = _judge(bundle, embeddings, chosen)
    use = [number for number, _ in columns.values()]
    probabilities = np.array([each.probabilities for each in judged]).reshape(len(judged), -1)
    return Scored(
        findings=tuple(columns),
        subjects=tuple(row.subject for row in chosen),
        groups=tuple(row.patient for row in chosen),
        truth=np.array(
            [[row.truth[column] for _, column in columns.values()] for row in chosen], np.float64
        ).reshape(len(chosen), len(columns)),
        probabilities=probabilities[:, use] if chosen else np.empty((0, len(columns))),
        gated=np.array([each.gated for each in judged], np.bool_),
        failed=np.array([each.failed for each in judged], np.bool_),
        reasons=tuple(each.reason for each in judged),
        strata=tuple(row.strata for row in chosen),
    )


def require_shared(bundle: "Bundle", table: "LabelTable") -> dict[str, tuple[int, int]]:
    """Return `shared_findings`; raises PermanentError where there is none."""
    columns = shared_findings(bundle, table)
    if bundle.head is None or not columns:
        raise PermanentError(
            f"the bundle and the table of labels share no finding: the bundle has"
            f" {_listed([spec.name for spec in bundle.manifest.findings])}, the table"
            f" {_listed(table.findings)}",
            hint="Name the columns after the findings of `triage bundle show BUNDLE`; a finding"
            " made by --positive COLUMN=WORD has the name of its word.",
        )
    return columns


def shared_findings(bundle: "Bundle", table: "LabelTable") -> dict[str, tuple[int, int]]:
    """Number in the bundle and column of the table, by the bundle's name of the finding."""
    columns = {name.casefold(): column for column, name in enumerate(table.findings)}
    return {
        spec.name: (number, columns[spec.name.casefold()])
        for number, spec in enumerate(bundle.manifest.findings)
        if spec.name.casefold() in columns
    }


# --- one subject


@dataclass(frozen=True, slots=True, kw_only=True)
class _Judged:
    probabilities: tuple[float, ...]
    gated: bool = False
    failed: bool = False
    reason: str = ""


def _judge(
    bundle: "Bundle", embeddings: "EmbeddingSet", rows: Sequence["LabelRow"]
) -> list[_Judged]:
    at = {subject: number for number, subject in enumerate(embeddings.subjects)}
    why = {left.line: left.reason for left in embeddings.left_out}
    nothing = (math.nan,) * len(bundle.manifest.findings)
    judged = []
    for row in rows:
        number = at.get(row.subject)
        if number is None:
            reason = why.get(row.line, NOT_EMBEDDED)
            judged.append(_Judged(probabilities=nothing, failed=True, reason=reason))
        else:
            vectors, parts = embeddings.vectors[number], embeddings.parts[number]
            judged.append(_judge_parts(bundle, vectors, parts, nothing))
    return judged


def _judge_parts(
    bundle: "Bundle",
    vectors: NDArray[np.float32],
    parts: tuple[int, ...],
    nothing: tuple[float, ...],
) -> _Judged:
    """One failed part fails the study, as in the daemon; a gated part says nothing."""
    from triage.inference.classifier import classify_subject

    ends = np.cumsum(parts)
    spoken, reason = [], ""
    try:
        for end, views in zip(ends, parts, strict=True):
            verdict = classify_subject(bundle, vectors[int(end) - views : int(end)])
            if verdict.findings:
                spoken.append([finding.probability for finding in verdict.findings])
            else:
                reason = verdict.reason
    except InferenceError as error:
        return _Judged(probabilities=nothing, failed=True, reason=str(error))
    if not spoken:
        return _Judged(probabilities=nothing, gated=True, reason=reason)
    return _Judged(probabilities=tuple(np.max(spoken, axis=0).tolist()))


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names) or "none"
