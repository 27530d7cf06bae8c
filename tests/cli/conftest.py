"""An installation for tests of verbs."""

from pathlib import Path

import pytest

from tests.cli.site import Site, make_site


@pytest.fixture
def site(tmp_path: Path, sqlite_url: str) -> Site:
    """Return an installation with an empty SQLite database of its own."""
    return make_site(tmp_path, sqlite_url)
