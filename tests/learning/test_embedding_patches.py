"""Tokens are kept where they were asked for, and never beyond the limit."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.learning.embedders import Counting, films, lens_with
from triage.errors import PermanentError, TriageError
from triage.learning.material.embedding import embed_rows
from triage.learning.material.lens import Lens
from triage.learning.material.patches import Patches, load_patches
from triage.worker.models import Encoded, View

TOKENS, WIDTH = 64, 512  # 64 KiB in float16


class Tokens(Counting):
    """Tokens that count up, beside the vector."""

    def __call__(self, views: Sequence[View]) -> list[Encoded | TriageError]:
        grid = torch.arange(TOKENS * WIDTH, dtype=torch.float32).reshape(TOKENS, WIDTH) / 1024
        return [
            each if isinstance(each, TriageError) else replace(each, features=grid)
            for each in super().__call__(views)
        ]


def token_lens(encode: Tokens) -> Lens:
    return replace(lens_with(encode), keeps_tokens=True)


@pytest.fixture
def images(tmp_path: Path) -> Path:
    directory = tmp_path / "images"
    directory.mkdir()
    return directory


def test_the_tokens_of_each_view_are_found_by_its_key(images: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    made = embed_rows(films(images, 3), images, token_lens(Tokens()), out, patch_mib=1)
    for (key,) in made.keys:
        tokens = load_patches(out, key)
        assert tokens.shape == (TOKENS, WIDTH)
        np.testing.assert_allclose(tokens.ravel()[-1], (TOKENS * WIDTH - 1) / 1024, rtol=1e-3)


def test_what_cannot_fit_is_refused_before_anything_is_computed(
    images: Path, tmp_path: Path
) -> None:
    encode = Tokens()
    rows = films(images, 20)  # 1.3 MiB of tokens
    with pytest.raises(PermanentError, match="patch features of 20 views take 2 MiB"):
        embed_rows(rows, images, token_lens(encode), tmp_path / "out", patch_mib=1)
    assert encode.asked == [1]  # one blank view, to learn the shape


def test_the_limit_holds_although_a_view_is_larger_than_thought(tmp_path: Path) -> None:
    patches = Patches(tmp_path, 1)
    big = np.full((256, 512), 1e6, np.float32)  # too large for float16: 512 KiB each
    patches.add("a", big)
    with pytest.raises(PermanentError, match="more than the 1 MiB of --patch-mib"):
        patches.add("b", big)
    assert sum(p.stat().st_size for p in (tmp_path / "patches").iterdir()) <= 1 << 20
    np.testing.assert_array_equal(load_patches(tmp_path, "a"), big)
    with pytest.raises(PermanentError, match="more than"):
        Patches(tmp_path, 1).add("c", big)  # what an earlier run kept counts


def test_vectors_that_are_known_are_computed_again_only_for_tokens_that_are_not(
    images: Path, tmp_path: Path
) -> None:
    rows, out, encode = films(images, 3), tmp_path / "out", Tokens()
    plain = embed_rows(rows, images, lens_with(Counting()), out)
    with_tokens = embed_rows(rows, images, token_lens(encode), out, patch_mib=1)
    assert encode.asked == [1, 3]
    embed_rows(rows, images, token_lens(encode), out, patch_mib=1)
    assert encode.asked == [1, 3, 1]
    assert plain.keys == with_tokens.keys


def test_tokens_that_are_not_kept_are_an_error_with_a_next_step(tmp_path: Path) -> None:
    with pytest.raises(PermanentError) as raised:
        load_patches(tmp_path, "a" * 64)
    assert "--patch-features" in raised.value.hint
