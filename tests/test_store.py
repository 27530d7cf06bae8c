"""What the store was given is on disk, whole and under its digest, or nothing is."""

import errno
import hashlib
import os
import resource
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.assurance import requirement
from triage.errors import OutOfSpace, StoreError
from triage.store import MIB, PIECE_BYTES, Draft, Store, open_store


def digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def put(store: Store, data: bytes) -> str:
    staged = store.stage([data], digest=digest(data))
    store.commit([staged])
    return staged.path


def files_below(path: Path) -> list[Path]:
    return sorted(file for file in path.rglob("*") if file.is_file())


def test_a_committed_object_stands_under_its_digest_with_its_bytes(store: Store) -> None:
    staged = store.stage([b"pre", memoryview(b"amble")], digest=digest(b"x"))
    store.commit([staged])
    path = store.resolve(staged.path)
    assert staged.path == f"objects/{digest(b'x')[:2]}/{digest(b'x')}.dcm"
    assert path.read_bytes() == b"preamble"
    assert staged.size_bytes == 8


@requirement("P1")
def test_nothing_is_readable_by_others(store: Store) -> None:
    path = store.resolve(put(store, b"secret"))
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    for directory in (path.parent, store.root, store.root / "incoming"):
        assert stat.S_IMODE(directory.stat().st_mode) == 0o700


def test_a_staged_object_has_no_place_until_it_is_committed(store: Store) -> None:
    staged = store.stage([b"data"], digest=digest(b"data"))
    assert files_below(store.root / "objects") == []
    store.discard(staged)
    assert files_below(store.root) == []


def test_the_same_object_twice_is_one_file(store: Store) -> None:
    assert put(store, b"data") == put(store, b"data")
    assert len(files_below(store.root / "objects")) == 1


@requirement("G7")
def test_a_failing_source_leaves_nothing_behind(store: Store) -> None:
    def chunks() -> Iterator[bytes]:
        yield b"half"
        raise RuntimeError("sender gone")

    with pytest.raises(RuntimeError, match="sender gone"):
        store.stage(chunks(), digest=digest(b"half"))
    assert files_below(store.root) == []


@requirement("S1")
@pytest.mark.parametrize(
    "path",
    [
        "../outside.dcm",
        "objects/../../etc/passwd",
        "/etc/passwd",
        "objects/aa/" + "b" * 64 + ".dcm",
        "objects/aa/" + "a" * 64 + ".dcm\n",
        "incoming/aa/" + "a" * 64 + ".dcm",
    ],
)
def test_a_path_that_the_store_did_not_give_is_refused(store: Store, path: str) -> None:
    with pytest.raises(StoreError):
        store.resolve(path)


def test_a_digest_cannot_be_a_path(store: Store) -> None:
    with pytest.raises(ValueError, match="digest"):
        store.stage([b""], digest="../../x")


@requirement("N2")
def test_space_is_refused_before_it_runs_out(tmp_path: Path) -> None:
    store = open_store(tmp_path, minimum_free_mib=0)
    free_mib = store.free_mib()
    store.minimum_free_mib = free_mib - 100
    store.check_space(10 * 1024 * 1024)
    with pytest.raises(OutOfSpace, match="margin"):
        store.check_space(200 * 1024 * 1024)


def test_a_write_that_fails_half_way_leaves_nothing(tmp_path: Path) -> None:
    """The limit of a file's size makes the second write fail."""
    script = f"""
import resource, signal
from pathlib import Path
from triage.errors import StoreError
from triage.store import open_store
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
store = open_store(Path({str(tmp_path)!r}), minimum_free_mib=0)
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, resource.RLIM_INFINITY))
try:
    store.stage([bytes(5000)], digest="a" * 64)
except StoreError as error:
    print(type(error).__name__)
assert not list(store.root.rglob("*.part")), "a half-written file was left"
"""
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout.strip() == "StoreError"


def break_off(draft: Draft, target: str, flags: int) -> None:
    """Let the draft's descriptor lead elsewhere, so that the kernel itself refuses."""
    other = os.open(target, flags)
    os.dup2(other, draft._descriptor)
    os.close(other)


@requirement("D3")
def test_no_space_does_not_put_the_store_out_of_service(store: Store) -> None:
    with store.draft() as draft:
        draft.append(b"half")
        break_off(draft, "/dev/full", os.O_WRONLY)
        with pytest.raises(OutOfSpace):
            draft.append(b"more")
    assert store.fault == ""
    assert files_below(store.root) == []
    put(store, b"after")


def test_a_refusal_before_anything_is_written_can_be_mended(store: Store) -> None:
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (1, limits[1]))
    try:
        with pytest.raises(StoreError, match="Too many open files"):
            store.stage([b"x"], digest=digest(b"x"))
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    put(store, b"after")


def is_out_of_service(store: Store) -> bool:
    with pytest.raises(StoreError, match="out of service"):
        store.stage([b"more"], digest=digest(b"more"))
    with pytest.raises(StoreError, match="out of service"):
        store.check_space(0)
    return store.fault != ""


@requirement("D3")
def test_a_failed_write_puts_the_store_out_of_service_for_good(store: Store) -> None:
    with store.draft() as draft:
        break_off(draft, "/dev/null", os.O_RDONLY)
        with pytest.raises(StoreError):
            draft.append(b"data")
    assert is_out_of_service(store)


@requirement("D3")
def test_a_failed_sync_puts_the_store_out_of_service_for_good(store: Store) -> None:
    with store.draft() as draft:
        draft.append(b"data")
        break_off(draft, "/dev/null", os.O_WRONLY)  # takes every write, cannot be synced
        with pytest.raises(StoreError):
            draft.stage(digest(b"data"))
    assert is_out_of_service(store)
    assert files_below(store.root) == []


@pytest.mark.parametrize("error", [ConnectionError("gone"), OSError(errno.EIO, "its disk")])
def test_an_error_of_the_source_is_not_one_of_the_store(store: Store, error: OSError) -> None:
    def chunks() -> Iterator[bytes]:
        yield b"half"
        raise error

    with pytest.raises(OSError) as caught:  # noqa: PT011
        store.stage(chunks(), digest=digest(b"half"))
    assert caught.value is error
    assert store.fault == ""
    assert files_below(store.root) == []


def test_the_beginning_of_a_draft_can_be_written_last(store: Store) -> None:
    with store.draft(offset=4) as draft:
        for chunk in (b"da", memoryview(b"ta"), bytearray(b"!")):
            draft.append(chunk)
        assert draft.read(100, 4) == b"data!"
        draft.write_at(0, b"HEAD")
        staged = draft.stage(digest(b"x"))
    store.commit([staged])
    assert b"".join(map(bytes, store.pieces(staged.path))) == b"HEADdata!"
    assert staged.size_bytes == 9


def test_a_draft_that_is_not_staged_is_gone(store: Store) -> None:
    with store.draft() as draft:
        draft.append(b"data")
        assert len(files_below(store.root / "incoming")) == 1
    assert files_below(store.root) == []


def test_the_margin_is_looked_at_while_a_large_file_is_written(store: Store) -> None:
    with store.draft() as draft:
        draft.append(bytes(MIB))
        store.minimum_free_mib = store.free_mib() + 1000
        for _ in range(3):
            draft.append(bytes(MIB))
        with pytest.raises(OutOfSpace, match="margin"):
            draft.append(bytes(MIB))
    assert files_below(store.root) == []


def test_a_stored_file_is_read_in_pieces(store: Store) -> None:
    data = os.urandom(PIECE_BYTES + 1000)
    lengths = [len(piece) for piece in store.pieces(put(store, data))]
    assert lengths == [PIECE_BYTES, 1000]


def test_a_stored_file_that_is_gone_is_told_as_such(store: Store) -> None:
    path = put(store, b"data")
    store.delete(path)
    with pytest.raises(FileNotFoundError):
        list(store.pieces(path))


def test_quarantine_keeps_each_content_once(store: Store) -> None:
    for _ in range(2):
        staged = store.stage_aside([b"odd"], digest=digest(b"odd"))
        store.commit([staged])
    assert list(store.quarantine_paths()) == [staged.path]
    assert list(store.object_paths()) == []
    assert store.resolve(staged.path).read_bytes() == b"odd"
    store.delete(staged.path)
    assert files_below(store.root / "quarantine") == []


def test_object_paths_are_in_order_and_can_be_resumed(store: Store) -> None:
    paths = sorted(put(store, bytes([number])) for number in range(20))
    (store.root / "objects" / "aa" / "stray.txt").write_text("not ours")
    assert list(store.object_paths()) == paths
    for number in range(20):
        assert list(store.object_paths(after=paths[number])) == paths[number + 1 :]


def test_leftovers_of_a_dead_writer_are_swept_and_those_of_a_living_one_stay(store: Store) -> None:
    script = (
        "import os; from pathlib import Path; from triage.store import open_store;"
        f"s = open_store(Path({str(store.root)!r}), minimum_free_mib=0);"
        "s.stage([b'x'], digest='a' * 64); os._exit(9)"
    )
    subprocess.run([sys.executable, "-c", script], check=False, timeout=60)
    other = open_store(store.root, minimum_free_mib=0)
    writers = (store, other)
    staged = [writer.stage([b"mine"], digest=digest(b"mine")) for writer in writers]
    assert store.sweep_leftovers() == 1
    for writer, item in zip(writers, staged, strict=True):
        writer.commit([item])
    other.close()
    assert store.sweep_leftovers() == 0


def test_a_store_that_cannot_be_made_says_so(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(StoreError, match="cannot be opened"):
        open_store(tmp_path / "file" / "store", minimum_free_mib=0)


def test_directories_that_vanish_are_made_again(store: Store) -> None:
    path = store.resolve(put(store, b"data"))
    path.unlink()
    path.parent.rmdir()
    put(store, b"data")
    assert path.exists()


def test_a_file_that_cannot_be_removed_does_not_hide_why_it_should_be(store: Store) -> None:
    """A disk that turns read-only refuses the write, and then the removal of what was written."""
    staged = store.stage([b"data"], digest=digest(b"data"))

    def refused() -> None:
        with store.draft() as draft:
            for temporary in (draft.temporary, staged.temporary):
                temporary.unlink()
                temporary.mkdir()
            raise OutOfSpace("the file system is full")

    with pytest.raises(OutOfSpace):
        refused()
    store.discard(staged)
    assert store.fault == ""
