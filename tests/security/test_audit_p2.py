"""P2: audit messages are valid by the schema, spooled while the collector is down, never lost.

The structure of each message is checked in tests/operations/test_audit_messages.py; here the whole
daemon runs, is killed, and is read by a collector that comes late.
"""

import json
import shutil
import signal
import socket
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from xml.etree.ElementTree import Element

import pytest
from pynetdicom import AE
from pynetdicom.sop_class import Verification

from tests.assurance import Evidence, requirement
from tests.dicom_files import make_dx
from tests.flows.program import Program, until
from tests.operations.audit_schema import check
from tests.operations.test_audit_delivery import SyslogServer, certificates
from triage.config import AuditConfig
from triage.database.connection import open_database, utc_now
from triage.operations.audit import AuditTrail
from triage.operations.audit_spool import Spool
from triage.operations.audit_xml import Teller

__all__ = ["certificates"]  # a fixture

OBJECTS = 20


def with_audit(program: Program, **keys: object) -> Path:
    """Switch the audit trail on; return its spool."""
    spool = program.directory / "audit"
    lines = [f"{key} = {json.dumps(value)}" for key, value in keys.items()]
    section = ["[audit]", "enabled = true", f"spool = {json.dumps(str(spool))}", *lines]
    with program.configuration.open("a") as file:
        file.write("\n" + "\n".join(section) + "\n")
    return spool


def event_of(message: Element) -> str:
    identifier = message.find("EventIdentification/EventID")
    assert identifier is not None
    return identifier.attrib["csd-code"]


def told_later(url: str, spool: Path) -> Iterator[Element]:
    """Read the trail as the next start of the role `schedule` would, an hour later."""
    db = open_database(url, clock=lambda: utc_now() + timedelta(hours=1))
    taken: list[str] = []

    def take(held: Spool) -> int:
        for segment in held.segments():
            taken.extend(segment.messages())
            held.remove(segment)
        return len(taken)

    config = AuditConfig(enabled=True, spool=spool)
    AuditTrail(db, config, Teller(ae_title="TRIAGE", host="later"), send=take).turn()
    db.dispose()
    return map(check, taken)


@requirement("P2", bound="every acknowledged object is told once, though the daemon was killed")
def test_p2_every_acknowledged_object_is_told_though_the_daemon_was_killed(
    program: Program, evidence: Evidence
) -> None:
    spool = with_audit(program)
    program.start("--role", "receive", "--role", "schedule")
    program.port()
    until(spool.exists)  # the marks are set before
    studies = [f"1.2.826.0.1.3680043.2.1143.9.{number}" for number in range(4)]
    sent = [make_dx(study_instance_uid=studies[number % 4]) for number in range(OBJECTS)]
    assert set(program.send(sent)) == {0x0000}
    program.end_with(signal.SIGKILL)
    messages = list(told_later(program.url, spool))
    transfers = [message for message in messages if event_of(message) == "110104"]
    objects = [
        int(each.attrib["NumberOfInstances"]) for m in transfers for each in m.iter("SOPClass")
    ]
    again = list(told_later(program.url, spool))
    evidence.record(trials=OBJECTS, losses=abs(OBJECTS - sum(objects)) + len(again))
    assert sum(objects) == OBJECTS
    assert len(transfers) == len(studies)
    assert again == []


@pytest.mark.long_only
@requirement("P2", bound="a late collector gets every message in order, each valid")
@pytest.mark.skipif(shutil.which("openssl") is None, reason="no openssl")
def test_p2_a_late_collector_gets_everything_in_order_over_tls(
    program: Program, certificates: Path, evidence: Evidence
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    spool = with_audit(
        program,
        host="localhost",
        port=port,
        ca=str(certificates / "ca.pem"),
        certificate=str(certificates / "triage.pem"),
        key=str(certificates / "triage.key"),
    )
    program.start("--role", "receive", "--role", "schedule")
    stranger = AE(ae_title="STRANGER")
    stranger.add_requested_context(Verification)
    until(spool.exists)
    rejected = stranger.associate("127.0.0.1", program.port(), ae_title="NOT_US")
    assert rejected.is_rejected
    assert program.call("worklist").returncode == 0
    until(lambda: "audit_waits" in alarms(program))
    (segment,) = [each for each in spool.iterdir() if each.suffix == ".audit"]
    assert segment.stat().st_mode & 0o777 == 0o600
    assert spool.stat().st_mode & 0o777 == 0o700
    waiting = sum(len(path.read_text("utf-8").splitlines()) for path in spool.glob("*.audit"))
    collector = SyslogServer(certificates, "polite", port=port)
    try:
        until(lambda: "audit_waits" not in alarms(program))
        said = [each.partition(b"\xef\xbb\xbf")[2].decode() for each in collector.messages()]
    finally:
        collector.close()
    events = [event_of(check(each)) for each in said]
    evidence.record(trials=waiting, losses=max(0, waiting - len(said)))
    assert len(said) >= waiting > 0
    assert events[0] == "110100"
    assert {"110112", "110113"} <= set(events)
    assert "STRANGER" in "".join(said)
    assert program.stop() == 0


def alarms(program: Program) -> set[str]:
    return {cause["alarm"] for cause in program.status()["causes"]}
