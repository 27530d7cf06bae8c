"""What a worker reads of its subject and writes about it: results, embeddings, captions.

A result commits in one transaction that shows the lease again and checks the generation; the flag
is on the worklist when it returns. The words come later and change nothing else. Source: DESIGN
sections 3.6, 3.8 and 3.9.
"""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import Connection, bindparam, select, update

from triage.database.connection import Database
from triage.database.contests import resolve_contest
from triage.database.documents import kept_finding, read_header
from triage.database.jobs import enqueue, rank_of
from triage.database.queue import finish
from triage.database.rows import give_way, retire_caption, subject_generation
from triage.database.statements import insert_for, insert_id, insert_rows, update_row
from triage.database.study_facts import study_caption
from triage.database.tables import (
    CaptionRow,
    Embedding,
    Instance,
    ResultRow,
    Study,
)
from triage.database.worklist import refresh_study
from triage.errors import PermanentError
from triage.records import (
    AnalysisResult,
    Caption,
    HeldInstance,
    Job,
    JobKind,
    ObjectState,
    Subject,
    SubjectContents,
)
from triage.rules.policies import Policies
from triage.rules.standing import beside_flags

KEYS_PER_QUERY = 500
EXPIRED = select(Study.images_expired_at.is_not(None)).where(Study.id == bindparam("study_id"))
TOO_OLD = select(Study.too_old).where(Study.id == bindparam("study_id"))
LITTLE_ENDIAN = np.dtype("<f4")


def subject_contents(connection: Connection, subject: Subject, subject_id: int) -> SubjectContents:
    """Return the held instances of a subject, in order of arrival.

    Of an image that waits for the comparison of its pixels, `contested` is the one held under the
    same SOP Instance UID. Raises PermanentError where its images have expired.
    """
    i = Instance
    mine = (
        i.id == subject_id
        if subject is Subject.IMAGE
        else (i.series_id == subject_id) & (i.subject == Subject.SERIES)
    )
    rows = _instances(connection, mine & i.expired_at.is_(None))
    if not rows:
        raise PermanentError(
            f"nothing is held any more of {subject} {subject_id}",
            hint="Its images have expired; send the study again to have it analysed.",
        )
    first = rows[0]
    contested = None
    if first.state == ObjectState.STORED and first.contests_id is not None:
        contested = _held(_instances(connection, i.id == first.contests_id)[0])
    too_old = connection.execute(TOO_OLD, {"study_id": first.study_id}).scalar_one()
    return SubjectContents(
        subject=subject,
        subject_id=subject_id,
        study_id=first.study_id,
        generation=subject_generation(connection, subject, subject_id),
        instances=tuple(_held(row) for row in rows),
        too_old=too_old,
        contested=contested,
    )


def commit_analysis(
    db: Database,
    job: Job,
    results: Sequence[AnalysisResult],
    *,
    pixel_digests: Mapping[int, str],
    embeddings: Mapping[str, NDArray[np.float32]],
    policies: Policies,
    caption_due: bool,
) -> bool:
    """Write what the bundles said of a subject: the flag, in one transaction.

    `pixel_digests` is by instance id, `embeddings` by cache key (1-D float32). True where the
    result counts; False where a newer generation has come and nothing but the job's end was
    written. Raises StaleLease.
    """
    with db.write() as connection:
        now = db.now(connection)
        if not finish(connection, job, now=now, reason="analysed"):
            return False
        flagging = give_way(connection, job.subject, job.subject_id, to=results)
        said = beside_flags(results, flagging)
        written = [_result_values(job, result) | {"created_at": now} for result in said]
        insert_rows(connection, ResultRow, written)
        _keep_digests(connection, pixel_digests)
        expired = _has_expired(connection, job.study_id)
        if not expired:
            keep_embeddings(connection, embeddings, now)
        refresh_study(connection, job.study_id, policies=policies, now=now)
        if caption_due and not expired:
            enqueue(
                connection,
                kind=JobKind.CAPTION,
                subject=job.subject,
                subject_id=job.subject_id,
                study_id=job.study_id,
                generation=job.generation,
                rank=rank_of(connection, job.study_id),
                due_at=now,
                now=now,
            )
    return True


def commit_comparison(
    db: Database,
    job: Job,
    *,
    verdict: Literal[ObjectState.REVISION, ObjectState.CONFLICT],
    pixel_digests: Mapping[int, str],
    policies: Policies,
) -> None:
    """Write that a newcomer's pixels were compared with the held ones. Raises StaleLease."""
    with db.write() as connection:
        now = db.now(connection)
        if finish(connection, job, now=now, reason=f"compared: {verdict}"):
            _keep_digests(connection, pixel_digests)
            resolve_contest(connection, job.subject_id, verdict=verdict, policies=policies, now=now)


def commit_caption(db: Database, job: Job, caption: Caption) -> bool:
    """Write the words about a subject; nothing else changes.

    False where a newer generation has come, or the study's images have expired meanwhile, and the
    words were dropped. Raises StaleLease.
    """
    with db.write() as connection:
        now = db.now(connection)
        if not finish(connection, job, now=now, reason="captioned"):
            return False
        if _has_expired(connection, job.study_id):
            return False
        retire_caption(connection, job.subject, job.subject_id)
        insert_id(
            connection,
            CaptionRow,
            subject=job.subject,
            subject_id=job.subject_id,
            study_id=job.study_id,
            generation=job.generation,
            bundle_digest=caption.model.digest,
            text=caption.text,
            prompt_digest=caption.prompt_digest,
            current=True,
            created_at=now,
        )
        connection.execute(
            update(Study)
            .where(Study.id == job.study_id)
            .values(caption=study_caption(connection, job.study_id))
        )
    return True


def cached_embeddings(
    connection: Connection, keys: Sequence[str]
) -> dict[str, NDArray[np.float32]]:
    """Return those of the embeddings that are cached, 1-D float32, by key."""
    found: dict[str, NDArray[np.float32]] = {}
    for start in range(0, len(keys), KEYS_PER_QUERY):
        rows = connection.execute(
            select(Embedding.key, Embedding.vector).where(
                Embedding.key.in_(keys[start : start + KEYS_PER_QUERY])
            )
        )
        for row in rows:
            found[row.key] = np.frombuffer(row.vector, dtype=LITTLE_ENDIAN).astype(np.float32)
    return found


def keep_embeddings(
    connection: Connection, embeddings: Mapping[str, NDArray[np.float32]], now: datetime
) -> None:
    """Write embeddings by cache key (1-D float32); what is there already stays."""
    rows = [
        {
            "key": key,
            "dimension": vector.size,
            "vector": np.ascontiguousarray(vector, dtype=LITTLE_ENDIAN).tobytes(),
            "created_at": now,
        }
        for key, vector in sorted(embeddings.items())
    ]
    if rows:
        connection.execute(insert_for(connection, Embedding).on_conflict_do_nothing(), rows)


# --- rows


def _instances(connection: Connection, condition: Any) -> Sequence[Any]:
    i = Instance
    return connection.execute(
        select(
            i.id,
            i.study_id,
            i.path,
            i.header,
            i.state,
            i.pixel_digest,
            i.contests_id,
            i.sender_ae_title,
        )
        .where(condition)
        .order_by(i.id)
    ).all()


def _held(row: Any) -> HeldInstance:
    return HeldInstance(
        id=row.id,
        path=row.path,
        header=read_header(row.header),
        pixel_digest=row.pixel_digest,
        contests_id=row.contests_id,
        sender_ae_title=row.sender_ae_title,
    )


def _result_values(job: Job, result: AnalysisResult) -> dict[str, Any]:
    model = result.model
    return {
        "subject": job.subject,
        "subject_id": job.subject_id,
        "study_id": job.study_id,
        "generation": job.generation,
        "bundle_name": model.name if model else "",
        "bundle_version": model.version if model else "",
        "bundle_digest": model.digest if model else "",
        "mode": result.mode,
        "analysis": result.analysis,
        "reason": result.reason,
        "findings": [kept_finding(finding) for finding in result.findings],
        "distance": result.distance,
        "not_for_clinical_use": result.not_for_clinical_use,
        "embedding_keys": list(result.embedding_keys),
        "current": True,
        "job_id": job.id,
    }


def _has_expired(connection: Connection, study_id: int) -> bool:
    """Whether pixels, embeddings and words were deleted while the job was away."""
    return bool(connection.execute(EXPIRED, {"study_id": study_id}).scalar_one())


def _keep_digests(connection: Connection, pixel_digests: Mapping[int, str]) -> None:
    for instance_id, digest in sorted(pixel_digests.items()):
        update_row(connection, Instance, instance_id, pixel_digest=digest)
