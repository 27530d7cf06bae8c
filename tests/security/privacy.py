"""Seeds that name a patient, and the search for them where no patient may be named (P1).

The store, the database, the watched folder and the audit spool hold patient data and are not
searched; everything else that a running installation leaves is: log, metrics, status, what `check`
prints, temporary files, and errors of the databases.
"""

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from pydicom.dataset import Dataset

from tests.dicom_files import make_dx

# Each is a word that nothing else writes; dates are such that no clock shows them.
SEEDS = {
    "PatientName": "ZQNAME^ZQGIVEN",
    "PatientID": "ZQPATIENT7",
    "PatientBirthDate": "19030207",
    "AccessionNumber": "ZQACCESSION5",
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
    return [
        f"{where}: {word}"
        for word in WORDS
        if any(word.lower().encode(encoding) in lower for encoding in ENCODINGS)
    ]


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
