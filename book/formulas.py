"""A Sphinx extension: formulas are set when the book is built, so that pages need no script for them.

KaTeX (book/vendor/katex) runs in the JavaScript engine of mini-racer and writes HTML to look at and MathML to listen to.
"""

import re
from functools import cache
from pathlib import Path
from typing import Any

from docutils import nodes
from py_mini_racer import JSEvalException, MiniRacer
from sphinx.errors import ExtensionError
from sphinx.writers.html5 import HTML5Translator

KATEX = Path(__file__).parent / "vendor" / "katex" / "katex.min.js"
SHORT = 24  # letters of TeX; longer formulas may go on in the next line
TAG = re.compile(r"\\tag\{([\d.]+)\}")


@cache
def engine() -> MiniRacer:
    """A JavaScript engine that knows KaTeX."""
    racer = MiniRacer()
    racer.eval(KATEX.read_text(encoding="utf-8"))
    return racer


@cache
def set_formula(tex: str, display: bool) -> str:
    """Set a formula in HTML.

    Raises
    ------
    ExtensionError
        If KaTeX does not know what the formula says.
    """
    options = {"displayMode": display, "strict": "error"}
    try:
        return engine().call("katex.renderToString", tex, options)
    except JSEvalException as error:
        raise ExtensionError(f"{tex!r} cannot be set: {error}") from error


def hold(app: Any, document: nodes.document, page: str) -> None:
    """Keep short formulas on one line with the full stop or comma behind them."""
    for formula in [*document.findall(nodes.math)]:
        line, place = formula.parent, formula.parent.index(formula) + 1
        after = line[place] if place < len(line) else None
        if not isinstance(after, nodes.Text) or len(formula.astext()) > SHORT:
            continue
        mark, rest = after[:1], after[1:]
        if mark in [*".,;:!?)’”"]:
            held = nodes.inline("", "", formula.deepcopy(), nodes.Text(mark))
            held["classes"].append("held")
            line[place - 1 : place + 1] = [held, nodes.Text(rest)]


def refer(app: Any, document: nodes.document, page: str) -> None:
    """Lead from "equation (1.1)" to the formula of the page that has this number."""
    numbers = [
        number
        for formula in document.findall(nodes.math_block)
        for number in TAG.findall(formula.astext())
    ]
    for text in [*document.findall(nodes.Text)]:
        parts = re.split(r"(equation \([\d.]+\))", text.replace("\n", " "))
        if len(parts) > 1 and parts[1][10:-1] in numbers:
            where = f"equation-{parts[1][10:-1]}"
            link = nodes.reference("", parts[1], refid=where, internal=True)
            text.parent.replace(
                text, [nodes.Text(parts[0]), link, nodes.Text(parts[2])]
            )


def visit_inline(self: HTML5Translator, node: nodes.math) -> None:
    """Write a formula within a line."""
    self.body.append(set_formula(node.astext(), False))
    raise nodes.SkipNode


def visit_display(self: HTML5Translator, node: nodes.math_block) -> None:
    """Write a formula of its own line."""
    number = TAG.search(node.astext())
    ids = [f"equation-{number[1]}"] if number else []
    self.body.append(self.starttag(node, "div", CLASS="math", ids=ids))
    self.body.append(set_formula(node.astext(), True) + "</div>\n")
    raise nodes.SkipNode


def add_style(
    app: Any, page: str, template: str, context: dict[str, Any], document: Any
) -> None:
    """Load KaTeX's style and fonts where a page has formulas."""
    if document and next(document.findall(nodes.math), None) is not None:
        app.add_css_file("katex/katex.min.css")


def setup(app: Any) -> dict[str, bool]:
    renderers = ((visit_inline, None), (visit_display, None))
    app.add_html_math_renderer("katex", *renderers)
    app.connect("doctree-resolved", hold)
    app.connect("doctree-resolved", refer)
    app.connect("html-page-context", add_style)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
