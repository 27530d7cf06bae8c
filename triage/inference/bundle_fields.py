"""The fields of `bundle.json`: typed, complete, and no others.

Owns the format (SCHEMA_VERSION) and its reading; the files beside it belong to `bundle`. A key
that is not known is refused, because a field that one version writes and another passes over
would change what a model means without anybody's seeing it. Version 1, which knows neither
crops, features, kinds of head, calibration records nor training, is read with what it meant.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Final, TypeVar

from triage.errors import BundleError
from triage.inference import calibration as calibrations
from triage.inference import heads
from triage.records import Code, Rank, ViewSpec
from triage.rules.eligibility import IntendedUse

T = TypeVar("T")
SCHEMA_VERSION: Final = 2
SINCE_VERSION_2: Final = frozenset({"features", "head_kind", "calibration", "training"})
POOLINGS: Final = frozenset({"default", "mean", "queries"})
MAXIMUM_EXPERTS: Final = 8
MAXIMUM_CROPS: Final = 8
ARCHITECTURES: Final = frozenset({"Gemma3ForConditionalGeneration", "SiglipModel"})
RENDERINGS: Final = frozenset({"dicom", "google-cxr", "ct-3-window", "mr-volume"})
VOLUMES: Final = frozenset({"ct-3-window", "mr-volume"})
DTYPES: Final = frozenset({"float32", "bfloat16"})
NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._ -]{0,63}")
DIGEST: Final = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True, kw_only=True)
class EncoderReference:
    """Where the encoder lies (relative to the bundle, or absolute) and what it was made of."""

    path: str
    architecture: str
    files: Mapping[str, str]  # name: SHA-256


@dataclass(frozen=True, slots=True, kw_only=True)
class Features:
    """How a view becomes a vector of D float32 values.

    First the tokens of the encoder, pooled; then, in order, the vectors of the experts, each
    pooled by default; then the TF-IDF of the generated caption. Everything here that changes the
    vector is part of `Bundle.features_digest`, hence of the embedding cache's key.
    """

    pooling: str = "default"  # mean of tokens (Gemma 3) or pooling head (SigLIP) | mean | queries
    layer: int | None = None  # hidden layer, from 1, of mean and queries; None = tower's output
    unit_length: bool = False  # the vector of each encoder is scaled to length one
    experts: tuple[EncoderReference, ...] = ()  # further encoders, asked about the same view
    captions: bool = False  # terms in terms.json; the first encoder writes the caption


@dataclass(frozen=True, slots=True, kw_only=True)
class CalibrationRecord:
    """What a person must know of a calibration; its arrays are `calibration.Calibration`."""

    kind: str  # none | platt | isotonic
    local: bool  # fitted on studies of the site that uses the bundle
    images: int = 0
    patients: int = 0
    positives: Mapping[str, int] = field(default_factory=dict)  # by finding
    date: str = ""  # ISO 8601 day
    labels_digest: str = ""  # SHA-256 of the table of labels
    prevalence: Mapping[str, float] = field(default_factory=dict)  # shifted to; empty = no shift
    target_sensitivity: float | None = None  # that the operating points were chosen for
    confidence: float | None = None  # with which they show it
    # By finding, why its positives do not support the target; a finding not named is supported.
    refusals: Mapping[str, str] = field(default_factory=dict)
    dtype: str = ""  # of the embeddings that it was fitted on; "" = not recorded
    device_class: str = ""  # that made them
    local_findings: tuple[str, ...] = ()  # that `local` holds for, while it may not for all

    def is_local(self, finding: str) -> bool:
        """Whether this finding was fitted on studies of the site that uses the bundle."""
        return self.local or finding in self.local_findings

    @property
    def where(self) -> str:
        """The arithmetic and the kind of device that it holds for, in words."""
        if not self.dtype:
            return "at a dtype and on a device that it does not tell"
        return f"at {self.dtype} on {self.device_class}"


@dataclass(frozen=True, slots=True, kw_only=True)
class FindingSpec:
    """One finding of the head, in the head's order."""

    name: str
    code: Code | None
    operating_point: float  # calibrated probability from which it is flagged
    raises_to: Rank


@dataclass(frozen=True, slots=True, kw_only=True)
class Gate:
    """Mean cosine distance to the `neighbours` nearest of the bank, and its limit."""

    neighbours: int
    threshold: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """`bundle.json`, read."""

    name: str
    version: str
    encoder: EncoderReference
    features: Features = Features()
    view: ViewSpec
    preprocessing_version: int
    captions: bool  # the encoder directory can also write captions
    findings: tuple[FindingSpec, ...]
    head_kind: str | None = None  # of heads.KINDS; None: no head
    calibration: CalibrationRecord | None = None  # None: version 1, or no head
    gate: Gate | None
    tolerance: Mapping[str, float]  # by dtype: largest |difference| / rms of a known answer
    intended_use: IntendedUse
    not_for_clinical_use: bool
    training: Mapping[str, Any] = field(default_factory=dict)  # every choice made, and its cost
    figures: Mapping[str, Any]  # evaluation as measured when the bundle was made
    files: Mapping[str, str]  # name: SHA-256
    schema_version: int = SCHEMA_VERSION  # that it was read from


def read_manifest(document: Mapping[str, Any]) -> Manifest:
    """Read the JSON object of `bundle.json`; raises BundleError naming the key."""
    version = document.get("schema_version")
    if type(version) is not int or version not in (1, SCHEMA_VERSION):
        raise BundleError(
            f"bundle.json has schema_version {version!r}, this program reads 1 to {SCHEMA_VERSION}"
        )
    _same_keys(document, _keys(version), "bundle.json")
    values = _as_version_2(document) if version == 1 else document
    return Manifest(
        schema_version=version,
        name=_matching(values, "name", NAME),
        version=_matching(values, "version", NAME),
        encoder=_encoder(values["encoder"]),
        features=_features(values["features"]),
        view=_view(values["view"]),
        preprocessing_version=_of(values, "preprocessing_version", int),
        captions=_of(values, "captions", bool),
        findings=tuple(_finding(entry) for entry in _of(values, "findings", list)),
        head_kind=_head_kind(values),
        calibration=_calibration(values["calibration"]),
        gate=None if values["gate"] is None else _gate(values["gate"]),
        tolerance=_tolerance(values["tolerance"]),
        intended_use=_intended_use(values["intended_use"]),
        not_for_clinical_use=_of(values, "not_for_clinical_use", bool),
        training=_of(values, "training", dict),
        figures=_of(values, "figures", dict),
        files=_digests(values["files"], "files"),
    )


def write_manifest(manifest: Manifest) -> dict[str, Any]:
    """Turn a manifest into the JSON object that `read_manifest` reads, of its own version."""
    document: dict[str, Any] = {"schema_version": manifest.schema_version}
    for entry in fields(manifest):
        if entry.name in _keys(manifest.schema_version):
            document[entry.name] = _plain(getattr(manifest, entry.name))
    if manifest.schema_version == 1:
        del document["view"]["crops"]
    return document


def _keys(version: int) -> set[str]:
    """Names of the top level in a version of the format."""
    names = {entry.name for entry in fields(Manifest)}
    return names - SINCE_VERSION_2 if version == 1 else names


def _as_version_2(document: Mapping[str, Any]) -> dict[str, Any]:
    """The object of version 1 with what version 2 says besides."""
    view = document["view"]
    if isinstance(view, dict) and "crops" not in view:
        view = view | {"crops": 0}
    return {
        **document,
        "features": _plain(Features()),
        "view": view,
        "head_kind": "linear" if document["findings"] else None,
        "calibration": None,
        "training": {},
    }


def _plain(value: object) -> Any:
    if isinstance(value, tuple | list):
        return [_plain(entry) for entry in value]
    if isinstance(value, Mapping):
        return {str(key): _plain(entry) for key, entry in value.items()}
    if hasattr(value, "__dataclass_fields__"):
        return {name: _plain(getattr(value, name)) for name in value.__dataclass_fields__}
    return str(value) if isinstance(value, Rank) else value


def _encoder(value: Any) -> EncoderReference:
    _same_keys(value, {entry.name for entry in fields(EncoderReference)}, "encoder")
    path, architecture = _of(value, "path", str), _of(value, "architecture", str)
    if ".." in path.split("/") or not path:
        raise BundleError("bundle.json: encoder path is neither in the bundle nor absolute")
    if architecture not in ARCHITECTURES:
        raise BundleError(f"bundle.json: encoder architecture {architecture!r} is not supported")
    return EncoderReference(
        path=path, architecture=architecture, files=_digests(value["files"], "encoder.files")
    )


def _features(value: Any) -> Features:
    _same_keys(value, {entry.name for entry in fields(Features)}, "features")
    layer = None if value["layer"] is None else _of(value, "layer", int)
    features = Features(
        pooling=_of(value, "pooling", str),
        layer=layer,
        unit_length=_of(value, "unit_length", bool),
        experts=tuple(_encoder(entry) for entry in _of(value, "experts", list)),
        captions=_of(value, "captions", bool),
    )
    check_features(features)
    return features


def check_features(features: Features) -> None:
    """Raise BundleError for features that contradict themselves."""
    if features.pooling not in POOLINGS:
        raise BundleError(f"bundle.json: pooling {features.pooling!r} is not known")
    if features.layer is not None and (features.layer < 1 or features.pooling == "default"):
        raise BundleError("bundle.json: features.layer is out of range or has nobody to read it")
    if len(features.experts) > MAXIMUM_EXPERTS:
        raise BundleError(f"bundle.json: features has more than {MAXIMUM_EXPERTS} experts")


def _head_kind(values: Mapping[str, Any]) -> str | None:
    kind = None if values["head_kind"] is None else _of(values, "head_kind", str)
    if kind is not None and kind not in heads.KINDS:
        raise BundleError(f"bundle.json: head_kind {kind!r} is not known")
    if (kind is None) != (not values["findings"]):
        raise BundleError("bundle.json: head_kind without findings, or the reverse")
    return kind


def _calibration(value: Any) -> CalibrationRecord | None:
    if value is None:
        return None
    _same_keys(value, {entry.name for entry in fields(CalibrationRecord)}, "calibration")
    if value["kind"] not in calibrations.KINDS:
        raise BundleError(f"bundle.json: calibration kind {value['kind']!r} is not known")
    target, confidence = value["target_sensitivity"], value["confidence"]
    dtype, names = _of(value, "dtype", str), _of(value, "local_findings", list)
    if dtype and dtype not in DTYPES:
        raise BundleError(f"bundle.json: calibration dtype {dtype!r} is not known")
    if not all(isinstance(name, str) for name in names):
        raise BundleError("bundle.json: calibration.local_findings is no list of names")
    refusals = _of(value, "refusals", dict)
    if not all(isinstance(reason, str) for reason in refusals.values()):
        raise BundleError("bundle.json: calibration.refusals has a reason that is no text")
    counts, shares = _of(value, "positives", dict), _of(value, "prevalence", dict)
    return CalibrationRecord(
        kind=value["kind"],
        local=_of(value, "local", bool),
        images=_of(value, "images", int),
        patients=_of(value, "patients", int),
        positives={name: _of(counts, name, int) for name in counts},
        date=_of(value, "date", str),
        labels_digest=_of(value, "labels_digest", str),
        prevalence={name: _share(shares, name) for name in shares},
        target_sensitivity=None if target is None else _share(value, "target_sensitivity"),
        confidence=None if confidence is None else _share(value, "confidence"),
        refusals=dict(refusals),
        dtype=dtype,
        device_class=_of(value, "device_class", str),
        local_findings=tuple(names),
    )


def _view(value: Any) -> ViewSpec:
    _same_keys(value, {entry.name for entry in fields(ViewSpec)}, "view")
    view = ViewSpec(
        rendering=_of(value, "rendering", str),
        size_px=_of(value, "size_px", int),
        antialias=_of(value, "antialias", bool),
        maximum_slices=_of(value, "maximum_slices", int),
        crops=_of(value, "crops", int),
    )
    if view.rendering not in RENDERINGS:
        raise BundleError(f"bundle.json: rendering {view.rendering!r} is not known")
    if not 8 <= view.size_px <= 4096 or not 1 <= view.maximum_slices <= 1024:
        raise BundleError("bundle.json: view has a size_px or maximum_slices out of range")
    if not 0 <= view.crops <= MAXIMUM_CROPS or (view.crops and view.rendering in VOLUMES):
        raise BundleError("bundle.json: view has crops out of range, or of a volume")
    return view


def _finding(value: Any) -> FindingSpec:
    _same_keys(value, {entry.name for entry in fields(FindingSpec)}, "findings")
    code = value["code"]
    if code is not None:
        _same_keys(code, {entry.name for entry in fields(Code)}, "findings.code")
        code = Code(**{key: _of(code, key, str) for key in code})
    if _of(value, "raises_to", str) not in set(Rank):
        raise BundleError(f"bundle.json: raises_to {value['raises_to']!r} is no rank")
    return FindingSpec(
        name=_matching(value, "name", NAME),
        code=code,
        operating_point=_share(value, "operating_point"),
        raises_to=Rank(value["raises_to"]),
    )


def _gate(value: Any) -> Gate:
    _same_keys(value, {entry.name for entry in fields(Gate)}, "gate")
    neighbours, threshold = _of(value, "neighbours", int), _number(value, "threshold")
    if neighbours < 1 or not 0.0 < threshold <= 2.0:
        raise BundleError("bundle.json: gate has neighbours or threshold out of range")
    return Gate(neighbours=neighbours, threshold=threshold)


def _tolerance(value: Any) -> Mapping[str, float]:
    _same_keys(value, DTYPES, "tolerance")
    tolerance = {dtype: _number(value, dtype) for dtype in sorted(DTYPES)}
    if not all(0.0 < limit < 1.0 for limit in tolerance.values()):
        raise BundleError("bundle.json: tolerance lies outside 0 to 1")
    return tolerance


def _intended_use(value: Any) -> IntendedUse:
    names = {entry.name for entry in fields(IntendedUse)}
    _same_keys(value, names, "intended_use")
    read: dict[str, Any] = {}
    for name, entry in value.items():
        if name in {"minimum_age_y", "maximum_age_y"}:
            read[name] = None if entry is None else _number(value, name)
        else:
            terms = _of(value, name, list)
            if not all(isinstance(term, str) for term in terms):
                raise BundleError(f"bundle.json: intended_use.{name} is no list of terms")
            read[name] = tuple(terms)
    return IntendedUse(**read)


def _digests(value: Any, key: str) -> Mapping[str, str]:
    """Plain file names with their SHA-256; a name that is a path is refused."""
    if not isinstance(value, dict):
        raise BundleError(f"bundle.json: {key} is no object of digests")
    for name, digest in value.items():
        if "/" in name or name.startswith(".") or not DIGEST.fullmatch(str(digest)):
            raise BundleError(f"bundle.json: {key} has an unusable entry {name!r}")
    return dict(value)


def _same_keys(value: Any, expected: set[str] | frozenset[str], where: str) -> None:
    if not isinstance(value, dict):
        raise BundleError(f"bundle.json: {where} is no object")
    if odd := set(value) ^ expected:
        state = "unknown" if min(odd) in value else "missing"
        raise BundleError(f"bundle.json: key {min(odd)!r} of {where} is {state}")


def _of(value: Mapping[str, Any], key: str, kind: type[T]) -> T:
    entry = value[key]
    if not isinstance(entry, kind) or (kind is int and isinstance(entry, bool)):
        raise BundleError(f"bundle.json: {key} is no {kind.__name__}")
    return entry


def _number(value: Mapping[str, Any], key: str) -> float:
    entry = value[key]
    if isinstance(entry, bool) or not isinstance(entry, int | float):
        raise BundleError(f"bundle.json: {key} is no number")
    return float(entry)


def _share(value: Mapping[str, Any], key: str) -> float:
    number = _number(value, key)
    if not 0.0 <= number <= 1.0:
        raise BundleError(f"bundle.json: {key} lies outside 0 to 1")
    return number


def _matching(value: Mapping[str, Any], key: str, pattern: re.Pattern[str]) -> str:
    text = _of(value, key, str)
    if not pattern.fullmatch(text):
        raise BundleError(f"bundle.json: {key} {text[:64]!r} has characters that are not allowed")
    return text
