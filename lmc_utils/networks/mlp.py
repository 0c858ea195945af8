"""Multilayer perceptrons: ``nn.Sequential`` of flatten, linear layers and elementwise non-linearities.

An MLP is in canonical form as it is. Each hidden layer ``l`` is one site ``ff.l``: its weight and bias write the site,
the next weight reads it, and because the non-linearity acts on each unit alone, the units may be relabelled.
"""

from __future__ import annotations

import copy
import math
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from itertools import pairwise

from torch import nn

from ..arguments import brief
from ..spec import Site
from ..symmetry import Permutation, ScaledPermutation
from .base import Network, builds, register, skeleton
from .layout import Stock, Weights

ELEMENTWISE = (
    nn.ReLU, nn.LeakyReLU, nn.GELU, nn.SiLU, nn.ELU, nn.Tanh, nn.Sigmoid, nn.Softplus, nn.Hardtanh, nn.Dropout,
    nn.Identity,
)  # fmt: skip
HOMOGENEOUS = (nn.ReLU, nn.LeakyReLU, nn.Dropout, nn.Identity, nn.Flatten)  # f(s x) = s f(x) for every s > 0


def _sized(config: dict, image: tuple[int, int, int], classes: int) -> dict:
    if not isinstance(config.get("hidden"), list | tuple):
        raise ValueError(f"an mlp needs its hidden layers, such as [256, 256], not {brief(config.get('hidden'))}")
    rest = {key: value for key, value in config.items() if key != "hidden"}
    return {"widths": [math.prod(image), *config["hidden"], classes]} | rest


@builds("mlp", images=_sized)
def mlp(widths: Sequence[int]) -> nn.Sequential:
    """A ReLU network with freshly drawn weights.

    Parameters
    ----------
    widths
        Number of inputs, of units in each hidden layer, of classes, e.g. ``(784, 256, 256, 256, 10)``.
    """
    layers: dict[str, nn.Module] = OrderedDict(flatten=nn.Flatten())
    for i, (n_in, n_out) in enumerate(pairwise(widths)):
        layers[f"fc{i}"] = nn.Linear(n_in, n_out)
        if i < len(widths) - 2:
            layers[f"relu{i}"] = nn.ReLU()
    return nn.Sequential(layers)


class MLP(Stock):
    """Equal if all layers are."""

    data = "fashion-mnist"

    @classmethod
    def of_module(cls, module: nn.Sequential) -> MLP:
        """The table of types of a skeleton."""
        layers = module._modules  # named_children would skip a ReLU that serves twice
        linear = [name for name, layer in layers.items() if isinstance(layer, nn.Linear)]
        layout, sites, names = {}, {}, list(layers)
        for i, name in enumerate(linear):
            writes = f"ff.{i}" if i < len(linear) - 1 else "_"
            layout[f"{name}.weight"] = f"{writes} {f'ff.{i - 1}*' if i else '_'}"
            if layers[name].bias is not None:
                layout[f"{name}.bias"] = writes
            if writes != "_":
                between = names[names.index(name) + 1 : names.index(linear[i + 1])]
                homogeneous = all(isinstance(layers[one], HOMOGENEOUS) for one in between)
                symmetry = ScaledPermutation if homogeneous else Permutation
                sites[writes] = Site(symmetry, layers[name].out_features, splits=homogeneous)
        config = {"layers": tuple(f"{name}: {layer}" for name, layer in layers.items())}
        return cls.assemble(config, module, layout, sites)

    def with_sizes(self, sizes: Mapping[str, int]) -> MLP:
        module, n_in, widths = copy.deepcopy(self.module), None, iter(sizes.values())
        for name, layer in module._modules.items():
            if isinstance(layer, nn.Linear):
                n_out = next(widths, layer.out_features)
                wider = nn.Linear(n_in or layer.in_features, n_out, bias=layer.bias is not None, device="meta")
                module._modules[name], n_in = wider, n_out
        return MLP.of_module(module.eval())


@register("torch.nn.modules.container.Sequential")
def canonicalize(model: nn.Sequential) -> Network:
    """The table of types of an MLP. Refuses, by name, layers that are neither linear nor elementwise."""
    for name, layer in model._modules.items():
        if type(layer) not in (nn.Linear, nn.Flatten, *ELEMENTWISE):  # a subclass may compute something else
            raise ValueError(
                f"layer {name!r} is a {type(layer).__name__}: an MLP has linear, flatten and elementwise layers only"
            )
    count = sum(isinstance(layer, nn.Linear) for layer in model)
    if count < 2:
        raise ValueError(f"an MLP with {count} linear layers has no hidden units to relabel")
    return MLP.of_module(skeleton(model)).network(Weights(model))
