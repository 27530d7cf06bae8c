"""Every unit runs `triage migrate` before it starts: all at once, on a new database."""

import itertools
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import run_on_server
from triage.database.connection import current_revision, open_database
from triage.database.revision import HEAD

_numbers = itertools.count(1)
AT_ONCE = 4  # services of triage.target


@pytest.fixture(params=["sqlite", "postgresql"])
def new_database(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """Return the URL of a database that nobody has migrated yet."""
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path}/new/triage.sqlite"
        return
    server: str = request.getfixturevalue("postgres_uri")
    name = f"at_once_{next(_numbers)}"
    run_on_server(server.format("postgres"), f"CREATE DATABASE {name}")
    yield server.format(name)
    run_on_server(server.format("postgres"), f"DROP DATABASE {name} WITH (FORCE)")


def test_services_that_migrate_at_once_do_it_once_and_all_go_on(
    new_database: str, tmp_path: Path
) -> None:
    environ = {name: text for name, text in os.environ.items() if name[:7] != "TRIAGE_"}
    running = [
        subprocess.Popen(
            [sys.executable, "-m", "triage", "migrate"],
            cwd=tmp_path,
            env={
                **environ,
                "TRIAGE_DATABASE__URL": new_database,
                "PYTHONPATH": str(Path(__file__).parents[2]),
            },
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for _ in range(AT_ONCE)
    ]
    said = [process.communicate(timeout=90)[0] for process in running]
    assert [process.returncode for process in running] == [0] * AT_ONCE, said
    revisions = [
        name
        for each in said
        if each.startswith("Applied: ")
        for name in each.removeprefix("Applied: ").rstrip(".\n").split(", ")
    ]
    assert len(revisions) == len(set(revisions))
    assert HEAD in revisions
    database = open_database(new_database)
    assert current_revision(database) == HEAD
    database.dispose()
