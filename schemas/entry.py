"""What the vocabulary of metrics is made of: one metric, wherever it is shown, and how records are read by it."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import product
from types import MappingProxyType
from typing import Any, Literal

from autoemb_pipeline.schemas.scores import AVERAGES, LOSSES, MODELS, SIDES

Kind = Literal["counter", "gauge", "summary"]
Topic = Literal["metrics", "runtime"]
Unit = Literal["", "loss", "ratio", "nats", "dimensions", "interactions", "interactions/s", "ids", "records", "s", "bytes"]


QUANTILES: Mapping[str, str] = MappingProxyType({"0.5": "p50", "0.95": "p95", "0.99": "p99"})
# What stands for a placeholder in `Metric.field`: value of the label -> part of the field's name.
_PLACEHOLDERS: Mapping[str, Mapping[str, str]] = {
    "model": {model.name: model.prefix for model in MODELS},
    "kind": AVERAGES,
    "side": {side: side for side in SIDES},
    "quantile": QUANTILES,
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Metric:
    """One metric, wherever it is shown.

    Attributes:
        name: in Prometheus; a counter's with its `_total`.
        kind: of Prometheus.
        topic: whose records hold it.
        field: of such a record. Placeholders are labels: {model}, {kind} (of average), {side}, {quantile}; {loss} is either task's. Empty:
            the labels are fields themselves, and the value is 1.
        title: for people, as short as a legend.
        unit: of the field's values.
        help: one sentence.
        labels: the placeholders in order, then those that the keys of a map hold, joined by underscores.
        scale: Prometheus value / value of the field.
        is_text: the field holds words; the value in Prometheus is 1 where there are any, 0 where it is null.
    """

    name: str
    kind: Kind = "gauge"
    topic: Topic
    field: str
    title: str
    unit: Unit = ""
    help: str
    labels: tuple[str, ...] = ()
    scale: float = 1.0
    is_text: bool = False

    def fields(self) -> Iterator[tuple[tuple[str, ...], str]]:
        """(values of the placeholders' labels, name of the field), for every combination."""
        placed = [_PLACEHOLDERS[label] for label in self.labels if f"{{{label}}}" in self.field]
        labels = self.labels[: len(placed)]
        for combination in product(*(choices.items() for choices in placed)):
            parts = {label: part for label, (_, part) in zip(labels, combination, strict=True)}
            for loss in LOSSES.values() if "{loss}" in self.field else [None]:
                yield tuple(value for value, _ in combination), self.field.format(**parts, loss=loss and loss.field)

    def samples(self, record: Mapping[str, Any]) -> Iterator[tuple[tuple[str, ...], float]]:
        """(label values, value) of a record, maps not flattened; nothing where the record does not say."""
        if not self.field:
            own = [record.get(label) for label in self.labels]
            if None not in own:
                yield tuple(map(str, own)), 1.0
            return
        if self.is_text:
            if self.field in record:
                yield (), float(record[self.field] is not None)
            return
        for values, field in self.fields():
            held = record.get(field)
            further = len(self.labels) - len(values)
            for key, value in held.items() if isinstance(held, Mapping) else [("", held)]:
                if value is not None:
                    yield (*values, *(str(key).split("_", further - 1) if further else ())), value * self.scale
