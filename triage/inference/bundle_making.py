"""Make bundles: from an encoder directory alone, or with head and bank; record known answers.

The one maker of the format that `bundle` reads; `bundle_writing` puts it on the disk. Loads the
encoder, hence torch, only where an answer has to be computed.
"""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save as save_arrays

from triage.errors import BundleError
from triage.inference.bundle import Bundle, answer_file, digest_of_file, encoder_files
from triage.inference.bundle_fields import (
    ARCHITECTURES,
    SCHEMA_VERSION,
    CalibrationRecord,
    EncoderReference,
    Features,
    FindingSpec,
    Gate,
    Manifest,
    check_features,
)
from triage.inference.bundle_parts import (
    BANK,
    CALIBRATION,
    CARD,
    HEAD,
    KNOWN_ANSWER,
    KNOWN_ANSWERS,
    MANIFEST,
    PATIENTS,
    POOLING,
    TERMS,
)
from triage.inference.bundle_writing import aside, carry, write
from triage.inference.calibration import (
    Calibration,
    calibration_arrays,
    check_calibration,
    uncalibrated,
)
from triage.inference.features import (
    QueryPooling,
    Terms,
    check_pooling,
    pooling_arrays,
    read_terms,
    terms_text,
)
from triage.inference.heads import Head, check_head, finding_count, head_arrays, kind_of
from triage.inference.patients import Patients, patients_arrays
from triage.records import ViewSpec
from triage.rules.eligibility import IntendedUse

if TYPE_CHECKING:
    from triage.inference.encoder import Encoder

# Largest |difference| of an embedding as a share of its rms. Kernels differ between processors
# of one kind in the order of their sums: about 1e-5 in float32, a few units of 2^-8 in bfloat16.
TOLERANCE: Final[Mapping[str, float]] = {"float32": 2e-3, "bfloat16": 8e-2}
CARD_WITHOUT_HEAD: Final = """\
# {name} {version}

Encoder only: images are embedded, and no classifier has been fitted on the embeddings. Studies
are shown as not analysed, with the reason "no classifier for this encoder".
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Fitted:
    """What stands on an encoder: a head with its findings, its calibration, a bank with its gate.

    Without `calibration` probabilities are sigmoid(logit); without `record` the bundle says that
    it is not calibrated on local studies. Bank and gate come together or not at all; with crops
    the bank holds whole images only (`classifier.classify_subject`).
    """

    head: Head
    findings: tuple[FindingSpec, ...]
    calibration: Calibration | None = None
    record: CalibrationRecord | None = None
    bank_vectors: NDArray[np.float32] | None = None  # (N, D) of images of the intended kind
    gate: Gate | None = None


def init_bundle(
    encoder_directory: Path | str,
    out_directory: Path | str,
    *,
    name: str,
    version: str = "1",
    view: ViewSpec | None = None,
    intended_use: IntendedUse | None = None,
    captions: bool | None = None,
    card: str | None = None,
    not_for_clinical_use: bool = False,
    features: Features | None = None,
    experts: Sequence[Path | str] = (),
    pooling: QueryPooling | None = None,
    terms: Terms | None = None,
    fitted: Fitted | None = None,
    training: Mapping[str, Any] | None = None,
    patients: Patients | None = None,
    figures: Mapping[str, Any] | None = None,
    device: str = "auto",
    dtypes: tuple[str, ...] = ("auto",),
) -> Bundle:
    """Write a bundle for a local encoder and record its known answer on this machine.

    An encoder directory inside `out_directory` is referred to by its relative path, any other
    by its absolute one. `features` says how a view becomes a vector; `experts` are directories
    of further encoders and fill `features.experts`; `pooling` goes with pooling "queries",
    `terms` with captions. Without `fitted` the bundle has no head. Captions default to what the
    architecture can do. Raises BundleError; nothing is downloaded.
    """
    from triage.imaging.views import PREPROCESSING_VERSION

    out = Path(out_directory).resolve()
    _require_no_bundle(out)
    reference, settings = _refer(Path(encoder_directory).resolve(), out)
    further = tuple(_refer(Path(path).resolve(), out)[0] for path in experts)
    manifest = Manifest(
        name=name,
        version=version,
        encoder=reference,
        features=replace(features or Features(), experts=further),
        view=view or _default_view(settings),
        preprocessing_version=PREPROCESSING_VERSION,
        captions=_can_caption(reference) if captions is None else captions,
        findings=(),
        gate=None,
        tolerance=dict(TOLERANCE),
        intended_use=intended_use or IntendedUse(),
        not_for_clinical_use=not_for_clinical_use,
        training=dict(training or {}),
        figures=dict(figures or {}),
        files={},
    )
    manifest = manifest if fitted is None else _headed(manifest, fitted)
    parts = {CARD: (card or CARD_WITHOUT_HEAD.format(name=name, version=version)).encode()}
    parts |= _feature_parts(manifest.features, pooling, terms) | _fitted_parts(fitted)
    parts |= _patients_part(patients)
    out.mkdir(parents=True, exist_ok=True)
    encoders = _encoders(out, manifest, pooling, terms, device=device, dtypes=dtypes)
    parts[KNOWN_ANSWER] = _answer_bytes(manifest.view.size_px, encoders)
    return write(out, manifest, parts)


def derive_bundle(
    bundle: Bundle,
    out_directory: Path | str,
    *,
    version: str | None = None,
    calibration: Calibration | None = None,
    record: CalibrationRecord | None = None,
    findings: tuple[FindingSpec, ...] | None = None,
    patients: Patients | None = None,
    figures: Mapping[str, Any] | None = None,
    card: str | None = None,
) -> Bundle:
    """Write a copy of `bundle` with another calibration, findings of the same names, or records.

    Encoder, features, head, bank and known answers stay as they are, so nothing is computed;
    what is not given stays too. A new calibration needs its record. An encoder inside the bundle
    is copied with it. The copy is written in the present version of the format, so that a
    bundle of version 1 can be calibrated, and stands in its place whole or not at all. Raises
    BundleError.
    """
    out, old = Path(out_directory).resolve(), bundle.manifest
    _require_no_bundle(out)
    findings = old.findings if findings is None else findings
    fitted = _recalibrated(bundle, findings, calibration, record)
    parts = {file: (bundle.directory / file).read_bytes() for file in old.files}
    parts |= _fitted_parts(fitted) | _patients_part(patients)
    parts |= {} if card is None else {CARD: card.encode()}
    manifest = replace(
        old,
        schema_version=SCHEMA_VERSION,
        version=version or old.version,
        findings=findings,
        calibration=_record_of(fitted) if fitted else None,
        figures=dict(old.figures if figures is None else figures),
    )
    with aside(out) as draft:
        for reference in (old.encoder, *old.features.experts):
            carry(bundle, reference, draft)
        made = write(draft, manifest, parts)
    return replace(made, directory=out)


def record_known_answer(
    bundle: Bundle, *, device: str = "auto", dtype: str = "auto", directory: Path | None = None
) -> Path:
    """Store what the encoder answers here, for `check_known_answer`; gives the file's path.

    Written into `directory`, or beside the bundle. A person decides to trust this hardware.
    An answer that the bundle itself holds cannot be replaced: BundleError.
    """
    from triage.inference.encoder import load_encoder

    encoder = load_encoder(bundle, device=device, dtype=dtype)
    key = encoder.answer_key
    if key in bundle.known_answer.vectors:
        raise BundleError(f"bundle {bundle.identity.name} holds a known answer for {key} already")
    vector = _finite(encoder.embed(bundle.known_answer.image[None]).vectors[0])
    folder = directory or bundle.directory / KNOWN_ANSWERS
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / answer_file(bundle, key)
    path.write_bytes(save_arrays({key: vector}))
    return path


def known_image(size_px: int) -> NDArray[np.uint8]:
    """A picture (1, S, S) with edges, slopes and fine texture in every region; no one's body."""
    grid = np.arange(size_px, dtype=np.float64) / size_px
    x, y = np.meshgrid(grid, grid)
    waves = 0.25 * np.sin(40 * x * (0.3 + y)) + 0.15 * np.sin(90 * y + 20 * x**2)
    disc = 0.3 * (np.hypot(x - 0.6, y - 0.4) < 0.22)
    return np.asarray(np.rint(255 * np.clip(0.35 + 0.3 * x + waves + disc, 0, 1)), np.uint8)[None]


def _require_no_bundle(out: Path) -> None:
    if (out / MANIFEST).exists():
        raise BundleError(f"{out} is a bundle already", hint="Choose an empty directory.")


def _refer(source: Path, out: Path) -> tuple[EncoderReference, dict[str, Any]]:
    files = encoder_files(source)
    try:
        settings = json.loads(files["config.json"].read_bytes())
        architecture = settings["architectures"][0]
    except (ValueError, KeyError, TypeError, IndexError) as error:
        raise BundleError(f"{files['config.json']} names no architecture") from error
    if architecture not in ARCHITECTURES:
        raise BundleError(
            f"{source} holds a {architecture}, which is not supported",
            hint=f"Supported are {', '.join(sorted(ARCHITECTURES))}.",
        )
    path = source.relative_to(out).as_posix() if source.is_relative_to(out) else str(source)
    digests = {name: digest_of_file(file) for name, file in files.items()}
    return EncoderReference(path=path, architecture=architecture, files=digests), settings


def _default_view(settings: Mapping[str, Any]) -> ViewSpec:
    """The size the tower was trained at, in the full DICOM rendering."""
    size_px = settings.get("vision_config", {}).get("image_size")
    if not isinstance(size_px, int):
        raise BundleError("config.json of the encoder names no vision_config.image_size")
    return ViewSpec(rendering="dicom", size_px=size_px)


def _can_caption(reference: EncoderReference) -> bool:
    return reference.architecture == "Gemma3ForConditionalGeneration"


def _feature_parts(
    features: Features, pooling: QueryPooling | None, terms: Terms | None
) -> dict[str, bytes]:
    """Files of the features; BundleError where one is missing or has nobody to read it."""
    check_features(features)
    if (pooling is not None) != (features.pooling == "queries"):
        raise BundleError('pooling "queries" without its arrays, or the reverse')
    if (terms is not None) != features.captions:
        raise BundleError("captions among the features without their terms, or the reverse")
    parts: dict[str, bytes] = {}
    if pooling is not None:
        check_pooling(pooling)
        parts[POOLING] = save_arrays(pooling_arrays(pooling))
    if terms is not None:
        parts[TERMS] = terms_text(terms).encode()
        read_terms(parts[TERMS])
    return parts


def _fitted_parts(fitted: Fitted | None) -> dict[str, bytes]:
    if fitted is None:
        return {}
    check_head(fitted.head)
    count = len(fitted.findings)
    if finding_count(fitted.head) != count:
        raise BundleError(
            f"the head gives {finding_count(fitted.head)} logits for {count} findings"
        )
    calibration = fitted.calibration or uncalibrated(count)
    check_calibration(calibration, count)
    parts = {
        HEAD: save_arrays(head_arrays(fitted.head)),
        CALIBRATION: save_arrays(calibration_arrays(calibration)),
    }
    if (fitted.bank_vectors is None) != (fitted.gate is None):
        raise BundleError("a bank without a gate, or the reverse")
    if fitted.bank_vectors is not None:
        arrays = {"mean": fitted.head.mean, "scale": fitted.head.scale}
        stored = {name: array.astype(np.float32) for name, array in arrays.items()}
        parts[BANK] = save_arrays({**stored, "vectors": fitted.bank_vectors.astype(np.float16)})
    return parts


def _patients_part(patients: Patients | None) -> dict[str, bytes]:
    return {PATIENTS: save_arrays(patients_arrays(patients))} if patients else {}


def _recalibrated(
    bundle: Bundle,
    findings: tuple[FindingSpec, ...],
    calibration: Calibration | None,
    record: CalibrationRecord | None,
) -> Fitted | None:
    """The head of `bundle` with what is new; its bank stays in its file."""
    if [spec.name for spec in findings] != [spec.name for spec in bundle.manifest.findings]:
        raise BundleError("the findings of a bundle can change their points, not their names")
    if bundle.head is None or bundle.calibration is None:
        if calibration or record:
            raise BundleError(f"bundle {bundle.identity.name} has no head to calibrate")
        return None
    if calibration is not None and record is None:
        raise BundleError("a new calibration comes with a record of what it was fitted on")
    calibration = calibration or bundle.calibration
    record = record or bundle.manifest.calibration
    record = record or CalibrationRecord(kind=calibration.kind, local=False)
    return Fitted(head=bundle.head, findings=findings, calibration=calibration, record=record)


def _headed(manifest: Manifest, fitted: Fitted) -> Manifest:
    return replace(
        manifest,
        findings=fitted.findings,
        head_kind=kind_of(fitted.head),
        calibration=_record_of(fitted),
        gate=fitted.gate,
    )


def _record_of(fitted: Fitted) -> CalibrationRecord:
    kind = fitted.calibration.kind if fitted.calibration else "none"
    record = fitted.record or CalibrationRecord(kind=kind, local=False)
    if record.kind != kind:
        raise BundleError(f"the record of a {record.kind} calibration with a {kind} one")
    return record


def _encoders(
    out: Path,
    manifest: Manifest,
    pooling: QueryPooling | None,
    terms: Terms | None,
    *,
    device: str,
    dtypes: Iterable[str],
) -> Iterator["Encoder"]:
    """Open the encoder of a bundle that is being made, in one arithmetic after the other."""
    from triage.inference.encoder import open_encoder

    experts = tuple((out / each.path, each.architecture) for each in manifest.features.experts)
    for dtype in dtypes:
        yield open_encoder(
            out / manifest.encoder.path,
            architecture=manifest.encoder.architecture,
            size_px=manifest.view.size_px,
            device=device,
            dtype=dtype,
            features=manifest.features,
            experts=experts,
            pooling=pooling,
            terms=terms,
        )


def _answer_bytes(size_px: int, encoders: Iterable["Encoder"]) -> bytes:
    image = known_image(size_px)
    arrays: dict[str, NDArray[Any]] = {"image": image}
    for encoder in encoders:
        vectors = encoder.embed(image[None].astype(np.float32) / 255.0).vectors
        arrays[encoder.answer_key] = _finite(vectors[0])
    return save_arrays(arrays)


def _finite(vector: NDArray[np.float32]) -> NDArray[np.float32]:
    if not np.isfinite(vector).all():
        raise BundleError("the encoder's known answer is not finite on this hardware")
    return vector
