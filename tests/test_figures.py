"""The interactive figures in a browser: a page of its own, every page of the built book, and live in JupyterLab."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import drivers
import nbformat
import pytest
from axe_playwright_python.sync_playwright import Axe
from conftest import HTML
from drivers import place_of, read
from playwright.sync_api import Browser, Locator, Page, expect
from test_explore import make_curves, make_splits, make_written

from lmc_utils.explore import explore
from lmc_utils.explore.figure import show
from lmc_utils.landscape.curve import Curve


class Troubles(list[str]):
    """Everything that a page says on its console as an error, and every request that leaves the disk."""

    def __init__(self, page: Page) -> None:
        page.on("console", lambda message: self.append(message.text) if message.type == "error" else None)
        page.on("pageerror", lambda error: self.append(str(error)))
        page.on("request", lambda request: self.append(request.url) if request.url.startswith("http") else None)


def expect_numbers(figure: Locator, at: int, curves: dict[str, Curve]) -> None:
    """The read-out at a place of the grid is what Python computed."""
    for method, curve in curves.items():
        expect(read(figure, method, "loss")).to_have_text(show(float(f"{curve.loss[at]:.5g}")))
        expect(read(figure, method, "excess")).to_have_text(show(float(f"{curve.excess[at]:.5g}")))
        expect(read(figure, method, "accuracy")).to_have_text(show(float(f"{curve.accuracy[at]:.5g}")))
        expect(read(figure, method, "barrier")).to_have_text(show(float(f"{curve.barrier:.5g}")))


@pytest.fixture
def troubles(page: Page) -> Iterator[Troubles]:
    found = Troubles(page)
    yield found
    assert found == [], "the page must stay silent and at home"


@pytest.fixture
def plain(page: Page, troubles: Troubles, tmp_path: Path) -> Locator:
    """A page with three methods on one split."""
    page.goto(explore(make_curves(), title="Three paths").to_html(tmp_path / "plain.html").as_uri())
    return page.locator(".lmc-figure")


@pytest.fixture
def split(page: Page, troubles: Troubles, tmp_path: Path) -> Locator:
    """A page with three methods on two splits."""
    page.goto(explore(make_splits()).to_html(tmp_path / "split.html").as_uri())
    return page.locator(".lmc-figure")


def test_slider(plain: Locator) -> None:
    slider = plain.locator("input[type=range]")
    for at in (0, 12, 24, 7):
        slider.fill(str(at))
        expect_numbers(plain, at, make_curves())
        loss = show(make_curves()["vanilla"].loss[at].item())
        expect(slider).to_have_attribute("aria-valuetext", f"λ = {round(at / 24, 3):g}, loss {loss}")


MEET = """figure => [...figure.querySelectorAll('.lmc-panel')].flatMap(panel => {
  const box = (node) => node.getBoundingClientRect();
  const meet = (a, b) => a.left < b.right && b.left < a.right && a.top < b.bottom && b.top < a.bottom;
  const handle = box(panel.querySelector('.lmc-handle'));
  return [...panel.querySelectorAll('text.lmc-tag')]
    .filter((text) => text.style.visibility !== 'hidden' && meet(box(text), handle))
    .map((text) => text.textContent);
})"""


def test_the_handle_covers_no_name(plain: Locator) -> None:
    slider, names = plain.locator("input[type=range]"), plain.locator("text.lmc-tag")
    assert names.filter(visible=True).count() == names.count() > 3, "it opens where no name is in the way"
    for at in range(25):
        slider.fill(str(at))
        assert plain.evaluate(MEET) == [], f"position {at}"


@pytest.mark.parametrize("target", ["input[type=range]", ".lmc-panel >> nth=0", ".lmc-panel >> nth=1"])
def test_keys(plain: Locator, page: Page, target: str) -> None:
    plain.locator(target).focus()
    for key, at in (
        ("Home", 0), ("ArrowLeft", 0), ("ArrowRight", 1), ("ArrowUp", 2), ("ArrowDown", 1), ("PageUp", 6),
        ("PageDown", 1), ("End", 24), ("ArrowRight", 24),
    ):  # fmt: skip
        page.keyboard.press(key)
        assert place_of(plain) == at, key
    expect_numbers(plain, 24, make_curves())


@pytest.mark.parametrize("panel", [0, 1])
def test_drag_in_a_plot(plain: Locator, page: Page, panel: int) -> None:
    box = plain.locator(".lmc-panel").nth(panel).bounding_box()
    left, right, y = box["x"] + 36, box["x"] + box["width"] - 14, box["y"] + box["height"] / 2
    page.mouse.move(left + 0.1 * (right - left), y)
    page.mouse.down()
    assert place_of(plain) == 2, "the marker jumps to the pointer, on the next measured lambda"
    page.mouse.move(left + 0.55 * (right - left), y + 10, steps=5)
    assert place_of(plain) == 13
    expect_numbers(plain, 13, make_curves())
    page.mouse.move(right + 300, y + 400, steps=5)
    assert place_of(plain) == 24, "the pointer is captured outside of the plot"
    page.mouse.up()
    page.mouse.move(left, y)
    assert place_of(plain) == 24, "let go"
    for svg in plain.locator(".lmc-panel").all():
        expect(svg).to_have_attribute("aria-valuenow", "1")


def test_a_click_on_a_name_in_a_plot_moves_the_marker_and_leaves_the_method(plain: Locator, page: Page) -> None:
    panel = plain.locator(".lmc-panel").first
    for name in ("weight matching", "activation matching"):
        box, plot = panel.locator(".lmc-tag", has_text=name).bounding_box(), panel.bounding_box()
        x = box["x"] + box["width"] / 2
        page.mouse.click(x, box["y"] + box["height"] / 2)
        assert place_of(plain) == round(24 * (x - plot["x"] - 36) / (plot["width"] - 50))
        expect(plain.locator("tr.lmc-chosen")).to_have_attribute("data-method", "vanilla")
        plain.locator("input[type=range]").fill("12")


def test_the_thumb_of_the_slider_stands_under_the_marker(plain: Locator, page: Page) -> None:
    slider, handle = plain.locator("input[type=range]"), plain.locator(".lmc-handle").first
    for width in (390, 1280):
        page.set_viewport_size({"width": width, "height": 844})
        page.wait_for_timeout(100)
        for at in (0, 7, 24):
            slider.fill(str(at))
            track, ring = slider.bounding_box(), handle.bounding_box()
            thumb = track["x"] + 10 + (track["width"] - 20) * at / 24
            assert thumb == pytest.approx(ring["x"] + ring["width"] / 2, abs=1)


@pytest.mark.parametrize("width", [390, 752])
@pytest.mark.parametrize("name", ["plain", "written"])
def test_the_height_stays_and_fits_a_screen(name: str, page: Page, width: int, request: pytest.FixtureRequest) -> None:
    page.set_viewport_size({"width": width, "height": 900})
    figure = request.getfixturevalue(name)
    heights = set()
    for at in range(25):
        figure.locator("input[type=range]").fill(str(at))
        heights.add(round(figure.bounding_box()["height"]))
    assert len(heights) == 1
    plot, says = (figure.locator(part).first.bounding_box() for part in (".lmc-panel", ".lmc-says"))
    if width == 752:
        assert heights.pop() <= 900
    else:
        assert says["y"] < plot["y"] + plot["height"] + 50, "what changes is read under what is dragged"


def test_finger_scrolls_or_drags(browser: Browser, tmp_path: Path) -> None:
    path = explore(make_curves()).to_html(tmp_path / "plain.html")
    with browser.new_context(offline=True, has_touch=True, viewport={"width": 390, "height": 600}) as context:
        page = context.new_page()
        page.goto(path.as_uri())
        figure = page.locator(".lmc-figure")
        slider, panel = figure.locator("input[type=range]"), figure.locator(".lmc-panel").first
        box = panel.bounding_box()
        touch = context.new_cdp_session(page)

        def swipe(*places: tuple[float, float]) -> None:
            for kind, (x, y) in zip(("touchStart", *["touchMove"] * (len(places) - 1)), places, strict=True):
                points = [{"x": box["x"] + x, "y": box["y"] + y}]
                touch.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": points})
            touch.send("Input.dispatchTouchEvent", {"type": "touchEnd", "touchPoints": []})

        swipe((60, 90), (120, 92), (200, 95), (36 + 0.75 * (box["width"] - 50), 95))
        expect(slider).to_have_value("18")  # a finger that goes sideways drags
        swipe((100, 180), (101, 150), (102, 110), (102, 60))
        page.wait_for_function("scrollY > 50")
        expect(slider).to_have_value("18")  # a finger that goes up scrolls the page


def test_toggle(plain: Locator) -> None:
    button = plain.locator('button[data-method="weight matching"]')
    lines = plain.locator(".lmc-panel >> nth=0").locator(".lmc-line")
    expect(button).to_have_attribute("aria-pressed", "true")
    expect(lines).to_have_count(3)
    button.click()
    expect(button).to_have_attribute("aria-pressed", "false")
    expect(lines).to_have_count(2)
    button.press("Enter")
    expect(button).to_have_attribute("aria-pressed", "true")
    expect(lines).to_have_count(3)
    assert min(button.bounding_box().values()) > 0
    assert all(one.bounding_box()["height"] >= 44 for one in plain.locator("button[data-method]").all())


def test_last_method_stays(plain: Locator) -> None:
    buttons = plain.locator("button[data-method]")
    for i in range(3):
        buttons.nth(i).click()
    expect(buttons.nth(2)).to_have_attribute("aria-pressed", "true")
    expect(plain.locator("[aria-live]")).to_contain_text("One method stays")


def test_chosen_method_has_the_bracket_and_the_answers(plain: Locator) -> None:
    expect(plain.locator("tr.lmc-chosen")).to_have_attribute("data-method", "vanilla")
    expect(plain.locator(".lmc-end").nth(1)).to_have_text("B")
    expect(plain.locator(".lmc-panel").first).to_contain_text(f"barrier {show(make_curves()['vanilla'].barrier)}")
    plain.locator('tr[data-method="weight matching"]').click()
    expect(plain.locator("tr.lmc-chosen")).to_have_attribute("data-method", "weight matching")
    expect(plain.get_by_role("radio", name="weight matching")).to_be_checked()
    expect(plain.locator(".lmc-end").nth(1)).to_have_text("π(B)")
    expect(plain.locator(".lmc-panel").first).to_contain_text("barrier 0.760")
    expect(plain.locator(".lmc-strip")).to_contain_text("What weight matching answers")
    plain.locator('button[data-method="weight matching"]').click()
    expect(plain.locator("tr.lmc-chosen")).to_have_attribute("data-method", "vanilla")


def test_answers_change_with_the_marker(plain: Locator) -> None:
    figure = explore(make_curves(), title="Three paths")
    state = json.loads(figure.state)
    (images,), vanilla = state["images"], state["curves"][0][0]
    cards = plain.locator(".lmc-strip li")
    expect(cards).to_have_count(len(images["truth"]))
    seen = set()
    for at in (0, 7, 12, 24):
        plain.locator("input[type=range]").fill(str(at))
        for i, truth in enumerate(images["truth"]):
            answer, sure = vanilla["answers"][at][i], vanilla["sure"][at][i]
            expect(cards.nth(i).locator(".lmc-truth")).to_have_text(images["classes"][truth])
            expect(cards.nth(i).locator(".lmc-answer")).to_have_text(
                f"{'✓✗'[answer != truth]}{images['classes'][answer]}"
            )
            assert int(cards.nth(i).locator(".lmc-sure").inner_text().rstrip(" %")) == pytest.approx(
                100 * sure, abs=0.51
            )
            seen.add(answer == truth)
    assert seen == {True, False}, "the test must see right and wrong answers"


@pytest.fixture
def written(page: Page, troubles: Troubles, tmp_path: Path) -> Locator:
    """A page with three methods of language models."""
    page.goto(explore(make_written()).to_html(tmp_path / "written.html").as_uri())
    return page.locator(".lmc-figure")


def test_text_changes_with_the_marker_and_the_method(written: Locator) -> None:
    text = written.locator(".lmc-text")
    for method in ("vanilla", "weight matching"):
        written.get_by_role("radio", name=method).check()
        expect(written.locator(".lmc-strip")).to_contain_text(f"What {method} writes at λ")
        seen = set()
        for at in (0, 7, 12, 24):
            written.locator("input[type=range]").fill(str(at))
            wanted = make_written()[method].texts[at]
            assert text.evaluate("node => node.textContent") == str(wanted)
            expect(text.locator("b")).to_have_text("KING.")
            seen.add(str(wanted))
        assert len(seen) > 1, "the test must see the text change"
    written.get_by_role("radio", name="activation matching").check()
    expect(written.locator(".lmc-strip")).to_have_text("What activation matching writes was not kept.")


def test_text_keeps_its_lines_and_its_place(written: Locator, page: Page) -> None:
    text, table = written.locator(".lmc-text"), written.locator("table")
    lines = [str(text).count("\n") for text in make_written()["vanilla"].texts]
    assert lines[0] > lines[5] > lines[8]
    seen = []
    for at in (0, 5, 8):
        written.locator("input[type=range]").fill(str(at))
        assert text.inner_text().count("\n") == lines[at]
        seen.append(table.bounding_box()["y"])
    assert seen[0] == seen[1] == seen[2], "fewer lines leave the numbers where they were"
    assert not text.evaluate("node => node.closest('[aria-live]')"), "a slider that moves would read it all"
    page.set_viewport_size({"width": 360, "height": 844})
    page.wait_for_function("document.documentElement.scrollWidth <= 360")


def test_improbable_tokens_are_washed(written: Locator) -> None:
    written.locator("input[type=range]").fill("12")
    nats = [-p.log().item() for p in make_written()["vanilla"].texts[12].probabilities]
    alphas = written.locator(".lmc-text span").evaluate_all(
        "all => all.map(node => +getComputedStyle(node).backgroundColor.match(/([\\d.]+)\\)$/)[1])"
    )
    assert alphas == pytest.approx([0.05 * round(min(9, x)) for x in nats], abs=0.01)
    assert max(alphas) > 2 * min(alphas)


def test_split(split: Locator) -> None:
    curves = make_splits()
    split.locator("input[type=range]").fill("12")
    for name in ("test", "train", "test"):
        split.get_by_role("radio", name=name, exact=True).check()
        expect_numbers(split, 12, {method: row[name] for method, row in curves.items()})
        expect(split.locator(".lmc-name").first).to_contain_text(f"{name.capitalize()} loss")


def test_live_text(plain: Locator) -> None:
    plain.locator("input[type=range]").fill("12")
    curve = make_curves()["vanilla"]
    loss, excess, accuracy = (show(values[12].item()) for values in (curve.loss, curve.excess, curve.accuracy))
    expect(plain.locator(".lmc-says")).to_have_text(
        f"At λ = 0.5 vanilla has a loss of {loss} nats, {excess} above the straight line, and an accuracy of "
        f"{accuracy}."
    )


def test_screen_readers_hear_of_a_move_once(plain: Locator, page: Page) -> None:
    slider, live = plain.locator("input[type=range]"), plain.locator("[aria-live=polite]")
    slider.press("Home")
    loss = show(make_curves()["vanilla"].loss[0].item())
    expect(slider).to_have_attribute("aria-valuetext", f"λ = 0, loss {loss}")
    page.wait_for_timeout(700)
    expect(live).to_be_empty()
    plain.get_by_role("radio", name="weight matching").check()
    expect(live).to_contain_text("At λ = 0 weight matching has a loss of")


def test_save(split: Locator, page: Page) -> None:
    split.get_by_text("Save").click()
    with page.expect_download() as download:
        split.get_by_role("button", name="Numbers as CSV").click()
    rows = download.value.path().read_text(encoding="utf-8").splitlines()
    assert rows[0] == "method,split,lambda,loss,excess,accuracy"
    assert len(rows) == 1 + 3 * 2 * 25
    assert rows[1 + 12].split(",")[3] == f"{make_splits()['vanilla']['test'].loss[12].item():.5g}"
    split.get_by_text("Save").click()
    with page.expect_download() as download:
        split.get_by_role("button", name="Plots as SVG").click()
    drawing = download.value.path()
    assert "var(" not in drawing.read_text(encoding="utf-8"), "a drawing alone has no style sheet"
    image = page.context.new_page()
    image.goto(drawing.rename(drawing.with_suffix(".svg")).as_uri())
    assert image.locator(".lmc-line").count() == 0 and image.locator("path").count() > 20


@pytest.mark.parametrize("width", [360, 390])
def test_phone(split: Locator, page: Page, width: int) -> None:
    page.set_viewport_size({"width": width, "height": 844})
    loss, accuracy = split.locator(".lmc-panel").all()
    page.wait_for_function("document.querySelector('.lmc-panel').clientWidth < innerWidth")
    assert loss.bounding_box()["y"] + loss.bounding_box()["height"] <= accuracy.bounding_box()["y"], "stacked"
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    for part in ("table", ".lmc-strip ul", ".lmc-body", ".lmc-head"):
        box = split.locator(part).bounding_box()
        assert box["x"] >= 0 and box["x"] + box["width"] <= width, part


@pytest.mark.parametrize("width", [390, 1280])
def test_labels_do_not_overlap(plain: Locator, page: Page, width: int) -> None:
    page.set_viewport_size({"width": width, "height": 844})
    page.wait_for_timeout(100)
    for panel in plain.locator(".lmc-panel").all():
        labels = panel.locator(".lmc-tag")
        expect(labels).to_have_count(3)
        boxes = [label.bounding_box() for label in labels.all()]
        for i, a in enumerate(boxes):
            for b in boxes[:i]:
                apart_x = a["x"] + a["width"] <= b["x"] + 1 or b["x"] + b["width"] <= a["x"] + 1
                apart_y = abs(a["y"] - b["y"]) >= 13  # the height of the letters, without the halo
                assert apart_x or apart_y


def lightness(page: Page, selector: str) -> float:
    color = page.locator(selector).first.evaluate("node => getComputedStyle(node).color")
    return sum(float(x) for x in color.strip("rgba()").split(",")[:3]) / 765


def test_follows_the_page(plain: Locator, page: Page) -> None:
    for system, theme, dark in (
        ("light", None, False), ("dark", None, True), ("dark", "light", False), ("light", "dark", True),
    ):  # fmt: skip
        page.emulate_media(color_scheme=system)
        page.evaluate("theme => theme ? document.documentElement.dataset.theme = theme : 0", theme)
        assert (lightness(page, ".lmc-figure") > 0.5) == dark, (system, theme)
    page.evaluate("delete document.documentElement.dataset.theme; document.body.dataset.jpThemeLight = 'false'")
    assert lightness(page, ".lmc-figure") > 0.5, "JupyterLab's dark theme"


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1280])
def test_axe(split: Locator, page: Page, scheme: str, width: int) -> None:
    expect_accessible(split, page, scheme, width)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_of_texts(written: Locator, page: Page, scheme: str) -> None:
    expect_accessible(written, page, scheme, 390)


def expect_accessible(figure: Locator, page: Page, scheme: str, width: int) -> None:
    page.set_viewport_size({"width": width, "height": 844})
    page.emulate_media(color_scheme=scheme)
    figure.locator('button[data-method="activation matching"]').click()
    figure.locator("input[type=range]").fill("12")
    figure.get_by_text("Save").click()
    page.wait_for_timeout(400)
    results = Axe().run(page).response
    assert len(results["passes"]) > 10, "axe did run"
    bad = [
        (v["id"], [n["html"] for n in v["nodes"]])
        for v in results["violations"]
        if v["impact"] in ("serious", "critical")
    ]
    assert bad == []


def test_without_scripts(browser: Browser, tmp_path: Path) -> None:
    path = explore(make_curves()).to_html(tmp_path / "plain.html")
    with browser.new_context(offline=True, java_script_enabled=False) as context:
        page = context.new_page()
        page.goto(path.as_uri())
        assert page.locator(".lmc-figure img").bounding_box()["width"] > 300
        for name, curve in make_curves().items():
            expect(page.locator("tr", has_text=name)).to_contain_text(show(curve.barrier))


def test_several_on_one_page(page: Page, troubles: Troubles, tmp_path: Path) -> None:
    one, two = explore(make_curves()), explore(make_splits())
    body = "".join(figure._repr_mimebundle_()[0]["text/html"] for figure in (one, two, one))
    path = tmp_path / "page.html"
    path.write_text(f"<!doctype html><meta charset=utf-8><title>three</title>{body}", encoding="utf-8")
    page.goto(path.as_uri())
    figures = page.locator(".lmc-figure")
    expect(figures).to_have_count(3)
    figures.nth(1).locator("input[type=range]").fill("20")
    figures.nth(2).locator("input[type=range]").fill("3")
    figures.nth(2).get_by_role("radio", name="weight matching").check()
    expect_numbers(figures.nth(0), 12, make_curves())  # it opens half way, where the difference is
    expect(figures.nth(0).get_by_role("radio", name="vanilla")).to_be_checked()
    expect_numbers(figures.nth(2), 3, make_curves())


# --- the built book

PAGES = sorted(path for path in HTML.glob("**/*.html") if "lmc-figure" in path.read_text(encoding="utf-8"))


def test_book_is_built() -> None:
    if not HTML.is_dir():
        reason = "the book is not built: run `make book` to test the figures on its pages"
        pytest.fail(reason) if os.environ.get("CI") else pytest.skip(reason)
    assert PAGES, f"no page under {HTML} has an interactive figure"


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.relative_to(HTML).as_posix())
def test_figures_of_the_book(page: Page, troubles: Troubles, path: Path) -> None:
    page.goto(path.as_uri())
    hosts = page.locator("[data-lmc]")
    assert hosts.count() > 0
    for host in hosts.all():
        figure, name = host.locator(".lmc-figure"), host.get_attribute("data-lmc")
        state: dict[str, Any] = json.loads(page.locator(f'[data-lmc-state="{name}"]').first.text_content())
        figure.scroll_into_view_if_needed()
        drivers.DRIVERS[figure.get_attribute("data-kind")](page, figure, state)
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")


# --- live

CURVES = """\
import torch
from lmc_utils.explore import explore
from lmc_utils.landscape.curve import Curve
lambdas = torch.linspace(0, 1, 11, dtype=torch.float64)
hill = 4 * lambdas * (1 - lambdas)
hills = {"vanilla": 1.5 * hill, "weight": 0.5 * hill}
figure = explore({name: Curve(lambdas, 0.4 + hill, 0.9 - 0.2 * hill) for name, hill in hills.items()})
figure
"""
NETWORKS = """\
import torch
import lmc_utils as lmc
from lmc_utils.networks.mlp import mlp
networks = []
for seed in range(3):
    torch.manual_seed(seed)
    networks.append(lmc.canonicalize(mlp([6, 5, 5, 3])))
a, b, c = networks
inputs = torch.randn(20, 6)
data = [(inputs, inputs.argmax(-1) // 2)]
"""
#: The kinds of figure that are tried live, each in a cell of its own.
LIVE = {
    "adder": """
import lmc_utils as lmc

a, b = (lmc.canonicalize(lmc.load_endpoint("adder", seed)) for seed in (0, 1))
figure = lmc.explore_adder(a, {"vanilla": b, "weight": lmc.weight_matching(a, b)(b)}, lmc.load_data("sums").test)
figure
""",
    "curves": CURVES,
    "symmetry": NETWORKS + 'figure = lmc.explore_symmetry(a, "ff.0", inputs, steps=4)\nfigure',
    "spec": NETWORKS + "figure = lmc.explore_spec(a)\nfigure",
    "matching": NETWORKS + "figure = lmc.explore_matching(a, b, lmc.weight_matching(a, b), data, steps=5)\nfigure",
    "plane": NETWORKS
    + "lines = {n: lmc.interpolate(a, x, data, points=5) for n, x in (('vanilla', b), ('learned', c))}\n"
    + "figure = lmc.explore_plane(lmc.interpolate_plane(networks, data, points=9), lines)\nfigure",
    "simplex": NETWORKS
    + "figure = lmc.explore_simplex({'vanilla': lmc.interpolate_simplex(networks, data, points=7)})\nfigure",
}


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[str]:
    """Address of a JupyterLab of its own, with a notebook for each kind of figure."""
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    for kind, code in LIVE.items():
        cells = [nbformat.v4.new_code_cell(code)]
        notebook = nbformat.v4.new_notebook(cells=cells, metadata={"kernelspec": kernel})
        nbformat.write(notebook, tmp_path / f"{kind}.ipynb")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    folders = {f"JUPYTER_{kind}_DIR": str(tmp_path / kind) for kind in ("CONFIG", "RUNTIME", "DATA")}
    command = [
        sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root", "--ip=127.0.0.1", f"--port={port}",
        "--ServerApp.port_retries=0", "--IdentityProvider.token=", "--expose-app-in-browser",
        f"--notebook-dir={tmp_path}",
    ]  # fmt: skip
    log = tmp_path / "lab.log"
    with log.open("w") as output:
        server = subprocess.Popen(command, env={**os.environ, **folders}, stdout=output, stderr=subprocess.STDOUT)
    try:
        end = time.monotonic() + 30
        while True:
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/api", timeout=2).close()
                break
            except OSError:
                if server.poll() is not None or time.monotonic() > end:
                    pytest.fail(f"JupyterLab did not start:\n{log.read_text()}")
                time.sleep(0.2)
        yield f"http://127.0.0.1:{port}"
    finally:
        server.terminate()  # its kernels go with it
        server.wait(timeout=20)


def test_live_in_jupyterlab(lab: str, browser: Browser) -> None:
    assert LIVE.keys() == drivers.DRIVERS.keys()
    with browser.new_context(viewport={"width": 1280, "height": 1000}) as context:
        context.route("**/*", lambda route: route.continue_() if route.request.url.startswith(lab) else route.abort())
        page = context.new_page()
        for kind, code in LIVE.items():
            page.goto(f"{lab}/lab/tree/{kind}.ipynb?reset")
            page.wait_for_selector(".jp-NotebookPanel .jp-Cell", timeout=30_000)
            page.wait_for_function(
                "window.jupyterapp?.shell.currentWidget?.sessionContext?.session?.kernel?.connectionStatus"
                " === 'connected'",
                timeout=30_000,
            )
            page.evaluate("window.jupyterapp.commands.execute('notebook:run-all-cells')")
            figure = page.locator(f'.jp-OutputArea .lmc-figure[data-kind="{kind}"]')
            figure.wait_for(timeout=60_000)
            assert page.locator("[data-lmc]").count() == 0, "the widget, not the page inside the bundle"
            here: dict[str, Any] = {}
            exec(code, here)  # the same figure, to know what it must say
            drivers.DRIVERS[kind](page, figure, json.loads(here["figure"].state))
            page.evaluate("window.jupyterapp.commands.execute('docmanager:save')")  # nothing asks when the page goes
