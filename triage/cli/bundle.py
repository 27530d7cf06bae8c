"""`triage bundle init|show|verify`: make a model bundle from weights on disk, see it, check it.

Weights are never fetched: `--encoder` names a directory that the user has obtained. A bundle made
by `init` has no head yet; its studies say "no classifier for this encoder" until one is trained.
"""

import argparse
import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from triage.cli.table import Cell, Column, Line, Style, cell, render, screen
from triage.cli.text import clean
from triage.cli.verbs import DONE, Verbs, add_verb, long_work, print_json
from triage.errors import PermanentError

if TYPE_CHECKING:
    from triage.inference.bundle import Bundle

NO_BUNDLE = (
    "Name the directory of a bundle, the one with its bundle.json; `triage bundle init --help`"
    " says how to make one."
)


def declare(verbs: "Verbs[argparse.ArgumentParser]") -> None:
    family = add_verb(
        verbs,
        "bundle",
        None,
        says="make, look at or check a model bundle",
        example="triage bundle show /var/lib/triage/bundles/chest",
    ).add_subparsers(title="verbs", metavar="VERB", required=True)
    _declare_init(family)
    for name, run, says in (
        ("show", show, "show what a bundle is for and how it was made"),
        ("verify", verify, "compare every file of a bundle and its encoder with its digest"),
    ):
        parser = add_verb(
            family,
            name,
            run,
            says=says,
            example=f"triage bundle {name} /var/lib/triage/bundles/chest",
            json_document=True,
        )
        parser.add_argument("directory", metavar="DIR", type=Path, help="directory of the bundle")


def _declare_init(family: "Verbs[argparse.ArgumentParser]") -> None:
    parser = add_verb(
        family,
        "init",
        init,
        says="make a bundle, without a head, from an encoder directory",
        example="triage bundle init --encoder /srv/models/medgemma-4b-it bundles/chest",
        json_document=True,
    )
    parser.add_argument("directory", metavar="DIR", type=Path, help="new directory of the bundle")
    parser.add_argument(
        "--encoder",
        type=Path,
        required=True,
        metavar="DIR",
        help="MedGemma 4B or MedSigLIP-448 in the hub's format, already on this machine",
    )
    parser.add_argument("--name", help="name of the model (default: name of DIR)")
    parser.add_argument("--model-version", default="1", help="its version (default: 1)")


def init(arguments: argparse.Namespace) -> int:
    from triage.inference.bundle_making import init_bundle

    _require_directory(
        arguments.encoder,
        hint="Name the directory into which the encoder was copied, the one with its config.json.",
    )
    long_work(f"Reading every file of {clean(arguments.encoder)}; a large one takes minutes.")
    bundle = init_bundle(
        arguments.encoder,
        arguments.directory,
        name=arguments.name or arguments.directory.resolve().name,
        version=arguments.model_version,
    )
    if arguments.json:
        print_json(_document(bundle))
    else:
        print(f"Made {arguments.directory}: {_named(bundle)}.")
        print("It has no classifier yet. Name it under [[models]] and run `triage check`.")
    return DONE


def show(arguments: argparse.Namespace) -> int:
    from triage.inference.bundle import load_bundle

    _require_directory(arguments.directory, hint=NO_BUNDLE)
    bundle = load_bundle(arguments.directory, check_encoder=False)
    if arguments.json:
        print_json(_document(bundle))
        return DONE
    columns = (Column(title="WHAT"), Column(title="VALUE", share=1))
    rows = [[cell(name), value] for name, value in _rows(bundle).items()]
    print(render(columns, rows, screen()))
    print()
    print("\n".join(clean(line) for line in bundle.card.splitlines()))
    return DONE


def verify(arguments: argparse.Namespace) -> int:
    from triage.inference.bundle import verify_bundle

    _require_directory(arguments.directory, hint=NO_BUNDLE)
    long_work("Reading every file of the bundle and its encoder; a large one takes minutes.")
    bundle = verify_bundle(arguments.directory)
    if arguments.json:
        print_json({"verified": True, **_document(bundle)})
    else:
        print(f"Every file is as listed: {_named(bundle)}.")
    return DONE


def _require_directory(path: Path, *, hint: str) -> None:
    if not path.is_dir():
        raise PermanentError(f"there is no directory {path}", hint=hint)


def _named(bundle: "Bundle") -> str:
    identity = bundle.identity
    return f"{identity.name} {identity.version}, digest {identity.digest}"


def _document(bundle: "Bundle") -> dict[str, Any]:
    from triage.inference.bundle_fields import write_manifest

    return {
        "directory": bundle.directory,
        "digest": bundle.identity.digest,
        "bundle": write_manifest(bundle.manifest),
    }


def _rows(bundle: "Bundle") -> dict[str, Cell]:
    manifest = bundle.manifest
    use = [
        f"{name.replace('_', ' ')}: {', '.join(value) if isinstance(value, tuple) else value}"
        for name, value in dataclasses.asdict(manifest.intended_use).items()
        if value not in ((), None)
    ]
    findings = [
        f"{each.name}: flagged from {each.operating_point:.2f}, raises to {each.raises_to}"
        for each in manifest.findings
    ]
    clinical = "NO: demonstration only" if manifest.not_for_clinical_use else "as the card says"
    style = Style.ALARM if manifest.not_for_clinical_use else Style.PLAIN
    return {
        "model": cell(f"{bundle.identity.name} {bundle.identity.version}", Style.STRONG),
        "digest": cell(bundle.identity.digest),
        "clinical use": cell(clinical, style),
        "encoder": cell(f"{manifest.encoder.architecture} in {bundle.encoder_directory}"),
        "features": _lines(_features(bundle)),
        "rendering": cell(_rendering(bundle)),
        "captions": cell("yes" if manifest.captions else "no"),
        "intended use": _lines(use or ["any"]),
        "head": cell(manifest.head_kind or "none"),
        "findings": _lines(findings or ["no classifier for this encoder"]),
        "calibration": _calibration(bundle),
        "training": _lines(_training(manifest.training) or ["not recorded"]),
        "patients seen": _lines(_patients(bundle)),
        "known answers": _lines(sorted(bundle.known_answer.vectors)),
    }


def _rendering(bundle: "Bundle") -> str:
    view = bundle.view_spec
    crops = f", and {view.crops} x {view.crops} crops" if view.crops else ""
    return f"{view.rendering}, {view.size_px} px{crops}"


def _features(bundle: "Bundle") -> list[str]:
    """What a vector consists of, in order."""
    features = bundle.manifest.features
    told = {"default": "the encoder's own pooling", "mean": "mean over tokens"}
    pooled = told.get(features.pooling, "")
    if bundle.pooling is not None:
        pooled = f"{len(bundle.pooling.queries)} learned queries"
    layer = f" of layer {features.layer}" if features.layer is not None else ""
    experts = [
        f"expert {each.architecture} in {bundle.encoder_place(each)}" for each in features.experts
    ]
    words = [f"{len(bundle.terms.terms)} terms of the caption"] if bundle.terms else []
    unit = ["each encoder's vector scaled to length one"] if features.unit_length else []
    return [f"{pooled}{layer}", *experts, *words, *unit]


def _calibration(bundle: "Bundle") -> Cell:
    """On whose studies, how many, and which wished sensitivity they support."""
    record = bundle.manifest.calibration
    if bundle.head is None:
        return cell("none: no classifier")
    if record is None or not record.local:
        shadow = "NOT on local studies: runs as a shadow unless configured"
        some = ", ".join(record.local_findings) if record else ""
        partly = _lines([f"on local studies only {some}"] if some else [])
        return [Line(text=shadow, style=Style.ALARM), *partly]
    counts = [f"{name} {count}" for name, count in record.positives.items()]
    positives = ", ".join(counts) or "unknown"
    when = f" on {record.date}" if record.date else ""
    told = [
        f"{record.kind}, on local studies{when}",
        f"{record.where}; elsewhere it runs as a shadow unless configured",
        f"{record.images} images of {record.patients} patients; positives: {positives}",
    ]
    if record.prevalence:
        shifted = ", ".join(f"{name} {share:.3g}" for name, share in record.prevalence.items())
        told.append(f"shifted to prevalence {shifted}")
    if record.target_sensitivity is not None:
        told.append(f"for a sensitivity of {record.target_sensitivity:.2f}")
    told += [f"NOT supported for {name}: {why}" for name, why in record.refusals.items()]
    return _lines(told)


def _patients(bundle: "Bundle") -> list[str]:
    """How many hashes it holds of each use: of patients, and of their images by name."""
    seen = bundle.patients.seen if bundle.patients else {}
    if not seen:
        return ["not recorded: nobody can tell whether it is judged on its own training"]
    return [f"hashes: {', '.join(f'{use} {len(hashes)}' for use, hashes in seen.items())}"]


def _training(choices: Mapping[str, Any]) -> list[str]:
    """One line for each choice; what is nested as one line of JSON."""
    return [
        f"{name.replace('_', ' ')}: {value if isinstance(value, str) else json.dumps(value)}"
        for name, value in choices.items()
    ]


def _lines(texts: list[str]) -> Cell:
    return [Line(text=clean(text)) for text in texts]
