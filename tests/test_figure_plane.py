"""The plane with a probe in a browser: by mouse, finger and keys, the numbers are those of Python."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path

import pytest
from axe_playwright_python.sync_playwright import Axe
from drivers import probe_of
from playwright.sync_api import Browser, Locator, Page, expect
from test_figures import Troubles
from test_plane import make_paths, make_plane

from lmc_utils.explore import explore_plane
from lmc_utils.explore.figure import show

NAMES = ("A", "B", "π(B)")


@pytest.fixture
def state() -> dict:
    return json.loads(explore_plane(make_plane(), make_paths()).state)


@pytest.fixture
def figure(page: Page, tmp_path: Path) -> Iterator[Locator]:
    troubles = Troubles(page)
    page.emulate_media(reduced_motion="reduce")
    page.goto(explore_plane(make_plane(), make_paths()).to_html(tmp_path / "plane.html").as_uri())
    yield page.locator(".lmc-figure")
    assert troubles == [], "the page must stay silent and at home"


def expect_network(figure: Locator, state: dict, xy: tuple[float, float], loss: float) -> None:
    """The read-out tells the loss, and the distance to each network."""
    distances = (
        f"{show(math.dist(xy, corner))} to {name}" for name, corner in zip(NAMES, state["corners"], strict=True)
    )
    expect(figure.locator(".lmc-says")).to_contain_text(f"is {show(loss)} nats")
    expect(figure.locator(".lmc-says")).to_contain_text(f"Distances: {', '.join(distances)}.")


def expect_grid(figure: Locator, state: dict, i: int, j: int) -> None:
    expect_network(figure, state, (state["x"][i], state["y"][j]), state["loss"][j][i])
    expect(figure.locator(".lmc-says")).to_contain_text("The loss here is")


def pixels(figure: Locator, state: dict, xy: tuple[float, float]) -> tuple[float, float]:
    """Where a place of the plane is on the screen: the lowest colour covers all of the plane."""
    box = figure.locator(".lmc-map rect").first.bounding_box()
    u, v = ((value - axis[0]) / (axis[-1] - axis[0]) for value, axis in zip(xy, (state["x"], state["y"]), strict=True))
    return box["x"] + u * box["width"], box["y"] + (1 - v) * box["height"]


def test_drag_snaps_to_what_was_measured(figure: Locator, page: Page, state: dict) -> None:
    x, y = state["x"], state["y"]
    page.mouse.move(*pixels(figure, state, (x[3] + 0.1, y[15] - 0.05)))
    page.mouse.down()
    expect_grid(figure, state, 3, 15)
    page.mouse.move(*pixels(figure, state, (x[17], y[12])), steps=5)
    expect_grid(figure, state, 17, 12)
    page.mouse.move(*pixels(figure, state, (4.02, 0.1)), steps=5)  # near the straight line from A to B
    expect_network(figure, state, (4, 0), state["paths"][0]["loss"][12])
    expect(figure.locator(".lmc-says")).to_contain_text("at λ = 0.5 on the path vanilla")
    page.mouse.move(*pixels(figure, state, (40, 40)), steps=5)
    page.mouse.up()
    expect_grid(figure, state, 20, 20)
    page.mouse.move(*pixels(figure, state, (0, 3)))
    expect_grid(figure, state, 20, 20)


def test_keys_on_the_plane(figure: Locator, page: Page, state: dict) -> None:
    plane = figure.locator(".lmc-map")
    plane.focus()
    page.keyboard.press("Home")
    expect_network(figure, state, state["corners"][0], state["paths"][0]["loss"][0])
    page.keyboard.press("End")
    expect_network(figure, state, state["corners"][1], state["paths"][0]["loss"][-1])
    page.mouse.click(*pixels(figure, state, (state["x"][2], state["y"][10])))
    for key, i, j in (
        ("ArrowLeft", 1, 10), ("ArrowUp", 1, 11), ("Shift+ArrowRight", 6, 11), ("PageDown", 6, 6), ("PageUp", 6, 11),
        ("ArrowDown", 6, 10), ("Shift+ArrowLeft", 1, 10), ("Shift+ArrowLeft", 0, 10), ("Shift+ArrowUp", 0, 15),
    ):  # fmt: skip
        page.keyboard.press(key)
        expect_grid(figure, state, i, j)


def test_walk_and_profile_are_linked(figure: Locator, page: Page, state: dict) -> None:
    buttons, profile = figure.locator(".lmc-toggles button"), figure.get_by_role("slider")
    buttons.nth(1).press("Enter")
    expect(buttons.nth(1)).to_have_attribute("aria-pressed", "true")
    expect(buttons.nth(0)).to_have_attribute("aria-pressed", "false")
    expect_network(figure, state, state["corners"][2], state["paths"][1]["loss"][-1])
    expect(profile).to_contain_text(f"learned: barrier {show(state['paths'][1]['barrier'])}")
    profile.focus()
    page.keyboard.press("PageDown")
    expect(profile).to_have_attribute("aria-valuenow", str(state["lambdas"][19]))
    assert probe_of(figure, state) == pytest.approx([state["lambdas"][19] * c for c in state["corners"][2]], abs=0.02)
    box = profile.bounding_box()
    page.mouse.click(box["x"] + 36 + 0.25 * (box["width"] - 50), box["y"] + 100)
    expect(figure.locator(".lmc-says")).to_contain_text("λ = 0.25 on the path learned")
    expect(figure.locator(".lmc-probe.lmc-off")).to_have_count(0)
    page.mouse.click(*pixels(figure, state, (state["x"][10], state["y"][10])))
    expect(figure.locator(".lmc-probe.lmc-off")).to_have_count(1)  # hollow: beside the line


def test_walk_takes_its_time(figure: Locator, page: Page, state: dict) -> None:
    page.emulate_media(reduced_motion="no-preference")
    figure.get_by_role("button", name="Walk from A to B", exact=True).click()
    says = figure.locator(".lmc-says")
    expect(says).not_to_contain_text("λ = 1 on")
    expect(says).to_contain_text("λ = 1 on the path vanilla", timeout=3000)
    figure.get_by_role("button", name="Walk from A to B", exact=True).click()
    figure.locator(".lmc-map").press("Home")
    page.wait_for_timeout(1700)
    expect(says).to_contain_text("λ = 0 on the path vanilla")  # who takes the probe stops the walk


def test_finger(browser: Browser, state: dict, tmp_path: Path) -> None:
    """A finger on the probe drags it up; elsewhere a finger that goes up scrolls the page."""
    path = explore_plane(make_plane(), make_paths()).to_html(tmp_path / "plane.html")
    with browser.new_context(offline=True, has_touch=True, viewport={"width": 390, "height": 500}) as context:
        page = context.new_page()
        page.goto(path.as_uri())
        figure, touch = page.locator(".lmc-figure"), context.new_cdp_session(page)

        def swipe(start: tuple[float, float], end: tuple[float, float]) -> None:
            places = [[a + k / 4 * (b - a) for a, b in zip(start, end, strict=True)] for k in range(5)]
            for kind, (x, y) in zip(("touchStart", *["touchMove"] * 4), places, strict=True):
                touch.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": [{"x": x, "y": y}]})
            touch.send("Input.dispatchTouchEvent", {"type": "touchEnd", "touchPoints": []})

        probe = tuple(probe_of(figure, state))
        swipe(pixels(figure, state, probe), pixels(figure, state, (state["x"][8], state["y"][16])))
        expect_grid(figure, state, 8, 16)
        assert page.evaluate("scrollY") == 0
        x, y = pixels(figure, state, (9, 1))
        swipe((x, y), (x, y - 120))
        page.wait_for_function("scrollY > 50")
        expect_grid(figure, state, 8, 16)


def test_save(figure: Locator, page: Page, state: dict) -> None:
    figure.get_by_text("Save").click()
    with page.expect_download() as download:
        figure.get_by_role("button", name="Numbers as CSV").click()
    rows = download.value.path().read_text(encoding="utf-8").splitlines()
    assert rows[0] == "where,x,y,loss" and len(rows) == 1 + 21 * 21 + 2 * 25
    assert rows[1].split(",") == ["grid", *(f"{v:g}" for v in (state["x"][0], state["y"][0], state["loss"][0][0]))]
    figure.get_by_text("Save").click()
    with page.expect_download() as download:
        figure.get_by_role("button", name="Plots as SVG").click()
    drawing = download.value.path().read_text(encoding="utf-8")
    assert "var(" not in drawing and state["colors"][-1] in drawing


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [360, 1280])
def test_looks(figure: Locator, page: Page, scheme: str, width: int) -> None:
    page.set_viewport_size({"width": width, "height": 844})
    page.emulate_media(color_scheme=scheme)
    figure.get_by_text("Save").click()
    page.wait_for_timeout(100)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    for box in (svg.bounding_box() for svg in figure.locator(".lmc-panel").all()):
        assert box["x"] >= 0 and box["x"] + box["width"] <= width
    assert all(button.bounding_box()["height"] >= 44 for button in figure.locator(".lmc-toggles button").all())
    results = Axe().run(page).response
    assert len(results["passes"]) > 10, "axe did run"
    bad = [
        (v["id"], [n["html"] for n in v["nodes"]])
        for v in results["violations"]
        if v["impact"] in ("serious", "critical")
    ]
    assert bad == []
