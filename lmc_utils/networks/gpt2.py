"""GPT-2 (transformers' ``GPT2LMHeadModel``)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor

from ..spec import Params, Site
from ..symmetry import Invertible, Permutation, ScaledPermutation, StreamOrthogonal
from .base import Network, builds, check_same_parts, register
from .fold import centre, fold_norm, fold_values
from .layout import Layout, Stock, Weights, head_size, stacked
from .stock import from_config

if TYPE_CHECKING:
    from transformers import GPT2LMHeadModel


@builds("gpt2", text=lambda config, vocabulary: config | {"vocab_size": vocabulary})
def gpt2(**config: Any) -> GPT2LMHeadModel:
    """transformers' GPT-2 with freshly drawn weights; the arguments are those of its ``GPT2Config``.

    Raises
    ------
    TypeError
        If ``GPT2Config`` has no such argument.
    """
    from transformers import GPT2Config, GPT2LMHeadModel

    return from_config(GPT2LMHeadModel, GPT2Config, config)


BLOCK: Layout = {
    "ln_1.weight": 1,
    "ln_1.bias": 0,
    "attn.c_attn.weight": {
        "q.weight": "r* [heads* qk] -> heads* qk r*",
        "k.weight": "r* [heads* qk*] -> heads* qk* r*",
        "v.weight": "r* [heads ov] -> heads ov r*",  # only values carry a head's weight, which matters when heads split
    },
    "attn.c_attn.bias": {"q.bias": "[heads* qk]", "k.bias": "0: [heads* qk*]", "v.bias": "0: [heads ov]"},
    "attn.c_proj.weight": {"o.weight": "(heads* ov*) r"},
    "attn.c_proj.bias": {"o.bias": "r"},
    "ln_2.weight": 1,
    "ln_2.bias": 0,
    "mlp.c_fc.weight": {"fc.weight": "r* ff -> ff r*"},
    "mlp.c_fc.bias": {"fc.bias": "ff"},
    "mlp.c_proj.weight": {"proj.weight": "ff* r -> r ff*"},
    "mlp.c_proj.bias": {"proj.bias": "r"},
}


class GPT2(Stock):
    """Equal if the configurations that decide the function are."""

    data = "shakespeare"
    widths: ClassVar = {"n_embd": "r", "n_head": "heads", "n_inner": "ff"}
    out_axis = 1  # of transformers' Conv1D
    call: ClassVar = {"use_cache": False}
    riding = ("lm_head",)

    @classmethod
    def build(cls, config: Mapping[str, Any]) -> GPT2LMHeadModel:
        from transformers import GPT2Config, GPT2LMHeadModel

        return GPT2LMHeadModel(GPT2Config(**config))

    @classmethod
    def table(cls, config: Mapping[str, Any]) -> tuple[Layout, dict[str, Site], dict[str, Sequence[str]]]:
        d, homogeneous = head_size(config["n_embd"], config["n_head"]), config["activation_function"] == "relu"
        inside = {
            "heads": Site(Permutation, config["n_head"], splits=True),
            "qk": Site(Invertible, d, within="heads"),
            "ov": Site(Invertible, d, within="heads"),
            "ff": Site(ScaledPermutation if homogeneous else Permutation, config["n_inner"], splits=homogeneous),
        }
        blocks, sites = stacked("transformer.h.{}.", config["n_layer"], BLOCK, inside)
        layout = {"transformer.wte.weight": {"wte": "_ r"}, "transformer.wpe.weight": {"wpe": "_ r"}, **blocks}
        layout |= {"transformer.ln_f.weight": 1, "transformer.ln_f.bias": 1}
        layout |= {"lm_head.weight": {"head.weight": "_ r*"}, "lm_head.bias": {"head.bias": "_"}}
        watch = {"r": [f"transformer.h.{i}" for i in range(config["n_layer"])]}
        return layout, {"r": Site(StreamOrthogonal, config["n_embd"])} | sites, watch

    def decode(self, params: Params) -> Params:
        """The parameters of the stock module, which divides queries by the square root of a head's dimensions."""
        queries = {f"{i}.q.{part}" for i in range(self.config["n_layer"]) for part in ("weight", "bias")}
        scale = head_size(self.config["n_embd"], self.config["n_head"]) ** 0.5
        return super().decode(params | {name: params[name] * scale for name in queries})

    @property
    def reads(self) -> tuple[int, int]:
        """Size of the vocabulary and longest context."""
        return self.config["vocab_size"], self.config["n_positions"]

    def probe(self) -> Tensor:
        """Two windows of random tokens, at most 64 each."""
        vocabulary, positions = self.reads
        generator = torch.Generator().manual_seed(0)
        return torch.randint(vocabulary, (2, min(positions, 64)), generator=generator)


@register("transformers.models.gpt2.modeling_gpt2.GPT2LMHeadModel")
def canonicalize(model: GPT2LMHeadModel) -> Network:
    """Fold norms and biases, untie the head, fold attention scales into the queries; exact in float64."""
    given = model.config
    if given.activation_function not in ACTIVATIONS:
        raise ValueError(f"activation_function {given.activation_function!r} is not elementwise as far as we know")
    if given.n_layer < 1:
        raise ValueError("n_layer 0: a GPT-2 without blocks has nothing to match")
    if given.add_cross_attention:
        raise ValueError("add_cross_attention: a GPT-2 that also reads an encoder has no canonical form here")
    config = {
        "vocab_size": given.vocab_size, "n_positions": given.n_positions, "n_embd": given.n_embd,
        "n_layer": given.n_layer, "n_head": given.n_head, "n_inner": given.n_inner or 4 * given.n_embd,
        "activation_function": given.activation_function, "layer_norm_epsilon": given.layer_norm_epsilon,
        "attn_pdrop": 0.0, "bos_token_id": given.bos_token_id, "eos_token_id": given.eos_token_id,
        "tie_word_embeddings": False,
    }  # fmt: skip
    architecture = GPT2.of(config)
    check_same_parts(model, architecture.module)
    weights = Weights(model)
    return architecture.network(weights, _fold(weights, given))


def _fold(w: Weights, given: Any) -> Iterator[str]:
    width, d = given.n_embd, given.n_embd // given.n_head
    centre(w, ("transformer.wte.weight", "transformer.wpe.weight"), 1)
    for i in range(given.n_layer):
        at = f"transformer.h.{i}"
        qkv, o, fc, proj = (f"{at}.{name}" for name in ("attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj"))
        fold_norm(w, f"{at}.ln_1", [qkv], axis=0)
        fold_norm(w, f"{at}.ln_2", [fc], axis=0)
        fold_values(w, o, w[f"{qkv}.bias"][2 * width :], axis=0)
        # queries carry what the module would divide scores by, so that QK circuits are plain products
        scale = d**-0.5 if given.scale_attn_weights else 1.0
        scale /= i + 1 if given.scale_attn_by_inverse_layer_idx else 1
        for part in ("weight", "bias"):
            q, rest = w[f"{qkv}.{part}"].split([width, 2 * width], -1)
            w[f"{qkv}.{part}"] = torch.cat([q * scale, rest], -1)
            centre(w, [f"{o}.{part}", f"{proj}.{part}"], -1)
        yield f"{at}."
    fold_norm(w, "transformer.ln_f", ["lm_head"])


ACTIVATIONS = ("gelu_new", "gelu", "gelu_pytorch_tanh", "gelu_fast", "relu", "silu", "tanh")
