"""Each equation of the paper against a plain NumPy version, in float64."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from autoemb_pipeline.learners.common.initial import seeded_generator
from autoemb_pipeline.learners.common.layers import Mlp
from autoemb_pipeline.learners.common.losses import interaction_losses, prediction_losses, probabilities
from autoemb_pipeline.learners.paper.network import (
    EPSILON,
    EmbeddingSpaces,
    FixedSizeNetwork,
    NetworkInputs,
    SelectingNetwork,
    largest,
    normalise,
    select,
)
from autoemb_pipeline.records import Labels

DIMS = (2, 3, 5)
WIDTH = DIMS[-1]
SIZE = 7


def randomised(module, seed=0):
    """The module with random numbers everywhere: zero layers would hide mistakes."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator, dtype=torch.float64))
    return module


def spaces_of(kind):
    return randomised(EmbeddingSpaces(DIMS, kind, seeded_generator(0, "u")))


def numbers(module):
    return dict(module.named_parameters())


def array(tensor):
    return tensor.detach().numpy()


@pytest.fixture
def rows():
    return torch.randn(SIZE, sum(DIMS), generator=torch.Generator().manual_seed(1), dtype=torch.float64)


@pytest.fixture
def weights():
    return torch.softmax(torch.randn(SIZE, 3, generator=torch.Generator().manual_seed(2), dtype=torch.float64), dim=1)


def numpy_spaces(parameters, prefix, rows):
    """Eq. 1, written as printed: W_nᵀ e for every embedding."""
    out, start = [], 0
    for n, dim in enumerate(DIMS):
        e = array(rows)[:, start : start + dim]
        w, b = array(parameters[f"{prefix}{n}.weight"]), array(parameters[f"{prefix}{n}.bias"])
        out.append(np.stack([w.T @ row + b for row in e]))
        start += dim
    return np.stack(out, axis=1)


def numpy_eq2(mapped, kind):
    axis = 0 if kind == "batch" else 2
    if kind == "none":
        return np.tanh(mapped)
    return np.tanh((mapped - mapped.mean(axis, keepdims=True)) / np.sqrt(mapped.var(axis, keepdims=True) + EPSILON))


def numpy_mlp(parameters, name, x, layers):
    for layer in range(layers):
        x = x @ array(parameters[f"{name}.{layer}.weight"]) + array(parameters[f"{name}.{layer}.bias"])
        if layer < layers - 1:
            x = np.tanh(x)
    return x


def test_eq1_maps_every_space_to_the_largest_dimension(rows):
    spaces = spaces_of("batch")
    mapped = spaces.transform(rows)
    assert mapped.shape == (SIZE, 3, WIDTH)
    np.testing.assert_allclose(array(mapped), numpy_spaces(numbers(spaces), "", rows), rtol=1e-12)


@pytest.mark.parametrize("kind", ["batch", "layer", "none"])
def test_eq2_normalises_and_squashes(rows, kind):
    spaces = spaces_of(kind)
    np.testing.assert_allclose(array(spaces(rows)), numpy_eq2(numpy_spaces(numbers(spaces), "", rows), kind), rtol=1e-9)


def test_eq2_batch_is_torchs_batch_norm_without_affine_and_running_statistics(rows):
    x = rows[:, None, :].repeat(1, 3, 1)
    expected = torch.nn.functional.batch_norm(x.reshape(SIZE, -1), None, None, training=True, eps=EPSILON).reshape(x.shape)
    torch.testing.assert_close(normalise(x, "batch"), expected)


def test_batch_norm_takes_the_gradient_from_eq1s_bias(rows, weights):
    network = randomised(selecting("batch"))
    parameters = numbers(network)
    loss = network(network_inputs(rows, weights)).square().sum()
    biases = [f"{side}_spaces.{n}.bias" for side in ("user", "item") for n in range(3)]
    largest_bias = max(float(g.abs().max()) for g in torch.autograd.grad(loss, [parameters[b] for b in biases], retain_graph=True))
    weight = torch.autograd.grad(loss, [parameters["user_spaces.1.weight"]])[0]
    assert largest_bias < 1e-12 * float(weight.abs().max()) + 1e-13


def test_layer_norm_leaves_eq1s_bias_its_gradient(rows, weights):
    network = randomised(selecting("layer"))
    loss = network(network_inputs(rows, weights)).square().sum()
    assert float(torch.autograd.grad(loss, [numbers(network)["user_spaces.1.bias"]])[0].abs().max()) > 1e-3


def test_a_batch_of_one_gives_zero_under_batch_norm(rows):
    assert not spaces_of("batch")(rows[:1]).any()


@pytest.mark.parametrize(("scale", "factor"), [("1/N", 1 / 3), ("1", 1.0)])
def test_eq7_is_a_weighted_mean_on_the_printed_scale(weights, scale, factor):
    spaces = torch.randn(SIZE, 3, WIDTH, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    expected = np.zeros((SIZE, WIDTH))
    for b in range(SIZE):
        for n in range(3):
            expected[b] += factor * array(weights)[b, n] * array(spaces)[b, n]
    np.testing.assert_allclose(array(select(spaces, weights, scale=scale)), expected, rtol=1e-12)


@pytest.mark.parametrize("scale", ["1/N", "1"])
def test_hard_selection_is_a_one_hot_soft_selection(weights, scale):
    spaces = torch.randn(SIZE, 3, WIDTH, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    hard = select(spaces, largest(weights), scale=scale)
    chosen = np.stack([array(spaces)[b, int(np.argmax(array(weights)[b]))] for b in range(SIZE)])
    np.testing.assert_allclose(array(hard), chosen / (3 if scale == "1/N" else 1), rtol=1e-12)


@given(st.lists(st.lists(st.sampled_from([0.0, 0.25, 0.5, 1.0]), min_size=3, max_size=3), min_size=1, max_size=5))
def test_largest_is_one_hot_at_the_first_largest_weight(table):
    chosen = array(largest(torch.tensor(table, dtype=torch.float64)))
    assert (chosen.sum(axis=1) == 1).all()
    assert (chosen.argmax(axis=1) == np.argmax(np.array(table), axis=1)).all()


def selecting(normalisation, outputs=1, seed=0, **options):
    return SelectingNetwork(DIMS, normalisation, (6, 4), outputs, seed, **options)


def network_inputs(rows, weights):
    return NetworkInputs(
        user_rows=rows, item_rows=rows.flip(1), user_weights=weights, item_weights=weights.flip(1), features=torch.zeros(SIZE, 16)
    )


@pytest.mark.parametrize("outputs", [1, 5])
def test_eq4_and_5_of_the_selecting_network(rows, weights, outputs):
    network = randomised(selecting("batch", outputs))
    p = numbers(network)
    inputs = network_inputs(rows, weights)
    sides = [
        (numpy_eq2(numpy_spaces(p, name, r), "batch") * array(w)[:, :, None]).sum(1) / 3
        for name, r, w in (
            ("user_spaces.", inputs.user_rows, inputs.user_weights),
            ("item_spaces.", inputs.item_rows, inputs.item_weights),
        )
    ]
    np.testing.assert_allclose(array(network(inputs)), numpy_mlp(p, "predictor", np.concatenate(sides, axis=1), 3), rtol=1e-9)


def test_fse_concatenates_both_rows(rows):
    network = randomised(FixedSizeNetwork(sum(DIMS), (6, 4), 5, 0))
    p = numbers(network)
    inputs = NetworkInputs(user_rows=rows, item_rows=rows.flip(1), user_weights=None, item_weights=None, features=torch.zeros(SIZE, 16))
    joined = np.concatenate([array(inputs.user_rows), array(inputs.item_rows)], axis=1)
    np.testing.assert_allclose(array(network(inputs)), numpy_mlp(p, "predictor", joined, 3), rtol=1e-12)


def shapes(module, prefix=""):
    return [tuple(v.shape) for k, v in module.named_parameters() if k.startswith(prefix) and k.endswith("weight")]


def test_paper_sizes():
    assert shapes(FixedSizeNetwork(146, (512, 512), 5, 0)) == [(292, 512), (512, 512), (512, 5)]
    enhanced = SelectingNetwork((2, 16, 128), "batch", (512, 512), 1, 0)
    assert shapes(enhanced, "predictor") == [(256, 512), (512, 512), (512, 1)]
    assert shapes(enhanced, "user_spaces") == [(2, 128), (16, 128), (128, 128)]


def test_shared_maps_are_one_set_of_parameters(rows, weights):
    shared = randomised(selecting("batch", shared_maps=True))
    names = [name for name, _ in shared.named_parameters() if not name.startswith("predictor")]
    assert len(names) == 6
    moved = {name: torch.randn_like(value) for name, value in shared.named_parameters()}
    inputs = network_inputs(rows, weights)
    called = torch.func.functional_call(shared, moved, (inputs,))
    with torch.no_grad():
        for name, value in shared.named_parameters():
            value.copy_(moved[name])
    torch.testing.assert_close(called, shared(inputs), rtol=0, atol=0)


def test_initial_parameters_depend_on_the_seed_alone():
    torch.manual_seed(1)
    before = torch.random.get_rng_state()
    first = numbers(selecting("batch", seed=5))
    assert torch.equal(before, torch.random.get_rng_state())
    torch.manual_seed(2)
    again, other = (numbers(selecting("batch", seed=seed)) for seed in (5, 6))
    assert all(torch.equal(first[k], again[k]) for k in first)
    assert not torch.equal(first["user_spaces.2.weight"], other["user_spaces.2.weight"])
    assert not torch.equal(first["user_spaces.2.weight"], first["item_spaces.2.weight"])


def test_the_output_layer_starts_at_zero():
    first, last = Mlp((4, 6, 2), seeded_generator(0, "p"))
    assert not last.weight.any()
    assert first.weight.abs().max() <= (6 / 10) ** 0.5


def test_losses_are_squared_error_of_a_sigmoid_and_cross_entropy():
    generator = torch.Generator().manual_seed(4)
    z1, z5 = torch.randn(SIZE, 1, generator=generator, dtype=torch.float64), torch.randn(SIZE, 5, generator=generator, dtype=torch.float64)
    labels = Labels(binary=np.array([0, 1, 1, 0, 1, 0, 0.0]), classes=np.array([0, 4, 2, 3, 1, 1, 0]))
    p1, p5 = probabilities(array(z1)), probabilities(array(z5))
    np.testing.assert_allclose(p1, 1 / (1 + np.exp(-array(z1)[:, 0])), rtol=1e-12)
    np.testing.assert_allclose(p5, np.exp(array(z5)) / np.exp(array(z5)).sum(1, keepdims=True), rtol=1e-12)
    np.testing.assert_allclose(array(interaction_losses(z1, torch.tensor(labels.binary))), (p1 - labels.binary) ** 2, rtol=1e-12)
    cross_entropy = -np.log(p5[np.arange(SIZE), labels.classes])
    np.testing.assert_allclose(array(interaction_losses(z5, torch.tensor(labels.classes))), cross_entropy, rtol=1e-12)
    np.testing.assert_allclose(prediction_losses(p1, labels), (p1 - labels.binary) ** 2, rtol=1e-15)
    np.testing.assert_allclose(prediction_losses(p5, labels), cross_entropy, rtol=1e-12)


@given(st.lists(st.floats(-1e4, 1e4), min_size=1, max_size=6))
def test_probabilities_survive_any_logit(logits):
    column = np.array(logits)[:, None]
    assert ((probabilities(column) >= 0) & (probabilities(column) <= 1)).all()
    rows = probabilities(np.tile(column.T, (2, 1))) if len(logits) > 1 else np.ones((1, 1))
    np.testing.assert_allclose(rows.sum(axis=1), 1.0, rtol=1e-12)
    labels = Labels(binary=np.zeros(2), classes=np.array([0, len(logits) - 1]))
    if len(logits) > 1:
        assert np.isfinite(prediction_losses(rows, labels)).all()
