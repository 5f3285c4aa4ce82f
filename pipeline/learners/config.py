"""A learner's configuration from a preset's name and settings given as text: the preset decides which learner it is."""

from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any, get_args

from autoemb_pipeline.errors import ConfigurationError
from autoemb_pipeline.learners.paper.config import PaperConfig, ResidualConfig
from autoemb_pipeline.learners.search.config import Method
from autoemb_pipeline.learners.stream.config import OwnMethod, StreamConfig

LearnerConfig = PaperConfig | StreamConfig

METHODS: tuple[str, ...] = get_args(Method)
"""The methods of both learners."""

STREAM_METHODS: tuple[str, ...] = get_args(OwnMethod)
"""Baselines that only the stream learner has."""

PRESETS: Mapping[str, Mapping[str, Any]] = {
    "paper": {
        "normalisation": "batch",
        "row_rate": 0.01,
        "dense_optimiser": "adagrad",
        "dense_rate": 0.01,
        "controller_optimiser": "adagrad",
        "controller_rate": 0.001,
        "validation": "replay",
    },
    "paper-layernorm": {},
    "residual": {},
    "stream": {},
}
"""Preset name -> the fields it sets; the rest have their own defaults.

`paper` is the paper as printed, with the one optimiser under which its rates learn. `paper-layernorm` is its network with what was measured
better on a stream: no batch statistics, validation on the next mini-batch, other rates (docs/algorithm.md, Departures). `residual` adds
that network to the online logistic regression.
"""

_NOT_SETTINGS = frozenset({"method", "task", "seed", "device", "preset"})  # they have options of their own


def learner_class(preset: str) -> type[PaperConfig] | type[StreamConfig]:
    """The configuration's class under that preset.

    Raises:
        ConfigurationError: unknown preset.
    """
    if preset not in PRESETS:
        raise ConfigurationError(f"preset {preset!r} is unknown", why=f"known are {', '.join(PRESETS)}", remedy="choose one of these")
    return {"stream": StreamConfig, "residual": ResidualConfig}.get(preset, PaperConfig)


def from_preset(preset: str, **changes: Any) -> LearnerConfig:
    """The preset's configuration with some fields changed.

    Raises:
        ConfigurationError: unknown preset or field, or a value that cannot be used.
    """
    kind = learner_class(preset)
    names = {field.name for field in fields(kind)}
    unknown = changes.keys() - names
    if unknown:
        raise ConfigurationError(
            f"preset {preset} has no learner options {', '.join(sorted(unknown))}",
            why=f"known are {', '.join(sorted(names))}",
            remedy="use one of these, or another preset",
        )
    return kind(**{**PRESETS[preset], "preset": preset, **changes})


def parse_settings(preset: str, settings: Sequence[str]) -> dict[str, Any]:
    """NAME=VALUE pairs (`--set`) as fields of the preset's configuration: numbers, words, and tuples as 2,16,128.

    Raises:
        ConfigurationError: unknown name, or a value of another type.
    """
    defaults = {field.name: field.default for field in fields(learner_class(preset)) if field.name not in _NOT_SETTINGS}
    parsed: dict[str, Any] = {}
    for setting in settings:
        name, equals, text = setting.partition("=")
        if not equals or name not in defaults:
            raise ConfigurationError(
                f"--set {setting}: preset {preset} has no such setting",
                why=f"known are {', '.join(sorted(defaults))}",
                remedy="give it as --set NAME=VALUE",
            )
        parsed[name] = _as_type_of(name, defaults[name], text)
    return parsed


def _as_type_of(name: str, default: object, text: str) -> object:
    try:
        if isinstance(default, bool):
            return {"true": True, "false": False}[text.lower()]
        if isinstance(default, int):
            return int(text)
        if isinstance(default, float):
            return float(text)
        if isinstance(default, tuple):
            return tuple(int(part) for part in text.split(",") if part)
    except (ValueError, KeyError) as error:
        raise ConfigurationError(f"--set {name}={text}: not a {type(default).__name__}", remedy=f"the default is {default}") from error
    return text
