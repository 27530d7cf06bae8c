"""Zero-shot: prompts through MedSigLIP's text tower become the weights of a linear head.

Image and text vectors of SigLIP have length one, and its logit for a pair is exp(logit_scale)
times their product plus logit_bias. A finding is weighed against its absence, so the weights are
scale * (present - absent) and the bias falls out: sigmoid of it is the softmax over the two
prompts. Several prompts of a kind are averaged and brought back to length one (Radford et al.,
2021). Needs no label; where labels are given, they serve calibration as with every method.

The tokenizer is read from the encoder's directory, never fetched. The text tower is used here
only: the head that serves is a matrix.
"""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray

from triage.errors import PermanentError
from triage.inference.bundle_fields import Features
from triage.inference.heads import LinearHead
from triage.inference.weights import read_json
from triage.learning.material.encoders import architecture_of
from triage.learning.methods.looking import labelled_splits
from triage.learning.methods.material import Choices, Material, Prompts, Reals, Trained

PRESENT: Final = "a chest radiograph showing {finding}"
ABSENT: Final = "a normal chest radiograph with no {finding}"
# As SigLIP's tokenizer prepares its texts: lower case, no punctuation, single spaces.
PUNCTUATION: Final = re.compile(r"[^\w\s]|_")
SENTENCEPIECE_HINT: Final = (
    "Install sentencepiece and protobuf, or put the tokenizer.json of the model into the directory."
)


def fit(material: Material, choices: Choices) -> Trained:
    """Make the head; the splits only serve what stands on it."""
    directory = material.encoders[0]
    features = Features(unit_length=True)
    prompts = {name: prompts_of(name, choices.prompts) for name in material.table.findings}
    head = head_of(directory, prompts)
    train, val = labelled_splits(material, material.encoders, features=features)
    return Trained(
        head=head,
        encoder=directory,
        features=features,
        view=material.view,
        train=train,
        val=val,
        record={
            "prompts": {
                name: {"present": list(each.present), "absent": list(each.absent)}
                for name, each in prompts.items()
            }
        },
    )


def prompts_of(finding: str, chosen: Mapping[str, Prompts]) -> Prompts:
    """The prompts given for a finding, else the two of this module."""
    words = finding.replace("_", " ")
    return chosen.get(finding) or Prompts(
        present=(PRESENT.format(finding=words),), absent=(ABSENT.format(finding=words),)
    )


def head_of(directory: Path, prompts: Mapping[str, Prompts]) -> LinearHead:
    """The linear head on image vectors of length one. Raises PermanentError."""
    if architecture_of(directory) != "SiglipModel":
        raise PermanentError(
            f"the encoder in {directory} has no text tower to read prompts with",
            hint="Zero-shot needs MedSigLIP; train another method on labels for this encoder.",
        )
    model = _model(directory)
    tokenizer = _tokenizer(directory)
    rows = []
    for each in prompts.values():
        present, absent = (
            _mean_vector(model, tokenizer, texts) for texts in (each.present, each.absent)
        )
        rows.append(present - absent)
    weights = np.stack(rows) * float(model.logit_scale.detach().exp())
    width = weights.shape[1]
    return LinearHead(
        mean=np.zeros(width), scale=np.ones(width), weights=weights, intercept=np.zeros(len(rows))
    )


def canonical(text: str) -> str:
    """The text as the tower was trained to read it."""
    return " ".join(PUNCTUATION.sub(" ", text.lower()).split())


@torch.no_grad()
def _mean_vector(model: Any, tokenizer: Any, texts: Sequence[str]) -> Reals:
    """Direction (W,) of several prompts."""
    length = model.config.text_config.max_position_embeddings
    found: list[NDArray[np.float64]] = []
    for text in texts:
        said = canonical(text)
        if not said:
            raise PermanentError("a prompt of zero-shot holds no word")
        if len(tokenizer(said)["input_ids"]) > length:
            raise PermanentError(
                f"the prompt {said[:64]!r} is longer than the {length} tokens that the text tower"
                " reads",
                hint="Use a shorter one.",
            )
        # Padded to the full length: the tower reads its answer off the last position.
        ids = tokenizer(said, padding="max_length", max_length=length, return_tensors="pt")
        if int(ids["input_ids"].max()) >= model.config.text_config.vocab_size:
            raise PermanentError("the tokenizer knows words that the text tower does not")
        vector = model.get_text_features(input_ids=ids["input_ids"]).pooler_output[0]
        found.append(_unit(vector.double().numpy()))
    return _unit(np.mean(found, axis=0))


def _unit(vector: Reals) -> Reals:
    return np.asarray(vector / max(float(np.linalg.norm(vector)), 1e-12), np.float64)


def _model(directory: Path) -> Any:
    from transformers import SiglipModel
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()
    try:
        model, told = SiglipModel.from_pretrained(
            directory,
            local_files_only=True,
            use_safetensors=True,
            dtype=torch.float32,
            output_loading_info=True,
        )
    except (OSError, ValueError, RuntimeError) as error:
        raise PermanentError(
            f"{directory} cannot be loaded as a SigLIP model",
            hint="Name the directory of MedSigLIP-448 with all its files.",
        ) from error
    if told["missing_keys"]:
        raise PermanentError(
            f"the encoder in {directory} has no text tower: {min(told['missing_keys'])} is missing",
            hint="Name the directory of MedSigLIP-448 with all its files.",
        )
    return model.eval()


def _tokenizer(directory: Path) -> Any:
    """The tokenizer of the directory; the fast form needs no further package."""
    from transformers import AutoTokenizer, PreTrainedTokenizerFast

    try:
        if (directory / "tokenizer.json").is_file():
            tokenizer = PreTrainedTokenizerFast.from_pretrained(directory, local_files_only=True)
        else:
            if not (directory / "spiece.model").is_file():
                raise PermanentError(
                    f"{directory} holds no tokenizer: neither tokenizer.json nor spiece.model",
                    hint="Copy the whole directory of the model.",
                )
            tokenizer = AutoTokenizer.from_pretrained(
                directory, local_files_only=True, trust_remote_code=False
            )
    except ImportError as error:
        raise PermanentError(
            f"the tokenizer in {directory} needs a package that is not installed",
            hint=SENTENCEPIECE_HINT,
        ) from error
    except (OSError, ValueError, TypeError) as error:
        raise PermanentError(
            f"{directory} has no tokenizer that can be loaded", hint=SENTENCEPIECE_HINT
        ) from error
    if tokenizer.pad_token is None:
        _give_padding(tokenizer, directory)
    return tokenizer


def _give_padding(tokenizer: Any, directory: Path) -> None:
    """SigLIP pads with its end token; its settings say so where the tokenizer does not."""
    settings: dict[str, Any] = {}
    if (directory / "tokenizer_config.json").is_file():
        settings = read_json(directory / "tokenizer_config.json")
    token = settings.get("pad_token") or settings.get("eos_token") or "</s>"
    tokenizer.pad_token = token["content"] if isinstance(token, dict) else token
