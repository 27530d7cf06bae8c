"""`triage simulate`: what a model does to waiting, before it is let near a worklist.

Shows the facts that were assumed, each group's wait under each rule, who pays, and where queueing
theory has a formula what it says. The simulation stands in `learning`; `simulate_words` tells it.
"""

import argparse
import os
from collections.abc import Generator
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from triage.cli.judged import require_extra
from triage.cli.simulate_words import document, report
from triage.cli.since import HELP, moment, since
from triage.cli.table import screen
from triage.cli.verbs import (
    DONE,
    UsageError,
    Verbs,
    add_verb,
    configuration,
    print_json,
    reading,
    whole_number,
)
from triage.errors import PermanentError

if TYPE_CHECKING:
    from triage.config import Config
    from triage.learning.waiting.arrival_pattern import ArrivalPattern, Recorded
    from triage.learning.waiting.performance import Performance
    from triage.learning.waiting.reading_room import Scenario
    from triage.learning.waiting.waiting import Outcome
    from triage.records import Rank

WORKLIST = "worklist"
POISSON = "poisson:"


def declare(verbs: "Verbs[argparse.ArgumentParser]") -> None:
    parser = add_verb(
        verbs,
        "simulate",
        simulate,
        says="simulate what a bundle does to waiting: flagged, missed and unflagged studies",
        example="triage simulate --arrivals worklist --readers mon-fri@08-18:2,18-24:1"
        " --prevalence 0.04 --sensitivity 57/60 --specificity 850/900 --plot waiting.png",
        json_document=True,
    )
    _declare_model(parser)
    _declare_room(parser)
    _declare_work(parser)


def _declare_model(parser: argparse.ArgumentParser) -> None:
    model = parser.add_argument_group("the model")
    model.add_argument(
        "--bundle", type=Path, metavar="DIR", help="a bundle: its figures, and what its flag asks"
    )
    model.add_argument(
        "--evaluation",
        type=Path,
        metavar="FILE",
        help="evaluation.json of `triage evaluate`, with its counts",
    )
    model.add_argument("--finding", metavar="NAME", help="which finding of the two above")
    written = "57/60, 0.95:0.86-0.98 (with its 95 %% interval) or 0.95 (as exactly known)"
    model.add_argument("--sensitivity", metavar="X", help=f"measured: {written}")
    model.add_argument("--specificity", metavar="X", help="measured, written in the same way")
    model.add_argument(
        "--prevalence", metavar="P", required=True, help="share of studies with the finding, 0 to 1"
    )
    model.add_argument(
        "--raises-to", metavar="RANK", help="what a flag asks for (else the bundle's, else HIGH)"
    )
    model.add_argument(
        "--analysis-s",
        type=float,
        default=60.0,
        metavar="S",
        help="from arrival to result, in seconds (default: 60)",
    )


def _declare_room(parser: argparse.ArgumentParser) -> None:
    room = parser.add_argument_group("the reading room")
    room.add_argument(
        "--arrivals",
        default=WORKLIST,
        metavar="FROM",
        help="worklist (default), poisson:RATE per hour, or a CSV with received_at and, if wished,"
        " order_priority",
    )
    room.add_argument("--since", metavar="WHEN", type=since, help=f"arrivals since: {HELP}")
    room.add_argument(
        "--as-recorded",
        action="store_true",
        help="use the very times in each run, not the pattern of the week",
    )
    room.add_argument(
        "--readers",
        default="1",
        metavar="N",
        help="how many read, or shifts of the site's clock: mon-fri@08-18:3,18-24:1 (default: 1)",
    )
    times = "exponential:MIN, lognormal:MIN:SIGMA, fixed:MIN, or a CSV with reading_s"
    room.add_argument(
        "--reading-time",
        default="exponential:10",
        metavar="T",
        help=f"how long a reading takes: {times} (default: exponential:10)",
    )
    room.add_argument(
        "--reading-time-diseased",
        metavar="T",
        help="of studies with the finding, where it differs",
    )
    room.add_argument(
        "--orders",
        metavar="MIX",
        help="order priorities, STAT=0.02,HIGH=0.1, the rest ROUTINE (default: as they arrived)",
    )


def _declare_work(parser: argparse.ArgumentParser) -> None:
    work = parser.add_argument_group("the simulation")
    work.add_argument(
        "--studies",
        type=whole_number,
        default=10_000,
        metavar="N",
        help="studies measured in a run (default: 10000)",
    )
    work.add_argument(
        "--runs", type=whole_number, default=20, metavar="R", help="runs (default: 20)"
    )
    work.add_argument(
        "--seed",
        type=whole_number,
        default=0,
        help="the same seed gives the same figures (default: 0)",
    )
    work.add_argument("--plot", type=Path, metavar="PNG", help="draw it")
    work.add_argument(
        "--qucad", type=Path, metavar="FILE", help="write a configuration of QuCAD, to be checked"
    )


def simulate(arguments: argparse.Namespace) -> int:
    from triage.learning.waiting.expectation import expected
    from triage.learning.waiting.qucad import write_qucad
    from triage.learning.waiting.waiting_plot import plot

    require_extra("scipy", *(["matplotlib"] if arguments.plot is not None else []))
    for path in (arguments.plot, arguments.qucad):
        if path is not None:
            _require_writable(path)
    scenario = _scenario(arguments, configuration(arguments))
    written: list[Path] = []
    if arguments.qucad is not None:
        written += write_qucad(arguments.qucad, scenario, runs=arguments.runs)
    outcome = _run(scenario, arguments)
    if arguments.plot is not None:
        plot(outcome, arguments.plot)
        written.append(arguments.plot)
    theory = expected(scenario)
    if arguments.json:
        print_json(document(outcome, theory) | {"files": [str(path) for path in written]})
        return DONE
    print(report(outcome, theory, screen()))
    for path in written:
        print(f"Written: {path}")
    return DONE


def _run(scenario: "Scenario", arguments: argparse.Namespace) -> "Outcome":
    from triage.learning.progress import Progress
    from triage.learning.waiting import waiting

    if arguments.seed < 0:
        raise UsageError("A seed is not negative.")
    with Progress("Simulating runs", arguments.runs) as progress:
        return waiting.simulate(
            scenario,
            runs=arguments.runs,
            seed=arguments.seed,
            progress=lambda _done, _runs: progress.advance(),
        )


def _scenario(arguments: argparse.Namespace, config: "Config") -> "Scenario":
    from triage.learning.waiting import reading_room as room

    performance, raises_to = _model(arguments)
    arrivals, mix = _arrivals(arguments, config)
    usual = room.reading_time_of(arguments.reading_time)
    diseased = arguments.reading_time_diseased
    if not 0.0 <= arguments.analysis_s <= 1e6:
        raise UsageError("--analysis-s is out of range.")
    return room.Scenario(
        arrivals=arrivals,
        prevalence=room.share_of(arguments.prevalence, "the prevalence"),
        sensitivity=performance.sensitivity,
        specificity=performance.specificity,
        reading=usual,
        reading_diseased=room.reading_time_of(diseased) if diseased else usual,
        roster=room.roster_of(arguments.readers),
        orders=mix,
        raises_to=raises_to,
        analysis_s=arguments.analysis_s,
        policy=config.priority,
        studies=arguments.studies,
    )


def _model(arguments: argparse.Namespace) -> "tuple[Performance, Rank]":
    """Return what is known of the model: what is written out counts, then the evaluation."""
    from triage.learning.waiting.performance import Performance, measured, read_evaluation
    from triage.learning.waiting.reading_room import proportion_of
    from triage.records import Rank

    given = (arguments.sensitivity, arguments.specificity)
    bundle = _bundle(arguments.bundle) if arguments.bundle is not None else None
    if all(given):
        found = Performance(
            finding=arguments.finding or _only(bundle),
            sensitivity=proportion_of(given[0], "the sensitivity"),
            specificity=proportion_of(given[1], "the specificity"),
        )
    elif any(given):
        raise UsageError("Sensitivity and specificity belong together: give both.")
    elif arguments.evaluation is not None:
        found = read_evaluation(arguments.evaluation, arguments.finding)
    elif bundle is not None:
        found = measured(bundle.figures, arguments.finding)
    else:
        raise UsageError(
            "Say how good the model is: --evaluation, --bundle, or --sensitivity and --specificity."
        )
    asked = {spec.name: spec.raises_to for spec in bundle.findings} if bundle else {}
    if arguments.raises_to is None:
        return found, asked.get(found.finding, Rank.HIGH)
    if arguments.raises_to.upper() not in set(Rank):
        raise UsageError(f"A flag raises to one of {', '.join(Rank)}.")
    return found, Rank(arguments.raises_to.upper())


def _only(bundle: Any) -> str:
    """Return the name of the bundle's finding where it has one alone."""
    return bundle.findings[0].name if bundle and len(bundle.findings) == 1 else "finding"


def _bundle(directory: Path) -> Any:
    from triage.inference.bundle import load_bundle

    if not directory.is_dir():
        raise UsageError(f"There is no directory {directory}.")
    return load_bundle(directory, check_encoder=False).manifest


def _arrivals(
    arguments: argparse.Namespace, config: "Config"
) -> "tuple[ArrivalPattern, dict[Rank, float]]":
    """Return the arrivals and the mix of order priorities that came with them."""
    from triage.learning.waiting import arrival_pattern as patterns
    from triage.learning.waiting.reading_room import orders_of

    named = arguments.arrivals
    asked = orders_of(arguments.orders) if arguments.orders else None
    if named.startswith(POISSON):
        try:
            rate = float(named.removeprefix(POISSON))
        except ValueError:
            raise UsageError(f"The rate of {named} is no number.") from None
        if arguments.as_recorded or arguments.since is not None:
            raise UsageError("--as-recorded and --since need recorded arrivals.")
        pattern = patterns.poisson(rate)
    elif arguments.as_recorded and asked:
        raise UsageError("--as-recorded keeps the order priorities as they were recorded.")
    else:
        pattern = _recorded(arguments, config)
    return pattern, asked or dict(pattern.orders)


def _recorded(arguments: argparse.Namespace, config: "Config") -> "ArrivalPattern":
    from triage.learning.waiting.arrival_pattern import pattern_of

    named, zone = arguments.arrivals, config.site.timezone
    begin = moment(arguments.since, zone=zone, now=datetime.now(UTC))
    with closing(_received(named, config, begin)) as arrivals:
        return pattern_of(arrivals, zone=zone, source=named, as_recorded=arguments.as_recorded)


def _received(
    named: str, config: "Config", begin: datetime | None
) -> "Generator[Recorded, None, None]":
    """Yield one after the other: a site has millions."""
    from triage.database.arrival_times import arrival_times
    from triage.learning.waiting.arrival_pattern import Recorded, read_arrivals

    if named != WORKLIST:
        for each in read_arrivals(Path(named), zone=config.site.timezone):
            if begin is None or each.received_at >= begin:
                yield each
        return
    with reading(config) as reader, closing(arrival_times(reader, since=begin)) as times:
        for at, rank in times:
            yield Recorded(received_at=at, order_priority=rank)


def _require_writable(path: Path) -> None:
    """Raise PermanentError where a result could not be written once the work is done."""
    there = path if path.exists() else path.parent
    if path.is_dir() or not there.exists():
        why = "is a directory" if path.is_dir() else "lies in a directory that is not there"
    elif not os.access(there, os.W_OK):
        why = "may not be written by this user"
    else:
        return
    raise PermanentError(f"{path} {why}", hint="Name a file in a directory that you may write to.")
