"""The house keeps its shape: four rooms at the top, small modules, no loose ends."""

import ast
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
MODULES = sorted((ROOT / "triage").rglob("*.py"))
BROAD_EXCEPT_LIMIT = 12  # tops of threads and processes, each with its reason


def name(path: Path) -> str:
    return str(path.relative_to(ROOT))


def tracked() -> list[str]:
    listing = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    if listing.returncode:
        pytest.skip("no git checkout: the tree cannot be told from what was built in it")
    return listing.stdout.splitlines()


def test_there_are_four_top_level_folders_and_no_others() -> None:
    folders = {path.split("/")[0] for path in tracked() if "/" in path}
    visible = {folder for folder in folders if not folder.startswith(".")}
    assert visible <= {"triage", "migrations", "deploy", "tests"}


@pytest.mark.parametrize("path", MODULES, ids=name)
def test_a_module_fits_in_the_head(path: Path) -> None:
    assert len(path.read_text("utf-8").splitlines()) <= 400


@pytest.mark.parametrize("path", MODULES, ids=name)
def test_a_module_says_what_it_owns(path: Path) -> None:
    assert ast.get_docstring(ast.parse(path.read_text("utf-8")))


def test_broad_excepts_stand_only_at_the_top_of_threads_and_processes() -> None:
    broad = [
        f"{name(path)}:{node.lineno}"
        for path in MODULES
        for node in ast.walk(ast.parse(path.read_text("utf-8")))
        if isinstance(node, ast.ExceptHandler)
        and (
            node.type is None
            or (isinstance(node.type, ast.Name) and node.type.id in ("Exception", "BaseException"))
        )
    ]
    assert len(broad) <= BROAD_EXCEPT_LIMIT, broad


def test_the_wheel_holds_all_that_an_installation_needs(tmp_path: Path) -> None:
    subprocess.run(
        [
            sys.executable,
            "-m",
            "pip",
            "wheel",
            "--quiet",
            "--no-deps",
            "--wheel-dir",
            tmp_path,
            ROOT,
        ],
        check=True,
        capture_output=True,
    )
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        held = set(archive.namelist())
    assert "triage/_shipped/triage.toml" in held
    assert "triage/pocket/bundle/bundle.json" in held
    assert any(path.startswith("triage/_shipped/migrations/versions/0001") for path in held)
    assert any(path.endswith("entry_points.txt") for path in held)
    files = [path for path in (ROOT / "deploy").rglob("*") if path.is_file()]
    assert {f"triage/_shipped/{path.relative_to(ROOT)}" for path in files} <= held
    assert "triage/_shipped/constraints.txt" in held
