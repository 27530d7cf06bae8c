"""What all tables share: key type, constraint names, annotation to column type."""

from collections.abc import Iterable
from datetime import datetime
from enum import StrEnum
from typing import Any, ClassVar

from sqlalchemy import BigInteger, CheckConstraint, Float, Integer, LargeBinary, MetaData, Text
from sqlalchemy.orm import DeclarativeBase

from triage.database.types import Json, UtcDateTime

# SQLite numbers rows itself only in columns of exactly the type INTEGER.
Key = BigInteger().with_variant(Integer(), "sqlite")

NAMES = {
    "ix": "ix_%(table_name)s_%(column_0_N_name)s",
    "uq": "uq_%(table_name)s_%(column_0_N_name)s",
    "ck": "ck_%(table_name)s_%(constraint_name)s",
    "fk": "fk_%(table_name)s_%(column_0_N_name)s",
    "pk": "pk_%(table_name)s",
}


class Base(DeclarativeBase):
    """Common naming and the mapping from annotation to column type."""

    metadata = MetaData(naming_convention=NAMES)
    type_annotation_map: ClassVar[dict[Any, Any]] = {
        str: Text(),
        datetime: UtcDateTime(),
        float: Float(53),
        bytes: LargeBinary(),
        dict[str, Any]: Json,
        list[Any]: Json,
    }


def one_of(column: str, values: Iterable[StrEnum]) -> CheckConstraint:
    """Return the CHECK that `column` holds one of the enum's values."""
    listed = ", ".join(f"'{value.value}'" for value in values)
    return CheckConstraint(f"{column} IN ({listed})", name=column)
