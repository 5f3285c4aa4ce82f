"""Labels of one class, through `train`: said in the log, in the metrics and at the end; the same after a resume; cleared by another class."""

from collections.abc import Sequence
from typing import Any

import pytest
from structlog.testing import capture_logs

from autoemb_pipeline.cli.progress import describe
from autoemb_pipeline.records import Interaction
from tests.run.conftest import MakeStream, Stream, trainer_config
from tests.run.kafka_reading import metrics_of
from tests.run.outcome import assert_same, outcome

pytestmark = pytest.mark.kafka
SAID = {"the labels teach nothing", "labels of another class have come"}


def rated(ratings: Sequence[float], start: int = 0) -> list[Interaction]:
    return [Interaction(f"u{n % 17}", f"i{n % 23}", float(rating), 1_000 * n, "set", n) for n, rating in enumerate(ratings, start)]


def trained(stream: Stream, **changes: Any) -> tuple[list[dict[str, Any]], list[Any], str]:
    """The topic's metrics, the notices in the log, and the last message."""
    config = stream.config(**changes)
    with capture_logs() as lines:
        summary = stream.train(config)
    notices = [line for line in lines if line["event"] in SAID]
    return metrics_of(stream.kafka, config.metrics_topic), notices, describe(summary, until_end=True, stopped=False)


def test_zeros_and_ones_below_the_threshold_are_said_to_teach_nothing(make_stream: MakeStream) -> None:
    stream = make_stream()
    stream.send(rated([n % 2 for n in range(2_600)]))
    metrics, notices, text = trained(stream)
    assert [m["label_warning"] for m in metrics] == [None] * 9 + ["all-negative"] * 4
    assert {m["positive_share"] for m in metrics} == {0.0}
    assert (metrics[-1]["rating_min"], metrics[-1]["rating_max"]) == (0.0, 1.0)
    advice = "all 2,600 labels so far are negative: ratings lie between 0 and 1. Start again: --new-run --positive-above 0.5"
    assert [(n["log_level"], n["why"]) for n in notices] == [("warning", advice)]
    assert advice in text


def test_a_resumed_run_says_the_same_and_another_class_clears_it(make_stream: MakeStream) -> None:
    stream = make_stream()
    first, then = rated([1, 2] * 1_050), rated([3, 1] * 250, 2_100)
    stream.send(first)
    _, notices, _ = trained(stream)
    assert [n["event"] for n in notices] == ["the labels teach nothing"]
    stream.send(then)
    metrics, notices, _ = trained(stream)
    assert [n["event"] for n in notices] == ["the labels teach nothing"]
    assert metrics[-1]["label_warning"] == "all-negative"
    assert metrics[-1]["rating_max"] == 3.0
    stream.send(rated([5, *[1] * 199], 2_600))
    metrics, notices, text = trained(stream)
    assert metrics[-1]["label_warning"] is None
    assert metrics[-1]["positive_share"] == pytest.approx(1 / 2_800)
    assert "--positive-above" not in text

    whole = stream.config("whole")
    stream.train(whole)
    assert metrics_of(stream.kafka, whole.metrics_topic)[-1]["positive_share"] == metrics[-1]["positive_share"]


@pytest.mark.parametrize(
    ("task", "ratings", "warning", "advice"),
    [
        ("binary", [4.0, 10.0], "all-positive", "are positive: ratings lie between 4 and 10. Start again: --new-run --positive-above 7"),
        ("binary", [5.0, 5.0], "all-positive", "every rating is 5. A model of them only learns to say so"),
        (
            "rating",
            [0.0, 1.0],
            "one-class",
            "of one class: ratings lie between 0 and 1. Start again: --new-run --task binary --positive-above 0.5",
        ),
        ("rating", [1.0, 2.0], None, None),
    ],
)
def test_each_kind_of_one_sidedness(
    make_stream: MakeStream, task: str, ratings: list[float], warning: str | None, advice: str | None
) -> None:
    stream = make_stream()
    stream.send(rated(ratings * 1_000))
    metrics, notices, text = trained(stream, trainer=trainer_config(task=task), batch_size=500)
    assert [m["label_warning"] for m in metrics] == [None, None, None, warning]
    assert len(notices) == (warning is not None)
    assert advice is None or advice in text


def test_a_run_in_pieces_is_the_run_in_one(make_stream: MakeStream) -> None:
    stream = make_stream()
    stream.send(rated([0, 1] * 1_500))
    whole, pieces = stream.config("whole"), stream.config("pieces")
    stream.train(whole)
    rounds = iter(range(12))
    stream.train(pieces, stop=lambda: next(rounds, None) is None)
    stream.train(pieces)
    assert_same(outcome(stream.kafka, pieces), outcome(stream.kafka, whole))
    assert metrics_of(stream.kafka, pieces.metrics_topic)[-1]["label_warning"] == "all-negative"
