"""M1: what goes wrong while a model looks, or before, is told as failed or as waiting.

With the real daemon and the built-in model: weights that became no numbers, no memory left, a
changed byte, a missing file, a pickle in place of the weights, a bundle that says nothing of its
use. Bound: no study is ever shown as looked at with nothing found; each says why on the worklist,
`status` names the model; once mended, the image is flagged as it should have been.
"""

import os
import resource
import shutil
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydicom.dataset import Dataset

from tests.assurance import Evidence, requirement
from tests.faults.altered_memory import overwrite, patch_weights
from tests.faults.model_trials import (
    analysed,
    causes,
    chest,
    known_answer_every,
    running,
    says_negative,
    start_worker_again,
    study,
    worker,
)
from tests.faults.test_model_m2 import writable
from tests.flows.program import Program, until
from triage.pocket import BUNDLE

pytestmark = pytest.mark.long_only


def changed_byte(bundle: Path) -> None:
    path = bundle / "encoder" / "model.safetensors"
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def missing_weights(bundle: Path) -> None:
    (bundle / "encoder" / "model.safetensors").unlink()


def pickled(bundle: Path) -> None:
    import pickle

    (bundle / "encoder" / "model.safetensors").write_bytes(pickle.dumps({"weights": [0.0]}))


def cut_head(bundle: Path) -> None:
    path = bundle / "head.safetensors"
    path.write_bytes(path.read_bytes()[:-8])


def unreadable_manifest(bundle: Path) -> None:
    (bundle / "bundle.json").write_text("{")


DAMAGES: dict[str, Callable[[Path], None]] = {
    "a changed byte": changed_byte,
    "missing weights": missing_weights,
    "a pickle": pickled,
    "a cut head": cut_head,
    "an unreadable manifest": unreadable_manifest,
}
SHORT = ("a changed byte",)
# In every process of the daemon; one that gets the signal takes all memory that it may have, in
# pieces of the size in a file, which is gone when no more is to be had.
HOLDING = """
import os, signal

held = []
order = os.path.join(os.path.dirname(__file__), "size")

def hold(*_):
    with open(order) as file:
        size = int(file.read())
    try:
        while True:
            held.append(bytearray(size))
    except MemoryError:
        os.unlink(order)

signal.signal(signal.SIGUSR1, hold)
"""


@requirement("M1", bound="waits, `status` names the model, flagged once mended")
@requirement("M4", bound="a changed byte and a pickle are not loaded")
@pytest.mark.timeout(900)
def test_m1_a_bundle_that_is_not_as_it_was_made_serves_nothing(
    tmp_path: Path, evidence: Evidence, long: bool
) -> None:
    wrong: list[str] = []
    kinds = list(DAMAGES) if long else list(SHORT)
    for kind in kinds:
        bundle = tmp_path / kind.replace(" ", "-") / "bundle"
        shutil.copytree(BUNDLE, bundle)
        DAMAGES[kind](bundle)
        more = f'\n[[models]]\nname = "chest"\nbundle = "{bundle}"\n'
        with running(bundle.parent / "site", more=more) as program:
            until(lambda program=program: "no_model_served" in causes(program))  # type: ignore[misc]
            ds = chest(1, "pneumothorax")
            assert program.send([ds]) == [0x0000]
            entry = until(lambda program=program, ds=ds: study(program, ds))  # type: ignore[misc]
            if entry["analysis"] != "pending":
                wrong.append(f"{kind}: {entry['analysis']}")
            if program.call("status").returncode != 2:
                wrong.append(f"{kind}: status does not end with 2")
            shutil.rmtree(bundle)
            shutil.copytree(BUNDLE, bundle)
            start_worker_again(program)
            if analysed(program, ds)["flagged_at"] is None:
                wrong.append(f"{kind}: not flagged once mended")
    evidence.record(trials=len(kinds), losses=len(wrong))
    assert wrong == []


@requirement("M1", bound="failed with its reason, then out of service; never negative")
@pytest.mark.timeout(300)
def test_m1_weights_that_become_no_numbers_fail_the_image_and_then_the_model(
    tmp_path: Path, evidence: Evidence
) -> None:
    """The known answer is not due for ten minutes: the error itself must bring it forward."""
    with running(tmp_path / "site", known_answer_every(600.0)) as program:
        pid = worker(program)["pid"]
        if not writable(pid):
            pytest.skip("this user may not write the memory of another process")
        weights = patch_weights()
        assert overwrite(pid, weights, np.full_like(weights, np.nan))
        ds = chest(2, "pneumothorax")
        assert program.send([ds]) == [0x0000]
        entry = until(lambda: e if (e := study(program, ds)).get("analysis") == "failed" else None)
        wrong = [] if "not finite" in entry["analysis_reason"] else [entry["analysis_reason"]]
        until(lambda: "no_model_served" in causes(program), patience_s=60)
        start_worker_again(program)
        assert program.call("requeue", str(ds.StudyInstanceUID)).returncode == 0
        if analysed(program, ds)["flagged_at"] is None:
            wrong.append("not flagged by the sound model")
    evidence.record(trials=1, losses=len(wrong))
    assert wrong == []


@requirement("M1", bound="memory runs out: failed, waiting or flagged; never negative")
@pytest.mark.timeout(300)
def test_m1_a_worker_without_memory_gives_no_low_score(
    tmp_path: Path, evidence: Evidence, long: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The worker's memory is held by its own process, in ever smaller pieces, until looks fail."""
    monkeypatch.setenv("PYTHONPATH", str(hook := tmp_path / "hook"))
    monkeypatch.setenv("MALLOC_ARENA_MAX", "1")  # no thread has a reserve of its own
    hook.mkdir()
    (hook / "sitecustomize.py").write_text(HOLDING)
    wrong: list[str] = []
    seen: list[str] = []
    ended = 0  # workers, for want of memory
    with running(tmp_path / "site") as program:
        for number, piece_kib in enumerate((1024, 256, 64, 16) if long else (256,)):
            first, *batch = [chest(4 * number + each, "pneumothorax") for each in range(4)]
            assert program.send([first]) == [0x0000]
            analysed(program, first)  # so that what is loaded at the first look is there
            pid = worker(program)["pid"]
            with starved(pid, hook / "size", piece_kib):
                assert set(program.send(batch)) == {0x0000}
                entries = [until(lambda ds=ds: _settled(program, ds)) for ds in batch]  # type: ignore[misc]
            seen += [entry["analysis"] for entry in entries]
            wrong += [f"{piece_kib} KiB: {e['analysis']}" for e in entries if says_negative(e)]
            ended += worker(program, "running", "failed")["pid"] != pid
        refused = program.log.read_text("utf-8", errors="replace").count('"DeviceOutOfMemory"')
    counts = ", ".join(f"{seen.count(kind)} {kind}" for kind in sorted(set(seen)))
    told = f"{counts}; {refused} tries without memory, {ended} workers ended by it"
    evidence.record(trials=len(seen), losses=len(wrong), worst=told)
    assert wrong == []
    assert refused + ended, "no allocation failed: nothing was tried"


@contextmanager
def starved(pid: int, order: Path, piece_kib: int) -> Iterator[None]:
    """Leave a process no memory in pieces of this size, until the block ends or it does."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[0])
    before = resource.prlimit(pid, resource.RLIMIT_AS)
    limit = pages * resource.getpagesize() + (8 << 20)
    resource.prlimit(pid, resource.RLIMIT_AS, (limit, before[1]))
    order.write_text(str(piece_kib << 10))
    os.kill(pid, signal.SIGUSR1)
    until(lambda: not order.exists())
    yield
    with suppress(ProcessLookupError):
        resource.prlimit(pid, resource.RLIMIT_AS, before)


def _settled(program: Program, ds: Dataset) -> dict[str, Any] | None:
    entry = study(program, ds)
    return entry if entry.get("analysis") in ("failed", "analysed", "not_eligible") else None
