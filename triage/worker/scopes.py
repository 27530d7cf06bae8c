"""Notes what the embeddings of the loaded models depend on, so that they can be used again.

A cache key does not tell what made its embedding; replay needs to know (DESIGN section 3.8).
"""

from collections.abc import Sequence

import structlog

from triage.database.connection import Database
from triage.database.scores import NEVER_SCOPED, record_scope
from triage.errors import DatabaseUnavailable
from triage.worker.models import LoadedModel

log = structlog.get_logger(__name__)


def note_scopes(db: Database, models: Sequence[LoadedModel]) -> None:
    """Note the scope of each model; left to the next start where the database is away."""
    read = [model for model in models if not model.cache_scope.startswith(NEVER_SCOPED)]
    if not read:
        return
    try:
        with db.write() as connection:
            now = db.now(connection)
            for model in read:
                record_scope(
                    connection,
                    model=model.identity,
                    cache_scope=model.cache_scope,
                    view=model.view_spec,
                    now=now,
                )
    except DatabaseUnavailable as error:
        log.warning("scopes_not_noted", reason=str(error))
