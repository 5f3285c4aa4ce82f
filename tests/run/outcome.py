"""All that a run leaves behind, as values that are equal exactly when every bit is."""

import hashlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from autoemb_pipeline.checkpoint.reading import open_newest
from autoemb_pipeline.checkpoint.store import CheckpointStore
from autoemb_pipeline.config import RunConfig
from autoemb_pipeline.sink.prediction_log import read_predictions
from tests.run.kafka_reading import read_all

# What may differ: who the run is, where its records lie in the output topics, and when they began there.
OWN = {"run_id", "configuration", "outputs_at"}


def outcome(kafka: Mapping[str, str], config: RunConfig, *, with_log: bool = True) -> dict[str, Any]:
    """Of a finished run in its state directory and topics. The run id is blotted out of the metrics' bytes."""
    store = CheckpointStore(config.state_dir)
    assert store.newest_valid().refused == ()
    with open_newest(store) as opened:
        loaded = opened.loaded
        run_id = loaded.payload["run_id"].encode()
        log = read_predictions(config.state_dir / "predictions").collect().write_csv() if with_log else ""
        return {
            "step": loaded.step,
            "payload": {name: value for name, value in loaded.payload.items() if name not in OWN},
            "tensors": {name: (str(t.dtype), t.tobytes()) for name, t in loaded.tensors.items()},
            "rows": {s.name: [(i, [part.tobytes() for part in row]) for i, row in opened.rows.records(s.name)] for s in opened.rows.specs},
            "counts": {s.name: opened.rows.count(s.name) for s in opened.rows.specs},
            "metrics": metrics(kafka, config, run_id),
            "dead letters": [(m.key(), m.value(), m.headers()) for m in read_all(kafka, config.dead_letter_topic)],
            "predictions": (log.count("\n") - 1, hashlib.sha256(log.encode()).hexdigest()),
        }


def metrics(kafka: Mapping[str, str], config: RunConfig, run_id: bytes) -> list[tuple[bytes, bytes]]:
    """(key, value) of every record of the run, in the topic's order."""
    records = [(m.key(), m.value()) for m in read_all(kafka, config.metrics_topic)]
    return [(k.replace(run_id, b"RUN"), v.replace(run_id, b"RUN")) for k, v in records if k.startswith(run_id + b":")]


def assert_same(found: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
    """Every part equal to the last bit; names the first that is not."""
    assert [key for key, _ in found["metrics"]] == [b"RUN:%d" % (n + 1) for n in range(len(found["metrics"]))]
    for part, value in wanted.items():
        assert found[part] == value, f"{part} differ"
    assert found.keys() == wanted.keys()


@contextmanager
def nothing_left_over(state_dir: Path) -> Iterator[None]:
    """After the block no half-written checkpoint lies about."""
    yield
    assert not [p.name for p in (state_dir / "checkpoints").iterdir() if not p.name.startswith("step-")]
