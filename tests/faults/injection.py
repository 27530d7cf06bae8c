"""Faults made from outside: errors of system calls by strace, and a small disk of one's own.

A disk is a tmpfs in a mount namespace that only a sleeping process has; through that process's
/proc/PID/root every other process can use it, and with its end the disk is gone.
"""

import re
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path

import pytest

MIB = 1 << 20
ATTACH_S = 20.0


# --- system calls


@cache
def _can_trace() -> bool:
    if shutil.which("strace") is None:
        return False
    command = ["strace", "-f", "-e", "trace=none", "true"]
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


needs_strace = pytest.mark.skipif(not _can_trace(), reason="strace is missing or not allowed")


@contextmanager
def injected(
    pid: int, calls: str, error: str, trace: Path, *, when: str = "1+", paths: Sequence[Path] = ()
) -> Iterator[None]:
    """Let `calls` (strace's names, by comma) of a running process fail with `error`.

    when: strace's `when=`: which of the calls, counted in each thread. paths: only calls on these.
    """
    rule = f"inject={calls}:error={error}:when={when}"
    narrowed = [word for path in paths for word in ("-P", str(path.resolve()))]
    with attached(pid, ["-e", f"trace={calls}", "-e", rule, *narrowed], trace):
        yield


@contextmanager
def attached(pid: int, options: Sequence[str], trace: Path) -> Iterator[None]:
    """Trace a running process with all its threads until the block ends; it lives on."""
    tracer = subprocess.Popen(
        ["strace", "-f", "-o", str(trace), *options, "-p", str(pid)],
        stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        _wait_until_traced(pid, tracer)
        yield
    finally:
        tracer.send_signal(signal.SIGINT)
        try:
            tracer.communicate(timeout=ATTACH_S)
        except subprocess.TimeoutExpired:
            tracer.kill()
            tracer.communicate()


def hits(trace: Path) -> int:
    """Count the calls that were made to fail."""
    return len(re.findall(r"\(INJECTED\)", trace.read_text("utf-8", "replace")))


def _wait_until_traced(pid: int, tracer: "subprocess.Popen[str]") -> None:
    deadline = time.monotonic() + ATTACH_S
    while time.monotonic() < deadline:
        if tracer.poll() is not None:
            assert tracer.stderr is not None
            raise AssertionError(f"strace ended: {tracer.stderr.read()}")
        statuses = (Path("/proc") / str(pid) / "task").glob("*/status")
        texts = [_read(path) for path in statuses]
        if all(f"TracerPid:\t{tracer.pid}\n" in text for text in texts if text):
            return
        time.sleep(0.02)
    raise AssertionError("strace did not come to trace all threads")


def _read(path: Path) -> str:
    with suppress(FileNotFoundError, ProcessLookupError):
        return path.read_text("utf-8")
    return ""


# --- a small disk


@cache
def _can_mount() -> bool:
    if shutil.which("unshare") is None or shutil.which("nsenter") is None:
        return False
    command = ["unshare", "--mount", "mount", "-t", "tmpfs", "tmpfs", "/mnt"]
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


needs_mounts = pytest.mark.skipif(not _can_mount(), reason="a mount namespace is not allowed here")


class SmallDisk:
    """A mounted file system of a few MiB."""

    def __init__(self, holder: int, mount: Path) -> None:
        self._holder = holder
        self._mount = mount
        self.path = Path(f"/proc/{holder}/root{mount}")

    @property
    def enter(self) -> list[str]:
        """The words before a command that shall see the disk at its mount."""
        return ["nsenter", "--mount", f"--target={self._holder}"]

    def resize(self, size_mib: int) -> None:
        self._mount_command("-o", f"remount,size={size_mib}m")

    def unmount(self) -> None:
        subprocess.run([*self.enter, "umount", str(self._mount)], check=True)

    def mount_again(self) -> None:
        """Mount an empty disk at the same place."""
        self._mount_command("-t", "tmpfs", "tmpfs")

    @contextmanager
    def read_only(self) -> Iterator[None]:
        """Let every new look at the disk find it read-only, as after the kernel's distrust."""
        self._mount_command("--bind", "-o", "ro", str(self._mount))
        try:
            yield
        finally:
            self.unmount()

    def _mount_command(self, *words: str) -> None:
        command = [*self.enter, "mount", *words, str(self._mount)]
        subprocess.run(command, check=True, capture_output=True)

    def free_mib(self) -> float:
        return shutil.disk_usage(self.path).free / MIB

    def fill(self, *, leave_mib: float = 0.0) -> Path:
        """Take all space but `leave_mib` by a file, which is returned."""
        ballast = self.path / "ballast"
        left = int((self.free_mib() - leave_mib) * MIB)
        with ballast.open("ab", buffering=0) as file, suppress(OSError):  # full: as was wanted
            while left > 0:
                left -= file.write(bytes(min(left, MIB)))
        return ballast


@contextmanager
def small_disk(mount: Path, *, size_mib: int) -> Iterator[SmallDisk]:
    """Mount a disk at `mount`, which is seen there by no other process; gone at the end."""
    mount.mkdir(parents=True, exist_ok=True)
    script = 'mount -t tmpfs -o "size=$1m,mode=700" tmpfs "$2" && echo && exec sleep infinity'
    holder = subprocess.Popen(
        ["unshare", "--mount", "sh", "-c", script, "sh", str(size_mib), str(mount)],
        stdout=subprocess.PIPE,
    )
    try:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"\n", "the disk was not mounted"
        yield SmallDisk(holder.pid, mount)
    finally:
        holder.kill()
        holder.communicate()
