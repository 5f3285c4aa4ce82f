"""A page in headless Chromium: its DOM after loading, and a picture of it."""

import shutil
import subprocess
from pathlib import Path

import pytest

_FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--hide-scrollbars",
]


def chromium() -> str:
    found = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if found is None:
        pytest.skip("needs Chromium: apt-get install chromium")
    return found


def loaded_dom(page: Path, profile: Path, *, width: int = 1120) -> str:
    """The DOM as Chromium serialises it, after scripts ran."""
    command = [chromium(), *_FLAGS, f"--window-size={width},900", f"--user-data-dir={profile}", "--dump-dom", page.as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=90, check=True, stdin=subprocess.DEVNULL)
    return done.stdout
