"""A stand-in for the intake, and a receiver that listens before it."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from triage.config import ReceiverConfig
from triage.ingest.network_guard import Limits
from triage.ingest.storage_scp import StorageReceiver


@dataclass
class Door:
    """Stands where the intake stands: remembers what was handed over, raises what it is told."""

    raises: Exception | None = None
    fault: str = ""
    alive: bool = True
    hold: threading.Event | None = None  # waited for when an object was taken
    taken: list[tuple[bytes, dict[str, Any]]] = field(default_factory=list)
    ended: list[Exception] = field(default_factory=list)

    def accept(self, data: Iterator[memoryview], **how: Any) -> None:
        if self.raises is not None:
            raise self.raises
        try:
            self.taken.append((b"".join(bytes(chunk) for chunk in data), how))
        except Exception as error:
            self.ended.append(error)
            raise
        if self.hold is not None:
            self.hold.wait(10)


@contextmanager
def listening(
    door: Door, *, limits: Limits | None = None, **config: Any
) -> Iterator[StorageReceiver]:
    receiver = StorageReceiver(door, ReceiverConfig(port=0, **config), limits=limits)  # type: ignore[arg-type]
    receiver.start()
    try:
        yield receiver
    finally:
        receiver.stop(drain_s=0)


def eventually(condition: Callable[[], bool], *, within_s: float = 10) -> bool:
    deadline_s = time.monotonic() + within_s
    while time.monotonic() < deadline_s:
        if condition():
            return True
        time.sleep(0.01)
    return False
