"""Nothing is written but whole, and nothing is left behind; mistakes end in one line before any work."""

from __future__ import annotations

import json
import os
import random
import resource
import signal
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import datasets
import pytest
import timm
import tokenizers
import torch
from safetensors.torch import save_file

import lmc_utils as lmc
from lmc_utils import __main__ as command_line
from lmc_utils.__main__ import RECIPE, check_data, data_for, main
from lmc_utils.data import load_data
from lmc_utils.explore.figure import Figure
from lmc_utils.networks.base import BUILDERS
from lmc_utils.networks.vit import vit
from lmc_utils.storage import new_folder, read_checkpoint, replacing, save_atomically
from lmc_utils.train import train

VIT = {"img_size": 8, "patch_size": 4, "in_chans": 1, "embed_dim": 16, "depth": 1, "num_heads": 2, "num_classes": 10}


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@contextmanager
def umask(mask: int):
    before = os.umask(mask)
    try:
        yield
    finally:
        os.umask(before)


@contextmanager
def full_disk(size: int):
    """Files cannot grow beyond this size."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_of_two_runs_that_make_one_folder_one_gets_it_whole(tmp_path):
    with pytest.raises(FileExistsError, match=r"m exists: choose another folder"), new_folder(tmp_path / "m") as slow:
        (slow / "config.json").write_text("slow")
        with new_folder(tmp_path / "m") as fast:
            (fast / "config.json").write_text("fast")
            (fast / "weights").write_text("fast")
        (slow / "weights").write_text("slow")
    assert names(tmp_path) == ["m"]
    assert [(tmp_path / "m" / name).read_text() for name in ("config.json", "weights")] == ["fast", "fast"]


@pytest.mark.parametrize("make", [Path.mkdir, lambda m: m.symlink_to("nowhere"), lambda m: m.write_text("mine")])
def test_what_the_user_puts_at_the_target_meanwhile_stays(tmp_path, make):
    target = tmp_path / "m"
    with pytest.raises(FileExistsError, match="exists"), new_folder(target) as place:
        (place / "weights").write_text("new")
        make(target)
        there = target.lstat()
    assert target.lstat() == there
    assert names(tmp_path) == ["m"]
    with pytest.raises(FileExistsError, match="exists"), new_folder(target):
        pytest.fail("it began")


def test_files_may_be_read_by_whom_the_umask_says(tmp_path):
    with umask(0o027):
        with new_folder(tmp_path / "m") as place:
            save_file({"w": torch.zeros(3)}, place / "model.safetensors")
        save_atomically({"w": torch.zeros(3)}, tmp_path / "w.safetensors", {})
    modes = [path.stat().st_mode & 0o777 for path in (tmp_path / "m", tmp_path / "m" / "model.safetensors")]
    assert modes == [0o750, 0o640]
    assert (tmp_path / "w.safetensors").stat().st_mode & 0o777 == 0o640


def test_what_is_written_is_on_the_disk_before_it_gets_its_name(tmp_path, monkeypatch):
    done = []
    fsync, rename = os.fsync, os.replace

    def note_fsync(descriptor):
        done.append(os.readlink(f"/proc/self/fd/{descriptor}").rsplit("/", 1)[1])
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", note_fsync)
    monkeypatch.setattr(os, "replace", lambda *paths: (done.append("rename"), rename(*paths)))
    with replacing(tmp_path / "file") as place:
        place.write_text("whole")
    assert done.index("file") < done.index("rename") < done.index(tmp_path.name)


@pytest.mark.parametrize("way", [replacing, new_folder])
def test_an_interruption_leaves_nothing_even_in_the_midst_of_tidying_up(tmp_path, monkeypatch, way):
    import shutil

    rmtree, calls = shutil.rmtree, []

    def interrupted(*args, **options):
        calls.append(args)
        if len(calls) == 1:
            raise KeyboardInterrupt
        rmtree(*args, **options)

    monkeypatch.setattr(shutil, "rmtree", interrupted)
    with pytest.raises(KeyboardInterrupt), way(tmp_path / "new" / "deep" / "target") as place:
        (place if way is replacing else place / "piece").write_text("half")
        raise ValueError("the work went wrong")
    assert names(tmp_path) == []


def test_a_full_disk_is_one_clear_line_and_the_old_file_stays(tmp_path):
    path = tmp_path / "w.safetensors"
    save_atomically({"w": torch.zeros(3)}, path, {})
    before = path.read_bytes()
    with full_disk(10_000):
        with pytest.raises(OSError, match=r"^cannot write .*w.safetensors: .*too large"):
            save_atomically({"w": torch.zeros(10_000)}, path, {})
        with pytest.raises(OSError, match=r"^cannot write .*m: .*too large"), new_folder(tmp_path / "m") as place:
            (place / "long").write_bytes(bytes(20_000))
    assert path.read_bytes() == before
    assert names(tmp_path) == ["w.safetensors"]


def test_a_place_where_nothing_can_be_written_is_named_before_the_work(tmp_path):
    (tmp_path / "file").write_text("no folder")
    for way in (replacing, new_folder):
        with pytest.raises(OSError, match=r"^cannot write .*file/m: \D*$"), way(tmp_path / "file" / "m"):
            pytest.fail("it began")
        with pytest.raises(OSError, match=r"too long"), way(tmp_path / ("m" * 300)):
            pytest.fail("it began")


def test_a_folder_that_another_run_removes_because_it_is_empty_is_made_again(tmp_path, monkeypatch):
    made, mkdir = [], Path.mkdir

    def removing(path, *args, **options):
        if path.parent == tmp_path / "out" and not made:
            made.append(path)
            path.parent.rmdir()
        mkdir(path, *args, **options)

    monkeypatch.setattr(Path, "mkdir", removing)
    with replacing(tmp_path / "out" / "file") as place:
        place.write_text("whole")
    assert made
    assert names(tmp_path / "out") == ["file"]


class Plain(Figure):
    kind = "curves"
    summary = "A figure."

    def _fragment(self) -> str:
        return "<p>it</p>"


def test_a_page_is_not_written_through_a_link(tmp_path):
    victims = [tmp_path / "one", tmp_path / "two"]
    for victim, name in zip(victims, ("page.html", ".page.html.part"), strict=True):
        victim.write_text("the user's")
        (tmp_path / name).symlink_to(victim)
    Plain({}).to_html(tmp_path / "page.html")
    assert [victim.read_text() for victim in victims] == ["the user's"] * 2
    assert "<p>it</p>" in (tmp_path / "page.html").read_text()


def test_every_flipped_bit_of_a_checkpoint_is_noticed(tmp_path):
    torch.manual_seed(0)
    path = tmp_path / "run.unfinished"
    tensors = {"w": torch.randn(30, 20), "steps": torch.tensor(3.0), "half": torch.ones(5).bfloat16()}
    save_atomically(tensors, path, {"loss": json.dumps([1.5, 0.25])})
    content = path.read_bytes()
    again, metadata = read_checkpoint(path)
    assert metadata == {"loss": [1.5, 0.25]}
    assert all(torch.equal(again[name], tensor) for name, tensor in tensors.items())
    body = 8 + int.from_bytes(content[:8], "little")
    draw = random.Random(0)
    for position in [body, len(content) - 1, *(draw.randrange(body, len(content)) for _ in range(60))]:
        flipped = bytearray(content)
        flipped[position] ^= 1 << draw.randrange(8)
        path.write_bytes(flipped)
        with pytest.raises(ValueError, match=r"run.unfinished is corrupt \(its SHA-256 .*delete it"):
            read_checkpoint(path)
    path.write_bytes(content.replace(b"[1.5, 0.25]", b"[1.5, 0.75]"))
    with pytest.raises(ValueError, match="corrupt"):
        read_checkpoint(path)
    save_file(tensors, path, {"loss": "[1.5]"})  # as older versions wrote them
    assert read_checkpoint(path)[1] == {"loss": [1.5]}


@pytest.mark.parametrize("make", [
    lambda folder: (folder / "a.txt").write_text("nothing of a data set"),
    lambda folder: (folder / "etc" / "deep").mkdir(parents=True),
    lambda folder: [(folder / "train").mkdir(), (folder / "train" / "loop").symlink_to(folder)],
    lambda folder: [(folder / "data").mkdir(), os.mkfifo(folder / "data" / "pipe")],
    lambda folder: [(folder / f"{folder.name}.py").write_text("exit()"), (folder / "train.csv").write_text("a")],
], ids=["no data", "folders", "loop", "pipe", "script"])  # fmt: skip
def test_a_folder_without_a_data_set_is_refused_before_a_library_walks_through_it(tmp_path, monkeypatch, make):
    monkeypatch.setattr(datasets, "load_dataset", lambda _: pytest.fail("it walked"))
    make(tmp_path)
    with pytest.raises(
        ValueError, match=r"the folder .* is here but cannot be loaded \(.*(no files|link|no file|script)"
    ):
        load_data(str(tmp_path))


def test_a_file_is_no_data_set(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets, "load_dataset", lambda _: pytest.fail("it asked the hub"))
    (tmp_path / "train.csv").write_text("a,b")
    with pytest.raises(
        ValueError, match=r"the file '.*train.csv' is here but cannot be loaded \(it is a file: name the"
    ):
        load_data(str(tmp_path / "train.csv"))


def test_the_root_of_the_file_system_is_no_data_set(monkeypatch):
    monkeypatch.setattr(datasets, "load_dataset", lambda _: pytest.fail("it walked"))
    with pytest.raises(ValueError, match=r"the folder '/' is here but cannot be loaded"):
        load_data("/")


def test_images_can_be_standardised_by_other_numbers():
    digits = load_data("digits")
    again = digits.rescaled([0.5], [0.25])
    mean, std = digits.scale
    for old, new in ((digits.train, again.train), (digits.test, again.test)):
        assert torch.allclose(new.inputs * 0.25 + 0.5, old.inputs * std + mean, atol=1e-6)
    assert [values.flatten().tolist() for values in again.scale] == [[0.5], [0.25]]
    for bad in (([0.5] * 3, [0.25] * 3), ([0.5], [0.0]), ([float("nan")], [1.0])):
        with pytest.raises(ValueError, match="1 channels need as many finite means"):
            digits.rescaled(*bad)


def pair(folder: Path, **scale: list[float]) -> list[str]:
    """The folders of two tiny Vision Transformers that read the digits."""
    arguments = {name: value for name, value in VIT.items() if name != "num_classes"}
    for seed, name in enumerate("ab"):
        torch.manual_seed(seed)
        model = timm.create_model("vit_tiny_patch16_224", num_classes=10, **arguments).eval()
        timm.models.save_for_hf(model, folder / name, model_args=arguments, safe_serialization=True)
        config = json.loads((folder / name / "config.json").read_text())
        config["pretrained_cfg"] |= scale
        (folder / name / "config.json").write_text(json.dumps(config))
    return ["align", str(folder / "a"), str(folder / "b"), "--out", str(folder / "m"), "--data", "digits"]


def test_align_takes_only_what_it_says(tmp_path, capsys):
    command = pair(tmp_path, mean=[0.5], std=[0.25])
    (tmp_path / "m.partial").mkdir()
    (tmp_path / "m.partial" / "notes").write_text("the user's")
    with umask(0o022):
        main([*command, "--points", "2"])
    assert "images of digits are standardised as the models' config.json says" in capsys.readouterr().out
    assert names(tmp_path) == ["a", "b", "m", "m.partial"]
    assert (tmp_path / "m.partial" / "notes").read_text() == "the user's"
    assert [(tmp_path / x).stat().st_mode & 0o777 for x in ("m", "m/model.safetensors")] == [0o755, 0o644]
    lmc.load_model(tmp_path / "m")


def test_images_are_scaled_as_the_models_say_or_by_themselves(tmp_path, capsys):
    architecture = lmc.canonicalize(vit(**VIT)).architecture
    folders = tmp_path / "a", tmp_path / "b"
    for folder in folders:
        folder.mkdir()
        (folder / "config.json").write_text(json.dumps({"mean": [0.5] * 3, "std": [0.25] * 3}))  # for colours
    own = data_for(architecture, "digits", *folders)
    assert own.test.inputs.equal(load_data("digits").test.inputs)
    assert "by the data's own mean and standard deviation" in capsys.readouterr().out
    (folders[0] / "config.json").write_text(json.dumps({"mean": [0.5], "std": [0.25]}))
    assert data_for(architecture, "digits", *folders).scale[1].item() == 0.25
    (folders[1] / "config.json").write_text(json.dumps({"pretrained_cfg": {"mean": [0.5], "std": [0.5]}}))
    with pytest.raises(ValueError, match=r"standardise images differently: .*0.25.* in one, .*0.5"):
        data_for(architecture, "digits", *folders)


@pytest.mark.parametrize(("config", "name", "message"), [
    ({"img_size": 16}, "digits", r"images of shape \(1, 16, 16\) .* but 'digits' has \(1, 8, 8\).*--data FOLDER"),
    ({"in_chans": 3}, "digits", r"images of shape \(3, 8, 8\) .* but 'digits' has \(1, 8, 8\)"),
    ({"num_classes": 4}, "digits", "'digits' has 10 classes, but the models tell only 4 apart"),
    ({}, "shakespeare", "the models read images, but 'shakespeare' holds text"),
])  # fmt: skip
def test_data_that_a_model_cannot_read_are_named(config, name, message):
    network = lmc.canonicalize(vit(**VIT | config))
    with pytest.raises(ValueError, match=message):
        check_data(network, load_data(name))


def test_data_are_checked_before_anything_is_matched(tmp_path, capsys, monkeypatch):
    command = pair(tmp_path)
    monkeypatch.setattr(command_line, "weight_matching", lambda *_, **__: pytest.fail("it matched"))
    with pytest.raises(SystemExit, match=r"^error: the models read images of shape \(1, 8, 8\)"):
        main([*command[:-1], "fashion-mnist"])
    assert names(tmp_path) == ["a", "b"]


def test_a_tokenizer_with_a_number_beyond_the_vocabulary_is_refused(tmp_path):
    words = tokenizers.Tokenizer(tokenizers.models.WordLevel({"be": 0, "to": 1, "not": 99}, unk_token="be"))
    words.save(str(tmp_path / "tokenizer.json"))
    architecture = lmc.canonicalize(
        BUILDERS["gpt2"](n_layer=1, n_embd=8, n_head=2, vocab_size=10, n_positions=16)
    ).architecture
    with pytest.raises(ValueError, match=r"a vocabulary of 10 tokens, but their .* numbered up to 99"):
        data_for(architecture, None, tmp_path)


TRAIN, ALIGN = ["train", "mlp"], ["align", "a", "b", "--out", "m"]


@pytest.mark.parametrize("command", [
    *([*TRAIN, "--epochs", value] for value in ("inf", "nan", "-1", "0", "1e300", "many")),
    *([*TRAIN, f"--seed={value}"] for value in ("-1", 2**32, 10**30, "1.5")),
    *([*TRAIN, "--hidden", value] for value in ("0", "-3", "2.5", 10**20)),
    *([*TRAIN, option, value] for option in ("--lr", "--weight-decay") for value in ("nan", "inf", "-1")),
    *([*TRAIN, "--batch-size", value] for value in ("0", 10**12, "x")),
    *([*TRAIN, "--recipe", json.dumps(value)] for value in (
        {"lr": "fast"}, {"lr": None}, {"lr": True}, {"clip": 0}, {"patience": -1}, {"patience": 1.5}, {"warmup": 2},
        {"average": 1}, {"betas": 0.9}, {"betas": [0.9, 1]}, {"batch_size": [3]}, {"epochs": 1e400}, {"steps": 3},
    )),
    *([*TRAIN, "--recipe", text] for text in ("[" * 100_000, "[1]", "{lr", '{"seed": 3}')),
    [*TRAIN, "--config", '{"depth": NaN}'],
    *([*TRAIN, f"--{name}", text] for name in ("data", "measure", "out") for text in ("", "a\nb", "\x1b[2J", "\udcff")),
    [*TRAIN, "--colour", "red"],
    ["train", "resnet\n"],
    ["align", "a\x00", "b", "--out", "m"],
    *([*ALIGN, "--lam", value] for value in ("1.5", "-0.1", "nan")),
    *([*ALIGN, "--points", value] for value in ("1", "2.5", 10**9)),
    ["align", "a", "b"],
    [],
], ids=lambda command: " ".join(map(str, command))[:40].encode("unicode_escape").decode())  # fmt: skip
def test_arguments_are_checked_before_any_work_and_the_error_takes_one_line(monkeypatch, capsys, command):
    for name in ("load_data", "load_pair"):
        monkeypatch.setattr(command_line, name, lambda *_, **__: pytest.fail("it began"))
    with pytest.raises(SystemExit) as caught:
        main([str(word) for word in command])
    printed = capsys.readouterr()
    assert caught.value.code == 2
    assert printed.out == ""
    assert printed.err.startswith("error: ")
    assert printed.err.endswith("\n")
    assert printed.err[:-1].isprintable()


def test_every_argument_of_a_recipe_is_checked():
    decided = {"augment", "validation", "seed", "checkpoint"}
    assert set(RECIPE) == train.__kwdefaults__.keys() - decided


@pytest.mark.parametrize(("architecture", "config", "message"), [
    ("mlp", {"hidden": 3}, "hidden must be a list"),
    ("mlp", {"hidden": [10**8, 10**8]}, "parameters: to train it takes .* GB of memory, and this machine has"),
    ("vit", {"patch_size": 0}, "there is no such vit"),
    ("vit", {"patch_size": 9}, "there is no such vit"),
    ("vit", {"embed_dim": 10**30}, "there is no such vit"),
    ("vit", {"num_heads": 3}, "there is no such vit"),
])  # fmt: skip
def test_a_network_that_cannot_be_is_one_line_before_any_work(tmp_path, monkeypatch, architecture, config, message):
    monkeypatch.setattr(command_line, "train", lambda *_, **__: pytest.fail("it trained"))
    command = [
        "train",
        architecture,
        "--data",
        "digits",
        "--config",
        json.dumps(config),
        "--out",
        str(tmp_path / "out"),
    ]
    with pytest.raises(SystemExit, match=rf"^error: .*{message}[^\n]*$"):
        main(command)
    assert names(tmp_path) == []


MLP = ["train", "mlp", "--data", "digits", "--hidden", "4", "--epochs", "1"]


def test_data_to_measure_on_of_another_shape_are_refused_before_training(tmp_path, monkeypatch):
    monkeypatch.setattr(command_line, "train", lambda *_, **__: pytest.fail("it trained"))
    with pytest.raises(
        SystemExit, match=r"^error: --measure fashion-mnist needs inputs and classes like those of digits"
    ):
        main([*MLP, "--measure", "fashion-mnist", "--out", str(tmp_path)])


def test_a_checkpoint_of_another_run_is_not_overwritten(tmp_path, monkeypatch):
    path = tmp_path / "mlp-seed0.safetensors"
    main([*MLP, "--out", str(tmp_path)])
    before = path.read_bytes()
    monkeypatch.setattr(command_line, "train", lambda *_, **__: pytest.fail("it trained"))
    with pytest.raises(
        SystemExit, match=r"mlp-seed0.safetensors holds the result of another run \(different: recipe\): move it"
    ):
        main([*MLP, "--lr", "0.5", "--out", str(tmp_path)])
    assert path.read_bytes() == before


def test_a_place_where_train_cannot_write_is_named_before_training(tmp_path, monkeypatch):
    monkeypatch.setattr(command_line, "train", lambda *_, **__: pytest.fail("it trained"))
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(SystemExit, match=r"^error: cannot write .*mlp-seed0.safetensors: "):
        main([*MLP, "--out", str(tmp_path / "file")])


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_an_interruption_says_what_is_true_and_leaves_nothing(tmp_path, monkeypatch, capsys, number, status):
    before = signal.signal(signal.SIGTERM, signal.SIG_DFL)
    for name, command in (("weight_matching", pair(tmp_path)), ("train", [*MLP, "--out", str(tmp_path / "out")])):
        monkeypatch.setattr(command_line, name, lambda *_, **__: os.kill(os.getpid(), number))
        with pytest.raises(SystemExit) as caught:
            main(command)
        assert caught.value.code == status
        assert capsys.readouterr().err == "interrupted; nothing was written\n"
    assert names(tmp_path) == ["a", "b"]
    assert signal.signal(signal.SIGTERM, before) is signal.SIG_DFL


def test_an_interrupted_training_with_a_checkpoint_says_that_it_goes_on(tmp_path, monkeypatch, capsys):
    def interrupted(*_, checkpoint, **__):
        checkpoint.parent.mkdir()
        checkpoint.write_text("an epoch")
        raise KeyboardInterrupt

    monkeypatch.setattr(command_line, "train", interrupted)
    with pytest.raises(SystemExit) as caught:
        main([*MLP, "--out", str(tmp_path / "out")])
    assert caught.value.code == 130
    assert capsys.readouterr().err == "interrupted; the same command goes on from the last finished epoch\n"


def test_runs_that_are_killed_leave_only_whole_files_and_go_on_to_the_same_weights():
    script = Path(__file__).with_name("kills.py")
    here = os.environ | {"PYTHONPATH": str(Path(lmc.__file__).parent.parent)}
    command = [sys.executable, script, "--count", "6"]
    killed = subprocess.run(command, env=here, capture_output=True, text=True, check=False)
    assert killed.returncode == 0, killed.stdout + killed.stderr
    for line in ("2 SIGKILL, 2 SIGTERM, 2 SIGINT", "0 torn", "0 by SIGTERM and SIGINT", "as uninterrupted: 3"):
        assert line in killed.stdout
