"""Try every configured model on every device it names: its files, its known answer, its mode.

On hardware of a kind that no answer is on record for, `--record` keeps this machine's own: a
decision to trust it, so the fact is recorded with the name of who took it.
"""

from collections.abc import Iterator
from typing import TYPE_CHECKING

from triage.cli.checked import Checked, failed
from triage.cli.verbs import operator, writing
from triage.config import Config, ModelConfig
from triage.errors import TriageError

if TYPE_CHECKING:
    from triage.inference.bundle import Bundle
    from triage.inference.encoder import Encoder


def configured_models(config: Config) -> tuple[ModelConfig, ...]:
    """Return what is to be served: `[[models]]`, else pocket in demonstration mode."""
    from triage.worker import serving

    return serving.configured_models(config)


def check_model(model: ModelConfig, config: Config, *, record: bool) -> Iterator[Checked]:
    """Yield one outcome for the bundle and, if it is sound, one per device."""
    from triage.inference.bundle import load_bundle

    name = f"model {model.name}"
    try:
        bundle = load_bundle(model.bundle)
    except TriageError as error:
        yield failed(name, error)
        return
    identity = bundle.identity
    said = f"{identity.name} {identity.version}: every file is as listed"
    yield Checked(name=name, passed=True, message=said)
    for device in model.devices:
        yield _on_device(model, bundle, device, config, record)


def _on_device(
    model: ModelConfig, bundle: "Bundle", device: str, config: Config, record: bool
) -> Checked:
    """The known answer there; a shadow that was meant to serve passes, and says so."""
    from triage.worker.serving import cache_scope, mode_of

    name = f"model {model.name} on {device}"
    try:
        encoder = _loaded(bundle, device, config)
        said = _known_answer(bundle, encoder, device, config, record)
    except TriageError as error:
        return failed(name, error)
    _, reason, hint = mode_of(bundle, model, config, cache_scope(bundle, encoder))
    message = f"{said}; {reason}" if reason else said
    return Checked(name=name, passed=True, message=message, next_step=hint)


def _loaded(bundle: "Bundle", device: str, config: Config) -> "Encoder":
    from triage.inference.captioner import load_captioner
    from triage.inference.encoder import load_encoder
    from triage.worker.serving import captions_wanted

    words = captions_wanted(bundle, config)
    encoder = load_encoder(bundle, device=device, dtype=config.inference.dtype, captions=words)
    if encoder.whole is not None:
        load_captioner(bundle, encoder, maximum_new_tokens=config.caption.max_new_tokens)
    return encoder


def _known_answer(
    bundle: "Bundle", encoder: "Encoder", device: str, config: Config, record: bool
) -> str:
    from triage.inference.bundle import known_vector
    from triage.inference.encoder import check_known_answer
    from triage.worker.serving import recorded_answers

    recorded, key = recorded_answers(config), encoder.answer_key
    if record and known_vector(bundle, key, recorded) is None:
        return _record(bundle, encoder, device, config)
    check_known_answer(bundle, encoder, recorded=recorded)
    return f"gives its known answer ({key})"


def _record(bundle: "Bundle", encoder: "Encoder", device: str, config: Config) -> str:
    """Keep this machine's answer and leave the event that says who trusted it."""
    from triage.database.house import record_decision
    from triage.inference.bundle_making import record_known_answer
    from triage.worker.serving import recorded_answers

    by = operator()
    with writing(config) as database:
        record_known_answer(
            bundle,
            device=device,
            dtype=config.inference.dtype,
            directory=recorded_answers(config),
        )
        with database.write() as connection:
            record_decision(
                connection,
                study_id=None,
                what="known_answer_recorded",
                by=by,
                detail={"bundle_digest": bundle.identity.digest, "hardware": encoder.answer_key},
                now=database.now(connection),
            )
    return f"known answer recorded for {encoder.answer_key}"
