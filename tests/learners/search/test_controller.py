"""The 38 controller inputs, and the controllers."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from autoemb_pipeline.learners.common.initial import seeded_generator
from autoemb_pipeline.learners.search.controller import Controller
from autoemb_pipeline.learners.search.inputs import POPULARITY_THRESHOLDS, controller_inputs, controller_width
from autoemb_pipeline.records import SideContext

NAN = math.nan


def side(counts, previous_loss=NAN, fading_loss=NAN, weights=(1 / 3, 1 / 3, 1 / 3)):
    size = len(counts)
    return SideContext(
        count=np.array(counts, dtype=np.float64),
        previous_weights=np.tile(np.array(weights), (size, 1)),
        previous_loss=np.full(size, previous_loss),
        fading_loss=np.full(size, fading_loss),
    )


def controller_of(hidden, **options):
    return Controller(3, hidden, seeded_generator(0, "c"), **options)


def test_thresholds_are_the_32_smallest_distinct_rounded_half_powers_of_two():
    assert len(POPULARITY_THRESHOLDS) == 32
    assert POPULARITY_THRESHOLDS[:10].tolist() == [1, 2, 3, 4, 6, 8, 11, 16, 23, 32]
    assert POPULARITY_THRESHOLDS[-1] == 65536
    assert (np.diff(POPULARITY_THRESHOLDS) > 0).all()


def test_a_new_id_sees_no_popularity_equal_weights_and_average_losses():
    row = controller_inputs(side([0]), 0.2)[0]
    assert row.shape == (38,)
    np.testing.assert_array_equal(row, [0.0] * 33 + [1 / 3] * 3 + [1.0, 1.0])


def test_columns_of_a_known_id():
    row = controller_inputs(side([8], previous_loss=0.3, fading_loss=0.1, weights=(0.5, 0.3, 0.2)), 0.2)[0]
    np.testing.assert_array_equal(row[:32], [1.0] * 6 + [0.0] * 26)
    np.testing.assert_allclose(row[32:], [math.log(8) / math.log(65536), 0.5, 0.3, 0.2, 1.5, 0.5], rtol=1e-12)


@pytest.mark.parametrize("global_loss", [NAN, 0.0])
def test_losses_are_one_before_there_is_a_global_loss(global_loss):
    assert controller_inputs(side([3], previous_loss=0.3, fading_loss=0.1), global_loss)[0, 36:].tolist() == [1.0, 1.0]


def test_relative_losses_are_clipped_at_four():
    assert controller_inputs(side([3], previous_loss=9.0, fading_loss=0.0), 0.2)[0, 36:].tolist() == [4.0, 0.0]


@given(st.integers(0, 10**7), st.floats(0, 1e6) | st.just(NAN), st.floats(1e-9, 10) | st.just(NAN))
def test_inputs_are_finite_and_bits_follow_the_count(count, loss, global_loss):
    row = controller_inputs(side([count], previous_loss=loss, fading_loss=loss), global_loss)[0]
    assert np.isfinite(row).all()
    assert row[:32].sum() == sum(c <= count for c in POPULARITY_THRESHOLDS)
    assert ((row[36:] >= 0) & (row[36:] <= 4)).all()


@pytest.mark.parametrize("spaces", [1, 2, 5])
def test_width_follows_the_number_of_spaces(spaces):
    assert controller_inputs(side([1, 2], weights=(1 / spaces,) * spaces), 0.2).shape == (2, controller_width(spaces))


def test_a_controller_starts_with_equal_weights_and_returns_distributions():
    controller = controller_of((8, 8))
    inputs = torch.as_tensor(controller_inputs(side([0, 5, 900]), 0.2))
    torch.testing.assert_close(controller(inputs), torch.full((3, 3), 1 / 3, dtype=torch.float64))
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in controller.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator, dtype=torch.float64))
        weights = controller(inputs)
    torch.testing.assert_close(weights.sum(dim=1), torch.ones(3, dtype=torch.float64))
    assert not torch.allclose(weights[0], weights[2])
    h = np.asarray(inputs)
    for layer in range(3):
        h = h @ controller[layer].weight.detach().numpy() + controller[layer].bias.detach().numpy()
        h = np.tanh(h) if layer < 2 else np.exp(h) / np.exp(h).sum(axis=1, keepdims=True)
    np.testing.assert_allclose(weights.numpy(), h, rtol=1e-9)


def test_start_is_the_first_logit_of_the_largest_space():
    weights = controller_of((8, 8), start=4.0)(torch.as_tensor(controller_inputs(side([0, 900]), 0.2)))
    expected = torch.softmax(torch.tensor([0.0, 0.0, 4.0], dtype=torch.float64), dim=0)
    torch.testing.assert_close(weights, expected.expand(2, 3))


def test_paper_sizes_of_a_controller():
    shapes = [tuple(layer.weight.shape) for layer in controller_of((512, 512))]
    assert shapes == [(38, 512), (512, 512), (512, 3)]


def test_relu_is_an_option():
    inputs = torch.ones(1, 38, dtype=torch.float64)
    tanh, relu = (controller_of((4,), activation=a) for a in ("tanh", "relu"))
    with torch.no_grad():
        for controller in (tanh, relu):
            controller[0].weight.fill_(0.1)
            controller[1].weight.copy_(torch.arange(12).reshape(4, 3))
    assert not torch.allclose(tanh(inputs), relu(inputs))
