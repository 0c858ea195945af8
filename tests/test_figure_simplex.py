"""The triangle in a browser: dragged by mouse and finger, moved by keys, read by a screen reader, saved."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from axe_playwright_python.sync_playwright import Axe
from drivers import read
from playwright.sync_api import Browser, Locator, Page, expect
from test_explore_simplex import make_simplices, make_split_simplices
from test_figures import troubles  # noqa: F401

from lmc_utils.explore import explore_simplex
from lmc_utils.explore.figure import show
from lmc_utils.landscape.simplex import lattice

N = 6
PLACES = [tuple(row) for row in (lattice(3, N + 1) * N).round().int().tolist()]


@pytest.fixture
def triangle(page: Page, troubles: list, tmp_path: Path) -> Locator:  # noqa: F811
    page.goto(explore_simplex(make_split_simplices(), title="Three").to_html(tmp_path / "figure.html").as_uri())
    return page.locator(".lmc-figure")


def pixel(figure: Locator) -> Callable[..., tuple[float, float]]:
    """Where a mixture stands on the screen: the corners are found by their names."""
    a, b, c = (figure.locator(".lmc-panel >> nth=0").locator(".lmc-end").nth(i).bounding_box() for i in range(3))
    middle = [box["x"] + box["width"] / 2 for box in (a, b, c)]
    low, high = a["y"] + a["height"] / 2 - 16, c["y"] + c["height"] / 2 + 13
    return lambda *w: (
        sum(x * m for x, m in zip(w, middle, strict=True)) / N,
        (w[0] + w[1]) / N * low + w[2] / N * high,
    )


def expect_at(figure: Locator, place: tuple[int, int, int], split: str = "test", chosen: str = "vanilla") -> None:
    at = PLACES.index(place)
    for name, row in make_split_simplices().items():
        for field in ("loss", "excess", "accuracy"):
            value = getattr(row[split], field)[at].item()
            expect(read(figure, name, field)).to_have_text(show(0.0 if abs(value) < 1e-9 else float(f"{value:.5g}")))
        expect(read(figure, name, "barrier")).to_have_text(show(float(f"{row[split].barrier:.5g}")))
    where = ", ".join(f"{round(100 * x / N)} % {name}" for x, name in zip(place, "ABC", strict=True))
    loss = show(float(f"{make_split_simplices()[chosen][split].loss[at].item():.5g}"))
    expect(figure.locator(".lmc-panel").first).to_have_attribute("aria-valuetext", f"{where}, loss {loss}")
    expect(figure.locator(".lmc-says")).to_contain_text(f"At {where} the loss of {chosen} is")


def test_it_opens_at_the_barycentre(triangle: Locator) -> None:
    expect_at(triangle, (2, 2, 2))


def test_drag(triangle: Locator, page: Page) -> None:
    at = pixel(triangle)
    page.mouse.move(*at(4, 1, 1))
    page.mouse.down()
    expect_at(triangle, (4, 1, 1))
    page.mouse.move(*at(1, 2.2, 2.8), steps=4)
    expect_at(triangle, (1, 2, 3))
    page.mouse.move(at(0, 0, 6)[0] + 40, at(0, 0, 6)[1] - 60, steps=4)
    expect_at(triangle, (0, 0, 6))
    page.mouse.up()
    page.mouse.move(*at(6, 0, 0))
    expect_at(triangle, (0, 0, 6))


def test_keys_in_the_triangle(triangle: Locator, page: Page) -> None:
    triangle.locator(".lmc-panel").first.focus()
    for key, place in (
        ("ArrowRight", (1, 3, 2)), ("ArrowLeft", (2, 2, 2)), ("ArrowUp", (1, 2, 3)), ("ArrowUp", (1, 1, 4)),
        ("ArrowDown", (1, 2, 3)), ("Home", (3, 0, 3)), ("ArrowDown", (3, 1, 2)), ("ArrowUp", (2, 1, 3)),
        ("End", (0, 3, 3)), ("PageUp", (0, 0, 6)), ("ArrowUp", (0, 0, 6)), ("PageDown", (3, 3, 0)),
        ("ArrowDown", (3, 3, 0)),
    ):  # fmt: skip
        page.keyboard.press(key)
        expect_at(triangle, place)


def test_the_walk_around_by_keys_and_mouse(triangle: Locator, page: Page) -> None:
    walk = triangle.locator(".lmc-panel").nth(1)
    walk.focus()
    for key, place in (("Home", (6, 0, 0)), ("ArrowRight", (5, 1, 0)), ("PageUp", (1, 5, 0)), ("End", (6, 0, 0))):
        page.keyboard.press(key)
        expect_at(triangle, place)
    page.keyboard.press("Home")
    box = walk.bounding_box()
    page.mouse.click(box["x"] + 36 + (box["width"] - 92) / 2, box["y"] + 80)
    expect_at(triangle, (0, 3, 3))
    expect(walk).to_have_attribute("aria-valuenow", "9")


def test_a_finger_drags_the_point_up_and_scrolls_beside_it(browser: Browser, tmp_path: Path) -> None:
    path = explore_simplex(make_split_simplices()).to_html(tmp_path / "figure.html")
    with browser.new_context(offline=True, has_touch=True, viewport={"width": 390, "height": 600}) as context:
        page = context.new_page()
        page.goto(path.as_uri())
        figure = page.locator(".lmc-figure")
        touch, at = context.new_cdp_session(page), pixel(figure)

        def swipe(*places: tuple[float, float]) -> None:
            for kind, (x, y) in zip(("touchStart", *["touchMove"] * (len(places) - 1)), places, strict=True):
                touch.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": [{"x": x, "y": y}]})
            touch.send("Input.dispatchTouchEvent", {"type": "touchEnd", "touchPoints": []})

        swipe(at(2, 2, 2), at(1.5, 1.5, 3), at(1, 1, 4))
        expect_at(figure, (1, 1, 4))
        assert page.evaluate("scrollY") == 0
        start = at(3, 3, 0)
        swipe(start, (start[0], start[1] - 40), (start[0], start[1] - 90), (start[0], start[1] - 140))
        page.wait_for_function("scrollY > 50")
        expect_at(figure, (1, 1, 4))


def test_methods_and_splits_switch(triangle: Locator) -> None:
    map_, walk = triangle.locator(".lmc-panel").all()
    peaks = {}
    for name in make_simplices():
        button = triangle.locator(f'button[data-method="{name}"]')
        button.click()
        expect(button).to_have_attribute("aria-pressed", "true")
        expect(triangle.locator("tr.lmc-chosen")).to_have_attribute("data-method", name)
        expect_at(triangle, (2, 2, 2), chosen=name)
        expect(triangle.locator(".lmc-strip")).to_contain_text(f"What {name} answers there")
        peaks[name] = sum(
            d != "" for d in map_.locator("g .lmc-shade").evaluate_all("ds => ds.map(d => d.getAttribute('d'))")[1:]
        )
    assert peaks["vanilla"] > peaks["weight"] > peaks["learned"]
    expect(walk.locator(".lmc-line")).to_have_count(3)
    triangle.get_by_role("radio", name="train").check()
    expect_at(triangle, (2, 2, 2), "train", "learned")


def test_save(triangle: Locator, page: Page) -> None:
    triangle.get_by_text("Save").click()
    with page.expect_download() as download:
        triangle.get_by_role("button", name="Numbers as CSV").click()
    rows = download.value.path().read_text(encoding="utf-8").splitlines()
    assert rows[0] == "method,split,A,B,C,loss,excess,accuracy"
    assert len(rows) == 1 + 3 * 2 * len(PLACES)
    triangle.get_by_text("Save").click()
    with page.expect_download() as download:
        triangle.get_by_role("button", name="Plots as SVG").click()
    assert "var(" not in download.value.path().read_text(encoding="utf-8")


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [360, 1280])
def test_it_fits_and_axe_finds_nothing(triangle: Locator, page: Page, scheme: str, width: int) -> None:
    page.set_viewport_size({"width": width, "height": 844})
    page.emulate_media(color_scheme=scheme)
    page.wait_for_function("document.querySelector('.lmc-panel').clientWidth < innerWidth")
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    for part in ("table", ".lmc-strip ul", ".lmc-plots", ".lmc-head"):
        box = triangle.locator(part).bounding_box()
        assert box["x"] >= 0 and box["x"] + box["width"] <= width, part
    assert all(one.bounding_box()["height"] >= 44 for one in triangle.locator("button[data-method]").all())
    results = Axe().run(page).response
    assert len(results["passes"]) > 10
    assert [v["id"] for v in results["violations"] if v["impact"] in ("serious", "critical")] == []


def test_without_scripts(browser: Browser, tmp_path: Path) -> None:
    path = explore_simplex(make_simplices()).to_html(tmp_path / "figure.html")
    with browser.new_context(offline=True, java_script_enabled=False) as context:
        page = context.new_page()
        page.goto(path.as_uri())
        assert page.locator(".lmc-figure img").bounding_box()["width"] > 300
        for name, simplex in make_simplices().items():
            expect(page.locator("tr", has_text=name)).to_contain_text(show(float(f"{simplex.barrier:.5g}")))
