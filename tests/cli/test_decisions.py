"""A decision is taken on exactly one study, recorded with the OS user, and shown at once."""

import getpass
import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from tests.assurance import requirement
from tests.cli.site import Site, arrive
from triage.cli.command_line import main


@pytest.fixture(autouse=True)
def here(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """Stand in the site's directory, as a user does."""
    monkeypatch.chdir(site.directory)


def listed(capsys: pytest.CaptureFixture[str], *options: str) -> list[dict[str, Any]]:
    """Return the worklist as the JSON document gives it."""
    document = json_of(capsys, "worklist", "--json", *options)
    assert set(document) == {"schema_version", "as_of", "studies"}
    studies: list[dict[str, Any]] = document["studies"]
    return studies


def json_of(capsys: pytest.CaptureFixture[str], *verb: str) -> dict[str, Any]:
    """Return the document that a verb prints."""
    capsys.readouterr()
    assert main(verb) == 0
    document: dict[str, Any] = json.loads(capsys.readouterr().out)
    return document


@requirement("W6")
def test_an_acknowledged_study_leaves_the_list_with_the_name_of_who_did_it(
    site: Site, capsys: pytest.CaptureFixture[str]
) -> None:
    arrive(site, accession_number="A1")
    arrive(site, accession_number="A2")
    assert main(["acknowledge", "A1"]) == 0
    assert [study["accession_number"] for study in listed(capsys)] == ["A2"]
    gone = next(each for each in listed(capsys, "--all") if each["accession_number"] == "A1")
    assert gone["acknowledged_by"] == getpass.getuser()


@requirement("W6")
def test_a_person_sets_a_priority_and_withdraws_it(
    site: Site, capsys: pytest.CaptureFixture[str]
) -> None:
    uid = arrive(site).header.study_instance_uid
    assert main(["priority", uid, "STAT"]) == 0
    (study,) = listed(capsys)
    assert (study["priority"], study["priority_source"]) == ("STAT", "person")
    assert main(["priority", uid, "none"]) == 0
    (study,) = listed(capsys)
    assert study["priority_source"] != "person"


@requirement("W6")
@pytest.mark.parametrize("verb", [["acknowledge", "A1"], ["priority", "A1", "LOW"]])
def test_what_came_after_the_look_is_not_decided_about(
    verb: list[str], site: Site, capsys: pytest.CaptureFixture[str]
) -> None:
    looked_at = json_of(capsys, "worklist", "--json")["as_of"]
    arrive(site, accession_number="A1")
    assert main([*verb, "--as-of", looked_at, "--json"]) == 1
    said = capsys.readouterr()
    assert said.out == ""
    assert "came an image at" in said.err
    assert "Look at it again: `triage show STUDY`" in said.err
    (study,) = listed(capsys)
    assert study["priority_source"] != "person"
    assert main([*verb, "--as-of", datetime.now(UTC).isoformat()]) == 0


@pytest.mark.parametrize("verb", [["worklist"], ["show", "A1"]])
def test_the_time_of_a_look_can_be_named_when_deciding(
    verb: list[str], site: Site, capsys: pytest.CaptureFixture[str]
) -> None:
    arrive(site, ago_s=60, accession_number="A1")
    looked_at = json_of(capsys, *verb, "--json")["as_of"]
    decided = json_of(capsys, "acknowledge", "A1", "--as-of", looked_at, "--json")
    assert decided["covered"]["unchanged_since"] < looked_at
    (event,) = json_of(capsys, "show", "A1", "--json")["studies"][0]["events"]
    assert event["detail"]["as_of"] == looked_at


def test_a_decision_tells_people_and_programs_what_it_covers(
    site: Site, capsys: pytest.CaptureFixture[str]
) -> None:
    arrive(site, accession_number="A1")
    covered = json_of(capsys, "priority", "A1", "LOW", "--json")["covered"]
    since = datetime.fromisoformat(covered.pop("unchanged_since"))
    assert covered == {
        "generation": 1,
        "number_of_study_related_instances": 1,
        "analysis": "pending",
        "images_eligible": 1,
        "images_analysed": 0,
        "flagged": [],
    }
    assert json_of(capsys, "priority", "A1", "none", "--json")["covered"] is None
    assert main(["acknowledge", "A1"]) == 0
    said = capsys.readouterr().out
    assert "covers 1 object (generation 1), no flag, pending, 0 of 1 eligible images" in said
    assert f"unchanged since {since:%Y-%m-%d %H:%M:%S}Z." in said


def test_a_time_without_a_zone_is_of_the_site(
    site: Site, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    arrive(site, ago_s=60, accession_number="A1")
    monkeypatch.setenv("TRIAGE_SITE__TIMEZONE", "Pacific/Kiritimati")
    looked_at = datetime.now(ZoneInfo("Pacific/Kiritimati")).replace(tzinfo=None)
    early = looked_at - timedelta(hours=14)  # read as UTC it would be now
    assert main(["acknowledge", "A1", "--as-of", early.isoformat()]) == 1
    assert main(["acknowledge", "A1", "--as-of", looked_at.isoformat()]) == 0


def test_a_study_set_to_stat_is_read_first(site: Site, capsys: pytest.CaptureFixture[str]) -> None:
    for number in ("A1", "A2", "A3"):
        arrive(site, accession_number=number)
    main(["priority", "A3", "STAT"])
    assert next(study["accession_number"] for study in listed(capsys)) == "A3"


def test_requeue_makes_work_for_a_study_and_says_how_much(
    site: Site, capsys: pytest.CaptureFixture[str]
) -> None:
    arrive(site, accession_number="A1")
    capsys.readouterr()
    assert main(["requeue", "A1", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["study"] == "A1"


@pytest.mark.parametrize("verb", [["acknowledge"], ["requeue"], ["show"]])
def test_an_unknown_study_is_a_plain_sentence(
    verb: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*verb, "NOBODY"]) == 1
    said = capsys.readouterr()
    assert said.out == ""
    assert "worklist" in said.err


def test_two_patients_under_one_uid_need_a_number(
    site: Site, capsys: pytest.CaptureFixture[str]
) -> None:
    uid = arrive(site, patient_id="P1").header.study_instance_uid
    arrive(site, patient_id="P2", study_instance_uid=uid)
    assert main(["acknowledge", uid]) == 1
    assert "--number" in capsys.readouterr().err
    assert len(listed(capsys)) == 2
    main(["show", uid, "--json"])
    shown = json.loads(capsys.readouterr().out)["studies"]
    number = next(each["study"]["id"] for each in shown if each["study"]["patient_id"] == "P2")
    assert main(["acknowledge", uid, "--number", str(number)]) == 0
    assert [study["patient_id"] for study in listed(capsys)] == ["P1"]


def test_a_rank_that_does_not_exist_is_a_usage_error(site: Site) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["priority", "A1", "URGENT"])
    assert stopped.value.code == 64


def test_the_wrong_revision_is_refused_and_names_migrate(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = tmp_path / "other.toml"
    config.write_text(f'[database]\nurl = "sqlite:///{tmp_path}/other.sqlite"\n', "utf-8")
    assert main(["--config", str(config), "acknowledge", "A1"]) == 1
    assert "triage migrate" in capsys.readouterr().err
    assert main(["--config", str(config), "migrate"]) == 0
    capsys.readouterr()
    assert main(["--config", str(config), "migrate", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"schema_version": 1, "applied": []}


def test_show_has_everything_of_a_study_for_people_and_for_programs(
    site: Site, capsys: pytest.CaptureFixture[str]
) -> None:
    header = arrive(site, accession_number="A1").header
    capsys.readouterr()
    assert main(["show", "A1", "--json"]) == 0
    (document,) = json.loads(capsys.readouterr().out)["studies"]
    assert document["study"]["study_instance_uid"] == header.study_instance_uid
    assert document["instances"][0]["sop_instance_uid"] == header.sop_instance_uid
    assert main(["show", header.study_instance_uid]) == 0
    text = capsys.readouterr().out
    for said in ("SERIES", "INSTANCES", "JOBS", "A1", "NOT YET ANALYSED"):
        assert said in text


def test_a_conflict_that_no_look_settles_is_not_said_to_be_queued(
    site: Site, capsys: pytest.CaptureFixture[str]
) -> None:
    uid = arrive(site, has_pixels=False).header.sop_instance_uid
    (study,) = listed(capsys)
    arrive(
        site,
        sop_instance_uid=uid,
        study_instance_uid=study["study_instance_uid"],
        content="with pixels",
    )
    capsys.readouterr()
    assert main(["requeue", study["study_instance_uid"]]) == 0
    said = capsys.readouterr().out
    assert "Not fully analysed all the same: 1 of its objects" in said
    assert main(["requeue", study["study_instance_uid"], "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["conflicts"] == 1
