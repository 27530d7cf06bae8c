"""Other receivers as packaged, for the columns beside ours: Orthanc and storescp --fork.

Loopback only: the packaged versions are older than fixes that matter. They are started with
their defaults, but for port, folder and the title that they answer to.
"""

import hashlib
import io
import json
import os
import re
import shutil
import signal
import subprocess
import urllib.request
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from pydicom import dcmread
from pydicom.errors import InvalidDicomError

from tests.benchmarks.measuring import environment, free_port, wait_for_port

TITLE = "TRIAGE"  # both are called by ours
PATIENCE_S = 30.0


class Peer(ABC):
    """One receiver in a folder; it may be killed and started again on the same folder and port."""

    program = ""
    package = ""
    label = ""

    def __init__(self, folder: Path, port: int = 0) -> None:
        self.folder = folder
        self.port = port or free_port()
        self.process: subprocess.Popen[bytes] | None = None
        folder.mkdir(parents=True, exist_ok=True)

    @classmethod
    def installed(cls) -> bool:
        return shutil.which(cls.program) is not None

    @classmethod
    def name(cls) -> str:
        """Return the name with the version that it tells of itself."""
        done = subprocess.run(
            [cls.program, "--version"], capture_output=True, text=True, check=False
        )
        found = re.search(r"(?:\bv|Orthanc )(\d[\d.]+)", done.stdout)
        return f"{cls.label} {found[1]}" if found else cls.label

    @abstractmethod
    def command(self) -> list[str]: ...

    @abstractmethod
    def held(self) -> dict[str, str]:
        """Return what it can give back: SOP Instance UID to `digest` of the pixels."""

    @property
    def pid(self) -> int:
        assert self.process is not None
        return self.process.pid

    def start(self) -> "Peer":
        """Start it and wait until its port answers."""
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen(
                self.command(), stdout=log, stderr=log, cwd=self.folder, env=environment(),
                start_new_session=True,
            )  # fmt: skip
        wait_for_port(self.port, self.process)
        return self

    def kill(self) -> None:
        """SIGKILL to it and to every process that it forked."""
        self._end(signal.SIGKILL)

    def stop(self) -> None:
        self._end(signal.SIGTERM)

    def _end(self, number: int) -> None:
        if self.process is None:
            return
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, number)
        try:
            self.process.wait(PATIENCE_S)
        except subprocess.TimeoutExpired:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
        self.process = None


class Storescp(Peer):
    """DCMTK's receiver, one process for each association."""

    program, package, label = "storescp", "dcmtk", "storescp --fork"

    def command(self) -> list[str]:
        into = self.folder / "held"
        into.mkdir(exist_ok=True)
        return ["storescp", "--fork", "-od", str(into), str(self.port)]

    def held(self) -> dict[str, str]:
        paths = sorted((self.folder / "held").iterdir())
        return {uid: digest for path in paths for uid, digest in _whole(path.read_bytes())}


class Orthanc(Peer):
    """As packaged: what is not named here is its default."""

    program, package, label = "Orthanc", "orthanc", "Orthanc"

    def __init__(self, folder: Path, port: int = 0) -> None:
        super().__init__(folder, port)
        self.web_port = free_port()

    def command(self) -> list[str]:
        settings = self.folder / "orthanc.json"
        into = str(self.folder / "held")
        settings.write_text(
            json.dumps(
                {"StorageDirectory": into, "IndexDirectory": into}
                | {"DicomAet": TITLE, "DicomPort": self.port}
                | {"HttpPort": self.web_port, "AuthenticationEnabled": False}
            ),
            "utf-8",
        )
        return ["Orthanc", str(settings)]

    def held(self) -> dict[str, str]:
        """Ask it for each instance that its index lists; one whose file is gone is not held."""
        found: dict[str, str] = {}
        for instance in json.loads(self._get("/instances")):
            with suppress(OSError):
                found |= dict(_whole(self._get(f"/instances/{instance}/file")))
        return found

    def _get(self, path: str) -> bytes:
        with urllib.request.urlopen(f"http://127.0.0.1:{self.web_port}{path}", timeout=30) as page:
            return bytes(page.read())


def digest(pixels: bytes) -> str:
    """What `held` tells of an image: receivers may write its header anew, but not its pixels."""
    return hashlib.sha256(pixels).hexdigest()


def _whole(data: bytes) -> Iterator[tuple[str, str]]:
    """Yield UID and digest of a file that can be read to its end, nothing of another."""
    with suppress(InvalidDicomError, EOFError, ValueError, AttributeError, KeyError):
        ds = dcmread(io.BytesIO(data))
        yield str(ds.SOPInstanceUID), digest(bytes(ds.PixelData))


PEERS: tuple[type[Peer], ...] = (Orthanc, Storescp)


def installed() -> list[type[Peer]]:
    """Return those that this machine has; a column of another is left out."""
    return [peer for peer in PEERS if peer.installed()]


@contextmanager
def running(peer: type[Peer], folder: Path, port: int = 0) -> Iterator[Peer]:
    """A started peer; stopped at the end, whatever happened."""
    made = peer(folder, port)
    try:
        yield made.start()
    finally:
        made.stop()
