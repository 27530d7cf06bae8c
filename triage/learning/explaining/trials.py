"""The pictures on which maps are put to the test, and the test from pictures to report.

Phantoms with one planted lesion, whose place is known to the pixel, or the hospital's own labelled
images, where only the finding is known: hits need the first, the rest does either. Each picture is
one view: of a subject with several the one that scores highest, of crops the whole image, so that a
patch of the map is a patch of what is taken away. Measuring itself is `faithfulness`.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from triage.errors import PermanentError, TriageError
from triage.imaging.resize import to_square
from triage.imaging.views import VOLUME_RENDERINGS, to_view
from triage.inference.bundle import Bundle
from triage.inference.encoder import Encoder, embed_isolating
from triage.inference.heads import view_logits
from triage.learning.explaining.explanation import Method, Opened, explain, finding_index
from triage.learning.explaining.faithfulness import (
    FILLS,
    Case,
    Compared,
    Measured,
    Reals,
    Score,
    Stayed,
    Views,
    compare,
    measure,
    randomised,
    spearman,
    touched_patches,
    usual_places,
)
from triage.learning.explaining.opened import opened, shuffled_head, shuffled_tower
from triage.learning.material.images import Decoder, Images
from triage.learning.material.labels import LabelError, LabelTable
from triage.pocket.lesions import Kind
from triage.pocket.phantoms import generate

FIRST_SEED: Final = 700_000  # phantoms that neither pocket's training nor its figures have seen
DRAWN_PX: Final = 512  # matrix of a phantom, at least
SHUFFLED: Final = 24  # cases whose maps are made again with shuffled weights
SAME: Final = 0.9999  # rank correlation of maps that are told once; rounding swaps neighbours
BATCH: Final = 32
HEAD, LAST_BLOCK, TOWER = "head", "last block", "whole tower"


@dataclass(frozen=True, slots=True, kw_only=True)
class Shown:
    """One view that shows a finding of the bundle."""

    finding: str
    group: str
    view: Views  # (C, S, S)
    cover: NDArray[np.float32] | None = None  # (S, S) of the planted lesion, 0..1


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """How maps are tested."""

    methods: tuple[Method, ...]
    seed: int
    fills: tuple[str, ...] = FILLS
    draws: int = 3  # random orders per picture
    rounds: int = 1000  # of the bootstrap


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What was found."""

    trial: Trial
    pictures: int
    patients: int
    positives: dict[str, int]  # pictures by finding
    planted: bool
    left_out: int  # that could not be read or embedded
    same: dict[str, str]  # methods whose maps order the patches as another's: told once
    compared: tuple[Compared, ...]
    stayed: tuple[Stayed, ...]


# --- pictures


def planted(
    bundle: Bundle, count: int, *, finding: str | None = None, first_seed: int = FIRST_SEED
) -> Iterator[Shown]:
    """`count` phantoms with one lesion each, the findings in turn.

    A finding that is none of the phantoms' kinds (`abnormal`) is tested with lesions of all kinds.
    """
    spec = bundle.view_spec
    if spec.rendering in VOLUME_RENDERINGS:
        raise PermanentError(
            f"phantoms are radiographs, and the bundle renders as {spec.rendering}",
            hint="Test on labelled images: --images DIR --labels CSV.",
        )
    known = [each.name for each in bundle.manifest.findings]
    if not known:
        raise PermanentError(f"bundle {bundle.identity.name} has no classifier")
    names = known if finding is None else [known[finding_index(bundle, finding)]]
    kinds = {kind.value for kind in Kind}
    for number in range(count):
        name, turn = names[number % len(names)], number // len(names)
        kind = Kind(name) if name in kinds else list(Kind)[turn % len(Kind)]
        seed = first_seed + number
        phantom = generate(seed, finding=kind, size_px=max(DRAWN_PX, spec.size_px))
        pixels = phantom.pixels.astype(np.float32)
        span = float(pixels.max() - pixels.min()) or 1.0
        yield Shown(
            finding=name,
            group=f"phantom {seed}",
            view=to_view(((pixels - pixels.min()) / span)[None], spec),
            cover=to_square(phantom.masks[list(Kind).index(kind)], spec.size_px),
        )


def labelled(
    bundle: Bundle,
    encoder: Encoder,
    table: LabelTable,
    images: Images,
    *,
    finding: str | None = None,
    split: str = "",
    limit: int,
) -> Iterator[Shown | TriageError]:
    """Positives of the bundle's findings, at most `limit`, in an order that mixes the patients.

    An image that cannot be read stands as its error. Raises LabelError where there is none.
    """
    wanted = [
        (row, name)
        for row in table.rows
        if not split or row.split == split
        for name, truth in zip(table.findings, row.truth, strict=True)
        if truth == 1.0
        and any(name == each.name for each in bundle.manifest.findings)
        and finding in (None, name)
    ]
    if not wanted:
        raise LabelError(
            f"the labels have no positive of a finding of bundle {bundle.identity.name}"
            + (f" in split {split}" if split else "")
        )
    order = np.random.default_rng(0).permutation(len(wanted))[:limit]
    chosen = [wanted[at] for at in sorted(order)]
    images.require([row for row, _ in chosen])
    with Decoder(1) as decoder:
        for row, name in chosen:
            try:
                views = [decoder.draw(part, bundle.view_spec)().views for part in images.parts(row)]
                view = _highest(bundle, encoder, views, finding_index(bundle, name))
            except TriageError as error:
                yield error
                continue
            yield Shown(finding=name, group=row.patient, view=view)


def _highest(bundle: Bundle, encoder: Encoder, parts: Sequence[Views], at: int) -> Views:
    """The view (C, S, S) with the highest logit; of crops the whole image alone counts."""
    spec = bundle.view_spec
    candidates = np.concatenate([part[:1] if spec.crops else part for part in parts if len(part)])
    best = int(np.argmax(_score(bundle, encoder, at)(candidates)))
    return np.asarray(candidates[best], np.float32)


# --- the test


def put_to_the_test(
    bundle: Bundle,
    encoder: Encoder,
    pictures: Sequence[Shown],
    trial: Trial,
    *,
    left_out: int = 0,
    progress: Callable[[], Any] = lambda: None,
) -> Report:
    """Make the maps of all pictures and measure them; `progress` is called after each picture."""
    through = opened(bundle, encoder)
    towers = _shuffled_towers(bundle, encoder, trial.seed)
    cases = []
    for number, shown in enumerate(pictures):
        others: Looks = {}
        if number < SHUFFLED:  # a head is shuffled anew for each: one draw says little
            head = shuffled_head(bundle, seed=trial.seed + number)
            # By the tower: the encoder itself pools by queries that nobody has shuffled.
            others = {HEAD: (head, opened(head, encoder, encoder.vision)), **towers}
        cases.append(_case(bundle, shown, trial, through, others))
    cases, same = _told_once(cases)
    measured: list[Measured] = []
    for number, (case, usual) in enumerate(zip(cases, usual_places(cases), strict=True)):
        at = finding_index(bundle, case.finding)
        measured.append(
            measure(
                case,
                _score(bundle, encoder, at),
                fills=trial.fills,
                seed=trial.seed + number,
                draws=trial.draws,
                usual=usual,
            )
        )
        progress()
    names = [shown.finding for shown in pictures]
    return Report(
        trial=trial,
        pictures=len(pictures),
        patients=len({shown.group for shown in pictures}),
        positives={name: names.count(name) for name in dict.fromkeys(names)},
        planted=any(shown.cover is not None for shown in pictures),
        left_out=left_out,
        same=same,
        compared=tuple(compare(cases, measured, seed=trial.seed, rounds=trial.rounds)),
        stayed=tuple(randomised(cases, seed=trial.seed, rounds=trial.rounds)),
    )


Looks = dict[str, tuple[Bundle, Opened]]  # by what was shuffled


def _shuffled_towers(bundle: Bundle, encoder: Encoder, seed: int) -> Looks:
    last = shuffled_tower(encoder, seed=seed, last=1)
    whole = shuffled_tower(encoder, seed=seed)
    return {
        LAST_BLOCK: (bundle, opened(bundle, encoder, last)),
        TOWER: (bundle, opened(bundle, encoder, whole)),
    }


def _case(bundle: Bundle, shown: Shown, trial: Trial, through: Opened, others: Looks) -> Case:
    maps, stayed = {}, {}
    for method in trial.methods:
        maps[method.value] = _map(bundle, through, shown, method)
        stayed[method.value] = {
            what: _map(other, look, shown, method) for what, (other, look) in others.items()
        }
    shape = next(iter(maps.values())).shape
    rows, columns = int(shape[0]), int(shape[1])
    return Case(
        finding=shown.finding,
        group=shown.group,
        view=shown.view,
        maps=maps,
        touched=None if shown.cover is None else touched_patches(shown.cover, (rows, columns)),
        shuffled=stayed,
    )


def _told_once(cases: Sequence[Case]) -> tuple[list[Case], dict[str, str]]:
    """Drop each method whose maps have the order of an earlier one in every case."""
    methods = list(cases[0].maps)
    same: dict[str, str] = {}
    for at, method in enumerate(methods):
        for other in methods[:at]:
            ranks = (spearman(case.maps[method], case.maps[other]) for case in cases)
            if other not in same and all(rank > SAME for rank in ranks):
                same[method] = other
                break
    kept = [method for method in methods if method not in same]
    return [
        replace(
            case,
            maps={method: case.maps[method] for method in kept},
            shuffled={method: case.shuffled[method] for method in kept},
        )
        for case in cases
    ], same


def _map(bundle: Bundle, through: Opened, shown: Shown, method: Method) -> Reals:
    found = explain(bundle, through, shown.view[None], finding=shown.finding, method=method)
    return np.asarray(found.shown[0], np.float64)


def _score(bundle: Bundle, encoder: Encoder, at: int) -> Score:
    """The finding's logit of each view by itself, through the encoder that serves."""

    def score(views: Views) -> Reals:
        if bundle.head is None:
            raise PermanentError(f"bundle {bundle.identity.name} has no classifier")
        vectors = []
        for start in range(0, len(views), BATCH):
            part = np.ascontiguousarray(views[start : start + BATCH], np.float32)
            for answer in embed_isolating(encoder, part):
                if isinstance(answer, TriageError):
                    raise answer
                vectors.append(answer[0])
        return np.asarray(view_logits(bundle.head, np.stack(vectors))[:, at], np.float64)

    return score
