"""The formulas agree with closed forms, with each other, and with what must be conserved."""

import math

import pytest

from tests.assurance import requirement
from triage.learning.waiting.queueing import (
    Demand,
    NoFormula,
    erlang_c,
    exponential,
    fifo_wait_s,
    interrupted_waits_s,
    merged,
    priority_waits_s,
    utilisation,
)

MEAN_S = 600.0


def at_load(load: float, readers: int = 1) -> Demand:
    """Return exponential demand that keeps `readers` busy to `load`."""
    return exponential(load * readers / MEAN_S, MEAN_S)


def split(load: float, flagged: float, readers: int = 1) -> tuple[Demand, Demand]:
    return at_load(load * flagged, readers), at_load(load * (1 - flagged), readers)


@pytest.mark.parametrize("load", [0.1, 0.5, 0.9, 0.99])
def test_one_reader_waits_as_m_m_1(load: float) -> None:
    assert fifo_wait_s([at_load(load)], 1) == pytest.approx(load * MEAN_S / (1 - load))


def test_fixed_readings_halve_the_wait() -> None:
    fixed = Demand(rate_per_s=0.8 / MEAN_S, mean_s=MEAN_S, second_s2=MEAN_S**2)
    assert fifo_wait_s([fixed], 1) == pytest.approx(fifo_wait_s([at_load(0.8)], 1) / 2)


@pytest.mark.parametrize("offered", [0.2, 0.7, 0.95])
def test_the_chance_to_wait_for_one_reader_is_the_load(offered: float) -> None:
    assert erlang_c(1, offered) == pytest.approx(offered)


@pytest.mark.parametrize("offered", [0.4, 1.0, 1.9])
def test_the_chance_to_wait_for_two_readers_has_its_closed_form(offered: float) -> None:
    assert erlang_c(2, offered) == pytest.approx(offered**2 / (2 + offered))


def test_the_chance_to_wait_is_the_sum_that_defines_it() -> None:
    readers, offered = 7, 5.6
    full = offered**readers / math.factorial(readers) * readers / (readers - offered)
    less = sum(offered**n / math.factorial(n) for n in range(readers))
    assert erlang_c(readers, offered) == pytest.approx(full / (less + full))


def test_many_readers_overflow_nothing_and_hardly_wait() -> None:
    assert erlang_c(5000, 4000.0) == pytest.approx(0.0, abs=1e-9)
    assert erlang_c(2, 2.0) == 1.0


@requirement("W7", bound="the formulas give the published changes of wait within half a point")
@pytest.mark.parametrize(
    ("load", "flagged", "change", "others"),
    [(0.9, 0.1, -0.89, 0.10), (0.9, 0.4, -0.84, 0.56), (0.5, 0.1, -0.47, 0.05)],
)
def test_flagging_moves_the_wait_as_published(
    load: float, flagged: float, change: float, others: float
) -> None:
    classes = split(load, flagged)
    fifo_s = fifo_wait_s(classes, 1)
    first_s, second_s = priority_waits_s(classes, 1)
    assert first_s / fifo_s - 1 == pytest.approx(change, abs=0.005)
    assert second_s / fifo_s - 1 == pytest.approx(others, abs=0.005)


@pytest.mark.parametrize("readers", [1, 2, 5])
@pytest.mark.parametrize("interrupting", [False, True])
def test_triage_gives_no_time_it_only_moves_it(readers: int, interrupting: bool) -> None:
    classes = split(0.85, 0.2, readers)
    waits = (interrupted_waits_s if interrupting else priority_waits_s)(classes, readers)
    work = sum(each.load * wait_s for each, wait_s in zip(classes, waits, strict=True))
    whole = merged(classes).load * fifo_wait_s(classes, readers)
    assert work == pytest.approx(whole)


@pytest.mark.parametrize("readers", [1, 4])
def test_one_class_waits_as_without_classes(readers: int) -> None:
    alone = at_load(0.7, readers)
    assert priority_waits_s([alone], readers) == pytest.approx([fifo_wait_s([alone], readers)])
    assert interrupted_waits_s([alone], readers) == pytest.approx([fifo_wait_s([alone], readers)])


def test_a_class_that_nobody_belongs_to_changes_nothing() -> None:
    classes = (at_load(0.0), *split(0.8, 0.25), at_load(0.0))
    assert priority_waits_s(classes, 1)[1:3] == pytest.approx(priority_waits_s(classes[1:3], 1))
    assert interrupted_waits_s(classes, 1)[1:3] == pytest.approx(
        interrupted_waits_s(classes[1:3], 1)
    )


def test_flagged_ones_that_interrupt_wait_as_if_alone() -> None:
    flagged, rest = split(0.9, 0.1)
    first_s, second_s = interrupted_waits_s((flagged, rest), 1)
    assert first_s == pytest.approx(fifo_wait_s([flagged], 1))
    assert first_s < priority_waits_s((flagged, rest), 1)[0]
    assert second_s > priority_waits_s((flagged, rest), 1)[1]


def test_one_reader_by_the_formula_of_many_is_the_same() -> None:
    classes = split(0.8, 0.3)
    by_many = []
    held = 0.0
    for upto in (1, 2):
        whole = fifo_wait_s(classes[:upto], 1) * merged(classes[:upto]).rate_per_s
        by_many.append((whole - held) / classes[upto - 1].rate_per_s)
        held = whole
    assert interrupted_waits_s(classes, 1) == pytest.approx(by_many)


@pytest.mark.parametrize("load", [1.0, 1.3])
@pytest.mark.parametrize("readers", [1, 3])
def test_more_work_than_readers_waits_without_end(load: float, readers: int) -> None:
    classes = split(load, 0.1, readers)
    assert utilisation(classes, readers) >= 1
    assert all(map(math.isinf, priority_waits_s(classes, readers)))
    assert all(map(math.isinf, interrupted_waits_s(classes, readers)))
    assert math.isinf(fifo_wait_s(classes, readers))


def test_several_readers_without_exponential_readings_have_no_formula() -> None:
    fixed = Demand(rate_per_s=1.0 / MEAN_S, mean_s=MEAN_S, second_s2=MEAN_S**2)
    with pytest.raises(NoFormula, match="several readers"):
        priority_waits_s([fixed], 2)
    slow = exponential(0.5 / MEAN_S, 2 * MEAN_S)
    with pytest.raises(NoFormula, match="one mean"):
        priority_waits_s([at_load(0.4), slow], 2)
