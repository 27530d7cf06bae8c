"""Which model that has spoken of live studies a name on the command line means.

A name is that inside the bundle. A bundle that was trained anew under it is another model, so the
beginning of a digest is a name as well.
"""

from collections.abc import Iterable
from typing import TYPE_CHECKING

from triage.cli.text import counted, instant
from triage.errors import PermanentError
from triage.records import Mode, ModelIdentity

if TYPE_CHECKING:
    from triage.database.connection import Database
    from triage.database.scores import SpokenModel

LEAST_DIGEST = 8  # characters of a digest that name a model
SHOWN_DIGEST = 12


def recorded_shadow(asked: str, database: "Database") -> ModelIdentity:
    """Return the one shadow of this name or digest. Raises PermanentError."""
    found, there = _named(asked, database, Mode.SHADOW)
    if not there:
        raise PermanentError(
            "no shadow has looked at a study yet",
            hint='Name one under [[models]] with mode = "shadow" and restart the daemon.',
        )
    if not found:
        raise PermanentError(
            f"no shadow {asked} has looked at a study",
            hint=f"There are these shadows: {listed(there)}.",
        )
    if len(found) > 1:
        raise PermanentError(
            f"{len(found)} models named {asked} were shadows, each with another digest",
            hint=f"Name one by the beginning of its digest: {listed(found)}.",
        )
    return found[0].identity


def recorded_served(asked: str, database: "Database") -> "list[SpokenModel]":
    """Return all served models of this name, or the one of this digest. Raises PermanentError."""
    found, there = _named(asked, database, Mode.SERVE)
    if not found:
        raise PermanentError(
            f"no result of a served model {asked} is recorded",
            hint=f"Recorded are: {listed(there) or 'none'}.",
        )
    return found


def listed(models: "Iterable[SpokenModel]") -> str:
    """Return the models with what tells them apart."""
    return "; ".join(
        f"{each.identity.name} {each.identity.version} (digest"
        f" {each.identity.digest[:SHOWN_DIGEST]}, {counted(each.results, 'result', 'results')},"
        f" the last {instant(each.last_at)})"
        for each in models
    )


def _named(
    asked: str, database: "Database", mode: Mode
) -> "tuple[list[SpokenModel], list[SpokenModel]]":
    """Return the models of this name, else those whose digest begins so; and all there are."""
    from triage.database.scores import spoken_models

    there = spoken_models(database, mode)
    found = [each for each in there if each.identity.name == asked]
    if not found and len(asked) >= LEAST_DIGEST:
        found = [each for each in there if each.identity.digest.startswith(asked.lower())]
    return found, there
