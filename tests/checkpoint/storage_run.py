"""A small deterministic training on rows and tensors with a checkpoint every three steps, for tests that kill it.

As a program: storage_run.py STATE_DIR STEPS trains on from the newest valid checkpoint and ends with a checkpoint of the last step.
"""

import hashlib
import sys
from pathlib import Path

import numpy as np

from autoemb_pipeline.checkpoint.lock import state_lock
from autoemb_pipeline.checkpoint.reading import open_newest
from autoemb_pipeline.checkpoint.store import CheckpointStore
from autoemb_pipeline.checkpoint.writer import CheckpointWriter
from autoemb_pipeline.rows import TableSpec, hashed_uniform
from autoemb_pipeline.state.options import RocksConfig
from autoemb_pipeline.state.rocks import RocksRowStore

SPECS = [
    TableSpec(name="users", width=5, initial=lambda ids: hashed_uniform(ids, seed=3, table="users", width=5, std=0.1)),
    TableSpec(name="items", width=2, dtype="f8"),
]
EVERY = 3


class Training:
    """State and one step of it; every value a function of the steps done."""

    def __init__(self, checkpoints: CheckpointStore, *, cache_bytes: int) -> None:
        found = checkpoints.recover()
        loaded = None if found.step is None else checkpoints.load(found.step)
        config = RocksConfig(directory=checkpoints.live, source=loaded and loaded.rows, cache_bytes=cache_bytes)
        self.rows = RocksRowStore(config, SPECS)
        self.step = 0 if loaded is None else loaded.payload["step"]
        first = {"w": np.zeros(7, dtype=np.float32), "drawn": np.zeros(4, dtype=np.uint64), "sums": np.zeros(2)}
        self.tensors = loaded.tensors if loaded else first

    def train(self) -> None:
        self.step += 1
        bits = np.random.Philox(key=5, counter=self.tensors["drawn"])
        generator = np.random.Generator(bits)
        draw = generator.integers(0, 400, 40).tolist()
        noise = generator.standard_normal(7, dtype=np.float32)
        self.tensors = {**self.tensors, "w": self.tensors["w"] * np.float32(0.9) + noise, "drawn": bits.state["state"]["counter"]}
        for spec, ids in (("users", draw[:20]), ("items", draw[20:])):
            distinct = [f"id {k}" for k in dict.fromkeys(ids)]
            rows = self.rows.gather(spec, distinct)
            self.rows.scatter(spec, distinct, rows * 0.75 + self.step)
            self.tensors["sums"] = self.tensors["sums"] + rows.sum(dtype=np.float64)

    def begin(self, writer: CheckpointWriter) -> None:
        writer.begin(self.step, {"step": self.step, "users": self.rows.count("users")}, self.tensors, self.rows)


def run(root: Path, steps: int, *, cache_bytes: int = 20_000, keep: int = 2) -> None:
    """Trains up to a step, checkpoints beside it, and ends with a checkpoint of it."""
    with state_lock(root):
        checkpoints = CheckpointStore(root, keep=keep)
        training = Training(checkpoints, cache_bytes=cache_bytes)
        writer = CheckpointWriter(checkpoints)
        try:
            while training.step < steps:
                training.train()
                writer.poll()
                if training.step % EVERY == 0 or training.step == steps:
                    writer.wait()
                    training.begin(writer)
            writer.wait()
        finally:
            training.rows.close()


def digest(root: Path) -> str:
    """Hash over all that the newest valid checkpoint says: rows in order, counts, tensors, arrays, payload."""
    with open_newest(CheckpointStore(root), lambda _: SPECS) as opened:
        found = hashlib.sha256(repr((opened.loaded.step, opened.loaded.payload)).encode())
        for spec in SPECS:
            found.update(f"{spec.name} {opened.rows.count(spec.name)}".encode())
            for i, row in opened.rows.items(spec.name):
                found.update(i.encode() + row.tobytes())
        for name, tensor in sorted(opened.loaded.tensors.items()):
            found.update(name.encode() + tensor.tobytes())
        return found.hexdigest()


if __name__ == "__main__":
    run(Path(sys.argv[1]), int(sys.argv[2]))
