"""The interactive figure, seen from Python: what goes into the page, and what is refused."""

from __future__ import annotations

import base64
import io
import json
import re
from dataclasses import replace

import numpy as np
import pytest
import torch
from matplotlib.colors import to_hex
from PIL import Image
from torch import Tensor

from lmc_utils.explore import Curves, explore, wrap
from lmc_utils.explore.figure import FOLDER, STATE_LIMIT, WIDGET_MIME, Figure, power, script, show, stylesheet
from lmc_utils.explore.strip import IMAGES
from lmc_utils.landscape.curve import Curve
from lmc_utils.landscape.evaluate import Examples
from lmc_utils.landscape.prompt import Text
from lmc_utils.style import style, styles

CLASSES = tuple(f"class {i}" for i in range(10))


def make_examples(excess: Tensor, channels: int = 1, side: int = 28, n: int = 64) -> Examples:
    """Answers that are right at both ends and go to a neighbouring class where the excess is high."""
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(n, channels, side, side, generator=generator)
    targets = torch.randint(10, (n,), generator=generator)
    wrong = (excess / 2).clamp(0, 0.9)[:, None, None] * torch.rand(n, 1, generator=generator)
    answers = torch.nn.functional.one_hot(torch.stack((targets, (targets + 1) % 10)), 10)
    return Examples(inputs, targets, ((1 - wrong) * answers[0] + wrong * answers[1]).float(), CLASSES)


def make_curve(height: float, *, low: float = 0.44, points: int = 25, camel: float = 0.0, images: bool = True) -> Curve:
    """A hill of the given height in nats over the line from ``low`` to ``low + 0.013``, with a dent in the middle."""
    lambdas = torch.linspace(0, 1, points, dtype=torch.float64)
    excess = height * 4 * lambdas * (1 - lambdas) * (1 - camel * torch.exp(-(((lambdas - 0.5) / 0.1) ** 2)))
    loss = low + 0.013 * lambdas + excess
    return Curve(lambdas, loss, 0.87 * torch.exp(-0.4 * excess), make_examples(excess) if images else None)


def make_curves() -> dict[str, Curve]:
    """Three methods, the first with two humps."""
    return {
        "vanilla": make_curve(1.6, camel=0.4),
        "weight matching": make_curve(0.76),
        "activation matching": make_curve(0.1234),
    }


def make_splits() -> dict[str, dict[str, Curve]]:
    """The same methods on two splits, with other images on the second."""
    train = {name: make_curve(1.3 * curve.barrier, low=0.31) for name, curve in make_curves().items()}
    return {name: {"test": curve, "train": train[name]} for name, curve in make_curves().items()}


def make_texts(excess: Tensor) -> tuple[Text, ...]:
    """Thirty tokens on six lines; the higher the excess, the more of them are others, and the less probable."""
    words = [f"\n<line> {i}," if i % 5 == 0 else f" word {i}" for i in range(30)]
    noise = torch.rand(30, generator=torch.Generator().manual_seed(0))
    return tuple(
        Text("KING.", tuple(w if r > x else f" x{i}" for i, (w, r) in enumerate(zip(words, noise, strict=True))),
             (0.7 * noise * (-2 * x).exp()).float())
        for x in excess
    )  # fmt: skip


def make_written() -> dict[str, Curve]:
    """Three methods of language models; what the last one writes was not kept."""
    curves = {name: replace(c, examples=None, texts=make_texts(c.excess / 2)) for name, c in make_curves().items()}
    return curves | {"activation matching": replace(curves["activation matching"], texts=None)}


@pytest.fixture
def figure() -> Curves:
    return explore(make_curves())


def test_data_are_the_curves(figure: Curves) -> None:
    for name, curve in make_curves().items():
        shown = figure.data["curves"][name]
        for field in ("loss", "excess", "accuracy"):
            np.testing.assert_allclose(shown[field], getattr(curve, field), rtol=5e-5, atol=1e-9)
        for field in ("barrier", "barrier_at", "accuracy_barrier"):
            assert shown[field] == pytest.approx(getattr(curve, field), rel=5e-5)
    np.testing.assert_allclose(figure.data["lambdas"], make_curves()["vanilla"].lambdas, rtol=5e-5)


def test_data_of_splits() -> None:
    curves = make_splits()
    shown = explore(curves).data["curves"]
    assert [list(row) for row in shown.values()] == [["test", "train"]] * 3
    assert shown["vanilla"]["train"]["barrier"] == pytest.approx(curves["vanilla"]["train"].barrier, rel=5e-5)


def test_order_survives_sorted_keys() -> None:
    names = ["weight matching", "vanilla", "activation matching"]
    figure = explore({name: make_curves()[name] for name in names})
    again = json.loads(json.dumps(json.loads(figure.state), sort_keys=True))
    assert [method["name"] for method in again["methods"]] == list(figure.data["curves"]) == names


def test_answers_and_images(figure: Curves) -> None:
    state, curves = json.loads(figure.state), make_curves()
    (images,) = state["images"]
    examples = curves["vanilla"].examples
    assert len(images["truth"]) == len(set(images["truth"])) == IMAGES, "eight images of different classes"
    assert "both ends recognise" in images["why"]
    sprite = Image.open(io.BytesIO(base64.b64decode(images["sprite"].split(",")[1])))
    assert (sprite.mode, sprite.size, sprite.getextrema()) == ("L", (28 * IMAGES, 28), (0, 255))
    for (shown,), curve in zip(state["curves"], curves.values(), strict=True):
        answers = np.array(shown["answers"])
        np.testing.assert_array_equal(answers[[0, -1]], [images["truth"]] * 2)  # both ends recognise them
        # every chosen sample is one of the examples, so its column of probabilities must be found there
        sure = curve.examples.probabilities.amax(-1).numpy()
        for column in np.array(shown["sure"]).T:
            assert np.abs(sure - column[:, None]).max(0).min() < 1e-3
    assert len(examples.targets) == 64


def test_images_change_most() -> None:
    curve = make_curves()["vanilla"]
    probabilities = curve.examples.probabilities.clone()
    targets = torch.arange(64) % 10
    probabilities[:] = torch.nn.functional.one_hot(targets, 10)
    probabilities[10, 33] = torch.eye(10)[5]  # only one sample, of class 3, ever changes
    curve = replace(curve, examples=replace(curve.examples, targets=targets, probabilities=probabilities))
    state = json.loads(explore({"vanilla": curve}).state)
    column = state["images"][0]["truth"].index(3)
    assert np.array(state["curves"][0][0]["answers"])[10, column] == 5


def test_images_without_recognition_say_so() -> None:
    curve = make_curves()["vanilla"]
    wrong = replace(curve.examples, targets=(curve.examples.targets + 5) % 10)
    (images,) = json.loads(explore({"vanilla": replace(curve, examples=wrong)}).state)["images"]
    assert "recognise" not in images["why"]


@pytest.mark.parametrize(
    ("channels", "side", "mode", "shown"), [(3, 32, "RGB", 32), (3, 224, "RGB", 32), (1, 8, "L", 8)]
)
def test_images_of_other_kinds(channels: int, side: int, mode: str, shown: int) -> None:
    curve = make_curve(1.6)
    examples = make_examples(curve.excess, channels, side)
    (images,) = json.loads(explore({"vanilla": replace(curve, examples=examples)}).state)["images"]
    sprite = Image.open(io.BytesIO(base64.b64decode(images["sprite"].split(",")[1])))
    assert (sprite.mode, sprite.size) == (mode, (shown * IMAGES, shown))


def test_curves_without_images_have_no_strip() -> None:
    tokens = make_curves()["vanilla"]
    tokens = replace(tokens, examples=replace(tokens.examples, inputs=torch.zeros(64, 128, dtype=torch.int64)))
    for curve in (make_curve(1.0, images=False), tokens):
        state = json.loads(explore({"vanilla": curve}).state)
        assert state["images"] == [None]
        assert "answers" not in state["curves"][0][0]


def test_texts() -> None:
    figure, curves = explore(make_written()), make_written()
    shown = json.loads(figure.state)["texts"]
    assert shown["prompt"] == "KING."
    assert shown["written"][2] is None
    for by, curve in zip(shown["written"][:2], curves.values(), strict=False):
        for text, tokens, nats in zip(curve.texts, by["tokens"], by["nats"], strict=True):
            assert tuple(tokens) == text.tokens
            exact = -text.probabilities.log().numpy()
            np.testing.assert_allclose([int(x) for x in nats], exact.clip(max=9), atol=0.5)
    assert figure.data["texts"] == {
        name: ["".join(text.tokens) for text in curve.texts] for name, curve in curves.items() if curve.texts
    }
    assert json.loads(explore(make_curves()).state)["texts"] is None


def test_texts_are_taken_once_for_all_splits() -> None:
    rows = {name: {"test": curve, "train": replace(curve, texts=None)} for name, curve in make_written().items()}
    assert json.loads(explore(rows).state)["texts"] == json.loads(explore(make_written()).state)["texts"]


def test_texts_must_have_one_prompt() -> None:
    curves = make_written()
    other = tuple(replace(text, prompt="QUEEN.") for text in curves["weight matching"].texts)
    curves["weight matching"] = replace(curves["weight matching"], texts=other)
    with pytest.raises(ValueError, match=r"'vanilla' starts from 'KING\.', but 'weight matching' from 'QUEEN\.'"):
        explore(curves)


def test_sizes() -> None:
    figure = explore(make_splits())
    assert len(figure.state.encode()) < STATE_LIMIT / 2
    assert len(figure._fragment().encode()) < 150_000
    (text,) = make_texts(torch.ones(1))
    text = replace(text, tokens=text.tokens * 2, probabilities=text.probabilities.repeat(2))
    long = replace(make_curve(1.0, images=False), texts=(text,) * 25)
    assert len(explore({f"method {i}": long for i in range(3)}).state.encode()) < STATE_LIMIT / 2, "sixty tokens"
    with pytest.raises(ValueError, match="more than 150 kB"):
        explore({f"method {i}": make_curve(1.0, points=1001) for i in range(8)})


KINDS = [file.stem for file in FOLDER.glob("*.js") if file.stem != "shared"]


@pytest.mark.parametrize("kind", KINDS)
def test_script_of_a_kind(kind: str) -> None:
    code = script(kind) + stylesheet(kind)
    assert len(code.encode()) < 45_000, "a page carries it with every figure"
    assert not re.search(r"^\s*import\b|\bimport\(|https?://(?!www\.w3\.org/2000/svg)", code, re.M)


def test_an_old_figure_is_wrapped_anew_from_its_state(figure: Curves) -> None:
    assert wrap(figure.state) == figure._fragment()
    with pytest.raises(ValueError, match=r"no figure of kind 'pie'; there are .*'curves'"):
        wrap('{"kind": "pie"}')


def test_same_curves_same_page(figure: Curves) -> None:
    again = explore(make_curves())
    assert again._fragment() == figure._fragment()
    assert explore(make_curves(), title="another")._fragment() != figure._fragment()


def test_names_cannot_leave_the_script() -> None:
    evil = "</script><script>alert(1)</script><!--<b>"
    page = explore({evil: make_curves()["vanilla"]}, title=evil)._fragment()
    assert evil not in page
    assert page.count("</script>") == 3, "the state, the module and the call that starts it"
    inert = re.search(r'<script type="application/json" [^>]*>(.*?)</script>', page, re.S)[1]
    assert json.loads(inert)["title"] == evil


def test_bundle_has_widget_page_and_fallback(figure: Curves) -> None:
    data, metadata = figure._repr_mimebundle_()
    assert data["text/plain"] == repr(figure) == figure.summary
    assert "vanilla, weight matching, activation matching" in figure.summary
    assert data[WIDGET_MIME]["model_id"] == figure.model_id
    assert metadata == {}, "anywidget has none outside Colab"
    fallback = data["text/html"].split("<script")[0]
    assert "data:image/svg+xml;base64," in fallback
    for name, shown in figure.data["curves"].items():
        assert f'<th scope="row">{name}</th>' in fallback
        assert f"<td>{show(shown['barrier'])}</td>" in fallback


def test_static_twin_draws_every_method() -> None:
    loss, accuracy = explore(make_splits(), title="both").static().axes
    for axes, field in ((loss, "loss"), (accuracy, "accuracy")):
        lines = {to_hex(line.get_color()): line for line in axes.lines if len(line.get_xdata()) == 25}
        for name, row in make_splits().items():
            np.testing.assert_allclose(
                lines[style(name).color.lower()].get_ydata(), getattr(row["test"], field), rtol=5e-5
            )
    said = [text.get_text() for text in loss.texts]
    assert sorted(said) == sorted(f"{name}: barrier {show(row['test'].barrier)}" for name, row in make_splits().items())
    assert loss.get_title(loc="left") == "test loss (nats)"


def test_to_html(figure: Curves, tmp_path) -> None:
    path = figure.to_html(tmp_path / "figure.html")
    page = path.read_text(encoding="utf-8")
    assert page.startswith("<!doctype html>")
    assert figure._fragment() in page
    assert [file.name for file in tmp_path.iterdir()] == ["figure.html"], "nothing is left over"
    with pytest.raises(FileNotFoundError, match="there is no folder"):
        figure.to_html(tmp_path / "nowhere" / "figure.html")


def curve_with(field: str, value: float) -> Curve:
    curve = make_curves()["vanilla"]
    values = getattr(curve, field).clone()
    values[12] = value
    return replace(curve, **{field: values})


@pytest.mark.parametrize(
    ("curves", "error", "message"),
    [
        ({}, ValueError, "at least one Curve"),
        ({"vanilla": {}}, ValueError, "'vanilla' comes without a Curve"),
        ({"vanilla": [1, 2]}, TypeError, "'vanilla': expected a Curve.*got list"),
        ({"a": make_curve(1), "b": make_curve(1, points=11)}, ValueError, "'b' has 11 points, 'a' 25"),
        ({"a": dict.fromkeys(("x", "y"), make_curve(1)), "b": {"x": make_curve(1)}}, ValueError, "has x, but not 'y'"),
        ({"a": {"test": make_curve(1)}, "b": make_curve(1)}, ValueError, "same splits"),
        ({"vanilla": curve_with("loss", float("nan"))}, ValueError, "loss of 'vanilla' is not finite at lambda = 0.5"),
        ({"vanilla": {"train": curve_with("accuracy", float("inf"))}}, ValueError, "accuracy of 'vanilla' on 'train'"),
    ],
)  # fmt: skip
def test_errors(curves: dict, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        explore(curves)


def test_examples_must_be_the_same_samples() -> None:
    curves = make_curves()
    other = replace(curves["weight matching"].examples, targets=curves["vanilla"].examples.targets.flip(0))
    curves["weight matching"] = replace(curves["weight matching"], examples=other)
    with pytest.raises(ValueError, match="'vanilla' and 'weight matching' saw different examples"):
        explore(curves)


@pytest.mark.parametrize(
    ("number", "text"),
    [(0, "0"), (1.4331, "1.43"), (0.8125, "0.813"), (12.345, "12.3"), (123.4, "123"), (0.0111, "0.0111"),
     (0.000071, "0.00007"), (0.0000012, "0"), (-0.08681, "−0.0868"), (0.99999, "1.000")],
)  # fmt: skip
def test_show(number: float, text: str) -> None:
    assert show(number) == text


@pytest.mark.parametrize(
    ("number", "text"),
    [(0, "0"), (14.23, "14.2"), (0.0001, "0.00010"), (3.4e-14, "3·10⁻¹⁴"), (9.96e-5, "1·10⁻⁴"), (-2e-9, "−2·10⁻⁹")],
)  # fmt: skip
def test_power(number: float, text: str) -> None:
    assert power(number) == text


def test_styles_are_told_apart_with_and_without_colour() -> None:
    methods = ["vanilla", "activation matching", "weight matching", "learned", "permutations only"]
    names = methods + [f"{name} + REPAIR" for name in methods]
    looks = styles(names)
    assert len({look.color for look in looks.values()}) == 5
    assert len({look.dash for look in looks.values()}) == 10
    assert (
        style("Weight Matching") == style("weight matching") and style("learned, permutations only").color == "#B85C93"
    )
    twins = styles(["weight matching, width 64", "weight matching, width 512"])
    assert len(set(twins.values())) == 2 and len({look.color for look in twins.values()}) == 1
    assert style("something else") == style("something else") != style("yet another")


def contrast(color: str, paper: str) -> float:
    def luminance(color: str) -> float:
        parts = (int(color[i : i + 2], 16) / 255 for i in (1, 3, 5))
        red, green, blue = (x / 12.92 if x <= 0.04045 else ((x + 0.055) / 1.055) ** 2.4 for x in parts)
        return 0.2126 * red + 0.7152 * green + 0.0722 * blue

    low, high = sorted((luminance(color), luminance(paper)))
    return (high + 0.05) / (low + 0.05)


def test_styles_have_contrast() -> None:
    for name in ("vanilla", "activation", "weight", "learned", "permutations only", "other 1", "other 2", "other 3"):
        look = style(name)
        assert contrast(look.color, "#ffffff") >= 3 and contrast(look.dark, "#14181e") >= 3, name


def test_state_refuses_nan() -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        type("Kind", (Figure,), {"kind": "curves"})({"x": float("nan")})
