"""Studies of the database are embedded as the daemon would, and share its embeddings."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from pydicom.dataset import Dataset
from sqlalchemy import select, update

from tests.dicom_files import gradient, make_ct_series, make_dx, to_bytes
from tests.learning.embedders import SPEC, Counting, film_row, lens_with
from triage.database import results
from triage.database.connection import Database
from triage.database.material import given_keys, study_material
from triage.database.retention import expire_study
from triage.database.tables import Embedding, Series, Study
from triage.database.tables_house import Event
from triage.errors import PermanentError
from triage.ingest.intake import Intake
from triage.learning.material.embedding import embed_rows
from triage.learning.material.embedding_set import EmbeddingSet
from triage.learning.material.images import WorklistImages
from triage.learning.material.labels import LabelError
from triage.records import Source, StudyState
from triage.rules.eligibility import EligibilityPolicy, IntendedUse
from triage.store import Store

STUDY, OTHER = "1.2.3.4", "1.2.3.5"


@pytest.fixture
def images(database: Database, store: Store) -> WorklistImages:
    return worklist(database, store)


def worklist(database: Database, store: Store, *, use: IntendedUse | None = None) -> WorklistImages:
    policy = EligibilityPolicy(minimum_size_px=8)
    return WorklistImages(database, store.resolve, policy=policy, by="anna", use=use)


def receive(intake: Intake, *films: Dataset) -> None:
    for film in films:
        intake.accept(to_bytes(film), source=Source.C_STORE, sender_ae_title="SENDER")


def film(brightness: int = 4000, *, study: str = STUDY, **elements: str) -> Dataset:
    return make_dx(gradient(maximum=brightness), study_instance_uid=study, **elements)


def close_series(database: Database) -> None:
    with database.write() as connection:
        connection.execute(update(Series).values(closes_at=None))


def embedded(images: WorklistImages, out: Path, encode: Counting, *studies: str) -> EmbeddingSet:
    rows = [film_row(study, line) for line, study in enumerate(studies, start=2)]
    return embed_rows(rows, images, lens_with(encode), out, decode_processes=1)


def test_a_study_is_all_its_images_and_series_each_a_part(
    intake: Intake, database: Database, images: WorklistImages, tmp_path: Path
) -> None:
    volume = np.stack([gradient(32, 32, maximum=500) + 100 * n for n in range(3)])
    receive(intake, film(), film(2000), *make_ct_series(volume, study_instance_uid=STUDY))
    close_series(database)
    made = embedded(images, tmp_path / "out", Counting(), STUDY)
    assert made.parts == ((1, 1, 3),)
    assert made.vectors[0].shape == (5, 3)
    assert [len(part) for part in made.divided(0)] == [1, 1, 3]


def test_what_the_daemon_has_embedded_is_not_computed_again(
    intake: Intake, database: Database, images: WorklistImages, tmp_path: Path
) -> None:
    receive(intake, film())
    first = embedded(images, tmp_path / "scratch", Counting(), STUDY)
    marked = np.array([7.0, 8.0, 9.0], np.float32)
    with database.write() as connection:
        connection.execute(update(Embedding).values(vector=marked.astype("<f4").tobytes()))
    encode = Counting()
    made = embedded(images, tmp_path / "out", encode, STUDY)
    assert encode.asked == []
    assert made.keys == first.keys
    np.testing.assert_array_equal(made.vectors[0], marked[None])


def test_what_is_computed_is_given_back_under_the_daemons_key_and_says_who_did_it(
    intake: Intake, database: Database, images: WorklistImages, tmp_path: Path
) -> None:
    receive(intake, film())
    made = embedded(images, tmp_path / "out", Counting(), STUDY)
    with database.read() as connection:
        kept = results.cached_embeddings(connection, made.keys[0])
        event = connection.execute(select(Event.what, Event.by, Event.detail)).one()
    np.testing.assert_array_equal(kept[made.keys[0][0]], made.vectors[0][0])
    assert tuple(event) == ("embedded", "anna", {"embedding_keys": list(made.keys[0])})


def test_embeddings_go_with_the_studys_images(
    intake: Intake, database: Database, images: WorklistImages, tmp_path: Path
) -> None:
    receive(intake, film(), film(3000, study=OTHER))
    made = embedded(images, tmp_path / "out", Counting(), STUDY, OTHER)
    with database.write() as connection:
        ids = connection.execute(
            select(Study.id).where(Study.study_instance_uid == STUDY)
        ).scalar_one()
        connection.execute(
            update(Study).where(Study.id == ids).values(state=StudyState.ACKNOWLEDGED)
        )
        assert given_keys(connection, ids) == set(made.keys[0])
        assert expire_study(connection, ids, now=database.now(connection))
        left = set(connection.execute(select(Embedding.key)).scalars())
    assert left == set(made.keys[1])
    again = embedded(images, tmp_path / "later", Counting(), STUDY, OTHER)
    assert again.subjects == (OTHER,)
    assert [(each.line, each.reason) for each in again.left_out] == [(2, "the images have expired")]


def test_images_outside_the_intended_use_are_no_part_of_their_study(
    intake: Intake, database: Database, store: Store, tmp_path: Path
) -> None:
    receive(intake, film(), film(3000, ViewPosition="LL"))
    frontal = worklist(database, store, use=IntendedUse(view_positions=("PA",)))
    assert embedded(frontal, tmp_path / "pa", Counting(), STUDY).parts == ((1,),)
    hands = worklist(database, store, use=IntendedUse(body_parts=("HAND",)))
    with_none = embedded(hands, tmp_path / "hand", Counting(), STUDY)
    assert [each.reason for each in with_none.left_out] == [
        "body part CHEST is outside the intended use"
    ]


def test_a_blank_image_is_no_part_of_its_study(
    intake: Intake, images: WorklistImages, tmp_path: Path
) -> None:
    blank = make_dx(np.zeros((64, 64), np.uint16), study_instance_uid=STUDY)
    receive(intake, film(), blank)
    receive(intake, make_dx(np.zeros((64, 65), np.uint16), study_instance_uid=OTHER))
    encode = Counting()
    made = embedded(images, tmp_path / "out", encode, STUDY, OTHER)
    assert (made.parts, sum(encode.asked)) == (((1,),), 1)
    assert [(each.line, each.reason) for each in made.left_out] == [(3, "image is blank")]


def test_a_study_with_an_image_that_cannot_be_decoded_is_left_out_whole(
    intake: Intake, images: WorklistImages, tmp_path: Path
) -> None:
    broken = film(3000)
    broken.PixelData = broken.PixelData[: len(broken.PixelData) // 2]
    receive(intake, film(), broken)
    made = embedded(images, tmp_path / "out", Counting(), STUDY)
    assert made.subjects == ()
    assert len(made.left_out) == 1


def test_a_series_that_still_arrives_is_not_taken_for_the_whole(
    intake: Intake, images: WorklistImages, tmp_path: Path
) -> None:
    receive(intake, *make_ct_series(study_instance_uid=STUDY))
    made = embedded(images, tmp_path / "out", Counting(), STUDY)
    assert [each.reason for each in made.left_out] == ["images of the study are still arriving"]


def test_two_patients_under_one_uid_are_not_embedded_as_one(
    intake: Intake, images: WorklistImages, tmp_path: Path
) -> None:
    receive(intake, film(patient_id="A"), film(3000, patient_id="B"))
    made = embedded(images, tmp_path / "out", Counting(), STUDY)
    assert [each.reason for each in made.left_out] == ["two patients have this Study Instance UID"]


def test_a_study_that_is_not_there_ends_the_run_with_its_row(
    intake: Intake, images: WorklistImages, tmp_path: Path
) -> None:
    receive(intake, film())
    encode = Counting()
    with pytest.raises(LabelError, match="row 3, column 'study_instance_uid'"):
        embedded(images, tmp_path / "out", encode, STUDY, OTHER)
    assert encode.asked == []


def test_a_file_that_is_gone_from_the_store_is_the_rows_reason(
    intake: Intake, store: Store, images: WorklistImages, tmp_path: Path
) -> None:
    receive(intake, film())
    for path in list(store.object_paths()):
        store.delete(path)
    made = embedded(images, tmp_path / "out", Counting(), STUDY)
    assert len(made.left_out) == 1


def test_an_unknown_study_has_no_material(database: Database) -> None:
    with database.read() as connection:
        assert study_material(connection, "1.2.9") is None


def test_another_rendering_is_embedded_beside_the_first(
    intake: Intake, images: WorklistImages, tmp_path: Path
) -> None:
    receive(intake, film())
    rows, out = [film_row(STUDY, 2)], tmp_path / "out"
    first = embed_rows(rows, images, lens_with(Counting()), out, decode_processes=1)
    other = lens_with(Counting(), spec=replace(SPEC, antialias=False))
    second = embed_rows(rows, images, other, out, decode_processes=1)
    assert first.keys != second.keys


def test_nothing_is_written_for_a_study_whose_images_expire_meanwhile(
    intake: Intake, database: Database, images: WorklistImages
) -> None:
    receive(intake, film())
    with database.write() as connection:
        connection.execute(update(Study).values(images_expired_at=database.now(connection)))
        study = connection.execute(select(Study.id)).scalar_one()
    images.give({study: {"key": np.ones(2, np.float32)}})
    with database.read() as connection:
        assert connection.execute(select(Embedding.key)).first() is None
        assert connection.execute(select(Event.id)).first() is None


def test_the_error_of_a_whole_run_is_not_a_rows_reason(
    database: Database, store: Store, tmp_path: Path
) -> None:
    with pytest.raises(PermanentError):
        embedded(worklist(database, store), tmp_path / "out", Counting(), STUDY)
