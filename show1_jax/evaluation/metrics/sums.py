"""Sums of one number for each clip or frame: a statistic that merges, with mean and standard error."""

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Sums:
    """The number of values, their sum, and the sum of their squares, in float64."""

    count: int
    total: float
    squares: float

    @classmethod
    def of(cls, values: Iterable[float]) -> "Sums":
        """Return the sums of some values."""
        exact = np.fromiter(values, np.float64)
        return cls(len(exact), float(exact.sum()), float(np.square(exact).sum()))

    def merge(self, other: "Sums") -> "Sums":
        """Return the sums of the values of both."""
        return Sums(self.count + other.count, self.total + other.total, self.squares + other.squares)

    @property
    def mean(self) -> float:
        """Mean of the values, of which there must be one."""
        return self.total / self.count

    @property
    def standard_error(self) -> float | None:
        """Standard error of the mean; None for a single value."""
        if self.count < 2:
            return None
        variance = max(0.0, self.squares - self.total * self.total / self.count) / (self.count - 1)
        return math.sqrt(variance / self.count)
