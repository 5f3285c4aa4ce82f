"""How what the dense weights were learnt from fades."""

from math import e

import numpy as np
import pytest

from autoemb_pipeline.kernels import newton_descend, newton_observe
from autoemb_pipeline.learners.stream.dense import forget


def learnt(labels, horizon: float) -> float:
    """Weight of a constant after mini-batches of 100 of these labels."""
    ridge = np.array([10.0])
    weights, precision, gradient = np.zeros((1, 1)), np.diag(ridge), np.zeros((1, 1))
    which = np.arange(100)
    for label in labels:
        p = 1 / (1 + np.exp(-np.full((100, 1), weights[0, 0])))
        forget(precision, ridge, 100, horizon)
        newton_observe(np.ones((100, 1)), which, p, np.full(100, label), which, precision, gradient)
        newton_descend(weights, precision, gradient)
    return float(weights[0, 0])


def test_one_horizon_leaves_an_e_th_of_the_past_above_the_prior():
    ridge = np.array([10.0, 30.0])
    prior = np.diag(np.tile(ridge, 2))
    precision = prior + 7.0
    forget(precision, ridge, 500, 500.0)
    np.testing.assert_allclose(precision, prior + 7.0 / e)


def test_without_a_horizon_nothing_fades():
    precision = np.full((2, 2), 5.0)
    forget(precision, np.ones(2), 500, 0.0)
    np.testing.assert_array_equal(precision, np.full((2, 2), 5.0))


def test_parts_of_a_mini_batch_fade_as_the_whole():
    ridge, whole, parts = np.ones(1), np.array([[9.0]]), np.array([[9.0]])
    forget(whole, ridge, 700, 1000.0)
    forget(parts, ridge, 200, 1000.0)
    forget(parts, ridge, 500, 1000.0)
    assert parts[0, 0] == pytest.approx(whole[0, 0])


def test_a_stream_that_changed_is_followed_sooner_where_the_past_fades():
    labels = [0.2] * 50 + [0.8] * 10
    assert learnt(labels, 1000.0) > learnt(labels, 0.0) + 0.2
