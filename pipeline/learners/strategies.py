"""How W and Θ learn from one mini-batch: the difference between the methods (paper, section 2.5 and 3.4)."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from pipeline.learners.encoding import take
from pipeline.learners.hypergradient import Hypergradient
from pipeline.learners.passes import Parts, Pass, gradients
from pipeline.learners.validation import AfterTraining, trainable
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


class _Stateless:
    def state_dict(self) -> dict[str, Tensor]:
        """Empty."""
        return {}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Nothing to restore."""


def training_part(parts: Parts, predicted: Predicted, labels: Labels) -> tuple[Pass, Tensor] | None:
    """The pass and the targets W may learn from: all of the mini-batch but what is held out; None if that is nothing.

    Without held-out interactions this is the given pass, so nothing is computed again.
    """
    rows = trainable(predicted.inputs)
    if len(rows) == len(predicted.inputs.user_ids):
        return predicted.forward, parts.targets(labels)
    if not len(rows):
        return None
    return parts.forward(parts.encode(take(predicted.inputs, rows))), parts.targets(labels, rows)


class TrainOnly(_Stateless):
    """W descends ∇_W L_train; nothing is searched (FSE, equal weights).

    Args:
        parts: W and Θ.
    """

    def __init__(self, parts: Parts) -> None:
        self._parts = parts

    def learn(self, predicted: Predicted, labels: Labels) -> None:
        """One step of W."""
        trained = training_part(self._parts, predicted, labels)
        if trained is not None:
            descend(self._parts, *trained)


class Joint(_Stateless):
    """W and Θ descend the same loss of the same mini-batch at once (SAM).

    Args:
        parts: W and Θ.
    """

    def __init__(self, parts: Parts) -> None:
        self._parts = parts

    def learn(self, predicted: Predicted, labels: Labels) -> None:
        """One step of both, from gradients at the same point."""
        parts = self._parts
        trained = training_part(parts, predicted, labels)
        if trained is None:
            return
        forward, wanted = trained
        if parts.selection == "soft":
            leaves = [*forward.point.leaves, *forward.theta.leaves]
            found = gradients(parts.loss(forward.logits, wanted), leaves)
        else:
            soft = parts.forward(forward.batch, point=forward.point, selection="soft")
            found = gradients(parts.loss(forward.logits, wanted), forward.point.leaves)
            found += gradients(parts.loss(soft.logits, wanted), soft.theta.leaves)
        size = len(forward.point.leaves)
        parts.recommender.apply(forward.point, found[:size])
        parts.selector.apply([(forward.theta, found[size:])])


class Bilevel:
    """Θ descends a validation loss, W the training loss (Eq. 8, Algorithm 1): DARTS and AutoEmb.

    With source `next`, Θ steps on the newest mini-batch after it was predicted and before W is trained on it, and W is trained with the
    renewed Θ. With the other sources W is trained first, so that Θ's step stands where Algorithm 1 has it: before the next prediction.

    Args:
        parts: W and Θ.
        hypergradient: Θ's gradient.
        source: validation interactions; None for the newest mini-batch.
    """

    def __init__(self, parts: Parts, hypergradient: Hypergradient, source: AfterTraining | None) -> None:
        self._parts = parts
        self._hypergradient = hypergradient
        self._source = source

    def learn(self, predicted: Predicted, labels: Labels) -> None:
        """One step of Θ and one of W."""
        if self._source is None:
            forward = predicted.forward
            self._search(forward if self._parts.selection == "soft" else self._soft(forward), self._parts.targets(labels))
            renewed = self._parts.forward(forward.batch, point=forward.point)
            self._train(Predicted(inputs=predicted.inputs, forward=renewed), labels)
            return
        self._train(predicted, labels)
        sample = self._source.next(predicted.inputs, labels)
        if sample is not None:
            batch = self._parts.encode(sample[0])
            self._search(self._parts.forward(batch, selection="soft"), self._parts.targets(sample[1]))

    def _soft(self, forward: Pass) -> Pass:
        return self._parts.forward(forward.batch, point=forward.point, selection="soft")

    def _search(self, validation: Pass, wanted: Tensor) -> None:
        self._parts.selector.apply(self._hypergradient.of(validation, wanted))

    def _train(self, predicted: Predicted, labels: Labels) -> None:
        trained = training_part(self._parts, predicted, labels)
        if trained is not None:
            self._hypergradient.remember(*trained)
            descend(self._parts, *trained)

    def state_dict(self) -> dict[str, Tensor]:
        """The last training step and the validation source's state."""
        return self._hypergradient.state_dict() | (self._source.state_dict() if self._source else {})

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Restores what `state_dict` gave."""
        self._hypergradient.load_state_dict(state)
        if self._source:
            self._source.load_state_dict(state)


def descend(parts: Parts, forward: Pass, wanted: Tensor) -> None:
    """One step of W from the pass it was predicted with."""
    found = gradients(parts.loss(forward.logits, wanted), forward.point.leaves)
    parts.recommender.apply(forward.point, found)
