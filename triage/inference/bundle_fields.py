"""The fields of `bundle.json`: typed, complete, and no others.

Owns the format (SCHEMA_VERSION) and its reading; the files beside it belong to `bundle`. A key
that is not known is refused, because a field that one version writes and another passes over
would change what a model means without anybody's seeing it.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Final, TypeVar

from triage.errors import BundleError
from triage.records import Code, Rank, ViewSpec
from triage.rules.eligibility import IntendedUse

T = TypeVar("T")
SCHEMA_VERSION: Final = 1
ARCHITECTURES: Final = frozenset({"Gemma3ForConditionalGeneration", "SiglipModel"})
RENDERINGS: Final = frozenset({"dicom", "google-cxr", "ct-3-window", "mr-volume"})
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
    view: ViewSpec
    preprocessing_version: int
    captions: bool  # the encoder directory can also write captions
    findings: tuple[FindingSpec, ...]
    gate: Gate | None
    tolerance: Mapping[str, float]  # by dtype: largest |difference| / rms of a known answer
    intended_use: IntendedUse
    not_for_clinical_use: bool
    figures: Mapping[str, Any]  # evaluation as measured when the bundle was made
    files: Mapping[str, str]  # name: SHA-256


def read_manifest(document: Mapping[str, Any]) -> Manifest:
    """Read the JSON object of `bundle.json`; raises BundleError naming the key."""
    if document.get("schema_version") != SCHEMA_VERSION:
        raise BundleError(
            f"bundle.json has schema_version {document.get('schema_version')!r},"
            f" this program reads {SCHEMA_VERSION}"
        )
    values = {key: value for key, value in document.items() if key != "schema_version"}
    _same_keys(values, {field.name for field in fields(Manifest)}, "bundle.json")
    use = values["intended_use"]
    return Manifest(
        name=_matching(values, "name", NAME),
        version=_matching(values, "version", NAME),
        encoder=_encoder(values["encoder"]),
        view=_view(values["view"]),
        preprocessing_version=_of(values, "preprocessing_version", int),
        captions=_of(values, "captions", bool),
        findings=tuple(_finding(entry) for entry in _of(values, "findings", list)),
        gate=None if values["gate"] is None else _gate(values["gate"]),
        tolerance=_tolerance(values["tolerance"]),
        intended_use=_intended_use(use),
        not_for_clinical_use=_of(values, "not_for_clinical_use", bool),
        figures=_of(values, "figures", dict),
        files=_digests(values["files"], "files"),
    )


def write_manifest(manifest: Manifest) -> dict[str, Any]:
    """Turn a manifest into the JSON object that `read_manifest` reads."""
    document: dict[str, Any] = {"schema_version": SCHEMA_VERSION}
    for field in fields(manifest):
        document[field.name] = _plain(getattr(manifest, field.name))
    return document


def _plain(value: object) -> Any:
    if isinstance(value, tuple | list):
        return [_plain(entry) for entry in value]
    if isinstance(value, Mapping):
        return {str(key): _plain(entry) for key, entry in value.items()}
    if hasattr(value, "__dataclass_fields__"):
        return {name: _plain(getattr(value, name)) for name in value.__dataclass_fields__}
    return str(value) if isinstance(value, Rank) else value


def _encoder(value: Any) -> EncoderReference:
    _same_keys(value, {field.name for field in fields(EncoderReference)}, "encoder")
    path, architecture = _of(value, "path", str), _of(value, "architecture", str)
    if ".." in path.split("/") or not path:
        raise BundleError("bundle.json: encoder path is neither in the bundle nor absolute")
    if architecture not in ARCHITECTURES:
        raise BundleError(f"bundle.json: encoder architecture {architecture!r} is not supported")
    return EncoderReference(
        path=path, architecture=architecture, files=_digests(value["files"], "encoder.files")
    )


def _view(value: Any) -> ViewSpec:
    _same_keys(value, {field.name for field in fields(ViewSpec)}, "view")
    view = ViewSpec(
        rendering=_of(value, "rendering", str),
        size_px=_of(value, "size_px", int),
        antialias=_of(value, "antialias", bool),
        maximum_slices=_of(value, "maximum_slices", int),
    )
    if view.rendering not in RENDERINGS:
        raise BundleError(f"bundle.json: rendering {view.rendering!r} is not known")
    if not 8 <= view.size_px <= 4096 or not 1 <= view.maximum_slices <= 1024:
        raise BundleError("bundle.json: view has a size_px or maximum_slices out of range")
    return view


def _finding(value: Any) -> FindingSpec:
    _same_keys(value, {field.name for field in fields(FindingSpec)}, "findings")
    code = value["code"]
    if code is not None:
        _same_keys(code, {field.name for field in fields(Code)}, "findings.code")
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
    _same_keys(value, {field.name for field in fields(Gate)}, "gate")
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
    names = {field.name for field in fields(IntendedUse)}
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
