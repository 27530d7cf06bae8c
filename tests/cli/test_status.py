"""`triage status` shows what health says: the verdict in words, each cause with its next step."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.cli.site import Site
from triage.cli import status
from triage.cli.command_line import main
from triage.cli.table import Screen
from triage.database.connection import open_database
from triage.database.intake_log import record_quarantined
from triage.records import Source

NARROW, WIDE = Screen(columns=80), Screen(columns=160)
TOP_LEVEL = [
    "schema_version", "health", "causes", "roles", "queue", "studies", "latency", "receive",
    "senders", "storage", "database", "models",
]  # fmt: skip


def document(**changes: Any) -> dict[str, Any]:
    """Return a status document of a daemon at work."""
    at = "2026-01-02T03:04:05Z"
    plain: dict[str, Any] = {
        "schema_version": 1,
        "health": "ok",
        "causes": [],
        "roles": [
            {
                "role": "receive",
                "host": "ward",
                "pid": 7,
                "state": "running",
                "started_at": at,
                "last_turn_at": at,
                "detail": {},
            }
        ],
        "queue": {"queued": 3, "by_kind": {"analyse": {"queued": 3}}, "oldest_due_at": None},
        "studies": {"open": 5, "by_analysis": {"pending": 2}},
        "latency": {"arrival_to_flag": {"DX": {"count": 4, "p50_s": 1.2, "p95_s": 3, "max_s": 9}}},
        "receive": {"last_24_h": {"stored": 9}},
        "senders": [{"ae_title": "CR1", "last_image_at": at, "images": 9}],
        "storage": {"path": "/srv/store", "free_mib": 100, "minimum_free_mib": 10},
        "database": {"revision": "0001", "dialect": "sqlite"},
        "models": [{"name": "chest", "version": "1", "served": True, "mode": "serve"}],
    }
    return plain | changes


@pytest.mark.parametrize("on", [NARROW, WIDE])
def test_the_verdict_stands_first_and_in_words(on: Screen) -> None:
    assert status.as_text(document(), on).startswith("OK")
    assert status.as_text(document(health="failed"), on).startswith("FAILED")
    assert status.as_text(document(health="degraded"), on).startswith("DEGRADED")


def test_each_cause_comes_with_its_code_and_next_step() -> None:
    cause = {"code": "store_full", "message": "The disk is full.", "next_step": "Free space."}
    text = status.as_text(document(health="failed", causes=[cause]), NARROW)
    assert "The disk is full. [store_full]" in text
    assert "next: Free space." in text


def test_every_section_of_the_document_is_shown() -> None:
    text = status.as_text(document(), WIDE)
    for said in (
        "receive", "queued 3", "open 5", "pending 2", "DX", "1.2 s", "CR1", "free 100 MiB",
        "revision 0001", "chest", "served yes",
    ):  # fmt: skip
        assert said in text, said


@pytest.mark.parametrize("on", [NARROW, WIDE])
def test_dead_letters_and_quarantine_are_listed_with_reason_and_next_step(on: Screen) -> None:
    letter = {
        "study_instance_uid": "1.2.3",
        "kind": "analyse",
        "finished_at": "2026-01-02T03:04:05Z",
        "reason": "pixels end early",
        "next_step": "Resend it.",
    }
    held = {
        "id": 7,
        "received_at": "2026-01-02T03:04:05Z",
        "source": "folder",
        "sender_ae_title": "",
        "reason": "cut short",
        "next_step": "Release it.",
    }
    text = status.as_text(
        document(
            queue={"dead": 12, "dead_letters": [letter]},
            receive={"quarantine_held": 1, "quarantine": [held]},
        ),
        on,
    )
    assert "failed for good, the newest 1 of 12" in text
    assert "in quarantine\n" in text
    for said in ("1.2.3", "pixels end early", "next: Resend it.", "cut short", "next: Release it."):
        assert said in text, said
    assert max(map(len, text.splitlines())) <= on.columns


def test_the_status_of_a_real_site_lists_the_quarantine_without_file_names(site: Site) -> None:
    database = open_database(site.config.database.url)
    with database.write() as connection:
        for number in range(12):
            record_quarantined(
                connection,
                source=Source.FOLDER,
                sender_ae_title="",
                sop_instance_uid="1.2",
                sop_class_uid="",
                path=None,
                original_path=f"/in/SECRET^NAME_{number}.dcm",
                size_bytes=7,
                reason_code="unparsable",
                reason="the data set ends early",
                now=database.now(connection),
            )
    database.dispose()
    done = site.run("status", "--json")
    receive = json.loads(done.stdout)["receive"]
    assert receive["quarantine_held"] == 12
    assert len(receive["quarantine"]) == 10
    assert receive["quarantine"][0]["reason"] == "the data set ends early"
    assert "triage quarantine release" in receive["quarantine"][0]["next_step"]
    assert "SECRET" not in done.stdout
    assert "the newest 10 of 12" in site.run("status").stdout


@pytest.mark.parametrize("columns", [80, 160])
def test_no_line_is_wider_than_the_screen(columns: int) -> None:
    text = status.as_text(document(), Screen(columns=columns))
    assert max(map(len, text.splitlines())) <= columns


def test_a_daemon_that_is_down_is_not_doing_its_work(site: Site) -> None:
    done = site.run("status", "--json")
    assert done.returncode == 2
    told = json.loads(done.stdout)
    assert list(told) == TOP_LEVEL
    assert "role_not_running" in {cause["code"] for cause in told["causes"]}


def test_a_database_that_is_away_leaves_the_state_unknown(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = tmp_path / "triage.toml"
    (tmp_path / "odd.sqlite").write_bytes(b"no database at all" * 100)
    config.write_text(f'[database]\nurl = "sqlite:///{tmp_path}/odd.sqlite"\n', "utf-8")
    assert main(["--config", str(config), "status"]) == 3
    assert "next:" in capsys.readouterr().out


def test_the_text_for_people_of_a_real_site_is_rendered(site: Site) -> None:
    done = site.run("status")
    assert done.returncode == 2
    assert done.stdout.startswith("FAILED")
    assert done.stderr == ""
