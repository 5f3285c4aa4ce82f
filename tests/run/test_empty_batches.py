"""A mini-batch of no records (dead letters alone), in every learner: it changes nothing but the counters, wherever it stands."""

import pytest

from autoemb_pipeline.columns import MiniBatch
from autoemb_pipeline.learners.config import METHODS, STREAM_METHODS
from autoemb_pipeline.records import DeadLetter
from autoemb_pipeline.state.memory import MemoryRowStore
from autoemb_pipeline.trainer import StepResult, Trainer, trainer_tables
from tests.run.conftest import trainer_config
from tests.streams import synthetic_stream

RECORDS = synthetic_stream(90, seed=45)
LETTER = DeadLetter("t", 0, 0, "bad-magic", "rubbish", None, b"rubbish")


def whole(step: int, part: int) -> MiniBatch:
    return MiniBatch.of(step=step, records=RECORDS[30 * part : 30 * part + 30], next_offsets={0: step})


def empty(step: int) -> MiniBatch:
    return MiniBatch.of(step=step, records=[], next_offsets={0: step}, dead_letters=(LETTER,))


@pytest.mark.parametrize("task", ["binary", "rating"])
@pytest.mark.parametrize(
    ("preset", "method"), [*(("paper", m) for m in METHODS), *(("stream", m) for m in METHODS + STREAM_METHODS)], ids=lambda v: v
)
def test_an_empty_mini_batch_changes_no_bit(preset: str, method: str, task: str) -> None:
    config = trainer_config(method, task=task, preset=preset)
    plain = Trainer(config, MemoryRowStore(trainer_tables(config)))
    wanted = [plain.step(whole(step, part)) for step, part in ((2, 0), (4, 1), (5, 2))]

    store = MemoryRowStore(trainer_tables(config))
    first = Trainer(config, store)
    before = first.step(empty(1)).metrics
    assert (before["batch_examples"], before["examples"], before["dead_letters"], before["mse"]) == (0, 0, 1, None)
    resumed = Trainer(config, store)  # a checkpoint may be taken before anything was learnt
    resumed.restore(first.tensors(), first.payload())
    found: list[StepResult] = []
    for batch in (whole(2, 0), empty(3), whole(4, 1), whole(5, 2)):
        result = resumed.step(batch)
        if batch.records:
            found.append(result)
        else:
            assert result.metrics["accuracy"] == found[-1].metrics["accuracy"]
    for one, other in zip(found, wanted, strict=True):
        differing = {name for name in one.metrics if one.metrics[name] != other.metrics[name]}
        assert differing == {"dead_letters"}
        assert one.scores["method"].tobytes() == other.scores["method"].tobytes()
    resumed_bits, plain_bits = ({n: t.tobytes() for n, t in trainer.tensors().items()} for trainer in (resumed, plain))
    assert resumed_bits == plain_bits
