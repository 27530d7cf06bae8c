"""What the measurements say: limits, words, exit codes, and the tables that a run writes."""

import json
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from tests.benchmarks import BENCHES, __main__, report
from tests.benchmarks.measuring import (
    Conditions,
    LeftOut,
    Note,
    Page,
    Row,
    at_least,
    at_most,
    by_turns,
    ratio,
)
from tests.benchmarks.report import Result, Run, State

NOON = datetime(2026, 1, 2, 12, tzinfo=UTC)
README = f"# Head\n\n{report.BEGIN}\n{report.END}\n\nTail.\n"


def row(what: str = "images", values: tuple[float, ...] = (3.0, 1.0, 2.0), **more: object) -> Row:
    return Row(what=what, values=values, unit="/s", **more)  # type: ignore[arg-type]


def result(name: str, *rows: Row, state: State = State.MEASURED, reason: str = "") -> Result:
    return Result(name=name, title=f"The {name}", state=state, reason=reason, seconds=5, rows=rows)


def run_of(*results: Result) -> Run:
    return Run(machine={"Processor": "one"}, measured_at=NOON, quick=False, results=results)


def test_the_median_is_quoted_and_the_spread_kept() -> None:
    assert (row().median, row().spread) == (2.0, (1.0, 3.0))


@pytest.mark.parametrize(
    ("limit", "met"), [(at_least(2.0), True), (at_least(2.1), False), (at_most(1.9), False)]
)
def test_a_limit_holds_for_the_median(limit: object, met: bool) -> None:
    assert row(limit=limit).met is met


def test_a_row_without_limits_is_neither_met_nor_short() -> None:
    assert row(ratios=(ratio((2.0,), to="peer", of=(1.0,)),)).met is None


def test_one_ratio_that_falls_short_is_enough() -> None:
    good = ratio((4.0,), to="one", of=(2.0,), limit=at_least(2.0))
    short = ratio((4.0,), to="other", of=(5.0,), limit=at_least(1.0))
    assert (good.value, short.value) == (2.0, 0.8)
    assert row(limit=at_least(1.0), ratios=(good, short)).met is False
    assert "FALLS SHORT" in report.for_terminal(result("start", row(ratios=(good, short))))


def test_peers_take_turns(tmp_path: Path) -> None:
    asked: list[str] = []

    def peer(name: str) -> float:
        asked.append(name)
        return float(len(asked))

    peers = {"a": lambda: peer("a"), "b": lambda: peer("b")}
    values = by_turns(peers, Conditions(scratch=tmp_path))
    assert [len(values[name]) for name in "ab"] == [3, 3]
    assert all(set(asked[turn : turn + 2]) == {"a", "b"} for turn in (0, 2, 4))


def test_sizes_shrink_with_the_factor_and_never_to_nothing(tmp_path: Path) -> None:
    quick = Conditions(scratch=tmp_path, factor=0.1)
    assert [quick.count(600), quick.count(3), quick.count(10, least=4)] == [60, 1, 4]
    assert (quick.runs, Conditions(scratch=tmp_path).runs) == (1, 3)


def test_a_run_replaces_what_it_measured_and_leaves_the_rest(tmp_path: Path) -> None:
    path = tmp_path / "README.md"
    path.write_text(README)
    report.write(run_of(result("start", row("cold")), result("receive", row("CT"))), path)
    report.write(run_of(result("start", row("warm|er"))), path)
    text = path.read_text()
    assert text.startswith("# Head\n")
    assert text.endswith("\n\nTail.\n")
    assert "| warm\\|er | 2.00 /s | 1.00 to 3.00 |" in text
    assert "cold" not in text
    assert BENCHES.index("receive") < BENCHES.index("start")
    assert text.index("| CT |") < text.index("warm")
    assert text.count("| Processor | one |") == 1


def test_a_section_keeps_the_machine_that_it_was_measured_on(tmp_path: Path) -> None:
    path = tmp_path / "README.md"
    path.write_text(README)
    report.write(run_of(result("start", row("cold"))), path)
    other = replace(run_of(result("gpu", row("tower"))), machine={"Processor": "two", "GPU": "big"})
    report.write(other, path)
    assert "Measured 2026-01-02 on one, in" in path.read_text()
    assert "Measured 2026-01-02 on two with big, in" in path.read_text()


def test_a_page_of_its_own_is_replaced_between_its_markers(tmp_path: Path) -> None:
    own, path = tmp_path / "RESULTS.md", tmp_path / "README.md"
    own.write_text(f"# Own\n\n{report.BEGIN}\nold\n{report.END}\nTail.\n")
    path.write_text(README)
    paged = replace(result("start", row()), pages=(Page(path=own, text="| new |"),))
    report.write(run_of(paged), path)
    text = own.read_text()
    assert "old" not in text
    assert text.startswith("# Own\n")
    assert text.endswith("Tail.\n")
    assert f"{report.BEGIN}\n\n| new |\n\n{report.END}" in text
    assert "| new |" in report.for_terminal(paged)


def test_small_runs_are_not_written_into_the_results() -> None:
    with pytest.raises(SystemExit):
        __main__.main(["--quick", "--write", "start"])


def test_the_readme_has_the_place_for_the_results() -> None:
    text = report.README.read_text("utf-8")
    assert text.count(report.BEGIN) == text.count(report.END) == 1
    assert text.index(report.BEGIN) < text.index(report.END)


def test_programs_read_one_line() -> None:
    line = report.json_line(run_of(result("start", row(limit=at_most(1.0)))))
    document = json.loads(line)
    assert "\n" not in line
    assert document["measured_at"] == "2026-01-02T12:00:00+00:00"
    (bench,) = document["benches"]
    assert (bench["bench"], bench["state"]) == ("start", "measured")
    assert bench["rows"][0]["limit"] == {"target": 1.0, "direction": "at most"}
    assert bench["rows"][0]["met"] is False


def sound(_: Conditions) -> Iterator[Row | Note | Page]:
    yield row()
    yield Note(text="seen")
    yield Page(path=Path("own.md"), text="| table |")


def broken(_: Conditions) -> Iterator[Row | Note | Page]:
    yield row()
    raise RuntimeError("the disk is gone")


def absent(_: Conditions) -> Iterator[Row | Note | Page]:
    raise LeftOut("no peer here")
    yield


def test_a_bench_that_fails_is_told_and_keeps_what_it_gave(tmp_path: Path) -> None:
    conditions = Conditions(scratch=tmp_path)
    failed = __main__.measured("start", conditions, lambda _: ("Start", broken))
    assert (failed.state, len(failed.rows)) == (State.FAILED, 1)
    assert "the disk is gone" in report.for_terminal(failed)
    left_out = __main__.measured("start", conditions, lambda _: ("Start", absent))
    assert (left_out.state, left_out.reason) == (State.LEFT_OUT, "no peer here")
    fine = __main__.measured("start", conditions, lambda _: ("Start", sound))
    assert (fine.state, fine.notes) == (State.MEASURED, ("seen",))
    assert [page.text for page in fine.pages] == ["| table |"]
    assert __main__.exit_code([fine, left_out]) == 0
    assert __main__.exit_code([fine, failed]) == 1
    assert __main__.exit_code([fine, result("start", row(limit=at_most(1.0)))]) == 2


@pytest.mark.parametrize("name", BENCHES)
def test_every_bench_has_a_title_and_a_measure(name: str) -> None:
    title, measure = __main__.bench(name)
    assert title
    assert callable(measure)
