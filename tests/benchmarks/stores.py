"""Both databases, one after the other, with their files below the scratch folder."""

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

from tests.benchmarks.measuring import Conditions, LeftOut, postgres, say
from triage.database.url import PostgresTarget, parse_url


def each_database(conditions: Conditions) -> Iterator[tuple[str, str, Path]]:
    """Give (name, URL, folder) of an empty database; it goes when the next one is asked for."""
    with conditions.folder() as folder:
        yield "SQLite", f"sqlite:///{folder / 'triage.sqlite'}", folder
    try:
        with conditions.folder() as folder, postgres(folder) as url:
            yield "PostgreSQL", url, folder
    except LeftOut as missing:
        say(f"  PostgreSQL is left out: {missing}")


def another(url: str) -> str:
    """Return the URL of one more empty database: a file beside it, or on the same server."""
    target = parse_url(url)
    if not isinstance(target, PostgresTarget):
        return url.replace("triage.sqlite", "another.sqlite")
    import pg8000.native

    arguments = target.arguments(application_name="", timeout_s=60)
    with closing(pg8000.native.Connection(**arguments)) as connection:
        connection.run("CREATE DATABASE another")
    return url.replace("/triage?", "/another?")
