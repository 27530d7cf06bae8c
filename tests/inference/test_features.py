"""Every way from a view to a vector: computed by hand, kept in a bundle, asked at every start."""

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from tests.inference.test_bundle import edit
from tests.inference.test_encoder import views
from triage.errors import BundleError, InferenceError, KnownAnswerError
from triage.inference.bundle import Bundle, load_bundle
from triage.inference.bundle_fields import Features
from triage.inference.bundle_making import init_bundle, record_known_answer
from triage.inference.captioner import load_captioner
from triage.inference.encoder import check_known_answer, load_encoder
from triage.inference.features import QueryPooling, Terms, fit_terms, terms_of, tfidf
from triage.inference.pooling import query_attention, query_pool, tensors_of
from triage.inference.writer import prompt_digest
from triage.pocket import BUNDLE
from triage.pocket.dataset import chests

WIDTH, QUERIES, VALUES = 48, 3, 5


def pooling(width: int = WIDTH) -> QueryPooling:
    random = np.random.default_rng(11)

    def drawn(*shape: int) -> NDArray[np.float32]:
        return (0.3 * random.standard_normal(shape)).astype(np.float32)

    return QueryPooling(
        queries=drawn(QUERIES, width),
        key=drawn(width, width),
        value=drawn(width, VALUES),
        norm_weight=1 + drawn(width),
        norm_bias=drawn(width),
    )


def by_hand(tokens: NDArray[np.float32], used: QueryPooling) -> NDArray[np.float64]:
    """The formula of QueryPooling in numpy, for one image (T, W)."""
    wide = tokens.astype(np.float64)
    spread = np.sqrt(wide.var(axis=1, keepdims=True) + 1e-6)
    normed = (wide - wide.mean(axis=1, keepdims=True)) / spread * used.norm_weight + used.norm_bias
    scores = used.queries @ (normed @ used.key).T / np.sqrt(wide.shape[1])
    shares = np.exp(scores - scores.max(axis=1, keepdims=True))
    shares /= shares.sum(axis=1, keepdims=True)
    return np.asarray((shares @ (normed @ used.value)).ravel())


def terms(words: tuple[str, ...] = ("lung", "clear", "nodule")) -> Terms:
    return Terms(
        terms=words,
        idf=tuple(1.0 + i for i in range(len(words))),
        maximum_new_tokens=6,
        prompt_digest=prompt_digest(6),
    )


@pytest.fixture(scope="module")
def siglip_directory(medsiglip: Bundle) -> Path:
    return medsiglip.encoder_directory


Make = Callable[..., Bundle]


@pytest.fixture
def make(medgemma_directory: Path, tmp_path: Path) -> Make:
    def made(name: str = "made", encoder: Path = medgemma_directory, **choices: Any) -> Bundle:
        return init_bundle(encoder, tmp_path / name, name=name, device="cpu", **choices)

    return made


def vectors_of(bundle: Bundle, count: int = 2) -> NDArray[np.float32]:
    return load_encoder(bundle, device="cpu").embed(views(count)).vectors


# --- pooling


def test_the_tokens_of_a_layer_are_those_of_the_tower(medgemma: Bundle) -> None:
    encoder = load_encoder(medgemma, device="cpu")
    first, last = (encoder.patch_tokens(views(2), layer=layer) for layer in (1, 2))
    out = encoder.patch_tokens(views(2))
    assert first.shape == last.shape == out.shape == (2, 16, WIDTH)
    assert first.dtype == np.float32
    np.testing.assert_allclose(out.mean(axis=1), encoder.embed(views(2)).vectors, atol=1e-5)
    normed = torch.nn.functional.layer_norm(
        torch.from_numpy(last),
        (WIDTH,),
        encoder.vision.post_layernorm.weight,
        encoder.vision.post_layernorm.bias,
        eps=1e-6,
    )
    np.testing.assert_allclose(normed.detach().numpy(), out, atol=1e-4)
    assert np.abs(first - last).max() > 1e-2


@pytest.mark.parametrize("layer", [0, 3])
def test_a_layer_that_the_tower_has_not_is_refused(medgemma: Bundle, layer: int) -> None:
    encoder = load_encoder(medgemma, device="cpu")
    with pytest.raises(InferenceError, match=f"no layer {layer}"):
        encoder.patch_tokens(views(1), layer=layer)


@pytest.mark.parametrize("layer", [None, 1, 2])
def test_learned_queries_give_what_their_formula_says(make: Make, layer: int | None) -> None:
    bundle = make(features=Features(pooling="queries", layer=layer), pooling=pooling())
    encoder = load_encoder(bundle, device="cpu")
    assert encoder.width == bundle.width == QUERIES * VALUES
    tokens = encoder.patch_tokens(views(2), layer=layer)
    expected = np.stack([by_hand(image, pooling()) for image in tokens])
    np.testing.assert_allclose(encoder.embed(views(2)).vectors, expected, atol=1e-4)


def test_attention_sums_to_one_and_gradients_reach_queries_and_tower(medgemma: Bundle) -> None:
    encoder = load_encoder(medgemma, device="cpu")
    tensors = tensors_of(pooling(), encoder.device)
    tensors.queries.requires_grad_()
    tokens, pooled = encoder.tower(encoder.pixels(views(2)))
    shares = query_attention(tokens, tensors)
    assert shares.shape == (2, QUERIES, 16)
    np.testing.assert_allclose(shares.sum(dim=2).detach().numpy(), 1.0, atol=1e-5)
    (query_pool(tokens, tensors).sum() + pooled.sum()).backward()
    assert tensors.queries.grad is not None
    weight = encoder.vision.encoder.layers[0].mlp.fc1.weight
    assert weight.grad is not None
    assert float(weight.grad.abs().max()) > 0


def test_the_mean_over_a_siglip_tower_is_not_its_pooling_head(
    make: Make, siglip_directory: Path, medsiglip: Bundle
) -> None:
    bundle = make(encoder=siglip_directory, features=Features(pooling="mean"))
    tokens = load_encoder(bundle, device="cpu").patch_tokens(views(2))
    np.testing.assert_allclose(vectors_of(bundle), tokens.mean(axis=1), atol=1e-5)
    assert np.abs(vectors_of(bundle) - vectors_of(medsiglip)).max() > 1e-2


def test_a_vector_of_length_one_points_where_it_pointed(make: Make, medgemma: Bundle) -> None:
    scaled, plain = vectors_of(make(features=Features(unit_length=True))), vectors_of(medgemma)
    np.testing.assert_allclose(np.linalg.norm(scaled, axis=1), 1.0, atol=1e-6)
    expected = plain / np.linalg.norm(plain, axis=1, keepdims=True)
    np.testing.assert_allclose(scaled, expected, atol=1e-6)


# --- experts


def test_the_vectors_of_experts_follow_in_order(
    make: Make, siglip_directory: Path, medgemma: Bundle, medsiglip: Bundle
) -> None:
    bundle = make(experts=[siglip_directory])
    (expert,) = bundle.manifest.features.experts
    assert (expert.path, expert.architecture) == (str(siglip_directory), "SiglipModel")
    expected = np.hstack([vectors_of(medgemma), vectors_of(medsiglip)])
    np.testing.assert_allclose(vectors_of(bundle), expected, atol=1e-5)
    assert load_encoder(bundle, device="cpu").widths == (WIDTH, WIDTH)


def test_a_changed_weight_of_an_expert_is_found(
    make: Make, siglip_directory: Path, tmp_path: Path
) -> None:
    copy = shutil.copytree(siglip_directory, tmp_path / "expert")
    bundle = make(experts=[copy])
    weights = copy / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\x7f")
    with pytest.raises(BundleError, match="has changed"):
        load_bundle(bundle.directory)


def test_an_expert_that_answers_otherwise_is_found_beside_a_louder_encoder(
    make: Make, siglip_directory: Path
) -> None:
    bundle = make(experts=[siglip_directory])
    encoder = load_encoder(bundle, device="cpu")
    (expert,) = encoder.experts

    def drifting(pixels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        tokens, pooled = expert.tower(pixels)
        return tokens, pooled * 1.01

    def loud(pixels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        tokens, pooled = encoder.tower(pixels)
        return tokens, pooled * 1000

    answer = dict(bundle.known_answer.vectors)
    answer["float32-cpu"] = answer["float32-cpu"] * np.repeat([1000, 1], WIDTH).astype(np.float32)
    louder = replace(bundle, known_answer=replace(bundle.known_answer, vectors=answer))
    check_known_answer(louder, replace(encoder, tower=loud))
    drifted = replace(encoder, tower=loud, experts=(replace(expert, tower=drifting),))
    with pytest.raises(KnownAnswerError, match="another answer"):
        check_known_answer(louder, drifted)


# --- captions


def test_words_and_pairs_are_counted_and_nothing_else() -> None:
    assert terms_of("No 3 mm nodule, NO effusion.") == [
        *("no", "mm", "nodule", "no", "effusion"),
        *("no mm", "mm nodule", "nodule no", "no effusion"),
    ]


def test_caption_features_are_counts_times_idf_of_length_one() -> None:
    (row, nothing) = tfidf(terms(), ["Lung clear, lung.", "heart"])
    np.testing.assert_allclose(row, np.array([2.0, 2.0, 0.0]) / np.sqrt(8.0), atol=1e-6)
    assert nothing.tolist() == [0.0, 0.0, 0.0]


def test_terms_are_those_of_most_captions() -> None:
    captions = ["lung clear", "lung nodule", "lung nodule left", "rare"]
    found = fit_terms(captions, maximum_new_tokens=6, prompt_digest="x", maximum_terms=3)
    assert found.terms == ("lung", "lung nodule", "nodule")
    assert found.idf[0] == pytest.approx(np.log(5 / 4) + 1)


def test_captions_that_the_encoder_writes_become_features(make: Make) -> None:
    pocket = load_bundle(BUNDLE)
    encoder = load_encoder(pocket, device="cpu", captions=True)
    captioner = load_captioner(pocket, encoder, maximum_new_tokens=6)
    seen = (chests(range(70, 74)).views.astype(np.float32) / 65535.0)[:, None]
    embedded = encoder.embed(seen, keep_features=True)
    assert embedded.features is not None
    written = captioner.write(embedded.features)
    vocabulary = tuple(dict.fromkeys(word for text in written for word in terms_of(text)))
    bundle = make(
        encoder=pocket.encoder_directory,
        view=pocket.view_spec,
        features=Features(captions=True),
        terms=terms(vocabulary),
    )
    vectors = load_encoder(bundle, device="cpu").embed(seen).vectors
    np.testing.assert_allclose(vectors[:, : encoder.width], embedded.vectors, atol=1e-5)
    words = vectors[:, encoder.width :]
    np.testing.assert_allclose(words, tfidf(terms(vocabulary), written), atol=1e-6)
    np.testing.assert_allclose(np.linalg.norm(words, axis=1), 1.0, atol=1e-6)
    assert len(set(written)) > 1


def test_an_encoder_that_writes_nothing_has_no_caption_features(
    make: Make, siglip_directory: Path
) -> None:
    with pytest.raises(BundleError, match="SiglipModel writes no captions"):
        make(encoder=siglip_directory, features=Features(captions=True), terms=terms())


def test_terms_of_another_prompt_are_refused(make: Make) -> None:
    other = replace(terms(), prompt_digest="0" * 64)
    with pytest.raises(BundleError, match="another prompt"):
        make(features=Features(captions=True), terms=other)


# --- in a bundle

EVERY: dict[str, dict[str, Any]] = {
    "mean of a layer": {"features": Features(pooling="mean", layer=1)},
    "queries": {"features": Features(pooling="queries", layer=1), "pooling": pooling()},
    "unit length": {"features": Features(unit_length=True)},
    "captions": {"features": Features(captions=True), "terms": terms()},
    "all together": {
        "features": Features(pooling="queries", unit_length=True, captions=True),
        "pooling": pooling(),
        "terms": terms(),
        "experts": "siglip",
    },
}


@pytest.mark.parametrize("name", EVERY)
def test_the_known_answer_holds_for_every_kind_of_features_and_only_for_it(
    name: str, make: Make, siglip_directory: Path
) -> None:
    choices = dict(EVERY[name])
    if choices.get("experts"):
        choices["experts"] = [siglip_directory]
    bundle = load_bundle(make(**choices).directory)
    encoder = load_encoder(bundle, device="cpu")
    check_known_answer(bundle, encoder)
    tower = encoder.tower

    def other(pixels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        tokens, pooled = tower(pixels)
        return tokens, pooled + pooled.roll(1, dims=1)

    with pytest.raises(KnownAnswerError, match="another answer"):
        check_known_answer(bundle, replace(encoder, tower=other))


def test_every_choice_gives_embeddings_of_their_own(make: Make, siglip_directory: Path) -> None:
    digests = {"": make("plain").features_digest}
    for name, choices in EVERY.items():
        with_experts = {"experts": [siglip_directory]} if choices.get("experts") else {}
        digests[name] = make(name, **{**choices, **with_experts}).features_digest
    other = replace(pooling(), queries=pooling().queries * 2)
    digests["other queries"] = make(
        "other", **{**EVERY["queries"], "pooling": other}
    ).features_digest
    assert digests[""] == ""
    assert len(set(digests.values())) == len(digests)


def test_a_recorded_answer_belongs_to_the_features_too(
    make: Make, medgemma: Bundle, tmp_path: Path
) -> None:
    bundle = make(**EVERY["unit length"])
    record_known_answer(medgemma, device="cpu", dtype="bfloat16", directory=tmp_path / "kept")
    encoder = load_encoder(bundle, device="cpu", dtype="bfloat16")
    with pytest.raises(KnownAnswerError, match="no known answer"):
        check_known_answer(bundle, encoder, recorded=tmp_path / "kept")
    record_known_answer(bundle, device="cpu", dtype="bfloat16", directory=tmp_path / "kept")
    check_known_answer(bundle, encoder, recorded=tmp_path / "kept")


CONTRADICTING: dict[str, tuple[dict[str, Any], str]] = {
    "queries without arrays": ({"features": Features(pooling="queries")}, "without its arrays"),
    "arrays without queries": ({"pooling": pooling()}, "or the reverse"),
    "captions without terms": ({"features": Features(captions=True)}, "without their terms"),
    "terms without captions": ({"terms": terms()}, "or the reverse"),
    "a layer of the default": ({"features": Features(layer=1)}, "layer"),
    "an unknown pooling": ({"features": Features(pooling="maximum")}, "maximum"),
    "a layer too deep": ({"features": Features(pooling="mean", layer=3)}, "layer 3"),
    "queries of another width": (
        {"features": Features(pooling="queries"), "pooling": pooling(width=40)},
        "width 48",
    ),
    "queries that are not finite": (
        {
            "features": Features(pooling="queries"),
            "pooling": replace(pooling(), norm_bias=np.full(WIDTH, np.nan, np.float32)),
        },
        "not finite in norm_bias",
    ),
    "a key that does not fit": (
        {
            "features": Features(pooling="queries"),
            "pooling": replace(pooling(), key=np.zeros((WIDTH, 2), np.float32)),
        },
        "key",
    ),
    "no terms at all": ({"features": Features(captions=True), "terms": terms(())}, "1 to"),
    "a term that no caption has": (
        {"features": Features(captions=True), "terms": terms(("Lung",))},
        "no caption can have",
    ),
}


@pytest.mark.parametrize(("choices", "said"), CONTRADICTING.values(), ids=CONTRADICTING)
def test_features_that_contradict_themselves_make_no_bundle(
    choices: dict[str, Any], said: str, make: Make, tmp_path: Path
) -> None:
    with pytest.raises(BundleError, match=said):
        make(**choices)
    assert not (tmp_path / "made" / "bundle.json").exists()


def test_a_file_of_features_that_nothing_speaks_of_is_refused(make: Make) -> None:
    bundle = make(**EVERY["queries"])
    edit(bundle.directory, lambda d: d["features"].update(pooling="mean"))
    with pytest.raises(BundleError, match=r"pooling\.safetensors, of which it does not speak"):
        load_bundle(bundle.directory)


def test_a_file_of_features_that_is_not_listed_is_refused(make: Make) -> None:
    bundle = make(**EVERY["captions"])
    edit(bundle.directory, lambda d: d["files"].pop("terms.json"))
    with pytest.raises(BundleError, match=r"terms\.json"):
        load_bundle(bundle.directory)


def test_a_changed_byte_of_the_terms_is_found(make: Make) -> None:
    path = make(**EVERY["captions"]).directory / "terms.json"
    path.write_text(path.read_text().replace("lung", "heart"))
    with pytest.raises(BundleError, match="has changed"):
        load_bundle(path.parent)
