"""The senders as status shows them: last image, usual interval, silent or not.

Light: `triage status` imports it. The rule is `rules.silence`; the habit was learnt by the sweep
in `operations.history`.
"""

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any
from zoneinfo import ZoneInfo

from triage.config import Config
from triage.operations.causes import Cause, cause
from triage.rules.silence import Habit, judge

Row = dict[str, Any]


def judged(
    rows: Sequence[Mapping[str, Any]],
    *,
    roles: Iterable[Mapping[str, Any]],
    config: Config,
    now: datetime,
) -> list[Row]:
    """Return each sender with its state; `rows` are those of `status_facts`."""
    zone = ZoneInfo(config.site.timezone)
    since = _receiving_since(roles)
    senders: list[Row] = []
    for row in rows:
        silence = judge(
            row["ae_title"],
            _habit(row),
            last_image_at=_time(row["last_image_at"]),
            receiving_since=since,
            policy=config.senders,
            zone=zone,
            now=now,
        )
        senders.append(
            {
                "ae_title": row["ae_title"],
                "last_image_at": row["last_image_at"],
                "images": row["images"],
                "state": silence.state.value,
                "silent": silence.silent,
                "usual_interval_s": silence.usual_interval_s,
                "silent_since": silence.silent_since,
            }
        )
    return senders


def causes(senders: Iterable[Mapping[str, Any]], config: Config) -> Iterable[Cause]:
    """Name every silent sender."""
    if not config.senders.silence_alarm:
        return
    zone = ZoneInfo(config.site.timezone)
    for each in senders:
        if each["silent"]:
            last_image_at = _time(each["last_image_at"]).astimezone(zone)
            yield cause(
                "sender_silent",
                sender=plain_ae_title(each["ae_title"]),
                last_image_at=f"{last_image_at:%Y-%m-%d %H:%M %Z}",
                usual=in_words(each["usual_interval_s"]),
            )


def plain_ae_title(ae_title: str) -> str:
    """Return an AE title for messages and labels: it is 16 characters of a stranger's choice."""
    return "".join(char if char.isascii() and char.isprintable() else "?" for char in ae_title)[:16]


def in_words(seconds: float) -> str:
    """Return a length of time as a person says it: `40 s`, `25 min`, `3 h`, `5 days`."""
    for unit, unit_s, below in (("s", 1, 60), ("min", 60, 5400), ("h", 3600, 172_800)):
        if seconds < below:
            return f"{seconds / unit_s:.0f} {unit}"
    return f"{seconds / 86_400:.0f} days"


def _receiving_since(roles: Iterable[Mapping[str, Any]]) -> datetime | None:
    """Return since when some receiver has been at work."""
    starts = [
        _time(row["started_at"])
        for row in roles
        if row["role"] == "receive" and row["state"] == "running"
    ]
    return min(starts, default=None)


def _habit(row: Mapping[str, Any]) -> Habit | None:
    busy: str | None = row.get("busy_hours")
    if busy is None:
        return None
    return Habit(
        busy_hours=frozenset(hour for hour, flag in enumerate(busy) if flag == "1"),
        usual_interval_s=row["usual_interval_s"],
    )


def _time(value: Any) -> datetime:
    return value if isinstance(value, datetime) else datetime.fromisoformat(str(value))
