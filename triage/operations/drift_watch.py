"""The sweep that watches for drift, and its alarms in `status`.

It reads what was said and the embeddings, never a pixel. A sweep counts at most RESULTS_A_SWEEP
results and sums up about as many studies as those can be counted for; nothing is counted while a
full block waits, so that after an outage no group holds more than a block and a page. Each page and
each block is a short transaction of its own. Groups are judged when one of their blocks has closed,
from ten blocks each. Beside that it holds, for each served bundle, the random features and not the
bank. numpy only.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import structlog
from numpy.typing import NDArray
from sqlalchemy import Connection

from triage.config import Config
from triage.database import drift_blocks
from triage.database.connection import Database
from triage.database.house import clear_alarm, raise_alarm
from triage.database.results import LITTLE_ENDIAN, cached_embeddings
from triage.errors import BundleError
from triage.learning.watching.drift import (
    RECENT_BLOCKS,
    REFERENCE_BLOCKS,
    Block,
    Group,
    Judgement,
    judge,
)
from triage.learning.watching.drift_statistics import (
    SCORE_BINS,
    Cloud,
    Moments,
    RandomFeatures,
    cloud_of,
    moments_of,
    random_features,
    score_bin,
)
from triage.learning.watching.drift_words import NEXT_STEP, message_of
from triage.operations.sweeps import Sweep
from triage.records import AlarmCode, Analysis, Mode, Subject
from triage.worker.serving import configured_models

log = structlog.get_logger(__name__)

EVERY_S = 60.0
RESULTS_A_PAGE = 500  # counted in one transaction
RESULTS_A_SWEEP = 2_000
STUDIES_A_SWEEP = 2 * RESULTS_A_SWEEP  # summed up: each counts for its device and for all
LEAST_EMBEDDINGS = 20  # of a block or a bank, for a comparison of embeddings


@dataclass(frozen=True, slots=True, kw_only=True)
class Watched:
    """What is held of one served bundle. Without a bank of some size no embedding is compared."""

    name: str
    features: RandomFeatures | None
    bank: Cloud | None


class DriftWatch:
    """Counts, sums up and judges; one call of `run` is one sweep."""

    def __init__(self, db: Database, config: Config) -> None:
        self._db = db
        self._config = config
        self._watched: dict[str, Watched] | None = None
        self._to_judge: set[Group] | None = None  # None: all, after a start

    def run(self) -> int:
        """Do one sweep; returns how many blocks were closed. Raises TransientError."""
        if self._watched is None:
            self._watched = watched_bundles(self._config)
        closed = 0
        for group in catch_up(self._db, self._watched, block=self._config.drift.window // 2):
            closed += 1
            if self._to_judge is not None:
                self._to_judge.add(group)
        if self._to_judge is None or self._to_judge:
            self._tell(self._to_judge)
            self._to_judge = set()
        return closed

    def _tell(self, changed: set[Group] | None) -> None:
        watched = self._watched or {}
        significance = self._config.drift.significance
        with self._db.read() as connection:
            found = judgements(
                connection, watched, significance=significance, only=changed, recent=True
            )
            open_ones = drift_blocks.open_alarms(connection)
        alarms = {
            subject_of(each.group): message_of(each, watched[each.group.bundle_digest].name)
            for each in found
            if each.drift or each.unlike_the_bank
        }
        judged = {subject_of(each.group) for each in found}
        stale = [
            subject
            for subject, message in open_ones.items()
            # What was not judged in this sweep stays as it is.
            if (changed is None or subject in judged) and alarms.get(subject) != message
        ]
        new = {each: said for each, said in alarms.items() if open_ones.get(each) != said}
        if not new and not stale:
            return
        with self._db.write() as connection:
            now = self._db.now(connection)
            for subject in stale:
                clear_alarm(connection, code=AlarmCode.DRIFT, subject=subject, now=now)
            for subject, message in sorted(new.items()):
                raise_alarm(
                    connection,
                    code=AlarmCode.DRIFT,
                    subject=subject,
                    message=message,
                    next_step=f"See `triage drift`. {NEXT_STEP}",
                    now=now,
                )


def drift_sweep(db: Database, config: Config) -> Sweep:
    """Return the sweep for the role schedule; switched off, it closes what is open."""
    run = DriftWatch(db, config).run if config.drift.enabled else partial(close_alarms, db)
    return Sweep(name="drift", every_s=EVERY_S, run=run)


def close_alarms(db: Database) -> int:
    """Close every alarm of drift: nobody watches any more, so none would ever end."""
    with db.read() as connection:
        left = drift_blocks.open_alarms(connection)
    if left:
        with db.write() as connection:
            now = db.now(connection)
            for subject in left:
                clear_alarm(connection, code=AlarmCode.DRIFT, subject=subject, now=now)
    return len(left)


def subject_of(group: Group) -> str:
    """Return what the alarm of a group is about."""
    return f"{group.bundle_digest[:16]}/{group.name}"


# --- what is held of a bundle


def note_unread(name: str, error: BundleError) -> None:
    log.warning("bundle_not_watched", model=name, reason=str(error))


def watched_bundles(
    config: Config, *, unread: Callable[[str, BundleError], None] = note_unread
) -> dict[str, Watched]:
    """Read the served bundles by digest; `unread` is told of one that cannot be read."""
    found: dict[str, Watched] = {}
    for model in configured_models(config):
        if model.mode is Mode.SERVE:
            try:
                found.update([watch(model.bundle)])
            except BundleError as error:
                unread(model.name, error)
    return found


def watch(directory: Path) -> tuple[str, Watched]:
    """Read what is compared with a bundle: its digest, features and the cloud of its bank."""
    from triage.inference.bundle import load_bundle

    bundle = load_bundle(directory, check_encoder=False)
    digest, bank = bundle.identity.digest, bundle.bank
    if bank is None or len(bank.units) < LEAST_EMBEDDINGS:
        return digest, Watched(name=bundle.identity.name, features=None, bank=None)
    features = random_features(bank.mean, bank.scale, bank.units, seed=int(digest[:8], 16))
    # The features of a unit vector are those of the vector that it was made from.
    standard = bank.units * bank.scale + bank.mean
    return digest, Watched(
        name=bundle.identity.name, features=features, bank=cloud_of(features.of(standard))
    )


# --- counting and summing up


def catch_up(db: Database, watched: Mapping[str, Watched], *, block: int) -> Iterator[Group]:
    """Do one sweep's share of summing up and counting; give the group of each closed block."""
    read = summed_up = 0
    while summed_up < STUDIES_A_SWEEP:
        if (group := close_next(db, watched, block=block)) is not None:
            summed_up += block
            yield group
        elif read < RESULTS_A_SWEEP and (more := count_looks(db)):
            read += more
        else:
            return


def count_looks(db: Database, *, limit: int = RESULTS_A_PAGE) -> int:
    """Count a page of results; returns how many were read."""
    with db.read() as connection:
        now = db.now(connection)
        some = drift_blocks.uncounted(connection, now=now, limit=limit)
    if some.last == some.after:
        return 0
    with db.write() as connection:
        drift_blocks.gather(connection, some)
    return some.read


def close_next(db: Database, watched: Mapping[str, Watched], *, block: int) -> Group | None:
    """Sum up a full block, if there is one; returns its group."""
    with db.read() as connection:
        full = drift_blocks.full_group(connection, block=block)
        if full is None:
            return None
        looks = drift_blocks.looks_of(connection, full, block=block)
        vectors = _vectors(connection, looks)
    group = group_of(full.key)
    figures, features = sums(looks, vectors, watched.get(group.bundle_digest))
    with db.write() as connection:
        done = drift_blocks.close_block(connection, full, looks, figures=figures, features=features)
    return group if done else None


def _vectors(connection: Connection, looks: Sequence[Any]) -> list[NDArray[np.float32]]:
    """Return one embedding of each study that still has it: of a series its middle view."""
    keys = [
        look.embedding_keys[len(look.embedding_keys) // 2 if look.subject == Subject.SERIES else 0]
        for look in looks
        if look.embedding_keys
    ]
    kept = cached_embeddings(connection, keys)
    return [kept[key] for key in keys if key in kept]


def sums(
    looks: Sequence[Any], vectors: Sequence[NDArray[np.float32]], watched: Watched | None
) -> tuple[dict[str, Any], NDArray[np.float32] | None]:
    """Return the figures of a block and its mean features."""
    gated = sum(look.analysis != Analysis.ANALYSED for look in looks)
    flagged = sum(any(each["flagged"] for each in look.findings) for look in looks)
    scores: dict[str, list[int]] = {}
    for look in looks:
        for finding in look.findings:
            bins = scores.setdefault(finding["name"], [0] * SCORE_BINS)
            bins[score_bin(finding["probability"])] += 1
    distance = moments_of([look.distance for look in looks if look.distance is not None])
    figures: dict[str, Any] = {
        "studies": len(looks),
        "gated": gated,
        "flagged": flagged,
        "distance": [distance.count, distance.total, distance.squares],
        "scores": scores,
    }
    features = watched.features if watched else None
    usable = [each for each in vectors if features and each.size == features.centre.size]
    if features is None or len(usable) < LEAST_EMBEDDINGS:
        return figures, None
    cloud = cloud_of(features.of(np.stack(usable)))
    figures["cloud"] = [cloud.count, cloud.spread, cloud.spread_2]
    return figures, cloud.mean


def block_of(row: Any) -> Block:
    """Return a closed block as it was summed up."""
    kept = row.figures
    cloud = None
    if "cloud" in kept:
        count, spread, spread_2 = kept["cloud"]
        mean = np.frombuffer(row.features, dtype=LITTLE_ENDIAN).astype(np.float32)
        cloud = Cloud(count=count, mean=mean, spread=spread, spread_2=spread_2)
    count, total, squares = kept["distance"]
    return Block(
        studies=kept["studies"],
        gated=kept["gated"],
        flagged=kept["flagged"],
        distance=Moments(count=count, total=total, squares=squares),
        scores={name: tuple(bins) for name, bins in kept["scores"].items()},
        cloud=cloud,
        started_at=row.started_at,
        ended_at=row.ended_at,
    )


# --- judging


def judgements(
    connection: Connection,
    watched: Mapping[str, Watched],
    *,
    significance: float,
    only: set[Group] | None = None,
    recent: bool = False,
) -> list[Judgement]:
    """Judge every group of these bundles, or those of `only`; `recent` reads ten blocks each."""
    accepted = drift_blocks.accepted_at(connection)
    limits = {"first": REFERENCE_BLOCKS, "last": RECENT_BLOCKS} if recent else {}
    keys: Iterable[drift_blocks.GroupKey]
    if only is None:
        keys = [key for key, _ in drift_blocks.groups(connection, sorted(watched))]
    else:
        keys = sorted(_key(group) for group in only if group.bundle_digest in watched)
    found = []
    for key in keys:
        everyone = (*key[:3], "")
        since = max((accepted[each] for each in {key, everyone} if each in accepted), default=None)
        rows = drift_blocks.closed_blocks(connection, key, since=since, **limits)
        shared: list[Any] = []
        if key != everyone:
            shared = drift_blocks.closed_blocks(
                connection, everyone, since=accepted.get(everyone), first=REFERENCE_BLOCKS, last=0
            )
        found.append(
            judge(
                group_of(key),
                [block_of(row) for row in rows],
                shared=[block_of(row) for row in shared],
                bank=watched[key[0]].bank,
                accepted=key in accepted,
                significance=significance,
            )
        )
    return found


def group_of(key: drift_blocks.GroupKey) -> Group:
    """Return the group that a key of the table names."""
    digest, modality, body_part_examined, device = key
    return Group(
        bundle_digest=digest,
        modality=modality,
        body_part_examined=body_part_examined,
        device=device,
    )


def _key(group: Group) -> drift_blocks.GroupKey:
    return (group.bundle_digest, group.modality, group.body_part_examined, group.device)
