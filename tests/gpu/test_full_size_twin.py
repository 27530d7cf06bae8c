"""MedGemma 4B at full size with random weights: it fits the device, embeds and writes in bf16.

The weights of the real model are gated; a twin of the same shape takes the same memory and the
same time. The vision tower is checked against the CPU, so a wrong kernel would be noticed.
"""

import json
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from tests.inference.twins import PREPROCESSOR
from triage.errors import InferenceError, TriageError
from triage.inference.bundle import Bundle
from triage.inference.bundle_making import init_bundle
from triage.inference.captioner import load_captioner
from triage.inference.encoder import (
    check_known_answer,
    embed_isolating,
    load_encoder,
    relative_difference,
)
from triage.pocket.model import CHAT_TEMPLATE, build_tokenizer
from triage.records import Caption

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
    pytest.mark.timeout(900),
]
SIZE_PX = 896


@pytest.fixture(scope="module")
def full_size(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """The shapes of MedGemma 4B's published config, with few words in a full-size table."""
    from transformers import Gemma3Config, Gemma3ForConditionalGeneration

    directory: Path = tmp_path_factory.mktemp("full") / "encoder"
    tokenizer = build_tokenizer()
    token = tokenizer.convert_tokens_to_ids
    config = Gemma3Config(
        text_config={
            "vocab_size": 262_208,
            "hidden_size": 2560,
            "intermediate_size": 10_240,
            "num_hidden_layers": 34,
            "num_attention_heads": 8,
            "num_key_value_heads": 4,
            "head_dim": 256,
            "query_pre_attn_scalar": 256,
            "sliding_window": 1024,
        },
        vision_config={
            "hidden_size": 1152,
            "intermediate_size": 4304,
            "num_hidden_layers": 27,
            "num_attention_heads": 16,
            "patch_size": 14,
            "image_size": SIZE_PX,
            "vision_use_head": False,
        },
        mm_tokens_per_image=256,
        boi_token_index=token("<start_of_image>"),
        eoi_token_index=token("<end_of_image>"),
        image_token_index=token("<image_soft_token>"),
        eos_token_id=[token("<eos>"), token("<end_of_turn>")],
    )
    torch.manual_seed(1)
    with torch.device("cuda"):
        model = Gemma3ForConditionalGeneration(config).to(torch.bfloat16)
    projection = model.model.multi_modal_projector.mm_input_projection_weight
    torch.nn.init.normal_(projection, std=projection.shape[0] ** -0.5)
    assert sum(weight.numel() for weight in model.parameters()) == 4_300_079_472
    model.save_pretrained(directory)
    del model
    torch.cuda.empty_cache()
    tokenizer.save_pretrained(directory)
    (directory / "chat_template.json").write_text(json.dumps({"chat_template": CHAT_TEMPLATE}))
    size = {"size": {"height": SIZE_PX, "width": SIZE_PX}}
    (directory / "preprocessor_config.json").write_text(json.dumps({**PREPROCESSOR, **size}))
    return init_bundle(directory, directory.parent / "bundle", name="full", device="cuda")


def views(count: int) -> NDArray[np.float32]:
    return np.random.default_rng(3).random((count, 1, SIZE_PX, SIZE_PX), dtype=np.float32)


def test_it_embeds_and_writes_in_bfloat16(full_size: Bundle) -> None:
    encoder = load_encoder(full_size, device="cuda", captions=True)
    assert encoder.dtype is torch.bfloat16
    check_known_answer(full_size, encoder)
    answers = embed_isolating(encoder, views(8), keep_features=True)
    sound = [answer for answer in answers if not isinstance(answer, TriageError)]
    assert len(sound) == 8
    assert sound[0][0].shape == (1152,)
    assert np.abs(sound[0][0] - sound[1][0]).max() > 0
    captioner = load_captioner(full_size, encoder, maximum_new_tokens=16)
    features = [feature for _, feature in sound if feature is not None]
    written = captioner.describe_features(features[:4])
    # Random weights write random words: whatever is no prose has to be refused.
    assert all(isinstance(answer, Caption | InferenceError) for answer in written)
    assert len(written) == 4


def test_the_device_gives_what_the_processor_gives(full_size: Bundle) -> None:
    image = views(1)
    on_gpu = load_encoder(full_size, device="cuda").embed(image).vectors[0]
    on_cpu = load_encoder(full_size, device="cpu").embed(image).vectors[0]
    assert relative_difference(on_gpu, on_cpu) < full_size.manifest.tolerance["bfloat16"]


def test_a_batch_too_large_for_the_device_is_halved_and_answered(full_size: Bundle) -> None:
    encoder = load_encoder(full_size, device="cuda")
    free_bytes, _ = torch.cuda.mem_get_info()
    hold = torch.empty(max(0, free_bytes - (6 << 30)), dtype=torch.uint8, device="cuda")
    try:
        answers = embed_isolating(encoder, views(48))
    finally:
        del hold
        torch.cuda.empty_cache()
    assert len(answers) == 48
    assert not any(isinstance(answer, TriageError) for answer in answers)


def test_a_batch_of_eight_takes_well_under_a_second(full_size: Bundle) -> None:
    encoder = load_encoder(full_size, device="cuda")
    batch = views(8)
    encoder.embed(batch)
    start = time.perf_counter()
    encoder.embed(batch)
    assert time.perf_counter() - start < 1.0
