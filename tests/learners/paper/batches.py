"""Mini-batches and small learners for the tests of this folder."""

from dataclasses import replace

import numpy as np
import torch

from autoemb_pipeline.learners.factory import learner_tables, make_learner
from autoemb_pipeline.learners.paper.config import PaperConfig, ResidualConfig
from autoemb_pipeline.learners.paper.factory import make_model
from autoemb_pipeline.records import Labels, LearnerInputs, SideContext
from autoemb_pipeline.state.memory import MemoryRowStore

SMALL = {"dims": (2, 3, 5), "hidden": (6, 4), "controller_hidden": (5, 4), "precision": "float64", "embedding_std": 0.3}

BILEVEL = [
    (method, validation, xi, unroll)
    for method in ("darts", "autoemb")
    for validation in ("next", "replay", "holdout")
    for xi, unroll in ((0.0, "exact"), (1.0, "exact"), (1.0, "finite-difference"))
]
EVERY = [{"method": m} for m in ("fse", "fse-uniform", "sam")] + [
    {"method": m, "validation": v, "xi": xi, "unroll": unroll} for m, v, xi, unroll in BILEVEL
]
EVERY += [{"preset": "residual", "method": m} for m in ("fse", "fse-uniform", "sam", "darts")]
EVERY += [
    {"preset": "residual", "method": "autoemb", "validation": v, "xi": xi}
    for v, xi in (("next", 0.0), ("next", 1.0), ("replay", 0.0), ("holdout", 0.0))
]


def name_of(options):
    return "-".join(str(v) for v in options.values())


def small_config(**changes):
    kind = ResidualConfig if changes.get("preset") == "residual" else PaperConfig
    return kind(**{**SMALL, **changes})


def side_context(rng, size, spaces):
    weights = rng.dirichlet(np.ones(spaces), size=size)
    return SideContext(
        count=rng.integers(0, 200, size=size).astype(np.float64),
        previous_weights=weights,
        previous_loss=rng.uniform(0, 0.5, size=size),
        fading_loss=rng.uniform(0, 0.5, size=size),
    )


def batch_of(seed, size=8, users=4, items=6, spaces=3, held_out=None):
    """Random inputs and labels of one mini-batch; ids repeat."""
    rng = np.random.default_rng(seed)
    inputs = LearnerInputs(
        user_ids=[f"u{k}" for k in rng.integers(users, size=size)],
        item_ids=[f"i{k}" for k in rng.integers(items, size=size)],
        features=rng.normal(size=(size, 16)),
        users=side_context(rng, size, spaces),
        items=side_context(rng, size, spaces),
        global_loss=0.25,
        held_out=held_out,
        class_probabilities=np.random.default_rng(seed).dirichlet(np.full(5, 2.0), size=size),
    )
    labels = Labels(binary=rng.integers(2, size=size).astype(np.float64), classes=rng.integers(5, size=size))
    return inputs, labels


def needs_holdout(inputs, config, fraction=0.4):
    """The inputs with some interactions held out where the configuration validates on such."""
    if config.validation != "holdout" or config.method not in ("darts", "autoemb"):
        return inputs
    held_out = np.arange(len(inputs.user_ids)) % round(1 / fraction) == 0
    return replace(inputs, held_out=held_out)


def learner_of(config):
    store = MemoryRowStore(learner_tables(config))
    return make_learner(config, store), store


def model_of(config):
    store = MemoryRowStore(learner_tables(config))
    return make_model(config, store, torch.device(config.device)), store


def step(learner, config, seed, **shape):
    inputs, labels = batch_of(seed, spaces=len(config.dims), **shape)
    predictions = learner.predict(needs_holdout(inputs, config))
    return predictions, learner.update(labels)


def snapshot(store, config):
    """Every row of every table, as bytes."""
    return {spec.name: {i: row.tobytes() for i, row in store.items(spec.name)} for spec in learner_tables(config)}


def state_bytes(learner):
    return {name: array.tobytes() for name, array in learner.state_dict().items()}
