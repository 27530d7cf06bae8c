"""Two objects under one SOP Instance UID: are the pixels the same?

Equal pixels make the newcomer a revision, which needs no inference; other pixels, or pixels that
cannot be shown to be equal, make a conflict (DESIGN section 4, Identity).
"""

from concurrent.futures import Future

import structlog

from triage.database import results
from triage.database.connection import Database
from triage.errors import DecodeError, TriageError
from triage.imaging.decode_pool import DecodedSubject
from triage.records import HeldInstance, Job
from triage.rules.identity import decide_pixels
from triage.rules.policies import Policies
from triage.worker.outcomes import attempt, fail

log = structlog.get_logger(__name__)


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

    `decoding` gives the pixel digests of newcomer and held object, in this order.
    """
    digests: dict[int, str] = {}
    try:
        digests = dict(zip((newcomer.id, held.id), decoding.result().pixel_digests, strict=True))
    except DecodeError as error:
        log.info("pixels_not_comparable", job_id=job.id, reason=str(error))
    except TriageError as error:
        fail(db, job, error, policies=policies)
        return
    verdict = decide_pixels(digests.get(held.id), digests.get(newcomer.id))
    if attempt(
        job,
        lambda: results.commit_comparison(
            db, job, verdict=verdict, pixel_digests=digests, policies=policies
        ),
    ):
        log.info(
            "contest_resolved",
            job_id=job.id,
            sop_instance_uid=newcomer.header.sop_instance_uid,
            verdict=str(verdict),
        )
