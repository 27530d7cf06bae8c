"""Which worker of this host a process is: the first slot that no other living one holds.

The slot picks the device, so two processes never load one model onto one device by accident. The
kernel drops the lock with the process, however it ends.
"""

import fcntl
import os
import socket
from contextlib import suppress
from pathlib import Path

from triage.errors import StoreError


class Slot:
    """A held slot; `number` counts from 0. Held until `close` or the end of the process."""

    def __init__(self, directory: Path, count: int) -> None:
        """Take one of `count` slots. Raises StoreError if all are held."""
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        host = "".join(c if c.isalnum() or c in "-." else "_" for c in socket.gethostname())
        for number in range(count):
            path = directory / f"analyse-{host}-{number}.lock"
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            with suppress(BlockingIOError):
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                self.number = number
                self._descriptor = descriptor
                return
            os.close(descriptor)
        raise StoreError(
            "another worker of this host serves every configured device",
            hint="Stop it first, or name more devices in [[models]].",
        )

    def close(self) -> None:
        os.close(self._descriptor)
