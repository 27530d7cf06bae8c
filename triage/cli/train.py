"""`triage train`: a bundle from labelled images, by one of the methods of `triage.learning`."""

import argparse
import os
import sys
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from triage.cli.labelled import (
    WORKLIST,
    add_label_options,
    add_pooling_option,
    images_of,
    labels_of,
)
from triage.cli.text import clean
from triage.cli.verbs import (
    DONE,
    UsageError,
    Verbs,
    add_verb,
    interruptible,
    named_value,
    positive,
    print_json,
    seed,
    whole_number,
)
from triage.learning.methods import METHODS
from triage.records import Code, Rank

if TYPE_CHECKING:
    from triage.inference.bundle import Bundle
    from triage.learning.material.labels import LabelTable
    from triage.learning.methods.material import Choices, Prompts
    from triage.learning.training.provisional import FindingPlan
    from triage.learning.training.training import Plan
    from triage.rules.eligibility import IntendedUse

LISTED: Final = 20  # rows left out that a person is shown; the bundle's record holds all


def declare(verbs: "Verbs[argparse.ArgumentParser]") -> None:
    parser = add_verb(
        verbs,
        "train",
        train,
        says="train a bundle on labelled images, divided by patient",
        example="triage train --method logistic --images /srv/films --labels labels.csv"
        " --encoder /srv/models/medsiglip-448 --modality CR,DX --body-part CHEST --out chest",
        json_document=True,
    )
    parser.add_argument(
        "--method",
        required=True,
        choices=METHODS,
        help="; ".join(f"{method.name}: {method.says}" for method in METHODS.values()),
    )
    parser.add_argument(
        "--encoder", type=Path, required=True, metavar="DIR", help="encoder in the hub's format"
    )
    parser.add_argument(
        "--encoder2",
        type=Path,
        action="append",
        default=[],
        metavar="DIR",
        help="mixture: a further encoder; may be given again",
    )
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="new bundle")
    parser.add_argument("--name", help="name of the model (default: name of --out)")
    parser.add_argument("--model-version", default="1", help="its version (default: 1)")
    add_label_options(parser, required=False)
    _declare_bundle(parser)
    _declare_rendering(parser)
    _declare_choices(parser)
    _declare_methods(parser)
    _declare_work(parser)


def _declare_bundle(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("the bundle", "what it is for, and what a flag asks for")
    for option, field in (
        ("--modality", "modalities"),
        ("--body-part", "body_parts"),
        ("--view-position", "view_positions"),
        ("--laterality", "lateralities"),
    ):
        group.add_argument(
            option, dest=field, type=_terms, default=(), metavar="A,B", help="intended use"
        )
    group.add_argument("--minimum-age", type=_number, metavar="YEARS", help="intended use")
    group.add_argument("--maximum-age", type=_number, metavar="YEARS", help="intended use")
    group.add_argument(
        "--code",
        type=_code,
        action="append",
        default=[],
        metavar="FINDING=VALUE^SCHEME^MEANING",
        help="code of a finding, e.g. pneumothorax=36118008^SCT^Pneumothorax",
    )
    group.add_argument(
        "--raises-to",
        type=_rank,
        action="append",
        default=[],
        metavar="FINDING=RANK",
        help=f"rank that a flag asks for: {', '.join(Rank)} (default: {Rank.HIGH})",
    )
    group.add_argument(
        "--not-for-clinical-use",
        action="store_true",
        help="say so in the bundle; a demonstration encoder says it by itself",
    )


def _declare_rendering(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("views")
    group.add_argument("--rendering", default="dicom", help="dicom (default), google-cxr, ...")
    group.add_argument("--size-px", type=positive, help="side of a view (default: as trained)")
    group.add_argument(
        "--no-antialias", action="store_true", help="plain bilinear, as TensorFlow's"
    )


def _declare_choices(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("training")
    group.add_argument("--seed", type=seed, help="of splits and training (default: 1)")
    group.add_argument(
        "--shares",
        type=_numbers,
        metavar="TRAIN,VAL,TEST",
        help="of patients whose split the labels leave open (default: 0.7,0.1,0.2)",
    )
    add_pooling_option(group)
    group.add_argument("--class-weights", choices=("none", "balanced"), help="default: none")
    group.add_argument("--l2", type=_numbers, metavar="A,B", help="strengths to choose from")
    group.add_argument("--folds", type=positive, help="of cross-validation (default: 5)")
    group.add_argument("--epochs", type=positive, help="at most (default: 60)")
    group.add_argument("--patience", type=positive, help="epochs without gain (default: 8)")
    group.add_argument(
        "--step-subjects",
        dest="step_size",
        type=positive,
        metavar="N",
        help="of one step of gradient descent (default: 32)",
    )
    group.add_argument("--rate", type=_number, help="of the head (default: 0.001)")
    group.add_argument("--weight-decay", type=_number, help="default: 0.01")


def _declare_methods(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("methods")
    group.add_argument("--hidden", type=_sizes, metavar="A,B", help="mlp: units (512,256)")
    group.add_argument("--dropout", type=_number, help="mlp (default: 0.1)")
    group.add_argument("--blocks", type=whole_number, help="unfreeze: last blocks (default: 2)")
    group.add_argument("--encoder-rate", type=_number, help="unfreeze: of the last block (0.0001)")
    group.add_argument("--layer-decay", type=_number, help="unfreeze: from block to block (0.7)")
    group.add_argument("--queries", type=positive, help="queries: how many (default: 4)")
    group.add_argument("--query-width", type=positive, help="queries: values of each (32)")
    group.add_argument("--layer", type=positive, help="queries: layer, from 1 (the middle one)")
    group.add_argument("--crops", type=positive, help="focal: N x N crops (default: 2)")
    group.add_argument("--maximum-terms", type=positive, help="caption-fusion (default: 300)")
    group.add_argument("--maximum-new-tokens", type=positive, help="caption-fusion (default: 64)")
    for option, says in (("--prompt", "is there"), ("--absent-prompt", "is not there")):
        group.add_argument(
            option,
            type=named_value,
            action="append",
            default=[],
            metavar="FINDING=TEXT",
            help=f"zero-shot: says that it {says}; may be given again",
        )


def _declare_work(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("work")
    group.add_argument(
        "--embeddings",
        type=Path,
        metavar="DIR",
        help="keep embeddings there, or go on with those that `triage embed` left",
    )
    group.add_argument("--batch-size", type=positive, default=16, help="views (default: 16)")
    group.add_argument(
        "--scratch-mib", type=positive, default=8192, help="of tokens kept (default: 8192)"
    )
    group.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N")
    group.add_argument("--dtype", default="auto", help="auto, float32 or bfloat16")


def train(arguments: argparse.Namespace) -> int:
    # Threads of torch that spin would starve the decoders; read before torch is first imported.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    table = _table(arguments)
    use = _intended_use(arguments)
    from triage.learning.training.training import train as train_bundle

    where = images_of(arguments, use=use) if arguments.images else nullcontext(Path())
    with interruptible(), where as images:
        plan = _plan(arguments, table, use)
        bundle = train_bundle(replace(plan, images=images))
    if arguments.json:
        from triage.inference.bundle_fields import write_manifest

        print_json(
            {
                "directory": bundle.directory,
                "digest": bundle.identity.digest,
                "bundle": write_manifest(bundle.manifest),
            }
        )
    else:
        _tell(arguments, bundle)
    return DONE


def _table(arguments: argparse.Namespace) -> "LabelTable":
    """The labels; zero-shot may do without them."""
    if arguments.labels:
        if not arguments.images:
            raise UsageError("--labels needs --images, where what they name is")
        return labels_of(arguments)
    if arguments.method != "zero-shot":
        raise UsageError(f"the method {arguments.method} needs --labels and --images")
    if not arguments.findings:
        raise UsageError("zero-shot without labels needs --findings")
    if arguments.images == WORKLIST:
        raise UsageError("images of the worklist need --labels, which name the studies")
    from triage.learning.training.training import unlabelled

    return unlabelled(Path(arguments.images) if arguments.images else None, arguments.findings)


def _plan(arguments: argparse.Namespace, table: "LabelTable", use: "IntendedUse") -> "Plan":
    from triage.learning.material.splits import TRAIN_VAL_TEST
    from triage.learning.training.training import Plan

    shares = dict(TRAIN_VAL_TEST)
    if arguments.shares:
        shares = _shares(arguments.shares, tuple(TRAIN_VAL_TEST))
    return Plan(
        method=arguments.method,
        table=table,
        images=Path(),
        encoders=(arguments.encoder, *arguments.encoder2),
        out=arguments.out,
        name=arguments.name or arguments.out.resolve().name,
        version=arguments.model_version,
        choices=_choices(arguments),
        shares=shares,
        findings=_findings(arguments, table),
        intended_use=use,
        rendering=arguments.rendering,
        size_px=arguments.size_px,
        antialias=not arguments.no_antialias,
        embeddings=arguments.embeddings,
        device=arguments.device,
        dtype=arguments.dtype,
        batch_size=arguments.batch_size,
        scratch_mib=arguments.scratch_mib,
        not_for_clinical_use=arguments.not_for_clinical_use,
    )


def _choices(arguments: argparse.Namespace) -> "Choices":
    """What was said; the rest is the default of each method."""
    from dataclasses import fields

    from triage.learning.methods.material import Choices

    said: dict[str, Any] = {
        field.name: value
        for field in fields(Choices)
        if field.name not in {"prompts", "batch_size"}
        and (value := getattr(arguments, field.name, None)) is not None
    }
    if arguments.step_size is not None:
        said["batch_size"] = arguments.step_size
    return Choices(**said, prompts=_prompts(arguments))


def _prompts(arguments: argparse.Namespace) -> "dict[str, Prompts]":
    from triage.learning.methods.material import Prompts

    present, absent = _by_name(arguments.prompt), _by_name(arguments.absent_prompt)
    if odd := set(present) ^ set(absent):
        raise UsageError(f"{min(odd)} needs both --prompt and --absent-prompt")
    return {name: Prompts(present=present[name], absent=absent[name]) for name in present}


def _findings(arguments: argparse.Namespace, table: "LabelTable") -> "dict[str, FindingPlan]":
    from triage.learning.training.provisional import FindingPlan

    codes, ranks = dict(arguments.code), dict(arguments.raises_to)
    if unknown := (set(codes) | set(ranks)) - set(table.findings):
        raise UsageError(f"the labels have no finding {min(unknown)}")
    return {
        name: FindingPlan(code=codes.get(name), raises_to=ranks.get(name, Rank.HIGH))
        for name in table.findings
    }


def _intended_use(arguments: argparse.Namespace) -> "IntendedUse":
    from triage.rules.eligibility import IntendedUse

    low, high = arguments.minimum_age, arguments.maximum_age
    if low is not None and high is not None and low > high:
        raise UsageError("--minimum-age is above --maximum-age: the bundle would fit nobody")
    return IntendedUse(
        modalities=arguments.modalities,
        body_parts=arguments.body_parts,
        view_positions=arguments.view_positions,
        lateralities=arguments.lateralities,
        minimum_age_y=low,
        maximum_age_y=high,
    )


def _tell(arguments: argparse.Namespace, bundle: "Bundle") -> None:
    from triage.learning.material.same_pixels import words_of_training

    record = bundle.manifest.training
    identity = bundle.identity
    print(f"Made {arguments.out}: {identity.name} {identity.version}, digest {identity.digest}.")
    for spec in bundle.manifest.findings:
        area = record["validation"].get(spec.name, {}).get("auroc")
        said = "no AUROC" if area is None else f"AUROC {area:.3f}"
        print(f"  {clean(spec.name)}: {said} on the validation split, which chose the training")
    left_out = record["left_out"]
    for each in left_out[:LISTED]:
        print(f"  left out, row {each['row']}: {clean(each['reason'])}", file=sys.stderr)
    if more := left_out[LISTED:]:
        print(f"  and {len(more)} more; bundle.json names all", file=sys.stderr)
    if arguments.labels and not record["labels"]["grouped_by_patient"]:
        print("The labels name no patient (patient_group): each row counts as a patient.")
    if copies := words_of_training(record):
        print(f"Warning: {copies}")
    if not arguments.modalities or not arguments.body_parts:
        print("Intended use is any image: say --modality and --body-part before it serves.")
    print("Next: `triage calibrate` on local studies; until then it runs as a shadow.")


# --- what options hold


def _by_name(pairs: list[tuple[str, str]]) -> dict[str, tuple[str, ...]]:
    found: dict[str, tuple[str, ...]] = {}
    for name, text in pairs:
        found[name] = (*found.get(name, ()), text)
    return found


def _shares(numbers: tuple[float, ...], names: tuple[str, ...]) -> dict[str, float]:
    if len(numbers) != len(names) or min(numbers) < 0 or abs(sum(numbers) - 1.0) > 1e-9:
        raise UsageError("--shares are three numbers that add up to 1, for train, val and test")
    return dict(zip(names, numbers, strict=True))


def _terms(text: str) -> tuple[str, ...]:
    terms = tuple(term.strip().upper() for term in text.split(","))
    if not all(terms):
        raise argparse.ArgumentTypeError("an empty term in the list")
    return terms


def _numbers(text: str) -> tuple[float, ...]:
    return tuple(_number(part) for part in text.split(","))


def _sizes(text: str) -> tuple[int, ...]:
    return tuple(positive(part) for part in text.split(","))


def _number(text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text} is no number") from None
    if not 0.0 <= number < float("inf"):
        raise argparse.ArgumentTypeError(f"{text} is not 0 or more")
    return number


def _code(text: str) -> tuple[str, Code]:
    name, said = named_value(text)
    parts = [part.strip() for part in said.split("^")]
    if len(parts) != 3 or not all(parts):
        raise argparse.ArgumentTypeError(f"{text} is not FINDING=VALUE^SCHEME^MEANING")
    return name, Code(value=parts[0], scheme=parts[1], meaning=parts[2])


def _rank(text: str) -> tuple[str, Rank]:
    name, said = named_value(text)
    if said.upper() not in set(Rank):
        raise argparse.ArgumentTypeError(f"{said} is none of {', '.join(Rank)}")
    return name, Rank(said.upper())
