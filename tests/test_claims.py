"""Numbers that the text calls measured are printed on the page; bold sentences name the output that carries them."""

from __future__ import annotations

import re
from pathlib import Path

import nbformat
import pytest

BOOK = Path(__file__).resolve().parents[1] / "book"
NOTEBOOKS = {path.stem: nbformat.read(path, 4) for path in sorted(BOOK.glob("*.ipynb"))}
CLAIMS = Path(__file__).with_name("claims.md").read_text(encoding="utf-8")
MEASURED = re.compile(r"<!-- measured(?: in ([\w-]+))?: (.+?) -->")
WORDS = 6  # fewer are emphasis


def squeezed(text: str) -> str:
    """A text whose spaces do not count."""
    return " ".join(text.split())


def printed(cell: nbformat.NotebookNode) -> str:
    """What a cell prints or shows, as plain text."""
    shown = [output.get("text") or output.get("data", {}).get("text/plain", "") for output in cell.get("outputs", [])]
    return squeezed(" ".join(shown))


def cells(name: str, kind: str) -> list[nbformat.NotebookNode]:
    return [cell for cell in NOTEBOOKS[name].cells if cell.cell_type == kind]


def reads(text: str, output: str) -> bool:
    """Whether a number of a text is a printed one, rounded."""
    gap = abs(abs(float(text)) - abs(float(output)))
    last = [0.5 * 10.0 ** -len(number.partition(".")[2]) for number in (text, output)]
    return last[1] <= last[0] and gap <= sum(last) + 1e-12


MARKS = [(name, cell.source, *mark) for name in NOTEBOOKS for cell in cells(name, "markdown")
         for mark in MEASURED.findall(cell.source)]  # fmt: skip


@pytest.mark.parametrize(("name", "source", "page", "marked"), MARKS)
def test_numbers_marked_as_measured_are_printed(name: str, source: str, page: str, marked: str) -> None:
    outputs = " ".join(map(printed, cells(page or name, "code")))
    found = re.findall(r"(?<![\w.])\d[\d,]*\.?\d*(?![\w.])", outputs)
    prose = MEASURED.sub("", source)
    for number in marked.split(", "):
        assert re.search(rf"(?<![\d.]){re.escape(number)}(?!\d)", prose), f"{number} is marked, and not said"
        assert any(reads(number, output.replace(",", "")) for output in found), f"{number} is said, and not printed"


def bold(name: str) -> list[str]:
    """The bold sentences of a notebook, links as their words."""
    text = "\n\n".join(cell.source for cell in cells(name, "markdown"))
    runs = [squeezed(re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", run)) for run in re.findall(r"\*\*(.+?)\*\*", text, re.S)]
    return [run for run in runs if len(run.split()) >= WORDS and not re.match(r"\d+\.\d", run)]  # exercises


def claims(name: str) -> dict[str, str]:
    """The claims of a notebook, with the lines that say what carries them."""
    section = re.search(rf"^## {re.escape(name)}$(.*?)(?=^## |\Z)", CLAIMS, re.M | re.S)
    parts = (section[1] if section else "").split("\n> ")[1:]
    return {squeezed(claim): carried for claim, _, carried in (part.partition("\n\n") for part in parts)}


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_every_bold_sentence_names_what_carries_it(name: str) -> None:
    assert list(claims(name)) == bold(name)
    assert all(re.search(r"^- \S", carried, re.M) for carried in claims(name).values())


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_what_carries_a_bold_sentence_is_printed_there(name: str) -> None:
    by_number = {cell.execution_count: printed(cell) for cell in cells(name, "code")}
    for claim, carried in claims(name).items():
        for number, lines in re.findall(r"\[(\d+)\]((?: `[^`]+`)+)", carried):
            for line in re.findall(r"`([^`]+)`", lines):
                assert squeezed(line) in by_number[int(number)], f"cell [{number}] does not print {line!r}: {claim}"
