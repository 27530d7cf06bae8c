"""Seeds that name a patient, and the search for them where no patient may be named (P1).

The store, the database, the watched folder and the audit spool hold patient data and are not
searched; everything else that a running installation leaves is: log, metrics, status, what `check`
prints, temporary files, and errors of the databases.
"""

import json
import os
import re
import tomllib
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from pydicom.dataset import Dataset

from tests import patient
from tests.dicom_files import make_dx
from triage.config import load_config
from triage.errors import TriageError
from triage.operations.health import gather
from triage.operations.metrics import exposition

# Each is a word that nothing else writes.
SEEDS = {
    "PatientName": patient.NAME,
    "PatientID": patient.ID,
    "PatientBirthDate": patient.BIRTH_DATE,
    "AccessionNumber": patient.ACCESSION_NUMBER,
    "StudyDescription": "ZQSTUDYTEXT",
    "SeriesDescription": "ZQSERIESTEXT",
    "ReferringPhysicianName": "ZQDOCTOR",
    "InstitutionName": "ZQHOSPITAL",
    "StationName": "ZQSTATION",
    "PatientComments": "ZQCOMMENTS",
    "ImageComments": "ZQIMAGETEXT",
    "OtherPatientIDs": "ZQOTHERID",
}
WORDS = tuple(sorted({word for seed in SEEDS.values() for word in seed.split("^")}))
ENCODINGS = ("utf-8", "utf-16-le", "utf-16-be")
# By their first bytes: SQLite's files, its log of both byte orders, its journal.
DATABASES = (
    b"SQLite format 3\0", b"\x37\x7f\x06\x82", b"\x37\x7f\x06\x83", b"\xd9\xd5\x05\xf9"
)  # fmt: skip
SPOOLED = ".audit"  # a message of the audit spool
OF_POSTGRESQL = "PG_VERSION"  # in each of its folders of data
# What a trial itself wrote down: system calls with what was received, a worklist as it was shown.
NOTES_OF_TRIALS = ("trace", "facts.json")


def seeded(pixels: Any = None, **changes: Any) -> Dataset:
    """Return a radiograph whose every descriptive element names the patient."""
    elements = {**SEEDS, **changes}
    names = {"PatientName": "patient_name", "PatientID": "patient_id"}
    return make_dx(pixels, **{names.get(key, key): value for key, value in elements.items()})


def noise(seed: int) -> Any:
    return np.random.default_rng(seed).integers(0, 4096, (96, 96), dtype=np.uint16)


def leaks(content: bytes | str, where: str) -> list[str]:
    """Return each seed that occurs, with the place."""
    data = content.encode("utf-8", "replace") if isinstance(content, str) else content
    lower = data.lower()
    return [f"{where}: {word}" for word in WORDS if _occurs(word, lower)]


def _occurs(word: str, lower: bytes) -> bool:
    """Whether `lower` has the word; a date among other digits is a part of some UID."""
    forms = [form for each in ENCODINGS if (form := word.lower().encode(each)) in lower]
    if word.isdigit():
        return any(re.search(rb"(?<!\d)" + form + rb"(?!\d)", lower) for form in forms)
    return bool(forms)


def leaks_below(directories: Iterable[Path], *, not_in: Iterable[Path] = ()) -> list[str]:
    """Search every file below these directories, its name included, but not in `not_in`."""
    found = []
    for path in files_below(directories, not_in=not_in):
        found += leaks(path.name, f"name of {path}")
        if path.is_file():
            found += leaks(path.read_bytes(), str(path))
    return found


def files_below(directories: Iterable[Path], *, not_in: Iterable[Path] = ()) -> list[Path]:
    """Return every file below these directories that is not in `not_in`."""
    left_out = [path.resolve() for path in not_in]
    return [
        path
        for directory in directories
        for folder, _, names in os.walk(directory)
        for path in (Path(folder) / name for name in names)
        if not any(path.resolve().is_relative_to(out) for out in left_out)
    ]


# --- what whole runs left


def left_files(folder: Path, *, temporary: bool) -> list[Path]:
    """Return the files below a folder in which no patient may be named.

    Left out is what holds patients rightly: DICOM files and databases, known by their first bytes,
    audit messages, what an installation's configuration names as its store, watched folder and
    audit spool, a PostgreSQL cluster, and the notes of the trials. In a folder for temporary files
    only the cluster is: a copy of an image there is one too many.
    """
    homes = (
        set() if temporary else {home for each in configurations(folder) for home in _homes(each)}
    )
    found = []
    for place, below, names in os.walk(folder):
        if OF_POSTGRESQL in names or Path(place).resolve() in homes:
            below.clear()
            continue
        plain = [path for path in (Path(place) / name for name in names) if _is_plain(path)]
        found += [path for path in plain if temporary or not _holds_patients(path)]
    return found


def configurations(folder: Path) -> list[Path]:
    """Return the configuration of each installation below a folder."""
    return sorted(path for path in folder.rglob("triage.toml") if _is_plain(path))


def told_by(configuration: Path) -> str:
    """What an installation that was left says of itself, the daemon being down: metrics, status."""
    try:
        config = load_config(configuration, {})
        status = json.dumps(gather(config).document(), default=str)
        return exposition(config).decode("utf-8") + status
    except TriageError as error:
        return str(error)


def knows_patient(configuration: Path) -> bool:
    """Whether the SQLite database beside an installation's configuration holds a seed."""
    return any(leaks(path.read_bytes(), "") for path in configuration.parent.glob("*.sqlite*"))


def _homes(configuration: Path) -> Iterator[Path]:
    """What an installation's configuration names, whether the program would take it or not."""
    with suppress(tomllib.TOMLDecodeError):
        told = tomllib.loads(configuration.read_text("utf-8"))
        store, audit = told.get("store", {}), told.get("audit", {})
        named = [store.get("path"), audit.get("spool"), *told.get("folders", {}).get("watch", ())]
        yield from (
            (configuration.parent / each).resolve() for each in named if isinstance(each, str)
        )


def _is_plain(path: Path) -> bool:
    return path.is_file() and not path.is_symlink()


def _holds_patients(path: Path) -> bool:
    with path.open("rb") as file:
        head = file.read(132)
    by_name = path.name in NOTES_OF_TRIALS or path.suffix == SPOOLED
    return by_name or head[128:] == b"DICM" or head.startswith(DATABASES)
