"""Driver errors become ours, without the values that drivers repeat.

PostgreSQL's DETAIL and some messages quote rows ("Key (patient_id)=(…) already exists"), so only
the SQLSTATE, the constraint and messages of classes that name no value are kept, in the original
exception too: a traceback prints the whole chain.
"""

from sqlalchemy.engine import ExceptionContext

from triage.errors import DatabaseRejected, DatabaseUnavailable, TriageError

# SQLSTATE classes (PostgreSQL manual, Appendix A) whose messages carry no row values.
QUIET_CLASSES = ("08", "28", "3D", "40", "42", "53", "55006", "55P03", "57", "58", "XX")
# What passes: connection, log-in, rollback (deadlock), resources, lock, operator, system; and a
# prepared statement that the server has lost or that a migration has changed.
TRANSIENT = ("08", "28", "3D", "40", "53", "55006", "55P03", "57", "58", "XX", "26000", "0A000")
SQLITE_TRANSIENT = ("locked", "busy", "disk i/o", "unable to open", "full", "readonly", "malformed")


def translate(context: ExceptionContext) -> TriageError | None:
    """Return what is raised in place of a driver's error (listener of `handle_error`).

    None for a pooled connection that turns out to be dead: the pool opens another.
    """
    if context.is_pre_ping:
        return None
    original = context.original_exception
    fields = original.args[0] if original.args else None
    if isinstance(fields, dict):
        return _from_postgres(original, fields, connecting=context.statement is None)
    message = str(original)
    if context.dialect.name == "postgresql":
        return DatabaseUnavailable(f"PostgreSQL did not answer: {message}")
    if any(word in message.lower() for word in SQLITE_TRANSIENT):
        return DatabaseUnavailable(f"SQLite: {message}")
    return DatabaseRejected(f"SQLite refused a statement: {message}")


def _from_postgres(
    original: BaseException, fields: dict[str, str], *, connecting: bool
) -> TriageError:
    state = fields.get("C", "")
    message = fields.get("M", "") if state[:2] in QUIET_CLASSES else ""
    kept = {key: fields[key] for key in ("S", "C", "t", "n") if key in fields}
    original.args = (kept,)
    text = message or f"constraint {fields['n']}" if "n" in fields else message
    closed = connecting and state == "55000"  # the database takes no connections at present
    if closed or state.startswith(TRANSIENT):
        return DatabaseUnavailable(f"PostgreSQL {state}: {text}")
    return DatabaseRejected(f"PostgreSQL {state} refused a statement: {text or 'no detail shown'}")
