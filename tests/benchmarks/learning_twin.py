"""A pocket-size twin of MedSigLIP, trained to align drawn radiographs with what is said of them.

The vision tower is pocket's and stays as it is (locked-image tuning, Zhai et al., CVPR 2022,
arXiv 2111.07991). Pooling head and text tower are new and learn the sigmoid loss over pairs of
pictures and texts (Zhai et al., ICCV 2023, arXiv 2303.15343). A text is a match for every picture
of which it is true: of so few wordings no text belongs to one picture alone.

The twin lies on disk as MedSigLIP does, so that `triage train --method zero-shot` takes it.
"""

import json
import time
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from torch import Tensor, nn
from torch.nn import functional
from transformers import PreTrainedTokenizerFast, SiglipConfig, SiglipModel

from tests.benchmarks.learning_runs import FINDING, POCKET
from triage.inference.bundle_fields import Features
from triage.inference.encoder import HEADED, open_encoder
from triage.inference.heads import view_logits
from triage.inference.weights import load_vision_tower, read_json
from triage.learning.methods.material import Prompts
from triage.learning.methods.zero_shot import ABSENT, PRESENT, canonical, head_of, prompts_of
from triage.pocket.dataset import VIEW_PX, Dataset, batch, chests
from triage.pocket.fit import auroc
from triage.pocket.lesions import Kind
from triage.pocket.measure import any_present, embed, present

# Fixed before the twin had seen a real film: what is abnormal in those is pneumonia.
PROMPTS: Final = Prompts(
    present=("an abnormal chest radiograph", "a chest radiograph showing pneumonia"),
    absent=("a normal chest radiograph", "a normal chest radiograph with no pneumonia"),
)
# Seeds that pocket's own training and figures do not use.
LEARNT: Final = range(600_000, 603_000)
HELD: Final = range(700_000, 701_000)
MATCHES: Final = 0.9  # least AUROC on phantoms of a twin that has learnt to match

# --- what is said of a picture: nouns in the order of Kind, then those of anything at all.
NOUNS: Final = (
    ("pneumothorax",),
    ("effusion", "pleural effusion"),
    ("consolidation", "pneumonia"),
    ("nodule", "lung nodule"),
    ("abnormality", "finding", "acute finding"),
)
WITH: Final = ("{finding}", "a chest radiograph with {finding}", PRESENT)
WITHOUT: Final = (
    "no {finding}",
    "a chest radiograph with no {finding}",
    "a chest radiograph without {finding}",
)
ANYTHING: Final = len(Kind)
ABNORMAL: Final = ("abnormal", "an abnormal chest radiograph")
NORMAL: Final = ("normal", "a normal chest radiograph")
END, UNKNOWN = "</s>", "<unk>"
TOKENS: Final = 16
TEXT: Final = {
    "hidden_size": 128,
    "projection_size": 128,
    "intermediate_size": 256,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": TOKENS,
}
VIEWS: Final = 50  # that the vision tower sees at once


@dataclass(frozen=True, slots=True, kw_only=True)
class Course:
    """How long and how fast to train."""

    epochs: int = 20
    batch_size: int = 64
    peak_rate: float = 1e-3


@dataclass(frozen=True, slots=True, kw_only=True)
class Twin:
    """A finished twin, and how well it matches phantoms that it has not seen."""

    directory: Path
    learnt: int  # phantoms
    held: int
    aurocs: dict[str, float]  # see `zero_shot_aurocs`
    processor_s: float

    @property
    def lowest(self) -> float:
        """AUROC of the kind that is matched worst."""
        return min(self.aurocs[kind] for kind in Kind)

    @property
    def words(self) -> str:
        """What the page says of it."""
        return (
            "Zero-shot has a twin of MedSigLIP that was made here: pocket's vision tower with a"
            f" pooling head and a text tower, trained on {self.learnt} drawn radiographs and short"
            f" texts of their findings in {self.processor_s:.0f} s of processor time. It knows"
            f" drawn radiographs only. On {self.held} others of these the prompts of its row tell"
            f" any lesion from none with an AUROC of {self.aurocs[FINDING]:.3f}, and those of the"
            f" program each finding from all else with {self.lowest:.3f} or more."
        )


def make_twin(
    out: Path,
    *,
    learnt: range = LEARNT,
    held: range = HELD,
    seed: int = 1,
    course: Course | None = None,
) -> Twin:
    """Train on phantoms, write the twin into the new directory `out`, try it on other phantoms."""
    began = time.process_time()
    torch.manual_seed(seed)
    tokenizer = build_tokenizer()
    model = build_model(tokenizer)
    train(model, tokenizer, chests(learnt), seed=seed, course=course or Course())
    save(model, tokenizer, out)
    return Twin(
        directory=out,
        learnt=len(learnt),
        held=len(held),
        aurocs=zero_shot_aurocs(out, chests(held)),
        processor_s=time.process_time() - began,
    )


def zero_shot_words() -> tuple[str, ...]:
    """The prompts as options of `triage train`."""
    words = []
    for option, prompts in (("--prompt", PROMPTS.present), ("--absent-prompt", PROMPTS.absent)):
        for prompt in prompts:
            words += [option, f"{FINDING}={prompt}"]
    return tuple(words)


def zero_shot_aurocs(directory: Path, data: Dataset) -> dict[str, float]:
    """Any lesion against none, and each kind against all else by the prompts of the program.

    By the head and the encoder that a bundle would have.
    """
    prompts = {FINDING: PROMPTS} | {kind: prompts_of(kind, {}) for kind in Kind}
    head = head_of(directory, prompts)
    truth = np.column_stack([any_present(present(data)), present(data)])
    encoder = open_encoder(
        directory,
        architecture=HEADED,
        size_px=VIEW_PX,
        device="cpu",
        dtype="float32",
        features=Features(unit_length=True),
    )
    logits = view_logits(head, embed(encoder, data.views))
    return {
        str(name): auroc(scores, there)
        for name, scores, there in zip(prompts, logits.T, truth.T, strict=True)
    }


# --- texts


def claims() -> dict[str, int]:
    """Every text, as the tower reads it, with the column of `truth_of` that says where it holds."""
    said = {}
    for column, nouns in enumerate(NOUNS):
        for noun, form in product(nouns, WITH):
            said[form.format(finding=noun)] = column
        for noun, form in product(nouns, WITHOUT):
            said[form.format(finding=noun)] = len(NOUNS) + column
        for noun in nouns:
            said[ABSENT.format(finding=noun)] = len(NOUNS) + ANYTHING
    said |= dict.fromkeys(ABNORMAL, ANYTHING)
    said |= dict.fromkeys(NORMAL, len(NOUNS) + ANYTHING)
    return {canonical(text): column for text, column in said.items()}


def truth_of(data: Dataset) -> NDArray[np.bool_]:
    """(N, 10): each kind is there, anything is there; each kind is not there, nothing is there."""
    there = np.column_stack([present(data), any_present(present(data))])
    return np.hstack([there, ~there])


def build_tokenizer() -> PreTrainedTokenizerFast:
    """Whole words of the texts; ended and padded with one token, as SigLIP's is."""
    words = sorted({word for text in claims() for word in text.split()})
    vocabulary = {word: number for number, word in enumerate((END, UNKNOWN, *words))}
    core = Tokenizer(models.WordLevel(vocabulary, unk_token=UNKNOWN))
    core.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    core.post_processor = processors.TemplateProcessing(
        single=f"$A {END}", special_tokens=[(END, vocabulary[END])]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=core, eos_token=END, pad_token=END, unk_token=UNKNOWN
    )


# --- the model


def build_model(tokenizer: PreTrainedTokenizerFast) -> SiglipModel:
    """Pocket's vision tower, locked, under an untrained pooling head and text tower."""
    vision = read_json(POCKET / "config.json")["vision_config"] | {"vision_use_head": True}
    tokens = dict.fromkeys(("bos_token_id", "eos_token_id", "pad_token_id"), tokenizer.eos_token_id)
    text = {**TEXT, **tokens, "vocab_size": len(tokenizer)}
    model = SiglipModel(SiglipConfig(text_config=text, vision_config=vision))
    # The scale is that of the paper. Its bias of -10 is for one match among many pairs; here about
    # half of all pairs match.
    model.logit_scale.data.fill_(np.log(10.0))
    model.logit_bias.data.fill_(0.0)
    trunk = load_vision_tower(POCKET, torch.float32).state_dict()
    left = model.vision_model.load_state_dict(trunk, strict=False)
    if left.unexpected_keys or not all(key.startswith("head.") for key in left.missing_keys):
        raise ValueError("pocket's vision tower does not fit that of the twin")
    for name, weight in model.vision_model.named_parameters():
        weight.requires_grad_(name.startswith("head."))
    return model


def train(
    model: SiglipModel,
    tokenizer: PreTrainedTokenizerFast,
    data: Dataset,
    *,
    seed: int,
    course: Course,
) -> None:
    """Train what is not locked, in place."""
    said = claims()
    ids = tokenizer(list(said), padding="max_length", max_length=TOKENS, return_tensors="pt")
    matches = torch.from_numpy(truth_of(data)[:, list(said.values())])
    patches = _patches(model, data)
    batches = list(_batches(np.random.default_rng([seed, 8]), len(data), course))
    weights = [weight for weight in model.parameters() if weight.requires_grad]
    optimiser = torch.optim.AdamW(weights, lr=course.peak_rate, weight_decay=0.05)
    rates = torch.optim.lr_scheduler.OneCycleLR(
        optimiser, course.peak_rate, total_steps=len(batches)
    )
    model.train()
    for rows in batches:
        logits = _logits(model, patches[rows], ids["input_ids"])
        loss = sigmoid_loss(logits, matches[rows])
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(weights, 1.0)
        optimiser.step()
        rates.step()
    model.eval()


def sigmoid_loss(logits: Tensor, matches: Tensor) -> Tensor:
    """Mean over all pairs of -log sigmoid(z logit), z 1 for a match and -1 for none."""
    return -functional.logsigmoid(torch.where(matches, logits, -logits)).mean()


def save(model: SiglipModel, tokenizer: PreTrainedTokenizerFast, directory: Path) -> None:
    """Config, safetensors, tokenizer and normalisation, as the hub lays them out."""
    model.save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    settings = {
        "image_processor_type": "SiglipImageProcessor",
        "image_mean": [0.5, 0.5, 0.5],
        "image_std": [0.5, 0.5, 0.5],
        "size": {"height": VIEW_PX, "width": VIEW_PX},
    }
    (directory / "preprocessor_config.json").write_text(json.dumps(settings))


@torch.no_grad()
def _patches(model: Any, data: Dataset) -> Tensor:
    """Tokens (N, T, W) of the locked tower, which are the same in every epoch."""
    parts = []
    for start in range(0, len(data), VIEWS):
        views = torch.from_numpy(batch(data.views[start : start + VIEWS])).expand(-1, 3, -1, -1)
        parts.append(model.vision_model(pixel_values=(views - 0.5) / 0.5).last_hidden_state)
    return torch.cat(parts)


def _logits(model: Any, patches: Tensor, ids: Tensor) -> Tensor:
    """(B, texts), as SiglipModel has them."""
    seen = functional.normalize(model.vision_model.head(patches), dim=-1)
    said = functional.normalize(model.get_text_features(input_ids=ids).pooler_output, dim=-1)
    return seen @ said.T * model.logit_scale.exp() + model.logit_bias


def _batches(random: np.random.Generator, count: int, course: Course) -> Iterator[NDArray[np.intp]]:
    for _ in range(course.epochs):
        order = random.permutation(count)
        yield from np.array_split(order, max(1, count // course.batch_size))
