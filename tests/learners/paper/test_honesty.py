"""What a prediction may know (docs/architecture.md, Honesty), for every method, validation source and context mode."""

import copy
from dataclasses import replace

import numpy as np
import pytest

from autoemb_pipeline.context.tracker import ContextConfig, ContextTracker, context_tables
from autoemb_pipeline.learners.factory import learner_tables, make_learner
from autoemb_pipeline.learners.paper.config import holdout_mask
from autoemb_pipeline.prequential.labels import labels_of
from autoemb_pipeline.state.memory import MemoryRowStore
from tests.learners.paper.batches import EVERY, batch_of, learner_of, name_of, small_config
from tests.streams import ratings_of, synthetic_stream

BATCH, BATCHES, FLIPPED = 12, 5, 3
STREAM = synthetic_stream(BATCH * BATCHES, seed=1)


class Run:
    """Context and learner over one store. A copy of it goes on by itself."""

    def __init__(self, config, mode):
        self.config = config
        context_config = ContextConfig(mode=mode, spaces=len(config.dims), with_classes=config.task == "rating")
        store = MemoryRowStore((*context_tables(context_config), *learner_tables(config)))
        self.context, self.learner = ContextTracker(context_config, store), make_learner(config, store)

    def predictions(self, steps, flip=None):
        """Probabilities of these mini-batches, with the rating at position `flip` turned round."""
        stream = list(STREAM)
        if flip is not None:
            stream[flip] = stream[flip]._replace(rating=1.0 if stream[flip].rating > 3.5 else 5.0)
        return [self._step(step, stream[step * BATCH : (step + 1) * BATCH]) for step in steps]

    def _step(self, step, records):
        labels = labels_of(ratings_of(records))
        config = self.config
        held_out = holdout_mask(BATCH, fraction=0.3, seed=config.seed, step=step) if config.validation == "holdout" else None
        made = self.learner.predict(self.context.observe(records, labels, held_out))
        losses = self.learner.update(labels)
        self.context.record(losses, made.user_weights, made.item_weights, held_out)
        return made.probabilities


MODES = ("batch", "event", "strict")
TAKING_CONTEXT = [options for options in EVERY if small_config(**options).takes_context]
OTHERS = [options for options in EVERY if options not in TAKING_CONTEXT]


@pytest.mark.parametrize("options", OTHERS, ids=name_of)
def test_the_papers_network_learns_the_same_whatever_the_mode(options):
    runs = [Run(small_config(**options), mode).predictions(range(FLIPPED)) for mode in MODES]
    np.testing.assert_array_equal(runs[0], runs[1])
    np.testing.assert_array_equal(runs[0], runs[2])


@pytest.mark.parametrize(
    ("options", "mode"),
    [(o, "event") for o in OTHERS] + [(o, m) for o in TAKING_CONTEXT for m in MODES],
    ids=lambda value: value if isinstance(value, str) else name_of(value),
)
def test_a_label_changes_later_predictions_only(options, mode):
    config = small_config(hidden=(4,), controller_hidden=(4,), dense_rate=0.02, controller_rate=0.02, **options)
    run = Run(config, mode)
    run.predictions(range(FLIPPED))  # no label has been flipped yet
    positions = (0, BATCH // 2, BATCH - 1) if config.xi == 0 else (BATCH // 2,)
    copies = [copy.deepcopy(run) for _ in positions]
    base = run.predictions(range(FLIPPED, BATCHES))
    for position, other in zip(positions, copies, strict=True):
        flipped = other.predictions(range(FLIPPED, BATCHES), FLIPPED * BATCH + position)
        # features may hold labels of earlier interactions of the mini-batch; tests/run/test_honesty.py says which
        blind = slice(position + 1) if config.takes_context and mode != "batch" else slice(None)
        np.testing.assert_array_equal(base[0][blind], flipped[0][blind])
        assert any(not np.array_equal(a, b) for a, b in zip(base[1:], flipped[1:], strict=True))


@pytest.mark.parametrize(("normalisation", "transductive"), [("batch", True), ("layer", False)])
def test_only_batch_norm_sees_who_shares_the_batch(normalisation, transductive):
    config = small_config(normalisation=normalisation, dense_rate=0.05)
    learner, _ = learner_of(config)
    for seed in range(3):
        inputs, labels = batch_of(seed)
        learner.predict(inputs)
        learner.update(labels)
    inputs, _ = batch_of(7)
    before = learner.predict(inputs).probabilities
    others = replace(inputs, user_ids=[*inputs.user_ids[:4], "a", "b", "c", "d"], item_ids=[*inputs.item_ids[:4], "e", "f", "g", "h"])
    after = learner.predict(others).probabilities
    assert np.array_equal(before[:4], after[:4]) is not transductive
    assert not np.array_equal(before[4:], after[4:])
