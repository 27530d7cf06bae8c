"""`triage replay`: what another bundle or other thresholds would have said of what was received.

Reads the database and the bundle's head; no pixel is decoded and no encoder loaded. All changes are
written as they are found: a JSON document of any length needs no memory.
"""

import argparse
import json
import sys
import tempfile
from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from triage.cli.since import HELP, moment, since
from triage.cli.spoken import listed, recorded_served, recorded_shadow
from triage.cli.verbs import (
    DONE,
    SCHEMA_VERSION,
    UsageError,
    Verbs,
    add_verb,
    configuration,
    whole_number,
    writing,
)
from triage.errors import BundleError

if TYPE_CHECKING:
    from triage.config import Config
    from triage.database.connection import Database
    from triage.database.scores import Scope, StoredStudy
    from triage.inference.bundle import Bundle
    from triage.learning.watching.replay import Change, Listener, Standing, Summary
    from triage.learning.watching.replay_answers import Answers, Missing

COUNTS = (
    "studies",
    "compared",
    "was_flagged",
    "would_flag",
    "newly_flagged",
    "no_longer_flagged",
    "raised",
    "lowered",
    "no_longer_analysed",
    "changed",
)
SHOWN = 40  # changed studies that are named in a table; JSON has all


def declare(verbs: "Verbs[argparse.ArgumentParser]") -> None:
    parser = add_verb(
        verbs,
        "replay",
        replay,
        says="tell what another bundle, thresholds or a shadow would have flagged",
        example="triage replay /srv/bundles/chest-2 --since 30d --operating-point pneumothorax=0.4",
        json_document=True,
    )
    parser.add_argument("bundle", metavar="BUNDLE", type=Path, nargs="?", help="bundle directory")
    parser.add_argument(
        "--shadow",
        metavar="NAME",
        help="compare recorded scores of this shadow instead; a digest where several have the name",
    )
    parser.add_argument(
        "--since", metavar="WHEN", type=since, help=f"studies received since: {HELP}"
    )
    parser.add_argument(
        "--operating-point",
        metavar="FINDING=P",
        type=operating_point,
        action="append",
        default=[],
        help="another threshold of one finding, 0 to 1; may be given again",
    )
    _declare_scope(parser)


def _declare_scope(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--instead-of",
        metavar="NAME",
        help="the served model that it stands in for, by name or digest (else all of them)",
    )
    parser.add_argument(
        "--made-by",
        metavar="DIR",
        type=Path,
        action="append",
        default=[],
        help="a bundle that made stored embeddings before the database kept how; may be repeated",
    )
    parser.add_argument(
        "--missing",
        action="store_true",
        help="print only the Study Instance UIDs that another look would make comparable",
    )
    parser.add_argument(
        "--show", metavar="N", type=whole_number, default=SHOWN, help="changed studies named"
    )


def operating_point(text: str) -> tuple[str, float]:
    """Read `finding=0.4`."""
    name, _, value = text.rpartition("=")
    try:
        point = float(value)
    except ValueError:
        point = -1.0
    if not name or not 0.0 <= point <= 1.0:
        raise argparse.ArgumentTypeError(f"{text} is not FINDING=P with P from 0 to 1")
    return name, point


def replay(arguments: argparse.Namespace) -> int:
    from triage.database.scores import count_studies
    from triage.learning.progress import Progress
    from triage.learning.watching.replay import replay as run

    _check(arguments)
    config = configuration(arguments)
    begin = moment(arguments.since, zone=config.site.timezone, now=datetime.now(UTC))
    with ExitStack() as stack:
        database = stack.enter_context(writing(config))
        answers, what = _answers(arguments, config, database)
        instead_of = _instead_of(arguments, database, what)
        total = count_studies(database, since=begin)
        progress = stack.enter_context(Progress("Replay", total))
        telling = _telling(arguments, what, begin, stack)
        summary = run(
            database,
            answers,
            since=begin,
            instead_of=instead_of,
            policies=config.policies,
            listener=telling.listener(progress.advance),
        )
        telling.end(summary, getattr(answers, "hardware", {}))
    return DONE


def _check(arguments: argparse.Namespace) -> None:
    if (arguments.bundle is None) == (arguments.shadow is None):
        raise UsageError("Name a bundle directory, or a shadow with --shadow")
    if arguments.shadow and (arguments.operating_point or arguments.made_by):
        raise UsageError("A shadow is compared as it was recorded: give its bundle to change that")
    if arguments.missing and arguments.json:
        raise UsageError("--missing prints UIDs alone; --json has them with the reasons")


def _answers(
    arguments: argparse.Namespace, config: "Config", database: "Database"
) -> "tuple[Answers, dict[str, str]]":
    from triage.inference.bundle import load_bundle
    from triage.learning.watching.replay_answers import (
        NewBundle,
        RecordedShadow,
        with_operating_points,
    )

    if arguments.shadow:
        shadow = recorded_shadow(arguments.shadow, database)
        what = {"shadow": f"{shadow.name} {shadow.version}", "digest": shadow.digest}
        return RecordedShadow(shadow.digest), what
    bundle = load_bundle(arguments.bundle, check_encoder=False)
    identity = bundle.identity
    bundle = with_operating_points(bundle, dict(arguments.operating_point))
    scopes = _scopes(bundle, arguments.made_by, config, database)
    answers = NewBundle(bundle, scopes=scopes, policy=config.policies.eligibility)
    points = {each.name: f"{each.operating_point:g}" for each in bundle.manifest.findings}
    what = {"bundle": f"{identity.name} {identity.version}", "digest": identity.digest}
    what["operating_points"] = ", ".join(f"{name} {point}" for name, point in points.items())
    return answers, what


def _instead_of(
    arguments: argparse.Namespace, database: "Database", what: dict[str, str]
) -> frozenset[str] | None:
    """Return the digests of what is replaced, and note it: a name in service may mean several."""
    if arguments.instead_of is None:
        return None
    found = recorded_served(arguments.instead_of, database)
    what["instead_of"] = listed(found)
    return frozenset(each.identity.digest for each in found)


def _scopes(
    bundle: "Bundle", made_by: Iterable[Path], config: "Config", database: "Database"
) -> "list[Scope]":
    """Return what is on record, and what bundles at hand say of themselves."""
    from triage.database.scores import scopes
    from triage.inference.bundle import load_bundle
    from triage.learning.watching.replay_answers import scope_of
    from triage.worker.serving import configured_models

    with database.read() as connection:
        found = scopes(connection)
    noted = {scope.bundle_digest for scope in found}
    own = [scope_of(load_bundle(directory, check_encoder=False)) for directory in made_by]
    for model in configured_models(config):
        try:
            own.append(scope_of(load_bundle(model.bundle, check_encoder=False)))
        except BundleError:
            continue  # `status` names it; its embeddings count as of unknown origin
    own.append(scope_of(bundle))
    return [*found, *(scope for scope in own if scope.bundle_digest not in noted)]


# --- telling


def _telling(
    arguments: argparse.Namespace, what: dict[str, str], begin: datetime | None, stack: ExitStack
) -> "_Telling":
    if arguments.missing:
        return _Uids()
    if arguments.json:
        return _Document(what, begin, stack.enter_context(tempfile.TemporaryFile("w+")))
    return _Text(what, begin, arguments)


class _Telling:
    """Takes what a replay finds, one by one."""

    def changed(self, change: "Change") -> None: ...

    def missing(self, study: "StoredStudy", reasons: "frozenset[Missing]") -> None: ...

    def end(self, summary: "Summary", hardware: Mapping[str, int]) -> None: ...

    def listener(self, progress: Any) -> "Listener":
        from triage.learning.watching.replay import Listener

        return Listener(changed=self.changed, missing=self.missing, progress=progress)


class _Uids(_Telling):
    """The studies that `triage requeue` would help, one line each."""

    def missing(self, study: "StoredStudy", reasons: "frozenset[Missing]") -> None:
        from triage.learning.watching.replay_answers import Missing

        if Missing.EXPIRED not in reasons:
            print(study.study_instance_uid)


class _Document(_Telling):
    """One JSON document, written while it runs; the studies left out wait in a file."""

    def __init__(self, what: dict[str, str], begin: datetime | None, spool: IO[str]) -> None:
        head = {"schema_version": SCHEMA_VERSION, **what, "since": _time(begin)}
        sys.stdout.write(json.dumps(head, indent=2)[:-2] + ',\n  "changes": [')
        self._spool = spool
        self._changes = self._left_out = 0

    def changed(self, change: "Change") -> None:
        entry = {
            "study_instance_uid": change.study_instance_uid,
            "received_at": _time(change.received_at),
            "was": _standing(change.was),
            "would": _standing(change.would),
        }
        sys.stdout.write((",\n    " if self._changes else "\n    ") + json.dumps(entry))
        self._changes += 1

    def missing(self, study: "StoredStudy", reasons: "frozenset[Missing]") -> None:
        entry = {
            "study_instance_uid": study.study_instance_uid,
            "reasons": sorted(each.name.lower() for each in reasons),
        }
        self._spool.write((",\n    " if self._left_out else "\n    ") + json.dumps(entry))
        self._left_out += 1

    def end(self, summary: "Summary", hardware: Mapping[str, int]) -> None:
        sys.stdout.write("\n  ],\n" if self._changes else "],\n")
        sys.stdout.write('  "missing": [')
        self._spool.seek(0)
        while chunk := self._spool.read(1 << 16):
            sys.stdout.write(chunk)
        sys.stdout.write("\n  ],\n" if self._left_out else "],\n")
        told = json.dumps(_summary(summary, hardware), indent=2)
        sys.stdout.write('  "summary": ' + told.replace("\n", "\n  ") + "\n}\n")


class _Text(_Telling):
    """A report for a person: the counts, the scores, the first changes, what is missing."""

    def __init__(
        self, what: dict[str, str], begin: datetime | None, arguments: argparse.Namespace
    ) -> None:
        self._what, self._begin = what, begin
        self._bundle = arguments.bundle
        self._most = max(0, arguments.show)
        self._changes: list[Change] = []

    def changed(self, change: "Change") -> None:
        if len(self._changes) < self._most:
            self._changes.append(change)

    def end(self, summary: "Summary", hardware: Mapping[str, int]) -> None:
        from triage.cli.replay_words import report
        from triage.cli.table import screen

        print(
            report(
                summary,
                self._changes,
                what=self._what,
                begin=self._begin,
                hardware=hardware,
                bundle=self._bundle,
                on=screen(),
            )
        )


def _summary(summary: "Summary", hardware: Mapping[str, int]) -> dict[str, Any]:
    from dataclasses import asdict

    from triage.cli.replay_words import by_finding

    return {
        **{name: getattr(summary, name) for name in COUNTS},
        "missing": {
            "studies": summary.missing_studies,
            "mendable": summary.mendable,
            "reasons": {each.name.lower(): count for each, count in summary.missing.items()},
        },
        "embeddings": dict(hardware),
        "scores": [
            {"finding": name, "served": asdict(model), **sums.document()}
            for (model, name), sums in by_finding(summary.scores)
        ],
    }


def _standing(standing: "Standing") -> dict[str, Any]:
    return {
        "priority": standing.priority.value,
        "flagged": list(standing.flagged),
        "analysis": standing.analysis.value,
    }


def _time(at: datetime | None) -> str | None:
    return at.astimezone(UTC).isoformat().replace("+00:00", "Z") if at else None
