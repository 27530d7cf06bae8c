"""The twin of MedSigLIP in the table of results: what it learns, and that the program takes it."""

import numpy as np
import pytest
import torch
from transformers import PreTrainedTokenizerFast

from tests.benchmarks import learning_twin as twins
from tests.benchmarks.learning_runs import FINDING, POCKET
from triage.inference.weights import load_vision_tower
from triage.learning.methods.zero_shot import canonical
from triage.pocket.build import Seeds
from triage.pocket.dataset import chests
from triage.pocket.lesions import Kind

SHORT = twins.Course(epochs=6, batch_size=16)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> twins.Twin:
    """Of few pictures and steps."""
    out = tmp_path_factory.mktemp("twin") / "encoder"
    return twins.make_twin(out, learnt=twins.LEARNT[:48], held=twins.HELD[:32], course=SHORT)


def test_the_program_reads_the_twin_and_its_prompts_tell_lesions_that_it_has_not_seen(
    made: twins.Twin,
) -> None:
    assert set(made.aurocs) == {FINDING, *Kind}
    assert made.aurocs[FINDING] > twins.MATCHES
    assert f"AUROC of {made.aurocs[FINDING]:.3f}," in made.words


def test_the_twin_sees_with_the_tower_of_pocket(made: twins.Twin) -> None:
    own = load_vision_tower(made.directory, torch.float32).state_dict()
    for name, weight in load_vision_tower(POCKET, torch.float32).state_dict().items():
        assert torch.equal(own[name], weight), name


def test_the_twin_knows_every_word_that_it_is_asked(made: twins.Twin) -> None:
    tokenizer = PreTrainedTokenizerFast.from_pretrained(made.directory, local_files_only=True)
    texts = {canonical(text) for text in (*twins.PROMPTS.present, *twins.PROMPTS.absent)}
    assert texts <= set(twins.claims())
    for text in twins.claims():
        ids = tokenizer(text)["input_ids"]
        assert tokenizer.unk_token_id not in ids
        assert ids[-1] == tokenizer.eos_token_id
        assert len(ids) <= twins.TOKENS


def test_a_text_matches_the_pictures_of_which_it_is_true() -> None:
    data = chests(twins.HELD[:8])
    truth, claims = twins.truth_of(data), twins.claims()
    effusion = ["effusion" in caption for caption in data.captions]
    nothing = [caption == "No acute finding." for caption in data.captions]
    assert 0 < sum(effusion) < sum(nothing) + sum(effusion) < 8
    for text, expected in (
        ("a chest radiograph showing pleural effusion", effusion),
        ("a chest radiograph without effusion", np.logical_not(effusion)),
        ("a normal chest radiograph with no pneumonia", nothing),
        ("an abnormal chest radiograph", np.logical_not(nothing)),
    ):
        np.testing.assert_array_equal(truth[:, claims[text]], expected, text)


def test_the_loss_of_single_matches_is_that_of_siglip() -> None:
    torch.manual_seed(1)
    tokenizer = twins.build_tokenizer()
    model = twins.build_model(tokenizer)
    ids = tokenizer(list(twins.claims())[:4], padding="max_length", max_length=twins.TOKENS)
    said = model(
        input_ids=torch.tensor(ids["input_ids"]),
        pixel_values=torch.randn(4, 3, 112, 112),
        return_loss=True,
    )
    own = twins.sigmoid_loss(said.logits_per_image, torch.eye(4, dtype=torch.bool))
    torch.testing.assert_close(4 * own, said.loss)  # SigLIP divides by pictures, not by pairs


def test_pictures_of_the_twin_were_not_used_for_pocket() -> None:
    own = [*twins.LEARNT, *twins.HELD]
    seeds = Seeds()
    used = {*seeds.train, *seeds.head, *seeds.calibration, *seeds.evaluation}
    assert len(set(own)) == len(own)
    assert used.isdisjoint(own)
