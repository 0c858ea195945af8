"""What `make` does around the notebooks: drop stale results, execute in place, move the book's public address."""

from __future__ import annotations

import argparse
import hashlib
import re
import shutil
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

import nbformat
import yaml
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError

ROOT = Path(__file__).resolve().parent.parent
KERNEL = {"display_name": "Python 3", "language": "python", "name": "python3"}
LANGUAGE = {
    "file_extension": ".py",
    "mimetype": "text/x-python",
    "name": "python",
    "pygments_lexer": "ipython3",
}
WIDGET = "application/vnd.jupyter.widget-view+json"


# What neither jupyter-cache (it looks at a notebook's code alone) nor Sphinx (at the pages' files) would notice, and
# which of their memories that makes stale. Sphinx's goes with the cache: it asks for no page that did not change.
WATCHED = {
    "package": (("lmc_utils", "requirements.txt"), (".jupyter_cache", ".doctrees")),
    "design": (("book/static", "book/vendor"), (".doctrees",)),
}


def fingerprint(names: Iterable[str], root: Path = ROOT) -> str:
    """Hash the names and the content of files and of all that is in folders, compiled Python excepted."""
    digest = hashlib.sha256()
    for name in names:
        for path in sorted([root / name, *root.joinpath(name).rglob("*")]):
            if path.is_file() and "__pycache__" not in path.parts:
                digest.update(f"{path.relative_to(root).as_posix()}\0".encode())
                digest.update(hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()


def refresh(root: Path = ROOT) -> list[str]:
    """Forget the results of an earlier build that are stale, and return what has changed since."""
    build, changed = root / "_build", []
    build.mkdir(exist_ok=True)
    for what, (names, memories) in WATCHED.items():
        known, now = build / f".{what}", fingerprint(names, root)
        if known.exists() and known.read_text() == now:
            continue
        for memory in memories:
            shutil.rmtree(build / memory, ignore_errors=True)
        known.write_text(now)
        changed.append(what)
    return changed


def code_hash(notebook: nbformat.NotebookNode) -> str:
    """Hash a notebook's code cells, in order: what its outputs must have come from."""
    cells = [cell.source for cell in notebook.cells if cell.cell_type == "code"]
    return hashlib.sha256("\0".join(cells).encode()).hexdigest()


def is_executed(notebook: nbformat.NotebookNode) -> bool:
    """Whether a notebook's outputs came from the code that it holds now."""
    return notebook.metadata.get("lmc") == {"code": code_hash(notebook)}


def write(notebook: nbformat.NotebookNode, path: Path) -> None:
    """Write a notebook in one step, so that an interruption cannot leave half of it."""
    partial = path.with_suffix(".partial")
    nbformat.write(notebook, partial)
    partial.replace(path)


def execute(path: Path) -> None:
    """Run a notebook from a clean kernel and keep its outputs, without what differs between two runs or machines.

    Widget views go, their HTML twins stay: without its kernel a view shows an error where the twin shows the figure.
    """
    notebook = nbformat.read(path, as_version=4)
    notebook.metadata = nbformat.from_dict({"kernelspec": KERNEL})
    client = NotebookClient(
        notebook,
        timeout=600,
        resources={"metadata": {"path": str(path.parent)}},
        store_widget_state=False,
        record_timing=False,
        coalesce_streams=True,
    )
    client.execute()
    for cell in notebook.cells:
        for output in cell.get("outputs", []):
            if "text/html" in output.get("data", {}):
                output.data.pop(WIDGET, None)
    notebook.metadata = nbformat.from_dict(
        {
            "kernelspec": KERNEL,
            "language_info": LANGUAGE,
            "lmc": {"code": code_hash(notebook)},
        }
    )
    write(notebook, path)


STATE = re.compile(
    r'<script type="application/json" data-lmc-state="\w+">(.*?)</script>', re.S
)


def figures(
    notebook: nbformat.NotebookNode,
) -> Iterator[tuple[nbformat.NotebookNode, str]]:
    """Yield each output of a notebook that holds a figure, and the figure's state."""
    for cell in notebook.cells:
        for output in cell.get("outputs", []):
            if found := STATE.search(output.get("data", {}).get("text/html", "")):
                yield output, found[1]


def wrap_figures(path: Path) -> int:
    """Give a notebook's figures today's script, style and static twin without executing it; return how many changed."""
    from lmc_utils.explore import wrap

    notebook, changed = nbformat.read(path, as_version=4), 0
    for output, state in figures(notebook):
        anew = wrap(state)
        changed += anew != output.data["text/html"]
        output.data["text/html"] = anew
    if changed:
        write(notebook, path)
    return changed


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
            if is_executed(before):
                after.metadata["lmc"] = {"code": code_hash(after)}
            write(after, path)
        else:
            path.write_text(moved, encoding="utf-8")
        changed.append(path)
    return changed


def main() -> None:
    """Run one of the commands; `make help` says what they are for."""
    parser = argparse.ArgumentParser(description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser(
        "refresh", help="drop what an earlier build left and is stale"
    )
    commands.add_parser("execute", help="run notebooks in place").add_argument(
        "notebooks", nargs="+", type=Path
    )
    commands.add_parser(
        "figures", help="wrap figures anew in today's script"
    ).add_argument("notebooks", nargs="+", type=Path)
    commands.add_parser(
        "repository", help="move the book's public address"
    ).add_argument("url")
    arguments = parser.parse_args()
    if arguments.command == "refresh":
        if "package" in refresh():
            print(
                "The package or its requirements are new here: every notebook is executed."
            )
    elif arguments.command == "execute":
        for path in arguments.notebooks:
            print(f"{path} ...", flush=True)
            try:
                execute(path)
            except CellExecutionError as error:
                sys.exit(f"{path} stopped, and stays as it was:\n{error}")
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
    main()
