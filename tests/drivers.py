"""What a reader does with each kind of figure on a page of the book, and what it must say then: one function a kind."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from playwright.sync_api import Locator, Page, expect

from lmc_utils.explore.figure import show

FIELDS = ("loss", "excess", "accuracy", "barrier")


def read(figure: Locator, method: str, field: str) -> Locator:
    return figure.locator(f'tr[data-method="{method}"] [data-field={field}]')


def place_of(figure: Locator) -> int:
    return int(figure.locator("input[type=range]").input_value())


def drive_curves(page: Page, figure: Locator, state: dict[str, Any]) -> None:
    """Slider, drag in the plot, switch: the numbers are those of the state."""
    for at in (0, len(state["lambdas"]) // 2):
        figure.locator("input[type=range]").fill(str(at))
        for method, (curve, *_) in zip(state["methods"], state["curves"], strict=True):
            for field in FIELDS:
                value = curve[field] if field == "barrier" else curve[field][at]
                expect(read(figure, method["name"], field)).to_have_text(show(value))
    box = figure.locator(".lmc-panel").first.bounding_box()
    page.mouse.move(box["x"] + 36, box["y"] + 100)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] - 14, box["y"] + 100, steps=4)
    page.mouse.up()
    assert place_of(figure) == len(state["lambdas"]) - 1
    button = figure.locator("button[data-method]").last
    button.click()
    expect(button).to_have_attribute("aria-pressed", "false" if len(state["methods"]) > 1 else "true")


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


#: By the figure's ``data-kind``. A new kind of figure comes with its driver.
DRIVERS: dict[str, Callable[[Page, Locator, dict[str, Any]], None]] = {
    "curves": drive_curves,
    "simplex": drive_simplex,
}
