"""The figures of `triage status`, section by section, in an order that never changes.

Shows what the status document holds and judges nothing. A key that this file does not know is
shown by its name, so that nothing of the document is hidden.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any

from triage.cli.table import Cell, Column, Line, Screen, Style, beside, cell, half, hanging, render
from triage.cli.text import about, ago, clean, duration, size

LISTED = 3  # dead letters and quarantined objects named one by one; JSON has more
DIGEST_CHARACTERS = 12
WIDE_COLUMNS = 140  # from here on tables stand side by side
MIB = 1 << 20
FACTS = ("studies", "queue", "receive", "storage", "database")
TABLES = ("dead_letters", "quarantine")  # keys of facts that have a section of their own
STATES = {"running": Style.GOOD, "starting": Style.WARNING, "stopped": Style.WARNING}

Document = Mapping[str, Any]


def of(document: Document, on: Screen, now: datetime) -> Iterator[list[str]]:
    """Return the lines of each section that has something to show; a wide screen takes two."""
    yield [_facts(document, on, now)]
    paired = half(on) if on.columns >= WIDE_COLUMNS else on
    daemon = [
        [_roles(document["roles"], paired, now)] if document["roles"] else [],
        [_models(document["models"], paired)] if document["models"] else [],
    ]
    traffic = [
        [_senders(document["senders"], paired, now)] if document["senders"] else [],
        latency_table(document["latency"], paired),
    ]
    if paired is on:
        yield from (section for section in (*daemon, *traffic) if section)
    elif any((*daemon, *traffic)):
        yield beside(_apart(daemon), _apart(traffic), on)
    if letters := document["queue"].get("dead_letters"):
        yield _dead_letters(letters, document["queue"].get("dead", 0), on, now)
    if held := document["receive"].get("quarantine"):
        yield _quarantine(held, document["receive"].get("quarantine_held", 0), on, now)


def _apart(sections: Sequence[list[str]]) -> list[str]:
    """Return sections one below the other, a blank line between."""
    return ["\n\n".join("\n".join(section) for section in sections if section)]


# --- facts


def _facts(document: Document, on: Screen, now: datetime) -> str:
    """One row per part of the document: its scalars, then a line for each group of counts."""
    columns = (Column(title="WHAT"), Column(title="NOW", share=1))
    rows = [[cell(name, Style.STRONG), _fact(document[name], now)] for name in FACTS]
    return render(columns, rows, on)


def _fact(values: Document, now: datetime) -> Cell:
    said = [
        _pair(key, value, now)
        for key, value in values.items()
        if key not in TABLES and not isinstance(value, Mapping) and value not in (None, "", [], ())
    ]
    lines = [Line(text=clean(", ".join(said)))] if said else []
    for key, value in values.items():
        if isinstance(value, Mapping) and (counted := _counts(value)):
            lines.append(Line(text=clean(f"{_words(key)}: {counted}")))
        elif key not in TABLES and (rows := _rows(value)):
            each = "; ".join(_row(row, now) for row in rows)
            lines.append(Line(text=clean(f"{_words(key)}: {each}")))
    return lines or cell("-")


def _rows(value: object) -> list[Document]:
    held = value if isinstance(value, list | tuple) else ()
    return [row for row in held if isinstance(row, Mapping)]


def _row(row: Document, now: datetime) -> str:
    """Return the words of a row as they are, then its figures with their names."""
    words = [value for value in row.values() if isinstance(value, str)]
    figures = [
        _pair(key, value, now)
        for key, value in row.items()
        if not isinstance(value, str) and value is not None
    ]
    return " ".join([*words, ", ".join(figures)])


def _counts(group: Document) -> str:
    """Return `name value` for what is not zero, groups within the group in brackets."""
    said = []
    for key, value in group.items():
        if isinstance(value, Mapping):
            if inner := _counts(value):
                said.append(f"{_words(key)} ({inner})")
        elif value:
            said.append(f"{_words(key)} {_shown(value)}")
    return ", ".join(said)


def _pair(key: str, value: Any, now: datetime) -> str:
    """Return a name and its value, shown as the unit at the end of the name asks."""
    name, _, unit = key.rpartition("_")
    match unit:
        case "at":
            return f"{_words(name)} {ago(value, now)}"
        case "s":
            return f"{_words(name)} {duration(value)}"
        case "mib":
            return f"{_words(name)} {size(value * MIB)}"
        case "bytes":
            return f"{_words(name)} {size(value)}"
        case "days":
            return f"{_words(name)} {value} days" if value else f"{_words(name)} off"
    return f"{_words(key)} {_shown(value)}"


def _words(key: str) -> str:
    return key.replace("_", " ")


def _shown(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, list | tuple):
        return " ".join(str(each) for each in value)
    return str(value)


# --- roles, models, senders


def _roles(roles: Sequence[Document], on: Screen, now: datetime) -> str:
    columns = (
        Column(title="ROLE"),
        Column(title="STATE"),
        Column(title="LAST TURN", right=True),
        Column(title="STARTED", right=True),
        Column(title="PID", right=True),
        Column(title="HOST", share=1),
    )
    rows = [
        [
            cell(each["role"], Style.STRONG),
            cell(*_state(each["state"])),
            cell(ago(each["last_turn_at"], now)),
            cell(ago(each["started_at"], now)),
            cell(each["pid"]),
            cell(each["host"]),
        ]
        for each in roles
    ]
    return render(columns, rows, on)


def _state(state: str) -> tuple[str, Style]:
    """A state that is not as it should be is told by capitals too."""
    style = STATES.get(state, Style.ALARM)
    return (state if style is Style.GOOD else state.upper()), style


def _models(models: Sequence[Document], on: Screen) -> str:
    columns = (
        Column(title="MODEL", share=2),
        Column(title="VERSION", share=1),
        Column(title="SERVED"),
        Column(title="MODE"),
        Column(title="DEVICE", share=1),
        Column(title="DIGEST"),
    )
    rows = [
        [
            cell(each["name"], Style.STRONG),
            cell(each.get("version", "-")),
            cell("yes", Style.GOOD) if each["served"] else cell("NO", Style.ALARM),
            cell(each.get("mode", "-")),
            cell(each.get("device") or "-"),
            cell(str(each.get("digest", "-"))[:DIGEST_CHARACTERS]),
        ]
        for each in models
    ]
    notes = [cell(each["reason"]) if each.get("reason") else [] for each in models]
    return render(columns, rows, on, notes=notes, notes_from=2)


def _senders(senders: Sequence[Document], on: Screen, now: datetime) -> str:
    """Silent senders first, then the one heard of last."""
    columns = (
        Column(title="SENDER", share=1),
        Column(title="LAST IMAGE", right=True),
        Column(title="USUALLY WITHIN", right=True),
        Column(title="IMAGES", right=True),
        Column(title="HABIT"),
    )
    latest_first = sorted(senders, key=lambda each: str(each["last_image_at"]), reverse=True)
    rows = [
        [
            cell(each["ae_title"] or "(no AE title)", Style.STRONG),
            cell(ago(each["last_image_at"], now)),
            cell(about(each.get("usual_interval_s"))),
            cell(each.get("images", "-")),
            cell("SILENT", Style.ALARM) if _silent(each) else cell(each.get("state") or "-"),
        ]
        for each in sorted(latest_first, key=lambda each: not _silent(each))
    ]
    return render(columns, rows, on)


def _silent(sender: Document) -> bool:
    return bool(sender.get("silent")) or sender.get("state") == "silent"


# --- latency


def latency_table(latency: Document, on: Screen) -> list[str]:
    """Return both latencies per modality over the last 24 hours; nothing where there is none."""
    columns = (
        Column(title="MODALITY", share=1),
        Column(title="FROM"),
        Column(title="STUDIES", right=True),
        Column(title="MEDIAN", right=True),
        Column(title="95 %", right=True),
        Column(title="LONGEST", right=True),
    )
    flags = [(name, by) for name, by in latency.items() if name.endswith("_to_flag")]
    kinds = [(name, by) for name, by in flags if isinstance(by, Mapping)]
    rows: list[list[Cell]] = [
        [
            cell(modality, Style.STRONG),
            cell("last image" if name.startswith("arrival") else "first image"),
            cell(each.get("count", "-")),
            *(cell(duration(each.get(key))) for key in ("p50_s", "p95_s", "max_s")),
        ]
        for modality in sorted({modality for _, by in kinds for modality in by})
        for name, by in kinds
        if (each := by.get(modality))
    ]
    title = on.paint("time to the flag, last 24 h", Style.STRONG)
    return [title, render(columns, rows, on)] if rows else []


# --- what needs a person


def _dead_letters(letters: Sequence[Document], whole: int, on: Screen, now: datetime) -> list[str]:
    """Return the newest, each study and reason once."""
    keys = ("study_instance_uid", "kind", "reason", "next_step")
    times = Counter(tuple(each[key] for key in keys) for each in letters)
    newest = {tuple(each[key] for key in keys): each["finished_at"] for each in reversed(letters)}
    lines = [_title("failed for good", len(letters), whole, "triage worklist --all", on)]
    for entry in list(times)[:LISTED]:
        uid, kind, reason, next_step = entry
        often = f"{times[entry]} jobs, " if times[entry] > 1 else ""
        head = f"{uid}: {often}{kind}, {ago(newest[entry], now)}"
        lines += hanging("-  ", head, on)
        lines += hanging("   ", reason or "no reason recorded", on, Style.WARNING)
        lines += hanging("   next: ", next_step, on)
    return lines


def _quarantine(held: Sequence[Document], whole: int, on: Screen, now: datetime) -> list[str]:
    """Return the newest; what to do is said once where it is the same but for the number."""
    columns = (
        Column(title="NUMBER", right=True),
        Column(title="FROM", share=2),
        Column(title="RECEIVED", right=True),
        Column(title="WHY", share=5),
    )
    shown = held[:LISTED]
    rows = [
        [
            cell(each["id"]),
            cell(each["sender_ae_title"] or each["source"]),
            cell(ago(each["received_at"], now)),
            cell(each["reason"], Style.WARNING),
        ]
        for each in shown
    ]
    steps = [each["next_step"] for each in shown]
    same = {
        step.replace(f" {each['id']}`", " NUMBER`") for step, each in zip(steps, shown, strict=True)
    }
    apart = len(same) > 1
    notes = [[Line(text=f"next: {clean(step)}")] if apart else [] for step in steps]
    lines = [
        _title("in quarantine", len(shown), whole, "triage quarantine list", on),
        render(columns, rows, on, notes=notes, notes_from=1),
    ]
    return lines if apart else [*lines, *hanging("next: ", same.pop(), on)]


def _title(what: str, shown: int, whole: int, all_of_it: str, on: Screen) -> str:
    more = f", the newest {shown} of {whole}; all: `{all_of_it}`" if shown < whole else ""
    return "\n".join(hanging("", f"{what}{more}", on, Style.STRONG))
