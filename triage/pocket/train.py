"""Train the pocket model's weights from a seed on the CPU.

Four objectives share the vision tower: the lesion cover of every patch (a strong signal that
lets so small a transformer learn from ten thousand pictures), the findings and chest or not on
the mean of the patches, which is the embedding that heads are fitted on, and the caption. Pictures
that are no chest take part so that the embedding has a place for them away from the chests;
otherwise the gate would have nothing to see. The auxiliary layers are thrown away.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import structlog
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional
from transformers import Gemma3ForConditionalGeneration, Gemma3Processor, PreTrainedTokenizerFast

from triage.inference.writer import chat
from triage.pocket.dataset import TRUTHS, Dataset, batch
from triage.pocket.lesions import Kind

Rows: TypeAlias = NDArray[np.intp]
IGNORED = -100  # label of a token that is not to be learnt
CAPTION_TOKENS = 12  # the longest caption of two findings has ten
COVER_WEIGHT = (2.0, 2.0, 3.0, 10.0)  # rare kinds of patch, in the order of Kind
log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Schedule:
    """How long and how fast to train."""

    epochs: int = 15
    batch_size: int = 64
    peak_rate: float = 1.2e-3
    warm_up_steps: int = 200


@dataclass(frozen=True, slots=True, kw_only=True)
class Words:
    """Token ids of prompt and captions, (N, T) each; labels only on the caption."""

    ids: Tensor
    labels: Tensor
    mask: Tensor
    image: Tensor  # 1 where the prompt holds a soft token


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """One step's pictures as tensors; all share the first axis."""

    pixels: Tensor  # (B, 3, S, S) normalised
    truth: Tensor
    cover: Tensor
    chest: Tensor
    words: Words


class Auxiliary(nn.Module):
    """Linear readers of the patches, for training only."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.cover = nn.Linear(width, len(Kind))
        self.truth = nn.Linear(width, TRUTHS)
        self.chest = nn.Linear(width, 1)


def train(
    model: Gemma3ForConditionalGeneration,
    processor: Gemma3Processor,
    data: Dataset,
    *,
    seed: int,
    schedule: Schedule,
) -> None:
    """Train `model` in place; `data` holds chests and other pictures."""
    torch.manual_seed(seed)
    auxiliary = Auxiliary(model.config.vision_config.hidden_size)
    words = tokenise(processor, data.captions)
    weights = [*model.parameters(), *auxiliary.parameters()]
    optimisers = _optimisers(model, auxiliary, schedule.peak_rate)
    steps = schedule.epochs * (len(data) // schedule.batch_size)
    rates = [
        torch.optim.lr_scheduler.LambdaLR(
            optimiser, lambda step: _rate(step, steps, schedule.warm_up_steps)
        )
        for optimiser in optimisers
    ]
    patches: list[Tensor] = []
    tower = model.model.vision_tower
    hook = tower.register_forward_hook(
        lambda _module, _inputs, output: patches.append(output.last_hidden_state)
    )
    model.train()
    random = np.random.default_rng([seed, 6])
    for number, rows in enumerate(_batches(random, len(data), schedule)):
        patches.clear()
        losses = _losses(model, auxiliary, _take(data, words, rows, random), patches)
        for optimiser in optimisers:
            optimiser.zero_grad(set_to_none=True)
        torch.stack(list(losses.values())).sum().backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(weights, 1.0)
        for optimiser, rate in zip(optimisers, rates, strict=True):
            optimiser.step()
            rate.step()
        if number % 50 == 0 or number == steps - 1:
            shown = {name: round(float(loss.detach()), 4) for name, loss in losses.items()}
            log.info("training_step", step=number, steps=steps, **shown)
    hook.remove()
    model.eval()


def tokenise(processor: Gemma3Processor, captions: tuple[str, ...]) -> Words:
    """Prompt and caption of every picture, padded on the right to one length."""
    tokenizer: PreTrainedTokenizerFast = processor.tokenizer
    prompt = prompt_ids(processor)
    answer_end = tokenizer.convert_tokens_to_ids("<end_of_turn>")
    padding = tokenizer.pad_token_id
    ids = torch.full((len(captions), len(prompt) + CAPTION_TOKENS), padding)
    labels = torch.full_like(ids, IGNORED)
    for row, text in enumerate(captions):
        answer = tokenizer.encode(text, add_special_tokens=False)[: CAPTION_TOKENS - 1]
        whole = torch.tensor([*prompt, *answer, answer_end])
        ids[row, : len(whole)] = whole
        if text:
            labels[row, len(prompt) : len(whole)] = whole[len(prompt) :]
    image = tokenizer.convert_tokens_to_ids("<image_soft_token>")
    return Words(ids=ids, labels=labels, mask=(ids != padding).long(), image=(ids == image).long())


def prompt_ids(processor: Gemma3Processor) -> list[int]:
    """The fixed prompt with its soft tokens, as serving writes it."""
    text = processor.apply_chat_template(chat(), tokenize=False, add_generation_prompt=True)
    blank = np.zeros((8, 8, 3), np.uint8)
    encoded = processor(text=text, images=[blank], add_special_tokens=False)
    return [int(token) for token in encoded["input_ids"][0]]


def _take(data: Dataset, words: Words, rows: Rows, random: np.random.Generator) -> Batch:
    """The rows as tensors, each view changed a little."""
    views = torch.from_numpy(_jitter(random, batch(data.views[rows])))
    return Batch(
        pixels=((views - 0.5) / 0.5).expand(-1, 3, -1, -1),
        truth=torch.from_numpy(data.truth[rows]),
        cover=torch.from_numpy(data.cover[rows]),
        chest=torch.from_numpy(data.chest[rows]).float(),
        words=Words(
            ids=words.ids[rows],
            labels=words.labels[rows],
            mask=words.mask[rows],
            image=words.image[rows],
        ),
    )


def _losses(
    model: Gemma3ForConditionalGeneration, auxiliary: Auxiliary, taken: Batch, patches: list[Tensor]
) -> dict[str, Tensor]:
    """The four objectives; `patches` receives the tower's output during the pass."""
    output = model(
        input_ids=taken.words.ids,
        attention_mask=taken.words.mask,
        token_type_ids=taken.words.image,
        pixel_values=taken.pixels,
        use_cache=False,
    )
    (tokens,) = patches
    pooled = tokens.mean(dim=1)
    entropy = functional.binary_cross_entropy_with_logits
    weight = torch.ones(len(tokens), len(Kind), 4)
    # A size is only true of what is there.
    weight[..., 3] = taken.truth.reshape(weight.shape)[..., 0]
    return {
        "cover": 4.0
        * entropy(auxiliary.cover(tokens), taken.cover, pos_weight=torch.tensor(COVER_WEIGHT)),
        "truth": 2.0 * entropy(auxiliary.truth(pooled), taken.truth, weight=weight.flatten(1)),
        "chest": entropy(auxiliary.chest(pooled)[:, 0], taken.chest),
        "words": functional.cross_entropy(
            output.logits[:, :-1].flatten(0, 1),
            taken.words.labels[:, 1:].flatten(),
            ignore_index=IGNORED,
        ),
    }


def _optimisers(
    model: Gemma3ForConditionalGeneration, auxiliary: Auxiliary, rate: float
) -> list[torch.optim.Optimizer]:
    """Muon for the matrices inside the layers, AdamW for everything else.

    Orthogonalised updates converge in fewer passes over the phantoms (Jordan et al., 2024).
    """
    matrices: list[nn.Parameter] = []
    others = list(auxiliary.parameters())
    for name, weight in model.named_parameters():
        (matrices if weight.ndim == 2 and ".layers." in name else others).append(weight)
    return [
        torch.optim.Muon(
            matrices, lr=2.0 * rate, weight_decay=0.05, adjust_lr_fn="match_rms_adamw"
        ),
        torch.optim.AdamW(others, lr=rate, weight_decay=0.05),
    ]


def _jitter(random: np.random.Generator, views: NDArray[np.float32]) -> NDArray[np.float32]:
    """Shift by up to four pixels; change gain, offset and gamma; add a little noise."""
    count = len(views)
    down, right = random.integers(-4, 5, 2)
    views = np.roll(views, (down, right), axis=(2, 3))
    gain = random.uniform(0.9, 1.1, (count, 1, 1, 1)).astype(np.float32)
    offset = random.uniform(-0.04, 0.04, (count, 1, 1, 1)).astype(np.float32)
    gamma = random.uniform(0.85, 1.18, (count, 1, 1, 1)).astype(np.float32)
    noise = random.uniform(0.0, 0.01) * random.standard_normal(views.shape, dtype=np.float32)
    return np.asarray(np.clip(views * gain + offset + noise, 0.0, 1.0) ** gamma, np.float32)


def _batches(random: np.random.Generator, count: int, schedule: Schedule) -> Iterator[Rows]:
    for _ in range(schedule.epochs):
        order = random.permutation(count)
        for start in range(0, count - schedule.batch_size + 1, schedule.batch_size):
            yield order[start : start + schedule.batch_size]


def _rate(step: int, steps: int, warm_up_steps: int) -> float:
    """Linear warm-up, then half a cosine to two hundredths of the peak."""
    if step < warm_up_steps:
        return (step + 1) / warm_up_steps
    share = (step - warm_up_steps) / max(1, steps - warm_up_steps)
    return 0.02 + 0.98 * 0.5 * (1.0 + math.cos(math.pi * share))
