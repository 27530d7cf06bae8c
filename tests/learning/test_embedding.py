"""Each view is embedded once, whatever happens in between; what cannot be is told with its row."""

import fcntl
import io
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.dicom_files import make_dx, write
from tests.learning.embedders import Counting, film_row, films, lens_with
from triage.errors import DeviceFault, PermanentError, TriageError
from triage.learning.material.embedding import embed_rows
from triage.learning.material.embedding_set import FEW_SHARDS, EmbeddingSet, load_embedding_set
from triage.learning.material.labels import LabelError
from triage.learning.progress import Progress
from triage.records import ViewSpec
from triage.worker.models import Encoded, View

ROOT = Path(__file__).parents[2]
KILLED_IN_THE_THIRD_BATCH = """
import os, signal, sys
from pathlib import Path
from tests.learning.embedders import Counting, film_row, lens_with
from triage.learning.material.embedding import embed_rows

class Doomed(Counting):
    def __call__(self, views):
        if len(self.asked) == 2:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().__call__(views)

images, out = map(Path, sys.argv[1:])
rows = [film_row(f"{number}.png", number + 2) for number in range(10)]
embed_rows(rows, images, lens_with(Doomed()), out, batch_size=3)
"""


def assert_same(first: EmbeddingSet, second: EmbeddingSet) -> None:
    for one, other in zip(first.vectors, second.vectors, strict=True):
        np.testing.assert_array_equal(one, other)
    said = [(s.subjects, s.parts, s.keys, s.scope, s.left_out) for s in (first, second)]
    assert said[0] == said[1]


@pytest.fixture
def images(tmp_path: Path) -> Path:
    directory = tmp_path / "images"
    directory.mkdir()
    return directory


def test_a_killed_run_goes_on_where_it_stopped_and_ends_equal(images: Path, tmp_path: Path) -> None:
    rows = films(images, 10)
    ended = subprocess.run(
        [sys.executable, "-c", KILLED_IN_THE_THIRD_BATCH, str(images), str(tmp_path / "out")],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        check=False,
        timeout=120,
    )
    assert ended.returncode == -signal.SIGKILL
    encode, fresh = Counting(), Counting()
    resumed = embed_rows(rows, images, lens_with(encode), tmp_path / "out", batch_size=3)
    whole = embed_rows(rows, images, lens_with(fresh), tmp_path / "other", batch_size=3)
    assert (sum(encode.asked), sum(fresh.asked)) == (4, 10)  # two batches of three were kept
    assert_same(resumed, whole)
    assert_same(load_embedding_set(tmp_path / "out"), whole)


def test_a_second_run_computes_nothing_and_a_longer_table_only_what_is_new(
    images: Path, tmp_path: Path
) -> None:
    rows, encode = films(images, 7), Counting()
    embed_rows(rows[:5], images, lens_with(encode), tmp_path / "out")
    embed_rows(rows[:5], images, lens_with(encode), tmp_path / "out")
    assert sum(encode.asked) == 5
    longer = embed_rows(rows, images, lens_with(encode), tmp_path / "out")
    assert sum(encode.asked) == 7
    assert longer.subjects == tuple(row.subject for row in rows)


def test_views_are_embedded_in_batches_and_one_that_occurs_twice_once(
    images: Path, tmp_path: Path
) -> None:
    rows, encode = films(images, 8), Counting()
    (images / "7.png").write_bytes((images / "0.png").read_bytes())
    made = embed_rows(rows, images, lens_with(encode), tmp_path / "out", batch_size=4)
    assert max(encode.asked) <= 4
    assert sum(encode.asked) == 7
    np.testing.assert_array_equal(made.vectors[0], made.vectors[7])


def test_a_file_that_has_changed_is_embedded_again(images: Path, tmp_path: Path) -> None:
    rows, encode = films(images, 3), Counting()
    first = embed_rows(rows, images, lens_with(encode), tmp_path / "out")
    Image.fromarray(np.full((20, 20), 77, np.uint8)).save(images / "1.png")
    second = embed_rows(rows, images, lens_with(encode), tmp_path / "out")
    assert sum(encode.asked) == 4
    assert not np.array_equal(first.vectors[1], second.vectors[1])
    np.testing.assert_array_equal(first.vectors[2], second.vectors[2])


def test_an_image_that_cannot_be_read_is_left_out_with_its_row_and_no_other(
    images: Path, tmp_path: Path
) -> None:
    rows = films(images, 4)
    (images / "1.png").write_bytes(b"\x89PNG\r\n\x1a\nno picture")
    (images / "2.png").write_text("no image at all")
    Image.fromarray(np.full((20, 20), 255, np.uint8)).save(images / "3.png")
    made = embed_rows(rows, images, lens_with(Counting()), tmp_path / "out")
    assert made.subjects == ("0.png",)
    assert [left.line for left in made.left_out] == [3, 4, 5]
    assert made.left_out[2].reason == "too bright"
    assert not any("png" in left.reason for left in made.left_out)


def test_a_row_that_was_left_out_is_tried_again(images: Path, tmp_path: Path) -> None:
    rows = films(images, 2)
    whole = (images / "1.png").read_bytes()
    (images / "1.png").write_bytes(whole[:40])
    first = embed_rows(rows, images, lens_with(Counting()), tmp_path / "out")
    (images / "1.png").write_bytes(whole)
    second = embed_rows(rows, images, lens_with(Counting()), tmp_path / "out")
    assert (len(first.left_out), second.left_out) == (1, ())


def test_a_missing_file_ends_the_run_before_it_begins_unless_it_may_be_left_out(
    images: Path, tmp_path: Path
) -> None:
    rows = [*films(images, 2), film_row("absent.png", 9)]
    encode = Counting()
    with pytest.raises(LabelError, match="row 9"):
        embed_rows(rows, images, lens_with(encode), tmp_path / "out")
    assert encode.asked == []
    made = embed_rows(rows, images, lens_with(encode), tmp_path / "out", skip_unreadable=True)
    assert (len(made.subjects), [left.line for left in made.left_out]) == (2, [9])


def test_dicom_and_pictures_are_embedded_together_in_the_rows_order(
    images: Path, tmp_path: Path
) -> None:
    rows = films(images, 3)
    write(make_dx(), images / "1.png")  # what a file is, is told by its bytes
    made = embed_rows(rows, images, lens_with(Counting()), tmp_path / "out", batch_size=2)
    assert made.subjects == ("0.png", "1.png", "2.png")
    assert made.left_out == ()


def test_crops_are_views_of_their_subject(images: Path, tmp_path: Path) -> None:
    spec = ViewSpec(rendering="dicom", size_px=16, crops=2)
    made = embed_rows(films(images, 2), images, lens_with(Counting(), spec=spec), tmp_path / "out")
    assert [vectors.shape for vectors in made.vectors] == [(5, 3), (5, 3)]
    assert made.parts == ((5,), (5,))
    assert [len(part) for part in made.divided(0)] == [5]


def test_embeddings_of_two_encoders_are_never_mixed(images: Path, tmp_path: Path) -> None:
    rows = films(images, 2)
    embed_rows(rows, images, lens_with(Counting()), tmp_path / "out")
    with pytest.raises(PermanentError, match="another encoder"):
        embed_rows(rows, images, lens_with(Counting(), scope="other"), tmp_path / "out")


def test_a_directory_of_something_else_is_not_written_to(images: Path, tmp_path: Path) -> None:
    rows = films(images, 1)
    with pytest.raises(PermanentError, match="something else"):
        embed_rows(rows, images, lens_with(Counting()), images)
    assert sorted(path.name for path in images.iterdir()) == ["0.png"]


def test_two_runs_do_not_write_to_one_directory(images: Path, tmp_path: Path) -> None:
    rows, out = films(images, 1), tmp_path / "out"
    embed_rows(rows, images, lens_with(Counting()), out)
    with (out / "lock").open() as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        with pytest.raises(PermanentError, match="another run"):
            embed_rows(rows, images, lens_with(Counting()), out)


def test_a_device_that_fails_ends_the_run_and_loses_nothing(images: Path, tmp_path: Path) -> None:
    class Failing(Counting):
        def __call__(self, views: Sequence[View]) -> list[Encoded | TriageError]:
            if len(self.asked) == 1:
                raise DeviceFault("the device failed")
            return super().__call__(views)

    rows, encode = films(images, 6), Counting()
    with pytest.raises(DeviceFault):
        embed_rows(rows, images, lens_with(Failing()), tmp_path / "out", batch_size=2)
    embed_rows(rows, images, lens_with(encode), tmp_path / "out", batch_size=2)
    assert sum(encode.asked) == 4


def test_many_small_files_are_joined_at_the_end(images: Path, tmp_path: Path) -> None:
    rows, out = films(images, FEW_SHARDS + 4), tmp_path / "out"
    made = embed_rows(rows, images, lens_with(Counting()), out, batch_size=1)
    assert len(list((out / "shards").iterdir())) == 1
    assert_same(load_embedding_set(out), made)
    encode = Counting()
    embed_rows(rows, images, lens_with(encode), out)
    assert encode.asked == []


def test_an_unfinished_directory_is_no_set_and_says_how_to_go_on(tmp_path: Path) -> None:
    with pytest.raises(PermanentError, match="no finished set") as raised:
        load_embedding_set(tmp_path)
    assert "goes on where it stopped" in raised.value.hint


@pytest.mark.parametrize("damage", [b"", b"\0" * 64, None])
def test_a_damaged_file_is_named_and_its_loss_costs_only_its_vectors(
    images: Path, tmp_path: Path, damage: bytes | None
) -> None:
    rows, out, encode = films(images, 4), tmp_path / "out", Counting()
    whole = embed_rows(rows, images, lens_with(encode), out, batch_size=2)
    shard = sorted((out / "shards").iterdir())[0]
    shard.write_bytes(shard.read_bytes()[:-4] if damage is None else damage)
    with pytest.raises(PermanentError, match=shard.name):
        load_embedding_set(out)
    with pytest.raises(PermanentError, match=shard.name):
        embed_rows(rows, images, lens_with(encode), out)
    shard.unlink()
    with pytest.raises(PermanentError, match="damaged"):
        load_embedding_set(out)
    assert_same(embed_rows(rows, images, lens_with(encode), out), whole)
    assert sum(encode.asked) == 6


def test_entries_are_found_by_subject_in_any_order(images: Path, tmp_path: Path) -> None:
    made = embed_rows(films(images, 3), images, lens_with(Counting()), tmp_path / "out")
    some = made.of(["2.png", "absent", "0.png"])
    assert some.subjects == ("2.png", "0.png")
    np.testing.assert_array_equal(some.vectors[0], made.vectors[2])


class Ticking:
    """A clock that moves by hand."""

    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_progress_is_plain_lines_now_and_then_where_nobody_watches() -> None:
    clock, stream = Ticking(), io.StringIO()
    with Progress("Embedding", 100, stream=stream, clock=clock) as progress:
        progress.advance(20, free=True)
        for _ in range(80):
            clock.now_s += 0.5
            progress.advance()
    lines = stream.getvalue().splitlines()
    assert lines[0] == "Embedding: 0 of 100"
    assert lines[1] == "Embedding: 40 of 100, about 30 s left"  # free ones do not count as work
    assert lines[-1] == "Embedding: 100 of 100 in 40 s"
    assert len(lines) == 6
    assert "\x1b" not in stream.getvalue()


def test_progress_is_one_line_that_is_drawn_again_on_a_terminal() -> None:
    clock, stream = Ticking(), Terminal()
    with Progress("Embedding", 2, stream=stream, clock=clock) as progress:
        clock.now_s += 1
        progress.advance()
    assert stream.getvalue().count("\n") == 1
    assert "[###############...............] Embedding: 1 of 2" in stream.getvalue()
