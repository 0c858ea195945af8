"""transformers' Vision Transformer: exact, there and back, under every class of symmetry, on odd shapes too."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from transformers import ViTConfig, ViTForImageClassification

import lmc_utils as lmc
from lmc_utils.symmetry import StreamOrthogonal
from lmc_utils.zoo.folders import save_model

SMALL = {"hidden_size": 12, "num_hidden_layers": 2, "num_attention_heads": 3, "intermediate_size": 20, "image_size": 8,
         "patch_size": 4, "num_channels": 1, "num_labels": 5}  # fmt: skip


def make(seed: int = 0, **options: object) -> ViTForImageClassification:
    """A random model in float64 whose weights, norms and biases are all far from where they start."""
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(seed)
        model = ViTForImageClassification(ViTConfig(**SMALL | options)).double().eval()
        for p in model.parameters():
            p.add_(0.3 * torch.randn_like(p))
    return model


MODELS = {
    "small": lambda: make(),
    "one head as wide as the stream": lambda: make(hidden_size=7, num_attention_heads=1, intermediate_size=5),
    "one layer, one class": lambda: make(num_hidden_layers=1, num_labels=1, layer_norm_eps=1e-3),
    "wide images in color, without query, key and value biases": lambda: make(
        image_size=[4, 12], patch_size=2, num_channels=3, qkv_bias=False
    ),
    "relu": lambda: make(hidden_act="relu", hidden_size=15, num_attention_heads=5),
}
every_model = pytest.mark.parametrize("name", MODELS)
every_class = pytest.mark.parametrize("allow", ["permutation", "orthogonal", "invertible"])


def images(network: lmc.Network, samples: int = 3) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(samples, *network.architecture.image, generator=generator, dtype=torch.float64)


@torch.no_grad()
def logits(model: nn.Module, x: Tensor) -> Tensor:
    return model(x).logits


def error(x: Tensor, y: Tensor) -> float:
    return (x - y).abs().max().item()


def distance(a: lmc.Network, b: lmc.Network) -> float:
    assert a.architecture == b.architecture
    return max(error(p, b.params[key]) for key, p in a.params.items())


@every_model
@torch.no_grad()
def test_folding_and_going_back_leave_the_logits_alone(name):
    model = MODELS[name]()
    before = {key: p.clone() for key, p in model.state_dict().items()}
    network = lmc.canonicalize(model)
    assert all(torch.equal(before[key], p) for key, p in model.state_dict().items())
    x = images(network)
    assert error(network(x), logits(model, x)) < 1e-10
    assert error(logits(network.to_model(), x), logits(model, x)) < 1e-10
    assert type(network.to_model()) is ViTForImageClassification
    assert distance(network, lmc.canonicalize(network.to_model())) < 1e-10


@every_model
@torch.no_grad()
def test_training_the_model_on_does_not_move_the_network(name):
    model = MODELS[name]()
    network = lmc.canonicalize(model)
    given = network(images(network))
    for p in model.parameters():
        p.zero_()
    assert error(network(images(network)), given) == 0


@every_model
@every_class
def test_every_class_of_symmetry_leaves_the_logits_alone(name, allow):
    network = lmc.canonicalize(MODELS[name]())
    assert network.spec.sites["r"].symmetry is StreamOrthogonal
    for seed in range(3):
        lmc.assert_invariant(network, network.spec.sample(seed, allow=allow), images(network))


@every_model
@every_class
@pytest.mark.parametrize("method", ["weights", "activations"])
@torch.no_grad()
def test_a_planted_symmetry_is_found(name, allow, method):
    network = lmc.canonicalize(MODELS[name]())
    moved = network.spec.sample(1, allow=allow)(network)
    if method == "weights":
        found = lmc.weight_matching(network, moved, allow=allow)
    else:
        batches = [(part, None) for part in images(network, 150).split(50)]
        found = lmc.activation_matching(network, moved, batches, allow=allow)
    assert distance(found(moved), network) < 1e-6


@every_model
@torch.no_grad()
def test_every_site_is_seen_at_every_token(name):
    network = lmc.canonicalize(MODELS[name]())
    found, layers = network.activations(images(network)), network.architecture.config["num_hidden_layers"]
    tokens = 3 * len(network.params["vit.embeddings.position_embeddings"])
    heads = {f"heads.{i}" for i in range(layers)}  # they are seen by what is inside
    assert found.keys() == network.spec.sites.keys() - heads
    assert all(x.shape[-1] == network.spec.sites[site].size for site, x in found.items())
    assert len(found["r"]) == layers * tokens
    assert all(len(found[f"{site}.0"]) == tokens for site in ("ov", "ff"))


@torch.no_grad()
def test_biases_that_meet_are_one():
    """The class token and the patch bias are part of the table, which adds any multiple of the all-ones vector."""
    model, shift = make(), torch.linspace(-1, 2, 12, dtype=torch.float64)
    before, start = lmc.canonicalize(model), model.vit.embeddings
    start.cls_token += shift
    start.patch_embeddings.projection.bias += 2 * shift
    start.position_embeddings[:, :1] -= shift
    start.position_embeddings[:, 1:] += 5 - 2 * shift
    start.patch_embeddings.projection.weight += torch.linspace(-1, 2, 16).view(1, 1, 4, 4)
    assert distance(lmc.canonicalize(model), before) < 1e-10


@torch.no_grad()
def test_hidden_units_of_a_wider_network():
    network = lmc.canonicalize(make(hidden_act="relu"))
    wide = network.spec.sample(0, sizes={"ff.0": 33, "ff.1": 33})(network)
    assert error(wide(images(network)), network(images(network))) < 1e-10
    assert error(logits(wide.to_model(), images(network)), network(images(network))) < 1e-10


def test_a_step_of_learned_matching():
    a, b = (lmc.canonicalize(make(seed=seed)) for seed in range(2))
    found = lmc.learned_matching(a, b, [(images(a), torch.tensor([0, 4, 2]))], steps=1)
    lmc.assert_invariant(b, found, images(b))


@torch.no_grad()
def test_folders_keep_the_logits_and_the_names_of_the_classes(tmp_path):
    model = make(qkv_bias=False, id2label={i: f"class {i}" for i in range(5)})
    network = lmc.canonicalize(model)
    x = images(network)
    model.save_pretrained(tmp_path / "original")
    network.to_model().save_pretrained(tmp_path / "canonical")
    save_model(network, tmp_path / "like", like=tmp_path / "original")
    for folder in ("original", "canonical", "like"):
        assert error(logits(lmc.load_model(tmp_path / folder), x), logits(model, x)) < 1e-10
        found = ViTForImageClassification.from_pretrained(tmp_path / folder, dtype=torch.float64)
        assert error(logits(found, x), logits(model, x)) < 1e-10
    assert found.config.id2label[3] == "class 3"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"hidden_act": "sigmoid"}, "hidden_act 'sigmoid'"),
        ({"num_hidden_layers": 0}, "num_hidden_layers 0"),
        ({"num_labels": 0}, "num_labels 0"),
        ({"head_dim": 6}, "head_dim 6"),
    ],
)
def test_parts_that_are_not_known_are_refused_by_name(options, message):
    with pytest.raises(ValueError, match=message):
        lmc.canonicalize(make(**options))
