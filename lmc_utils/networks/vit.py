"""Vision Transformers (timm's ``VisionTransformer``, pre-norm)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor, nn

from ..spec import Params, Site
from ..symmetry import Invertible, Permutation, ScaledPermutation, StreamOrthogonal
from .base import Network, builds, capture, register
from .fold import bias_of, centre, centred, fold_norm, fold_values
from .layout import Layout, Stock, Weights, head_size, stacked
from .stock import keywords

if TYPE_CHECKING:
    from timm.models.vision_transformer import VisionTransformer


ACTIVATIONS = (nn.GELU, nn.ReLU, nn.SiLU, nn.Tanh)  # elementwise, as timm builds them: without arguments


def _sized(config: dict, image: tuple[int, int, int], classes: int) -> dict:
    channels, *size = image
    return config | {"img_size": size, "in_chans": channels, "num_classes": classes}


@builds("vit", images=_sized)
def vit(**config: Any) -> VisionTransformer:
    """timm's Vision Transformer with freshly drawn weights; the arguments are its own.

    Raises
    ------
    TypeError
        If it has no such argument, or not one with a plain value.
    """
    from timm.models.vision_transformer import VisionTransformer

    if unknown := sorted(set(config) - keywords(VisionTransformer)):
        raise TypeError(f"VisionTransformer has no plain argument {', '.join(unknown)}")
    return VisionTransformer(**config)


BLOCK: Layout = {
    "norm1.weight": 1,
    "norm1.bias": 0,
    "attn.qkv.weight": {
        "q.weight": "[heads* qk] r*",
        "k.weight": "[heads* qk*] r*",
        "v.weight": "[heads ov] r*",  # only values carry a head's weight, which matters when heads split
    },
    "attn.qkv.bias": {"q.bias": "[heads* qk]", "k.bias": "0: [heads* qk*]", "v.bias": "0: [heads ov]"},
    "attn.proj.weight": {"o.weight": "r (heads* ov*) -> heads* ov* r"},
    "attn.proj.bias": {"o.bias": "r"},
    "norm2.weight": 1,
    "norm2.bias": 0,
    "mlp.fc1.weight": {"fc.weight": "ff r*"},
    "mlp.fc1.bias": {"fc.bias": "ff"},
    "mlp.fc2.weight": {"proj.weight": "r ff*"},
    "mlp.fc2.bias": {"proj.bias": "r"},
}
#: Norms of queries and keys, which all heads share. Softmax does not see what keys are shifted by, and their gain may
#: be counted among the queries'. What is left has an entry a dimension, so dimensions change places, in all heads
#: alike. (Other gains do the same if centred vectors see the same quadratic form, turned: one direction for each block
#: that no class here has.)
NORMED: Layout = {
    "attn.qkv.bias": {"q.bias": "[heads* qk]", "k.bias": "[heads* qk*]", "v.bias": "0: [heads ov]"},
    "attn.q_norm.weight": {"q.gain": "qk"},
    "attn.q_norm.bias": {"q.shift": "qk"},
    "attn.k_norm.weight": 1,
    "attn.k_norm.bias": 0,
}


class ViT(Stock):
    """Equal if the arguments that build the stock module are."""

    data = "fashion-mnist"
    widths: ClassVar = {"embed_dim": "r", "num_heads": "heads", "hidden": "ff"}

    @classmethod
    def build(cls, config: Mapping[str, Any]) -> VisionTransformer:
        from timm.layers import LayerNorm
        from timm.models.vision_transformer import VisionTransformer

        arguments = {name: value for name, value in config.items() if name not in ("hidden", "epsilon")}
        norm = partial(LayerNorm, eps=config["epsilon"])
        return VisionTransformer(
            **arguments, mlp_ratio=_ratio(config), norm_layer=norm, qkv_bias=True, weight_init="skip", device="meta"
        )

    @classmethod
    def table(cls, config: Mapping[str, Any]) -> tuple[Layout, dict[str, Site], dict[str, Sequence[str]]]:
        d, homogeneous = head_size(config["embed_dim"], config["num_heads"]), config["act_layer"] is nn.ReLU
        inside = {
            "heads": Site(Permutation, config["num_heads"], splits=True),
            "qk": Site(Permutation, d) if config["qk_norm"] else Site(Invertible, d, within="heads"),
            "ov": Site(Invertible, d, within="heads"),
            "ff": Site(ScaledPermutation if homogeneous else Permutation, config["hidden"], splits=homogeneous),
        }
        blocks, sites = stacked("blocks.{}.", config["depth"], BLOCK | (NORMED if config["qk_norm"] else {}), inside)
        layout: Layout = {
            "patch_embed.proj.weight": {"patch.weight": "r _ _ _"},
            "patch_embed.proj.bias": 0,
            "pos_embed": {"position": "1 _ r -> _ r"},
        }
        if config["class_token"]:  # the table's first row is all that it starts from, if there is one for it
            layout |= {"cls_token": {"class": "1 1 r -> r"} if config["no_embed_class"] else 0}
        if config["reg_tokens"]:  # nothing tells registers apart but what they start from
            layout |= {"reg_token": {"registers": "1 reg r -> reg r"}}
            sites |= {"reg": Site(Permutation, config["reg_tokens"])}
        norm = "fc_norm" if config["fc_norm"] else "norm"
        layout |= blocks | {f"{norm}.weight": 1, f"{norm}.bias": 0, "head.weight": "_ r*", "head.bias": "_"}
        watch = {"r": [f"blocks.{i}" for i in range(config["depth"])]}
        return layout, {"r": Site(StreamOrthogonal, config["embed_dim"])} | sites, watch

    def decode(self, params: Params) -> Params:
        """The parameters of the stock module, which divides queries by the square root of a head's dimensions."""
        if self.config["qk_norm"]:  # a norm has no use for a scale
            return super().decode(params)
        queries = {f"{i}.q.{part}" for i in range(self.config["depth"]) for part in ("weight", "bias")}
        scale = head_size(self.config["embed_dim"], self.config["num_heads"]) ** 0.5
        return super().decode(params | {name: params[name] * scale for name in queries})

    def activations(self, params: Params, inputs: Tensor) -> dict[str, Tensor]:
        """What each site's writers write, at all tokens but registers: these are numbered otherwise in each network.

        Of registers their lengths behind each block, which no rotation changes. Of dimensions that all heads share, the
        mean and the spread over the heads, which may be numbered otherwise, too.
        """
        config, number = self.config, self.config["reg_tokens"]
        with capture() as seen:
            for i in range(config["depth"] if config["qk_norm"] else 0):
                seen.output(self.module.blocks[i].attn.q_norm, f"qk.{i}")
            found = super().activations(params, inputs)
            shared = {site: seen[site].transpose(1, 2).flatten(0, 1) for site in seen}  # (tokens, heads, dimensions)
        found |= shared
        if number:
            count = self.module.patch_embed.num_patches + self.module.num_prefix_tokens
            first = int(config["class_token"])
            tokens = {site: x.unflatten(0, (-1, count)) for site, x in found.items()}
            found = {site: torch.cat([x[:, :first], x[:, first + number :]], 1) for site, x in tokens.items()}
            found = {site: x.flatten(0, 1) for site, x in found.items()}
            found["reg"] = tokens["r"][:, first : first + number].norm(dim=-1)
        return found | {site: torch.cat([found[site].mean(1), found[site].std(1, correction=0)]) for site in shared}

    @property
    def image(self) -> tuple[int, int, int]:
        """Channels, height and width of the images that it reads."""
        return self.config["in_chans"], *self.config["img_size"]

    def probe(self) -> Tensor:
        """Two images of noise."""
        generator = torch.Generator().manual_seed(0)
        return torch.randn(2, *self.image, generator=generator)

    @property
    def settings(self) -> dict[str, Any]:
        """The arguments that the canonical form decides, for all biases and the table."""
        decided = {name: value for name, value in self.config.items() if name not in ("hidden", "epsilon", "act_layer")}
        return decided | {"qkv_bias": True, "proj_bias": True, "pos_embed": "learn", "mlp_ratio": _ratio(self.config),
                          "init_values": None}  # fmt: skip


def _ratio(config: Mapping[str, Any]) -> float:
    return (config["hidden"] + 0.5) / config["embed_dim"]  # timm rounds down


@register("timm.models.vision_transformer.VisionTransformer")
def canonicalize(model: VisionTransformer) -> Network:
    """Fold norms, biases and layer scales, and into the position table what it adds to; exact in float64."""
    _refuse_unknown_parts(model)
    block, patches = model.blocks[0], model.patch_embed
    config = {
        "img_size": patches.img_size, "patch_size": patches.patch_size, "in_chans": model.in_chans,
        "num_classes": model.num_classes, "global_pool": model.global_pool, "embed_dim": model.embed_dim,
        "depth": len(model.blocks), "num_heads": block.attn.num_heads,
        "hidden": block.mlp.fc1.out_features, "class_token": model.has_class_token,
        "no_embed_class": model.no_embed_class, "reg_tokens": model.num_reg_tokens,
        "qk_norm": not isinstance(block.attn.q_norm, nn.Identity),
        "fc_norm": not isinstance(model.fc_norm, nn.Identity),
        "pool_include_prefix": model.pool_include_prefix, "epsilon": block.norm1.eps,
        "act_layer": type(block.mlp.act),
    }  # fmt: skip
    weights = Weights(model)
    return ViT.of(config).network(weights, _fold(weights, config, patches.num_patches))


def _fold(w: Weights, config: Mapping[str, Any], patches: int) -> Iterator[str]:
    width, apart = config["embed_dim"], config["no_embed_class"]
    rows = bias_of(w, "patch_embed.proj").expand(1, patches, -1)
    before = [name for name in ("cls_token", "reg_token") if name in w]
    if not apart:
        rows = torch.cat([*(w[name] for name in before), rows], 1)
    w["pos_embed"] = centred(rows + w["pos_embed"] if "pos_embed" in w else rows, -1)
    for name in before:
        w[name] = centred(w[name], -1) if apart else 0 * w[name]
    if config["reg_tokens"] and not apart:  # registers can change places, positions cannot
        first = int(config["class_token"])
        last = first + config["reg_tokens"]
        w["reg_token"] = w["pos_embed"][:, first:last]
        w["pos_embed"] = w["pos_embed"].index_fill(1, torch.arange(first, last), 0)
    w.pop("patch_embed.proj.bias", None)
    w["patch_embed.proj.bias"] = torch.zeros(width)
    centre(w, ["patch_embed.proj.weight"], 0)
    for i in range(config["depth"]):
        at = f"blocks.{i}"
        qkv, o, fc, proj = (f"{at}.{name}" for name in ("attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2"))
        fold_norm(w, f"{at}.norm1", [qkv])
        fold_norm(w, f"{at}.norm2", [fc])
        fold_values(w, o, w[f"{qkv}.bias"][2 * width :])
        scale = head_size(width, config["num_heads"]) ** -0.5  # what the module divides scores by
        if config["qk_norm"]:
            _fold_head_norms(w, f"{at}.attn", config["num_heads"])
            scale = 1.0
        for part in ("weight", "bias"):
            q, rest = w[f"{qkv}.{part}"].split([width, 2 * width])
            w[f"{qkv}.{part}"] = torch.cat([q * scale, rest])
        w[f"{proj}.bias"] = bias_of(w, proj)
        for part, layer in (("ls1", o), ("ls2", proj)):
            if (gamma := w.pop(f"{at}.{part}.gamma", None)) is not None:
                w[f"{layer}.weight"] = w[f"{layer}.weight"] * gamma.unsqueeze(1)
                w[f"{layer}.bias"] = w[f"{layer}.bias"] * gamma
        centre(w, [f"{layer}.{part}" for layer in (o, proj) for part in ("weight", "bias")], 0)
        yield f"{at}."
    fold_norm(w, "fc_norm" if config["fc_norm"] else "norm", ["head"])


def _fold_head_norms(w: Weights, at: str, heads: int) -> None:
    """Centre what the norms of queries and keys read, and let the queries' gain and shift stand for both."""
    for part in ("weight", "bias"):
        q, k, v = (x.unflatten(0, (heads, -1)) for x in w[f"{at}.qkv.{part}"].chunk(3))
        w[f"{at}.qkv.{part}"] = torch.cat([centred(q, 1), centred(k, 1), v]).flatten(0, 1)
    gain = w[f"{at}.k_norm.weight"]
    for part in ("weight", "bias"):
        w[f"{at}.q_norm.{part}"] = w[f"{at}.q_norm.{part}"] * gain
    w[f"{at}.q_norm.bias"] = centred(w[f"{at}.q_norm.bias"], 0)  # it meets keys, which are centred
    w[f"{at}.k_norm.weight"], w[f"{at}.k_norm.bias"] = torch.ones_like(gain), torch.zeros_like(gain)


def _refuse_unknown_parts(model: VisionTransformer) -> None:
    """Raise a ValueError that names the first part of the model whose symmetries are not in the table."""
    from timm.layers import LayerNorm, LayerScale, Mlp, PatchEmbed
    from timm.layers.attention import Attention
    from timm.models.vision_transformer import Block

    def demand(name: str, known: bool, found: object) -> None:
        if not known:
            raise ValueError(f"this Vision Transformer has {name} ({found}), which has no canonical form here")

    demand("no blocks", len(model.blocks) > 0, "depth 0")
    norms = (LayerNorm, nn.LayerNorm)
    last = [norm for norm in (model.norm, model.fc_norm) if not isinstance(norm, nn.Identity)]
    demand("another patch embedding", type(model.patch_embed) is PatchEmbed, type(model.patch_embed).__name__)
    demand("a norm in the patch embedding", isinstance(model.patch_embed.norm, nn.Identity), model.patch_embed.norm)
    demand("images of any size", not model.dynamic_img_size, "dynamic_img_size")
    demand("a norm before the blocks", isinstance(model.norm_pre, nn.Identity), model.norm_pre)
    demand("attention pooling", model.attn_pool is None, type(model.attn_pool).__name__)
    demand("another pooling", model.global_pool in ("token", "avg"), f"global_pool={model.global_pool!r}")
    demand("not exactly one last norm", len(last) == 1, last)
    demand("no linear head", type(model.head) is nn.Linear, model.head)
    demand("no convolution in the patch embedding", type(model.patch_embed.proj) is nn.Conv2d, model.patch_embed.proj)
    first = model.blocks[0].attn
    for i, block in enumerate(model.blocks):
        demand(f"another block {i}", type(block) is Block, type(block).__name__)
        attention, where = block.attn, f"in block {i}"
        for part in (block.ls1, block.ls2):
            demand(f"another scale {where}", type(part) in (nn.Identity, LayerScale), type(part).__name__)
        demand(f"another attention {where}", type(attention) is Attention, type(attention).__name__)
        demand(
            f"a norm in the attention {where}", isinstance(attention.norm, nn.Identity), type(attention.norm).__name__
        )
        normed = [norm for norm in (attention.q_norm, attention.k_norm) if not isinstance(norm, nn.Identity)]
        demand("norms in the heads of some blocks only", type(attention.q_norm) is type(first.q_norm), where)
        demand(f"head norms without scale or shift {where}", not any(x.bias is None for x in normed), normed)
        last += normed
        demand(f"gated attention {where}", attention.gate is None, attention.gate)
        demand(f"another MLP {where}", type(block.mlp) is Mlp, type(block.mlp).__name__)
        demand(f"a norm in the MLP {where}", isinstance(block.mlp.norm, nn.Identity), block.mlp.norm)
        for name in ("attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2"):
            part = block.get_submodule(name)
            demand(f"no linear {name} {where}", type(part) is nn.Linear, type(part).__name__)
        act = block.mlp.act
        demand(f"another non-linearity {where}", type(act) in ACTIVATIONS and repr(act) == repr(type(act)()), act)
        last += [block.norm1, block.norm2]
    for norm in last:
        demand("another norm", type(norm) in norms, type(norm).__name__)
        demand("norms of different epsilon", norm.eps == last[0].eps, norm.eps)
