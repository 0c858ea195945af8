"""What `make` does around the notebooks: execute them in place, build the pages, move the book's public address."""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path

import nbformat
import pydata_sphinx_theme
import yaml
from fontTools.subset import Subsetter
from fontTools.ttLib import TTFont
from nbclient import NotebookClient
from nbclient.exceptions import CellControlSignal, DeadKernelError
from pybtex.database import parse_file
from pybtex.plugin import find_plugin

ROOT = Path(__file__).resolve().parent.parent
THEME = Path(pydata_sphinx_theme.__file__).parent / "theme" / "pydata_sphinx_theme"
KERNEL = {"display_name": "Python 3", "language": "python", "name": "python3"}
LANGUAGE = {
    "file_extension": ".py",
    "mimetype": "text/x-python",
    "name": "python",
    "pygments_lexer": "ipython3",
}
WIDGET = "application/vnd.jupyter.widget-view+json"


# What outputs come from, beside the code of their notebook ...
SOURCES = ("lmc_utils", "requirements.txt")
# ... and what lies there, but changes nothing that a cell prints: `make figures` renews scripts and styles.
SILENT = (
    "lmc_utils/assets/make_data.py",
    "lmc_utils/explore/once.py",
    "lmc_utils/explore/web",
)
# Sphinx looks at the files of pages and would not notice these. The contents are in the margin of every page.
UNSEEN = (
    *SOURCES,
    "_toc.yml",
    "book/static",
    "book/vendor",
    "book/captions.py",
    "book/words.py",
    "book/formulas.py",
    "book/scorer.js",
    "book/glossary.md",  # whose words all pages link
)
# Two cores are used best by two notebooks with a thread each (the Makefile sets that).
SIDE_BY_SIDE = 2


def fingerprint(
    names: Iterable[str], root: Path = ROOT, without: Iterable[str] = ()
) -> str:
    """Hash the names and the content of files and of all that is in folders, except compiled Python and ``without``."""
    digest, left = hashlib.sha256(), [root / name for name in without]
    for name in names:
        for path in sorted([root / name, *root.joinpath(name).rglob("*")]):
            if any(path.is_relative_to(place) for place in left):
                continue
            if path.is_file() and "__pycache__" not in path.parts:
                digest.update(f"{path.relative_to(root).as_posix()}\0".encode())
                digest.update(hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()


def sources(root: Path = ROOT) -> str:
    """Hash the part of the package and its requirements that decides what notebooks print."""
    return fingerprint(SOURCES, root, without=SILENT)


def code_hash(notebook: nbformat.NotebookNode) -> str:
    """Hash a notebook's code cells, in order: what its outputs must have come from."""
    cells = [cell.source for cell in notebook.cells if cell.cell_type == "code"]
    return hashlib.sha256("\0".join(cells).encode()).hexdigest()


def why_execute(notebook: nbformat.NotebookNode) -> str:
    """Say why a notebook's outputs are not those of its code, or nothing where they are."""
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    stamp = notebook.metadata.get("lmc", {})
    if "code" not in stamp:
        return "it never ran here from a clean kernel"
    if stamp["code"] != code_hash(notebook):
        return "its code changed after it ran"
    if [cell.execution_count for cell in code] != [*range(1, len(code) + 1)]:
        return "its cells ran one by one, or their outputs were cleared"
    return ""


def write(notebook: nbformat.NotebookNode, path: Path) -> None:
    """Write a notebook in one step, so that an interruption cannot leave half of it."""
    partial = path.with_suffix(".partial")
    nbformat.write(notebook, partial)
    partial.replace(path)


# Plots as drawings, which are sharp at any size and smaller than images; without the day on which they were made.
PLOTS = [
    "--InlineBackend.figure_formats=['svg']",
    "--InlineBackend.print_figure_kwargs="
    "{'bbox_inches': 'tight', 'metadata': {'Date': None}}",
]


async def execute(path: Path) -> None:
    """Run a notebook from a clean kernel and keep its outputs, without what differs between two runs or machines.

    Widget views go, their HTML twins stay: without its kernel a view shows an error where the twin shows the figure.
    """
    notebook = nbformat.read(path, as_version=4)
    notebook.metadata = nbformat.from_dict({"kernelspec": KERNEL})
    stamp = {
        "code": code_hash(notebook),
        "sources": sources(path.resolve().parent.parent),
    }
    client = NotebookClient(
        notebook,
        timeout=600,
        resources={"metadata": {"path": str(path.parent)}},
        store_widget_state=False,
        record_timing=False,
        coalesce_streams=True,
        extra_arguments=PLOTS,
    )
    run = asyncio.ensure_future(client.async_execute())
    try:
        await asyncio.shield(run)
    except asyncio.CancelledError:
        # Ctrl-C: the kernel goes without a word, and so do the tasks that nbclient leaves behind.
        client.shutdown_kernel = "immediate"
        asyncio.get_running_loop().set_exception_handler(lambda *_: None)
        run.cancel()
        await asyncio.gather(run, return_exceptions=True)
        raise
    for cell in notebook.cells:
        for output in cell.get("outputs", []):
            if "text/html" in output.get("data", {}):
                output.data.pop(WIDGET, None)
    notebook.metadata = nbformat.from_dict(
        {"kernelspec": KERNEL, "language_info": LANGUAGE, "lmc": stamp}
    )
    write(notebook, path)


STATE = re.compile(
    r'<script type="application/json" data-lmc-state="\w+">(.*?)</script>', re.S
)


def figures(notebook: nbformat.NotebookNode) -> Iterator[nbformat.NotebookNode]:
    """Yield each output of a notebook that holds a figure or a table of the package."""
    for cell in notebook.cells:
        for output in cell.get("outputs", []):
            if "data-lmc-style" in output.get("data", {}).get("text/html", ""):
                yield output


def today(html: str) -> str:
    """Return a figure or a table with the script, style and static twin of today."""
    from lmc_utils.explore import restyle, wrap

    state = STATE.search(html)
    return wrap(state[1]) if state else restyle(html)


def wrap_figures(path: Path) -> int:
    """Wrap a notebook's figures and tables anew without executing it; return how many changed."""
    notebook, changed = nbformat.read(path, as_version=4), 0
    for output in figures(notebook):
        anew = today(output.data["text/html"])
        changed += anew != output.data["text/html"]
        output.data["text/html"] = anew
    if changed:
        write(notebook, path)
    return changed


TITLE = "## References"


@cache  # each page asks
def works(backend: str) -> dict[str, str]:
    """Of each work in the bibliography, by the end of its address, who wrote it, its title, and when."""
    style = find_plugin("pybtex.style.formatting", "unsrt")(abbreviate_names=True)
    entries = parse_file(ROOT / "book" / "references.bib").entries.values()
    write = find_plugin("pybtex.backends", backend)()
    texts = [work.text.render(write) for work in style.format_entries(entries)]
    return {
        entry.fields.get("eprint") or entry.fields["url"]: " ".join(text.split())
        for entry, text in zip(entries, texts, strict=True)
    }


def references(text: str) -> str:
    """List the works that a text links, in the order of the bibliography."""
    linked = [
        f"- {work}"
        for address, work in works("markdown").items()
        if f"{address})" in text
    ]
    # Marks that Markdown takes for nothing else stay as they are.
    return re.sub(r"\\([^\w\s*_`])", r"\1", "\n".join(linked))


def cite(path: Path) -> bool:
    """Write a chapter's references anew, and say whether that changed them."""
    notebook = nbformat.read(path, as_version=4)
    texts = [cell for cell in notebook.cells if cell.cell_type == "markdown"]
    ends = [cell for cell in texts if TITLE in cell.source]
    if not ends:
        return False
    (end,) = ends
    before, _, old = end.source.partition(TITLE)
    said = "\n".join([*(cell.source for cell in texts if cell is not end), before])
    new = f"\n\n{references(said)}"
    end.source = before + TITLE + new
    if new != old:
        write(notebook, path)
    return new != old


def execute_all(paths: Iterable[Path]) -> None:
    """Run notebooks in place, two side by side, and say which one runs and how long it took.

    Raises
    ------
    SystemExit
        If notebooks stopped, with what stopped them. They stay as they were; the others have run.
    KeyboardInterrupt
        After Ctrl-C, once the kernels are gone. Notebooks that were running stay as they were.
    """

    def refuse(*arguments: object) -> None:
        raise RuntimeError("asyncio's own answer to Ctrl-C reaches every notebook")

    with asyncio.Runner() as runner:
        # Each of nbclient's handlers replaces the one before, and ends the kernel of one notebook alone.
        runner.get_loop().add_signal_handler = refuse
        if stopped := runner.run(take_turns([*paths])):
            sys.exit("\n".join(stopped))


async def take_turns(paths: list[Path]) -> list[str]:
    """Run notebooks, and return what stopped them."""
    turns, stopped = asyncio.Semaphore(SIDE_BY_SIDE), []

    async def take_turn(number: int, path: Path) -> None:
        async with turns:
            name, start = f"[{number}/{len(paths)}] {path.name}", time.monotonic()
            print(f"{name} runs ...", flush=True)
            try:
                await execute(path)
            except CellControlSignal as error:
                stopped.append(f"{path} stopped, and stays as it was:\n{error}")
            except DeadKernelError:
                stopped.append(
                    f"{path} stopped, and stays as it was: its kernel died, for want of memory perhaps"
                )
            print(f"{name}: {time.monotonic() - start:.0f} s", flush=True)

    async with asyncio.TaskGroup() as group:
        for number, path in enumerate(paths, 1):
            group.create_task(take_turn(number, path))
    return stopped


def refresh(which: str = "changed", root: Path = ROOT) -> None:
    """Execute the notebooks that the pages cannot show as they are, and say which and why.

    Parameters
    ----------
    which
        ``"changed"``: those whose outputs are not those of their code; ``"all"``; or ``"none"``, which refuses to go on
        where there are any.
    """
    paths = sorted(root.glob("book/*.ipynb"))
    notebooks = {path: nbformat.read(path, as_version=4) for path in paths}
    reasons = {path: why_execute(notebook) for path, notebook in notebooks.items()}
    if which == "all":
        reasons = {path: reason or "as asked" for path, reason in reasons.items()}
    stale = [path for path in paths if reasons[path]]
    for path in stale:
        print(
            f"{path.name} {'must be' if which == 'none' else 'is'} executed: {reasons[path]}"
        )
    if stale and which == "none":
        names = " ".join(path.relative_to(root).as_posix() for path in stale)
        sys.exit(f'make notebooks NOTEBOOKS="{names}"')
    execute_all(stale)
    now = sources(root)
    older = [
        path.name
        for path in paths
        if not reasons[path] and notebooks[path].metadata.lmc.get("sources") != now
    ]
    if older:
        which = (
            "all notebooks"
            if older == [path.name for path in paths]
            else ", ".join(older)
        )
        print(
            f"The package or its requirements changed after {which} ran: pages show what was printed then "
            "(make notebooks executes, make test compares)"
        )


def forget(root: Path = ROOT) -> bool:
    """Drop Sphinx's memory of the pages if something that it would not notice has changed, and say whether."""
    build, now = root / "_build", fingerprint(UNSEEN, root)
    known = build / ".unseen"
    if known.exists() and known.read_text() == now:
        return False
    shutil.rmtree(build / ".doctrees", ignore_errors=True)
    build.mkdir(exist_ok=True)
    known.write_text(now)
    return True


def build(root: Path = ROOT) -> None:
    """Build the pages from the notebooks' outputs, saying which is read and written, and where to open them.

    Raises
    ------
    SystemExit
        If a page has a warning: each is an error.
    """
    forget(root)
    command = [Path(sys.executable).with_name("jupyter-book"), "build", "."]
    with subprocess.Popen(
        [*command, "-W", "-n", "--keep-going"],
        cwd=root,
        env=os.environ | {"PYTHONUNBUFFERED": "1"},
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,  # Ctrl-C is answered here
    ) as process:
        try:
            for line in process.stdout:
                line = re.sub(r"\x1b\[[\d;]*m", "", line)
                if re.match(r"(reading sources|writing output)\.\.\. \[", line):
                    print(line, end="", flush=True)
        except BaseException:
            process.terminate()
            process.wait()
            raise
        finally:
            # Sphinx would neither repeat its warnings nor finish a page that is half written: all are read again.
            if process.wait():
                shutil.rmtree(root / "_build" / ".doctrees", ignore_errors=True)
    if process.returncode:
        sys.exit("The book has the errors above; pages without one are built.")
    pages = root / "_build" / "html"
    for page in pages.rglob("*.html"):
        text = page.read_text(encoding="utf-8")
        if (better := mended(text)) != text:
            page.write_text(better, encoding="utf-8")
    pages.joinpath("_static", "scripts", "fontawesome.js").unlink(missing_ok=True)
    keep_icons(pages)
    for plot in pages.glob("_images/*.svg"):
        plot.write_text(lighter(plot.read_text(encoding="utf-8")), encoding="utf-8")
    print(
        f"Open {(pages / 'index.html').as_uri()}\n"
        "or, where the browser is on another machine: python3 -m http.server --directory _build/html"
    )


def mended(page: str) -> str:
    """A page without what no setting changes: scripts it has no use for, and what screen readers stumble on."""
    page = re.sub(r"<script[^>]*fontawesome\.js[^>]*></script>\n?", "", page)
    if "search-results" not in page:
        search = r"(?:searchtools|language_data|searchindex)\.js"
        page = re.sub(rf"<script[^>]*{search}[^>]*></script>\n?", "", page)
    page = re.sub(
        r'(?<!aria-label="home">)<a class="navbar-brand.*?</a>',
        r'<div role="navigation" aria-label="home">\g<0></div>',
        page,
        flags=re.S,
    )  # the logo belonged to no part of the page
    page = page.replace(' role="doc-biblioentry"', "")  # out of use
    page = page.replace('<div role="list" class="citation-list">', "<div>")

    def lines(parameters: re.Match) -> str:  # of a signature: they define nothing
        inside = re.sub(r"<(/?)dd>", r"<\1span>", parameters[1])
        return f'<span class="sig-lines">{inside}</span>'

    return re.sub(r"<dl>\n((?:<dd>.*?</dd>\n)+)</dl>", lines, page)


def lighter(drawing: str) -> str:
    """A drawing of matplotlib to a hundredth of a point, without line breaks: a tenth fewer bytes, which nobody sees."""
    drawing = re.sub(r"<metadata>.*?</metadata>", "", drawing, flags=re.S)
    drawing = re.sub(r">\s+<", "><", drawing)

    def short(places: re.Match) -> str:
        return re.sub(r"(\.\d\d)\d+", r"\1", " " + " ".join(places[0].split()))

    return re.sub(r' (?:d|x|y)="[^"]*"', short, drawing)


# What the theme's style sheet says of one icon: .fa-bars:before,.fa-navicon:before{content:"\f0c9"}
ICON = r'(?:\.fa-[a-z0-9-]+(?:::?before)?,?)+\{(?:--fa|content):"[^"]*"[^}]*\}'


def keep_icons(pages: Path) -> None:
    """Leave in the theme's style sheet and fonts, of 2,000 icons, those that a page or a script names."""
    static = THEME / "static"
    used = {
        name
        for pattern in ("*.html", "*.js")
        for path in pages.rglob(pattern)
        for name in re.findall(
            r"\bfa-([a-z0-9-]+)", path.read_text(encoding="utf-8")
        )
    }

    def kept(rule: re.Match) -> str:
        names = re.findall(r"\.fa-([a-z0-9-]+)", rule[0])
        return rule[0] if used & {*names} else ""

    style = static / "styles" / "pydata-sphinx-theme.css"
    few = re.sub(ICON, kept, style.read_text(encoding="utf-8"))
    (pages / "_static" / style.relative_to(static)).write_text(
        few, encoding="utf-8"
    )
    styles = [path.read_text(encoding="utf-8") for path in pages.rglob("*.css")]
    codes = {
        int(code, 16) for code in re.findall(r'"\\([0-9a-f]{4})"', "".join(styles))
    }
    for font in static.rglob("fa-*.woff2"):
        letters = TTFont(font)
        subset = Subsetter()
        subset.populate(unicodes=codes)
        subset.subset(letters)
        letters.save(pages / "_static" / font.relative_to(static))


def repository_url(root: Path = ROOT) -> str:
    """Return the one value that says where the book lives."""
    return yaml.safe_load(root.joinpath("_config.yml").read_text())["repository"][
        "url"
    ]


def move(url: str, root: Path = ROOT) -> list[Path]:
    """Write a new public address wherever the old one stands, and return the files that changed.

    Raises
    ------
    ValueError
        If the address is not of the form ``https://github.com/owner/name`` (Colab opens nothing else).
    """
    url = url.rstrip("/").removesuffix(".git")
    if not re.fullmatch(r"https://github\.com/[\w.-]+/[\w.-]+", url):
        raise ValueError(
            f"{url!r} is not a repository: make repository URL=https://github.com/owner/name"
        )
    old, new = (
        address.removeprefix("https://github.com/")
        for address in (repository_url(root), url)
    )
    # Written as github.com/owner/name, and as colab.research.google.com/github/owner/name
    address = re.compile(rf"(github(?:\.com)?/){re.escape(old)}(?![\w-])")
    top = [
        root / name
        for name in ("_config.yml", "README.md", "CITATION.cff", "pyproject.toml")
    ]
    changed = []
    for path in [
        *sorted(root.glob("book/*.md")),
        *sorted(root.glob("book/*.ipynb")),
        *top,
    ]:
        text = path.read_text(encoding="utf-8")
        if (moved := address.sub(rf"\g<1>{new}", text)) == text:
            continue
        if (
            path.suffix == ".ipynb"
        ):  # the address stands in code that does nothing here: the outputs stay true
            before, after = (
                nbformat.reads(version, as_version=4) for version in (text, moved)
            )
            if not why_execute(before):
                after.metadata["lmc"]["code"] = code_hash(after)
            write(after, path)
        else:
            path.write_text(moved, encoding="utf-8")
        changed.append(path)
    return changed


def main() -> None:
    """Run one of the commands; `make help` says what they are for."""
    parser = argparse.ArgumentParser(description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    pages = commands.add_parser("book", help="build the pages from outputs")
    pages.add_argument(
        "--execute", choices=("changed", "all", "none"), default="changed"
    )
    commands.add_parser("execute", help="run notebooks in place").add_argument(
        "notebooks", nargs="+", type=Path
    )
    commands.add_parser(
        "figures", help="wrap figures anew in today's script"
    ).add_argument("notebooks", nargs="+", type=Path)
    commands.add_parser(
        "references", help="write the chapters' references from the bibliography"
    ).add_argument("notebooks", nargs="+", type=Path)
    commands.add_parser(
        "repository", help="move the book's public address"
    ).add_argument("url")
    arguments = parser.parse_args()
    if arguments.command == "book":
        refresh(arguments.execute)
        build()
    elif arguments.command == "execute":
        execute_all(arguments.notebooks)
    elif arguments.command == "references":
        for path in arguments.notebooks:
            print(f"{path}: {'changed' if cite(path) else 'as they were'}")
    elif arguments.command == "figures":
        for path in arguments.notebooks:
            print(f"{path}: {wrap_figures(path)} figures wrapped anew")
    else:
        try:
            for path in move(arguments.url):
                print(f"{path.relative_to(ROOT)} now points to {arguments.url}")
        except ValueError as error:
            sys.exit(str(error))


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        print(
            "\nStopped. What was finished is kept; notebooks that were running stay as they were.",
            file=sys.stderr,
        )
        sys.exit(130)
