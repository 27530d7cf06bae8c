"""Drift: whether the studies of today are still like those that a model was put into service on.

A group is one served bundle with one modality and body part, of one device or of all. Its studies
are summed up in blocks of half a window. The first four blocks are the reference; a window is two
blocks and moves on by one. Five things are compared: embeddings, distance to the bank, scores, flag
rate and gate rate. One that has changed in two of the last three windows, of those that have no
study in common, is drift. It says that the images or the patients have changed, not that the model
has become worse: that takes labels. Without a change, fewer than one window in 500 opens an alarm.

A device that came after the reference of its group was complete is held against that reference,
until its first four blocks have shown no drift. What differs from the bundle's own bank from the
beginning is told apart from it (`unlike_the_bank`). A person who has looked into it accepts the
state: the reference begins anew. Pure; blocks come from `database.drift_blocks`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from triage.learning.watching.drift_statistics import (
    Cloud,
    Comparison,
    Moments,
    compare_clouds,
    compare_means,
    compare_rates,
    compare_scores,
    joined,
)

ALL_DEVICES: Final = ""
REFERENCE_BLOCKS: Final = 4
WINDOW_BLOCKS: Final = 2
RECENT: Final = 3  # windows without a study in common that are judged together
SUSTAINED: Final = 2  # of them that must have changed
RECENT_BLOCKS: Final = WINDOW_BLOCKS * RECENT  # all that the present is judged by
# Differences below these are chance or of no weight, however many studies show them.
LEAST: Final[Mapping[str, float]] = {
    "images": 0.02,  # MMD^2 over the spread of the reference
    "distance": 0.4,  # standard deviations
    "scores": 0.1,  # population stability index
    "flag rate": 0.03,
    "gate rate": 0.03,
}
BANK_LEAST: Final = 0.25  # MMD^2 over the spread of the bank: plainly other images


@dataclass(frozen=True, slots=True, kw_only=True, order=True)
class Group:
    """Whose studies are counted together. Texts as in the header, upper case."""

    bundle_digest: str
    modality: str
    body_part_examined: str
    device: str = ALL_DEVICES  # Station Name, else the calling AE title

    @property
    def name(self) -> str:
        """How a person names it: CR/CHEST/ROOM 2, CR/CHEST for all devices; - for a blank."""
        parts = [self.modality or "-", self.body_part_examined or "-", self.device]
        return "/".join(part for part in parts if part)


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """Half a window of studies, summed up. `gated` are those that the gate kept from the head."""

    studies: int
    gated: int
    flagged: int
    distance: Moments
    scores: Mapping[str, tuple[int, ...]]  # by finding: studies by `score_bin`
    cloud: Cloud | None  # None: no embeddings, or a bundle without a bank
    started_at: datetime
    ended_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Window:
    """One window against its reference."""

    ended_at: datetime
    studies: int
    reference: str  # "own" | "all devices"
    comparisons: Mapping[str, Comparison]
    changed: frozenset[str]  # names of what has changed
    flag_rate: float | None  # None: the model looked at none of them
    gate_rate: float
    distance: float | None  # None: none was measured, as of a bundle without a bank
    bank: Comparison | None  # against the bank of the bundle


@dataclass(frozen=True, slots=True, kw_only=True)
class Judgement:
    """A group as it stands. `missing_blocks` lack until it can be judged."""

    group: Group
    windows: tuple[Window, ...]
    drift: tuple[str, ...]  # what has changed in SUSTAINED of the last RECENT windows
    unlike_the_bank: bool
    missing_blocks: int = 0


def summed(blocks: Sequence[Block]) -> Block:
    """Return several blocks as one."""
    names = sorted({name for block in blocks for name in block.scores})
    clouds = [block.cloud for block in blocks if block.cloud is not None]
    distance = Moments()
    for block in blocks:
        distance = distance + block.distance
    return Block(
        studies=sum(block.studies for block in blocks),
        gated=sum(block.gated for block in blocks),
        flagged=sum(block.flagged for block in blocks),
        distance=distance,
        scores={name: _histogram(blocks, name) for name in names},
        cloud=joined(clouds) if clouds else None,
        started_at=blocks[0].started_at,
        ended_at=blocks[-1].ended_at,
    )


def _histogram(blocks: Sequence[Block], name: str) -> tuple[int, ...]:
    counted = [block.scores[name] for block in blocks if name in block.scores]
    return tuple(sum(column) for column in zip(*counted, strict=True))


def compare(window: Block, reference: Block) -> dict[str, Comparison]:
    """Return each of the five comparisons by name; of several findings the one least alike.

    Without what `scores` or `images` need on both sides they are absent: nothing is not the same.
    """
    told = {
        "distance": compare_means(window.distance, reference.distance),
        "flag rate": compare_rates(
            window.flagged,
            window.studies - window.gated,
            reference.flagged,
            reference.studies - reference.gated,
        ),
        "gate rate": compare_rates(
            window.gated, window.studies, reference.gated, reference.studies
        ),
    }
    if (scores := _least_alike(window, reference)) is not None:
        told["scores"] = scores
    if window.cloud is not None and reference.cloud is not None:
        told["images"] = compare_clouds(window.cloud, reference.cloud)
    return told


def _least_alike(window: Block, reference: Block) -> Comparison | None:
    names = sorted(set(window.scores) & set(reference.scores))
    pairs = [(window.scores[name], reference.scores[name]) for name in names]
    found = [compare_scores(new, old) for new, old in pairs if any(new) and any(old)]
    if not found:
        return None
    worst = min(found, key=lambda each: (each.p, -each.size))
    return Comparison(p=min(1.0, worst.p * len(found)), size=worst.size)  # Bonferroni


def judge(
    group: Group,
    blocks: Sequence[Block],
    *,
    shared: Sequence[Block] = (),
    bank: Cloud | None = None,
    accepted: bool = False,
    significance: float,
) -> Judgement:
    """Judge a group by its closed blocks, oldest first, all since its last acceptance.

    `shared` are the reference blocks of all devices together, for one device; `accepted` says that
    a person has accepted this group. Blocks between the reference and the last ones may be left
    out by a caller who wants the present only.
    """
    own, rest = blocks[:REFERENCE_BLOCKS], blocks[REFERENCE_BLOCKS:]
    newcomer = _is_newcomer(blocks, shared) and not accepted
    trial: list[Window] = []
    if newcomer:
        trial = _windows(own, summed(shared), "all devices", bank, significance)
        if len(own) == REFERENCE_BLOCKS and not sustained(trial):
            newcomer = False  # it has shown to be like the others
    if newcomer:
        windows = _windows(blocks, summed(shared), "all devices", bank, significance)
    elif len(own) == REFERENCE_BLOCKS and rest:
        windows = trial + _windows(rest, summed(own), "own", bank, significance)
    else:
        windows = trial
    lacking = 0 if windows else max(0, REFERENCE_BLOCKS + WINDOW_BLOCKS - len(blocks))
    far = _far_from_bank(blocks, bank, significance) and not accepted
    return Judgement(
        group=group,
        windows=tuple(windows),
        drift=sustained(windows),
        unlike_the_bank=far and group.device == ALL_DEVICES,
        missing_blocks=lacking,
    )


def _is_newcomer(blocks: Sequence[Block], shared: Sequence[Block]) -> bool:
    return (
        bool(blocks)
        and len(shared) == REFERENCE_BLOCKS
        and blocks[0].started_at > shared[-1].ended_at
    )


def _windows(
    blocks: Sequence[Block],
    reference: Block,
    name: str,
    bank: Cloud | None,
    significance: float,
) -> list[Window]:
    windows = []
    for place in range(len(blocks) - WINDOW_BLOCKS + 1):
        window = summed(blocks[place : place + WINDOW_BLOCKS])
        told = compare(window, reference)
        looked_at = window.studies - window.gated
        windows.append(
            Window(
                ended_at=window.ended_at,
                studies=window.studies,
                reference=name,
                comparisons=told,
                changed=frozenset(
                    each
                    for each, said in told.items()
                    if said.p <= significance and said.size >= LEAST[each]
                ),
                flag_rate=window.flagged / looked_at if looked_at else None,
                gate_rate=window.gated / window.studies if window.studies else 0.0,
                distance=window.distance.mean if window.distance.count else None,
                bank=compare_clouds(window.cloud, bank) if window.cloud and bank else None,
            )
        )
    return windows


def sustained(windows: Sequence[Window]) -> tuple[str, ...]:
    """Return what has changed in SUSTAINED of the last RECENT windows without common studies."""
    recent = windows[::-1][::WINDOW_BLOCKS][:RECENT]
    names = sorted({name for window in recent for name in window.changed})
    return tuple(
        name for name in names if sum(name in window.changed for window in recent) >= SUSTAINED
    )


def _far_from_bank(blocks: Sequence[Block], bank: Cloud | None, significance: float) -> bool:
    """Whether the last windows lie far from the bank, reference or not."""
    if bank is None or len(blocks) < WINDOW_BLOCKS:
        return False
    far = 0
    for end in range(len(blocks), WINDOW_BLOCKS - 1, -WINDOW_BLOCKS)[:RECENT]:
        window = summed(blocks[end - WINDOW_BLOCKS : end])
        if window.cloud is not None:
            said = compare_clouds(window.cloud, bank)
            far += said.p <= significance and said.size >= BANK_LEAST
    return far >= SUSTAINED
