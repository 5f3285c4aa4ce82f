"""The paper's Figure 1: fixed dimensions against the number x of ratings a user is trained on (section 1).

For every user a fixed part of the ratings is kept for testing; x of the others are training data. So each x has a training set of its own
(x ratings of every user), on which a fixed-size model of each dimension is trained from the beginning; all are tested on the same ratings.
What the paper leaves open and is an option here: the size of the test part, the epochs, the order (shuffled anew in each epoch).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import polars as pl

from autoemb_pipeline.context.tracker import ContextConfig
from autoemb_pipeline.errors import ConfigurationError, DatasetError
from autoemb_pipeline.experiments.cells import Stream
from autoemb_pipeline.learners.config import LearnerConfig
from autoemb_pipeline.method import Method, method_tables
from autoemb_pipeline.prequential.labels import labels_of
from autoemb_pipeline.prequential.metrics import losses_and_hits
from autoemb_pipeline.records import FloatArray, Interaction
from autoemb_pipeline.state.memory import MemoryRowStore


@dataclass(frozen=True, kw_only=True, slots=True)
class Figure1Config:
    """The experiment's choices.

    Attributes:
        dims: fixed embedding dimensions, one model each.
        ratings: the x axis: training ratings per user, increasing.
        test_ratings: ratings of every user kept for testing.
        epochs: how often a training set is read.
        batch_size: interactions of a mini-batch.
        seeds: repetitions; a seed also draws the split and the orders.
    """

    dims: tuple[int, ...] = (2, 16, 128)
    ratings: tuple[int, ...] = (1, 2, 5, 10, 20, 40, 80)
    test_ratings: int = 10
    epochs: int = 5
    batch_size: int = 500
    seeds: int = 3

    def __post_init__(self) -> None:
        """Refuses an empty axis and users without test."""
        if not self.ratings or list(self.ratings) != sorted(set(self.ratings)) or self.ratings[0] < 1:
            raise ConfigurationError(f"ratings per user {self.ratings}", remedy="give increasing numbers from 1 on")
        if min(self.test_ratings, self.epochs, self.batch_size, self.seeds, *self.dims) < 1:
            raise ConfigurationError("Figure 1 needs at least one of everything", remedy="give numbers from 1 on")


@dataclass(frozen=True, slots=True)
class Split:
    """Test ratings, and for each user the training ratings in the order in which x takes them."""

    test: list[Interaction]
    training: list[list[Interaction]]

    def first(self, x: int) -> list[Interaction]:
        """x training ratings of every user."""
        return [rating for own in self.training for rating in own[:x]]


def split(interactions: Sequence[Interaction], config: Figure1Config, seed: int) -> Split:
    """Splits the ratings of every user who has enough for the longest training set; others take no part.

    Raises:
        DatasetError: no user has enough.
    """
    by_user: dict[str, list[Interaction]] = {}
    for interaction in interactions:
        by_user.setdefault(interaction.user_id, []).append(interaction)
    needed = config.test_ratings + config.ratings[-1]
    rng = np.random.Generator(np.random.Philox(key=[seed, 1]))
    result = Split([], [])
    for user in sorted(by_user):
        own = by_user[user]
        if len(own) < needed:
            continue
        order = rng.permutation(len(own))[:needed]
        result.test.extend(own[i] for i in order[: config.test_ratings])
        result.training.append([own[i] for i in order[config.test_ratings :]])
    if not result.training:
        raise DatasetError(
            f"no user has {needed} ratings",
            why=f"{config.test_ratings} for the test and {config.ratings[-1]} for training",
            remedy="ask for fewer",
        )
    return result


def run(
    stream: Stream, learner: LearnerConfig, config: Figure1Config, progress: Callable[[int], None] = lambda _done: None
) -> pl.DataFrame:
    """Trains and tests every (seed, x, dimension).

    Args:
        stream: ratings; their order does not matter here.
        learner: rates, widths and task; method, dimensions and seed are the experiment's.
        config: the experiment's choices.
        progress: told the models done.

    Returns:
        Columns seed, ratings, dimension, users, tests, loss, accuracy.
    """
    interactions = list(stream.interactions())
    results = []
    for seed in range(config.seeds):
        parts = split(interactions, config, seed)
        for x in config.ratings:
            for dimension in config.dims:
                own = replace(learner, method="fse", dims=(dimension,), seed=seed)
                loss, accuracy = _train_and_test(parts.first(x), parts.test, own, config)
                row = {"seed": seed, "ratings": x, "dimension": dimension, "users": len(parts.training), "tests": len(parts.test)}
                results.append({**row, "loss": loss, "accuracy": accuracy})
                progress(len(results))
    return pl.DataFrame(results)


def _train_and_test(
    training: list[Interaction], test: list[Interaction], learner: LearnerConfig, config: Figure1Config
) -> tuple[float, float]:
    context = ContextConfig(mode="batch", spaces=1, with_classes=learner.task == "rating")
    method = Method(context, learner, MemoryRowStore(method_tables(context, learner)))
    rng = np.random.Generator(np.random.Philox(key=[learner.seed, 2]))
    for _ in range(config.epochs):
        order = rng.permutation(len(training))
        for start in range(0, len(order), config.batch_size):
            batch = [training[i] for i in order[start : start + config.batch_size]]
            labels = labels_of(np.array([interaction.rating for interaction in batch]))
            _, predictions = method.predict(batch, labels)
            losses, _ = losses_and_hits(predictions.probabilities, labels, learner.task)
            method.learn(labels, losses, predictions)
    scores = [_score(test[s : s + config.batch_size], method, learner) for s in range(0, len(test), config.batch_size)]
    losses, hits = np.concatenate(scores, axis=1)
    return float(losses.mean()), float(hits.mean())


def _score(batch: list[Interaction], method: Method, learner: LearnerConfig) -> FloatArray:
    """[2, B] loss and hit of test ratings; every one is held out, so nothing is learnt of them."""
    held_out = np.ones(len(batch), dtype=bool)
    labels = labels_of(np.array([interaction.rating for interaction in batch]))
    _, predictions = method.predict(batch, labels, held_out)
    losses, hits = losses_and_hits(predictions.probabilities, labels, learner.task)
    method.context.record(losses, None, None, held_out)
    return np.stack([losses, hits])
