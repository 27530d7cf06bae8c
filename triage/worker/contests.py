"""Two objects under one SOP Instance UID: are the pixels the same?

Equal pixels make the newcomer a revision, which needs no inference; other pixels, or pixels that
cannot be shown to be equal, make a conflict (DESIGN section 4, Identity).
"""

from concurrent.futures import Future

import structlog

from triage.database import queue, results
from triage.database.connection import Database
from triage.database.contests import forget_pixels, has_expired
from triage.errors import DecodeError, TriageError
from triage.imaging.decode_pool import DecodedSubject
from triage.records import HeldInstance, Job, ObjectState
from triage.rules.identity import decide_pixels
from triage.rules.policies import Policies
from triage.worker.outcomes import attempt, fail

log = structlog.get_logger(__name__)

DECODED_ANEW = "the pixels are not those of the kept digest: both are decoded"


def compared(newcomer: HeldInstance, held: HeldInstance) -> tuple[HeldInstance, ...]:
    """Return whose pixels are decoded: not the held ones, where their digest was kept."""
    return (newcomer,) if held.pixel_digest else (newcomer, held)


def resolve(
    db: Database,
    job: Job,
    newcomer: HeldInstance,
    held: HeldInstance,
    decoding: Future[DecodedSubject],
    *,
    policies: Policies,
) -> None:
    """Write the verdict and the end of the job in one transaction.

    `decoding` gives the pixel digests of what `compared` returns, in this order.
    """
    attempt(job, lambda: _resolve(db, job, newcomer, held, decoding, policies=policies))


def _resolve(
    db: Database,
    job: Job,
    newcomer: HeldInstance,
    held: HeldInstance,
    decoding: Future[DecodedSubject],
    *,
    policies: Policies,
) -> None:
    digests: dict[int, str] = {}
    try:
        decoded = decoding.result().pixel_digests
        ids = [each.id for each in compared(newcomer, held)]
        digests = dict(zip(ids, decoded, strict=True))
    except TriageError as error:
        gone = held.pixel_digest is None and _has_expired(db, held)
        if not (gone or isinstance(error, DecodeError)):
            fail(db, job, error, policies=policies)
            return
        log.info("pixels_not_comparable", job_id=job.id, reason=str(error))
    verdict = decide_pixels(held.pixel_digest or digests.get(held.id), digests.get(newcomer.id))
    differs = verdict is ObjectState.CONFLICT and newcomer.id in digests
    if differs and held.pixel_digest and not _has_expired(db, held):
        # Another release of a codec may have made the digest: both are decoded by this one.
        with db.write() as connection:
            forget_pixels(connection, held.id)
        queue.release(db, [job], reason=DECODED_ANEW)
        return
    results.commit_comparison(db, job, verdict=verdict, pixel_digests=digests, policies=policies)
    log.info(
        "contest_resolved",
        job_id=job.id,
        sop_instance_uid=newcomer.header.sop_instance_uid,
        verdict=str(verdict),
    )


def _has_expired(db: Database, held: HeldInstance) -> bool:
    with db.read() as connection:
        return has_expired(connection, held.id)
