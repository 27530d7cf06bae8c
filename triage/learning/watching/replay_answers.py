"""Who answers in a replay: a bundle by what is stored, or a shadow by what it has said.

A bundle's own results are flagged anew at its present thresholds; otherwise stored embeddings go
through its head by `classify_subject`, the code that serves. They must be what its own encoder
would give: same encoder, features, rendering and preprocessing. The kind of hardware that made them
is told, and no reason to leave them out.
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import replace
from enum import StrEnum
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from triage.database.scores import Scope, StoredPart, StoredStudy
from triage.errors import InferenceError, PermanentError
from triage.imaging.decode import may_decode
from triage.inference.bundle import Bundle, embedding_scope
from triage.inference.classifier import NO_CLASSIFIER, OUT_OF_DISTRIBUTION, classify_subject
from triage.records import Analysis, AnalysisResult, Finding, ImageFacts, Mode
from triage.rules.eligibility import (
    EligibilityPolicy,
    ObjectFacts,
    eligible_object,
    eligible_pixels,
    fits,
    mapped,
)

Vectors = Mapping[str, NDArray[np.float32]]


class Missing(StrEnum):
    """Why a study cannot be replayed. All but EXPIRED can be mended by another look."""

    NEVER = "no embedding is stored: it failed or was refused before it was embedded"
    OTHER = "embedded in another way: other encoder, features, rendering or preprocessing"
    UNKNOWN = "how it was embedded is not on record"
    EXPIRED = "its images and embeddings have expired"
    NOT_RECORDED = "the shadow has not looked at it"


class Answers(Protocol):
    """What stands in for the served models: asked twice, first for keys, then with vectors."""

    def keys(self, part: StoredPart, study: StoredStudy) -> tuple[str, ...]: ...

    def answer(
        self, part: StoredPart, study: StoredStudy, vectors: Vectors
    ) -> AnalysisResult | Missing: ...


class NewBundle:
    """A bundle by what is stored. `scopes` tells what each known bundle's embeddings depend on."""

    def __init__(
        self, bundle: Bundle, *, scopes: Iterable[Scope], policy: EligibilityPolicy
    ) -> None:
        self._bundle = bundle
        self._policy = policy
        self._usable: dict[str, set[str]] = {}  # bundle digest: kinds of hardware
        self._known: set[str] = set()
        self.hardware: Counter[str] = Counter()
        for scope in scopes:
            self._known.add(scope.bundle_digest)
            hardware = usable_as(scope, bundle)
            if hardware is not None:
                self._usable.setdefault(scope.bundle_digest, set()).add(hardware)

    def keys(self, part: StoredPart, study: StoredStudy) -> tuple[str, ...]:
        if self._own(part) is not None or self._refusal(part, study):
            return ()
        source = self._source(part)
        return source.embedding_keys if source else ()

    def answer(
        self, part: StoredPart, study: StoredStudy, vectors: Vectors
    ) -> AnalysisResult | Missing:
        own = self._own(part)
        if own is not None:
            return _rethreshold(own, self._bundle)
        if reason := self._refusal(part, study) or self._unsuitable(part):
            return self._result(Analysis.NOT_ELIGIBLE, reason)
        if part.pending and not part.results:
            return self._result(Analysis.PENDING, "")
        source = self._source(part)
        keys = source.embedding_keys if source else ()
        found = [vectors[key] for key in keys if key in vectors]
        if source is None or len(found) < len(keys):
            return self._missing(part)
        self.hardware[self._hardware(source)] += 1
        return self._judged(np.stack(found))

    def _judged(self, vectors: NDArray[np.float32]) -> AnalysisResult:
        try:
            said = classify_subject(self._bundle, vectors)
        except InferenceError as error:
            return self._result(Analysis.FAILED, str(error))
        if not said.in_distribution:
            return self._result(Analysis.NOT_ELIGIBLE, OUT_OF_DISTRIBUTION, distance=said.distance)
        return self._result(Analysis.ANALYSED, "", findings=said.findings, distance=said.distance)

    def _own(self, part: StoredPart) -> AnalysisResult | None:
        """What this very bundle has said, by its head or its gate."""
        digest = self._bundle.identity.digest
        mine = [each for each in _newest(part) if each.model and each.model.digest == digest]
        spoke = [each for each in mine if each.findings or each.distance is not None]
        return spoke[0] if spoke else None

    def _refusal(self, part: StoredPart, study: StoredStudy) -> str:
        """Return why the bundle would not look, by the header; as the worker plans it."""
        if part.header is None:
            return ""
        facts = ObjectFacts(
            transfer_syntax_supported=may_decode(part.header.transfer_syntax_uid),
            too_old_on_arrival=study.too_old,
        )
        verdict = eligible_object(part.header, facts, self._policy)
        if not verdict.may_look:
            return verdict.reason
        header = mapped(part.header, sender_ae_title=part.sender_ae_title, policy=self._policy)
        verdict = fits(self._bundle.intended_use, header)
        if not verdict.may_look:
            return verdict.reason
        return "" if self._bundle.head is not None else NO_CLASSIFIER

    def _unsuitable(self, part: StoredPart) -> str:
        """Return why the pixels ruled out every look; that holds for any bundle."""
        blank = ImageFacts(
            rows=1 << 16, columns=1 << 16, number_of_frames=1, minimum=0.0, maximum=0.0,
            finite=True, blank=True,
        )  # fmt: skip
        reasons = {
            eligible_pixels(blank, self._policy).reason,
            eligible_pixels(replace(blank, rows=0), self._policy).reason,
        }
        told = {each.reason for each in part.results}
        return next(iter(sorted(told & reasons - {""})), "")

    def _source(self, part: StoredPart) -> AnalysisResult | None:
        """Return a result whose embeddings this bundle's own encoder would have given."""
        usable = (
            each
            for each in _newest(part)
            if each.embedding_keys and each.model and each.model.digest in self._usable
        )
        return next(usable, None)

    def _hardware(self, source: AnalysisResult) -> str:
        kinds = self._usable[source.model.digest] if source.model else set()
        return " or ".join(sorted(kinds - {""})) or "hardware not on record"

    def _missing(self, part: StoredPart) -> Missing:
        if part.expired:
            return Missing.EXPIRED
        embedded = [each for each in part.results if each.embedding_keys and each.model]
        if not embedded or self._source(part) is not None:
            return Missing.NEVER
        known = any(each.model and each.model.digest in self._known for each in embedded)
        return Missing.OTHER if known else Missing.UNKNOWN

    def _result(
        self,
        analysis: Analysis,
        reason: str,
        *,
        findings: tuple[Finding, ...] = (),
        distance: float | None = None,
    ) -> AnalysisResult:
        return AnalysisResult(
            model=self._bundle.identity,
            mode=Mode.SERVE,
            analysis=analysis,
            reason=reason,
            findings=findings,
            distance=distance,
            not_for_clinical_use=self._bundle.not_for_clinical_use,
        )


class RecordedShadow:
    """What the shadow of this bundle digest has said when the studies came."""

    def __init__(self, digest: str) -> None:
        self._digest = digest

    def keys(self, part: StoredPart, study: StoredStudy) -> tuple[str, ...]:
        return ()

    def answer(
        self, part: StoredPart, study: StoredStudy, vectors: Vectors
    ) -> AnalysisResult | Missing:
        for result in part.results:
            model = result.model
            if result.mode is Mode.SHADOW and model and model.digest == self._digest:
                return replace(result, mode=Mode.SERVE)
        if part.pending and not part.results:
            return AnalysisResult(model=None, mode=Mode.SERVE, analysis=Analysis.PENDING)
        return Missing.NOT_RECORDED


def _newest(part: StoredPart) -> list[AnalysisResult]:
    """Return what the newest look has given: an earlier one may have seen other images."""
    return [each for each in part.results if not each.earlier]


def usable_as(scope: Scope, bundle: Bundle) -> str | None:
    """Return the kind of hardware that made embeddings of this scope, None if of no use here.

    "" where that is not on record.
    """
    parts = scope.cache_scope.split("|")
    hardware = parts[2] if len(parts) > 2 else ""
    own = embedding_scope(
        encoder_digest=bundle.encoder_digest,
        preprocessing_version=bundle.manifest.preprocessing_version,
        answer_key=hardware,
        features_digest=bundle.features_digest,
    )
    return hardware if scope.view == bundle.view_spec and scope.cache_scope == own else None


def scope_of(bundle: Bundle, hardware: str = "") -> Scope:
    """Return what a bundle's embeddings depend on, told by the bundle itself."""
    return Scope(
        bundle_digest=bundle.identity.digest,
        bundle_name=bundle.identity.name,
        bundle_version=bundle.identity.version,
        cache_scope=embedding_scope(
            encoder_digest=bundle.encoder_digest,
            preprocessing_version=bundle.manifest.preprocessing_version,
            answer_key=hardware,
            features_digest=bundle.features_digest,
        ),
        view=bundle.view_spec,
    )


def with_operating_points(bundle: Bundle, points: Mapping[str, float]) -> Bundle:
    """Return the bundle with other thresholds. Raises PermanentError for an unknown finding."""
    names = {spec.name for spec in bundle.manifest.findings}
    for name, point in points.items():
        if name not in names:
            raise PermanentError(
                f"the bundle has no finding {name}", hint=f"It has {', '.join(sorted(names))}."
            )
        if not 0.0 <= point <= 1.0:
            raise PermanentError(
                f"{point:g} is no operating point of {name}",
                hint="It is a calibrated probability, from 0 to 1.",
            )
    findings = tuple(
        replace(spec, operating_point=points.get(spec.name, spec.operating_point))
        for spec in bundle.manifest.findings
    )
    return replace(bundle, manifest=replace(bundle.manifest, findings=findings))


def _rethreshold(said: AnalysisResult, bundle: Bundle) -> AnalysisResult:
    """Return what the bundle said, flagged anew at its present operating points."""
    points = {spec.name: spec for spec in bundle.manifest.findings}
    findings = tuple(
        replace(
            finding,
            operating_point=points[finding.name].operating_point,
            flagged=finding.probability >= points[finding.name].operating_point,
            raises_to=points[finding.name].raises_to,
        )
        for finding in said.findings
    )
    return replace(said, mode=Mode.SERVE, findings=findings)
