"""`triage drift`: whether studies are still like those that the models were put into service on.

Shows what the sweep of the role schedule has summed up, judged anew; with a plot, as JSON, or to
accept a state as the new measure. Says in words what the figures mean.
"""

import argparse
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from triage.cli.since import HELP, moment, since
from triage.cli.table import Cell, Column, Screen, Style, cell, hanging, render, screen
from triage.cli.text import instant
from triage.cli.verbs import (
    DONE,
    Verbs,
    add_verb,
    configuration,
    operator,
    print_json,
    writing,
)
from triage.errors import PermanentError

if TYPE_CHECKING:
    from triage.config import Config
    from triage.database.connection import Database
    from triage.learning.watching.drift import Judgement, Window
    from triage.operations.drift_watch import Watched

SHORT = {
    "embedding": "images",
    "distance": "distance",
    "scores": "scores",
    "flag rate": "flag rate",
    "gate rate": "gate rate",
}
LEGEND = (
    "images, scores: how far from the reference (0 the same; images 0.1, scores 0.2 plain to see)."
    " distance: mean distance to the model's bank. flagged, gated: share of studies in the last"
    " window. ! changed in that window; drift is a change in two of the last three windows."
)
NEXT = (
    "next: ask what has changed (device, protocol, patients) and look at some of its newest"
    " studies; calibrate anew on them, or, if all is well, `triage drift --accept GROUP`."
)


def declare(verbs: "Verbs[argparse.ArgumentParser]") -> None:
    parser = add_verb(
        verbs,
        "drift",
        drift,
        says="tell whether studies are still like those the models were put into service on",
        example="triage drift --since 60d --plot drift.png",
        json_document=True,
    )
    parser.add_argument("--since", metavar="WHEN", type=since, help=f"windows since: {HELP}")
    parser.add_argument("--plot", metavar="PNG", type=Path, help="draw all windows into this file")
    parser.add_argument(
        "--accept",
        metavar="GROUP",
        help="take what comes from now on as the new measure of this group, as CR/CHEST/ROOM 2",
    )


def drift(arguments: argparse.Namespace) -> int:
    from triage.operations.drift_watch import watched_bundles

    config = configuration(arguments)
    watched = watched_bundles(config)
    with writing(config) as database:
        if arguments.accept is not None:
            return _accept(arguments, database, watched)
        begin = moment(arguments.since, zone=config.site.timezone, now=datetime.now(UTC))
        found, waiting = _judged(database, config, watched, begin)
    if arguments.plot is not None:
        from triage.learning.watching.drift_plot import drift_plot

        arguments.plot.write_bytes(drift_plot([judgement for judgement, _ in found]))
    if arguments.json:
        print_json(_document(found, waiting, config, begin))
    else:
        print(as_text(found, waiting, config, screen()))
        if arguments.plot is not None:
            print(f"\nDrawn: {arguments.plot}")
    return DONE


def _judged(
    database: "Database",
    config: "Config",
    watched: "dict[str, Watched]",
    begin: datetime | None,
) -> "tuple[list[tuple[Judgement, str]], dict[Any, int]]":
    """Return every group with its model's name, and the studies that wait in open blocks."""
    from dataclasses import replace

    from triage.database.drift_blocks import groups
    from triage.operations.drift_watch import group_of, judgements

    with database.read() as connection:
        judged = judgements(connection, watched, significance=config.drift.significance)
        waiting = {group_of(key): count for key, count in groups(connection, sorted(watched))}
    found = []
    for each in judged:
        windows = tuple(w for w in each.windows if begin is None or w.ended_at >= begin)
        name = watched[each.group.bundle_digest].name
        found.append((replace(each, windows=windows), name))
    return found, waiting


def _accept(
    arguments: argparse.Namespace, database: "Database", watched: "dict[str, Watched]"
) -> int:
    from dataclasses import asdict

    from triage.database.drift_blocks import ACCEPTED, groups
    from triage.database.house import clear_alarm, record_decision
    from triage.operations.drift_watch import group_of, subject_of
    from triage.records import AlarmCode

    by = operator()
    with database.write() as connection:
        now = database.now(connection)
        known = [group_of(key) for key, _ in groups(connection, sorted(watched))]
        named = [group for group in known if group.name == arguments.accept.strip().upper()]
        if not named:
            raise PermanentError(
                "no group of a served model has this name",
                hint="`triage drift` names the groups: modality/body part, or with /device.",
            )
        for group in named:
            detail = asdict(group)
            record_decision(connection, study_id=None, what=ACCEPTED, by=by, detail=detail, now=now)
            subject = subject_of(group)
            clear_alarm(connection, code=AlarmCode.DRIFT, subject=subject, now=now)
    if arguments.json:
        print_json({"accepted": named[0].name, "models": len(named)})
    else:
        print(f"Accepted: what comes from now on is the measure of {named[0].name}.")
    return DONE


# --- telling


def as_text(
    found: "Sequence[tuple[Judgement, str]]",
    waiting: "dict[Any, int]",
    config: "Config",
    on: Screen,
) -> str:
    """Return the tables, one for each model, what has drifted first."""
    if not config.drift.enabled:
        return "\n".join(hanging("", "Switched off: [drift] enabled is false.", on))
    if not found:
        text = "Nothing to compare yet: no study was looked at by a model that serves now."
        return "\n".join(hanging("", text, on))
    parts = []
    for name in sorted({name for _, name in found}):
        mine = [judgement for judgement, model in found if model == name]
        mine.sort(key=lambda each: (not each.drift, not each.unlike_the_bank, each.group.name))
        title = hanging("", f"Model {name}", on, Style.STRONG)
        parts.append("\n".join([*title, _table(mine, waiting, config.drift.window, on)]))
    parts.append("\n".join(hanging("", LEGEND, on, Style.FAINT)))
    if any(judgement.drift or judgement.unlike_the_bank for judgement, _ in found):
        parts.append("\n".join(hanging("", NEXT, on)))
    return "\n\n".join(parts)


def _table(
    judged: "Sequence[Judgement]", waiting: "dict[Any, int]", window: int, on: Screen
) -> str:
    columns = [
        Column(title="group", share=2),
        *(
            Column(title=title, right=True)
            for title in ("images", "distance", "scores", "flagged", "gated")
        ),
        Column(title="last window", share=1),
    ]
    rows = [_row(each) for each in judged]
    notes = [cell(*state(each, waiting.get(each.group, 0), window)) for each in judged]
    return render(columns, rows, on, notes=notes)


def _row(judgement: "Judgement") -> list[Cell]:
    name = cell(judgement.group.name, Style.STRONG)
    if not judgement.windows:
        return [name, *(cell("-") for _ in range(6))]
    last = judgement.windows[-1]
    return [
        name,
        _figure(last, "embedding", _size(last, "embedding")),
        _figure(last, "distance", f"{last.distance:.3f}"),
        _figure(last, "scores", _size(last, "scores")),
        _figure(last, "flag rate", f"{last.flag_rate:.1%}"),
        _figure(last, "gate rate", f"{last.gate_rate:.1%}"),
        cell(instant(last.ended_at)),
    ]


def state(judgement: "Judgement", waiting: int, window: int) -> tuple[str, Style]:
    """Return how a group stands, in words that need no legend."""
    if judgement.drift:
        changed = ", ".join(SHORT[name] for name in judgement.drift)
        against = judgement.windows[-1].reference if judgement.windows else "own"
        than = "all devices" if against == "all devices" else "before"
        return f"DRIFT: {changed}; other than {than}", Style.ALARM
    if judgement.unlike_the_bank:
        return "UNLIKE THE BANK of the model", Style.ALARM
    if judgement.missing_blocks:
        needed = judgement.missing_blocks * window // 2
        return f"{max(1, needed - waiting)} more studies needed", Style.PLAIN
    if judgement.windows and judgement.windows[-1].changed:
        changed = ", ".join(sorted(SHORT[name] for name in judgement.windows[-1].changed))
        return f"last window changed: {changed}", Style.WARNING
    return "as before", Style.GOOD


def _size(window: "Window", name: str) -> str:
    return f"{window.comparisons[name].size:.3f}" if name in window.comparisons else "-"


def _figure(window: "Window", name: str, text: str) -> Cell:
    changed = name in window.changed
    return cell(f"{text}!" if changed else text, Style.ALARM if changed else Style.PLAIN)


def _document(
    found: "Sequence[tuple[Judgement, str]]",
    waiting: "dict[Any, int]",
    config: "Config",
    begin: datetime | None,
) -> dict[str, Any]:
    settings = config.drift
    return {
        "since": begin,
        "enabled": settings.enabled,
        "window": settings.window,
        "significance": settings.significance,
        "groups": [
            {
                "model": name,
                "bundle_digest": judgement.group.bundle_digest,
                "group": judgement.group.name,
                "modality": judgement.group.modality,
                "body_part_examined": judgement.group.body_part_examined,
                "device": judgement.group.device,
                "drift": list(judgement.drift),
                "unlike_the_bank": judgement.unlike_the_bank,
                "studies_needed": max(
                    0,
                    judgement.missing_blocks * settings.window // 2
                    - waiting.get(judgement.group, 0),
                ),
                "windows": [_window(window) for window in judgement.windows],
            }
            for judgement, name in found
        ],
    }


def _window(window: "Window") -> dict[str, Any]:
    return {
        "ended_at": window.ended_at,
        "studies": window.studies,
        "reference": window.reference,
        "changed": sorted(window.changed),
        "flag_rate": window.flag_rate,
        "gate_rate": window.gate_rate,
        "distance": window.distance,
        "bank": None if window.bank is None else {"p": window.bank.p, "size": window.bank.size},
        "comparisons": {
            name: {"p": said.p, "size": said.size}
            for name, said in sorted(window.comparisons.items())
        },
    }
