"""Captions come from the image alone, and only plain prose leaves."""

import inspect
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from tests.assurance import requirement
from triage.errors import BundleError, InferenceError
from triage.inference.bundle import Bundle, load_bundle
from triage.inference.bundle_making import init_bundle
from triage.inference.captioner import (
    MAXIMUM_CHARACTERS,
    Captioner,
    checked,
    load_captioner,
)
from triage.inference.encoder import load_encoder
from triage.inference.writer import chat, prompt_digest
from triage.pocket import BUNDLE
from triage.pocket.dataset import chests
from triage.records import Caption


@pytest.fixture(scope="module")
def twin(medgemma: Bundle) -> Captioner:
    encoder = load_encoder(medgemma, device="cpu", captions=True)
    return load_captioner(medgemma, encoder, maximum_new_tokens=12)


@pytest.fixture(scope="module")
def pocket() -> Captioner:
    bundle = load_bundle(BUNDLE)
    encoder = load_encoder(bundle, device="cpu", captions=True)
    return load_captioner(bundle, encoder, maximum_new_tokens=24)


def phantoms(count: int) -> NDArray[np.float32]:
    return (chests(range(70, 70 + count)).views.astype(np.float32) / 65535.0)[:, None]


def from_pixels(captioner: Captioner, views: NDArray[np.float32]) -> list[list[int]]:
    """Token ids that the model writes when it is given pixels in the ordinary way."""
    ids = torch.tensor([captioner.prompt_ids] * len(views))
    pixels = ((torch.from_numpy(views) - 0.5) / 0.5).expand(-1, 3, -1, -1)
    with torch.inference_mode():
        written = captioner.model.generate(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            token_type_ids=(ids == captioner.image_token_id).long(),
            pixel_values=pixels,
            max_new_tokens=captioner.maximum_new_tokens,
            do_sample=False,
            eos_token_id=list(captioner.stop_ids),
            pad_token_id=captioner.tokenizer.pad_token_id,
        )
    return [[int(token) for token in row] for row in written[:, ids.shape[1] :]]


def test_reused_features_give_the_same_words_as_the_pixels(pocket: Captioner) -> None:
    views = phantoms(4)
    said = [answer.text for answer in pocket.describe(views) if isinstance(answer, Caption)]
    plain = [
        pocket.tokenizer.decode(row, skip_special_tokens=True).strip()
        for row in from_pixels(pocket, views)
    ]
    assert said == plain
    assert len(set(said)) > 1


def test_words_from_memory_need_no_second_pass_through_the_tower(pocket: Captioner) -> None:
    views = phantoms(2)
    features = pocket.encoder.embed(views, keep_features=True).features
    assert features is not None
    passes: list[int] = []
    tower = pocket.model.model.vision_tower
    hook = tower.register_forward_hook(lambda *_: passes.append(1))
    again = pocket.describe_features(features)
    hook.remove()
    assert passes == []
    assert again == pocket.describe(views)


def test_a_batch_says_what_its_images_say_alone(pocket: Captioner) -> None:
    views = phantoms(3)
    alone = [pocket.describe(views[row : row + 1])[0] for row in range(3)]
    assert pocket.describe(views) == alone


def test_another_image_changes_what_the_twin_computes(twin: Captioner) -> None:
    random = np.random.default_rng(1)
    views = random.random((6, 1, 56, 56), dtype=np.float32)
    assert len({tuple(row) for row in from_pixels(twin, views)}) > 1


def test_random_weights_write_nothing_that_is_shown(twin: Captioner) -> None:
    views = np.random.default_rng(2).random((3, 1, 56, 56), dtype=np.float32)
    for answer in twin.describe(views):
        shown = answer.text if isinstance(answer, Caption) else None
        assert shown is None or checked(shown) == shown


def test_an_image_that_is_not_finite_has_no_caption(pocket: Captioner) -> None:
    views = phantoms(3)
    expected = pocket.describe(views)
    views[1, 0, 3, 3] = np.nan
    answers = pocket.describe(views)
    assert isinstance(answers[1], InferenceError)
    assert [answers[0], answers[2]] == [expected[0], expected[2]]


def test_nothing_to_describe_gives_nothing(pocket: Captioner) -> None:
    assert pocket.describe_features([]) == []


def test_the_prompt_is_the_one_that_the_processor_would_write(pocket: Captioner) -> None:
    from transformers import AutoProcessor

    directory = load_bundle(BUNDLE).encoder_directory
    processor = AutoProcessor.from_pretrained(directory, local_files_only=True)
    text = processor.apply_chat_template(chat(), tokenize=False, add_generation_prompt=True)
    image = np.zeros((112, 112, 3), np.uint8)
    ids = processor(text=text, images=[image], add_special_tokens=False)["input_ids"][0]
    assert tuple(ids) == pocket.prompt_ids


@requirement("M5")
def test_no_text_can_be_handed_in() -> None:
    for function in (Captioner.describe, Captioner.describe_features):
        annotations = [
            str(parameter.annotation)
            for name, parameter in inspect.signature(function).parameters.items()
            if name != "self"
        ]
        assert all("str" not in annotation for annotation in annotations)


def test_a_caption_names_model_and_prompt(pocket: Captioner) -> None:
    (answer,) = pocket.describe(phantoms(1))
    assert isinstance(answer, Caption)
    assert answer.model.name == "pocket"
    assert answer.prompt_digest == prompt_digest(24) != prompt_digest(25)


def test_a_bundle_that_was_loaded_without_words_has_no_captioner(medsiglip: Bundle) -> None:
    encoder = load_encoder(medsiglip, device="cpu", captions=True)
    with pytest.raises(BundleError, match="without its language model"):
        load_captioner(medsiglip, encoder, maximum_new_tokens=8)


def test_a_template_without_an_image_is_refused(medgemma: Bundle, tmp_path: Path) -> None:
    directory = tmp_path / "encoder"
    shutil.copytree(medgemma.encoder_directory, directory)
    template = json.dumps({"chat_template": "{{ messages[0]['content'][1]['text'] }}"})
    (directory / "chat_template.json").write_text(template)
    bundle = init_bundle(directory, tmp_path / "out", name="x", device="cpu")
    encoder = load_encoder(bundle, device="cpu", captions=True)
    with pytest.raises(BundleError, match="does not place the image"):
        load_captioner(bundle, encoder, maximum_new_tokens=8)


def test_an_encoder_without_a_tokenizer_is_refused(medgemma: Bundle, tmp_path: Path) -> None:
    directory = tmp_path / "encoder"
    shutil.copytree(medgemma.encoder_directory, directory)
    for path in directory.glob("tokenizer*"):
        path.unlink()
    bundle = init_bundle(directory, tmp_path / "out", name="x", device="cpu")
    encoder = load_encoder(bundle, device="cpu", captions=True)
    with pytest.raises(BundleError, match="no tokenizer"):
        load_captioner(bundle, encoder, maximum_new_tokens=8)


PROSE = {
    "plain": ("Large left pneumothorax.", "Large left pneumothorax."),
    "lines become spaces": ("No acute\n finding. ", "No acute finding."),
    "thought is cut out": ("<unused94>I wonder.\n<unused95>Small nodule.", "Small nodule."),
    "other languages": ("Kein Pneumothorax über 2 cm.", "Kein Pneumothorax über 2 cm."),
}
REFUSED = {
    "empty": ("  \n", "empty"),
    "only thought": ("<unused94>hm<unused95>", "empty"),
    "open thought": ("<unused94>I wonder whether", "thinking marker"),
    "lone closing marker": ("so it is.<unused95> Normal.", "thinking marker"),
    "markup": ("<b>Normal</b>", "markup"),
    "script": ("Normal <script>alert(1)", "markup"),
    "turn marker": ("Normal.<start_of_turn>user", "markup"),
    "Markdown link": ("See [this](x)", "markup"),
    "bold": ("**Normal**", "markup"),
    "web address": ("See https://example.org", "web address"),
    "bare web address": ("See www.example.org", "web address"),
    "mail address": ("Ask someone@example.org", "web address"),
    "control character": ("Normal\x07.", "printed"),
    "reversed writing": ("Normal \u202e.", "printed"),
    "broken bytes": ("Normal \ufffd.", "printed"),
    "too long": ("word " * MAXIMUM_CHARACTERS, "longer"),
}


@pytest.mark.parametrize(("text", "shown"), PROSE.values(), ids=PROSE)
def test_prose_is_shown(text: str, shown: str) -> None:
    assert checked(text) == shown


@pytest.mark.parametrize(("text", "said"), REFUSED.values(), ids=REFUSED)
def test_anything_else_is_refused_without_being_repeated(text: str, said: str) -> None:
    with pytest.raises(InferenceError, match=said) as caught:
        checked(text)
    assert text.strip() == "" or text not in str(caught.value)
