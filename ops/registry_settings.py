"""The settings of the schema registry's client: its URL from the command line, credentials from a file or the environment."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from autoemb_pipeline.errors import ConfigurationError
from autoemb_pipeline.ops.brokers.client import read_settings
from autoemb_pipeline.schemas.registry import USER_INFO_VARIABLE, checked_settings

_NUMBERS = {"timeout", "max.retries", "retries.wait.ms", "retries.max.wait.ms", "cache.capacity", "cache.latest.ttl.sec"}


def registry_settings(url: str | None, config_file: Path | None, env: Mapping[str, str]) -> dict[str, Any] | None:
    """What `autoemb_pipeline.schemas.registry.RegistryCodec` takes; None where no registry is named.

    Args:
        url: --schema-registry; goes before the file's ``url``.
        config_file: --schema-registry-config: settings of confluent_kafka's SchemaRegistryClient, as ``key=value`` lines or JSON.
        env: the process's environment; its user:password counts where the file has no ``basic.auth.user.info``.

    Raises:
        ConfigurationError: the file cannot be read, no URL is given with it, or the URL is none or holds credentials.
    """
    settings: dict[str, Any] = dict(read_settings(config_file)) if config_file else {}
    if url:
        settings["url"] = url
    if not settings:
        return None
    if "url" not in settings:
        remedy = "add url=http://HOST:PORT, or give --schema-registry URL"
        raise ConfigurationError(f"{config_file} names no registry", why="it has no url", remedy=remedy)
    if env.get(USER_INFO_VARIABLE):
        settings.setdefault("basic.auth.user.info", env[USER_INFO_VARIABLE])
    for name in _NUMBERS & settings.keys():
        try:
            settings[name] = float(settings[name]) if name == "timeout" else int(settings[name])
        except ValueError as error:
            raise ConfigurationError(f"{config_file}: {name} is not a number", remedy="correct it") from error
    return checked_settings(settings)
