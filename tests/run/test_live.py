"""A live stream that is slow or silent, through `train`: nothing that was read waits unsaid, and nothing for ever."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
from structlog.testing import capture_logs

from autoemb_pipeline.run import RunSummary
from tests.run.conftest import MakeStream, Stream, trainer_config
from tests.run.interruptions import Crash
from tests.run.kafka_reading import metrics_of, read_all
from tests.run.outcome import outcome
from tests.streams import synthetic_stream

pytestmark = pytest.mark.kafka
LONGEST = 40.0


@dataclass
class Watcher:
    """Sees what an observer sees, and stops the run when `enough` says so."""

    enough: Callable[["Watcher"], bool]
    crash: bool = False
    metrics: Mapping[str, Any] = field(default_factory=dict)
    runtime: list[Mapping[str, Any]] = field(default_factory=list)
    deadline: float = field(default_factory=lambda: time.monotonic() + LONGEST)

    def observe(self, metrics: Mapping[str, Any], runtime: Mapping[str, Any]) -> None:
        self.metrics = metrics
        self.runtime.append(runtime)

    def stop(self) -> bool:
        if self.enough(self):
            if self.crash:
                raise Crash
            return True
        assert time.monotonic() < self.deadline, (self.metrics, self.runtime[-1:])
        return False

    def run(self, stream: Stream, name: str = "live", **changes: Any) -> RunSummary:
        config = stream.config(name, **{"until_end": False, **changes})
        return stream.train(config, stop=self.stop, observers=(self.observe,))


def examples(count: int) -> Callable[[Watcher], bool]:
    return lambda watcher: watcher.metrics.get("examples") == count


def dead_letters(count: int) -> Callable[[Watcher], bool]:
    return lambda watcher: watcher.metrics.get("dead_letters") == count


def test_a_silent_stream_is_trained_by_itself_and_says_what_waits(make_stream: MakeStream, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("autoemb_pipeline.reporting.RUNTIME_SECONDS", 0.5)
    stream = make_stream()
    stream.send([*synthetic_stream(300, seed=41), b"rubbish"])
    watcher = Watcher(examples(300))
    with capture_logs() as lines:
        summary = watcher.run(stream, batch_size=500, batch_timeout=4.0)
    assert (summary.step, summary.examples) == (1, 300)
    waiting = [r for r in watcher.runtime if r["waiting_dead_letters"]]  # the last that was sent
    assert [(r["waiting_interactions"], r["waiting_dead_letters"], r["lag"], r["step"]) for r in waiting] == [(300, 1, 301, 0)] * len(
        waiting
    )
    closes_in = [r["batch_closes_in_seconds"] for r in waiting]
    assert len(closes_in) >= 3
    assert closes_in == sorted(closes_in, reverse=True)
    assert max(closes_in) <= 4.0
    last = watcher.runtime[-1]
    assert [last[name] for name in ("waiting_interactions", "waiting_dead_letters", "lag", "batch_closes_in_seconds")] == [0, 0, 0, None]
    (said,) = [line for line in lines if line["event"] == "the stream is silent, and read records wait"]
    assert said["waiting"].startswith("300 interactions, 1 dead letter; the mini-batch closes in ")
    assert said["lag"] == 301


@pytest.mark.parametrize(("count", "timeout"), [(3, {"batch_timeout": 1.0}), (5_000, {})])
def test_rubbish_alone_goes_to_the_dead_letter_topic(make_stream: MakeStream, count: int, timeout: dict[str, float]) -> None:
    stream = make_stream(2)
    stream.send([b"rubbish"] * count)
    # However long other partitions would wait for this one.
    summary = Watcher(dead_letters(count)).run(stream, idle_timeout=600.0, **timeout)
    assert summary.examples == 0
    assert len(read_all(stream.kafka, f"{stream.topic}.dlq")) == count
    last = metrics_of(stream.kafka, f"{stream.topic}.metrics")[-1]
    assert (last["dead_letters"], last["batch_examples"], last["next_offsets_0"]) == (count, 0, count)
    assert (last["mse"], last["event_time"], last["positive_share"], last["label_warning"]) == (None, None, None, None)


def test_a_trickle_of_rubbish_does_not_wait_for_a_pause(make_stream: MakeStream) -> None:
    stream = make_stream()
    sent = 0

    def enough(watcher: Watcher) -> bool:
        nonlocal sent
        if time.monotonic() - watcher.deadline + LONGEST > sent * 0.5:
            stream.send([b"rubbish"])
            sent += 1
        return watcher.metrics.get("dead_letters", 0) >= 2

    # A record twice a second: by the idle timeout alone the partition never was silent.
    Watcher(enough).run(stream, batch_timeout=1.0, idle_timeout=5.0)
    assert sent < 30


@pytest.mark.parametrize(("preset", "task"), [("paper", "rating"), ("stream", "binary")])
def test_a_run_goes_on_from_a_mini_batch_of_no_records(make_stream: MakeStream, preset: str, task: str) -> None:
    stream = make_stream()
    trainer = trainer_config("autoemb", task=task, preset=preset)
    stream.send([b"rubbish"])
    Watcher(dead_letters(1)).run(stream, trainer=trainer, batch_timeout=0.2, idle_timeout=600.0)
    stream.send([*synthetic_stream(400, seed=42), b"rubbish"])
    summary = Watcher(lambda w: examples(400)(w) and dead_letters(2)(w)).run(stream, trainer=trainer, batch_timeout=2.0, idle_timeout=600.0)
    assert summary.examples == 400
    records = metrics_of(stream.kafka, f"{stream.topic}.metrics")
    assert records[0]["batch_examples"] == 0
    assert sum(record["batch_examples"] for record in records) == 400
    loss = "mse" if task == "binary" else "cross_entropy"
    assert np.isfinite(records[-1][loss])
    assert np.isfinite(records[-1][f"logistic_{loss}"])


def test_what_the_clock_decided_is_read_back_after_a_crash(make_stream: MakeStream) -> None:
    stream = make_stream(2)
    stream.send([b"rubbish"] * 3)
    made = stream.config("live", until_end=False)
    with pytest.raises(Crash):
        Watcher(dead_letters(3), crash=True).run(stream, batch_timeout=0.5, idle_timeout=600.0, checkpoint_every=100)
    records = synthetic_stream(300, seed=43)
    stream.send([b"rubbish", *records[:130]], 2)
    with pytest.raises(Crash):
        Watcher(examples(130), crash=True).run(stream, batch_timeout=3.0, checkpoint_every=100)
    before = metrics_of(stream.kafka, made.metrics_topic)
    assert sum(m["batch_examples"] == 0 for m in before) >= 1
    stream.send(records[130:], 2)
    stream.train(stream.config("live"))
    after = metrics_of(stream.kafka, made.metrics_topic)
    assert after[: len(before)] == before
    assert [m["step"] for m in after] == list(range(1, len(after) + 1))
    found = outcome(stream.kafka, made)
    assert found["predictions"][0] == 300
    assert len(found["dead letters"]) == 4


def test_until_the_end_the_clock_closes_nothing(make_stream: MakeStream) -> None:
    stream = make_stream()
    stream.send(synthetic_stream(6_000, seed=44))

    def slowly() -> bool:
        time.sleep(0.05)
        return False

    stream.train(stream.config(batch_size=5_000, batch_timeout=0.01), stop=slowly)
    assert [m["batch_examples"] for m in metrics_of(stream.kafka, f"{stream.topic}.metrics")] == [5_000, 1_000]
