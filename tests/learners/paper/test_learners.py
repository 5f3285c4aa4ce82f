"""What every method promises behind the learner interface: one list of checks over all of them."""

from dataclasses import replace

import numpy as np
import pytest
import safetensors.numpy
import torch

from autoemb_pipeline.errors import AutoembError, CheckpointError, ConfigurationError
from autoemb_pipeline.learners.common.losses import prediction_losses
from autoemb_pipeline.learners.config import METHODS
from autoemb_pipeline.learners.factory import learner_tables, make_learner
from autoemb_pipeline.records import Labels
from autoemb_pipeline.state.memory import MemoryRowStore
from tests.learners.paper.batches import (
    EVERY,
    batch_of,
    learner_of,
    name_of,
    needs_holdout,
    small_config,
    snapshot,
    state_bytes,
    step,
)

every = pytest.mark.parametrize("options", EVERY, ids=name_of)
tasks = pytest.mark.parametrize("task", ["binary", "rating"])
searching = pytest.mark.parametrize("options", [o for o in EVERY if o["method"] in ("sam", "darts", "autoemb")], ids=name_of)


def as_in_a_checkpoint(state):
    """Through the checkpoint's file format, which does not keep the tensors' order."""
    return safetensors.numpy.load(safetensors.numpy.save(dict(state)))


def test_methods_are_those_of_the_paper_and_equal_weights():
    assert METHODS == ("fse", "fse-uniform", "sam", "darts", "autoemb")
    assert {o["method"] for o in EVERY} == set(METHODS)


@every
@tasks
def test_predictions_are_distributions_and_losses_are_theirs(options, task):
    config = small_config(task=task, **options)
    learner, _ = learner_of(config)
    for seed in range(3):
        inputs, labels = batch_of(seed)
        predictions = learner.predict(needs_holdout(inputs, config))
        p = predictions.probabilities
        assert p.shape == ((8,) if task == "binary" else (8, 5))
        assert ((p > 0) & (p < 1)).all()
        if task == "rating":
            np.testing.assert_allclose(p.sum(axis=1), 1.0, rtol=1e-12)
        np.testing.assert_array_equal(learner.update(labels), prediction_losses(p, labels))


@every
def test_predict_changes_nothing_and_repeats_itself(options):
    config = small_config(**options)
    learner, store = learner_of(config)
    for seed in range(3):
        step(learner, config, seed)
    before = snapshot(store, config), state_bytes(learner)
    inputs, _ = batch_of(9)
    first, again = (learner.predict(needs_holdout(inputs, config)) for _ in range(2))
    assert (snapshot(store, config), state_bytes(learner)) == before
    np.testing.assert_array_equal(first.probabilities, again.probabilities)


@every
def test_a_repeated_batch_is_learnt(options):
    config = small_config(dense_rate=0.02, **options)
    learner, _ = learner_of(config)
    inputs, labels = batch_of(0)
    losses = []
    for _ in range(20):
        learner.predict(needs_holdout(inputs, config))
        losses.append(learner.update(labels).mean())
    trained = learner_trains_on(config)
    assert losses[-1] < losses[0] * (0.5 if trained == "all" else 0.9)


def learner_trains_on(config):
    return "part" if config.validation == "holdout" and config.method in ("darts", "autoemb") else "all"


@every
def test_a_restored_learner_goes_on_to_the_same_bits(options):
    config = small_config(**options)
    learner, store = learner_of(config)
    for seed in range(4):
        step(learner, config, seed)
    copy, other = learner_of(config)
    for spec in learner_tables(config):
        for identifier, row in store.items(spec.name):
            other.scatter(spec.name, [identifier], row[None])
    copy.load_state_dict(as_in_a_checkpoint(learner.state_dict()))
    for seed in range(4, 8):
        one, other_one = step(learner, config, seed), step(copy, config, seed)
        np.testing.assert_array_equal(one[0].probabilities, other_one[0].probabilities)
    assert snapshot(store, config) == snapshot(other, config)
    assert state_bytes(learner) == state_bytes(copy)


@every
def test_weights_are_given_where_dimensions_are_searched_and_state_is_a_copy(options):
    config = small_config(**options)
    learner, _ = learner_of(config)
    for seed in range(3):
        predictions, _ = step(learner, config, seed)
    for weights in (predictions.user_weights, predictions.item_weights):
        if options["method"].startswith("fse"):
            assert weights is None
        else:
            assert weights.shape == (8, 3)
            np.testing.assert_allclose(weights.sum(axis=1), 1.0, rtol=1e-12)
            assert not np.allclose(weights, 1 / 3)
    state = learner.state_dict()
    frozen = {name: array.copy() for name, array in state.items()}
    step(learner, config, 3)
    assert all(np.array_equal(state[name], frozen[name]) for name in state)
    assert all(type(array) is np.ndarray and array.flags.c_contiguous and array.base is None for array in state.values())


@every
def test_the_seed_decides_and_the_global_generator_is_neither_used_nor_moved(options):
    runs = []
    for number, seed in enumerate((1, 1, 2)):
        config = small_config(seed=seed, **options)
        torch.manual_seed(number)
        before = torch.random.get_rng_state()
        learner, _ = learner_of(config)
        runs.append([step(learner, config, k)[0].probabilities for k in range(2)])
        assert torch.equal(before, torch.random.get_rng_state())
    np.testing.assert_array_equal(runs[0], runs[1])
    assert not np.array_equal(runs[0][1], runs[2][1])


@every
@pytest.mark.parametrize("normalisation", ["batch", "layer"])
def test_odd_batches(options, normalisation):
    config = small_config(normalisation=normalisation, **options)
    learner, _ = learner_of(config)
    one, one_user, all_new = {"size": 1}, {"users": 1}, {"users": 10_000, "items": 10_000}
    for seed, shape in enumerate(({}, one, one, one_user, one_user, all_new, all_new)):
        predictions, losses = step(learner, config, seed, **shape)
        assert np.isfinite(predictions.probabilities).all(), shape
        assert np.isfinite(losses).all(), shape
        assert all(np.isfinite(array).all() for array in learner.state_dict().values()), shape


@pytest.mark.parametrize("method", METHODS)
def test_one_space(method):
    config = small_config(method=method, dims=(4,))
    learner, _ = learner_of(config)
    for seed in range(3):
        predictions, _ = step(learner, config, seed)
    if predictions.user_weights is not None:
        np.testing.assert_array_equal(predictions.user_weights, np.ones((8, 1)))


@every
def test_a_step_reads_and_writes_no_rows_but_those_it_needs(options):
    config = small_config(**options)
    store = Watching(MemoryRowStore(learner_tables(config)))
    learner = make_learner(config, store)
    for seed in range(5):
        step(learner, config, seed, users=500, items=500)
    store.gathered.clear()
    store.scattered.clear()
    inputs, labels = batch_of(6, users=500, items=500)
    learner.predict(needs_holdout(inputs, config))
    learner.update(labels)
    named = set(inputs.user_ids) | set(inputs.item_ids)
    assert set(store.scattered) <= named | set(store.gathered)
    bound = 8 if config.validation != "replay" else 8 + config.validation_size
    assert len(store.gathered) <= 6 * 2 * bound
    if config.validation != "replay" and config.xi == 0:
        assert set(store.gathered) <= named


class Watching:
    def __init__(self, store):
        self.store, self.gathered, self.scattered = store, [], []

    def gather(self, table, ids):
        self.gathered += ids
        return self.store.gather(table, ids)

    def scatter(self, table, ids, rows):
        self.scattered += ids
        self.store.scatter(table, ids, rows)


@pytest.mark.parametrize("method", ["fse", "sam", "autoemb"])
def test_the_first_step_gathers_each_row_once_and_writes_it_once(method):
    config = small_config(method=method)
    store = Watching(MemoryRowStore(learner_tables(config)))
    step(make_learner(config, store), config, 0)
    assert len(store.gathered) == len(set(store.gathered))
    assert sorted(store.scattered) == sorted(store.gathered)


def test_update_without_predict_is_an_error():
    config = small_config()
    learner, _ = learner_of(config)
    _, labels = batch_of(0)
    with pytest.raises(AutoembError, match="update came without predict"):
        learner.update(labels)
    step(learner, config, 0)
    with pytest.raises(AutoembError, match="update came without predict"):
        learner.update(labels)


def test_labels_of_another_length_and_empty_batches_are_errors():
    learner, _ = learner_of(small_config())
    inputs, labels = batch_of(0)
    learner.predict(inputs)
    with pytest.raises(AutoembError, match="7 labels came for 8"):
        learner.update(Labels(binary=labels.binary[:7], classes=labels.classes[:7]))
    with pytest.raises(AutoembError, match="empty mini-batch"):
        learner.predict(replace(inputs, user_ids=[], item_ids=[]))


def test_divergence_is_named():
    config = small_config(method="fse", task="rating", dense_optimiser="sgd", dense_rate=1e300, row_rate=1e300, row_optimiser="sgd")
    learner, _ = learner_of(config)
    step(learner, config, 0)
    step(learner, config, 1)
    with pytest.raises(AutoembError, match="predictions are not finite"):
        learner.predict(batch_of(2)[0])


def test_holdout_without_a_mask_is_an_error():
    learner, _ = learner_of(small_config(validation="holdout"))
    inputs, labels = batch_of(0)
    learner.predict(inputs)
    with pytest.raises(ConfigurationError, match="held_out"):
        learner.update(labels)


@pytest.mark.parametrize("change", [{"hidden": (7, 4)}, {"dense_optimiser": "adagrad"}, {"precision": "float32"}, {"method": "fse"}])
def test_a_foreign_checkpoint_is_refused(change):
    learner, _ = learner_of(small_config())
    foreign, _ = learner_of(small_config(**change))
    with pytest.raises(CheckpointError):
        learner.load_state_dict(foreign.state_dict())
