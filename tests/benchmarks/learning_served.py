"""A bundle in the real daemon: pictures become DICOM files, go in by C-STORE, scores come out.

A picture of eight bits becomes a radiograph whose window shows all of its values, which `triage`
renders as it renders the picture (`triage.learning.material.pictures`).
"""

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import numpy as np
from PIL import Image

from tests.benchmarks.measuring import configuration, daemon, free_port, triage
from tests.dicom_files import make_dx, to_bytes
from triage.database.reading import open_reader, worklist

PATIENCE_S: Final = 600.0
LOOK_S: Final = 0.5
AT_ONCE: Final = (
    "[eligibility]\nmaximum_study_age_h = 0\n"
    '[caption]\nwhen = "never"\n'
    "[completion]\nquiet_s = 0.0\nquiet_s_by_modality = {}\n"
)


def write_dicom(pictures: Sequence[Path], folder: Path) -> dict[str, Path]:
    """Write each picture as a study of one radiograph; return files by Study Instance UID."""
    folder.mkdir(parents=True, exist_ok=True)
    files = {}
    for picture in pictures:
        with Image.open(picture) as opened:
            pixels = np.asarray(opened.convert("L"))
        film = make_dx(
            pixels,
            bits_stored=8,
            WindowCenter="128",
            WindowWidth="256",
            PatientAge=None,
            PatientBirthDate=None,
            ViewPosition=None,
        )
        path = folder / f"{picture.stem}.dcm"
        path.write_bytes(to_bytes(film))
        files[str(film.StudyInstanceUID)] = path
    return files


def served_scores(
    bundle: Path,
    studies: Mapping[str, Path],
    folder: Path,
    *,
    finding: str,
    excused: bool = False,
) -> dict[str, float | None]:
    """Send all studies to a daemon that serves the bundle; return probabilities by study.

    None where the daemon gave no score. `excused` serves a bundle that has no calibration of its
    own. RuntimeError where a study is still open in the end.
    """
    with _serving(bundle, folder, excused=excused) as config:
        done = triage(config, "send", "--json", *map(str, studies.values()))
        if done.returncode:
            raise RuntimeError(f"not all files were stored: {done.stdout[-500:]}{done.stderr}")
        found = _finished(config, set(studies))
    scores: dict[str, float | None] = {}
    for uid, study in found.items():
        said = {each["name"]: each["probability"] for each in study["findings"]}
        scores[uid] = said.get(finding)
    return scores


def largest_difference(
    served: Mapping[str, float | None], evaluated: Mapping[str, float | None]
) -> float:
    """Between two sets of scores; infinite where only one of them has a score for a study."""
    if set(served) != set(evaluated):
        return float("inf")
    differences = [0.0]
    for uid, one in served.items():
        other = evaluated[uid]
        if one is None or other is None:
            differences.append(0.0 if one is other else float("inf"))
        else:
            differences.append(abs(one - other))
    return max(differences)


def evaluated_scores(
    report: Path, studies: Mapping[str, Path], *, finding: str
) -> dict[str, float | None]:
    """What `triage evaluate` wrote of the same pictures, by study."""
    document = json.loads((report / "evaluation.json").read_text("utf-8"))
    by_name = {
        Path(row["subject"]).stem: row["probabilities"][finding] for row in document["scores"]
    }
    return {uid: by_name[path.stem] for uid, path in studies.items()}


@contextmanager
def _serving(bundle: Path, folder: Path, *, excused: bool) -> Iterator[Path]:
    """A daemon outside demonstration mode: the bundle's own calibration lets it serve, or a key."""
    folder.mkdir(parents=True, exist_ok=True)
    port = free_port()
    entry = f'[[models]]\nname = "chest"\nbundle = "{bundle.resolve()}"\ndevices = ["cpu"]\n'
    entry += f"serve_without_local_calibration = {str(excused).lower()}\n"
    config = configuration(folder, port, more=AT_ONCE + entry)
    with daemon(config, port):
        yield config


def _finished(config: Path, wanted: set[str]) -> dict[str, dict[str, Any]]:
    ends_at = time.monotonic() + PATIENCE_S
    while time.monotonic() < ends_at:
        reader = open_reader(f"sqlite:///{config.parent / 'triage.sqlite'}")
        try:
            found = {row["study_instance_uid"]: row for row in worklist(reader, all=True)}
        finally:
            reader.close()
        if wanted <= set(found) and all(row["analysis"] != "pending" for row in found.values()):
            return found
        time.sleep(LOOK_S)
    raise RuntimeError("not all studies were looked at in time")
