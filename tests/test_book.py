"""The book: notebooks as committed, the one address, the execution cache, and pages in a browser without network."""

from __future__ import annotations

import os
import re
import runpy
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from urllib.parse import unquote, urlsplit

import nbformat
import pytest
import yaml
from axe_playwright_python.sync_playwright import Axe
from conftest import HTML, ROOT
from IPython.core.inputtransformer2 import TransformerManager
from nbclient.exceptions import CellExecutionError
from playwright.sync_api import Page

BOOK = ROOT / "book"
NOTEBOOKS = sorted(BOOK.glob("*.ipynb"))
# The theme leaves templates in _static, which are no pages.
PAGES = [path.relative_to(HTML).as_posix() for path in sorted(HTML.rglob("*.html")) if "_static" not in path.parts]
ADDRESS = re.compile(r"(?:git\+https://github\.com|colab\.research\.google\.com/github)/([\w.-]+/[\w-]+)")

tools = SimpleNamespace(**runpy.run_path(str(BOOK / "tools.py")))


def tracked() -> dict[Path, str]:
    """The text of every file that is committed or would be."""
    if not (ROOT / ".git").exists():
        pytest.skip("not a git checkout: nothing says which files belong to it")
    command = ["git", "-c", "safe.directory=*", "ls-files", "--cached", "--others", "--exclude-standard", "-z"]
    listing = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    texts = {}
    for path in (ROOT / name for name in listing.split("\0") if name):
        if path.is_file() and b"\0" not in (content := path.read_bytes()):
            texts[path] = content.decode("utf-8")
    return texts


# Notebooks as committed


@pytest.fixture(params=NOTEBOOKS, ids=lambda path: path.stem)
def path(request: pytest.FixtureRequest) -> Path:
    return request.param


@pytest.fixture
def notebook(path: Path) -> nbformat.NotebookNode:
    return nbformat.read(path, as_version=4)


@pytest.fixture
def code(notebook: nbformat.NotebookNode) -> list[nbformat.NotebookNode]:
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def test_notebook_is_valid_and_the_same_on_every_machine(notebook):
    nbformat.validate(notebook)
    assert notebook.metadata.keys() == {"kernelspec", "language_info", "lmc"}, (
        "make notebooks writes what belongs there"
    )
    assert notebook.metadata.kernelspec == tools.KERNEL
    assert notebook.metadata.language_info == tools.LANGUAGE


def test_outputs_belong_to_the_code(notebook, code):
    assert tools.is_executed(notebook), "the code changed after it ran: make notebooks"
    assert [cell.execution_count for cell in code] == [*range(1, len(code) + 1)], "not one run from a clean kernel"


def test_outputs_are_clean(code):
    for cell in code:
        for output in cell.outputs:
            text = str(output.get("text", "")) + str(output.get("data", {}).get("text/plain", ""))
            assert output.output_type != "error", text
            assert output.get("name") != "stderr", text
            assert tools.WIDGET not in output.get("data", {}), "a widget view shows nothing without its kernel"
            assert not re.search(r"\r|\d%\||it/s|s/it", text), f"debris of a progress bar: {text!r}"


def test_first_cell_opens_colab(path, notebook):
    slug = tools.repository_url().removeprefix("https://github.com/")
    cell = notebook.cells[0]
    assert f"(https://colab.research.google.com/github/{slug}/blob/main/book/{path.name})" in cell.source
    assert "remove-cell" in cell.metadata.tags, "the badge is an image from another host: not for the page"


def test_bootstrap_installs_the_repository_in_colab_and_nothing_elsewhere(code, monkeypatch):
    assert "remove-cell" in code[0].metadata.tags
    calls = []
    shell = SimpleNamespace(run_line_magic=lambda *arguments: calls.append(arguments))
    cell = TransformerManager().transform_cell(code[0].source)
    exec(cell, {"get_ipython": lambda: shell})
    assert calls == []
    monkeypatch.setitem(sys.modules, "google.colab", ModuleType("google.colab"))
    exec(cell, {"get_ipython": lambda: shell})
    assert calls == [("pip", f"install -q git+{tools.repository_url()}")]


def test_markdown_is_plain(notebook):
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            assert not re.search(r"\{[\w:-]+\}`|^(:::|```)\{", cell.source, re.M), (
                "MyST shows raw in JupyterLab and Colab"
            )


def test_every_notebook_is_in_the_table_of_contents():
    toc = yaml.safe_load((ROOT / "_toc.yml").read_text())
    entries = {toc["root"], *(chapter["file"] for part in toc["parts"] for chapter in part["chapters"])}
    assert entries >= {f"book/{path.stem}" for path in NOTEBOOKS}
    missing = [entry for entry in entries if not any((ROOT / f"{entry}.{kind}").exists() for kind in ("ipynb", "md"))]
    assert not missing


def test_package_reference_lists_every_public_name():
    import lmc_utils

    listed = re.findall(r"^\.\. auto(?:function|class):: (\w+)$", (BOOK / "api.md").read_text(), re.M)
    assert sorted(listed) == sorted(lmc_utils.__all__)


# The address, and what must not be committed


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """The files that name the repository, free to be changed."""
    for name in ("_config.yml", "README.md", "CITATION.cff", "pyproject.toml"):
        shutil.copy(ROOT / name, tmp_path)
    (tmp_path / "book").mkdir()
    for source in [*BOOK.glob("*.md"), *NOTEBOOKS]:
        shutil.copy(source, tmp_path / "book")
    return tmp_path


def test_one_address_everywhere():
    url = tools.repository_url()
    places = {path: set(ADDRESS.findall(text)) for path, text in tracked().items() if path.suffix in (".md", ".ipynb")}
    assert set().union(*places.values()) == {url.removeprefix("https://github.com/")}, places
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["repository-code"] == url


def test_moving_the_address_and_back(copy):
    before = {path: path.read_bytes() for path in copy.rglob("*") if path.is_file()}
    old = tools.repository_url(copy)
    changed = tools.move("https://github.com/someone/a.book.git", copy)
    assert tools.repository_url(copy) == "https://github.com/someone/a.book"
    assert {path.name for path in changed} >= {"_config.yml", "README.md", "CITATION.cff", *(p.name for p in NOTEBOOKS)}
    for path in changed:
        assert old.removeprefix("https://github.com/") not in path.read_text()
    for path in copy.glob("book/*.ipynb"):
        was, now = nbformat.reads(before[path].decode(), as_version=4), nbformat.read(path, as_version=4)
        assert tools.is_executed(now) == tools.is_executed(was), "the outputs belong to the code as much as before"
    tools.move(old, copy)
    assert {path: path.read_bytes() for path in copy.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize(
    "url", ["", "github.com/owner/name", "https://gitlab.com/owner/name", "https://github.com/owner"]
)
def test_moving_to_no_repository(url, copy):
    with pytest.raises(ValueError, match=r"make repository URL=https://github\.com/owner/name"):
        tools.move(url, copy)


def test_nothing_of_a_machine_is_committed():
    here = "|".join(re.escape(f"{folder}/") for folder in {ROOT, Path.home()})
    machine = re.compile(rf"(?<![\w.])(?:{here}|/(?:home|Users|tmp)/\w+)|index-url|registry\.[\w.]+")
    found = {path: machine.findall(text) for path, text in tracked().items() if path != Path(__file__)}
    assert not {path.relative_to(ROOT): hits for path, hits in found.items() if hits}


# Tools


def test_stale_results_are_dropped(tmp_path):
    package, css = tmp_path / "lmc_utils", tmp_path / "book" / "static" / "book.css"
    files = [package / "paths.py", package / "assets" / "data.parquet", tmp_path / "requirements.txt"]
    for file in [*files, css]:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("one")
    executed, pages = (tmp_path / "_build" / name for name in (".jupyter_cache", ".doctrees"))

    def dropped() -> tuple[bool, bool]:
        for memory in (executed, pages):
            memory.mkdir(parents=True, exist_ok=True)
        tools.refresh(tmp_path)
        return not executed.exists(), not pages.exists()

    assert dropped() == (True, True)
    assert dropped() == (False, False)
    (package / "__pycache__").mkdir()
    (package / "__pycache__" / "paths.pyc").write_text("compiled")
    files[0].touch()
    assert dropped() == (False, False)
    for file in files:
        file.write_text("two")
        assert dropped() == (True, True), file
    files[0].rename(package / "path.py")
    assert dropped() == (True, True)
    css.write_text("two")
    assert dropped() == (False, True)
    assert dropped() == (False, False)


def test_a_notebook_that_fails_stays_as_it_was(tmp_path):
    path = tmp_path / "chapter.ipynb"
    cells = [nbformat.v4.new_code_cell(source) for source in ("print('kept')", "1 / 0")]
    nbformat.write(nbformat.v4.new_notebook(cells=cells), path)
    before = path.read_bytes()
    with pytest.raises(CellExecutionError, match="ZeroDivisionError"):
        tools.execute(path)
    assert [(path.name, path.read_bytes()) for path in tmp_path.iterdir()] == [("chapter.ipynb", before)]


# Pages, from disk, without network


@pytest.fixture
def html() -> Path:
    """The folder of the built book."""
    if not (HTML / "index.html").exists():
        reason = "the book is not built: make book"
        pytest.fail(reason) if os.environ.get("CI") else pytest.skip(reason)
    return HTML


def local(url: str) -> Path:
    """The file that a file: address points to."""
    return Path(unquote(urlsplit(url).path))


@pytest.fixture
def watched(page: Page) -> SimpleNamespace:
    """A page that keeps what it asked for and what went wrong."""
    seen = SimpleNamespace(page=page, requests=set(), wrong=[])
    page.on("request", lambda request: seen.requests.add(request.url))
    page.on("requestfailed", lambda request: seen.wrong.append(f"failed request {request.url}"))
    page.on("pageerror", lambda error: seen.wrong.append(f"script error {error}"))
    page.on("console", lambda said: seen.wrong.append(f"console {said.text}") if said.type == "error" else None)
    return seen


UNSET = "found => found.filter(e => !e.querySelector('mjx-container:not(:has(mjx-merror))')).map(e => e.outerHTML)"
# Sphinx writes two things that axe finds grave and that no setting changes: lists of definitions without a class of
# their own in the package reference, and anchors between the entries of the bibliography.
GIVEN = {"definition-list": {"enabled": False}, "aria-required-children": {"enabled": False}}


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("name", PAGES or ["index.html"])
def test_page(name: str, scheme: str, html: Path, watched: SimpleNamespace, capsys: pytest.CaptureFixture):
    page = watched.page
    page.set_viewport_size({"width": 1280, "height": 900})
    page.emulate_media(color_scheme=scheme)
    page.goto((html / name).as_uri(), wait_until="load")
    page.wait_for_selector("main")  # index.html sends the reader on
    page.evaluate("async () => { await window.MathJax?.startup?.promise; await document.fonts.ready }")

    foreign = [url for url in watched.requests if not url.startswith(("file:", "data:", "blob:"))]
    assert not foreign, "the page asks another host"
    assert not watched.wrong
    assert page.locator("html").get_attribute("data-theme") == scheme

    assert page.locator("article .math").evaluate_all(UNSET) == [], "mathematics that is not set"
    prose = page.locator("article :is(p, li, td, dd)").all_inner_texts()
    assert not [text for text in prose if re.search(r"\$[^$\s][^$]*\$|\\\(", text)], "mathematics that was not seen"
    assert page.evaluate("document.fonts.check('16px \"Source Serif 4\"')")
    assert page.evaluate("[...document.fonts].filter(font => font.status === 'error').length") == 0
    icons = page.locator(".bd-header-article svg.svg-inline--fa, .bd-header-article i[class*='fa-']")
    assert icons.count() > 0
    assert all(box["width"] > 8 for box in map(lambda icon: icon.bounding_box(), icons.all()) if box)

    targets = page.locator("a[href], img[src]").evaluate_all("found => found.map(e => e.href || e.src)")
    lost = {url for url in targets if url.startswith("file:") and not local(url).exists()}
    assert not lost, "links that lead nowhere"

    page.set_viewport_size({"width": 390, "height": 844})
    excess = page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
    assert excess <= 0, "the page scrolls sideways on a phone"

    page.set_viewport_size({"width": 1280, "height": 900})
    violations = Axe().run(page, options={"rules": GIVEN, "preload": False}).response["violations"]
    grave = [found for found in violations if found["impact"] in ("serious", "critical")]
    assert not {found["id"]: [node["html"] for node in found["nodes"]] for found in grave}

    assert not watched.wrong
    if scheme == "light":
        weight = sum(local(url).stat().st_size for url in watched.requests if url.startswith("file:"))
        with capsys.disabled():
            print(
                f"\n  {name}: {(html / name).stat().st_size / 1e3:.0f} kB, with all that it loads {weight / 1e6:.2f} MB"
            )


def test_search_works_from_disk(html: Path, watched: SimpleNamespace):
    watched.page.goto(f"{(html / 'search.html').as_uri()}?q=permutation")
    watched.page.wait_for_selector("#search-results li a")
    assert not watched.wrong
