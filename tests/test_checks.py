"""``check_network`` passes where the laws hold, and names what breaks where somebody breaks one on purpose."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch
import transformers
from torch import Tensor, nn

import lmc_utils as lmc
from lmc_utils.networks import base, gpt2, mlp, resnet, vit
from lmc_utils.networks.base import Network
from lmc_utils.networks.layout import Weights
from lmc_utils.spec import Site
from lmc_utils.testing import parametrize_with_checks

BOOK = Path(__file__).parent.parent / "book"


def small_mlp(*between: nn.Module) -> tuple[nn.Module, Tensor]:
    first, second = between or (nn.ReLU(), nn.ReLU())
    layers = nn.Linear(4, 6), first, nn.Linear(6, 5, bias=False), second, nn.Linear(5, 3)
    return nn.Sequential(*layers), torch.randn(20, 4, generator=torch.Generator().manual_seed(0))


def small_gpt2(**options) -> nn.Module:
    shape = {"n_layer": 2, "n_embd": 12, "n_head": 3, "n_inner": 14, "vocab_size": 31, "n_positions": 9}
    return gpt2.gpt2(**shape | {"bos_token_id": 0, "eos_token_id": 0} | options)


def other_gpt2(name: str, **options) -> nn.Module:
    """One of the classes around the same blocks."""
    kind = getattr(transformers, name)
    config = small_gpt2().config.to_dict() | {"pad_token_id": 0} | options
    return kind(kind.config_class(**config))


def small_vit(**options) -> nn.Module:
    shape = {"img_size": 8, "patch_size": 4, "in_chans": 1, "num_classes": 5}
    return vit.vit(**shape | {"embed_dim": 12, "depth": 2, "num_heads": 3, "mlp_ratio": 1.5} | options)


def of_transformers(name: str, **options) -> nn.Module:
    """A small model of this class, of tokens."""
    shape = {"vocab_size": 31, "hidden_size": 12, "num_hidden_layers": 2, "num_attention_heads": 3}
    rest = {"intermediate_size": 5, "max_position_embeddings": 16}
    cls = getattr(transformers, name)
    return cls(cls.config_class(**shape | rest | options))


def small_hf_vit() -> nn.Module:
    shape = {"image_size": 8, "patch_size": 4, "num_channels": 1}
    rest = {"hidden_size": 12, "num_hidden_layers": 2, "num_attention_heads": 3, "intermediate_size": 14}
    return transformers.ViTForImageClassification(transformers.ViTConfig(**shape, **rest))


def small_resnet() -> tuple[nn.Module, Tensor]:
    images = torch.randn(4, 1, 12, 12, generator=torch.Generator().manual_seed(0))
    return resnet.resnet20(in_chans=1, channels=(4, 6), blocks=1), images


def mixer(**options) -> tuple[nn.Module, Tensor]:
    """The MLP-Mixer that chapter 6 teaches the package, as it is written there."""
    cells = json.loads((BOOK / "06-one-framework.ipynb").read_text())["cells"]
    code = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
    first = next(i for i, source in enumerate(code) if "class Mixer(Stock)" in source)
    names = {"lmc": lmc, "torch": torch}
    for source in code[first - 1 : first + 1]:
        exec(source, names)
    model = names["mixer"](dim=12, tokens=5, channels=14, blocks=2, **options)
    return model, torch.randn(3, 1, 28, 28, generator=torch.Generator().manual_seed(0))


def own_transformer() -> tuple[nn.Module, Tensor]:
    """The transformer that chapter 6 teaches the package, as it is written there."""
    cells = json.loads((BOOK / "06-one-framework.ipynb").read_text())["cells"]
    code = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
    first = next(i for i, source in enumerate(code) if "class Mixer(Stock)" in source) - 1
    begin = next(i for i, source in enumerate(code) if "class Block(nn.Module)" in source)
    end = next(i for i, source in enumerate(code) if "def canonical_reader" in source)
    names = {"lmc": lmc, "torch": torch, "__name__": "chapter6"}
    for source in [code[first], *code[begin : end + 1]]:
        exec(source, names)
    return names["Reader"](), torch.randint(11, (8, 6), generator=torch.Generator().manual_seed(0))


MODELS = {
    "mlp": small_mlp,
    "mlp with other non-linearities": lambda: small_mlp(nn.GELU(), nn.Softplus()),
    "gpt2": small_gpt2,
    "gpt2 relu": lambda: small_gpt2(activation_function="relu", n_layer=1, scale_attn_weights=False),
    "gpt2 classifier": lambda: other_gpt2("GPT2ForSequenceClassification", num_labels=5),
    "gpt2 without a head": lambda: other_gpt2("GPT2Model"),
    "vit": small_vit,
    "vit pooling": lambda: small_vit(global_pool="avg", class_token=False, qkv_bias=False),
    "vit layer scale and registers": lambda: small_vit(init_values=0.1, reg_tokens=3),
    "vit head norms": lambda: small_vit(qk_norm=True),
    "llama": lambda: of_transformers("LlamaForCausalLM", num_key_value_heads=1),
    "mistral": lambda: of_transformers("MistralForCausalLM", num_key_value_heads=3, sliding_window=4),
    "qwen2": lambda: of_transformers("Qwen2ForCausalLM", num_attention_heads=4, num_key_value_heads=2, hidden_size=16),
    "qwen3": lambda: of_transformers("Qwen3ForCausalLM", num_key_value_heads=1, head_dim=6),
    "olmo2": lambda: of_transformers("Olmo2ForCausalLM", num_key_value_heads=1),
    # what transformers prefers for experts takes no float64
    "mixtral": lambda: of_transformers(
        "MixtralForCausalLM", num_key_value_heads=1, num_local_experts=3, experts_implementation="eager"
    ),
    "neox": lambda: of_transformers("GPTNeoXForCausalLM"),
    "bert": lambda: of_transformers("BertForMaskedLM"),
    "bert without a head": lambda: of_transformers("BertModel"),
    "transformers' vit": small_hf_vit,
    "resnet": small_resnet,
    "transformer of chapter 6": own_transformer,
    "mixer of chapter 6": mixer,
    "mixer of chapter 6 relu": lambda: mixer(act=nn.ReLU),
}


@parametrize_with_checks(MODELS)
def test_every_architecture_keeps_the_laws(check):
    check()


# Each law broken on purpose, in a multilayer perceptron


def fold(
    model: nn.Module, kind: type[mlp.MLP] = mlp.MLP, change: Callable[[Weights], None] = lambda w: None
) -> Network:
    """What the file of the multilayer perceptron does, of another class or with other weights."""
    w = Weights(model)
    change(w)
    return kind.of_module(base.skeleton(model)).network(w)


def retyped(model: nn.Module, types: dict[str, str] | None = None, sites: dict[str, Site] | None = None) -> Network:
    network = fold(model)
    spec = replace(
        network.spec, types={**network.spec.types, **(types or {})}, sites=network.spec.sites | (sites or {})
    )
    return replace(network, architecture=replace(network.architecture, spec=spec))


def drops_a_bias(model):
    return fold(model, change=lambda w: w.update({"0.bias": 0 * w["0.bias"]}))


def turns_a_sign(model):
    return fold(model, change=lambda w: w.update({"4.bias": -w["4.bias"]}))


def changes_the_model(model):
    network = fold(model)
    with torch.no_grad():
        model[0].bias.zero_()
    return network


def changes_the_mode(model):
    return fold(model.eval())


def draws_random_numbers(model):
    torch.rand(1)
    return fold(model)


def leaves_gradients_off(model):
    torch.set_grad_enabled(False)
    return fold(model)


def folds_again_and_again(model):
    return fold(model, change=lambda w: w.update({"0.weight": 2 * w["0.weight"], "0.bias": 2 * w["0.bias"],
                                                  "2.weight": w["2.weight"] / 2}))  # fmt: skip


def shares_memory(model):
    network = fold(model)
    return replace(network, params=network.params | {"0.bias": model[0].bias.detach()})


def forgets_the_dtype(model):
    return fold(model).to(torch.float64)


def rotates_units(model):
    return retyped(model, sites={"ff.0": Site(lmc.Orthogonal, 6)})


def scales_too_little(model):
    return retyped(model, sites={"ff.1": Site(lmc.Permutation, 5)})


def forgets_a_reader(model):
    return retyped(model, {"2.weight": "ff.1 _"})


def forgets_a_writer(model):
    return retyped(model, {"0.bias": "_"})


def turns_a_star(model):
    return retyped(model, {"0.weight": "ff.0* _"})


class ForgetsATensor(mlp.MLP):
    def to_model(self, params):
        model = super().to_model(params)
        nn.init.zeros_(model[2].weight)
        return model


class LeavesATensorEmpty(mlp.MLP):
    def to_model(self, params):
        model = super().to_model(params)
        model[2].weight = nn.Parameter(model[2].weight.to("meta"))
        return model


class LooksAtTheWrongAxis(mlp.MLP):
    def activations(self, params, inputs):
        return {site: x.T for site, x in super().activations(params, inputs).items()}


class LooksAtOtherUnits(mlp.MLP):
    def activations(self, params, inputs):
        return {site: x.sort(-1).values for site, x in super().activations(params, inputs).items()}


class SeesTooLittle(mlp.MLP):
    def activations(self, params, inputs):
        return {"ff.0": super().activations(params, inputs)["ff.0"]}


class ChangesItsInputs(mlp.MLP):
    def forward(self, params, inputs):
        return super().forward(params, inputs.mul_(1.01))


class ForgetsWhenItIsWider(mlp.MLP):
    def with_sizes(self, sizes):
        wider = super().with_sizes(sizes)
        wider.module[1] = nn.Identity()
        return wider


BROKEN = {
    drops_a_bias: r"check_folding: .* '0.bias' changes the model's logits, but has no part in the canonical form",
    turns_a_sign: r"check_folding: .* a logit differs by .*; of all parameters '4.bias' changes them most differently",
    changes_the_model: r"check_nothing_changes: canonicalize changes '0.bias' of the model",
    changes_the_mode: r"check_nothing_changes: canonicalize changes the mode of ''",
    draws_random_numbers: r"check_nothing_changes: canonicalize changes torch's random state",
    leaves_gradients_off: r"check_nothing_changes: canonicalize changes the grad mode",
    ChangesItsInputs: r"check_nothing_changes: running the network changes the inputs",
    folds_again_and_again: r"check_going_back: parameter '\d.weight' is another one in the canonical form of to_model",
    ForgetsATensor: r"check_going_back: parameter '2.weight' is another one in the canonical form of to_model\(\)",
    LeavesATensorEmpty: r"check_going_back: to_model leaves '2.weight' without numbers",
    shares_memory: r"check_sharing: the network's '0.bias' shares memory with the model's '0.bias'",
    rotates_units: r"check_symmetries: site 'ff.0': a Orthogonal changes a logit by .*; a Permutation changes none",
    forgets_a_reader: r"site 'ff.0': .* if the type of '2.weight' were 'ff.1 ff.0\*' instead of 'ff.1 _'",
    forgets_a_writer: r"check_symmetries: site 'ff.0': .* if the type of '0.bias' were 'ff.0' instead of '_'",
    turns_a_star: r"check_symmetries: site 'ff.0': .* if the type of '0.weight' were 'ff.0 _' instead of 'ff.0\* _'",
    scales_too_little: r"check_wrong_class_is_caught: site 'ff.1': a ScaledPermutation changes no logit",
    SeesTooLittle: r"check_activations: site 'ff.1' is not among the activations",
    LooksAtTheWrongAxis: r"check_activations: activations of site 'ff.0' have shape \(6, 20\), not \(samples, ..., 6\)",
    LooksAtOtherUnits: r"check_activations: activations of site 'ff.0' do not move as the site does",
    ForgetsWhenItIsWider: r"check_widening: the sites \['ff.0', 'ff.1'\] twice as wide: a logit changes",
    forgets_the_dtype: r"check_dtypes: parameter '0.weight' is torch.float64, where the model is torch.float32",
}  # fmt: skip


@pytest.mark.parametrize("broken", BROKEN, ids=lambda broken: broken.__name__)
def test_what_is_broken_is_named(monkeypatch, broken):
    handler = partial(fold, kind=broken) if isinstance(broken, type) else broken
    monkeypatch.setitem(base._HANDLERS, "torch.nn.modules.container.Sequential", handler)
    with torch.enable_grad(), pytest.raises(AssertionError, match=BROKEN[broken]):
        lmc.check_network(*small_mlp())
