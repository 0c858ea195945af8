"""Two installations: the package brings what it imports and moves nothing in Colab; the book brings the whole list."""

from __future__ import annotations

import ast
import importlib.metadata
import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import nbformat
import pytest
from conftest import ROOT
from nbclient import NotebookClient
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from uv import find_uv_bin

NOTEBOOKS = sorted((ROOT / "book").glob("*.ipynb"))
REQUIREMENTS, TEST_REQUIREMENTS = ROOT / "requirements.txt", ROOT / "tests" / "requirements.txt"
WIDGET = "application/vnd.jupyter.widget-view+json"

# Colab's image on 2026-08-19 (Python 3.13.15): its Jupyter is old on purpose.
JUPYTER = {"ipywidgets": "7.7.1", "ipython": "7.34.0", "ipykernel": "6.17.1", "anywidget": "0.9.21"}
COLAB = JUPYTER | {
    "sphinx": "8.2.3",
    "markdown-it-py": "4.2.0",
    "torch": "2.11.0",
    "torchvision": "0.26.0",
    "transformers": "5.15.0",
    "timm": "1.0.28",
    "datasets": "4.0.0",
    "numpy": "2.1.3",
    "scipy": "1.16.3",
    "matplotlib": "3.10.0",
}


def listed(lines: list[str]) -> dict[str, Requirement]:
    """Requirements by name, as in a requirements file."""
    entries = [Requirement(line) for line in lines if line and not line.startswith("#")]
    return {canonicalize_name(entry.name): entry for entry in entries}


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of all that decides what an installation brings; building it leaves nothing in the repository."""
    folder = tmp_path_factory.mktemp("project")
    for name in ("pyproject.toml", "README.md", "requirements.txt", "tests/requirements.txt", "lmc_utils/__init__.py"):
        (folder / name).parent.mkdir(exist_ok=True)
        shutil.copy(ROOT / name, folder / name)
    return folder


@pytest.fixture(scope="module")
def dependencies() -> dict[str, Requirement]:
    """What an installation of the package alone asks for."""
    return listed(tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"])


# What is declared


def imports(tree: ast.AST, optional: bool = False) -> Iterator[tuple[str, bool]]:
    """Modules that a file imports when it runs, and whether it goes on without them."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, optional) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            yield node.module, optional
        elif isinstance(node, ast.Try) and any("ImportError" in ast.unparse(handler) for handler in node.handlers):
            for child in node.body:
                yield from imports(ast.Module([child], []), optional=True)
        elif not (isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"):
            yield from imports(node, optional)


def imported(optional: bool) -> set[str]:
    """The distributions whose modules `lmc_utils` imports, by need; its helper for tests needs what tests need."""
    files = set((ROOT / "lmc_utils").rglob("*.py")) - {ROOT / "lmc_utils" / "testing.py"}
    trees = [ast.parse(path.read_text(encoding="utf-8")) for path in files]
    found = {module.split(".")[0] for tree in trees for module, flag in imports(tree) if flag is optional}
    owners = importlib.metadata.packages_distributions()
    return {canonicalize_name(owners[module][0]) for module in found - sys.stdlib_module_names - {"lmc_utils"}}


def test_the_package_declares_what_it_imports_and_nothing_else(dependencies):
    needed = imported(optional=False)
    assert not needed - dependencies.keys(), "imported, but not declared in pyproject.toml"
    assert not dependencies.keys() - needed, "declared in pyproject.toml, but never imported"


def test_the_list_of_the_book_holds_what_the_package_imports_with_the_same_bounds(dependencies):
    book = listed(REQUIREMENTS.read_text().splitlines())
    assert {name: entry for name, entry in book.items() if name in dependencies} == dependencies
    assert book.keys() >= imported(optional=True), "what the package can do without comes with the book"


def test_the_package_sets_lower_bounds_only(dependencies):
    operators = {name: {bound.operator for bound in entry.specifier} for name, entry in dependencies.items()}
    assert operators == {name: {">="} for name in dependencies}


def test_the_extras_read_the_lists_of_the_book_and_of_the_tests(project, dependencies):
    command = ["pip", "install", "--dry-run", "--no-deps", "--no-build-isolation", "--quiet", "--report=-", project]
    done = subprocess.run([sys.executable, "-m", *command], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (package,) = json.loads(done.stdout)["install"]
    required = package["metadata"]["requires_dist"]
    assert listed([entry for entry in required if "extra ==" not in entry]) == dependencies
    for extra, path in {"book": REQUIREMENTS, "test": TEST_REQUIREMENTS}.items():
        entries = listed([entry for entry in required if re.search(f"extra == .{extra}\\b", entry)])
        wanted = listed(path.read_text().splitlines())
        assert {name: entry.specifier for name, entry in entries.items()} == {n: e.specifier for n, e in wanted.items()}


# Colab


def uv(*arguments: str | Path, text: str = "") -> str:
    """What uv prints. Where no package index answers, a test that needs one is skipped, but fails in CI."""
    command = [find_uv_bin(), "--no-config", "--no-python-downloads", *map(str, arguments)]
    done = subprocess.run(command, input=text, capture_output=True, text=True)
    if "Failed to fetch" in done.stderr or "Request failed after" in done.stderr:
        reason = f"no package index answers: {done.stderr.strip().splitlines()[-1].strip()}"
        pytest.fail(reason) if os.environ.get("CI") else pytest.skip(reason)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_bootstrap_of_the_notebooks_moves_nothing_in_colab(project, dependencies, tmp_path):
    cells = [next(cell for cell in nbformat.read(path, 4).cells if cell.cell_type == "code") for path in NOTEBOOKS]
    (line,) = {line for cell in cells for line in re.findall(r"^ +%pip (.*)$", cell.source, re.M)}
    command, requirement = line.split(" -q ")
    assert command == "install"
    here = re.sub(r"git\+https://github\.com/[\w.-]+/[\w-]+", project.as_uri(), requirement)

    image = tmp_path / "image.txt"
    image.write_text("".join(f"{name}=={version}\n" for name, version in COLAB.items()))
    options = ["--python-version=3.13", f"--constraint={image}", "--no-annotate", "--no-header"]
    plan = uv("pip", "compile", *options, "-", text=here)  # fails if an installation would move what the image has
    installed = dict(re.findall(r"^([\w.-]+)==(\S+)$", plan, re.M))
    assert installed.keys() >= dependencies.keys()
    assert installed.items() >= {name: COLAB[name] for name in dependencies.keys() & COLAB.keys()}.items()
    book = listed(REQUIREMENTS.read_text().splitlines()).keys() - dependencies.keys() - {"fonttools"}  # matplotlib's
    more = {name for name in installed if name in book | JUPYTER.keys() | {"sphinx"} or "jupyter" in name}
    assert not more, "the package alone brings what only the book needs"


@pytest.fixture(scope="module")
def old_jupyter(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the Jupyter of Colab's image, to be put before the one that is installed."""
    folder = tmp_path_factory.mktemp("jupyter")
    pins = [f"{name}=={version}" for name, version in JUPYTER.items()]
    extra = ["decorator", "pickleshare", "backcall", "ipython-genutils"]  # which newer releases no longer need
    uv("pip", "install", "--quiet", f"--python={sys.executable}", f"--target={folder}", "--no-deps", *pins, *extra)
    return folder


def bundles(cell: nbformat.NotebookNode) -> list[set[str]]:
    """The kinds of output that each figure of a cell has."""
    outputs = [output.get("data", {}) for output in cell.get("outputs", [])]
    figures = [output for output in outputs if "lmc-table" not in output.get("text/html", "")]
    return [{*figure} for figure in figures if figure.keys() & {WIDGET, "text/html"}]


def test_a_chapter_runs_under_the_jupyter_of_colab(old_jupyter, monkeypatch):
    monkeypatch.setenv("TQDM_DISABLE", "1")  # a bar is a widget, too
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(old_jupyter), str(ROOT)]))
    notebook = nbformat.read(ROOT / "book" / "06-one-framework.ipynb", 4)
    second = [index for index, cell in enumerate(notebook.cells) if bundles(cell)][1]  # then networks are trained
    versions = f"from importlib.metadata import version\nprint({{name: version(name) for name in {[*JUPYTER]}}})"
    notebook.cells = [*notebook.cells[: second + 1], nbformat.v4.new_code_cell(versions)]
    NotebookClient(notebook, timeout=120, resources={"metadata": {"path": str(ROOT / "book")}}).execute()
    assert ast.literal_eval(notebook.cells[-1].outputs[0].text) == JUPYTER
    shown = [kinds for cell in notebook.cells for kinds in bundles(cell)]
    assert shown == [{"text/plain", "text/html", WIDGET}] * 2, "a widget, and HTML for pages without a kernel"


# Without anywidget


def test_figures_without_anywidget_are_html(tmp_path):
    program = f"""
import sys
sys.modules["anywidget"] = None  # as where it is not installed

import lmc_utils as lmc
from IPython.core.formatters import DisplayFormatter

figure = lmc.explore_spec(lmc.canonicalize(lmc.load_endpoint("mlp", seed=0)))
data, metadata = DisplayFormatter().format(figure)
assert data.keys() == {{"text/plain", "text/html"}}, data.keys()
assert data["text/plain"] == figure.summary
figure.to_html({str(tmp_path / "figure.html")!r})
assert data["text/html"] in open({str(tmp_path / "figure.html")!r}, encoding="utf-8").read()
assert "ipywidgets" not in sys.modules
"""
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
