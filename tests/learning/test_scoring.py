"""Scores of labelled subjects come from the function that serves."""

import math
from dataclasses import replace

import numpy as np
import pytest

from triage.errors import PermanentError
from triage.inference.bundle import Bundle, load_bundle
from triage.inference.classifier import OUT_OF_DISTRIBUTION, classify_subject
from triage.learning.judging.scoring import NOT_EMBEDDED, score
from triage.learning.material.embedding_set import EmbeddingSet, LeftOut
from triage.learning.material.labels import LabelRow, LabelTable
from triage.pocket import BUNDLE


@pytest.fixture(scope="module")
def pocket() -> Bundle:
    return load_bundle(BUNDLE, check_encoder=False)


def near(bundle: Bundle, seed: int, views: int = 1) -> np.ndarray:
    """Embeddings that the gate lets pass: the bank's own, a little moved."""
    assert bundle.bank is not None
    generator = np.random.default_rng(seed)
    units = bundle.bank.units[generator.integers(len(bundle.bank.units), size=views)]
    vectors = units * np.sqrt(units.shape[1]) * bundle.bank.scale + bundle.bank.mean
    return np.asarray(vectors, np.float32)


def far(bundle: Bundle) -> np.ndarray:
    assert bundle.bank is not None
    centre = bundle.bank.units.mean(axis=0)
    return np.asarray((-centre * 50 * bundle.bank.scale + bundle.bank.mean)[None], np.float32)


def vectors_of(
    *subjects: tuple[str, list[np.ndarray]], left: tuple[LeftOut, ...] = ()
) -> EmbeddingSet:
    return EmbeddingSet(
        subjects=tuple(name for name, _ in subjects),
        vectors=tuple(np.concatenate(parts) for _, parts in subjects),
        parts=tuple(tuple(len(part) for part in parts) for _, parts in subjects),
        keys=tuple(("",) * sum(map(len, parts)) for _, parts in subjects),
        scope="test",
        left_out=left,
    )


def labels(*rows: tuple[str, float], findings: tuple[str, ...]) -> LabelTable:
    return LabelTable(
        findings=findings,
        rows=tuple(
            LabelRow(
                subject=name, group="", truth=(truth,), split="", strata={"sex": "F"}, line=line
            )
            for line, (name, truth) in enumerate(rows, start=2)
        ),
        digest="",
        subject_column="file",
    )


def test_a_score_is_what_the_daemon_would_say(pocket: Bundle) -> None:
    name = pocket.manifest.findings[1].name
    views = near(pocket, 1)
    found = score(
        pocket, vectors_of(("a.png", [views])), labels(("a.png", 1.0), findings=(name.upper(),))
    )
    expected = classify_subject(pocket, views).findings[1].probability
    assert found.findings == (name,)
    assert found.probabilities[0, 0] == expected
    assert found.truth[0, 0] == 1.0
    assert found.strata == ({"sex": "F"},)


def test_a_study_has_the_highest_probability_of_its_parts(pocket: Bundle) -> None:
    name = pocket.manifest.findings[0].name
    parts = [near(pocket, seed) for seed in (3, 4, 5)]
    found = score(pocket, vectors_of(("1.2.3", parts)), labels(("1.2.3", 0.0), findings=(name,)))
    each = [classify_subject(pocket, part).findings[0].probability for part in parts]
    assert found.probabilities[0, 0] == max(each)
    assert len(set(each)) > 1


def test_what_the_gate_turns_away_stays_in_the_table_without_a_score(pocket: Bundle) -> None:
    name = pocket.manifest.findings[0].name
    embeddings = vectors_of(("a", [far(pocket)]), ("b", [far(pocket), near(pocket, 1)]))
    found = score(pocket, embeddings, labels(("a", 1.0), ("b", 1.0), findings=(name,)))
    assert found.gated.tolist() == [True, False]
    assert math.isnan(found.probabilities[0, 0])
    assert found.reasons == (OUT_OF_DISTRIBUTION, "")
    assert np.isfinite(found.probabilities[1, 0])


def test_what_could_not_be_read_stays_in_the_table_with_its_reason(pocket: Bundle) -> None:
    name = pocket.manifest.findings[0].name
    broken = near(pocket, 1)
    broken[0, 0] = np.nan
    embeddings = vectors_of(
        ("a", [near(pocket, 1)]),
        ("d", [near(pocket, 1), broken]),
        left=(LeftOut(line=3, reason="damaged"),),
    )
    table = labels(("a", 1.0), ("b", 1.0), ("c", 0.0), ("d", 0.0), findings=(name,))
    found = score(pocket, embeddings, table)
    assert found.failed.tolist() == [False, True, True, True]
    assert found.reasons[1:3] == ("damaged", NOT_EMBEDDED)
    assert "finite" in found.reasons[3]


def test_only_the_rows_asked_for_are_scored_in_their_order(pocket: Bundle) -> None:
    name = pocket.manifest.findings[0].name
    embeddings = vectors_of(("a", [near(pocket, 1)]), ("b", [near(pocket, 2)]))
    found = score(pocket, embeddings, labels(("a", 1.0), ("b", 0.0), findings=(name,)), [1, 0])
    assert found.subjects == ("b", "a")
    assert found.truth[:, 0].tolist() == [0.0, 1.0]


def test_labels_and_bundle_without_a_shared_finding_are_refused(pocket: Bundle) -> None:
    table = labels(("a", 1.0), findings=("unheard of",))
    with pytest.raises(PermanentError, match="share no finding"):
        score(pocket, vectors_of(("a", [near(pocket, 1)])), table)
    with pytest.raises(PermanentError, match="share no finding"):
        score(replace(pocket, head=None), vectors_of(("a", [near(pocket, 1)])), table)
