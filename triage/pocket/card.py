"""The model card of pocket, written from its figures and from the constants of its phantoms."""

from collections.abc import Mapping, Sequence
from typing import Any, Final

from triage.inference.bundle_fields import FindingSpec
from triage.pocket.lesions import CONTRAST, EXTENT, NORMAL_SHARE, TWO_FINDINGS_SHARE, Kind, Size

TEXT: Final = """\
# pocket 1

**Not for clinical use.** A model of {parameters:,} parameters that has never seen a patient:
encoder, head and captioner were trained on procedural chest radiographs, drawn from numbers. It
lets the whole program run and be tested where no real model is at hand. On real radiographs its
answers mean nothing, and its gate is expected to turn most of them away.

## What it is

MedGemma's architecture (`Gemma3ForConditionalGeneration`) at 112 px: 64 patches, 16 soft tokens,
three text layers. Findings come from one standardised, L2-regularised logistic regression each on
the mean of the vision tokens, Platt-calibrated on phantoms that neither encoder nor head was
fitted on. The gate is the mean cosine distance to the ten nearest of a bank of phantoms.
Made by `make pocket` from a seed; another processor gives other last digits of the weights.

## What it was made for

CR and DX, chest, PA or AP, adults. Missing header fields are left to the gate.

## Difficulty of the phantoms

Fixed before training. Normal {normal:.0%}, two findings {two:.0%}, the rest one finding.

| finding | smallest | largest | faintest | clearest |
|---|---|---|---|---|
{difficulty}

Extents are shares: of the lung's half-width for a pneumothorax, of its height for an effusion,
of half the image width, as a radius, for consolidation and nodule. Contrast is a share of the
display range before exposure, where a normal lung lies at about 0.2. Build, turn, exposure,
grain, collimation, ribs, breast shadows, catheters, electrodes and side markers vary at random.

## Figures

On {phantoms} phantoms of seeds that took no part in fitting:

| what | figure |
|---|---|
| any finding, AUROC | {any_finding_auroc} |
| the same, logistic regression on pixels | {pixel_regression_auroc} |
| right finding, "none" included | {right_finding} |
| caption exactly right | {caption_exact} |
| turned away by the gate although a chest | {gated_in_distribution} |

| finding | AUROC | sensitivity | specificity | Brier | operating point |
|---|---|---|---|---|---|
{findings}

Turned away by the gate, of pictures that are no chest:
{gated}.
A hand takes no part in training.
"""


def card(figures: Mapping[str, Any], findings: Sequence[FindingSpec]) -> str:
    """The card as Markdown; without figures (a draft) only its title."""
    if not figures:
        return "# pocket 1\n"
    difficulty = "\n".join(
        f"| {kind} | {EXTENT[kind][Size.SMALL][0]} | {EXTENT[kind][Size.LARGE][1]} |"
        f" {CONTRAST[kind][0]} | {CONTRAST[kind][1]} |"
        for kind in Kind
    )
    rows = []
    for spec in findings:
        measured = figures["per_finding"][spec.name]
        rows.append(
            f"| {spec.name} | {measured['auroc']} | {measured['sensitivity']} |"
            f" {measured['specificity']} | {measured['brier']} | {spec.operating_point} |"
        )
    return TEXT.format(
        **{key: value for key, value in figures.items() if not isinstance(value, dict)},
        normal=NORMAL_SHARE,
        two=TWO_FINDINGS_SHARE,
        difficulty=difficulty,
        findings="\n".join(rows),
        gated=", ".join(f"{name} {share:.1%}" for name, share in figures["gated"].items()),
    )
