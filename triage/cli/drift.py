"""`triage drift`: whether studies are still like those that the models were put into service on.

Shows what the sweep of the role schedule has summed up, judged anew, and how far it has come; with
a plot, as JSON, or to accept a state as the new measure.
"""

import argparse
import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from triage.cli.since import HELP, moment, since
from triage.cli.table import Cell, Column, Screen, Style, cell, hanging, render, screen
from triage.cli.text import ago, counted, instant
from triage.cli.verbs import (
    DONE,
    FAILED,
    Verbs,
    add_verb,
    configuration,
    operator,
    print_json,
    say,
    writing,
)
from triage.errors import BundleError, PermanentError

if TYPE_CHECKING:
    from triage.config import Config
    from triage.database.connection import Database
    from triage.database.drift_blocks import Reached
    from triage.learning.watching.drift import Window
    from triage.learning.watching.drift_words import Told
    from triage.operations.drift_watch import Watched

BEHIND = timedelta(minutes=15)  # a result that waits longer is no matter of the next sweep
MARKS = (
    "! changed in that window; drift is a change in two of the last three windows without a common"
    " study."
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What is shown: the groups, and how far counting had come `at` this time."""

    groups: "Sequence[Told]"
    reached: "Reached"
    at: datetime

    @property
    def behind(self) -> bool:
        oldest = self.reached.oldest_not_counted
        return oldest is not None and self.at - oldest > BEHIND


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
    watched = watched_bundles(config, unread=_say_unread)
    with writing(config) as database:
        if arguments.accept is not None:
            return _accept(arguments, database, watched)
        begin = moment(arguments.since, zone=config.site.timezone, now=datetime.now(UTC))
        answer = _judged(database, config, watched, begin)
    if arguments.plot is not None:
        from triage.learning.watching.drift_plot import drift_plot

        arguments.plot.write_bytes(drift_plot(answer.groups, note=age(answer)))
    if arguments.json:
        print_json(_document(answer, config, begin))
    else:
        print(as_text(answer, config, screen()))
        if arguments.plot is not None:
            print(f"\nDrawn: {arguments.plot}")
    return DONE


def _judged(
    database: "Database",
    config: "Config",
    watched: "dict[str, Watched]",
    begin: datetime | None,
) -> Answer:
    from dataclasses import replace

    from triage.database.drift_blocks import groups, reached
    from triage.learning.watching.drift_words import told
    from triage.operations.drift_watch import group_of, judgements

    settings = config.drift
    with database.read() as connection:
        judged = judgements(connection, watched, significance=settings.significance)
        waiting = {group_of(key): count for key, count in groups(connection, sorted(watched))}
        far, at = reached(connection), database.now(connection)
    found = []
    for each in judged:
        windows = tuple(w for w in each.windows if begin is None or w.ended_at >= begin)
        found.append(
            told(
                replace(each, windows=windows),
                model=watched[each.group.bundle_digest].name,
                waiting=waiting.get(each.group, 0),
                window=settings.window,
            )
        )
    return Answer(groups=found, reached=far, at=at)


def _accept(
    arguments: argparse.Namespace, database: "Database", watched: "dict[str, Watched]"
) -> int:
    from dataclasses import asdict, replace

    from triage.database.drift_blocks import ACCEPTED, groups
    from triage.database.house import clear_alarm, record_decision
    from triage.learning.watching.drift import ALL_DEVICES
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
            # The measure of all devices is that of each one: theirs begin anew as well.
            for each in known:
                if each == group or replace(each, device=ALL_DEVICES) == group:
                    subject = subject_of(each)
                    clear_alarm(connection, code=AlarmCode.DRIFT, subject=subject, now=now)
    if arguments.json:
        print_json({"accepted": named[0].name, "models": len(named)})
    else:
        print(f"Accepted: what comes from now on is the measure of {named[0].name}.")
    return DONE


def _say_unread(name: str, error: BundleError) -> None:
    say(PermanentError(f"The model {name} is left out: {error}", hint=error.hint), FAILED)


# --- telling


def age(answer: Answer) -> str:
    """Say how old the answer is, and what it does not hold yet."""
    reached = answer.reached
    said = "No result is counted yet"
    if reached.counted_to is not None:
        when = ago(reached.counted_to, answer.at)
        said = f"Counted up to the results of {instant(reached.counted_to)} ({when})"
    if not reached.not_counted:
        return f"{said}; none is waiting."
    waiting = counted(reached.not_counted, "result is", "results are")
    since = ago(reached.oldest_not_counted, answer.at)
    return f"{said}; {waiting} not counted yet, the oldest {since}."


def as_text(answer: Answer, config: "Config", on: Screen) -> str:
    """Return the tables, one for each model, what has drifted first."""
    from triage.learning.watching.drift_words import LEGEND, NEXT_STEP, State, worst_first

    if not config.drift.enabled:
        return "\n".join(hanging("", "Switched off: [drift] enabled is false.", on))
    parts = ["\n".join(_age_lines(answer, on))]
    if not answer.groups:
        text = "Nothing to compare yet: no look of a model that serves now is counted."
        return "\n\n".join([*parts, "\n".join(hanging("", text, on))])
    for name in sorted({each.model for each in answer.groups}):
        mine = worst_first(each for each in answer.groups if each.model == name)
        title = hanging("", f"Model {name}", on, Style.STRONG)
        parts.append("\n".join([*title, _table(mine, on)]))
    legend = f"Of the last window: {LEGEND} {MARKS}"
    parts.append("\n".join(hanging("", legend, on, Style.FAINT)))
    if any(each.state in (State.DRIFT, State.UNLIKE_THE_BANK) for each in answer.groups):
        parts.append("\n".join(hanging("next: ", NEXT_STEP, on)))
    return "\n\n".join(parts)


def _age_lines(answer: Answer, on: Screen) -> list[str]:
    from triage.operations.drift_watch import EVERY_S, RESULTS_A_SWEEP

    if not answer.behind:
        return hanging("", age(answer), on)
    pace = f"{RESULTS_A_SWEEP:,} results every {EVERY_S:g} s"
    step = f"the role schedule counts up to {pace}; if they do not become fewer, `triage status`."
    return [*hanging("", age(answer), on, Style.WARNING), *hanging("next: ", step, on)]


def _table(groups: "Sequence[Told]", on: Screen) -> str:
    from triage.learning.watching.drift_words import FIGURES

    columns = [
        Column(title="group", share=1),
        *(Column(title=name, right=True) for name in FIGURES),
    ]
    notes = [cell(_state(each), _style(each)) for each in groups]
    return render(columns, [_row(each) for each in groups], on, notes=notes)


def _row(each: "Told") -> list[Cell]:
    from triage.learning.watching.drift_words import FIGURES

    windows = each.judgement.windows
    figures = [_figure(windows[-1], name) if windows else cell("-") for name in FIGURES]
    return [cell(each.judgement.group.name, Style.STRONG), *figures]


def _figure(window: "Window", name: str) -> Cell:
    from triage.learning.watching.drift_words import figure_of

    figure, changed = figure_of(window, name), name in window.changed
    if figure is None:
        return cell("-")
    text = f"{figure:.1%}" if name.endswith("rate") else f"{figure:.3f}"
    return cell(f"{text}!" if changed else text, Style.ALARM if changed else Style.PLAIN)


def _state(each: "Told") -> str:
    windows = each.judgement.windows
    if not windows:
        return each.words
    return f"{each.words} (last window to {instant(windows[-1].ended_at)})"


def _style(each: "Told") -> Style:
    from triage.learning.watching.drift_words import State

    return {
        State.DRIFT: Style.ALARM,
        State.UNLIKE_THE_BANK: Style.ALARM,
        State.NOT_YET: Style.PLAIN,
        State.CHANGED: Style.WARNING,
        State.AS_BEFORE: Style.GOOD,
    }[each.state]


def _document(answer: Answer, config: "Config", begin: datetime | None) -> dict[str, Any]:
    settings = config.drift
    return {
        "since": begin,
        "enabled": settings.enabled,
        "window": settings.window,
        "significance": settings.significance,
        "at": answer.at,
        "counted_to": answer.reached.counted_to,
        "results_not_counted": answer.reached.not_counted,
        "oldest_not_counted_at": answer.reached.oldest_not_counted,
        "behind": answer.behind,
        "groups": [_group(each) for each in answer.groups],
    }


def _group(each: "Told") -> dict[str, Any]:
    judgement = each.judgement
    group = judgement.group
    return {
        "model": each.model,
        "bundle_digest": group.bundle_digest,
        "group": group.name,
        "modality": group.modality,
        "body_part_examined": group.body_part_examined,
        "device": group.device,
        "drift": list(judgement.drift),
        "unlike_the_bank": judgement.unlike_the_bank,
        "studies_waiting": each.waiting,
        "studies_needed": each.needed,
        "windows": [_window(window) for window in judgement.windows],
    }


def _window(window: "Window") -> dict[str, Any]:
    compared = dict(window.comparisons)
    if window.bank is not None:
        compared["bank"] = window.bank
    return {
        "ended_at": window.ended_at,
        "studies": window.studies,
        "reference": window.reference,
        "changed": sorted(window.changed),
        "flag_rate": window.flag_rate,
        "gate_rate": window.gate_rate,
        "distance": window.distance,
        "comparisons": {
            # Without any spread a difference has no size.
            name: {"p": said.p, "size": said.size if math.isfinite(said.size) else None}
            for name, said in sorted(compared.items())
        },
    }
