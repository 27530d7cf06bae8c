"""The models at full size on a GPU, or their small twins on a processor: towers, captions, flags.

Weights are random: time and memory depend on shapes alone. The plain loop beside them is what a
script on transformers does, one image at a time through the processor and the model.
"""

import json
import logging
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import structlog
import torch
from numpy.typing import NDArray
from PIL import Image

from tests.benchmarks import sending
from tests.benchmarks.measuring import (
    Conditions,
    LeftOut,
    Limit,
    Note,
    Row,
    at_least,
    configuration,
    daemon,
    free_port,
    need,
    ratio,
    say,
    triage,
)
from tests.gpu import full_size
from tests.inference import twins
from triage.inference.bundle import Bundle
from triage.inference.captioner import load_captioner
from triage.inference.encoder import Encoder, load_encoder
from triage.inference.weights import read_json
from triage.inference.writer import prompt_ids

TITLE = "Models on the device"
BATCHES = (1, 2, 4, 8, 16, 32)
CAPTION_BATCHES = (1, 4, 16, 64)
SMALL_BATCHES = (1, 4, 16)
NEW_TOKENS = 128
SMALL_NEW_TOKENS = 16
MATRIX, SMALL_MATRIX = 8192, 1024
STUDIES = 60
EVERY_S = 0.5
PATIENCE_S = 600.0
WARM_UP = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Device:
    """Where it runs, how large, and what its matrix units reach."""

    name: str  # cuda | cpu
    peak_flop_per_s: tuple[float, ...]

    @property
    def full_size(self) -> bool:
        return self.name == "cuda"


def measure(conditions: Conditions) -> Iterator[Row | Note]:
    """Yield the matrix peak, images per second, captions per minute, arrival-to-flag."""
    # Random words are refused as captions; that is right, and no news here.
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    name = "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cpu":
        yield Note(text="No GPU: small twins on the processor, which only shows that it runs.")
    device = Device(name=name, peak_flop_per_s=_matrix_peak(name, conditions.runs))
    tera = tuple(each / 1e12 for each in device.peak_flop_per_s)
    kind = "bfloat16" if device.full_size else "float32"
    yield Row(what=f"{kind} matrix product", values=tera, unit="TFLOP/s")
    with conditions.folder() as folder:
        say("  MedGemma's shape")
        bundle = _medgemma(folder, device)
        yield from _tower(bundle, device, conditions)
        yield from _captions(bundle, device, conditions)
        yield from _arrival_to_flag(bundle, device, conditions)
    with conditions.folder() as folder:
        say("  MedSigLIP's shape")
        yield from _tower(_medsiglip(folder, device), device, conditions)


def _medgemma(folder: Path, device: Device) -> Bundle:
    if device.full_size:
        encoder = full_size.medgemma(folder / "encoder", device=device.name)
    else:
        encoder = twins.medgemma(folder / "encoder")
    return _bundle(encoder, folder, device)


def _medsiglip(folder: Path, device: Device) -> Bundle:
    if device.full_size:
        encoder = full_size.medsiglip(folder / "encoder", device=device.name)
    else:
        encoder = twins.medsiglip(folder / "encoder")
    return _bundle(encoder, folder, device)


def _bundle(encoder: Path, folder: Path, device: Device) -> Bundle:
    width = read_json(encoder / "config.json")["vision_config"]["hidden_size"]
    made = full_size.bundle_of(encoder, folder / "bundle", width=width, device=device.name)
    _release(device)
    return made


# --- towers


def _tower(bundle: Bundle, device: Device, conditions: Conditions) -> Iterator[Row]:
    """Images per second through the encoder, from views on the host to embeddings on the host."""
    encoder = load_encoder(bundle, device=device.name)
    what = f"{bundle.manifest.encoder.architecture}, {encoder.size_px} px"
    per_image = flop_per_image(bundle.encoder_directory, encoder.size_px)
    plain = _plain_tower(bundle, encoder, device, conditions)
    yield Row(what=f"{what}: plain transformers loop", values=plain, unit="images/s")
    best: tuple[float, ...] = ()
    for size in BATCHES if device.full_size else SMALL_BATCHES:
        views = _views(size, encoder.size_px)
        values = _per_second(partial(encoder.embed, views), size, device, conditions)
        best = max(best, values, key=lambda each: float(np.median(each)) if each else 0.0)
        against = (ratio(values, to="plain loop", of=plain),)
        yield Row(what=f"{what}: batch of {size}", values=values, unit="images/s", ratios=against)
    used = tuple(each * per_image for each in best)
    limit = _if_full(device, at_least(0.5))
    share = ratio(used, to="the matrix product", of=device.peak_flop_per_s, limit=limit)
    tera = tuple(each / 1e12 for each in used)
    yield Row(what=f"{what}: arithmetic at best", values=tera, unit="TFLOP/s", ratios=(share,))
    del encoder
    _release(device)


def _plain_tower(
    bundle: Bundle, encoder: Encoder, device: Device, conditions: Conditions
) -> tuple[float, ...]:
    """One picture at a time: the directory's own image processor, then the tower."""
    from transformers import AutoImageProcessor

    processor = AutoImageProcessor.from_pretrained(bundle.encoder_directory, local_files_only=True)
    picture = _picture(encoder.size_px)

    def one() -> None:
        pixels = processor(images=picture, return_tensors="pt")["pixel_values"]
        with torch.inference_mode():
            encoder.tower(pixels.to(device.name, encoder.dtype))[1].float().cpu()

    return _per_second(one, 1, device, conditions)


def flop_per_image(directory: Path, size_px: int) -> float:
    """Multiplications and additions of a vision tower for one image, pooling head left out."""
    vision = read_json(directory / "config.json")["vision_config"]
    width, inner, patch = vision["hidden_size"], vision["intermediate_size"], vision["patch_size"]
    tokens = (size_px // patch) ** 2
    projections = 4 * tokens * width * width
    perceptron = 2 * tokens * width * inner
    attention = 2 * tokens * tokens * width
    embedding = tokens * 3 * patch * patch * width
    layers = vision["num_hidden_layers"] * (projections + perceptron + attention)
    return float(2 * (layers + embedding))


# --- captions


def _captions(bundle: Bundle, device: Device, conditions: Conditions) -> Iterator[Row]:
    """Captions per minute from views, and from the features that the flag's pass left behind.

    No caption ends before its length, here and in the plain loop: random weights know no end.
    """
    tokens = NEW_TOKENS if device.full_size else SMALL_NEW_TOKENS
    encoder = load_encoder(bundle, device=device.name, captions=True)
    captioner = load_captioner(bundle, encoder, maximum_new_tokens=tokens)
    captioner = replace(captioner, stop_ids=(_no_token(captioner.model),))
    what = f"captions of {tokens} tokens"
    plain = _plain_captions(bundle, encoder, device, conditions, tokens)
    yield Row(what=f"{what}: plain transformers loop", values=plain, unit="/min")
    sizes = CAPTION_BATCHES if device.full_size else SMALL_BATCHES
    for size in sizes:
        describe = partial(captioner.describe, _views(size, encoder.size_px))
        values = _per_minute(describe, size, device, conditions)
        limit = _if_full(device, at_least(10.0)) if size == sizes[-1] else None
        against = (ratio(values, to="plain loop", of=plain, limit=limit),)
        yield Row(what=f"{what}: batch of {size}", values=values, unit="/min", ratios=against)
    kept = encoder.embed(_views(1, encoder.size_px), keep_features=True).features or ()
    describe_kept = partial(captioner.describe_features, [kept[0]] * sizes[-1])
    values = _per_minute(describe_kept, sizes[-1], device, conditions)
    yield Row(what=f"{what}: batch of {sizes[-1]}, features kept", values=values, unit="/min")
    del captioner, encoder
    _release(device)


def _plain_captions(
    bundle: Bundle, encoder: Encoder, device: Device, conditions: Conditions, tokens: int
) -> tuple[float, ...]:
    """One picture at a time: image processor, prompt, `generate` with the pixels."""
    from transformers import AutoImageProcessor, AutoTokenizer

    directory = bundle.encoder_directory
    processor = AutoImageProcessor.from_pretrained(directory, local_files_only=True)
    tokenizer = AutoTokenizer.from_pretrained(directory, local_files_only=True)
    model: Any = encoder.whole
    prompt = prompt_ids(directory, tokenizer, model.config)
    ids = torch.tensor([prompt], device=device.name)
    picture = _picture(encoder.size_px)

    def one() -> None:
        pixels = processor(images=picture, return_tensors="pt")["pixel_values"]
        with torch.inference_mode():
            written = model.generate(
                input_ids=ids,
                attention_mask=torch.ones_like(ids),
                token_type_ids=(ids == model.config.image_token_id).long(),
                pixel_values=pixels.to(device.name, encoder.dtype),
                max_new_tokens=tokens,
                do_sample=False,
                eos_token_id=_no_token(model),
                pad_token_id=tokenizer.pad_token_id,
            )
        tokenizer.decode(written[0, ids.shape[1] :], skip_special_tokens=True)

    return _per_minute(one, 1, device, conditions)


def _no_token(model: Any) -> int:
    """An identifier that no token has."""
    return int(model.config.text_config.vocab_size)


# --- the whole program


def _arrival_to_flag(bundle: Bundle, device: Device, conditions: Conditions) -> Iterator[Row]:
    """From the commit of an image to that of its result, through daemon, queue and worker."""
    need("dcmsend", package="dcmtk")
    studies = conditions.count(STUDIES, least=6)
    say(f"  arrival-to-flag of {studies} studies")
    with conditions.folder() as folder:
        sent = sending.write_dx(folder / "sent", studies)
        port = free_port()
        model = f'[[models]]\nname = "twin"\nbundle = "{bundle.directory}"\n'
        more = f"{model}[eligibility]\nmaximum_study_age_h = 0\n"
        config = configuration(folder, port, more=more)
        with daemon(config, port):
            _until(lambda: triage(config, "status").returncode == 0, "the model does not serve")
            for number, path in enumerate(sorted(sent.iterdir())):
                share = folder / f"one{number}"
                share.mkdir()
                (share / path.name).hardlink_to(path)
                sending.send([share], port)
                time.sleep(EVERY_S)
            _until(lambda: len(_waited_s(config)) == studies, "not every study was looked at")
            waited_s = sorted(_waited_s(config))
    for figure, below in (("median", 0.5), ("p95", 0.95), ("longest", 1.0)):
        value = waited_s[math.ceil(below * studies) - 1]
        what = f"arrival to result, DX of 10 MB at 2 per second: {figure}"
        yield Row(what=what, values=(value,), unit="s")


def _waited_s(config: Path) -> list[float]:
    """Seconds from arrival to result of every study that has one."""
    listed = json.loads(triage(config, "worklist", "--all", "--json").stdout)["studies"]
    times = [(each["received_at"], each["analysed_at"]) for each in listed if each["analysed_at"]]
    return [
        (datetime.fromisoformat(end) - datetime.fromisoformat(begin)).total_seconds()
        for begin, end in times
    ]


def _until(holds: Callable[[], bool], otherwise: str) -> None:
    ends_at = time.monotonic() + PATIENCE_S
    while not holds():
        if time.monotonic() > ends_at:
            raise RuntimeError(otherwise)
        time.sleep(0.5)


# --- the device


def _matrix_peak(name: str, runs: int) -> tuple[float, ...]:
    """Operations per second of a large matrix product in the arithmetic of the tower."""
    if name == "cuda" and not torch.cuda.is_bf16_supported():
        raise LeftOut("the GPU has no bfloat16")
    size = MATRIX if name == "cuda" else SMALL_MATRIX
    dtype = torch.bfloat16 if name == "cuda" else torch.float32
    left = torch.randn(size, size, device=name).to(dtype)
    right = torch.randn(size, size, device=name).to(dtype)
    device = Device(name=name, peak_flop_per_s=())

    def product() -> None:
        for _ in range(10):
            torch.matmul(left, right)

    return tuple(20.0 * size**3 / _seconds(product, device) for _ in range(runs))


def _per_second(
    work: Callable[[], object], images: int, device: Device, conditions: Conditions
) -> tuple[float, ...]:
    for _ in range(WARM_UP):
        work()
    return tuple(images / _seconds(work, device) for _ in range(conditions.runs))


def _per_minute(
    work: Callable[[], object], captions: int, device: Device, conditions: Conditions
) -> tuple[float, ...]:
    return tuple(60 * each for each in _per_second(work, captions, device, conditions))


def _seconds(work: Callable[[], object], device: Device) -> float:
    """Seconds of one call; repeated until a second is filled, as short ones are mostly noise."""
    _synchronise(device)
    started, calls = time.perf_counter(), 0
    while calls == 0 or time.perf_counter() - started < 1.0:
        work()
        calls += 1
        _synchronise(device)
    return (time.perf_counter() - started) / calls


def _synchronise(device: Device) -> None:
    if device.name == "cuda":
        torch.cuda.synchronize()


def _release(device: Device) -> None:
    if device.name == "cuda":
        torch.cuda.empty_cache()


def _if_full(device: Device, limit: Limit) -> Limit | None:
    return limit if device.full_size else None


def _views(count: int, size_px: int) -> NDArray[np.float32]:
    return np.random.default_rng(3).random((count, 1, size_px, size_px), dtype=np.float32)


def _picture(size_px: int) -> Image.Image:
    noise = np.random.default_rng(4).integers(0, 256, (size_px, size_px, 3), dtype=np.uint8)
    return Image.fromarray(noise)
