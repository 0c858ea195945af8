"""Fixtures shared by all tests: where the built book lies, and a Chromium that has no network."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
HTML = ROOT / "_build" / "html"
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


@pytest.fixture(scope="session")
def browser_type_launch_args() -> dict:
    """Drive the system's Chromium (pytest-playwright would look for one that it downloaded itself)."""
    if CHROMIUM is None:
        reason = "no Chromium on this machine: install it (Debian: apt-get install chromium) to test the pages"
        pytest.fail(reason) if os.environ.get("CI") else pytest.skip(reason)
    quiet = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update"]
    return {"executable_path": CHROMIUM, "args": [*quiet, "--disable-quic", "--disable-sync", "--no-first-run"]}


@pytest.fixture
def browser_context_args() -> dict:
    """Every page is opened as a reader would with the network cable pulled out."""
    return {"offline": True}
