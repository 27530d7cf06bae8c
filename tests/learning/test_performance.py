"""A model's figures are read with the counts they rest on, or refused."""

import json
from pathlib import Path
from typing import Any

import pytest

from triage.learning.waiting.performance import measured, read_evaluation
from triage.learning.waiting.reading_room import SimulationError


def row(name: str = "nodule", **changes: Any) -> dict[str, Any]:
    counts = {"hits": 45, "misses": 5, "false_alarms": 20, "passes": 180}
    point = {"counts": counts | changes, "sensitivity_of_all": {"value": 45 / 60}}
    return {"name": name, "at_point": point}


def evaluated(*rows: dict[str, Any]) -> dict[str, Any]:
    """As `triage evaluate` writes it; the guide of the room simulates a file of the verb itself."""
    return {"schema_version": 1, "evaluation": {"findings": list(rows)}}


def written(tmp_path: Path, document: Any) -> Path:
    path = tmp_path / "evaluation.json"
    path.write_text(json.dumps(document), "utf-8")
    return path


def test_positives_without_a_score_count_as_missed(tmp_path: Path) -> None:
    found = read_evaluation(written(tmp_path, evaluated(row())), None)
    assert (found.sensitivity.estimate, found.sensitivity.trials) == (0.75, 60.0)
    assert (found.specificity.estimate, found.specificity.trials) == (0.9, 200.0)


def test_one_of_several_findings_must_be_named(tmp_path: Path) -> None:
    path = written(tmp_path, evaluated(row("nodule"), row("effusion")))
    assert read_evaluation(path, "effusion").finding == "effusion"
    with pytest.raises(SimulationError, match="nodule, effusion"):
        read_evaluation(path, None)
    with pytest.raises(SimulationError, match="no finding 'fracture'"):
        read_evaluation(path, "fracture")


@pytest.mark.parametrize(
    "document", [{}, [], {"findings": [row()]}, evaluated({"name": "nodule"}), "x"]
)
def test_another_file_is_no_evaluation(tmp_path: Path, document: Any) -> None:
    with pytest.raises(SimulationError, match=r"no evaluation\.json"):
        read_evaluation(written(tmp_path, document), None)


def test_a_finding_never_seen_cannot_be_simulated(tmp_path: Path) -> None:
    path = written(tmp_path, evaluated(row(hits=0, misses=0)))
    with pytest.raises(SimulationError, match="0 with and 200 without"):
        read_evaluation(path, None)


def test_figures_without_counts_are_taken_as_known() -> None:
    per_finding = {"nodule": {"sensitivity": 0.9, "specificity": 0.8}}
    found = measured({"per_finding": per_finding}, None)
    assert (found.sensitivity.estimate, found.sensitivity.trials) == (0.9, None)
    assert measured({"findings": [row()]}, None).sensitivity.trials == 60.0


@pytest.mark.parametrize(
    "figures", [{}, {"per_finding": {"nodule": {"sensitivity": 0.9}}}, {"per_finding": {}}]
)
def test_a_bundle_without_figures_says_what_to_do(figures: dict[str, Any]) -> None:
    with pytest.raises(SimulationError) as caught:
        measured(figures, None)
    assert "triage evaluate" in caught.value.hint
