"""How W and Θ learn from one mini-batch: the difference between the methods (paper, section 2.5 and 3.4)."""

from dataclasses import dataclass
from typing import Any, Protocol

from numpy.typing import NDArray
from torch import Tensor

from autoemb_pipeline.learners.base import Arrays
from autoemb_pipeline.learners.paper.forward import ForwardPass, PaperModel, gradients
from autoemb_pipeline.learners.paper.hypergradient import Hypergradient
from autoemb_pipeline.learners.paper.validation import AfterTraining, trainable
from autoemb_pipeline.learners.search.encoding import take
from autoemb_pipeline.records import Labels, LearnerInputs


@dataclass(frozen=True, kw_only=True, slots=True)
class Predicted:
    """The mini-batch last predicted.

    Attributes:
        inputs: as the learner got them.
        forward: the forward pass that predicted it, graph included.
    """

    inputs: LearnerInputs
    forward: ForwardPass


class Strategy(Protocol):
    """Learns from the mini-batch last predicted."""

    def learn(self, predicted: Predicted, labels: Labels) -> None:
        """Updates W, Θ, or both."""
        ...

    def state_dict(self) -> dict[str, NDArray[Any]]:
        """What must survive between mini-batches besides W and Θ."""
        ...

    def load_state_dict(self, state: Arrays) -> None:
        """Restores what `state_dict` gave."""
        ...


class _Stateless:
    def state_dict(self) -> dict[str, NDArray[Any]]:
        """Empty."""
        return {}

    def load_state_dict(self, state: Arrays) -> None:
        """Nothing to restore."""


def training_part(model: PaperModel, predicted: Predicted, labels: Labels) -> tuple[ForwardPass, Tensor] | None:
    """The forward pass and the targets W may learn from: all of the mini-batch but what is held out; None if that is nothing.

    Without held-out interactions this is the given forward pass, so nothing is computed again.
    """
    rows = trainable(predicted.inputs)
    if len(rows) == len(predicted.inputs.user_ids):
        return predicted.forward, model.targets(labels)
    if not len(rows):
        return None
    return model.forward(model.encode(take(predicted.inputs, rows))), model.targets(labels, rows)


class TrainOnly(_Stateless):
    """W descends ∇_W L_train; nothing is searched (FSE, equal weights).

    Args:
        model: W and Θ.
    """

    def __init__(self, model: PaperModel) -> None:
        self._model = model

    def learn(self, predicted: Predicted, labels: Labels) -> None:
        """One step of W."""
        trained = training_part(self._model, predicted, labels)
        if trained is not None:
            descend(self._model, *trained)


class Joint(_Stateless):
    """W and Θ descend the same loss of the same mini-batch at once (SAM).

    Args:
        model: W and Θ.
    """

    def __init__(self, model: PaperModel) -> None:
        self._model = model

    def learn(self, predicted: Predicted, labels: Labels) -> None:
        """One step of both, from gradients at the same point."""
        model = self._model
        trained = training_part(model, predicted, labels)
        if trained is None:
            return
        forward, target = trained
        if model.selection == "soft":
            leaves = [*forward.point.leaves, *forward.theta.leaves]
            slopes = gradients(model.loss(forward.logits, target), leaves)
        else:
            soft = model.forward(forward.batch, point=forward.point, selection="soft")
            slopes = gradients(model.loss(forward.logits, target), forward.point.leaves)
            slopes += gradients(model.loss(soft.logits, target), soft.theta.leaves)
        size = len(forward.point.leaves)
        model.recommender.apply(forward.point, slopes[:size])
        model.selector.apply([(forward.theta, slopes[size:])])


class Bilevel:
    """Θ descends a validation loss, W the training loss (Eq. 8, Algorithm 1): DARTS and AutoEmb.

    With source `next`, Θ steps on the newest mini-batch after it was predicted and before W is trained on it, and W is trained with the
    renewed Θ. With the other sources W is trained first, so that Θ's step stands where Algorithm 1 has it: before the next prediction.

    Args:
        model: W and Θ.
        hypergradient: Θ's gradient.
        source: validation interactions; None for the newest mini-batch.
    """

    def __init__(self, model: PaperModel, hypergradient: Hypergradient, source: AfterTraining | None) -> None:
        self._model = model
        self._hypergradient = hypergradient
        self._source = source

    def learn(self, predicted: Predicted, labels: Labels) -> None:
        """One step of Θ and one of W."""
        if self._source is None:
            forward = predicted.forward
            self._search(forward if self._model.selection == "soft" else self._soft(forward), self._model.targets(labels))
            renewed = self._model.forward(forward.batch, point=forward.point)
            self._train(Predicted(inputs=predicted.inputs, forward=renewed), labels)
            return
        self._train(predicted, labels)
        sample = self._source.next(predicted.inputs, labels)
        if sample is not None:
            batch = self._model.encode(sample[0])
            self._search(self._model.forward(batch, selection="soft"), self._model.targets(sample[1]))

    def _soft(self, forward: ForwardPass) -> ForwardPass:
        return self._model.forward(forward.batch, point=forward.point, selection="soft")

    def _search(self, validation: ForwardPass, target: Tensor) -> None:
        self._model.selector.apply(self._hypergradient.gradients(validation, target))

    def _train(self, predicted: Predicted, labels: Labels) -> None:
        trained = training_part(self._model, predicted, labels)
        if trained is not None:
            self._hypergradient.remember(*trained)
            descend(self._model, *trained)

    def state_dict(self) -> dict[str, NDArray[Any]]:
        """The last training step and the validation source's state."""
        return self._hypergradient.state_dict() | (self._source.state_dict() if self._source else {})

    def load_state_dict(self, state: Arrays) -> None:
        """Restores what `state_dict` gave."""
        self._hypergradient.load_state_dict(state)
        if self._source:
            self._source.load_state_dict(state)


def descend(model: PaperModel, forward: ForwardPass, target: Tensor) -> None:
    """One step of W from the forward pass it was predicted with."""
    slopes = gradients(model.loss(forward.logits, target), forward.point.leaves)
    model.recommender.apply(forward.point, slopes)
