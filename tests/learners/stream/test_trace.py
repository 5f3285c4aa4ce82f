"""Validation through an id's next occurrence: the coefficient is the slope of the later loss in the earlier use, in float64."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from autoemb_pipeline.columns import MiniBatch
from autoemb_pipeline.learners.stream.blocks import Blocks
from autoemb_pipeline.learners.stream.gates import SearchedGate
from autoemb_pipeline.learners.stream.trace import Trace, trace_tables
from autoemb_pipeline.records import Interaction
from autoemb_pipeline.state.memory import MemoryRowStore
from tests.learners.stream.running import config, steps, trainer
from tests.streams import synthetic_stream

BLOCKS = Blocks(dims=(2, 3, 6))
INPUTS = 4


class Opened(SearchedGate):
    """A gate as far as the trace sees it."""

    def __init__(self, alpha: np.ndarray, beta: np.ndarray, inputs: np.ndarray) -> None:
        self.uses = (BLOCKS.use_of(alpha), BLOCKS.use_of(beta))
        self.batch = SimpleNamespace(user_inputs=torch.as_tensor(inputs), item_inputs=torch.as_tensor(inputs))


def test_the_coefficient_is_the_slope_of_the_next_loss_in_the_use_of_the_last_step():
    rng = np.random.default_rng(0)
    trace = Trace(MemoryRowStore(trace_tables(BLOCKS, INPUTS)), BLOCKS, INPUTS)
    alpha, beta = rng.dirichlet(np.ones(3), size=2), rng.dirichlet(np.ones(3), size=2)
    inputs = rng.normal(size=(2, INPUTS))
    gate = Opened(alpha, beta, inputs)
    trace.begin(["u"], ["a", "b"], 2)
    user, first, second = np.array([0]), np.array([0]), np.array([1])
    # the first interaction changed the user by A_j · direction, from `start` to `now`
    start, direction = rng.normal(size=6), rng.normal(size=6)
    use = BLOCKS.use_of(alpha)[0]
    change = BLOCKS.spread(use[None, :])[0] * direction
    nothing = np.zeros((1, 6))
    trace.validate(np.array([0]), (user, first), np.ones((1, 3)), np.array([0.3]), (start[None, :], rng.normal(size=(1, 6))))
    trace.remember(np.array([0]), (user, first), (change[None, :], nothing), gate)
    gates, item, label, offset = rng.uniform(0.2, 1.0, size=3), rng.normal(size=6), 1.0, 0.4

    def loss(used: np.ndarray) -> float:
        now = start + BLOCKS.spread(used[None, :])[0] * direction
        s = offset + gates @ BLOCKS.sums((now * item)[None, :])[0]
        return float(np.log1p(np.exp(s)) - label * s)

    s = offset + gates @ BLOCKS.sums(((start + change) * item)[None, :])[0]
    error = np.array([1.0 / (1.0 + np.exp(-s)) - label])
    trace.validate(np.array([1]), (user, second), gates[None, :], error, ((start + change)[None, :], item[None, :]))
    step = 1e-6
    slopes = [(loss(use + step * np.eye(3)[j]) - loss(use - step * np.eye(3)[j])) / (2 * step) for j in range(3)]
    np.testing.assert_allclose(trace._coefficients[0][1], slopes, rtol=1e-7)
    np.testing.assert_array_equal(trace._coefficients[0][0], 0.0)  # the first occurrence has nothing to validate
    np.testing.assert_array_equal(trace._coefficients[1], 0.0)  # nor has either item
    np.testing.assert_array_equal(trace._inputs_then[0][1], inputs[0])


STREAM = synthetic_stream(200, seed=9)


def test_the_next_occurrence_counts_however_far():
    """One id occurs in the first mini-batch and again in the last; in between others alone."""
    others = [interaction(n) for n in range(1, 10)]
    by, store = trainer(config(validation="trace", context="batch"))
    steps(by, [interaction(0), *others], 1)
    before = by._learner._components.trace.second_order.copy()
    stamp = store.gather("trace.user", ["again"])[0, -1]
    by.step(MiniBatch.of(step=11, records=[interaction(10, user="again")], next_offsets={0: 11}))
    assert stamp == 1
    assert by._learner._components.trace.second_order[0] > before[0]


def interaction(n: int, user: str | None = None) -> Interaction:
    """The n-th interaction, of a user and an item of its own; the first is of the user who comes again."""
    return STREAM[n]._replace(user_id=user or ("again" if n == 0 else f"other{n}"), item_id=f"item{n}")


def test_the_second_order_term_moves_the_controllers():
    first, both = (steps(trainer(config(validation=v, controller_rate=0.05))[0], STREAM, 20) for v in ("next", "trace"))
    np.testing.assert_array_equal(first[:20], both[:20])
    assert np.abs(first - both).max() > 1e-6


@pytest.mark.parametrize("options", [{"method": "darts"}, {"method": "fse"}])
def test_trace_needs_controllers(options):
    with pytest.raises(Exception, match="trace"):
        config(validation="trace", **options)
