"""The stream learner's free logits against torch's, which the paper's learner has."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from autoemb_pipeline.learners.search.config import LOGIT_TABLES
from autoemb_pipeline.learners.search.encoding import EncodedBatch
from autoemb_pipeline.learners.search.factory import make_selector, selector_tables
from autoemb_pipeline.learners.stream.config import StreamConfig
from autoemb_pipeline.learners.stream.factory import blocks_of
from autoemb_pipeline.learners.stream.logits import LogitGate, logit_tables
from autoemb_pipeline.state.memory import MemoryRowStore

BATCH, CARRIED = 30, 4


@pytest.mark.parametrize("optimiser", ["sgd", "adagrad", "adam"])
def test_steps_are_those_of_torchs_autograd_and_optimisers(optimiser: str) -> None:
    config = StreamConfig(
        method="darts", dims=(2, 4, 8), precision="float64", row_precision="float32", logit_optimiser=optimiser, logit_rate=0.3
    )
    assert [(t.name, t.width, t.dtype) for t in logit_tables(config)] == [(t.name, t.width, t.dtype) for t in selector_tables(config)]
    store, torchs = MemoryRowStore(logit_tables(config)), MemoryRowStore(selector_tables(config))
    gate, selector = LogitGate(config, store, blocks_of(config)), make_selector(config, torchs, torch.device("cpu"))
    rng = np.random.default_rng(3)
    for _ in range(4):
        known = [tuple(f"{side}{i}" for i in rng.permutation(20)[:10]) for side in "ui"]
        local = np.stack([np.concatenate([np.full(CARRIED, 9), rng.integers(0, 9, BATCH)]) for _ in range(2)])
        opened = SimpleNamespace(ids=known, new=(9, 9), carried=CARRIED, interactions=SimpleNamespace(local=local))
        uses, slopes = gate.open(opened), rng.normal(size=(2, BATCH, 3))
        nothing = torch.zeros((0, 0), dtype=torch.float64)
        users, items = (torch.from_numpy(side[CARRIED:].copy()) for side in local)
        batch = EncodedBatch(
            user_ids=known[0][:9],
            item_ids=known[1][:9],
            user_index=users,
            item_index=items,
            user_inputs=nothing,
            item_inputs=nothing,
            features=nothing,
        )
        theta = selector.gather(batch)
        weights = theta.weights(batch)
        for own, expected, use in zip(gate.weights, weights, uses, strict=True):
            np.testing.assert_allclose(own, expected.detach().numpy(), rtol=1e-12)
            np.testing.assert_allclose(use, blocks_of(config).use_of(own), rtol=1e-12)
        gate.learn(slopes)
        loss = sum((w * torch.from_numpy(s)).sum() for w, s in zip(weights, slopes, strict=True))
        selector.apply([(theta, torch.autograd.grad(loss, list(theta.leaves)))])
    for table in LOGIT_TABLES:
        own, expected = dict(store.items(table)), dict(torchs.items(table))
        assert own.keys() == expected.keys()
        assert any(np.abs(row).max() > 0.1 for row in own.values())
        for identifier, row in own.items():
            np.testing.assert_allclose(row, expected[identifier], rtol=1e-9, atol=1e-12)
    with pytest.raises(RuntimeError):
        gate.learn(slopes)
