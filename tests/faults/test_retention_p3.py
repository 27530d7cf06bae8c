"""P3: retention takes pixels, embedding and caption of a study together, and of no other study.

Studies of random age, flagged or not, read by a person or not, each with its file, its embedding
and its caption. Bound: after the sweep exactly those that were read and are older than the days of
retention have lost all three and are told by an event; every other has all three.
"""

import random
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from sqlalchemy import select

from tests.assurance import Evidence, requirement
from tests.database.conftest import MODEL, analysed
from tests.operations.test_retention import DAY_S, Site
from tests.worker.house import POLICIES
from triage.database import queue, results
from triage.database.arrivals import ArrivalOutcome
from triage.database.tables import CaptionRow, Embedding, Instance
from triage.database.tables_house import Event
from triage.operations.retention import expire_due
from triage.records import Caption, JobKind

SEED = 20260106
DAYS = 30


@pytest.fixture
def site(database_url: str, tmp_path: Path) -> Iterator[Site]:
    made = Site(database_url, tmp_path / "store")
    made.intake.start()
    yield made
    made.intake.stop()
    made.store.close()
    made.db.dispose()


def looked_at(site: Site, *, flagged: bool) -> ArrivalOutcome:
    """Receive a radiograph, analyse it and describe it."""
    outcome = site.receive()
    [job] = queue.claim(site.db, kinds=[JobKind.ANALYSE], owner="w", lease_s=60, limit=1)
    key = f"k{job.id}"
    results.commit_analysis(
        site.db, job, [analysed(flagged=flagged, embedding_keys=(key,))], pixel_digests={},
        embeddings={key: np.ones(2, dtype=np.float32)}, policies=POLICIES, caption_due=True,
    )  # fmt: skip
    [caption] = queue.claim(site.db, kinds=[JobKind.CAPTION], owner="w", lease_s=60, limit=1)
    results.commit_caption(site.db, caption, Caption(text="W.", prompt_digest="", model=MODEL))
    return outcome


def held(site: Site) -> dict[str, set[int]]:
    """Return the studies that have a file, an embedding, a caption, an event of their expiry."""
    with site.db.read() as connection:
        paths = connection.execute(select(Instance.study_id, Instance.path)).all()
        captions = connection.execute(select(CaptionRow.study_id)).scalars()
        told = select(Event.study_id).where(Event.what == "images_expired")
        embeddings = connection.execute(select(Embedding.key)).scalars()
        return {
            "file": {row.study_id for row in paths if (site.store.root / row.path).exists()},
            "embedding": {int(key.removeprefix("k")) for key in embeddings},
            "caption": set(captions),
            "event": set(connection.execute(told).scalars()),
        }


@requirement("P3", bound="exactly what was read and is old enough goes: file, embedding, caption")
def test_p3_pixels_embedding_and_caption_go_together_and_only_of_what_was_read(
    site: Site, evidence: Evidence, long: bool
) -> None:
    chance = random.Random(SEED)
    total, due, all_of_them = (400 if long else 40), set(), set()
    for number in range(total):
        age_days = 60 - 60 * number / total
        outcome = looked_at(site, flagged=chance.random() < 0.5)
        all_of_them.add(outcome.study_id)
        if chance.random() < 0.5:
            site.acknowledge(outcome)
            if age_days > DAYS:
                due.add(outcome.study_id)
        site.clock.turn(60 * DAY_S / total)
    while expire_due(site.db, site.store, retention_days=DAYS):
        pass
    found, kept = held(site), all_of_them - due
    wrong = (found["file"] ^ kept) | (found["caption"] ^ kept) | (found["event"] ^ due)
    losses = len(wrong) + abs(len(found["embedding"]) - len(kept))
    evidence.record(trials=total, losses=losses)
    assert due
    assert losses == 0
