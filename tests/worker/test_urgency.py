"""What is urgent is looked at first, soon, and each look tells where its time went."""

import os
import subprocess
import sys
import time

import pytest
from structlog.testing import capture_logs

from tests.dicom_files import to_bytes
from tests.worker.house import House, look_only, radiograph
from tests.worker.toys import Toy
from triage.database.arrivals import ArrivalOutcome
from triage.imaging.decode_pool import DecodeTask
from triage.records import Source
from triage.worker.settings import WorkerSettings

SOON_S = 30.0
THREADS = """
import torch
from triage.config import Config
from triage.worker.serving import open_models
open_models(Config(demonstration=True), slot=0)
print(torch.get_num_threads())
"""


def receive_urgent(house: House, brightness: float) -> ArrivalOutcome:
    data = to_bytes(radiograph(brightness))
    return house.intake.accept(data, source=Source.C_STORE, c_store_priority=1)


def test_an_urgent_image_overtakes_those_that_are_decoded_already(house: House) -> None:
    toy = Toy()
    routine = [house.receive(radiograph(level)) for level in (0.1, 0.2)]
    worker = house.worker(toy.loaded(), batch_size=2)
    worker.claim()
    urgent = receive_urgent(house, 0.3)
    worker.claim()
    last = DecodeTask(paths=(house.store.resolve(house.path(urgent)),))
    house.pool.submit(last, rank=9).result(SOON_S)  # all three are decoded by now
    look_only(worker)
    analysed = [house.study(each)["analysis"] for each in (urgent, *routine)]
    assert analysed == ["analysed", "analysed", "pending"]


def test_an_image_that_comes_while_another_is_decoded_is_claimed_in_the_next_turn(
    house: House,
) -> None:
    worker = house.worker(Toy().loaded(), batch_size=1)
    worker.claim()
    house.receive(radiograph(0.1))
    late = house.receive(radiograph(0.2))
    look_only(worker)
    assert {row["state"] for row in house.jobs(late)} == {"leased"}


def test_an_empty_queue_is_looked_into_often(house: House) -> None:
    assert WorkerSettings().idle_s <= 0.02  # a fifth of what the daemon's own share may be


def test_a_look_tells_where_its_time_went(house: House) -> None:
    house.receive(radiograph(0.9))
    house.clock.turn(2.5)
    begun = time.monotonic()
    with capture_logs() as lines:
        look_only(house.worker(Toy().loaded()))
    took_ms = 1000 * (time.monotonic() - begun)
    (line,) = [line for line in lines if line["event"] == "job_analysed"]
    assert line["waited_ms"] == 2500.0
    assert 0 < line["decode_ms"] < took_ms
    assert 0 <= line["model_ms"] < took_ms
    assert line["decode_ms"] + line["model_ms"] <= line["total_ms"] - 2500.0 <= took_ms


@pytest.mark.parametrize("chosen", ["", "1"])
def test_torch_takes_the_cores_that_the_decoders_leave(chosen: str) -> None:
    environment = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}
    if chosen:
        environment["OMP_NUM_THREADS"] = chosen
    done = subprocess.run(
        [sys.executable, "-c", THREADS], env=environment, capture_output=True, text=True, check=True
    )
    left = max(1, len(os.sched_getaffinity(0)) - 2)  # decode_processes is 2
    assert int(done.stdout.splitlines()[-1]) == (int(chosen) if chosen else left)
