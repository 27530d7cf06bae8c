"""Two models' scores of the same images, compared by sums alone, however many there are."""

import math
from dataclasses import dataclass


@dataclass(kw_only=True)
class ScoreSums:
    """Pairs of probabilities, the served model's first."""

    pairs: int = 0
    largest: float = 0.0  # |difference|
    _difference: float = 0.0
    _absolute: float = 0.0
    _means: tuple[float, float] = (0.0, 0.0)
    _squares: tuple[float, float] = (0.0, 0.0)
    _products: float = 0.0

    def add(self, served: float, other: float) -> None:
        """Count one pair (Welford 1962, so that close scores keep their digits)."""
        self.pairs += 1
        self.largest = max(self.largest, abs(other - served))
        self._difference += other - served
        self._absolute += abs(other - served)
        (x, y), (xx, yy) = self._means, self._squares
        dx, dy = served - x, other - y
        x, y = x + dx / self.pairs, y + dy / self.pairs
        self._means = (x, y)
        self._squares = (xx + dx * (served - x), yy + dy * (other - y))
        self._products += dx * (other - y)

    @property
    def mean_difference(self) -> float:
        return self._difference / self.pairs if self.pairs else 0.0

    @property
    def mean_absolute(self) -> float:
        return self._absolute / self.pairs if self.pairs else 0.0

    @property
    def correlation(self) -> float | None:
        """Pearson's; None where either scores everything alike."""
        spread = math.sqrt(self._squares[0] * self._squares[1])
        return self._products / spread if spread > 0.0 else None

    def document(self) -> dict[str, float | int | None]:
        return {
            "images": self.pairs,
            "mean_difference": self.mean_difference,
            "mean_absolute_difference": self.mean_absolute,
            "largest_absolute_difference": self.largest,
            "correlation": self.correlation,
        }
