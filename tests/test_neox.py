"""GPT-NeoX: only its rotary dimensions keep their key biases, and a parallel block has one bias where it seems two."""

from __future__ import annotations

import pytest
import torch
from transformers import GPTNeoXConfig, GPTNeoXForCausalLM

import lmc_utils as lmc
from lmc_utils.networks.base import BUILDERS
from lmc_utils.networks.layout import stacked
from lmc_utils.spec import Site
from lmc_utils.symmetry import Invertible, Permutation, Rotary

SMALL = {"vocab_size": 31, "hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 3,
         "intermediate_size": 40, "max_position_embeddings": 12}  # fmt: skip


LONG = {"original_max_position_embeddings": 8}
ROPE = {
    "linear": {"factor": 2.0},
    "dynamic": {"factor": 2.0},
    "yarn": LONG | {"factor": 2.0},
    "longrope": LONG | {"factor": 2.0, "short_factor": [1.0, 0.9], "long_factor": [1.0, 2.0]},
    "llama3": LONG | {"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0},
}


def make(rotary_pct: float = 0.25, kind: str = "default", seed: int = 0, **options: object) -> GPTNeoXForCausalLM:
    """A random model in float64 whose weights, norms and biases are all far from where they start."""
    rope = {"rope_type": kind, "rope_theta": 100.0, "partial_rotary_factor": rotary_pct} | ROPE.get(kind, {})
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(seed)
        model = GPTNeoXForCausalLM(GPTNeoXConfig(**SMALL | options, rope_parameters=rope)).double().eval()
        for p in model.parameters():
            p.add_(0.4 * torch.randn_like(p))
    return model


MODELS = {
    "parallel, rotary in a quarter": lambda: make(),
    "parallel, all rotary": lambda: make(1.0),
    "sequential, rotary in a half": lambda: make(0.5, use_parallel_residual=False),
    "sequential, all rotary, one layer": lambda: make(1.0, use_parallel_residual=False, num_hidden_layers=1),
    "odd heads, of which one pair has begun": lambda: make(hidden_size=35, num_attention_heads=5),
    "one head as wide as the stream": lambda: make(0.7, hidden_size=8, num_attention_heads=1, num_hidden_layers=1),
    "without biases, tied": lambda: make(0.5, attention_bias=False, tie_word_embeddings=True),
    "no rotary dimensions": lambda: make(0.0),
    "relu": lambda: make(0.5, hidden_act="relu"),
}
every_model = pytest.mark.parametrize("name", MODELS)
every_class = pytest.mark.parametrize("allow", ["permutation", "orthogonal", "invertible"])


def tokens(samples: int = 3) -> torch.Tensor:
    return torch.randint(31, (samples, 11), generator=torch.Generator().manual_seed(0))


@torch.no_grad()
def logits(model: torch.nn.Module) -> torch.Tensor:
    return model(tokens()).logits


def error(x: torch.Tensor, y: torch.Tensor) -> float:
    return (x - y).abs().max().item()


def distance(a: lmc.Network, b: lmc.Network) -> float:
    assert a.architecture == b.architecture
    return max(error(p, b.params[key]) for key, p in a.params.items())


# Exactness


@every_model
@torch.no_grad()
def test_folding_and_going_back_leave_the_logits_alone(name):
    model = MODELS[name]()
    before = {key: p.clone() for key, p in model.state_dict().items()}
    network = lmc.canonicalize(model)
    assert error(network(tokens()), logits(model)) < 1e-10
    assert error(logits(network.to_model()), logits(model)) < 1e-10
    assert type(network.to_model()) is GPTNeoXForCausalLM
    assert all(torch.equal(before[key], p) for key, p in model.state_dict().items())
    assert distance(network, lmc.canonicalize(network.to_model())) < 1e-10


@every_model
@every_class
def test_every_class_of_symmetry_leaves_the_logits_alone(name, allow):
    network = lmc.canonicalize(MODELS[name]())
    for seed in range(3):
        lmc.assert_invariant(network, network.spec.sample(seed, allow=allow), tokens())


@pytest.mark.parametrize("kind", ROPE)
@torch.no_grad()
def test_every_kind_of_rotary_positions_is_exact(kind):
    model = make(0.5, kind)
    network = lmc.canonicalize(model)
    assert error(network(tokens()), logits(model)) < 1e-10
    lmc.assert_invariant(network, network.spec.sample(0), tokens())


# What the table says


def test_rotary_and_plain_dimensions_are_two_spaces():
    spec = lmc.canonicalize(make()).spec
    assert spec.types["0.q.turned.weight"] == spec.types["0.k.turned.weight"].replace("turned.0*", "turned.0")
    assert (spec.sites["turned.0"].symmetry, spec.sites["turned.0"].size) == (Rotary, 2)
    assert (spec.sites["plain.0"].symmetry, spec.sites["plain.0"].size) == (Invertible, 6)
    assert "plain.0" not in lmc.canonicalize(make(1.0)).spec.sites
    assert "turned.0" not in lmc.canonicalize(make(0.0)).spec.sites


def test_softmax_sees_key_biases_of_rotary_dimensions_only():
    model = make(0.25)
    before, bias = logits(model), model.gpt_neox.layers[1].attention.query_key_value.bias.detach()
    keys = bias.view(3, 3, 8)[:, 1]  # of each head
    keys[:, 2:] += 1
    assert error(logits(model), before) < 1e-10
    assert "1.k.plain.bias" not in lmc.canonicalize(model).params
    keys[:, :2] += 1
    assert error(logits(model), before) > 1e-2
    assert lmc.canonicalize(model).params["1.k.turned.bias"].shape == (3, 2)


def test_the_two_biases_of_a_parallel_block_are_one():
    for parallel in (True, False):
        model = make(use_parallel_residual=parallel)
        block, before = model.gpt_neox.layers[0], lmc.canonicalize(model)
        with torch.no_grad():
            block.attention.dense.bias += 1 + torch.arange(24)
            block.mlp.dense_4h_to_h.bias -= 1 + torch.arange(24)
        assert (distance(lmc.canonicalize(model), before) < 1e-10) is parallel
        assert ("0.proj.bias" in before.params) is not parallel


def test_a_space_without_dimensions_is_left_out_with_the_parts_that_touch_it():
    layout = {"qk": {"q": "(heads* [qk]) r*", "p": "(heads* [p]) r*"}}
    sites = {"heads": Site(Permutation, 2), "qk": Site(Invertible, 3, "heads"), "p": Site(Invertible, 0, "heads")}
    found, left = stacked("{}.", 1, layout, sites)
    assert found == {"0.qk": {"0.q": "(heads.0* [qk.0]) r*"}}
    assert list(left) == ["heads.0", "qk.0"]


@every_model
def test_activations_have_the_shapes_of_the_sites(name):
    network = lmc.canonicalize(MODELS[name]())
    seen, spec = network.activations(tokens()), network.spec
    for site in [site for site in spec.sites if not site.startswith("heads")]:
        assert seen[site].shape[1:] == (*spec.batch(site), spec.sizes[site])
        assert len(seen[site]) % 33 == 0


# Matching


@every_model
@every_class
@pytest.mark.parametrize("method", ["weights", "activations"])
@torch.no_grad()
def test_a_planted_symmetry_is_found(name, allow, method):
    network = lmc.canonicalize(MODELS[name]())
    moved = network.spec.sample(1, allow=allow)(network)
    if method == "weights":
        found = lmc.weight_matching(network, moved, allow=allow)
    else:
        found = lmc.activation_matching(network, moved, [(x, None) for x in tokens(200).split(100)], allow=allow)
    assert distance(found(moved), network) < 1e-6


@pytest.mark.parametrize("name", ["parallel, rotary in a quarter", "sequential, all rotary, one layer"])
def test_learned_matching_takes_a_step_and_stays_a_symmetry(name):
    a = lmc.canonicalize(MODELS[name]())
    b = lmc.canonicalize(make(a.architecture.config["rope_parameters"]["partial_rotary_factor"], seed=1, **{
        key: a.architecture.config[key] for key in ("use_parallel_residual", "num_hidden_layers")
    }))  # fmt: skip
    found = lmc.learned_matching(a, b, [(tokens(), tokens())], steps=1)
    assert len(found.history.loss) == 1
    lmc.assert_invariant(b, found, tokens())
    assert distance(found(b), b) > 1e-6


# Folders and builders


@pytest.mark.parametrize("name", ["parallel, rotary in a quarter", "without biases, tied"])
def test_a_moved_network_is_saved_and_loaded(tmp_path, name):
    network = lmc.canonicalize(MODELS[name]())
    model = network.spec.sample(0)(network).to_model()
    model.save_pretrained(tmp_path / "m")
    for again in (GPTNeoXForCausalLM.from_pretrained(tmp_path / "m"), lmc.load_model(tmp_path / "m")):
        assert error(logits(again.double().eval()), logits(model)) < 1e-10


def test_fresh_models_are_built_by_name():
    builder = BUILDERS["neox"]
    model = builder(**builder.text({name: SMALL[name] for name in SMALL if name != "vocab_size"}, 17))
    assert type(model) is GPTNeoXForCausalLM
    assert model.lm_head.weight.shape == (17, 24)
    with pytest.raises(TypeError, match="GPTNeoXConfig has no rotary_pct"):
        builder(rotary_pct=0.5)


def test_what_is_not_known_is_refused_by_name():
    with pytest.raises(ValueError, match="hidden_act 'prelu'"):
        lmc.canonicalize(make(hidden_act="prelu"))
    with pytest.raises(ValueError, match="rope_type 'proportional' has no canonical form here; known are default"):
        lmc.canonicalize(make(0.5, "proportional"))
    model = make()
    model.gpt_neox.layers[1].mlp.act = torch.nn.Softmax(-1)
    with pytest.raises(ValueError, match=r"'gpt_neox.layers.1.mlp.act' is a Softmax, where the stock module has a"):
        lmc.canonicalize(model)
