"""REPAIR of a stream that many layers write: each of them, on its own, gets the spread of the end points back."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.functional import relu

import lmc_utils as lmc
from lmc_utils.data import Batches
from lmc_utils.networks.base import Architecture, fill, skeleton
from lmc_utils.spec import Params, Site, Spec


class Block(nn.Module):
    """Two convolutions beside a shortcut, which runs last or first."""

    def __init__(self, n_in: int, n_out: int, first: bool) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(n_in, 5, 3, padding=1, bias=False), nn.BatchNorm2d(5)
        self.conv2, self.bn2 = nn.Conv2d(5, n_out, 3, padding=1, bias=False), nn.BatchNorm2d(n_out)
        self.short = nn.Identity() if n_in == n_out else nn.Conv2d(n_in, n_out, 1, bias=False)
        self.first = first

    def forward(self, x: Tensor) -> Tensor:
        short = self.short(x) if self.first else None
        y = self.bn2(self.conv2(relu(self.bn1(self.conv1(x)))))
        return relu(y + (self.short(x) if short is None else short))


class ResNet(nn.Module):
    """Its first stream is written by three layers, its second by three, of which two add up before it is read."""

    def __init__(self, first: bool = False) -> None:
        super().__init__()
        self.conv, self.bn = nn.Conv2d(2, 4, 3, padding=1, bias=False), nn.BatchNorm2d(4)
        self.blocks = nn.Sequential(*(Block(*widths, first) for widths in ((4, 4), (4, 4), (4, 6), (6, 6))))
        self.fc = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.blocks(relu(self.bn(self.conv(x)))).mean((2, 3)))


@dataclass(frozen=True)
class Folded(Architecture):
    """A ResNet whose norms have gone into its convolutions, but for their shifts."""

    spec: Spec
    module: nn.Module = field(compare=False, repr=False)

    def stock(self, params: Params) -> Params:
        constants = {"weight": 1.0, "running_mean": 0.0, "running_var": 1 - 1e-5}
        found = self.module.state_dict().items()
        rest = {
            name: torch.full(p.shape, constants.get(name.rpartition(".")[2], 0), dtype=p.dtype) for name, p in found
        }
        return rest | params

    def forward(self, params: Params, inputs: Tensor) -> Tensor:
        return functional_call(self.module, self.stock(params), inputs)

    def to_model(self, params: Params) -> nn.Module:
        return fill(self.module, self.stock(params))

    def activations(self, params: Params, inputs: Tensor) -> dict[str, Tensor]:
        raise NotImplementedError

    def with_sizes(self, sizes: dict[str, int]) -> Folded:
        raise NotImplementedError


def resnet(seed: int, first: bool = False, change: Mapping[str, str] = MappingProxyType({})) -> lmc.Network:
    """A random network with large shifts; in its table ``change`` gives parameters another type, or takes them out."""
    table = {"conv.weight": "s.0 _ _ _", "bn.bias": "s.0", "fc.weight": "_ s.1*", "fc.bias": "_"}
    sites = {"s.0": Site(lmc.ScaledPermutation, 4), "s.1": Site(lmc.ScaledPermutation, 6)}
    for i, (before, after) in enumerate((("s.0", "s.0"), ("s.0", "s.0"), ("s.0", "s.1"), ("s.1", "s.1"))):
        sites[f"h.{i}"] = Site(lmc.ScaledPermutation, 5)
        block = {"conv1.weight": f"h.{i} {before}* _ _", "bn1.bias": f"h.{i}",
                 "conv2.weight": f"{after} h.{i}* _ _", "bn2.bias": after}  # fmt: skip
        block |= {} if before == after else {"short.weight": f"{after} {before}* _ _"}
        table |= {f"blocks.{i}.{name}": kind for name, kind in block.items()}
    table = {name: kind for name, kind in (table | change).items() if kind}
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = ResNet(first).double()
        weights = {name: 2 * p.detach() for name, p in model.named_parameters()}
        weights |= {name: torch.randn_like(p) for name, p in weights.items() if name.endswith("bias")}
        weights["blocks.0.gain"] = torch.ones(4).double()
    architecture = Folded(Spec(table, sites), skeleton(model))
    return lmc.Network(architecture, {name: weights[name] for name in table})


@pytest.fixture(scope="module")
def batches() -> Batches:
    generator = torch.Generator().manual_seed(0)
    return Batches(torch.randn(24, 2, 5, 5, generator=generator).double(), torch.zeros(24).long(), batch_size=10)


def seen(network: lmc.Network, batches: Batches, names: Iterable[str]) -> dict[str, tuple[Tensor, Tensor]]:
    """Mean and standard deviation of each channel behind these modules of the stock network."""
    model, found = network.to_model(), {}
    for name in names:
        model.get_submodule(name).register_forward_hook(lambda _, __, y, name=name: found.update({name: y}))
    with torch.no_grad():
        model(batches.inputs)
    return {name: (y.mean((0, 2, 3)), y.std((0, 2, 3), correction=0)) for name, y in found.items()}


WRITERS = ["bn", *(f"blocks.{i}.{name}" for i in range(4) for name in ("bn1", "bn2"))]


@pytest.mark.parametrize("first", [False, True])
def test_each_writer_of_a_stream_has_the_spread_of_the_end_points(batches, first):
    ends, names = [resnet(seed, first) for seed in range(2)], [*WRITERS, "blocks.2.short"]
    plain, repaired = lmc.merge(*ends, 0.3), lmc.repair(*ends, 0.3, batches)
    (one, other), before, after = (
        [seen(n, batches, names) for n in ends],
        *(seen(n, batches, names) for n in (plain, repaired)),
    )
    goal = {name: [torch.lerp(x, y, 0.3) for x, y in zip(one[name], other[name], strict=True)] for name in names}
    assert max(abs(before[name][1] / goal[name][1] - 1).max() for name in names) > 0.3  # there was something to repair
    assert not {name: off for name in names if (off := abs(after[name][1] / goal[name][1] - 1).max()) > 1e-9}
    apart = {name: after[name][0] - goal[name][0] for name in names}
    apart["blocks.2.bn2 + short"] = apart.pop("blocks.2.bn2") + apart.pop("blocks.2.short")  # one bias shifts both
    assert not {name: off for name, shift in apart.items() if (off := shift.abs().max()) > 1e-9}


def test_the_end_points_are_left_alone(batches):
    a, b = resnet(0), resnet(1)
    for lam, end in ((0.0, a), (1.0, b)):
        assert all(torch.allclose(p, end.params[name]) for name, p in lmc.repair(a, b, lam, batches).params.items())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"blocks.0.bn2.bias": ""}, r"of site 's\.0' is one that could shift what 'blocks\.0\.conv2' writes"),
        ({"blocks.0.bn2.weight": "s.0"}, "shift what 'blocks.0.conv2' writes"),  # which a norm would scale
        ({"blocks.0.gain": "s.0"}, "but 'blocks.0.gain' is not a parameter of one"),
    ],
)
def test_a_layer_that_cannot_be_repaired_is_named(batches, change, message):
    with pytest.raises(ValueError, match=message):
        lmc.repair(resnet(0, change=change), resnet(1, change=change), 0.5, batches)


def test_a_unit_that_became_constant_is_not_blown_up(batches):
    a, b = resnet(0), resnet(1)
    opposite = {"bn.bias": b.params["bn.bias"], "conv.weight": -a.params["conv.weight"] * (1 + 1e-15)}
    repaired = lmc.repair(a, replace(b, params=b.params | opposite), 0.5, batches)
    assert repaired.params["conv.weight"].abs().max() < 1e-9


def test_a_layer_is_measured_before_the_next_writes_into_its_output(make_batches):
    repaired = []
    for inplace in (False, True):
        torch.manual_seed(0)
        layers = [nn.Sequential(nn.Linear(4, 5), nn.ReLU(inplace), nn.Linear(5, 3)) for _ in range(2)]
        repaired.append(lmc.repair(*map(lmc.canonicalize, layers), 0.5, make_batches((4, 5, 3))))
    assert all(torch.equal(p, repaired[1].params[name]) for name, p in repaired[0].params.items())
