"""GPT-2 (transformers' ``GPT2LMHeadModel``)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.func import functional_call

from ..spec import Params, Spec
from .base import Network, builds, check_same_parts, register, skeleton
from .transformer import (
    Affine,
    Parts,
    Transformer,
    block_types,
    canonical_block,
    centre,
    read,
    sites,
    stock_attention,
)

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

    if unknown := [name for name in config if name not in GPT2Config.__annotations__]:  # which it would keep
        raise TypeError(f"GPT2Config has no {', '.join(unknown)}")
    return GPT2LMHeadModel(GPT2Config(**config, attn_implementation="sdpa"))


class GPT2(Transformer):
    """Equal if the configurations that decide the function are."""

    data = "shakespeare"

    @classmethod
    def of(cls, config: dict, d_head: int) -> GPT2:
        """The table of types, and the stock module of this configuration."""
        from transformers import GPT2Config, GPT2LMHeadModel

        with torch.device("meta"):
            module = skeleton(GPT2LMHeadModel(GPT2Config(**config)))
        blocks = {str(i): (config["n_head"], d_head, config["n_inner"]) for i in range(config["n_layer"])}
        types = {"wte": "_ r", "wpe": "_ r"}
        for prefix in blocks:
            types |= block_types(prefix)
        types |= {"head.weight": "_ r*", "head.bias": "_"}
        homogeneous = config["activation_function"] == "relu"
        return cls(config, Spec(types, sites(config["n_embd"], blocks, homogeneous)), module)

    @property
    def reads(self) -> tuple[int, int]:
        """Size of the vocabulary and longest context."""
        return self.config["vocab_size"], self.config["n_positions"]

    @property
    def d_head(self) -> int:
        """Dimensions of a head in the stock module."""
        return self.config["n_embd"] // self.config["n_head"]

    def decode(self, params: Params) -> Params:
        """The parameters of the stock module: norms with scale 1 and shift 0, weights as (in, out).

        The last norm shifts by the all-ones vector, which no centred weight reads: there the unembedding, which has no
        bias in GPT-2, keeps its own.
        """
        wte, bias = params["wte"], params["head.bias"]
        one, zero = wte.new_ones(wte.shape[1]), wte.new_zeros(wte.shape[1])
        found = {"transformer.wte.weight": wte, "transformer.wpe.weight": params["wpe"]}
        for i in range(self.config["n_layer"]):
            qkv, o = stock_attention(str(i), params, self.d_head)
            block = {
                "ln_1": Affine(one, zero),
                "attn.c_attn": Affine(qkv.weight.T, qkv.bias),
                "attn.c_proj": Affine(o.weight.T, o.bias),
                "ln_2": Affine(one, zero),
                "mlp.c_fc": Affine(params[f"{i}.fc.weight"].T, params[f"{i}.fc.bias"]),
                "mlp.c_proj": Affine(params[f"{i}.proj.weight"].T, params[f"{i}.proj.bias"]),
            }
            for name, (weight, shift) in block.items():
                found |= {f"transformer.h.{i}.{name}.weight": weight, f"transformer.h.{i}.{name}.bias": shift}
        head = params["head.weight"] + bias.unsqueeze(1) / len(one)
        return found | {"transformer.ln_f.weight": one, "transformer.ln_f.bias": one, "lm_head.weight": head}

    def forward(self, params: Params, inputs: Tensor) -> Tensor:
        return functional_call(self.module, self.decode(params), (inputs,), {"use_cache": False}).logits

    def parts(self) -> list[Parts]:
        return [Parts(b, b.attn.c_attn, b.attn.c_proj, b.mlp.c_fc) for b in self.module.transformer.h]

    def probe(self) -> Tensor:
        """Two windows of random tokens, at most 64 each."""
        vocabulary, positions = self.reads
        generator = torch.Generator().manual_seed(0)
        return torch.randint(vocabulary, (2, min(positions, 64)), generator=generator)

    def with_sizes(self, sizes: Mapping[str, int]) -> GPT2:
        width, heads, hidden, needed = self.uniform(sizes)
        return GPT2.of(self.config | {"n_embd": width, "n_head": heads, "n_inner": hidden}, needed)


@register("transformers.models.gpt2.modeling_gpt2.GPT2LMHeadModel")
def canonicalize(model: GPT2LMHeadModel) -> Network:
    """Fold norms and biases, untie the head, fold attention scales into the queries; exact in float64."""
    given, dtype = model.config, model.lm_head.weight.dtype
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
    architecture = GPT2.of(config, given.n_embd // given.n_head)
    check_same_parts(model, architecture.module)
    params = {name: p.to(dtype).contiguous() for name, p in _fold(model)}
    return Network(architecture, params)


def _fold(model: GPT2LMHeadModel) -> Iterator[tuple[str, Tensor]]:
    """The canonical parameters in float64, by and by: only one block at a time takes up that much memory."""
    given, weights = model.config, model.state_dict()

    def affine(name: str, transpose: bool = False) -> Affine:
        weight, bias = weights[f"{name}.weight"].double(), weights.get(f"{name}.bias")
        return Affine(weight.T if transpose else weight, None if bias is None else bias.double())

    for name in ("wte", "wpe"):
        yield name, centre(affine(f"transformer.{name}").weight, 1)
    for i in range(given.n_layer):
        prefix = f"transformer.h.{i}"
        norms = (affine(f"{prefix}.{name}") for name in ("ln_1", "ln_2"))
        linear = (affine(f"{prefix}.{name}", True) for name in ("attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj"))
        (norm1, norm2), (qkv, o, fc, proj) = norms, linear
        block = canonical_block(str(i), given.n_head, norm1, qkv, o, norm2, fc, proj)
        # the stock module will divide by sqrt(d_head)
        scale = 1.0 if given.scale_attn_weights else (given.n_embd // given.n_head) ** 0.5
        scale /= i + 1 if given.scale_attn_by_inverse_layer_idx else 1
        yield from (block | {name: block[name] * scale for name in (f"{i}.q.weight", f"{i}.q.bias")}).items()
    head = read(affine("lm_head"), affine("transformer.ln_f"))
    yield from {"head.weight": head.weight, "head.bias": head.bias}.items()


ACTIVATIONS = ("gelu_new", "gelu", "gelu_pytorch_tanh", "gelu_fast", "relu", "silu", "tanh")
