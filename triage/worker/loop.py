"""The analysis worker's loop: claim, decode, embed, classify, commit; the words come when idle.

Jobs of many studies are in flight at once: the decode pool works on some while the model looks at
those that are ready. Every job ends in one commit that checks its lease again (DESIGN sections
3.6 to 3.9). Knows no bundle format and no device: models are `LoadedModel` records.

Errors end with their job, by their kind. DeviceFault does not: the device's context is broken for
every image, so the loop gives its other jobs back and lets the error end the process.
"""

import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from dataclasses import dataclass, replace
from datetime import timedelta

import structlog

from triage.database import queue, results
from triage.database.connection import Database
from triage.database.requeue import requeue_said_by
from triage.errors import DatabaseUnavailable, DecodeError, DeviceFault, TriageError
from triage.imaging.decode_pool import DecodedSubject, DecodePool, DecodeTask
from triage.records import Job, JobKind, SubjectContents
from triage.rules.policies import Policies
from triage.store import Store
from triage.worker import contests
from triage.worker.captions import CaptionDesk
from triage.worker.finishing import Finisher
from triage.worker.leases import LeaseKeeper
from triage.worker.looking import Question, keys_of, look
from triage.worker.memory import Memory
from triage.worker.outcomes import fail
from triage.worker.planning import Plan, plan_look
from triage.worker.roster import Fallen, Roster
from triage.worker.settings import WorkerSettings
from triage.worker.stopwatch import Stopwatch, started

log = structlog.get_logger(__name__)

LAPSED_EVERY_S = 1.0  # how often an idle worker looks for jobs whose lease has ended
UNSERVED_S = 600.0  # until an image is tried again whose model is not served


@dataclass(frozen=True, slots=True, kw_only=True)
class InFlight:
    """One claimed job whose pixels are being decoded. Without `decoding` nothing needs to be."""

    job: Job
    contents: SubjectContents
    plan: Plan
    decoding: Future[DecodedSubject] | None
    watch: Stopwatch

    @property
    def ready(self) -> bool:
        return self.decoding is None or self.decoding.done()


class AnalysisWorker:
    """One worker over one set of loaded models. `turned` is called after every turn."""

    def __init__(
        self,
        db: Database,
        store: Store,
        roster: Roster,
        pool: DecodePool,
        *,
        owner: str,
        policies: Policies,
        settings: WorkerSettings,
        stop: threading.Event,
        turned: Callable[[], None] = lambda: None,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._db = db
        self._store = store
        self._roster = roster
        self._pool = pool
        self._owner = owner
        self._policies = policies
        self._settings = settings
        self._stop = stop
        self._turned = turned
        self._in_flight: list[InFlight] = []
        self._claimed_s = -LAPSED_EVERY_S
        self._fallen: list[Fallen] = []
        self._monotonic = monotonic
        self._keeper = LeaseKeeper(db, settings)
        memory = Memory()
        self._finisher = Finisher(db, memory=memory, policies=policies, settings=settings)
        self._captions = CaptionDesk(
            db,
            store,
            pool,
            owner=owner,
            memory=memory,
            keeper=self._keeper,
            policies=policies,
            settings=settings,
        )

    def run(self) -> None:
        """Turn until `stop` is set; then give back what is not finished. Raises DeviceFault."""
        self._keeper.start()
        try:
            while not self._stop.is_set():
                busy = self._safe_turn()
                self._turned()
                if not busy:
                    self._stop.wait(self._settings.idle_s)
        finally:
            self._keeper.stop()
            self.give_back()

    def turn(self) -> bool:
        """Do one round; False where there was nothing to do."""
        self._keeper.turned()
        if fallen := self._roster.recheck_if_due():
            # What was planned with a model that has fallen out must not be told by it.
            self.give_back()
            self._fallen += fallen
        self._distrust()
        due = self._roster.may_claim and self._may_be_due()
        if not self._in_flight and not due:
            return False
        if due:
            self.claim()
        if self._in_flight:
            self._finish(self._take_ready())
            return True
        return self._captions.turn(self._roster.models)

    def give_back(self) -> None:
        """Hand back what is in flight, as if it had never been claimed."""
        jobs = [each.job for each in self._in_flight]
        self._in_flight = []
        for job in jobs:
            self._keeper.drop(job)
        if jobs:
            try:
                queue.release(self._db, jobs, reason="handed back by its worker")
            except DatabaseUnavailable as error:
                log.warning("jobs_left_to_expire", jobs=len(jobs), reason=str(error))

    def _distrust(self) -> None:
        """Have looked at again what a model said between its last sound answer and its fall."""
        while self._fallen:
            fallen = self._fallen[0]
            unsound_s = self._monotonic() - fallen.sound_s
            with self._db.write() as connection:
                now = self._db.now(connection)
                jobs = requeue_said_by(
                    connection,
                    fallen.bundle_digest,
                    since=now - timedelta(seconds=unsound_s),
                    policies=self._policies,
                    now=now,
                )
            del self._fallen[0]
            log.error("results_distrusted", jobs=jobs, bundle_digest=fallen.bundle_digest)

    def _safe_turn(self) -> bool:
        try:
            return self.turn()
        except DatabaseUnavailable as error:
            # Nothing is lost: what was claimed comes back when its lease ends.
            log.warning("turn_without_database", reason=str(error))
            return False

    # --- claim and begin

    def _may_be_due(self) -> bool:
        """Whether a claim is worth its write lock: something waits, or leases may have ended."""
        now_s = time.monotonic()
        if now_s - self._claimed_s < LAPSED_EVERY_S:
            kinds = [JobKind.ANALYSE]
            if not self._in_flight and any(model.describe for model in self._roster.models):
                kinds.append(JobKind.CAPTION)
            with self._db.read() as connection:
                due = queue.is_due(
                    connection,
                    kinds=kinds,
                    now=self._db.now(connection),
                    without_suspects=self._has_suspect,
                )
            if not due:
                return False
        self._claimed_s = now_s
        return True

    @property
    def _has_suspect(self) -> bool:
        """Whether a job is in flight that may be what its last worker died of."""
        return any(each.job.lease_lost for each in self._in_flight)

    def claim(self) -> None:
        """Take what is due, as far as there is room, and begin to decode it."""
        room = 2 * self._settings.batch_size - len(self._in_flight)
        if room <= 0:
            return
        claimed_s = time.monotonic()
        jobs = queue.claim(
            self._db,
            kinds=[JobKind.ANALYSE],
            owner=self._owner,
            lease_s=self._settings.lease_s,
            limit=room,
            maximum_attempts=self._policies.retry.attempts,
            without_suspects=self._has_suspect,
        )
        self._keeper.keep(jobs)
        for job in jobs:
            self._begin(job, claimed_s)

    def _begin(self, job: Job, claimed_s: float) -> None:
        watch = started(job, lease_s=self._settings.lease_s, claimed_s=claimed_s)
        try:
            with self._db.read() as connection:
                contents = results.subject_contents(connection, job.subject, job.subject_id)
            if contents.contested is not None:
                plan = Plan(instances=contests.compared(contents.instances[0], contents.contested))
            else:
                plan = plan_look(contents, self._roster.models, self._policies.eligibility)
            if plan.waits:
                self._postpone(job)
                return
            decoding = None
            if contents.contested is not None or plan.looking:
                paths = tuple(self._store.resolve(each.path) for each in plan.instances)
                task = DecodeTask(paths=paths, specs=plan.specs)
                decoding = self._pool.submit(task, rank=job.rank)
        except TriageError as error:
            self._failed(job, error)
            return
        self._in_flight.append(
            InFlight(job=job, contents=contents, plan=plan, decoding=decoding, watch=watch)
        )

    def _postpone(self, job: Job) -> None:
        self._keeper.drop(job)
        reason = "the model that is meant for this image is not served"
        queue.release(self._db, [job], reason=reason, delay_s=UNSERVED_S)

    # --- finish

    def _take_ready(self) -> list[InFlight]:
        """Wait for decoded subjects: for one, then `batch_wait_ms` for its company."""
        self._wait_for_one()
        if sum(each.ready for each in self._in_flight) < self._settings.batch_size:
            waiting = [each.decoding for each in self._in_flight if each.decoding is not None]
            wait(waiting, timeout=self._settings.batch_wait_ms / 1000)
        self._in_flight.sort(key=lambda each: each.job.rank)
        ready = [each for each in self._in_flight if each.ready][: self._settings.batch_size]
        # What has failed before is looked at alone: it may be what took its neighbours down.
        if any(each.job.attempts > 1 for each in ready):
            ready = [next(each for each in ready if each.job.attempts > 1)]
        self._in_flight = [each for each in self._in_flight if each not in ready]
        return ready

    def _wait_for_one(self) -> None:
        if not any(each.ready for each in self._in_flight):
            decoding = [each.decoding for each in self._in_flight if each.decoding is not None]
            wait(decoding, timeout=self._settings.idle_s, return_when=FIRST_COMPLETED)

    def _finish(self, ready: Sequence[InFlight]) -> None:
        questions: list[tuple[InFlight, DecodedSubject]] = []
        for each in ready:
            if self._keeper.lost(each.job):
                log.info("result_dropped", job_id=each.job.id, reason="lease lost")
                self._keeper.drop(each.job)
            elif each.decoding is not None and each.contents.contested is not None:
                contests.resolve(
                    self._db,
                    each.job,
                    each.contents.instances[0],
                    each.contents.contested,
                    each.decoding,
                    policies=self._policies,
                )
                self._keeper.drop(each.job)
            elif each.decoding is None:
                self._finisher.without_pixels(each.job, each.plan)
                self._keeper.drop(each.job)
            else:
                decoded = self._decoded(each, each.decoding)
                if decoded is not None:
                    seeing = replace(each, plan=each.plan.without(decoded.refused))
                    questions.append((seeing, decoded))
        if questions:
            self._answer(questions)

    def _decoded(self, each: InFlight, decoding: Future[DecodedSubject]) -> DecodedSubject | None:
        """Return what was decoded; None where that ended the job."""
        try:
            decoded = decoding.result()
            if not decoded.facts.finite:
                # Rendered as if they were dark: a look at the rest would read as one at all.
                raise DecodeError("The pixels hold values that are not finite.")
        except TriageError as error:
            if not self._finisher.undecodable(each.job, each.plan, error):
                self._failed(each.job, error)
            self._keeper.drop(each.job)
            return None
        if self._finisher.unsuitable(each.job, each.plan, decoded):
            self._keeper.drop(each.job)
            return None
        return decoded

    def _answer(self, batch: Sequence[tuple[InFlight, DecodedSubject]]) -> None:
        questions = [Question(decoded=decoded, models=each.plan.looking) for each, decoded in batch]
        try:
            with self._db.read() as connection:
                cached = results.cached_embeddings(connection, sorted(keys_of(questions)))
        except DatabaseUnavailable:
            # Their leases are renewed as long as they are kept: they must be looked at again.
            self._in_flight[:0] = [each for each, _ in batch]
            raise
        looked_s = time.monotonic()
        try:
            answers = look(questions, cached=cached, batch_size=self._settings.batch_size)
        except DeviceFault as error:
            for each, _ in batch:
                self._failed(each.job, error)
            raise
        model_s = time.monotonic() - looked_s
        for (each, decoded), seen in zip(batch, answers, strict=True):
            each.watch.decode_s, each.watch.model_s = decoded.decode_s, model_s
            if seen.errors:
                self._roster.recheck_soon()
            failure = seen.failure()
            if failure is not None and not self._finisher.may_stand(each.job, seen, failure):
                self._failed(each.job, failure)
            else:
                self._finisher.analysed(each.job, each.plan, decoded, seen, watch=each.watch)
            self._keeper.drop(each.job)

    def _failed(self, job: Job, error: TriageError) -> None:
        fail(self._db, job, error, policies=self._policies)
        self._keeper.drop(job)
