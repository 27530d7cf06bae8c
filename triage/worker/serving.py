"""From triage.toml to models that are resident in this process.

A bundle that cannot be loaded is no reason to stop: the others serve, and its place is taken by a
model that answers with the error, so that what it was meant for counts as failed (`roster`). torch
is imported here, once there is a bundle to load, and nowhere else in this room.
"""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, cast

import numpy as np
import structlog

from triage.config import Config, ModelConfig
from triage.errors import BundleError, ConfigError, DeviceFault, TriageError
from triage.pocket import BUNDLE
from triage.records import Caption, Mode, ModelIdentity, ViewSpec
from triage.rules.eligibility import IntendedUse
from triage.worker.models import (
    Classify,
    Describe,
    Encode,
    Encoded,
    Judgement,
    LoadedModel,
    Remembered,
    View,
)

if TYPE_CHECKING:
    from torch import Tensor

    from triage.inference.bundle import Bundle
    from triage.inference.encoder import Encoder

log = structlog.get_logger(__name__)

POCKET = "pocket"
NOT_CALIBRATED = "it was not calibrated on studies of this site, so it is a shadow only"
CALIBRATE = (
    "Run `triage calibrate` with labelled studies of this site and name the bundle that it makes;"
    ' or set mode = "shadow", or serve_without_local_calibration = true, in its [[models]] entry.'
    " Then restart the daemon."
)
CALIBRATED_ELSEWHERE = (
    "it was calibrated {there} and runs here at {dtype} on {device_class}, so it is a shadow only"
)
CALIBRATE_HERE = (
    "Run `triage calibrate` on the machine that serves, with --device {device} --dtype {dtype}, and"
    " name the bundle that it makes; or serve it as it was calibrated, by dtype under [inference]"
    ' and devices in its [[models]] entry; or set mode = "shadow", or'
    " serve_without_local_calibration = true, in that entry. Then restart the daemon."
)
LEAST_VIEW = ViewSpec(rendering="dicom", size_px=8)  # for a bundle whose own cannot be read


def configured_models(config: Config) -> tuple[ModelConfig, ...]:
    """Return [[models]]; in demonstration mode without any, the built-in model alone."""
    if config.demonstration and not config.models:
        return (ModelConfig(name=POCKET, bundle=BUNDLE),)
    return config.models


def recorded_answers(config: Config) -> Path:
    """Return where `triage check --record` keeps the known answers of this site's hardware."""
    return config.store.path / "known_answers"


def slots(config: Config) -> int:
    """Return how many worker processes the configured devices ask for: at least one."""
    return max((len(model.devices) for model in configured_models(config)), default=1)


def open_models(config: Config, *, slot: int) -> list[LoadedModel]:
    """Load every configured bundle onto its device for worker number `slot`.

    Raises DeviceFault. Any other error stays with its bundle: `check` raises it again. A bundle
    that is there already, served or as a shadow, is left out: it would say everything twice.
    """
    models = configured_models(config)
    if models:
        _share_processors(config.inference.decode_processes)
    opened: dict[tuple[str, Mode], LoadedModel] = {}
    for model in models:
        loaded = _open_or_excuse(model, config, slot)
        first = opened.setdefault((loaded.identity.digest, loaded.mode), loaded)
        if first is not loaded:
            log.error(
                "model_left_out",
                model=model.name,
                reason="another [[models]] entry names the same bundle",
                hint="Delete one of the two entries, then restart the daemon.",
            )
    return list(opened.values())


def _share_processors(decode_processes: int) -> None:
    """Leave torch the cores that the decoders leave, and have its threads sleep, not spin.

    Threads that spin for work on a core that a decoder needs make a forward pass on CPU ten times
    as slow. Called by the thread that will ask the models, before torch is first imported.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    import torch

    cores = len(os.sched_getaffinity(0))
    if "OMP_NUM_THREADS" not in os.environ:  # a person's choice stands
        torch.set_num_threads(max(1, cores - decode_processes))


def _open_or_excuse(model: ModelConfig, config: Config, slot: int) -> LoadedModel:
    try:
        return _open(model, config, slot)
    except DeviceFault:
        raise
    except TriageError as error:
        if isinstance(error, BundleError):
            error.hint = f"Run `triage bundle verify {model.bundle}`."
        error.hint = f"{error.hint} Then restart the daemon: bundles are read at its start."
        log.error("bundle_not_loaded", model=model.name, reason=str(error))
        return _excuse(model, error)


def _open(model: ModelConfig, config: Config, slot: int) -> LoadedModel:
    from triage.inference.bundle import load_bundle
    from triage.inference.encoder import check_known_answer, load_encoder

    bundle = load_bundle(model.bundle)
    if bundle.identity.name == POCKET and not config.demonstration:
        raise ConfigError(
            "the built-in model serves only in demonstration mode",
            hint="Set demonstration = true to try things out, or name another bundle.",
        )
    words = captions_wanted(bundle, config)
    encoder = load_encoder(
        bundle,
        device=model.devices[slot % len(model.devices)],
        dtype=config.inference.dtype,
        captions=words,
    )
    describe = _describe(bundle, encoder, config.caption.max_new_tokens) if words else None
    scope = cache_scope(bundle, encoder)
    mode, reason, hint = mode_of(bundle, model, config, scope)
    if reason:
        log.warning("model_only_shadow", model=bundle.identity.name, reason=reason, hint=hint)
    return LoadedModel(
        identity=bundle.identity,
        mode=mode,
        shadow_reason=reason,
        shadow_hint=hint,
        view_spec=bundle.view_spec,
        intended_use=bundle.intended_use,
        not_for_clinical_use=bundle.not_for_clinical_use or config.demonstration,
        cache_scope=scope,
        encode=encode_with(encoder, keep_features=describe is not None),
        classify=_classify(bundle) if bundle.head is not None else None,
        check=lambda: check_known_answer(bundle, encoder, recorded=recorded_answers(config)),
        describe=describe,
    )


def mode_of(
    bundle: "Bundle", model: ModelConfig, config: Config, scope: str
) -> tuple[Mode, str, str]:
    """Return how a bundle runs; where it is a shadow against its entry, why, and what to do.

    A threshold belongs to a site, a dtype and a kind of device: outside demonstration mode a head
    serves only where it was calibrated on local studies by embeddings as it makes them here (of
    `scope`), or where the configuration says otherwise in so many words.
    """
    from triage.inference.bundle import hardware_of

    record = bundle.manifest.calibration
    excused = config.demonstration or model.serve_without_local_calibration
    if model.mode is Mode.SHADOW or excused or bundle.head is None:
        return model.mode, "", ""
    if record is None or not record.local:
        return Mode.SHADOW, NOT_CALIBRATED, CALIBRATE
    dtype, device_class = hardware_of(scope)
    if (record.dtype, record.device_class) == (dtype, device_class):
        return model.mode, "", ""
    reason = CALIBRATED_ELSEWHERE.format(there=record.where, dtype=dtype, device_class=device_class)
    device = device_class.partition("-")[0]
    return Mode.SHADOW, reason, CALIBRATE_HERE.format(device=device, dtype=dtype)


def captions_wanted(bundle: "Bundle", config: Config) -> bool:
    """Whether the language model is worth its memory: words follow findings, so a head."""
    return config.caption.enabled and config.caption.when != "never" and bundle.head is not None


def cache_scope(bundle: "Bundle", encoder: "Encoder") -> str:
    """Return what an embedding depends on beside the view (DESIGN section 3.8)."""
    from triage.inference.bundle import embedding_scope

    return embedding_scope(
        encoder_digest=bundle.encoder_digest,
        preprocessing_version=bundle.manifest.preprocessing_version,
        answer_key=encoder.answer_key,
        features_digest=bundle.features_digest,
    )


def encode_with(encoder: "Encoder", *, keep_features: bool) -> Encode:
    """Return the encoder as the worker calls it: what spoils a batch fails alone."""
    from triage.inference.encoder import embed_isolating

    def encode(views: Sequence[View]) -> list[Encoded | TriageError]:
        # One call takes views of one number of channels: grey ones and colour ones apart.
        answers: dict[int, Encoded | TriageError] = {}
        for channels in sorted({view.shape[0] for view in views}):
            places = [place for place, view in enumerate(views) if view.shape[0] == channels]
            batch = np.stack([views[place] for place in places])
            told = embed_isolating(encoder, batch, keep_features=keep_features)
            for place, answer in zip(places, told, strict=True):
                answers[place] = (
                    answer
                    if isinstance(answer, TriageError)
                    else Encoded(vector=answer[0], features=answer[1])
                )
        return [answers[place] for place in range(len(views))]

    return encode


def _classify(bundle: "Bundle") -> Classify:
    from triage.inference.classifier import classify_subject

    def classify(vectors: "np.typing.NDArray[np.float32]") -> Judgement:
        said = classify_subject(bundle, vectors)
        return Judgement(
            findings=said.findings,
            distance=said.distance,
            in_distribution=said.in_distribution,
        )

    return classify


def _describe(bundle: "Bundle", encoder: "Encoder", max_new_tokens: int) -> Describe | None:
    if encoder.whole is None:
        return None
    from triage.inference.captioner import load_captioner

    captioner = load_captioner(bundle, encoder, maximum_new_tokens=max_new_tokens)

    def describe(entries: Sequence[Remembered]) -> list[Caption | TriageError]:
        # What is remembered is described together; the rest is embedded again, one by one.
        answers: dict[int, Caption | TriageError] = {}
        known = [place for place, entry in enumerate(entries) if entry.features is not None]
        features = [cast("Tensor", entries[place].features) for place in known]
        answers.update(zip(known, captioner.describe_features(features), strict=True))
        for place in sorted(set(range(len(entries))) - set(known)):
            answers[place] = captioner.describe(entries[place].view[None])[0]
        return [answers[place] for place in range(len(entries))]

    return describe


def _excuse(model: ModelConfig, error: TriageError) -> LoadedModel:
    """Stand in for a bundle that could not be loaded; as much of it as can be read is kept."""
    identity = ModelIdentity(name=model.name, version="", digest=f"not loaded: {model.name}")
    view, use, unfit = LEAST_VIEW, IntendedUse(), False
    try:
        from triage.inference.bundle import load_bundle

        bundle = load_bundle(model.bundle, check_encoder=False)
        identity, view, use = bundle.identity, bundle.view_spec, bundle.intended_use
        unfit = bundle.not_for_clinical_use
    except BundleError:
        pass  # told already: it is the error in hand

    def refuse(views: Sequence[View]) -> list[Encoded | TriageError]:
        return [error for _ in views]

    def judge(vectors: "np.typing.NDArray[np.float32]") -> Judgement:
        raise error

    def check() -> None:
        raise error

    return LoadedModel(
        identity=identity,
        mode=model.mode,
        view_spec=view,
        intended_use=use,
        not_for_clinical_use=unfit,
        cache_scope=f"not loaded|{model.name}",
        encode=refuse,
        classify=judge,
        check=check,
    )
