"""The daemon of the demonstration: its configuration, its process, its end."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from triage.config import Config, load_config
from triage.errors import PermanentError

LISTENING_WITHIN_S = 30.0
SERVING_WITHIN_S = 90.0
STOPS_WITHIN_S = 30.0
LOG_LINES = 15  # shown where the daemon ended by itself

CONFIGURATION = """\
# The demonstration's own configuration: short waits, loopback only, the built-in model.
demonstration = true

[site]
name = "Invented Hospital"

[receiver]
ae_title = "TRIAGE_DEMO"
port = {port}

[folders]
watch = [{watched}]
stable_s = 1.0
rescan_s = 5.0

[store]
path = {store}
minimum_free_mib = 64

[database]
url = {url}

[completion]
quiet_s = 2.0
max_wait_s = 20.0
quiet_s_by_modality = {{}}

[caption]
when = "all"

[logging]
format = "json"
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Daemon:
    """One running `triage run`."""

    config: Config
    process: "subprocess.Popen[bytes]"
    log: Path

    def wait_until_listening(self) -> None:
        """Return once the receiver takes connections; raises PermanentError if it never does."""
        deadline = time.monotonic() + LISTENING_WITHIN_S
        receiver = self.config.receiver
        while time.monotonic() < deadline:
            self.require_alive()
            try:
                socket.create_connection((receiver.host, receiver.port), timeout=1.0).close()
            except OSError:
                time.sleep(0.1)
            else:
                return
        raise PermanentError(
            f"the receiver did not listen within {LISTENING_WITHIN_S:.0f} s", hint=self._log_tail()
        )

    def wait_until_serving(self) -> None:
        """Return once a model serves; raises PermanentError if none does in time."""
        from triage.operations.health import gather

        deadline = time.monotonic() + SERVING_WITHIN_S
        while time.monotonic() < deadline:
            self.require_alive()
            if any(model["served"] for model in gather(self.config).models):
                return
            time.sleep(0.25)
        raise PermanentError(
            f"no model served within {SERVING_WITHIN_S:.0f} s", hint=self._log_tail()
        )

    def require_alive(self) -> None:
        """Raise PermanentError with the end of the log if the daemon has ended."""
        code = self.process.poll()
        if code is not None:
            raise PermanentError(
                f"the daemon ended by itself with exit code {code}", hint=self._log_tail()
            )

    def _log_tail(self) -> str:
        lines = self.log.read_text("utf-8", errors="replace").splitlines()[-LOG_LINES:]
        return "\n".join([f"The end of {self.log}:", *lines])


def write_configuration(directory: Path) -> Config:
    """Write triage.toml into `directory`, make the watched folder and return what was written."""
    watched = directory / "watched"
    watched.mkdir()
    path = directory / "triage.toml"
    path.write_text(
        CONFIGURATION.format(
            port=_free_port(),
            watched=_quoted(watched),
            store=_quoted(directory / "store"),
            url=_quoted(f"sqlite:///{directory / 'triage.sqlite'}"),
        ),
        "utf-8",
    )
    return load_config(path, {})


@contextmanager
def running(directory: Path, config: Config) -> Iterator[Daemon]:
    """Migrate the database and run the daemon until the block ends, then stop it in order."""
    from triage.database.connection import migrate

    migrate(config.database.url)
    log = directory / "daemon.log"
    # The user's own TRIAGE_ variables would override the file written here.
    environ = {key: value for key, value in os.environ.items() if not key.startswith("TRIAGE_")}
    command = [sys.executable, "-m", "triage", "--config", str(config.source), "run"]
    with log.open("wb") as stream:
        process = subprocess.Popen(command, stdout=stream, stderr=stream, env=environ)
    try:
        yield Daemon(config=config, process=process, log=log)
    finally:
        _stop(process)


def _stop(process: "subprocess.Popen[bytes]") -> None:
    process.send_signal(signal.SIGTERM)
    try:
        process.wait(STOPS_WITHIN_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _quoted(value: object) -> str:
    # A JSON string of printable text is a TOML basic string.
    return json.dumps(str(value))
