"""The outcome of one check, and how an error becomes one."""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

from triage.errors import TriageError


@dataclass(frozen=True, slots=True, kw_only=True)
class Checked:
    """One thing tried. `next_step` is empty where there is nothing to do."""

    name: str
    passed: bool
    message: str
    next_step: str = ""

    def document(self) -> dict[str, Any]:
        """Return the entry of `checks` in the JSON document."""
        return asdict(self)


def tried(name: str, action: Callable[[], str]) -> Checked:
    """Run one check: its sentence if it passes, the error's sentence and hint if not."""
    try:
        return Checked(name=name, passed=True, message=action())
    except TriageError as error:
        return failed(name, error)


def failed(name: str, error: TriageError) -> Checked:
    """Tell of a check that an error has ended."""
    return Checked(name=name, passed=False, message=str(error), next_step=error.hint)
