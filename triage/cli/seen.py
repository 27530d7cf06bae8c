"""What analysis has to say of one study, in words: shared by `worklist` and `show`.

The one thing that must never be confused: "looked at, nothing flagged" and "not looked at". Each
says so by itself, without colour. Knows no table and no screen.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from triage.cli.table import Line, Style
from triage.cli.text import clean, person_name

URGENT = ("STAT", "HIGH")
NOTHING = "analysed, nothing flagged"

Study = Mapping[str, Any]  # keys are the columns of the view `worklist`

# Parts of a priority reason that the rank and the findings beside it say already.
SAID = ("analysis pending", "analysis failed", "not analysed")
SAID_IN_PART = ("flagged: ", "no order priority given: ")


def verdict(study: Study) -> list[Line]:
    """Return what was seen, or that nobody looked and why: flags first, most probable first."""
    lines = [Line(text=f"! {score(each)}", style=Style.ALARM) for each in flags(study)]
    lines += _state(study, flagged=bool(lines))
    analysed, eligible = study["images_analysed"], study["images_eligible"]
    if eligible and analysed != eligible and not (study["analysis"] == "pending" and not analysed):
        lines.append(Line(text=_partial(study), style=Style.WARNING))
    return lines


def _state(study: Study, *, flagged: bool) -> list[Line]:
    reason = clean(study["analysis_reason"] or "no reason recorded")
    match study["analysis"]:
        case "pending":
            arriving = ", images still arriving" if study["state"] == "arriving" else ""
            return [Line(text=f"NOT YET ANALYSED{arriving}", style=Style.WARNING)]
        case "failed":
            why = reason.removeprefix("failed: ")
            return [Line(text=f"ANALYSIS FAILED: {why}", style=Style.ALARM)]
        case "not_eligible":
            return [Line(text=f"NOT ANALYSED: {reason}", style=Style.WARNING)]
    return [] if flagged else [Line(text=NOTHING)]


def flags(study: Study) -> list[Mapping[str, Any]]:
    """Return the flagged findings, most probable first."""
    return [each for each in _ordered(study["findings"]) if each["flagged"]]


def _partial(study: Study) -> str:
    counted = f"{study['images_analysed']} of {study['images_eligible']} images analysed"
    reason = study["analysis_reason"] if study["analysis"] == "analysed" else ""
    return clean(f"{counted}: {reason}" if reason else counted)


def score(finding: Mapping[str, Any]) -> str:
    """Return a finding with its probability."""
    return f"{clean(finding['name'])} {finding['probability']:.2f}"


def below(findings: Sequence[Mapping[str, Any]] | None) -> str:
    """Return the findings that were looked for and not flagged; empty where there are none."""
    unflagged = [score(each) for each in _ordered(findings) if not each["flagged"]]
    return f"below threshold: {', '.join(unflagged)}" if unflagged else ""


def _ordered(findings: Sequence[Mapping[str, Any]] | None) -> list[Mapping[str, Any]]:
    return sorted(findings or (), key=lambda finding: -finding["probability"])


def reason(study: Study) -> str:
    """Return why the study stands where it stands, without what its row says anyway."""
    parts = clean(study["priority_reason"] or "").split("; ")
    told = [part for part in parts if part not in SAID and not part.startswith(SAID_IN_PART)]
    return "; ".join(part for part in told if part)


def who(study: Study) -> str:
    """Return the patient's name as it is read."""
    return person_name(clean(study["patient_name"] or "")) or "(no name)"


def what(study: Study) -> str:
    """Return modality, body part and description."""
    modalities = study["modalities_in_study"]
    kinds = modalities if isinstance(modalities, str) else "/".join(modalities or ())
    words = (kinds, study["body_part_examined"], study["study_description"])
    return clean(" ".join(word for word in words if word))


def rank_style(study: Study) -> Style:
    return Style.ALARM if study["priority"] in URGENT else Style.STRONG
