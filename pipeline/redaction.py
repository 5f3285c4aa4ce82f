"""Secrets stay here: the one place that takes them out of whatever leaves the process (logs, errors, dead letters, findings).

Two ways. A secret that was handed over (`keep_secret`) is known by its value, wherever it turns up. One that was not is known by its shape:
the password in a URL, the value behind a name such as ``sasl.password``.
"""

import base64
import re
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote

HIDDEN = "[hidden]"
_SHORTEST = 4  # a shorter one is part of ordinary words, and its replacement would make nonsense of them

_USER_INFO = re.compile(r"(?<=://)[^\s'\"]*@")
_NAME = r"[\w.\-]*(?:password|passwd|secret|user[._]info|api[._-]key|oauthbearer\.config|jaas\.config|\.pem)"
_NAMED = re.compile(rf"({_NAME}[ \t]*=[ \t]*|[\"']{_NAME}[\"']\s*:\s*)(\"[^\"]*\"|'[^']*'|[^\s,;}}\"']+)", re.IGNORECASE)
_SECRET_NAME = re.compile(r"password|passwd|secret|user\.info|oauthbearer\.config|jaas|\.pem$|token|api[._-]key|credential", re.IGNORECASE)

_secrets: set[str] = set()


def is_secret_setting(name: str) -> bool:
    """Whether a client's setting of this name holds a secret."""
    return _SECRET_NAME.search(name) is not None and not name.endswith((".location", ".url", ".path"))


def keep_secret(value: str) -> None:
    """From now on `redact` hides this value, as it is, in a URL's encoding, and in HTTP's basic authentication."""
    user, colon, password = value.partition(":")
    for secret in (value, *((password,) if colon and user else ())):
        if len(secret) >= _SHORTEST:
            _secrets.update({secret, quote(secret, safe=""), base64.b64encode(secret.encode()).decode()})


def keep_settings_secret(settings: Mapping[str, Any]) -> None:
    """`keep_secret` for the values of all settings whose names say so."""
    for name, value in settings.items():
        if is_secret_setting(name) and isinstance(value, str):
            keep_secret(value)


def redact(text: str) -> str:
    """The text without secrets; the same text where there is none."""
    for secret in sorted(_secrets, key=len, reverse=True):
        if secret in text:
            text = text.replace(secret, HIDDEN)
    if "@" in text:
        text = _USER_INFO.sub(f"{HIDDEN}@", text)
    if "=" in text or ":" in text:
        text = _NAMED.sub(rf"\g<1>{HIDDEN}", text)
    return text


def redact_all(value: Any) -> Any:
    """`redact` for every text in nested lists and dictionaries; what stands under a secret's name is hidden whatever it is."""
    if isinstance(value, str):
        return redact(value)
    if isinstance(value, Mapping):
        return {name: HIDDEN if is_secret_setting(str(name)) else redact_all(item) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [redact_all(item) for item in value]
    return value
