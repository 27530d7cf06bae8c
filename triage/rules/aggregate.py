"""Decide what a study's parts say together: analysis state, reason, counts, findings.

A part is what is looked at on its own, one projection image or one series. Several bundles may
have spoken about it; only what they serve counts, shadow results never. A study with a failed or
missing part says so even when another part is flagged, and a study without a flag says how
much of it was looked at: absence of a flag never reads as negative. A flag of an earlier look that
still stands (`rules.standing`) is told without counting as a look. Source: DESIGN section 4.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from triage.records import Analysis, AnalysisResult, Finding, Mode, ModelIdentity
from triage.rules.ranks import highest

NO_IMAGES = "no image in this study"
NO_SERVING_MODEL = "no model serves"  # only shadow models spoke
FLAGGED_EARLIER = "flagged by an earlier look"
CONFLICT_REASON = "other pixels arrived under the same SOP Instance UID"


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """One image or series and the current results about it."""

    results: tuple[AnalysisResult, ...] = ()  # superseded ones left out
    pending: bool = False  # still arriving, or a job for its generation is not finished
    images: int = 1  # instances in it


@dataclass(frozen=True, slots=True, kw_only=True)
class Aggregate:
    """What the worklist shows of a study's analysis.

    `images_eligible` counts pending images too: nobody has found them ineligible. `analysis_reason`
    is "" only where every image of the study was analysed.
    """

    analysis: Analysis
    analysis_reason: str
    images_eligible: int
    images_analysed: int
    findings: tuple[Finding, ...]  # one per name, flagged ones first, then by probability
    models: tuple[ModelIdentity, ...]
    not_for_clinical_use: bool

    @property
    def flagged_findings(self) -> frozenset[str]:
        """Names of the flagged findings: what decisions and acknowledgements refer to."""
        return frozenset(finding.name for finding in self.findings if finding.flagged)


def aggregate(parts: Sequence[Part], *, conflicts: int = 0, expired: int = 0) -> Aggregate:
    """Combine a study's parts.

    `conflicts` counts its objects that are held apart because their pixels differ from the image
    of the same UID: eligible images that nobody looked at, so the study is not fully analysed. A
    pending part keeps the findings of its earlier results until new ones take their place.
    `expired` counts the images that are gone since an earlier look at their series.
    """
    states = [(part, _state_of(part)) for part in parts]
    images = Counter[Analysis]()
    for part, state in states:
        images[state] += part.images
    images[Analysis.FAILED] += conflicts
    served = [result for part in parts for result in _heard(part)]
    return Aggregate(
        analysis=_study_state(images),
        analysis_reason=_reason(states, images, conflicts, expired),
        images_eligible=images.total() - images[Analysis.NOT_ELIGIBLE],
        images_analysed=images[Analysis.ANALYSED],
        findings=_findings(served),
        models=_models(served),
        not_for_clinical_use=any(result.not_for_clinical_use for result in served),
    )


def _served(part: Part) -> list[AnalysisResult]:
    return [each for each in part.results if each.mode is Mode.SERVE and not each.earlier]


def _flagged_earlier(part: Part) -> list[AnalysisResult]:
    """The flags alone of what was served before the newest look."""
    kept = [
        replace(each, findings=tuple(finding for finding in each.findings if finding.flagged))
        for each in part.results
        if each.mode is Mode.SERVE and each.earlier
    ]
    return [each for each in kept if each.findings]


def _heard(part: Part) -> list[AnalysisResult]:
    looked = [each for each in _served(part) if each.analysis is Analysis.ANALYSED]
    return looked + _flagged_earlier(part)


def _state_of(part: Part) -> Analysis:
    """Failure of one bundle is failure of the part; not eligible only if for every bundle."""
    states = {result.analysis for result in _served(part)}
    if Analysis.FAILED in states and not part.pending:
        return Analysis.FAILED
    if part.pending or not part.results or Analysis.PENDING in states:
        return Analysis.PENDING
    return Analysis.ANALYSED if Analysis.ANALYSED in states else Analysis.NOT_ELIGIBLE


def _study_state(images: Counter[Analysis]) -> Analysis:
    order = (Analysis.FAILED, Analysis.PENDING, Analysis.ANALYSED)
    return next((state for state in order if images[state]), Analysis.NOT_ELIGIBLE)


def _reason(
    states: Sequence[tuple[Part, Analysis]],
    images: Counter[Analysis],
    conflicts: int,
    expired: int,
) -> str:
    if not images.total():
        return NO_IMAGES
    declined = _reasons(states, Analysis.NOT_ELIGIBLE)
    if len(declined) == 1 and images[Analysis.NOT_ELIGIBLE] == images.total():
        return next(iter(declined))
    sentences = []
    failed = _reasons(states, Analysis.FAILED) + Counter({CONFLICT_REASON: conflicts})
    if images[Analysis.FAILED]:
        sentences.append(f"failed: {_listed(failed)}")
    if images[Analysis.PENDING]:
        sentences.append(f"waiting for analysis: {_images(images[Analysis.PENDING])}")
    if images[Analysis.NOT_ELIGIBLE]:
        sentences.append(f"not eligible: {_listed(declined)}")
    if expired:
        sentences.append(f"expired before the last look: {_images(expired)}")
    return "; ".join(sentences)


def _reasons(states: Iterable[tuple[Part, Analysis]], wanted: Analysis) -> Counter[str]:
    """Images by reason; a part that several bundles declined gives each reason once."""
    reasons = Counter[str]()
    for part, state in states:
        if state is wanted:
            said = {result.reason for result in _served(part) if result.analysis is wanted}
            unsaid = "no reason given" if _served(part) else NO_SERVING_MODEL
            why = " / ".join(sorted(said - {""})) or unsaid
            reasons[f"{why}; {FLAGGED_EARLIER}" if _flagged_earlier(part) else why] += part.images
    return reasons


def _listed(reasons: Counter[str]) -> str:
    return ", ".join(
        f"{_images(count)} ({reason})" for reason, count in sorted(reasons.items()) if count
    )


def _images(count: int) -> str:
    return f"{count} image" if count == 1 else f"{count} images"


def _findings(served: Iterable[AnalysisResult]) -> tuple[Finding, ...]:
    """Keep per name the score that weighs most: flagged before not, then the higher one."""
    kept: dict[str, Finding] = {}
    for finding in (finding for result in served for finding in result.findings):
        held = kept.get(finding.name)
        kept[finding.name] = finding if held is None else _stronger(held, finding)
    return tuple(sorted(kept.values(), key=lambda each: (*_weight(each, -1), each.name)))


def _stronger(held: Finding, new: Finding) -> Finding:
    winner = max(held, new, key=lambda finding: _weight(finding, 1))
    if held.flagged and new.flagged:
        return replace(winner, raises_to=highest(held.raises_to, new.raises_to))
    return winner


def _weight(finding: Finding, sign: int) -> tuple[int, float]:
    return sign * finding.flagged, sign * finding.probability


def _models(served: Iterable[AnalysisResult]) -> tuple[ModelIdentity, ...]:
    found = {result.model.digest: result.model for result in served if result.model}
    return tuple(sorted(found.values(), key=lambda model: (model.name, model.digest)))
