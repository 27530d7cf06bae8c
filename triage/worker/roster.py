"""The models of this process and whether each may serve.

A model that does not hold its known answer stays on the list but answers every question with its
error, so that an image it was meant for counts as failed and never as looked at. When no model is
left that may serve, nothing is claimed and the studies wait (DESIGN section 3.10).
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import structlog

from triage.errors import BundleError, DeviceFault, TriageError
from triage.records import Mode
from triage.worker.models import Encoded, LoadedModel, View

log = structlog.get_logger(__name__)

RECHECK_S = 600.0  # known answers are asked again this often
SOON_S = 30.0  # and after an error, but not more often than this


@dataclass(kw_only=True)
class Entry:
    model: LoadedModel
    fault: TriageError | None = None


class Roster:
    """Holds the loaded models; known answers are asked at the start, after errors, in between."""

    def __init__(
        self, models: Sequence[LoadedModel], *, monotonic: Callable[[], float] = time.monotonic
    ) -> None:
        self._monotonic = monotonic
        self._entries = [Entry(model=model) for model in models]
        self._checked_s = monotonic()
        self._soon = False
        self._check()

    @property
    def models(self) -> tuple[LoadedModel, ...]:
        """Return every model; those that may not serve answer with their error."""
        return tuple(
            entry.model if entry.fault is None else barred(entry.model, entry.fault)
            for entry in self._entries
        )

    @property
    def may_claim(self) -> bool:
        """Whether jobs may be taken: some model serves, or none is configured at all."""
        serving = [entry for entry in self._entries if entry.model.mode is Mode.SERVE]
        return not serving or any(entry.fault is None for entry in serving)

    def recheck_soon(self) -> None:
        """Ask for the known answers once more, after an error of a model."""
        self._soon = True

    def recheck_if_due(self) -> None:
        since_s = self._monotonic() - self._checked_s
        if since_s >= RECHECK_S or (self._soon and since_s >= SOON_S):
            self._check()

    def detail(self) -> list[dict[str, Any]]:
        """Return what status tells of each model."""
        return [
            {
                "name": entry.model.identity.name,
                "version": entry.model.identity.version,
                "digest": entry.model.identity.digest,
                "mode": str(entry.model.mode),
                "served": entry.fault is None,
                "reason": str(entry.fault) if entry.fault else "",
                "hint": entry.fault.hint if entry.fault else "",
                "not_for_clinical_use": entry.model.not_for_clinical_use,
                "captions": entry.model.describe is not None,
            }
            for entry in self._entries
        ]

    def _check(self) -> None:
        self._soon = False
        self._checked_s = self._monotonic()
        for entry in self._entries:
            fault: TriageError | None = None
            try:
                entry.model.check()
            except DeviceFault:
                raise
            except TriageError as error:
                fault = error
            if fault is not None and entry.fault is None:
                log.error("model_not_served", model=entry.model.identity.name, reason=str(fault))
            elif fault is None and entry.fault is not None:
                log.info("model_served_again", model=entry.model.identity.name)
            entry.fault = fault


def barred(model: LoadedModel, fault: TriageError) -> LoadedModel:
    """Return the model with every answer replaced by its fault."""

    def refuse(views: Sequence[View]) -> list[Encoded | TriageError]:
        return [BundleError(str(fault), hint=fault.hint) for _ in views]

    # A kept embedding must not speak for it either.
    scope = f"{model.cache_scope}|barred"
    return replace(model, encode=refuse, describe=None, cache_scope=scope)
