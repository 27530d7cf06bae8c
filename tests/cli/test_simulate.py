"""`triage simulate` tells who gains, who pays, and what it does not know."""

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from tests.builders import make_arrival, make_header
from tests.cli.site import Site
from tests.learning.rooms import room
from triage.cli.command_line import main
from triage.cli.simulate_words import report, short, statements
from triage.cli.table import Screen
from triage.database.arrivals import record_arrival
from triage.database.connection import open_database
from triage.learning.waiting.expectation import expected
from triage.learning.waiting.simulation import Discipline
from triage.learning.waiting.waiting import Estimate, Outcome
from triage.learning.waiting.waiting import simulate as simulated

SMALL = ["--runs", "3", "--studies", "300", "--prevalence", "0.1"]
MODEL = ["--sensitivity", "57/60", "--specificity", "850/900"]


def document(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, Any]:
    assert main(["simulate", *SMALL, *arguments, "--json"]) == 0
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return found


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # no triage.toml but the test's own


def test_a_person_reads_facts_waits_and_who_pays(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["simulate", *SMALL, *MODEL, "--arrivals", "poisson:5.4"]) == 0
    told = capsys.readouterr().out
    for words in (
        "0.95, measured on 60 studies",
        "rule with model",
        "Flagged studies: no difference is shown",  # by so few
        "Studies without a flag",
        "Missed studies",
        "Queueing theory",
        "\n  rightly ",
        "\n  missed ",
        "\n- in order of arrival: formula",
    ):
        assert words in told


@pytest.fixture(scope="module")
def outcome() -> Outcome:
    return simulated(room(studies=100), runs=2, seed=1)


def estimate(mean: float, low: float, high: float) -> Estimate:
    return Estimate(mean=mean, low=low, high=high, run_low=low, run_high=high)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (estimate(-120, -300, -60), "wait 2 min 00 s less (1 min 00 s to 5 min 00 s) on average"),
        (estimate(120, 60, 300), "wait 2 min 00 s longer (1 min 00 s to 5 min 00 s) on average"),
        (estimate(-20, -60, 20), ": no difference is shown (-1 min 00 s to +20 s), -20 s on ave"),
        (estimate(0, 0, 0), "wait as long as in order of arrival, in every run"),
    ],
)
def test_who_waits_less_is_told_only_where_the_interval_shows_it(
    outcome: Outcome, change: Estimate, said: str
) -> None:
    changed = {("flagged", Discipline.RULE): (change, change)}
    told = statements(replace(outcome, changes={**outcome.changes, **changed}))[0]
    assert told.startswith(f"Flagged studies{' ' if said[0] == 'w' else ''}{said}")


def test_an_interval_is_shown_as_it_was_worked_out(outcome: Outcome) -> None:
    of = ("unflagged", Discipline.FIFO)
    wide = {of: replace(outcome.waits[of], mean_s=estimate(50, -30, 130))}
    shown = replace(outcome, waits={**outcome.waits, **wide})
    assert "-30 s to 2.2 min" in report(shown, expected(outcome.scenario), Screen(columns=120))


def test_the_document_has_every_group_under_every_rule(capsys: pytest.CaptureFixture[str]) -> None:
    found = document(capsys, *MODEL, "--arrivals", "poisson:5.4")
    assert found["stable"] is True
    assert found["load"] == pytest.approx(0.9)
    for group in ("flagged", "flagged_true", "flagged_false", "missed", "unflagged", "all"):
        assert set(found["waits"][group]) == {"fifo", "order", "rule", "unbounded"}
        assert found["waits"][group]["rule"]["p95_s"]["mean"] >= 0
    assert found["waits"]["flagged"]["rule"]["mean_less_fifo_s"]["mean"] < 0
    assert found["formulas"]["fifo_s"] == pytest.approx(5400)
    assert found == document(capsys, *MODEL, "--arrivals", "poisson:5.4")


def test_more_work_than_readers_is_told_before_any_figure(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["simulate", *SMALL, *MODEL, "--arrivals", "poisson:7"]) == 0
    told = capsys.readouterr().out
    assert told.index("UNSTABLE: the load is 1.17") < told.index("rule with model")
    assert "No formula to compare with" in told


def test_what_the_ceiling_costs_flagged_studies_is_told(
    capsys: pytest.CaptureFixture[str],
) -> None:
    overrun = document(capsys, *MODEL, "--arrivals", "poisson:9", "--studies", "900")
    cost = "protect the others at the cost of flagged"
    assert any(cost in each for each in overrun["statements"])
    idle = document(capsys, *MODEL, "--arrivals", "poisson:3")
    assert not any(cost in each for each in idle["statements"])


def test_figures_without_counts_are_marked(capsys: pytest.CaptureFixture[str]) -> None:
    found = document(
        capsys, "--sensitivity", "0.9", "--specificity", "0.9", "--arrivals", "poisson:5"
    )
    assert "Taken as exactly known" in found["warnings"][0]


def test_plot_and_qucad_are_written_and_named(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    pytest.importorskip("matplotlib", reason="the extra triage[learning] is not installed")
    found = document(
        capsys, *MODEL, "--arrivals", "poisson:5", "--plot", "w.png", "--qucad", "q.dat"
    )
    assert found["files"] == ["q.dat", str(tmp_path / "q.roc.dat"), "w.png"]
    assert (tmp_path / "w.png").read_bytes().startswith(b"\x89PNG")
    assert "traffic 0.833333" in (tmp_path / "q.dat").read_text("utf-8")


@pytest.mark.parametrize("option", ["--plot", "--qucad"])
@pytest.mark.parametrize(
    ("name", "why"), [("none/x", "that is not there"), (".", "is a directory")]
)
def test_a_result_that_cannot_be_written_is_told_before_the_work(
    capsys: pytest.CaptureFixture[str], option: str, name: str, why: str
) -> None:
    work = ["--arrivals", "not-read-yet.csv"]
    assert main(["simulate", *SMALL, *MODEL, *work, option, name]) == 1
    assert why in capsys.readouterr().err


def test_the_worklists_own_times_are_the_arrivals(
    site: Site, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(site.directory)
    start = datetime(2030, 5, 6, tzinfo=UTC)
    database = open_database(site.config.database.url)
    try:
        with database.write() as connection:
            for number in range(60):
                header = make_header(
                    sop_instance_uid=f"1.2.{number}.3",
                    series_instance_uid=f"1.2.{number}.2",
                    study_instance_uid=f"1.2.{number}",
                )
                record_arrival(
                    connection,
                    make_arrival(header, content=str(number)),
                    policies=site.config.policies,
                    now=start + timedelta(minutes=12 * number),
                )
    finally:
        database.dispose()
    found = document(capsys, *MODEL, "--as-recorded")
    assert found["scenario"]["arrivals"] == "worklist: 60 arrivals in 0.5 days, as recorded"
    assert found == document(capsys, *MODEL, "--as-recorded", "--since", "30d")
    assert found["studies"]["all"] == 60
    assert found["scenario"]["arrivals_per_h"] == pytest.approx(5.0)
    assert any("were not seen" in each for each in document(capsys, *MODEL)["warnings"])
    assert main(["simulate", *SMALL, *MODEL, "--since", "2030-05-06T11:00:00+00:00"]) == 1
    assert "a pattern needs" in capsys.readouterr().err


def test_a_bundle_brings_its_figures_and_what_its_flag_asks(
    capsys: pytest.CaptureFixture[str],
) -> None:
    pocket = Path(__file__).parents[2] / "triage" / "pocket" / "bundle"
    named = ["--bundle", str(pocket), "--arrivals", "poisson:5"]
    found = document(capsys, *named, "--finding", "nodule")
    assert found["scenario"]["sensitivity"]["estimate"] == pytest.approx(0.9766)
    assert main(["simulate", *SMALL, *named]) == 1
    assert "--finding" in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments",
    [
        ["--arrivals", "poisson:5"],
        ["--arrivals", "poisson:5", "--sensitivity", "0.9"],
        ["--arrivals", "poisson:x", *MODEL],
        ["--arrivals", "poisson:5", "--as-recorded", *MODEL],
        ["--arrivals", "poisson:5", "--raises-to", "SOON", *MODEL],
        ["--arrivals", "poisson:5", "--analysis-s", "-1", *MODEL],
        ["--arrivals", "poisson:5", "--seed", "-1", *MODEL],
        ["--arrivals", "poisson:5", "--since", "0d", *MODEL],
    ],
)
def test_what_cannot_be_meant_is_a_usage_error(arguments: list[str]) -> None:
    assert main(["simulate", *SMALL, *arguments]) == 64


def test_a_file_that_is_not_there_is_one_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["simulate", *SMALL, *MODEL, "--arrivals", "none.csv"]) == 1
    assert capsys.readouterr().err.count("\n") == 1


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [(0, "0 s"), (89, "89 s"), (95, "1.6 min"), (7200, "2.0 h"), (2e5, "2.3 d")],
)
def test_waits_in_columns_are_short(seconds: float, shown: str) -> None:
    assert short(seconds) == shown
