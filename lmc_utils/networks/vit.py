"""Vision Transformers (timm's ``VisionTransformer``, pre-norm)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from ..spec import Params, Spec
from .base import Network, builds, register, skeleton
from .stock import keywords
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


class ViT(Transformer):
    """Equal if the arguments that build the stock module are."""

    data = "fashion-mnist"

    @classmethod
    def of(cls, config: dict, d_head: int) -> ViT:
        """The table of types, and the stock module with these arguments."""
        from timm.layers import LayerNorm
        from timm.models.vision_transformer import VisionTransformer

        arguments = {name: value for name, value in config.items() if name not in ("hidden", "epsilon")}
        hidden, norm = config["hidden"], partial(LayerNorm, eps=config["epsilon"])
        ratio = (hidden + 0.5) / config["embed_dim"]  # timm rounds down
        built = VisionTransformer(
            **arguments, mlp_ratio=ratio, norm_layer=norm, qkv_bias=True, weight_init="skip", device="meta"
        )
        blocks = {str(i): (config["num_heads"], d_head, hidden) for i in range(config["depth"])}
        types = {"patch.weight": "r _ _ _", "position": "_ r"}
        for prefix in blocks:
            types |= block_types(prefix)
        types |= {"head.weight": "_ r*", "head.bias": "_"}
        homogeneous = config["act_layer"] is nn.ReLU
        return cls(config, Spec(types, sites(config["embed_dim"], blocks, homogeneous)), skeleton(built))

    @property
    def image(self) -> tuple[int, int, int]:
        """Channels, height and width of the images that it reads."""
        return self.config["in_chans"], *self.config["img_size"]

    @property
    def d_head(self) -> int:
        """Dimensions of a head in the stock module."""
        return self.config["embed_dim"] // self.config["num_heads"]

    def decode(self, params: Params) -> Params:
        """The parameters of the stock module: norms with scale 1 and shift 0."""
        patch, position = params["patch.weight"], params["position"]
        one, zero = patch.new_ones(len(patch)), patch.new_zeros(len(patch))
        found = {"patch_embed.proj.weight": patch, "patch_embed.proj.bias": zero}
        if self.config["class_token"]:  # the table's first row is all that the class token starts from
            alone = self.config["no_embed_class"]
            found["cls_token"] = (position[0] if alone else zero).view(1, 1, -1)
            position = position[1:] if alone else position
        found["pos_embed"] = position.unsqueeze(0)
        for i in range(self.config["depth"]):
            qkv, o = stock_attention(str(i), params, self.d_head)
            block = {
                "norm1": Affine(one, zero),
                "attn.qkv": qkv,
                "attn.proj": o,
                "norm2": Affine(one, zero),
                "mlp.fc1": Affine(params[f"{i}.fc.weight"], params[f"{i}.fc.bias"]),
                "mlp.fc2": Affine(params[f"{i}.proj.weight"], params[f"{i}.proj.bias"]),
            }
            for name, (weight, bias) in block.items():
                found |= {f"blocks.{i}.{name}.weight": weight, f"blocks.{i}.{name}.bias": bias}
        norm = "norm" if isinstance(self.module.fc_norm, nn.Identity) else "fc_norm"
        found |= {f"{norm}.weight": one, f"{norm}.bias": zero}
        return found | {name: params[name] for name in ("head.weight", "head.bias")}

    def forward(self, params: Params, inputs: Tensor) -> Tensor:
        return functional_call(self.module, self.decode(params), (inputs,))

    def parts(self) -> list[Parts]:
        return [Parts(b, b.attn.qkv, b.attn.proj, b.mlp.fc1) for b in self.module.blocks]

    def probe(self) -> Tensor:
        """Two images of noise."""
        generator = torch.Generator().manual_seed(0)
        return torch.randn(2, self.config["in_chans"], *self.config["img_size"], generator=generator)

    @property
    def settings(self) -> dict[str, Any]:
        """The arguments that the canonical form decides: all biases and the table."""
        decided = {name: value for name, value in self.config.items() if name not in ("hidden", "epsilon", "act_layer")}
        ratio = (self.config["hidden"] + 0.5) / self.config["embed_dim"]  # timm rounds down
        return decided | {"qkv_bias": True, "proj_bias": True, "pos_embed": "learn", "mlp_ratio": ratio}

    def with_sizes(self, sizes: Mapping[str, int]) -> ViT:
        width, heads, hidden, needed = self.uniform(sizes)
        return ViT.of(self.config | {"embed_dim": width, "num_heads": heads, "hidden": hidden}, needed)


@register("timm.models.vision_transformer.VisionTransformer")
def canonicalize(model: VisionTransformer) -> Network:
    """Fold norms and biases, the class token and the patch bias into the position table; exact in float64."""
    _refuse_unknown_parts(model)
    block, patches = model.blocks[0], model.patch_embed
    config = {
        "img_size": patches.img_size, "patch_size": patches.patch_size, "in_chans": model.in_chans,
        "num_classes": model.num_classes, "global_pool": model.global_pool, "embed_dim": model.embed_dim,
        "depth": len(model.blocks), "num_heads": block.attn.num_heads,
        "hidden": block.mlp.fc1.out_features, "class_token": model.has_class_token,
        "no_embed_class": model.no_embed_class, "fc_norm": not isinstance(model.fc_norm, nn.Identity),
        "pool_include_prefix": model.pool_include_prefix, "epsilon": block.norm1.eps,
        "act_layer": type(block.mlp.act),
    }  # fmt: skip
    dtype = model.head.weight.dtype
    params = {name: p.to(dtype).contiguous() for name, p in _fold(model)}
    return Network(ViT.of(config, block.attn.head_dim), params)


def _fold(model: VisionTransformer) -> Iterator[tuple[str, Tensor]]:
    """The canonical parameters in float64, by and by: only one block at a time takes up that much memory."""
    weights = model.state_dict()

    def affine(name: str) -> Affine:
        weight, bias = weights[f"{name}.weight"].double(), weights.get(f"{name}.bias")
        return Affine(weight, None if bias is None else bias.double())

    patch = affine("patch_embed.proj")
    bias = patch.weight.new_zeros(len(patch.weight)) if patch.bias is None else patch.bias
    rows = bias.expand(model.patch_embed.num_patches, -1)
    position = weights["pos_embed"][0].double() if model.pos_embed is not None else 0
    if model.has_class_token:
        start = weights["cls_token"][0].double()
        table = torch.cat([start, rows + position]) if model.no_embed_class else torch.cat([start, rows]) + position
    else:
        table = rows + position
    yield "patch.weight", centre(patch.weight, 0)
    yield "position", centre(table, 1)
    for i, block in enumerate(model.blocks):
        names = ("norm1", "attn.qkv", "attn.proj", "norm2", "mlp.fc1", "mlp.fc2")
        parts = (affine(f"blocks.{i}.{name}") for name in names)
        yield from canonical_block(str(i), block.attn.num_heads, *parts).items()
    head = read(affine("head"), affine("norm" if isinstance(model.fc_norm, nn.Identity) else "fc_norm"))
    yield from {"head.weight": head.weight, "head.bias": head.bias}.items()


def _refuse_unknown_parts(model: VisionTransformer) -> None:
    """Raise a ValueError that names the first part of the model whose symmetries are not in the table."""
    from timm.layers import LayerNorm, Mlp, PatchEmbed
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
    demand("register tokens", model.num_reg_tokens == 0, model.num_reg_tokens)
    demand("a norm before the blocks", isinstance(model.norm_pre, nn.Identity), model.norm_pre)
    demand("attention pooling", model.attn_pool is None, type(model.attn_pool).__name__)
    demand("another pooling", model.global_pool in ("token", "avg"), f"global_pool={model.global_pool!r}")
    demand("not exactly one last norm", len(last) == 1, last)
    demand("no linear head", type(model.head) is nn.Linear, model.head)
    demand("no convolution in the patch embedding", type(model.patch_embed.proj) is nn.Conv2d, model.patch_embed.proj)
    for i, block in enumerate(model.blocks):
        demand(f"another block {i}", type(block) is Block, type(block).__name__)
        attention, where = block.attn, f"in block {i}"
        demand(
            f"layer scale {where}", isinstance(block.ls1, nn.Identity) and isinstance(block.ls2, nn.Identity), block.ls1
        )
        demand(f"another attention {where}", type(attention) is Attention, type(attention).__name__)
        for name in ("q_norm", "k_norm", "norm"):
            part = getattr(attention, name)
            demand(f"a {name} in the attention {where}", isinstance(part, nn.Identity), type(part).__name__)
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
