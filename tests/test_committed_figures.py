"""Figures in committed notebooks: never older than the package's scripts, light, and loaded once by a page."""

from __future__ import annotations

import re
import runpy
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import nbformat
import pytest
from conftest import HTML, ROOT

from lmc_utils.explore.once import once

BOOK = ROOT / "book"
tools = SimpleNamespace(**runpy.run_path(str(BOOK / "tools.py")))

ALL = [
    (path.stem, output.data["text/html"])
    for path in sorted(BOOK.glob("*.ipynb"))
    for output in tools.figures(nbformat.read(path, as_version=4))
]
FIGURES = [(stem, html) for stem, html in ALL if "data-lmc-state" in html]
NAMES = [f"{stem}-{i}" for i, (stem, _) in enumerate(FIGURES)]
TWIN = re.compile(r'src="data:image/svg\+xml;base64,[^"]*"')  # matplotlib's versions draw it a little differently


def test_the_book_has_figures() -> None:
    assert len(FIGURES) >= 20


@pytest.mark.parametrize(("stem", "fragment"), ALL, ids=[f"{stem}-{i}" for i, (stem, _) in enumerate(ALL)])
def test_a_committed_figure_or_table_carries_todays_script_and_style(stem: str, fragment: str) -> None:
    told = f"book/{stem}.ipynb holds an old script or style: make figures"
    assert TWIN.sub("", tools.today(fragment)) == TWIN.sub("", fragment), told


def test_figures_are_light(weigh: Callable[..., None]) -> None:
    """State (of a plane 625 networks), static twin and numbers; a page loads the scripts beside them once."""
    bodies = [once(fragment, "_static/lmc")[0] for _, fragment in FIGURES]
    weigh("figures", {name: len(body.encode()) / 1e3 for name, body in zip(NAMES, bodies, strict=True)}, limit=150)


def test_a_page_loads_each_script_and_style_once() -> None:
    first, second = (fragment for stem, fragment in FIGURES if stem == "01-two-solutions")
    alone, needed = once(first, "../_static/lmc")
    body, files = once(first + second, "../_static/lmc")
    assert files == needed
    assert sorted(Path(name).suffix for name in files) == [".css", ".js"]
    assert [body.count(f'"../_static/lmc/{name}"') for name in files] == [1, 1]
    assert body.count('type="application/json" data-lmc-state=') == 2
    assert len(alone) < len(first) - 30_000, "the page itself holds neither"


def test_no_page_shows_the_title_of_a_form() -> None:
    if not HTML.is_dir():
        pytest.skip("the book is not built: run `make book` to look at its pages")
    pages = {page.name: page.read_text(encoding="utf-8") for page in HTML.glob("book/*.html")}
    assert sum("Show the solution" in text for text in pages.values()) >= 10
    assert not [name for name, text in pages.items() if "@title" in text]


def test_every_built_page_loads_its_figures_from_files() -> None:
    if not HTML.is_dir():
        pytest.skip("the book is not built: run `make book` to look at its pages")
    pages = {page: page.read_text(encoding="utf-8") for page in HTML.glob("book/*.html")}
    pages = {page: text for page, text in pages.items() if "data-lmc-state" in text}
    assert len(pages) >= 12
    for page, text in pages.items():
        assert "data-lmc-script" not in text, page.name
        needed = re.findall(r'(?:src|href)="([^"]*_static/lmc/[^"]+)"', text)
        assert needed
        assert len(set(needed)) == len(needed), page.name
        assert all((page.parent / name).is_file() for name in needed), page.name
