"""A whole installation in a directory: configuration, migrated database, store, no daemon."""

import os
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from types import MappingProxyType

from tests import warm
from tests.builders import make_arrival, make_header
from triage.config import Config, load_config
from triage.database.arrivals import record_arrival
from triage.database.connection import open_database
from triage.records import Arrival

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True, slots=True, kw_only=True)
class Site:
    """Where commands are run, with the configuration that they find there."""

    directory: Path
    config: Config

    def run(
        self, *arguments: str, more: Mapping[str, str] = MappingProxyType({})
    ) -> "subprocess.CompletedProcess[str]":
        """Run the program as a user in the site's directory would, `more` in the environment."""
        environ = {key: value for key, value in os.environ.items() if not key.startswith("TRIAGE_")}
        return warm.run(arguments, directory=self.directory, environ=environ | dict(more))


def make_site(directory: Path, database_url: str, *, more: str = "") -> Site:
    """Write triage.toml and make what it names; `more` is appended to it."""
    path = directory / "triage.toml"
    path.write_text(
        f"[receiver]\nport = 0\n"
        f'[store]\npath = "{directory}/store"\nminimum_free_mib = 1\n'
        f'[database]\nurl = "{database_url}"\n'
        f"[eligibility]\nmaximum_study_age_h = 0\n{more}",
        "utf-8",
    )
    return Site(directory=directory, config=load_config(path, {}))


def arrive(site: Site, *, content: str = "", ago_s: float = 0.0, **header: object) -> Arrival:
    """Record one radiograph that arrived at the site; `header` are fields of its header."""
    arrival = make_arrival(make_header(**header), content=content)
    database = open_database(site.config.database.url)
    try:
        with database.write() as connection:
            record_arrival(
                connection,
                arrival,
                policies=site.config.policies,
                now=database.now(connection) - timedelta(seconds=ago_s),
            )
    finally:
        database.dispose()
    return arrival
