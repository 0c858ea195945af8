"""What a call refuses: each wrong argument ends in one line that names it, before the work."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial

import pytest
import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel

import lmc_utils as lmc
from lmc_utils.data import ASSETS, TOKENIZER, Batches, load_data, load_table
from lmc_utils.landscape.simplex import lattice
from lmc_utils.networks.gpt2 import gpt2
from lmc_utils.networks.mlp import mlp
from lmc_utils.style import style
from lmc_utils.zoo.presets import augmentation, shaped

NAN, INF = float("nan"), float("inf")


def network(seed: int = 0, widths: tuple[int, ...] = (4, 5, 6, 3)) -> lmc.Network:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return lmc.canonicalize(mlp(widths).double())


def language_model(seed: int = 0, words: int = 1024) -> lmc.Network:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return lmc.canonicalize(gpt2(n_layer=1, n_embd=8, n_head=2, n_inner=16, n_positions=8, vocab_size=words))


A, B, C = map(network, range(3))
LOUD = lmc.Network(A.architecture, {name: torch.full_like(p, 1e200) for name, p in A.params.items()})
X = torch.randn(6, 4, generator=torch.Generator().manual_seed(0))
Y = torch.tensor([0, 1, 2, 0, 1, 2])
DATA = Batches(X, Y, 4)
GPT = language_model()
TOKENS = [(torch.arange(8).view(2, 4), torch.arange(8).view(2, 4))]
SHIPPED = Tokenizer.from_file(str(ASSETS / TOKENIZER))
GAPS = Tokenizer(WordLevel({"a": 0, "b": 5000}))  # two tokens, the larger number beyond the network's vocabulary
CURVE, OTHER = (lmc.interpolate(A, x, DATA, points=3) for x in (B, C))
PLANE = lmc.interpolate_plane([A, B, C], DATA, points=3)
SIMPLEX = lmc.interpolate_simplex([A, B, C], DATA, points=4)
IMAGES, PLAYS = (load_data(name) for name in ("digits", "shakespeare"))
ADDER, SUMS = lmc.canonicalize(lmc.load_endpoint("adder")), load_data("sums").test.take(20)


def once() -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Data that can be gone through only once."""
    yield from DATA


CASES: dict[str, tuple[Callable[[], object], type[Exception], str]] = {
    # evaluate
    "evaluate: nothing": (lambda: lmc.evaluate(None, DATA), TypeError, "must be a network or a function, not None"),
    "evaluate: no batches": (lambda: lmc.evaluate(A, 5), TypeError, "batches must be minibatches .* not 5"),
    "evaluate: a text": (lambda: lmc.evaluate(A, "ab"), TypeError, "batches must be minibatches .* not 'ab'"),
    "evaluate: triples": (lambda: lmc.evaluate(A, [(X, Y, Y)]), TypeError, "must be a pair .*, but number 0 is"),
    "evaluate: lists": (
        lambda: lmc.evaluate(A, [(X, [0] * 6)]), TypeError, "the targets of a minibatch must be a Tensor"),
    "evaluate: no inputs": (
        lambda: lmc.evaluate(A, [(None, Y)]), TypeError, "the inputs of a minibatch must be a Tensor"),
    "evaluate: a half batch": (
        lambda: lmc.evaluate(A, [(X[:0], Y)]), ValueError, "minibatch 0 must have as many inputs as targets"),
    "evaluate: target -100": (
        lambda: lmc.evaluate(A, [(X, torch.full((6,), -100))]), ValueError, "class numbers from 0 to 2, .* is -100"),
    "evaluate: target too large": (lambda: lmc.evaluate(A, [(X, Y + 1)]), ValueError, "from 0 to 2, but there is 3"),
    "evaluate: float targets": (
        lambda: lmc.evaluate(A, [(X, Y.float())]), ValueError, "of dtype int64, not torch.float32"),
    "evaluate: one-column targets": (lambda: lmc.evaluate(A, [(X, Y[:, None])]), ValueError, r"not \(6, 1\)"),
    "evaluate: wide inputs": (lambda: lmc.evaluate(A, [(X.repeat(1, 2), Y)]), ValueError, r"cannot read .* \(6, 8\)"),
    "evaluate: strange tokens": (
        lambda: lmc.evaluate(GPT, [(TOKENS[0][0] + 2000, TOKENS[0][1])]), ValueError, "cannot read these inputs"),
    "evaluate: NaN weights": (
        lambda: lmc.evaluate(lambda x: x[:, :3] * NAN, DATA), ValueError, "its loss is nan"),
    "evaluate: an answer of words": (
        lambda: lmc.evaluate(lambda x: "a", DATA), TypeError, "network answers.* not a str"),
    "evaluate: an answer of integers": (
        lambda: lmc.evaluate(lambda x: Y, DATA), ValueError, r"logits of shape \(..., cl"),
    "evaluate: keep -1": (lambda: lmc.evaluate(A, DATA, keep=-1), ValueError, "keep must be at least 0, not -1"),
    "evaluate: keep 2.5": (lambda: lmc.evaluate(A, DATA, keep=2.5), TypeError, "keep must be a whole number, not 2.5"),
    # merges
    "merge: a model": (
        lambda: lmc.merge(A, mlp((4, 5, 3))), TypeError, r"b must be a Network.*lmc.canonicalize\(model\)"),
    "merge: lam in words": (lambda: lmc.merge(A, B, "0.5"), TypeError, "lam must be a number, not '0.5'"),
    "merge_circuits: lam None": (
        lambda: lmc.merge_circuits(GPT, GPT, None), TypeError, "lam must be a number, not None"),
    "average: no list": (lambda: lmc.average(A), TypeError, "networks must be a Sequence, not a Network"),
    "average: a model": (lambda: lmc.average([A, mlp((4, 5, 3))]), TypeError, r"networks\[1\] must be a Network"),
    "average: NaN": (
        lambda: lmc.average([A, B], [NAN, 1.0]), ValueError, r"weights\[0\] must be a finite number, not nan"),
    "average: words": (lambda: lmc.average([A, B], "ab"), TypeError, r"weights\[0\] must be a number, not 'a'"),
    "average: merge in words": (lambda: lmc.average([A, B], merge="mean"), TypeError, "merge must be a function"),
    # paths
    "interpolate: a model": (lambda: lmc.interpolate(mlp((4, 5, 3)), B, DATA), TypeError, "a must be a Network"),
    "interpolate: points 2.5": (lambda: lmc.interpolate(A, B, DATA, points=2.5), TypeError, "points must be a whole"),
    "interpolate: points huge": (
        lambda: lmc.interpolate(A, B, DATA, points=10**30), ValueError, "points must be at most"),
    "interpolate: merge in words": (
        lambda: lmc.interpolate(A, B, DATA, merge="mean"), TypeError, "merge must be a func"),
    "interpolate: prompt in words": (
        lambda: lmc.interpolate(A, B, DATA, prompt="Ay"), TypeError, "prompt must be a func"),
    "interpolate: calibrate in words": (
        lambda: lmc.interpolate(A, B, DATA, calibrate="yes"), TypeError, "calibrate must be a bool, not a str"),
    "interpolate: one end": (lambda: lmc.interpolate(A, B, DATA, ends=A), TypeError, "ends must be the two original"),
    "interpolate: an end point that diverged": (
        lambda: lmc.interpolate(A, LOUD, DATA, points=3),
        ValueError, "the network at lambda = .* its loss is (nan|inf)"),
    "interpolate: one class": (
        lambda: lmc.interpolate(*(network(i, (4, 5, 1)) for i in range(2)), [(X, 0 * Y)], calibrate=True),
        ValueError, "a temperature needs the logits of two classes"),
    "barrier: no curve": (lambda: lmc.barrier([1, 2, 1]), TypeError, "curve must be a Curve, not a list"),
    "barriers: no splits": (lambda: lmc.barriers(A, B, DATA), TypeError, "data must be a set in its splits.*no train"),
    "plane: a model": (lambda: lmc.interpolate_plane([A, B, 5], DATA), TypeError, r"networks\[2\] must be a Network"),
    "plane: points 1": (
        lambda: lmc.interpolate_plane([A, B, C], DATA, points=1), ValueError, "points must be at least 2"),
    "plane: margin NaN": (
        lambda: lmc.interpolate_plane([A, B, C], DATA, margin=NAN),
        ValueError, "margin must be a finite number.* not nan"),
    "plane: margin in words": (
        lambda: lmc.interpolate_plane([A, B, C], DATA, margin="x"), TypeError, "margin must be a number, not 'x'"),
    "plane: a corner that diverged": (
        lambda: lmc.interpolate_plane([A, B, LOUD], DATA, points=2), ValueError, "line|at .* of the plane cannot be"),
    "simplex: points huge": (
        lambda: lmc.interpolate_simplex([A, B, C], DATA, points=1000),
        ValueError, "500500 mixtures, over 100000: lower"),
    "simplex: a corner that diverged": (
        lambda: lmc.interpolate_simplex([A, LOUD, C], DATA), ValueError, r"the mixture \[.*\] cannot be evaluated"),
    "Curve: a column": (
        lambda: replace(CURVE, loss=CURVE.loss[:, None]),
        ValueError, r"loss must be floats of shape \(3,\), but is .* \(3, 1\)"),
    "Curve: without its end": (
        lambda: replace(CURVE, lambdas=CURVE.lambdas / 2), ValueError, "the first 0 and the last 1"),
    "Curve: a list": (lambda: replace(CURVE, loss=[1, 2, 3]), TypeError, "loss must be a Tensor, not a list"),
    "Simplex: without a vertex": (
        lambda: replace(SIMPLEX, weights=lattice(3, 4).clamp(max=0.9)), ValueError, "each vertex among them"),
    "Plane: turned": (lambda: replace(PLANE, x=PLANE.x[:2]), ValueError, r"loss must be floats of shape \(3, 2\)"),
    # REPAIR and activations
    "repair: a transformer": (
        lambda: lmc.repair(GPT, language_model(1), 0.5, TOKENS), ValueError, "hidden units one by one, .* r, heads.0"),
    "repair: one sample": (lambda: lmc.repair(A, B, 0.5, [(X[:1], Y[:1])]), ValueError, "two samples or more"),
    "repair: NaN": (lambda: lmc.repair(A, B, 0.5, [(X * NAN, Y)]), ValueError, "inputs of a minibatch.* have NaN"),
    "repair: lam None": (lambda: lmc.repair(A, B, None, DATA), TypeError, "lam must be a number, not None"),
    "activations: a model": (
        lambda: lmc.activation_matching(A, mlp((4, 5, 3)), DATA), TypeError, "b must be a Network"),
    "activations: one NaN": (
        lambda: lmc.activation_matching(A, B, [(X, Y), (X.index_fill(0, Y[:1], NAN), Y)]), ValueError, "have NaN"),
    "activations: too large": (
        lambda: lmc.activation_matching(A, B, [(1e200 * X.double(), Y)]),
        ValueError, "at the site 'ff.0' are not finite"),
    "activations: one sample": (lambda: lmc.activation_matching(A, B, [(X[:1], Y)]), ValueError, "two samples or more"),
    "activations: wide inputs": (
        lambda: lmc.activation_matching(A, B, TOKENS), ValueError, "cannot read these inputs|two"),
    "repair: no inputs": (lambda: lmc.repair(A, B, 0.5, [(None, Y)]), TypeError, "the inputs of a minibatch must be"),
    "repair: a scalar": (
        lambda: lmc.repair(A, B, 0.5, [(X[0, 0], Y[0])]), ValueError, r"one row for each sample, but .* shape \(\)"),
    # prompts
    "Prompt: no text": (lambda: lmc.Prompt(5, SHIPPED), TypeError, "text must be a str, not a int"),
    "Prompt: no tokenizer": (lambda: lmc.Prompt("a", None), TypeError, "tokenizer must be a Tokenizer, not a NoneType"),
    "Prompt: length 2.5": (lambda: lmc.Prompt("a", SHIPPED, length=2.5), TypeError, "length must be a whole number"),
    "Prompt: length huge": (
        lambda: lmc.Prompt("a", SHIPPED, length=10**30), ValueError, "length must be at most 100000"),
    "Prompt: temperature NaN": (
        lambda: lmc.Prompt("a", SHIPPED, temperature=NAN), ValueError, "temperature .* not nan"),
    "Prompt: temperature inf": (
        lambda: lmc.Prompt("a", SHIPPED, temperature=INF), ValueError, "temperature .* not inf"),
    "Prompt: seed in words": (lambda: lmc.Prompt("a", SHIPPED, seed="x"), TypeError, "seed must be a whole number"),
    "Prompt: unknown words": (lambda: lmc.Prompt("c", GAPS), ValueError, "the tokenizer cannot encode the text: "),
    "Prompt: a number beyond the vocabulary": (
        lambda: lmc.Prompt("a", GAPS)(GPT), ValueError, "2 tokens, but .* only the numbers below 1024, not 5000"),
    "Prompt: NaN": (
        lambda: lmc.Prompt("a", SHIPPED)(lambda x: torch.full((1, 1, 9), NAN)), ValueError, "answers NaN or infinity"),
    "Prompt: flat logits": (
        lambda: lmc.Prompt("a", SHIPPED)(lambda x: torch.zeros(1, 9)), ValueError, r"logits \(1, T, vocabulary\)"),
    # data
    "Batches: lists": (lambda: Batches([1], [2], 1), TypeError, "inputs must be a Tensor, not a list"),
    "Batches: scalars": (
        lambda: Batches(torch.tensor(1.0), Y, 1), ValueError, "inputs must have one row for each sample"),
    "Batches: float targets": (
        lambda: Batches(X, Y.float(), 1), ValueError, "targets must be class numbers of dtype int64"),
    "Batches: batch_size 2.0": (lambda: Batches(X, Y, 2.0), TypeError, "batch_size must be a whole number, not 2.0"),
    "Batches: batch_size True": (lambda: Batches(X, Y, True), TypeError, "batch_size must be a whole number, not True"),
    "Batches: batch_size huge": (lambda: Batches(X, Y, 10**30), ValueError, "batch_size must be at most 2147483647"),
    "Batches: classes": (lambda: Batches(X, Y, 1, classes=(0, 1)), TypeError, r"classes\[0\] must be a str"),
    "take: 2.5": (lambda: DATA.take(2.5), TypeError, "n must be a whole number, not 2.5"),
    "cut: None": (lambda: DATA.cut(None), TypeError, "n must be a whole number, not None"),
    "load_data: no name": (lambda: load_data(None), TypeError, "name must be a str, not a NoneType"),
    "load_data: a path": (lambda: load_data(ASSETS), TypeError, "name must be a str, not a PosixPath"),
    "load_data: NUL": (lambda: load_data("a\0b"), ValueError, r"name must have no control character, but is 'a\\x00b'"),
    "load_data: batch_size": (
        lambda: load_data("digits", batch_size=2.5), TypeError, "batch_size must be a whole number"),
    "load_data: context": (lambda: load_data("digits", context="x"), TypeError, "context must be a whole number"),
    "load_data: tokenizer": (lambda: load_data("digits", tokenizer="x"), TypeError, "tokenizer must be a Tokenizer or"),
    "load_table: a path": (lambda: load_table("../results/cost"), ValueError, "and no path, but is '../results/cost'"),
    "load_table: a number": (lambda: load_table(5), TypeError, "name must be a str"),
    "load_endpoint: a list": (lambda: lmc.load_endpoint([]), TypeError, "name must be a str, not a list"),
    "load_endpoint: seed True": (lambda: lmc.load_endpoint("mlp", True), TypeError, "seed must be a whole number"),
    "augmentation: unknown": (
        lambda: augmentation("turn", IMAGES), ValueError, "augment must be one of 'flip', 'crop'"),
    "augmentation: of text": (
        lambda: augmentation("flip", PLAYS), ValueError, "changes images, but 'shakespeare' holds"),
    "shaped: unknown": (
        lambda: shaped("cnn", {}, IMAGES), ValueError, "architecture must be one of .*'gpt2', .*'mlp'"),
    "shaped: no layers": (lambda: shaped("mlp", {}, IMAGES), ValueError, "an mlp needs its hidden layers"),
    "shaped: a list": (lambda: shaped("vit", [], IMAGES), TypeError, "config must be a dict, not a list"),
    "shaped: no data": (lambda: shaped("vit", {}, None), TypeError, "data must be a Data, not a NoneType"),
    # figures
    "explore: a list": (lambda: lmc.explore([CURVE]), TypeError, "what is explored must be a Mapping, not a list"),
    "explore: a number for a name": (
        lambda: lmc.explore({5: CURVE}), TypeError, "a name in what is explored must be a str"),
    "explore: a bell in a name": (
        lambda: lmc.explore({"a\a": CURVE}), ValueError, r"no control character, but is 'a\\x07'"),
    "explore: a long name": (lambda: lmc.explore({"a" * 999: CURVE}), ValueError, "at most 200 letters, but has 999"),
    "explore: a number for a split": (lambda: lmc.explore({"a": {5: CURVE}}), TypeError, "a name in the splits of 'a'"),
    "explore: a title of numbers": (lambda: lmc.explore({"a": CURVE}, title=5), TypeError, "title must be a str"),
    "explore: a bell in the caption": (
        lambda: lmc.explore({"a": CURVE}, caption="\a"), ValueError, "caption must have no"),
    "explore: ends that are NaN": (
        lambda: lmc.explore({"a": replace(CURVE, ends=replace(CURVE, loss=CURVE.loss * NAN))}),
        ValueError, "the excess of 'a' is not finite"),
    "explore_adder: no networks": (
        lambda: lmc.explore_adder(ADDER, {}, SUMS), ValueError, "ends must hold one network at least"),
    "explore_adder: other networks": (
        lambda: lmc.explore_adder(A, {"vanilla": B}, SUMS), ValueError, "shows networks that add.*and a is none"),
    "explore_adder: another network": (
        lambda: lmc.explore_adder(ADDER, {"vanilla": A}, SUMS), ValueError, "differ"),
    "explore_adder: a list": (lambda: lmc.explore_adder(ADDER, [ADDER], SUMS), TypeError, "ends must be a Mapping"),
    "explore_adder: no sums": (
        lambda: lmc.explore_adder(ADDER, {"a": ADDER}, None), TypeError, "sums must be a Batches, not a NoneType"),
    "explore_adder: no half way": (
        lambda: lmc.explore_adder(ADDER, {"a": ADDER}, SUMS, points=4), ValueError, "points must be odd.*not 4"),
    "sums: no batch": (lambda: lmc.load_data("sums", batch_size=0), ValueError, "batch_size must be at least 1, not 0"),
    "explore_matching: no alignment": (
        lambda: lmc.explore_matching(A, B, None, DATA), TypeError, "alignment must be a Alignment, not a NoneType"),
    "explore_matching: another site": (
        lambda: lmc.explore_matching(A, B, A.spec.identity(), DATA, site="r"), ValueError, "site must be one of 'ff"),
    "explore_matching: no steps": (
        lambda: lmc.explore_matching(A, B, A.spec.identity(), DATA, steps=0), ValueError, "steps must be at least 1"),
    "explore_matching: no data": (
        lambda: lmc.explore_matching(A, B, A.spec.identity(), []), ValueError, "no batch to evaluate on"),
    "explore_simplex: a list": (lambda: lmc.explore_simplex([SIMPLEX]), TypeError, "must be a Mapping, not a list"),
    "explore_simplex: title": (
        lambda: lmc.explore_simplex({"a": SIMPLEX}, title=None), TypeError, "title must be a str"),
    "explore_plane: no plane": (
        lambda: lmc.explore_plane(None, {"a": CURVE, "b": OTHER}), TypeError, "plane must be a Plane, not a NoneType"),
    "explore_plane: a list": (lambda: lmc.explore_plane(PLANE, [CURVE, OTHER]), TypeError, "paths must be a Mapping"),
    "explore_plane: no curve": (
        lambda: lmc.explore_plane(PLANE, {"a": CURVE, "b": 5}), TypeError, "the path 'b' must be a Curve, not a int"),
    "explore_plane: a bell in a name": (
        lambda: lmc.explore_plane(PLANE, {"a": CURVE, "b": OTHER}, names=("A", "\a", "C")),
        ValueError, r"names\[1\] must"),
    "explore_plane: one name twice": (
        lambda: lmc.explore_plane(PLANE, {"a": CURVE, "b": OTHER}, names="AAB"),
        ValueError, "must tell the networks apart"),
    "explore_spec: a caption of numbers": (lambda: lmc.explore_spec(A, caption=5), TypeError, "caption must be a str"),
    "explore_symmetry: a model": (
        lambda: lmc.explore_symmetry(mlp((4, 5, 3)), "ff.0", X), TypeError, "network must be a Network"),
    "explore_symmetry: inputs in a list": (
        lambda: lmc.explore_symmetry(A, "ff.0", [1]), TypeError, "inputs must be a Ten"),
    "explore_symmetry: a list of sites": (
        lambda: lmc.explore_symmetry(A, ["ff.0"], X), ValueError, r"no site \['ff.0'\]"),
    "explore_symmetry: steps": (
        lambda: lmc.explore_symmetry(A, "ff.0", X, steps=2.5), TypeError, "steps must be a whole"),
    "explore_symmetry: classes": (
        lambda: lmc.explore_symmetry(A, "ff.0", X, classes=("a", "b")),
        ValueError, "name all 3 classes, but there are 2"),
    "explore_symmetry: a name that is taken": (
        lambda: lmc.explore_symmetry(A, "ff.0", X, wrong={"symmetry": lambda net, t: net}),
        ValueError, "a name other than"),
    "explore_symmetry: no network comes back": (
        lambda: lmc.explore_symmetry(A, "ff.0", X, wrong={"w": lambda net, t: 5}),
        TypeError, "what 'w' makes of the net"),
    "explore_symmetry: a tokenizer beyond the vocabulary": (
        lambda: lmc.explore_symmetry(GPT, "r", TOKENS[0][0], tokenizer=GAPS), ValueError, "has the number 5000"),
    "style: a number": (lambda: style(5), TypeError, "name must be a str, not a int"),
}  # fmt: skip


@pytest.mark.parametrize(("call", "error", "message"), CASES.values(), ids=CASES)
def test_a_wrong_argument_is_named_in_one_line(call, error, message):
    with pytest.raises(error, match=message) as raised:
        call()
    assert raised.type is error
    assert "\n" not in str(raised.value)


def test_empty_minibatches_change_nothing():
    gaps = [(X[:0], Y[:0]), *DATA, (X[:0], Y[:0])]
    assert lmc.evaluate(A, gaps)[:2] == lmc.evaluate(A, DATA)[:2]
    assert torch.equal(lmc.interpolate(A, B, gaps, points=3).loss, CURVE.loss)
    found, expected = (lmc.activation_matching(A, B, batches) for batches in (gaps, DATA))
    assert all(torch.equal(found[site].matrix(), expected[site].matrix()) for site in expected)
    repaired, plain = (lmc.repair(A, B, 0.5, batches) for batches in (gaps, DATA))
    assert all(torch.equal(repaired.params[name], p) for name, p in plain.params.items())


def test_data_that_can_be_read_once_are_read_once():
    assert torch.equal(lmc.interpolate_plane([A, B, C], once(), points=3).loss, PLANE.loss)
    assert torch.equal(lmc.interpolate_simplex([A, B, C], once(), points=4).loss, SIMPLEX.loss)
    repaired, plain = (lmc.repair(A, B, 0.5, batches) for batches in (once(), DATA))
    assert all(torch.equal(repaired.params[name], p) for name, p in plain.params.items())
    with pytest.raises(ValueError, match="an iterator that has come to its end"):
        lmc.interpolate(A, B, DATA, points=3, merge=partial(used_up, batches=once()))


def used_up(a: lmc.Network, b: lmc.Network, lam: float, batches: Iterator) -> lmc.Network:
    """A merge that looks at data which have come to their end."""
    list(batches)
    lmc.evaluate(a, batches)
    return lmc.merge(a, b, lam)


def test_a_token_that_is_a_control_character_is_shown_as_its_code():
    """Or the static twin would be an SVG that no browser opens."""
    bell = Tokenizer(WordLevel({"\a": 0, "b": 1}))
    figure = lmc.explore_symmetry(
        language_model(words=4), "r", torch.zeros(1, 2, dtype=torch.int64), tokenizer=bell, steps=1
    )
    assert r"\x07" in json.loads(figure.state)["labels"]
