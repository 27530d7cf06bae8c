"""P6, its second half: a new model changes no old result in silence.

A study is looked at; the bundle is replaced by one with other operating points, the daemon is
started again, and a second study comes. Bound: the first study's results, priority and model digest
are what they were, and nothing looks at it again; the second names the new digest. A person who
asks for another look gets one, and the former result stays in the history.
"""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select

from tests.assurance import Evidence, requirement
from tests.faults.model_trials import analysed, chest, running, study, worker
from tests.flows.program import Program, until
from triage.database.connection import open_database
from triage.database.tables import ResultRow
from triage.pocket import BUNDLE

pytestmark = pytest.mark.long_only


def results(program: Program) -> list[tuple[Any, ...]]:
    db = open_database(program.url)
    try:
        with db.read() as connection:
            return [tuple(row) for row in connection.execute(select(ResultRow.__table__))]
    finally:
        db.dispose()


def digests(entry: dict[str, Any]) -> list[str]:
    return [model["digest"] for model in entry["models"]]


@requirement("P6", bound="old results as they were, new ones name the new model")
@pytest.mark.timeout(300)
def test_p6_a_new_model_changes_no_old_result(tmp_path: Path, evidence: Evidence) -> None:
    bundle = tmp_path / "bundle"
    shutil.copytree(BUNDLE, bundle)
    more = f'\n[[models]]\nname = "chest"\nbundle = "{bundle}"\n'
    old, new = chest(1, "pneumothorax"), chest(2, "pneumothorax")
    with running(tmp_path / "site", more=more) as program:
        program.send([old])
        before = analysed(program, old)
        rows = results(program)
        program.stop()
        _stricter(bundle)
        program.start()
        worker(program)
        program.send([new])
        after = analysed(program, new)
        still = study(program, old)
        kept = results(program)[: len(rows)]
        wrong = [] if kept == rows else ["a result was changed"]
        for key in ("priority", "findings", "models", "analysed_at", "flagged_at"):
            wrong += [] if still[key] == before[key] else [f"{key} of the old study was changed"]
        wrong += [] if digests(after) != digests(before) else ["the new model is not told apart"]
        program.call("requeue", str(old.StudyInstanceUID))
        until(lambda: digests(study(program, old)) == digests(after))
        wrong += [] if len(results(program)) == len(rows) + 2 else ["the former result is gone"]
        evidence.record(trials=2, losses=len(wrong))
    assert wrong == []


def _stricter(bundle: Path) -> None:
    """Write the same model with other operating points: another identity."""
    path = bundle / "bundle.json"
    manifest = json.loads(path.read_text())
    for finding in manifest["findings"]:
        finding["operating_point"] = min(0.99, finding["operating_point"] * 1.1)
    path.write_text(json.dumps(manifest, indent=1) + "\n")
