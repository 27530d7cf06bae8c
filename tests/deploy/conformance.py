"""The tables of deploy/CONFORMANCE.md, from the rows that the receiver acts on.

Each stands between `<!-- table: name -->` and `<!-- end -->`. After a change of the receiver:

    python -m tests.deploy.conformance

writes them anew; a test fails until that was done. Owns no value.
"""

import re
from collections.abc import Callable, Iterable
from dataclasses import MISSING, fields

import pynetdicom  # noqa: F401  # names UIDs that pydicom's dictionary lacks
from pydicom.charset import python_encoding

from tests.deploy.documents import DEPLOY
from triage.config import PeerConfig, ReceiverConfig
from triage.ingest import conformance
from triage.ingest.conformance import Bound, NamedUid

DOCUMENT = DEPLOY / "CONFORMANCE.md"
TERM = re.compile(r"ISO_IR (?!6$)\d+|ISO 2022 IR \d+|GB18030|GBK")
MARKED = re.compile(r"(<!-- table: ([a-z-]+) -->\n).*?(<!-- end -->\n)", re.DOTALL)


def rendered(document: str) -> str:
    """Return the document with every table as the code has it now."""
    return MARKED.sub(lambda found: f"{found[1]}\n{TABLES[found[2]]()}\n{found[3]}", document)


def markdown(head: tuple[str, ...], rows: Iterable[tuple[object, ...]]) -> str:
    lines = [head, ("---",) * len(head), *rows]
    return "".join(f"| {' | '.join(map(str, line))} |\n" for line in lines)


def services() -> str:
    rows = [
        (conformance.verification_class().name, "no", "yes"),
        (
            f"Storage: {len(conformance.storage_classes())} classes by name, private ones",
            "no",
            "yes",
        ),
        ("Storage Commitment Push Model", "no", "no"),
        ("every other", "no", "no"),
    ]
    return markdown(("SOP Class", "User of service (SCU)", "Provider of service (SCP)"), rows)


def uids(rows: Iterable[NamedUid]) -> str:
    return markdown(("Name", "UID"), ((row.name, row.uid) for row in rows))


def preferred() -> str:
    rows = enumerate(conformance.transfer_syntaxes(), start=1)
    return markdown(("Place", "Name", "UID"), ((place, row.name, row.uid) for place, row in rows))


def implementation() -> str:
    row = conformance.IMPLEMENTATION
    return markdown(
        ("Item", "Value"),
        [("Implementation Class UID", row.uid), ("Implementation Version Name", row.name)],
    )


def bounds(rows: Iterable[Bound]) -> str:
    return markdown(
        ("What", "Value", "Meaning"),
        ((row.name, f"{row.value:g} {row.unit}", row.meaning) for row in rows),
    )


def stances() -> str:
    rows = ((row.matter, row.answer) for row in conformance.NEGOTIATION)
    return markdown(("Matter", "Answer"), rows)


def rejections() -> str:
    rows = (
        (row.result, row.source, row.diagnostic, row.reason, _later(again=row.retry))
        for row in conformance.REJECTIONS
    )
    return markdown(("Result", "Source", "Reason", "When", "The sender should"), rows)


def _later(*, again: bool) -> str:
    return "try again later" if again else "not try again before a person has changed something"


def aborts() -> str:
    rows = ((row.source, row.reason, row.meaning, row.when) for row in conformance.ABORT_REASONS)
    return markdown(("Source", "Reason", "Meaning", "When"), rows)


def statuses() -> str:
    rows = (
        (row.service, f"{row.code:04X}", row.meaning, row.when, _advice(row))
        for row in conformance.STATUS_ROWS
    )
    return markdown(("Service", "Status", "Meaning", "When", "The sender should"), rows)


def _advice(row: conformance.StatusRow) -> str:
    if row.code == 0:
        return "go on"
    if row.service != "C-STORE":
        return "try again later" if row.retry else "not ask for it"
    return "keep its copy, send again later" if row.retry else "keep its copy, tell a person"


def configuration() -> str:
    rows = [
        (f"`{section} {field.name}`", _default(field.default))
        for section, kind in (("[receiver]", ReceiverConfig), ("[[receiver.peers]]", PeerConfig))
        for field in fields(kind)
        if field.name != "peers"
    ]
    return markdown(("Key", "Default"), rows)


def _default(value: object) -> str:
    if value is MISSING:
        return "must be given"
    if isinstance(value, bool):
        return f"`{value}`".lower()
    return "none" if value in ("", None) else f"`{value}`"


def character_sets() -> str:
    return markdown(("Defined Term",), ((term,) for term in character_set_terms()))


def character_set_terms() -> list[str]:
    """The defined terms of PS3.3 C.12.1.1.2 among the names that are understood."""
    return [term for term in sorted(python_encoding) if TERM.fullmatch(term)]


TABLES: dict[str, Callable[[], str]] = {
    "services": services,
    "verification": lambda: uids([conformance.verification_class()]),
    "storage-classes": lambda: uids(conformance.storage_classes()),
    "transfer-syntaxes": preferred,
    "implementation": implementation,
    "timeouts": lambda: bounds(conformance.TIMEOUTS),
    "limits": lambda: bounds(conformance.LIMITS),
    "negotiation": stances,
    "rejections": rejections,
    "aborts": aborts,
    "statuses": statuses,
    "configuration": configuration,
    "character-sets": character_sets,
}

if __name__ == "__main__":
    DOCUMENT.write_text(rendered(DOCUMENT.read_text("utf-8")), "utf-8")
