"""Real files: what the development data calls an image decodes, and equal images agree."""

import csv
from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest

from tests.dicom_files import corpus_root
from triage.errors import DecodeError, DecodeUnsupported, TriageError
from triage.imaging.decode_pool import DecodePool, DecodeTask
from triage.imaging.subject import DecodedSubject
from triage.records import ViewSpec

ROOT = corpus_root()
pytestmark = pytest.mark.skipif(ROOT is None, reason="the development data is not here")
SPECS = tuple(ViewSpec(rendering=r, size_px=112) for r in ("dicom", "google-cxr"))


@pytest.fixture(scope="module")
def rows() -> list[dict[str, str]]:
    assert ROOT is not None
    with (ROOT / "dicom" / "manifest.csv").open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def outcomes(rows: list[dict[str, str]]) -> dict[str, DecodedSubject | TriageError]:
    """Every file of the corpus through one pool."""
    assert ROOT is not None
    results: dict[str, DecodedSubject | TriageError] = {}
    with DecodePool(2, timeout_s=60) as pool:
        futures = {
            row["file"]: pool.submit(
                DecodeTask(paths=(Path(ROOT / "dicom" / row["file"]),), specs=SPECS)
            )
            for row in rows
        }
        for name, future in futures.items():
            try:
                results[name] = future.result(300)
            except TriageError as error:
                results[name] = error
    return results


def test_every_file_that_is_an_image_decodes(
    rows: list[dict[str, str]], outcomes: dict[str, DecodedSubject | TriageError]
) -> None:
    expected = [row["file"] for row in rows if row["expected"] == "image"]
    failed = {n: str(outcomes[n]) for n in expected if isinstance(outcomes[n], TriageError)}
    assert failed == {}
    assert len(expected) == 195


def test_no_file_breaks_the_decoder(outcomes: dict[str, DecodedSubject | TriageError]) -> None:
    errors = {n: o for n, o in outcomes.items() if isinstance(o, TriageError)}
    assert {n: repr(e) for n, e in errors.items() if not isinstance(e, DecodeError)} == {}


def test_files_without_pixels_are_unsupported_not_failed(
    rows: list[dict[str, str]], outcomes: dict[str, DecodedSubject | TriageError]
) -> None:
    names = [row["file"] for row in rows if row["expected"] == "no-pixels"]
    assert {n for n in names if not isinstance(outcomes[n], DecodeUnsupported)} == set()


def test_files_of_the_same_pixels_have_the_same_digest(
    rows: list[dict[str, str]], outcomes: dict[str, DecodedSubject | TriageError]
) -> None:
    groups: dict[str, set[str]] = defaultdict(set)
    for row in rows:
        outcome = outcomes[row["file"]]
        if row["same_pixels_group"] and isinstance(outcome, DecodedSubject):
            groups[row["same_pixels_group"]].update(outcome.pixel_digests)
    assert {name: d for name, d in groups.items() if len(d) != 1} == {}
    # Two pairs of groups differ only in byte order and in YBR against RGB: equal pixels to us.
    assert len({d for digests in groups.values() for d in digests}) == len(groups) - 2


def test_every_view_is_finite_and_in_range(
    outcomes: dict[str, DecodedSubject | TriageError],
) -> None:
    for outcome in outcomes.values():
        if isinstance(outcome, DecodedSubject):
            for spec in SPECS:
                view = outcome.views[spec]
                assert np.isfinite(view).all()
                assert view.min() >= 0
                assert view.max() <= 1


def test_real_radiographs_are_not_blank(
    rows: list[dict[str, str]], outcomes: dict[str, DecodedSubject | TriageError]
) -> None:
    names = [
        row["file"] for row in rows if row["role"] == "radiograph" and row["expected"] == "image"
    ]
    blank = set()
    for name in names:
        outcome = outcomes[name]
        assert isinstance(outcome, DecodedSubject)
        if outcome.facts.blank:
            blank.add(name)
    assert blank == {"made/odd_constant_pixels.dcm"}
