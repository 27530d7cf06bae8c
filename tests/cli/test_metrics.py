"""`triage metrics` prints the figures with the daemon down, quickly and without heavy imports."""

import subprocess
import sys

from tests.cli.site import Site


def test_the_figures_are_printed_with_the_daemon_down(site: Site) -> None:
    done = site.run("metrics")
    assert (done.returncode, done.stderr) == (0, "")
    assert "\ntriage_up 1.0\n" in done.stdout
    assert "\ntriage_health 2.0\n" in done.stdout


def test_a_database_that_was_never_made_is_a_figure_too(site: Site) -> None:
    for file in site.directory.glob("*.sqlite*"):
        file.unlink()
    done = site.run("metrics")
    assert done.returncode == 0
    assert "\ntriage_up 0.0\n" in done.stdout
    assert 'triage_cause{code="database_revision",weight="failed"} 1.0' in done.stdout


def test_neither_the_orm_layer_nor_torch_is_imported() -> None:
    program = (
        "import sys, triage.operations.metrics;"
        "print(sorted({'sqlalchemy', 'torch', 'pynetdicom', 'pydicom', 'numpy', 'apscheduler'}"
        " & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"
