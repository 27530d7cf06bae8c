"""`triage explain`: where a bundle found its evidence in one image, and whether such maps hold.

For the data scientist who makes and checks bundles. No other verb, page or view shows a map:
triage devices do not point at a location. Without `--faithfulness` one PNG is drawn; with it the
maps of many images are measured (`explain_words` tells what came out).
"""

import argparse
import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from triage.cli.judged import require_bundle
from triage.cli.labelled import add_word_options
from triage.cli.text import clean
from triage.cli.verbs import (
    DONE,
    FAILED,
    UsageError,
    Verbs,
    add_verb,
    long_work,
    print_json,
    seed,
    whole_number,
)
from triage.errors import PermanentError, TriageError

if TYPE_CHECKING:
    from triage.inference.bundle import Bundle
    from triage.inference.encoder import Encoder
    from triage.learning.explaining.explanation import Evidence, Method
    from triage.learning.explaining.trials import Shown

AUTO = "auto"
METHODS = (AUTO, "additive", "attention", "gradient")
PICTURE_PX = 896  # side at which a view is drawn, if the model's own is smaller
CASES = 80
MOST = 10_000


def declare(verbs: "Verbs[argparse.ArgumentParser]") -> None:
    parser = add_verb(
        verbs,
        "explain",
        explain,
        says="draw where a bundle found its evidence in an image, or measure such maps",
        example="triage explain film.dcm --bundle bundles/chest --finding pneumothorax"
        " --out evidence.png",
        json_document=True,
    )
    parser.add_argument("image", nargs="?", type=Path, metavar="IMAGE", help="DICOM, PNG or JPEG")
    parser.add_argument(
        "--bundle", type=Path, required=True, metavar="DIR", help="directory of the bundle"
    )
    parser.add_argument("--finding", metavar="NAME", help="default: the most probable of them")
    parser.add_argument(
        "--method",
        choices=METHODS,
        default=AUTO,
        help="additive (exact sum over patches), attention (of queries or pooling head), gradient;"
        " auto is the first that the bundle allows of additive and gradient",
    )
    parser.add_argument("--out", type=Path, metavar="PNG", help="picture to write")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N")
    parser.add_argument("--dtype", default="auto", help="auto, float32 or bfloat16")
    _declare_faithfulness(parser)


def _declare_faithfulness(parser: argparse.ArgumentParser) -> None:
    test = parser.add_argument_group("whether the maps hold")
    test.add_argument(
        "--faithfulness",
        action="store_true",
        help="measure maps instead: deletion and insertion, hits on planted lesions, and what is"
        " left of a map when weights are shuffled, against random and centre",
    )
    test.add_argument(
        "--phantoms", type=_count, metavar="N", help="on N phantoms with one planted lesion each"
    )
    test.add_argument(
        "--images", metavar="DIR|WORKLIST", help="on labelled images, as for `triage embed`"
    )
    test.add_argument("--labels", type=Path, metavar="CSV", help="which finding is where")
    add_word_options(test)
    test.add_argument(
        "--split", choices=("train", "val", "test"), default="", help="only rows of this split"
    )
    test.add_argument(
        "--limit",
        type=_count,
        default=CASES,
        help=f"most positives that are measured (default: {CASES})",
    )
    test.add_argument("--seed", type=seed, default=1, help="of all that is drawn")
    parser.set_defaults(findings=None, strata=())


def _count(text: str) -> int:
    number = whole_number(text)
    if not 1 <= number <= MOST:
        raise argparse.ArgumentTypeError(f"{text} is not between 1 and {MOST}")
    return number


def explain(arguments: argparse.Namespace) -> int:
    _check(arguments)
    if arguments.faithfulness:
        return _measure(arguments)
    return _draw(arguments)


def _check(arguments: argparse.Namespace) -> None:
    """Raise UsageError for options that do not go together."""
    labelled = arguments.images is not None or arguments.labels is not None
    if not arguments.faithfulness:
        if arguments.image is None or arguments.out is None:
            raise UsageError("name an IMAGE and the --out to draw, or ask for --faithfulness")
        if labelled or arguments.phantoms is not None:
            raise UsageError("--phantoms, --images and --labels go with --faithfulness")
        return
    if arguments.image is not None or arguments.out is not None:
        raise UsageError("--faithfulness measures many images: it takes no IMAGE and no --out")
    if labelled == (arguments.phantoms is not None):
        raise UsageError("--faithfulness needs either --phantoms N, or --images and --labels")
    if labelled and (arguments.images is None or arguments.labels is None):
        raise UsageError("--images and --labels go together")


def _opened(arguments: argparse.Namespace) -> "tuple[Bundle, Encoder]":
    require_bundle(arguments.bundle)
    from triage.inference.bundle import load_bundle
    from triage.inference.encoder import load_encoder

    long_work("Loading the encoder; a large one takes minutes.")
    bundle = load_bundle(arguments.bundle)
    words = bundle.manifest.features.captions
    encoder = load_encoder(bundle, device=arguments.device, dtype=arguments.dtype, captions=words)
    return bundle, encoder


def _method(arguments: argparse.Namespace, bundle: "Bundle") -> "Method | None":
    """The method asked for, None for the best one; raises where the bundle does not allow it."""
    from triage.learning.explaining.explanation import Method, check_method

    if arguments.method == AUTO:
        return None
    method = Method(arguments.method)
    check_method(bundle, method)
    return method


# --- one image


def _draw(arguments: argparse.Namespace) -> int:
    from triage.imaging.views import view_digest
    from triage.learning.explaining import explanation
    from triage.learning.explaining.maps import require_drawing, sheet_of, write_png
    from triage.learning.explaining.opened import opened
    from triage.learning.material.images import views_of

    require_drawing()
    if not arguments.image.is_file():
        raise PermanentError(f"there is no file {arguments.image}", hint="Name one image.")
    if not arguments.out.parent.is_dir():
        raise PermanentError(
            f"there is no directory {arguments.out.parent}", hint="Make it, or correct --out."
        )
    bundle, encoder = _opened(arguments)
    method = _method(arguments, bundle)
    views = views_of(arguments.image, bundle.view_spec)
    evidence = explanation.explain(
        bundle, opened(bundle, encoder), views, finding=arguments.finding, method=method
    )
    fine = dataclasses.replace(bundle.view_spec, size_px=max(PICTURE_PX, bundle.view_spec.size_px))
    digest = view_digest(views[evidence.view])
    pictures = views_of(arguments.image, fine)
    sheet = sheet_of(evidence, pictures, bundle=bundle, name=f"view {digest[:12]}")
    write_png(sheet, arguments.out)
    if arguments.json:
        print_json({**_document(evidence, bundle), "view_digest": digest, "out": arguments.out})
    else:
        _tell(evidence, arguments.out)
    return DONE


def _document(evidence: "Evidence", bundle: "Bundle") -> dict[str, Any]:
    from triage.learning.explaining.maps import LEGEND, MARK

    constants = evidence.constants
    return {
        "legend": LEGEND,
        "mark": MARK,
        "model": dataclasses.asdict(bundle.identity),
        "finding": evidence.finding,
        "method": evidence.method,
        "logit": evidence.logit,
        "probability": evidence.probability if evidence.in_distribution else None,
        "operating_point": evidence.operating_point,
        "flagged": evidence.flagged,
        "in_distribution": evidence.in_distribution,
        "reason": evidence.reason,
        "view": evidence.view,
        "views": [
            {
                "share": float(evidence.shares[at]),
                "logit": float(evidence.logits[at]),
                "constant": None if constants is None else float(constants[at]),
                "common": float(evidence.common[at]),
                "patches": evidence.values[at].tolist(),
                "outlying_patches": int(evidence.outliers[at].sum()),
            }
            for at in range(len(evidence.values))
        ],
    }


def _tell(evidence: "Evidence", out: Path) -> None:
    from triage.learning.explaining.maps import LEGEND, MARK, sum_of

    if evidence.in_distribution:
        state = "flagged" if evidence.flagged else "not flagged"
        print(
            f"{evidence.finding}: probability {evidence.probability:.3f}, {state}"
            f" (from {evidence.operating_point:.3f})"
        )
    else:
        print(f"{evidence.finding}: no score, {evidence.reason}")
    if len(evidence.shares) > 1:
        print(f"Drawn is view {evidence.view + 1} of {len(evidence.shares)}, which counts most.")
    print(f"{evidence.method} map: {sum_of(evidence)}")
    print(f"Drawn to {clean(out)}. {MARK}. {LEGEND}")


# --- many images


def _measure(arguments: argparse.Namespace) -> int:
    from triage.cli.explain_words import document, tell
    from triage.learning.explaining.explanation import methods_of
    from triage.learning.explaining.trials import Trial, put_to_the_test
    from triage.learning.progress import Progress

    bundle, encoder = _opened(arguments)
    method = _method(arguments, bundle)
    found = list(_pictures(arguments, bundle, encoder))
    pictures = [one for one in found if not isinstance(one, TriageError)]
    if not pictures:
        raise PermanentError("no image could be read", hint="Check --images against --labels.")
    trial = Trial(methods=(method,) if method else methods_of(bundle), seed=arguments.seed)
    with Progress("Measuring", len(pictures)) as progress:
        report = put_to_the_test(
            bundle,
            encoder,
            pictures,
            trial,
            left_out=len(found) - len(pictures),
            progress=progress.advance,
        )
    if arguments.json:
        print_json(document(report, bundle))
    else:
        tell(report, bundle)
    return FAILED if report.left_out else DONE


def _pictures(
    arguments: argparse.Namespace, bundle: "Bundle", encoder: "Encoder"
) -> "Iterator[Shown | TriageError]":
    from triage.cli.labelled import images_of, labels_of
    from triage.learning.explaining.trials import labelled, planted

    if arguments.phantoms is not None:
        yield from planted(bundle, arguments.phantoms, finding=arguments.finding)
        return
    table = labels_of(arguments, bundle)
    with images_of(arguments, use=bundle.intended_use) as images:
        yield from labelled(
            bundle,
            encoder,
            table,
            images,
            finding=arguments.finding,
            split=arguments.split,
            limit=arguments.limit,
        )
