"""Some records of a topic, where it does not end while it is looked at."""

from collections.abc import Iterator
from itertools import count
from typing import Any, Self

import pytest

from autoemb_pipeline.mapping import sample


class Written:
    """A record."""

    def value(self) -> bytes:
        return b"{}"

    def timestamp(self) -> tuple[int, int]:
        return 1, 5


class Busy:
    """A topic to which somebody writes faster than it is read."""

    def __init__(self, *_: object, **__: object) -> None:
        self.read_so_far = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def partitions(self, _: float) -> int:
        return 1

    def offsets(self, _: int, **__: float) -> tuple[int, int]:
        return 0, 1_000

    def read(self, *_: object, **__: object) -> Iterator[Any]:
        for n in count():
            assert n < 2_000, "it is read on and on"
            yield Written()


def test_a_topic_that_is_written_to_all_the_time_is_looked_at_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sample, "TopicReader", Busy)
    (found,) = sample.read_sample({"bootstrap.servers": "b"}, ["t"], 400)
    assert (len(found.values), len(found.times)) == (400, 400)
