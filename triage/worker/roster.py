"""The models of this process and whether each may serve.

A model that does not hold its known answer stays on the list but answers every question with its
error, so that an image it was meant for counts as failed and never as looked at. Where no other
model would look at the image, it waits; when no model is left that may serve, nothing is claimed
(DESIGN section 3.10).
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

RECHECK_S = 45.0  # known answers are asked again this often
SOON_S = 10.0  # and after an error, but not more often than this
CHECK_SHARE = 0.1  # of the worker's time that known answers may take on slow hardware


@dataclass(kw_only=True)
class Entry:
    model: LoadedModel
    fault: TriageError | None = None
    sound_s: float = 0.0  # monotonic time at which it was last asked and gave its known answer


@dataclass(frozen=True, slots=True, kw_only=True)
class Fallen:
    """A model that served and gave another answer; what it said since then is in doubt."""

    bundle_digest: str
    sound_s: float  # monotonic time of its last sound answer


class Roster:
    """Holds the loaded models; known answers are asked at the start, after errors, in between."""

    def __init__(
        self,
        models: Sequence[LoadedModel],
        *,
        recheck_s: float = RECHECK_S,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._monotonic = monotonic
        self._recheck_s = recheck_s
        self._entries = [Entry(model=model) for model in models]
        self._soon = False
        self._check()
        self._took_s = 0.0  # the first one also warmed the device up

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

    def recheck_if_due(self) -> list[Fallen]:
        """Ask once the time has come; returns the models that fell out of service by it.

        It comes often enough that a model that drifts is out of service within a minute.
        """
        since_s = self._monotonic() - self._checked_s
        pause_s = max(self._recheck_s, self._took_s / CHECK_SHARE)
        if since_s < pause_s and not (self._soon and since_s >= min(SOON_S, pause_s)):
            return []
        served = [entry for entry in self._entries if entry.fault is None]
        self._check()
        return [
            Fallen(bundle_digest=entry.model.identity.digest, sound_s=entry.sound_s)
            for entry in served
            if isinstance(entry.fault, BundleError)  # trouble that passes casts no doubt
        ]

    def detail(self) -> list[dict[str, Any]]:
        """Return what status tells of each model."""
        return [
            {
                "name": entry.model.identity.name,
                "version": entry.model.identity.version,
                "digest": entry.model.identity.digest,
                "mode": str(entry.model.mode),
                "served": entry.fault is None,
                "reason": str(entry.fault) if entry.fault else entry.model.shadow_reason,
                "hint": entry.fault.hint if entry.fault else entry.model.shadow_hint,
                "not_for_clinical_use": entry.model.not_for_clinical_use,
                "captions": entry.model.describe is not None,
            }
            for entry in self._entries
        ]

    def _check(self) -> None:
        self._soon = False
        begun_s = self._monotonic()
        for entry in self._entries:
            fault: TriageError | None = None
            asked_s = self._monotonic()
            try:
                entry.model.check()
            except DeviceFault:
                raise
            except TriageError as error:
                fault = error
            else:
                entry.sound_s = asked_s
            if fault is not None and entry.fault is None:
                log.error("model_not_served", model=entry.model.identity.name, reason=str(fault))
            elif fault is None and entry.fault is not None:
                log.info("model_served_again", model=entry.model.identity.name)
            entry.fault = fault
        self._checked_s = self._monotonic()
        self._took_s = self._checked_s - begun_s


def barred(model: LoadedModel, fault: TriageError) -> LoadedModel:
    """Return the model with every answer replaced by its fault."""

    def refuse(views: Sequence[View]) -> list[Encoded | TriageError]:
        return [BundleError(str(fault), hint=fault.hint) for _ in views]

    # A kept embedding must not speak for it either.
    scope = f"{model.cache_scope}|barred"
    return replace(model, encode=refuse, describe=None, cache_scope=scope, served=False)
