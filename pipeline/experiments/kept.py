"""What a run kept for embeddings, and what loss that gave up, from its prediction log: what stands beside an error."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl

from autoemb_pipeline.schemas.notices import share_text
from autoemb_pipeline.sink.prediction_log import KEPT_FIELDS

_SHARES, _LOSSES = KEPT_FIELDS[:2], KEPT_FIELDS[2:]


@dataclass(frozen=True, kw_only=True, slots=True)
class Kept:
    """Of one run, or the mean of several; None where a run does not say.

    Attributes:
        bytes_share, total_share: of the fixed size's bytes at the end, without and with context.
        given_up, low, high: loss given up per interaction and its interval, mean over the interactions that have one.
    """

    bytes_share: float | None = None
    total_share: float | None = None
    given_up: float | None = None
    low: float | None = None
    high: float | None = None

    @property
    def bytes_text(self) -> str:
        """As 29% (34%), in brackets with context."""
        if self.bytes_share is None:
            return "–"
        return share_text(self.bytes_share) + ("" if self.total_share is None else f" ({share_text(self.total_share)})")

    @property
    def given_up_text(self) -> str:
        """As 0.00011 [0.00008, 0.00014]."""
        if self.given_up is None:
            return "–"
        return f"{self.given_up:.5f}" + ("" if self.low is None or self.high is None else f" [{self.low:.5f}, {self.high:.5f}]")


def kept_of(log: pl.LazyFrame) -> Kept:
    """Of the interactions in a run's log, or a part of it."""
    names = log.collect_schema().names()
    columns = [pl.col(name).fill_nan(None).drop_nulls().last() for name in _SHARES if name in names]
    columns += [pl.col(name).fill_nan(None).cast(pl.Float64).mean() for name in _LOSSES if name in names]
    if not columns:
        return Kept()
    told = log.select(columns).collect().row(0, named=True)
    return Kept(**dict(zip(("bytes_share", "total_share", "given_up", "low", "high"), map(told.get, KEPT_FIELDS), strict=True)))


def mean_of(runs: Sequence[Kept]) -> Kept:
    """Over seeds."""

    def mean(name: str) -> float | None:
        values = [getattr(run, name) for run in runs]
        return None if None in values else float(np.mean(values))

    return Kept(**{name: mean(name) for name in ("bytes_share", "total_share", "given_up", "low", "high")})
