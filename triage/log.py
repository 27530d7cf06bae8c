"""Log lines: JSON for machines, readable on a terminal, never patient data.

Owns how lines look and what may not stand in them; rooms only name events
(`structlog.get_logger(__name__).info("instance_stored", sop_instance_uid=...)`). Lines of the
libraries (pynetdicom, SQLAlchemy, transformers, APScheduler) pass through the same chain.

UIDs, states and counts may be logged. Name, patient ID, birth date, accession number and free
text may not (DESIGN section 3.13): such keys lose their value here, whoever logged them, and so
does a UID that is none. Warnings and the lines of the DICOM libraries quote what they found in an
object: only their place is kept. So do errors such as ValueError: their text is left out, and so
are the notes of any error. A thread of a library that fails is logged by the same rules.
"""

import logging
import re
import sys
import threading
import traceback
import warnings
from collections.abc import Iterator
from typing import Any, TextIO

import structlog
from structlog.typing import EventDict, ExcInfo, Processor, WrappedLogger

from triage.errors import TriageError

REDACTED = "redacted"

# Errors whose text is about the program or the machine, never about the content of an object.
SPEAKING = (TriageError, RuntimeError, MemoryError)
UID = re.compile(r"[0-9.]{0,64}")
QUOTING = ("pydicom", "pynetdicom", "py.warnings")  # loggers that quote the content of objects
WARNING_HEAD = re.compile(r"(?P<place>[^\n]*?:\d+): (?P<category>\w+): ")  # as warnings formats it

# Whole words of a key, as snake_case splits them, that mark its value as patient data.
PRIVATE_KEYS = (
    "patient",
    "birth",
    "accession",
    "description",
    "physician",
    "institution",
    "caption",
    "comment",
    "comments",
    "location",
    "header",
    "dataset",
)

# Least level of a library's lines, WARNING where it is not named. Held by the handler, because
# pydicom sets the level of its logger anew when it is imported.
LIBRARY_LEVELS = {
    "triage": logging.NOTSET,
    "pynetdicom": logging.WARNING,
    "pydicom": logging.ERROR,
    "sqlalchemy": logging.WARNING,
    "alembic": logging.WARNING,
    "transformers": logging.ERROR,
    "torch": logging.WARNING,
    "apscheduler": logging.WARNING,
    "watchdog": logging.WARNING,
}


def configure_logging(*, level: str, form: str, stream: TextIO | None = None) -> None:
    """Send every log line of this process to `stream` (default stderr). May be called again.

    `form` is auto (JSON when the stream is no terminal), json or console, as [logging] format.
    """
    stream = stream or sys.stderr
    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.stdlib.PositionalArgumentsFormatter(),
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        redact,
        name_the_place,
    ]
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=False,
    )
    handler = logging.StreamHandler(stream)
    handler.addFilter(_loud_enough)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                *_renderers(as_json=form == "json" or (form == "auto" and not stream.isatty())),
            ],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    _route_libraries()
    threading.excepthook = _thread_failed


def redact(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    """Replace the value of every key that may hold patient data; the key stays, as a trace."""
    for key, value in event.items():
        if key != "event" and (is_private(key) or _no_uid(key, value)):
            event[key] = REDACTED
    return event


def _no_uid(key: str, value: object) -> bool:
    """Whether an ill-formed object has text where its UID should be."""
    return key.endswith("_uid") and isinstance(value, str) and not UID.fullmatch(value)


def name_the_place(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    """Keep of a library's line that may quote an object no more than where it was written."""
    record = event.get("_record")
    if record is None or not record.name.startswith(QUOTING):
        return event
    place, category = f"{record.pathname}:{record.lineno}", record.levelname
    if warned := WARNING_HEAD.match(record.getMessage()):
        place, category = warned["place"], warned["category"]
    return {**event, "event": "library_message", "place": place, "category": category}


def text_of(error: BaseException) -> str:
    """Return the text of an error, or its type alone where the text may quote an object."""
    return str(error) if isinstance(error, SPEAKING) else type(error).__name__


def is_private(key: str) -> bool:
    """Whether a key names patient data: by whole words, so that `dispatient` stays readable."""
    return not set(key.lower().split("_")).isdisjoint(PRIVATE_KEYS)


def _renderers(*, as_json: bool) -> list[Processor]:
    if as_json:
        return [
            structlog.processors.ExceptionRenderer(_as_frames),
            structlog.processors.JSONRenderer(),
        ]
    return [
        structlog.dev.ConsoleRenderer(exception_formatter=_as_traceback),
    ]


def _as_frames(exc_info: ExcInfo) -> list[dict[str, Any]]:
    """Return one document per error of the chain, without local variables: they hold data sets."""
    transformer = structlog.tracebacks.ExceptionDictTransformer(show_locals=False)
    speaking = {type(each).__name__ for each in _all(exc_info[1]) if isinstance(each, SPEAKING)}
    return [_redacted(document, speaking) for document in transformer(exc_info)]


def _redacted(document: dict[str, Any], speaking: set[str]) -> dict[str, Any]:
    """Leave text out of the document of one error, and of those that a group is made of."""
    members = [
        [_redacted(inner, speaking) for inner in chain] for chain in document.get("exceptions", ())
    ]
    spoken = document["exc_type"] in speaking
    return document | {
        "exc_value": document["exc_value"] if spoken else REDACTED,
        "exc_notes": [REDACTED for _ in document["exc_notes"]],
        "syntax_error": None,  # quotes a line of what was parsed
        "exceptions": members,
    }


def _as_traceback(stream: TextIO, exc_info: ExcInfo) -> None:
    for error in _chain(exc_info[1]):
        stream.write("".join(traceback.format_tb(error.__traceback__)))
        stream.write(f"{type(error).__name__}: {text_of(error)}\n")


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """Yield an error and what it came from, the newest first."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or error.__context__


def _all(error: BaseException | None) -> Iterator[BaseException]:
    """Yield an error, what it came from, and the members of every group."""
    seen: set[int] = set()
    pending = [error]
    while pending:
        each = pending.pop()
        if each is None or id(each) in seen:
            continue
        seen.add(id(each))
        yield each
        pending += [each.__cause__, each.__context__]
        if isinstance(each, BaseExceptionGroup):
            pending += each.exceptions


def _thread_failed(failed: threading.ExceptHookArgs) -> None:
    """Log what ended a thread; Python's own hook would print its text, file names with it."""
    if issubclass(failed.exc_type, SystemExit):
        return
    structlog.get_logger(__name__).error(
        "thread_failed",
        thread=failed.thread.name if failed.thread is not None else "",
        error=failed.exc_type.__name__,
        exc_info=failed.exc_value,
    )


def _loud_enough(record: logging.LogRecord) -> bool:
    least = LIBRARY_LEVELS.get(record.name.partition(".")[0], logging.WARNING)
    return record.levelno >= least


def _route_libraries() -> None:
    """Let library loggers reach the root handler, which holds their levels."""
    for name, level in LIBRARY_LEVELS.items():
        library = logging.getLogger(name)
        library.handlers.clear()
        library.propagate = True
        library.setLevel(level)
    # One for each odd UID that a peer names, and remembered by its text for ever.
    warnings.filterwarnings("ignore", message="Invalid value for VR", module="pydicom")
    logging.captureWarnings(True)
