"""Bundles made by the program's own verbs, each run measured by the system: `learning` uses them.

The radiographs are those of the development data. Only rows of matched pairs are used: the others
give their class away by how well the file is compressed, so no classifier may learn from them.
"""

import csv
import json
import os
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final, TypeVar

from tests.benchmarks.measuring import LeftOut, environment, say
from tests.dicom_files import corpus_root
from triage.learning.judging.operating_points import Refusal
from triage.learning.judging.statistics import needed_positives
from triage.pocket import BUNDLE

POCKET: Final = BUNDLE / "encoder"
FINDING: Final = "abnormal"
SOURCES: Final = {"NIH": "NIH ChestX-ray8/14", "Kermany": "Kermany paediatric CXR (Guangzhou)"}
KEPT: Final = ("file", "group_id", "split", "label", "source", "matched")
LEAST: Final = 10  # rows of each split, source and label in a small run
AT_ONCE: Final = 2  # verbs, each on one thread
Answer = TypeVar("Answer")


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """One way to train: the words of `triage train` after the common ones."""

    number: str  # in the list of methods
    name: str
    words: tuple[str, ...]
    seeds: tuple[int, ...] = (1, 2, 3)  # the first is the one that is quoted
    keeps: bool = False  # further seeds go on with the embeddings that the first has computed

    @property
    def slug(self) -> str:
        return self.name.replace(" ", "-")


@dataclass(frozen=True, slots=True, kw_only=True)
class Told:
    """What one call of a verb printed and took."""

    document: dict[str, Any]
    processor_s: float  # of user and system, with children


@dataclass(frozen=True, slots=True, kw_only=True)
class Made:
    """A bundle as trained, the one calibrated on the validation split, and those of more seeds.

    Further seeds show the spread of the area, hence need no calibration.
    """

    trial: Trial
    trained: Path
    calibrated: Path
    training: Told
    calibration: dict[str, Any]
    further: Mapping[int, Path] = field(default_factory=dict)

    @property
    def report(self) -> Path:
        """Where `Workshop.evaluate` writes."""
        return self.calibrated.with_name(f"{self.calibrated.name}-report")

    @property
    def validation_auroc(self) -> float:
        """By which models are chosen; too good, for the training was stopped by it."""
        found = self.training.document["bundle"]["training"]["validation"]
        return float(found[FINDING]["auroc"])


@dataclass(frozen=True, slots=True, kw_only=True)
class Workshop:
    """Where bundles are made, and of what. `less` are words that make a small run short."""

    folder: Path
    images: Path
    labels: Path
    less: tuple[str, ...] = ()

    def train(self, trial: Trial, seed: int) -> tuple[Path, Told]:
        """Run `triage train`; return the bundle and what the run took."""
        out = self.folder / f"{trial.slug}-{seed}"
        say(f"  train {trial.name}, seed {seed}")
        told = verb(
            "train",
            *trial.words,
            *self.material(),
            *(self.cache(trial) if trial.keeps else ()),
            *("--out", str(out), "--seed", str(seed)),
            *("--modality", "DX", "--body-part", "CHEST", "--dtype", "float32", *self.less),
        )
        return out, told

    def make(self, trial: Trial) -> Made:
        """Train with every seed, and calibrate that of the quoted one on the validation split."""
        out, told = self.train(trial, trial.seeds[0])
        local = out.with_name(f"{out.name}-local")
        done = verb(
            "calibrate", str(out), *self.material(), *self.cache(trial), "--out", str(local)
        )
        made = Made(
            trial=trial,
            trained=out,
            calibrated=local,
            training=told,
            calibration=done.document,
        )
        return self.with_seeds(made, trial.seeds[1:])

    def with_seeds(self, made: Made, seeds: Sequence[int]) -> Made:
        """Train again with further seeds."""
        further = {seed: self.train(made.trial, seed)[0] for seed in seeds}
        return replace(made, further=further)

    def refusal(self, made: Made, source: str) -> str:
        """Why one source's own positives support no point, in words; "" where they do."""
        out = made.trained.with_name(f"{made.trained.name}-{source}")
        told = verb(
            "calibrate",
            str(made.trained),
            *self.material(),
            *self.cache(made.trial),
            *("--only", f"source={SOURCES[source]}", "--out", str(out)),
        )
        return reasons(told.document)

    def evaluate(self, made: Made, *words: str) -> dict[str, Any]:
        """Run `triage evaluate` on the test split; return its document."""
        told = verb(
            "evaluate",
            str(made.calibrated),
            *self.material(),
            *self.cache(made.trial),
            *("--report", str(made.report), *words),
        )
        return told.document

    def cache(self, trial: Trial) -> tuple[str, str]:
        """Each trial's own embeddings, so that no method is spared work by another."""
        return ("--embeddings", str(self.embeddings(trial, trial.seeds[0])))

    def embeddings(self, trial: Trial, seed: int) -> Path:
        """Where vectors are kept: those of an encoder that is trained belong to one seed."""
        number = trial.seeds[0] if trial.keeps else seed
        return self.folder / "embeddings" / f"{trial.slug}-{number}"

    def material(self) -> tuple[str, ...]:
        """The words that name images and labels."""
        return (
            *("--images", str(self.images), "--labels", str(self.labels)),
            *("--positive", f"label={FINDING}", "--device", "cpu", "--json"),
        )


def radiographs() -> Path:
    """The development radiographs; LeftOut where they are not."""
    root = corpus_root()
    if root is None or not (root / "radiographs" / "labels.csv").is_file():
        raise LeftOut("the development radiographs are not here ($TRIAGE_TEST_DATA)")
    return root / "radiographs"


def write_labels(radiographs: Path, out: Path, *, factor: float = 1.0) -> Path:
    """Write the rows of matched pairs; with a factor the first of each split, source and label."""
    with (radiographs / "labels.csv").open(encoding="utf-8", newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["matched"] == "yes"]
    total = Counter(map(_cell, rows))
    limits = {cell: max(LEAST, round(count * factor)) for cell, count in total.items()}
    taken: Counter[tuple[str, ...]] = Counter()
    with out.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, KEPT, extrasaction="ignore")
        writer.writeheader()
        for row in rows:
            taken[_cell(row)] += 1
            if taken[_cell(row)] <= limits[_cell(row)]:
                writer.writerow(row)
    return out


def _cell(row: dict[str, str]) -> tuple[str, ...]:
    return row["split"], row["source"], row["label"]


def reasons(calibration: Mapping[str, Any]) -> str:
    """Every reason why `triage calibrate` found no point; "" where it found one.

    The verb names the first that it meets: scores that do not rise hide that patients are too few.
    """
    (finding,) = calibration["findings"]
    target, confidence = calibration["target_sensitivity"], calibration["confidence"]
    few = Refusal(
        target=target,
        confidence=confidence,
        positives=finding["positive_patients"],
        needed=needed_positives(target, 0, confidence),
    )
    said = [finding["refusal"]] if finding["refusal"] else []
    if said and few.positives < few.needed and few.reason not in said:
        said.append(few.reason)
    return "; and ".join(said)


def side_by_side(calls: Sequence[Callable[[], Answer]]) -> list[Answer]:
    """Run calls that wait for verbs AT_ONCE at a time; what they return, in their order.

    Where one fails, those that have not begun are left out.
    """
    with ThreadPoolExecutor(AT_ONCE) as pool:
        return list(pool.map(lambda call: call(), calls))


def verb(*words: str) -> Told:
    """Run one verb in a process of its own. RuntimeError with its words where it fails.

    On one thread: two cores then take two verbs, and its processor time is that of its work.
    """
    with tempfile.TemporaryFile() as said, tempfile.TemporaryFile() as wrong:
        process = subprocess.Popen(
            [sys.executable, "-m", "triage", *words],
            stdout=said,
            stderr=wrong,
            env=environment(OMP_NUM_THREADS="1"),
        )
        _, state, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(state)
        if process.returncode:
            wrong.seek(0)
            raise RuntimeError(f"triage {words[0]}: {wrong.read().decode(errors='replace')}")
        said.seek(0)
        return Told(
            document=json.loads(said.read()),
            processor_s=used.ru_utime + used.ru_stime,
        )


def words_of(*words: str, encoder: Path = POCKET) -> tuple[str, ...]:
    return ("--encoder", str(encoder), *words)


def unfreezing(blocks: Sequence[int]) -> list[Trial]:
    """One trial for each number of trained blocks, from none to all."""
    return [
        Trial(
            number="3",
            name=f"unfreeze {count}",
            words=words_of("--method", "unfreeze", "--blocks", str(count)),
            seeds=(1,),
        )
        for count in blocks
    ]
