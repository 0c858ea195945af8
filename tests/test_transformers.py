"""Transformers in canonical form: exact, there and back, under every class of symmetry, on odd shapes too."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from timm.models.vision_transformer import VisionTransformer
from transformers import GPT2Config, GPT2LMHeadModel

import lmc_utils as lmc
from lmc_utils.matching.weight import cost_matrix
from lmc_utils.spec import act_on_site
from lmc_utils.symmetry import Orthogonal, Permutation, ScaledPermutation


def random(model: torch.nn.Module) -> torch.nn.Module:
    """Weights, norms and biases far from where they start."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.3 * torch.randn(p.shape, generator=generator))
    return model.double().eval()


def gpt2(**options) -> GPT2LMHeadModel:
    config = {"n_layer": 2, "n_embd": 24, "n_head": 3, "n_inner": 40, "vocab_size": 31, "n_positions": 9}
    return random(GPT2LMHeadModel(GPT2Config(**config | {"bos_token_id": 0, "eos_token_id": 0} | options)))


def vit(**options) -> VisionTransformer:
    shape = {"img_size": 28, "patch_size": 7, "in_chans": 1, "num_classes": 10}
    return random(
        VisionTransformer(**shape | {"embed_dim": 24, "depth": 2, "num_heads": 3, "mlp_ratio": 1.7} | options)
    )


MODELS = {
    "gpt2": gpt2,
    "gpt2 untied": lambda: gpt2(tie_word_embeddings=False),
    "gpt2 scaled by layer": lambda: gpt2(scale_attn_by_inverse_layer_idx=True, activation_function="gelu"),
    "gpt2 unscaled": lambda: gpt2(scale_attn_weights=False),
    "gpt2 one head": lambda: gpt2(n_layer=1, n_head=1, n_embd=7, n_inner=5),
    "gpt2 narrow": lambda: gpt2(n_embd=6, n_head=2),
    "gpt2 relu": lambda: gpt2(activation_function="relu"),
    "vit": vit,
    "vit without qkv bias": lambda: vit(qkv_bias=False, proj_bias=False),
    "vit pooling": lambda: vit(global_pool="avg", class_token=False),
    "vit pooling after the norm": lambda: vit(global_pool="avg", fc_norm=False),
    "vit class token apart": lambda: vit(no_embed_class=True),
    "vit layer scale": lambda: vit(init_values=0.1, qkv_bias=False, proj_bias=False),
    "vit registers": lambda: vit(reg_tokens=3, init_values=0.1),
    "vit registers apart": lambda: vit(reg_tokens=4, no_embed_class=True, global_pool="avg", class_token=False),
    "vit registers pooled": lambda: vit(reg_tokens=1, global_pool="avg", pool_include_prefix=True),
    "vit head norms": lambda: vit(qk_norm=True),
    "vit head norms, no biases": lambda: vit(qk_norm=True, qkv_bias=False, num_heads=1, depth=1, init_values=0.1),
    "vit head norms and registers": lambda: vit(qk_norm=True, reg_tokens=2, num_heads=2),
    "vit one head": lambda: vit(num_heads=1, depth=1, embed_dim=7),
    "vit relu": lambda: vit(act_layer=torch.nn.ReLU),
}
every_model = pytest.mark.parametrize("name", MODELS)


def inputs(model: torch.nn.Module, samples: int = 3) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    if isinstance(model, GPT2LMHeadModel):
        return torch.randint(31, (samples, 1 if samples == 1 else 7), generator=generator)
    return torch.randn(samples, 1, 28, 28, generator=generator, dtype=torch.float64)


def logits(model: torch.nn.Module, x: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        y = model(x)
    return getattr(y, "logits", y)


def error(x: torch.Tensor, y: torch.Tensor) -> float:
    return (x - y).abs().max().item()


@every_model
@torch.no_grad()
def test_folding_and_going_back_leave_the_logits_alone(name):
    model = MODELS[name]()
    before = {key: p.clone() for key, p in model.state_dict().items()}
    network = lmc.canonicalize(model)
    for samples in (1, 3):
        x = inputs(model, samples)
        assert error(network(x), logits(model, x)) < 1e-10
        assert error(logits(network.to_model(), x), logits(model, x)) < 1e-10
    assert all(torch.equal(before[key], p) for key, p in model.state_dict().items())
    again = lmc.canonicalize(network.to_model())
    assert all(error(p, again.params[key]) < 1e-10 for key, p in network.params.items())


@every_model
@torch.no_grad()
def test_folding_in_single_precision(name):
    model = MODELS[name]().float()
    network, x = lmc.canonicalize(model), inputs(model)
    x = x.float() if x.is_floating_point() else x
    assert network.reference.dtype == torch.float32
    assert error(network(x), logits(model, x)) < 1e-4
    lmc.assert_invariant(network, network.spec.sample(0, allow="orthogonal"), x)


@every_model
@pytest.mark.parametrize("allow", ["permutation", "orthogonal", "invertible"])
def test_every_class_of_symmetry_leaves_the_logits_alone(name, allow):
    model = MODELS[name]()
    network = lmc.canonicalize(model)
    for seed in range(3):
        lmc.assert_invariant(network, network.spec.sample(seed, allow=allow), inputs(model))


@every_model
@torch.no_grad()
def test_alignments_are_a_group_also_inside_heads(name):
    network = lmc.canonicalize(MODELS[name]())
    g, h = network.spec.sample(1), network.spec.sample(2)
    for one, two in (((g @ h)(network), g(h(network))), (g.inverse()(g(network)), network)):
        assert all(error(p, two.params[key]) < 1e-9 for key, p in one.params.items())


@every_model
@torch.no_grad()
def test_widening_leaves_the_logits_alone_and_gives_a_stock_module(name):
    model = MODELS[name]()
    network, x = lmc.canonicalize(model), inputs(model)
    spec = network.spec
    heads, width = spec.sites["heads.0"].size, spec.sites["r"].size
    more = {site: heads + 1 for site in spec.sites if site.startswith("heads")}
    wider = {"r": 5 * heads * width}, more | {"r": 5 * (heads + 1) * width}
    if "head norms" in name:  # these see how many dimensions a head has
        wider = ({site: 2 * heads for site in more} | {"r": 2 * width},)
    for sizes in wider:
        wide = spec.sample(3, sizes=sizes)(network)
        assert {site: wide.spec.sizes[site] for site in sizes} == sizes
        assert error(wide(x), network(x)) < 1e-10
        assert error(logits(wide.to_model(), x), logits(model, x)) < 1e-10


@torch.no_grad()
def test_relu_units_of_an_mlp_split_and_scale(make_mlp):
    network = make_mlp((4, 5, 6, 3))
    x = torch.randn(9, 4, dtype=torch.float64)
    split = network.spec.sample(0, sizes={"ff.0": 9, "ff.1": 8})
    assert error(split(network)(x), network(x)) < 1e-10
    assert split(network).params["fc1.weight"].shape == (8, 9)
    lmc.assert_invariant(network, network.spec.sample(0), x)


@pytest.mark.parametrize("name", ["gpt2 relu", "vit relu"])
@torch.no_grad()
def test_relu_units_of_a_transformer_split_and_scale(name):
    model = MODELS[name]()
    network, x = lmc.canonicalize(model), inputs(model)
    assert isinstance(network.spec.sample(0)["ff.0"], ScaledPermutation)
    split = network.spec.sample(0, sizes={"ff.0": 47, "ff.1": 47})(network)
    assert split.params["0.fc.weight"].shape == (47, 24)
    assert error(split(x), network(x)) < 1e-10
    assert error(logits(split.to_model(), x), logits(model, x)) < 1e-10


@pytest.mark.parametrize("name", ["gpt2", "vit"])
@torch.no_grad()
def test_gelu_units_of_a_transformer_change_places_and_stay_whole(name):
    model = MODELS[name]()
    network, x = lmc.canonicalize(model), inputs(model)
    assert isinstance(network.spec.sample(0)["ff.0"], Permutation)
    wide = network.spec.sample(0, sizes={"ff.0": 47, "ff.1": 47})
    assert set(wide["ff.0"].matrix().flatten().tolist()) == {0, 1}
    assert error(wide(network)(x), network(x)) < 1e-10


@pytest.mark.parametrize("nonlinearity", [torch.nn.GELU, torch.nn.Hardtanh])
def test_units_of_other_nonlinearities_do_not_split(nonlinearity):
    model = torch.nn.Sequential(torch.nn.Linear(4, 5), nonlinearity(), torch.nn.Linear(5, 3)).double()
    network = lmc.canonicalize(model)
    whole = network.spec.sample(0, sizes={"ff.0": 6})
    lmc.assert_invariant(network, whole, torch.randn(9, 4))
    assert set(whole["ff.0"].matrix().flatten().tolist()) == {0, 1}
    # the table is right to split none: the split of a ReLU unit changes this function
    site = replace(network.spec.sites["ff.0"], splits=True)
    forced = lmc.Spec(network.spec.types, {"ff.0": site}).sample(0, sizes={"ff.0": 6})
    x = 9 * torch.randn(9, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    wide = network.architecture.with_sizes({"ff.0": 6}).forward(forced.act(network.params), x)
    assert error(wide, network(x)) > 1e-3


def test_leaky_relu_units_split():
    model = torch.nn.Sequential(torch.nn.Linear(4, 5), torch.nn.LeakyReLU(), torch.nn.Linear(5, 3)).double()
    network = lmc.canonicalize(model)
    lmc.assert_invariant(network, network.spec.sample(0, sizes={"ff.0": 8}), torch.randn(9, 4))


@torch.no_grad()
def test_an_aligned_average_is_an_ordinary_model_again():
    a, b = (lmc.canonicalize(model) for model in (gpt2(), random(gpt2())))
    merged = lmc.merge(a, lmc.weight_matching(a, b)(b))
    x = inputs(gpt2())
    assert error(logits(merged.to_model(), x), merged(x)) < 1e-10


def test_the_spec_prints_as_the_table_of_types():
    table = str(lmc.canonicalize(gpt2()).spec)
    for line in (
        "0.q.weight     heads.0* qk.0 r*",
        "0.v.weight     heads.0 ov.0 r*",
        "1.proj.weight  r ff.1*",
        "r              StreamOrthogonal(24)",
        "qk.0           Invertible(8) in each of heads.0",
    ):
        assert line in table


@pytest.mark.parametrize("name", ["gpt2", "vit"])
def test_the_cost_matrix_is_the_gradient_of_the_score(name):
    a = lmc.canonicalize(MODELS[name]())
    spec, b = a.spec, a.spec.sample(0)(a).params
    for site in spec.sites:
        if not spec.inside(site):  # heads are compared by their circuits
            T = Orthogonal.identity(spec.sites[site].size, spec.batch(site)).matrix().requires_grad_()
            moved = act_on_site(spec, site, Orthogonal(T), b)
            sum((a.params[key] * p).sum() for key, p in moved.items()).backward()
            assert error(T.grad, cost_matrix(spec, site, a.params, b)) < 1e-10


PLANTED = [
    "gpt2",
    "gpt2 untied",
    "gpt2 scaled by layer",
    "gpt2 one head",
    "gpt2 narrow",
    "gpt2 relu",
    "vit",
    "vit pooling",
    "vit class token apart",
    "vit one head",
    "vit relu",
]


@pytest.mark.parametrize("name", PLANTED)
@pytest.mark.parametrize("allow", ["permutation", "orthogonal", "invertible"])
@pytest.mark.parametrize("method", ["weights", "activations"])
@torch.no_grad()
def test_a_planted_symmetry_is_found(name, allow, method):
    model = MODELS[name]()
    network = lmc.canonicalize(model)
    batches = [(part, None) for part in inputs(model, 300).split(100)]
    for seed in range(2):
        moved = network.spec.sample(seed, allow=allow)(network)
        if method == "weights":
            found = lmc.weight_matching(network, moved, allow=allow)
        else:
            found = lmc.activation_matching(network, moved, batches, allow=allow)
        assert all(error(p, network.params[key]) < 1e-6 for key, p in found(moved).params.items())


@pytest.mark.parametrize("name", ["gpt2 one head", "vit one head"])
@torch.no_grad()
def test_a_planted_symmetry_of_heads_as_wide_as_the_stream_is_found_in_single_precision(name):
    network = lmc.canonicalize(MODELS[name]().float())
    moved = network.spec.sample(0)(network)
    found = lmc.weight_matching(network, moved)
    assert all(error(p, network.params[key]) < 1e-4 for key, p in found(moved).params.items())


@torch.no_grad()
def test_heads_that_nothing_writes_or_reads_do_not_hide_a_planted_symmetry():
    model = gpt2()
    first, second = (block.attn for block in model.transformer.h)
    first.c_proj.weight[:8] = 0  # nothing reads the values of this head
    second.c_attn.weight[:, 24:32] = 0  # this one's queries meet no keys
    network = lmc.canonicalize(model)
    assert (network.params["0.v.weight"][0] == 0).all()
    assert (network.params["1.q.weight"][0] == 0).all()
    assert error(network(inputs(model)), logits(model, inputs(model))) < 1e-10
    moved = network.spec.sample(0)(network)
    found = lmc.weight_matching(network, moved)
    assert all(error(p, network.params[key]) < 1e-6 for key, p in found(moved).params.items())


@pytest.mark.parametrize("options", [{"no_embed_class": True}, {"init_values": 0.1}, {"qk_norm": True}], ids=str)
def test_activations_find_registers_that_changed_places(options):
    network = lmc.canonicalize(vit(reg_tokens=4, **options))
    planted = network.spec.sample(seed=2)
    images = torch.randn(40, 1, 28, 28, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    found = lmc.activation_matching(network, planted(network), [(images, torch.zeros(40, dtype=torch.int64))])
    sites = [*["qk.0", "qk.1"] * options.get("qk_norm", False), "reg", "r", "heads.0", "ff.0", "heads.1", "ff.1"]
    for site in sites:
        assert error(found[site].matrix(), planted.inverse()[site].matrix()) < 1e-6, site


def half_normed() -> VisionTransformer:
    model = vit(qk_norm=True)
    model.blocks[1].attn.q_norm = torch.nn.Identity()
    return model


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: half_normed(), "norms in the heads of some blocks only"),
        (lambda: vit(scale_attn_norm=True), "a norm in the attention in block 0"),
        (lambda: vit(pre_norm=True), "a norm before the blocks"),
        (lambda: vit(global_pool="map"), "attention pooling"),
        (lambda: vit(global_pool="max", class_token=False), "another pooling"),
        (lambda: vit(final_norm=False), "not exactly one last norm"),
        (lambda: vit(dynamic_img_size=True), "images of any size"),
        (lambda: vit(num_classes=0), "no linear head"),
        (lambda: vit(scale_mlp_norm=True), "a norm in the MLP"),
        (lambda: gpt2(add_cross_attention=True), "add_cross_attention"),
    ],
)
def test_parts_that_are_not_known_are_refused_by_name(make, message):
    with pytest.raises(ValueError, match=message):
        lmc.canonicalize(make())


@pytest.mark.parametrize(("options", "open_"), [({"init_values": 0.3}, 0), ({"qk_norm": True, "reg_tokens": 2}, 1)])
def test_flat_directions_of_a_vision_transformer(options, open_):
    """With norms in the heads one direction a block stays open: gains that act alike on centred vectors, turned."""
    small = {"embed_dim": 8, "num_heads": 2, "depth": 1, "mlp_ratio": 0.8, "img_size": 8, "patch_size": 4}
    model = vit(**small, num_classes=5, global_pool="avg", class_token=False, **options)
    for part in model.modules():
        if hasattr(part, "eps"):
            part.eps = 1e-2
    images = torch.randn(500, 1, 8, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    found = lmc.flat_directions(lmc.canonicalize(model), images)
    assert not found.poor
    assert found.flat - found.explained == open_


def test_sizes_that_no_stock_module_has_are_refused():
    network = lmc.canonicalize(gpt2())
    with pytest.raises(ValueError, match="a multiple of its 3 heads, not 25"):
        network.spec.sample(0, sizes={"r": 25})(network)
    with pytest.raises(ValueError, match=r"no sites \['q'\] to widen"):
        network.spec.sample(0, sizes={"q": 25})
    with pytest.raises(ValueError, match="as many heads"):
        network.spec.sample(0, sizes={"heads.0": 4, "r": 60})(network)


def test_networks_of_different_depth_or_vocabulary_are_told_apart():
    a = lmc.canonicalize(gpt2())
    wrong = {
        "1.q.weight has shape .* and absent": {"n_layer": 1},
        r"wte has shape \(31, 24\) and \(30, 24\)": {"vocab_size": 30},
    }
    for message, options in wrong.items():
        with pytest.raises(ValueError, match=message):
            lmc.weight_matching(a, lmc.canonicalize(gpt2(**options)))
