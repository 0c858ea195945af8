"""End points that ship, training that can be interrupted, and the command line."""

from __future__ import annotations

import importlib
import shutil

import pytest
import torch

import lmc_utils as lmc
from lmc_utils import data as data_module
from lmc_utils import endpoints as endpoints_module
from lmc_utils.__main__ import main
from lmc_utils.networks.mlp import mlp
from lmc_utils.train import save_atomically

train_module = importlib.import_module("lmc_utils.train")  # lmc_utils.train is the function


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


def test_symmetries_of_a_shipped_end_point_are_exact():
    network = lmc.canonicalize(lmc.load_endpoint("mlp", 0)).to(torch.float64)
    inputs = lmc.load_data("fashion-mnist").test.inputs[:200]
    for seed in range(3):
        lmc.assert_invariant(network, network.spec.sample(seed), inputs)


def test_an_unknown_end_point_says_how_to_make_it():
    with pytest.raises(ValueError, match=r"shipped are .*python -m lmc_utils train mlp --seed 99"):
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
    with pytest.raises(ValueError, match=r"no end point 'mlp' with seed 0; shipped are \{'mlp': \[1, 2\]\}"):
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
    with pytest.raises(ValueError, match=r"says architecture 'rnn'; known are \['mlp'\]"):
        lmc.load_checkpoint(tmp_path / "other.safetensors")


def test_an_interrupted_write_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "a.safetensors"
    save_atomically({"w": torch.zeros(1)}, path, {})
    before = path.read_bytes()

    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(train_module.os, "replace", interrupted)
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
    trained = lmc.train(model, batches, epochs=30, batch_size=10, lr=1e-2)
    assert lmc.evaluate(trained, batches).loss < lmc.evaluate(model, batches).loss - 0.2


def test_an_interrupted_run_ends_where_the_uninterrupted_one_does(make_batches, tmp_path, monkeypatch):
    model, batches, run = mlp((4, 5, 3)), make_batches((4, 5, 3)), {"epochs": 4, "batch_size": 10, "seed": 3}
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


def test_mistakes_on_the_command_line_end_in_one_line(tmp_path):
    (tmp_path / "mlp-seed0.unfinished").write_bytes(b"junk")
    with pytest.raises(SystemExit, match=r"^error: the checkpoint mlp-seed0.unfinished is corrupt"):
        main(["train", "mlp", "--data", "digits", "--epochs", "1", "--out", str(tmp_path)])
