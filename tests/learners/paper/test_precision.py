"""bfloat16 products: nearly the same predictions, float32 wherever numbers are kept, and one function for tanh."""

import numpy as np
import pytest
import torch

from autoemb_pipeline.learners.common.layers import tanh
from autoemb_pipeline.learners.paper.config import PaperConfig
from tests.learners.paper.batches import EVERY, learner_of, name_of, small_config, step


@pytest.mark.parametrize("options", EVERY, ids=name_of)
def test_bf16_learns_nearly_what_float32_learns(options):
    known = {}
    for precision in ("float32", "bf16"):
        config = small_config(precision=precision, **options)
        learner, store = learner_of(config)
        for seed in range(4):
            predictions, _ = step(learner, config, seed, size=40)
        known[precision] = predictions.probabilities
        assert {array.dtype for name, array in learner.state_dict().items() if "/value/" in name} == {np.dtype(np.float32)}
        assert store.gather("embedding.user", ["u0"]).dtype == np.float32
    np.testing.assert_allclose(known["bf16"], known["float32"], atol=0.03)
    assert not np.array_equal(known["bf16"], known["float32"])


def test_precision_is_part_of_a_configuration():
    assert PaperConfig(precision="bf16") != PaperConfig()
    assert PaperConfig().precision == "float32"


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 2.5e-7), (torch.float64, 5e-16)])
def test_tanh_is_tanh(dtype, tolerance):
    x = torch.cat([torch.linspace(-30, 30, 20_001, dtype=dtype), torch.tensor([0.0, 1e-30, -1e4, 1e4], dtype=dtype)])
    assert (tanh(x) - torch.tanh(x)).abs().max() <= tolerance
    assert tanh(x)[20_001] == 0


def test_tanh_can_be_differentiated_twice():
    x = torch.linspace(-2, 2, 9, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(tanh, x)
    assert torch.autograd.gradgradcheck(tanh, x)
