"""The picture of a type table in a browser."""

from __future__ import annotations

from pathlib import Path

import pytest
from axe_playwright_python.sync_playwright import Axe
from drivers import drive_spec
from playwright.sync_api import Browser, Locator, Page, expect
from test_figures import Troubles
from test_transformers import gpt2

import lmc_utils as lmc
from lmc_utils.explore import SpecFigure, explore_spec


@pytest.fixture(scope="module")
def drawn() -> SpecFigure:
    return explore_spec(lmc.canonicalize(gpt2()), title="GPT-2")


@pytest.fixture
def figure(page: Page, drawn: SpecFigure, tmp_path: Path) -> Locator:
    troubles = Troubles(page)
    page.goto(drawn.to_html(tmp_path / "spec.html").as_uri())
    yield page.locator(".lmc-figure")
    assert troubles == [], "the page must stay silent and at home"


def chosen(figure: Locator) -> str:
    return figure.locator("button[aria-pressed=true]").evaluate("node => node.dataset.site ?? node.dataset.param")


def lit(figure: Locator) -> list[str]:
    return figure.locator("[data-param].lmc-lit").evaluate_all("found => found.map(node => node.dataset.param)")


def test_every_site_and_parameter(page: Page, figure: Locator, drawn: SpecFigure) -> None:
    drive_spec(page, figure, drawn.data)


def test_keys_walk_with_one_stop_in_the_tab_order(page: Page, figure: Locator) -> None:
    expect(figure.locator(".lmc-spec button[tabindex='0']")).to_have_count(1)
    figure.locator(".lmc-spec button[tabindex='0']").focus()
    for key, at in (
        ("ArrowDown", "wte"), ("ArrowRight", "wpe"), ("ArrowUp", "wte"), ("Home", "r"), ("ArrowLeft", "r"),
        ("PageDown", "qk.0"), ("End", "head.bias"), ("ArrowDown", "head.bias"),
    ):  # fmt: skip
        page.keyboard.press(key)
        assert chosen(figure) == at, key
        expect(figure.locator(".lmc-spec button[tabindex='0']")).to_be_focused()


def test_pointing_shows_and_leaving_goes_back(page: Page, figure: Locator) -> None:
    figure.locator('[data-site="qk.0"].lmc-site').click()
    assert lit(figure) == ["0.q.weight", "0.k.weight", "0.q.bias"]
    figure.locator('[data-param="wpe"]').hover()
    assert chosen(figure) == "wpe"
    page.mouse.move(0, 0)
    assert chosen(figure) == "qk.0"
    figure.locator(".lmc-bus").first.click(position={"x": 7, "y": 60})
    assert chosen(figure) == "r"


def test_formula_of_a_parameter(figure: Locator) -> None:
    figure.locator('[data-param="0.proj.weight"]').click()
    expect(figure.locator(".lmc-formula")).to_have_text("Tr 0.proj.weight T−1ff.0")
    assert figure.locator(".lmc-formula sub").all_inner_texts() == ["r", "ff.0"]


@pytest.mark.parametrize("width", [360, 1280])
def test_nothing_moves_when_it_lights_up(page: Page, figure: Locator, width: int) -> None:
    page.set_viewport_size({"width": width, "height": 844})
    places = []
    for site in ("r", "qk.0", "ff.0"):
        figure.locator(f'[data-site="{site}"].lmc-site').click()
        places.append([node.bounding_box() for node in figure.locator(".lmc-spec button").all()])
    assert places[0] == places[1] == places[2]


def test_three_steps_tell_the_idea(figure: Locator) -> None:
    for name, at, text in (
        ("1 A space", "ff.0", "A site is a space of activations, with a map T. ff.0 has one map"),
        ("2 What writes it", "0.fc.weight", "What writes ff.0 is moved by its T. 0.fc.weight"),
        ("3 What reads it", "0.proj.weight", "What reads ff.0 takes T back, so the network computes what it did."),
    ):
        figure.get_by_role("button", name=name).click()
        assert chosen(figure) == at
        expect(figure.locator(".lmc-says")).to_contain_text(text)
        expect(figure.locator(f'[data-param="{at}"].lmc-lit' if at != "ff.0" else ".lmc-lit").first).to_be_visible()


def test_another_block(figure: Locator) -> None:
    figure.get_by_label("block").select_option("1")
    expect(figure.locator('[data-param="1.q.weight"]')).to_have_count(1)
    expect(figure.locator('[data-param="0.q.weight"]')).to_have_count(0)
    expect(figure.locator('[data-param="wte"]')).to_have_count(1)


def test_another_network(page: Page, tmp_path: Path, make_mlp) -> None:
    troubles = Troubles(page)
    drawn = explore_spec({"GPT-2": lmc.canonicalize(gpt2()), "MLP": make_mlp()})
    page.goto(drawn.to_html(tmp_path / "spec.html").as_uri())
    figure = page.locator(".lmc-figure")
    for name in ("MLP", "GPT-2", "MLP"):
        figure.get_by_label("network").select_option(name)
        drive_spec(page, figure, drawn.data)
        sites = drawn.data[name]["sites"].values()
        expect(figure.locator(".lmc-free b")).to_have_text(f"{sum(s['free'] for s in sites):,} free directions")
    expect(figure.get_by_label("block")).to_be_hidden()
    assert troubles == []


def test_save(page: Page, figure: Locator, drawn: SpecFigure) -> None:
    figure.get_by_text("Save").click()
    with page.expect_download() as download:
        figure.get_by_role("button", name="Table as CSV").click()
    lines = download.value.path().read_text(encoding="utf-8").splitlines()
    assert len(lines) == 1 + len(drawn.data["params"]) and lines[1].startswith("wte,_ r,")


@pytest.mark.parametrize("width", [360, 1280])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_phone_and_axe(page: Page, figure: Locator, width: int, scheme: str) -> None:
    page.set_viewport_size({"width": width, "height": 844})
    page.emulate_media(color_scheme=scheme)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert all(node.bounding_box()["height"] >= 44 for node in figure.locator(".lmc-spec button").all())
    for target in ('[data-site="heads.0"].lmc-site', '[data-param="0.q.weight"]'):
        figure.locator(target).click()
        grave = [v for v in Axe().run(page).response["violations"] if v["impact"] in ("serious", "critical")]
        assert not {v["id"]: [node["html"] for node in v["nodes"]] for v in grave}


def test_without_scripts(browser: Browser, drawn: SpecFigure, tmp_path: Path) -> None:
    path = drawn.to_html(tmp_path / "spec.html")
    with browser.new_context(offline=True, java_script_enabled=False) as context:
        page = context.new_page()
        page.goto(path.as_uri())
        assert page.locator(".lmc-figure img").bounding_box()["width"] > 300
        expect(page.locator("tr", has_text="0.k.weight")).to_contain_text("heads.0* qk.0* r*")
