"""What a reader does with each kind of figure on a page of the book, and what it must say then: one function a kind."""

from __future__ import annotations

import base64
import io
import math
import re
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from PIL import Image
from playwright.sync_api import Locator, Page, expect

import lmc_utils as lmc
from lmc_utils.explore.figure import power, show
from lmc_utils.networks.base import BUILDERS
from lmc_utils.zoo.presets import PRESETS, shaped

FIELDS = ("loss", "excess", "accuracy", "barrier")


def read(figure: Locator, method: str, field: str) -> Locator:
    return figure.locator(f'tr[data-method="{method}"] [data-field={field}]')


def place_of(figure: Locator) -> int:
    return int(figure.locator("input[type=range]").input_value())


def drive_curves(page: Page, figure: Locator, state: dict[str, Any]) -> None:
    """Slider, drag in the plot, switch: numbers and text are those of the state."""
    for at in (0, len(state["lambdas"]) // 2):
        figure.locator("input[type=range]").fill(str(at))
        for method, (curve, *_) in zip(state["methods"], state["curves"], strict=True):
            for field in FIELDS:
                value = curve[field] if field == "barrier" else curve[field][at]
                expect(read(figure, method["name"], field)).to_have_text(show(value))
        if texts := state.get("texts"):
            chosen = figure.locator("tr.lmc-chosen").get_attribute("data-method")
            written = texts["written"][[method["name"] for method in state["methods"]].index(chosen)]
            said = figure.locator(".lmc-text").evaluate("node => node.textContent")
            assert said == texts["prompt"] + "".join(written["tokens"][at])
    box = figure.locator(".lmc-panel").first.bounding_box()
    page.mouse.move(box["x"] + 36, box["y"] + 100)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] - 14, box["y"] + 100, steps=4)
    page.mouse.up()
    assert place_of(figure) == len(state["lambdas"]) - 1
    button = figure.locator("button[data-method]").last
    button.click()
    expect(button).to_have_attribute("aria-pressed", "false" if len(state["methods"]) > 1 else "true")


def drive_symmetry(page: Page, figure: Locator, state: dict[str, Any]) -> None:
    """Slide by keys, switch: numbers and bars are those of the state; only what is no symmetry changes the answer."""
    slider, last = figure.locator("input[type=range]"), len(state["change"][0]) - 1
    for way, name in enumerate(state["ways"]):
        figure.get_by_role("radio", name=name, exact=True).check()
        for key, at in (("Home", 0), ("ArrowRight", 1), ("End", last)):
            slider.press(key)
            assert place_of(figure) == at
            row = figure.locator(f'tr[data-way="{name}"] td')
            expect(row).to_have_text([show(state["distance"][way][at]), power(state["change"][way][at])])
            percents = [f"{math.floor(100 * p + 0.5)} %" for p in state["answers"][way][at]]
            expect(figure.locator(".lmc-answers li > span:last-child")).to_have_text(percents)
        wrong = figure.locator("xpath=self::*[contains(@class, 'lmc-wrong')]")
        expect(wrong).to_have_count(int(state["change"][way][last] > 1e-6))


def probe_of(figure: Locator, state: dict[str, Any]) -> list[float]:
    """Where the probe stands on the plane."""
    plane, probe = (figure.locator(part).first.bounding_box() for part in (".lmc-map rect", ".lmc-map .lmc-probe"))
    u = (probe["x"] + probe["width"] / 2 - plane["x"]) / plane["width"]
    v = 1 - (probe["y"] + probe["height"] / 2 - plane["y"]) / plane["height"]
    return [axis[0] + share * (axis[-1] - axis[0]) for axis, share in ((state["x"], u), (state["y"], v))]


def drive_plane(page: Page, figure: Locator, state: dict[str, Any]) -> None:
    """Keys along both straight lines, then a click on a point of the grid: the losses are those of the state."""
    says = figure.locator(".lmc-says")
    for button, path in zip(figure.locator(".lmc-toggles button").all(), state["paths"], strict=True):
        button.click()
        for key, loss in (("Home", path["loss"][0]), ("End", path["loss"][-1])):
            figure.locator(".lmc-map").press(key)
            expect(says).to_contain_text(f"on the path {path['name']} is {show(loss)} nats")
            expect_answers(figure, state, path, 0 if key == "Home" else -1)
    box = figure.locator(".lmc-map rect").first.bounding_box()
    page.mouse.click(box["x"] + box["width"] - 1, box["y"] + 1)
    expect(says).to_contain_text(f"The loss here is {show(state['loss'][-1][-1])} nats")
    expect_answers(figure, state, state["ground"], -1)


def expect_answers(figure: Locator, state: dict[str, Any], network: dict[str, Any], at: int) -> None:
    """The strip of a plane shows what this network answers, where there are images."""
    if images := state["images"]:
        words = [images["classes"][answer] for answer in network["answers"][at]]
        expect(figure.locator(".lmc-strip .lmc-answer span:last-child")).to_have_text(words)


def drive_simplex(page: Page, figure: Locator, state: dict[str, Any]) -> None:
    """Keys to the corners and back, every method: the numbers are those of the state."""
    n, places = state["n"], state["places"]
    for chosen, method in enumerate(state["methods"]):
        figure.locator("button[data-method]").nth(chosen).click()
        expect(figure.locator("tr.lmc-chosen")).to_have_attribute("data-method", method["name"])
        figure.locator(".lmc-panel").first.focus()
        for key, place in (("PageUp", [0, 0, n]), ("PageDown", [n // 2, n - n // 2, 0]), ("Home", [n, 0, 0])):
            page.keyboard.press(key)
            at = places.index(place)
            for other, (surface, *_) in zip(state["methods"], state["surfaces"], strict=True):
                for field in FIELDS:
                    value = surface[field] if field == "barrier" else surface[field][at]
                    expect(read(figure, other["name"], field)).to_have_text(show(value))


@torch.no_grad()
def added(state: dict[str, Any], method: int, lam: float, question: tuple[int, int]) -> str:
    """What the network at this place of a path writes behind a question, from the weights in the page."""
    stock = lmc.canonicalize(BUILDERS["gpt2"](**shaped("gpt2", PRESETS["adder"].config, lmc.load_data("sums"))))
    weights = []
    for kept in (state["networks"][0], state["networks"][1 + method]):
        codes = torch.frombuffer(bytearray(base64.b64decode(kept["codes"])), dtype=torch.int8)
        parts = codes.split([math.prod(shape) for shape in state["shapes"].values()])
        weights.append(
            {
                name: (part * step).view(shape)
                for (name, shape), part, step in zip(state["shapes"].items(), parts, kept["steps"], strict=True)
            }
        )
    for w in weights:  # a stock module carries the head's bias where rounding must not reach
        w["head.weight"] = w["head.weight"] - w["head.weight"].mean(-1, keepdim=True)
    network = lmc.merge(*(replace(stock, params=w) for w in weights), lam)
    tokens = [
        int(letter) if letter.isdigit() else 10 + "+=".index(letter) for letter in "{:02}+{:02}=".format(*question)
    ]
    for _ in range(3):
        tokens.append(network(torch.tensor([tokens]))[0, -1].argmax().item())
    written = "".join("0123456789+="[token] for token in tokens[:-4:-1])
    return re.sub(r"^0{1,2}(?=\d)", "", written)


def drive_adder(page: Page, figure: Locator, state: dict[str, Any]) -> None:
    """Slider, drag, numbers that are typed: the page writes what the networks write here."""
    last = len(state["lambdas"]) - 1

    def expect_answers_at(at: int, first: tuple[int, int]) -> None:
        assert place_of(figure) == at
        for row, question in zip(figure.locator("tbody tr").all(), (first, *state["sums"][1:]), strict=True):
            for method in range(len(state["methods"])):
                said = added(state, method, state["lambdas"][at], question)
                verdict = "✓, right" if said == str(sum(question)) else "✗, wrong"
                expect(row.locator("td").nth(method)).to_have_text(said + verdict)

    for at in (0, last // 2):
        figure.locator("input[type=range]").fill(str(at))
        expect_answers_at(at, state["sums"][0])
    box = figure.locator(".lmc-panel").bounding_box()
    page.mouse.move(box["x"] + 40, box["y"] + 100)
    page.mouse.down()
    page.mouse.move(box["x"] + 0.7 * box["width"], box["y"] + 100, steps=4)
    page.mouse.up()
    first, second = figure.get_by_label("number").all()
    first.fill("7x")
    second.fill("94")
    expect(first).to_have_value("7")
    expect_answers_at(place_of(figure), (7, 94))
    page.keyboard.press("Tab")
    figure.locator(".lmc-panel").focus()
    page.keyboard.press("End")
    expect_answers_at(last, (7, 94))


def drive_matching(page: Page, figure: Locator, state: dict[str, Any]) -> None:
    """Slider, drag, keys: the numbers are those of the state, and each column holds the unit that is there by now."""
    last, n = len(state["placed"]) - 1, len(state["orders"][0])

    def expect_at(at: int) -> None:
        assert place_of(figure) == at
        said = figure.locator(".lmc-says")
        expect(said).to_contain_text(f"With {state['placed'][at]} of {n} units")
        expect(said).to_contain_text(f"is {show(state['excess'][at])} nats worse")
        expect(said).to_contain_text(f"correlate by {show(state['likeness'][at])} on")
        drawn = figure.locator("canvas").evaluate(
            "node => [...node.getContext('2d').getImageData(0, 0, node.width, node.height).data]"
        )
        whole = Image.open(io.BytesIO(base64.b64decode(state["image"].partition(",")[2]))).convert("RGBA")
        for row, column in ((0, 0), (0, n - 1), (n - 1, n // 2)):
            alpha = drawn[4 * (row * n + column) + 3]
            assert abs(alpha - whole.getpixel((state["orders"][at][column], row))[3]) <= 1

    for at in (0, last // 2):
        figure.locator("input[type=range]").fill(str(at))
        expect_at(at)
    box = figure.locator(".lmc-panel").bounding_box()
    page.mouse.move(box["x"] + 40, box["y"] + 100)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] - 14, box["y"] + 100, steps=4)
    page.mouse.up()
    expect_at(last)
    figure.locator(".lmc-panel").focus()
    page.keyboard.press("Home")
    expect_at(0)


def drive_spec(page: Page, figure: Locator, state: dict[str, Any]) -> None:
    """Every site on the page lights up what writes and reads it, every parameter its sites."""
    if "views" in state:
        state = {view["name"]: view for view in state["views"]}
    if "sites" not in state:  # of several networks the one that is chosen
        state = state[figure.get_by_label("network").input_value() if len(state) > 1 else next(iter(state))]
    for button in figure.locator("button[data-site]").all():
        button.click()
        expect(figure.locator("button[aria-pressed=true]")).to_have_count(1)
        site = button.get_attribute("data-site")
        expect(figure.locator("[aria-live]")).to_contain_text(f"{state['sites'][site]['size']} dimensions")
        for param in figure.locator("[data-param]").all():
            axes = state["params"][param.get_attribute("data-param")]["axes"]
            role = next(("reads" if dual else "writes" for _, own, dual in axes if own == site), "")
            expect(param.locator("i")).to_have_text(role)
    for param in figure.locator("[data-param]").all():
        param.click()
        axes = state["params"][param.get_attribute("data-param")]["axes"]
        expect(figure.locator("button[data-site].lmc-lit")).to_have_count(len([own for _, own, _ in axes if own]))


#: By the figure's ``data-kind``. A new kind of figure comes with its driver.
DRIVERS: dict[str, Callable[[Page, Locator, dict[str, Any]], None]] = {
    "adder": drive_adder,
    "curves": drive_curves,
    "matching": drive_matching,
    "plane": drive_plane,
    "simplex": drive_simplex,
    "spec": drive_spec,
    "symmetry": drive_symmetry,
}
