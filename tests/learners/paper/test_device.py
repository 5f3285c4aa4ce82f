"""What a step asks of its device: nothing on two devices at once, no copy but across the border, and one wait. Run on torch's `meta`.

Without a GPU nothing here computes numbers on one; the tests at the end do where there is one.
"""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes
from torch.utils._pytree import tree_leaves

from autoemb_pipeline.learners.common import transfer
from autoemb_pipeline.learners.common.optimisers import make_optimiser
from autoemb_pipeline.learners.common.tables import EmbeddingTable, TablePlan
from autoemb_pipeline.learners.factory import learner_tables, resolve_device
from autoemb_pipeline.learners.paper.factory import make_paper_learner
from autoemb_pipeline.state.memory import MemoryRowStore
from tests.learners.paper.batches import EVERY, batch_of, learner_of, name_of, needs_holdout, small_config, step

META = torch.device("meta")
needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="torch finds no CUDA device here")


class OnOneDevice(TorchDispatchMode):
    """Fails where tensors of two devices meet, where one is copied to another device, and where the host asks for a number."""

    def __init__(self):
        super().__init__()
        self.operations = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        given = {leaf.device.type for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor)}
        assert len(given) <= 1, f"{function} meets tensors on {given}"
        assert function is not torch.ops.aten._local_scalar_dense.default, "the host waits for a number"
        result = function(*args, **kwargs)
        made = {leaf.device.type for leaf in tree_leaves(result) if isinstance(leaf, torch.Tensor)}
        assert not given or not made or made == given, f"{function} copies from {given} to {made}"
        self.operations += given == {"meta"}
        return result


@pytest.fixture
def border(monkeypatch):
    """Copies to and from `meta`, outside of what is watched. Returns the list of what the host waited for."""
    waits = []

    class Arriving:
        def __init__(self, tensor):
            self.shape = tensor.shape

        def wait(self):
            waits.append(tuple(self.shape))
            return np.zeros(self.shape, dtype=np.float32)

    def to_device(array, *, device, dtype=None):
        with _disable_current_modes():
            return torch.as_tensor(array, dtype=dtype).to(device)

    for module in ("common.tables", "common.losses", "search.encoding", "search.selectors", "paper.forward", "paper.hypergradient"):
        monkeypatch.setattr(f"autoemb_pipeline.learners.{module}.to_device", to_device)
    for module in ("common.tables", "paper.learner"):
        monkeypatch.setattr(f"autoemb_pipeline.learners.{module}.to_host", Arriving)
    return waits


@pytest.mark.parametrize("options", [*EVERY, {"selection": "hard"}, {"task": "rating"}, {"row_optimiser": "adam"}], ids=name_of)
def test_a_step_stays_on_its_device_and_waits_for_its_predictions_alone(options, border, monkeypatch):
    monkeypatch.setattr(EmbeddingTable, "__init__", _deferring(EmbeddingTable.__init__))
    config = small_config(precision="float32", **options)
    learner = make_paper_learner(config, MemoryRowStore(learner_tables(config)), "meta")
    for seed in range(2):
        inputs, labels = batch_of(seed, size=20)
        inputs = needs_holdout(inputs, config)
        border.clear()
        with OnOneDevice() as watched:
            learner.predict(inputs)
            assert len(border) == 1
            assert border[0][0] == 20
            learner.update(labels)
        assert watched.operations > 50
        # Stepped rows are of an earlier step: they had arrived before these predictions.
        assert all(len(shape) == 2 and shape[0] <= 20 for shape in border[1:])
        assert (len(border) > 1) == (seed > 0)


def _deferring(original):
    def made(self, plan, store, device, *, deferred=None):
        original(self, plan, store, device, deferred=True)

    return made


def test_the_watch_sees_what_it_is_there_for():
    here, there = torch.zeros(2), torch.zeros(2, device=META)
    with OnOneDevice():
        with pytest.raises(AssertionError, match="copies"):
            here.to(META)
        with pytest.raises(AssertionError, match="waits"):
            here.sum().item()
        with pytest.raises(AssertionError, match="meets"):
            torch.stack([here, there])


TABLE = TablePlan(name="t", width=2, std=0.3, optimiser=make_optimiser("adam", 0.1), seed=1, dtype=torch.float64)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.sets(st.sampled_from("abcdef"), min_size=1), st.booleans()), min_size=1, max_size=8))
def test_rows_that_reach_the_store_later_are_the_same_rows(steps):
    tables = []
    for deferred in (False, True):
        store = MemoryRowStore([TABLE.spec()])
        tables.append((EmbeddingTable(TABLE, store, torch.device("cpu"), deferred=deferred), store))
    for number, (ids, settles) in enumerate(steps, start=1):
        gathered = [table.gather(tuple(sorted(ids))) for table, _ in tables]
        assert torch.equal(gathered[0].values, gathered[1].values)
        assert all(map(torch.equal, gathered[0].state, gathered[1].state))
        gradient = torch.full_like(gathered[0].values, float(number)).detach()
        for (table, _), rows in zip(tables, gathered, strict=True):
            table.apply(rows, gradient, number)
        if settles:
            tables[1][0].settle()
    tables[1][0].settle()
    everything = tuple("abcdef")
    np.testing.assert_array_equal(*(store.gather("t", everything) for _, store in tables))


def test_a_checkpoint_has_the_rows_that_were_under_way(monkeypatch):
    config = small_config(method="darts")
    stored = []
    for deferred in (False, True):
        with monkeypatch.context() as patch:
            if deferred:
                patch.setattr(EmbeddingTable, "__init__", _deferring(EmbeddingTable.__init__))
            learner, store = learner_of(config)
        for seed in range(3):
            step(learner, config, seed)
        learner.state_dict()
        stored.append({spec.name: dict(store.records(spec.name)) for spec in learner_tables(config)})
    np.testing.assert_equal(stored[0], stored[1])


def test_a_copy_that_is_there_is_not_made_again():
    array = np.arange(4.0)
    tensor = transfer.to_device(array, device=torch.device("cpu"))
    assert tensor.data_ptr() == torch.from_numpy(array).data_ptr()
    assert transfer.to_host(tensor.requires_grad_()).wait().tolist() == [0, 1, 2, 3]


@needs_cuda
@pytest.mark.parametrize("options", EVERY, ids=name_of)
def test_a_gpu_learns_what_the_cpu_learns(options):
    assert resolve_device("auto") == "cuda"
    rows = []
    for device in ("cpu", "cuda"):
        config = small_config(device=device, **options)
        learner, store = learner_of(config)
        for seed in range(4):
            inputs, labels = batch_of(seed, size=20)
            predictions = learner.predict(needs_holdout(inputs, config))
            learner.update(labels)
        learner.state_dict()
        rows.append((predictions.probabilities, dict(store.records("embedding.user"))))
    np.testing.assert_allclose(rows[0][0], rows[1][0], rtol=1e-9)
    for identifier, row in rows[0][1].items():
        np.testing.assert_allclose(row, rows[1][1][identifier], rtol=1e-8, atol=1e-12)


@needs_cuda
def test_a_gpu_step_waits_once():
    config = small_config(device="cuda", precision="float32")
    learner, _ = learner_of(config)
    step(learner, config, 0)
    torch.cuda.set_sync_debug_mode("error")
    try:
        step(learner, config, 1)  # events that the step itself waits for are not what this mode refuses
    finally:
        torch.cuda.set_sync_debug_mode("default")
