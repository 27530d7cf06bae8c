"""Refuse unusable policy values with the section and key that a person must correct.

Owns the checks that several policies share. Reading triage.toml is `config`'s.
"""

import re
from collections.abc import Mapping

from triage.errors import ConfigError
from triage.records import Rank

_LARGEST = 1e9  # seconds in 31 years


def number(
    section: str, key: str, value: float, *, least: float = 0.0, above: bool = False
) -> float:
    """Return `value` as float if it lies in [least, 1e9] ((least, 1e9] with `above`).

    The upper bound keeps every sum of times a valid time. Raises ConfigError.
    """
    usable = isinstance(value, int | float) and not isinstance(value, bool)
    if not usable or not least <= value <= _LARGEST or (above and value == least):
        bound = f"above {least:g}" if above else f"of at least {least:g}"
        raise ConfigError(
            f"[{section}] {key} must be a number {bound} and at most {_LARGEST:g}, not {value!r}"
        )
    return float(value)


def rank(section: str, key: str, value: str) -> Rank:
    """Return the rank that `value` names in any case; raises ConfigError."""
    try:
        return Rank(value.upper())
    except (ValueError, AttributeError):
        terms = ", ".join(Rank)
        raise ConfigError(f"[{section}] {key} must be one of {terms}, not {value!r}") from None


def patterns(section: str, conditions: Mapping[str, str]) -> None:
    """Check regular expressions by key ("" = not given); at least one must be given."""
    if not any(conditions.values()):
        keys = ", ".join(conditions)
        raise ConfigError(f"[{section}] needs at least one condition of {keys}")
    for key, pattern in conditions.items():
        try:
            re.compile(pattern)
        except (re.error, TypeError) as error:
            raise ConfigError(
                f"[{section}] {key} is no regular expression: {pattern!r} ({error})"
            ) from None


def matches(conditions: Mapping[str, str], values: Mapping[str, str]) -> bool:
    """Whether every given condition is found in its value, whatever the case.

    A pattern may match anywhere; `^` and `$` anchor it. A blank value can only match a pattern
    that matches nothing.
    """
    return all(
        re.search(pattern, values[key].strip(), re.IGNORECASE)
        for key, pattern in conditions.items()
        if pattern
    )
