"""What a learner's configuration accepts, and the tables that follow from it."""

import pytest
import torch

from pipeline.errors import ConfigurationError
from pipeline.learners.factory import LearnerConfig, learner_tables, make_learner
from pipeline.state.memory import MemoryRowStore
from tests.learners.paper.batches import small_config


@pytest.mark.parametrize(
    "wrong",
    [
        {"method": "magic"},
        {"preset": "none"},
        {"dims": ()},
        {"dims": (16, 2)},
        {"dims": (0, 2)},
        {"hidden": (0,)},
        {"row_rate": -1.0},
        {"dense_rate": float("nan")},
        {"xi": 1.0, "method": "sam"},
        {"xi": 1.0, "selection": "hard"},
        {"reservoir": 0},
        {"holdout_fraction": 1.0},
    ],
    ids=str,
)
def test_impossible_configurations_are_refused(wrong):
    with pytest.raises(ConfigurationError):
        LearnerConfig(**wrong)


def test_from_preset_names_what_it_does_not_know():
    assert from_preset("paper", dims=(2, 4)).dims == (2, 4)
    with pytest.raises(ConfigurationError, match="preset"):
        from_preset("magic")
    with pytest.raises(ConfigurationError, match="learning_rate"):
        from_preset("paper", learning_rate=1)


@pytest.mark.parametrize("device", ["magic", "cuda"])
def test_a_missing_device_is_named(device):
    if device == "cuda" and torch.cuda.is_available():
        pytest.skip("there is a GPU")
    config = small_config(device=device)
    with pytest.raises(ConfigurationError, match=device):
        make_learner(config, MemoryRowStore(learner_tables(config)))


def test_rows_are_weights_and_optimiser_state_side_by_side():
    widths = {
        optimiser: {spec.name: spec.width for spec in learner_tables(LearnerConfig(method="darts", row_optimiser=optimiser))}
        for optimiser in ("sgd", "adagrad", "adam")
    }
    assert [widths[o]["embedding.user"] for o in ("sgd", "adagrad", "adam")] == [146, 292, 438]
    assert widths["adagrad"]["logits.item"] == 6
    assert set(widths["adagrad"]) == {"embedding.user", "embedding.item", "logits.user", "logits.item"}
