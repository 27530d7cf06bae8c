"""Replay and shadow through the real worker: two bundles on one encoder, real images, real rows."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import delete, update

from tests.inference import twins
from tests.learning.two_bundles import FINDING, SIZE_PX, make_bundle
from tests.worker.house import POLICIES, House, drain, open_house, radiograph
from triage.config import Config, ModelConfig
from triage.database.scores import Scope, record_scope, scopes
from triage.database.tables import Embedding, Instance, ResultRow
from triage.errors import PermanentError
from triage.imaging.decode_pool import DecodePool
from triage.inference.bundle import Bundle
from triage.learning.watching.replay import Change, Listener, Summary, replay
from triage.learning.watching.replay_answers import (
    Missing,
    NewBundle,
    RecordedShadow,
    scope_of,
    usable_as,
    with_operating_points,
)
from triage.records import Analysis, Mode, Rank, ViewSpec
from triage.worker.models import LoadedModel
from triage.worker.scopes import note_scopes
from triage.worker.serving import open_models

LEVELS = (0.1, 0.5, 0.9)  # the served model flags the last, the eager one the last two


@dataclass(frozen=True)
class Bundles:
    served: Bundle
    eager: Bundle
    strict: Bundle
    other_view: Bundle


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> Bundles:
    encoder = twins.medgemma(tmp_path_factory.mktemp("encoder"))
    out = tmp_path_factory.mktemp("bundles")
    return Bundles(
        served=make_bundle(encoder, out / "served", name="served", eager=-2.0),
        eager=make_bundle(encoder, out / "eager", name="eager", eager=2.0),
        strict=make_bundle(encoder, out / "strict", name="strict", gate=1e-9),
        other_view=make_bundle(encoder, out / "other", name="other", size_px=SIZE_PX // 2),
    )


@pytest.fixture(scope="module")
def pool() -> Iterator[DecodePool]:
    with DecodePool(1, timeout_s=60) as opened:
        yield opened


@pytest.fixture(scope="module")
def models(bundles: Bundles) -> list[LoadedModel]:
    """The served bundle and the eager one as its shadow, as the daemon loads them."""
    config = Config(
        models=(
            ModelConfig(name="served", bundle=bundles.served.directory, devices=("cpu",)),
            ModelConfig(
                name="eager", bundle=bundles.eager.directory, devices=("cpu",), mode=Mode.SHADOW
            ),
        )
    )
    return open_models(config, slot=0)


@pytest.fixture
def house(sqlite_url: str, tmp_path: Path, pool: DecodePool) -> Iterator[House]:
    with open_house(sqlite_url, tmp_path, pool) as opened:
        yield opened


@pytest.fixture
def any_house(database_url: str, tmp_path: Path, pool: DecodePool) -> Iterator[House]:
    with open_house(database_url, tmp_path, pool) as opened:
        yield opened


def looked_at(house: House, models: list[LoadedModel]) -> list[dict[str, Any]]:
    """Receive one study of each brightness, have the models look; return the studies."""
    note_scopes(house.db, models)
    outcomes = [house.receive(radiograph(level, seed=n)) for n, level in enumerate(LEVELS)]
    drain(house.worker(*models))
    return [house.study(outcome) for outcome in outcomes]


def of(house: House, answers: Any, **more: Any) -> tuple[Summary, list[Change], dict[str, Any]]:
    """Replay everything; return the summary, the changes, and what was missing by study."""
    changes: list[Change] = []
    missing: dict[str, Any] = {}
    listener = Listener(
        changed=changes.append,
        missing=lambda study, reasons: missing.update({study.study_instance_uid: reasons}),
    )
    settings: dict[str, Any] = {"since": None, "instead_of": None, "policies": POLICIES}
    summary = replay(house.db, answers, listener=listener, **settings | more)
    return summary, changes, missing


def known(house: House) -> list[Scope]:
    with house.db.read() as connection:
        return scopes(connection)


def new_bundle(house: House, bundle: Bundle, *, on_record: list[Scope] | None = None) -> NewBundle:
    found = known(house) if on_record is None else on_record
    return NewBundle(bundle, scopes=found, policy=POLICIES.eligibility)


def test_a_shadow_is_silent_recorded_and_compared_with_the_served_model(
    any_house: House, models: list[LoadedModel]
) -> None:
    studies = looked_at(any_house, models)
    # As if it were not there: its flag of the middle image raises nothing.
    assert [study["priority"] for study in studies] == ["ROUTINE", "ROUTINE", "HIGH"]
    assert [bool(study["flagged_at"]) for study in studies] == [False, False, True]
    assert all(study["analysis"] == "analysed" for study in studies)
    assert [[each["name"] for each in study["models"]] for study in studies] == [["served"]] * 3
    assert all(study["caption"] == "" for study in studies)
    summary, changes, missing = of(any_house, RecordedShadow(models[1].identity.digest))
    assert (summary.studies, summary.compared, missing) == (3, 3, {})
    assert (summary.was_flagged, summary.would_flag, summary.newly_flagged) == (1, 2, 1)
    (change,) = changes
    assert change.study_instance_uid == studies[1]["study_instance_uid"]
    assert (change.was.priority, change.would.priority) == (Rank.ROUTINE, Rank.HIGH)
    assert (change.was.flagged, change.would.flagged) == ((), (FINDING,))
    ((replaced, finding), sums), *others = summary.scores.items()
    assert (replaced.name, finding, others) == ("served", FINDING, [])
    assert sums.pairs == 3
    assert sums.mean_difference > 0.1


def test_with_shadows_alone_nothing_was_pending(house: House, models: list[LoadedModel]) -> None:
    studies = looked_at(house, [models[1]])
    summary, changes, missing = of(house, RecordedShadow(models[1].identity.digest))
    assert {study["analysis"] for study in studies} == {"not_eligible"}
    assert {change.was.analysis for change in changes} == {Analysis.NOT_ELIGIBLE}
    assert {change.would.analysis for change in changes} == {Analysis.ANALYSED}
    assert (summary.compared, missing) == (3, {})


def test_what_a_shadow_of_the_same_name_said_before_its_training_counts_as_of_another(
    house: House, models: list[LoadedModel]
) -> None:
    looked_at(house, models)
    shadow = (ResultRow.mode == Mode.SHADOW) & (ResultRow.study_id == 2)
    with house.db.write() as connection:
        connection.execute(update(ResultRow).where(shadow).values(bundle_digest="of before"))
    summary, _, missing = of(house, RecordedShadow(models[1].identity.digest))
    assert summary.compared == 2
    assert list(missing.values()) == [frozenset({Missing.NOT_RECORDED})]


def test_a_new_bundle_says_from_stored_embeddings_what_it_would_have_said_of_the_images(
    house: House, models: list[LoadedModel], bundles: Bundles
) -> None:
    looked_at(house, models[:1])
    summary, changes, missing = of(house, new_bundle(house, bundles.eager))
    assert (summary.would_flag, missing) == (2, {})
    (change,) = changes
    # The same images through the same bundle by the worker give the same scores.
    look_again(house, models)
    recorded, recorded_changes, _ = of(house, RecordedShadow(bundles.eager.identity.digest))
    assert recorded_changes == changes
    (ours,), (theirs,) = summary.scores.values(), recorded.scores.values()
    assert ours.mean_difference == pytest.approx(theirs.mean_difference, abs=1e-6)
    assert ours.largest == pytest.approx(theirs.largest, abs=1e-6)
    assert change.would.priority is Rank.HIGH


def look_again(house: House, models: list[LoadedModel]) -> None:
    from triage.database.requeue import requeue_study

    with house.db.write() as connection:
        for study_id in range(1, len(LEVELS) + 1):
            requeue_study(connection, study_id, by="x", policies=POLICIES, now=house.clock())
    drain(house.worker(*models))


def test_embeddings_made_on_a_gpu_are_used_where_there_is_none_and_are_told_apart(
    house: House, models: list[LoadedModel], bundles: Bundles
) -> None:
    looked_at(house, models[:1])
    on_gpu = [replace(scope_of(bundles.served, "bfloat16-cuda-9.0"))]
    answers = new_bundle(house, bundles.eager, on_record=on_gpu)
    summary, _, missing = of(house, answers)
    assert (summary.would_flag, missing) == (2, {})
    assert answers.hardware == {"bfloat16-cuda-9.0": 3}


def test_what_the_worker_notes_is_what_the_bundle_says_of_itself(
    house: House, models: list[LoadedModel], bundles: Bundles
) -> None:
    note_scopes(house.db, models)
    note_scopes(house.db, models)
    noted = {scope.bundle_name: scope for scope in known(house)}
    assert noted["served"] == scope_of(bundles.served, "float32-cpu")
    assert usable_as(noted["served"], bundles.eager) == "float32-cpu"
    assert usable_as(noted["served"], bundles.other_view) is None
    odd = replace(noted["served"], cache_scope="f" * 64 + "|1|float32-cpu")
    assert usable_as(odd, bundles.eager) is None
    featured = replace(noted["served"], cache_scope=noted["served"].cache_scope + "|features")
    assert usable_as(featured, bundles.eager) is None


def test_other_thresholds_need_no_embeddings_of_the_bundle_that_has_spoken(
    house: House, models: list[LoadedModel], bundles: Bundles
) -> None:
    looked_at(house, models[:1])
    with house.db.write() as connection:
        connection.execute(delete(Embedding))
        connection.execute(update(Instance).values(expired_at=house.clock()))
    low = with_operating_points(bundles.served, {FINDING: 0.001})
    summary, changes, missing = of(house, new_bundle(house, low))
    assert (summary.would_flag, missing) == (3, {})
    assert [change.would.flagged for change in changes] == [(FINDING,)] * 2
    high = with_operating_points(bundles.served, {FINDING: 0.9999})
    summary, _, _ = of(house, new_bundle(house, high))
    assert (summary.would_flag, summary.no_longer_flagged, summary.lowered) == (0, 1, 1)


def test_the_gate_of_the_new_bundle_takes_flags_away(
    house: House, models: list[LoadedModel], bundles: Bundles
) -> None:
    looked_at(house, models[:1])
    summary, changes, _ = of(house, new_bundle(house, bundles.strict))
    assert (summary.would_flag, summary.no_longer_analysed) == (0, 3)
    assert {change.would.analysis for change in changes} == {Analysis.NOT_ELIGIBLE}


def test_what_a_bundle_is_not_meant_for_it_does_not_look_at(
    house: House, models: list[LoadedModel], bundles: Bundles
) -> None:
    looked_at(house, models[:1])
    use = replace(bundles.eager.manifest.intended_use, modalities=("CT",))
    for_ct = replace(bundles.eager, manifest=replace(bundles.eager.manifest, intended_use=use))
    for_ct = replace(for_ct, identity=replace(for_ct.identity, digest="of another"))
    summary, _, missing = of(house, new_bundle(house, for_ct))
    assert (summary.no_longer_analysed, missing) == (3, {})


def test_a_blank_image_is_no_missing_one(
    house: House, models: list[LoadedModel], bundles: Bundles
) -> None:
    import numpy as np

    from tests.dicom_files import make_dx

    looked_at(house, models[:1])
    house.receive(make_dx(np.full((64, 64), 7, np.uint16)))
    drain(house.worker(*models[:1]))
    summary, _, missing = of(house, new_bundle(house, bundles.eager))
    assert (summary.compared, missing) == (4, {})


@pytest.mark.parametrize("case", ["other view", "not on record", "expired", "never embedded"])
def test_what_is_missing_is_said_and_whether_another_look_helps(
    house: House, models: list[LoadedModel], bundles: Bundles, case: str
) -> None:
    looked_at(house, models[:1])
    bundle = bundles.other_view if case == "other view" else bundles.eager
    on_record = [] if case == "not on record" else None
    with house.db.write() as connection:
        if case in ("expired", "never embedded"):
            connection.execute(delete(Embedding))
        if case == "expired":
            connection.execute(update(Instance).values(expired_at=house.clock()))
    reason = {
        "other view": Missing.OTHER,
        "not on record": Missing.UNKNOWN,
        "expired": Missing.EXPIRED,
        "never embedded": Missing.NEVER,
    }[case]
    summary, changes, missing = of(house, new_bundle(house, bundle, on_record=on_record))
    assert set(missing.values()) == {frozenset({reason})}
    assert (summary.compared, summary.missing_studies, changes) == (0, 3, [])
    assert summary.mendable == (0 if case == "expired" else 3)


def test_one_of_several_served_models_is_replaced_and_the_others_stay(
    house: House, models: list[LoadedModel], bundles: Bundles
) -> None:
    both = [replace(model, mode=Mode.SERVE) for model in models]
    looked_at(house, both)
    never = with_operating_points(bundles.served, {FINDING: 1.0})
    alone, _, _ = of(house, new_bundle(house, never))
    assert (alone.was_flagged, alone.would_flag) == (2, 0)
    only = frozenset({bundles.served.identity.digest})
    beside, _, _ = of(house, new_bundle(house, never), instead_of=only)
    assert (beside.was_flagged, beside.would_flag) == (2, 2)


def test_a_persons_priority_stands_whatever_the_new_bundle_says(
    house: House, models: list[LoadedModel], bundles: Bundles
) -> None:
    from triage.database.worklist import set_priority

    looked_at(house, models[:1])
    with house.db.write() as connection:
        set_priority(connection, 2, Rank.STAT, by="reader", policies=POLICIES, now=house.clock())
    summary, changes, _ = of(house, new_bundle(house, bundles.eager))
    assert (summary.newly_flagged, summary.raised) == (1, 0)
    assert changes[0].would.priority is Rank.STAT


def test_a_study_that_waits_for_its_first_look_is_not_missing(
    house: House, models: list[LoadedModel], bundles: Bundles
) -> None:
    looked_at(house, models[:1])
    house.receive(radiograph(0.9, seed=9))
    summary, changes, missing = of(house, new_bundle(house, bundles.served))
    assert (summary.compared, changes, missing) == (4, [], {})


def test_only_studies_received_since_are_replayed(
    house: House, models: list[LoadedModel], bundles: Bundles
) -> None:
    looked_at(house, models[:1])
    house.clock.turn(3600)
    begin = house.clock()
    house.receive(radiograph(0.9, seed=9))
    drain(house.worker(*models[:1]))
    summary, _, _ = of(house, new_bundle(house, bundles.eager), since=begin)
    assert summary.studies == 1


def test_a_threshold_of_an_unknown_finding_is_refused(bundles: Bundles) -> None:
    with pytest.raises(PermanentError) as caught:
        with_operating_points(bundles.served, {"fracture": 0.4})
    assert FINDING in caught.value.hint
    with pytest.raises(PermanentError):
        with_operating_points(bundles.served, {FINDING: 1.5})


def test_a_scope_of_a_later_version_is_left_out(house: House, bundles: Bundles) -> None:
    @dataclass(frozen=True)
    class LaterView:
        rendering: str = "dicom"
        size_px: int = 56
        of_tomorrow: int = 1

    with house.db.write() as connection:
        for view, scope in ((ViewSpec(rendering="dicom", size_px=56), "a"), (LaterView(), "b")):
            record_scope(
                connection,
                model=bundles.served.identity,
                cache_scope=scope,
                view=view,  # type: ignore[arg-type]
                now=house.clock(),
            )
    assert [scope.cache_scope for scope in known(house)] == ["a"]
