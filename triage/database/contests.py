"""Two objects under one SOP Instance UID, after their pixels have been compared.

Equal pixels: a revision, its header is shown and nothing is looked at again. Other pixels: a
conflict, both are held, a person is told and the study is shown as not fully analysed. A revision
that came under another study or patient is an image of that study and is looked at there; the
cached embedding makes that cheap. Source: DESIGN section 4; `rules.identity`.
"""

from datetime import datetime
from typing import Any, Literal

from sqlalchemy import Connection, select
from sqlalchemy.orm import aliased

from triage.database.closing import look_when_whole
from triage.database.documents import read_header
from triage.database.intake_log import record_event
from triage.database.requeue import look_when_listed
from triage.database.rows import supersede_results
from triage.database.statements import row_of, update_row
from triage.database.studies import counted, shown
from triage.database.study_alarms import raise_conflict
from triage.database.tables import Instance, Series, Study
from triage.database.worklist import refresh_study
from triage.errors import PermanentError
from triage.records import Header, ObjectState, Source, Subject
from triage.rules.completion import subject_of
from triage.rules.identity import COMPARED
from triage.rules.policies import Policies


def resolve_contest(
    connection: Connection,
    instance_id: int,
    *,
    verdict: Literal[ObjectState.REVISION, ObjectState.CONFLICT],
    policies: Policies,
    now: datetime,
) -> None:
    """Write what the comparison of a newcomer with the held object gave.

    Raises PermanentError where the instance waits for no comparison.
    """
    newcomer = _contest(connection, instance_id)
    study = row_of(connection, Study, newcomer.study_id)
    elsewhere = newcomer.study_id != newcomer.held_study_id
    header = read_header(newcomer.header)
    subject = subject_of(header) if verdict is ObjectState.REVISION and elsewhere else None
    update_row(connection, Instance, instance_id, state=verdict, subject=subject)
    supersede_results(connection, Subject.IMAGE, instance_id)
    if verdict is ObjectState.CONFLICT:
        if not elsewhere:  # elsewhere it was counted when it came
            changes = counted(
                study, modality=header.modality, new_object=False, policies=policies, now=now
            )
            update_row(connection, Study, study.id, **changes)
        raise_conflict(connection, newcomer.sop_instance_uid, now=now)
    elif elsewhere:
        look_when_whole(
            connection,
            subject,
            instance_id=instance_id,
            series=row_of(connection, Series, newcomer.series_id),
            policies=policies,
            now=now,
        )
    else:
        show_revision(
            connection,
            study,
            header,
            sender_ae_title=newcomer.sender_ae_title,
            policies=policies,
            now=now,
        )
    record_event(
        connection,
        state=verdict,
        sop_instance_uid=newcomer.sop_instance_uid,
        instance_id=instance_id,
        source=Source(newcomer.source),
        sender_ae_title=newcomer.sender_ae_title,
        reason=COMPARED,
        now=now,
    )
    refresh_study(connection, newcomer.study_id, policies=policies, now=now)


def show_revision(
    connection: Connection,
    study: Any,
    header: Header,
    *,
    sender_ae_title: str,
    policies: Policies,
    now: datetime,
) -> None:
    """Show the header of a revision, blanks included: they are corrections too.

    One that came after the images of its study had expired is held for the time of retention.
    """
    changes = shown(
        study, header, sender_ae_title=sender_ae_title, keep_blanks=True, policies=policies
    )
    if study.images_expired_at is not None:
        changes |= {"images_expired_at": None, "last_instance_at": now}
    update_row(connection, Study, study.id, **changes)
    if study.too_old and not changes["too_old"]:
        look_when_listed(connection, study.id, now=now)


def has_expired(connection: Connection, instance_id: int) -> bool:
    """Whether the file of an instance was deleted by retention."""
    expired = select(Instance.expired_at.is_not(None)).where(Instance.id == instance_id)
    return bool(connection.execute(expired).scalar_one())


def forget_pixels(connection: Connection, instance_id: int) -> None:
    """Have the pixels of a held instance decoded anew by the next comparison with them."""
    update_row(connection, Instance, instance_id, pixel_digest=None)


def _contest(connection: Connection, instance_id: int) -> Any:
    held = aliased(Instance)
    i = Instance
    row = connection.execute(
        select(
            i.study_id,
            i.series_id,
            i.sop_instance_uid,
            i.source,
            i.sender_ae_title,
            i.header,
            held.study_id.label("held_study_id"),
        )
        .join(held, held.id == i.contests_id)
        .where(i.id == instance_id, i.state == ObjectState.STORED)
    ).first()
    if row is None:
        raise PermanentError(f"instance {instance_id} waits for no comparison of pixels")
    return row
