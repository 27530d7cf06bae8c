"""Two senders at once, and one object of 2 GiB: what must neither collapse nor fill the memory."""

import itertools
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from tests.benchmarks import sending
from tests.benchmarks.measuring import (
    Conditions,
    Note,
    Row,
    at_least,
    at_most,
    by_turns,
    configuration,
    daemon,
    free_port,
    need,
    ratio,
    say,
)

TITLE = "Two senders at once, and one large object"
CT_IMAGES = 800  # 400 MB, which one sender takes as long for
DX_IMAGES = 80  # as for these 800 MB
JOINS_AFTER_S = 0.1
FRAMES = 4096  # 2 GiB
GROWTH_MIB = 300.0
PATIENCE_S = 900.0
RESET_PEAK = "5"  # written to /proc/PID/clear_refs: VmHWM begins again


def measure(conditions: Conditions) -> Iterator[Row | Note]:
    """Yield MB per second of one and two senders, MiB of growth for one large object."""
    need("dcmsend", package="dcmtk")
    yield from _two_senders(conditions)
    yield from _large_object(conditions)


def _two_senders(conditions: Conditions) -> Iterator[Row]:
    """The same objects from one sender and from two, whichever of them begins."""
    with conditions.folder() as folder:
        ct = sending.write_ct(folder / "ct", conditions.count(CT_IMAGES, least=8))
        dx = sending.write_dx(folder / "dx", conditions.count(DX_IMAGES, least=4))
        every = folder / "every"
        every.mkdir()
        for path in itertools.chain(ct.iterdir(), dx.iterdir()):
            (every / path.name).hardlink_to(path)
        halves = sending.split(every, folder / "halves", 2)
        sending.warm(every)
        one = "one sender: CT and DX"
        turn: dict[str, Callable[[], float]] = {
            one: partial(_mb_per_s, conditions, [every]),
            "two senders: CT and DX each": partial(_mb_per_s, conditions, halves),
            "two senders: DX joins CT": partial(_mb_per_s, conditions, [ct, dx], JOINS_AFTER_S),
            "two senders: CT joins DX": partial(_mb_per_s, conditions, [dx, ct], JOINS_AFTER_S),
        }
        say("  two senders")
        values = by_turns(turn, conditions)
    for name, each in values.items():
        against = (ratio(each, to="one sender", of=values[one], limit=at_least(0.9)),)
        yield Row(what=name, values=each, unit="MB/s", ratios=() if name == one else against)


def _mb_per_s(conditions: Conditions, shares: Sequence[Path], apart_s: float = 0.0) -> float:
    with conditions.folder() as folder:
        port = free_port()
        with daemon(configuration(folder, port), port, "receive"):
            took_s = sending.send(shares, port, apart_s=apart_s)
            sending.require_held(folder, sum(1 for share in shares for _ in share.iterdir()))
    return sending.size_bytes(*shares) / 1e6 / took_s


def _large_object(conditions: Conditions) -> Iterator[Row]:
    """The peak of the receiver's resident memory over what it was before."""
    with conditions.folder() as folder:
        frames = conditions.count(FRAMES, least=64)
        share = folder / "share"
        share.mkdir()
        path = sending.write_multi_frame(share / "large.dcm", frames)
        gib = path.stat().st_size / 2**30
        say(f"  one object of {gib:.2g} GiB")
        for door, bring in (("C-STORE", _by_c_store), ("watched folder", _by_folder)):
            with conditions.folder() as at:
                grown_mib, took_s = bring(at, path)
            what = f"one object of {gib:.2g} GiB by {door}"
            limit = at_most(GROWTH_MIB)
            yield Row(what=f"{what}: growth", values=(grown_mib,), unit="MiB", limit=limit)
            yield Row(what=f"{what}: rate", values=(gib * 2**30 / 1e6 / took_s,), unit="MB/s")


def _by_c_store(folder: Path, path: Path) -> tuple[float, float]:
    port = free_port()
    more = "maximum_object_mib = 4095\n"
    with _running(folder, port, more, "receive") as pid:
        before_mib = _begin_peak(pid)
        took_s = sending.send([path.parent], port)
        sending.require_held(folder / "store" / "objects", 1)
        return _peak_mib(pid) - before_mib, took_s


def _by_folder(folder: Path, path: Path) -> tuple[float, float]:
    watched = folder / "watched"
    watched.mkdir()
    port = free_port()
    more = f'maximum_object_mib = 4095\n[folders]\nwatch = ["{watched}"]\nstable_s = 1.0\n'
    with _running(folder, port, more, "receive", "watch") as pid:
        before_mib = _begin_peak(pid)
        (watched / path.name).hardlink_to(path)
        started = time.monotonic()
        while not any((folder / "store" / "objects").glob("*/*.dcm")):
            if time.monotonic() - started > PATIENCE_S:
                raise RuntimeError("the object in the watched folder was not taken in")
            time.sleep(0.05)
        return _peak_mib(pid) - before_mib, time.monotonic() - started


@contextmanager
def _running(folder: Path, port: int, more: str, *roles: str) -> Iterator[int]:
    config = configuration(folder, port)
    text = config.read_text("utf-8")
    config.write_text(text.replace(f"port = {port}\n", f"port = {port}\n{more}"), "utf-8")
    with daemon(config, port, *roles) as pid:
        yield pid


def _begin_peak(pid: int) -> float:
    """Let the peak of every process begin at what it holds now; return the sum in MiB."""
    time.sleep(1.0)  # what the start has still to load
    for each in _family(pid):
        Path(f"/proc/{each}/clear_refs").write_text(RESET_PEAK)
    return _peak_mib(pid)


def _peak_mib(pid: int) -> float:
    """Sum of the peaks of a process and its children: not less than their common peak."""
    return sum(_status_kib(each, "VmHWM") for each in _family(pid)) / 1024


def _family(pid: int) -> list[int]:
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [pid, *(each for child in children for each in _family(int(child)))]


def _status_kib(pid: int, key: str) -> int:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(f"{key}:"):
            return int(line.split()[1])
    raise RuntimeError(f"process {pid} tells no {key}")
