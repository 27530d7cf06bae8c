"""The words: a later, lower job that changes nothing but the caption.

Claimed only when no analysis waits. Features that the encoder has just made are used again where
they are still in memory; else the image is decoded once more. One view is described: the image
itself, or the first view of a subject that has several (DESIGN section 3.9).
"""

from collections.abc import Sequence
from functools import partial

import structlog

from triage.database import queue, results
from triage.database.connection import Database
from triage.errors import BundleError, DeviceFault, TriageError
from triage.imaging.decode_pool import DecodePool, DecodeTask
from triage.records import Caption, Job, JobKind, Mode
from triage.rules.policies import Policies
from triage.store import Store
from triage.worker.finishing import caption_writer, remembered
from triage.worker.leases import LeaseKeeper
from triage.worker.looking import Question, keys_of, look
from triage.worker.memory import Memory
from triage.worker.models import Describe, LoadedModel, Remembered
from triage.worker.outcomes import attempt, fail
from triage.worker.planning import plan_look
from triage.worker.settings import WorkerSettings

log = structlog.get_logger(__name__)

NO_WRITER = "no model that writes captions has looked at this image"


class CaptionDesk:
    """Takes caption jobs in small batches, so that an image that arrives waits for few words."""

    def __init__(
        self,
        db: Database,
        store: Store,
        pool: DecodePool,
        *,
        owner: str,
        memory: Memory,
        keeper: LeaseKeeper,
        policies: Policies,
        settings: WorkerSettings,
    ) -> None:
        self._db = db
        self._store = store
        self._pool = pool
        self._owner = owner
        self._memory = memory
        self._keeper = keeper
        self._policies = policies
        self._settings = settings
        self._retired = False

    def turn(self, models: Sequence[LoadedModel]) -> bool:
        """Write one batch of captions; False where none waits. Raises DeviceFault."""
        if self._settings.caption_when == "never":
            self._retire()
            return False
        writers = [model for model in models if model.describe is not None]
        if not writers:
            return False
        jobs = queue.claim(
            self._db,
            kinds=[JobKind.CAPTION],
            owner=self._owner,
            lease_s=self._settings.lease_s,
            limit=self._settings.caption_batch,
            maximum_attempts=self._policies.retry.attempts,
        )
        self._keeper.keep(jobs)
        by_writer: dict[str, list[tuple[Job, Remembered]]] = {}
        for job in jobs:
            try:
                entry = self._memory.take(job) or self._look_again(job, models)
            except DeviceFault:
                raise
            except TriageError as error:
                self._end(job, error)
                continue
            by_writer.setdefault(entry.bundle_digest, []).append((job, entry))
        for writer in writers:
            self._describe(writer, by_writer.pop(writer.identity.digest, []))
        for left in by_writer.values():
            for job, _ in left:
                self._end(job, BundleError("the model that looked at this image writes no more"))
        return bool(jobs)

    def _retire(self) -> None:
        """End, once, what waits from the days when captions were switched on."""
        if not self._retired:
            ended = queue.retire_captions(self._db, reason="captions are switched off")
            self._retired = True
            if ended:
                log.info("captions_retired", jobs=ended)

    def _look_again(self, job: Job, models: Sequence[LoadedModel]) -> Remembered:
        """Find the writer once more where it is no longer remembered. Raises TriageError.

        It is judged again by the kept embeddings, so that a gated image gets no words from the
        model that refused it, and a shadow model never writes.
        """
        with self._db.read() as connection:
            contents = results.subject_contents(connection, job.subject, job.subject_id)
        served = [model for model in models if model.mode is Mode.SERVE]
        plan = plan_look(contents, served, self._policies.eligibility)
        if not plan.looking:
            raise BundleError(NO_WRITER)
        paths = tuple(self._store.resolve(each.path) for each in plan.instances)
        decoded = self._pool.submit(DecodeTask(paths=paths, specs=plan.specs)).result()
        plan = plan.without(decoded.refused)
        question = Question(decoded=decoded, models=plan.looking)
        with self._db.read() as connection:
            cached = results.cached_embeddings(connection, sorted(keys_of([question])))
        (seen,) = look([question], cached=cached, batch_size=self._settings.batch_size)
        writer = caption_writer(plan.looking, seen.results, when="all")
        if writer is None:
            raise seen.failure() or BundleError(NO_WRITER)
        return remembered(writer, decoded, seen)

    def _describe(self, writer: LoadedModel, batch: Sequence[tuple[Job, Remembered]]) -> None:
        if not batch or writer.describe is None:
            return
        answers = written_isolating(writer.describe, [entry for _, entry in batch])
        for (job, _), answer in zip(batch, answers, strict=True):
            if isinstance(answer, TriageError):
                self._end(job, answer)
                continue
            if attempt(job, partial(results.commit_caption, self._db, job, answer)):
                log.info("caption_written", job_id=job.id)
            self._keeper.drop(job)

    def _end(self, job: Job, error: TriageError) -> None:
        fail(self._db, job, error, policies=self._policies)
        self._keeper.drop(job)


def written_isolating(
    describe: Describe, entries: Sequence[Remembered]
) -> Sequence[Caption | TriageError]:
    """Describe together; what fails together is tried one by one. Raises DeviceFault."""
    failure: TriageError
    try:
        return describe(entries)
    except DeviceFault:
        raise
    except TriageError as error:
        failure = error.with_traceback(None)
    if len(entries) == 1:
        return [failure]
    return [written_isolating(describe, [entry])[0] for entry in entries]
