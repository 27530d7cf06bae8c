"""MedGemma 4B at full size with random weights: it fits the device, embeds and writes in bf16.

The weights of the real model are gated; a twin of the same shape takes the same memory and the
same time. The vision tower is checked against the CPU, so a wrong kernel would be noticed.
"""

import time

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from tests.assurance import requirement
from tests.gpu.full_size import MEDGEMMA_PX, VISION, bundle_of, medgemma
from triage.errors import InferenceError, TriageError
from triage.inference.bundle import Bundle
from triage.inference.captioner import load_captioner
from triage.inference.encoder import (
    check_known_answer,
    embed_isolating,
    load_encoder,
    relative_difference,
)
from triage.records import Caption

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
    pytest.mark.timeout(900),
]


@pytest.fixture(scope="module")
def full_size(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    directory = tmp_path_factory.mktemp("full")
    encoder = medgemma(directory / "encoder", device="cuda")
    torch.cuda.empty_cache()
    width = VISION["hidden_size"]
    return bundle_of(encoder, directory / "bundle", width=width, device="cuda")


def views(count: int) -> NDArray[np.float32]:
    return np.random.default_rng(3).random((count, 1, MEDGEMMA_PX, MEDGEMMA_PX), dtype=np.float32)


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


@requirement("M3")
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
