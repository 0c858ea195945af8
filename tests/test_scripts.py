"""The figures' scripts and style sheets: formatted, typed, and their pure functions right. Needs node and npm."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest
from conftest import ROOT

from lmc_utils.explore.figure import FOLDER

KINDS = sorted(file.stem for file in FOLDER.glob("*.js") if file.stem != "shared")
FILES = sorted(file for suffix in ("js", "css", "ts") for file in FOLDER.rglob(f"*.{suffix}"))
TOOLS = {"prettier": "3", "typescript": "5"}


def run(*command: str | Path) -> None:
    """Run a command; what it says is the reason if it fails."""
    done = subprocess.run([str(part) for part in command], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture(scope="session")
def node() -> str:
    found = shutil.which("node")
    if found is None:
        reason = "no node on this machine: install nodejs and npm to check the figures' scripts"
        pytest.fail(reason) if os.environ.get("CI") else pytest.skip(reason)
    return found


@pytest.fixture(scope="session")
def tools(node: str) -> Path:
    """The folder of prettier's and TypeScript's commands, installed once into ``_build``."""
    folder = ROOT / "_build" / "node"
    commands = folder / "node_modules" / ".bin"
    if not all((commands / name).exists() for name in ("prettier", "tsc")):
        folder.mkdir(parents=True, exist_ok=True)
        wanted = [f"{name}@{version}" for name, version in TOOLS.items()]
        install = ["npm", "install", "--no-package-lock", "--no-audit", "--no-fund", "--silent", *wanted]
        done = subprocess.run(install, cwd=folder, capture_output=True, text=True)
        if done.returncode:
            pytest.skip(f"npm's registry does not give {' and '.join(wanted)}: {done.stderr.strip()[-300:]}")
    return commands


def test_pure_functions(node: str) -> None:
    run(node, "--test", *FOLDER.glob("tests/*.test.js"))


def test_format(tools: Path) -> None:
    run(tools / "prettier", "--print-width", "110", "--check", *FILES)


@pytest.mark.parametrize("kind", KINDS)
def test_types(tools: Path, kind: str) -> None:
    """Each kind of figure is checked together with the helpers, whose scope it shares."""
    settings = ["--allowJs", "--checkJs", "--noEmit", "--target", "es2022", "--lib", "es2023,dom,dom.iterable"]
    run(tools / "tsc", *settings, FOLDER / "state.d.ts", FOLDER / "shared.js", FOLDER / f"{kind}.js")
