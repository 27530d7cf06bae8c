"""How drift is said: one vocabulary for alarm, screen and picture."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from triage.learning.watching.drift import Judgement, Window

BANK: Final = "bank"
# Each figure of a window by the name that it has everywhere, and what it is.
FIGURES: Final[Mapping[str, str]] = {
    "images": "embeddings against the reference (0 the same, 0.1 plain to see)",
    BANK: "the same against the model's bank (0.25 plainly other images)",
    "distance": "mean distance of a study to the bank",
    "scores": "their distribution against the reference (0.2 plain to see)",
    "flag rate": "share of the studies that the model looked at",
    "gate rate": "share of all that the gate kept from it",
}
LEGEND: Final = "; ".join(f"{name}: {said}" for name, said in FIGURES.items()) + "."
NEXT_STEP: Final = (
    "Ask what has changed (device, protocol, patients) and look at some of its newest studies."
    " Calibrate anew on them, or `triage drift --accept GROUP` if all is well."
)


class State(StrEnum):
    """How a group stands, the worst first."""

    DRIFT = "drift"
    UNLIKE_THE_BANK = "unlike the bank"
    NOT_YET = "not yet"  # too few studies
    CHANGED = "changed"  # in the last window only
    AS_BEFORE = "as before"


@dataclass(frozen=True, slots=True, kw_only=True)
class Told:
    """One judged group of a served model."""

    model: str
    judgement: Judgement
    waiting: int  # studies that are counted and in no window yet
    needed: int  # further studies until it can be judged; 0 where it can

    @property
    def state(self) -> State:
        judgement = self.judgement
        if judgement.drift:
            return State.DRIFT
        if judgement.unlike_the_bank:
            return State.UNLIKE_THE_BANK
        if judgement.missing_blocks:
            return State.NOT_YET
        if judgement.windows and judgement.windows[-1].changed:
            return State.CHANGED
        return State.AS_BEFORE

    @property
    def words(self) -> str:
        """The state in words that need no legend."""
        windows = self.judgement.windows
        if self.state is State.DRIFT:
            others = bool(windows) and windows[-1].reference == "all devices"
            than = "all devices" if others else "before"
            return f"DRIFT: {', '.join(self.judgement.drift)}; other than {than}"
        if self.state is State.UNLIKE_THE_BANK:
            return "UNLIKE THE BANK of the model"
        if self.state is State.NOT_YET:
            return f"{self.needed} more studies needed"
        if self.state is State.CHANGED:
            return f"last window changed: {', '.join(sorted(windows[-1].changed))}"
        return self.state.value


def told(judgement: Judgement, *, model: str, waiting: int, window: int) -> Told:
    """Put a judgement into words; `window` in studies."""
    lacking = judgement.missing_blocks
    # A block that is full and not summed up yet still needs the next sweep.
    needed = max(1, lacking * window // 2 - waiting) if lacking else 0
    return Told(model=model, judgement=judgement, waiting=waiting, needed=needed)


def worst_first(some: Iterable[Told]) -> list[Told]:
    """Return drift first, then what is unlike the bank, then by name."""
    alarming = (State.DRIFT, State.UNLIKE_THE_BANK)

    def place(each: Told) -> tuple[int, str, str]:
        rank = alarming.index(each.state) if each.state in alarming else len(alarming)
        return rank, each.model, each.judgement.group.name

    return sorted(some, key=place)


def figure_of(window: Window, name: str) -> float | None:
    """Return one of FIGURES, None where nothing was compared."""
    if name == BANK:
        return None if window.bank is None else window.bank.size
    shares = {
        "distance": window.distance,
        "flag rate": window.flag_rate,
        "gate rate": window.gate_rate,
    }
    if name in shares:
        return shares[name]
    return window.comparisons[name].size if name in window.comparisons else None


def message_of(judgement: Judgement, model: str) -> str:
    """Say in plain words what has changed for this model; no figures: they change each day."""
    parts = [_in_words(name, judgement) for name in judgement.drift]
    if judgement.unlike_the_bank:
        parts.append("the images are plainly unlike those that the model was made with")
    return f"Drift, model {model}, {judgement.group.name}: {'; '.join(parts)}."


def _in_words(name: str, judgement: Judgement) -> str:
    whose = "those of all devices" if judgement.windows[-1].reference == "all devices" else "before"
    return {
        "images": f"the images look different than {whose}",
        "distance": f"their distance to the model's bank is another than {whose}",
        "scores": f"the scores are distributed differently than {whose}",
        "flag rate": f"the share that is flagged is another than {whose}",
        "gate rate": f"the share that the gate keeps from the model is another than {whose}",
    }[name]
