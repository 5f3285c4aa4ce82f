"""What a learner's configuration accepts, and the tables that follow from it."""

import pytest
import torch

from autoemb_pipeline.errors import ConfigurationError
from autoemb_pipeline.learners.config import PRESETS, from_preset, parse_settings
from autoemb_pipeline.learners.factory import learner_tables, make_learner
from autoemb_pipeline.learners.paper.config import PaperConfig, ResidualConfig
from autoemb_pipeline.learners.stream.config import StreamConfig
from autoemb_pipeline.state.memory import MemoryRowStore
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
        PaperConfig(**wrong)


@pytest.mark.parametrize(
    "wrong",
    [
        {"method": "magic"},
        {"preset": "paper"},
        {"method": "count-thresholds", "thresholds": (3,)},
        {"thresholds": (9, 3)},
        {"nested": False},
        {"method": "sam", "nested": False},
        {"memory_budget": -1},
        {"memory_budget": 1000, "method": "fse"},
        {"memory_budget": 1000, "method": "darts"},
        {"rank": 0.5},
        {"row_precision": "int8"},
        {"precision": "float64"},
        {"tolerance": 0.0},
        {"tolerance": float("inf")},
        {"panel": 1.0},
        {"panel": -0.1},
    ],
    ids=str,
)
def test_impossible_configurations_of_the_stream_learner_are_refused(wrong):
    with pytest.raises(ConfigurationError):
        StreamConfig(**wrong)


@pytest.mark.parametrize("gone", ["validation", "cost", "start", "admission", "half_life", "amortised"])
def test_settings_that_the_search_replaced_are_refused_by_name(gone):
    with pytest.raises(ConfigurationError, match=gone):
        parse_settings("stream", [f"{gone}=1"])
    with pytest.raises(ConfigurationError, match=gone):
        from_preset("stream", **{gone: 1.0})


def test_what_a_search_is_asked_for_by_default():
    config = from_preset("stream")
    assert (config.method, config.tolerance, config.memory_budget, config.panel, config.rank) == ("autoemb", 1e-4, 0, 0.05, 16.0)
    assert config.searches
    assert not from_preset("stream", method="darts").searches
    assert parse_settings("stream", ["tolerance=1e-3", "row_precision=float32"]) == {"tolerance": 1e-3, "row_precision": "float32"}


def test_the_preset_decides_which_learner_it_is():
    assert {name: type(from_preset(name)) for name in PRESETS} == {
        "paper": PaperConfig,
        "paper-layernorm": PaperConfig,
        "residual": ResidualConfig,
        "stream": StreamConfig,
    }
    assert from_preset("paper").normalisation == "batch"


@pytest.mark.parametrize(
    ("preset", "foreign"),
    [("paper", "drift"), ("paper-layernorm", "context_inputs"), ("residual", "nested"), ("stream", "xi"), ("stream", "hidden")],
)
def test_a_setting_of_the_other_learner_is_refused_and_the_own_ones_are_named(preset, foreign):
    with pytest.raises(ConfigurationError, match=foreign) as refused:
        parse_settings(preset, [f"{foreign}=1"])
    assert preset in str(refused.value)
    assert "logit_rate" in str(refused.value.why)
    assert foreign not in str(refused.value.why).replace(f"controller_{foreign}", "").split(", ")
    with pytest.raises(ConfigurationError, match=foreign):
        from_preset(preset, **{foreign: 1})


def test_settings_have_the_types_of_their_fields():
    settings = ["dims=2,4", "shared_maps=true", "xi=1", "reservoir=7", "normalisation=none"]
    parsed = parse_settings("paper", settings)
    assert parsed == {"dims": (2, 4), "shared_maps": True, "xi": 1.0, "reservoir": 7, "normalisation": "none"}
    assert from_preset("paper", **parsed).normalisation == "none"
    for wrong in ("seed=1", "xi", "xi=much", "shared_maps=2", "dims=a"):
        with pytest.raises(ConfigurationError, match=wrong.split("=", maxsplit=1)[0]):
            parse_settings("paper", [wrong])


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
        optimiser: {spec.name: spec.width for spec in learner_tables(PaperConfig(method="darts", row_optimiser=optimiser))}
        for optimiser in ("sgd", "adagrad", "adam")
    }
    assert [widths[o]["embedding.user"] for o in ("sgd", "adagrad", "adam")] == [146, 292, 438]
    assert widths["adagrad"]["logits.item"] == 6
    assert set(widths["adagrad"]) == {"embedding.user", "embedding.item", "logits.user", "logits.item"}
