"""The card of a trained bundle: what it was made of, how, and what it is not.

Markdown for the person who decides whether it may serve. Says nothing that the record
(`training_record`) does not.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Final

from triage.inference.bundle_making import Fitted
from triage.learning.material.same_pixels import words_of_training
from triage.learning.methods import METHODS

DEMONSTRATION: Final = """\
**Not for clinical use.** The encoder is one for demonstration, or the bundle was declared so.

"""
CARD: Final = """\
# {name} {version}

{demonstration}Trained by the method *{method}* ({says}) on {date}.

Calibration and operating points are **provisional**: they were chosen on the validation split, by
which the training was chosen too. Before this bundle serves, calibrate it on studies of the site
that had no part in its training (`triage calibrate`), and measure it on others
(`triage evaluate`). No figure below is one of performance in use.

## Findings

| finding | training, 1 / 0 | validation, 1 / 0 | validation AUROC | operating point | raises to |
|---|---|---|---|---|---|
{findings}

## Material

Labels {digest}: {rows} rows, {grouped}. {copies}

| split | subjects | patients | embedded |
|---|---|---|---|
{splits}

Of the test split nothing was looked at but whether its pixels stand under another patient. Who is
in which split stands in the bundle as hashes alone, so that `triage evaluate` knows them again.

## How

{found}

Gate: {gate}.

Cost: {fit_s} s for embedding and fitting, {memory} MiB at most, on {device}.

Every choice stands in bundle.json under `training`.
"""


def card(
    name: str, version: str, record: Mapping[str, Any], fitted: Fitted, *, demonstration: bool
) -> str:
    """The card as Markdown."""
    return CARD.format(
        name=name,
        version=version,
        demonstration=DEMONSTRATION if demonstration else "",
        method=record["method"],
        says=METHODS[record["method"]].says,
        date=record["date"],
        findings="\n".join(_finding_rows(record, fitted)),
        digest=record["labels"]["digest"][:16] or "none",
        rows=record["labels"]["rows"],
        grouped="divided by patient"
        if record["labels"]["grouped_by_patient"]
        else "without patient groups: each row counts as a patient",
        copies=words_of_training(record),
        splits="\n".join(
            f"| {split} | {said['subjects']} | {said['patients']} | {said.get('embedded', '-')} |"
            for split, said in record["splits"].items()
        ),
        found="\n".join(_listed(record["found"])) or "No parameter was fitted.",
        gate=_gate(fitted),
        fit_s=record["cost"]["fit_s"],
        memory=record["cost"]["peak_memory_mib"],
        device=record["device"],
    )


def _finding_rows(record: Mapping[str, Any], fitted: Fitted) -> list[str]:
    splits = record["splits"]
    rows = []
    for spec in fitted.findings:
        counts = [
            f"{splits[split]['positives'][spec.name]} / {splits[split]['negatives'][spec.name]}"
            for split in ("train", "val")
        ]
        area = record["validation"].get(spec.name, {}).get("auroc")
        rows.append(
            f"| {spec.name} | {counts[0]} | {counts[1]} | {'-' if area is None else area} |"
            f" {spec.operating_point:.3f} | {spec.raises_to} |"
        )
    return rows


def _listed(found: Mapping[str, Any]) -> Sequence[str]:
    return [f"- {key.replace('_', ' ')}: {_plain(value)}" for key, value in found.items()]


def _plain(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {_plain(entry)}" for key, entry in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(map(_plain, value))
    return str(value)


def _gate(fitted: Fitted) -> str:
    if fitted.gate is None or fitted.bank_vectors is None:
        return "none, for there were no images to take a bank from"
    return (
        f"mean cosine distance to {fitted.gate.neighbours} of {len(fitted.bank_vectors)} training"
        f" views, at most {fitted.gate.threshold}, from the validation split"
    )
