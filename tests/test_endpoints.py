"""End points that ship, training that can be interrupted, and the command line."""

from __future__ import annotations

import importlib
import json
import shutil
from functools import partial
from pathlib import Path

import datasets
import numpy as np
import pytest
import torch
from conftest import write_table
from PIL import Image
from safetensors import safe_open
from torch import nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, TensorDataset
from transformers import LlamaConfig, LlamaForCausalLM

import lmc_utils as lmc
from lmc_utils import data as data_module
from lmc_utils.__main__ import main
from lmc_utils.networks import base
from lmc_utils.networks.gpt2 import gpt2
from lmc_utils.networks.mlp import mlp
from lmc_utils.storage import save_atomically
from lmc_utils.train import fit
from lmc_utils.zoo import endpoints as endpoints_module
from lmc_utils.zoo.presets import NARROW, PRESETS, shaped

storage_module = importlib.import_module("lmc_utils.storage")
train_module = importlib.import_module("lmc_utils.train")  # lmc_utils.train is the function


@pytest.fixture(autouse=True)
def the_same_initial_weights() -> None:
    torch.manual_seed(0)


@pytest.fixture
def assets(tmp_path, monkeypatch):
    """A copy of the end points and their checksums that a test may damage."""
    folder = tmp_path / "assets"
    shutil.copytree(data_module.ASSETS / "endpoints", folder / "endpoints")
    shutil.copy(data_module.ASSETS / "SHA256SUMS", folder)
    monkeypatch.setattr(data_module, "ASSETS", folder)
    monkeypatch.setattr(endpoints_module, "ASSETS", folder)
    return folder


@pytest.mark.parametrize("seed", lmc.list_endpoints()["mlp"])
def test_shipped_end_points_are_as_good_as_their_files_say(seed):
    path = data_module.ASSETS / "endpoints" / f"mlp-seed{seed}.safetensors"
    story = lmc.load_checkpoint(path).metadata
    assert (story["architecture"], story["seed"], story["data"]) == ("mlp", seed, "fashion-mnist")
    assert story["config"]["widths"] == [784, 256, 256, 256, 10]
    assert set(story["versions"]) >= {"torch", "lmc-utils"}
    loss, accuracy, _ = lmc.evaluate(lmc.load_endpoint("mlp", seed), lmc.load_data("fashion-mnist").test)
    assert loss == pytest.approx(story["test_loss"], abs=1e-4)
    assert accuracy == pytest.approx(story["test_accuracy"], abs=1e-3)


def test_three_seeds_ship():
    assert lmc.list_endpoints()["mlp"] == [0, 1, 2]


@pytest.mark.parametrize("name", NARROW)
def test_the_narrow_gpt2s_that_ship_are_what_their_names_say(name):
    config = lmc.load_endpoint(name, 0).config
    assert (config.n_embd, config.n_head) == NARROW[name]
    assert config.n_inner == 4 * config.n_embd


def test_symmetries_of_a_shipped_end_point_are_exact():
    network = lmc.canonicalize(lmc.load_endpoint("mlp", 0)).to(torch.float64)
    inputs = lmc.load_data("fashion-mnist").test.inputs[:200]
    for seed in range(3):
        lmc.assert_invariant(network, network.spec.sample(seed), inputs)


def test_an_unknown_end_point_says_how_to_make_it():
    with pytest.raises(ValueError, match=r"shipped are .*python -m lmc_utils train mlp --preset mlp --seed 99"):
        lmc.load_endpoint("mlp", 99)


def test_a_damaged_end_point_is_refused(assets):
    path = assets / "endpoints" / "mlp-seed0.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"mlp-seed0.safetensors .*damaged: SHA-256 expected"):
        lmc.load_endpoint("mlp", 0)


def test_a_missing_end_point_is_named(assets):
    (assets / "endpoints" / "mlp-seed0.safetensors").unlink()
    with pytest.raises(ValueError, match=r"no end point 'mlp' with seed 0; shipped are \{.*'mlp': \[1, 2\]"):
        lmc.load_endpoint("mlp", 0)


def test_checkpoints_come_back_with_their_story(tmp_path):
    model = mlp((4, 5, 3))
    lmc.save_checkpoint(tmp_path / "a.safetensors", model, "mlp", {"widths": [4, 5, 3]}, seed=7)
    again, story = lmc.load_checkpoint(tmp_path / "a.safetensors")
    assert story["seed"] == 7
    assert torch.equal(again(torch.ones(1, 4)), model(torch.ones(1, 4)))
    assert [path.name for path in tmp_path.iterdir()] == ["a.safetensors"]


def test_bad_checkpoints_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="no checkpoint at"):
        lmc.load_checkpoint(tmp_path / "none.safetensors")
    (tmp_path / "junk.safetensors").write_bytes(b"junk")
    with pytest.raises(ValueError, match=r"junk.safetensors is corrupt"):
        lmc.load_checkpoint(tmp_path / "junk.safetensors")
    save_atomically({"w": torch.zeros(1)}, tmp_path / "other.safetensors", {"architecture": '"rnn"'})
    with pytest.raises(ValueError, match=r"says architecture 'rnn'; known are \[.*'gpt2'.*'mlp'.*'vit'.*\]"):
        lmc.load_checkpoint(tmp_path / "other.safetensors")


def test_an_architecture_from_elsewhere_trains_saves_and_loads_by_its_name(tmp_path, monkeypatch):
    monkeypatch.setitem(base.BUILDERS, "wheel", None)  # taken out again at the end

    @base.builds("wheel", text=lambda config, vocabulary: config | {"vocab_size": vocabulary})
    def wheel(**config) -> LlamaForCausalLM:
        return LlamaForCausalLM(LlamaConfig(**config))

    sizes = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2}
    settings = sizes | {"rope_parameters": {"rope_type": "linear", "rope_theta": 77.0, "factor": 2.0}}
    config = shaped("wheel", settings, lmc.load_data("shakespeare"))
    assert config == settings | {"vocab_size": 1024}
    model = base.BUILDERS["wheel"](**config).eval()
    lmc.save_checkpoint(tmp_path / "a.safetensors", model, "wheel", config)
    again, tokens = lmc.load_checkpoint(tmp_path / "a.safetensors").model, torch.arange(9).unsqueeze(0)
    assert torch.equal(again(tokens).logits, model(tokens).logits)
    with pytest.raises(ValueError, match="'wheel' reads text, but 'digits' holds images"):
        shaped("wheel", settings, lmc.load_data("digits"))
    config["rope_parameters"]["factor"] = 1e300
    lmc.save_checkpoint(tmp_path / "a.safetensors", model, "wheel", config)
    with pytest.raises(ValueError, match=r"rope_parameters\['factor'\] is 1e\+300, but a file of 12 tensors"):
        lmc.load_checkpoint(tmp_path / "a.safetensors")


def test_an_interrupted_write_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "a.safetensors"
    save_atomically({"w": torch.zeros(1)}, path, {})
    before = path.read_bytes()

    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(storage_module.os, "replace", interrupted)
    with pytest.raises(KeyboardInterrupt):
        save_atomically({"w": torch.ones(1)}, path, {})
    assert path.read_bytes() == before


def weights(model):
    return torch.nn.utils.parameters_to_vector(model.parameters())


def test_training_is_decided_by_its_seed_and_leaves_the_model_alone(make_batches):
    model, batches = mlp((4, 5, 3)), make_batches((4, 5, 3))
    start = weights(model).clone()
    runs = [weights(lmc.train(model, batches, epochs=2, batch_size=10, seed=seed)) for seed in (0, 0, 1)]
    assert torch.equal(runs[0], runs[1])
    assert not torch.equal(runs[0], runs[2])
    assert torch.equal(weights(model), start)


def test_training_lowers_the_loss(make_batches):
    model, batches = mlp((4, 16, 3)), make_batches((4, 16, 3))
    trained = lmc.train(model, batches, epochs=30, batch_size=10, lr=3e-2)
    assert lmc.evaluate(trained, batches).loss < lmc.evaluate(model, batches).loss - 0.2


def jitter(x: torch.Tensor) -> torch.Tensor:
    return x + 0.1 * torch.randn_like(x)


@pytest.mark.parametrize(
    "recipe", [{}, {"average": 0.9}, {"warmup": 0.4, "clip": 0.1}, {"augment": jitter}], ids=" ".join
)
def test_an_interrupted_run_ends_where_the_uninterrupted_one_does(make_batches, tmp_path, monkeypatch, recipe):
    model, batches = mlp((4, 5, 3)), make_batches((4, 5, 3))
    run = {"epochs": 4, "batch_size": 10, "seed": 3, "validation": batches, **recipe}
    whole = weights(lmc.train(model, batches, **run))
    path, saves = tmp_path / "run.safetensors", []

    def save_twice(*args):
        if len(saves) == 2:
            raise KeyboardInterrupt
        saves.append(save_atomically(*args))

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(train_module, "save_atomically", save_twice)
        lmc.train(model, batches, **run, checkpoint=path)
    resumed = weights(lmc.train(model, batches, **run, checkpoint=path))
    assert torch.equal(whole, resumed)


def test_a_checkpoint_of_another_run_or_a_corrupt_one_is_refused(make_batches, tmp_path):
    model, batches, path = mlp((4, 5, 3)), make_batches((4, 5, 3)), tmp_path / "run.safetensors"
    lmc.train(model, batches, epochs=1, checkpoint=path)
    before = path.read_bytes()
    with pytest.raises(ValueError, match=r"run.safetensors belongs to another run"):
        lmc.train(model, batches, epochs=2, checkpoint=path)
    assert path.read_bytes() == before
    path.write_bytes(before[:50])
    with pytest.raises(ValueError, match=r"run.safetensors is corrupt .*delete it"):
        lmc.train(model, batches, epochs=1, checkpoint=path)


@pytest.mark.parametrize(
    "recipe",
    [
        {"average": 0.9},
        {"warmup": 0.5},
        {"clip": 0.1},
        {"weight_decay": 1.0},
        {"betas": (0.5, 0.9)},
        {"augment": jitter},
    ],
    ids=" ".join,
)
def test_every_part_of_the_recipe_changes_the_run(make_batches, recipe):
    train = partial(lmc.train, mlp((4, 5, 3)), make_batches((4, 5, 3)), epochs=2, batch_size=10)
    assert not torch.equal(weights(train()), weights(train(**recipe)))


def test_the_learning_rate_rises_along_a_line_and_falls_along_half_a_cosine():
    rates = [train_module._rate(step, 12, 4) for step in range(13)]
    assert rates[:5] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1])
    assert rates[8] == pytest.approx(0.5)
    assert rates[12] == pytest.approx(0)
    assert rates[4:] == sorted(rates[4:], reverse=True)


def test_an_average_stays_nearer_to_the_start_than_what_it_averages(make_batches):
    model, batches = mlp((4, 5, 3)), make_batches((4, 5, 3))
    plain, slow = (
        (weights(lmc.train(model, batches, epochs=4, batch_size=10, lr=1e-2, average=a)) - weights(model)).norm()
        for a in (0.0, 0.99)
    )
    assert 0 < slow < 0.5 * plain


def test_clipping_bounds_how_far_a_bad_sample_moves_the_weights(make_batches):
    model, batches = mlp((4, 5, 3)), make_batches((4, 5, 3))
    clipped = lmc.train(model, batches, epochs=2, lr=1e-2, clip=1e-12)  # far below what Adam divides by at least
    assert (weights(clipped) - weights(model)).abs().max() < 1e-4
    assert (weights(lmc.train(model, batches, epochs=2, lr=1e-2)) - weights(model)).abs().max() > 5e-3


@pytest.mark.parametrize(("free", "moving"), [([], "all"), (["fc1"], ["fc1.weight", "fc1.bias"])])
def test_an_end_point_is_trained_on_but_for_its_frozen_parts(make_batches, free, moving):
    model = mlp((4, 5, 3)).requires_grad_(False)  # as end points are loaded
    for name in free:
        model.get_submodule(name).requires_grad_(True)
    start, trained = model.state_dict(), lmc.train(model, make_batches((4, 5, 3))).state_dict()
    assert [name for name in start if not torch.equal(start[name], trained[name])] == (
        list(start) if moving == "all" else moving
    )


def test_augmentation_sees_single_inputs(make_batches):
    batches, seen = make_batches((4, 5, 3)), []
    lmc.train(mlp((4, 5, 3)), batches, epochs=2, batch_size=20, augment=lambda x: seen.append(x) or x)
    assert len(seen) == 2 * len(batches.inputs)
    for epoch in (torch.stack(seen[:50]), torch.stack(seen[50:])):
        assert torch.equal(epoch.sort(0).values, batches.inputs.sort(0).values)


@pytest.fixture
def spoilt(make_batches):
    """A trained network, the data that it knows, and the same inputs with wrong targets."""
    batches = make_batches((4, 16, 3))
    model = lmc.train(mlp((4, 16, 3)), batches, epochs=20, batch_size=10, lr=1e-2)
    return model, batches, lmc.data.Batches(batches.inputs, (batches.targets + 1) % 3, 10)


def validation_losses(path: Path) -> list[float]:
    with safe_open(path, "pt") as file:
        return list(json.loads(file.metadata()["validation"]).values())


@pytest.mark.parametrize("average", [0.0, 0.5])
def test_the_weights_that_were_best_on_the_validation_data_are_kept(spoilt, tmp_path, average):
    model, right, wrong = spoilt
    path, run = tmp_path / "run.safetensors", {"epochs": 5, "batch_size": 10, "lr": 3e-2, "average": average}
    kept = lmc.evaluate(lmc.train(model, wrong, **run, validation=right, checkpoint=path), right).loss
    losses = validation_losses(path)
    assert kept == pytest.approx(min(losses))
    assert losses[-1] == pytest.approx(lmc.evaluate(lmc.train(model, wrong, **run), right).loss)
    assert kept < losses[-1] - 0.1


def test_patience_stops_a_run_that_does_not_improve(spoilt, tmp_path):
    model, right, wrong = spoilt
    run = {"epochs": 9, "batch_size": 10, "lr": 1e-2, "validation": right}
    for patience in (1, 3):
        path = tmp_path / f"{patience}.safetensors"
        lmc.train(model, wrong, **run, patience=patience, checkpoint=path)
        losses = validation_losses(path)
        assert losses == sorted(losses)  # worse and worse
        assert len(losses) == 1 + patience


class Loss(nn.Module):
    """What `fit` learns: a module that returns the loss of a batch."""

    def __init__(self) -> None:
        super().__init__()
        self.network = mlp((4, 5, 3))

    def forward(self, inputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        return cross_entropy(self.network(inputs), targets)


def test_any_batches_that_can_be_iterated_again_do(make_batches):
    batches, histories = make_batches((4, 5, 3)), []
    loader = DataLoader(TensorDataset(batches.inputs, batches.targets), batch_size=20)
    for source in (list(batches), loader):
        torch.manual_seed(0)
        histories.append(fit(Loss(), source, steps=7, lr=1e-2))
    assert len(histories[0].loss) == 7  # there are three batches
    assert histories[0] == histories[1]


def test_data_that_run_dry_are_named(make_batches):
    with pytest.raises(ValueError, match="batches hold no batch: the data are empty"):
        fit(Loss(), [], steps=7, lr=1e-2)
    with pytest.raises(ValueError, match="batches can be iterated only once: give a list"):
        fit(Loss(), iter(make_batches((4, 5, 3))), steps=7, lr=1e-2)

    class Once:
        """Batches that do not look like an iterator, and are one."""

        def __init__(self, batches):
            self.rest = iter(batches)

        def __iter__(self):
            return self.rest

    with pytest.raises(ValueError, match="no batch for step 1 of 7: the data are empty"):
        fit(Loss(), Once([]), steps=7, lr=1e-2)
    with pytest.raises(ValueError, match="no batch for step 4 of 7: the data can be iterated only once"):
        fit(Loss(), Once(make_batches((4, 5, 3))), steps=7, lr=1e-2)


def test_tied_weights_stay_tied(tmp_path):
    config = {"n_layer": 1, "n_embd": 8, "n_head": 2, "vocab_size": 13, "n_positions": 8, "tie_word_embeddings": True}
    tokens = torch.randint(13, (10, 9), generator=torch.Generator().manual_seed(0))
    batches = lmc.data.Batches(tokens[:, :-1], tokens[:, 1:], 5)
    model = lmc.train(gpt2(**config), batches, epochs=1, batch_size=5, checkpoint=tmp_path / "run.safetensors")
    lmc.save_checkpoint(tmp_path / "tied.safetensors", model, "gpt2", config)
    again = lmc.load_checkpoint(tmp_path / "tied.safetensors").model
    assert again.lm_head.weight is again.transformer.wte.weight
    assert torch.equal(again(tokens[:, :-1]).logits, model(tokens[:, :-1]).logits)


def test_a_diverging_run_says_so(make_batches):
    batches = make_batches((4, 5, 3))
    batches.inputs[0] = torch.inf
    with pytest.raises(ValueError, match="the loss became nan in step 1"):
        lmc.train(mlp((4, 5, 3)), batches, epochs=1)


def test_the_command_line_trains_an_end_point(tmp_path, capsys):
    arguments = ["train", "mlp", "--data", "digits", "--hidden", "8", "--epochs", "1", "--out", str(tmp_path)]
    main([*arguments, "--seed", "5"])
    assert "test accuracy" in capsys.readouterr().out
    model, story = lmc.load_checkpoint(tmp_path / "mlp-seed5.safetensors")
    assert (story["seed"], story["data"], story["recipe"]["epochs"]) == (5, "digits", 1)
    first = weights(model)
    main([*arguments, "--seed", "5"])  # again: the same weights
    assert torch.equal(first, weights(lmc.load_checkpoint(tmp_path / "mlp-seed5.safetensors").model))
    assert [path.name for path in tmp_path.iterdir()] == ["mlp-seed5.safetensors"]


LINE = "To be, or not to be: that is the question. "
SMALL = {
    "mlp": {"hidden": [6]},
    "vit": {"embed_dim": 8, "depth": 1, "num_heads": 2, "patch_size": 4},
    "gpt2": {"n_embd": 8, "n_layer": 1, "n_head": 2, "n_inner": 8, "n_positions": 16},
    "llama": {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "num_key_value_heads": 1,
              "intermediate_size": 8, "max_position_embeddings": 16},
    "neox": {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8,
             "max_position_embeddings": 16},
    "resnet20": {"channels": [4, 4], "blocks": 1},
}  # fmt: skip


def write_images(folder: Path, size: int, image: str = "image", label: str = "label", test: str = "test") -> Path:
    """Two made-up RGB images in each of two splits, in columns named as somebody named theirs."""
    pixels = np.random.default_rng(0).integers(0, 256, (2, size, size, 3), dtype=np.uint8)
    columns = {split: {image: [Image.fromarray(each) for each in pixels], label: [0, 1]} for split in ("train", test)}
    features = datasets.Features({image: datasets.Image(), label: datasets.ClassLabel(names=["cat", "dog", "owl"])})
    named = "".join(f"\n  - {{split: {split}, path: {split}.parquet}}" for split in columns)  # as a set on the hub does
    write_table(folder, columns, features)
    (folder / "README.md").write_text(f"---\nconfigs:\n- config_name: default\n  data_files:{named}\n---\n")
    return folder


def write_text(folder: Path, column: str = "text") -> Path:
    return write_table(folder, {split: {column: [60 * LINE]} for split in ("train", "test")})


@pytest.fixture
def folders(tmp_path, hub) -> dict[str, str]:
    """Made-up data for each architecture."""
    images, text = str(write_images(tmp_path / "images", 8)), str(write_text(tmp_path / "text"))
    return dict.fromkeys(["mlp", "vit", "resnet20"], images) | dict.fromkeys(["gpt2", "llama", "neox"], text)


@pytest.mark.parametrize("preset", [name for name in PRESETS if not name.startswith("paper-")])
def test_the_command_line_trains_each_architecture_from_its_presets(folders, tmp_path, capsys, preset):
    architecture = PRESETS[preset].architecture
    command = ["train", architecture, "--preset", preset, "--data", folders[architecture], "--seed", "4"]
    changes = ["--config", json.dumps(SMALL[architecture]), "--recipe", '{"lr": 0.01, "warmup": 0.5, "batch_size": 1}']
    main([*command, *changes, "--epochs", "2", "--out", str(tmp_path / "out")])
    assert "test loss" in capsys.readouterr().out
    assert [path.name for path in (tmp_path / "out").iterdir()] == [f"{preset}-seed4.safetensors"]
    model, story = lmc.load_checkpoint(tmp_path / "out" / f"{preset}-seed4.safetensors")
    data = lmc.load_data(folders[architecture], context=16)
    expected = {"architecture": architecture, "preset": preset, "seed": 4, "data": Path(folders[architecture]).name,
                "samples": len(data.train.inputs), "augment": PRESETS[preset].augment}  # fmt: skip
    assert {key: story[key] for key in expected} == expected
    recipe = PRESETS[preset].recipe | {"lr": 0.01, "warmup": 0.5, "batch_size": 1, "epochs": 2}
    assert story["recipe"] == json.loads(json.dumps(recipe))
    if architecture != "mlp":
        assert story["config"].items() >= (PRESETS[preset].config | SMALL[architecture]).items()
    loss, accuracy, _ = lmc.evaluate(model, data.test)
    assert (story["test_loss"], story["test_accuracy"]) == pytest.approx((loss, accuracy), abs=1e-4)
    lmc.canonicalize(model)


@pytest.mark.parametrize("preset", [name for name in PRESETS if name.startswith("paper-")])
def test_the_papers_presets_take_two_steps_on_data_of_their_shape(hub, tmp_path, preset):
    folder = {
        "paper-cifar10": partial(write_images, size=32, image="img"),
        "paper-cifar100": partial(write_images, size=32, image="img", label="fine_label"),
        "paper-tiny-imagenet": partial(write_images, size=64, test="valid"),
        "paper-tiny-shakespeare": partial(write_text, column="Text"),
        "paper-bookcorpus": write_text,
    }[preset](tmp_path / "data")
    command = ["train", PRESETS[preset].architecture, "--preset", preset, "--data", str(folder), "--epochs", "2"]
    main([*command, "--out", str(tmp_path)])
    model, story = lmc.load_checkpoint(tmp_path / f"{preset}-seed0.safetensors")
    assert story["config"].items() >= PRESETS[preset].config.items()
    assert story["samples"] <= story["recipe"]["batch_size"]  # so an epoch is one step
    assert torch.isfinite(weights(model)).all()


def test_half_the_bytes_are_stored_where_they_tell_the_same(folders, tmp_path):
    command = ["train", "vit", "--data", folders["vit"], "--config", json.dumps(SMALL["vit"]), "--epochs", "1"]
    stored = []
    for name, half in (("whole", []), ("half", ["--half"])):
        main([*command, *half, "--out", str(tmp_path / name)])
        path = tmp_path / name / "vit-seed0.safetensors"
        with safe_open(path, "pt") as file:
            assert file.get_tensor("head.weight").dtype == (torch.float16 if half else torch.float32)
        stored.append(weights(lmc.load_checkpoint(path).model))
    whole, half = stored
    assert whole.dtype == half.dtype == torch.float32
    assert torch.equal(whole.half().float(), half)


def test_half_is_refused_where_it_moves_the_loss_and_nothing_is_lost(folders, tmp_path):
    command = ["train", "mlp", "--data", folders["mlp"], "--epochs", "3", "--lr", "100", "--out", str(tmp_path / "out")]
    with pytest.raises(SystemExit, match=r"^error: float16 moves the test loss by .*: store float32"):
        main([*command, "--half"])
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["mlp-seed0.unfinished"]
    main(command)
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["mlp-seed0.safetensors"]


@pytest.mark.parametrize(
    ("command", "data", "message"),
    [
        (["mlp", "--preset", "vit"], "mlp", "preset 'vit' is for 'vit', not for 'mlp'"),
        (["gpt2", "--preset", "paper-cifar10"], "gpt2", "preset 'paper-cifar10' is for 'vit', not for 'gpt2'"),
        (["vit"], "gpt2", "'vit' reads images, but '.*text' holds text"),
        (["mlp"], "gpt2", "'mlp' reads images, but '.*text' holds text"),
        (["gpt2"], "vit", "'gpt2' reads text, but '.*images' holds images"),
        (["mlp", "--config", '{"depth": 3}'], "mlp", "there is no such mlp: .*depth"),
        (["vit", "--hidden", "3"], "vit", "there is no such vit: .*hidden"),
        (["gpt2", "--config", '{"layers": 3}'], "gpt2", "there is no such gpt2: GPT2Config has no layers"),
    ],
)
def test_what_does_not_fit_together_is_named_before_any_work(folders, tmp_path, command, data, message):
    with pytest.raises(SystemExit, match=f"^error: {message}"):
        main(["train", *command, "--data", folders[data], "--out", str(tmp_path / "out")])
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[1]", "it takes an object"),
        ("{lr", "it takes an object"),
        ('{"steps": 3}', "it has no steps; it has average, batch_size, betas"),
        ('{"seed": 3}', "it has no seed"),
    ],
)
def test_changes_are_a_json_object(capsys, text, message):
    with pytest.raises(SystemExit):
        main(["train", "mlp", "--recipe", text])
    assert f"argument --recipe: {message}" in capsys.readouterr().err


def test_mistakes_on_the_command_line_end_in_one_line(tmp_path):
    (tmp_path / "mlp-seed0.unfinished").write_bytes(b"junk")
    with pytest.raises(SystemExit, match=r"^error: the checkpoint mlp-seed0.unfinished is corrupt"):
        main(["train", "mlp", "--data", "digits", "--epochs", "1", "--out", str(tmp_path)])
