"""`triage status` shows what health says: the verdict in words, each cause with its next step."""

import json
import os
import sqlite3
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.assurance import requirement
from tests.cli.site import ROOT, Site
from triage.cli.command_line import main
from triage.cli.status import as_text
from triage.cli.table import Screen
from triage.cli.text import cells
from triage.database.connection import open_database
from triage.database.intake_log import record_quarantined
from triage.operations.causes import KINDS
from triage.records import Source

NOW = datetime(2026, 1, 2, 3, 14, 5, tzinfo=UTC)  # ten minutes after all that is told
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


def shown(told: dict[str, Any], on: Screen) -> str:
    """Return the status as a person sees it at NOW."""
    return as_text(told, on, now=NOW)


def widest(text: str) -> int:
    """Return the cells that the longest line takes."""
    return max(cells(line) for line in text.splitlines())


@pytest.mark.parametrize("on", [NARROW, WIDE])
def test_the_verdict_stands_first_and_in_words(on: Screen) -> None:
    assert shown(document(), on).startswith("OK")
    assert shown(document(health="failed"), on).startswith("FAILED")
    assert shown(document(health="degraded"), on).startswith("DEGRADED")


def named(code: str, message: str, next_step: str) -> dict[str, Any]:
    weight = KINDS[code].weight.value
    return {"code": code, "weight": weight, "message": message, "next_step": next_step}


def test_each_cause_comes_with_its_code_and_next_step() -> None:
    cause = named("store_full", "The disk is full.", "Free space.")
    text = shown(document(health="failed", causes=[cause]), NARROW)
    assert "The disk is full. [store_full]" in text
    assert "next: Free space." in text


@pytest.mark.parametrize("on", [NARROW, WIDE])
def test_every_section_of_the_document_is_shown(on: Screen) -> None:
    text = shown(document(), on)
    for said in (
        "receive", "queued 3", "open 5", "pending 2", "DX", "1.2 s", "CR1", "free 100 MiB",
        "revision 0001", "chest", "stored 9",
    ):  # fmt: skip
        assert said in text, said


def test_a_key_that_the_page_does_not_know_is_shown_by_its_name() -> None:
    storage = {"path": "/srv/store", "spare_disks": 4, "seen_at": "2026-01-02T03:04:05Z"}
    text = shown(document(storage=storage), WIDE)
    assert "spare disks 4" in text
    assert "seen 10 min ago" in text


def test_times_are_told_as_people_tell_them() -> None:
    text = shown(document(), NARROW)
    assert "10 min ago" in text
    assert "03:04:05" not in text


def test_a_role_that_does_not_turn_is_told_by_more_than_colour() -> None:
    (role,) = document()["roles"]
    text = shown(document(roles=[role | {"state": "stuck"}]), NARROW)
    assert "STUCK" in text


def test_a_model_that_is_not_served_says_so_and_why() -> None:
    model = {"name": "chest", "version": "1", "served": False, "mode": "serve", "reason": "no card"}
    text = shown(document(models=[model]), NARROW)
    assert "NO" in text.split()
    assert "no card" in text


def test_a_silent_sender_stands_first_with_its_usual_interval() -> None:
    at, earlier = "2026-01-02T03:04:05Z", "2026-01-02T00:04:05Z"
    regular = {"ae_title": "CR1", "last_image_at": at, "images": 9, "state": "regular"}
    silent = {
        "ae_title": "CT9", "last_image_at": earlier, "images": 7, "state": "silent",
        "silent": True, "usual_interval_s": 1500.0,
    }  # fmt: skip
    text = shown(document(senders=[regular, silent]), NARROW)
    assert text.index("CT9") < text.index("CR1")
    (line,) = [line for line in text.splitlines() if line.startswith("CT9")]
    assert line.split("  ")[-1].strip() == "SILENT"
    assert "25 min" in line
    assert "3 h 10 min ago" in line


def test_a_cause_that_stops_the_work_is_marked_without_colour() -> None:
    causes = [
        named(code, f"{code} here.", "Do it.")
        for code in ("store_full", "queue_late", "demonstration")
    ]
    lines = shown(document(health="failed", causes=causes), NARROW).splitlines()
    marks = [line[:3] for line in lines if " here." in line]
    assert marks == ["!! ", "!  ", "   "]


def test_a_status_taller_than_the_terminal_ends_with_the_verdict() -> None:
    cause = named("store_full", "Full.", "Free space.")
    told = document(health="failed", causes=[cause])
    assert shown(told, Screen(columns=80, rows=10)).splitlines()[-1].startswith("FAILED")
    assert not shown(told, Screen(columns=80, rows=99)).splitlines()[-1].startswith("FAILED")
    assert not shown(told, Screen(columns=80)).splitlines()[-1].startswith("FAILED")


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
    text = shown(
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
    assert widest(text) <= on.columns


def test_what_to_do_with_the_quarantine_is_said_once() -> None:
    entries = [
        {
            "id": number,
            "received_at": "2026-01-02T03:04:05Z",
            "source": "folder",
            "sender_ae_title": "",
            "reason": "cut short",
            "next_step": f"Mend it, then `triage quarantine release {number}`.",
        }
        for number in (11, 12)
    ]
    told = document(receive={"quarantine_held": 2, "quarantine": entries})
    assert shown(told, WIDE).count("next:") == 1
    assert "`triage quarantine release NUMBER`" in shown(told, WIDE)


def test_one_study_that_failed_in_many_jobs_is_one_entry() -> None:
    letter = {
        "study_instance_uid": "1.2.3",
        "kind": "analyse",
        "finished_at": "2026-01-02T03:04:05Z",
        "reason": "pixels end early",
        "next_step": "Resend it.",
    }
    text = shown(document(queue={"dead": 3, "dead_letters": [letter] * 3}), WIDE)
    assert text.count("1.2.3") == 1
    assert "3 jobs" in text


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
    assert "the newest 3 of 12; all: `triage quarantine list`" in site.run("status").stdout


WORDS = st.text(alphabet="ab /-山田e\u0301\u05d3", max_size=90)


@settings(deadline=None)
@given(columns=st.integers(min_value=40, max_value=200), words=WORDS)
def test_no_line_is_wider_than_the_screen(columns: int, words: str) -> None:
    at = "2026-01-02T03:04:05Z"
    told = document(
        causes=[named("alarm", words, words)],
        senders=[{"ae_title": words, "last_image_at": at, "images": 10**9, "state": "regular"}],
        models=[{"name": words, "version": words, "served": False, "reason": words}],
        storage={"path": words},
        queue={
            "dead": 9,
            "dead_letters": [
                {"study_instance_uid": "1.2" * 20, "kind": "analyse", "finished_at": at,
                 "reason": words, "next_step": words}
            ],
        },
    )  # fmt: skip
    assert widest(shown(told, Screen(columns=columns))) <= columns


@requirement("P4")
def test_a_daemon_that_is_down_is_not_doing_its_work(site: Site) -> None:
    done = site.run("status", "--json")
    assert done.returncode == 2
    told = json.loads(done.stdout)
    assert list(told) == TOP_LEVEL
    assert "role_not_running" in {cause["code"] for cause in told["causes"]}


@requirement("P4")
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


@requirement("P4")
def test_a_status_that_cannot_be_written_is_no_verdict(site: Site) -> None:
    command = [sys.executable, "-m", "triage", "--config", "triage.toml", "status"]
    with Path("/dev/full").open("wb") as full:
        done = subprocess.run(
            command,
            cwd=site.directory,
            env=os.environ | {"PYTHONPATH": str(ROOT)},
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            timeout=120,
            check=False,
        )
    assert done.returncode == 3
    assert len(done.stderr.splitlines()) == 1


@requirement("P4")
def test_a_status_that_breaks_on_what_it_reads_is_no_verdict(
    site: Site, capsys: pytest.CaptureFixture[str]
) -> None:
    with sqlite3.connect(site.config.database.url.removeprefix("sqlite:///")) as connection:
        connection.execute(
            "INSERT INTO roles (role, host, pid, state, started_at, last_turn_at, detail)"
            " VALUES ('receive', 'elsewhere', 1, 'running', '2026-01-01', '2026-01-01', '[1]')"
        )
    assert main(["--config", str(site.directory / "triage.toml"), "status"]) == 3
    assert "Traceback" in capsys.readouterr().err
