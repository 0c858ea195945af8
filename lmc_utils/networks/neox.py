"""GPT-NeoX, of which Pythia is one (transformers' ``GPTNeoXForCausalLM``): partly rotary positions, parallel blocks."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from ..spec import Site
from ..symmetry import Invertible, Permutation, Rotary, ScaledPermutation, StreamOrthogonal
from .base import Network, builds, register
from .fold import centre, fold_norm, fold_values
from .gpt2 import ACTIVATIONS
from .layout import Layout, Weights, head_size, stacked
from .pretrained import Pretrained, check_rotary
from .stock import from_config

if TYPE_CHECKING:
    from transformers import GPTNeoXForCausalLM


@builds("neox", text=lambda config, vocabulary: config | {"vocab_size": vocabulary})
def neox(**config: Any) -> GPTNeoXForCausalLM:
    """transformers' GPT-NeoX with freshly drawn weights; the arguments are those of its ``GPTNeoXConfig``.

    Raises
    ------
    TypeError
        If ``GPTNeoXConfig`` has no such argument.
    """
    from transformers import GPTNeoXConfig, GPTNeoXForCausalLM

    return from_config(GPTNeoXForCausalLM, GPTNeoXConfig, config)


BLOCK: Layout = {
    "input_layernorm.weight": 1,
    "input_layernorm.bias": 0,
    "attention.query_key_value.weight": {  # rows are numbered by head, then by query, key and value
        "q.turned.weight": "(heads* [turned]) r*",
        "q.plain.weight": "(heads* [plain]) r*",
        "k.turned.weight": "(heads* [turned*]) r*",
        "k.plain.weight": "(heads* [plain*]) r*",
        "v.weight": "(heads [ov]) r*",
    },
    "attention.query_key_value.bias": {
        "q.turned.bias": "(heads* [turned])",
        "q.plain.bias": "(heads* [plain])",
        "k.turned.bias": "(heads* [turned*])",  # turned by the key's position, so softmax sees it
        "k.plain.bias": "0: (heads* [plain*])",
        "v.bias": "0: (heads [ov])",
    },
    "attention.dense.weight": {"o.weight": "r (heads* ov*)"},
    "attention.dense.bias": {"o.bias": "r"},
    "post_attention_layernorm.weight": 1,
    "post_attention_layernorm.bias": 0,
    "mlp.dense_h_to_4h.weight": {"fc.weight": "ff r*"},
    "mlp.dense_h_to_4h.bias": {"fc.bias": "ff"},
    "mlp.dense_4h_to_h.weight": {"proj.weight": "r ff*"},
    "mlp.dense_4h_to_h.bias": {"proj.bias": "r"},
}


class GPTNeoX(Pretrained):
    """Equal if the configurations that decide the function are."""

    data = "shakespeare"
    decides = ("vocab_size", "max_position_embeddings", "hidden_size", "num_hidden_layers", "num_attention_heads",
               "intermediate_size", "hidden_act", "layer_norm_eps", "use_parallel_residual", "rope_parameters",
               "bos_token_id", "eos_token_id")  # fmt: skip
    canonical: ClassVar = {"tie_word_embeddings": False, "attention_bias": True}
    riding = ("lm_head",)

    @classmethod
    def table(cls, config: Mapping[str, Any]) -> tuple[Layout, dict[str, Site], dict[str, Sequence[str]]]:
        heads, layers, relu = config["num_attention_heads"], config["num_hidden_layers"], config["hidden_act"] == "relu"
        d = head_size(config["hidden_size"], heads)
        share = config["rope_parameters"].get("partial_rotary_factor", 1.0)
        turned = 2 * -(-int(d * share) // 2)  # a frequency for each pair that has begun
        inside = {
            "heads": Site(Permutation, heads),
            "turned": Site(Rotary, turned, within="heads"),
            "plain": Site(Invertible, d - turned, within="heads"),
            "ov": Site(Invertible, d, within="heads"),
            "ff": Site(ScaledPermutation if relu else Permutation, config["intermediate_size"]),
        }
        # both halves of a parallel block add to the stream at once: one bias is enough
        block = BLOCK | {"mlp.dense_4h_to_h.bias": 0} if config["use_parallel_residual"] else BLOCK
        blocks, sites = stacked("gpt_neox.layers.{}.", layers, block, inside)
        layout = {"gpt_neox.embed_in.weight": {"embed": "_ r"}} | blocks
        layout |= {"gpt_neox.final_layer_norm.weight": 1, "gpt_neox.final_layer_norm.bias": 1}
        layout |= {"lm_head.weight": {"head.weight": "_ r*"}, "lm_head.bias": {"head.bias": "_"}}
        watch = {"r": [f"gpt_neox.layers.{i}" for i in range(layers)]}
        return layout, {"r": Site(StreamOrthogonal, config["hidden_size"])} | sites, watch


@register("transformers.models.gpt_neox.modeling_gpt_neox.GPTNeoXForCausalLM")
def canonicalize(model: GPTNeoXForCausalLM) -> Network:
    """Fold norms and biases, untie the head, move a parallel block's second bias into the first; exact in float64."""
    given = model.config
    if given.hidden_act not in ACTIVATIONS:
        raise ValueError(f"hidden_act {given.hidden_act!r} is not elementwise as far as we know")
    check_rotary(given)
    architecture, w = GPTNeoX.fits(model)
    return architecture.network(w, _fold(w, given))


def _fold(w: Weights, given: Any) -> Iterator[str]:
    heads = given.num_attention_heads
    centre(w, ["gpt_neox.embed_in.weight"], 1)
    for i in range(given.num_hidden_layers):
        at = f"gpt_neox.layers.{i}"
        qkv, o, fc, proj = (
            f"{at}.{name}"
            for name in ("attention.query_key_value", "attention.dense", "mlp.dense_h_to_4h", "mlp.dense_4h_to_h")
        )
        fold_norm(w, f"{at}.input_layernorm", [qkv])
        fold_norm(w, f"{at}.post_attention_layernorm", [fc])
        fold_values(w, o, w[f"{qkv}.bias"].view(heads, 3, -1)[:, 2].flatten())
        if given.use_parallel_residual:
            w[f"{o}.bias"] = w[f"{o}.bias"] + w[f"{proj}.bias"]
        centre(w, [f"{layer}.{part}" for layer in (o, proj) for part in ("weight", "bias")], 0)
        yield f"{at}."
    fold_norm(w, "gpt_neox.final_layer_norm", ["lm_head"])
