"""What a prediction may know (docs/architecture.md, Honesty), for every method, validation source and context mode."""

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

BATCH, BATCHES, FLIPPED = 12, 6, 3
STREAM = synthetic_stream(BATCH * BATCHES, seed=1)


def predictions(config, mode, flip):
    """Probabilities by mini-batch, with the rating at position `flip` turned round."""
    stream = list(STREAM)
    if flip is not None:
        stream[flip] = stream[flip]._replace(rating=1.0 if stream[flip].rating > 3.5 else 5.0)
    context_config = ContextConfig(mode=mode, spaces=len(config.dims), with_classes=config.task == "rating")
    store = MemoryRowStore((*context_tables(context_config), *learner_tables(config)))
    context, learner = ContextTracker(context_config, store), make_learner(config, store)
    out = []
    for step in range(BATCHES):
        records = stream[step * BATCH : (step + 1) * BATCH]
        labels = labels_of(ratings_of(records))
        held_out = holdout_mask(BATCH, fraction=0.3, seed=config.seed, step=step) if config.validation == "holdout" else None
        made = learner.predict(context.observe(records, labels, held_out))
        out.append(made.probabilities)
        losses = learner.update(labels)
        context.record(losses, made.user_weights, made.item_weights, held_out)
    return out


@pytest.mark.parametrize("mode", ["batch", "event", "strict"])
@pytest.mark.parametrize("options", EVERY, ids=name_of)
def test_a_label_changes_later_predictions_only(options, mode):
    config = small_config(hidden=(4,), controller_hidden=(4,), dense_rate=0.02, controller_rate=0.02, **options)
    base = predictions(config, mode, None)
    for position in (0, BATCH // 2, BATCH - 1) if config.xi == 0 else (BATCH // 2,):
        flipped = predictions(config, mode, FLIPPED * BATCH + position)
        for step in range(FLIPPED + 1):
            # features may hold labels of earlier interactions of the mini-batch; tests/run/test_honesty.py says which
            knows_earlier = config.takes_context and mode != "batch" and step == FLIPPED
            blind = slice(position + 1) if knows_earlier else slice(None)
            np.testing.assert_array_equal(base[step][blind], flipped[step][blind])
        assert any(not np.array_equal(a, b) for a, b in zip(base[FLIPPED + 1 :], flipped[FLIPPED + 1 :], strict=True))


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
