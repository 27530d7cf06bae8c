"""I2 and I3: one image has one score, in whatever transfer syntax and photometric it comes.

Phantoms with and without a lesion are dropped into the folder of the whole program in every
transfer syntax that is decoded, and as MONOCHROME1 with inverted values; each is looked at by the
pocket model as a study of its own. Bounds: in a lossless syntax and inverted, the same flags and
probabilities that differ by less than 1e-6; in a lossy one the same flags and less than 0.05.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydicom import uid
from pydicom.dataset import Dataset

from tests.assurance import Evidence, requirement
from tests.dicom_files import make_dx, write
from tests.faults.model_trials import running
from tests.flows.program import Program, until
from triage.pocket.phantoms import generate

pytestmark = pytest.mark.long_only

LOSSLESS = (
    uid.ImplicitVRLittleEndian,
    uid.ExplicitVRLittleEndian,
    uid.DeflatedExplicitVRLittleEndian,
    uid.RLELossless,
    uid.JPEGLossless,
    uid.JPEGLosslessSV1,
    uid.JPEGLSLossless,
    uid.JPEG2000Lossless,
    uid.HTJ2KLossless,
    uid.HTJ2KLosslessRPCL,
)
LOSSY = (uid.JPEGExtended12Bit, uid.JPEGLSNearLossless, uid.JPEG2000)
EXACT, CLOSE = 1e-6, 0.05
FINDINGS = ("pneumothorax", "normal", "effusion", "normal")
SHORT, LONG = 2, 24  # phantoms

Said = tuple[str, dict[str, bool], dict[str, float]]


def chest(seed: int, *, inverted: bool = False, **elements: Any) -> Dataset:
    phantom = generate(seed, finding=FINDINGS[seed % 4], size="large", size_px=256)
    # 12 bits, as every syntax here can hold them.
    scale = 4095 / (2**phantom.bits_stored - 1)
    pixels = np.rint(phantom.pixels * scale).astype(np.uint16)
    if inverted:
        pixels, elements["photometric"] = np.uint16(4095) - pixels, "MONOCHROME1"
    return make_dx(pixels, **elements)


@pytest.fixture
def program(tmp_path: Path) -> Iterator[Program]:
    with running(tmp_path) as started:
        yield started


def said_of(program: Program, objects: list[Dataset]) -> list[Said]:
    """Drop all into the folder; return what is said of each once all were looked at."""
    for number, ds in enumerate(objects):
        write(ds, program.watched / f"{number}.dcm")
    names = [str(ds.StudyInstanceUID) for ds in objects]

    def done() -> bool:
        listed = program.worklist()
        return all(listed.get(name, {}).get("analysis", "pending") != "pending" for name in names)

    until(done, patience_s=600)
    listed = program.worklist()
    return [
        (
            entry["analysis"],
            {each["name"]: each["flagged"] for each in entry["findings"]},
            {each["name"]: each["probability"] for each in entry["findings"]},
        )
        for entry in (listed[name] for name in names)
    ]


def compared(first: Said, other: Said) -> tuple[bool, float]:
    """Whether analysis and flags agree, and by how much the probabilities differ at most."""
    apart = max((abs(p - other[2].get(name, 9.0)) for name, p in first[2].items()), default=0.0)
    return first[:2] == other[:2], apart


@requirement("I2", bound="same flags; lossless within 1e-6, lossy within 0.05")
def test_i2_an_image_has_the_same_score_in_every_transfer_syntax(
    program: Program, evidence: Evidence, long: bool
) -> None:
    syntaxes = (*LOSSLESS, *LOSSY)
    seeds = range(500, 500 + (LONG if long else SHORT))
    objects = [chest(seed, transfer_syntax=syntax) for seed in seeds for syntax in syntaxes]
    said = said_of(program, objects)
    apart, wrong = {LOSSLESS: 0.0, LOSSY: 0.0}, []
    for begin in range(0, len(said), len(syntaxes)):
        first = said[begin]
        assert first[0] == "analysed"
        for syntax, other in zip(syntaxes, said[begin : begin + len(syntaxes)], strict=True):
            kind, bound = (LOSSLESS, EXACT) if syntax in LOSSLESS else (LOSSY, CLOSE)
            same, difference = compared(first, other)
            apart[kind] = max(apart[kind], difference)
            if not same or difference > bound:
                wrong.append(f"{uid.UID(syntax).name}: {difference:.3f}")
    worst = f"{apart[LOSSLESS]:.1e} lossless, {apart[LOSSY]:.1e} lossy, of probability"
    evidence.record(trials=len(objects), losses=len(wrong), worst=worst)
    assert wrong == []


@requirement("I3", bound="same flags, probabilities within 1e-6")
def test_i3_an_inverted_twin_gets_the_same_flag(
    program: Program, evidence: Evidence, long: bool
) -> None:
    seeds = range(700, 700 + (4 * LONG if long else 2 * SHORT))
    objects = [chest(seed, inverted=inverted) for seed in seeds for inverted in (False, True)]
    said = said_of(program, objects)
    pairs = [compared(*said[begin : begin + 2]) for begin in range(0, len(said), 2)]
    wrong = [pair for pair in pairs if not pair[0] or pair[1] > EXACT]
    flagged = sum(any(each[1].values()) for each in said)
    worst = f"{max(pair[1] for pair in pairs):.1e} of probability; {flagged} images flagged"
    evidence.record(trials=len(pairs), losses=len(wrong), worst=worst)
    assert flagged
    assert wrong == []
