"""Who looks at a subject, and what those say who do not.

Glue between `rules.eligibility` and the loaded models: which instances are usable, which bundles
are meant for them, which renderings the decode pool shall make. Every bundle that does not look
leaves its reason; without a bundle the reason is that none is there (DESIGN sections 3.11 and 4).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from triage.imaging.decode import may_decode
from triage.records import (
    Analysis,
    AnalysisResult,
    HeldInstance,
    ImageFacts,
    Mode,
    SubjectContents,
    ViewSpec,
)
from triage.rules.eligibility import (
    EligibilityPolicy,
    ObjectFacts,
    eligible_object,
    eligible_pixels,
    fits,
    mapped,
)
from triage.worker.models import LoadedModel

NO_MODEL = "no model configured"
NO_HEAD = "no classifier for this encoder"
NO_IMAGES = "no pixels in this object"


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """`looking` may be empty: then `answers` is all there is to say, and nothing is decoded."""

    instances: tuple[HeldInstance, ...] = ()
    looking: tuple[LoadedModel, ...] = ()
    answers: tuple[AnalysisResult, ...] = ()

    def without(self, refused: Mapping[ViewSpec, str]) -> "Plan":
        """Leave out the models whose rendering is not made for this subject, with the reason."""
        looking = tuple(model for model in self.looking if model.view_spec not in refused)
        left = [model for model in self.looking if model.view_spec in refused]
        answers = (refusal(model, refused[model.view_spec]) for model in left)
        return replace(self, looking=looking, answers=(*self.answers, *answers))

    @property
    def waits(self) -> bool:
        """Whether models are meant for this subject and none of them may serve at present.

        What is not looked at for want of a model waits; it is neither negative nor failed.
        """
        meant = [model for model in self.looking if model.mode is Mode.SERVE]
        return bool(meant) and not any(model.served for model in meant)

    @property
    def specs(self) -> tuple[ViewSpec, ...]:
        """The renderings to make, each once."""
        return tuple(dict.fromkeys(model.view_spec for model in self.looking))


def plan_look(
    contents: SubjectContents, models: Sequence[LoadedModel], policy: EligibilityPolicy
) -> Plan:
    """Decide by the headers alone."""
    usable: list[HeldInstance] = []
    reason = NO_IMAGES
    facts = ObjectFacts(too_old_on_arrival=contents.too_old)
    for instance in contents.instances:
        verdict = eligible_object(instance.header, facts, policy)
        if verdict.may_look:
            usable.append(instance)
        else:
            reason = verdict.reason
    if not usable:
        return Plan(answers=refusals(models, reason))
    if reason := _undecodable(usable, policy):
        return Plan(answers=refusals(models, reason))
    if not models:
        return Plan(answers=(refusal(None, NO_MODEL),))
    looking: list[LoadedModel] = []
    answers: list[AnalysisResult] = []
    # One series is one acquisition: its first usable image speaks for the intended use.
    header = mapped(usable[0].header, sender_ae_title=usable[0].sender_ae_title, policy=policy)
    for model in models:
        verdict = fits(model.intended_use, header)
        if not verdict.may_look:
            answers.append(refusal(model, verdict.reason))
        elif model.classify is None:
            answers.append(refusal(model, NO_HEAD))
        else:
            looking.append(model)
    return Plan(instances=tuple(usable), looking=tuple(looking), answers=tuple(answers))


def _undecodable(usable: Sequence[HeldInstance], policy: EligibilityPolicy) -> str:
    """Return why the subject cannot be decoded as a whole, "" if it can.

    One image without a decoder rules out its series: a look at the rest would read as one at all.
    """
    for instance in usable:
        supported = may_decode(instance.header.transfer_syntax_uid)
        facts = ObjectFacts(transfer_syntax_supported=supported)
        verdict = eligible_object(instance.header, facts, policy)
        if not verdict.may_look:
            return verdict.reason
    return ""


def refused_pixels(facts: ImageFacts, policy: EligibilityPolicy) -> str:
    """Return why the decoded pixels are not looked at, "" if they are."""
    verdict = eligible_pixels(facts, policy)
    return "" if verdict.may_look else verdict.reason


def refusals(models: Sequence[LoadedModel], reason: str) -> tuple[AnalysisResult, ...]:
    """Say what rules out the subject itself: once for all that serve, in nobody's name.

    No model has looked, so it is not the word of one, and takes the place of no earlier word of it.
    A shadow's record is kept by its name.
    """
    shadows = tuple(model for model in models if model.mode is Mode.SHADOW)
    of_shadows = tuple(refusal(model, reason) for model in shadows)
    return (
        of_shadows
        if models and len(shadows) == len(models)
        else (refusal(None, reason), *of_shadows)
    )


def refusal(model: LoadedModel | None, reason: str) -> AnalysisResult:
    """Not eligible: a reason and no score."""
    return AnalysisResult(
        model=model.identity if model else None,
        mode=model.mode if model else Mode.SERVE,
        analysis=Analysis.NOT_ELIGIBLE,
        reason=reason,
        not_for_clinical_use=bool(model and model.not_for_clinical_use),
    )
