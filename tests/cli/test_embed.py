"""`triage embed` makes a set of embeddings of a labelled directory or of the worklist's studies."""

import json
from argparse import Namespace
from pathlib import Path

import numpy as np
import pytest
import structlog
from PIL import Image

from tests.cli.site import Site
from tests.dicom_files import make_dx, to_bytes
from tests.learning.films import text_reader
from triage.cli.command_line import main
from triage.cli.labelled import images_of
from triage.cli.verbs import USAGE
from triage.database.connection import open_database
from triage.imaging.subject import DecodeTask, decode_subject
from triage.inference.bundle import load_bundle
from triage.inference.bundle_making import init_bundle
from triage.inference.encoder import load_encoder
from triage.ingest.intake import Intake
from triage.learning.material.embedding_set import load_embedding_set
from triage.learning.material.lens import lens_of_bundle, lens_of_encoder
from triage.learning.material.patches import load_patches
from triage.pocket import BUNDLE
from triage.records import Source
from triage.store import open_store

ENCODER = str(BUNDLE / "encoder")


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Three films, two of them labelled by a word, in the current directory."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "films").mkdir()
    generator = np.random.default_rng(1)
    for number in range(3):
        pixels = generator.integers(0, 255, (64, 64), np.uint8)
        Image.fromarray(pixels).save(tmp_path / "films" / f"{number}.png")
    (tmp_path / "labels.csv").write_text(
        "file,group_id,label\n0.png,a,abnormal\n1.png,a,normal\n2.png,b,\n"
    )
    return tmp_path


def embed(*more: str, images: str = "films", encoder: tuple[str, str] | None = None) -> int:
    return main(
        [
            "embed",
            *("--images", images, "--labels", "labels.csv", "--positive", "label=abnormal"),
            *(encoder or ("--encoder", ENCODER)),
            *("--out", "out", "--device", "cpu", "--dtype", "float32", *more),
        ]
    )


def document(capsys: pytest.CaptureFixture[str]) -> dict[str, object]:
    read: dict[str, object] = json.loads(capsys.readouterr().out)
    return read


def test_a_directory_is_embedded_and_told_in_one_document(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert embed("--json") == 0
    told = document(capsys)
    assert (told["rows"], told["subjects"], told["views"]) == (3, 3, 3)
    assert (told["left_out"], told["same_pixels"], told["pooling"]) == ([], [], "mean")
    assert told["findings"] == [
        {
            "name": "abnormal",
            "column": "label",
            "positive": "abnormal",
            "negative": ["normal"],
            "positives": 1,
            "negatives": 1,
            "unknown": 1,
        }
    ]
    made = load_embedding_set(here / "out")
    assert made.subjects == ("0.png", "1.png", "2.png")
    assert {vectors.shape for vectors in made.vectors} == {(1, told["width"])}
    assert told["scope"] == made.scope


def test_an_encoder_and_the_bundle_made_of_it_have_one_scope_and_one_vector(here: Path) -> None:
    bundle = init_bundle(ENCODER, here / "bundle", name="chest", device="cpu")
    bare = lens_of_encoder(Path(ENCODER), device="cpu")
    bundled = lens_of_bundle(bundle, device="cpu")
    assert (bare.scope, bare.spec) == (bundled.scope, bundled.spec)
    assert embed() == 0
    assert embed("--json", encoder=("--bundle", "bundle")) == 0


def test_an_encoder_is_pooled_as_it_was_said_and_poolings_are_not_mixed(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    encoder = ("--encoder", str(text_reader(here / "medsiglip")))
    bundle = init_bundle(here / "medsiglip", here / "bundle", name="chest", device="cpu")
    own = lens_of_encoder(here / "medsiglip", pooling="default", device="cpu")
    assert (own.scope, own.pooling) == (lens_of_bundle(bundle, device="cpu").scope, "default")
    assert embed("--json", encoder=encoder) == 0
    assert document(capsys)["pooling"] == load_embedding_set(here / "out").pooling == "mean"
    assert embed("--pooling", "default", encoder=encoder) == 1
    assert "holds embeddings of the pooling 'mean'" in capsys.readouterr().err
    labels = ("--images", "films", "--labels", "labels.csv", "--positive", "label=abnormal")
    asked = ("--method", "logistic", "--shares", "0.5,0.5,0", "--seed", "3", "--pooling", "default")
    how = ("--embeddings", "out", "--out", "made", "--device", "cpu", "--dtype", "float32")
    assert main(["train", *encoder, *labels, *asked, *how]) == 1
    said = capsys.readouterr().err
    assert (
        "`triage embed --pooling default` in another directory, or train with --pooling mean"
        in (" ".join(said.split()))
    )


def test_an_embedding_is_the_one_that_serves(here: Path) -> None:
    bundle = load_bundle(BUNDLE)
    path = here / "films" / "film.dcm"
    path.write_bytes(to_bytes(make_dx()))
    (here / "labels.csv").write_text("file,label\nfilm.dcm,abnormal\n")
    assert embed(encoder=("--bundle", str(BUNDLE))) == 0
    view = bundle.view_spec
    decoded = decode_subject(DecodeTask(paths=(path,), specs=(view,)))
    served = load_encoder(bundle, device="cpu").embed(decoded.views[view]).vectors
    made = load_embedding_set(here / "out")
    np.testing.assert_allclose(made.vectors[0], served, rtol=1e-5, atol=1e-6)


def test_an_unreadable_image_is_told_with_its_row_and_fails_the_run_unless_it_may(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (here / "films" / "1.png").write_text("no picture")
    assert embed() == 1
    said = capsys.readouterr().out
    assert "2 of 3 files" in said
    assert "row 3: " in said
    assert embed("--skip-unreadable", "--json") == 0
    left_out = document(capsys)["left_out"]
    assert isinstance(left_out, list)
    assert [each["row"] for each in left_out] == [3]


def test_a_run_without_any_image_fails_whatever_may_be_skipped(here: Path) -> None:
    for path in (here / "films").iterdir():
        path.write_text("no picture")
    assert embed("--skip-unreadable") == 1


def test_what_the_decoders_log_never_stands_in_a_document(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with images_of(Namespace(images="films")):  # as embed, train, calibrate and evaluate open them
        structlog.get_logger("decoder").warning("decoder_replaced")
        structlog.get_logger("decoder").error("decoder_not_started")
    told = capsys.readouterr()
    assert (told.out, "decoder_not_started" in told.err) == ("", True)


def test_progress_goes_to_stderr_as_plain_lines(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert embed() == 0
    captured = capsys.readouterr()
    found, first, *_ = captured.err.splitlines()
    assert found == "Finding abnormal (column label): abnormal in 1 row, normal in 1, blank in 1."
    assert first == "Embedding: 0 of 3"
    assert "Embedding: 3 of 3" in captured.err.splitlines()[-1]
    assert "Embedding:" not in captured.out


def test_patch_features_are_kept_within_their_limit(here: Path) -> None:
    assert embed("--patch-features", "--patch-mib", "8") == 0
    made = load_embedding_set(here / "out")
    tokens = load_patches(here / "out", made.keys[0][0])
    # Of this encoder the vector is the mean over the tokens.
    np.testing.assert_allclose(tokens.mean(axis=0), made.vectors[0][0], atol=5e-3)
    (here / "labels.csv").write_text(
        "file,label\n" + "".join(f"{number},abnormal\n" for number in range(2000))
    )
    assert embed("--patch-features", "--patch-mib", "8", "--skip-unreadable") == 1


def test_labels_that_cannot_be_used_end_before_an_encoder_is_loaded(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (here / "labels.csv").write_text("file;label\n0.png;abnormal\n")
    assert embed() == 1
    assert "semicolons" in capsys.readouterr().err


@pytest.mark.parametrize(
    "wrong",
    [
        ("--bundle", str(BUNDLE), "--size-px", "56"),
        ("--bundle", str(BUNDLE), "--pooling", "mean"),
        ("--bundle", str(BUNDLE), "--encoder", ENCODER),
        ("--encoder", ENCODER, "--positive", "label"),
        ("--encoder", ENCODER, "--positive", "label=normal"),
        ("--encoder", ENCODER, "--batch-size", "0"),
        (),
    ],
)
def test_a_command_line_that_cannot_be_meant_is_refused(here: Path, wrong: tuple[str, ...]) -> None:
    common = ["embed", "--images", "films", "--labels", "labels.csv", "--out", "out"]
    try:
        code = main([*common, "--positive", "label=abnormal", *wrong])
    except SystemExit as ended:
        code = int(ended.code or 0)
    assert code == USAGE
    assert not (here / "out").exists()


def test_a_bundle_is_no_encoder_and_a_device_that_is_none_is_told_with_its_option(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert embed(encoder=("--encoder", str(BUNDLE))) == 1
    assert "holds no encoder. It is a bundle" in capsys.readouterr().err
    assert embed("--dtype", "float16") == 1
    assert "Correct --dtype" in capsys.readouterr().err
    assert embed("--device", "gpu") == 1
    assert "correct --device" in capsys.readouterr().err


@pytest.mark.parametrize(
    "wrong", [("--rendering", "sepia"), ("--size-px", "4"), ("--crops", "9"), ("--crops", "-1")]
)
def test_a_rendering_that_no_bundle_could_name_is_refused(
    here: Path, capsys: pytest.CaptureFixture[str], wrong: tuple[str, str]
) -> None:
    assert embed(*wrong) == 1
    assert not (here / "out").exists()
    assert "Traceback" not in capsys.readouterr().err


def test_studies_of_the_worklist_are_found_in_its_store(
    site: Site, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(site.directory)
    store = open_store(site.config.store.path, minimum_free_mib=0)
    database = open_database(site.config.database.url)
    intake = Intake(database, store, policies=site.config.policies)
    intake.start()
    intake.accept(to_bytes(make_dx(study_instance_uid="1.2.3", Rows=64)), source=Source.C_STORE)
    intake.stop()
    database.dispose()
    store.close()
    (site.directory / "labels.csv").write_text("study_instance_uid,label\n1.2.3,abnormal\n")
    monkeypatch.setenv("TRIAGE_ELIGIBILITY__MINIMUM_SIZE_PX", "16")
    capsys.readouterr()
    assert embed("--json", images="WORKLIST") == 0
    assert document(capsys)["subjects"] == 1
    assert main(["show", "1.2.3"]) == 0
    assert "embedding keys: 1" in capsys.readouterr().out
