"""What a careful receiver should do with each file of the development corpus.

The order of reasons is that of the intake: not sendable by the tool, identifiers missing or
ill-formed, SOP Instance UID held already, and only then what the manifest expects of the file.
"""

import csv
import re
import sqlite3
import subprocess
import warnings
from dataclasses import dataclass
from pathlib import Path

import pydicom
from pydicom.dataset import Dataset

NOT_SENT = "not sent"
ASIDE = frozenset({"quarantined", "refused"})
SEEN_BEFORE = frozenset({"duplicate", "revision", "conflict"})
MANIFEST_WORDS = {"image": {"stored"}, "no-pixels": {"stored"}, "reject": ASIDE}
UID = re.compile(r"(0|[1-9]\d*)(\.(0|[1-9]\d*))*")
RECORD = Path(__file__).with_name("corpus_dispositions.csv")

# How storescu is told to propose the syntax that a file has.
STORESCU_SYNTAX = {
    "1.2.840.10008.1.2": "-xi",
    "1.2.840.10008.1.2.1": "-xe",
    "1.2.840.10008.1.2.2": "-xb",
    "1.2.840.10008.1.2.1.99": "-xd",
    "1.2.840.10008.1.2.4.50": "-xy",
    "1.2.840.10008.1.2.4.51": "-xx",
    "1.2.840.10008.1.2.4.70": "-xs",
    "1.2.840.10008.1.2.4.80": "-xt",
    "1.2.840.10008.1.2.4.81": "-xu",
    "1.2.840.10008.1.2.4.90": "-xv",
    "1.2.840.10008.1.2.4.91": "-xw",
    "1.2.840.10008.1.2.5": "-xr",
}


@dataclass(frozen=True, kw_only=True)
class Sample:
    """One file of the corpus, read by pydicom and not by the program under test."""

    name: str
    path: Path
    manifest: frozenset[str]
    transfer_syntax_uid: str
    same_pixels_group: str
    sop_instance_uid: str
    identifiers_sound: bool
    identifiers_as_unknown: bool  # written with VR UN


def samples(root: Path) -> list[Sample]:
    folder = root / "dicom"
    with (
        warnings.catch_warnings(),
        (folder / "manifest.csv").open(encoding="utf-8", newline="") as file,
    ):
        warnings.simplefilter("ignore")  # of pydicom, about the very faults that are collected
        return [_sample(folder, row) for row in csv.DictReader(file)]


def expected(sample: Sample, earlier: list[Sample], door: str) -> frozenset[str]:
    """Return the dispositions that are right for a file after those that came before it.

    `earlier` are files whose SOP Instance UID is held.
    """
    if not sample.identifiers_sound:
        return ASIDE
    if sample.identifiers_as_unknown and door == "dcmsend":
        # DCMTK reads them as numbers and names others in the C-STORE command: status A9xx.
        return ASIDE
    held = [each for each in earlier if each.sop_instance_uid == sample.sop_instance_uid]
    if any(
        sample.same_pixels_group and each.same_pixels_group == sample.same_pixels_group
        for each in held
    ):
        return frozenset({"duplicate", "revision"})
    return SEEN_BEFORE if held else sample.manifest


def send(tool: str, sample: Sample, port: int) -> None:
    """Send one file as a hospital's tool would; what the tool refuses to send is not sent."""
    syntax = STORESCU_SYNTAX.get(sample.transfer_syntax_uid)
    command = {
        "dcmsend": ["dcmsend", "-aec", "TRIAGE", "-dn"],
        "storescu": ["storescu", "-aec", "TRIAGE", *([syntax] if syntax else [])],
    }[tool]
    subprocess.run(
        [*command, "127.0.0.1", str(port), str(sample.path)],
        capture_output=True,
        timeout=60,
        check=False,
    )


class Ledger:
    """What the database says of the objects that came, read from outside."""

    def __init__(self, path: Path) -> None:
        self._connection = sqlite3.connect(f"file:{path}?mode=ro", uri=True)
        self._seen = 0
        self._stored: set[int] = set()

    def newest(self, source: str) -> tuple[str, int | None] | None:
        """Return state and instance of what came since the last question, None for nothing."""
        rows = self._connection.execute(
            "SELECT id, state, instance_id FROM object_events"
            " WHERE id > ? AND source = ? ORDER BY id",
            (self._seen, source),
        ).fetchall()
        self._seen = max([self._seen, *(row[0] for row in rows)])
        # A comparison that ends meanwhile is told of an object that has come before.
        came = [row[1:] for row in rows if row[2] not in self._stored or row[1] == "duplicate"]
        self._stored.update(instance for state, instance in came if state == "stored")
        return came[0] if came else None

    def instance_state(self, instance_id: int) -> str:
        (state,) = self._connection.execute(
            "SELECT state FROM instances WHERE id = ?", (instance_id,)
        ).fetchone()
        return str(state)

    def instance_of(self, digest: str) -> int | None:
        row = self._connection.execute(
            "SELECT id FROM instances WHERE digest = ?", (digest,)
        ).fetchone()
        return int(row[0]) if row else None

    def folder_outcomes(self) -> dict[str, str]:
        """Return what became of each file, by its path."""
        return dict(self._connection.execute("SELECT path, outcome FROM folder_entries"))

    def busy(self) -> bool:
        (count,) = self._connection.execute(
            "SELECT count(*) FROM jobs WHERE state IN ('queued', 'leased')"
        ).fetchone()
        return bool(count)

    def close(self) -> None:
        self._connection.close()


def allowed(files: list[Sample], actual: dict[str, str], door: str) -> dict[str, frozenset[str]]:
    """Return what is right for each file, where they came one after the other in this order."""
    right: dict[str, frozenset[str]] = {}
    earlier: list[Sample] = []
    for sample in files:
        right[sample.name] = expected(sample, earlier, door)
        if actual[sample.name] == "stored":
            earlier.append(sample)
    return right


def allowed_in_any_order(files: list[Sample]) -> dict[str, frozenset[str]]:
    """Files of a folder come in any order: each may be the first of its UID, or not."""
    right: dict[str, frozenset[str]] = {}
    for sample in files:
        others = same_uid(files, sample)
        right[sample.name] = expected(sample, [], "folder").union(
            *(expected(sample, [other], "folder") for other in others)
        )
    return right


def same_uid(files: list[Sample], sample: Sample) -> list[Sample]:
    """Return the other files of the same SOP Instance UID."""
    return [
        each
        for each in files
        if each is not sample
        and each.identifiers_sound
        and each.sop_instance_uid == sample.sop_instance_uid
    ]


def write_down(path: Path, actual: dict[str, str]) -> None:
    """Leave the dispositions of one run as a table, to compare and to renew the record."""
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows(actual.items())


def recorded(door: str) -> dict[str, str]:
    """Return the dispositions on record for one door (dcmsend, storescu or folder), by file."""
    with RECORD.open(encoding="utf-8", newline="") as file:
        return {row["file"]: row[door] for row in csv.DictReader(file)}


def _sample(folder: Path, row: dict[str, str]) -> Sample:
    path = folder / row["file"]
    ds = _read(path)
    as_unknown = _vr(ds, "SOPInstanceUID") == "UN"  # asked first: reading a value corrects its VR
    uids = [str(ds.get(each, "")) for each in ("StudyInstanceUID", "SeriesInstanceUID")]
    sop_instance_uid = str(ds.get("SOPInstanceUID", ""))
    allowed = [MANIFEST_WORDS[word] for word in row["expected"].split("|")]
    return Sample(
        name=row["file"],
        path=path,
        manifest=frozenset(state for states in allowed for state in states),
        transfer_syntax_uid=row["transfer_syntax_uid"],
        same_pixels_group=row["same_pixels_group"],
        sop_instance_uid=sop_instance_uid,
        identifiers_sound=all(_is_uid(each) for each in [*uids, sop_instance_uid]),
        identifiers_as_unknown=as_unknown,
    )


def _read(path: Path) -> Dataset:
    try:
        return pydicom.dcmread(path, force=True, stop_before_pixels=True)
    except Exception:  # noqa: BLE001 - whatever pydicom says of a damaged file: no identifiers
        return Dataset()


def _vr(ds: Dataset, keyword: str) -> str | None:
    element = ds.get_item(keyword)
    return None if element is None else element.VR


def _is_uid(text: str) -> bool:
    """PS3.5 section 9.1."""
    return len(text) <= 64 and UID.fullmatch(text) is not None
