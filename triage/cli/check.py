"""`triage check`: try everything that the configuration names, each with a fix where it fails."""

import argparse
from collections.abc import Sequence
from typing import TYPE_CHECKING

from triage.cli.table import Column, Line, Screen, Style, cell, hanging, render, screen
from triage.cli.text import clean
from triage.cli.verbs import DONE, FAILED, Verbs, add_verb, configuration, long_work, print_json

if TYPE_CHECKING:
    from triage.cli.checked import Checked


def declare(verbs: "Verbs[argparse.ArgumentParser]") -> None:
    parser = add_verb(
        verbs,
        "check",
        check,
        says="try configuration, database, store, folders, ports and models; say how to mend each",
        example="triage check --record",
        json_document=True,
    )
    parser.add_argument(
        "--record",
        action="store_true",
        help="keep this machine's known answers where none is on record for its kind of hardware",
    )


def check(arguments: argparse.Namespace) -> int:
    from triage.cli.checks import check_all

    config = configuration(arguments)
    long_work("Trying everything that the configuration names; a large model takes minutes.")
    results = check_all(config, record=arguments.record)
    if arguments.json:
        print_json({"checks": [each.document() for each in results]})
    else:
        print(as_text(results, screen()))
    return DONE if all(each.passed for each in results) else FAILED


def as_text(results: Sequence["Checked"], on: Screen) -> str:
    """Return the results for people."""
    columns = (
        Column(title="CHECK", share=2),
        Column(title="RESULT"),
        Column(title="DETAIL", share=3),
    )
    rows = []
    for each in results:
        detail = [Line(text=clean(each.message))]
        if each.next_step:
            detail.append(Line(text=f"next: {clean(each.next_step)}", style=Style.STRONG))
        result = cell("ok", Style.GOOD) if each.passed else cell("FAILED", Style.ALARM)
        rows.append([cell(each.name), result, detail])
    failed = sum(not each.passed for each in results)
    if failed:
        verdict = f"{failed} of {len(results)} checks FAILED; each says what to do next."
        style = Style.ALARM
    elif asking := sum(bool(each.next_step) for each in results):
        verdict = f"All {len(results)} checks passed; {asking} with something to know: see next."
        style = Style.WARNING
    else:
        verdict = f"All {len(results)} checks passed."
        style = Style.FINE
    return "\n".join([render(columns, rows, on), "", *hanging("", verdict, on, style)])
