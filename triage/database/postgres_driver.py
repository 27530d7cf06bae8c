"""pg8000 with statements that are prepared once per connection.

Owns nothing but the way to the server. pg8000 parses, describes and runs each statement anew, in
three round trips; one that was prepared takes one. Its SQL text is scanned for placeholders once,
and times are read without strptime. Plans are still made for the values at hand
(`plan_cache_mode`): a partial index serves no plan that must suit all values. Source: PostgreSQL
manual, "Extended Query" and "plan_cache_mode".
"""

from collections import OrderedDict
from collections.abc import Sequence
from datetime import datetime
from typing import Any

import pg8000.dbapi
from pg8000.core import make_params

LARGEST_NUMBER = 300  # prepared statements of one connection; IN lists of all lengths count
TIMESTAMPTZ = 1184  # type OID
# SQLSTATE: the statement is not there (any more), or its result has another form after a migration.
FORGOTTEN = ("26000", "0A000")
SETTINGS = {"plan_cache_mode": "force_custom_plan"}  # of each session


class PreparingConnection(pg8000.dbapi.Connection):  # type: ignore[misc]
    """A DBAPI connection for one thread at a time."""

    def __init__(self, *arguments: Any, **keywords: Any) -> None:
        super().__init__(*arguments, **keywords)
        self.register_in_adapter(TIMESTAMPTZ, datetime.fromisoformat)
        self._prepared: OrderedDict[Any, tuple[Any, ...]] = OrderedDict()

    def cursor(self) -> "PreparingCursor":
        return PreparingCursor(self)

    def commit(self) -> None:
        """Commit in one round trip."""
        self.execute_simple("commit")

    def rollback(self) -> None:
        """Roll back in one round trip, where there is anything to."""
        if self._in_transaction:
            self.execute_simple("rollback")

    def handle_messages(self, context: Any) -> None:
        """Read the server's answer; a connection that was cut is told as pg8000 tells it."""
        try:
            super().handle_messages(context)
        except OSError as error:
            raise pg8000.dbapi.InterfaceError("network error") from error

    def run_prepared(self, operation: str, values: Sequence[Any], oids: Sequence[int]) -> Any:
        """Run one statement with `%s` for parameters; return pg8000's context of its rows."""
        key = (operation, tuple(oids))
        known = self._prepared.get(key)
        if known is None:
            known = self._prepare(operation, values, oids)
            self._prepared[key] = known
            if len(self._prepared) > LARGEST_NUMBER:
                _, (name, *_) = self._prepared.popitem(last=False)
                self.close_prepared_statement(name)
        else:
            self._prepared.move_to_end(key)
        name, columns, readers, text = known
        parameters = make_params(self.py_types, values)
        try:
            return self.execute_named(name, parameters, columns, readers, text)
        except pg8000.dbapi.DatabaseError as error:
            if error.args[0].get("C") in FORGOTTEN:
                del self._prepared[key]
            raise

    def _prepare(
        self, operation: str, values: Sequence[Any], oids: Sequence[int]
    ) -> tuple[Any, ...]:
        text, _ = pg8000.dbapi.convert_paramstyle("format", operation, values)
        return (*self.prepare_statement(text, oids), text)


class PreparingCursor(pg8000.dbapi.Cursor):  # type: ignore[misc]
    """A DBAPI cursor; statements with parameters are prepared."""

    _input_oids: Sequence[int]

    def execute(self, operation: str, args: Sequence[Any] = (), stream: Any = None) -> None:
        """Run one statement; as pg8000's, with a transaction begun where none is open."""
        connection = self._c
        if not args or stream is not None or connection is None:
            super().execute(operation, args, stream)
            return
        if not connection._in_transaction and not connection.autocommit:
            connection.execute_simple("begin transaction")
        self._context = connection.run_prepared(operation, args, self._input_oids)
        self._row_iter = None if self._context.rows is None else iter(self._context.rows)
        self._input_oids = ()
