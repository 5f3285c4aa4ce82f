"""The price of a byte: what a block must save, summed over an id's expected future, to be held.

One number, moved online by what was asked for: a tolerance (the loss given up stays below it, with the fewest bytes) or a budget (the
bytes stay below it, with the least loss).
"""

from dataclasses import dataclass
from math import exp

RATE = 0.03
"""Largest change of the price's logarithm per mini-batch."""
BUDGET_RATE = 0.1
"""The same under a budget."""
FADING = 0.97
SMALLEST, LARGEST = 3e-3, 1e-1
"""Bounds of the price under a tolerance, in its units."""
FULL, BAND = 0.96, 0.02
"""A budget's use at which the price's level stands still, and how far from it the level moves fastest."""
LEAST_FREE = 0.02
"""Part of a budget that counts as free however full it is."""


@dataclass
class Price:
    """The price, and the loss given up that it answers to.

    Attributes:
        tolerance: loss that may be given up.
        budget: bytes; 0: none, the tolerance counts.
        value: loss per byte.
        level: under a budget what the price would be were it empty.
        given_up: fading mean of the loss given up per interaction, None before the first mini-batch.
    """

    tolerance: float
    budget: int
    value: float = 0.0
    level: float = 0.0
    given_up: float | None = None

    def __post_init__(self) -> None:
        self.value = self.value or self.tolerance * SMALLEST
        self.level = self.level or self.value

    def move(self, lost: float, used: float) -> None:
        """After a mini-batch.

        Args:
            lost: mean over its interactions of what the blocks that the pairs lacked would have saved.
            used: bytes.
        """
        self.given_up = lost if self.given_up is None else FADING * self.given_up + (1.0 - FADING) * lost
        if self.budget:
            fill = used / self.budget
            self.level *= exp(BUDGET_RATE * min(max((fill - FULL) / BAND, -1.0), 1.0))
            self.level = max(self.level, self.tolerance * SMALLEST)
            self.value = self.level / max(1.0 - fill, LEAST_FREE)
            return
        self.value *= exp(RATE * min(max(1.0 - self.given_up / self.tolerance, -1.0), 1.0))
        self.value = min(max(self.value, SMALLEST * self.tolerance), LARGEST * self.tolerance)

    def raise_by(self, part: float) -> None:
        """The budget is exceeded: the price rises by a part of itself at once."""
        self.level *= 1.0 + part
        self.value *= 1.0 + part
