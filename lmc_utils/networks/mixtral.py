"""Mixtral (transformers' ``MixtralForCausalLM``): experts of gated units, grouped queries with rotary positions."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ..spec import Params, Site
from ..symmetry import Invertible, Permutation, RMSOrthogonal, Rotary
from .base import Network, capture, register
from .fold import centre, fold_norm
from .gpt2 import ACTIVATIONS
from .layout import Layout, Weights, head_size, stacked
from .pretrained import Pretrained, check_rotary

if TYPE_CHECKING:
    from transformers import MixtralForCausalLM

BLOCK: Layout = {
    "input_layernorm.weight": 1,
    "self_attn.q_proj.weight": {"q": "(kv* q qk) r*"},
    "self_attn.k_proj.weight": {"k": "(kv* qk*) r*"},
    "self_attn.v_proj.weight": {"v": "(kv ov) r*"},
    "self_attn.o_proj.weight": {"o": "r (kv* q* ov*)"},
    "post_attention_layernorm.weight": 1,
    "mlp.gate.weight": {"router": "ex* r*"},
    "mlp.experts.gate_up_proj": {"gate": "ex* [ff*] r*", "up": "ex* [ff up] r*"},
    "mlp.experts.down_proj": {"down": "ex* r (ff* up*)"},
}


class Mixtral(Pretrained):
    """Equal if the configurations that decide the function are."""

    data = "shakespeare"
    decides = ("vocab_size", "max_position_embeddings", "hidden_size", "num_hidden_layers", "num_attention_heads",
               "num_key_value_heads", "head_dim", "intermediate_size", "num_local_experts", "num_experts_per_tok",
               "hidden_act", "rms_norm_eps", "rope_parameters", "sliding_window", "bos_token_id",
               "eos_token_id")  # fmt: skip

    @classmethod
    def table(cls, config: Mapping[str, Any]) -> tuple[Layout, dict[str, Site], dict[str, Sequence[str]]]:
        groups, layers = config["num_key_value_heads"], config["num_hidden_layers"]
        d = config["head_dim"] or head_size(config["hidden_size"], config["num_attention_heads"])
        inside = {
            "kv": Site(Permutation, groups),
            "q": Site(Permutation, head_size(config["num_attention_heads"], groups), within="kv"),
            "qk": Site(Rotary, d, within="kv"),
            "ov": Site(Invertible, d, within="kv"),
            "ex": Site(Permutation, config["num_local_experts"]),
            "ff": Site(Permutation, config["intermediate_size"], within="ex"),
            "up": Site(Invertible, 1, within="ff"),
        }
        blocks, sites = stacked("model.layers.{}.", layers, BLOCK, inside)
        layout = {"model.embed_tokens.weight": {"embed": "_ r"}} | blocks
        layout |= {"model.norm.weight": 1, "lm_head.weight": {"head.weight": "_ r*"}}
        watch = {"r": [f"model.layers.{i}" for i in range(layers)]}
        return layout, {"r": Site(RMSOrthogonal, config["hidden_size"])} | sites, watch

    def activations(self, params: Params, inputs: Tensor) -> dict[str, Tensor]:
        """Those of the layout, and the units of every expert for every token, wherever the router sends it."""
        experts = {i: f"model.layers.{i}.mlp.experts" for i in range(self.config["num_hidden_layers"])}
        with capture() as seen:
            for i, name in experts.items():
                seen.input(self.module.get_submodule(name), i)
            found = super().activations(params, inputs)
        for i, name in experts.items():
            gate = torch.einsum("efr,tr->tef", params[f"{i}.gate"], seen[i])
            up = torch.einsum("efur,tr->tefu", params[f"{i}.up"], seen[i])
            act = self.module.get_submodule(f"{name}.act_fn")
            found |= {f"ff.{i}": gate, f"up.{i}": act(gate).unsqueeze(-1) * up}
        return found


@register("transformers.models.mixtral.modeling_mixtral.MixtralForCausalLM")
def canonicalize(model: MixtralForCausalLM) -> Network:
    """Fold norms, untie the head, centre the router; as exact as the stock norms, which compute in float32."""
    given = model.config
    if given.hidden_act not in ACTIVATIONS or given.hidden_act == "relu":  # whose gates scale, too
        raise ValueError(f"hidden_act {given.hidden_act!r}: units with such a gate have no canonical form here")
    check_rotary(given)
    architecture, w = Mixtral.fits(model)
    return architecture.network(w, _fold(w, given))


def _fold(w: Weights, given: Any) -> Iterator[str]:
    for i in range(given.num_hidden_layers):
        at = f"model.layers.{i}"
        norm, router, units = (f"{at}.{name}" for name in ("post_attention_layernorm", "mlp.gate", "mlp.experts"))
        fold_norm(w, f"{at}.input_layernorm", [f"{at}.self_attn.{x}_proj" for x in "qkv"], layer=False)
        w[f"{units}.gate_up_proj"] = w[f"{units}.gate_up_proj"] * w[f"{norm}.weight"]
        fold_norm(w, norm, [router], layer=False)
        centre(w, [f"{router}.weight"], 0)  # softmax does not see what is added to all experts
        yield f"{at}."
    fold_norm(w, "model.norm", ["lm_head"], layer=False)
