"""Real radiographs through the daemon: all are analysed or gated with a reason, none fails.

Every fourth of them, so that each source, kind and size is among them.
"""

import subprocess
from collections import Counter
from pathlib import Path

import imagecodecs
import numpy as np
import pytest
from pydicom.dataset import Dataset

from tests.dicom_files import corpus_root, make_dx, write
from tests.flows.program import Program, until

ROOT = corpus_root()
STEP = 4
pytestmark = pytest.mark.skipif(
    ROOT is None or not (ROOT / "radiographs").is_dir(),
    reason="the development radiographs are not here",
)


def wrapped(path: Path) -> Dataset:
    """Return an 8-bit PNG as the 12-bit DX that a detector would send, full range, no window."""
    grey = np.asarray(imagecodecs.png_decode(path.read_bytes()))
    if grey.ndim == 3:
        grey = grey[..., 0]
    pixels = grey.astype(np.uint16) * 16
    return make_dx(pixels, bits_stored=12, PatientAge=None, PatientBirthDate=None)


def test_every_radiograph_is_analysed_or_gated_with_a_reason(
    sqlite_url: str, tmp_path: Path
) -> None:
    assert ROOT is not None
    paths = sorted((ROOT / "radiographs" / "images").glob("*.png"))[::STEP]
    outbox = tmp_path / "outbox"
    outbox.mkdir()
    program = Program(tmp_path, sqlite_url, caption="never").start()
    try:
        for path in paths:
            write(wrapped(path), outbox / f"{path.stem}.dcm")
        subprocess.run(
            ["dcmsend", "-aec", "TRIAGE", "+sd", "127.0.0.1", str(program.port()), str(outbox)],
            check=True,
            capture_output=True,
            timeout=240,
        )
        until(lambda: program.status()["studies"]["by_analysis"]["pending"] == 0, patience_s=280)
        studies = program.worklist()
        told = Counter(study["analysis"] for study in studies.values())
        assert told.total() == len(paths)
        assert set(told) <= {"analysed", "not_eligible"}, told
        for study in studies.values():
            if study["analysis"] == "not_eligible":
                assert study["analysis_reason"]
                assert study["findings"] == []
                assert study["priority"] == "ROUTINE"
            else:
                assert len(study["findings"]) > 0
    finally:
        assert program.stop() == 0
