"""Our preference decides which transfer syntax is used, and no storage class is turned away."""

import random

from pynetdicom.sop_class import _STORAGE_CLASSES

from triage.ingest.negotiation import DECODABLE, VERIFICATION, by_preference, is_storage, supported

EXPLICIT, IMPLICIT = "1.2.840.10008.1.2.1", "1.2.840.10008.1.2"
MPEG4 = "1.2.840.10008.1.2.4.102"
CT = "1.2.840.10008.5.1.4.1.1.2"


def test_a_decodable_syntax_is_taken_before_one_that_was_proposed_first() -> None:
    assert by_preference([MPEG4, "1.2.3.4", IMPLICIT, EXPLICIT])[:2] == [EXPLICIT, IMPLICIT]


def test_what_cannot_be_decoded_is_still_accepted_alone() -> None:
    assert by_preference([MPEG4]) == [MPEG4]
    assert by_preference(["1.2.3.4", MPEG4]) == ["1.2.3.4", MPEG4]


def test_the_order_of_the_proposal_does_not_matter_among_decodable_ones() -> None:
    shuffled = random.Random(1).sample(DECODABLE, len(DECODABLE))
    assert by_preference(shuffled) == list(DECODABLE)


def test_what_is_no_uid_is_not_accepted() -> None:
    assert by_preference(["../..", ""]) == []
    assert supported([(CT, ["../.."])]) == {}


def test_every_storage_class_of_the_library_is_accepted() -> None:
    assert [uid for uid in _STORAGE_CLASSES.values() if not is_storage(uid)] == []


def test_new_retired_and_private_storage_classes_are_accepted() -> None:
    assert is_storage("1.2.840.10008.5.1.4.1.1.66.7")  # Label Map Segmentation
    assert is_storage("1.2.840.10008.5.1.4.1.1.999.1")
    assert is_storage("1.2.840.10008.5.1.1.27")  # Stored Print, retired
    assert is_storage("1.3.12.2.1107.5.9.1")  # a manufacturer's own


def test_other_services_are_not_taken_for_storage() -> None:
    for uid in (
        VERIFICATION,
        "1.2.840.10008.1.20.1",  # Storage Commitment
        "1.2.840.10008.1.3.10",  # Media Storage Directory
        "1.2.840.10008.5.1.4.1.2.2.1",  # Study Root Find
        "1.2.840.10008.5.1.4.31",  # Modality Worklist
        "1.2.840.10008.5.1.4.1.1.201.1",  # Storage Management
        "1.2.840.10008.3.1.2.3.3",  # MPPS
        "../x",
    ):
        assert not is_storage(uid), uid


def test_contexts_of_one_class_are_answered_each_with_its_best() -> None:
    offers = supported([(CT, [MPEG4]), (CT, [IMPLICIT, MPEG4]), (VERIFICATION, [IMPLICIT])])
    assert offers == {CT: [IMPLICIT, MPEG4], VERIFICATION: [IMPLICIT]}
