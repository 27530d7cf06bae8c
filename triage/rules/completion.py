"""Decide what is looked at, and when it has finished arriving.

No DICOM message says "that was the last instance": C-STORE carries one at a time (PS3.4 Annex B)
and MPPS (PS3.4 Annex F) reports what was acquired, not what was received. A projection image is
whole by itself and is looked at on arrival. A series closes by silence, bounded by its age.

Owns no state: the due time lives in the series' row, so a restart inside the window loses
nothing. A clock that steps back delays closing and never loses it. Source: DESIGN section 3.7.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from triage.errors import ConfigError
from triage.records import Header, Subject
from triage.rules import checks

PROJECTION_MODALITIES = frozenset({"CR", "DX", "MG", "RF", "XA"})

_STORAGE = "1.2.840.10008.5.1.4.1.1."
# PS3.4 B.5: consulted where Modality is blank.
_MODALITY_BY_SOP_CLASS = {
    _STORAGE + "1": "CR",
    _STORAGE + "1.1": "DX",
    _STORAGE + "1.1.1": "DX",
    _STORAGE + "1.2": "MG",
    _STORAGE + "1.2.1": "MG",
    _STORAGE + "12.1": "XA",
    _STORAGE + "12.2": "RF",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class CompletionPolicy:
    """How long a series may still grow. `[completion]`; raises ConfigError if unusable."""

    quiet_s: float = 60.0  # silence after the last instance that closes a series; 0 = at once
    max_wait_s: float = 900.0  # age since the first instance that closes it regardless
    quiet_s_by_modality: Mapping[str, float] = field(
        default_factory=lambda: {"US": 120.0, "MR": 120.0}
    )  # instead of quiet_s, by Modality (0008,0060)

    def __post_init__(self) -> None:
        checks.number("completion", "max_wait_s", self.max_wait_s)
        keys = {"quiet_s": self.quiet_s} | {
            f"quiet_s_by_modality.{modality}": quiet_s
            for modality, quiet_s in self.quiet_s_by_modality.items()
        }
        for key, quiet_s in keys.items():
            checks.number("completion", key, quiet_s)
            if quiet_s > self.max_wait_s:
                raise ConfigError(
                    f"[completion] {key} ({quiet_s:g}) must not be longer than max_wait_s"
                    f" ({self.max_wait_s:g})"
                )
        by_modality = {key.upper(): value for key, value in self.quiet_s_by_modality.items()}
        object.__setattr__(self, "quiet_s_by_modality", by_modality)

    def quiet_s_for(self, modality: str) -> float:
        """Return the silence in seconds that closes a series of `modality`."""
        return self.quiet_s_by_modality.get(modality.strip().upper(), self.quiet_s)


def stated_modality(modality: str, sop_class_uid: str) -> str:
    """Return Modality in upper case; where it is blank, what the SOP class says ("" = nothing)."""
    return modality.strip().upper() or _MODALITY_BY_SOP_CLASS.get(sop_class_uid, "")


def is_projection(*, modality: str, number_of_frames: int, sop_class_uid: str = "") -> bool:
    """Whether an instance is a single projection image: looked at alone and at once."""
    known = stated_modality(modality, sop_class_uid)
    return known in PROJECTION_MODALITIES and number_of_frames <= 1


def subject_of(header: Header) -> Subject | None:
    """Return what is analysed when this instance arrives; None for an object without pixels."""
    if not header.has_pixels:
        return None
    projection = is_projection(
        modality=header.modality,
        number_of_frames=header.number_of_frames,
        sop_class_uid=header.sop_class_uid,
    )
    return Subject.IMAGE if projection else Subject.SERIES


def closes_at(
    *,
    first_instance_at: datetime,
    last_instance_at: datetime,
    modality: str,
    policy: CompletionPolicy,
) -> datetime:
    """Return when the series closes if nothing more arrives.

    `first_instance_at` is the first instance since the series last closed: a late instance opens
    a new generation with a window of its own. The time itself counts as closed.
    """
    quiet_at = last_instance_at + timedelta(seconds=policy.quiet_s_for(modality))
    overdue_at = first_instance_at + timedelta(seconds=policy.max_wait_s)
    return min(quiet_at, overdue_at)
