"""A Sphinx extension: a page links the glossary's terms and the package's functions where it uses them first.

The glossary links back, and a link to a paper says which one it is. Notebooks are plain Markdown, which Colab shows as
well, and so cannot say this themselves. Previews of a page get its title and its first paragraph.
"""

import json
import re
from collections.abc import Iterator
from html import escape
from pathlib import Path
from typing import Any

from docutils import nodes

from tools import works

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
    listed = {
        paragraph
        for section in document.findall(nodes.section)
        if "references" in section["ids"]  # titles of papers
        for paragraph in section.findall(nodes.paragraph)
    }

    def free(node: nodes.Node) -> bool:
        while not isinstance(node, nodes.paragraph):
            node = node.parent
            if node is None or isinstance(node, BUSY):
                return False
        return node not in listed

    texts = (node for node in document.findall(nodes.Text) if free(node))
    codes = (node for node in document.findall(nodes.literal) if free(node.parent))
    return [*texts, *codes]


class Terms:
    """The glossary's terms, and where a text uses one for the first time."""

    def __init__(self, app: Any) -> None:
        objects = app.env.domains["std"].get_objects()
        self.anchors = {
            name: anchor
            for name, _, kind, _, anchor, _ in objects
            if kind == "term" and name not in PEOPLE
        }
        self.lower = {
            name if name.isupper() else name.lower(): name for name in self.anchors
        }
        longest = sorted(self.lower, key=len, reverse=True)
        self.pattern = re.compile(
            rf"(?<![\w-])({'|'.join(map(re.escape, longest))})s?(?![\w-])", re.I
        )

    def first(self, text: str, known: set[str]) -> Iterator[tuple[str, re.Match]]:
        """Yield the terms in a text that are not yet known, and make them known."""
        for use in self.pattern.finditer(text):
            term = self.lower.get(use[1] if use[1].isupper() else use[1].lower())
            if term is not None and term not in known:
                known.add(term)
                yield term, use


def link(address: str, inside: str, meaning: str = "", more: str = "") -> nodes.raw:
    """A link in HTML that carries what its word means."""
    means = f' data-means="{escape(meaning)}"' if meaning else ""
    return nodes.raw(
        "", f'<a href="{address}"{means}{more}>{inside}</a>', format="html"
    )


WORD = ' class="reference internal lmc-word"'


def connect(app: Any, document: nodes.document, page: str) -> None:
    """Link each term and each function of the package once in a page, and say what papers are."""
    if app.builder.format != "html" or page.startswith("book/api"):
        return
    terms = Terms(app)
    if page == GLOSSARY:
        lead_back(app, document, terms)
    if page in QUIET:
        return
    glossary = app.builder.get_relative_uri(page, GLOSSARY)
    names = {
        name: f"{app.builder.get_relative_uri(page, at)}#{anchor}"
        for name, _, _, at, anchor, _ in app.env.domains["py"].get_objects()
    }
    said = meanings(app.env.get_doctree(GLOSSARY))
    known: set[str] = set()
    for node in uses(document):
        text = node.astext()
        if isinstance(node, nodes.literal):
            name = "lmc_utils." + re.sub(r"^lmc\.|\W*\(.*", "", text)
            if text.startswith("lmc.") and name in names and name not in known:
                known.add(name)
                code = f"<code>{escape(text)}</code>"
                node.parent.replace(node, link(names[name], code, more=WORD))
            continue
        parts, end = [], 0
        for term, use in terms.first(text, known):
            anchor = terms.anchors[term]
            parts += [
                nodes.Text(text[end : use.start()]),
                link(
                    f"{glossary}#{anchor}",
                    escape(use[0]),
                    said.get(term, ""),
                    f'{WORD} id="use-{anchor}"',
                ),
            ]
            end = use.end()
        if parts:
            node.parent.replace(node, [*parts, nodes.Text(text[end:])])
    papers = works("plaintext")
    for node in [*document.findall(nodes.reference)]:
        address = node.get("refuri", "")
        work = papers.get(address.removeprefix("https://arxiv.org/abs/"))
        text = node.astext()
        if work and not text.startswith("arXiv"):  # there the page says it itself
            cited = link(address, escape(text), work, ' class="reference external"')
            node.parent.replace(node, cited)


def lead_back(app: Any, document: nodes.document, terms: Terms) -> None:
    """Give the glossary its letters, and each term the pages that use it."""
    pages: dict[str, list[str]] = {term: [] for term in terms.anchors}
    for page in app.env.toctree_includes["book/index"]:
        known: set[str] = set()
        if page in QUIET or page.startswith("book/api"):
            continue
        for node in uses(app.env.get_doctree(page)):
            if isinstance(node, nodes.Text):
                for term, _ in terms.first(node.astext(), known):
                    pages[term].append(page)
    letters: dict[str, str] = {}
    for item in document.findall(nodes.definition_list_item):
        term = item.next_node(nodes.term)
        name = term.astext().strip()
        letters.setdefault(name[0].upper(), term["ids"][0])
        if found := pages.get(name):
            where = ", ".join(
                f'<a href="{app.builder.get_relative_uri(GLOSSARY, page)}#use-{terms.anchors[name]}">'
                f"{number(app, page)}</a>"
                for page in found
            )
            item[-1] += nodes.raw(
                "", f'<p class="lmc-uses">In {where}</p>', format="html"
            )
    row = " ".join(
        f'<a href="#{at}">{letter}</a>' for letter, at in letters.items()
    )
    index = f'<nav class="lmc-letters" aria-label="Letters">{row}</nav>'
    definitions = next(document.findall(nodes.definition_list))
    place = definitions.parent
    place.insert(place.index(definitions), nodes.raw("", index, format="html"))


def number(app: Any, page: str) -> str:
    """What a page is called in a list: chapters have numbers, others titles."""
    numbers = app.env.toc_secnumbers.get(page, {}).get("", ())
    return (
        f"chapter {numbers[0]}"
        if numbers
        else escape(app.env.titles[page].astext().split(":")[0])
    )


def summary(document: nodes.document) -> str:
    """A page's first paragraph on one line."""
    first = next(document.findall(nodes.paragraph), None)
    return " ".join(first.astext().split()) if first else ""


def preview(
    app: Any, page: str, template: str, context: dict[str, Any], document: Any
) -> None:
    """Say what a page is about to those who show a preview of a link to it."""
    if page == "search":
        app.add_js_file("summaries.js", loading_method="defer")
        app.add_js_file("search.js", loading_method="defer")
    if document is None or not (said := summary(document)):
        return
    told = {
        "og:type": "article",
        "og:title": context["title"],
        "og:description": said[:300],
    }
    context["metatags"] += "".join(
        f'<meta property="{name}" content="{escape(re.sub("<.*?>", "", text))}" />\n'
        for name, text in told.items()
    )


def write_summaries(app: Any, error: Exception | None) -> None:
    """Write the index of the sentences that pages begin with, for the search page, which cannot open them from disk."""
    if error or app.builder.format != "html":
        return
    said = {
        page: re.split(r"(?<=[.?!])\s", summary(app.env.get_doctree(page)))[0]
        for page in sorted(app.env.found_docs)
    }
    path = Path(app.outdir, "_static", "summaries.js")
    path.write_text(f"const SUMMARIES = {json.dumps(said)};\n", encoding="utf-8")


def skip_field(
    app: Any, what: str, name: str, member: object, skip: bool, options: Any
) -> bool | None:
    """Leave out what Python says of a named tuple's fields: the class describes them."""
    return (member.__doc__ or "").startswith("Alias for field") or None


def setup(app: Any) -> dict[str, bool]:
    app.connect("env-updated", lambda app, env: [GLOSSARY])  # leads to all pages
    app.connect("doctree-resolved", connect)
    app.connect("html-page-context", preview)
    app.connect("build-finished", write_summaries)
    app.connect("autodoc-skip-member", skip_field)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
