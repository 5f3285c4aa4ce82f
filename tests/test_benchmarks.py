"""Benchmarks are run by hand and seldom; at least each of them can be started."""

import importlib

import pytest

from tests.benchmarks.__main__ import PREFIX, names


@pytest.mark.parametrize("name", names())
def test_every_benchmark_can_be_started(name: str) -> None:
    assert callable(importlib.import_module(f"tests.benchmarks.{PREFIX}{name}").main)
