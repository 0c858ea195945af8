"""Llama and its kin (transformers' ``LlamaForCausalLM``, Mistral, Qwen2, Qwen3): rotary positions and gated units.

There are RMSNorms between all layers. Queries come in groups that share a key and a value. Qwen2 has biases of queries,
keys and values. Qwen3 norms queries and keys of each head before they are turned: a sign for each pair stays free.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ..spec import Site
from ..symmetry import Invertible, Permutation, RMSOrthogonal, Rotary, RotarySign, Symmetry
from .base import Network, builds, register
from .fold import fold_norm, fold_values
from .gpt2 import ACTIVATIONS
from .layout import Layout, Weights, head_size, stacked
from .pretrained import Pretrained, check_rotary
from .stock import from_config

if TYPE_CHECKING:
    from transformers import LlamaForCausalLM, PreTrainedModel

BLOCK: Layout = {
    "input_layernorm.weight": 1,
    "self_attn.q_proj.weight": {"q.weight": "(kv* q qk) r*"},
    "self_attn.k_proj.weight": {"k.weight": "(kv* qk*) r*"},
    "self_attn.v_proj.weight": {"v.weight": "(kv ov) r*"},
    "self_attn.o_proj.weight": {"o.weight": "r (kv* q* ov*)"},
    "post_attention_layernorm.weight": 1,
    "mlp.gate_proj.weight": {"gate.weight": "ff* r*"},
    "mlp.up_proj.weight": {"up.weight": "(ff up) r*"},
    "mlp.down_proj.weight": {"down.weight": "r (ff* up*)"},
}
TURNED_BIASES: Layout = {  # by the key's position, so softmax sees both
    "self_attn.q_proj.bias": {"q.bias": "(kv* q qk)"},
    "self_attn.k_proj.bias": {"k.bias": "(kv* qk*)"},
}
VALUE_BIAS: Layout = {"self_attn.v_proj.bias": {"v.bias": "(kv ov)"}}  # which no output bias can take over
OUTPUT_BIAS: Layout = {"self_attn.v_proj.bias": 0, "self_attn.o_proj.bias": {"o.bias": "r"}}
UNIT_BIASES: Layout = {
    "mlp.gate_proj.bias": {"gate.bias": "ff*"},
    "mlp.up_proj.bias": {"up.bias": "(ff up)"},
    "mlp.down_proj.bias": {"down.bias": "r"},
}
GAINS: Layout = {"self_attn.q_norm.weight": {"q.gain": "_"}, "self_attn.k_norm.weight": {"k.gain": "_"}}
QWEN2 = "transformers.models.qwen2.modeling_qwen2.Qwen2ForCausalLM"
QWEN3 = "transformers.models.qwen3.modeling_qwen3.Qwen3ForCausalLM"


@builds("llama", text=lambda config, vocabulary: config | {"vocab_size": vocabulary})
def llama(**config: Any) -> LlamaForCausalLM:
    """transformers' Llama with freshly drawn weights; the arguments are those of its ``LlamaConfig``.

    Raises
    ------
    TypeError
        If ``LlamaConfig`` has no such argument.
    """
    from transformers import LlamaConfig, LlamaForCausalLM

    return from_config(LlamaForCausalLM, LlamaConfig, config)


def group_sites(config: Mapping[str, Any], turned: type[Symmetry]) -> dict[str, Site]:
    """The sites of a block whose query heads share keys and values in groups, with gated units."""
    heads, groups = config["num_attention_heads"], config["num_key_value_heads"]
    d = config.get("head_dim") or head_size(config["hidden_size"], heads)
    return {
        "kv": Site(Permutation, groups),
        "q": Site(Permutation, head_size(heads, groups), within="kv"),
        "qk": Site(turned, d, within="kv"),
        "ov": Site(Invertible, d, within="kv"),
        "ff": Site(Permutation, config["intermediate_size"]),
        "up": Site(Invertible, 1, within="ff"),
    }


class Llama(Pretrained):
    """Equal if the classes and the configurations that decide the function are."""

    data = "shakespeare"
    decides = ("vocab_size", "max_position_embeddings", "hidden_size", "num_hidden_layers", "num_attention_heads",
               "num_key_value_heads", "head_dim", "intermediate_size", "hidden_act", "rms_norm_eps", "rope_parameters",
               "attention_bias", "mlp_bias", "sliding_window", "use_sliding_window", "max_window_layers",
               "layer_types", "bos_token_id", "eos_token_id")  # fmt: skip

    @classmethod
    def table(cls, config: Mapping[str, Any]) -> tuple[Layout, dict[str, Site], dict[str, Sequence[str]]]:
        layers, normed = config["num_hidden_layers"], config["class"] == QWEN3
        inside = group_sites(config, RotarySign if normed else Rotary)
        block = {**BLOCK, **(GAINS if normed else {}), **(UNIT_BIASES if config.get("mlp_bias") else {})}
        if config["class"] == QWEN2:
            block |= {**TURNED_BIASES, **VALUE_BIAS}
        elif config.get("attention_bias"):
            block |= {**TURNED_BIASES, **OUTPUT_BIAS}
        blocks, sites = stacked("model.layers.{}.", layers, block, inside)
        layout = {"model.embed_tokens.weight": {"embed": "_ r"}} | blocks
        layout |= {"model.norm.weight": 1, "lm_head.weight": {"head.weight": "_ r*"}}
        watch = {"r": [f"model.layers.{i}" for i in range(layers)]}
        return layout, {"r": Site(RMSOrthogonal, config["hidden_size"])} | sites, watch


@register(
    "transformers.models.llama.modeling_llama.LlamaForCausalLM",
    "transformers.models.mistral.modeling_mistral.MistralForCausalLM",
    QWEN2,
    QWEN3,
)
def canonicalize(model: PreTrainedModel) -> Network:
    """Fold norms, value biases and scales, untie the head; as exact as the stock norms, which compute in float32."""
    check_gates(model.config)
    architecture, w = Llama.fits(model)
    return architecture.network(w, _fold(w, model.config))


def check_gates(config: Any) -> None:
    """Raise a ValueError if gated units or rotary positions have no canonical form here."""
    if config.hidden_act not in ACTIVATIONS or config.hidden_act == "relu":  # whose gates scale, too
        raise ValueError(f"hidden_act {config.hidden_act!r}: units with such a gate have no canonical form here")
    check_rotary(config)


def _fold(w: Weights, given: Any) -> Iterator[str]:
    for i in range(given.num_hidden_layers):
        at = f"model.layers.{i}"
        q, k, v, gate, up = (f"{at}.{x}_proj" for x in (*(f"self_attn.{y}" for y in "qkv"), "mlp.gate", "mlp.up"))
        fold_norm(w, f"{at}.input_layernorm", [q, k, v], layer=False)
        fold_norm(w, f"{at}.post_attention_layernorm", [gate, up], layer=False)
        fold_group_values(w, f"{at}.self_attn", given.num_key_value_heads)
        if f"{at}.self_attn.q_norm.weight" in w:
            share_gains(w, f"{at}.self_attn")
        yield f"{at}."
    fold_norm(w, "model.norm", ["lm_head"], layer=False)


def fold_group_values(w: Weights, at: str, groups: int) -> None:
    """Move the value biases of groups of heads into the output bias, where there is one."""
    if f"{at}.o_proj.bias" in w:
        bias, width = w[f"{at}.v_proj.bias"].view(groups, 1, -1), w[f"{at}.o_proj.weight"].shape[1]
        fold_values(w, f"{at}.o_proj", bias.expand(-1, width // bias.numel(), -1).flatten())


def sign_rows(w: Weights, layer: str, gain: Tensor) -> None:
    """Move the signs of a gain into the rows of the layer that its norm reads: the norm takes no notice of them."""
    sign = torch.where(gain < 0, -1.0, 1.0).to(gain)
    for name in {f"{layer}.weight", f"{layer}.bias"} & w.keys():
        w[name] = (w[name].unflatten(0, (-1, len(sign))).movedim(1, -1) * sign).movedim(-1, 1).flatten(0, 1)


def share_gains(w: Weights, at: str, groups: int = 1) -> None:
    """Make the gains of queries and keys positive, and for each pair of a group equally large.

    ``groups`` is how many there are with gains of their own: where one gain serves all heads it is 1.
    """
    gains = {x: w[f"{at}.{x}_norm.weight"] for x in "qk"}
    for x, gain in gains.items():
        sign_rows(w, f"{at}.{x}_proj", gain)
    keys = gains["k"].abs().view(groups, 1, 2, -1)
    queries = gains["q"].abs().view(groups, -1, 2, keys.shape[-1])
    q, k = (gain.norm(dim=(1, 2), keepdim=True) for gain in (queries, keys))
    scale = torch.where((q > 0) & (k > 0), (k / q).sqrt(), 1.0)
    w[f"{at}.q_norm.weight"], w[f"{at}.k_norm.weight"] = (queries * scale).flatten(), (keys / scale).flatten()
