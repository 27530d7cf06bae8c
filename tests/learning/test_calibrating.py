"""A calibration belongs to a site: fitted on its studies, refused without enough of them."""

import math
from dataclasses import replace
from datetime import date
from pathlib import Path

import numpy as np
import pytest

from tests.learning.scores import scored
from tests.learning.tables import label_row
from triage.errors import BundleError
from triage.inference.bundle import Bundle, load_bundle
from triage.inference.calibration import Calibration, sigmoid
from triage.inference.patients import new_patients, seen_among
from triage.learning.judging.calibrated_bundle import Provenance, write_calibrated
from triage.learning.judging.calibrating import (
    CalibrationRefused,
    Conditions,
    Fit,
    Wish,
    fit,
    isotonic,
    platt,
    probabilities_of,
    same_cut,
    without_calibration,
)
from triage.learning.judging.scoring import Scored
from triage.learning.judging.statistics import log_odds
from triage.pocket import BUNDLE

optimize = pytest.importorskip("scipy.optimize", reason="needs triage[learning]")


@pytest.fixture(scope="module")
def pocket() -> Bundle:
    return load_bundle(BUNDLE, check_encoder=False)


def first_of(bundle: Bundle) -> str:
    return bundle.manifest.findings[0].name


def site(
    bundle: Bundle, *, positives: int, negatives: int, slope: float = 0.5, gap: float = 3.0
) -> Scored:
    """Raw scores of the bundle's first finding at a site whose log-odds are slope * raw - 1."""
    generator = np.random.default_rng(11)
    truth = np.r_[np.ones(positives), np.zeros(negatives)]
    raw = generator.normal(gap * (truth - 0.5) / slope, 1.0 / slope)
    return scored(truth.tolist(), sigmoid(raw).tolist(), name=first_of(bundle))


def only_first(bundle: Bundle) -> Bundle:
    """The bundle as if it had its first finding alone, so that all are labelled."""
    assert bundle.calibration is not None
    one = {name: getattr(bundle.calibration, name)[:1] for name in ("slope", "intercept", "shift")}
    return replace(
        bundle,
        manifest=replace(bundle.manifest, findings=bundle.manifest.findings[:1]),
        calibration=Calibration(kind="platt", **one),
    )


# --- the fits


def test_platt_is_the_minimum_of_his_smoothed_loss() -> None:
    generator = np.random.default_rng(1)
    truth = generator.random(200) < 0.3
    logits = generator.normal(2.0 * truth, 1.5)
    targets = np.where(truth, (truth.sum() + 1) / (truth.sum() + 2), 1 / ((~truth).sum() + 2))

    def loss(at: np.ndarray) -> float:
        raised = at[0] * logits + at[1]
        return float((np.logaddexp(0, raised) - targets * raised).sum())

    expected = optimize.minimize(loss, np.zeros(2), tol=1e-12).x
    assert platt(logits, truth) == (
        pytest.approx(expected[0], abs=1e-4),
        pytest.approx(expected[1], abs=1e-4),
    )


def test_platt_stays_finite_where_the_classes_are_separated() -> None:
    slope, intercept = platt(np.linspace(-3, 3, 40), np.arange(40) >= 20)
    assert 0 < slope < 10
    assert abs(intercept) < 1


def test_isotonic_steps_never_fall_nor_promise_certainty() -> None:
    generator = np.random.default_rng(2)
    truth = generator.random(3000) < 0.5
    x, y = isotonic(generator.normal(truth, 1.0), truth)
    assert (np.diff(x) > 0).all()
    assert (np.diff(y) >= 0).all()
    assert 0 < y.min() < y.max() < 1


def test_a_fit_gives_back_the_slope_and_the_intercept_of_the_site(pocket: Bundle) -> None:
    bundle = only_first(pocket)
    found = fit(bundle, site(bundle, positives=3000, negatives=3000), Wish())
    # Two normals of variance 1 / slope^2 that lie gap / slope apart have log-odds gap * slope * x.
    assert found.calibration.slope[0] == pytest.approx(3.0 * 0.5, rel=0.06)
    assert found.calibration.intercept[0] == pytest.approx(0.0, abs=0.1)
    assert found.local


# --- what is refused


@pytest.mark.parametrize(("positives", "supported"), [(58, False), (59, True)])
def test_an_operating_point_needs_its_positives(
    pocket: Bundle, positives: int, supported: bool
) -> None:
    bundle = only_first(pocket)
    found = fit(bundle, site(bundle, positives=positives, negatives=100), Wish()).findings[0]
    assert (found.point is not None) == supported
    assert (not found.refusal) == supported
    if not supported:
        assert "58 patients" in found.refusal
        assert "59 are needed" in found.refusal


def test_a_refused_point_flags_the_same_raw_scores_as_before(pocket: Bundle) -> None:
    bundle, rows = only_first(pocket), site(only_first(pocket), positives=20, negatives=80)
    found = fit(bundle, rows, Wish())
    logits = log_odds(rows.probabilities[:, 0])
    assert bundle.calibration is not None
    before = probabilities_of(bundle.calibration, 0, logits)
    after = probabilities_of(found.calibration, 0, logits)
    point = bundle.manifest.findings[0].operating_point
    assert found.findings[0].point is None
    assert ((before >= point) == (after >= found.findings[0].threshold)).all()
    assert found.findings[0].threshold != point


def test_too_few_images_leave_the_calibration_as_it_was_and_the_bundle_not_local(
    pocket: Bundle,
) -> None:
    bundle = only_first(pocket)
    assert bundle.calibration is not None
    found = fit(bundle, site(bundle, positives=9, negatives=80), Wish())
    assert found.calibration.slope == bundle.calibration.slope
    assert found.findings[0].threshold == pytest.approx(bundle.manifest.findings[0].operating_point)
    assert "10 of each" in found.findings[0].refusal
    assert not found.local


def test_scores_that_fall_with_the_finding_are_not_turned_round(pocket: Bundle) -> None:
    bundle = only_first(pocket)
    found = fit(bundle, site(bundle, positives=90, negatives=90, gap=-2.0), Wish())
    assert "do not rise" in found.findings[0].refusal
    assert (found.calibration.slope >= 0).all()
    assert not found.local


def test_findings_without_labels_keep_theirs_and_say_so(pocket: Bundle) -> None:
    found = fit(pocket, site(pocket, positives=100, negatives=100), Wish())
    first, *others = found.findings
    assert first.fitted
    assert not first.refusal
    assert others
    assert all(each.refusal == "it has no labels here" for each in others)
    assert not found.local


@pytest.mark.parametrize(("positives", "negatives"), [(999, 5000), (5000, 999)])
def test_isotonic_is_refused_below_a_thousand_of_either_class(
    pocket: Bundle, positives: int, negatives: int
) -> None:
    bundle = only_first(pocket)
    rows = site(bundle, positives=positives, negatives=negatives)
    with pytest.raises(CalibrationRefused, match=r"needs 1000 .* 999"):
        fit(bundle, rows, Wish(method="isotonic"))


def test_isotonic_with_enough_events_is_a_calibration_that_serves(pocket: Bundle) -> None:
    bundle = only_first(pocket)
    found = fit(bundle, site(bundle, positives=1000, negatives=1000), Wish(method="isotonic"))
    assert found.calibration.kind == "isotonic"
    assert found.findings[0].point is not None


def test_isotonic_beside_findings_without_labels_is_refused(pocket: Bundle) -> None:
    with pytest.raises(CalibrationRefused, match="every finding needs"):
        fit(pocket, site(pocket, positives=1000, negatives=1000), Wish(method="isotonic"))


def test_few_patients_are_a_warning(pocket: Bundle) -> None:
    bundle = only_first(pocket)
    found = fit(bundle, site(bundle, positives=30, negatives=100), Wish())
    assert found.findings[0].warnings == (
        "fitted on 30 patients of the rarer class; 50 are advised",
    )


def test_further_images_of_a_patient_are_no_further_events(pocket: Bundle) -> None:
    bundle = only_first(pocket)
    rows = site(bundle, positives=2000, negatives=2000)
    few = [f"p{row % 18}" if row < 2000 else f"n{row % 900}" for row in range(4000)]
    nine = replace(rows, groups=tuple(f"p{row % 9}" for row in range(4000)))
    assert "9 patients with and 9 without" in fit(bundle, nine, Wish()).findings[0].refusal
    with pytest.raises(CalibrationRefused, match="there are 18 and 900"):
        fit(bundle, replace(rows, groups=tuple(few)), Wish(method="isotonic"))


# --- choices


def test_the_method_none_changes_no_probability_but_chooses_a_point(pocket: Bundle) -> None:
    bundle = only_first(pocket)
    rows = site(bundle, positives=100, negatives=100)
    assert bundle.calibration is not None
    shifted = replace(bundle.calibration, shift=np.array([-1.5]))
    bundle = replace(bundle, calibration=shifted)
    found = fit(bundle, rows, Wish(method="none", prevalence={first_of(bundle): 0.1}))
    assert found.calibration == shifted
    assert found.findings[0].point is not None
    flagged = probabilities_of(shifted, 0, log_odds(rows.probabilities[:100, 0]))
    assert (flagged >= found.findings[0].threshold).sum() >= 98
    assert not found.findings[0].fitted
    assert not found.local


def test_a_rarer_finding_lowers_every_probability_by_the_difference_of_the_log_odds(
    pocket: Bundle,
) -> None:
    bundle = only_first(pocket)
    rows = site(bundle, positives=200, negatives=200)
    plain = fit(bundle, rows, Wish())
    rare = fit(bundle, rows, Wish(prevalence={first_of(bundle): 0.05}))
    logits = np.linspace(-5, 5, 11)
    moved = log_odds(probabilities_of(rare.calibration, 0, logits)) - log_odds(
        probabilities_of(plain.calibration, 0, logits)
    )
    np.testing.assert_allclose(moved, math.log(0.05 / 0.95), atol=1e-6)
    # The point moves along: what is flagged stays the same.
    for each in (plain, rare):
        assert each.findings[0].point is not None
    said = log_odds(rows.probabilities[:, 0])
    flags = [
        probabilities_of(each.calibration, 0, said) >= each.findings[0].threshold
        for each in (plain, rare)
    ]
    assert (flags[0] == flags[1]).all()


def test_gated_and_failed_rows_are_counted_and_fit_nothing(pocket: Bundle) -> None:
    bundle = only_first(pocket)
    rows = site(bundle, positives=100, negatives=100)
    lost = scored(
        rows.truth[:, 0].tolist(),
        rows.probabilities[:, 0].tolist(),
        gated=[0, 1],
        failed=[150],
        name=first_of(bundle),
    )
    found = fit(bundle, lost, Wish())
    assert (found.images, found.gated, found.failed) == (197, 2, 1)
    (first,) = found.findings
    assert (first.positives, first.turned_away) == (98, 2)
    assert first.point is None  # of 100 patients one may be missed, and the gate turned away two
    assert "turned away images of 2 of 100 patients" in first.refusal


@pytest.mark.parametrize("point", [0.0, 1.0])
def test_a_point_that_flags_all_or_none_goes_on_doing_so(pocket: Bundle, point: float) -> None:
    bundle = only_first(pocket)
    spec = replace(bundle.manifest.findings[0], operating_point=point)
    bundle = replace(bundle, manifest=replace(bundle.manifest, findings=(spec,)))
    found = fit(bundle, site(bundle, positives=20, negatives=50), Wish())
    assert found.findings[0].threshold == point


def test_the_same_cut_is_found_again_in_isotonic_steps(pocket: Bundle) -> None:
    bundle = only_first(pocket)
    steps = fit(bundle, site(bundle, positives=1000, negatives=1000), Wish(method="isotonic"))
    spec = replace(bundle.manifest.findings[0], operating_point=0.4)
    stepped = replace(
        bundle,
        calibration=steps.calibration,
        manifest=replace(bundle.manifest, findings=(spec,)),
    )
    plain = without_calibration(bundle).calibration
    assert plain is not None
    cut = same_cut(stepped, plain, 0)
    logits = np.linspace(-6, 6, 500)
    before = probabilities_of(steps.calibration, 0, logits) >= 0.4
    after = probabilities_of(plain, 0, logits) >= cut
    assert (before == after).all()


# --- the new bundle

HERE = Conditions(dtype="float32", device_class="cpu")


def written(
    bundle: Bundle,
    out: Path,
    wish: Wish,
    *,
    finding: int = 0,
    conditions: Conditions = HERE,
    positives: int = 40,
) -> tuple[Bundle, Fit]:
    """Calibrate one finding of the bundle; its rows are of patients named after it."""
    name = bundle.manifest.findings[finding].name
    rows = replace(site(bundle, positives=positives, negatives=100), findings=(name,))
    found = fit(bundle, rows, wish, conditions)
    made = write_calibrated(
        bundle,
        out,
        found,
        wish,
        version="1-local",
        source=Provenance(
            labels_digest="ab" * 32, on=date(2024, 2, 29), conditions=conditions, site="North"
        ),
        rows=[label_row(2, group=name)],
    )
    return made, found


def test_a_new_bundle_is_written_beside_the_old_one_with_its_record(
    pocket: Bundle, tmp_path: Path
) -> None:
    before = {path: path.read_bytes() for path in BUNDLE.iterdir() if path.is_file()}
    made, found = written(pocket, tmp_path / "new", Wish(sensitivity=0.9))
    again = load_bundle(tmp_path / "new")
    record = again.manifest.calibration
    assert record is not None
    name = first_of(pocket)
    assert (record.kind, record.date, record.labels_digest) == ("platt", "2024-02-29", "ab" * 32)
    assert (record.images, record.patients, record.positives[name]) == (140, 140, 40)
    assert record.target_sensitivity == 0.9
    assert name not in record.refusals
    assert record.local is False  # the other findings had no labels
    assert again.identity.version == "1-local"
    assert again.identity.digest != pocket.identity.digest
    assert again.manifest.findings[0].operating_point == found.findings[0].threshold
    assert again.manifest.figures["calibration"]["site"] == "North"
    assert again.manifest.figures["calibration"]["from"] == pocket.identity.digest
    assert "Calibration on local studies" in again.card
    assert made.calibration is not None
    np.testing.assert_array_equal(made.calibration.slope, found.calibration.slope)
    assert {path: path.read_bytes() for path in before} == before


def test_a_refusal_stands_in_the_record(pocket: Bundle, tmp_path: Path) -> None:
    made, _ = written(pocket, tmp_path / "new", Wish(sensitivity=0.95))
    assert made.manifest.calibration is not None
    refusal = made.manifest.calibration.refusals[first_of(pocket)]
    assert "40 patients" in refusal
    assert "59 are needed" in refusal


def test_a_bundle_is_never_written_over(pocket: Bundle, tmp_path: Path) -> None:
    written(pocket, tmp_path / "new", Wish())
    with pytest.raises(BundleError, match="is a bundle already"):
        written(pocket, tmp_path / "new", Wish())


def test_calibrating_again_replaces_the_section_of_the_card(pocket: Bundle, tmp_path: Path) -> None:
    made, _ = written(pocket, tmp_path / "one", Wish())
    twice, _ = written(made, tmp_path / "two", Wish())
    assert twice.card.count("## Calibration on local studies") == 1
    assert twice.card.startswith(f"# {twice.identity.name} {twice.identity.version}\n")
    assert twice.card.count("The last section says which calibration") == 1
    assert pocket.card.partition("\n")[2].strip() in twice.card  # nothing of it is lost


def test_findings_calibrated_one_after_the_other_make_the_bundle_local(
    pocket: Bundle, tmp_path: Path
) -> None:
    names = [spec.name for spec in pocket.manifest.findings]
    made = replace(pocket, patients=new_patients({"train": ["group t"]}))
    wish = Wish(sensitivity=0.9, prevalence={names[0]: 0.1})
    for number, name in enumerate(names):
        assert not made.locally_calibrated
        made, _ = written(made, tmp_path / name, wish, finding=number)
    record = made.manifest.calibration
    assert record is not None
    assert record.local
    assert record.local_findings == tuple(names)
    assert record.refusals == {}
    assert (record.dtype, record.device_class) == ("float32", "cpu")
    assert record.positives == dict.fromkeys(names, 40)
    assert record.prevalence == {names[0]: 0.1}  # the others were not shifted
    assert made.card.count("supported by an earlier calibration") == len(names) - 1
    assert made.patients is not None
    seen = seen_among(made.patients, ["group t", *(f"group {name}" for name in names)])
    assert seen["train"].tolist() == [True, *[False] * len(names)]
    assert seen["calibration"].tolist() == [False, *[True] * len(names)]


def test_what_an_earlier_calibration_has_shown_is_not_taken_for_more(
    pocket: Bundle, tmp_path: Path
) -> None:
    first = first_of(pocket)
    made, _ = written(pocket, tmp_path / "a", Wish(sensitivity=0.9))
    higher, _ = written(made, tmp_path / "b", Wish(sensitivity=0.95), finding=1, positives=70)
    assert higher.manifest.calibration is not None
    assert "chosen for a sensitivity of 0.9 " in higher.manifest.calibration.refusals[first]
    assert higher.manifest.calibration.is_local(first)
    there = Conditions(dtype="bfloat16", device_class="cuda-9.0")
    other, _ = written(made, tmp_path / "c", Wish(sensitivity=0.9), finding=1, conditions=there)
    record = other.manifest.calibration
    assert record is not None
    assert record.local_findings == (pocket.manifest.findings[1].name,)
    assert record.refusals[first] == "it has no labels here"
    again, found = written(made, tmp_path / "d", Wish(), conditions=HERE, positives=5)
    assert again.manifest.calibration is not None
    assert again.manifest.calibration.is_local(first)  # too few now: as it was
    assert not found.findings[0].fitted


def test_a_fit_on_rows_of_the_training_is_none_of_local_studies(pocket: Bundle) -> None:
    bundle = only_first(pocket)
    rows = site(bundle, positives=100, negatives=100)
    found = fit(bundle, rows, Wish(), Conditions(training_rows=1))
    assert found.findings[0].fitted
    assert not found.local


def test_a_prevalence_that_was_not_applied_is_not_in_the_record(
    pocket: Bundle, tmp_path: Path
) -> None:
    wish = Wish(prevalence={spec.name: 0.2 for spec in pocket.manifest.findings})
    made, found = written(pocket, tmp_path / "new", wish, positives=5)
    assert made.manifest.calibration is not None
    assert made.manifest.calibration.prevalence == {}
    assert "the prevalence given was not applied" in found.findings[0].warnings[0]
