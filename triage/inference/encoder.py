"""Image encoders: views in, embeddings out.

One loader for MedGemma 4B, MedSigLIP-448 and pocket, from a local directory in the hub's
format, never from the network. By default MedGemma's embedding is the mean over the tokens of
its vision tower, MedSigLIP's the output of its pooling head; `bundle_fields.Features` says what
else a bundle may ask for. Pixels are normalised here, in float32, with mean and deviation of the
directory's preprocessor settings: the processors of transformers differ with what else is
installed and squeeze floats through eight bits.

Knows no rendering (views come finished from `imaging`) and no findings (`classifier`).
"""

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import Gemma3ForConditionalGeneration, SiglipVisionModel

from triage.errors import (
    BundleError,
    DeviceFault,
    DeviceOutOfMemory,
    InferenceError,
    KnownAnswerError,
    TriageError,
)
from triage.inference.bundle import Bundle, answer_key, known_vector
from triage.inference.bundle_fields import Features
from triage.inference.bundle_parts import unit_rows
from triage.inference.device import (
    choose_device,
    choose_dtype,
    device_class,
    dtype_name,
    on_device,
)
from triage.inference.features import QueryPooling, Terms, tfidf
from triage.inference.pooling import query_pool, tensors_of
from triage.inference.weights import load_vision_tower, load_whole, normalisation
from triage.inference.writer import open_writer, prompt_digest

HEADED: Final = "SiglipModel"  # the architecture with a pooling head and no language model
Words = Callable[[Tensor], NDArray[np.float32]]  # tokens (B, T, W) to caption features (B, N)


@dataclass(frozen=True, slots=True, kw_only=True)
class Embedded:
    """Embeddings of a batch, in the order of its views. A row that failed alone is not finite."""

    vectors: NDArray[np.float32]  # (B, D)
    finite: NDArray[np.bool_]  # (B,)
    features: tuple[Tensor, ...] | None  # per view (tokens, width) on the device, for captions


@dataclass(frozen=True, slots=True, kw_only=True)
class Encoder:
    """A vision tower that is resident on one device. Not for use by two threads at once.

    `vision` and `tower` let gradients through when called outside `embed`, for training and
    explanation: `encoder.tower(encoder.pixels(views))`.
    """

    size_px: int
    widths: tuple[int, ...]  # features of the tower, of each expert, of the words
    device: torch.device
    dtype: torch.dtype
    mean: Tensor  # (3, 1, 1)
    deviation: Tensor  # (3, 1, 1)
    vision: SiglipVisionModel
    tower: Callable[[Tensor], tuple[Tensor, Tensor]]  # pixels to tokens (B, T, W), pooled (B, P)
    whole: Gemma3ForConditionalGeneration | None  # with captions: the model around the tower
    unit_length: bool = False  # each encoder's vector
    experts: tuple["Encoder", ...] = ()
    words: Words | None = None
    turn: threading.Lock = field(default_factory=threading.Lock)  # to write with `whole`

    @property
    def width(self) -> int:
        """D."""
        return sum(self.widths)

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

    def pixels(self, views: NDArray[np.float32]) -> Tensor:
        """Normalised pixels (B, 3, S, S) of views on the device, as `tower` and `vision` take."""
        self._check(views)
        pixels = torch.from_numpy(np.ascontiguousarray(views)).to(self.device)
        pixels = pixels.expand(-1, 3, -1, -1)
        return ((pixels - self.mean) / self.deviation).to(self.dtype)

    def patch_tokens(
        self, views: NDArray[np.float32], *, layer: int | None = None
    ) -> NDArray[np.float32]:
        """Tokens (B, T, W) of a hidden layer, counted from 1, or of the tower's output.

        The first encoder's, whatever the features are; errors as `embed`.
        """
        return on_device(
            lambda: tokens_of(self.vision, self.pixels(views), layer).float().cpu().numpy()
        )

    def _forward(self, views: NDArray[np.float32]) -> tuple[Tensor, NDArray[np.float32]]:
        tokens, pooled = self.tower(self.pixels(views))
        # Back to the host inside the guarded call: CUDA reports its errors here at the latest.
        parts = [pooled.float().cpu().numpy()]
        parts += [expert._forward(views)[1] for expert in self.experts]
        if self.unit_length:
            with np.errstate(over="ignore", invalid="ignore"):  # not finite then, and told so
                parts = [unit_rows(part) for part in parts]
        if self.words is not None:
            parts.append(self.words(tokens))
        return tokens, np.concatenate(parts, axis=1)


def load_encoder(
    bundle: Bundle, *, device: str = "auto", dtype: str = "auto", captions: bool = False
) -> Encoder:
    """Load the encoder of a bundle; with `captions` the whole model, if the bundle has them.

    Raises BundleError for a directory that does not fit, ConfigError for device or dtype.
    """
    features = bundle.manifest.features
    return open_encoder(
        bundle.encoder_directory,
        architecture=bundle.manifest.encoder.architecture,
        size_px=bundle.view_spec.size_px,
        device=device,
        dtype=dtype,
        captions=captions and bundle.manifest.captions,
        features=features,
        experts=tuple((bundle.encoder_place(each), each.architecture) for each in features.experts),
        pooling=bundle.pooling,
        terms=bundle.terms,
    )


def open_encoder(
    directory: Path,
    *,
    architecture: str,
    size_px: int,
    device: str = "auto",
    dtype: str = "auto",
    captions: bool = False,
    features: Features | None = None,
    experts: Sequence[tuple[Path, str]] = (),
    pooling: QueryPooling | None = None,
    terms: Terms | None = None,
) -> Encoder:
    """Load an encoder directory that belongs to no bundle yet; errors as `load_encoder`.

    `experts`: directories and architectures; `pooling` and `terms` go with features that need them.
    """
    features = features or Features()
    _require_fitting(features, architecture, pooling, terms)
    place = choose_device(device)
    arithmetic = choose_dtype(dtype, place)
    whole = vision = None
    if captions or features.captions:
        whole = on_device(lambda: load_whole(directory, arithmetic).to(place).eval(), final=False)
        vision = whole.model.vision_tower
    encoder = _first(
        directory,
        architecture,
        vision or _load_vision(directory, arithmetic, place),
        size_px=size_px,
        features=features,
        pooling=pooling,
    )
    further = tuple(
        open_encoder(path, architecture=kind, size_px=size_px, device=device, dtype=dtype)
        for path, kind in experts
    )
    widths = (*encoder.widths, *(expert.width for expert in further))
    encoder = replace(encoder, whole=whole, experts=further, widths=widths)
    return encoder if terms is None else _with_words(encoder, directory, terms)


def _require_fitting(
    features: Features, architecture: str, pooling: QueryPooling | None, terms: Terms | None
) -> None:
    if (pooling is None) == (features.pooling == "queries") or (terms is None) == features.captions:
        raise BundleError("the features of the encoder lack their arrays, or the reverse")
    if features.captions and architecture == HEADED:
        raise BundleError(f"a {architecture} writes no captions to take features from")


def _load_vision(directory: Path, dtype: torch.dtype, device: torch.device) -> SiglipVisionModel:
    tower = load_vision_tower(directory, dtype)
    return on_device(lambda: tower.to(device).eval(), final=False)


def _first(
    directory: Path,
    architecture: str,
    vision: Any,
    *,
    size_px: int,
    features: Features,
    pooling: QueryPooling | None,
) -> Encoder:
    """The encoder around a loaded tower, without experts and words."""
    weight = next(vision.parameters())
    mean, deviation = normalisation(directory)
    layers, width = vision.config.num_hidden_layers, vision.config.hidden_size
    if features.layer is not None and features.layer > layers:
        raise BundleError(f"the features read layer {features.layer} of a tower with {layers}")
    if pooling is not None and pooling.queries.shape[1] != width:
        raise BundleError(f"the queries do not fit tokens of width {width}")
    tensors = None if pooling is None else tensors_of(pooling, weight.device)

    def tower(pixels: Tensor) -> tuple[Tensor, Tensor]:
        output = _run(vision, pixels, features.layer)
        tokens = output.last_hidden_state
        if features.pooling == "default" and architecture == HEADED:
            return tokens, output.pooler_output
        read = tokens if features.layer is None else output.hidden_states[features.layer]
        pooled = read.float().mean(dim=1) if tensors is None else query_pool(read, tensors)
        return tokens, pooled

    return Encoder(
        size_px=size_px,
        widths=(width if pooling is None else pooling.width,),
        device=weight.device,
        dtype=weight.dtype,
        mean=mean.to(weight.device),
        deviation=deviation.to(weight.device),
        vision=vision,
        tower=tower,
        whole=None,
        unit_length=features.unit_length,
    )


def _with_words(encoder: Encoder, directory: Path, terms: Terms) -> Encoder:
    """Add the features of captions; BundleError where they would be asked for otherwise."""
    if encoder.whole is None:
        raise BundleError(f"{directory} holds no model that writes captions")
    if terms.prompt_digest != prompt_digest(terms.maximum_new_tokens):
        raise BundleError("the caption terms were fitted on answers to another prompt")
    writer = open_writer(
        directory, encoder.whole, maximum_new_tokens=terms.maximum_new_tokens, turn=encoder.turn
    )
    return replace(
        encoder,
        words=lambda tokens: tfidf(terms, writer.write(tuple(tokens))),
        widths=(*encoder.widths, len(terms.terms)),
    )


def tokens_of(vision: SiglipVisionModel, pixels: Tensor, layer: int | None) -> Tensor:
    """Tokens (B, T, W) of a hidden layer, counted from 1, or the tower's output; with gradients."""
    output = _run(vision, pixels, layer)
    tokens: Tensor = output.last_hidden_state if layer is None else output.hidden_states[layer]
    return tokens


def _run(vision: Any, pixels: Tensor, layer: int | None) -> Any:
    if layer is not None and not 1 <= layer <= vision.config.num_hidden_layers:
        raise InferenceError(f"the tower has no layer {layer}")
    trained_px = vision.config.image_size
    return vision(
        pixel_values=pixels,
        interpolate_pos_encoding=pixels.shape[-1] != trained_px,
        output_hidden_states=layer is not None,
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
    difference = largest_difference(encoder, embedded.vectors[0], expected)
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


def largest_difference(
    encoder: Encoder, vector: NDArray[np.float32], expected: NDArray[np.float32]
) -> float:
    """`relative_difference` of the part that differs most: a small one must not hide in a large."""
    if vector.shape != expected.shape or len(vector) != encoder.width:
        return float("inf")
    ends = np.cumsum(encoder.widths)[:-1]
    parts = zip(np.split(vector, ends), np.split(expected, ends), strict=True)
    differences = [relative_difference(part, known) for part, known in parts]
    return float(np.max(differences))  # not a number where any is
