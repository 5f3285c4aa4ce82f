"""Trainers to be killed: each is forked from a process that has imported torch and loaded the kernels, so that a start costs no seconds.

As a program it reads one JSON job a line from stdin and answers each with two: the trainer's process id when it begins, and at its end
{"returncode": ..., "seconds": ..., "output": ...}. Before a fork it creates no client, no database and no tensor: nothing
that has a thread.
"""

import json
import os
import select
import signal
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple, Self

from autoemb_pipeline.cli.errors import render
from autoemb_pipeline.config import Ports, RunConfig
from autoemb_pipeline.errors import AutoembError
from autoemb_pipeline.failpoints import arm
from autoemb_pipeline.kernels import compile_all
from autoemb_pipeline.mapping.decoder import stream_decoder
from autoemb_pipeline.mapping.reading import parse_stream
from autoemb_pipeline.ops.topics import topic_id
from autoemb_pipeline.records import OfflineStage
from autoemb_pipeline.run import train
from autoemb_pipeline.schemas.codec import decode_interaction
from tests.run.conftest import CHECK_INTERVAL, Stream, trainer_config

ROOT = Path(__file__).resolve().parents[2]
LIMIT_SECONDS = 500.0


class Ended(NamedTuple):
    """returncode: the exit status, or minus the signal. output: what it printed, metrics of its last step in the last line."""

    returncode: int
    seconds: float
    output: str


class Zygote:
    """A warm process that forks trainers, one at a time."""

    def __init__(self, hash_seed: int) -> None:
        single = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "POLARS_MAX_THREADS"), "1")
        environment = {**os.environ, **single, "PYTHONPATH": str(ROOT), "PYTHONHASHSEED": str(hash_seed)}
        self._lock = threading.Lock()
        self._process = subprocess.Popen(
            [sys.executable, str(Path(__file__))], env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def run(
        self,
        kafka: Mapping[str, str],
        config: Mapping[str, Any],
        *,
        failpoint: str = "",
        kill_after: float | None = None,
        kill_when: Callable[[], bool] | None = None,
        round_seconds: float = 0.0,
        progress: Path | None = None,
    ) -> Ended:
        """One trainer, to its end or its death.

        Args:
            kafka: librdkafka settings.
            config: `run_config`'s fields.
            failpoint: ``name:count`` where it kills itself.
            kill_after: seconds until SIGKILL.
            kill_when: asked several times a second; true: SIGKILL.
            round_seconds: what it sleeps between two polls.
            progress: a file that grows by one byte per round.
        """
        job = {"kafka": dict(kafka), "config": dict(config), "failpoint": failpoint, "kill_after": kill_after}
        job |= {"round_seconds": round_seconds, "progress": None if progress is None else str(progress)}
        with self._lock:
            self._process.stdin.write(json.dumps(job) + "\n")
            self._process.stdin.flush()
            pid = int(self._process.stdout.readline())
            with suppress(ProcessLookupError):  # it has ended
                while kill_when is not None:
                    os.kill(pid, signal.SIGKILL if kill_when() else 0)
                    time.sleep(0.1)
            return Ended(**json.loads(self._process.stdout.readline()))

    def close(self) -> None:
        self._process.stdin.close()
        self._process.wait(30)
        self._process.stdout.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def run_config(fields: Mapping[str, Any]) -> RunConfig:
    """From JSON: `method`, `context`, `learner` (preset, task, settings), `offline_count`, `offline_epochs`, a TOML file's text as
    `stream`; else RunConfig's fields.
    """
    rest = dict(fields)
    if "stream" in rest:
        rest["stream"] = parse_stream(rest["stream"])
    stream = Stream({}, rest.pop("topic"), Path())
    trainer = trainer_config(rest.pop("method", "autoemb"), context=rest.pop("context", "event"), **rest.pop("learner", {}))
    count = rest.pop("offline_count", None)
    if count is not None:
        trainer = replace(trainer, offline=OfflineStage(count=count), offline_epochs=rest.pop("offline_epochs", 1))
    return stream.config(**{**rest, "trainer": trainer, "state_dir": Path(rest["state_dir"])})


def _train(job: Mapping[str, Any]) -> int:
    arm(job["failpoint"])
    import_module("polars")  # has threads, so not before the fork; the first checkpoint would wait for it while a short stream ends
    config = run_config(job["config"])

    def stop() -> bool:
        if job["progress"] is not None:
            with Path(job["progress"]).open("ab") as file:
                file.write(b".")
        time.sleep(job["round_seconds"])
        return False

    try:
        identifier = ",".join(topic_id(job["kafka"], topic) for topic in config.topics)
        decoder = decode_interaction if config.stream is None else stream_decoder(config.stream, None)
        ports = Ports(kafka=job["kafka"], decoder=decoder, topic_id=identifier, stop=stop, check_interval=CHECK_INTERVAL)
        summary = train(config, ports)
    except AutoembError as error:
        sys.stdout.write(render(error))
        return error.exit_code
    sys.stdout.write(json.dumps({"step": summary.step, "examples": summary.examples, "mse": summary.metrics.get("mse")}) + "\n")
    return 0


def _child(job: Mapping[str, Any], output: Path) -> None:
    """Never returns: the fork's own life."""
    code = 99
    try:
        descriptor = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        os.dup2(descriptor, 1)
        os.dup2(descriptor, 2)
        code = _train(job)
    except BaseException:  # noqa: BLE001  # whatever it is, the fork must not go on as a zygote
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _run(job: Mapping[str, Any], output: Path) -> dict[str, Any]:
    started = time.monotonic()
    pid = os.fork()
    if pid == 0:
        _child(job, output)
    sys.stdout.write(f"{pid}\n")
    sys.stdout.flush()
    handle = os.pidfd_open(pid)
    limit = LIMIT_SECONDS if job["kill_after"] is None else job["kill_after"]
    if not select.select([handle], [], [], limit)[0]:
        os.kill(pid, signal.SIGKILL)
    _, status = os.waitpid(pid, 0)
    os.close(handle)
    text = output.read_text(errors="replace") if output.exists() else ""
    return {"returncode": os.waitstatus_to_exitcode(status), "seconds": time.monotonic() - started, "output": text[-4000:]}


def main() -> None:
    """Serves jobs until stdin ends."""
    compile_all(lambda *_: None)
    with tempfile.TemporaryDirectory(prefix="autoemb-crash-") as folder:
        for line in sys.stdin:
            sys.stdout.write(json.dumps(_run(json.loads(line), Path(folder) / "output")) + "\n")
            sys.stdout.flush()


if __name__ == "__main__":
    main()
