"""ResNets with BatchNorm (torchvision's and timm's ``ResNet``), and the small ones for CIFAR.

In evaluation mode a BatchNorm is an affine map and goes into the convolution before it: in canonical form it divides by
one, has scale 1 and mean 0, and its shift is the convolution's bias. Between two convolutions of a block lie hidden
channels. Blocks with identity shortcuts add up in one stream ``r.0``; where a shortcut is a projection, a new stream
``r.1`` begins, and so on. ReLU and pooling work channel by channel and do not mind a positive scale: channels change
places, are scaled, and split. Activations of a stream are what each convolution adds to it: of the sums, which have
passed a ReLU, some may always be 0.

A merged network must not reset its statistics: with scale 1 every channel would get spread 1. What is meant by that,
the averaged scale and shift of the end points for each channel again, :func:`lmc_utils.repair` does.
"""

from __future__ import annotations

import copy
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple, Self

import torch
from torch import Tensor, nn

from ..arguments import count
from ..spec import Site
from ..symmetry import ScaledPermutation
from .base import Network, builds, register, skeleton
from .fold import fold_batchnorm
from .layout import Stock, Weights

if TYPE_CHECKING:
    from timm.models.resnet import ResNet as TimmResNet

# Apart from convolutions and BatchNorms each of these works channel by channel, and f(s x) = s f(x) for every s > 0.
PARTS = (nn.Sequential, nn.Conv2d, nn.BatchNorm2d, nn.ReLU, nn.MaxPool2d, nn.AvgPool2d, nn.AdaptiveAvgPool2d,
         nn.Identity, nn.Linear)  # fmt: skip
LAYERS = ("layer1", "layer2", "layer3", "layer4")


def _sized(config: dict, image: tuple[int, int, int], classes: int) -> dict:
    return config | {"in_chans": image[0], "num_classes": classes}


@builds("resnet20", images=_sized)
def resnet20(
    *, in_chans: int = 3, num_classes: int = 10, channels: Sequence[int] = (16, 32, 64), blocks: int = 3
) -> TimmResNet:
    """Build the ResNet for small images of He et al. (2016, section 4.2) from timm's class, with freshly drawn weights.

    The stem is one 3 x 3 convolution that leaves the size of the image as it is, without pooling. Where a stage begins
    with more channels than the one before, the shortcut is a 1 x 1 convolution with BatchNorm.

    Parameters
    ----------
    in_chans, num_classes
        Channels of the images, and classes.
    channels
        The width of each stage, of which there are one to four; every stage but the first halves the resolution.
    blocks
        Blocks in a stage, each of two convolutions: three stages of three make 20 layers.

    Raises
    ------
    ValueError
        If there are no stages or more than four.

    Examples
    --------
    >>> import torch
    >>> resnet20(in_chans=1)(torch.zeros(2, 1, 28, 28)).shape
    torch.Size([2, 10])
    """
    from timm.models.resnet import BasicBlock, ResNet

    if not 2 <= len(channels) <= len(LAYERS):
        raise ValueError(f"channels must be two to four widths, one for each stage, not {channels!r:.80}")
    first = channels[0]
    model = ResNet(
        BasicBlock,
        [count("blocks", blocks)] * len(channels),
        num_classes=num_classes,
        channels=tuple(channels),
        stem_type="deep",  # whose width can be chosen, if it is even
        stem_width=-(-first // 2),
        zero_init_last=False,
    )
    model.conv1 = nn.Conv2d(in_chans, first, 3, padding=1, bias=False)
    fresh = [model.conv1]
    if first % 2:
        model.bn1, model.layer1[0] = nn.BatchNorm2d(first), (block := BasicBlock(first, first))
        fresh += [block.conv1, block.conv2]
    for conv in fresh:
        nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")  # as timm draws the others
    model.maxpool = nn.Identity()
    for layer in LAYERS[len(channels) :]:  # timm's forward pass asks for all of them
        setattr(model, layer, nn.Identity())
    return model


class Step(NamedTuple):
    """One convolution, its BatchNorm, and the sites that they read and write.

    The shift of a shortcut is added to that of the block's last BatchNorm, so one of the two is none: ``joins`` names
    the other.
    """

    conv: str
    norm: str
    reads: str
    writes: str
    joins: str | None = None


def _steps(model: nn.Module) -> Iterator[Step]:
    """All convolutions, block after block, of which the shortcut comes last."""
    stream = "r.0"
    yield from _chain(model, ["conv1", "bn1", "maxpool"], "_", stream)
    for layer in LAYERS:
        for i, block in enumerate(getattr(model, layer).children()):
            at, before = f"{layer}.{i}", stream
            if block.downsample is not None:
                stream = f"r.{int(before[2:]) + 1}"
            main = [f"{at}.{name}" for name, _ in block.named_children() if name != "downsample"]
            steps = _chain(model, main, before, stream)
            yield from steps
            if block.downsample is not None:
                (shortcut,) = _chain(model, [f"{at}.downsample"], before, stream)
                yield shortcut._replace(joins=steps[-1].norm)


def _chain(model: nn.Module, parts: Sequence[str], reads: str, writes: str) -> list[Step]:
    """The convolutions in these parts, which run one after the other, with hidden channels between them."""
    inside = [
        (f"{part}.{name}".rstrip("."), m) for part in parts for name, m in model.get_submodule(part).named_modules()
    ]
    convs, norms = ([name for name, m in inside if type(m) is kind] for kind in (nn.Conv2d, nn.BatchNorm2d))
    if len(convs) != len(norms):
        raise ValueError(
            f"this ResNet has {len(convs)} convolutions, but {len(norms)} BatchNorms in {', '.join(parts)}"
        )
    sites = [f"h.{conv}" for conv in convs[:-1]]
    return [Step(*step) for step in zip(convs, norms, [reads, *sites], [*sites, writes], strict=True)]


class ResNet(Stock):
    """Equal if all layers are."""

    data = "fashion-mnist"

    @classmethod
    def of_module(cls, module: nn.Module) -> Self:
        """The table of types of a skeleton."""
        layout, sites = {}, {}
        for step in _steps(module):
            norm = module.get_submodule(step.norm)
            sites[step.writes] = Site(ScaledPermutation, norm.num_features, splits=True)
            layout |= {
                f"{step.conv}.weight": f"{step.writes} {step.reads}{'*' * (step.reads != '_')} _ _",
                f"{step.norm}.weight": 1,
                f"{step.norm}.bias": 0 if step.joins else step.writes,
                f"{step.norm}.running_mean": 0,
                f"{step.norm}.running_var": 1 - norm.eps,
            }
        layout |= {"fc.weight": f"_ {step.writes}*"} | ({} if module.fc.bias is None else {"fc.bias": "_"})
        leaves = (f"{name}: {part}" for name, part in module.named_modules() if not next(part.children(), None))
        config = {"class": f"{type(module).__module__}.ResNet", "layers": tuple(leaves)}
        return cls.assemble(config, module, layout, sites)

    def with_sizes(self, sizes: Mapping[str, int]) -> Self:
        module = copy.deepcopy(self.module)
        for step in _steps(module):
            conv, norm = (module.get_submodule(name) for name in (step.conv, step.norm))
            conv.out_channels = norm.num_features = sizes[step.writes]
            conv.in_channels = sizes.get(step.reads, conv.in_channels)
            shape = (conv.out_channels, conv.in_channels, *conv.kernel_size)
            conv.weight = nn.Parameter(torch.empty(shape, device="meta"))
            for name in ("weight", "bias", "running_mean", "running_var"):
                x = torch.empty(norm.num_features, device="meta")
                setattr(norm, name, nn.Parameter(x) if name in norm._parameters else x)
        module.num_features = module.fc.in_features = sizes[step.writes]
        module.fc.weight = nn.Parameter(torch.empty(module.fc.out_features, module.fc.in_features, device="meta"))
        return self.of_module(module)

    def probe(self) -> Tensor:
        """Two images of noise."""
        channels = next(part.in_channels for part in self.module.modules() if isinstance(part, nn.Conv2d))
        return torch.randn(2, channels, 32, 32, generator=torch.Generator().manual_seed(0))


@register("torchvision.models.resnet.ResNet", "timm.models.resnet.ResNet")
def canonicalize(model: nn.Module) -> Network:
    """Fold BatchNorms into the convolutions before them, shifts of shortcuts into the block's; exact in float64."""
    _refuse_unknown_parts(model)
    weights = Weights(model)
    return ResNet.of_module(skeleton(model)).network(weights, _fold(weights, model))


def _fold(w: Weights, model: nn.Module) -> Iterator[str]:
    for step in _steps(model):
        fold_batchnorm(w, step.conv, step.norm, model.get_submodule(step.norm).eps)
        del w[f"{step.norm}.num_batches_tracked"]
        if step.joins:
            w[f"{step.joins}.bias"] = w[f"{step.joins}.bias"] + w[f"{step.norm}.bias"]
        yield f"{step.conv}."


def _refuse_unknown_parts(model: nn.Module) -> None:
    """Raise a ValueError that names the first part of the model whose symmetries are not in the table."""

    def demand(name: str, known: bool, found: object) -> None:
        if not known:
            raise ValueError(f"this ResNet has {name} ({found}), which has no canonical form here")

    library = sys.modules[type(model).__module__]
    known = {library.ResNet, library.BasicBlock, library.Bottleneck, *PARTS}
    pool = getattr(model, "global_pool", None)
    if pool is not None:
        from timm.layers import SelectAdaptivePool2d

        known.add(SelectAdaptivePool2d)
    for name, part in model.named_modules():
        where = f"at {name!r}"
        if pool is None or part not in (*pool.modules(),)[1:]:
            demand(f"another part {where}", type(part) in known, type(part).__name__)
        if isinstance(part, nn.Conv2d):
            demand(f"grouped convolutions {where}", part.groups == 1, part.groups)
            demand(f"a bias before the BatchNorm {where}", part.bias is None, "bias=True")
        if isinstance(part, nn.BatchNorm2d):
            demand(f"a BatchNorm without scale and shift {where}", part.affine, "affine=False")
            demand(f"a BatchNorm of each batch {where}", part.running_var is not None, "track_running_stats=False")
    demand("no linear head", type(model.fc) is nn.Linear, type(model.fc).__name__)
    *_, last = (model.get_submodule(step.norm).num_features for step in _steps(model) if not step.joins)
    demand(
        "another pooling",
        model.fc.in_features == last,
        f"{last} channels, of which the head reads {model.fc.in_features}",
    )
