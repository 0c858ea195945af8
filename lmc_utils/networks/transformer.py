"""Canonical form of the pre-norm transformer block, shared by all transformers.

A block is rewritten, exactly, so that its symmetries are plain (arXiv 2506.22712, section 4, after arXiv 2401.15024):

- the scale of a norm goes into the weights that read it, its shift into their biases;
- LayerNorm subtracts the mean, so writers and readers of the residual stream are centred: what they write or read along
  the all-ones vector never matters (all maps of the stream fix that vector, see :class:`StreamOrthogonal`);
- key biases drop out (softmax ignores what all keys share), value biases move into the output bias (the rows of
  attention sum to one);
- heads are an axis of their own: queries, keys, values are (heads, d_head, d), outputs (heads, d_head, d).

What is left of a LayerNorm has scale 1 and shift 0, so the *stock* module runs every canonical network.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import pad

from ..spec import Params, Site
from ..symmetry import Invertible, Permutation, StreamOrthogonal


class Affine(NamedTuple):
    """A linear map and its shift (None: no shift), or scale and shift of a norm."""

    weight: Tensor
    bias: Tensor | None = None


def centre(x: Tensor, axis: int) -> Tensor:
    """Take away the part along the all-ones vector of one axis."""
    return x - x.mean(axis, keepdim=True)


def read(linear: Affine, norm: Affine) -> Affine:
    """A linear map (out, in) after a norm, as one after the bare norm."""
    bias = torch.zeros_like(linear.weight[:, 0]) if linear.bias is None else linear.bias
    if norm.bias is not None:
        bias = bias + linear.weight @ norm.bias
    return Affine(centre(linear.weight * norm.weight, 1), bias)


def canonical_block(
    prefix: str, heads: int, norm1: Affine, qkv: Affine, o: Affine, norm2: Affine, fc: Affine, proj: Affine
) -> Params:
    """The canonical parameters of one block from its linear maps, all in the convention (out, in)."""
    q, k, v = (Affine(*parts) for parts in zip(*(x.chunk(3) for x in read(qkv, norm1)), strict=True))
    fc = read(fc, norm2)
    output = o.weight @ v.bias + (0 if o.bias is None else o.bias)
    split = {name: x.weight.unflatten(0, (heads, -1)) for name, x in {"q": q, "k": k, "v": v}.items()}
    return {
        f"{prefix}.q.weight": split["q"],
        f"{prefix}.q.bias": q.bias.unflatten(0, (heads, -1)),
        f"{prefix}.k.weight": split["k"],
        f"{prefix}.v.weight": split["v"],
        f"{prefix}.o.weight": centre(o.weight.T, 1).unflatten(0, (heads, -1)),
        f"{prefix}.o.bias": centre(output, 0),
        f"{prefix}.fc.weight": fc.weight,
        f"{prefix}.fc.bias": fc.bias,
        f"{prefix}.proj.weight": centre(proj.weight, 0),
        f"{prefix}.proj.bias": centre(torch.zeros_like(output) if proj.bias is None else proj.bias, 0),
    }


def block_types(prefix: str) -> dict[str, str]:
    """The types of one block's parameters. Only the values carry a head's weight, which matters when heads split."""
    heads, qk, ov, ff = (f"{name}.{prefix}" for name in ("heads", "qk", "ov", "ff"))
    return {
        f"{prefix}.q.weight": f"{heads}* {qk} r*",
        f"{prefix}.q.bias": f"{heads}* {qk}",
        f"{prefix}.k.weight": f"{heads}* {qk}* r*",
        f"{prefix}.v.weight": f"{heads} {ov} r*",
        f"{prefix}.o.weight": f"{heads}* {ov}* r",
        f"{prefix}.o.bias": "r",
        f"{prefix}.fc.weight": f"{ff} r*",
        f"{prefix}.fc.bias": ff,
        f"{prefix}.proj.weight": f"r {ff}*",
        f"{prefix}.proj.bias": "r",
    }


def sites(width: int, blocks: Mapping[str, tuple[int, int, int]]) -> dict[str, Site]:
    """The sites of a transformer: per block (heads, d_head, hidden units)."""
    found = {"r": Site(StreamOrthogonal, width)}
    for prefix, (heads, d_head, hidden) in blocks.items():
        found[f"heads.{prefix}"] = Site(Permutation, heads, splits=True)
        found[f"qk.{prefix}"] = Site(Invertible, d_head, within=f"heads.{prefix}")
        found[f"ov.{prefix}"] = Site(Invertible, d_head, within=f"heads.{prefix}")
        found[f"ff.{prefix}"] = Site(Permutation, hidden)
    return found


def stock_attention(prefix: str, params: Params, d_head: int) -> tuple[Affine, Affine]:
    """Joint qkv map and output map, (out, in), for a module whose heads have ``d_head`` dimensions.

    A narrower head is padded with zeros, and its queries make up for the module's division by ``sqrt(d_head)``.
    """
    q, bias, k, v, o = (
        params[f"{prefix}.{name}"] for name in ("q.weight", "q.bias", "k.weight", "v.weight", "o.weight")
    )
    extra = d_head - q.shape[1]
    if extra:
        scale = (d_head / q.shape[1]) ** 0.5
        q, bias = q * scale, bias * scale
        q, k, v, o = (pad(x, (0, 0, 0, extra)) for x in (q, k, v, o))
        bias = pad(bias, (0, extra))
    zero = torch.zeros_like(bias).flatten()
    weight = torch.cat([x.flatten(0, 1) for x in (q, k, v)])
    return Affine(weight, torch.cat([bias.flatten(), zero, zero])), Affine(
        o.flatten(0, 1).T, params[f"{prefix}.o.bias"]
    )


def head_activations(
    prefix: str, qkv: Tensor, mixed: Tensor, sites: Mapping[str, Site], d_head: int
) -> dict[str, Tensor]:
    """Queries and keys, and mixed values, of each head: (samples, heads, size)."""
    n = sites[f"qk.{prefix}"].size
    q, k, _ = (x.flatten(0, -2).unflatten(-1, (-1, d_head))[..., :n] for x in qkv.chunk(3, -1))
    return {
        f"qk.{prefix}": torch.cat([q, k]),
        f"ov.{prefix}": mixed.flatten(0, -2).unflatten(-1, (-1, d_head))[..., :n],
    }


def head_width(width: int, heads: int, needed: int) -> int:
    """Dimensions of a head in a stock module of this width.

    Raises
    ------
    ValueError
        If stock modules of this width cannot have so many heads, or not so wide ones.
    """
    if width % heads or width // heads < needed:
        raise ValueError(
            f"a stock module of width {width} with {heads} heads gives each {width / heads:g} dimensions, but "
            f"{needed} are needed: choose a multiple of {heads}, at least {heads * needed}"
        )
    return width // heads
