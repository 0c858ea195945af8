"""ResNets: BatchNorm folds and comes back, streams end at projections, channels change places, are scaled and split."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest
import timm
import torch
import torchvision
from timm.models.resnet import BasicBlock, Bottleneck, ResNet
from torch import Tensor, nn
from torchvision.models import resnet as vision

import lmc_utils as lmc
from lmc_utils.networks.base import BUILDERS
from lmc_utils.networks.resnet import resnet20


def random(model: nn.Module, seed: int = 0) -> nn.Module:
    """Float64 weights, scales, shifts and statistics far from where they start, some scales negative or zero."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in model.parameters():
            p.add_(torch.randn(p.shape, generator=generator) * (0.5 * p.std() if p.ndim > 1 else 0.3))
        for part in model.modules():
            if isinstance(part, nn.BatchNorm2d):
                part.weight[0] *= -1
                part.running_mean.copy_(torch.randn(part.running_mean.shape, generator=generator) / 3)
                part.running_var.copy_(torch.rand(part.running_var.shape, generator=generator) + 0.3)
    return model.double().eval()


def of_vision(block: type, layers: Sequence[int], first: int, widths: Sequence[int]) -> nn.Module:
    """torchvision's class with few channels, which its constructor does not offer."""
    model = vision.ResNet(block, [1, 1, 1, 1], num_classes=5)
    model.inplanes = first
    model.conv1, model.bn1 = nn.Conv2d(3, first, 7, 2, 3, bias=False), nn.BatchNorm2d(first)
    for i, (width, blocks) in enumerate(zip(widths, layers, strict=True), 1):
        setattr(model, f"layer{i}", model._make_layer(block, width, blocks, stride=1 if i == 1 else 2))
    model.fc = nn.Linear(model.inplanes, 5)
    return model


DEEP = {"stem_type": "deep", "stem_width": 3, "num_classes": 5}
MODELS: dict[str, Callable[[], nn.Module]] = {
    "torchvision, basic": lambda: of_vision(vision.BasicBlock, [2, 1, 1, 1], 5, [5, 7, 6, 9]),
    "torchvision, bottleneck": lambda: of_vision(vision.Bottleneck, [2, 1, 1, 1], 4, [2, 3, 2, 3]),
    "timm, projections everywhere": lambda: ResNet(BasicBlock, [1, 1, 1, 1], channels=(5, 6, 7, 9), **DEEP),
    "timm, bottleneck": lambda: ResNet(Bottleneck, [1, 2, 1, 1], channels=(2, 3, 2, 3), base_width=96, **DEEP),
    "timm, pooled shortcuts and a convolution for a pool": lambda: ResNet(
        BasicBlock, [2, 1, 1, 1], channels=(6, 6, 7, 9), avg_down=True, replace_stem_pool=True, **DEEP
    ),
    "timm, largest pixel": lambda: ResNet(
        BasicBlock, [1, 1, 1, 1], channels=(6, 6, 7, 9), global_pool="avgmax", norm_layer=eps, **DEEP
    ),
    "small images, odd": lambda: resnet20(channels=(5, 7, 8), blocks=2, num_classes=5),
    "small images, one block a stage, no projection": lambda: resnet20(channels=(6, 6), blocks=1, num_classes=5),
}
every_model = pytest.mark.parametrize("name", MODELS)


def eps(channels: int, **options: object) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(channels, eps=3e-2)


def make(name: str, seed: int = 0) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return random(MODELS[name](), seed)


def images(samples: int = 3, channels: int = 3, size: int = 40) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return 3 * torch.randn(samples, channels, size, size, generator=generator, dtype=torch.float64)


def error(x: Tensor, y: Tensor) -> float:
    return (x - y).abs().max().item()


def apart(one: lmc.Network, other: lmc.Network) -> float:
    return max(error(p, other.params[name]) for name, p in one.params.items())


@every_model
@torch.no_grad()
def test_folding_and_going_back_leave_the_logits_alone(name):
    model, x = make(name), images()
    before, logits = {key: p.clone() for key, p in model.state_dict().items()}, model(images())
    assert logits.std(0).max() > 1e-3  # the images are told apart
    network = lmc.canonicalize(model)
    assert error(network(x), logits) < 1e-10
    back = network.to_model()
    assert type(back) is type(model)
    assert error(back(x), logits) < 1e-10
    assert apart(lmc.canonicalize(back), network) < 1e-12
    fresh = MODELS[name]().double().eval()
    fresh.load_state_dict(back.state_dict(), strict=True)
    assert error(fresh(x), logits) < 1e-10
    assert all(torch.equal(before[key], p) for key, p in model.state_dict().items())


@pytest.mark.parametrize("model", [torchvision.models.resnet18, torchvision.models.resnet50, *("resnet18", "resnet50")])
@torch.no_grad()
def test_the_real_ones(model):
    model = random(timm.create_model(model) if isinstance(model, str) else model())
    lmc.assert_canonical(lmc.canonicalize(model), model, images(2, size=64))


@every_model
@torch.no_grad()
def test_single_precision_is_folded_once(name):
    model = make(name).float()
    network = lmc.canonicalize(model)
    lmc.assert_canonical(network, model, images())
    assert apart(lmc.canonicalize(network.to_model()), network) == 0  # 1 - eps + eps rounds to almost 1


@every_model
@pytest.mark.parametrize("allow", ["permutation", "orthogonal", "invertible"])
def test_every_class_of_symmetry_leaves_the_logits_alone(name, allow):
    network = lmc.canonicalize(make(name))
    for seed in range(3):
        lmc.assert_invariant(network, network.spec.sample(seed, allow=allow), images())


@every_model
@torch.no_grad()
def test_channels_split_in_a_wider_module_of_the_same_class(name):
    network, x = lmc.canonicalize(make(name)), images()
    for more in ({site: n + 2 for site, n in network.spec.sizes.items()}, {"r.0": network.spec.sizes["r.0"] + 3}):
        wide = network.spec.sample(0, sizes=more)(network)
        assert {site: wide.spec.sizes[site] for site in more} == more
        assert error(wide(x), network(x)) < 1e-10
        model = wide.to_model()
        assert type(model).__name__ == "ResNet"
        assert error(model(x), network(x)) < 1e-10
        assert apart(lmc.canonicalize(model), wide) < 1e-12


@every_model
def test_a_planted_symmetry_is_found(name):
    network = lmc.canonicalize(make(name))
    planted = network.spec.sample(5)(network)
    assert apart(planted, network) > 1e-2
    assert apart(lmc.weight_matching(network, planted)(planted), network) < 1e-6
    g = lmc.activation_matching(network, planted, [(images(16), torch.zeros(16, dtype=torch.long))])
    assert apart(g(planted), network) < 1e-6


@every_model
def test_learned_matching_takes_a_step(name):
    a, b = (lmc.canonicalize(make(name, seed)) for seed in (0, 1))
    targets = torch.arange(8) % 5
    g = lmc.learned_matching(a, b, [(images(8), targets)], steps=1)
    assert g.history
    lmc.assert_invariant(b, g, images())


@every_model
@torch.no_grad()
def test_each_writer_of_a_merged_network_is_repaired(name):
    ends = [lmc.canonicalize(make(name, seed)) for seed in (0, 1)]
    batches = [(images(16), torch.zeros(16, dtype=torch.long))]
    repaired = lmc.repair(*ends, 0.5, batches)
    convs = [key for key, part in repaired.to_model().named_modules() if isinstance(part, nn.Conv2d)]
    a, b, spread = (
        {key: x.std(0, correction=0) for key, x in n.outputs(batches[0][0], convs).items()} for n in (*ends, repaired)
    )
    assert not {
        key: off for key in convs if (off := error(spread[key] / ((a[key] + b[key]) / 2), torch.ones(()))) > 1e-3
    }


@torch.no_grad()
def test_activations_have_a_column_for_each_channel():
    network = lmc.canonicalize(make("small images, odd"))
    seen = network.activations(images(2, size=8))
    assert {site: x.shape[1] for site, x in seen.items()} == network.spec.sizes
    hidden = seen["h.layer1.0.conv1"]
    assert len(hidden) == 2 * 8 * 8
    assert hidden.min() < 0  # before the ReLU


def test_a_projection_begins_a_stream_and_two_shifts_that_add_are_one():
    types = lmc.canonicalize(make("small images, odd")).spec.types
    assert types["layer1.1.conv2.weight"] == "r.0 h.layer1.1.conv1* _ _"
    assert types["layer2.0.downsample.0.weight"] == "r.1 r.0* _ _"
    assert types["layer2.0.bn2.bias"] == "r.1"
    assert "layer2.0.downsample.1.bias" not in types


def test_models_that_differ_in_a_stride_do_not_merge():
    one, other = make("small images, odd"), make("small images, odd")
    other.conv1.stride = (2, 2)
    with pytest.raises(ValueError, match=r"stride=\(2, 2\)"):
        lmc.merge(lmc.canonicalize(one), lmc.canonicalize(other))


def test_a_timm_folder(tmp_path):
    arguments = {"layers": [1, 1, 1, 1], "channels": [4, 4, 8, 8], "stem_type": "deep", "stem_width": 2}
    model = random(timm.create_model("resnet18", num_classes=5, **arguments)).float()
    timm.models.save_for_hf(model, tmp_path / "m", model_args=arguments, safe_serialization=True)
    again = lmc.load_model(tmp_path / "m")
    lmc.assert_canonical(lmc.canonicalize(again), model, images())


def test_the_builder_takes_the_shape_of_the_images():
    config = BUILDERS["resnet20"].images({"blocks": 1}, (1, 28, 28), 7)
    with torch.random.fork_rng():
        assert BUILDERS["resnet20"](**config).eval()(torch.zeros(2, 1, 28, 28)).shape == (2, 7)
    with pytest.raises(ValueError, match="channels must be two to four widths"):
        resnet20(channels=(16,))


def change(name: str, part: nn.Module) -> Callable[[], nn.Module]:
    def build() -> nn.Module:
        model = make("timm, projections everywhere")
        owner, _, leaf = name.rpartition(".")
        setattr(model.get_submodule(owner), leaf, part)
        return model

    return build


def timms(**options: object) -> Callable[[], nn.Module]:
    return lambda: ResNet(**{"block": BasicBlock, "layers": [1, 1, 1, 1], "channels": (4, 4, 6, 6)} | DEEP | options)


UNKNOWN = {
    "another part at 'layer1.0.act1' (LeakyReLU)": change("layer1.0.act1", nn.LeakyReLU()),
    "another part at 'layer1.0.se' (SEModule)": timms(block_args={"attn_layer": "se"}),
    "another part at 'maxpool.1' (BlurPool2d)": timms(aa_layer=timm.layers.BlurPool2d),
    "another part at 'layer2.0.drop_path' (DropPath)": timms(drop_path_rate=0.1),
    "another part at 'layer1.0.bn1' (GroupNorm)": change("layer1.0.bn1", nn.GroupNorm(1, 5)),
    "grouped convolutions at 'layer1.0.conv2' (2)": timms(block=Bottleneck, cardinality=2, base_width=32),
    "a bias before the BatchNorm at 'layer1.0.conv1'": change("layer1.0.conv1", nn.Conv2d(6, 5, 3, padding=1)),
    "a BatchNorm without scale and shift at 'bn1'": change("bn1", nn.BatchNorm2d(6, affine=False)),
    "a BatchNorm of each batch at 'bn1'": change("bn1", nn.BatchNorm2d(6, track_running_stats=False)),
    "no linear head (Identity)": timms(num_classes=0),
    "another pooling (6 channels, of which the head reads 12)": timms(global_pool="catavgmax"),
    "but 1 BatchNorms in layer1.0.conv1": change("layer1.0.bn1", nn.Identity()),
}


@pytest.mark.parametrize("message", UNKNOWN)
def test_parts_without_a_canonical_form_are_refused_by_name(message):
    with pytest.raises(ValueError) as caught:
        lmc.canonicalize(UNKNOWN[message]())
    assert message in str(caught.value)


def test_a_subclass_is_refused():
    class Mine(ResNet):
        pass

    with pytest.raises(TypeError, match="a subclass of timm"):
        lmc.canonicalize(Mine(BasicBlock, [1, 1, 1, 1], channels=(4, 4, 6, 6), **DEEP))
