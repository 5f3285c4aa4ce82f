"""What is written beside the steps: its errors end the run with their own message, and no bit depends on when it is written."""

import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from autoemb_pipeline.errors import StateError
from autoemb_pipeline.sink import prediction_log
from tests.run.conftest import Stream
from tests.run.outcome import assert_same, nothing_left_over, outcome
from tests.streams import synthetic_stream

pytestmark = pytest.mark.kafka

MakeStream = Callable[[int], Stream]
STEPS = 12


def test_a_prediction_log_that_cannot_be_written_ends_the_run(make_stream: MakeStream) -> None:
    stream = make_stream(1)
    stream.send(synthetic_stream(STEPS * 200, seed=4))
    config, undisturbed = stream.config("broken"), stream.config("whole")
    second = [config.state_dir / "predictions" / f"steps-{6:09d}-{last:09d}.parquet.tmp" for last in range(10, STEPS + 1)]

    def something_lies_in_the_way() -> bool:
        for path in second:
            path.mkdir(exist_ok=True)
        return False

    with nothing_left_over(config.state_dir), pytest.raises(StateError, match="The prediction log could not be written") as raised:
        stream.train(config, stop=something_lies_in_the_way)
    assert "Free space" in raised.value.remedy
    for path in second:
        path.rmdir()
    assert stream.train(config).step == STEPS
    stream.train(undisturbed)
    assert_same(outcome(stream.kafka, config), outcome(stream.kafka, undisturbed))


def test_steps_go_on_while_a_segment_is_written(make_stream: MakeStream, monkeypatch: pytest.MonkeyPatch) -> None:
    stream = make_stream(1)
    stream.send(synthetic_stream(STEPS * 200, seed=4))
    slow, undisturbed = stream.config("slow"), stream.config("whole")
    stream.train(undisturbed)
    steps, written, may_write = iter(range(100)), [], threading.Event()
    replace_synced = prediction_log.replace_synced

    def slow_disk(path: Path, data: bytes) -> None:
        assert may_write.wait(60)
        written.append(path.name)
        replace_synced(path, data)

    def no_segment_before_step_ten() -> bool:
        if next(steps) == 9:
            assert written == []
            may_write.set()
        return False

    monkeypatch.setattr(prediction_log, "replace_synced", slow_disk)
    assert stream.train(slow, stop=no_segment_before_step_ten).step == STEPS
    # The checkpoint due at step 10 waited for the one of step 5; whichever step it then got, the segments are whole.
    assert written[0] == "steps-000000001-000000005.parquet"
    found, wanted = outcome(stream.kafka, slow), outcome(stream.kafka, undisturbed)
    assert_same(found, wanted)
