"""A decoder process that dies, hangs or grows costs its own task and nothing else."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import CancelledError, Future
from pathlib import Path

import numpy as np
import pytest

from tests.assurance import requirement
from tests.dicom_files import gradient, make_dx, make_image, make_sr, write
from triage.errors import DecodeCrashed, DecodeError, DecodeUnsupported, StoreError
from triage.imaging.decode_pool import DecodedSubject, DecodePool, DecodeTask, _Ticket
from triage.imaging.subject import decode_subject
from triage.records import ViewSpec

SPEC = ViewSpec(rendering="dicom", size_px=64)
WIDE = ViewSpec(rendering="google-cxr", size_px=16)
SOON_S = 30.0


@pytest.fixture
def pool() -> Iterator[DecodePool]:
    with DecodePool(1, memory_mib=1024, timeout_s=20) as pool:
        yield pool


@pytest.fixture
def good(tmp_path: Path) -> DecodeTask:
    return DecodeTask(paths=(write(make_dx(), tmp_path / "good"),), specs=(SPEC, WIDE))


def children() -> set[int]:
    """Decoder processes of this process, by the kernel."""
    found = set()
    for task in Path("/proc/self/task").iterdir():
        for pid in (task / "children").read_text().split():
            command = Path(f"/proc/{pid}/cmdline").read_bytes()
            if b"triage.imaging.decode_process" in command:
                found.add(int(pid))
    return found


def fifo_task(directory: Path) -> DecodeTask:
    """A file that never answers: opening it blocks for ever."""
    path = directory / "hanging"
    os.mkfifo(path)
    return DecodeTask(paths=(path,), specs=(SPEC,))


def wait_until_blocked(pid: int) -> None:
    deadline = time.monotonic() + SOON_S
    while time.monotonic() < deadline:
        syscall = Path(f"/proc/{pid}/wchan").read_text()
        if "fifo" in syscall or "wait_for_partner" in syscall or "pipe" in syscall:
            return
        time.sleep(0.01)
    pytest.fail("the decoder never opened the file")


def has_ended(pid: int) -> bool:
    """Wait until the kernel has done with the process, reaped or not."""
    deadline = time.monotonic() + SOON_S
    while time.monotonic() < deadline:
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except (FileNotFoundError, ProcessLookupError):
            return True
        if state in "ZX":
            return True
        time.sleep(0.01)
    return False


def test_the_pool_gives_what_decoding_in_this_process_gives(
    pool: DecodePool, good: DecodeTask
) -> None:
    result, expected = pool.submit(good).result(SOON_S), decode_subject(good)
    for spec in good.specs:
        np.testing.assert_array_equal(result.views[spec], expected.views[spec])
    assert result.view_digests == expected.view_digests
    assert result.pixel_digests == expected.pixel_digests
    assert result.facts == expected.facts


def test_errors_arrive_as_they_were_raised(pool: DecodePool, tmp_path: Path) -> None:
    short = make_dx()
    short.PixelData = short.PixelData[:100]
    cases = [
        (write(short, tmp_path / "short"), DecodeError, "cut short"),
        (write(make_sr(), tmp_path / "sr"), DecodeUnsupported, "no pixel data"),
        (tmp_path / "absent", StoreError, "cannot be read"),
    ]
    before = None
    for path, kind, message in cases:
        error = pool.submit(DecodeTask(paths=(path,), specs=(SPEC,))).exception(SOON_S)
        assert type(error) is kind
        assert message in str(error)
        before = before or children()
        assert children() == before  # the process goes on


def test_the_process_has_started_before_the_first_task_comes(pool: DecodePool) -> None:
    deadline = time.monotonic() + SOON_S
    while not children() and time.monotonic() < deadline:
        time.sleep(0.01)
    assert len(children()) == 1


def test_what_is_urgent_is_decoded_before_what_waited_longer(
    pool: DecodePool, good: DecodeTask, tmp_path: Path
) -> None:
    pool.submit(good).result(SOON_S)
    (pid,) = children()
    order: list[str] = []
    hanging = pool.submit(fifo_task(tmp_path))
    wait_until_blocked(pid)
    waiting = []
    for name, rank in (("routine", 3), ("routine too", 3), ("urgent", 0)):
        future = pool.submit(good, rank=rank)
        future.add_done_callback(lambda _, name=name: order.append(name))  # type: ignore[misc]
        waiting.append(future)
    os.kill(pid, signal.SIGKILL)
    for future in waiting:
        future.result(SOON_S)
    assert isinstance(hanging.exception(SOON_S), DecodeCrashed)
    assert order == ["urgent", "routine", "routine too"]


def test_a_task_knows_how_long_its_process_took(pool: DecodePool, good: DecodeTask) -> None:
    begun = time.monotonic()
    decoded = pool.submit(good).result(SOON_S)
    assert 0 < decoded.decode_s <= time.monotonic() - begun


@requirement("Q3")
def test_a_killed_decoder_costs_its_task_and_is_replaced(
    pool: DecodePool, good: DecodeTask, tmp_path: Path
) -> None:
    pool.submit(good).result(SOON_S)
    (pid,) = children()
    poison, bystander = pool.submit(fifo_task(tmp_path)), pool.submit(good)
    wait_until_blocked(pid)
    os.kill(pid, signal.SIGSEGV)
    with pytest.raises(DecodeCrashed, match=f"signal {signal.SIGSEGV.value}"):
        poison.result(SOON_S)
    assert bystander.result(SOON_S).views[SPEC].shape == (1, 1, 64, 64)
    assert pid not in children()


def test_a_decoder_killed_while_idle_costs_nothing(pool: DecodePool, good: DecodeTask) -> None:
    pool.submit(good).result(SOON_S)
    (pid,) = children()
    os.kill(pid, signal.SIGKILL)
    assert has_ended(pid)
    assert pool.submit(good).result(SOON_S)


@requirement("Q3")
def test_a_hanging_decoder_is_ended_at_the_deadline(good: DecodeTask, tmp_path: Path) -> None:
    with DecodePool(2, timeout_s=3.0) as pool:
        pool.submit(good).result(SOON_S)
        poison = pool.submit(fifo_task(tmp_path))
        bystanders = [pool.submit(good) for _ in range(4)]
        assert all(f.result(SOON_S) for f in bystanders)  # the other process goes on
        with pytest.raises(DecodeCrashed, match="longer than 3 seconds"):
            poison.result(SOON_S)
        assert pool.submit(good).result(SOON_S)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_thread_that_ends_by_itself_makes_the_pool_a_failed_one(good: DecodeTask) -> None:
    class Without(Future[DecodedSubject]):
        """Cannot be answered, as where no memory is left."""

        def set_result(self, result: object) -> None:
            raise MemoryError

        set_exception = set_result

    with DecodePool(1, timeout_s=SOON_S) as pool:
        assert pool.submit(good).result(SOON_S)
        assert not pool.failed
        pool._tickets.put((0, 0, _Ticket(good, Without())))
        pool._threads[0].join(SOON_S)
        assert pool.failed
    assert not pool.failed


@requirement("Q3")
@requirement("M1")
def test_a_decoder_out_of_memory_costs_its_task_only(good: DecodeTask, tmp_path: Path) -> None:
    heavy = write(make_dx(np.zeros((7000, 7000), np.uint16)), tmp_path / "heavy")
    with DecodePool(1, memory_mib=320, timeout_s=60) as pool:
        poison = pool.submit(DecodeTask(paths=(heavy,), specs=(SPEC,)))
        bystander = pool.submit(good)
        with pytest.raises(DecodeCrashed, match="memory"):
            poison.result(60)
        assert bystander.result(SOON_S)


def test_non_finite_pixels_come_back_as_a_fact(pool: DecodePool, tmp_path: Path) -> None:
    pixels = np.full((8, 8), np.nan, np.float32)
    path = write(make_image(pixels), tmp_path / "nan")
    result = pool.submit(DecodeTask(paths=(path,), specs=(SPEC,))).result(SOON_S)
    assert not result.facts.finite
    assert np.isfinite(result.views[SPEC]).all()


def test_many_tasks_from_one_pool_keep_to_their_futures(tmp_path: Path) -> None:
    paths = [
        write(make_dx(np.full((8, 8), i, np.uint16), RescaleSlope="1", RescaleIntercept="0"), p)
        for i, p in ((i, tmp_path / f"{i}") for i in range(40))
    ]
    with DecodePool(2) as pool:
        futures = [pool.submit(DecodeTask(paths=(p,))) for p in paths]
        assert [f.result(SOON_S).facts.maximum for f in futures] == list(map(float, range(40)))


def test_closing_cancels_what_waits_and_ends_what_runs(tmp_path: Path, good: DecodeTask) -> None:
    pool = DecodePool(1, timeout_s=600)
    pool.submit(good).result(SOON_S)
    (pid,) = children()
    running, waiting = pool.submit(fifo_task(tmp_path)), pool.submit(good)
    wait_until_blocked(pid)
    pool.close()
    with pytest.raises(DecodeCrashed):
        running.result(SOON_S)
    with pytest.raises(CancelledError):
        waiting.result(SOON_S)
    assert not children()
    with pytest.raises(RuntimeError, match="closed"):
        pool.submit(good)


def test_nothing_is_left_open_after_many_tasks(pool: DecodePool, good: DecodeTask) -> None:
    pool.submit(good).result(SOON_S)
    before = len(list(Path("/proc/self/fd").iterdir()))
    for future in [pool.submit(good) for _ in range(20)]:
        future.result(SOON_S)
    assert len(list(Path("/proc/self/fd").iterdir())) == before


def test_an_unknown_rendering_is_refused_at_once(pool: DecodePool, good: DecodeTask) -> None:
    unknown = DecodeTask(paths=good.paths, specs=(ViewSpec(rendering="pretty", size_px=64),))
    with pytest.raises(ValueError, match="pretty"):
        pool.submit(unknown)


# --- confinement


def test_the_decoder_has_no_secrets_no_gpu_and_bounded_memory(
    pool: DecodePool, good: DecodeTask, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TRIAGE_DATABASE__URL", "postgresql://triage:secret@host/triage")
    pool.submit(good).result(SOON_S)
    (pid,) = children()
    environment = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    assert b"CUDA_VISIBLE_DEVICES=" in environment
    assert not [entry for entry in environment if b"secret" in entry]
    limits = Path(f"/proc/{pid}/limits").read_text()
    assert str(1024 << 20) in limits.partition("Max address space")[2].splitlines()[0]
    status = Path(f"/proc/{pid}/status").read_text()
    assert "NoNewPrivs:\t1" in status


def test_the_decoder_imports_neither_models_nor_databases(
    pool: DecodePool, good: DecodeTask
) -> None:
    pool.submit(good).result(SOON_S)
    (pid,) = children()
    mapped = Path(f"/proc/{pid}/maps").read_text()
    assert "numpy" in mapped
    for heavy in ("torch", "sqlalchemy", "tokenizers"):
        assert f"/{heavy}/" not in mapped
    script = (
        "import sys, triage.imaging.decode_process, triage.imaging.subject; print(*sys.modules)"
    )
    loaded = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    ).stdout.split()
    assert not {"torch", "transformers", "sqlalchemy", "pynetdicom"} & set(loaded)


def test_the_decoder_is_shut_off_the_network_where_the_kernel_allows(
    pool: DecodePool, good: DecodeTask
) -> None:
    allowed = subprocess.run(["unshare", "-Urn", "true"], capture_output=True, check=False)
    pool.submit(good).result(SOON_S)
    (pid,) = children()
    own = Path("/proc/self/ns/net").readlink()
    apart = Path(f"/proc/{pid}/ns/net").readlink() != own
    assert apart is (allowed.returncode == 0)


def test_the_decoder_dies_with_its_parent(tmp_path: Path) -> None:
    path = write(make_dx(gradient()), tmp_path / "x")
    script = (
        "import sys, time; from pathlib import Path;"
        "from triage.imaging.decode_pool import DecodePool, DecodeTask;"
        "pool = DecodePool(1);"
        "pool.submit(DecodeTask(paths=(Path(sys.argv[1]),))).result();"
        "print(next(iter(pool._decoders))._process.pid, flush=True);"
        "time.sleep(600)"
    )
    parent = subprocess.Popen(
        [sys.executable, "-c", script, str(path)], stdout=subprocess.PIPE, text=True
    )
    assert parent.stdout is not None
    with parent.stdout as stdout:
        pid = int(stdout.readline())
    parent.kill()
    parent.wait()
    assert has_ended(pid)
