"""`triage calibrate`: a new bundle with calibration and operating points of this site's studies."""

import argparse
import math
import re
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from triage.cli.judged import (
    add_judging_options,
    add_prevalence_option,
    embedded,
    open_bundle,
    prevalences,
    require_extra,
    selected,
    share,
    with_copies,
)
from triage.cli.labelled import images_of, labels_of
from triage.cli.table import Cell, Column, Line, Style, cell, render, screen
from triage.cli.text import clean
from triage.cli.verbs import DONE, UsageError, Verbs, add_verb, print_json
from triage.errors import PermanentError

if TYPE_CHECKING:
    from triage.inference.bundle import Bundle
    from triage.learning.judging.calibrated_bundle import Provenance
    from triage.learning.judging.calibrating import FindingFit, Fit, Wish
    from triage.learning.judging.operating_points import OperatingPoint
    from triage.learning.judging.selection import Selection
    from triage.learning.material.embedding_set import EmbeddingSet
    from triage.learning.material.labels import LabelTable

METHODS = ("platt", "isotonic", "none")
LOCAL: Final = re.compile(r"(-local-\d{8}(\.\d+)?)+\Z")  # what a version has of calibrations
ROOM: Final = 40  # characters of a version that stay before it: a bundle holds 64


def declare(verbs: "Verbs[argparse.ArgumentParser]") -> None:
    parser = add_verb(
        verbs,
        "calibrate",
        calibrate,
        says="make a bundle whose probabilities and thresholds are those of your own studies",
        example="triage calibrate bundles/chest --labels labels.csv --images /srv/films"
        " --sensitivity 0.95",
        json_document=True,
    )
    add_judging_options(parser, usual="val")
    parser.add_argument(
        "--method",
        choices=METHODS,
        default="platt",
        help="platt (default); isotonic, refused below 1000 patients of each class; none: operating"
        " points only, the probabilities stay as they are",
    )
    add_prevalence_option(
        parser,
        says="how common the finding is at the site, where the labelled studies were chosen"
        " otherwise; may be given again",
    )
    parser.add_argument(
        "--sensitivity", type=share, default=0.95, help="wished sensitivity (default: 0.95)"
    )
    parser.add_argument(
        "--confidence", type=share, default=0.95, help="with which it is shown (default: 0.95)"
    )
    parser.add_argument("--site", default="", help="name of the site, for the record")
    parser.add_argument("--model-version", help="version (default: the old one, local and the day)")
    parser.add_argument(
        "--out", type=Path, metavar="DIR", help="new directory (default: BUNDLE-local-DAY)"
    )


def calibrate(arguments: argparse.Namespace) -> int:
    from triage.learning.judging.calibrated_bundle import write_calibrated
    from triage.learning.judging.calibrating import fit, without_calibration
    from triage.learning.judging.scoring import score

    if arguments.method == "isotonic":
        require_extra("sklearn")
    now = datetime.now(UTC)
    out = arguments.out or _beside(arguments.bundle, now)
    if out.exists():
        raise PermanentError(f"{out} is there already", hint="Name a new directory by --out.")
    bundle = open_bundle(arguments.bundle)
    version = _version(arguments, bundle, now)
    wish = _wish(arguments, bundle)
    table = labels_of(arguments, bundle)
    selection = selected(arguments, bundle, table, usual="val", judging=False)
    rows = [table.rows[row] for row in selection.rows]
    with images_of(arguments, use=bundle.intended_use) as images:
        vectors = embedded(arguments, bundle, rows, images, arguments.embeddings)
    selection = with_copies(selection, bundle, rows, vectors)
    source = _provenance(arguments, table, selection, vectors, now)
    scores = score(without_calibration(bundle), vectors, table, selection.rows)
    found = fit(bundle, scores, wish, source.conditions)
    made = write_calibrated(bundle, out, found, wish, version=version, source=source, rows=rows)
    if arguments.json:
        print_json(_document(made, out, found, wish, selection))
    else:
        _tell(made, out, found, wish, source)
    return DONE


def _wish(arguments: argparse.Namespace, bundle: "Bundle") -> "Wish":
    from triage.learning.judging.calibrating import Wish

    if arguments.prevalence and arguments.method == "none":
        raise UsageError(
            "--prevalence shifts probabilities, which --method none leaves as they are",
            hint="Leave one of the two out.",
        )
    return Wish(
        method=arguments.method,
        prevalence=prevalences(arguments, bundle),
        sensitivity=arguments.sensitivity,
        confidence=arguments.confidence,
    )


def _provenance(
    arguments: argparse.Namespace,
    table: "LabelTable",
    selection: "Selection",
    vectors: "EmbeddingSet",
    now: datetime,
) -> "Provenance":
    """What the calibration rests on, for its record."""
    from triage.inference.bundle import hardware_of
    from triage.learning.judging.calibrated_bundle import Provenance
    from triage.learning.judging.calibrating import Conditions

    dtype, device_class = hardware_of(vectors.scope)
    return Provenance(
        labels_digest=table.digest,
        on=now.date(),
        conditions=Conditions(
            dtype=dtype, device_class=device_class, training_rows=selection.training_rows
        ),
        site=arguments.site,
        rows=selection.words,
        warnings=selection.warnings,
    )


def _version(arguments: argparse.Namespace, bundle: "Bundle", now: datetime) -> str:
    """What was said, else the old one with the day; an earlier calibration's day gives way."""
    from triage.inference.bundle_fields import NAME

    said: str | None = arguments.model_version
    if said is not None:
        if not NAME.fullmatch(said):
            raise UsageError(
                f"a bundle cannot hold the version {said[:64]!r}",
                hint="Up to 64 letters, digits, spaces, dots, hyphens and underscores.",
            )
        return said
    old = bundle.identity.version
    plain = f"{LOCAL.sub('', old)[:ROOM]}-local-{now:%Y%m%d}"
    if old != plain and not old.startswith(f"{plain}."):
        return plain
    number = old.removeprefix(plain).removeprefix(".")
    return f"{plain}.{int(number or 1) + 1}"


def _beside(bundle: Path, now: datetime) -> Path:
    directory = bundle.resolve()
    return directory.with_name(f"{directory.name}-local-{now:%Y%m%d}")


def _document(
    made: "Bundle", out: Path, found: "Fit", wish: "Wish", selection: "Selection"
) -> dict[str, Any]:
    from triage.learning.judging.evaluation import as_json

    record = made.manifest.calibration
    return {
        "directory": out,
        "digest": made.identity.digest,
        "name": made.identity.name,
        "version": made.identity.version,
        "kind": found.calibration.kind,
        "local": found.local,
        "local_findings": list(found.local_findings),
        "dtype": record.dtype if record else "",
        "device_class": record.device_class if record else "",
        "rows": selection.words,
        "target_sensitivity": wish.sensitivity,
        "confidence": wish.confidence,
        "images": found.images,
        "patients": found.patients,
        "gated": found.gated,
        "failed": found.failed,
        "findings": as_json(found.findings),
        "warnings": list(selection.warnings),
    }


def _tell(made: "Bundle", out: Path, found: "Fit", wish: "Wish", source: "Provenance") -> None:
    at = source.conditions
    print(clean(f"Made {out}: {made.identity.name} {made.identity.version}."))
    done = "Operating points chosen" if wish.method == "none" else f"Calibrated ({wish.method})"
    print(
        f"{done} on {found.images} images of {found.patients}"
        f" patients ({source.rows}) at {at.dtype} on {at.device_class}; {found.gated} turned away"
        f" by the gate, {found.failed} failed."
    )
    columns = (
        Column(title="FINDING", share=1),
        Column(title="POSITIVE", right=True),
        Column(title="OF", right=True),
        Column(title="THRESHOLD", right=True),
        Column(title=f"SENSITIVITY {wish.sensitivity:g}", share=2),
        Column(title="SPECIFICITY", right=True),
        Column(title="FLAGS", right=True),
    )
    print(render(columns, [_row(each, wish) for each in found.findings], screen()))
    notes = [*source.warnings]
    notes += [f"{each.name}: {words}." for each in found.findings for words in each.warnings]
    notes += _why_not_local(found, wish, source)
    for words in notes:
        print(clean(f"Warning: {words}"))
    if found.local:
        print(f"It serves at {at.dtype} on {at.device_class}; elsewhere it is a shadow only.")
        if refused := [each.name for each in found.findings if each.refusal]:
            print(clean(f"It serves without a sensitivity that was shown: {', '.join(refused)}."))
    print(clean(f"Next: `triage evaluate {out} ...` on other patients than these."))


def _why_not_local(found: "Fit", wish: "Wish", source: "Provenance") -> list[str]:
    """What keeps the daemon from serving the bundle as more than a shadow, and the way out."""
    if found.local:
        return []
    at = source.conditions
    rows = at.training_rows
    if rows and any(each.fitted for each in found.findings):
        why = f"The bundle was fitted on {rows} of these rows, so this is no local calibration."
        way = "Calibrate on other images: without --split train or all, and without copies."
    else:
        missing = [each.name for each in found.findings if each.name not in found.local_findings]
        why = (
            f"Not calibrated on local studies at {at.dtype} on {at.device_class}:"
            f" {', '.join(missing)}."
        )
        way = "Calibrate these too, from the bundle made now; labels may lie in several files."
        if wish.method == "none":
            way = "To fit the probabilities too, leave out --method none."
    return [f"{why} The daemon serves the bundle as a shadow only. {way}"]


def _row(each: "FindingFit", wish: "Wish") -> list[Cell]:
    point = each.point
    if point is None and not each.refusal:
        shown = [
            Line(text="supported", style=Style.GOOD),
            Line(text="by an earlier calibration, which stays"),
        ]
    elif point is None:
        shown = [
            Line(text="not supported", style=Style.WARNING),
            Line(text=clean(f"{each.refusal}; it flags what it flagged before")),
        ]
    else:
        shown = [
            Line(text="supported", style=Style.GOOD),
            Line(
                text=f"{point.misses} of {point.positives} patients missed"
                f"{_by_the_gate(each)}: at least"
                f" {math.floor(1000 * point.sensitivity_bound) / 1000:.3f} at"
                f" {wish.confidence:.0%} confidence"
            ),
        ]
    known = point is not None and not math.isnan(point.specificity)
    return [
        cell(clean(each.name), Style.STRONG),
        cell(str(each.positives)),
        cell(str(each.images)),
        cell(f"{each.threshold:.4f}"),
        shown,
        cell(f"{point.specificity:.2f}" if point and known else "-"),
        cell(f"{_flag_rate(each, point, wish):.0%}" if point and known else "-"),
    ]


def _by_the_gate(each: "FindingFit") -> str:
    return f" ({each.turned_away} by the gate)" if each.turned_away else ""


def _flag_rate(each: "FindingFit", point: "OperatingPoint", wish: "Wish") -> float:
    """Share of the site's images that will be flagged, if these studies are like them."""
    prevalence = wish.prevalence.get(each.name, each.positives / each.images)
    found = 1 - point.misses / point.positives
    return prevalence * found + (1 - prevalence) * (1 - point.specificity)
