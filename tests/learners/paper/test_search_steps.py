"""Which step moves what: Θ and W, held-out labels, hard selection."""

import copy
from dataclasses import replace

import numpy as np
import pytest

from autoemb_pipeline.learners.config import METHODS
from autoemb_pipeline.learners.factory import learner_tables, make_learner
from autoemb_pipeline.learners.paper.forward import gradients
from autoemb_pipeline.records import Labels
from tests.learners.paper.batches import EVERY, batch_of, learner_of, model_of, name_of, small_config, snapshot, state_bytes, step

tasks = pytest.mark.parametrize("task", ["binary", "rating"])
searching = pytest.mark.parametrize("options", [o for o in EVERY if o["method"] in ("sam", "darts", "autoemb")], ids=name_of)


@pytest.mark.parametrize("method", METHODS)
@tasks
def test_held_out_labels_reach_no_weight(method, task):
    config = small_config(method=method, task=task)
    held_out = np.arange(8) % 3 == 0
    results = []
    for flip in (False, True):
        learner, store = learner_of(config)
        for seed in range(3):
            inputs, labels = batch_of(seed, held_out=held_out)
            if flip:
                labels = Labels(
                    binary=np.where(held_out, 1 - labels.binary, labels.binary),
                    classes=np.where(held_out, 4 - labels.classes, labels.classes),
                )
            learner.predict(inputs)
            if method in ("darts", "autoemb"):
                break
            learner.update(labels)
        results.append((snapshot(store, config), state_bytes(learner)))
    assert results[0] == results[1]


@pytest.mark.parametrize("method", ["darts", "autoemb"])
def test_held_out_labels_move_theta_but_not_this_steps_w(method):
    config = small_config(method=method, validation="holdout", dense_rate=0.05)
    held_out = np.arange(8) % 3 == 0
    results = []
    for flip in (False, True):
        learner, store = learner_of(config)
        step(learner, config, 0)
        inputs, labels = batch_of(1, held_out=held_out)
        binary = np.where(held_out, 1 - labels.binary, labels.binary) if flip else labels.binary
        learner.predict(inputs)
        learner.update(Labels(binary=binary, classes=labels.classes))
        rows = snapshot(store, config)
        state = state_bytes(learner)
        w = {k: v for k, v in state.items() if k.startswith("recommender")}, rows["embedding.user"], rows["embedding.item"]
        theta = {k: v for k, v in state.items() if k.startswith("controllers")}, rows.get("logits.user"), rows.get("logits.item")
        results.append((w, theta))
    assert results[0][0] == results[1][0]
    assert results[0][1] != results[1][1]


def test_a_batch_that_is_held_out_altogether_trains_nothing():
    config = small_config(method="fse")
    learner, store = learner_of(config)
    before = state_bytes(learner)
    inputs, labels = batch_of(0, held_out=np.ones(8, dtype=bool))
    learner.predict(inputs)
    learner.update(labels)
    assert state_bytes(learner) == before
    assert store.count("embedding.user") == 0


@searching
def test_thetas_step_leaves_w_untouched_and_ws_step_theta(options):
    config = small_config(**options)
    warm, warm_store = learner_of(config)
    for seed in range(3):  # before it, the zero output layer gives Θ no gradient
        step(warm, config, seed)
    for frozen, rates in (("w", ("dense_rate", "row_rate")), ("theta", ("controller_rate", "logit_rate"))):
        store = copy.deepcopy(warm_store)
        learner = make_learner(replace(config, **dict.fromkeys(rates, 0.0)), store)
        learner.load_state_dict(warm.state_dict())
        start = numbers(learner, store, config)
        for seed in range(3, 6):
            step(learner, config, seed)
        end = numbers(learner, store, config)
        changed = {of: {k for k in start[of] if not np.array_equal(start[of][k], end[of][k])} for of in ("w", "theta")}
        assert not changed[frozen]
        assert len(changed["theta" if frozen == "w" else "w"]) > 2


def numbers(learner, store, config):
    """Every number of W and of Θ by name, without the optimisers'."""
    out = {"w": {}, "theta": {}}
    for name, array in learner.state_dict().items():
        group, _, kind = name.partition("/")
        if kind.startswith("value/"):
            out["w" if group == "recommender" else "theta"][name] = array
    for spec in learner_tables(config):
        own = out["w" if spec.name.startswith("embedding") else "theta"]
        half = spec.width // 2  # Adagrad keeps as many
        own.update({f"{spec.name}/{identifier}": row[:half] for identifier, row in store.items(spec.name)})
    return out


def test_first_order_next_and_sam_have_the_same_gradient_for_theta():
    inputs, labels = batch_of(5)
    found = {}
    for method in ("sam", "autoemb"):
        config = small_config(method=method, dense_optimiser="sgd", row_optimiser="sgd", controller_optimiser="sgd", controller_rate=0.1)
        learner, _ = learner_of(config)
        warm, _ = learner_of(small_config(method="sam"))
        for seed in range(3):
            step(warm, config, seed)
        learner.load_state_dict({k: v for k, v in warm.state_dict().items() if "/state" not in k})
        before = learner.state_dict()
        learner.predict(inputs)
        learner.update(labels)
        after = learner.state_dict()
        found[method] = {k: after[k] - before[k] for k in before if k.startswith("controllers/value")}
    assert any(np.abs(v).max() > 0 for v in found["sam"].values())
    for name, change in found["sam"].items():
        np.testing.assert_allclose(found["autoemb"][name], change, rtol=1e-12, atol=0)


def test_next_trains_w_with_the_renewed_controllers_and_sam_with_the_old():
    config = small_config(controller_rate=0.5)
    ends = {}
    for method in ("sam", "autoemb"):
        learner, _ = learner_of(replace(config, method=method))
        for seed in range(3):
            step(learner, config, seed)
        ends[method] = learner.state_dict()["recommender/value/predictor.0.weight"]
    assert not np.array_equal(ends["sam"], ends["autoemb"])


def test_fse_uniform_is_autoemb_with_controllers_at_rest():
    results = []
    for method in ("fse-uniform", "autoemb", "sam"):
        config = small_config(method=method, controller_rate=0.0)
        learner, _ = learner_of(config)
        results.append([step(learner, config, seed)[0].probabilities for seed in range(4)])
    np.testing.assert_allclose(results[0], results[1], rtol=1e-12)
    np.testing.assert_allclose(results[0], results[2], rtol=1e-12)


def test_darts_moves_the_logits_of_its_validation_ids_only():
    config = small_config(method="darts", logit_rate=0.1)
    learner, store = learner_of(config)
    for seed in range(2):
        step(learner, config, seed)
    before = snapshot(store, config)["logits.user"]
    inputs, labels = batch_of(2, users=2)
    learner.predict(inputs)
    learner.update(labels)
    after = snapshot(store, config)["logits.user"]
    changed = {i for i in after if after[i] != before.get(i)}
    assert changed
    assert changed <= set(inputs.user_ids)


@pytest.mark.parametrize("method", ["sam", "darts", "autoemb"])
@pytest.mark.parametrize("validation", ["next", "replay"])
def test_hard_selection_predicts_with_one_space_and_still_learns_weights(method, validation):
    config = small_config(method=method, validation=validation, selection="hard", controller_rate=0.05)
    learner, _ = learner_of(config)
    model, _ = model_of(config)
    inputs, _ = batch_of(0)
    batch = model.encode(inputs)
    forward = model.forward(batch)
    assert all(not g.any() for g in gradients(forward.logits.sum(), list(forward.theta.leaves)))
    for seed in range(4):
        predictions, _ = step(learner, config, seed)
    assert not np.allclose(predictions.user_weights, 1 / 3)
