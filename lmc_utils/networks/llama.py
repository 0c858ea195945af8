"""Llama and its kin (transformers' ``LlamaForCausalLM``, Mistral, Qwen2, Qwen3): rotary positions and gated units.

RMSNorms stand between all layers. Queries come in groups that share a key and a value. Qwen2 has biases of queries,
keys and values. Qwen3 norms queries and keys of each head before they are turned: a sign for each pair stays free.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch

from ..spec import Site
from ..symmetry import Invertible, Permutation, RMSOrthogonal, Rotary, RotarySign
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


class Llama(Pretrained):
    """Equal if the classes and the configurations that decide the function are."""

    data = "shakespeare"
    decides = ("vocab_size", "max_position_embeddings", "hidden_size", "num_hidden_layers", "num_attention_heads",
               "num_key_value_heads", "head_dim", "intermediate_size", "hidden_act", "rms_norm_eps", "rope_parameters",
               "attention_bias", "mlp_bias", "sliding_window", "use_sliding_window", "max_window_layers",
               "layer_types", "bos_token_id", "eos_token_id")  # fmt: skip

    @classmethod
    def table(cls, config: Mapping[str, Any]) -> tuple[Layout, dict[str, Site], dict[str, Sequence[str]]]:
        layers, groups, normed = config["num_hidden_layers"], config["num_key_value_heads"], config["class"] == QWEN3
        d = config.get("head_dim") or head_size(config["hidden_size"], config["num_attention_heads"])
        inside = {
            "kv": Site(Permutation, groups),
            "q": Site(Permutation, head_size(config["num_attention_heads"], groups), within="kv"),
            "qk": Site(RotarySign if normed else Rotary, d, within="kv"),
            "ov": Site(Invertible, d, within="kv"),
            "ff": Site(Permutation, config["intermediate_size"]),
            "up": Site(Invertible, 1, within="ff"),
        }
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
    given = model.config
    if given.hidden_act not in ACTIVATIONS or given.hidden_act == "relu":  # whose gates scale, too
        raise ValueError(f"hidden_act {given.hidden_act!r}: units with such a gate have no canonical form here")
    check_rotary(given)
    architecture, w = Llama.fits(model)
    return architecture.network(w, _fold(w, given))


def _fold(w: Weights, given: Any) -> Iterator[str]:
    groups = given.num_key_value_heads
    for i in range(given.num_hidden_layers):
        at = f"model.layers.{i}"
        q, k, v, o, gate, up = (f"{at}.{x}_proj" for x in (*(f"self_attn.{y}" for y in "qkvo"), "mlp.gate", "mlp.up"))
        fold_norm(w, f"{at}.input_layernorm", [q, k, v], layer=False)
        fold_norm(w, f"{at}.post_attention_layernorm", [gate, up], layer=False)
        if f"{o}.bias" in w:
            each = given.num_attention_heads // groups
            fold_values(w, o, w[f"{v}.bias"].view(groups, 1, -1).expand(-1, each, -1).flatten())
        if f"{at}.self_attn.q_norm.weight" in w:
            _share_gains(w, f"{at}.self_attn")
        yield f"{at}."
    fold_norm(w, "model.norm", ["lm_head"], layer=False)


def _share_gains(w: Weights, at: str) -> None:
    """Signs of the gains go into the rows, which the norm takes as well; queries and keys get equal gains per pair."""
    gains = {x: w[f"{at}.{x}_norm.weight"] for x in "qk"}
    for x, gain in gains.items():
        sign = torch.where(gain < 0, -1.0, 1.0).to(gain)
        for name in {f"{at}.{x}_proj.weight", f"{at}.{x}_proj.bias"} & w.keys():
            w[name] = (w[name].unflatten(0, (-1, len(sign))).movedim(1, -1) * sign).movedim(-1, 1).flatten(0, 1)
    q, k = (gain.view(2, -1).norm(dim=0) for gain in gains.values())
    scale = torch.where((q > 0) & (k > 0), (k / q).sqrt(), 1.0).repeat(2)
    w[f"{at}.q_norm.weight"], w[f"{at}.k_norm.weight"] = gains["q"].abs() * scale, gains["k"].abs() / scale
