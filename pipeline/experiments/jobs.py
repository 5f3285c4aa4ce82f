"""An experiment's cells, one after another or in several processes."""

import multiprocessing
import queue
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import dataclass
from typing import Any

import structlog
import torch

_WARNING = 30
_PRELOADED = ["autoemb_pipeline.experiments.table2", "autoemb_pipeline.experiments.kafka_cells"]
Report = Callable[[int], None]


@dataclass(frozen=True, kw_only=True, slots=True)
class Job:
    """One cell.

    Attributes:
        run: does it, given where to report the interactions done so far; can be pickled, its argument too.
        length: interactions when it is done.
    """

    run: Callable[[Report], object]
    length: int


def run_jobs(jobs: Sequence[Job], *, workers: int = 1, progress: Callable[[int, int], None] = lambda _done, _finished: None) -> None:
    """Does all of them; the first error ends the others that have not begun, and is raised.

    Args:
        jobs: in the order in which they begin.
        workers: processes; 1 does them in this one.
        progress: told (interactions done, jobs finished) over all jobs, about once a second and after each job.
    """
    if workers == 1 or len(jobs) < 2:  # noqa: PLR2004  # one job has nothing to run beside
        before = 0
        for number, job in enumerate(jobs):
            job.run(lambda done, before=before, number=number: progress(before + done, number))  # type: ignore[misc]
            before += job.length
            progress(before, number + 1)
        return
    # Not forked from this process, where torch and polars have threads: from one that has only imported what a cell needs, once for all.
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(_PRELOADED)
    reports = context.Queue()
    with ProcessPoolExecutor(
        min(workers, len(jobs)), mp_context=context, initializer=_begin, initargs=(reports, torch.get_num_threads())
    ) as pool:
        futures = [pool.submit(_work, number, job) for number, job in enumerate(jobs)]
        try:
            _watch(jobs, futures, reports, progress)
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _watch(jobs: Sequence[Job], futures: Sequence[Future[None]], reports: Any, progress: Callable[[int, int], None]) -> None:
    done = [0] * len(jobs)
    told = -1.0
    while True:
        finished = [future.done() for future in futures]
        for future in futures:
            if future.done():
                future.result()
        for number, is_finished in enumerate(finished):
            if is_finished:
                done[number] = jobs[number].length
        if time.monotonic() - told > 1.0 or all(finished):
            told = time.monotonic()
            progress(sum(done), sum(finished))
        if all(finished):
            return
        try:
            number, count = reports.get(timeout=0.2)
            done[number] = max(done[number], min(count, jobs[number].length))
        except queue.Empty:
            pass


def only_warnings() -> None:
    """Log lines below warnings would stand in the progress bar; the others go to stderr."""
    structlog.configure(
        wrapper_class=structlog.make_filtering_bound_logger(_WARNING), logger_factory=lambda *_: structlog.PrintLogger(sys.stderr)
    )


_reports: Any = None


def _begin(reports: Any, threads: int) -> None:
    global _reports  # noqa: PLW0603  # a worker has one parent
    _reports = reports
    torch.set_num_threads(threads)
    only_warnings()


def _work(number: int, job: Job) -> None:
    job.run(lambda done: _reports.put((number, done)))
