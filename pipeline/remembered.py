"""What is kept of trained records to recognise their re-deliveries, as values: `autoemb_pipeline.deliveries` makes them. A leaf."""

from typing import NamedTuple

Column = tuple[int, ...]


class Chain(NamedTuple):
    """Spans in the order of their sequences, which do not overlap. Columns: first and last sequence, earliest and latest time (ms)."""

    first: Column
    last: Column
    low: Column
    high: Column


class Remembered(NamedTuple):
    """What is known of one dataset in one partition."""

    dataset: str
    chains: tuple[Chain, ...]

    @property
    def highest(self) -> int:
        """The highest sequence trained, as far as is remembered."""
        return max(chain.last[-1] for chain in self.chains)
