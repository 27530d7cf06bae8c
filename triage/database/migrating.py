"""Apply the migrations: each is one transaction that also records its revision.

Alembic is driven on a connection of ours, so that SQLite's transaction stands under the lock file
and PostgreSQL's under an advisory lock: two programs that migrate at once do it one after the
other.
"""

from pathlib import Path

from alembic.config import Config
from alembic.runtime.environment import EnvironmentContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, func, select

import triage
from triage.database.base import Base
from triage.database.connection import MIGRATION_LOCK, Database, open_database, revision_of
from triage.database.revision import UNFINISHED, UNFINISHED_HINT
from triage.database.url import SqliteTarget, parse_url
from triage.errors import RevisionError


def migrations_path() -> Path:
    """Return the directory of the migrations: inside the wheel, else in the checkout."""
    package = Path(triage.__file__).parent
    shipped = package / "_shipped" / "migrations"
    return shipped if shipped.is_dir() else package.parent / "migrations"


def script_directory() -> ScriptDirectory:
    """Return Alembic's view of the migrations."""
    config = Config()
    config.set_main_option("script_location", str(migrations_path()).replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    return ScriptDirectory.from_config(config)


def upgrade(url: str, *, to: str | None = None) -> list[str]:
    """Apply what is missing up to revision `to` (default: the newest); returns what was applied."""
    _make_file(url)
    db = open_database(url)
    try:
        return upgrade_open(db, to=to)
    finally:
        db.dispose()


def upgrade_open(db: Database, *, to: str | None = None) -> list[str]:
    """Apply to an open database what is missing, as `upgrade` does."""
    scripts = script_directory()
    goal = to or scripts.get_current_head()
    applied: list[str] = []
    while (step := _step(db, scripts, goal)) is not None:
        applied.append(step)
    return applied


def knows(revision: str) -> bool:
    """Whether this program has the migration that leads to `revision`."""
    return any(script.revision == revision for script in script_directory().walk_revisions())


def downgrade(url: str, *, to: str) -> None:
    """Take migrations back down to revision `to` ("base" = none) in one transaction."""
    scripts = script_directory()
    db = open_database(url)
    try:
        with db.write() as connection:
            _lock(connection)
            _run(connection, scripts, to, down=True)
    finally:
        db.dispose()


def _make_file(url: str) -> None:
    """Create SQLite's file before SQLite does: only its owner may read it."""
    target = parse_url(url)
    if isinstance(target, SqliteTarget):
        target.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        target.path.touch(mode=0o600, exist_ok=True)


def _step(db: Database, scripts: ScriptDirectory, goal: str | None) -> str | None:
    """Apply the next migration towards `goal`; None when there is nothing left to do."""
    with db.write() as connection:
        _lock(connection)
        here = revision_of(connection)
        known = [script.revision for script in reversed(list(scripts.walk_revisions()))]
        if here is not None and here not in known:
            raise RevisionError(
                f"the database is at revision {here}, which this program does not know",
                hint=UNFINISHED_HINT
                if here.startswith(UNFINISHED)
                else "A newer program migrated it: install that version again.",
            )
        position = known.index(here) + 1 if here else 0
        last = known.index(goal) if goal else -1
        if position > last:
            return None
        _run(connection, scripts, known[position], down=False)
        return known[position]


def _lock(connection: Connection) -> None:
    if connection.dialect.name == "postgresql":
        connection.execute(select(func.pg_advisory_xact_lock(MIGRATION_LOCK)))


def _run(connection: Connection, scripts: ScriptDirectory, to: str, *, down: bool) -> None:
    def steps(here: object, _context: object) -> object:
        if down:
            return scripts._downgrade_revs(to, here)  # type: ignore[arg-type]
        return scripts._upgrade_revs(to, here)  # type: ignore[arg-type]

    environment = EnvironmentContext(Config(), scripts, fn=steps, destination_rev=to)
    environment.configure(
        connection=connection, target_metadata=Base.metadata, transactional_ddl=True
    )
    with environment, environment.begin_transaction():
        environment.run_migrations()
