"""Arrival-to-flag: from the commit of an image to the commit of its flag, pocket model on CPU."""

import json
import subprocess
import tempfile
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

from tests.benchmarks.measuring import Row, configuration, daemon, free_port, say, triage
from tests.dicom_files import make_dx, to_bytes
from triage.pocket import phantoms

STUDIES = 40
EVERY_S = 0.5  # two DX per second
PATIENCE_S = 120.0


def measure() -> Iterator[Row]:
    """Yield p50, p95 and maximum as `triage status` tells them."""
    say("arrival-to-flag: 40 DX, two per second")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        port = free_port()
        config = configuration(folder, port, demonstration=True)
        with daemon(config, port):
            _wait_for_the_model(config)
            for seed in range(STUDIES):
                _send(folder / f"{seed}.dcm", seed, port)
                time.sleep(EVERY_S)
            latency = _latency(config)
    for figure in ("p50_s", "p95_s", "max_s"):
        yield Row(what=f"arrival-to-flag, {figure[:-2]}", values=(latency[figure],), unit="s")


def _wait_for_the_model(config: Path) -> None:
    ends_at = time.monotonic() + PATIENCE_S
    while triage(config, "status").returncode and time.monotonic() < ends_at:
        time.sleep(0.5)


def _send(path: Path, seed: int, port: int) -> None:
    phantom = phantoms.generate(seed)
    today = datetime.now(UTC).strftime("%Y%m%d")  # an old study would be left off the list
    ds = make_dx(phantom.pixels, bits_stored=phantom.bits_stored, StudyDate=today)
    path.write_bytes(to_bytes(ds))
    command = ["dcmsend", "-aec", "TRIAGE", "127.0.0.1", str(port), str(path)]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)


def _latency(config: Path) -> dict[str, float]:
    """Wait until every study is looked at, then read the figures of DX."""
    ends_at = time.monotonic() + PATIENCE_S
    while time.monotonic() < ends_at:
        studies = json.loads(triage(config, "worklist", "--json").stdout)["studies"]
        if len(studies) == STUDIES and all(each["analysis"] != "pending" for each in studies):
            status = json.loads(triage(config, "status", "--json").stdout)
            figures: dict[str, float] = status["latency"]["arrival_to_flag"]["DX"]
            return figures
        time.sleep(0.5)
    raise RuntimeError("the studies were not looked at in time")
