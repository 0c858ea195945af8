"""What a network writes from a prompt: sampled as its probabilities say, with the same chance for every network."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest
import torch
from test_transformers import gpt2, random

import lmc_utils as lmc
from lmc_utils.data import ASSETS, TOKENIZER, Tokenizer


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer.from_file(str(ASSETS / TOKENIZER))


@pytest.fixture(scope="module")
def network() -> lmc.Network:
    torch.manual_seed(0)
    return lmc.canonicalize(random(gpt2(vocab_size=1024, n_positions=12)))


@pytest.fixture
def prompt(tokenizer: Tokenizer) -> lmc.Prompt:
    return lmc.Prompt("Who's there?\n", tokenizer, length=20)


def test_the_text_is_what_its_tokens_say(prompt, network):
    text = prompt(network)
    assert len(text.tokens) == len(text.probabilities) == 20
    assert str(text) == "Who's there?\n" + "".join(text.tokens)
    assert prompt(network).tokens == text.tokens, "one seed, one text"
    assert replace(prompt, seed=1)(network).tokens != text.tokens


def test_chance_is_the_same_for_all_networks(prompt, network):
    """The same function in other weights writes the same text; a slightly other function departs from it late."""
    text = prompt(network)
    moved = prompt(network.spec.sample(seed=0)(network))
    assert moved.tokens == text.tokens
    torch.testing.assert_close(moved.probabilities, text.probabilities)
    near = {name: p * (1 + 1e-3) for name, p in network.params.items()}
    same = [x == y for x, y in zip(prompt(replace(network, params=near)).tokens, text.tokens, strict=True)]
    assert same[:5] == [True] * 5


def test_tokens_are_drawn_with_their_probabilities(tokenizer):
    logits = torch.full((1, 1, 1024), -torch.inf)
    common = tokenizer.encode("abc").ids
    logits[0, 0, common] = torch.tensor([0.6, 0.3, 0.1]).log()
    text = lmc.Prompt("a", tokenizer, length=2000, temperature=1)(lambda ids: logits)
    share = {token: count / 2000 for token, count in Counter(text.tokens).items()}
    assert share == pytest.approx({"a": 0.6, "b": 0.3, "c": 0.1}, abs=0.04)
    assert set(text.probabilities.tolist()) == set(torch.tensor([0.6, 0.3, 0.1]).log().softmax(-1).tolist())


def test_a_low_temperature_takes_the_most_probable_token(prompt, network, tokenizer):
    ids = tokenizer.encode(prompt.text).ids
    for token in replace(prompt, length=3, temperature=1e-6)(network).tokens:
        best = network(torch.tensor([ids]))[0, -1].argmax().item()
        assert tokenizer.decode([best]) == token
        ids.append(best)


def test_characters_of_several_tokens_stay_whole(tokenizer):
    wanted = tokenizer.encode("né €!").ids
    steps = iter(wanted)

    def speaks(ids: torch.Tensor) -> torch.Tensor:
        return 1e3 * torch.nn.functional.one_hot(torch.tensor([[next(steps)]]), 1024)

    text = lmc.Prompt("Ay, ", tokenizer, length=len(wanted))(speaks)
    assert str(text) == "Ay, né €!"
    assert "" in text.tokens, "a part of a character is nothing yet"


def test_beyond_the_context_the_last_tokens_count(prompt, network):
    context = network.architecture.reads[1]
    seen = []

    def short_sighted(ids: torch.Tensor) -> torch.Tensor:
        seen.append(ids.shape[1])
        return network(ids[:, -context:])

    assert prompt(network).tokens == prompt(short_sighted).tokens
    assert seen[0] < context < seen[-1], "the text must outgrow the context"


def test_a_curve_with_texts(prompt, network, tokenizer):
    other = lmc.canonicalize(random(gpt2(vocab_size=1024, n_positions=12)))
    batches = [(torch.zeros(1, 4, dtype=torch.int64), torch.ones(1, 4, dtype=torch.int64))]
    curve = lmc.interpolate(network, other, batches, points=3, prompt=prompt)
    between = [network, lmc.merge(network, other), other]
    assert [text.tokens for text in curve.texts] == [prompt(n).tokens for n in between]
    assert lmc.interpolate(network, other, batches, points=2).texts is None


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"text": ""}, "has no token"),
        ({"length": 0}, "length must be at least 1"),
        ({"temperature": 0.0}, "at least 1e-09 and at most 1e.09, not 0"),
    ],
)
def test_bad_prompts(tokenizer, options, message):
    with pytest.raises(ValueError, match=message):
        lmc.Prompt(**{"text": "Ay", "tokenizer": tokenizer} | options)


def test_networks_that_cannot_read(prompt, make_mlp):
    with pytest.raises(ValueError, match="inputs of this one are no tokens"):
        prompt(make_mlp())
    with pytest.raises(ValueError, match="tokenizer has 1024 tokens, but the network knows only"):
        prompt(lmc.canonicalize(gpt2()))
