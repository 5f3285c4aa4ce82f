"""What a replay's producer says of itself."""

import time

from autoemb_pipeline.kafka.settings import open_producer
from autoemb_pipeline.producers.delivery import Trouble, replay_settings, unacknowledged


def test_unacknowledged_counts_records_and_not_errors_still_to_be_told() -> None:
    trouble = Trouble(discarding=True)
    producer = open_producer(replay_settings({"bootstrap.servers": "127.0.0.1:1"}, trouble, messages=100, kbytes=100))
    for _ in range(5):
        producer.produce("nowhere", b"record")
    deadline = time.monotonic() + 20
    while len(producer) == 5 and time.monotonic() < deadline:
        time.sleep(0.02)
    assert len(producer) > 5
    assert unacknowledged(producer) == 5
    assert trouble.note
    producer.purge()
    producer.flush(1)
