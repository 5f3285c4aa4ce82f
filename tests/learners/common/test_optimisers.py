"""Row-wise and dense optimisers against torch's own, in float64."""

import numpy as np
import pytest
import torch

from autoemb_pipeline.learners.common.dense import DenseParameters
from autoemb_pipeline.learners.common.layers import Affine
from autoemb_pipeline.learners.common.optimisers import Adagrad, Adam, Sgd, stepped
from autoemb_pipeline.learners.common.tables import EmbeddingTable, TablePlan
from autoemb_pipeline.state.memory import MemoryRowStore

IDS = tuple("abcdef")
WIDTH = 3
CPU = torch.device("cpu")


def gathered_run(optimiser, batches):
    """Values of all ids after stepping only the ids of each batch through the store."""
    plan = TablePlan(name="t", width=WIDTH, std=0.5, optimiser=optimiser, seed=1, dtype=torch.float64)
    store = MemoryRowStore((plan.spec(),))
    table = EmbeddingTable(plan, store, CPU)
    start = table.gather(IDS).values.detach().clone()
    for number, (ids, gradient) in enumerate(batches, start=1):
        table.apply(table.gather(ids), gradient, number)
    return start, table.gather(IDS).values.detach()


def dense_run(make, start, batches, *, sparse=False):
    parameter = torch.nn.Parameter(start.clone())
    optimiser = make([parameter])
    for ids, gradient in batches:
        full = torch.zeros_like(start)
        full[[IDS.index(i) for i in ids]] = gradient
        parameter.grad = full.to_sparse(1) if sparse else full
        optimiser.step()
    return parameter.detach()


def batches(every=()):
    rng = np.random.default_rng(0)
    out = []
    for _ in range(6):
        ids = tuple(dict.fromkeys([*every, *rng.choice(IDS, size=3, replace=False).tolist()]))
        out.append((ids, torch.as_tensor(rng.normal(size=(len(ids), WIDTH)))))
    return out


def test_gathered_sgd_is_dense_sgd():
    steps = batches()
    start, values = gathered_run(Sgd(rate=0.1), steps)
    torch.testing.assert_close(values, dense_run(lambda p: torch.optim.SGD(p, lr=0.1), start, steps), rtol=1e-12, atol=0)


@pytest.mark.parametrize("accumulator", [0.0, 0.1])
def test_gathered_adagrad_is_dense_adagrad_on_every_row(accumulator):
    steps = batches()
    start, values = gathered_run(Adagrad(rate=0.1, initial=accumulator), steps)
    reference = dense_run(lambda p: torch.optim.Adagrad(p, lr=0.1, initial_accumulator_value=accumulator), start, steps)
    torch.testing.assert_close(values, reference, rtol=1e-7, atol=1e-9)


def test_gathered_adam_is_sparse_adam_but_for_where_epsilon_is_added():
    steps = batches()
    start, values = gathered_run(Adam(rate=0.1), steps)
    reference = dense_run(lambda p: torch.optim.SparseAdam(p, lr=0.1), start, steps, sparse=True)
    torch.testing.assert_close(values, reference, rtol=1e-4, atol=1e-6)


def test_gathered_adam_is_dense_adam_on_rows_of_every_batch_and_leaves_absent_rows_at_rest():
    steps = batches(every=("a", "b"))
    start, values = gathered_run(Adam(rate=0.1), steps)
    reference = dense_run(lambda p: torch.optim.Adam(p, lr=0.1), start, steps)
    torch.testing.assert_close(values[:2], reference[:2], rtol=1e-10, atol=1e-12)
    last_ids = steps[-1][0]
    once = [i for i in IDS if i not in last_ids and any(i in ids for ids, _ in steps)]
    assert once
    for identifier in once:
        row = IDS.index(identifier)
        assert not torch.allclose(values[row], reference[row])
    _, before_last = gathered_run(Adam(rate=0.1), steps[:-1])
    resting = [IDS.index(i) for i in IDS if i not in last_ids]
    assert torch.equal(values[resting], before_last[resting])


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (Sgd(rate=0.1), lambda p: torch.optim.SGD(p, lr=0.1)),
        (Adagrad(rate=0.1), lambda p: torch.optim.Adagrad(p, lr=0.1)),
        (Adam(rate=0.1), lambda p: torch.optim.Adam(p, lr=0.1)),
    ],
    ids=["sgd", "adagrad", "adam"],
)
def test_dense_groups_are_torchs_optimisers(ours, theirs):
    rng = np.random.default_rng(1)
    module = Affine(rng.normal(size=(3, 2)))
    parameters = [torch.nn.Parameter(v.detach().clone()) for v in module.parameters()]
    group = DenseParameters("g", module, ours, dtype=torch.float64, device=CPU)
    optimiser = theirs(parameters)
    for _ in range(5):
        gradients = [torch.as_tensor(rng.normal(size=tuple(p.shape))) for p in parameters]
        group.apply(gradients)
        for parameter, gradient in zip(parameters, gradients, strict=True):
            parameter.grad = gradient.clone()
        optimiser.step()
    for value, parameter in zip(group.values.values(), parameters, strict=True):
        torch.testing.assert_close(value.detach(), parameter.detach(), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("optimiser", [Adagrad(rate=0.1), Adam(rate=0.1)], ids=["adagrad", "adam"])
@pytest.mark.parametrize("preconditioner", ["exact", "detached", "sgd"])
def test_preconditioner_modes_differ_in_slope_only_as_documented(optimiser, preconditioner):
    state = tuple(torch.full((4,), 0.5, dtype=torch.float64) for _ in range(optimiser.slots))
    gradient = torch.tensor([0.3, -0.2, 1.0, 0.05], dtype=torch.float64, requires_grad=True)
    direction, after = optimiser.direction(gradient, state, 3, preconditioner)
    real, real_after = optimiser.direction(gradient, state, 3)
    slope = torch.autograd.grad(direction.sum(), gradient)[0]
    if preconditioner == "sgd":
        assert torch.equal(slope, torch.ones(4, dtype=torch.float64))
    else:
        torch.testing.assert_close(direction, real)
    if preconditioner == "exact":
        h = 1e-6
        up, down = (optimiser.direction(gradient.detach() + s * h, state, 3)[0] for s in (1, -1))
        torch.testing.assert_close(slope, (up - down) / (2 * h), rtol=1e-7, atol=1e-9)
    if preconditioner == "detached":
        factor = 1.0 if isinstance(optimiser, Adagrad) else (1 - 0.9) / (1 - 0.9**3)
        squares = after[-1] if isinstance(optimiser, Adagrad) else after[-1] / (1 - 0.999**3)
        torch.testing.assert_close(slope, factor / (squares.detach().sqrt() + optimiser.epsilon), rtol=1e-12, atol=0)
    for one, other in zip(after, real_after, strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("optimiser", [Adagrad(rate=0.1), Adam(rate=0.1)], ids=["adagrad", "adam"])
def test_a_coordinate_that_never_had_a_gradient_has_no_slope(optimiser):
    state = tuple(torch.zeros(2, dtype=torch.float64) for _ in range(optimiser.slots))
    gradient = torch.tensor([0.0, 0.1], dtype=torch.float64, requires_grad=True)
    direction, _ = optimiser.direction(gradient, state, 1)
    slope = torch.autograd.grad(direction.sum(), gradient)[0]
    assert direction[0] == 0
    assert slope[0] == 0
    assert torch.isfinite(slope).all()


def test_adagrad_cancels_the_scale_of_a_gradient_at_an_empty_accumulator():
    zero = (torch.zeros(1, dtype=torch.float64),)
    one, two = (Adagrad(rate=0.1).direction(torch.tensor([g], dtype=torch.float64), zero, 1)[0] for g in (1e-3, 2e-3))
    torch.testing.assert_close(one, two)


@pytest.mark.parametrize("optimiser", [Sgd(rate=0.1), Adagrad(rate=0.1), Adam(rate=0.1)], ids=["sgd", "adagrad", "adam"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_step_is_its_direction_to_the_same_bits(optimiser, dtype):
    """What is differentiated for the second-order term is the update that is made."""
    generator = torch.Generator().manual_seed(3)
    values = [torch.randn(shape, generator=generator, dtype=dtype) for shape in ((7, 5), (5,), (300, 41))]
    states = [tuple(torch.zeros_like(value) for _ in range(optimiser.slots)) for value in values]
    for number in range(1, 5):
        gradients = [torch.randn(value.shape, generator=generator, dtype=dtype) * 0.01 for value in values]
        gradients[0][2:4] = 0.0
        for made, (new, kept) in (
            ("one by one", stepped(optimiser, values, gradients, states, number)),
            ("together", optimiser.step(values, gradients, states, number)),
        ):
            for value, gradient, state, own, own_state in zip(values, gradients, states, new, kept, strict=True):
                direction, after = optimiser.direction(gradient, state, number)
                assert torch.equal(own, value - optimiser.rate * direction), made
                assert all(map(torch.equal, own_state, after)), made
        values, states = new, kept
