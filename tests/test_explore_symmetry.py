"""The figure of a walk inside one class, seen from Python: the numbers are the network's, and mistakes are named."""

from __future__ import annotations

import base64
import io
import json
import re
from dataclasses import replace
from functools import cache

import pytest
import torch
from PIL import Image

import lmc_utils as lmc
from lmc_utils.explore import Walk
from lmc_utils.explore.figure import STATE_LIMIT, power, script, show
from lmc_utils.explore.symmetry import BLOCK
from lmc_utils.networks.gpt2 import gpt2
from lmc_utils.networks.vit import vit

DATA = lmc.load_data("shakespeare")
TOKENS = DATA.test.inputs[:4, :6]


@cache
def make_language_model() -> lmc.Network:
    torch.manual_seed(0)
    config = {"n_embd": 12, "n_layer": 1, "n_head": 3, "n_inner": 16, "n_positions": 10, "vocab_size": 1024}
    config["initializer_range"] = 0.3  # or attention would hardly look
    return lmc.canonicalize(gpt2(**config).double())


@pytest.fixture(scope="module")
def language_model() -> lmc.Network:
    return make_language_model()


@pytest.fixture(scope="module")
def classifier() -> lmc.Network:
    torch.manual_seed(0)
    config = {"img_size": 8, "patch_size": 4, "in_chans": 1, "num_classes": 12, "embed_dim": 12, "depth": 1}
    return lmc.canonicalize(vit(**config, num_heads=3).double())


def make_walk(network: lmc.Network, site: str, **options) -> Walk:
    return lmc.explore_symmetry(network, site, TOKENS, tokenizer=DATA.tokenizer, steps=4, **options)


@pytest.mark.parametrize("site", ["r", "heads.0", "qk.0", "ov.0", "ff.0"])
def test_the_symmetry_moves_weights_and_nothing_else(language_model, site):
    ways = make_walk(language_model, site).data["ways"]
    assert ways["symmetry"]["distance"][0] == ways["symmetry"]["change"][0] == 0
    assert ways["symmetry"]["distance"][-1] > 0.01 and max(ways["symmetry"]["change"]) < 1e-10
    assert ways["writers only"]["change"][0] == 0 and max(ways["writers only"]["change"]) > 1e-3


@pytest.mark.parametrize("allow", ["permutation", "orthogonal", "invertible"])
def test_the_numbers_are_those_of_the_walk(language_model, allow):
    data = make_walk(language_model, "qk.0", allow=allow, seed=7).data
    spec, inputs = language_model.spec.restrict(allow), TOKENS
    element = spec.sites["qk.0"].symmetry.walk(4, torch.Generator().manual_seed(7), 4, batch=(3,))[3]
    g = replace(spec.identity(), maps=spec.identity().maps | {"qk.0": element})

    def vector(network: lmc.Network) -> torch.Tensor:
        return torch.nn.utils.parameters_to_vector(network.params.values())

    moved = (vector(g(language_model)) - vector(language_model)).norm() / vector(language_model).norm()
    assert data["t"] == [0, 0.25, 0.5, 0.75, 1]
    assert data["ways"]["symmetry"]["distance"][3] == pytest.approx(moved.item(), rel=1e-3)
    only = {**language_model.params, "0.q.weight": g(language_model).params["0.q.weight"]}
    only["0.q.bias"] = g(language_model).params["0.q.bias"]
    with torch.no_grad():
        change = (replace(language_model, params=only)(inputs) - language_model(inputs)).abs().max().item()
    assert data["ways"]["writers only"]["change"][3] == pytest.approx(change, rel=1e-3)


def test_single_precision_is_lifted(language_model):
    half = make_walk(language_model.to(torch.float32), "r").data["ways"]["symmetry"]
    assert max(half["change"]) < 1e-10


def test_answers_and_text(language_model):
    state = json.loads(make_walk(language_model, "r").state)
    assert state["prompt"] == DATA.tokenizer.decode(TOKENS[0].tolist())
    tokens = TOKENS[:1]
    with torch.no_grad():
        now = language_model(tokens)[0, -1].softmax(-1)
        while tokens.shape[1] < 10:  # no more fits the context
            tokens = torch.cat([tokens, language_model(tokens)[:, -1:].argmax(-1)], 1)
    written, others = state["texts"]
    assert written == [DATA.tokenizer.decode(tokens[0, 6:].tolist())] * 5
    assert others[0] == written[0] and len(set(others)) > 1
    likeliest, first = state["answers"][0][0], now.topk(5)
    assert likeliest == sorted(likeliest, reverse=True) and likeliest[0] == pytest.approx(now.max().item(), abs=1e-4)
    labels = [DATA.tokenizer.decode([i]).replace(" ", "␣").replace("\n", "⏎") for i in first.indices.tolist()]
    assert set(labels) <= set(state["labels"]) and len(state["labels"]) == 10
    assert state["answers"][0] == [likeliest] * 5


def test_images_are_classified(classifier):
    inputs, classes = torch.randn(3, 1, 8, 8), tuple(f"class {i}" for i in range(12))
    state = json.loads(lmc.explore_symmetry(classifier, "ov.0", inputs, classes=classes, steps=2).state)
    assert state["texts"] == [] and set(state["labels"]) < set(classes)
    assert state["picture"].startswith("data:image/png;base64,")
    with torch.no_grad():
        best = classifier(inputs[:1].double()).argmax().item()
    assert state["labels"][0] == classes[best]


def test_blocks_are_the_weights(language_model):
    writer, reader = json.loads(make_walk(language_model, "qk.0").state)["blocks"]
    assert (writer["name"], reader["name"]) == (
        "what writes queries and keys: 0.q.weight",
        "what reads queries and keys: 0.k.weight",
    )
    # writers alone move as they do in the symmetry, and readers stay: equal frames are stored once
    assert writer["frames"] == [[0, 1, 2, 3, 4]] * 2 and writer["count"] == 5
    assert reader["frames"] == [[0, 1, 2, 3, 4], [0] * 5]
    assert "33.333%" in writer["style"], "lines between three heads"
    for block, shown in ((writer, language_model.params["0.q.weight"]), (reader, language_model.params["0.k.weight"])):
        source = re.search(r"base64,([^)]*)\)", block["style"])[1]
        image = Image.open(io.BytesIO(base64.b64decode(source)))
        assert image.size == (12, 60)
        levels = torch.frombuffer(bytearray(image.tobytes()), dtype=torch.uint8).view(60, 12)[:12].double() - 7
        weights = shown.flatten(0, 1) if block is writer else shown.flatten(0, 1).mT
        scale = 3 * weights.square().mean().sqrt()
        assert (levels / 7 - (weights / scale).clamp(-1, 1)).abs().max() < 0.5 / 7 + 1e-6


def test_large_matrices_show_a_corner(language_model):
    (block,) = json.loads(make_walk(language_model, "r", parameters=["wte"]).state)["blocks"]
    assert block["style"].startswith(f"aspect-ratio:{BLOCK}/12;")


def test_one_may_bring_another_mistake(language_model):
    def halve(network: lmc.Network, time: float) -> lmc.Network:
        return replace(network, params={name: p * (1 - time / 2) for name, p in network.params.items()})

    figure = make_walk(language_model, "r", wrong={"halved": halve})
    assert list(figure.data["ways"]) == ["symmetry", "writers only", "halved"]
    assert figure.data["ways"]["halved"]["distance"] == [0, 0.125, 0.25, 0.375, 0.5]
    header, rows = figure.table()
    assert len(header) == 3
    assert rows[2] == ["halved", "0.500", power(figure.data["ways"]["halved"]["change"][-1])]
    with pytest.raises(ValueError, match=r"'blown up' gives logits that are not finite at time 0\.25"):
        make_walk(
            language_model,
            "r",
            wrong={
                "blown up": lambda net, time: replace(
                    net, params=net.params | {"wte": net.params["wte"] + 1e200 * time}
                )
            },
        )


def test_the_same_walk_gives_the_same_page(language_model, tmp_path):
    one, two, other = (make_walk(language_model, "r", seed=seed) for seed in (0, 0, 1))
    assert json.loads(one.state)["blocks"] == json.loads(two.state)["blocks"] != json.loads(other.state)["blocks"]
    assert one.data["ways"]["symmetry"]["distance"] == two.data["ways"]["symmetry"]["distance"]
    assert len(one.state.encode()) < STATE_LIMIT / 2
    data, _ = one._repr_mimebundle_()
    assert data["text/plain"] == one.summary and not re.search(r"\d", one.summary)
    assert show(one.data["ways"]["symmetry"]["distance"][-1]) in data["text/html"].split("<script")[0]
    assert one.to_html(tmp_path / "walk.html").exists()
    assert not re.search(r"^\s*import\b|\bimport\(", script("symmetry"), re.M)


def test_static_twin(language_model):
    figure = make_walk(language_model, "r", title="a_title")
    changes, answers = figure.static().axes
    assert [len(line.get_xdata()) for line in changes.lines] == [4, 4]
    assert list(changes.lines[1].get_ydata()) == figure.data["ways"]["writers only"]["change"][1:]
    assert len(answers.patches) == 3 * 10


@pytest.mark.parametrize(
    ("site", "options", "message"),
    [
        ("ff.7", {}, r"no site 'ff.7'; the sites are \['r', "),
        ("r", {"parameters": ["nothing"]}, r"\['nothing'\] do not touch the site; those that do are \['wte', "),
        ("r", {"steps": 0}, "steps must be at least 1, not 0"),
        ("r", {"allow": "everything"}, "allow must be one of"),
    ],
)
def test_mistakes(language_model, site, options, message):
    with pytest.raises(ValueError, match=message):
        lmc.explore_symmetry(language_model, site, TOKENS, **options)
    with pytest.raises(ValueError, match=r"at least one input is needed, but inputs have the shape \(0, 6\)"):
        lmc.explore_symmetry(language_model, "r", TOKENS[:0])


def test_pictures_have_no_tokens(classifier):
    with pytest.raises(ValueError, match="this network reads no tokens"):
        lmc.explore_symmetry(classifier, "r", torch.randn(1, 1, 8, 8), tokenizer=DATA.tokenizer)
