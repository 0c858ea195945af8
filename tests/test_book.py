"""The book: notebooks as committed, the one address, what `make` installs, executes and builds, pages in a browser."""

from __future__ import annotations

import ast
import functools
import importlib
import importlib.util
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import textwrap
import time
import tomllib
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace
from urllib.parse import unquote, urlsplit

import nbformat
import pytest
import yaml
from axe_playwright_python.sync_playwright import Axe
from conftest import HTML, ROOT
from fontTools.ttLib import TTFont
from IPython.core.inputtransformer2 import TransformerManager
from playwright.sync_api import Browser, Page, expect

BOOK = ROOT / "book"
NOTEBOOKS = sorted(BOOK.glob("*.ipynb"))
# The theme leaves templates in _static, which are no pages.
PAGES = [path.relative_to(HTML).as_posix() for path in sorted(HTML.rglob("*.html")) if "_static" not in path.parts]
ADDRESS = re.compile(r"(?:git\+https://github\.com|colab\.research\.google\.com/github)/([\w.-]+/[\w-]+)")


def load(path: Path) -> ModuleType:
    """A script of the book as a module."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


tools, install = load(BOOK / "tools.py"), load(BOOK / "install.py")


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


def test_outputs_belong_to_the_code_and_to_one_run(notebook, code):
    assert code
    assert tools.why_execute(notebook) == "", "make notebooks"


def test_outputs_are_clean(code):
    for cell in code:
        for output in cell.outputs:
            text = str(output.get("text", "")) + str(output.get("data", {}).get("text/plain", ""))
            assert output.output_type != "error", text
            assert output.get("name") != "stderr", text
            assert tools.WIDGET not in output.get("data", {}), "a widget view shows nothing without its kernel"
            assert not re.search(r"\r|\d%\||it/s|s/it", text), f"debris of a progress bar: {text!r}"


def test_a_figure_comes_before_the_eleventh_line_of_code(code):
    lines = 0
    for cell in code:
        if not {"hide-input", "hide-cell", "remove-cell"} & set(cell.metadata.get("tags", [])):
            lines += len(cell.source.splitlines())
        if any("data-lmc-state" in output.get("data", {}).get("text/html", "") for output in cell.outputs):
            break
    assert lines <= 10, "fold the cell under its figure: tag hide-input"


def test_a_drawing_gets_lighter_and_keeps_what_a_letter_is_scaled_by():
    drawing = '<svg>\n <path d="M 1.23456 2\nL -0.123 4.5"/>\n <use x="7.891" transform="scale(0.015625)"/>\n</svg>'
    light = '<svg><path d="M 1.23 2 L -0.12 4.5"/><use x="7.89" transform="scale(0.015625)"/></svg>'
    assert tools.lighter(drawing) == tools.lighter(light) == light


@pytest.mark.parametrize("path", [path for path in NOTEBOOKS if path.stem[0].isdigit()], ids=lambda path: path.stem)
def test_each_chapter_has_something_to_build_with_a_check_two_hints_and_a_solution(path):
    cells = nbformat.read(path, 4).cells
    (start,) = [i for i, cell in enumerate(cells) if cell.cell_type == "markdown" and "## Build it: " in cell.source]
    blank, check, hints, solution = cells[start + 1 : start + 5]
    assert "your line" in blank.source or "= ..." in blank.source
    assert not blank.outputs and len(blank.source.splitlines()) <= 30
    assert check.source.rstrip().splitlines()[-1].startswith("print(check(") or "\nprint(check(" in check.source
    assert check.outputs[0].text.startswith("there is still a blank\n")
    assert hints.source.count("*Hint ") == 2
    assert solution.source.startswith("# @title Solution: ") and "hide-cell" in solution.metadata.tags
    assert solution.outputs[0].text.startswith("right")


def test_means_and_their_errors_are_in_tables(code):
    printed = [output.text for cell in code for output in cell.outputs if output.output_type == "stream"]
    assert not [text for text in printed if re.search(r"\+-|±", text)], "lmc.table shows them"


def test_a_plot_has_a_name_a_caption_and_words_for_who_does_not_see_it(code):
    plots = [
        cell
        for cell in code
        if any({"image/png", "image/svg+xml"} & output.get("data", {}).keys() for output in cell.outputs)
    ]
    for cell in plots:
        rendered = cell.metadata.get("mystnb", {})
        assert len(rendered.get("image", {}).get("alt", "")) > 60, cell.source
        assert {"caption", "name"} <= rendered.get("figure", {}).keys(), cell.source


def test_a_live_figure_has_a_caption_whose_numbers_it_shows(code):
    for cell in code:
        for output in cell.outputs:
            if not (kept := tools.STATE.search(output.get("data", {}).get("text/html", ""))):
                continue
            said, state = cell.metadata["mystnb"]["figure"], json.loads(kept[1])
            drawn = [one for split in state.get("curves", state.get("surfaces", [])) for one in split]
            shown = [one["barrier"] for one in drawn] + [min(one["accuracy"]) for one in drawn]
            shown += [100 * x for method in state.get("methods", []) for x in method.get("right", [])]
            shown += state.get("excess", [])
            assert re.fullmatch(r"fig-[a-z0-9-]+", said["name"])
            for number in re.findall(r"\d+\.\d+", said["caption"]):
                digits = len(number.partition(".")[2])
                assert any(abs(one - float(number)) <= 0.51 * 10**-digits for one in shown), (number, shown)


def test_exercises_say_how_long_how_hard_and_how_central_they_are(path, notebook):
    said = "\n".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")
    exercises = re.findall(r"^\*\*\d+\.\d [^*]*\*\*", said, re.M)
    assert len(exercises) >= 3 or not re.match(r"\d", path.name)
    for exercise in exercises:
        assert re.search(r"\(\d+ minutes, (easy|medium|hard), (core|useful|extra)\)", exercise), exercise


def test_references_are_those_that_the_text_links_as_the_bibliography_has_them(path, notebook, tmp_path):
    copy = shutil.copy(path, tmp_path)
    assert not tools.cite(Path(copy)), f"make references NOTEBOOKS=book/{path.name}"
    said = "\n".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")
    linked = {*re.findall(r"arxiv\.org/abs/([\d.]+\d)", said)}
    assert linked <= {*re.findall(r"eprint = \{(.+?)\}", (BOOK / "references.bib").read_text())}


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


def test_every_notebook_and_page_is_in_the_table_of_contents():
    entries = set(re.findall(r"(?:root|file): (\S+)", (ROOT / "_toc.yml").read_text()))
    assert entries >= {f"book/{path.stem}" for path in [*NOTEBOOKS, *BOOK.glob("*.md")]}
    missing = [entry for entry in entries if not any((ROOT / f"{entry}.{kind}").exists() for kind in ("ipynb", "md"))]
    assert not missing


def test_readme_says_what_each_command_takes():
    table = re.findall(r"^\| `(make [a-z-]+)` \| .*\d.* \| \d+ GB \|$", (ROOT / "README.md").read_text(), re.M)
    assert {"make book", "make notebooks", "make test", "make test-fast", "make test-portable"} <= {*table}


def test_package_reference_documents_every_public_name_once():
    import lmc_utils

    reference = "".join(path.read_text() for path in BOOK.glob("api-*.md"))
    entries = re.findall(r"^\.\. auto(?:function|class|data):: ([\w.]+)$", reference, re.M)
    public = [entry for entry in entries if "." not in entry]
    assert sorted(public) == sorted(lmc_utils.__all__)
    places = [entry.rpartition(".") for entry in entries]
    objects = [getattr(importlib.import_module(module or "lmc_utils"), name) for module, _, name in places]
    assert len({id(found) for found in objects}) == len(objects), "one thing under two names"


def test_package_reference_begins_with_every_public_name():
    import lmc_utils

    listed = re.findall(r"\{py:obj\}`~lmc_utils\.(\w+)`", (BOOK / "api.md").read_text())
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
        assert tools.why_execute(now) == tools.why_execute(was), "the outputs belong to the code as much as before"
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


# What is executed, and what is built


def make_notebook(*sources: str, printed: str | None = None) -> nbformat.NotebookNode:
    """A notebook of these cells; with ``printed``, stamped as if each cell had run and printed that."""
    cells = [nbformat.v4.new_code_cell(source) for source in sources]
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_markdown_cell("# A chapter"), *cells])
    notebook.metadata = nbformat.from_dict({"kernelspec": tools.KERNEL, "language_info": tools.LANGUAGE})
    if printed is not None:
        for count, cell in enumerate(cells, 1):
            cell.execution_count = count
            cell.outputs = [nbformat.v4.new_output("stream", text=printed)]
        notebook.metadata["lmc"] = {"code": tools.code_hash(notebook)}
    return notebook


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    """A book of one package, one script and two chapters that no kernel could run, with what they printed once."""
    for folder in ("book/static", "book/vendor", "lmc_utils"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "lmc_utils" / "paths.py").write_text("one = 1")
    (tmp_path / "requirements.txt").write_text("torch")
    (tmp_path / "_config.yml").write_text(
        'title: Tiny\nonly_build_toc_files: true\nexecute: {execute_notebooks: "off"}\n'
    )
    (tmp_path / "_toc.yml").write_text("format: jb-book\nroot: book/index\nchapters: [{file: book/one}]\n")
    sources = tools.sources(tmp_path)
    for name in ("index", "one"):
        notebook = make_notebook("1 / 0", printed=f"printed by {name} long ago")
        notebook.metadata["lmc"]["sources"] = sources
        nbformat.write(notebook, tmp_path / "book" / f"{name}.ipynb")
    return tmp_path


def edit(path: Path, source: str) -> None:
    """Change the first code cell of a notebook as an author would: outputs and stamp stay."""
    notebook = nbformat.read(path, as_version=4)
    notebook.cells[1].source = source
    nbformat.write(notebook, path)


def test_pages_are_built_from_outputs_and_only_what_changed_is_read_again(tiny, capfd):
    tools.refresh(root=tiny)
    tools.build(tiny)
    page = tiny / "_build" / "html" / "book" / "one.html"
    assert "printed by one long ago" in page.read_text()
    said = capfd.readouterr().out
    assert "] book/index" in said, "which page is read and written"
    assert f"Open {(tiny / '_build' / 'html' / 'index.html').as_uri()}" in said
    assert "http.server --directory _build/html" in said
    assert "changed after" not in said

    notebook = nbformat.read(tiny / "book" / "one.ipynb", as_version=4)
    notebook.cells[0].source += "\n\nAnother paragraph."
    nbformat.write(notebook, tiny / "book" / "one.ipynb")
    tools.refresh(root=tiny)
    tools.build(tiny)
    assert "Another paragraph." in page.read_text()
    read = re.findall(r"reading sources.*\] (\S+)", capfd.readouterr().out)
    assert read == ["book/one"]


def test_a_page_with_a_warning_stops_the_build_each_time(tiny, capfd):
    notebook = nbformat.read(tiny / "book" / "one.ipynb", as_version=4)
    notebook.cells[0].source += "\n\n[nowhere](nowhere.md)"
    nbformat.write(notebook, tiny / "book" / "one.ipynb")
    for _ in range(2):
        with pytest.raises(SystemExit, match="errors above"):
            tools.build(tiny)
        assert "nowhere" in capfd.readouterr().err


def test_a_notebook_whose_code_changed_is_executed_and_a_line_says_which_and_why(tiny, capsys):
    path = tiny / "book" / "one.ipynb"
    untouched = (tiny / "book" / "index.ipynb").read_bytes()
    edit(path, "print('printed ' + 'anew')")
    tools.refresh(root=tiny)
    assert (tiny / "book" / "index.ipynb").read_bytes() == untouched
    notebook = nbformat.read(path, as_version=4)
    assert notebook.cells[1].outputs[0].text == "printed anew\n"
    assert notebook.metadata.lmc == {
        "code": tools.code_hash(notebook),
        "sources": tools.sources(tiny),
    }
    said = capsys.readouterr().out
    assert "one.ipynb is executed: its code changed after it ran" in said
    assert "[1/1] one.ipynb runs" in said
    assert re.search(r"^\[1/1\] one.ipynb: \d+ s$", said, re.M)
    assert "index.ipynb" not in said
    tools.refresh(root=tiny)
    assert capsys.readouterr().out == "", "the second time there is nothing to do"


def test_everything_is_executed_on_demand(tiny, capsys):
    for path in tiny.glob("book/*.ipynb"):
        edit(path, "print('anew')")
        notebook = nbformat.read(path, as_version=4)
        notebook.metadata["lmc"]["code"] = tools.code_hash(notebook)
        nbformat.write(notebook, path)
    tools.refresh("all", tiny)
    for path in tiny.glob("book/*.ipynb"):
        assert nbformat.read(path, as_version=4).cells[1].outputs[0].text == "anew\n"
    assert "index.ipynb is executed: as asked" in capsys.readouterr().out


def test_tests_refuse_outputs_that_are_not_those_of_the_code(tiny, capsys):
    edit(tiny / "book" / "one.ipynb", "print('anew')")
    before = (tiny / "book" / "one.ipynb").read_bytes()
    with pytest.raises(SystemExit, match=r'make notebooks NOTEBOOKS="book/one\.ipynb"'):
        tools.refresh("none", tiny)
    assert "one.ipynb must be executed: its code changed after it ran" in capsys.readouterr().out
    assert (tiny / "book" / "one.ipynb").read_bytes() == before


@pytest.mark.parametrize("name", ["lmc_utils/paths.py", "lmc_utils/new.py", "requirements.txt"])
def test_a_package_that_changed_is_told_in_one_line_and_nothing_is_executed(name, tiny, capsys):
    (tiny / name).write_text("two")
    tools.refresh(root=tiny)
    said = capsys.readouterr().out
    assert said.count("\n") == 1
    assert "package or its requirements changed after all notebooks ran" in said


@pytest.mark.parametrize("name", ["explore/web/plane.js", "explore/once.py", "assets/make_data.py"])
def test_what_changes_nothing_that_a_cell_prints_makes_no_outputs_older(name, tiny, capsys):
    assert (ROOT / "lmc_utils" / name).exists()
    changed = tiny / "lmc_utils" / name
    changed.parent.mkdir(parents=True)
    changed.write_text("two")
    tools.refresh(root=tiny)
    assert capsys.readouterr().out == ""
    assert tools.forget(tiny)
    changed.write_text("three")
    assert tools.forget(tiny), "the pages show it"


def test_why_a_notebook_is_executed():
    def why(change: str) -> str:
        notebook = make_notebook("1", "2", printed="3")
        exec(change, {"cells": notebook.cells, "metadata": notebook.metadata})
        return tools.why_execute(notebook)

    assert why("") == ""
    assert why("cells[0].source = 'Another paragraph.'") == ""
    assert why("cells[1].source = '0'") == "its code changed after it ran"
    assert why("del metadata['lmc']") == "it never ran here from a clean kernel"
    assert why("cells[2].execution_count = 7") == "its cells ran one by one, or their outputs were cleared"
    assert why("cells[1].execution_count = None") == "its cells ran one by one, or their outputs were cleared"


def test_two_notebooks_run_side_by_side(tmp_path):
    source = """
    import time
    from pathlib import Path
    Path({here!r}).touch()
    for _ in range(300):
        if Path({there!r}).exists():
            break
        time.sleep(0.1)
    else:
        raise TimeoutError("the other one does not run")
    """
    paths = [tmp_path / "a.ipynb", tmp_path / "b.ipynb"]
    for here, there in (paths, paths[::-1]):
        code = textwrap.dedent(source).format(here=here.stem, there=there.stem)
        nbformat.write(make_notebook(code), here)
    tools.execute_all(paths)


def test_a_notebook_that_fails_stays_as_it_was_and_the_others_run(tmp_path):
    broken, whole = tmp_path / "broken.ipynb", tmp_path / "whole.ipynb"
    nbformat.write(make_notebook("print('kept')", "1 / 0"), broken)
    nbformat.write(make_notebook("print('written')"), whole)
    before = broken.read_bytes()
    with pytest.raises(SystemExit, match=r"broken\.ipynb stopped, and stays as it was:\n(.|\n)*ZeroDivisionError"):
        tools.execute_all([broken, whole])
    assert broken.read_bytes() == before
    assert nbformat.read(whole, as_version=4).cells[1].outputs[0].text == "written\n"
    assert {path.name for path in tmp_path.iterdir()} == {"broken.ipynb", "whole.ipynb"}


def interrupt(script: str, *arguments: str, when: Callable[[], bool]) -> SimpleNamespace:
    """How a script of the book ends, and what it says, when Ctrl-C comes as soon as ``when()``."""
    listen = "signal.signal(signal.SIGINT, signal.default_int_handler)"  # a shell's background jobs do not
    code = f"import runpy, signal; {listen}; runpy.run_path({str(BOOK / script)!r}, run_name='__main__')"
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen([sys.executable, "-c", code, *arguments], **pipes) as process:
        while not when() and process.poll() is None:
            time.sleep(0.1)
        process.send_signal(signal.SIGINT)
        out, said = process.communicate(timeout=60)
    return SimpleNamespace(code=process.returncode, out=out, said=said)


def test_ctrl_c_ends_notebooks_with_one_line_and_leaves_them_as_they_were(tmp_path):
    paths = [tmp_path / "a.ipynb", tmp_path / "b.ipynb"]
    for path in paths:
        source = f"import pathlib, time; pathlib.Path('{path.stem}').write_text(str(os.getpid())); time.sleep(100)"
        nbformat.write(make_notebook(f"import os; {source}"), path)
    before = [path.read_bytes() for path in paths]
    marks = [tmp_path / "a", tmp_path / "b"]
    done = interrupt("tools.py", "execute", *map(str, paths), when=lambda: all(map(Path.exists, marks)))
    assert done.code == 130
    assert done.said == "\nStopped. What was finished is kept; notebooks that were running stay as they were.\n"
    assert [path.read_bytes() for path in paths] == before
    assert {path.name for path in tmp_path.iterdir()} == {"a", "b", "a.ipynb", "b.ipynb"}
    for mark in marks:
        with pytest.raises(ProcessLookupError):
            os.kill(int(mark.read_text()), 0)


def test_a_kernel_that_dies_is_told_and_the_others_run(tmp_path):
    dying, whole = tmp_path / "dying.ipynb", tmp_path / "whole.ipynb"
    nbformat.write(make_notebook("import os; os._exit(1)"), dying)
    nbformat.write(make_notebook("print('written')"), whole)
    with pytest.raises(SystemExit, match=r"dying\.ipynb stopped, and stays as it was: its kernel died"):
        tools.execute_all([dying, whole])
    assert nbformat.read(whole, as_version=4).cells[1].outputs[0].text == "written\n"


def test_pages_are_forgotten_when_something_changes_that_sphinx_would_not_notice(tiny):
    pages = tiny / "_build" / ".doctrees"

    def dropped() -> bool:
        pages.mkdir(parents=True, exist_ok=True)
        tools.forget(tiny)
        return not pages.exists()

    module, css = tiny / "lmc_utils" / "paths.py", tiny / "book" / "static" / "book.css"
    assert dropped()
    assert not dropped()
    (module.parent / "__pycache__").mkdir()
    (module.parent / "__pycache__" / "paths.pyc").write_text("compiled")
    module.touch()
    assert not dropped()
    for file in (module, css, tiny / "requirements.txt", tiny / "_toc.yml"):
        file.write_text("two")
        assert dropped(), file
    module.rename(module.with_name("path.py"))
    assert dropped()
    assert not dropped()


# What is installed, and what stands in the way


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """What `make` needs of a checkout, and a `.venv` whose Python says what the file `pip` holds, and fails with it."""
    for name in ("Makefile", "requirements.txt", "pyproject.toml", "tests/requirements.txt", "book/install.py"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / name)
    (tmp_path / ".venv").mkdir()
    (tmp_path / ".venv" / "pyvenv.cfg").touch()
    script(
        tmp_path / ".venv" / "bin" / "python",
        f"""
        case "$*" in
            -c*) echo 3 11 ;;
            "-m pip"*) if [ -e {tmp_path}/pip ]; then cat {tmp_path}/pip >&2; exit 1; else echo installed; fi ;;
            *) echo "ran $*"; env ;;
        esac
        """,
    )
    script(tmp_path / ".venv" / "bin" / "ruff", "true")
    return tmp_path


def script(path: Path, text: str) -> Path:
    """An executable file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("#!/bin/sh\n" + textwrap.dedent(text))
    path.chmod(0o755)
    return path


def run(checkout: Path, *arguments: str) -> SimpleNamespace:
    """What `make` does and says."""
    # As a reader calls it: make's variables of the run that these tests belong to are not theirs.
    clean = {k: v for k, v in os.environ.items() if k not in ("MAKEFLAGS", "MAKELEVEL", "MFLAGS", "OMP_NUM_THREADS")}
    done = subprocess.run(["make", *arguments], cwd=checkout, capture_output=True, text=True, env=clean)
    return SimpleNamespace(code=done.returncode, out=done.stdout, said=done.stdout + done.stderr)


def test_make_says_that_there_is_no_python(checkout):
    done = run(checkout, "book", "PYTHON=no-such-python")
    assert done.code != 0
    assert "There is no no-such-python here. Install Python 3.11 or newer" in done.said
    assert "make book PYTHON=" in done.said


def test_make_installs_once_and_takes_an_interrupted_installation_up_again(checkout):
    python = f"PYTHON={sys.executable}"
    (checkout / "pip").write_text("ERROR: [Errno 28] No space left on device\n")
    done = run(checkout, "book", python)
    assert done.code != 0
    assert "No space left on device" in done.said, "pip's own words stay"
    assert "Not installed: the disk is full. Free some" in done.said
    (checkout / "pip").unlink()
    done = run(checkout, "book", python)
    assert done.code == 0, done.said
    assert done.out.startswith("Installing the book's packages into .venv")
    assert "ran book/tools.py book --execute changed" in done.out
    assert "Installing" not in run(checkout, "book", python).said
    with (checkout / "requirements.txt").open("a") as file:
        file.write("another\n")
    assert "Installing" in run(checkout, "book", python).said


PIP = """
Collecting torch>=2.4 (from -r requirements.txt (line 1))
  Downloading torch-2.11-none.whl (200.0 MB)
Progress 100000000 of 200000000
Progress 200000000 of 200000000
Requirement already satisfied: pip in a folder
Collecting numpy
  Downloading numpy-2-none.whl (20.0 MB)
Progress 20000000 of 20000000
Installing collected packages: numpy, torch
"""


def test_an_installation_says_one_line_a_step(tmp_path, capsys):
    progress = install.Progress(tmp_path)
    progress.start -= 1  # the clock of a file system is coarser
    for line in PIP.splitlines():
        progress.hear(line)
        progress.show()
    for name in ("numpy-2", "torch-2.11"):
        (tmp_path / "lib" / "python" / "site-packages" / f"{name}.dist-info").mkdir(parents=True)
    progress.end_step()
    said = capsys.readouterr().out
    assert re.sub(r"\d+ s$", "_ s", said, flags=re.M).splitlines() == [
        "  2 packages to install, 220 MB downloaded: _ s",
        "  2 of 2 packages installed: _ s",
    ]


def test_a_failed_installation_ends_with_the_last_lines_of_pip(checkout):
    lines = [f"Collecting package-{i}" for i in range(300)]
    (checkout / "pip").write_text("\n".join([*lines, "ERROR: No matching distribution found for torch>=2.4", ""]))
    said = run(checkout, "book", f"PYTHON={sys.executable}").said
    assert "package-299" in said
    assert "package-200" not in said
    assert said.index("No matching distribution") < said.index("Not installed: the index lacks")


def test_make_executes_all_on_demand(checkout):
    assert "--execute all" in run(checkout, "book", f"PYTHON={sys.executable}", "EXECUTE=1").out


def test_make_test_executes_each_notebook_once(checkout):
    ran = re.findall("^ran (.*)", run(checkout, "test", f"PYTHON={sys.executable}").out, re.M)
    assert ran[0] == "book/tools.py book --execute none"
    assert [re.search("--nbval-lax .* book tests$", line) is not None for line in ran[1:]] == [True]
    fast = re.findall("^ran (.*)", run(checkout, "test-fast", f"PYTHON={sys.executable}").out, re.M)
    assert [("not browser" in line, "nbval" in line) for line in fast] == [(True, False)]


def test_make_test_portable_compares_under_other_arithmetic(checkout):
    settings = {}
    for command in ("test", "test-portable"):
        out = run(checkout, command, f"PYTHON={sys.executable}").out
        ran, _, environment = out.rpartition("ran -m pytest")[2].partition("\n")
        assert "--nbval-lax" in ran
        settings[command] = dict(line.split("=", 1) for line in environment.splitlines() if "=" in line)
    other = settings["test-portable"]
    assert other["ATEN_CPU_CAPABILITY"] == "default"
    assert other["MKL_CBWR"] == "COMPATIBLE"
    assert other["ONEDNN_MAX_CPU_ISA"] == "SSE41"
    assert other["OMP_NUM_THREADS"] != settings["test"]["OMP_NUM_THREADS"]


@pytest.mark.parametrize(
    ("python", "wrong"),
    [
        ("echo 3 11", ""),
        ("echo 3 13", ""),
        ("echo 3 10", "its Python is 3.10"),
        ("exit 127", "its Python does not start"),
        ("echo 3 12; exit 1", "it has no pip, or was made by another Python"),
        (None, "its Python is gone"),
    ],
)
def test_an_environment_that_cannot_be_used(python, wrong, tmp_path):
    if python:
        script(tmp_path / "bin" / "python", python)
    assert install.fault(tmp_path) == wrong


def test_an_environment_that_was_moved(tmp_path):
    here = script(tmp_path / ".venv" / "bin" / "python", "echo 3 12")
    (here.parent / "pip").write_text(f"#!{here}\n")
    assert install.fault(tmp_path / ".venv") == ""
    (tmp_path / "link").symlink_to(tmp_path / ".venv")
    assert install.fault(tmp_path / "link") == "", "by its own name, or by a link"
    (tmp_path / ".venv").rename(tmp_path / "moved")
    assert install.fault(tmp_path / "moved") == "it was made in another folder"


def test_a_broken_environment_is_made_anew_and_a_line_says_why(tmp_path, monkeypatch, capsys):
    (tmp_path / ".venv").mkdir()
    monkeypatch.setattr(install, "make", lambda environment: sys.exit(f"made {environment}"))
    with pytest.raises(SystemExit, match=re.escape(f"made {tmp_path / '.venv'}")):
        install.install("book", tmp_path / ".venv")
    assert capsys.readouterr().out == "Making .venv anew: its Python is gone\n"


def test_a_folder_that_is_no_environment_is_left_alone(tmp_path):
    (tmp_path / "thesis.txt").touch()
    with pytest.raises(SystemExit, match="no virtual environment, and the book needs that name: move it away"):
        install.make(tmp_path)
    assert (tmp_path / "thesis.txt").exists()


def test_an_old_python_is_told_which_one_to_name(tmp_path, monkeypatch):
    monkeypatch.setattr(install.sys, "version_info", (3, 10, 13))
    with pytest.raises(SystemExit, match=r"needs Python 3\.11 or newer, and .* is 3\.10\. .*make book PYTHON="):
        install.make(tmp_path / ".venv")
    assert not (tmp_path / ".venv").exists()


def test_a_disk_that_is_too_small_is_told_before_anything_is_made(tmp_path, monkeypatch):
    monkeypatch.setattr(install.shutil, "disk_usage", lambda folder: SimpleNamespace(free=9e9))
    monkeypatch.delenv("PIP_NO_CACHE_DIR", raising=False)
    monkeypatch.setattr(install, "PLACES", ((tmp_path, 7.5, ".venv"), (tmp_path, 3.5, "pip's cache")))
    with pytest.raises(SystemExit, match=r"has 9\.0 GB free, and the installation takes 11\.0: 7\.5 for \.venv, 3\.5"):
        install.make(tmp_path / ".venv")
    assert not (tmp_path / ".venv").exists()
    monkeypatch.setenv("PIP_NO_CACHE_DIR", "1")
    assert install.shortage(install.PLACES) == ""


@pytest.mark.parametrize(
    ("said", "helps"),
    [
        ("OSError: [Errno 28] No space left on device", "make book TMPDIR="),
        (
            "connection broken by 'ProxyError('Cannot connect.', NewConnectionError(': refused'))': /simple/pip/\n"
            "ERROR: No matching distribution found for pip>=25.1",
            r"proxy http://proxy:3128\. .*make book HTTPS_PROXY=",
        ),
        ("OSError('Tunnel connection failed: 407 Proxy Authentication Required')", "user:password@host:port"),
        ("SSLError(SSLCertVerificationError(1, '[SSL: CERTIFICATE_VERIFY_FAILED]'))", "make book PIP_CERT="),
        (
            "connection broken by 'NewConnectionError(': Name or service not known')': /simple/pip/\n"
            "ERROR: No matching distribution found for pip>=25.1",
            "Behind a proxy: make book HTTPS_PROXY=",
        ),
        ("error: command 'gcc' failed: No such file or directory", "apt-get install build-essential"),
        ("error: [Errno 2] No such file or directory: 'x86_64-linux-gnu-gcc'", "make book PYTHON="),
        ("ERROR: No matching distribution found for torch>=2.4", "make book PYTHON="),
        ("something new", "says above why"),
    ],
)
def test_what_pip_says_is_turned_into_what_to_do(said, helps, monkeypatch):
    monkeypatch.setenv("HTTPS_PROXY", "http://me:secret@proxy:3128")
    advice = install.advice(said)
    assert re.search(helps, advice)
    assert "secret" not in advice


def test_an_old_python_can_read_the_installer():
    ast.parse((BOOK / "install.py").read_text(), feature_version=(3, 7))


# Pages, from disk, without network


@pytest.fixture
def html() -> Path:
    """The folder of the built book."""
    if not (HTML / "index.html").exists():
        reason = "the book is not built: make book"
        pytest.fail(reason) if os.environ.get("CI") else pytest.skip(reason)
    return HTML


def test_no_page_is_heavy(html: Path, weigh: Callable[..., None]):
    weigh("pages", {name: (html / name).stat().st_size / 1e3 for name in PAGES}, limit=520)


def local(url: str) -> Path:
    """The file that a file: address points to."""
    return Path(unquote(urlsplit(url).path))


@pytest.fixture
def watched(page: Page) -> SimpleNamespace:
    """A page that keeps what it asked for and what went wrong."""
    seen = SimpleNamespace(page=page, requests=set(), wrong=[])
    page.on("request", lambda request: seen.requests.add(request.url))
    page.on(
        "requestfailed",
        lambda request: (
            request.failure == "net::ERR_ABORTED"  # the page went elsewhere
            or seen.wrong.append(f"failed request {request.url}")
        ),
    )
    page.on("pageerror", lambda error: seen.wrong.append(f"script error {error}"))
    page.on("console", lambda said: seen.wrong.append(f"console {said.text}") if said.type == "error" else None)
    return seen


# Code points of the icons in a page: letters of a font, named by style sheets.
ICONS = """() => [...document.querySelectorAll("i[class*='fa-']")]
  .map((icon) => getComputedStyle(icon, "::before").content.replace(/"/g, "").codePointAt(0))"""


@functools.cache
def letters(font: Path) -> set[int]:
    return {*TTFont(font).getBestCmap()}


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("name", PAGES or ["index.html"])
def test_page(name: str, scheme: str, html: Path, watched: SimpleNamespace):
    page = watched.page
    page.set_viewport_size({"width": 1280, "height": 900})
    page.emulate_media(color_scheme=scheme)
    page.goto((html / name).as_uri(), wait_until="load")
    page.wait_for_selector("main")  # index.html sends the reader on
    page.evaluate("document.fonts.ready.then(() => 0)")

    foreign = [url for url in watched.requests if not url.startswith(("file:", "data:", "blob:"))]
    assert not foreign, "the page asks another host"
    assert not watched.wrong
    assert page.locator("html").get_attribute("data-theme") == scheme

    formulas = page.locator("article .katex")
    assert page.locator("article div.math:not(:has(> .katex-display)), .katex-error").count() == 0
    assert formulas.locator("math").count() == formulas.count(), "a formula that nobody hears"
    assert page.locator("article .katex [tabindex='0']").count() == 0, "the Tab key stops at formulas"
    assert page.locator("meta[name=description]").count() == ("/html/book/" in page.url)
    if "/html/book/" in page.url:
        told = page.locator("meta[property='og:title'], meta[property='og:description']")
        assert [bool(one.get_attribute("content")) for one in told.all()] == [True, True]
    prose = page.locator("article :is(p, li, td, dd)").all_inner_texts()
    assert not [text for text in prose if re.search(r"\$[^$\s][^$]*\$|\\\(", text)], "mathematics that was not seen"
    assert page.evaluate("document.fonts.check('16px \"Source Serif 4\"')")
    assert page.evaluate("[...document.fonts].filter(font => font.status === 'error').length") == 0
    drawn = set().union(*map(letters, html.rglob("fa-*.woff2")))
    icons = {*page.evaluate(ICONS)}
    assert len(icons) > 5 or page.url.endswith("search.html")
    assert icons <= drawn, "an icon that the build left out"

    targets = page.locator("a[href], img[src]").evaluate_all("found => found.map(e => e.href || e.src)")
    lost = {url for url in targets if url.startswith("file:") and not local(url).exists()}
    assert not lost, "links that lead nowhere"

    page.set_viewport_size({"width": 390, "height": 844})
    excess = page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
    assert excess <= 0, "the page scrolls sideways on a phone"

    page.set_viewport_size({"width": 1280, "height": 900})
    violations = Axe().run(page, options={"preload": False}).response["violations"]
    assert not {found["id"]: [node["html"] for node in found["nodes"]] for found in violations}

    assert not watched.wrong


# What a reader waits for: the longest time that a page does not answer, and how much of it jumps while it loads.
FIRST_SECOND = """window.first = { longest: 0, shift: 0 };
const seen = (type, note) =>
  new PerformanceObserver((list) => list.getEntries().forEach(note)).observe({ type, buffered: true });
seen("longtask", (entry) => (first.longest = Math.max(first.longest, entry.duration)));
seen("layout-shift", (entry) => (first.shift += entry.value));"""


def test_the_first_second(html: Path, browser: Browser, weigh: Callable[..., None]):
    """Of every page the bytes it asks for, its longest task and its layout shift: the best of six loads.

    Other tests run beside this one: what one load makes of a page says more about them.
    """
    weights, tasks, shifts = {}, {}, {}
    for path in sorted(html.glob("book/*.html")):
        seen = []
        while not any(first["longest"] <= 200 and first["shift"] <= 0.05 for first in seen) and len(seen) < 6:
            with browser.new_context(offline=True, viewport={"width": 1280, "height": 900}) as context:
                page, asked = context.new_page(), set()
                page.on("request", lambda request, asked=asked: asked.add(request.url))
                page.add_init_script(FIRST_SECOND)
                page.goto(path.as_uri())
                page.wait_for_timeout(1500)
                seen.append(page.evaluate("first"))
        weights[path.stem] = sum(local(url).stat().st_size for url in asked if url.startswith("file:")) / 1e3
        best = min(seen, key=lambda first: max(first["longest"] / 200, first["shift"] / 0.05))
        tasks[path.stem], shifts[path.stem] = best["longest"], best["shift"]
    weigh("all that a page loads", weights, limit=1520)  # 1.5 MB, and room for the theme's next version
    weigh("longest task", tasks, limit=200, unit="ms")
    weigh("layout shift", shifts, limit=0.05, unit="")


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("api.html#lmc_utils.barrier", "api-paths.html#lmc_utils.barrier"),
        ("api.html#lmc_utils.Network.state_dict", "api-networks.html#lmc_utils.Network.state_dict"),
        ("api.html#what-is-promised", "api.html#what-is-promised"),
        ("api.html#lmc_utils.gone", "api.html#lmc_utils.gone"),
    ],
)
def test_addresses_of_the_reference_on_one_page_lead_to_its_pages(old, new, html, watched):
    watched.page.goto((html / "book" / old.partition("#")[0]).as_uri() + "#" + old.partition("#")[2])
    watched.page.wait_for_url(f"**/book/{new}")
    assert not watched.wrong


def test_search_works_from_disk(html: Path, watched: SimpleNamespace):
    watched.page.goto(f"{(html / 'search.html').as_uri()}?q=permutation")
    watched.page.wait_for_selector("#search-results li a")
    said = watched.page.locator("#search-results li", has=watched.page.locator("a[href*='02-permutations']")).first
    expect(said.locator("p")).to_have_text("Hidden units have no names.")
    assert not watched.wrong


@pytest.mark.parametrize(("word", "chapter"), [("barrier", "01-two-solutions"), ("permutation", "02-permutations")])
def test_search_finds_the_chapter_of_a_word_first(word: str, chapter: str, html: Path, watched: SimpleNamespace):
    watched.page.goto(f"{(html / 'search.html').as_uri()}?q={word}")
    first = watched.page.locator("#search-results li a").first
    assert chapter in first.get_attribute("href")
    assert not watched.wrong


def test_a_table_that_would_be_cut_has_its_errors_under_the_means(html: Path, watched: SimpleNamespace):
    page = watched.page
    page.set_viewport_size({"width": 1280, "height": 900})
    page.goto((html / "book" / "results.html").as_uri())
    box = page.locator(".lmc-table > div").first
    expect(box.locator("table")).to_have_class("lmc-stacked")
    assert box.evaluate("e => e.scrollWidth - e.clientWidth") <= 0, "the paper's column is cut"


def test_a_long_table_is_sorted_by_any_of_its_columns(html: Path, watched: SimpleNamespace):
    page = watched.page
    page.goto((html / "book" / "results.html").as_uri())
    tables = page.locator(".lmc-table")
    table = tables.filter(has_text="All end points that ship").first
    head, rows = table.locator("thead th", has_text="test loss"), table.locator("tbody tr")
    names, losses = (lambda: rows.locator("th").all_inner_texts()), (lambda: rows.locator("td:nth-of-type(1)"))
    before = names()
    for order in ("ascending", "descending"):
        head.get_by_role("button").click()
        values = [float(text.split()[0]) for text in losses().all_inner_texts()]
        assert values == sorted(values, reverse=order == "descending")
        assert head.get_attribute("aria-sort") == order
    assert sorted(names()) == sorted(before) != before
    short = tables.filter(has_text="A step of matching takes as long as")
    assert short.count() == 1 and short.locator("button").count() == 0
    assert not watched.wrong


def test_a_printed_chapter_begins_with_its_number_and_has_figures_of_two_columns(html: Path, watched: SimpleNamespace):
    page = watched.page
    page.set_viewport_size({"width": 672, "height": 1000})  # A4 within its margins
    page.goto((html / "book" / "11-different-widths.html").as_uri())
    page.emulate_media(media="print")
    assert page.locator("h1:visible").all_inner_texts() == ["11. Different widths"]
    columns = page.locator(".lmc-body").first.evaluate("e => getComputedStyle(e).gridTemplateColumns")
    assert len(columns.split()) == 2


def test_a_wide_plot_keeps_its_letters_on_a_phone_and_is_reached_by_the_tab_key(html: Path, watched: SimpleNamespace):
    page = watched.page
    page.set_viewport_size({"width": 390, "height": 844})
    page.goto((html / "book" / "02-permutations.html").as_uri())
    plot = page.locator("img.lmc-wide").first
    assert plot.bounding_box()["width"] == 576
    expect(plot.locator("xpath=..")).to_have_attribute("tabindex", "0")
    assert page.evaluate("document.documentElement.scrollWidth") <= 390


# The heights of each figure, at all places of its marker.
HEIGHTS = """figures => figures.map((figure) => {
  const heights = new Set(), slider = figure.querySelector("input[type=range]");
  for (let at = 0; at <= Number(slider.max); at++) {
    slider.value = at;
    slider.dispatchEvent(new Event("input", { bubbles: true }));
    heights.add(figure.offsetHeight);
  }
  return [...heights];
})"""


@pytest.mark.parametrize("name", [path.stem for path in NOTEBOOKS])
def test_every_figure_fits_a_screen_and_keeps_its_height(name: str, html: Path, watched: SimpleNamespace):
    watched.page.set_viewport_size({"width": 1280, "height": 900})
    watched.page.goto((html / "book" / f"{name}.html").as_uri())
    figures = watched.page.locator(".lmc-figure")
    assert all(figure.bounding_box()["height"] <= 900 for figure in figures.all())
    for width in (1280, 390):
        watched.page.set_viewport_size({"width": width, "height": 900})
        for heights in figures.filter(has=watched.page.locator("input[type=range]")).evaluate_all(HEIGHTS):
            assert len(heights) == 1, "what is read moves while the slider is dragged"


@pytest.mark.parametrize("name", [path.stem for path in NOTEBOOKS])
def test_no_style_of_a_figure_takes_the_cells_of_a_table_apart(name: str, html: Path, watched: SimpleNamespace):
    watched.page.goto((html / "book" / f"{name}.html").as_uri())
    cells = watched.page.locator(".lmc-table :is(td, th)")
    shown = cells.evaluate_all("cells => cells.map((cell) => getComputedStyle(cell).display)")
    assert set(shown) <= {"table-cell"}


def test_a_page_explains_each_word_of_the_glossary_once(html: Path, watched: SimpleNamespace):
    page = watched.page
    page.goto((html / "book" / "09-gpt2.html").as_uri())
    words = page.locator("article a.lmc-word")
    addresses = words.evaluate_all("found => found.map(e => e.getAttribute('href'))")
    assert len(addresses) == len(set(addresses)) > 15
    assert {"glossary.html#term-residual-stream", "api-data.html#lmc_utils.load_table"} <= {*addresses}
    assert page.locator("article :is(a a, strong a.lmc-word, h1 a.lmc-word, h2 a.lmc-word)").count() == 0
    assert page.locator("section#references a.lmc-word").count() == 0, "a paper's title"
    word = words.filter(has_text="residual stream").first
    word.focus()
    shown = word.evaluate("e => getComputedStyle(e, '::after').content")
    assert "The vector of each token that all blocks of a transformer read from and write to." in shown
    page.set_viewport_size({"width": 390, "height": 844})
    for one in words.all():
        one.focus()
        assert page.evaluate("document.documentElement.scrollWidth") <= 390
    assert not watched.wrong


def test_a_link_to_a_paper_says_which_one_it_is(html: Path, watched: SimpleNamespace):
    page = watched.page
    page.goto((html / "book" / "09-gpt2.html").as_uri())
    paper = page.locator("article p a[href='https://arxiv.org/abs/2506.22712']").first
    paper.focus()
    assert "Generalized linear mode connectivity" in paper.evaluate("e => getComputedStyle(e, '::after').content")


def test_the_glossary_has_letters_and_leads_back_to_where_its_words_are_used(html: Path, watched: SimpleNamespace):
    page = watched.page
    page.goto((html / "book" / "glossary.html").as_uri())
    assert page.locator(".lmc-letters a").count() > 15
    back = page.locator(".lmc-uses a")
    assert back.count() > 80
    for address in back.evaluate_all("found => found.map(e => e.href)"):
        assert f'id="{urlsplit(address).fragment}"' in local(address).read_text(), address
    page.locator("dd", has=page.locator("p", has_text="How far the loss on the straight line")).get_by_role(
        "link", name="chapter 2", exact=True
    ).click()
    expect(page.locator(":target")).to_have_text("barrier")
    assert not watched.wrong


def test_the_text_leads_to_the_equation_that_it_names(html: Path, watched: SimpleNamespace):
    page = watched.page
    page.goto((html / "book" / "01-two-solutions.html").as_uri())
    page.get_by_role("link", name="equation (1.1)").first.click()
    expect(page.locator(":target .katex-tag")).to_have_text("(1.1)")


def test_the_reference_has_no_words_of_machines(html: Path):
    for path in html.glob("book/api-*.html"):
        text = path.read_text()
        assert "Alias for field" not in text
        kinds = re.findall(r'>Type<span class="colon">:</span></dt>\s*<dd[^>]*>(.*?)</dd>', text, re.S)
        plain = [re.sub(r"<.*?>", "", kind).strip() for kind in kinds]
        assert not [kind for kind in plain if not kind.startswith("ClassVar[")], "a property's words end in a colon"


def test_the_footer_says_version_date_licence_and_how_to_cite(html: Path, watched: SimpleNamespace):
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    watched.page.goto((html / "book" / "09-gpt2.html").as_uri())
    footer = watched.page.locator("footer.bd-footer-content")
    for said in (f"Version {version}.", "Last updated on", "MIT licence", "How to cite this book"):
        expect(footer).to_contain_text(said)


EDGES = """() => [...document.querySelectorAll(`article section > p, article section > div.math,
  article div.cell_input, article .lmc-figure, article .lmc-table`)]
  .filter(one => one.offsetWidth && !one.closest("details, .admonition, li"))
  .map(one => Math.round(one.getBoundingClientRect().right))"""


@pytest.mark.parametrize("width", [1280, 1920])
@pytest.mark.parametrize("name", [path.stem for path in NOTEBOOKS])
def test_text_code_tables_and_figures_end_at_one_edge(name: str, width: int, html: Path, watched: SimpleNamespace):
    watched.page.set_viewport_size({"width": width, "height": 900})
    watched.page.goto((html / "book" / f"{name}.html").as_uri())
    edges = watched.page.evaluate(EDGES)
    assert len(edges) >= 10
    assert max(edges) - min(edges) <= 1


# At each place of the marker, the words in one plot that lie on each other.
MET = """figure => {
  const met = [], slider = figure.querySelector("input[type=range]");
  for (let at = 0; at <= Number(slider.max); at++) {
    slider.value = at;
    slider.dispatchEvent(new Event("input", { bubbles: true }));
    for (const plot of figure.querySelectorAll("svg.lmc-panel")) {
      const words = [...plot.querySelectorAll("text")].filter((one) => one.style.visibility !== "hidden");
      const boxes = words.map((one) => one.getBoundingClientRect());
      boxes.forEach((a, i) => boxes.slice(0, i).forEach((b, j) => {
        const wide = Math.min(a.right, b.right) - Math.max(a.left, b.left);
        const high = Math.min(a.bottom, b.bottom) - Math.max(a.top, b.top);
        if (wide > 1 && high > 4) met.push(`${at}: ${words[i].textContent} and ${words[j].textContent}`);
      }));
    }
  }
  return met;
}"""


@pytest.mark.parametrize("width", [390, 1280])
@pytest.mark.parametrize("name", [path.stem for path in NOTEBOOKS])
def test_words_in_a_plot_never_meet(name: str, width: int, html: Path, watched: SimpleNamespace):
    page = watched.page
    page.set_viewport_size({"width": width, "height": 900})
    page.goto((html / "book" / f"{name}.html").as_uri())
    for figure in page.locator(".lmc-figure[data-kind=curves]").all():
        expect(figure.locator("svg.lmc-panel .lmc-line").first).to_be_attached()
        assert figure.evaluate(MET) == []


INLINE = """found => found.filter(formula => !formula.closest('details, table')).filter(formula => {
  const text = formula.closest('p, li, dd');
  return text && formula.getBoundingClientRect().right > text.getBoundingClientRect().right + 4;
}).map(formula => formula.querySelector('annotation').textContent)"""


@pytest.mark.parametrize("name", [name for name in PAGES if re.search(r"/\d\d-", name)])
def test_no_formula_in_a_line_is_wider_than_a_phone(name: str, html: Path, watched: SimpleNamespace):
    page = watched.page
    page.set_viewport_size({"width": 390, "height": 844})
    page.goto((html / name).as_uri())
    assert page.locator("article .katex:not(.katex-display > .katex)").evaluate_all(INLINE) == []
