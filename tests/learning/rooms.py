"""Reading rooms for tests of the simulation."""

from typing import Any

from triage.learning.waiting.arrival_pattern import poisson
from triage.learning.waiting.reading_room import Proportion, Scenario, reading_time_of, roster_of


def room(**changes: Any) -> Scenario:
    """Return one reader at load 0.8, 10 % with the finding, flags at once; `changes` are fields."""
    reading = reading_time_of("exponential:10")
    plain: dict[str, Any] = {
        "arrivals": poisson(4.8),
        "prevalence": 0.1,
        "sensitivity": Proportion(estimate=0.9),
        "specificity": Proportion(estimate=0.9),
        "reading": reading,
        "reading_diseased": reading,
        "roster": roster_of("1"),
        "analysis_s": 0.0,
        "studies": 2000,
    }
    return Scenario(**(plain | changes))
