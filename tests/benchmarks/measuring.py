"""What the measurements share: a figure with its spread, a daemon of its own, free ports."""

import contextlib
import os
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

READY_S = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One line of the results: all runs are kept, the median is quoted."""

    what: str
    values: tuple[float, ...]
    unit: str

    @property
    def median(self) -> float:
        return statistics.median(self.values)

    def document(self) -> dict[str, object]:
        """The row for programs."""
        return {
            "what": self.what,
            "unit": self.unit,
            "median": self.median,
            "values": list(self.values),
        }


def say(text: str) -> None:
    """Progress goes to stderr, so that the last line of stdout is the JSON."""
    print(text, file=sys.stderr, flush=True)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def triage(config: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run one command of the program to its end."""
    return subprocess.run(
        [sys.executable, "-m", "triage", "--config", config, *arguments],
        capture_output=True,
        text=True,
        check=False,
    )


def configuration(folder: Path, port: int, *, demonstration: bool = False) -> Path:
    """Write a triage.toml for loopback, with store and SQLite below `folder`."""
    path = folder / "triage.toml"
    path.write_text(
        f"demonstration = {str(demonstration).lower()}\n"
        f"[receiver]\nport = {port}\n"
        f'[store]\npath = "{folder / "store"}"\nminimum_free_mib = 100\n'
        f'[database]\nurl = "sqlite:///{folder / "triage.sqlite"}"\n',
        "utf-8",
    )
    return path


@contextlib.contextmanager
def daemon(config: Path, port: int, *roles: str) -> Iterator[None]:
    """A migrated, running daemon that listens on `port`; its log goes beside the configuration."""
    triage(config, "migrate").check_returncode()
    wanted = [word for role in roles for word in ("--role", role)]
    with (config.parent / "daemon.log").open("w", encoding="utf-8") as log:
        command = [sys.executable, "-m", "triage", "--config", str(config), "run", *wanted]
        with listening(command, port, log=log.fileno()):
            yield


@contextlib.contextmanager
def listening(
    command: list[str], port: int, *, log: int, cwd: Path | None = None
) -> Iterator[None]:
    """Run `command` until the block ends; enter the block when `port` answers."""
    environment = os.environ | {"CUDA_VISIBLE_DEVICES": os.environ.get("CUDA_VISIBLE_DEVICES", "")}
    process = subprocess.Popen(command, stdout=log, stderr=log, cwd=cwd, env=environment)
    try:
        _wait_for(port, process)
        yield
    finally:
        process.terminate()
        process.wait(30)


def _wait_for(port: int, process: subprocess.Popen[bytes]) -> None:
    ends_at = time.monotonic() + READY_S
    while time.monotonic() < ends_at and process.poll() is None:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
            return
        time.sleep(0.05)
    raise RuntimeError(f"nothing listens on port {port}")
