"""The figure of a walk inside one class, in a browser: slide, switch, read."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from axe_playwright_python.sync_playwright import Axe
from drivers import drive_symmetry, place_of
from playwright.sync_api import Browser, Locator, Page, expect
from test_explore_symmetry import make_language_model, make_walk
from test_figures import Troubles

from lmc_utils.explore import Walk


@pytest.fixture(scope="module")
def walk() -> Walk:
    return make_walk(make_language_model(), "qk.0", title="Inside the heads")


@pytest.fixture
def figure(page: Page, walk: Walk, tmp_path: Path) -> Iterator[Locator]:
    troubles = Troubles(page)
    page.goto(walk.to_html(tmp_path / "walk.html").as_uri())
    yield page.locator(".lmc-figure")
    assert troubles == [], "the page must stay silent and at home"


def test_slide_and_switch(page: Page, figure: Locator, walk: Walk) -> None:
    drive_symmetry(page, figure, json.loads(walk.state))


def test_mouse(page: Page, figure: Locator) -> None:
    box = figure.locator("input[type=range]").bounding_box()
    assert box["height"] >= 44
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] + 50, box["y"] + 60, steps=4)
    page.mouse.up()
    assert place_of(figure) == 4


def test_keys(page: Page, figure: Locator) -> None:
    figure.locator("input[type=range]").focus()
    for key, at in (("Home", 0), ("ArrowLeft", 0), ("PageUp", 1), ("ArrowUp", 2), ("ArrowDown", 1), ("End", 4)):
        page.keyboard.press(key)
        assert place_of(figure) == at, key


def test_images_move_with_what_was_moved(figure: Locator) -> None:
    def places() -> list[str]:
        return [
            block.evaluate("node => node.style.backgroundPositionY") for block in figure.locator(".lmc-block").all()
        ]

    slider = figure.locator("input[type=range]")
    slider.press("Home")
    assert places() == ["0px, 0%"] * 2
    slider.press("End")
    assert places() == ["0px, 100%"] * 2
    figure.get_by_role("radio", name="writers only").check()
    assert places() == ["0px, 100%", "0px, 0%"], "readers stay"
    writer, reader = figure.locator(".lmc-block").all()
    expect(writer).to_have_attribute("aria-label", "what writes queries and keys: 0.q.weight: moved")
    expect(reader).to_have_attribute("aria-label", "what reads queries and keys: 0.k.weight: as it was")


def test_text_and_live_text(figure: Locator, walk: Walk) -> None:
    state = json.loads(walk.state)
    slider, written, says = (figure.locator(c) for c in ("input[type=range]", ".lmc-written", ".lmc-says"))
    slider.press("End")
    assert written.text_content() == state["prompt"] + state["texts"][0][0]
    assert written.locator("em").text_content() == ""
    expect(says).to_contain_text("symmetry, 100 % of the way: the weights have moved by")
    figure.get_by_role("radio", name="writers only").check()
    other = state["texts"][1][-1]
    assert other != state["texts"][0][0]
    assert written.text_content() == state["prompt"] + other
    assert other.endswith(written.locator("em").text_content()) and written.locator("em").text_content()
    expect(says).to_contain_text("writers only, 100 % of the way")


def test_save(page: Page, figure: Locator, walk: Walk) -> None:
    figure.get_by_text("Save").click()
    with page.expect_download() as download:
        figure.get_by_role("button", name="Numbers as CSV").click()
    header, *rows = [line.split(",") for line in download.value.path().read_text(encoding="utf-8").splitlines()]
    assert header == ["transformation", "t", "distance", "change"]
    for way, numbers in walk.data["ways"].items():
        mine = [[float(x) for x in row[1:]] for row in rows if row[0] == way]
        assert mine == [list(x) for x in zip(walk.data["t"], numbers["distance"], numbers["change"], strict=True)]


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [360, 1280])
def test_fits_and_axe(figure: Locator, page: Page, width: int, scheme: str) -> None:
    page.set_viewport_size({"width": width, "height": 844})
    page.emulate_media(color_scheme=scheme, reduced_motion="reduce")
    figure.get_by_role("radio", name="writers only").check()
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    results = Axe().run(page).response
    assert len(results["passes"]) > 10, "axe did run"
    bad = [(v["id"], v["nodes"][0]["html"]) for v in results["violations"] if v["impact"] in ("serious", "critical")]
    assert bad == []


def test_without_scripts(browser: Browser, walk: Walk, tmp_path: Path) -> None:
    with browser.new_context(offline=True, java_script_enabled=False) as context:
        page = context.new_page()
        page.goto(walk.to_html(tmp_path / "plain.html").as_uri())
        assert page.locator(".lmc-figure img").bounding_box()["width"] > 300
        for row in walk.table()[1]:
            expect(page.locator("tr", has_text=row[0])).to_contain_text(row[2])
