"""What happened to a study, in order of time: for `triage show`.

Images have their number in the study for a name, as the list of images gives it: a UID of 60
characters tells nobody which picture it is. Many events of one kind in a row, as a CT has them,
become one line.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import groupby
from typing import Any

from triage.cli.text import about

Row = Mapping[str, Any]

FEWEST_FOLDED = 4  # shorter runs stay one line each


@dataclass(frozen=True, slots=True, kw_only=True)
class Moment:
    """One event. `kind` is `what` without the number of the image or job."""

    at: str  # ISO 8601 UTC
    kind: str
    what: str
    detail: str


def image_numbers(document: Row) -> dict[str, int]:
    """Return the number of each SOP Instance UID in the study, from 1 in order of arrival."""
    uids = dict.fromkeys(each["sop_instance_uid"] for each in document["instances"])
    return {uid: number for number, uid in enumerate(uids, start=1)}


def subject(row: Row, numbers: Mapping[str, int]) -> str:
    """Return what a result, caption or job is about: `image 3` or `series`."""
    number = numbers.get(row.get("subject_uid") or "")
    return f"{row['subject']} {number}" if number else str(row["subject"])


def timeline(document: Row) -> list[Moment]:
    """Return the events of objects and jobs and the decisions of persons, oldest first."""
    numbers = image_numbers(document)
    moments = [
        Moment(
            at=each["at"],
            kind=f"image {each['state']}",
            what=f"image {numbers[instance['sop_instance_uid']]} {each['state']}",
            detail=_door(each),
        )
        for instance in document["instances"]
        for each in instance["events"]
    ]
    moments += [
        Moment(
            at=each["at"],
            kind=f"{job['kind']} {each['to_state']}",
            what=f"{job['kind']} {subject(job, numbers)}: {each['to_state']}",
            detail=each["reason"],
        )
        for job in document["jobs"]
        for each in job["events"]
    ]
    moments += [_decision(each) for each in document["events"]]
    return sorted(moments, key=lambda each: str(each.at))


def _door(event: Row) -> str:
    door = " from ".join(part for part in (event["source"], event["sender_ae_title"]) if part)
    return ": ".join(part for part in (door, event["reason"]) if part)


def _decision(event: Row) -> Moment:
    what = event["what"].replace("_", " ")
    pairs = [
        _said(name.replace("_", " "), value) for name, value in (event["detail"] or {}).items()
    ]
    return Moment(
        at=event["at"], kind=what, what=what, detail=", ".join([f"by {event['by']}", *pairs])
    )


def _said(name: str, value: object) -> str:
    """A list of keys says no more to a person than how many there are."""
    return f"{name}: {len(value)}" if isinstance(value, list) else f"{name} {value}"


def folded(moments: Sequence[Moment]) -> list[Moment]:
    """Return the same with each long run of one kind and detail as one line."""
    lines: list[Moment] = []
    for (kind, detail), run in groupby(moments, key=lambda each: (each.kind, each.detail)):
        same = list(run)
        if len(same) < FEWEST_FOLDED:
            lines += same
            continue
        lasted = about((_time(same[-1].at) - _time(same[0].at)).total_seconds())
        what = f"{kind}, {len(same)} times within {lasted}"
        lines.append(Moment(at=same[0].at, kind=kind, what=what, detail=detail))
    return lines


def since(first: str, later: str) -> str:
    """Return how long after the first event another came: `+1.3 s`, `+2 h 10 min`."""
    seconds = (_time(later) - _time(first)).total_seconds()
    return f"+{seconds:.1f} s" if seconds < 60 else f"+{about(seconds)}"


def _time(at: str) -> datetime:
    return datetime.fromisoformat(str(at))
