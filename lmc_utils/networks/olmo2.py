"""OLMo 2 (transformers' ``Olmo2ForCausalLM``): norms behind the layers, none before them.

What a layer writes is normed, multiplied by a gain and added to the stream, which all layers read as it is. A map of
the stream must commute with these gains, and keep lengths for the last norm. So it can reorder dimensions and flip
their signs: the stream ``r`` permutes, and in each of its places is a space of one dimension, ``sign``. Gains are
positive in canonical form, so they are only reordered. The norms of queries and keys span all heads: heads change
places with their gains, and a sign for each rotary pair stays free, as in Qwen3.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from ..spec import Site
from ..symmetry import Orthogonal, Permutation, RotarySign
from .base import Network, register
from .fold import fold_norm
from .layout import Layout, Weights, stacked
from .llama import Llama, check_gates, fold_group_values, group_sites, share_gains, sign_rows

if TYPE_CHECKING:
    from transformers import PreTrainedModel

BLOCK: Layout = {
    "self_attn.q_proj.weight": {"q.weight": "(kv* q qk) (r* sign*)"},
    "self_attn.k_proj.weight": {"k.weight": "(kv* qk*) (r* sign*)"},
    "self_attn.v_proj.weight": {"v.weight": "(kv ov) (r* sign*)"},
    "self_attn.o_proj.weight": {"o.weight": "(r sign) (kv* q* ov*)"},
    "self_attn.q_norm.weight": {"q.gain": "(kv* q _)"},
    "self_attn.k_norm.weight": {"k.gain": "(kv* _)"},
    "post_attention_layernorm.weight": {"o.gain": "r"},
    "mlp.gate_proj.weight": {"gate.weight": "ff* (r* sign*)"},
    "mlp.up_proj.weight": {"up.weight": "(ff up) (r* sign*)"},
    "mlp.down_proj.weight": {"down.weight": "(r sign) (ff* up*)"},
    "post_feedforward_layernorm.weight": {"down.gain": "r"},
}
BIASES: Layout = {
    "self_attn.q_proj.bias": {"q.bias": "(kv* q qk)"},
    "self_attn.k_proj.bias": {"k.bias": "(kv* qk*)"},
    "self_attn.v_proj.bias": 0,
    "self_attn.o_proj.bias": {"o.bias": "(r sign)"},
}


class Olmo2(Llama):
    """Equal if the classes and the configurations that decide the function are."""

    canonical: ClassVar = {**Llama.canonical, "pad_token_id": None}  # or its row of the embedding has no gradient

    @classmethod
    def table(cls, config: Mapping[str, Any]) -> tuple[Layout, dict[str, Site], dict[str, Sequence[str]]]:
        stream = {"r": Site(Permutation, config["hidden_size"]), "sign": Site(Orthogonal, 1, within="r")}
        block = BLOCK | (BIASES if config["attention_bias"] else {})
        inside, layers = group_sites(config, RotarySign), config["num_hidden_layers"]
        blocks, sites = stacked("model.layers.{}.", layers, block, inside, shared=tuple(stream))
        layout = {"model.embed_tokens.weight": {"embed": "_ (r sign)"}} | blocks
        layout |= {"model.norm.weight": 1, "lm_head.weight": {"head.weight": "_ (r* sign*)"}}
        return layout, stream | sites, {}


@register("transformers.models.olmo2.modeling_olmo2.Olmo2ForCausalLM")
def canonicalize(model: PreTrainedModel) -> Network:
    """Fold the last norm and value biases, make gains positive, untie the head; as exact as norms in float32 are."""
    check_gates(model.config)
    architecture, w = Olmo2.fits(model)
    return architecture.network(w, _fold(w, model.config))


def _fold(w: Weights, given: Any) -> Iterator[str]:
    for i in range(given.num_hidden_layers):
        at = f"model.layers.{i}"
        fold_group_values(w, f"{at}.self_attn", given.num_key_value_heads)
        share_gains(w, f"{at}.self_attn", given.num_key_value_heads)
        for norm, layer in (("post_attention", "self_attn.o_proj"), ("post_feedforward", "mlp.down_proj")):
            gain = w[f"{at}.{norm}_layernorm.weight"]
            sign_rows(w, f"{at}.{layer}", gain)
            w[f"{at}.{norm}_layernorm.weight"] = gain.abs()
        yield f"{at}."
    fold_norm(w, "model.norm", ["lm_head"], layer=False)
