"""Exact rewritings that make symmetries plain: norms, centring, value biases, BatchNorm. They change a dict of weights.

Weights are named as in the stock module and never written into: each fold replaces entries (float64, see
:class:`lmc_utils.networks.layout.Weights`). ``axis`` is the one along which a weight reads: 1 in ``nn.Linear`` and
convolutions, 0 in transformers' ``Conv1D``.
"""

from __future__ import annotations

from collections.abc import Iterable, MutableMapping

from torch import Tensor

Weights = MutableMapping[str, Tensor]


def centred(x: Tensor, axis: int) -> Tensor:
    """``x`` without its part along the all-ones vector of one axis."""
    return x - x.mean(axis, keepdim=True)


def centre(w: Weights, names: Iterable[str], axis: int) -> None:
    """Take away what these weights write, or read, along the all-ones vector: LayerNorm does not see it.

    All maps of a stream between LayerNorms fix that vector (:class:`lmc_utils.symmetry.StreamOrthogonal`).
    """
    for name in names:
        w[name] = centred(w[name], axis)


def fold_mean(w: Weights, table: str, into: str) -> None:
    """Move the mean row of an embedding table into another table: each token reads one row of both, and adds them."""
    mean = w[table].mean(0)
    w[table], w[into] = w[table] - mean, w[into] + mean


def bias_of(w: Weights, layer: str, axis: int = 1) -> Tensor:
    """The bias of a layer; zeros if it has none."""
    if f"{layer}.bias" in w:
        return w[f"{layer}.bias"]
    weight = w[f"{layer}.weight"]
    return weight.new_zeros(weight.shape[1 - axis])


def fold_norm(w: Weights, norm: str, readers: Iterable[str], *, axis: int = 1, layer: bool = True) -> None:
    """Move scale and shift of a norm into the layers that read it; readers of a LayerNorm are centred.

    Parameters
    ----------
    w
        The weights.
    norm
        The name of the norm. Its entries are taken out.
    readers
        The names of the layers. They get a bias if the norm has a shift.
    axis
        Along which they read.
    layer
        Whether it is a LayerNorm, which subtracts the mean: an RMSNorm does not.
    """
    scale, shift = w.pop(f"{norm}.weight", None), w.pop(f"{norm}.bias", None)
    for reader in readers:
        weight = w[f"{reader}.weight"]
        if shift is not None:
            w[f"{reader}.bias"] = bias_of(w, reader, axis) + weight.movedim(axis, -1) @ shift
        if scale is not None:
            weight = (weight.movedim(axis, -1) * scale).movedim(-1, axis)
        w[f"{reader}.weight"] = centred(weight, axis) if layer else weight


def fold_values(w: Weights, o: str, shift: Tensor, *, axis: int = 1) -> None:
    """Move what values add to every head's output, ``shift``, into the output bias: rows of attention sum to one."""
    w[f"{o}.bias"] = w[f"{o}.weight"].movedim(axis, -1) @ shift + bias_of(w, o, axis)


def fold_batchnorm(w: Weights, conv: str, norm: str, eps: float) -> None:
    """Move scale and mean of a BatchNorm in evaluation mode into the convolution before it; its shift stays."""
    scale = w.pop(f"{norm}.weight") / (w.pop(f"{norm}.running_var") + eps).sqrt()
    w[f"{conv}.weight"] = w[f"{conv}.weight"] * scale.view(-1, 1, 1, 1)
    w[f"{norm}.bias"] = w[f"{norm}.bias"] - w.pop(f"{norm}.running_mean") * scale
