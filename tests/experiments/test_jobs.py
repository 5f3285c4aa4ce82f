"""Jobs in this process and in several: all done, progress that only grows, the first error raised."""

import os
import time
from functools import partial
from pathlib import Path

import pytest

from autoemb_pipeline.experiments.jobs import Job, run_jobs


@pytest.fixture(autouse=True)
def importable(monkeypatch: pytest.MonkeyPatch) -> None:
    """A spawned process imports these functions by their module's name."""
    monkeypatch.syspath_prepend(str(Path(__file__).resolve().parents[2]))


def write(path: Path, length: int, report) -> None:
    for done in range(0, length, max(1, length // 5)):
        report(done)
    path.write_text(str(os.getpid()))


def fail(report) -> None:
    report(1)
    raise ValueError("this one")


def wait_for(other: Path, path: Path, report) -> None:
    """Ends only if both run at once."""
    path.write_text(str(os.getpid()))
    deadline = time.monotonic() + 60
    while not other.exists():
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.mark.parametrize("workers", [1, 2])
def test_every_job_is_done_and_progress_ends_at_the_sum(tmp_path, workers):
    jobs = [Job(run=partial(write, tmp_path / str(n), 10 * n), length=10 * n) for n in range(1, 5)]
    told: list[tuple[int, int]] = []
    run_jobs(jobs, workers=workers, progress=lambda done, finished: told.append((done, finished)))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["1", "2", "3", "4"]
    assert told[-1] == (100, 4)
    assert told == sorted(told)
    here = {int(p.read_text()) == os.getpid() for p in tmp_path.iterdir()}
    assert here == {workers == 1}


def test_two_workers_work_at_once(tmp_path):
    one, other = tmp_path / "one", tmp_path / "other"
    run_jobs([Job(run=partial(wait_for, a, b), length=1) for a, b in ((one, other), (other, one))], workers=2)
    assert one.read_text() != other.read_text()


def test_nothing_to_do_is_done() -> None:
    run_jobs([], workers=2)


@pytest.mark.parametrize("workers", [1, 2])
def test_the_first_error_is_raised_and_what_has_not_begun_does_not_begin(tmp_path, workers):
    jobs = [Job(run=fail, length=1), *(Job(run=partial(write, tmp_path / str(n), 1), length=1) for n in range(50))]
    with pytest.raises(ValueError, match="this one"):
        run_jobs(jobs, workers=workers)
    assert len(list(tmp_path.iterdir())) < 50
