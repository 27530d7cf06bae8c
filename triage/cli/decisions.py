"""`triage requeue`, `priority`, `acknowledge`: what a person decides about one study.

Each is recorded with the name of the OS user who decided (DESIGN section 4). A study is named by
its Study Instance UID or accession number; where that names several, `--number` must say which.
A decision covers what the database holds; `--as-of` refuses what came after the person looked.
"""

import argparse
from collections.abc import Callable
from dataclasses import asdict
from typing import TYPE_CHECKING, TypeVar

from triage.cli.since import HELP, moment, since
from triage.cli.text import clean, counted, instant
from triage.cli.verbs import (
    DONE,
    Verbs,
    add_verb,
    configuration,
    operator,
    print_json,
    whole_number,
    writing,
)
from triage.errors import PermanentError
from triage.records import Rank

if TYPE_CHECKING:
    from datetime import datetime

    from sqlalchemy import Connection

    from triage.config import Config
    from triage.database.worklist import Covered

WITHDRAW = "none"
REASON_CHARACTERS = 400

T = TypeVar("T")
Decision = Callable[["Connection", int, str, "datetime"], T]


def declare(verbs: "Verbs[argparse.ArgumentParser]") -> None:
    parser = add_verb(
        verbs,
        "requeue",
        requeue,
        says="look at a study again, dead letters included",
        example="triage requeue 1.2.826.0.1.3680043.2.1143.1",
        json_document=True,
    )
    _add_study(parser)
    parser = add_verb(
        verbs,
        "priority",
        priority,
        says="set the priority of a study, or withdraw what was set",
        example="triage priority A123456 STAT",
        json_document=True,
    )
    _add_study(parser)
    parser.add_argument(
        "rank",
        metavar="RANK",
        choices=[*(rank.value for rank in Rank), WITHDRAW],
        help=f"{', '.join(Rank)}, or {WITHDRAW} to withdraw the decision",
    )
    _add_reason(parser)
    _add_as_of(parser)
    parser = add_verb(
        verbs,
        "acknowledge",
        acknowledge,
        says="take a study off the reading list: a person has seen it",
        example="triage acknowledge A123456",
        json_document=True,
    )
    _add_study(parser)
    _add_reason(parser)
    _add_as_of(parser)


def _add_study(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("study", metavar="STUDY", help="Study Instance UID or accession number")
    parser.add_argument(
        "--number",
        type=whole_number,
        metavar="N",
        help="which of several: the study's number in `triage show` (one UID under two patients)",
    )


def _add_reason(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--reason",
        metavar="TEXT",
        type=_reason,
        default="",
        help="why, recorded with the decision and shown by `triage show`",
    )


def _add_as_of(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--as-of",
        metavar="TIME",
        type=since,
        help=f"when the study was looked at: {HELP}; refused where an image, a flag or a failed"
        " analysis came later",
    )


def _reason(text: str) -> str:
    """Read a reason; what no database could hold is replaced."""
    if len(text) > REASON_CHARACTERS:
        raise argparse.ArgumentTypeError(f"longer than {REASON_CHARACTERS} characters")
    return text.encode("utf-8", "replace").decode()


def requeue(arguments: argparse.Namespace) -> int:
    from triage.database.requeue import conflicts, requeue_study

    config = configuration(arguments)
    in_conflict = 0

    def decide(connection: "Connection", study_id: int, by: str, now: "datetime") -> int:
        nonlocal in_conflict
        in_conflict = conflicts(connection, study_id)
        return requeue_study(connection, study_id, by=by, policies=config.policies, now=now)

    jobs = _decide(arguments, config, decide)
    said = (
        f"Queued again: {jobs} analysis jobs."
        if jobs
        else "Nothing was queued: its jobs wait already, or there are no images to look at."
    )
    if in_conflict:
        said += (
            f"\nNot fully analysed all the same: {in_conflict} of its objects share a UID with"
            " another and have other pixels. No look settles that: see `triage show`, then correct"
            " the sender; `triage acknowledge` once the study was read with this in mind."
        )
    _answer(arguments, said, {"jobs": jobs, "conflicts": in_conflict})
    return DONE


def priority(arguments: argparse.Namespace) -> int:
    from triage.database.worklist import set_priority

    config = configuration(arguments)
    rank = None if arguments.rank == WITHDRAW else Rank(arguments.rank)

    def decide(connection: "Connection", study_id: int, by: str, now: "datetime") -> "Covered":
        return set_priority(
            connection,
            study_id,
            rank,
            by=by,
            policies=config.policies,
            now=now,
            reason=arguments.reason,
            as_of=moment(arguments.as_of, zone=config.site.timezone, now=now),
        )

    covered = _decide(arguments, config, decide)
    if rank is None:
        said = "Withdrawn: order and model decide again."
        _answer(arguments, said, {"priority": None, "covered": None})
    else:
        _answer(
            arguments,
            f"Set to {rank}. {_told(covered)}",
            {"priority": rank, "covered": asdict(covered)},
        )
    return DONE


def acknowledge(arguments: argparse.Namespace) -> int:
    from triage.database.worklist import acknowledge as take_off

    config = configuration(arguments)

    def decide(connection: "Connection", study_id: int, by: str, now: "datetime") -> "Covered":
        return take_off(
            connection,
            study_id,
            by=by,
            policies=config.policies,
            now=now,
            reason=arguments.reason,
            as_of=moment(arguments.as_of, zone=config.site.timezone, now=now),
        )

    covered = _decide(arguments, config, decide)
    _answer(
        arguments,
        f"Acknowledged. {_told(covered)}\n"
        "A late image, a new finding or a failed re-analysis puts it back.",
        {"acknowledged": True, "covered": asdict(covered)},
    )
    return DONE


def _told(covered: "Covered") -> str:
    """Say what a decision covers, so that a person notices what was not seen."""
    held = counted(covered.number_of_study_related_instances, "object", "objects")
    flagged = f"flagged: {', '.join(covered.flagged)}" if covered.flagged else "no flag"
    return clean(
        f"This covers {held} (generation {covered.generation}), {flagged},"
        f" {covered.analysis.replace('_', ' ')}, {covered.images_analysed} of"
        f" {covered.images_eligible} eligible images analysed;"
        f" unchanged since {instant(covered.unchanged_since)}."
    )


def _decide(arguments: argparse.Namespace, config: "Config", decide: Decision[T]) -> T:
    """Find the one study, decide on it, in one transaction."""
    from triage.database.worklist import find_study

    by = operator()
    with writing(config) as database, database.write() as connection:
        found = find_study(connection, arguments.study)
        if arguments.number is not None:
            found = [study_id for study_id in found if study_id == arguments.number]
        if not found:
            raise PermanentError(
                "No study has this Study Instance UID or accession number",
                hint="See `triage worklist --all`.",
            )
        if len(found) > 1:
            raise PermanentError(
                f"{len(found)} studies have this accession number or Study Instance UID",
                hint="Say which with --number, as `triage show` numbers them.",
            )
        return decide(connection, found[0], by, database.now(connection))


def _answer(arguments: argparse.Namespace, sentence: str, document: dict[str, object]) -> None:
    if arguments.json:
        print_json({"study": arguments.study, **document})
    else:
        print(sentence)
