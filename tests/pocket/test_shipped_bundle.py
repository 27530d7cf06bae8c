"""The shipped pocket bundle keeps its promises on phantoms that it has never seen."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from tests.assurance import requirement
from tests.dicom_files import make_dx, write
from triage.imaging.subject import DecodeTask, decode_subject
from triage.inference.bundle import Bundle, verify_bundle
from triage.inference.captioner import Captioner, load_captioner
from triage.inference.classifier import classify
from triage.inference.encoder import Encoder, check_known_answer, load_encoder
from triage.pocket import BUNDLE, others
from triage.pocket.build import SPECS, Seeds
from triage.pocket.dataset import Dataset, batch, chests, not_chests, view
from triage.pocket.fit import auroc, fit_logistic
from triage.pocket.lesions import Kind
from triage.pocket.measure import (
    Measured,
    any_present,
    captions,
    embed,
    gate_share,
    measure,
    pixel_features,
    present,
)
from triage.pocket.phantoms import generate

FRESH = range(7_000_000, 7_000_500)


@dataclass(frozen=True, slots=True, kw_only=True)
class Shipped:
    bundle: Bundle
    encoder: Encoder
    captioner: Captioner


@pytest.fixture(scope="module")
def shipped() -> Shipped:
    bundle = verify_bundle(BUNDLE)
    encoder = load_encoder(bundle, device="cpu", captions=True)
    captioner = load_captioner(bundle, encoder, maximum_new_tokens=24)
    return Shipped(bundle=bundle, encoder=encoder, captioner=captioner)


@pytest.fixture(scope="module")
def fresh() -> Dataset:
    return chests(FRESH)


@pytest.fixture(scope="module")
def measured(shipped: Shipped, fresh: Dataset) -> Measured:
    return measure(shipped.bundle, shipped.encoder, shipped.captioner, fresh)


def test_no_set_of_seeds_was_used_twice() -> None:
    seeds = Seeds()
    ranges = [seeds.train, seeds.head, seeds.calibration, seeds.evaluation, FRESH]
    assert sum(len(span) for span in ranges) == len({seed for span in ranges for seed in span})


def test_it_finds_that_something_is_wrong(measured: Measured) -> None:
    assert measured.any_finding_auroc >= 0.98


def test_it_finds_what_is_wrong(measured: Measured) -> None:
    assert measured.right_finding >= 0.93


def test_it_says_what_is_wrong_word_for_word(measured: Measured) -> None:
    assert measured.caption_exact >= 0.90


def test_pixels_alone_do_not_tell(measured: Measured, fresh: Dataset, shipped: Shipped) -> None:
    """Logistic regression on pixels stays 0.05 AUROC below, also when fitted on these phantoms."""
    features, truth = pixel_features(fresh), any_present(present(fresh))
    standard = (features - features.mean(axis=0)) / (features.std(axis=0) + 1e-3)
    scores = np.empty(len(truth))
    for held in (np.arange(len(truth)) % 2 == 0, np.arange(len(truth)) % 2 == 1):
        weights = fit_logistic(standard[~held], truth[~held], l2=1e-2, steps=12)
        scores[held] = standard[held] @ weights[:-1] + weights[-1]
    assert auroc(scores, truth) <= measured.any_finding_auroc - 0.05
    figures = shipped.bundle.manifest.figures
    assert figures["pixel_regression_auroc"] <= figures["any_finding_auroc"] - 0.05


def test_its_card_tells_what_is_measured_again(shipped: Shipped, measured: Measured) -> None:
    figures = shipped.bundle.manifest.figures
    assert figures["phantoms"] == 1_000
    assert abs(figures["any_finding_auroc"] - measured.any_finding_auroc) < 0.01
    assert abs(figures["right_finding"] - measured.right_finding) < 0.03
    assert abs(figures["caption_exact"] - measured.caption_exact) < 0.04
    assert str(figures["caption_exact"]) in shipped.bundle.card


def test_operating_points_keep_nearly_all_findings(measured: Measured) -> None:
    for name, figures in measured.per_finding.items():
        assert figures["sensitivity"] >= 0.90, name
        assert figures["specificity"] >= 0.90, name


def test_chests_pass_the_gate(measured: Measured) -> None:
    assert measured.gated <= 0.02


@pytest.mark.parametrize("family", ["limb", "skull", "noise", "blank", "photograph"])
def test_pictures_of_something_else_are_gated(shipped: Shipped, family: str) -> None:
    pictures = not_chests(range(7_100_000, 7_100_100), [others.FAMILIES[family]])
    assert gate_share(shipped.bundle, shipped.encoder, pictures.views) >= 0.98


def test_a_body_part_that_training_never_showed_is_gated(shipped: Shipped) -> None:
    pictures = not_chests(range(7_100_000, 7_100_100), [others.hand])
    assert gate_share(shipped.bundle, shipped.encoder, pictures.views) >= 0.95


def test_an_exactly_blank_picture_is_gated(shipped: Shipped) -> None:
    vectors = shipped.encoder.embed(np.zeros((1, 1, 112, 112), np.float32)).vectors
    assert not classify(shipped.bundle, vectors)[0].in_distribution


@pytest.mark.parametrize("kind", Kind)
def test_a_large_matrix_is_judged_as_a_small_one(shipped: Shipped, kind: Kind) -> None:
    judged = []
    for size_px in (224, 1024):
        phantom = generate(7_200_001, finding=kind, side="left", size="large", size_px=size_px)
        image = view(phantom.pixels)[None, None]
        (answer,) = classify(shipped.bundle, shipped.encoder.embed(image).vectors)
        judged.append([finding.name for finding in answer.findings if finding.flagged])
    assert judged[0] == judged[1] == [str(kind)]


@pytest.mark.parametrize("photometric", ["MONOCHROME1", "MONOCHROME2"])
def test_a_phantom_served_as_dx_is_the_view_that_training_saw(
    shipped: Shipped, tmp_path: Path, photometric: str
) -> None:
    phantom = generate(7_200_002, finding="effusion", size="large", size_px=512, bits_stored=12)
    inverted = photometric == "MONOCHROME1"
    pixels = (4095 - phantom.pixels).astype(np.uint16) if inverted else phantom.pixels
    image = make_dx(pixels, BitsStored=12, HighBit=11, PhotometricInterpretation=photometric)
    path = write(image, tmp_path / "image.dcm")
    spec = shipped.bundle.view_spec
    served = decode_subject(DecodeTask(paths=(path,), specs=(spec,))).views[spec]
    np.testing.assert_allclose(served[0, 0], view(phantom.pixels), atol=2e-3)
    (judged,) = classify(shipped.bundle, shipped.encoder.embed(served).vectors)
    assert [finding.name for finding in judged.findings if finding.flagged] == ["effusion"]


def test_known_answers_of_both_dtypes_hold_on_this_processor(shipped: Shipped) -> None:
    for dtype in ("float32", "bfloat16"):
        encoder = load_encoder(shipped.bundle, device="cpu", dtype=dtype)
        check_known_answer(shipped.bundle, encoder)


@requirement("M3")
def test_bfloat16_changes_no_flag_worth_mentioning(shipped: Shipped, fresh: Dataset) -> None:
    views = fresh.views[:100]
    half = load_encoder(shipped.bundle, device="cpu", dtype="bfloat16")
    flags = [
        [f.flagged for judged in classify(shipped.bundle, embed(e, views)) for f in judged.findings]
        for e in (shipped.encoder, half)
    ]
    assert len(flags[0]) == len(flags[1])
    assert np.mean(np.array(flags[0]) != np.array(flags[1])) <= 0.02


def test_the_captioner_stays_silent_about_no_image(shipped: Shipped, fresh: Dataset) -> None:
    """Captions depend on the image: those of other phantoms are mostly other words."""
    said = captions(shipped.captioner, fresh.views[:60])
    assert len(set(said)) >= 10


def test_everything_says_that_it_is_not_for_clinical_use(shipped: Shipped) -> None:
    assert shipped.bundle.not_for_clinical_use
    assert "Not for clinical use" in shipped.bundle.card
    assert shipped.bundle.identity.name == "pocket"
    assert shipped.bundle.intended_use.modalities == ("CR", "DX")


def test_findings_bear_snomed_codes_and_a_rank(shipped: Shipped) -> None:
    assert [spec.name for spec in shipped.bundle.manifest.findings] == list(Kind)
    for spec in shipped.bundle.manifest.findings:
        assert (spec.code, spec.raises_to) == SPECS[Kind(spec.name)]


def test_it_fits_in_eight_mebibytes() -> None:
    size = sum(path.stat().st_size for path in Path(BUNDLE).rglob("*") if path.is_file())
    assert size <= 8 * 2**20


def test_one_view_takes_one_channel_or_three(shipped: Shipped, fresh: Dataset) -> None:
    grey = batch(fresh.views[:2])
    np.testing.assert_allclose(
        shipped.encoder.embed(grey).vectors,
        shipped.encoder.embed(np.repeat(grey, 3, axis=1)).vectors,
        atol=1e-5,
    )
