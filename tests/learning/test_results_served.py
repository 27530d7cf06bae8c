"""A bundle in the daemon says of an image, over C-STORE, what `triage evaluate` says of it.

Drawn films here; `python -m tests.benchmarks learning` does it with all radiographs of the test
split.
"""

from pathlib import Path

import pytest

from tests.assurance import requirement
from tests.benchmarks import learning_runs as runs
from tests.benchmarks.learning_served import (
    evaluated_scores,
    largest_difference,
    served_scores,
    write_dicom,
)
from tests.learning import films

AGREE = 1e-4
SHORT = ("--folds", "2", "--l2", "0.1")


@pytest.mark.long_only
@requirement("M3")
@pytest.mark.timeout(600)
def test_the_daemon_and_the_evaluation_give_one_score(tmp_path: Path) -> None:
    (tmp_path / "bundles").mkdir()
    images, labels = films.write_films(tmp_path / "films"), tmp_path / "labels.csv"
    text = (images / "labels.csv").read_text()
    text = text.replace("disc,other", "label,other", 1).replace(",1,", ",abnormal,")
    labels.write_text(text.replace(",0,", ",normal,"))
    shop = runs.Workshop(folder=tmp_path / "bundles", images=images, labels=labels, less=SHORT)
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
        excused=True,  # too few of them to calibrate on
    )
    assert sum(score is not None for score in evaluated.values()) >= 2
    assert largest_difference(served, evaluated) <= AGREE
