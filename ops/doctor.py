"""`autoemb-pipeline doctor`: is everything a run needs there and fit? Each finding is well, or names the command that mends it."""

import importlib
import importlib.metadata
import os
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from autoemb_pipeline.errors import AutoembError, ConfigurationError
from autoemb_pipeline.ops.brokers.client import client_config
from autoemb_pipeline.ops.gpu import gpu, torch_cuda, why_no_cuda
from autoemb_pipeline.ops.registry_settings import registry_settings
from autoemb_pipeline.ops.state_directory import StateDirectoryProblem, examine_state_directory
from autoemb_pipeline.ops.topics import SettingProblem, broker_kind, mending_command, partition_count, setting_problems
from autoemb_pipeline.ops.training_topics import deleting_settings, in_words, kept_for, training_problems
from autoemb_pipeline.redaction import redact
from autoemb_pipeline.schemas.registry import checked_settings

DISTRIBUTION = "autoemb-pipeline"
_REGISTRY_SECONDS = 5
_REQUIREMENT = re.compile(r"^([A-Za-z0-9._-]+)[^;]*?>=\s*([0-9.]+)")


@dataclass(frozen=True, kw_only=True, slots=True)
class Finding:
    """One line of the doctor's report.

    Attributes:
        subject: what was looked at.
        ok: whether it is well.
        text: what was found.
        remedy: the command that mends it; empty when it is well.
    """

    subject: str
    ok: bool
    text: str
    remedy: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class DoctorConfig:
    """What to examine.

    Attributes:
        bootstrap_servers, kafka_config: as given to every other command; None looks for a broker in the usual order.
        topic: the interactions topic.
        metrics, runtime, dead_letters: the output topics.
        schema_registry: its URL; None when none is used, unless its file names one.
        schema_registry_config: settings of its client, credentials among them.
        state_dir: of the trainer; None examines none.
        device: what `train` would be asked for.
        longest_outage: seconds that a trainer may be away: the interactions are then judged as `train` judges them; None: as `replay` does,
            for which every retention is too short.
        min_free_bytes: less space than this on the state directory's disk is a problem.
    """

    bootstrap_servers: str | None = None
    kafka_config: Path | None = None
    topic: str = "interactions"
    metrics: str = "autoemb.metrics"
    runtime: str = "autoemb.runtime"
    dead_letters: str = "interactions.dlq"
    schema_registry: str | None = None
    schema_registry_config: Path | None = None
    state_dir: Path | None = None
    device: Literal["auto", "cpu", "cuda"] = "auto"
    longest_outage: float | None = None
    min_free_bytes: int = 2 << 30

    def __post_init__(self) -> None:
        if self.schema_registry is not None:
            checked_settings({"url": self.schema_registry})
        if self.min_free_bytes < 0:
            raise ConfigurationError("The least free space cannot be negative", remedy="give 0 or more bytes")


def examine(config: DoctorConfig, env: Mapping[str, str]) -> Iterator[Finding]:
    """Findings, each as soon as it is known: versions, device, state directory, broker, topics, registry.

    Nothing is created or changed but a probe file in the state directory, which is removed again. All is well when every finding
    is `ok`. Raises nothing on account of what it examines.
    """
    yield from _versions()
    yield _guarded("device", lambda: _device(config.device))
    if config.state_dir is not None:
        yield from _state(config.state_dir, config.min_free_bytes)
    yield from _broker_and_topics(config, env)
    if config.schema_registry is not None or config.schema_registry_config is not None:
        yield _guarded("schema registry", lambda: _registry(config, env))


def _guarded(subject: str, look: Callable[[], Finding]) -> Finding:
    try:
        return look()
    except AutoembError as error:
        return Finding(subject=subject, ok=False, text=f"{error.what}: {error.why}" if error.why else error.what, remedy=error.remedy)


def _versions() -> Iterator[Finding]:
    python = ".".join(str(part) for part in sys.version_info[:3])
    yield Finding(subject="python", ok=sys.version_info >= (3, 11), text=python, remedy="make setup PYTHON=python3.11")
    for requirement in importlib.metadata.requires(DISTRIBUTION) or []:
        match = _REQUIREMENT.match(requirement)
        if match is None or "extra ==" in requirement:
            continue
        name, least = match.groups()
        remedy = f"{sys.executable} -m pip install -U '{requirement}'"
        try:
            installed = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            yield Finding(subject=name, ok=False, text="not installed", remedy=remedy)
            continue
        ok = _numbers(installed) >= _numbers(least)
        yield Finding(subject=name, ok=ok, text=installed if ok else f"{installed} is older than {least}", remedy="" if ok else remedy)


def _numbers(version: str) -> tuple[int, ...]:
    release = re.match(r"[0-9.]+", version)
    return tuple(int(part) for part in release.group().split(".") if part) if release else ()


def _device(device: str) -> Finding:
    card, built = gpu(), torch_cuda()
    why = why_no_cuda(card, built)
    if card is not None and why is None:
        return Finding(subject="device", ok=True, text=f"cuda: {card.name}, torch built for CUDA {built}")
    if device == "cuda":
        remedy = "nvidia-smi; then install a CUDA build of torch that fits the driver (README), or train with --device cpu"
        return Finding(subject="device", ok=False, text=f"cuda is not available: {why}", remedy=remedy)
    return Finding(subject="device", ok=True, text=f"cpu: {os.cpu_count()} cores")


def _state(directory: Path, min_free_bytes: int) -> Iterator[Finding]:
    try:
        report = examine_state_directory(directory)
    except StateDirectoryProblem as problem:
        yield Finding(subject="state directory", ok=False, text=str(problem), remedy=problem.remedy)
        return
    in_use = f"; in use by process {report.holder}" if report.holder else ""
    yield Finding(subject="state directory", ok=True, text=f"{directory} on {report.file_system}: locks, links and syncs{in_use}")
    free = f"{report.free_bytes / 2**30:.1f} GiB free of {report.total_bytes / 2**30:.1f}"
    if report.free_bytes < min_free_bytes:
        remedy = f"du -xsh {directory}/* | sort -h; then make room, or give a --state-dir on another disk"
        yield Finding(subject="disk", ok=False, text=f"{free}, less than {min_free_bytes / 2**30:.1f} GiB", remedy=remedy)
    else:
        yield Finding(subject="disk", ok=True, text=free)


def _broker_and_topics(config: DoctorConfig, env: Mapping[str, str]) -> Iterator[Finding]:
    kafka: dict[str, str] = {}

    def broker() -> Finding:
        kafka.update(client_config(config.bootstrap_servers, config.kafka_config, env))
        names = {"apache": "Apache Kafka", "tansu": "embedded Tansu (memory only)", "unknown": "a broker that does not say which"}
        return Finding(subject="broker", ok=True, text=f"{names[broker_kind(kafka)]} at {kafka['bootstrap.servers']}")

    finding = _guarded("broker", broker)
    yield finding
    if not finding.ok:
        return
    yield _guarded(f"topic {config.topic}", lambda: _interactions(kafka, config.topic, config.longest_outage))
    for topic in (config.metrics, config.runtime):
        yield _guarded(f"topic {topic}", lambda name=topic: _output(kafka, name, kept=False))  # type: ignore[misc]
    yield _guarded(f"topic {config.dead_letters}", lambda: _output(kafka, config.dead_letters, kept=True))


def _interactions(kafka: Mapping[str, str], topic: str, longest_outage: float | None) -> Finding:
    count = partition_count(kafka, topic)
    if count is None:
        remedy = f"autoemb-pipeline replay --dataset ml-latest-small --topic {topic}"
        return Finding(subject=f"topic {topic}", ok=False, text="not there", remedy=remedy)
    partitions = f"{count} partition{'s' if count > 1 else ''}"
    if longest_outage is None:
        return _kept(kafka, topic, setting_problems(kafka, topic), f"{partitions}, kept for ever in event time")
    settings = deleting_settings(kafka, topic)
    problems = training_problems(settings, longest_outage=longest_outage)
    return _kept(kafka, topic, problems, f"{partitions}, kept {kept_for(settings)}; the longest outage is {in_words(longest_outage)}")


def _output(kafka: Mapping[str, str], topic: str, *, kept: bool) -> Finding:
    count = partition_count(kafka, topic)
    if count is None:
        return Finding(subject=f"topic {topic}", ok=True, text="not there yet: train creates it")
    if count != 1:
        delete = f"kafka-topics.sh --bootstrap-server {kafka['bootstrap.servers']} --delete --topic {topic}"
        remedy = f"name another topic; or, to lose what is in it and let train make it anew: {delete}"
        return Finding(subject=f"topic {topic}", ok=False, text=f"has {count} partitions instead of one: its order is lost", remedy=remedy)
    if not kept:
        return Finding(subject=f"topic {topic}", ok=True, text="1 partition")
    return _kept(kafka, topic, setting_problems(kafka, topic), "1 partition, kept for ever")


def _kept(kafka: Mapping[str, str], topic: str, problems: Sequence[SettingProblem], well: str) -> Finding:
    if not problems:
        return Finding(subject=f"topic {topic}", ok=True, text=well)
    text = "; ".join(f"{p.setting}={p.value}: {p.harm}" for p in problems)
    return Finding(subject=f"topic {topic}", ok=False, text=text, remedy=mending_command(kafka["bootstrap.servers"], topic, problems))


def _registry(config: DoctorConfig, env: Mapping[str, str]) -> Finding:
    settings = registry_settings(config.schema_registry, config.schema_registry_config, env) or {}
    url = settings["url"]
    try:
        client = importlib.import_module("confluent_kafka.schema_registry")
    except ImportError as error:
        remedy = f"{sys.executable} -m pip install 'autoemb-pipeline[registry]'"
        return Finding(subject="schema registry", ok=False, text=f"its client is not installed: {error}", remedy=remedy)
    try:
        subjects = client.SchemaRegistryClient({**settings, "timeout": _REGISTRY_SECONDS, "max.retries": 0}).get_subjects()
    except Exception as error:  # noqa: BLE001  # the client lets its HTTP library's errors through, whichever that is
        remedy = f"curl {url}/subjects; or start one: docker compose --profile registry up -d"
        return Finding(subject="schema registry", ok=False, text=redact(f"does not answer at {url}: {error}"), remedy=remedy)
    return Finding(subject="schema registry", ok=True, text=f"{len(subjects)} subjects at {url}")
