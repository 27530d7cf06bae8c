"""`triage quarantine list|show|release|discard`: objects that were not taken in and are kept aside.

Release hands the kept bytes to the intake again, through the same checks: it helps after the
cause was mended (a raised limit, a newer version). Discard deletes the bytes and leaves the row.
"""

import argparse
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from triage.cli.table import Column, Screen, Style, cell, hanging, render, screen
from triage.cli.text import ago, clean, instant, size
from triage.cli.verbs import (
    DONE,
    Verbs,
    add_verb,
    configuration,
    operator,
    print_json,
    reading,
    whole_number,
    writing,
)
from triage.errors import ObjectRefused, PermanentError

if TYPE_CHECKING:
    from triage.config import Config
    from triage.database.connection import Database
    from triage.store import Store

SHOWN = {
    "id": "number",
    "state": "state",
    "state_at": "since",
    "state_by": "decided by",
    "reason": "why",
    "reason_code": "reason code",
    "received_at": "received",
    "source": "came by",
    "sender_ae_title": "sender",
    "original_path": "original path",
    "sop_class_uid": "SOP class UID",
    "sop_instance_uid": "SOP instance UID",
    "size_bytes": "size",
    "path": "kept as",
}
HELD = "held"
NEXT = (
    "`triage quarantine show NUMBER` for all of it; then mend the cause and"
    " `triage quarantine release NUMBER`, or `triage quarantine discard NUMBER`"
)


def declare(verbs: "Verbs[argparse.ArgumentParser]") -> None:
    family = add_verb(
        verbs,
        "quarantine",
        None,
        says="see, release or discard objects that were not taken in",
        example="triage quarantine list",
    ).add_subparsers(title="verbs", metavar="VERB", required=True)
    parser = add_verb(
        family,
        "list",
        list_,
        says="list what is kept aside, with the reason",
        example="triage quarantine list --all",
        json_document=True,
    )
    parser.add_argument("--all", action="store_true", help="released and discarded ones too")
    for name, run, says, example in (
        ("show", show, "show everything known of one object", "triage quarantine show 7"),
        ("release", release, "offer one object to the intake again", "triage quarantine release 7"),
        ("discard", discard, "delete the bytes of one object", "triage quarantine discard 7"),
    ):
        parser = add_verb(family, name, run, says=says, example=example, json_document=True)
        parser.add_argument(
            "number", type=whole_number, metavar="NUMBER", help="as `quarantine list` shows"
        )


def list_(arguments: argparse.Namespace) -> int:
    from triage.database import reading as room

    with reading(configuration(arguments)) as reader:
        entries = room.quarantine_list(reader, all=arguments.all)
    if arguments.json:
        numbered = [_numbered(entry) for entry in entries]
        print_json({"schema_version": room.SCHEMA_VERSION, "quarantine": numbered})
    else:
        print(as_text(entries, screen(), now=datetime.now(UTC)))
    return DONE


def _numbered(entry: Mapping[str, Any]) -> dict[str, Any]:
    """Return the entry with its number under the name that the other verbs have for it too."""
    return {**entry, "number": entry["id"]}


def as_text(entries: list[dict[str, Any]], on: Screen, *, now: datetime) -> str:
    """Return the list for people."""
    if not entries:
        return "Nothing is in quarantine."
    columns = (
        Column(title="NUMBER", right=True),
        Column(title="RECEIVED", right=True),
        Column(title="STATE"),
        Column(title="SIZE", right=True),
        Column(title="FROM", share=1),
    )
    rows = [
        [
            cell(entry["id"]),
            cell(ago(entry["received_at"], now)),
            cell(entry["state"]),
            cell(size(entry["size_bytes"])),
            cell(entry["sender_ae_title"] or entry["original_path"] or entry["source"]),
        ]
        for entry in entries
    ]
    reasons = [
        cell(entry["reason"], Style.WARNING if entry["state"] == HELD else Style.PLAIN)
        for entry in entries
    ]
    table = render(columns, rows, on, notes=reasons, notes_from=1)
    if not any(entry["state"] == HELD for entry in entries):
        return table
    return "\n".join([table, "", *hanging("next: ", f"{NEXT}.", on)])


def show(arguments: argparse.Namespace) -> int:
    from triage.database import reading as room

    config = configuration(arguments)
    with reading(config) as reader:
        entry = _entry(room.quarantine_list(reader, all=True), arguments.number)
    if arguments.json:
        print_json(_numbered(entry))
    else:
        print(entry_as_text(entry, screen(), now=datetime.now(UTC)))
    return DONE


def entry_as_text(entry: Mapping[str, Any], on: Screen, *, now: datetime) -> str:
    """Return everything known of one object for people."""
    columns = (Column(title="WHAT"), Column(title="VALUE", share=1))
    rows = [[cell(label), cell(_value(key, entry[key], now))] for key, label in SHOWN.items()]
    table = render(columns, rows, on)
    if entry["state"] != HELD:
        return table
    steps = NEXT[NEXT.index("mend") :].replace("NUMBER", str(entry["id"]))
    return "\n".join([table, "", *hanging("next: ", f"{steps}.", on)])


def _value(key: str, value: Any, now: datetime) -> str:
    if value in (None, ""):
        return "-"
    if key.endswith("_at"):
        return f"{instant(value)} ({ago(value, now)})"
    return f"{size(value)} ({value} bytes)" if key == "size_bytes" else clean(value)


def release(arguments: argparse.Namespace) -> int:
    config = configuration(arguments)
    by = operator()
    with writing(config) as database:
        entry = _held(config, arguments.number)
        if not entry["path"]:
            raise PermanentError(
                f"The bytes of object {arguments.number} were not kept",
                hint="Have the sender send it again.",
            )
        outcome = _offer(config, database, entry)
        _settle(config, database, entry, "released", by)
    if arguments.json:
        print_json({"number": arguments.number, "state": "released", "object": outcome.state})
    else:
        print(f"Taken in: {outcome.state}.")
    return DONE


def discard(arguments: argparse.Namespace) -> int:
    config = configuration(arguments)
    by = operator()
    with writing(config) as database:
        entry = _held(config, arguments.number)
        _settle(config, database, entry, "discarded", by)
    if arguments.json:
        print_json({"number": arguments.number, "state": "discarded"})
    else:
        print("Discarded: the bytes are deleted, the record stays.")
    return DONE


def _held(config: "Config", number: int) -> dict[str, Any]:
    from triage.database import reading as room

    with reading(config) as reader:
        entry = _entry(room.quarantine_list(reader, all=True), number)
    if entry["state"] != HELD:
        raise PermanentError(
            f"Object {number} is no longer in quarantine: {entry['state']}",
            hint="See `triage quarantine list`.",
        )
    return entry


def _entry(entries: list[dict[str, Any]], number: int) -> dict[str, Any]:
    for entry in entries:
        if entry["id"] == number:
            return entry
    raise PermanentError(
        f"No object {number} was ever in quarantine", hint="See `triage quarantine list --all`."
    )


def _offer(config: "Config", database: "Database", entry: dict[str, Any]) -> Any:
    """Hand the bytes to the intake; a refusal leaves the object where it is."""
    from triage.ingest.header import HeaderLimits
    from triage.ingest.intake import Intake
    from triage.log import configure_logging
    from triage.records import Source

    # The intake warns of what it refuses; here the answer says so.
    configure_logging(level="error", form=config.logging.format)
    store = _store(config)
    intake = Intake(
        database,
        store,
        policies=config.policies,
        limits=HeaderLimits(maximum_object_mib=config.receiver.maximum_object_mib),
    )
    intake.start()
    try:
        return intake.accept(
            store.pieces(entry["path"]),
            source=Source(entry["source"]),
            sender_ae_title=entry["sender_ae_title"],
        )
    except ObjectRefused as error:
        raise PermanentError(
            f"Object {entry['id']} was refused again: {error}",
            hint="Mend the cause first, or `triage quarantine discard` it.",
        ) from error
    finally:
        intake.stop()
        store.close()


def _settle(
    config: "Config", database: "Database", entry: dict[str, Any], state: str, by: str
) -> None:
    """Record the decision and delete the bytes, unless another held object has the same ones.

    In one transaction under the lock of arrivals: the same bytes arriving meanwhile wait for it,
    find their file gone and are refused for now, so that they are sent again.
    """
    from triage.database.connection import lock_arrivals
    from triage.database.intake_log import is_kept_aside, settle_quarantined

    store = _store(config)
    try:
        with database.write() as connection:
            lock_arrivals(connection)
            now = database.now(connection)
            settle_quarantined(connection, entry["id"], state=state, by=by, now=now)
            if entry["path"] and not is_kept_aside(connection, entry["path"]):
                store.delete(entry["path"])
    finally:
        store.close()


def _store(config: "Config") -> "Store":
    from triage.store import open_store

    return open_store(config.store.path, minimum_free_mib=config.store.minimum_free_mib)
