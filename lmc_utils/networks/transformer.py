"""Canonical form of the pre-norm transformer block, shared by all transformers.

A block is rewritten, exactly, so that its symmetries are plain (arXiv 2506.22712, section 4, after arXiv 2401.15024):

- the scale of a norm goes into the weights that read it, its shift into their biases;
- LayerNorm subtracts the mean, so writers and readers of the residual stream are centred: what they write or read along
  the all-ones vector never matters (all maps of the stream fix that vector, see :class:`StreamOrthogonal`);
- key biases drop out (softmax ignores what all keys share), value biases move into the output bias (the rows of
  attention sum to one);
- queries carry the attention's factor ``1 / sqrt(d_head)``, so that QK circuits are plain products;
- heads are an axis of their own: queries, keys, values are (heads, d_head, d), outputs (heads, d_head, d);
- inside a head nothing is written that is not read, nor read that is not written (see :func:`meet`).

What is left of a LayerNorm has scale 1 and shift 0, so the *stock* module runs every canonical network.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from ..spec import Params, Site, Spec
from ..symmetry import Invertible, Permutation, ScaledPermutation, StreamOrthogonal
from .base import Architecture, capture, fill


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


def meet(writers: Tensor, readers: Tensor) -> tuple[Tensor, Tensor]:
    """Writers and readers (heads, d_head, ...) of the spaces inside heads without what the other side never sees.

    Only their product matters, and it stays. In a head as wide as the stream some direction always is unseen, because
    centred weights have a lower rank; what lies there would be left to chance when networks are compared.
    """
    written, read = Invertible.meet(writers, readers)
    return written @ writers, read @ readers


def canonical_block(
    prefix: str, heads: int, norm1: Affine, qkv: Affine, o: Affine, norm2: Affine, fc: Affine, proj: Affine
) -> Params:
    """The canonical parameters of one block from its linear maps, all in the convention (out, in)."""
    q, k, v = (Affine(*parts) for parts in zip(*(x.chunk(3) for x in read(qkv, norm1)), strict=True))
    fc = read(fc, norm2)
    output = o.weight @ v.bias + (0 if o.bias is None else o.bias)
    queries, outputs = torch.cat([q.weight, q.bias.unsqueeze(1)], 1), centre(o.weight.T, 1)
    queries, keys, values, outputs = (x.unflatten(0, (heads, -1)) for x in (queries, k.weight, v.weight, outputs))
    (queries, keys), (values, outputs) = meet(queries, keys), meet(values, outputs)
    queries = queries * queries.shape[1] ** -0.5
    return {
        f"{prefix}.q.weight": queries[..., :-1],
        f"{prefix}.q.bias": queries[..., -1],
        f"{prefix}.k.weight": keys,
        f"{prefix}.v.weight": values,
        f"{prefix}.o.weight": outputs,
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


def sites(width: int, blocks: Mapping[str, tuple[int, int, int]], homogeneous: bool) -> dict[str, Site]:
    """The sites of a transformer: per block (heads, d_head, hidden units).

    Where the non-linearity is positively homogeneous (ReLU), hidden units may also be scaled and split.
    """
    units = ScaledPermutation if homogeneous else Permutation
    found = {"r": Site(StreamOrthogonal, width)}
    for prefix, (heads, d_head, hidden) in blocks.items():
        found[f"heads.{prefix}"] = Site(Permutation, heads, splits=True)
        found[f"qk.{prefix}"] = Site(Invertible, d_head, within=f"heads.{prefix}")
        found[f"ov.{prefix}"] = Site(Invertible, d_head, within=f"heads.{prefix}")
        found[f"ff.{prefix}"] = Site(units, hidden, splits=homogeneous)
    return found


def stock_attention(prefix: str, params: Params, d_head: int) -> tuple[Affine, Affine]:
    """Joint qkv map and output map, (out, in), for a module whose heads have ``d_head`` dimensions.

    A narrower head is padded with zeros. Queries make up for the module's division by ``sqrt(d_head)``.
    """
    q, bias, k, v, o = (
        params[f"{prefix}.{name}"] for name in ("q.weight", "q.bias", "k.weight", "v.weight", "o.weight")
    )
    q, bias, extra = q * d_head**0.5, bias * d_head**0.5, d_head - q.shape[1]
    if extra:
        q, k, v, o = (pad(x, (0, 0, 0, extra)) for x in (q, k, v, o))
        bias = pad(bias, (0, extra))
    zero = torch.zeros_like(bias).flatten()
    weight = torch.cat([x.flatten(0, 1) for x in (q, k, v)])
    return Affine(weight, torch.cat([bias.flatten(), zero, zero])), Affine(
        o.flatten(0, 1).T, params[f"{prefix}.o.bias"]
    )


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


class Parts(NamedTuple):
    """Where to look into a block of a stock module while it runs."""

    block: nn.Module  # its output is the residual stream
    qkv: nn.Module  # its output are queries, keys and values
    o: nn.Module  # its input are the mixed values
    fc: nn.Module  # its output are the hidden units


@dataclass(frozen=True)
class Transformer(Architecture):
    """What all transformers share. Equal if the configurations are.

    Parameters
    ----------
    config
        All that builds the stock module.
    spec
        The table of types.
    module
        The stock module as a skeleton: shapes without storage.
    """

    config: dict
    spec: Spec
    module: nn.Module = field(compare=False, repr=False)

    @property
    @abstractmethod
    def d_head(self) -> int:
        """Dimensions of a head in the stock module."""

    @abstractmethod
    def parts(self) -> list[Parts]:
        """The blocks of the stock module."""

    @abstractmethod
    def decode(self, params: Params) -> Params:
        """The parameters of the stock module: norms with scale 1, and zero for what was folded away."""

    def activations(self, params: Params, inputs: Tensor) -> dict[str, Tensor]:
        with capture() as seen:
            for i, parts in enumerate(self.parts()):
                seen.output(parts.block, f"r.{i}")
                seen.output(parts.qkv, f"qkv.{i}")
                seen.input(parts.o, f"mixed.{i}")
                seen.output(parts.fc, f"ff.{i}")
            self.forward(params, inputs)
        count, n = len(self.parts()), self.spec.sites["qk.0"].size
        found = {"r": torch.cat([seen[f"r.{i}"].flatten(0, -2) for i in range(count)])}
        for i in range(count):
            q, k, _ = (self._by_head(x)[..., :n] for x in seen[f"qkv.{i}"].chunk(3, -1))
            found[f"qk.{i}"] = torch.cat([q, k])
            found[f"ov.{i}"] = self._by_head(seen[f"mixed.{i}"])[..., :n]
            found[f"ff.{i}"] = seen[f"ff.{i}"].flatten(0, -2)
        return found

    def _by_head(self, x: Tensor) -> Tensor:
        """(..., heads * d_head) as (samples, heads, d_head)."""
        return x.flatten(0, -2).unflatten(-1, (-1, self.d_head))

    def to_model(self, params: Params) -> nn.Module:
        return fill(self.module, self.decode(params))

    def uniform(self, sizes: Mapping[str, int]) -> tuple[int, int, int, int]:
        """Width, heads, hidden units and needed dimensions of a head for a stock module of these sizes.

        Raises
        ------
        ValueError
            If blocks differ, or a stock module of this width has too narrow heads.
        """
        count = len(self.parts())
        heads, hidden = ({sizes[f"{site}.{i}"] for i in range(count)} for site in ("heads", "ff"))
        if len(heads) > 1 or len(hidden) > 1:
            raise ValueError(f"all blocks have as many heads and hidden units: not {heads} heads, {hidden} units")
        needed = sizes["qk.0"]
        head_width(sizes["r"], *heads, needed)
        return sizes["r"], heads.pop(), hidden.pop(), needed
