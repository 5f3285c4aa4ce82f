"""What a learner is built from. Every choice the paper leaves open is an option here; docs/algorithm.md tells why each default is."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Literal, Self, get_args

import numpy as np
import torch
from numpy.typing import NDArray

from pipeline.errors import ConfigurationError
from pipeline.learners.hypergradient import Unroll
from pipeline.learners.optimisers import Preconditioner
from pipeline.learners.stream_config import Architecture, StreamOptions
from pipeline.learners.validation import holdout_mask
from pipeline.models.embedding import Normalisation
from pipeline.models.layers import Activation
from pipeline.models.selection import Selection, SoftScale
from pipeline.records import Task

PaperMethod = Literal["fse", "fse-uniform", "sam", "darts", "autoemb"]
StreamMethod = Literal["context-only", "count-gate", "count-thresholds"]
Method = PaperMethod | StreamMethod
Validation = Literal["next", "replay", "holdout", "trace"]
OptimiserName = Literal["sgd", "adagrad", "adam"]
Reduction = Literal["mean", "sum"]
Precision = Literal["float32", "float64"]

METHODS: tuple[str, ...] = get_args(PaperMethod)
"""The methods of both architectures."""

STREAM_METHODS: tuple[str, ...] = get_args(StreamMethod)
"""Baselines that exist in the stream architecture only."""

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
    "stream": {"architecture": "stream", "controller_hidden": (64,), "controller_rate": 1e-3},
}
"""Preset name -> the fields it sets; the rest have their own defaults.

`paper` is the paper as printed, with the one optimiser under which its rates learn. `paper-layernorm` is its network with what was measured
better on a stream: no batch statistics, validation on the next mini-batch, other rates (docs/algorithm.md, Departures).
"""


@dataclass(frozen=True, kw_only=True, slots=True)
class LearnerConfig(StreamOptions):
    """Configuration of one learner. Rates are per step; dimensions and layer widths in numbers.

    The inherited fields are the stream architecture's own.

    Attributes:
        method: `fse` fixed-size embedding; `fse-uniform` the selecting network with equal weights; `sam` controllers trained with the
            network on the same batch; `darts` free weights per id and `autoemb` controllers, in a bilevel update. In the stream
            architecture also `context-only` (no embeddings), `count-gate` and `count-thresholds`.
        task: `binary` (squared error of a sigmoid) or `rating` (cross-entropy of five classes).
        preset: the name of the preset these fields came from.
        architecture: `paper` concatenates embeddings into a network, `stream` multiplies them beside context features.
        dims: dimensions of the embedding spaces, increasing; their sum is the width of a row's embedding.
        hidden, controller_hidden: widths of the hidden layers.
        controller_activation: of the controllers' hidden layers.
        normalisation: of the transformed embeddings (Eq. 2): over the mini-batch, or over one embedding's features.
        shared_maps: one set of linear maps (Eq. 1) for both sides.
        selection: `soft` mixes the spaces, `hard` takes the largest weight's (controllers then learn through the soft relaxation).
        soft_scale: Eq. 7's factor, 1/N as printed, or 1.
        row_optimiser, row_rate, initial_accumulator: of the embedding rows; the accumulator is Adagrad's.
        dense_optimiser, dense_rate: of the dense layers.
        controller_optimiser, controller_rate: of the controllers.
        reduction: of the losses of a mini-batch.
        embedding_std: standard deviation of new embeddings.
        logit_optimiser, logit_rate: of the free weights of `darts`.
        validation: where the validation loss comes from: the `next` batch before it is trained on, a `replay` of earlier interactions, or
            a `holdout` of each batch; in the stream architecture `next`, or `trace`: also through each id's next occurrence.
        xi: ξ of Eq. 9 in units of the rates: 0 first order, 1 the total derivative of the update really made.
        unroll, preconditioner: how the second-order term is computed, see `pipeline.learners.hypergradient`.
        reservoir, validation_size: interactions kept for replay, and drawn per step.
        holdout_fraction: of each mini-batch, for `holdout`; whoever builds the context draws it.
        seed: of initial parameters and of every random choice.
        precision: of all arithmetic and of stored rows.
        device: torch device of a step's arithmetic; rows stay in the row store.
    """

    method: Method = "autoemb"
    task: Task = "binary"
    preset: str = "paper-layernorm"
    architecture: Architecture = "paper"
    dims: tuple[int, ...] = (2, 16, 128)
    hidden: tuple[int, ...] = (512, 512)
    controller_hidden: tuple[int, ...] = (512, 512)
    controller_activation: Activation = "tanh"
    normalisation: Normalisation = "layer"
    shared_maps: bool = False
    selection: Selection = "soft"
    soft_scale: SoftScale = "1/N"
    row_optimiser: OptimiserName = "adagrad"
    row_rate: float = 0.05
    initial_accumulator: float = 0.0
    dense_optimiser: OptimiserName = "adam"
    dense_rate: float = 3e-4
    controller_optimiser: OptimiserName = "adam"
    controller_rate: float = 3e-4
    reduction: Reduction = "mean"
    embedding_std: float = 0.02
    logit_optimiser: OptimiserName = "adagrad"
    logit_rate: float = 0.05
    validation: Validation = "next"
    xi: float = 0.0
    unroll: Unroll = "exact"
    preconditioner: Preconditioner = "exact"
    reservoir: int = 10_000
    validation_size: int = 500
    holdout_fraction: float = 0.1
    seed: int = 0
    precision: Precision = "float32"
    device: str = "cpu"

    def __post_init__(self) -> None:
        self._check_choices()
        if not self.dims or any(d < 1 for d in self.dims) or list(self.dims) != sorted(set(self.dims)):
            raise ConfigurationError(f"dims {self.dims} are not increasing positive dimensions", remedy="give them as in (2, 16, 128)")
        for name in ("hidden", "controller_hidden"):
            if any(width < 1 for width in getattr(self, name)):
                raise ConfigurationError(f"{name} {getattr(self, name)} holds a layer without units", remedy="give positive widths")
        for name in ("row_rate", "dense_rate", "controller_rate", "logit_rate", "initial_accumulator", "embedding_std", "xi"):
            value = getattr(self, name)
            if not 0.0 <= value < float("inf"):
                raise ConfigurationError(f"{name} is {value}", why="it must be a finite number, zero or more", remedy=f"change {name}")
        self._check_search()
        self._check_architecture()

    def _check_architecture(self) -> None:
        if self.architecture == "paper":
            if self.method in STREAM_METHODS or self.validation == "trace":
                what = self.method if self.method in STREAM_METHODS else "validation trace"
                raise ConfigurationError(f"{what} belongs to the stream architecture", remedy="use the preset stream")
            return
        self.check_stream()
        if self.validation not in ("next", "trace"):
            raise ConfigurationError(f"the stream architecture has no validation {self.validation!r}", remedy="use next or trace")
        if self.validation == "trace" and self.method != "autoemb":
            raise ConfigurationError(f"validation trace needs controllers; {self.method} has none", remedy="use the method autoemb")
        if self.xi > 0:
            raise ConfigurationError(
                "the stream architecture has no xi", remedy="use validation trace, with horizon=1 for the next mini-batch"
            )
        if self.method == "count-thresholds" and len(self.thresholds) != len(self.dims) - 1:
            raise ConfigurationError(f"{len(self.thresholds)} thresholds for {len(self.dims)} dims", remedy="give one less than dims")
        if self.memory_budget and not self.nested:
            raise ConfigurationError(
                "a memory budget needs nested spaces",
                why="an id's space grows block by block",
                remedy="use nested true, or no memory budget",
            )

    def _check_search(self) -> None:
        if self.reservoir < 1 or self.validation_size < 1:
            raise ConfigurationError("reservoir and validation_size must be at least 1", remedy="give positive numbers")
        if not 0.0 < self.holdout_fraction < 1.0:
            raise ConfigurationError(f"holdout_fraction is {self.holdout_fraction}", remedy="give a fraction between 0 and 1")
        if self.xi > 0 and self.method not in ("darts", "autoemb"):
            raise ConfigurationError(f"xi {self.xi} has no meaning for {self.method}", why="it has no bilevel update", remedy="use xi 0")
        if self.xi > 0 and self.selection == "hard":
            raise ConfigurationError(
                "xi above 0 needs soft selection",
                why="a training step with hard weights has no slope in Θ",
                remedy="use xi 0",
            )

    def _check_choices(self) -> None:
        for field_name, choices in _CHOICES.items():
            value = getattr(self, field_name)
            if value not in choices:
                raise ConfigurationError(
                    f"{field_name} {value!r} is unknown",
                    why=f"known are {', '.join(choices)}",
                    remedy=f"choose one of these as {field_name}",
                )

    @classmethod
    def from_preset(cls, preset: str, **changes: Any) -> Self:
        """The preset's configuration with some fields changed.

        Raises:
            ConfigurationError: unknown preset or field, or a value that cannot be used.
        """
        if preset not in PRESETS:
            raise ConfigurationError(f"preset {preset!r} is unknown", why=f"known are {', '.join(PRESETS)}", remedy="choose one of these")
        unknown = set(changes) - {field.name for field in fields(cls)}
        if unknown:
            raise ConfigurationError(f"unknown learner options: {', '.join(sorted(unknown))}", remedy="see LearnerConfig's fields")
        return cls(**{**PRESETS[preset], "preset": preset, **changes})

    def held_out(self, *, size: int, step: int) -> NDArray[np.bool_] | None:
        """[size] True for the interactions of mini-batch `step` whose labels only Θ may learn from; None unless the method validates so.

        For whoever builds the context: it must leave these labels out of its statistics.
        """
        if self.validation != "holdout" or self.method not in ("darts", "autoemb"):
            return None
        return holdout_mask(size, fraction=self.holdout_fraction, seed=self.seed, step=step)

    @property
    def width(self) -> int:
        """Numbers of one row's concatenated embedding; 146 in the paper."""
        return sum(self.dims)

    @property
    def dtype(self) -> torch.dtype:
        """Torch's type of `precision`."""
        return torch.float32 if self.precision == "float32" else torch.float64

    @property
    def row_dtype(self) -> Literal["f4", "f8"]:
        """The row store's type of `precision`."""
        return "f4" if self.precision == "float32" else "f8"


_CHOICES: Mapping[str, tuple[str, ...]] = {
    "method": METHODS + STREAM_METHODS,
    "task": get_args(Task),
    "preset": tuple(PRESETS),
    "architecture": get_args(Architecture),
    "controller_activation": get_args(Activation),
    "normalisation": get_args(Normalisation),
    "selection": get_args(Selection),
    "soft_scale": get_args(SoftScale),
    "row_optimiser": get_args(OptimiserName),
    "dense_optimiser": get_args(OptimiserName),
    "controller_optimiser": get_args(OptimiserName),
    "logit_optimiser": get_args(OptimiserName),
    "unroll": get_args(Unroll),
    "preconditioner": get_args(Preconditioner),
    "reduction": get_args(Reduction),
    "validation": get_args(Validation),
    "precision": get_args(Precision),
}
