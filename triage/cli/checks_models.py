"""Try every configured model on every device it names: its files, and its known answer.

On hardware of a kind that no answer is on record for, `--record` keeps this machine's own: a
decision to trust it, so the fact is recorded with the name of who took it.
"""

import functools
from collections.abc import Iterator
from typing import TYPE_CHECKING

from triage.cli.checked import Checked, tried
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
        yield Checked(name=name, passed=False, message=str(error), next_step=error.hint)
        return
    identity = bundle.identity
    said = f"{identity.name} {identity.version}: every file is as listed"
    yield Checked(name=name, passed=True, message=said)
    for device in model.devices:
        answer = functools.partial(_known_answer, bundle, device, config, record)
        yield tried(f"{name} on {device}", answer)


def _known_answer(bundle: "Bundle", device: str, config: Config, record: bool) -> str:
    from triage.inference.bundle import known_vector
    from triage.inference.captioner import load_captioner
    from triage.inference.encoder import check_known_answer, load_encoder
    from triage.worker.serving import captions_wanted, recorded_answers

    recorded = recorded_answers(config)
    words = captions_wanted(bundle, config)
    encoder = load_encoder(bundle, device=device, dtype=config.inference.dtype, captions=words)
    if encoder.whole is not None:
        load_captioner(bundle, encoder, maximum_new_tokens=config.caption.max_new_tokens)
    key = encoder.answer_key
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
