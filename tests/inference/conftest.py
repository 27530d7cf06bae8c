"""Twins on disk and their bundles, made once per session; tests that change one copy it."""

import shutil
from pathlib import Path

import pytest

from tests.inference import twins
from triage.inference.bundle import Bundle, load_bundle
from triage.inference.bundle_making import init_bundle


@pytest.fixture(scope="session")
def medgemma_directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return twins.medgemma(tmp_path_factory.mktemp("medgemma"))


@pytest.fixture(scope="session")
def medgemma(medgemma_directory: Path, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    out = tmp_path_factory.mktemp("bundles") / "medgemma"
    return init_bundle(medgemma_directory, out, name="medgemma-twin", device="cpu")


@pytest.fixture(scope="session")
def medsiglip(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    directory = twins.medsiglip(tmp_path_factory.mktemp("medsiglip"))
    out = tmp_path_factory.mktemp("bundles") / "medsiglip"
    return init_bundle(directory, out, name="medsiglip-twin", device="cpu")


@pytest.fixture
def copy(medgemma: Bundle, tmp_path: Path) -> Path:
    """A bundle directory that a test may damage."""
    return shutil.copytree(medgemma.directory, tmp_path / "bundle")


@pytest.fixture
def fitted(tmp_path: Path, medgemma_directory: Path) -> Bundle:
    """A bundle with a two-finding head and a bank around the first axis."""
    out = tmp_path / "fitted"
    init_bundle(
        medgemma_directory,
        out,
        name="fitted",
        fitted=twins.fitted(width=48),
        not_for_clinical_use=True,
        device="cpu",
    )
    return load_bundle(out)
