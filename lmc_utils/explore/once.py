"""A Sphinx extension: a page loads every script and style sheet of its figures once, and shows no titles of forms."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

# What lmc_utils.explore puts into a page beside the figure itself, by the name of its version.
PART = re.compile(
    r'<(?P<tag>style|script) data-lmc-(?:style|script)="(?P<name>[\w-]+)">(?P<source>.*?)</(?P=tag)>',
    re.S,
)
# The first line of a cell that Colab folds into a form: a page has a button in its place.
TITLE = re.compile(r'(?<=<pre><span></span>)<span class="c1"># @title [^<]*</span>\n+')
LOAD = {
    "style": ("css", '<link rel="stylesheet" href="{}">'),
    "script": ("js", '<script src="{}"></script>'),
}


def once(body: str, folder: str) -> tuple[str, dict[str, str]]:
    """Take the scripts and style sheets of figures out of a page.

    Parameters
    ----------
    body
        The page, or a part of it.
    folder
        The address of the folder that will hold the files, as seen from the page.

    Returns
    -------
    body : str
        With each script and style sheet loaded where it stood first.
    files : dict
        The content of each file by its name.

    Examples
    --------
    >>> once('<style data-lmc-style="a">b {}</style><style data-lmc-style="a">b {}</style>', "_static")
    ('<link rel="stylesheet" href="_static/a.css">', {'a.css': 'b {}'})
    """
    files: dict[str, str] = {}

    def load(part: re.Match[str]) -> str:
        suffix, element = LOAD[part["tag"]]
        file = f"{part['name']}.{suffix}"
        known = file in files
        files[file] = part["source"]
        return "" if known else element.format(f"{folder}/{file}")

    return PART.sub(load, body), files


def load_once(app: Any, page: str, template: str, context: dict[str, Any], tree: object) -> None:
    """Write the files that a page needs, and have it load each of them once."""
    if "body" not in context:
        return
    body = TITLE.sub("", context["body"])
    context["body"], files = once(body, context["pathto"]("_static/lmc", resource=True))
    target = Path(app.outdir, "_static", "lmc")
    target.mkdir(parents=True, exist_ok=True)
    for name, source in files.items():
        (target / name).write_text(source, encoding="utf-8")


def setup(app: Any) -> dict[str, bool]:
    app.connect("html-page-context", load_once)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
