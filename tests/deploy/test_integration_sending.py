"""What deploy/INTEGRATION.md says of sending is tried: settings, TLS, and Orthanc."""

import json
import re
import subprocess
import tomllib
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.deploy.documents import (
    Sandbox,
    block,
    blocks,
    free_port,
    needs,
    read,
)
from tests.dicom_files import make_ct_series, make_dx, to_bytes
from tests.flows.program import until
from tests.ingest.doors import Door
from triage.config import Config, ReceiverConfig
from triage.config_reading import build
from triage.ingest.storage_scp import StorageReceiver
from triage.records import Rank

GUIDE = read("INTEGRATION.md")


# --- sections 2, 4 and 5: settings


def settings(holding: str) -> Config:
    return build(Config, tomllib.loads(block(GUIDE, "toml", holding)), where="INTEGRATION.md")


def test_every_block_of_settings_is_accepted() -> None:
    for body in blocks(GUIDE, "toml"):
        build(Config, tomllib.loads(body), where="INTEGRATION.md")


def test_the_defaults_that_the_guide_names_are_the_defaults() -> None:
    receiver, eligibility = ReceiverConfig(), Config().eligibility
    for said in (
        f"{receiver.ae_title} unless changed",
        f"`port`: {receiver.port}",
        f"`tls_port`: {receiver.tls_port}",
        f"`maximum_associations` ({receiver.maximum_associations},",
        f"`[eligibility] maximum_study_age_h` ({eligibility.maximum_study_age_h:g} h)",
        f"`[completion] quiet_s` ({Config().completion.quiet_s:g} s)",
    ):
        assert said in GUIDE, said


def test_the_order_rules_say_what_the_guide_says() -> None:
    rules = settings("[[orders.rules]]").orders.rules
    assert [rule.priority for rule in rules] == [Rank.STAT, Rank.HIGH]


@contextmanager
def receiving(config: ReceiverConfig) -> Iterator[tuple[StorageReceiver, Door]]:
    door = Door()
    receiver = StorageReceiver(door, config)  # type: ignore[arg-type]
    receiver.start()
    try:
        yield receiver, door
    finally:
        receiver.stop(drain_s=0)


def on_loopback(toml: str) -> ReceiverConfig:
    """Return the receiver of a block of settings, moved to this host and to free ports."""
    local = toml.replace("0.0.0.0", "127.0.0.1").replace("192.0.2.10", "127.0.0.1")
    local = local.replace("[receiver]\n", "[receiver]\nport = 0\ntls_port = 0\n")
    return build(Config, tomllib.loads(local), where="INTEGRATION.md").receiver


def local_port(command: str, port: int | None) -> str:
    return re.sub(r"192\.0\.2\.1 \d+", f"127.0.0.1 {port}", command)


@needs("echoscu")
def test_the_echo_succeeds_for_a_peer_and_says_why_where_it_does_not(tmp_path: Path) -> None:
    host = Sandbox(directory=tmp_path)
    config = on_loopback(block(GUIDE, "toml", "192.0.2.32/28"))
    command = block(GUIDE, "sh", "echoscu -aet PACS -aec TRIAGE 192.0.2.1 11112")
    with receiving(config) as (receiver, door):
        command = local_port(command, receiver.port)
        assert host.run(command).returncode == 0
        for changed, reason in (
            ("-aec OTHER", "Called AE Title Not Recognized"),
            ("-aet OTHER", "Calling AE Title Not Recognized"),
        ):
            title = changed.split()[0]
            done = host.run(re.sub(rf"{title} \w+", changed, command))
            assert done.returncode != 0
            assert reason in done.stderr + done.stdout
            assert reason in GUIDE
        door.fault = "the store has no space"
        assert host.run(command).returncode != 0


@needs("openssl", "echoscu")
def test_the_certificates_let_the_sender_in_by_tls_and_keep_it_out_in_clear_text(
    tmp_path: Path,
) -> None:
    host = Sandbox(directory=tmp_path)
    made = host.run(block(GUIDE, "sh", "openssl req"))
    assert made.returncode == 0, made.stderr
    config = on_loopback(host.here(block(GUIDE, "toml", "tls_enabled")))
    command = block(GUIDE, "sh", "echoscu +tls")
    with receiving(config) as (receiver, _):
        done = host.run(local_port(command, receiver.tls_port))
        assert done.returncode == 0, done.stderr
        clear = f"echoscu -aet PACS -aec TRIAGE 127.0.0.1 {receiver.port}"
        assert "Calling AE Title Not Recognized" in host.run(clear).stderr
        stranger = local_port(command.replace("pacs.", "triage."), receiver.tls_port)
        assert host.run(stranger).returncode != 0


# --- section 3: Orthanc with the files of the guide


class Orthanc:
    """A running Orthanc whose configuration is that of the guide and as little else as it can."""

    def __init__(self, directory: Path, triage_json: str) -> None:
        self.directory = directory
        self.http_port, self.dicom_port = free_port(), free_port()
        base = {
            "DicomAet": "PACS",
            "HttpPort": self.http_port,
            "DicomPort": self.dicom_port,
            "StorageDirectory": str(directory / "storage"),
            "StableAge": 1,
        }
        (directory / "configuration").mkdir()
        (directory / "configuration/orthanc.json").write_text(json.dumps(base))
        (directory / "configuration/triage.json").write_text(triage_json)
        self.process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> "Orthanc":
        with (self.directory / "log").open("wb") as log:
            self.process = subprocess.Popen(
                ["Orthanc", str(self.directory / "configuration")], stdout=log, stderr=log
            )
        try:
            until(self._answers, patience_s=30)
        except AssertionError:
            self.__exit__()
            raise AssertionError((self.directory / "log").read_text()) from None
        return self

    def __exit__(self, *_: object) -> None:
        assert self.process is not None
        self.process.terminate()
        self.process.wait(30)

    def ask(self, path: str, data: bytes | None = None) -> Any:
        url = f"http://127.0.0.1:{self.http_port}{path}"
        method = "GET" if data is None else "POST"
        with urllib.request.urlopen(
            urllib.request.Request(url, data=data, method=method), timeout=10
        ) as answer:
            return json.loads(answer.read())

    def states(self) -> list[str]:
        return [job["State"] for job in self.ask("/jobs?expand")]

    def _answers(self) -> bool:
        try:
            return bool(self.ask("/system"))
        except OSError:
            return False


def for_orthanc(directory: Path, holding: str, port: int) -> str:
    """Return one of the guide's triage.json with its script in `directory` and our port."""
    script = directory / "triage.lua"
    script.write_text(block(GUIDE, "lua", "OnStoredInstance"))
    text = block(GUIDE, "json", holding)
    for old, new in (
        ("/etc/orthanc/triage.lua", str(script)),
        ("/etc/orthanc/tls", f"{directory}/etc/triage/tls"),
        ("192.0.2.1", "127.0.0.1"),
        ("11112", str(port)),
        ("2762", str(port)),
    ):
        text = text.replace(old, new)
    return text


@needs("Orthanc", "curl", "jq")
def test_orthanc_forwards_what_it_stores_and_sends_again_what_failed(tmp_path: Path) -> None:
    port = free_port()
    late, dx, series = make_dx(), make_dx(), make_ct_series()
    peer = block(GUIDE, "toml", "192.0.2.32/28")
    config = on_loopback(peer.replace("[receiver]\n", "[receiver]\n", 1))
    config = ReceiverConfig(port=port, peers=config.peers)
    with Orthanc(tmp_path, for_orthanc(tmp_path, "11112", port)) as orthanc:
        orthanc.ask("/instances", to_bytes(late))
        until(lambda: orthanc.states() == ["Failure"], patience_s=30)
        with receiving(config) as (_, door):
            again = block(GUIDE, "sh", "resubmit").replace("8042", str(orthanc.http_port))
            done = Sandbox(directory=tmp_path).run(again)
            assert done.returncode == 0, done.stderr
            for each in (dx, *series):
                orthanc.ask("/instances", to_bytes(each))
            sent = {str(each.SOPInstanceUID) for each in (late, dx, *series)}
            until(lambda: {how["expected_sop_instance_uid"] for _, how in door.taken} == sent)
        assert {how["sender_ae_title"] for _, how in door.taken} == {"PACS"}


@needs("Orthanc", "openssl")
def test_orthanc_forwards_by_tls_with_its_certificate(tmp_path: Path) -> None:
    host = Sandbox(directory=tmp_path)
    assert host.run(block(GUIDE, "sh", "openssl req")).returncode == 0
    config = on_loopback(host.here(block(GUIDE, "toml", "tls_enabled")))
    dx = make_dx()
    with receiving(config) as (receiver, door):
        assert receiver.tls_port
        files = for_orthanc(tmp_path, "UseDicomTls", receiver.tls_port)
        with Orthanc(tmp_path, files) as orthanc:
            orthanc.ask("/instances", to_bytes(dx))
            until(lambda: door.taken, patience_s=30)
    assert door.taken[0][1]["expected_sop_instance_uid"] == dx.SOPInstanceUID
