"""Image encoders: views in, embeddings out.

One loader for MedGemma 4B, MedSigLIP-448 and pocket, from a local directory in the hub's
format, never from the network. MedGemma's embedding is the mean over the tokens of its vision
tower, MedSigLIP's the output of its pooling head. Pixels are normalised here, in float32, with
mean and deviation of the directory's preprocessor settings: the processors of transformers
differ with what else is installed and squeeze floats through eight bits.

Knows no rendering (views come finished from `imaging`) and no findings (`classifier`).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import Gemma3ForConditionalGeneration, SiglipVisionModel
from transformers.utils.logging import disable_progress_bar

from triage.errors import (
    BundleError,
    DeviceFault,
    DeviceOutOfMemory,
    InferenceError,
    KnownAnswerError,
    TriageError,
)
from triage.inference.bundle import Bundle, answer_key, known_vector
from triage.inference.device import (
    choose_device,
    choose_dtype,
    device_class,
    dtype_name,
    on_device,
)
from triage.inference.weights import load_vision_tower, read_json


@dataclass(frozen=True, slots=True, kw_only=True)
class Embedded:
    """Embeddings of a batch, in the order of its views. A row that failed alone is not finite."""

    vectors: NDArray[np.float32]  # (B, D)
    finite: NDArray[np.bool_]  # (B,)
    features: tuple[Tensor, ...] | None  # per view (tokens, width) on the device, for captions


@dataclass(frozen=True, slots=True, kw_only=True)
class Encoder:
    """A vision tower that is resident on one device. Not for use by two threads at once."""

    size_px: int
    width: int  # D
    device: torch.device
    dtype: torch.dtype
    mean: Tensor  # (3, 1, 1)
    deviation: Tensor  # (3, 1, 1)
    tower: Callable[[Tensor], tuple[Tensor, Tensor]]  # pixels to tokens (B, T, W), vectors (B, D)
    whole: Gemma3ForConditionalGeneration | None  # with captions: the model around the tower

    @property
    def answer_key(self) -> str:
        """Kind of hardware, e.g. `float32-cpu` or `bfloat16-cuda-9.0`."""
        return answer_key(dtype_name(self.dtype), device_class(self.device))

    def embed(self, views: NDArray[np.float32], *, keep_features: bool = False) -> Embedded:
        """Embed float32 (B, C, S, S) in 0..1, C 1 or 3; one batch on the device.

        Raises DeviceOutOfMemory, DeviceFault, or InferenceError where torch refuses the batch.
        A view that holds or yields a value that is not finite fails alone (`finite`).
        """
        self._check(views)
        sound = np.asarray(np.isfinite(views).all(axis=(1, 2, 3)), np.bool_)
        clean = np.where(sound[:, None, None, None], views, np.float32(0.0))
        tokens, vectors = on_device(lambda: self._forward(clean))
        return Embedded(
            vectors=vectors,
            finite=np.logical_and(sound, np.isfinite(vectors).all(axis=1)),
            features=tuple(tokens) if keep_features else None,
        )

    def _check(self, views: NDArray[np.float32]) -> None:
        shape = views.shape
        if len(shape) != 4 or shape[1] not in {1, 3} or shape[2:] != (self.size_px, self.size_px):
            raise InferenceError(
                f"views of shape {shape} do not fit an encoder of {self.size_px} px"
            )
        if views.dtype != np.float32:
            raise InferenceError(f"views are {views.dtype}, not float32")

    def _forward(self, views: NDArray[np.float32]) -> tuple[Tensor, NDArray[np.float32]]:
        pixels = torch.from_numpy(np.ascontiguousarray(views)).to(self.device)
        pixels = pixels.expand(-1, 3, -1, -1)
        tokens, vectors = self.tower(((pixels - self.mean) / self.deviation).to(self.dtype))
        # Back to the host inside the guarded call: CUDA reports its errors here at the latest.
        return tokens, vectors.float().cpu().numpy()


def load_encoder(
    bundle: Bundle, *, device: str = "auto", dtype: str = "auto", captions: bool = False
) -> Encoder:
    """Load the encoder of a bundle; with `captions` the whole model, if the bundle has them.

    Raises BundleError for a directory that does not fit, ConfigError for device or dtype.
    """
    return open_encoder(
        bundle.encoder_directory,
        architecture=bundle.manifest.encoder.architecture,
        size_px=bundle.view_spec.size_px,
        device=device,
        dtype=dtype,
        captions=captions and bundle.manifest.captions,
    )


def open_encoder(
    directory: Path,
    *,
    architecture: str,
    size_px: int,
    device: str = "auto",
    dtype: str = "auto",
    captions: bool = False,
) -> Encoder:
    """Load an encoder directory that belongs to no bundle yet; errors as `load_encoder`."""
    place = choose_device(device)
    arithmetic = choose_dtype(dtype, place)
    mean, deviation = _normalisation(directory)
    whole = _load_whole(directory, arithmetic, place) if captions else None
    vision: Any = whole.model.vision_tower if whole else _load_tower(directory, arithmetic, place)
    pooled = architecture == "SiglipModel"
    trained_px = vision.config.image_size

    def tower(pixels: Tensor) -> tuple[Tensor, Tensor]:
        output = vision(pixel_values=pixels, interpolate_pos_encoding=size_px != trained_px)
        tokens = output.last_hidden_state
        return tokens, output.pooler_output if pooled else tokens.float().mean(dim=1)

    return Encoder(
        size_px=size_px,
        width=vision.config.hidden_size,
        device=place,
        dtype=arithmetic,
        mean=mean.to(place),
        deviation=deviation.to(place),
        tower=tower,
        whole=whole,
    )


def embed_isolating(
    encoder: Encoder, views: NDArray[np.float32], *, keep_features: bool = False
) -> list[tuple[NDArray[np.float32], Tensor | None] | TriageError]:
    """Embed a batch so that one bad view fails alone: per view (vector, features) or its error.

    The batch is halved when it does not fit the device or torch refuses it. A view that does not
    fit alone answers DeviceOutOfMemory; DeviceFault is raised, for no view can be served then.
    """
    try:
        embedded = encoder.embed(views, keep_features=keep_features)
    except DeviceFault:
        raise
    except (DeviceOutOfMemory, InferenceError) as error:
        trouble = error
    else:
        features: Sequence[Tensor | None] = embedded.features or (None,) * len(views)
        return [
            (vector, feature)
            if finite
            else InferenceError("the model gave a value that is not finite for this image")
            for vector, feature, finite in zip(
                embedded.vectors, features, embedded.finite, strict=True
            )
        ]
    if len(views) <= 1:
        return [trouble] * len(views)
    middle = len(views) // 2
    return [
        *embed_isolating(encoder, views[:middle], keep_features=keep_features),
        *embed_isolating(encoder, views[middle:], keep_features=keep_features),
    ]


def check_known_answer(bundle: Bundle, encoder: Encoder, *, recorded: Path | None = None) -> None:
    """Raise KnownAnswerError unless the known image gives its stored embedding here.

    `recorded` is a directory of answers recorded on this machine (`triage check --record`).
    """
    key = encoder.answer_key
    expected = known_vector(bundle, key, recorded)
    if expected is None:
        raise KnownAnswerError(
            f"bundle {bundle.identity.name} has no known answer for {key}",
            hint="If you trust this hardware, record its answer: `triage check --record`.",
        )
    embedded = encoder.embed(bundle.known_answer.image[None])
    difference = relative_difference(embedded.vectors[0], expected)
    limit = bundle.manifest.tolerance[dtype_name(encoder.dtype)]
    if not difference <= limit:  # also where the difference is not a number
        raise KnownAnswerError(
            f"bundle {bundle.identity.name} gives another answer on {key} than recorded:"
            f" difference {difference:.2g}, tolerance {limit:.2g}"
        )


def relative_difference(vector: NDArray[np.float32], expected: NDArray[np.float32]) -> float:
    """Largest difference of two embeddings as a share of the expected one's rms."""
    if vector.shape != expected.shape:
        return float("inf")
    scale = float(np.sqrt(np.mean(np.square(expected, dtype=np.float64))))
    return float(np.max(np.abs(vector - expected))) / max(scale, 1e-12)


def _load_tower(directory: Path, dtype: torch.dtype, device: torch.device) -> SiglipVisionModel:
    tower = load_vision_tower(directory, dtype)
    return on_device(lambda: tower.to(device).eval())


def _load_whole(
    directory: Path, dtype: torch.dtype, device: torch.device
) -> Gemma3ForConditionalGeneration:
    disable_progress_bar()
    try:
        model, told = Gemma3ForConditionalGeneration.from_pretrained(
            directory,
            local_files_only=True,
            use_safetensors=True,
            dtype=dtype,
            attn_implementation="sdpa",
            output_loading_info=True,
        )
    except (OSError, ValueError, RuntimeError) as error:
        raise BundleError(f"{directory} cannot be loaded as a Gemma 3 model") from error
    if told["missing_keys"]:  # transformers would let random weights speak in their place
        raise BundleError(
            f"the weights in {directory} lack {min(told['missing_keys'])} of its config.json"
        )
    return on_device(lambda: model.to(device).eval())


def _normalisation(directory: Path) -> tuple[Tensor, Tensor]:
    """Mean and deviation per channel, from either layout of the preprocessor settings."""
    for name in ("preprocessor_config.json", "processor_config.json"):
        if (directory / name).is_file():
            settings = read_json(directory / name)
            settings = settings.get("image_processor", settings)
            break
    else:
        raise BundleError(f"{directory} has no preprocessor_config.json")
    read = []
    for key in ("image_mean", "image_std"):
        values = settings.get(key)
        if not isinstance(values, list) or len(values) != 3:
            raise BundleError(f"{directory / name} lacks {key} of three channels")
        read.append(torch.tensor(values, dtype=torch.float32).reshape(3, 1, 1))
    if not (read[1] > 0).all():
        raise BundleError(f"{directory / name} has an image_std that is not positive")
    return read[0], read[1]
