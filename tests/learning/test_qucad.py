"""The configuration for QuCAD says what QuCAD reads, and its curve gives the specificity back.

What it reads, from github.com/DIDSR/QuCAD at 269e103, the newest version of each file named here:
`inputs/config.dat` has the keys; `read_configFile` in `scripts/tools/inputHandler.py` takes two
words of a line and turns the second into a number, a truth or None by the name of the first;
`check_user_inputs` there bounds them; `add_params` there makes arrivals per minute of the traffic;
`_read_AI_dataset` and `fit_ROC` in `scripts/tools/AI.py` read and fit the curve. QuCAD itself is
not run here.
"""

from pathlib import Path
from statistics import NormalDist
from typing import Any

import numpy as np
import pytest

from tests.learning.rooms import room
from triage.learning.waiting.arrival_pattern import poisson
from triage.learning.waiting.qucad import config_text, roc_text, write_qucad
from triage.learning.waiting.reading_room import (
    Proportion,
    SimulationError,
    orders_of,
    reading_time_of,
    roster_of,
)

NUMBERS = {
    "traffic", "fractionED", "meanServiceTimeDiseasedMin", "meanServiceTimeNonDiseasedMin",
    "meanServiceTimeInterruptingMin", "prevalence", "TPFThresh",
}  # fmt: skip
WHOLE_NUMBERS = {"nRadiologists", "nTrials", "nPatientsTarget"}
TRUTHS = {"verbose", "doTrialOnly"}
NONE_OR_TEXT = {"FPFThresh", "rocFile", "runTimeFile", "plotPath"}
TEXTS = {"statsFile"}
KEYS = NUMBERS | WHOLE_NUMBERS | TRUTHS | NONE_OR_TEXT | TEXTS


def as_qucad_reads(text: str) -> dict[str, Any]:
    """Read lines `KEY VALUE # comment`, no sections; raises where QuCAD would."""
    values: dict[str, Any] = {}
    for line in filter(None, (line.split("#")[0].split() for line in text.splitlines())):
        key, value = line[0], line[1]
        if key in NUMBERS:
            values[key] = float(value)
        elif key in WHOLE_NUMBERS:
            values[key] = int(value)
        elif key in TRUTHS:
            values[key] = {"True": True, "False": False}[value]
        else:
            values[key] = None if value == "None" and key in NONE_OR_TEXT else value
    return values


def test_every_key_is_there_with_the_rooms_value(tmp_path: Path) -> None:
    scenario = room(
        roster=roster_of("2"),
        arrivals=poisson(9.6),
        orders=orders_of("STAT=0.05"),
        sensitivity=Proportion(estimate=0.95),
    )
    config, roc = write_qucad(tmp_path / "site.dat", scenario, runs=12)
    values = as_qucad_reads(config.read_text("utf-8"))
    assert set(values) == KEYS
    assert values["traffic"] == pytest.approx(0.8)
    assert values["fractionED"] == pytest.approx(0.05)
    assert values["TPFThresh"] == pytest.approx(0.95)
    assert values["meanServiceTimeDiseasedMin"] == pytest.approx(10.0)
    assert (values["nRadiologists"], values["nTrials"]) == (2, 12)
    assert values["nPatientsTarget"] == 2000
    assert values["FPFThresh"] is None  # else the curve is passed over
    assert Path(values["rocFile"]) == roc
    assert roc.is_absolute()
    assert roc.is_file()


def test_the_load_gives_qucad_the_rooms_own_arrivals() -> None:
    scenario = room(
        roster=roster_of("2"),
        arrivals=poisson(7.2),
        orders=orders_of("STAT=0.05"),
        reading_diseased=reading_time_of("exponential:20"),
    )
    values = as_qucad_reads(config_text(scenario, runs=2, roc_file=Path("/roc.dat")))
    sick, interrupting = values["prevalence"], values["fractionED"]
    listed_min = sick * values["meanServiceTimeDiseasedMin"]
    listed_min += (1 - sick) * values["meanServiceTimeNonDiseasedMin"]
    mean_min = (1 - interrupting) * listed_min
    mean_min += interrupting * values["meanServiceTimeInterruptingMin"]
    per_min = values["traffic"] * values["nRadiologists"] / mean_min
    assert 60 * per_min == pytest.approx(7.2, rel=1e-4)


@pytest.mark.parametrize(
    ("sensitivity", "specificity"), [(0.95, 0.88), (0.6, 0.97), (0.999, 0.5), (0.3, 0.998)]
)
def test_a_binormal_fit_of_the_curve_gives_the_specificity_back(
    sensitivity: float, specificity: float
) -> None:
    scenario = room(
        sensitivity=Proportion(estimate=sensitivity), specificity=Proportion(estimate=specificity)
    )
    false, true = np.array(
        [line.split(",") for line in roc_text(scenario).splitlines()], dtype=float
    ).T
    assert (np.diff(false) > 0).all()
    normal = NormalDist()
    usable = (false > 0) & (false < 1) & (true > 0) & (true < 1)
    x = [normal.inv_cdf(each) for each in false[usable]]
    y = [normal.inv_cdf(each) for each in true[usable]]
    slope, start = np.polyfit(x, y, 1)
    found = 1 - normal.cdf((normal.inv_cdf(sensitivity) - start) / slope)
    assert found == pytest.approx(specificity, abs=1e-4)


@pytest.mark.parametrize("edge", [0.0, 1.0])
def test_a_perfect_or_hopeless_model_is_kept_off_the_edge(edge: float) -> None:
    perfect = Proportion(estimate=edge)
    scenario = room(sensitivity=perfect, specificity=perfect)
    values = as_qucad_reads(config_text(scenario, runs=2, roc_file=Path("/roc.dat")))
    assert 0 < values["TPFThresh"] < 1
    assert roc_text(scenario).count("\n") > 10


def test_what_qucad_cannot_know_is_written_beside_it() -> None:
    scenario = room(roster=roster_of("0-12:3"), orders=orders_of("HIGH=0.3"))
    text = config_text(scenario, runs=2, roc_file=Path("/roc.dat"))
    assert "number of readers changes" in text
    assert "Orders between STAT and ROUTINE" in text
    assert "Mean waits to expect" not in text
    assert "without triage 40.000 min" in config_text(room(), runs=2, roc_file=Path("/roc.dat"))


def test_what_qucad_refuses_is_refused_here_and_nothing_is_written(tmp_path: Path) -> None:
    with pytest.raises(SimulationError, match=r"at most 0\.95"):
        write_qucad(tmp_path / "a.dat", room(arrivals=poisson(5.9)), runs=2)
    folder = tmp_path / "with space"
    folder.mkdir()
    with pytest.raises(SimulationError, match="spaces"):
        write_qucad(folder / "a.dat", room(), runs=2)
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []
