"""Each formula of the stream preset against a plain version of it, in float64."""

from collections import Counter

import numpy as np
import pytest

from autoemb_pipeline.learners.stream.blocks import Blocks
from autoemb_pipeline.learners.stream.rows import HOLDS
from tests.learners.stream.running import SEARCHING, config, everything, steps, trainer
from tests.streams import synthetic_stream, taste_stream

BLOCKS = Blocks(dims=(2, 3, 6))


def test_use_is_the_chance_that_a_dimension_is_used():
    weights = np.array([[0.5, 0.3, 0.2], [0.0, 0.0, 1.0]])
    np.testing.assert_allclose(BLOCKS.use_of(weights), [[1.0, 0.5, 0.2], [1.0, 1.0, 1.0]])
    slopes = np.array([[1.0, 10.0, 100.0]])
    np.testing.assert_allclose(BLOCKS.weights_gradient(slopes), [[1.0, 11.0, 111.0]])


def test_nested_product_is_the_expected_product_of_drawn_prefixes():
    rng = np.random.default_rng(0)
    p, q = rng.normal(size=(1, 6)), rng.normal(size=(1, 6))
    alpha, beta = np.array([[0.5, 0.3, 0.2]]), np.array([[0.1, 0.2, 0.7]])
    expected = sum(
        alpha[0, n] * beta[0, m] * (p[0, : min(d, e)] @ q[0, : min(d, e)])
        for n, d in enumerate(BLOCKS.dims)
        for m, e in enumerate(BLOCKS.dims)
    )
    assert (BLOCKS.use_of(alpha) * BLOCKS.use_of(beta) * BLOCKS.sums(p * q)).sum() == pytest.approx(expected)


def test_separate_spaces_meet_their_own_alone():
    separate = Blocks.of_spaces((2, 3, 6), nested=False)
    rng = np.random.default_rng(7)
    p, q = rng.normal(size=(1, 11)), rng.normal(size=(1, 11))
    alpha, beta = np.array([[0.5, 0.3, 0.2]]), np.array([[0.1, 0.2, 0.7]])
    expected = sum(alpha[0, n] * beta[0, n] * (p[0, s] @ q[0, s]) for n, s in enumerate([slice(0, 2), slice(2, 5), slice(5, 11)]))
    assert (separate.use_of(alpha) * separate.use_of(beta) * separate.sums(p * q)).sum() == pytest.approx(expected)
    np.testing.assert_array_equal(separate.weights_gradient(alpha), alpha)


STREAM = synthetic_stream(160, seed=5)
TASTES = taste_stream(160, seed=5, users=20, items=30)


@pytest.mark.parametrize("stream", [STREAM, TASTES], ids=["synthetic", "tastes"])
@pytest.mark.parametrize(
    "options",
    [
        {},
        SEARCHING,
        {"method": "sam", **SEARCHING},
        {"method": "darts"},
        {"method": "darts", "nested": False},
        {"task": "rating", **SEARCHING},
        {"context": "strict", **SEARCHING},
        {"precision": "float64", "row_precision": "float32", **SEARCHING},
        {"memory_budget": 2000, "panel": 0.3},
    ],
    ids=str,
)
def test_a_restored_run_goes_on_to_the_same_bits(options, stream):
    of = config(**options)
    straight, rows = trainer(of)
    whole = steps(straight, stream, 40)
    first, store = trainer(of)
    steps(first, stream[:80], 40)
    tensors, payload = first.tensors(), first.payload()
    second = type(first)(of, store)
    second.restore(tensors, payload)
    np.testing.assert_array_equal(steps(second, stream, 40, first=80), whole[80:])
    mine, theirs = everything(second, store, of), everything(straight, rows, of)
    assert mine.keys() == theirs.keys()
    for name, value in mine.items():
        np.testing.assert_array_equal(value, theirs[name], err_msg=name)


def test_a_block_is_stored_only_for_ids_that_used_it():
    of = config("count-thresholds")
    by, store = trainer(of)
    steps(by, STREAM, 40)
    for side, ids in (("user", [r.user_id for r in STREAM]), ("item", [r.item_id for r in STREAM])):
        counts = Counter(ids)
        for block, least in ((0, 1), (1, 4), (2, 10)):  # used from the interaction after the threshold's 3 or 9
            expected = sorted(i for i, n in counts.items() if n >= least)
            assert [i for i, row in store.records(side) if row[HOLDS][block]] == expected
