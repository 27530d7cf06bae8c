"""The whole program as its users run it: processes of its own, spoken to from outside."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, TypeVar, cast

from pydicom.dataset import Dataset
from pynetdicom import AE
from pynetdicom.sop_class import Verification

from triage.config import load_config
from triage.database import reading
from triage.operations.health import gather

T = TypeVar("T")

PATIENCE_S = 90.0
CONFIGURATION = """\
demonstration = {demonstration}

[receiver]
port = 0

[folders]
watch = {watch}
stable_s = 0.3
rescan_s = 5.0

[store]
path = {store}
minimum_free_mib = 16

[database]
url = {url}

[completion]
quiet_s = 1.0
max_wait_s = 10.0
quiet_s_by_modality = {{}}

[eligibility]
maximum_study_age_h = 0

[caption]
when = {caption}

[retry]
base_s = 0.2
max_s = 1.0

[worker]
lease_s = 3.0
heartbeat_s = 1.0
"""


class Program:
    """One installation in a directory; `start` and `stop` may be called again and again."""

    def __init__(
        self,
        directory: Path,
        url: str,
        *,
        demonstration: bool = True,
        caption: str = "all",
        store: Path | None = None,
    ) -> None:
        self.directory = directory
        self.url = url
        self.store = store or directory / "store"
        self.watched = directory / "watched"
        self.watched.mkdir(exist_ok=True)
        self.log = directory / "daemon.log"
        self.configuration = directory / "triage.toml"
        self.configuration.write_text(
            CONFIGURATION.format(
                demonstration=json.dumps(demonstration),
                watch=json.dumps([str(self.watched)]),
                store=json.dumps(str(self.store)),
                url=json.dumps(url),
                caption=json.dumps(caption),
            )
        )
        self.process: subprocess.Popen[bytes] | None = None

    # --- the daemon

    def start(self, *arguments: str, under: Sequence[str] = ()) -> "Program":
        """Run the daemon; `under` are the words of a program that is to run it, as a tracer."""
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [*under, *self._command(), "run", *arguments],
                env=self._environment(),
                stdout=log,
                stderr=log,
            )
        return self

    def stop(self) -> int:
        """Stop in order; return the exit code."""
        return self.end_with(signal.SIGTERM)

    def end_with(self, number: int) -> int:
        if self.process is None:
            return 0
        self.process.send_signal(number)
        code = self.process.wait(PATIENCE_S)
        self.process = None
        return code

    # --- the command line

    def call(self, *arguments: str) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            [*self._command(), *arguments],
            env=self._environment(),
            capture_output=True,
            text=True,
            timeout=PATIENCE_S,
            check=False,
        )

    # --- what it says, asked without a new process, as tests ask often

    def status(self) -> dict[str, Any]:
        if self.process is not None and (code := self.process.poll()) is not None:
            raise AssertionError(f"the daemon ended with {code}:\n{self.log.read_text()[-3000:]}")
        return gather(load_config(self.configuration, {})).document()

    def worklist(self) -> dict[str, dict[str, Any]]:
        """Return every study, open or not, by its UID."""
        reader = reading.open_reader(self.url)
        try:
            studies = reading.worklist(reader, all=True)
        finally:
            reader.close()
        return {study["study_instance_uid"]: study for study in studies}

    def role(self, name: str) -> dict[str, Any] | None:
        found = [row for row in self.status()["roles"] if row["role"] == name]
        return found[0] if found else None

    # --- the network

    def port(self) -> int:
        """Return the port of the receiver once it listens."""
        row = until(lambda: self.role("receive"))
        port: int = row["detail"]["port"]
        return port

    def send(self, objects: Iterable[Dataset], *, ae_title: str = "MODALITY") -> list[int]:
        """C-STORE all over one association; return the statuses.

        The SCU of pynetdicom may lose a response to a race of its own threads. What has no status
        is sent again: the receiver answers a duplicate with 0x0000.
        """
        listed = list(objects)
        statuses: dict[int, int] = {}
        while len(statuses) < len(listed):
            left = [place for place in range(len(listed)) if place not in statuses]
            statuses.update(self._send_once({place: listed[place] for place in left}, ae_title))
        return [statuses[place] for place in range(len(listed))]

    def _send_once(self, objects: dict[int, Dataset], ae_title: str) -> dict[int, int]:
        entity = AE(ae_title=ae_title)
        entity.dimse_timeout = 15
        pairs = {(ds.SOPClassUID, ds.file_meta.TransferSyntaxUID) for ds in objects.values()}
        for sop_class, syntax in sorted(pairs):
            entity.add_requested_context(sop_class, syntax)
        association = entity.associate("127.0.0.1", self.port(), ae_title="TRIAGE")
        assert association.is_established
        statuses: dict[int, int] = {}
        for place, ds in objects.items():
            status = association.send_c_store(ds)
            if "Status" not in status:
                association.abort()
                return statuses
            statuses[place] = status.Status
        association.release()
        return statuses

    def echo(self, port: int) -> bool:
        entity = AE(ae_title="MODALITY")
        entity.add_requested_context(Verification)
        association = entity.associate("127.0.0.1", port, ae_title="TRIAGE")
        if not association.is_established:
            return False
        status = association.send_c_echo()
        association.release()
        return bool(status.get("Status", -1) == 0)

    def _command(self) -> list[str]:
        return [sys.executable, "-m", "triage", "--config", str(self.configuration)]

    def _environment(self) -> dict[str, str]:
        # A developer's own TRIAGE_ variables would override the file.
        clean = {key: value for key, value in os.environ.items() if key[:7] != "TRIAGE_"}
        return clean | {"OMP_NUM_THREADS": "1"}


def until(probe: Callable[[], T | bool | None], *, patience_s: float = PATIENCE_S) -> T:
    """Ask until the answer is true; fail after `patience_s`."""
    deadline = time.monotonic() + patience_s
    while time.monotonic() < deadline:
        answer = probe()
        if answer:
            return cast("T", answer)
        time.sleep(0.1)
    raise AssertionError(f"still waiting after {patience_s:g} s")
