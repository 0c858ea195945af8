"""A Sphinx extension: a page links the glossary's terms and the package's functions where it uses them first.

Notebooks are plain Markdown, which Colab shows as well, and so cannot say this themselves. Previews of a page get its
title and its first paragraph.
"""

import re
from html import escape
from typing import Any

from docutils import nodes

GLOSSARY = "book/glossary"
QUIET = {GLOSSARY, "book/references"}  # and the package reference, below
PEOPLE = {"reader"}  # who is a weight in the glossary, and a person elsewhere
# Where a link would disturb, or where one is.
BUSY = (
    nodes.reference,
    nodes.literal,
    nodes.math,
    nodes.strong,
    nodes.emphasis,
    nodes.title,
    nodes.caption,
    nodes.image,
    nodes.raw,
)


def meanings(glossary: nodes.document) -> dict[str, str]:
    """Of each term what the glossary says of it, as far as the first full stop, or the first formula."""
    found = {}
    for item in glossary.findall(nodes.definition_list_item):
        text, formula = "", False
        for child in item[-1][0].children:
            if formula := isinstance(child, nodes.math):
                break
            text += child.astext()
        first = re.split(r"(?<=\.)\s", " ".join(text.split()))
        said = (
            first[0]
            if len(first) > 1 or not formula
            else first[0].rpartition(":")[0]
        )
        found[item.next_node(nodes.term).astext().strip()] = said
    return found


def uses(document: nodes.document) -> list[nodes.Node]:
    """The words of a page's paragraphs that nothing links yet, in the order of the page, then the inline code."""

    def free(node: nodes.Node) -> bool:
        while not isinstance(node, nodes.paragraph):
            node = node.parent
            if node is None or isinstance(node, BUSY):
                return False
        return True

    texts = (node for node in document.findall(nodes.Text) if free(node))
    codes = (node for node in document.findall(nodes.literal) if free(node.parent))
    return [*texts, *codes]


def link(address: str, inside: str, meaning: str = "") -> nodes.raw:
    """A link in HTML that carries what its word means."""
    means = f' data-means="{escape(meaning)}"' if meaning else ""
    return nodes.raw(
        "",
        f'<a class="reference internal lmc-word" href="{address}"{means}>{inside}</a>',
        format="html",
    )


def connect(app: Any, document: nodes.document, page: str) -> None:
    """Link each term and each function of the package once in a page."""
    if app.builder.format != "html" or page in QUIET or page.startswith("book/api"):
        return
    terms = {
        name: at
        for name, _, kind, at, anchor, _ in app.env.domains["std"].get_objects()
        if kind == "term" and name not in PEOPLE
        for at in [f"{app.builder.get_relative_uri(page, at)}#{anchor}"]
    }
    names = {
        name: f"{app.builder.get_relative_uri(page, at)}#{anchor}"
        for name, _, _, at, anchor, _ in app.env.domains["py"].get_objects()
    }
    said = meanings(app.env.get_doctree(GLOSSARY)) if terms else {}
    lower = {name if name.isupper() else name.lower(): name for name in terms}
    longest = sorted(lower, key=len, reverse=True)
    pattern = re.compile(
        rf"(?<![\w-])(?P<term>{'|'.join(map(re.escape, longest))})s?(?![\w-])", re.I
    )
    known = set()
    for node in uses(document):
        text = node.astext()
        if isinstance(node, nodes.literal):
            name = "lmc_utils." + re.sub(r"^lmc\.|\W*\(.*", "", text)
            if text.startswith("lmc.") and name in names and name not in known:
                known.add(name)
                code = link(names[name], f"<code>{escape(text)}</code>")
                node.parent.replace(node, code)
            continue
        parts, end = [], 0
        for use in pattern.finditer(text):
            term = use["term"] if use["term"].isupper() else use["term"].lower()
            term = lower.get(term)
            if term is None or term in known:
                continue
            known.add(term)
            parts += [
                nodes.Text(text[end : use.start()]),
                link(terms[term], escape(use[0]), said.get(term, "")),
            ]
            end = use.end()
        if parts:
            node.parent.replace(node, [*parts, nodes.Text(text[end:])])


def preview(
    app: Any, page: str, template: str, context: dict[str, Any], document: Any
) -> None:
    """Say what a page is about to those who show a preview of a link to it."""
    if document is None or not (
        first := next(iter(document.findall(nodes.paragraph)), None)
    ):
        return
    told = {
        "og:type": "article",
        "og:title": context["title"],
        "og:description": " ".join(first.astext().split())[:300],
    }
    context["metatags"] += "".join(
        f'<meta property="{name}" content="{escape(re.sub("<.*?>", "", text))}" />\n'
        for name, text in told.items()
    )


def setup(app: Any) -> dict[str, bool]:
    app.connect("doctree-resolved", connect)
    app.connect("html-page-context", preview)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
