"""Decide whether an image may be looked at, and by which bundle.

Three steps: what no bundle could use (`eligible_object`, then `eligible_pixels` once decoded),
the site's mappings over blank or wrong tags (`mapped`), and one bundle's intended use (`fits`).
Not eligible always has a reason and never a score. What a tag leaves open is decided by mapping,
then by image content (the bundle's out-of-distribution distance), never by silence.

Owns no list of decodable transfer syntaxes: that is `imaging`'s. Source: DESIGN section 4.
"""

import re
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from enum import StrEnum

from triage.errors import ConfigError
from triage.records import Header, ImageFacts
from triage.rules import checks
from triage.rules.completion import stated_modality
from triage.rules.study_time import latest_possible, parse_date

_DAYS_PER_YEAR = 365.25
_AGE_UNIT_DAYS = {"D": 1.0, "W": 7.0, "M": _DAYS_PER_YEAR / 12, "Y": _DAYS_PER_YEAR}
_AGE = re.compile(r"(\d{1,3})([DWMY])", re.ASCII)  # AS; some senders leave out leading zeros

_CODE_STRING = re.compile(r"[A-Z0-9 _]{1,16}")  # CS, PS3.5 6.2: anything else is not repeated


class Fit(StrEnum):
    YES = "yes"
    NO = "no"
    BY_CONTENT = "by_content"  # the tags leave it open: look, and gate by distance


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """`reason` is a short sentence for the worklist, "" for YES."""

    fit: Fit
    reason: str = ""

    @property
    def may_look(self) -> bool:
        """Whether the image goes to the encoder."""
        return self.fit is not Fit.NO


@dataclass(frozen=True, slots=True, kw_only=True)
class HeaderMapping:
    """One of `[[eligibility.mappings]]`: where all given patterns match, these values count.

    Patterns are regular expressions, found anywhere in the value and in any case; "" = not
    asked. A value given here replaces what the header says, "" leaves it.
    """

    series_description: str = ""
    study_description: str = ""
    procedure_code: str = ""
    sender_ae_title: str = ""
    modality: str = ""
    body_part_examined: str = ""
    view_position: str = ""
    laterality: str = ""

    def __post_init__(self) -> None:
        checks.patterns("eligibility.mappings", self.conditions())
        if not any(self.values().values()):
            keys = ", ".join(self.values())
            raise ConfigError(f"[eligibility.mappings] needs at least one value of {keys}")

    def conditions(self) -> dict[str, str]:
        """Return the patterns by the name of the value that they are held against."""
        return {
            "series_description": self.series_description,
            "study_description": self.study_description,
            "procedure_code": self.procedure_code,
            "sender_ae_title": self.sender_ae_title,
        }

    def values(self) -> dict[str, str]:
        """Return the values given, by header field; "" = leave."""
        return {
            "modality": self.modality,
            "body_part_examined": self.body_part_examined,
            "view_position": self.view_position,
            "laterality": self.laterality,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class EligibilityPolicy:
    """`[eligibility]` in triage.toml; raises ConfigError if unusable."""

    maximum_study_age_h: float = 168.0  # older on arrival: not eligible, off the list; 0 = no limit
    minimum_size_px: int = 64  # shorter side
    accept_derived: bool = False  # look at images made after the examination (SECONDARY)
    mappings: tuple[HeaderMapping, ...] = ()  # for each value the first match counts

    def __post_init__(self) -> None:
        checks.number("eligibility", "maximum_study_age_h", self.maximum_study_age_h)
        checks.number("eligibility", "minimum_size_px", self.minimum_size_px, least=1)


@dataclass(frozen=True, slots=True, kw_only=True)
class IntendedUse:
    """What a bundle was made for. Empty or None = any. Terms as in DICOM, in any case."""

    modalities: tuple[str, ...] = ()
    body_parts: tuple[str, ...] = ()  # (0018,0015)
    view_positions: tuple[str, ...] = ()  # (0018,5101)
    lateralities: tuple[str, ...] = ()  # (0020,0062) or (0020,0060)
    minimum_age_y: float | None = None  # both bounds belong to the range
    maximum_age_y: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ObjectFacts:
    """What the header does not say about an object that has arrived."""

    transfer_syntax_supported: bool = True
    too_old_on_arrival: bool = False  # of its study, by `is_too_old`


def is_too_old(
    *,
    study_date: str,
    study_datetime: datetime | None,
    received_at: datetime,
    policy: EligibilityPolicy,
) -> bool:
    """Whether a study was older on arrival than `maximum_study_age_h`: a prior or a migration.

    Without a time or zone (`study_datetime` None) the date alone decides, and only where the age
    is exceeded in every time zone. A study without a date is not old.
    """
    made_at = study_datetime or latest_possible(study_date)
    if made_at is None or not policy.maximum_study_age_h:
        return False
    return received_at - made_at > timedelta(hours=policy.maximum_study_age_h)


def eligible_object(header: Header, facts: ObjectFacts, policy: EligibilityPolicy) -> Verdict:
    """Decide before decoding what no bundle could use; YES or NO."""
    image_type = tuple(value.strip().upper() for value in header.image_type)
    sides = (header.rows, header.columns)
    if not header.has_pixels:
        reason = "no pixels in this object"
    elif facts.too_old_on_arrival:
        reason = f"study was older than {policy.maximum_study_age_h:g} h on arrival"
    elif not facts.transfer_syntax_supported:
        reason = "no decoder for this transfer syntax"
    elif header.presentation_intent_type.strip().upper() == "FOR PROCESSING":
        reason = "For Processing image: not meant for reading"
    elif "LOCALIZER" in image_type[2:]:  # Image Type value 3, PS3.3 C.8.2.1.1.1
        reason = "localiser"
    elif image_type[1:2] == ("SECONDARY",) and not policy.accept_derived:
        reason = "derived image: made after the examination"
    elif all(sides) and min(sides) < policy.minimum_size_px:
        reason = _too_small(policy)
    else:
        return Verdict(fit=Fit.YES)
    return Verdict(fit=Fit.NO, reason=reason)


def eligible_pixels(facts: ImageFacts, policy: EligibilityPolicy) -> Verdict:
    """Decide after decoding, by the pixels; YES or NO."""
    if min(facts.rows, facts.columns) < policy.minimum_size_px:
        return Verdict(fit=Fit.NO, reason=_too_small(policy))
    if facts.blank:
        return Verdict(fit=Fit.NO, reason="image is blank")
    return Verdict(fit=Fit.YES)


def mapped(header: Header, *, sender_ae_title: str, policy: EligibilityPolicy) -> Header:
    """Return the header with the site's mappings applied. For `fits` only, never stored."""
    texts = {
        "series_description": header.series_description,
        "study_description": header.study_description,
        "procedure_code": header.procedure_code,
        "sender_ae_title": sender_ae_title,
    }
    changes: dict[str, str] = {}
    for mapping in policy.mappings:
        if checks.matches(mapping.conditions(), texts):
            given = {name: value for name, value in mapping.values().items() if value}
            changes = given | changes
    return replace(
        header,
        modality=changes.get("modality", header.modality),
        body_part_examined=changes.get("body_part_examined", header.body_part_examined),
        view_position=changes.get("view_position", header.view_position),
        laterality=changes.get("laterality", header.laterality),
    )


def fits(use: IntendedUse, header: Header) -> Verdict:
    """Hold a header (after `mapped`) against one bundle's intended use."""
    modality = stated_modality(header.modality, header.sop_class_uid)
    stated = (
        ("modality", modality, use.modalities),
        ("body part", header.body_part_examined, use.body_parts),
        ("view", header.view_position, use.view_positions),
        ("laterality", header.laterality, use.lateralities),
    )
    unknown = []
    for name, value, wanted in stated:
        terms = {term.strip().upper() for term in wanted} - {""}
        if terms and not value.strip():
            unknown.append(name)
        elif terms and value.strip().upper() not in terms:
            return Verdict(fit=Fit.NO, reason=_outside(name, value.strip().upper()))
    return _fits_age(use, header, unknown)


def age_y(header: Header) -> float | None:
    """Return Patient's Age (0010,1010) in years, else birth date to study date; None = unknown.

    Completed years, with a fraction only where the age is given in months, weeks or days.
    """
    found = _AGE.fullmatch(header.patient_age.strip().upper())
    if found:
        return int(found[1]) * _AGE_UNIT_DAYS[found[2]] / _DAYS_PER_YEAR
    born, made = parse_date(header.patient_birth_date), parse_date(header.study_date)
    if born is None or made is None or made < born:
        return None
    return made.year - born.year - ((made.month, made.day) < (born.month, born.day))


def _fits_age(use: IntendedUse, header: Header, unknown: list[str]) -> Verdict:
    age = age_y(header)
    if use.minimum_age_y is None and use.maximum_age_y is None:
        pass
    elif age is None:
        unknown = [*unknown, "age"]
    elif (use.minimum_age_y is not None and age < use.minimum_age_y) or (
        use.maximum_age_y is not None and age > use.maximum_age_y
    ):
        return Verdict(fit=Fit.NO, reason="age of the patient is outside the intended use")
    if unknown:
        names = ", ".join(unknown)
        return Verdict(fit=Fit.BY_CONTENT, reason=f"{names} not stated: decided by image content")
    return Verdict(fit=Fit.YES)


def _outside(name: str, value: str) -> str:
    shown = f" {value}" if _CODE_STRING.fullmatch(value) else ""
    return f"{name}{shown} is outside the intended use"


def _too_small(policy: EligibilityPolicy) -> str:
    return f"image is smaller than {policy.minimum_size_px} px"
