"""A file of a watched folder is read in pieces, and only if it is as it was when it was found."""

import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

from tests.assurance import requirement
from triage.ingest.files import (
    SourceChanged,
    chunks_of,
    delete_inside,
    files_below,
    move_inside,
    open_source,
    span_of,
    stamp_of,
)
from triage.ingest.stability import Candidate
from triage.store import MIB


@pytest.fixture
def found(tmp_path: Path) -> Candidate:
    path = tmp_path / "object.dcm"
    path.write_bytes(os.urandom(2 * MIB + 10))
    stamp = stamp_of(path)
    assert stamp is not None
    return Candidate(path=path, stamp=stamp, unchanged_since_s=0.0, closed=True)


def read(found: Candidate, meanwhile: Callable[[Path], object] = lambda path: None) -> bytes:
    """Read a file; after its first piece `meanwhile` happens to it."""

    def pieces() -> Iterator[bytes]:
        with open_source(found, found.path.parent) as source:
            for number, chunk in enumerate(chunks_of(source, found)):
                assert len(chunk) <= MIB
                yield bytes(chunk)
                if number == 0:
                    meanwhile(found.path)

    return b"".join(pieces())


def test_an_unchanged_file_is_read_to_its_end(found: Candidate) -> None:
    assert read(found) == found.path.read_bytes()


def grow(path: Path) -> None:
    with path.open("ab") as file:
        file.write(b"more")


def overwrite(path: Path) -> None:
    with path.open("r+b") as file:
        file.write(b"other")
    os.utime(path, ns=(1, 1))


CHANGES: dict[str, Callable[[Path], object]] = {
    "grown": grow,
    "cut": lambda path: os.truncate(path, MIB + 5),
    "emptied": lambda path: os.truncate(path, 0),
    "overwritten": overwrite,
}


@requirement("G4")
@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_a_file_that_changes_while_it_is_read_is_told(
    found: Candidate, change: Callable[[Path], object]
) -> None:
    with pytest.raises(SourceChanged):
        read(found, change)


def test_a_file_that_changed_before_it_was_read_is_told(found: Candidate) -> None:
    grow(found.path)
    with pytest.raises(SourceChanged):
        read(found)


def test_a_link_is_not_followed(found: Candidate, tmp_path: Path) -> None:
    link = tmp_path / "link.dcm"
    link.symlink_to(found.path)
    with pytest.raises(OSError):  # noqa: PT011
        open_source(
            Candidate(path=link, stamp=found.stamp, unchanged_since_s=0.0, closed=True), tmp_path
        )


def test_a_file_that_is_cut_while_it_is_looked_at_gives_fewer_bytes(found: Candidate) -> None:
    with open_source(found, found.path.parent) as source:
        span = span_of(source, found)
        assert len(span) == found.stamp.size_bytes
        os.truncate(found.path, MIB)
        assert span[MIB - 1 : MIB + 10] == found.path.read_bytes()[-1:]
        assert span[2 * MIB :] == b""
        assert bytes(span.after(10)[:5]) == found.path.read_bytes()[10:15]


def test_a_link_on_the_way_to_a_file_is_not_followed(found: Candidate, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "away").symlink_to(tmp_path)
    through = replace(found, path=tmp_path / "in" / "away" / found.path.name)
    for leave in (open_source, delete_inside, partial(move_inside, name=".done")):
        with pytest.raises(OSError):  # noqa: PT011
            leave(through, root=tmp_path / "in")
    assert found.path.exists()


def test_nothing_is_moved_out_of_a_folder_through_a_link(tmp_path: Path) -> None:
    root, outside = tmp_path / "in", tmp_path / "outside"
    root.mkdir()
    outside.mkdir()
    (root / ".done").symlink_to(outside)
    path = root / "a.dcm"
    path.write_bytes(b"a")
    stamp = stamp_of(path)
    assert stamp is not None
    with pytest.raises(OSError):  # noqa: PT011
        move_inside(
            Candidate(path=path, stamp=stamp, unchanged_since_s=0.0, closed=True), root, ".done"
        )
    assert path.exists()
    assert list(outside.iterdir()) == []


def test_a_file_that_is_listed_but_cannot_be_looked_at_is_told(tmp_path: Path) -> None:
    name = "d" * 250
    directory, place = tmp_path, os.open(tmp_path, os.O_RDONLY)
    while len(str(directory / name)) < 4096:  # a file below has a path longer than the kernel takes
        os.mkdir(name, dir_fd=place)
        above, place = place, os.open(name, os.O_RDONLY, dir_fd=place)
        os.close(above)
        directory /= name
    os.close(os.open(name, os.O_CREAT, dir_fd=place))
    os.close(place)
    (tmp_path / "seen.dcm").write_bytes(b"a")
    unreadable: dict[Path, str] = {}
    assert [path.name for path, _ in files_below(tmp_path, unreadable)] == ["seen.dcm"]
    assert unreadable == {directory / name: "File name too long"}
    shutil.rmtree(tmp_path / name)
