"""What the worker writes at the end of a job; a lost lease is dropped, never written."""

import random
from collections.abc import Callable

import structlog

from triage.database import queue
from triage.database.connection import Database
from triage.errors import DatabaseUnavailable, StaleLease, TriageError
from triage.records import Job, JobState
from triage.rules.policies import Policies

log = structlog.get_logger(__name__)


def attempt(job: Job, write: Callable[[], object]) -> bool:
    """Run one closing write. False where the job is another worker's by now, or the database away.

    In both cases nothing was written; the lease ends and the job is looked at again.
    """
    try:
        write()
    except StaleLease:
        log.info("result_dropped", job_id=job.id, reason="lease lost")
        return False
    except DatabaseUnavailable as error:
        log.warning("result_not_written", job_id=job.id, reason=str(error))
        return False
    return True


def fail(
    db: Database,
    job: Job,
    error: TriageError,
    *,
    policies: Policies,
    jitter: Callable[[], float] = random.random,
) -> None:
    """Queue the job again or make it a dead letter, by the kind of the error."""

    def write() -> None:
        with db.write() as connection:
            state = queue.fail(
                connection,
                job,
                error,
                policies=policies,
                jitter=jitter(),
                now=db.now(connection),
            )
        dead = state is JobState.DEAD
        (log.error if dead else log.warning)(
            "job_dead" if dead else "job_retried",
            job_id=job.id,
            kind=type(error).__name__,
            reason=str(error),
            attempts=job.attempts,
        )

    attempt(job, write)
