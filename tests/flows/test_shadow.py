"""The whole program with a second bundle as a shadow: silent, recorded, compared afterwards."""

import json
import shutil
from pathlib import Path
from typing import Any

from tests.dicom_files import make_dx
from tests.flows.program import Program, until
from triage.database import reading
from triage.pocket import BUNDLE
from triage.pocket.phantoms import generate

MANIFEST = "bundle.json"
KINDS = ((1, "pneumothorax"), (2, "normal"), (4, "normal"))

MODELS = """
[[models]]
name = "pocket"
bundle = "{served}"

[[models]]
name = "eager"
bundle = "{eager}"
mode = "shadow"
"""


def eager_copy(directory: Path, *, name: str = "eager") -> Path:
    """Copy the shipped bundle under another name, with thresholds that flag everything."""
    shutil.copytree(BUNDLE, directory)
    manifest = json.loads((directory / MANIFEST).read_text("utf-8"))
    manifest["name"] = name
    for finding in manifest["findings"]:
        finding["operating_point"] = 0.0
    (directory / MANIFEST).write_text(json.dumps(manifest), "utf-8")
    return directory


def test_a_shadow_is_silent_in_the_daemon_and_its_scores_are_compared_with_those_served(
    sqlite_url: str, tmp_path: Path
) -> None:
    program = Program(tmp_path, sqlite_url, caption="all")
    eager = eager_copy(tmp_path / "eager")
    text = program.configuration.read_text("utf-8")
    program.configuration.write_text(text + MODELS.format(served=BUNDLE, eager=eager), "utf-8")
    program.start()
    phantoms = [generate(seed, finding=kind, size_px=256) for seed, kind in KINDS]
    objects = [make_dx(each.pixels, bits_stored=each.bits_stored) for each in phantoms]
    assert program.send(objects) == [0x0000] * len(objects)
    studies = until(lambda: seen(program, len(objects)))
    # The worklist knows of the served model alone, the eager one would have flagged everything.
    models = {model["name"] for study in studies for model in study["models"]}
    assert models == {"pocket"}
    flagged = [study for study in studies if study["flagged_at"]]
    assert 0 < len(flagged) < len(studies)
    calm = [study for study in studies if not study["flagged_at"]]
    assert {study["priority"] for study in calm} == {"ROUTINE"}
    told = {each["name"]: each["mode"] for each in program.status()["models"]}
    assert told == {"pocket": "serve", "eager": "shadow"}
    compared = json.loads(program.call("replay", "--shadow", "eager", "--json").stdout)
    assert compared["summary"]["newly_flagged"] == len(calm)
    assert {each["would"]["priority"] for each in compared["changes"]} <= {"STAT", "HIGH"}
    for sums in compared["summary"]["scores"]:
        assert sums["largest_absolute_difference"] < 1e-9  # the same encoder and head
    # A bundle that never ran says the same of the stored embeddings: the daemon has noted what
    # made them.
    later = eager_copy(tmp_path / "later", name="later")
    replayed = json.loads(program.call("replay", str(later), "--json").stdout)
    assert replayed["changes"] == compared["changes"]
    assert replayed["summary"]["embeddings"] == {"float32-cpu": len(objects)}
    assert program.stop() == 0


def seen(program: Program, count: int) -> list[dict[str, Any]] | None:
    """Return the studies once both bundles have looked at each and the words are written."""
    studies = list(program.worklist().values())
    done = len(studies) == count and all(study["analysis"] == "analysed" for study in studies)
    if not done or not all(study["caption"] for study in studies):
        return None
    reader = reading.open_reader(program.url)
    try:
        with reader.snapshot():
            shadows = reader.value("SELECT count(*) FROM results WHERE mode = 'shadow'")
            writers = reader.tuples("SELECT DISTINCT bundle_digest FROM captions")
    finally:
        reader.close()
    assert len(writers) == 1
    return studies if shadows == count else None
