"""The record of a training: every choice and what came of it, for `training` in bundle.json.

Counts only: no subject, no file name, no patient. Whom it has seen stands beside it, in hashes.
"""

import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from triage.inference.bundle import digest_of
from triage.inference.bundle_making import Fitted
from triage.inference.patients import Patients, new_patients
from triage.learning.material.encoders import reference_of
from triage.learning.material.labels import LabelTable
from triage.learning.material.same_pixels import apart
from triage.learning.material.splits import names_to_keep
from triage.learning.methods import METHODS
from triage.learning.methods.material import Material, Trained, logits_of
from triage.pocket.fit import auroc

if TYPE_CHECKING:
    from triage.learning.training.training import Plan


def record_of(plan: "Plan", material: Material, trained: Trained, fitted: Fitted) -> dict[str, Any]:
    """Every choice, in JSON; counts only, no subject and no patient."""
    embedded = {"train": len(trained.train), "val": len(trained.val)}
    return {
        "method": plan.method,
        "date": datetime.now(UTC).date().isoformat(),
        "labels": {
            "digest": plan.table.digest,
            "rows": len(plan.table.rows),
            "grouped_by_patient": plan.table.is_grouped,
            "findings": plan.table.taken(),
            "same_pixels": [list(lines) for lines in material.same_pixels],
            "same_pixels_apart": apart(plan.table, material.same_pixels),
        },
        "splits": {
            name: _split_record(plan.table, rows)
            | ({"embedded": embedded[name]} if name in embedded else {})
            for name, rows in material.splits.items()
        },
        "shares_of_unstated": dict(plan.shares),
        "choices": asdict(plan.choices),
        "left_out": [{"row": row, "reason": why} for row, why in sorted(material.left_out.items())],
        "found": dict(trained.record),
        "validation": _validation(trained, fitted, plan.table.findings),
        "encoders": [
            {"architecture": each.architecture, "digest": digest_of(each.files)}
            for each in map(reference_of, plan.encoders)
        ],
        "device": plan.device,
        "dtype": plan.dtype,
        "software": {name: version(name) for name in ("torch", "transformers", "numpy")}
        | {"python": sys.version.split()[0]},
    }


def patients_of(plan: "Plan", splits: Mapping[str, Sequence[int]]) -> Patients:
    """Whom the bundle has seen, by split, test too: so that its splits are known again.

    A method without labels has fitted nothing but what stands provisionally, on known truth.
    """
    rows = plan.table.rows
    labels = METHODS[plan.method].needs_labels
    seen: dict[str, list[str]] = {"train": [], "val": [], "test": []}
    for name, indices in splits.items():
        for row in (rows[i] for i in indices):
            if labels or (name == "val" and not np.isnan(row.truth).all()):
                seen[name] += names_to_keep(row)
    return new_patients(seen)


def _split_record(table: LabelTable, rows: Sequence[int]) -> dict[str, Any]:
    counted = {
        name: [table.rows[row].truth[i] for row in rows] for i, name in enumerate(table.findings)
    }
    return {
        "subjects": len(rows),
        "patients": len({table.rows[row].patient for row in rows}),
        "positives": {name: truth.count(1.0) for name, truth in counted.items()},
        "negatives": {name: truth.count(0.0) for name, truth in counted.items()},
    }


def _validation(trained: Trained, fitted: Fitted, findings: Sequence[str]) -> dict[str, Any]:
    """AUROC per finding on the split that the training was chosen by: higher than it deserves."""
    said: dict[str, Any] = {}
    if not len(trained.val):
        return said
    logits = logits_of(fitted.head, trained.val.parts)
    for i, name in enumerate(findings):
        known = ~np.isnan(trained.val.truth[:, i])
        positive = trained.val.truth[known, i] == 1
        both = positive.any() and not positive.all()
        said[name] = {
            "subjects": int(known.sum()),
            "positives": int(positive.sum()),
            "auroc": round(auroc(logits[known, i], positive), 4) if both else None,
        }
    return said


def peak_memory_mib() -> int:
    """Largest resident size of this process so far, by Linux.

    Not getrusage, in which a process also counts what the one that started it had held.
    """
    status = Path("/proc/self/status").read_text("utf-8")
    (peak_kib,) = (line.split()[1] for line in status.splitlines() if line.startswith("VmHWM:"))
    return int(peak_kib) >> 10
