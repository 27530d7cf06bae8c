"""M3: the flag of an image is the same alone, in a batch, and after a restart.

The same radiographs go through installations that share nothing: one by one, each looked at before
the next is sent; in batches of eight, in reverse order, by a worker that was started anew half-way;
and, in the long form, in one burst. Bound: the same analysis and the same flags for each image;
the largest difference of a probability is told. Processor only: on a device, tests/gpu.
"""

from pathlib import Path

import pytest
from pydicom.dataset import Dataset

from tests.assurance import Evidence, requirement
from tests.faults.model_trials import chest, running, start_worker_again, study
from tests.flows.program import Program, until

pytestmark = pytest.mark.long_only

SHORT, LONG = 6, 60  # radiographs
FINDINGS = ("pneumothorax", "normal", "effusion", "normal")

Said = dict[str, tuple[str, dict[str, bool], dict[str, float]]]


def said_of(program: Program, objects: list[Dataset]) -> Said:
    """Return analysis, flags and probabilities of each image once all were looked at."""
    entries = {str(ds.SOPInstanceUID): study(program, ds) for ds in objects}
    return {
        uid: (
            entry["analysis"],
            {each["name"]: each["flagged"] for each in entry["findings"]},
            {each["name"]: each["probability"] for each in entry["findings"]},
        )
        for uid, entry in entries.items()
    }


def looked_at(program: Program, objects: list[Dataset]) -> bool:
    listed = program.worklist()
    return all(
        listed.get(str(ds.StudyInstanceUID), {}).get("analysis") in ("analysed", "not_eligible")
        for ds in objects
    )


def one_by_one(directory: Path, objects: list[Dataset]) -> Said:
    with running(directory) as program:
        for ds in objects:
            program.send([ds])
            until(lambda ds=ds: looked_at(program, [ds]))  # type: ignore[misc]
        return said_of(program, objects)


def together(directory: Path, objects: list[Dataset]) -> Said:
    with running(directory, more=BATCHES) as program:
        program.send(objects)
        until(lambda: looked_at(program, objects))
        return said_of(program, objects)


def across_a_restart(directory: Path, objects: list[Dataset]) -> Said:
    half = len(objects) // 2
    with running(directory, more=BATCHES) as program:
        program.send(objects[:half])
        until(lambda: looked_at(program, objects[:half]))
        start_worker_again(program)
        program.send(objects[half:])
        until(lambda: looked_at(program, objects))
        return said_of(program, objects)


BATCHES = "\n[inference]\nbatch_size = 8\nbatch_wait_ms = 500\n"


@requirement("M3", bound="same analysis and flags for every image")
@pytest.mark.timeout(1200)
def test_m3_a_flag_is_the_same_alone_in_a_batch_and_after_a_restart(
    tmp_path: Path, evidence: Evidence, long: bool
) -> None:
    count = LONG if long else SHORT
    objects = [chest(300 + number, FINDINGS[number % len(FINDINGS)]) for number in range(count)]
    alone = one_by_one(tmp_path / "alone", objects)
    others = {"after a restart": across_a_restart(tmp_path / "restart", objects[::-1])}
    if long:
        others["in one burst"] = together(tmp_path / "together", objects)
    wrong: list[str] = []
    largest = 0.0
    for way, said in others.items():
        for uid, (analysis, flags, probabilities) in alone.items():
            if said[uid][:2] != (analysis, flags):
                wrong.append(f"{way}: {said[uid][:2]} instead of {(analysis, flags)}")
            larger = [abs(said[uid][2][name] - p) for name, p in probabilities.items()]
            largest = max([largest, *larger])
    flagged = sum(any(flags.values()) for _, flags, _ in alone.values())
    evidence.record(
        trials=len(others) * count,
        losses=len(wrong),
        worst=f"probabilities differ by {largest:.1e}; {flagged} of {count} flagged",
    )
    assert flagged
    assert wrong == []
