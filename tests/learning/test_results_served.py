"""A bundle in the daemon says of an image, over C-STORE, what `triage evaluate` says of it."""

from pathlib import Path

import pytest

from tests.benchmarks import learning_runs as runs
from tests.benchmarks.learning_served import (
    evaluated_scores,
    largest_difference,
    served_scores,
    write_dicom,
)
from tests.dicom_files import corpus_root
from tests.learning import films

AGREE = 1e-4
SHORT = ("--folds", "2", "--l2", "0.1")
ROOT = corpus_root()
REAL = pytest.mark.skipif(
    ROOT is None or not (ROOT / "radiographs" / "labels.csv").is_file(),
    reason="the development radiographs are not here",
)


def workshop(kind: str, folder: Path) -> runs.Workshop:
    """Real radiographs, some of each split, or drawn films under the same column names."""
    (folder / "bundles").mkdir()
    labels = folder / "labels.csv"
    images = films.write_films(folder / "films") if ROOT is None or kind == "films" else ROOT
    if kind == "radiographs":
        images = images / "radiographs"
        runs.write_labels(images, labels, factor=0.1)
    else:
        text = (images / "labels.csv").read_text()
        text = text.replace("disc,other", "label,other", 1).replace(",1,", ",abnormal,")
        labels.write_text(text.replace(",0,", ",normal,"))
    return runs.Workshop(folder=folder / "bundles", images=images, labels=labels, less=SHORT)


@pytest.mark.timeout(600)
@pytest.mark.parametrize("kind", ["films", pytest.param("radiographs", marks=REAL)])
def test_the_daemon_and_the_evaluation_give_one_score(kind: str, tmp_path: Path) -> None:
    shop = workshop(kind, tmp_path)
    words = runs.words_of("--method", "logistic")
    made = shop.make(runs.Trial(number="1", name="logistic", words=words, keeps=True))
    document = shop.evaluate(made, "--no-thumbnails", "--rounds", "100")
    pictures = [shop.images / row["subject"] for row in document["scores"]][:6]
    studies = write_dicom(pictures, tmp_path / "dicom")
    report = made.calibrated.with_name(f"{made.calibrated.name}-report")
    evaluated = evaluated_scores(report, studies, finding=runs.FINDING)
    served = served_scores(
        made.calibrated,
        studies,
        tmp_path / "daemon",
        finding=runs.FINDING,
        excused=kind == "films",  # too few of them to calibrate on
    )
    assert sum(score is not None for score in evaluated.values()) >= 2
    assert largest_difference(served, evaluated) <= AGREE
