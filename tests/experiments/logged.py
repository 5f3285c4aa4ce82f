"""State directories of made-up runs, written by the real prediction log: what a report is made of."""

from pathlib import Path
from typing import Any

import numpy as np

from autoemb_pipeline.checkpoint.identity import RunIdentity, write_identity
from autoemb_pipeline.columns import MiniBatch
from autoemb_pipeline.records import Interaction, LearnerInputs, Predictions, SideContext
from autoemb_pipeline.sink.prediction_log import PredictionLog

DIMS = (2, 16, 128)
BATCH = 200


def write_run(
    state_dir: Path,
    *,
    method: str = "autoemb",
    seed: int = 0,
    events: int = 4000,
    skill: float = 0.03,
    stream: int = 1,
    mode: str = "event",
    dataset: str = "synthetic-test",
    users: int = 60,
    offline: int | None = None,
) -> Path:
    """A run whose loss lies `skill` below the running mean's, on a stream decided by `stream` alone."""
    state_dir.mkdir(parents=True)
    configuration: dict[str, Any] = {
        "learner.method": method,
        "learner.task": "binary",
        "learner.seed": seed,
        "learner.dims": list(DIMS),
        "context.mode": mode,
        "positive_above": 3.5,
        "batch_size": BATCH,
        "topic": "interactions",
        **({"offline": None} if offline is None else {"offline.count": offline, "offline.until_ms": None}),
    }
    run_id = f"{method}-binary-20261124-0500{seed:02d}-{stream:02x}{seed:02x}"
    write_identity(state_dir, RunIdentity(run_id=run_id, configuration=configuration, topic_id="t", metrics_start=0, dead_letters_start=0))
    log = PredictionLog(state_dir / "predictions", dims=DIMS, task="binary", limit=10_000_000)
    source = np.random.default_rng(stream)
    own = np.random.default_rng([seed, len(method)])
    counts: dict[str, int] = {}
    for step in range(1, events // BATCH + 1):
        people = (users * source.random(BATCH) ** 2).astype(int)
        things = (150 * source.random(BATCH) ** 2).astype(int)
        base = source.random(BATCH)
        records = [
            Interaction(f"u{u}", f"i{i}", float(r), 1_000_000_000_000 + step * 1000 + k, dataset, step * BATCH + k)
            for k, (u, i, r) in enumerate(zip(people, things, source.integers(1, 6, BATCH), strict=True))
        ]
        popularity = {"user": _count(counts, [r.user_id for r in records]), "item": _count(counts, [r.item_id for r in records])}
        weights = {side: _weights(count) if method == "autoemb" else None for side, count in popularity.items()}
        loss = 0.24 - skill + 0.1 * (base - 0.5) + own.normal(0, 0.01, BATCH) + 0.1 / (1 + popularity["user"])
        scores = {
            "method": np.stack([loss, (loss < 0.25).astype(float)]),
            "running_mean": np.stack([0.24 + 0.1 * (base - 0.5), (base < 0.6).astype(float)]),
            "logistic": np.stack([0.235 + 0.1 * (base - 0.5), (base < 0.62).astype(float)]),
        }
        sides = [
            SideContext(count=c, previous_weights=np.zeros((BATCH, 3)), previous_loss=base, fading_loss=base) for c in popularity.values()
        ]
        inputs = LearnerInputs(
            user_ids=[r.user_id for r in records],
            item_ids=[r.item_id for r in records],
            features=np.zeros((BATCH, 16)),
            users=sides[0],
            items=sides[1],
            global_loss=0.2,
        )
        predictions = Predictions(probabilities=base, user_weights=weights["user"], item_weights=weights["item"])
        log.add(MiniBatch.of(step=step, records=records, next_offsets={}), scores, predictions, inputs)
    log.close_segment(events // BATCH)
    return state_dir


def _count(counts: dict[str, int], ids: list[str]) -> np.ndarray:
    seen = []
    for name in ids:
        seen.append(counts.get(name, 0))
        counts[name] = seen[-1] + 1
    return np.array(seen, dtype=float)


def _weights(count: np.ndarray) -> np.ndarray:
    raw = np.stack([np.full_like(count, 2.0), 1 + np.log1p(count) / 3, np.log1p(count) / 2], axis=1)
    return raw / raw.sum(axis=1, keepdims=True)
