"""A bundle in the hub's format serves in the daemon: images in by C-STORE, results come out.

On a CUDA device at MedGemma 4B's full size; everywhere with its small twin, so that the way itself
is never untested.
"""

import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from tests.dicom_files import make_dx
from tests.flows.program import Program, until
from tests.gpu.full_size import VISION, bundle_of, medgemma
from tests.inference import twins
from triage.inference.bundle import Bundle
from triage.pocket.phantoms import generate

LOADING_S = 600.0
NEEDS_CUDA = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
    pytest.mark.timeout(900),
]


@pytest.fixture(
    params=["small on cpu", pytest.param("full size on cuda", marks=NEEDS_CUDA)], ids=str
)
def device(request: pytest.FixtureRequest) -> str:
    return "cpu" if request.param == "small on cpu" else "cuda"


@pytest.fixture
def bundle(device: str, tmp_path: Path) -> Bundle:
    out = tmp_path / "bundle"
    if device == "cpu":
        encoder = twins.medgemma(tmp_path / "encoder")
        return bundle_of(encoder, out, width=twins.VISION["hidden_size"], device=device)
    encoder = medgemma(tmp_path / "encoder", device=device)
    torch.cuda.empty_cache()
    return bundle_of(encoder, out, width=VISION["hidden_size"], device=device)


@pytest.fixture
def serving(bundle: Bundle, device: str, sqlite_url: str, tmp_path: Path) -> Iterator[Program]:
    """A running daemon whose one model is the bundle."""
    program = Program(tmp_path, sqlite_url, demonstration=False)
    place = "cpu" if device == "cpu" else "cuda:0"
    with program.configuration.open("a", encoding="utf-8") as file:
        file.write(f'\n[[models]]\nname = "twin"\nbundle = "{bundle.directory}"\n')
        file.write(f'devices = ["{place}"]\n')
    program.start()
    until(lambda: (program.role("analyse") or {}).get("state") == "running", patience_s=LOADING_S)
    yield program
    program.stop()


def test_every_image_gets_its_result_from_the_bundle(serving: Program, bundle: Bundle) -> None:
    objects = []
    for seed in range(5):
        phantom = generate(seed, size_px=256)
        objects.append(make_dx(phantom.pixels, bits_stored=phantom.bits_stored))
    assert serving.send(objects) == [0x0000] * len(objects)
    wanted = {str(ds.StudyInstanceUID) for ds in objects}

    def analysed() -> bool:
        studies = serving.worklist()
        return {uid for uid, study in studies.items() if study["analysis"] == "analysed"} == wanted

    until(analysed)
    for study in serving.worklist().values():
        assert [model["digest"] for model in study["models"]] == [bundle.identity.digest]
        names = {finding["name"] for finding in study["findings"]}
        assert names == {spec.name for spec in bundle.manifest.findings}
    until(lambda: caption_jobs(serving) == len(objects))


def caption_jobs(program: Program) -> int:
    """How many caption jobs have come to their end: random words may be refused as a caption."""
    path = program.url.removeprefix("sqlite:///")
    connection = sqlite3.connect(f"file:{path}?mode=ro", uri=True)
    try:
        (count,) = connection.execute(
            "SELECT count(*) FROM jobs WHERE kind = 'caption' AND state IN ('done', 'dead')"
        ).fetchone()
    finally:
        connection.close()
    return int(count)
