"""`triage calibrate` and `triage evaluate`, from labelled films to a new bundle and a report."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from triage.cli.command_line import main
from triage.cli.verbs import FAILED, USAGE
from triage.inference.bundle import load_bundle
from triage.inference.classifier import OUT_OF_DISTRIBUTION, classify_subject
from triage.learning.material.embedding_set import load_embedding_set
from triage.pocket import BUNDLE
from triage.pocket.phantoms import generate

pytest.importorskip("matplotlib", reason="needs triage[learning]")

EACH = 24  # films with and without; 22 positives are enough for 0.9 at 90 % confidence
FINDING = "pneumothorax"


@pytest.fixture(scope="module")
def films(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two splits of films with and without a pneumothorax, and one that shows nothing."""
    here = tmp_path_factory.mktemp("films")
    lines = [f"file,patient_group,{FINDING},split,sex"]
    for number in range(4 * EACH):
        phantom = generate(number, finding=FINDING if number % 2 else "normal", size_px=160)
        levels = (phantom.pixels >> (phantom.bits_stored - 8)).astype(np.uint8)
        Image.fromarray(levels).save(here / f"{number}.png")
        split = "val" if number < 2 * EACH else "test"
        lines.append(f"{number}.png,p{number},{number % 2},{split},{'FM'[number // 2 % 2]}")
    noise = np.random.default_rng(0).integers(0, 255, (160, 160), np.uint8)
    Image.fromarray(noise).save(here / "noise.png")
    lines.append("noise.png,noise,1,test,F")
    (here / "labels.csv").write_text("\n".join(lines) + "\n")
    return here


@pytest.fixture
def here(films: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return films


def judge(verb: str, films: Path, *more: str, bundle: Path | str = BUNDLE) -> int:
    given = ("--labels", str(films / "labels.csv"), "--images", str(films))
    how = ("--embeddings", str(films / "embeddings"), "--device", "cpu", "--dtype", "float32")
    return main([verb, str(bundle), *given, *how, *more])


def document(capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    read: dict[str, Any] = json.loads(capsys.readouterr().out)
    return read


def reasonable(films: Path, *more: str) -> int:
    wish = ("--sensitivity", "0.9", "--confidence", "0.9")
    return judge("calibrate", films, *wish, "--out", "local", *more)


# --- calibrate


def test_a_calibrated_bundle_is_a_new_one_with_its_record(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert reasonable(here, "--json", "--site", "North") == 0
    said, made = document(capsys), load_bundle("local")
    assert said["digest"] == made.identity.digest != load_bundle(BUNDLE).identity.digest
    assert "-local-" in made.identity.version
    record = made.manifest.calibration
    assert record is not None
    assert (record.kind, record.images, record.positives[FINDING]) == ("platt", 2 * EACH, EACH)
    assert (record.dtype, record.device_class) == ("float32", "cpu")
    assert record.local_findings == (FINDING,)
    assert made.patients is not None
    assert list(made.patients.seen) == ["calibration"]  # pocket does not say whom it was fitted on
    assert any("cannot be told" in warning for warning in said["warnings"])
    assert FINDING not in record.refusals
    assert set(record.refusals) == {"effusion", "consolidation", "nodule"}
    assert made.manifest.figures["calibration"]["site"] == "North"
    assert made.manifest.figures["calibration"]["rows"] == "split val"
    first = said["findings"][0]
    assert first["threshold"] == made.manifest.findings[0].operating_point
    assert first["point"]["sensitivity_bound"] >= 0.9
    assert said["rows"] == "split val"


def test_too_few_positives_are_a_refusal_in_words_with_the_number_needed(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert judge("calibrate", here, "--out", "local") == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "not supported" in said
    record = load_bundle("local").manifest.calibration
    assert record is not None
    assert f"{EACH} patients" in record.refusals[FINDING]
    assert "59 are needed" in record.refusals[FINDING]


def test_a_bundle_whose_other_findings_have_no_labels_stays_a_shadow(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert reasonable(here) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "local studies at float32 on cpu: effusion, consolidation, nodule." in said
    assert "as a shadow only. Calibrate these too, from the bundle made now" in said
    assert not load_bundle("local").locally_calibrated


def test_nothing_is_written_over(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert reasonable(here) == 0
    assert reasonable(here) == FAILED
    assert "is there already" in capsys.readouterr().err


def test_a_bundle_calibrated_again_counts_up_and_its_version_never_outgrows_a_bundle(
    here: Path,
) -> None:
    versions, bundle = [], str(BUNDLE)
    for number in range(3):
        assert judge("calibrate", here, "--out", f"local-{number}", bundle=bundle) == 0
        bundle = f"local-{number}"
        versions.append(load_bundle(bundle).identity.version)
    assert versions[1:] == [f"{versions[0]}.2", f"{versions[0]}.3"]


def test_points_without_a_calibration_are_not_called_one(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert reasonable(here, "--method", "none") == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "Operating points chosen on" in said
    assert "Calibrated (" not in said
    assert "leave out --method none" in said
    report = ("--report", "report", "--rounds", "100", "--json", "--no-thumbnails")
    assert judge("evaluate", here, *report, bundle="local") == 0
    found = document(capsys)["evaluation"]["findings"][0]
    assert found["at_point"]["refusal"] == "its probabilities were not calibrated on local studies"


def test_isotonic_is_refused_with_the_number_that_it_needs(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert judge("calibrate", here, "--method", "isotonic", "--out", "local") == FAILED
    assert f"needs 1000 patients with and without the finding; there are {EACH}" in (
        capsys.readouterr().err
    )
    assert not Path("local").exists()


@pytest.mark.parametrize(
    "wrong",
    [
        ("--prevalence", "hernia=0.1"),
        ("--prevalence", "7"),
        ("--prevalence", "0.1", "--method", "none"),
        ("--prevalence", f"{FINDING}=0.1", "--prevalence", f"{FINDING}=0.2"),
        ("--sensitivity", "1"),
        ("--model-version", "2/local"),
        ("--only", "sex=F", "--only", "sex=M"),
    ],
)
def test_a_wish_that_cannot_be_meant_is_a_usage_error(here: Path, wrong: tuple[str, ...]) -> None:
    try:
        code = judge("calibrate", here, *wrong)
    except SystemExit as end:
        code = int(end.code or 0)
    assert code == USAGE


def test_rows_the_calibration_has_seen_and_copies_are_named(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = [line.rsplit(",", 2)[0] for line in (here / "labels.csv").read_text().splitlines()]
    shutil.copy(here / "0.png", here / "copy.png")
    (here / "one.csv").write_text("\n".join([*lines, "copy.png,another,0"]))
    given = ("--labels", str(here / "one.csv"), "--images", str(here), "--device", "cpu")
    assert main(["calibrate", str(BUNDLE), *given, "--out", "local", "--json"]) == 0
    copies = f"more than one patient: rows 2 and {len(lines) + 1}."
    assert copies in document(capsys)["warnings"][-1]
    other = here / "other.csv"  # the calibration has seen these patients in another file
    other.write_text("\n".join([lines[0], "copy.png,another,0", *lines[1:]]))
    given = ("--labels", str(other), *given[2:])
    report = ("--report", "report", "--rounds", "100", "--json")
    assert main(["evaluate", "local", *given, *report]) == 0
    said = document(capsys)
    assert said["rows"] == "all rows"
    known = f"{len(lines)} of these {len(lines)} rows are of patients whom it was calibrated on"
    assert any(known in note for note in said["notes"])
    assert any("more than one patient: rows 2 and 3." in note for note in said["notes"])


# --- evaluate


def test_a_report_counts_what_the_gate_turned_away_and_scores_as_the_daemon_does(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    more = ("--report", "report", "--rounds", "100", "--json")
    more += ("--prevalence", f"{FINDING}=0.05", "--prevalence", "0.5")  # what is named stands
    assert judge("evaluate", here, *more) == 0
    said = document(capsys)
    judged = said["evaluation"]
    site = judged["findings"][0]["at_prevalence"]
    assert (site["prevalence"], site["source"]) == (0.05, "as stated")
    assert (judged["subjects"], judged["scored"], judged["gated"]) == (2 * EACH + 1, 2 * EACH, 1)
    assert judged["reasons"] == {OUT_OF_DISTRIBUTION: 1}
    assert judged["findings"][0]["auroc"]["value"] > 0.8
    assert any("Not labelled" in note for note in said["notes"])
    bundle, vectors = load_bundle(BUNDLE), load_embedding_set(here / "embeddings")
    scores = {each["subject"]: each["probabilities"][FINDING] for each in said["scores"]}
    for subject, parts in zip(vectors.subjects, vectors.vectors, strict=True):
        verdict = classify_subject(bundle, parts)
        expected = verdict.findings[0].probability if verdict.findings else None
        assert scores[subject] == expected
    page = Path("report/report.html").read_text()
    assert "Not for clinical use." in page
    assert len(list(Path("report/plots").glob("*.png"))) == 4
    assert json.loads(Path("report/evaluation.json").read_text())["scores"] == said["scores"]


def test_a_threshold_is_not_supported_by_scores_of_another_arithmetic(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert reasonable(here) == 0
    manifest = Path("local/bundle.json")
    elsewhere = manifest.read_text().replace('"dtype": "float32"', '"dtype": "bfloat16"')
    manifest.write_text(elsewhere)
    report = ("--report", "report", "--rounds", "100", "--json", "--no-thumbnails")
    capsys.readouterr()
    assert judge("evaluate", here, *report, bundle="local") == 0
    said = document(capsys)
    assert said["scores_made_at"] == "float32 on cpu"
    refusal = said["evaluation"]["findings"][0]["at_point"]["refusal"]
    assert "chosen at bfloat16 on cpu, and these scores were made at float32 on cpu" in refusal
    assert "made at float32 on cpu" in Path("report/report.html").read_text()


@pytest.mark.parametrize("place", ["taken", "taken/below"])
def test_a_report_that_cannot_be_written_is_refused_before_anything_is_embedded(
    here: Path, capsys: pytest.CaptureFixture[str], place: str
) -> None:
    Path("taken").write_text("a file")
    assert judge("evaluate", here, "--report", place) == FAILED
    said = capsys.readouterr().err
    assert f"no report can be written to {place}" in said
    assert "--report" in said
    assert "Embedding" not in said


@pytest.mark.parametrize("wrong", [("--seed", "-1"), ("--rounds", "99"), ("--rounds", "1" * 9)])
def test_draws_that_no_generator_could_make_are_a_usage_error(
    here: Path, wrong: tuple[str, str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        judge("evaluate", here, "--report", "report", *wrong)
    assert ended.value.code == USAGE


def test_two_bundles_are_compared_row_by_row(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert reasonable(here, "--prevalence", "0.1") == 0
    capsys.readouterr()
    more = ("--report", "report", "--rounds", "100", "--against", str(BUNDLE))
    assert judge("evaluate", here, *more, bundle="local") == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "NOT FOR CLINICAL USE" in said
    assert "At a prevalence of 10%, as the bundle's calibration records: PPV " in said
    assert "! 1 image with the finding got no score" in said
    assert "! No subgroup has 20 images with and 20 without the finding" in said
    assert "Note: Not judged by age, view, manufacturer" in said
    assert "Turned away with the finding: 1 image, by the other 1" in said
    assert "AUROC: +0.000 (+0.000 to +0.000), no difference shown" in said
    assert "newly flagged" in said
    found = json.loads(Path("report/evaluation.json").read_text())["comparison"][0]
    assert found["name"] == FINDING
    assert found["images"] == 2 * EACH


def test_a_report_without_thumbnails_holds_no_image_of_a_patient(here: Path) -> None:
    more = ("--report", "report", "--rounds", "100", "--no-thumbnails")
    assert judge("evaluate", here, *more) == 0
    page = Path("report/report.html").read_text()
    assert page.count("<img") == 4  # the plots


def test_rows_can_be_chosen_by_a_column(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    more = ("--report", "report", "--rounds", "100", "--only", "Sex=M", "--json")
    assert judge("evaluate", here, *more) == 0
    said = document(capsys)
    assert said["rows"] == "split test, Sex = M"
    assert said["evaluation"]["subjects"] == EACH


@pytest.mark.parametrize("verb", ["calibrate", "evaluate"])
def test_a_bundle_without_a_classifier_has_nothing_to_judge(
    verb: str, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main(["bundle", "init", "--encoder", str(BUNDLE / "encoder"), "bare"])
    more = ("--report", "report") if verb == "evaluate" else ()
    assert judge(verb, here, *more, bundle="bare") == FAILED
    assert "no classifier" in capsys.readouterr().err


@pytest.mark.parametrize("verb", ["calibrate", "evaluate"])
def test_a_directory_that_is_no_bundle_is_a_plain_sentence(
    verb: str, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    more = ("--report", "report") if verb == "evaluate" else ()
    assert judge(verb, here, *more, bundle="nowhere") == FAILED
    assert "there is no directory nowhere" in capsys.readouterr().err
    assert judge(verb, here, *more, bundle=BUNDLE / "encoder") == FAILED
    assert "encoder holds no bundle. Name the directory of a bundle" in capsys.readouterr().err


def test_labels_of_another_finding_are_refused_before_anything_is_embedded(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert judge("calibrate", here, "--positive", "sex=F", "--out", "local") == FAILED
    said = capsys.readouterr().err
    assert "share no finding" in said
    assert "Embedding" not in said
