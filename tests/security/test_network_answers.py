"""N3 to N7 and N11 against the receiver as it is installed: what is asked on the wire, answered.

The tables behind the answers are tried row by row in tests/ingest and tests/deploy; here one
process with its own configuration, store and database answers a peer written byte by byte.
"""

import json
import struct
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.assurance import Evidence, requirement
from tests.benchmarks.measuring import configuration, daemon, environment, free_port
from tests.deploy.live import COMMITMENT, NOT_SUPPORTED, data_set, stored
from tests.dicom_files import make_dx, make_image, make_sr
from tests.ingest.raw_peer import (
    DX,
    EXPLICIT,
    IMPLICIT,
    REJECTED,
    VERIFICATION,
    Proposal,
    echo_rq,
    established,
    hear_first,
    item,
    message,
    request,
    store_rq,
)
from tests.security.receivers import TINY, Listening

SR = "1.2.840.10008.5.1.4.1.1.88.11"
CALLING = "RAW"
PEERS = f'[[receiver.peers]]\nae_title = "{CALLING}"\naddress = "127.0.0.1"\n'
UNLIMITED_WINDOW = item(0x53, struct.pack(">HH", 0, 0))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("answers")


@pytest.fixture(scope="module")
def receiver(folder: Path) -> Iterator[Listening]:
    port = free_port()
    with daemon(configuration(folder, port, more=PEERS), port, "receive") as pid:
        yield Listening(port=port, pid=pid)


def told(folder: Path, *verb: str) -> dict[str, Any]:
    """Return the JSON document of one command."""
    command = [sys.executable, "-m", "triage", "--config", str(folder / "triage.toml"), *verb]
    done = subprocess.run(
        [*command, "--json"], capture_output=True, text=True, check=False, env=environment()
    )
    document: dict[str, Any] = json.loads(done.stdout)
    return document


@requirement("N3", bound="A900, C000 or C001, and no study listed")
def test_n3_what_disagrees_or_cannot_be_read_is_refused_and_not_listed(
    receiver: Listening, folder: Path, evidence: Evidence
) -> None:
    good = make_dx(TINY)
    body, command = data_set(good), store_rq(instance=good.SOPInstanceUID)
    no_study = make_dx(TINY)
    no_study.StudyInstanceUID = ""
    said = {
        "another instance": (stored(good, instance="1.2.3.4"), 0xA9),
        "another class": (message(command, data_set(make_sr())), 0xA9),
        "cut in half": (message(command, body[: len(body) // 2]), 0xC0),
        "no DICOM at all": (message(command, b"\x7fELF" * 99), 0xC0),
        "no study": (stored(no_study), 0xC0),
    }
    wrong = []
    with established(receiver.port) as peer:
        for name, (spoken, expected) in said.items():
            peer.say(spoken)
            if (status := peer.hear_status()) >> 8 != expected:
                wrong.append(f"{name}: {status:04X}")
    listed = [each["study_instance_uid"] for each in told(folder, "worklist", "--all")["studies"]]
    evidence.record(trials=len(said), losses=len(wrong))
    assert wrong == []
    assert good.StudyInstanceUID not in listed


@requirement("N4", bound="stored and listed as not analysed, or its context refused")
def test_n4_what_is_out_of_scope_is_held_and_listed(
    receiver: Listening, folder: Path, evidence: Evidence
) -> None:
    report = make_sr()
    scout = make_image(TINY, modality="OT")
    for ds, sop_class in ((report, SR), (scout, str(scout.SOPClassUID))):
        with established(receiver.port, ((1, sop_class, (EXPLICIT,)),)) as peer:
            peer.say(stored(ds))
            assert peer.hear_status() == 0
    studies = {
        each["study_instance_uid"]: each for each in told(folder, "worklist", "--all")["studies"]
    }
    states = [studies[each.StudyInstanceUID]["analysis"] for each in (report, scout)]
    evidence.record(trials=2, losses=sum(state == "analysed" for state in states))
    assert "analysed" not in states


@requirement("N5", bound="0000")
def test_n5_an_echo_succeeds(receiver: Listening) -> None:
    with established(receiver.port, ((1, VERIFICATION, (IMPLICIT,)),)) as peer:
        peer.say(message(echo_rq()))
        assert peer.hear_status() == 0


@requirement("N6", bound="1/1/3 and 1/1/7")
def test_n6_strangers_are_rejected_with_the_codes_of_the_standard(
    receiver: Listening, evidence: Evidence
) -> None:
    asked = [
        (request(calling="STRANGER"), (1, 1, 3)),
        (request(calling="$(reboot)"), (1, 1, 3)),
        (request(called="OTHER"), (1, 1, 7)),
        (request(called=".."), (1, 1, 7)),
    ]
    wrong = [
        codes
        for said, codes in asked
        if hear_first(receiver.port, said) != (REJECTED, bytes((0, *codes)))
    ]
    evidence.record(trials=len(asked), losses=len(wrong))
    assert wrong == []


@requirement("N6", bound="1/1/3 from another address")
def test_n6_a_known_title_from_another_address_is_rejected(tmp_path: Path) -> None:
    port = free_port()
    elsewhere = PEERS.replace("127.0.0.1", "192.0.2.7")  # of documentation, RFC 5737
    with daemon(configuration(tmp_path, port, more=elsewhere), port, "receive"):
        assert hear_first(port, request()) == (REJECTED, bytes((0, 1, 1, 3)))


@requirement("N7", bound="each of 128 contexts answered, window 1/1")
def test_n7_128_contexts_of_mixed_syntaxes_and_an_unlimited_window(
    receiver: Listening, evidence: Evidence
) -> None:
    syntaxes = ((EXPLICIT,), (IMPLICIT, EXPLICIT), ("1.2.840.10008.1.2.4.102",), ("1.2.3.4.5",))
    kinds = (DX, SR, VERIFICATION, COMMITMENT, "1.2.840.10008.5.1.4.1.2.2.1")
    contexts: list[Proposal] = [
        (2 * n + 1, kinds[n % len(kinds)], syntaxes[n % len(syntaxes)]) for n in range(128)
    ]
    kind, accept = hear_first(receiver.port, request(contexts, more=UNLIMITED_WINDOW))
    assert kind == 2
    results = results_of(accept)
    missing = {number for number, _, _ in contexts} - set(results)
    refused = {n for n, abstract, _ in contexts if abstract in kinds[3:]}
    evidence.record(trials=len(contexts), losses=len(missing))
    assert not missing
    assert {n for n, result in results.items() if result} == refused
    assert item(0x53, struct.pack(">HH", 1, 1)) in accept


@requirement("N11", bound="context refused as not supported")
def test_n11_storage_commitment_is_refused(receiver: Listening) -> None:
    _, accept = hear_first(receiver.port, request(((1, COMMITMENT, (IMPLICIT,)),)))
    assert results_of(accept) == {1: NOT_SUPPORTED}


def results_of(accept: bytes) -> dict[int, int]:
    """Return the result of each presentation context (PS3.8 9.3.3.2)."""
    found, offset = {}, 68
    while offset < len(accept):
        kind, length = struct.unpack_from(">BxH", accept, offset)
        if kind == 0x21:
            found[accept[offset + 4]] = accept[offset + 6]
        offset += 4 + length
    return found
