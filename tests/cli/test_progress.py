"""What `train` says while it runs and when it ends."""

from typing import Any

import pytest
from structlog.testing import capture_logs

from pipeline.assembly.housekeeping import held_back_text
from pipeline.cli import progress
from pipeline.cli.progress import ProgressLog, describe
from pipeline.run import RunSummary

RUNTIME = {"lag": 3, "interactions_per_second": 10.4}


def metrics(step: int, **changed: Any) -> dict[str, Any]:
    losses = {f"{model}{name}": 0.25 for model in ("", "running_mean_", "logistic_") for name in ("mse", "accuracy")}
    known = {"step": step, "examples": 500 * step, "task": "binary", "method": "fse", "preset": "stream", "context_mode": "event"}
    return {**known, **losses, "dead_letters": 0, "late": 0, "duplicates": 0, **changed}


def summary(trained: int, examples: int, fields: dict[str, Any]) -> RunSummary:
    return RunSummary(run_id="r", step=2, trained=trained, examples=examples, metrics=fields)


def test_a_line_for_new_steps_and_one_a_minute_without(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1000.0
    monkeypatch.setattr(progress.time, "monotonic", lambda: now)
    log = ProgressLog()
    with capture_logs() as lines:
        for clock, step in [(1000.0, 0), (1002.0, 0), (1004.0, 1), (1006.0, 2), (1008.0, 2), (1067.0, 2), (1069.0, 2), (1071.0, 3)]:
            now = clock
            log(metrics(step) if step else {}, RUNTIME)
    assert [(line["event"], line.get("step")) for line in lines] == [
        ("waiting for interactions", None),
        ("training", 1),
        ("training", 2),
        ("waiting for interactions", None),
        ("training", 3),
    ]


def test_dead_letters_show_while_training() -> None:
    with capture_logs() as lines:
        ProgressLog()(metrics(1, dead_letters=7), RUNTIME)
    assert lines[0]["dead_letters"] == 7


def test_a_partition_that_holds_the_others_back_is_named() -> None:
    held = {**RUNTIME, "held_back_by": held_back_text({0: 4.2, 1: 0.5, 3: 61.0})}
    with capture_logs() as lines:
        for fields in ({}, metrics(1)):
            ProgressLog()(fields, held)
    assert [line["held_back_by"] for line in lines] == ["partition 3 for 61 s, partition 0 for 4 s"] * 2
    assert held_back_text(dict.fromkeys(range(9), 5.0)) == "partition 0 for 5 s, partition 1 for 5 s, 7 more"
    assert held_back_text({1: 0.9}) is None


@pytest.mark.parametrize(
    ("trained", "examples", "until_end", "stopped", "begins"),
    [
        (0, 0, True, False, "nothing to train on: the topic holds no interactions"),
        (0, 9, True, False, "nothing new: run r has trained all 9 interactions"),
        (0, 9, True, True, "stopped: run r, step 2"),
        (0, 9, False, True, "stopped: run r, step 2"),
        (9, 9, True, False, "done: run r, 9 interactions, 2 steps"),
        (9, 9, False, True, "stopped: run r, 9 interactions, 2 steps"),
    ],
)
def test_the_end_is_told_as_it_was(trained: int, examples: int, until_end: bool, stopped: bool, begins: str) -> None:
    text = describe(summary(trained, examples, metrics(2) if trained else {}), until_end=until_end, stopped=stopped)
    assert text.startswith(begins)
    assert "dead-letter" not in text


def test_records_that_were_not_simply_trained_are_counted_at_the_end() -> None:
    text = describe(summary(0, 0, metrics(1, dead_letters=1202, late=2, duplicates=3)), until_end=True, stopped=False)
    assert text.splitlines()[1:] == [
        "  1,202 records were no interactions: see the dead-letter topic",
        "  2 interactions came late, and were trained in order of arrival",
        "  3 re-delivered interactions were skipped",
    ]
