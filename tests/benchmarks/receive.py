"""Receive rate, durable, against Debian's `storescp --fork`, which syncs nothing."""

import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import numpy as np

from tests.benchmarks.measuring import Row, configuration, daemon, free_port, listening, say
from tests.dicom_files import make_ct_series, make_dx, to_bytes

RUNS = 3
Serve = Callable[[Path, int], AbstractContextManager[None]]
CT_IMAGES = 200  # 512 x 512 x 2 bytes = 0.5 MB
DX_IMAGES = 20  # 2560 x 2048 x 2 bytes = 10 MB


def measure() -> Iterator[Row]:
    """Yield objects per second for CT- and DX-size objects over 1 and 4 associations."""
    if not (shutil.which("dcmsend") and shutil.which("storescp")):
        say("receive: left out, DCMTK is not installed (apt-get install dcmtk)")
        return
    for kind, count in (("CT", CT_IMAGES), ("DX", DX_IMAGES)):
        for senders in (1, 4):
            with tempfile.TemporaryDirectory() as sent:
                shares = _objects(kind, count, senders, Path(sent))
                for peer, serve in (("triage", _triage), ("storescp --fork", _storescp)):
                    label = f"receive {kind}, {senders} association(s), {peer}"
                    say(label)
                    values = tuple(_rate(shares, count, serve) for _ in range(RUNS))
                    yield Row(what=label, values=values, unit="objects/s")


def _rate(shares: Sequence[Path], count: int, serve: Serve) -> float:
    """One run into an empty store, each sender with its share."""
    with tempfile.TemporaryDirectory() as name:
        port = free_port()
        with serve(Path(name), port):
            started = time.monotonic()
            running = [
                subprocess.Popen(
                    ["dcmsend", "-aec", "TRIAGE", "+sd", "127.0.0.1", str(port), str(share)],
                    stdout=subprocess.DEVNULL,
                )
                for share in shares
            ]
            if any(process.wait() for process in running):
                raise RuntimeError("dcmsend failed")
            return count / (time.monotonic() - started)


def _objects(kind: str, count: int, senders: int, folder: Path) -> list[Path]:
    noise = np.random.default_rng(0)
    if kind == "CT":
        volume = noise.integers(-1000, 1000, (count, 512, 512), dtype=np.int16)
        objects = make_ct_series(volume)
    else:
        pixels = noise.integers(0, 4096, (2560, 2048), dtype=np.uint16)
        objects = [make_dx(pixels) for _ in range(count)]
    shares = [folder / f"sender{number}" for number in range(senders)]
    for share in shares:
        share.mkdir()
    for number, ds in enumerate(objects):
        (shares[number % senders] / f"{number}.dcm").write_bytes(to_bytes(ds))
    return shares


@contextmanager
def _triage(folder: Path, port: int) -> Iterator[None]:
    with daemon(configuration(folder, port), port, "receive"):
        yield


@contextmanager
def _storescp(folder: Path, port: int) -> Iterator[None]:
    held = folder / "held"
    held.mkdir()
    command = ["storescp", "--fork", "-od", str(held), str(port)]
    with (folder / "log").open("w") as log, listening(command, port, log=log.fileno()):
        yield
