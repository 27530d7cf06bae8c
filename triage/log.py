"""Log lines: JSON for machines, readable on a terminal, never patient data.

Owns how lines look and what may not stand in them; rooms only name events
(`structlog.get_logger(__name__).info("instance_stored", sop_instance_uid=...)`). Lines of the
libraries (pynetdicom, SQLAlchemy, transformers, APScheduler) pass through the same chain.

UIDs, states and counts may be logged. Name, patient ID, birth date, accession number and free
text may not (DESIGN section 3.13): such keys lose their value here, whoever logged them.
"""

import logging
import sys
from typing import TextIO

import structlog
from structlog.typing import EventDict, Processor, WrappedLogger

REDACTED = "redacted"

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

# Chatty or careless libraries: `identifier` logging of pynetdicom prints whole data sets at DEBUG.
LIBRARY_LEVELS = {
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
    ]
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=False,
    )
    handler = logging.StreamHandler(stream)
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


def redact(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    """Replace the value of every key that may hold patient data; the key stays, as a trace."""
    for key in event:
        if key != "event" and is_private(key):
            event[key] = REDACTED
    return event


def is_private(key: str) -> bool:
    """Whether a key names patient data: by whole words, so that `dispatient` stays readable."""
    return not set(key.lower().split("_")).isdisjoint(PRIVATE_KEYS)


def _renderers(*, as_json: bool) -> list[Processor]:
    if as_json:
        # One line per event: a traceback becomes a list of frames without local variables,
        # because locals hold data sets.
        tracebacks = structlog.tracebacks.ExceptionDictTransformer(show_locals=False)
        return [
            structlog.processors.ExceptionRenderer(tracebacks),
            structlog.processors.JSONRenderer(),
        ]
    return [
        structlog.dev.ConsoleRenderer(exception_formatter=structlog.dev.plain_traceback),
    ]


def _route_libraries() -> None:
    """Let library loggers reach the root handler, at a level that prints no data set."""
    for name, level in LIBRARY_LEVELS.items():
        library = logging.getLogger(name)
        library.handlers.clear()
        library.propagate = True
        library.setLevel(level)
    logging.captureWarnings(True)
