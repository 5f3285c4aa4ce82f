"""The meter with a clock of its own."""

import pytest

from autoemb_pipeline.meter import Meter


def test_rates_quantiles_and_phases() -> None:
    now = [0.0]
    meter = Meter(lambda: now[0])
    for k in range(1, 101):
        with meter.step(10):
            now[0] += k / 1000
    with meter.phase("emit"):
        now[0] += 1.5
    now[0] += 0.5
    snapshot = meter.snapshot()
    assert snapshot["interactions_per_second"] == pytest.approx(1000 / 7.05)
    assert snapshot["step_latency_p50"] == pytest.approx(0.0505)
    assert snapshot["step_latency_p95"] == pytest.approx(0.09505)
    assert snapshot["phase_seconds"] == pytest.approx({"step": 5.05, "emit": 1.5})
    assert snapshot["rss_bytes"] > 10_000_000
    assert meter.snapshot()["phase_seconds"] == {}
    assert meter.total == 1000


def test_nothing_yet() -> None:
    snapshot = Meter().snapshot()
    assert snapshot["interactions_per_second"] == 0.0
    assert snapshot["step_latency_p50"] is None
