"""Records per second of CPU time through the codecs: `python -m tests.benchmarks.bench_codec`."""

import time
from collections.abc import Callable

from autoemb_pipeline.records import Interaction
from autoemb_pipeline.schemas.codec import decode_interaction, encode_interaction
from autoemb_pipeline.schemas.metrics import metrics_to_avro, metrics_to_json, parse_metrics
from autoemb_pipeline.schemas.registry import InteractionDecoder

INTERACTION = Interaction("12345", "6789", 3.5, 1_500_000_000_000, "ml-latest-small", 98_765)
STEP = {
    "run_id": "run", "method": "autoemb", "task": "binary", "preset": "stream", "context_mode": "event", "step": 1, "examples": 500,
    "batch_examples": 500, "mse": 0.2, "mse_window": 0.19, "logistic_mse": 0.18, "user_weight": {"2": 0.2, "16": 0.5, "128": 0.3},
    "user_bucket_loss": {str(2**b): 0.2 for b in range(12)}, "next_offsets": {str(p): 10**6 for p in range(8)},
}  # fmt: skip


def rate(call: Callable[[], object], seconds: float = 1.0) -> float:
    """Calls per second of CPU time (other processes may have the core too), best of three."""

    def once() -> float:
        count, start = 0, time.process_time()
        while time.process_time() - start < seconds / 3:
            for _ in range(200):
                call()
            count += 200
        return count / (time.process_time() - start)

    return max(once() for _ in range(3))


def main() -> None:
    payload, line, decode = encode_interaction(INTERACTION), metrics_to_json(STEP), InteractionDecoder()
    cases: dict[str, Callable[[], object]] = {
        "encode_interaction": lambda: encode_interaction(INTERACTION),
        "decode_interaction": lambda: decode_interaction(payload),
        "InteractionDecoder": lambda: decode(payload),
        "metrics_to_json": lambda: metrics_to_json(STEP),
        "metrics_to_avro": lambda: metrics_to_avro(STEP),
        "parse_metrics": lambda: parse_metrics(line),
    }
    for name, call in cases.items():
        print(f"{name:20} {rate(call):>10,.0f}/s")  # noqa: T201


if __name__ == "__main__":
    main()
