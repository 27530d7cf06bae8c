"""Whether a map of evidence says anything true of the model: measured, never assumed.

Three questions, each with its baseline and an interval over patients:

    deletion, insertion  patches are taken out of the picture, or put into an empty one, in the
                         map's order; the mean logit on the way says whether the order is the
                         model's own (Petsiuk et al., BMVC 2018). Against random orders and
                         against the distance from the centre, where most things are.
    hits                 the map's highest patch touches the planted lesion (pointing game, Zhang
                         et al., IJCV 2018). Against the centre, a random patch, and the place
                         where other phantoms have it.
    randomisation        a map that stays when the weights are shuffled shows the picture and not
                         the model (Adebayo et al., NeurIPS 2018): |Spearman| has to fall.

Pure arithmetic on maps and a `score` function; knows no bundle and no file. A logit, not a
probability, is followed: a probability near one would hide what was lost.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product
from typing import Final

import numpy as np
from numpy.typing import NDArray

from triage.imaging.resize import resize
from triage.learning.judging.statistics import Estimate, bootstrap

Reals = NDArray[np.float64]
Views = NDArray[np.float32]
Score = Callable[[Views], Reals]  # (B, C, S, S) to the finding's logit of each, (B,)

DELETION, INSERTION, HITS = "deletion", "insertion", "hits"
CENTRE: Final = "centre"
RANDOM: Final = "random"
USUAL: Final = "usual place"
FILLS: Final = ("mean", "blur")
TOUCHED: Final = 0.5  # of a lesion's cover 0..1 from which a pixel belongs to it
UNRELATED: Final = 0.5  # |rank correlation| that the interval has to stay below
STEPS: Final = 12  # points of a curve after the first


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One picture with one finding that it shows, and its maps."""

    finding: str
    group: str  # the patient; a phantom is its own
    view: Views  # (C, S, S)
    maps: Mapping[str, Reals]  # by method, (R, K); higher is more evidence for the finding
    touched: NDArray[np.bool_] | None  # (R, K) patches that the lesion touches; None: not known
    shuffled: Mapping[str, Mapping[str, Reals]] = field(default_factory=dict)
    # by method and what was shuffled: the map with those weights


# What one case gave: by measure, then by map; the baselines are maps like the others.
Measured = Mapping[str, Mapping[str, float]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Compared:
    """One method against one baseline on all cases; `difference` is better where above 0."""

    measure: str  # HITS, or deletion or insertion with the fill
    method: str
    baseline: str
    value: Estimate  # of the method
    baseline_value: float
    difference: Estimate
    cases: int

    @property
    def verdict(self) -> str:
        """In words, by the interval of the paired difference."""
        interval = self.difference.interval
        if interval is None:
            return "too few cases to say"
        if interval.low > 0:
            return f"better than {self.baseline}"
        if interval.high < 0:
            return f"WORSE than {self.baseline}"
        return f"no better than {self.baseline}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Stayed:
    """How much of a map stayed when weights were shuffled."""

    method: str
    shuffled: str
    correlation: Estimate  # mean |Spearman| of maps before and after
    cases: int

    @property
    def verdict(self) -> str:
        interval = self.correlation.interval
        if interval is None:
            return "too few cases to say"
        if interval.high < UNRELATED:
            return "falls: the map depends on these weights"
        if interval.low <= UNRELATED:
            return f"falls, but not surely below {UNRELATED}"
        return "STAYS: much of the map comes from the picture, not from these weights"


# --- one case


def measure(
    case: Case,
    score: Score,
    *,
    fills: Sequence[str] = FILLS,
    seed: int,
    draws: int = 3,
    usual: Reals | None = None,
) -> Measured:
    """Follow every map of a case and its baselines; `usual` is a map like those of the case."""
    random = np.random.default_rng(seed)
    shape = next(iter(case.maps.values())).shape
    maps: dict[str, Reals] = {**case.maps, CENTRE: centre_map(shape)}
    drawn = [random.random(shape) for _ in range(max(1, draws))]
    found: dict[str, Mapping[str, float]] = {}
    for fill in fills:
        ends = _followed(case.view, [*maps.values(), *drawn], score, fill)
        for name, column in ((DELETION, 0), (INSERTION, 1)):
            values = [end[column] for end in ends]
            by_map = dict(zip(maps, values, strict=False))
            found[f"{name}, {fill}"] = {**by_map, RANDOM: float(np.mean(values[len(maps) :]))}
    if case.touched is not None:
        maps |= {} if usual is None else {USUAL: usual}
        hits = {name: hit(values, case.touched) for name, values in maps.items()}
        found[HITS] = {**hits, RANDOM: float(case.touched.mean())}
    return found


def _followed(
    view: Views, maps: Sequence[Reals], score: Score, fill: str
) -> list[tuple[float, float]]:
    """`follow` of each map; maps of one order, as two methods often give, are followed once."""
    known: dict[bytes, tuple[float, float]] = {}
    ends = []
    for values in maps:
        order = np.argsort(-values, axis=None, kind="stable").tobytes()
        if order not in known:
            known[order] = follow(view, values, score, fill=fill)
        ends.append(known[order])
    return ends


def follow(
    view: Views, values: Reals, score: Score, *, fill: str, steps: int = STEPS
) -> tuple[float, float]:
    """Mean logit while patches are (deleted, inserted) from the highest value of the map down."""
    empty = emptied(view, fill)
    order = np.argsort(-values, axis=None, kind="stable")
    rank = np.empty(values.size, np.intp)
    rank[order] = np.arange(values.size)
    counts = np.unique(np.rint(np.linspace(0, values.size, steps + 1)).astype(np.intp))
    masks = [patch_mask(rank.reshape(values.shape) < count, view.shape[-1]) for count in counts]
    deleted = np.stack([np.where(mask, empty, view) for mask in masks])
    inserted = np.stack([np.where(mask, view, empty) for mask in masks])
    logits = score(np.concatenate([deleted, inserted]))
    shares = counts / values.size
    return (
        float(np.trapezoid(logits[: len(counts)], shares)),
        float(np.trapezoid(logits[len(counts) :], shares)),
    )


def emptied(view: Views, fill: str) -> Views:
    """The picture with nothing in it: its mean value, or itself at 4 x 4 pixels.

    The mean takes a lesion's brightness away and leaves edges where patches end; the blur leaves
    no edges and keeps what is large and smooth.
    """
    if fill == "mean":
        return np.broadcast_to(view.mean(axis=(1, 2), keepdims=True), view.shape)
    coarse = resize(view, 4, 4)
    return resize(coarse, view.shape[1], view.shape[2])


def patch_mask(chosen: NDArray[np.bool_], size_px: int) -> NDArray[np.bool_]:
    """(R, K) patches as (S, S) pixels."""
    rows = np.minimum(np.arange(size_px) * chosen.shape[0] // size_px, chosen.shape[0] - 1)
    columns = np.minimum(np.arange(size_px) * chosen.shape[1] // size_px, chosen.shape[1] - 1)
    return np.asarray(chosen[np.ix_(rows, columns)])


def centre_map(shape: tuple[int, ...]) -> Reals:
    """(R, K), falling with the distance from the centre of the picture."""
    rows, columns = (np.arange(size) - (size - 1) / 2 for size in shape)
    return -np.hypot(rows[:, None] / shape[0], columns[None, :] / shape[1])


def hit(values: Reals, touched: NDArray[np.bool_]) -> float:
    """Whether the highest patch is one of `touched`; patches of equal height share the hit."""
    return float(touched[values >= values.max()].mean())


def touched_patches(cover: NDArray[np.floating], shape: tuple[int, int]) -> NDArray[np.bool_]:
    """(R, K) patches in which a pixel of `cover` (S, S) belongs to the lesion."""
    inside = np.zeros(shape, np.bool_)
    rows, columns = np.nonzero(cover >= TOUCHED)
    inside[rows * shape[0] // cover.shape[0], columns * shape[1] // cover.shape[1]] = True
    return inside


def usual_places(cases: Sequence[Case]) -> list[Reals | None]:
    """Per case, how often each patch is touched in the others of its finding; None: not known."""
    places: list[Reals | None] = []
    for at, case in enumerate(cases):
        others = [
            other.touched
            for number, other in enumerate(cases)
            if number != at and other.finding == case.finding and other.touched is not None
        ]
        places.append(np.mean(others, axis=0) if case.touched is not None and others else None)
    return places


def spearman(first: Reals, second: Reals) -> float:
    """Rank correlation of two maps, ties at their mean rank; 0 where one says nothing."""
    ranks = []
    for values in (first.ravel(), second.ravel()):
        _, place, counts = np.unique(values, return_inverse=True, return_counts=True)
        ranks.append((np.cumsum(counts) - (counts + 1) / 2.0)[place])
    centred = [rank - rank.mean() for rank in ranks]
    lengths = float(np.linalg.norm(centred[0]) * np.linalg.norm(centred[1]))
    return float(centred[0] @ centred[1]) / lengths if lengths else 0.0


# --- all cases


def compare(
    cases: Sequence[Case], measured: Sequence[Measured], *, seed: int, rounds: int = 1000
) -> list[Compared]:
    """Every method against every baseline, by paired differences over whole patients."""
    methods = list(dict.fromkeys(name for case in cases for name in case.maps))
    measures = list(dict.fromkeys(name for one in measured for name in one))
    found = []
    for name, method, baseline in product(measures, methods, (RANDOM, CENTRE, USUAL)):
        tables = [one.get(name, {}) for one in measured]
        pairs = [
            (case.group, table[method], table[baseline])
            for case, table in zip(cases, tables, strict=True)
            if method in table and baseline in table
        ]
        if not pairs:
            continue
        groups = [group for group, _, _ in pairs]
        mine, theirs = (np.array([pair[at] for pair in pairs], np.float64) for at in (1, 2))
        better = theirs - mine if name.startswith(DELETION) else mine - theirs
        found.append(
            Compared(
                measure=name,
                method=method,
                baseline=baseline,
                value=_mean(groups, mine, seed, rounds),
                baseline_value=float(theirs.mean()),
                difference=_mean(groups, better, seed, rounds),
                cases=len(pairs),
            )
        )
    return found


def randomised(cases: Sequence[Case], *, seed: int, rounds: int = 1000) -> list[Stayed]:
    """How much of each method's maps stayed, for everything that was shuffled."""
    found = []
    keys = dict.fromkeys(
        (method, what)
        for case in cases
        for method in case.shuffled
        for what in case.shuffled[method]
    )
    for method, what in keys:
        pairs = [
            (case.group, abs(spearman(case.maps[method], case.shuffled[method][what])))
            for case in cases
            if what in case.shuffled.get(method, {})
        ]
        values = np.array([value for _, value in pairs])
        found.append(
            Stayed(
                method=method,
                shuffled=what,
                correlation=_mean([group for group, _ in pairs], values, seed, rounds),
                cases=len(pairs),
            )
        )
    return found


def _mean(groups: Sequence[str], values: Reals, seed: int, rounds: int) -> Estimate:
    interval = bootstrap(groups, lambda rows: float(values[rows].mean()), seed=seed, rounds=rounds)
    return Estimate(value=float(values.mean()), interval=interval)
