"""Results are read study by study in pages, whatever their number; nothing is read twice."""

from datetime import timedelta

import pytest

from tests.operations.looks import BEGIN, MINUTES_APART, Looks
from triage.database.connection import Database
from triage.database.scores import count_studies, spoken_models, stored_studies
from triage.inference.bundle import Bundle, load_bundle
from triage.pocket import BUNDLE
from triage.records import Mode


@pytest.fixture(scope="module")
def bundle() -> Bundle:
    return load_bundle(BUNDLE, check_encoder=False)


def test_studies_come_in_pages_each_once_in_the_order_of_arrival(
    database: Database, bundle: Bundle
) -> None:
    Looks(db=database, bundle=bundle).add(450)
    pages = list(stored_studies(database, since=None))
    assert [len(page) for page in pages] == [200, 200, 50]
    ids = [study.study_id for page in pages for study in page]
    assert ids == list(range(1, 451))
    assert count_studies(database, since=None) == 450
    (part,) = pages[0][0].parts
    assert part.header is not None
    assert part.header.station_name == "ROOM 1"
    assert part.results[0].embedding_keys == ("key 1",)


def test_a_page_is_no_transaction_that_lasts(database: Database, bundle: Bundle) -> None:
    looks = Looks(db=database, bundle=bundle)
    looks.add(5)
    pages = stored_studies(database, since=None, page=3)
    assert len(next(pages)) == 3
    looks.add(2)  # a writer comes between; what is new is read as well
    assert [len(page) for page in pages] == [3, 1]


def test_studies_before_the_time_asked_for_are_left_out(database: Database, bundle: Bundle) -> None:
    Looks(db=database, bundle=bundle).add(10)
    begin = BEGIN + timedelta(minutes=4 * MINUTES_APART)
    (page,) = stored_studies(database, since=begin)
    assert [study.study_id for study in page] == [5, 6, 7, 8, 9, 10]
    assert count_studies(database, since=begin) == 6


def test_models_that_have_spoken_are_told_apart_by_digest_the_latest_first(
    database: Database, bundle: Bundle
) -> None:
    looks = Looks(db=database, bundle=bundle)
    looks.add(2)
    for digest in ("before", "retrained"):
        looks.add(1, mode="shadow", bundle_name="second", bundle_digest=digest)
    (served,) = spoken_models(database, Mode.SERVE)
    assert (served.identity, served.results) == (bundle.identity, 2)
    shadows = spoken_models(database, Mode.SHADOW)
    assert [each.identity.name for each in shadows] == ["second", "second"]
    assert [each.identity.digest for each in shadows] == ["retrained", "before"]
