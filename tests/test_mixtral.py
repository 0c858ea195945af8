"""Mixtral: groups of heads, experts, units and their scales lie within each other, and all of it is exact."""

from __future__ import annotations

import pytest
import torch
from torch.nn.functional import linear
from transformers import MixtralConfig, MixtralForCausalLM
from transformers.models.mixtral.modeling_mixtral import MixtralRMSNorm, MixtralTopKRouter

import lmc_utils as lmc

SMALL = {"vocab_size": 31, "hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 6,
         "num_key_value_heads": 2, "intermediate_size": 10, "max_position_embeddings": 12, "num_local_experts": 4,
         "num_experts_per_tok": 2}  # fmt: skip


def make(seed: int = 0, **options: object) -> MixtralForCausalLM:
    """A random model in float64 whose weights and norms are far from where they start."""
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(seed)
        # what transformers prefers for experts takes no float64
        model = MixtralForCausalLM(MixtralConfig(**SMALL | options, experts_implementation="eager")).double().eval()
        for p in model.parameters():
            p.add_(0.4 * torch.randn_like(p))
    return model


MODELS = {
    "two of four experts": lambda: make(),
    "one of two experts, one key head": lambda: make(num_local_experts=2, num_experts_per_tok=1, num_key_value_heads=1),
    "as many key heads as heads, one layer": lambda: make(
        num_key_value_heads=6, num_hidden_layers=1, hidden_size=17, head_dim=4, num_local_experts=3
    ),
    "all experts, a window": lambda: make(num_local_experts=3, num_experts_per_tok=3, sliding_window=4),
    "one expert, one head, tied": lambda: make(
        num_local_experts=1, num_experts_per_tok=1, num_attention_heads=1, num_key_value_heads=1, hidden_size=7,
        head_dim=2, tie_word_embeddings=True,
    ),
}  # fmt: skip
every_model = pytest.mark.parametrize("name", MODELS)
every_class = pytest.mark.parametrize("allow", ["permutation", "orthogonal", "invertible"])


@pytest.fixture
def in_double(monkeypatch) -> None:
    """Norms and routers that compute in the dtype of their inputs: transformers' compute in float32."""

    def norm(self: MixtralRMSNorm, x: torch.Tensor) -> torch.Tensor:
        return self.weight * x * (x.square().mean(-1, keepdim=True) + self.variance_epsilon).rsqrt()

    def route(self: MixtralTopKRouter, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        scores = linear(x.reshape(-1, self.hidden_dim), self.weight)
        best, experts = scores.softmax(-1).topk(self.top_k)
        return scores, best / best.sum(-1, keepdim=True), experts

    monkeypatch.setattr(MixtralRMSNorm, "forward", norm)
    monkeypatch.setattr(MixtralTopKRouter, "forward", route)


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
def test_folding_and_going_back_leave_the_logits_alone(name, in_double):
    model = MODELS[name]()
    before = {key: p.clone() for key, p in model.state_dict().items()}
    network = lmc.canonicalize(model)
    assert error(network(tokens()), logits(model)) < 1e-10
    assert error(logits(network.to_model()), logits(model)) < 1e-10
    assert type(network.to_model()) is MixtralForCausalLM
    assert all(torch.equal(before[key], p) for key, p in model.state_dict().items())
    assert distance(network, lmc.canonicalize(network.to_model())) < 1e-10


@every_model
@every_class
def test_every_class_of_symmetry_leaves_the_logits_alone(name, allow, in_double):
    network = lmc.canonicalize(MODELS[name]())
    for seed in range(3):
        lmc.assert_invariant(network, network.spec.sample(seed, allow=allow), tokens())


@every_model
@torch.no_grad()
def test_stock_norms_round_to_single_precision_and_nothing_else_does(name):
    model = MODELS[name]()
    network, largest = lmc.canonicalize(model), logits(model).abs().max().item()
    assert error(network(tokens()), logits(model)) < 2e-6 * largest
    lmc.assert_invariant(network, network.spec.sample(0), tokens(), atol=2e-6 * largest)


# What the table says


def test_sites_lie_within_each_other():
    spec = lmc.canonicalize(make()).spec
    assert spec.ancestors("up.0") == ["ex.0", "ff.0"]
    assert spec.types["0.up"] == "ex.0* ff.0 up.0 r*"
    assert spec.types["0.gate"] == "ex.0* ff.0* r*"
    assert spec.types["0.q"] == "kv.0* q.0 qk.0 r*"
    assert {site: spec.batch(f"{site}.1") for site in ("q", "qk", "ov", "ff", "up")} == {
        "q": (2,), "qk": (2,), "ov": (2,), "ff": (4,), "up": (4, 10),
    }  # fmt: skip


def test_what_is_added_to_the_router_of_every_expert_is_not_seen(in_double):
    model = make()
    network, before = lmc.canonicalize(model), logits(model)
    with torch.no_grad():
        model.model.layers[0].mlp.gate.weight += torch.arange(24)
    assert error(logits(model), before) < 1e-10
    assert distance(lmc.canonicalize(model), network) < 1e-10


@every_model
@torch.no_grad()
def test_activations_have_the_shapes_of_the_sites(name):
    network = lmc.canonicalize(MODELS[name]())
    seen, spec = network.activations(tokens()), network.spec
    for site in ("qk", "ex", "ff", "up"):
        assert seen[f"{site}.0"].shape == (33, *spec.batch(f"{site}.0"), spec.sizes[f"{site}.0"])
    # a group's values are seen in each of its query heads
    assert seen["ov.0"].shape == (33, *(spec.sizes[f"{site}.0"] for site in ("kv", "q", "ov")))
    assert seen["r"].shape == (33 * network.architecture.config["num_hidden_layers"], spec.sizes["r"])


@torch.no_grad()
def test_units_of_experts_are_those_that_the_stock_module_adds_up(in_double):
    model = make(num_experts_per_tok=4)
    network, written = lmc.canonicalize(model), {}
    block = network.to_model()
    block.model.layers[1].mlp.register_forward_hook(lambda part, args, output: written.update(x=args[0], y=output))
    block(tokens())
    units, down = network.activations(tokens())["up.1"], network.params["1.down"]
    shares = block.model.layers[1].mlp.gate(written["x"])[0].softmax(-1)
    assert error(torch.einsum("te,tefu,erfu->tr", shares, units, down), written["y"].flatten(0, 1)) < 1e-10


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


def test_learned_matching_takes_a_step_and_stays_a_symmetry(in_double):
    a, b = (lmc.canonicalize(make(seed)) for seed in range(2))
    found = lmc.learned_matching(a, b, [(tokens(), tokens())], steps=1)
    assert len(found.history.loss) == 1
    lmc.assert_invariant(b, found, tokens())
    assert distance(found(b), b) > 1e-6


# Folders


@torch.no_grad()
def test_a_moved_network_is_saved_and_loaded(tmp_path):
    network = lmc.canonicalize(make(intermediate_size=12).float())  # sizes that the preferred way takes
    model = network.spec.sample(0)(network).to_model()
    model.save_pretrained(tmp_path / "m")
    for again in (MixtralForCausalLM.from_pretrained(tmp_path / "m"), lmc.load_model(tmp_path / "m")):
        assert error(logits(again.eval()), logits(model)) < 1e-4
        assert distance(lmc.canonicalize(again), lmc.canonicalize(model)) == 0


def test_what_is_not_known_is_refused_by_name():
    with pytest.raises(ValueError, match="hidden_act 'relu': units with such a gate"):
        lmc.canonicalize(make(hidden_act="relu"))
    with pytest.raises(ValueError, match="rope_type 'proportional' has no canonical form here"):
        lmc.canonicalize(make(rope_parameters={"rope_type": "proportional", "rope_theta": 100.0}))
    model = make()
    model.model.norm = torch.nn.RMSNorm(24).double()
    with pytest.raises(ValueError, match=r"'model.norm' is a RMSNorm, where the stock module has a MixtralRMSNorm"):
        lmc.canonicalize(model)
