"""Column types that mean the same on SQLite and PostgreSQL."""

from datetime import UTC, datetime
from typing import Any

from sqlalchemy import JSON, DateTime, Dialect, String
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.types import TypeDecorator, TypeEngine

# Text on SQLite; NUL and lone surrogates, which jsonb refuses, are removed at intake.
Json = JSON(none_as_null=True).with_variant(JSONB(none_as_null=True), "postgresql")


def time_text(moment: datetime) -> str:
    """Return an aware time as ISO 8601 UTC of fixed width, which sorts as it reads."""
    naive = moment.astimezone(UTC).replace(tzinfo=None)  # isoformat is faster than strftime
    return f"{naive.isoformat(timespec='microseconds')}Z"


class UtcDateTime(TypeDecorator[datetime]):
    """An aware time in UTC: timestamptz, or fixed-width text that sorts as it reads."""

    impl = DateTime
    cache_ok = True

    def load_dialect_impl(self, dialect: Dialect) -> TypeEngine[Any]:
        """Return the dialect's own type."""
        if dialect.name == "postgresql":
            return dialect.type_descriptor(DateTime(timezone=True))
        return dialect.type_descriptor(String(27))

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> Any:
        """Refuse naive times: they would mean another moment on another host."""
        if value is None:
            return None
        if value.tzinfo is None:
            raise ValueError("a naive time was given for a UTC column")
        return value.astimezone(UTC) if dialect.name == "postgresql" else time_text(value)

    def process_result_value(self, value: Any, dialect: Dialect) -> datetime | None:
        """Return an aware time in UTC."""
        if value is None:
            return None
        if isinstance(value, datetime):
            return value.astimezone(UTC)
        return datetime.fromisoformat(value)
