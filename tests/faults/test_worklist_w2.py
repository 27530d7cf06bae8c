"""W2, W4, W6, W7: the worklist of a real daemon, with what failed, what waits and who read what.

Bounds: what failed, and what waits beyond its time, stands above what was analysed without a flag,
each with its own label and count. A daemon that was killed is said before and after the list, also
where the list is empty. An acknowledgement and an override outlive a restart, with person and
reason. Arrival to flag, and the delay of what was not flagged, are exported as JSON and as metrics.
"""

import getpass
import json
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from pydicom.dataset import Dataset

from tests.assurance import Evidence, requirement
from tests.faults.model_trials import analysed, chest, running, study, worker
from tests.flows.program import Program, until

pytestmark = pytest.mark.long_only

LATE = "\n[priority]\ntarget_s = { ROUTINE = 1.0, STAT = 1.0, HIGH = 1.0, MEDIUM = 1.0 }\n"
ABSENT = "THE DAEMON IS NOT DOING ITS WORK"
WHY = "seen on the ward already"


def calm_chest(program: Program) -> Dataset:
    """Send normal radiographs until one was analysed and has no flag."""
    for seed in range(40, 60):
        ds = chest(seed, "normal")
        program.send([ds])
        entry = until(
            lambda ds=ds: e if (e := study(program, ds)).get("analysed_at") else None  # type: ignore[misc]
        )
        if entry["analysis"] == "analysed" and entry["flagged_at"] is None:
            return ds
    raise AssertionError("the model flags every normal radiograph")


def cut_chest() -> Dataset:
    ds = chest(3, "normal")
    ds.PixelData = ds.PixelData[:-1000]
    return ds


@contextmanager
def stopped(pid: int) -> Iterator[None]:
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


def listed(program: Program) -> list[dict[str, Any]]:
    document = json.loads(program.call("worklist", "--json").stdout)
    return list(document["studies"])


@requirement("W2", bound="failed and late above calm, each with label and count")
@requirement("W4", bound="said before and after the list, and above an empty one")
@requirement("W6", bound="person and reason outlive a restart")
@requirement("W7", bound="quantiles as JSON and as metrics")
@pytest.mark.timeout(300)
def test_w2_what_was_not_looked_at_stands_above_what_is_calm(
    tmp_path: Path, evidence: Evidence
) -> None:
    with running(tmp_path / "site", more=LATE) as program:
        pid = worker(program)["pid"]
        calm, cut, flagged, late = (
            calm_chest(program),
            cut_chest(),
            chest(5, "pneumothorax"),
            chest(6, "pneumothorax"),
        )
        program.send([cut, flagged])
        until(lambda: study(program, cut).get("analysis") == "failed")
        analysed(program, flagged)
        with stopped(pid):
            program.send([late])
            until(lambda: "analysis is late" in study(program, late).get("priority_reason", ""))
            order = [entry["study_instance_uid"] for entry in listed(program)]
            text = program.call("worklist").stdout
        wrong = _misplaced(order, calm=calm, above=[cut, flagged, late])
        labels = ("1 analysis failed", "1 not yet analysed", "ANALYSIS FAILED")
        wrong += [label for label in labels if label not in text]
        evidence.record(trials=3, losses=len(wrong), code="W2")
        analysed(program, late)
        wrong += _lost_decisions(program, evidence, read=calm, raised=cut)
        wrong += _figures_missing(program, evidence)
        wrong += _silence(program, evidence)
    assert wrong == []


def _misplaced(order: list[str], *, calm: Dataset, above: list[Dataset]) -> list[str]:
    place = order.index(str(calm.StudyInstanceUID))
    return [
        f"{ds.StudyInstanceUID} below the calm one"
        for ds in above
        if order.index(str(ds.StudyInstanceUID)) > place
    ]


def _lost_decisions(
    program: Program, evidence: Evidence, *, read: Dataset, raised: Dataset
) -> list[str]:
    """Acknowledge one, raise another, start everything again; return what is not told any more."""
    done = program.call("acknowledge", str(read.StudyInstanceUID), "--reason", WHY)
    done_too = program.call("priority", str(raised.StudyInstanceUID), "STAT", "--reason", WHY)
    wrong = [each.stderr for each in (done, done_too) if each.returncode]
    program.stop()
    program.start()
    worker(program)
    entry = study(program, read)
    if (entry["state"], entry["acknowledged_by"]) != ("acknowledged", getpass.getuser()):
        wrong.append(f"acknowledged: {entry['state']} by {entry['acknowledged_by']}")
    entry = study(program, raised)
    if (entry["priority"], entry["priority_source"]) != ("STAT", "person"):
        wrong.append(f"override: {entry['priority']} by {entry['priority_source']}")
    for ds in (read, raised):
        told = program.call("show", str(ds.StudyInstanceUID)).stdout
        wrong += [] if WHY in " ".join(told.split()) else ["a reason is not shown"]
    evidence.record(trials=2, losses=len(wrong), code="W6")
    return wrong


def _figures_missing(program: Program, evidence: Evidence) -> list[str]:
    """One of the studies was read and had no flag; return which figures are not told."""
    latency = json.loads(program.call("status", "--json").stdout)["latency"]
    metrics = program.call("metrics").stdout
    told = {
        "flag": latency["arrival_to_flag"]["DX"],
        "read": latency["arrival_to_read"]["unflagged"],
    }
    wrong = [
        f"no {key} of {name}"
        for name, figures in told.items()
        for key in ("p50_s", "p95_s", "max_s")
        if key not in figures
    ]
    lines = ("triage_arrival_to_flag_seconds{", 'triage_arrival_to_read_seconds{flag="unflagged"')
    wrong += [f"no metric {line}" for line in lines if line not in metrics]
    evidence.record(
        trials=2,
        losses=len(wrong),
        worst=f"last image to flag {told['flag']['max_s']:.1f} s, mostly a worker held still",
        code="W7",
    )
    return wrong


def _silence(program: Program, evidence: Evidence) -> list[str]:
    """Kill the daemon; return where its absence is not said."""
    program.end_with(signal.SIGKILL)
    wrong = []
    for entry in [None, *listed(program)]:
        if entry is not None:
            program.call("acknowledge", entry["study_instance_uid"])
        lines = program.call("worklist").stdout.strip().splitlines()
        ends = [lines[0]] if "No open studies." in lines else [lines[0], " ".join(lines[-2:])]
        wrong += [f"silent: {end}" for end in ends if ABSENT not in end]
    evidence.record(trials=2, losses=len(wrong), code="W4")
    return wrong
