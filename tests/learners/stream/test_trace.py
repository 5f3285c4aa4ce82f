"""Validation through an id's next occurrence: the coefficient is the slope of the later loss in the earlier use, in float64."""

import numpy as np
import pytest

from autoemb_pipeline.columns import MiniBatch
from autoemb_pipeline.learners.stream.blocks import Blocks
from autoemb_pipeline.learners.stream.config import StreamConfig
from autoemb_pipeline.learners.stream.gates import ControllerGate
from autoemb_pipeline.learners.stream.trace import Trace, trace_tables
from autoemb_pipeline.records import Interaction
from autoemb_pipeline.state.memory import MemoryRowStore
from tests.learners.stream.running import config, steps, trainer
from tests.streams import synthetic_stream

BLOCKS = Blocks(dims=(2, 3, 6))
INPUTS = 4


def test_the_coefficient_is_the_slope_of_the_next_loss_in_the_use_of_the_last_step():
    rng = np.random.default_rng(0)
    trace = Trace(MemoryRowStore(trace_tables(BLOCKS, INPUTS)), BLOCKS, INPUTS, ControllerGate(StreamConfig()))
    use, inputs = BLOCKS.use_of(rng.dirichlet(np.ones(3), size=1))[0], rng.normal(size=(2, 2, INPUTS))
    trace.begin((["u"], ["a", "b"]), inputs)
    # the first interaction changed the user by A_j · direction, from `start` to `now`
    start, direction = rng.normal(size=6), rng.normal(size=6)
    change = BLOCKS.spread(use[None, :])[0] * direction
    trace.validate(0, (0, 0), np.ones(3), 0.3, np.stack([start, rng.normal(size=6)]))
    trace.remember(0, (0, 0), np.stack([change, np.zeros(6)]), np.stack([use, use]))
    gates, item, label, offset = rng.uniform(0.2, 1.0, size=3), rng.normal(size=6), 1.0, 0.4

    def loss(used: np.ndarray) -> float:
        now = start + BLOCKS.spread(used[None, :])[0] * direction
        s = offset + gates @ BLOCKS.sums((now * item)[None, :])[0]
        return float(np.log1p(np.exp(s)) - label * s)

    s = offset + gates @ BLOCKS.sums(((start + change) * item)[None, :])[0]
    trace.validate(1, (0, 1), gates, 1.0 / (1.0 + np.exp(-s)) - label, np.stack([start + change, item]))
    step = 1e-6
    slopes = [(loss(use + step * np.eye(3)[j]) - loss(use - step * np.eye(3)[j])) / (2 * step) for j in range(3)]
    np.testing.assert_allclose(trace.coefficients[0, 1], slopes, rtol=1e-7)
    np.testing.assert_array_equal(trace.coefficients[0, 0], 0.0)  # the first occurrence has nothing to validate
    np.testing.assert_array_equal(trace.coefficients[1], 0.0)  # nor has either item
    np.testing.assert_array_equal(trace.inputs_then[0, 1], inputs[0, 0])


@pytest.mark.parametrize("task", ["binary", "rating"])
@pytest.mark.parametrize("context", ["event", "strict", "batch"])
def test_one_operation_at_a_time_gives_what_all_at_once_give(context, task):
    """Until the controllers have moved: their first step follows the first mini-batch."""
    first, both = (steps(trainer(config(validation=v, context=context, task=task))[0], STREAM, 100) for v in ("next", "trace"))
    np.testing.assert_array_equal(first[:100], both[:100])


@pytest.mark.parametrize("task", ["binary", "rating"])
def test_the_slope_of_the_score_is_that_of_the_prediction(task, monkeypatch):
    """In context `event` an interaction's label is learnt right after its prediction."""
    by, _ = trainer(config(validation="trace", task=task, precision="float64"))
    trace = by._method._learner._components.trace
    slope, errors = trace._slope, []
    monkeypatch.setattr(trace, "_slope", lambda *a: errors.append(slope(*a)[1]) or slope(*a))
    predicted = steps(by, STREAM[:100], 100)
    ratings = np.array([r.rating for r in STREAM[:100]])
    if task == "binary":
        expected = predicted - (ratings > 3.5)
    else:
        levels = np.linspace(-1.0, 1.0, 5)
        expected = predicted @ levels - levels[np.clip(np.ceil(ratings), 1, 5).astype(int) - 1]
    np.testing.assert_allclose(errors, expected, rtol=1e-12, atol=1e-12)


STREAM = synthetic_stream(200, seed=9)


def test_the_next_occurrence_counts_however_far():
    """One id occurs in the first mini-batch and again in the last; in between others alone."""
    others = [interaction(n) for n in range(1, 10)]
    by, store = trainer(config(validation="trace", context="batch"))
    steps(by, [interaction(0), *others], 1)
    trace = by._method._learner._components.trace
    assert not trace.coefficients.any()
    stamp = store.gather("trace.user", ["again"])[0, -1]
    by.step(MiniBatch.of(step=11, records=[interaction(10, user="again")], next_offsets={0: 11}))
    assert stamp == 1
    assert trace.coefficients[0].any()
    assert not trace.coefficients[1].any()


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
