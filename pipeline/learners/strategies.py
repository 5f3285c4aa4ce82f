"""How W and Θ learn from one mini-batch: the difference between the methods (paper, section 2.5 and 3.4)."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from torch import Tensor

from pipeline.learners.encoding import take
from pipeline.learners.passes import Parts, Pass, gradients
from pipeline.records import Labels, LearnerInputs


@dataclass(frozen=True, kw_only=True, slots=True)
class Predicted:
    """The mini-batch last predicted.

    Attributes:
        inputs: as the learner got them.
        forward: the pass that predicted it, graph included.
    """

    inputs: LearnerInputs
    forward: Pass


class Strategy(Protocol):
    """Learns from the mini-batch last predicted."""

    def learn(self, predicted: Predicted, labels: Labels) -> None:
        """Updates W, Θ, or both."""
        ...

    def state_dict(self) -> dict[str, Tensor]:
        """What must survive between mini-batches besides W and Θ."""
        ...

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Restores what `state_dict` gave."""
        ...


def training_part(parts: Parts, predicted: Predicted, labels: Labels) -> tuple[Pass, Tensor] | None:
    """The pass and the targets W may learn from: all of the mini-batch but what is held out; None if that is nothing.

    Without held-out interactions this is the pass that predicted, so nothing is computed again.
    """
    held_out = predicted.inputs.held_out
    if held_out is None or not held_out.any():
        return predicted.forward, parts.targets(labels)
    rows = np.flatnonzero(~held_out)
    if not len(rows):
        return None
    return parts.forward(parts.encode(take(predicted.inputs, rows))), parts.targets(labels, rows)


class TrainOnly:
    """W descends ∇_W L_train; nothing is searched (FSE, equal weights).

    Args:
        parts: W and Θ.
    """

    def __init__(self, parts: Parts) -> None:
        self._parts = parts

    def learn(self, predicted: Predicted, labels: Labels) -> None:
        """One step of W."""
        trained = training_part(self._parts, predicted, labels)
        if trained is None:
            return
        forward, wanted = trained
        descent = gradients(self._parts.loss(forward.logits, wanted), forward.point.leaves)
        self._parts.recommender.apply(forward.point, descent)

    def state_dict(self) -> dict[str, Tensor]:
        """Empty."""
        return {}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Nothing to restore."""


class BilevelNext:
    """Θ descends the newest mini-batch's loss after it was predicted and before W is trained on it; then W with the new Θ (Algorithm 1).

    Args:
        parts: W and Θ.
    """

    def __init__(self, parts: Parts) -> None:
        self._parts = parts

    def learn(self, predicted: Predicted, labels: Labels) -> None:
        """One step of Θ, then one of W."""
        parts = self._parts
        validation = predicted.forward
        if parts.selection == "hard":
            validation = parts.forward(validation.batch, point=validation.point, selection="soft")
        descent = gradients(parts.loss(validation.logits, parts.targets(labels)), validation.theta.leaves)
        parts.selector.apply([(validation.theta, descent)])
        renewed = parts.forward(validation.batch, point=validation.point)
        TrainOnly(parts).learn(Predicted(inputs=predicted.inputs, forward=renewed), labels)

    def state_dict(self) -> dict[str, Tensor]:
        """Empty."""
        return {}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Nothing to restore."""
