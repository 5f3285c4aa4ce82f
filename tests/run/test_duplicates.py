"""Re-deliveries and what only looks like them, through `train` on the real broker."""

from typing import Any

import pytest

from autoemb_pipeline.checkpoint.store import CheckpointStore
from autoemb_pipeline.config import RunConfig
from autoemb_pipeline.deliveries import MAX_DATASETS
from autoemb_pipeline.records import Interaction
from tests.run.conftest import MakeStream, Stream
from tests.run.kafka_reading import metrics_of
from tests.streams import synthetic_stream

pytestmark = pytest.mark.kafka
RECORDS = [r._replace(dataset="web") for r in synthetic_stream(1_000, seed=41, users=60, items=50)]


def counted(stream: Stream, config: RunConfig) -> tuple[int, int, int]:
    """Trains to the end: interactions, duplicates and dead letters of the run so far."""
    stream.train(config)
    last: dict[str, Any] = metrics_of(stream.kafka, config.metrics_topic)[-1]
    return last["examples"], last["duplicates"], last["dead_letters"]


@pytest.mark.parametrize("partitions", [1, 3])
def test_one_record_with_the_greatest_sequence_silences_nobody(make_stream: MakeStream, partitions: int) -> None:
    stream = make_stream(partitions)
    wrong = RECORDS[100]._replace(sequence=2**63 - 1)
    sent = [*RECORDS[:100], wrong, *RECORDS[101:]]
    stream.send(sent, partitions)
    config = stream.config()
    assert counted(stream, config) == (1_000, 0, 0)
    stream.send(sent, partitions)  # all of it once more, to the run that goes on from its checkpoint
    assert counted(stream, config) == (1_000, 1_000, 0)


def test_a_producer_that_begins_again_at_0_is_trained_and_its_retries_are_not(make_stream: MakeStream) -> None:
    stream = make_stream(2)
    stream.send(RECORDS, 2)
    config = stream.config()
    assert counted(stream, config) == (1_000, 0, 0)
    later = [r._replace(timestamp=r.timestamp + 86_400_000) for r in RECORDS]
    stream.send(later[:600], 2)
    assert counted(stream, config) == (1_600, 0, 0)
    stream.send([*later[550:600], *later[600:]], 2)
    assert counted(stream, config) == (2_000, 50, 0)
    stream.send([*RECORDS, *later], 2)
    assert counted(stream, config) == (2_000, 2_050, 0)


def test_many_names_of_datasets_do_not_swell_the_checkpoint(make_stream: MakeStream) -> None:
    stream = make_stream()
    count = 5_000
    stream.send([Interaction(f"u{n % 50}", f"i{n % 40}", 4.0, 10**12 + n, f"session-{n}", 0) for n in range(count)])
    config = stream.config(batch_size=500)
    assert counted(stream, config) == (count, 0, 0)
    store = CheckpointStore(config.state_dir)
    step = store.newest_valid().step
    assert step is not None
    loaded = store.load(step)
    assert len(loaded.payload["position"]["deliveries"]["0"]) == MAX_DATASETS
    assert (loaded.directory / "manifest.json").stat().st_size < 20_000
