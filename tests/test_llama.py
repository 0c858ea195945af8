"""Llama and its kin: one table, and each class has the freedom that its biases and norms leave, no more and no less."""

from __future__ import annotations

import pytest
import torch
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    Olmo2Config,
    Olmo2ForCausalLM,
    PreTrainedModel,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)
from transformers.models.llama.modeling_llama import LlamaRMSNorm
from transformers.models.mistral.modeling_mistral import MistralRMSNorm
from transformers.models.olmo2.modeling_olmo2 import Olmo2RMSNorm
from transformers.models.qwen2.modeling_qwen2 import Qwen2RMSNorm
from transformers.models.qwen3.modeling_qwen3 import Qwen3RMSNorm

import lmc_utils as lmc
from lmc_utils.networks.base import BUILDERS
from lmc_utils.spec import Site
from lmc_utils.symmetry import Orthogonal, Permutation, Rotary, RotarySign

SMALL = {"vocab_size": 23, "hidden_size": 8, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
         "intermediate_size": 5, "max_position_embeddings": 12, "bos_token_id": 0, "eos_token_id": 0,
         "rms_norm_eps": 0.1}  # fmt: skip
KINDS = {
    "llama": (LlamaForCausalLM, LlamaConfig),
    "mistral": (MistralForCausalLM, MistralConfig),
    "qwen2": (Qwen2ForCausalLM, Qwen2Config),
    "qwen3": (Qwen3ForCausalLM, Qwen3Config),
    "olmo2": (Olmo2ForCausalLM, Olmo2Config),
}


def make(kind: str = "llama", seed: int = 0, **options: object) -> PreTrainedModel:
    """A random model in float64 whose weights, norms and biases are far from where they start."""
    cls, config = KINDS[kind]
    rope = {"rope_type": "default", "rope_theta": 10.0}
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(seed)
        model = cls(config(**SMALL | {"rope_parameters": rope} | options)).double().eval()
        for p in model.parameters():
            p.add_(0.4 * torch.randn_like(p))
        for name, p in model.named_parameters():
            if name.endswith(("q_norm.weight", "post_attention_layernorm.weight")):
                p[:2] *= -1
    return model


BIASES = {"attention_bias": True, "mlp_bias": True}
MODELS = {
    "llama": lambda: make(),
    "llama, one key head, one layer, tied": lambda: make(
        num_key_value_heads=1, num_hidden_layers=1, tie_word_embeddings=True
    ),
    "llama, as many key heads as heads, biases": lambda: make(num_key_value_heads=4, **BIASES),
    "llama, wide heads, biases of attention": lambda: make(hidden_size=12, head_dim=6, attention_bias=True),
    "llama, one head, biases of units": lambda: make(num_attention_heads=1, num_key_value_heads=1, mlp_bias=True),
    "mistral": lambda: make("mistral", sliding_window=4),
    "mistral, one key head": lambda: make("mistral", num_key_value_heads=1, sliding_window=None),
    "mistral, odd": lambda: make("mistral", hidden_size=9, head_dim=2, num_attention_heads=3, num_key_value_heads=3),
    "qwen2": lambda: make("qwen2"),
    "qwen2, tied, one layer": lambda: make("qwen2", tie_word_embeddings=True, num_hidden_layers=1),
    "qwen2, one key head": lambda: make("qwen2", num_key_value_heads=1),
    "qwen3": lambda: make("qwen3", head_dim=4),
    "qwen3, biases": lambda: make("qwen3", head_dim=6, attention_bias=True, num_key_value_heads=4),
    "qwen3, one pair, one layer": lambda: make("qwen3", head_dim=2, num_key_value_heads=1, num_hidden_layers=1),
    "olmo2": lambda: make("olmo2"),
    "olmo2, one key head, one layer, tied": lambda: make(
        "olmo2", num_key_value_heads=1, num_hidden_layers=1, tie_word_embeddings=True
    ),
    "olmo2, as many key heads as heads, biases": lambda: make("olmo2", num_key_value_heads=4, attention_bias=True),
}
every_model = pytest.mark.parametrize("name", MODELS)
every_class = pytest.mark.parametrize("allow", ["permutation", "orthogonal", "invertible"])


@pytest.fixture
def in_double(monkeypatch) -> None:
    """Norms that compute in the dtype of their inputs: transformers' compute in float32."""

    def norm(self: LlamaRMSNorm, x: torch.Tensor) -> torch.Tensor:
        return self.weight * x * (x.square().mean(-1, keepdim=True) + self.variance_epsilon).rsqrt()

    for cls in (LlamaRMSNorm, MistralRMSNorm, Qwen2RMSNorm, Qwen3RMSNorm, Olmo2RMSNorm):
        monkeypatch.setattr(cls, "forward", norm)


def tokens(samples: int = 3) -> torch.Tensor:
    return torch.randint(23, (samples, 11), generator=torch.Generator().manual_seed(0))


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
    assert type(network.to_model()) is type(model)
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
    lmc.assert_invariant(network, network.spec.sample(0), tokens(), atol=4e-6 * largest)


# What the table says


@pytest.mark.parametrize(
    ("name", "free"),
    [("llama, as many key heads as heads, biases", 86), ("qwen2", 62), ("qwen3", 102), ("olmo2", 26)],
)
def test_the_table_explains_every_direction_that_leaves_the_logits_alone(name, free, in_double):
    found = lmc.flat_directions(lmc.canonicalize(MODELS[name]()), tokens(100))
    assert found.flat == found.explained == free


def test_norms_before_the_rotation_leave_a_sign_for_each_pair():
    free, left = (lmc.canonicalize(make(kind)).spec.sites["qk.0"].symmetry for kind in ("llama", "qwen3"))
    assert (free, left) == (Rotary, RotarySign)


def test_signs_and_scales_of_gains_are_not_seen(in_double):
    model = make("qwen3", head_dim=4)
    before, network = logits(model), lmc.canonicalize(model)
    attention = model.model.layers[1].self_attn
    with torch.no_grad():
        attention.q_norm.weight *= torch.tensor([-2.0, 3.0, 2.0, 3.0])
        attention.k_norm.weight /= torch.tensor([2.0, 3.0, 2.0, 3.0])
        attention.q_proj.weight.view(4, 4, 8)[:, 0] *= -1
    assert error(logits(model), before) < 1e-10
    assert distance(lmc.canonicalize(model), network) < 1e-10


def test_signs_of_gains_behind_a_layer_are_not_seen(in_double):
    model = make("olmo2", attention_bias=True)
    before, network = logits(model), lmc.canonicalize(model)
    layer = model.model.layers[1]
    with torch.no_grad():
        for p in (layer.post_attention_layernorm.weight, layer.self_attn.o_proj.weight, layer.self_attn.o_proj.bias):
            p[3:] *= -1
        for p in (layer.post_feedforward_layernorm.weight, layer.mlp.down_proj.weight):
            p[:4] *= -1
    assert error(logits(model), before) < 1e-10
    assert distance(lmc.canonicalize(model), network) < 1e-10


def test_gains_behind_layers_leave_a_signed_permutation_of_the_stream(in_double):
    network = lmc.canonicalize(make("olmo2"))
    spec, still = network.spec, network.spec.identity()
    assert (spec.sites["r"].symmetry, spec.sites["sign"]) == (Permutation, Site(Orthogonal, 1, within="r"))
    g = spec.sample(0)
    signed = lmc.Alignment(spec, {**still.maps, "r": g["r"], "sign": g["sign"]})
    lmc.assert_invariant(network, signed, tokens())
    moved = signed.act(network.params)
    assert (moved["0.o.gain"] > 0).all()  # it is reordered
    assert error(moved["0.o.gain"].sort().values, network.params["0.o.gain"].sort().values) == 0
    assert not torch.allclose(moved["0.o.gain"], network.params["0.o.gain"])


def test_value_biases_of_a_group_go_into_the_output_bias_where_there_is_one():
    with_output, without = lmc.canonicalize(make(attention_bias=True)), lmc.canonicalize(make("qwen2"))
    assert ("0.v.bias" in with_output.params, "0.o.bias" in with_output.params) == (False, True)
    assert ("0.v.bias" in without.params, "0.o.bias" in without.params) == (True, False)


@every_model
def test_activations_have_the_shapes_of_the_sites(name):
    network = lmc.canonicalize(MODELS[name]())
    seen, spec = network.activations(tokens()), network.spec
    units = {"kv", "q", "r"} if "sign" in spec.sites else {"kv", "q"}  # seen by what is inside them
    for site in [site for site in spec.sites if site.partition(".")[0] not in units]:
        assert len(seen[site]) % 33 == 0
        assert seen[site].shape[-1] == spec.sizes[site]


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
    assert distance(found(moved), network) < (1e-6 if method == "weights" else 1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_learned_matching_takes_a_step_and_stays_a_symmetry(kind, in_double):
    a, b = (lmc.canonicalize(make(kind, seed)) for seed in range(2))
    found = lmc.learned_matching(a, b, [(tokens(), tokens())], steps=1)
    assert len(found.history.loss) == 1
    lmc.assert_invariant(b, found, tokens())
    assert distance(found(b), b) > 1e-6


# Folders and builders


@pytest.mark.parametrize("kind", KINDS)
def test_a_moved_network_is_saved_and_loaded(tmp_path, kind, in_double):
    network = lmc.canonicalize(make(kind))
    model = network.spec.sample(0)(network).to_model()
    model.save_pretrained(tmp_path / "m")
    for again in (type(model).from_pretrained(tmp_path / "m"), lmc.load_model(tmp_path / "m")):
        assert error(logits(again.double().eval()), logits(model)) < 1e-10


def test_fresh_models_are_built_by_name():
    builder = BUILDERS["llama"]
    model = builder(**builder.text({name: SMALL[name] for name in SMALL if name != "vocab_size"}, 17))
    assert type(model) is LlamaForCausalLM
    assert model.lm_head.weight.shape == (17, 8)
    with pytest.raises(TypeError, match="LlamaConfig has no n_embd"):
        builder(n_embd=8)


def test_what_is_not_known_is_refused_by_name():
    for act in ("prelu", "relu"):
        with pytest.raises(ValueError, match=f"hidden_act '{act}'"):
            lmc.canonicalize(make(hidden_act=act))
    with pytest.raises(ValueError, match="rope_type 'proportional' has no canonical form here"):
        lmc.canonicalize(make(rope_parameters={"rope_type": "proportional", "rope_theta": 10.0}))
    model = make()
    model.model.layers[1].mlp.act_fn = torch.nn.Softmax(-1)
    with pytest.raises(ValueError, match=r"'model.layers.1.mlp.act_fn' is a Softmax, where the stock module has a"):
        lmc.canonicalize(model)
