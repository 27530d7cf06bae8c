"""The one commit at the end of a look, and when the words are due.

Decides nothing about priority: `results.commit_analysis` hands the results to the rules and writes
everything together (DESIGN sections 3.6 and 3.9).
"""

from collections.abc import Mapping, Sequence

import structlog

from triage.database import results
from triage.database.connection import Database
from triage.errors import DecodeUnsupported, TransientError, TriageError
from triage.imaging.decode_pool import DecodedSubject
from triage.records import Analysis, AnalysisResult, Job, Mode
from triage.rules.policies import Policies
from triage.worker.looking import Seen, failure
from triage.worker.memory import Memory
from triage.worker.models import LoadedModel, Remembered, Vector
from triage.worker.outcomes import attempt
from triage.worker.planning import Plan, refusals, refused_pixels
from triage.worker.settings import WorkerSettings
from triage.worker.stopwatch import Stopwatch

log = structlog.get_logger(__name__)


class Finisher:
    """Writes the end of analysis jobs. Lost leases and an absent database end in nothing."""

    def __init__(
        self, db: Database, *, memory: Memory, policies: Policies, settings: WorkerSettings
    ) -> None:
        self._db = db
        self._memory = memory
        self._policies = policies
        self._settings = settings

    def without_pixels(self, job: Job, plan: Plan) -> None:
        """Commit what the headers alone decided."""
        self._commit(job, plan.answers, pixel_digests={}, embeddings={}, caption_due=False)

    def undecodable(self, job: Job, plan: Plan, error: TriageError) -> bool:
        """Commit what stands without pixels; False where the error is a failure of the job.

        "Not eligible" where no decoder exists. Where only shadows were to look, their failure is
        theirs alone: the study stands as it would without them.
        """
        if isinstance(error, DecodeUnsupported):
            self._refused(job, plan, str(error), pixel_digests={})
        elif any(model.mode is Mode.SERVE for model in plan.looking):
            return False
        else:
            answers = (*plan.answers, *(failure(model, error) for model in plan.looking))
            self._commit(job, answers, pixel_digests={}, embeddings={}, caption_due=False)
        return True

    def unsuitable(self, job: Job, plan: Plan, decoded: DecodedSubject) -> bool:
        """Commit "not eligible" where the pixels themselves rule out a look."""
        reason = refused_pixels(decoded.facts, self._policies.eligibility)
        if reason:
            self._refused(job, plan, reason, pixel_digests=_digests(plan, decoded))
        return bool(reason)

    def may_stand(self, job: Job, seen: Seen, error: TriageError) -> bool:
        """Whether the answers are written although a served model failed.

        They are when another served model has spoken, whose flag must not be lost, and another
        attempt would change nothing.
        """
        another = isinstance(error, TransientError)
        return seen.answered and not (another and job.attempts < self._policies.retry.attempts)

    def analysed(
        self, job: Job, plan: Plan, decoded: DecodedSubject, seen: Seen, *, watch: Stopwatch
    ) -> None:
        """Commit the flag; queue the words where [caption] asks for them."""
        answers = (*plan.answers, *seen.results)
        writer = caption_writer(plan.looking, answers, when=self._settings.caption_when)
        if writer is not None:
            self._memory.keep(job, remembered(writer, decoded, seen))
        self._commit(
            job,
            answers,
            pixel_digests=_digests(plan, decoded),
            embeddings=seen.embeddings,
            caption_due=writer is not None,
            watch=watch,
        )

    def _refused(
        self, job: Job, plan: Plan, reason: str, *, pixel_digests: Mapping[int, str]
    ) -> None:
        answers = (*plan.answers, *refusals(plan.looking, reason))
        self._commit(job, answers, pixel_digests=pixel_digests, embeddings={}, caption_due=False)

    def _commit(
        self,
        job: Job,
        answers: Sequence[AnalysisResult],
        *,
        pixel_digests: Mapping[int, str],
        embeddings: Mapping[str, Vector],
        caption_due: bool,
        watch: Stopwatch | None = None,
    ) -> None:
        counts: list[bool] = []
        if attempt(
            job,
            lambda: counts.append(
                results.commit_analysis(
                    self._db,
                    job,
                    answers,
                    pixel_digests=pixel_digests,
                    embeddings=embeddings,
                    policies=self._policies,
                    caption_due=caption_due,
                )
            ),
        ):
            log.info(
                "job_analysed" if counts[0] else "job_superseded",
                job_id=job.id,
                analysis=sorted({str(answer.analysis) for answer in answers}),
                flagged=any(
                    finding.flagged
                    for answer in answers
                    if answer.mode is Mode.SERVE
                    for finding in answer.findings
                ),
                **(watch.told() if watch else {}),
            )


def caption_writer(
    looking: Sequence[LoadedModel], answers: Sequence[AnalysisResult], *, when: str
) -> LoadedModel | None:
    """Return the served model that shall describe the subject, None where no words are due."""
    spoke = {
        answer.model.digest: any(finding.flagged for finding in answer.findings)
        for answer in answers
        if answer.model and answer.mode is Mode.SERVE and answer.analysis is Analysis.ANALYSED
    }
    if when == "never" or (when == "flagged" and not any(spoke.values())):
        return None
    # A model that flagged speaks before one that did not.
    able = [each for each in looking if each.describe and each.identity.digest in spoke]
    return min(able, key=lambda each: not spoke[each.identity.digest], default=None)


def remembered(writer: LoadedModel, decoded: DecodedSubject, seen: Seen) -> Remembered:
    """Return the first view of a subject, and what the writer's encoder has just made of it."""
    features = seen.features.get(writer.identity.digest, (None,))
    return Remembered(
        bundle_digest=writer.identity.digest,
        view=decoded.views[writer.view_spec][0],
        features=features[0],
    )


def _digests(plan: Plan, decoded: DecodedSubject) -> dict[int, str]:
    return {
        instance.id: digest
        for instance, digest in zip(plan.instances, decoded.pixel_digests, strict=True)
    }
