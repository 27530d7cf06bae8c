"""The pytest side: the marker `requirement`, the fixtures `evidence`, `long` and `left_behind`.

With `--evidence DIR`, what each marked test found is written there. Figures travel in pytest's own
reports, so that one process writes, however many run, and the outcome is the one pytest tells.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from tests.assurance.evidence import (
    Figures,
    Finding,
    Outcome,
    clean,
    write_collected,
    write_finding,
)
from tests.assurance.requirements import REQUIREMENTS

PROMISES, RECORDED = "requirements", "evidence"  # names of user properties of a report
LONG_TIMEOUT_S = 2400
TEMPORARY = "temporary"  # of the folders that are left: what TMPDIR is in `make faults`


class Evidence:
    """What one test counted, to be shown in deploy/ASSURANCE.md."""

    def __init__(self, item: pytest.Item) -> None:
        self._item = item

    def record(
        self,
        *,
        trials: int,
        losses: int = 0,
        worst: str = "",
        peers: Mapping[str, str] | None = None,
        code: str | None = None,
    ) -> None:
        """Note figures for all requirements of the test, or for `code` alone; may be repeated.

        worst: the worst value seen, with its unit. peers: what other programs did in the same
        trial, by name and version.
        """
        figures = Figures(trials=trials, losses=losses, worst=worst, peers=dict(peers or {}))
        self._item.user_properties.append((RECORDED, {"code": code, **asdict(figures)}))


@pytest.fixture
def evidence(request: pytest.FixtureRequest) -> Evidence:
    """Where a trial records what it counted; kept only with `--evidence`."""
    return Evidence(request.node)


@pytest.fixture(scope="session")
def long(pytestconfig: pytest.Config) -> bool:
    """Whether trials take their full size."""
    return bool(pytestconfig.getoption("--long"))


@pytest.fixture(scope="session")
def left_behind(
    pytestconfig: pytest.Config, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, ...]:
    """The folders in which the runs before this one left their files; none in `make test`."""
    before = pytestconfig.getoption("--left-behind")
    own = tmp_path_factory.getbasetemp()
    folders = sorted(Path(before).iterdir()) if before else ()
    return tuple(each for each in folders if not own.is_relative_to(each))


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("assurance")
    group.addoption("--long", action="store_true", help="run trials in their full size")
    group.addoption("--evidence", metavar="DIR", help="write there what marked tests found")
    group.addoption("--left-behind", metavar="DIR", help="the temporary folders of earlier runs")
    group.addoption("--code", action="append", metavar="CODE", help="run trials of these alone")


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "requirement(code, bound): the test is a trial of it")
    config.addinivalue_line("markers", "long_only: too slow for `make test`, run by `make faults`")
    directory = config.getoption("--evidence")
    if directory and not hasattr(config, "workerinput"):
        config.pluginmanager.register(Writer(Path(directory), long=config.getoption("--long")))


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Check the codes, keep those that are wanted, give long trials their time."""
    wanted = set(config.getoption("--code") or ())
    dropped = []
    for item in items:
        promises = promises_of(item)
        if wanted and not wanted & set(promises):
            dropped.append(item)
        elif promises and config.getoption("--long") and not item.get_closest_marker("timeout"):
            item.add_marker(pytest.mark.timeout(LONG_TIMEOUT_S))
    if dropped:
        config.hook.pytest_deselected(items=dropped)
        items[:] = [item for item in items if item not in set(dropped)]


def pytest_collection_finish(session: pytest.Session) -> None:
    directory = session.config.getoption("--evidence")
    for item in session.items if directory else ():
        if promises := promises_of(item):
            write_collected(Path(directory), item.nodeid, promises)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    if promises := promises_of(item):
        item.user_properties.append((PROMISES, promises))


def promises_of(item: pytest.Item) -> dict[str, str]:
    """Return the codes of a test with their bounds; raise UsageError for an unknown one."""
    promises: dict[str, str] = {}
    for mark in item.iter_markers("requirement"):
        (code,) = mark.args
        if code not in REQUIREMENTS:
            raise pytest.UsageError(f"{item.nodeid}: there is no requirement {code!r}")
        promises.setdefault(code, str(mark.kwargs.get("bound", "")))
    return promises


class Writer:
    """Turns the reports of marked tests into findings; lives in the process that gets them all."""

    def __init__(self, directory: Path, *, long: bool) -> None:
        self._directory = directory
        self._long = long
        self._reports: dict[str, list[pytest.TestReport]] = {}

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        reports = self._reports.setdefault(report.nodeid, [])
        reports.append(report)
        if report.when == "teardown":
            for finding in _findings(reports, long=self._long):
                write_finding(self._directory, finding)
            del self._reports[report.nodeid]


def _findings(reports: Sequence[pytest.TestReport], *, long: bool) -> Iterator[Finding]:
    properties: list[tuple[str, Any]] = list(reports[-1].user_properties)
    promises: dict[str, str] = next((value for name, value in properties if name == PROMISES), {})
    recorded = [value for name, value in properties if name == RECORDED]
    outcome, reason = _outcome(reports)
    for code, bound in promises.items():
        own = [each for each in recorded if each["code"] in (None, code)]
        yield Finding(
            code=code,
            test=reports[0].nodeid,
            bound=bound,
            outcome=outcome,
            reason=reason,
            seconds=round(sum(report.duration for report in reports), 1),
            long=long,
            figures=tuple(
                Figures(**{name: value for name, value in each.items() if name != "code"})
                for each in own
            ),
        )


def _outcome(reports: Sequence[pytest.TestReport]) -> tuple[Outcome, str]:
    """The outcome of all phases, and its reason; what was expected to fail has failed."""
    for report in reports:
        if report.failed or hasattr(report, "wasxfail"):
            return Outcome.FAILED, clean(_crash(report))
    for report in reports:
        if report.skipped:
            told = report.longrepr[2] if isinstance(report.longrepr, tuple) else ""
            return Outcome.SKIPPED, clean(told.removeprefix("Skipped: "))
    return Outcome.PASSED, ""


def _crash(report: pytest.TestReport) -> str:
    crash = getattr(report.longrepr, "reprcrash", None)
    told = getattr(crash, "message", None) or getattr(report, "wasxfail", "") or report.longreprtext
    return str(told)
