"""A bundle loads as it was made, or not at all."""

import json
import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from tests.assurance import requirement
from triage.errors import BundleError, KnownAnswerError
from triage.inference.bundle import Bundle, load_bundle, verify_bundle
from triage.inference.bundle_fields import read_manifest, write_manifest
from triage.inference.bundle_making import init_bundle, record_known_answer
from triage.inference.encoder import check_known_answer, load_encoder
from triage.records import ViewSpec


def edit(directory: Path, change: Callable[[dict[str, Any]], object]) -> None:
    document = json.loads((directory / "bundle.json").read_text())
    change(document)
    (directory / "bundle.json").write_text(json.dumps(document))


def test_a_new_bundle_has_no_head_and_says_where_its_encoder_is(
    medgemma: Bundle, medgemma_directory: Path
) -> None:
    assert medgemma.head is None
    assert medgemma.manifest.findings == ()
    assert medgemma.encoder_directory == medgemma_directory
    assert medgemma.view_spec == ViewSpec(rendering="dicom", size_px=56)
    assert medgemma.manifest.captions


def test_a_medsiglip_bundle_promises_no_captions(medsiglip: Bundle) -> None:
    assert not medsiglip.manifest.captions


def test_what_is_written_is_what_is_read(fitted: Bundle) -> None:
    assert read_manifest(write_manifest(fitted.manifest)) == fitted.manifest
    assert [spec.name for spec in fitted.manifest.findings] == ["pneumothorax", "nodule"]


def test_identity_is_the_same_wherever_the_keys_stand(copy: Path) -> None:
    before = load_bundle(copy).identity
    document = json.loads((copy / "bundle.json").read_text())
    text = json.dumps(dict(reversed(document.items())), indent=7)
    (copy / "bundle.json").write_text(text)
    assert load_bundle(copy).identity == before


@requirement("P6")
def test_identity_changes_with_an_operating_point(fitted: Bundle) -> None:
    edit(fitted.directory, lambda d: d["findings"][0].update(operating_point=0.6))
    assert load_bundle(fitted.directory).identity.digest != fitted.identity.digest


@requirement("M4")
@pytest.mark.parametrize("name", ["card.md", "known_answer.safetensors"])
def test_a_changed_byte_is_found(copy: Path, name: str) -> None:
    data = bytearray((copy / name).read_bytes())
    data[-1] ^= 1
    (copy / name).write_bytes(data)
    with pytest.raises(BundleError, match="has changed"):
        load_bundle(copy)


@requirement("M4")
def test_a_changed_weight_of_the_encoder_is_found(tmp_path: Path, medsiglip: Bundle) -> None:
    inside = tmp_path / "bundle" / "encoder"
    inside.mkdir(parents=True)
    for path in medsiglip.encoder_directory.iterdir():
        (inside / path.name).write_bytes(path.read_bytes())
    bundle = init_bundle(inside, tmp_path / "bundle", name="inside", device="cpu")
    assert bundle.manifest.encoder.path == "encoder"
    weights = inside / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\x7f")
    with pytest.raises(BundleError, match="has changed"):
        verify_bundle(bundle.directory)
    assert load_bundle(bundle.directory, check_encoder=False).identity == bundle.identity


@requirement("M4")
def test_a_pickle_beside_the_listed_files_is_refused(copy: Path) -> None:
    (copy / "head.pkl").write_bytes(pickle.dumps({"weights": [1.0]}))
    with pytest.raises(BundleError, match="not listed"):
        load_bundle(copy)


@requirement("M4")
def test_a_pickle_in_the_place_of_a_head_is_refused(fitted: Bundle) -> None:
    import hashlib

    data = pickle.dumps({"weights": [1.0]})
    (fitted.directory / "head.safetensors").write_bytes(data)
    digest = hashlib.sha256(data).hexdigest()
    edit(fitted.directory, lambda d: d["files"].update({"head.safetensors": digest}))
    with pytest.raises(BundleError, match="no safetensors"):
        load_bundle(fitted.directory)


@requirement("M4")
def test_an_encoder_of_pickled_weights_is_refused(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"architectures": ["SiglipModel"]}')
    (tmp_path / "pytorch_model.bin").write_bytes(pickle.dumps({}))
    with pytest.raises(BundleError, match="safetensors"):
        init_bundle(tmp_path, tmp_path / "out", name="x")


def test_an_unknown_architecture_is_refused(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"architectures": ["LlamaForCausalLM"]}')
    save_file({"a": np.zeros(1, np.float32)}, tmp_path / "model.safetensors")
    with pytest.raises(BundleError, match="LlamaForCausalLM"):
        init_bundle(tmp_path, tmp_path / "out", name="x")


CHANGES: dict[str, tuple[Callable[[dict[str, Any]], object], str]] = {
    "unknown key": (lambda d: d.update(colour=1), "'colour'.*unknown"),
    "missing key": (lambda d: d.pop("view"), "'view'.*missing"),
    "unknown key inside": (lambda d: d["view"].update(zoom=2), "'zoom'.*unknown"),
    "other schema": (lambda d: d.update(schema_version=3), "schema_version"),
    "unknown rendering": (lambda d: d["view"].update(rendering="x-ray"), "rendering"),
    "size out of range": (lambda d: d["view"].update(size_px=100_000), "size_px"),
    "size as text": (lambda d: d["view"].update(size_px="56"), "size_px"),
    "true as a number": (lambda d: d.update(preprocessing_version=True), "preprocessing"),
    "path out of the bundle": (lambda d: d["encoder"].update(path="../x"), "path"),
    "file out of the bundle": (lambda d: d["files"].update({"../x": "0" * 64}), "entry"),
    "file of no bundle": (lambda d: d["files"].update({"run.sh": "0" * 64}), "run.sh"),
    "card not listed": (lambda d: d["files"].pop("card.md"), "card.md"),
    "no digest": (lambda d: d["files"].update({"card.md": "abc"}), "entry"),
    "name with a newline": (lambda d: d.update(name="a\nb"), "name"),
    "tolerance of anything": (lambda d: d["tolerance"].update(float32=5.0), "tolerance"),
}


@pytest.mark.parametrize(("change", "said"), CHANGES.values(), ids=CHANGES)
def test_an_unusable_manifest_is_refused(
    copy: Path, change: Callable[[dict[str, Any]], object], said: str
) -> None:
    edit(copy, change)
    with pytest.raises(BundleError, match=said):
        load_bundle(copy)


@pytest.mark.parametrize("text", ["", "[]", "[" * 100_000], ids=["empty", "list", "deep"])
def test_a_manifest_that_is_no_json_object_is_refused(copy: Path, text: str) -> None:
    (copy / "bundle.json").write_text(text)
    with pytest.raises(BundleError, match="JSON"):
        load_bundle(copy)


def test_findings_without_a_head_are_refused(fitted: Bundle) -> None:
    (fitted.directory / "head.safetensors").unlink()
    edit(fitted.directory, lambda d: d["files"].pop("head.safetensors"))
    with pytest.raises(BundleError, match="head"):
        load_bundle(fitted.directory)


def test_a_head_for_fewer_findings_is_refused(fitted: Bundle) -> None:
    edit(fitted.directory, lambda d: d["findings"].pop())
    with pytest.raises(BundleError, match="does not fit"):
        load_bundle(fitted.directory)


def test_a_directory_that_is_a_bundle_is_not_overwritten(
    copy: Path, medgemma_directory: Path
) -> None:
    with pytest.raises(BundleError, match="already"):
        init_bundle(medgemma_directory, copy, name="again")


def test_an_empty_directory_is_no_bundle(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match=r"bundle\.json"):
        load_bundle(tmp_path)


def test_the_answer_of_new_hardware_can_be_recorded_beside_a_read_only_bundle(
    medgemma: Bundle, tmp_path: Path
) -> None:
    encoder = load_encoder(medgemma, device="cpu", dtype="bfloat16")
    with pytest.raises(KnownAnswerError, match="bfloat16-cpu") as caught:
        check_known_answer(medgemma, encoder)
    assert "triage check --record" in caught.value.hint
    path = record_known_answer(medgemma, device="cpu", dtype="bfloat16", directory=tmp_path)
    assert path.parent == tmp_path
    check_known_answer(medgemma, encoder, recorded=tmp_path)


def test_a_recorded_answer_leaves_the_identity_alone(copy: Path) -> None:
    bundle = load_bundle(copy)
    record_known_answer(bundle, device="cpu", dtype="bfloat16")
    again = load_bundle(copy)
    assert again.identity == bundle.identity
    check_known_answer(again, load_encoder(again, device="cpu", dtype="bfloat16"))


def test_an_answer_that_the_bundle_holds_is_not_replaced(copy: Path) -> None:
    with pytest.raises(BundleError, match="already"):
        record_known_answer(load_bundle(copy), device="cpu", dtype="float32")


def test_reading_a_bundle_imports_no_torch(medgemma: Bundle) -> None:
    program = (
        "import sys; from triage.inference.bundle import load_bundle;"
        f"load_bundle({str(medgemma.directory)!r});"
        "sys.exit('torch' in sys.modules or 'transformers' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
