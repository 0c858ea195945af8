"""GPT-2 (transformers' ``GPT2LMHeadModel``, ``GPT2ForSequenceClassification`` and ``GPT2Model``).

A ``GPT2Model`` answers with the residual stream itself, so the stream is fixed: heads and hidden units alone may move.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import nn

from ..spec import Params, Site
from ..symmetry import Fixed, StreamOrthogonal, Symmetry
from .base import Network, builds, register
from .fold import centre, fold_mean, fold_norm, fold_values
from .layout import Layout, Weights, head_size, stacked
from .pretrained import Pretrained, block_sites, demand
from .stock import from_config

if TYPE_CHECKING:
    from transformers import GPT2LMHeadModel, PreTrainedModel


@builds("gpt2", text=lambda config, vocabulary: config | {"vocab_size": vocabulary}, context="n_positions")
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


class GPT2(Pretrained):
    """What the classes share. Equal if the classes and the configurations that decide the function are."""

    decides: ClassVar = ("vocab_size", "max_position_embeddings", "hidden_size", "num_hidden_layers",
                         "num_attention_heads", "n_inner", "activation_function", "layer_norm_epsilon", "bos_token_id",
                         "eos_token_id")  # fmt: skip
    canonical: ClassVar = {"tie_word_embeddings": False, "attn_pdrop": 0.0}
    widths: ClassVar = {"hidden_size": "r", "num_attention_heads": "heads", "n_inner": "ff"}
    out_axis = 1  # of transformers' Conv1D
    stem: ClassVar[str] = "transformer."
    last: ClassVar[Layout]  # what follows the blocks
    stream: ClassVar[type[Symmetry]] = StreamOrthogonal

    @classmethod
    def configuration(cls, model: nn.Module) -> dict[str, Any]:
        found = super().configuration(model)
        return found | {"n_inner": found["n_inner"] or 4 * found["hidden_size"]}

    @classmethod
    def table(cls, config: Mapping[str, Any]) -> tuple[Layout, dict[str, Site], dict[str, Sequence[str]]]:
        names = {"hidden_act": config["activation_function"], "intermediate_size": config["n_inner"]}
        count, stem = config["num_hidden_layers"], cls.stem
        blocks, sites = stacked(f"{stem}h.{{}}.", count, BLOCK, block_sites({**config, **names}))
        layout = {f"{stem}wte.weight": {"wte": "_ r"}, f"{stem}wpe.weight": {"wpe": "_ r"}, **blocks, **cls.last}
        watch = {"r": [f"{stem}h.{i}" for i in range(count)]}
        return layout, {"r": Site(cls.stream, config["hidden_size"])} | sites, watch

    def decode(self, params: Params) -> Params:
        """The parameters of the stock module, which divides queries by the square root of a head's dimensions."""
        queries = {f"{i}.q.{part}" for i in range(self.config["num_hidden_layers"]) for part in ("weight", "bias")}
        scale = head_size(self.config["hidden_size"], self.config["num_attention_heads"]) ** 0.5
        return super().decode(params | {name: params[name] * scale for name in queries})


NORM: Layout = {"transformer.ln_f.weight": 1, "transformer.ln_f.bias": 1}


class LanguageModel(GPT2):
    """``GPT2LMHeadModel``."""

    data = "shakespeare"
    riding = ("lm_head",)
    last: ClassVar = NORM | {"lm_head.weight": {"head.weight": "_ r*"}, "lm_head.bias": {"head.bias": "_"}}


class Classifier(GPT2):
    """``GPT2ForSequenceClassification``, which looks at the last token that is no padding."""

    decides: ClassVar = (*GPT2.decides, "num_labels", "pad_token_id")
    riding = ("score",)
    last: ClassVar = NORM | {"score.weight": {"head.weight": "_ r*"}, "score.bias": {"head.bias": "_"}}


class Trunk(GPT2):
    """``GPT2Model``: the stream behind the last norm is what it answers."""

    stem = ""
    last: ClassVar = {"ln_f.weight": "r", "ln_f.bias": "r"}
    stream = Fixed


STOCK = "transformers.models.gpt2.modeling_gpt2.GPT2"
KINDS = {"LMHeadModel": LanguageModel, "ForSequenceClassification": Classifier, "Model": Trunk}
ACTIVATIONS = ("gelu_new", "gelu", "gelu_pytorch_tanh", "gelu_fast", "relu", "silu", "tanh")


@register(*(f"{STOCK}{name}" for name in KINDS))
def canonicalize(model: PreTrainedModel) -> Network:
    """Fold norms and biases, untie the head, fold attention scales into the queries; exact in float64."""
    given, kind = model.config, KINDS[type(model).__name__.removeprefix("GPT2")]
    demand(given, activation_function=ACTIVATIONS, add_cross_attention=[False])
    if given.n_layer < 1:
        raise ValueError("n_layer 0: a GPT-2 without blocks has nothing to match")
    if kind is Classifier and given.pad_token_id is None:
        raise ValueError("pad_token_id None: without it a classifier reads one text at a time; set it in the config")
    architecture, w = kind.fits(model)
    return architecture.network(w, _fold(w, given, kind))


def _fold(w: Weights, given: Any, kind: type[GPT2]) -> Iterator[str]:
    width, d = given.n_embd, given.n_embd // given.n_head
    words, positions = f"{kind.stem}wte.weight", f"{kind.stem}wpe.weight"
    fold_mean(w, positions, words)
    centre(w, (words, positions), 1)
    for i in range(given.n_layer):
        at = f"{kind.stem}h.{i}"
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
    if kind.riding:
        fold_norm(w, f"{kind.stem}ln_f", kind.riding)
