"""The role schedule serves the metrics beside its sweeps, and outlives a port that is taken."""

import http.client
import socket
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from triage.config import Config, DatabaseConfig, MetricsConfig, ReceiverConfig, StoreConfig
from triage.database.connection import Database, open_database
from triage.operations import shared_store
from triage.operations.health import gather
from triage.operations.parts import SchedulePart
from triage.store import Store


@pytest.fixture
def config(sqlite_url: str, store: Store) -> Config:
    return Config(
        receiver=ReceiverConfig(enabled=False),
        database=DatabaseConfig(url=sqlite_url),
        store=StoreConfig(path=Path(store.root), minimum_free_mib=0),
        metrics=MetricsConfig(enabled=True, port=0),
    )


@pytest.fixture
def db(sqlite_url: str) -> Iterator[Database]:
    opened = open_database(sqlite_url)
    yield opened
    opened.dispose()


def told(config: Config) -> dict[str, object]:
    """Return what the heartbeat of the role says of the metrics."""
    (row,) = [row for row in gather(config).roles if row["role"] == "schedule"]
    detail: dict[str, object] = row["detail"]["metrics"]
    return detail


def codes(config: Config) -> set[str]:
    return {each.code for each in gather(config).causes}


def test_the_metrics_are_served_from_start_to_stop(
    config: Config, db: Database, store: Store
) -> None:
    part = SchedulePart(config, db, store)
    part.start()
    port = int(str(told(config)["port"]))
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    connection.request("GET", "/metrics")
    text = connection.getresponse().read().decode()
    connection.close()
    part.stop()
    assert "\ntriage_up 1.0\n" in text
    assert 'triage_role_processes_running{host="' in text
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port), timeout=10)


def test_the_store_of_the_host_is_told_as_by_every_role(
    config: Config, db: Database, store: Store
) -> None:
    part = SchedulePart(config, db, store)
    part.start()
    (row,) = gather(config).roles
    part.stop()
    token = shared_store.token_path(Path(store.root), row["host"]).read_text("ascii")
    assert row["detail"][shared_store.DETAIL] == token


def test_a_port_that_is_taken_degrades_and_ends_nothing(
    config: Config, db: Database, store: Store
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        taken = replace(config, metrics=replace(config.metrics, port=other.getsockname()[1]))
        part = SchedulePart(taken, db, store)
        part.start()
        assert "metrics_unavailable" in codes(taken)
        assert part.failure is None
        part.stop()


def test_where_metrics_are_off_no_port_is_opened(
    config: Config, db: Database, store: Store
) -> None:
    off = replace(config, metrics=MetricsConfig(enabled=False))
    part = SchedulePart(off, db, store)
    part.start()
    (row,) = gather(off).roles
    part.stop()
    assert "metrics" not in row["detail"]
    assert "metrics_unavailable" not in codes(off)


def test_slow_scrapers_hold_up_no_sweep(config: Config, db: Database, store: Store) -> None:
    part = SchedulePart(config, db, store)
    part.start()
    address = ("127.0.0.1", int(str(told(config)["port"])))
    slow = [socket.create_connection(address, timeout=10) for _ in range(10)]
    slow[0].sendall(b"GET /met")
    (beat,) = part.beats
    deadline, before_s, turns = time.monotonic() + 20, beat.silent_s, 0
    while turns < 2 and time.monotonic() < deadline:
        time.sleep(0.02)
        now_s = beat.silent_s
        turns += now_s < before_s
        before_s = now_s
    assert turns == 2
    part.stop()
    for each in slow:
        each.close()
