"""The shipped data are what they say they are; other sets load the same way; what is wrong is named."""

from __future__ import annotations

import gzip
import json
import re
import shutil
from pathlib import Path

import datasets
import numpy as np
import pytest
import torch
from conftest import write_table
from PIL import Image
from pyarrow import parquet
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace

from lmc_utils import data
from lmc_utils.assets import make_data
from lmc_utils.data import Batches, Data, load_data

# What belongs to an editor, a transcriber or a file format, not to a play.
FOREIGN = re.compile(
    r"gutenberg|\betext|persons represented|dramatis personae|^the end$|[\r\t@]|&\w+;| \n|\n{3}", re.I | re.M
)
IMAGES = {"fashion-mnist": (12_000, 2_000, 28), "digits": (1_437, 360, 8)}


@pytest.fixture
def assets(tmp_path, monkeypatch) -> Path:
    """A copy of the small shipped files that a test may damage."""
    folder = tmp_path / "assets"
    folder.mkdir()
    for path in (*data.ASSETS.glob("digits-*"), data.ASSETS / "SHA256SUMS", data.ASSETS / data.TOKENIZER):
        shutil.copy(path, folder)
    monkeypatch.setattr(data, "ASSETS", folder)
    monkeypatch.setattr(make_data, "ASSETS", folder)
    data._shipped.cache_clear()
    yield folder
    data._shipped.cache_clear()


def write_images(folder: Path, counts: dict[str, int], mode: str = "RGB", sizes: tuple[int, ...] = (6,)) -> Path:
    """A folder of images as people keep them: split / class / file.png."""
    random = np.random.default_rng(0)
    for split, count in counts.items():
        for i in range(count):
            pixels = random.integers(0, 256, (sizes[i % len(sizes)], 5, 3), dtype=np.uint8)
            path = folder / split / ("cat", "dog")[i % 2] / f"{i}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).convert(mode).save(path)
    return folder


@pytest.mark.parametrize("name", IMAGES)
def test_images_have_the_documented_shapes_types_and_scale(name):
    train, test, side = IMAGES[name]
    loaded = load_data(name, batch_size=100)
    assert (loaded.name, loaded.validation, loaded.tokenizer, len(loaded.classes)) == (name, None, None, 10)
    for batches, count in ((loaded.train, train), (loaded.test, test)):
        assert batches.inputs.shape == (count, 1, side, side)
        assert batches.inputs.dtype == torch.float32
        assert batches.targets.shape == (count,)
        assert batches.targets.dtype == torch.int64
        assert batches.classes == loaded.classes
        assert batches.batch_size == 100
    assert loaded.train.inputs.mean().item() == pytest.approx(0, abs=1e-4)
    assert loaded.train.inputs.std().item() == pytest.approx(1, abs=1e-4)
    assert abs(loaded.test.inputs.mean()) < 0.05  # by the training split's statistics, so close but not equal
    assert loaded.test.inputs.mean().item() != pytest.approx(0, abs=1e-4)


@pytest.mark.parametrize(("name", "each"), [("fashion-mnist", (1200, 200)), ("digits", (138, 36))])
def test_classes_are_balanced_in_every_beginning(name, each):
    loaded = load_data(name)
    for batches, least in zip((loaded.train, loaded.test), each, strict=True):
        counts = batches.targets.bincount()
        assert counts.min() == least
        assert counts.max() <= least + (9 if name == "digits" and batches is loaded.train else 0)
        for n in (10, 50, 250):
            assert batches.take(n).targets.bincount(minlength=10).tolist() == [n // 10] * 10


@pytest.mark.parametrize("name", IMAGES)
def test_no_image_is_in_both_splits(name):
    loaded = load_data(name)
    train, test = ({image.numpy().tobytes() for image in b.inputs} for b in (loaded.train, loaded.test))
    assert len(train) == len(loaded.train.inputs)
    assert not train & test


def test_a_second_load_gives_the_same_and_does_no_work_again():
    first, second = load_data("digits"), load_data("digits", batch_size=7)
    assert second.train.inputs is first.train.inputs
    data._shipped.cache_clear()
    again = load_data("digits")
    assert again.train.inputs is not first.train.inputs
    assert again.train.inputs.equal(first.train.inputs)
    assert again.test.targets.equal(first.test.targets)


def test_loading_shipped_data_writes_nothing(tmp_path, monkeypatch, capfd):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    data._shipped.cache_clear()
    load_data("digits")
    assert not list(tmp_path.iterdir())
    assert capfd.readouterr() == ("", "")


def test_text_is_windows_of_tokens_and_the_tokens_that_follow():
    loaded = load_data("shakespeare")
    assert loaded.classes == ()
    for batches, tokens in ((loaded.train, 1_840_197), (loaded.validation, 103_509), (loaded.test, 101_411)):
        assert batches.inputs.shape == batches.targets.shape == ((tokens - 1) // 128, 128)
        assert batches.inputs.dtype == batches.targets.dtype == torch.int64
        assert batches.inputs[:, 1:].equal(batches.targets[:, :-1])
        assert batches.inputs[1:, 0].equal(batches.targets[:-1, -1])
        assert 0 <= batches.inputs.min() <= batches.inputs.max() < 1024
    shorter = load_data("shakespeare", context=32).test
    assert shorter.inputs[:4].flatten().equal(loaded.test.inputs[0])


def test_the_tokenizer_gives_every_text_back():
    tokenizer = Tokenizer.from_file(str(data.ASSETS / data.TOKENIZER))
    assert tokenizer.get_vocab_size() == 1024
    for text in (*read_plays("test").values(), read_plays("train")["Hamlet"], "É 漢字 \t\n  \N{GRINNING FACE} a"):
        assert tokenizer.decode(tokenizer.encode(text).ids) == text


def test_the_plays_are_whole_plays_cut_in_three():
    plays = {split: read_plays(split) for split in data.SHIPPED["shakespeare"]}
    train, validation, test = plays.values()
    assert list(train) == list(validation) == list(test)
    assert len(train) == 37
    for title in train:
        whole = train[title] + validation[title] + test[title]
        assert len(train[title]) / len(whole) == pytest.approx(0.90, abs=0.002)
        assert len(validation[title]) / len(whole) == pytest.approx(0.05, abs=0.002)
        assert train[title].endswith("\n")
        assert validation[title].endswith("\n")
        assert whole.upper().startswith(("ACT ", "PROLOGUE", "THE PROLOGUE", "INDUCTION")), title
        assert not FOREIGN.search(whole), title
    assert train["Hamlet"].startswith("ACT I.\n\nScene I. Elsinore.")
    assert "To be, or not to be,--that is the question:--" in train["Hamlet"]
    assert test["Romeo and Juliet"].endswith("Than this of Juliet and her Romeo.\n\n[Exeunt.]\n\n")


def read_plays(split: str) -> dict[str, str]:
    rows = datasets.Dataset(parquet.read_table(data.ASSETS / f"shakespeare-{split}.parquet"))
    return dict(zip(rows["play"], rows["text"], strict=True))


def test_every_shipped_file_is_on_the_list_and_as_listed():
    names = {f"{name}-{split}.parquet" for name, splits in data.SHIPPED.items() for split in splits} | {data.TOKENIZER}
    assert names <= data.checksums().keys()
    for name in data.checksums():
        assert data.verify(data.ASSETS / name) == data.ASSETS / name


def test_the_script_makes_the_digits_again(tmp_path, assets):
    from sklearn.datasets import load_digits

    folders = tmp_path / "first", tmp_path / "second"
    for folder in folders:
        folder.mkdir()
        make_data.make_digits(folder)
    pixels = []
    for split in data.SHIPPED["digits"]:
        name = f"digits-{split}.parquet"
        assert (folders[0] / name).read_bytes() == (folders[1] / name).read_bytes()
        # Bytes depend on the versions of the libraries, so it is the content that must be what ships.
        shipped, made = (datasets.Dataset(parquet.read_table(folder / name)) for folder in (assets, folders[0]))
        assert made.features == shipped.features
        assert list(made["label"]) == list(shipped["label"])
        images = [np.asarray(image) for image in made["image"]]
        assert all(np.array_equal(image, other) for image, other in zip(images, shipped["image"], strict=True))
        pixels += [image.tobytes() for image in images]
    original = np.rint(load_digits().images * 255 / 16).astype(np.uint8)
    assert sorted(pixels) == sorted(image.tobytes() for image in original)


def test_new_checksums_leave_the_other_lines(assets):
    before = data.checksums()
    (assets / "endpoints").mkdir()
    (assets / "endpoints" / "new.bin").write_bytes(b"abc")
    make_data.update_checksums([assets / "endpoints" / "new.bin"])
    new = {"endpoints/new.bin": "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"}
    assert data.checksums() == before | new
    data.verify(assets / "endpoints" / "new.bin")


def test_a_flipped_byte_is_found(assets):
    path = assets / "digits-test.parquet"
    content = bytearray(path.read_bytes())
    content[5000] ^= 1
    path.write_bytes(content)
    expected = data.checksums()["digits-test.parquet"]
    with pytest.raises(
        ValueError, match=rf"digits-test\.parquet .*expected {expected}, found [0-9a-f]{{64}}.*make_data"
    ):
        load_data("digits")


@pytest.mark.parametrize("name", ["digits-train.parquet", "SHA256SUMS"])
def test_a_missing_file_is_named(assets, name):
    (assets / name).unlink()
    with pytest.raises(FileNotFoundError, match=rf"{name} is missing.*Reinstall.*make_data"):
        load_data("digits")


def test_a_file_that_is_not_on_the_list_is_refused(assets):
    (assets / "other.parquet").write_bytes(b"abc")
    with pytest.raises(ValueError, match=r"other\.parquet.*none on the list"):
        data.verify(assets / "other.parquet")


@pytest.mark.parametrize("damage", [lambda content: b"not Parquet", lambda content: content[:3000] + content[4000:]])
def test_a_corrupt_parquet_file_is_named_even_if_its_checksum_is_right(assets, damage):
    path = assets / "digits-train.parquet"
    path.write_bytes(damage(path.read_bytes()))
    make_data.update_checksums([path])
    with pytest.raises(ValueError, match=r"digits-train\.parquet.*not a readable Parquet file.*make_data"):
        load_data("digits")


@pytest.mark.parametrize(("mode", "channels"), [("RGB", 3), ("L", 1), ("P", 3), ("RGBA", 3)])
def test_a_folder_of_images_loads(tmp_path, hub, mode, channels):
    folder = write_images(tmp_path / "pets", {"train": 8, "validation": 4, "test": 6}, mode)
    loaded = load_data(str(folder), batch_size=4)
    assert loaded.classes == ("cat", "dog")
    assert [len(b.inputs) for b in (loaded.train, loaded.validation, loaded.test)] == [8, 4, 6]
    assert loaded.train.inputs.shape[1:] == (channels, 6, 5)
    assert loaded.train.inputs.mean(dim=(0, 2, 3)).abs().max() < 1e-5  # each channel by itself
    assert (loaded.train.inputs.std(dim=(0, 2, 3)) - 1).abs().max() < 1e-5
    assert loaded.test.targets.bincount().tolist() == [3, 3]


def test_a_constant_channel_gives_no_nan(tmp_path, hub):
    folder = write_images(tmp_path / "pets", {"train": 2, "test": 2})
    for path in folder.rglob("*.png"):
        Image.new("RGB", (5, 6), "red").save(path)
    assert load_data(str(folder)).train.inputs.isfinite().all()


def test_a_damaged_image_is_named_with_its_split(tmp_path, hub):
    folder = write_images(tmp_path / "pets", {"train": 4, "test": 2})
    path = sorted((folder / "train").rglob("*.png"))[1]
    content = path.read_bytes()
    path.write_bytes(content[:50] + b"?" + content[50:])  # a chunk begins a byte late
    with pytest.raises(ValueError, match=r"an image in split 'train' of .* cannot be read: "):
        load_data(str(folder))


def test_images_that_cannot_be_stacked_are_refused(tmp_path, hub):
    with pytest.raises(ValueError, match="differ in shape"):
        load_data(str(write_images(tmp_path / "sizes", {"train": 4, "test": 2}, sizes=(6, 8))))
    with pytest.raises(ValueError, match="mode I;16"):
        load_data(str(write_images(tmp_path / "deep", {"train": 4, "test": 2}, mode="I;16")))
    folder = write_images(write_images(tmp_path / "both", {"train": 4}), {"test": 2}, sizes=(7,))
    with pytest.raises(ValueError, match="different shapes"):
        load_data(str(folder))


def test_a_set_without_a_test_split_is_refused(tmp_path, hub):
    folder = write_images(tmp_path / "pets", {"train": 4, "validation": 2})
    with pytest.raises(ValueError, match=r"pets' has no split test, only train, validation"):
        load_data(str(folder))


def test_hidden_labels_are_refused(tmp_path, hub):
    features = datasets.Features(image=datasets.Image(), label=datasets.ClassLabel(names=["a", "b"]))
    columns = {"image": [Image.new("L", (4, 4))] * 2, "label": [0, 1]}
    folder = write_table(tmp_path / "hidden", {"train": columns, "test": columns | {"label": [-1, -1]}}, features)
    with pytest.raises(ValueError, match=r"split 'test' of .*hidden' have no label"):
        load_data(str(folder))


def test_a_folder_of_text_loads_with_the_shipped_tokenizer(tmp_path, hub):
    rows = {"title": ["one", "two"], "text": ["To be, or not to be: " * 20, "that is the question. " * 20]}
    folder = write_table(tmp_path / "texts", {"train": rows, "test": rows})
    loaded = load_data(str(folder), context=16)
    assert loaded.train.inputs.shape[1:] == (16,)
    assert loaded.validation is None
    assert "".join(rows["text"]).startswith(loaded.tokenizer.decode(loaded.train.inputs[:3].flatten().tolist()))
    with pytest.raises(ValueError, match=r"split 'train' .* tokens: too few for context=5000"):
        load_data(str(folder), context=5000)


@pytest.mark.parametrize("name", ["shakespeare", "texts"])
def test_text_may_be_cut_by_another_tokenizer(tmp_path, hub, name):
    rows = {"text": ["To be, or not to be: that is the question. " * 20]}
    folder = write_table(tmp_path / "texts", {"train": rows, "test": rows})
    words = Tokenizer(WordLevel({"[UNK]": 0, "be": 1, "to": 2}, unk_token="[UNK]"))
    words.pre_tokenizer = Whitespace()
    loaded = load_data(name if name == "shakespeare" else str(folder), context=8, tokenizer=words)
    assert loaded.tokenizer is words
    assert loaded.test.inputs.unique().tolist() == [0, 1, 2]
    assert load_data("shakespeare").tokenizer.get_vocab_size() == 1024  # the shipped tokens are still the shipped ones
    assert load_data("digits", tokenizer=words).tokenizer is None


def test_columns_that_fit_nothing_are_listed(tmp_path, hub):
    columns = {"question": ["a"], "answer": ["b"], "score": [1.0]}
    with pytest.raises(ValueError, match=r"needs an image and a class label, or one column of text.*question.*score"):
        load_data(str(write_table(tmp_path / "table", {"train": columns, "test": columns})))


def test_without_a_network_the_shipped_sets_are_named(hub):
    with pytest.raises(
        ValueError, match=r"'uoft-cs/cifar10' is neither .* no network .*fashion-mnist, digits, shakespeare"
    ):
        load_data("uoft-cs/cifar10")


def test_a_name_the_hub_does_not_know_is_refused(monkeypatch):
    def unknown(name: str) -> None:
        raise datasets.exceptions.DatasetNotFoundError(f"Dataset '{name}' doesn't exist on the Hub")

    monkeypatch.setattr(datasets, "load_dataset", unknown)
    with pytest.raises(ValueError, match=r"'nobody/nothing' .* hub does not give it \(.*doesn't exist.*fashion-mnist"):
        load_data("nobody/nothing")


@pytest.mark.parametrize("name", ["json", "csv", "text", "parquet", "imagefolder"])
def test_the_name_of_a_format_is_no_data_set_but_a_folder_may_be_called_so(tmp_path, hub, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "train.txt").write_text("what lies around here is not asked for\n")
    with pytest.raises(ValueError, match=f"'{name}' is neither .*it is the name of a format: name the folder"):
        load_data(name)
    rows = {"text": ["To be, or not to be: that is the question. " * 20]}
    write_table(tmp_path / name, {"train": rows, "test": rows})
    assert load_data(name, context=8).name == name


@pytest.mark.parametrize("zipped", [False, True])
@pytest.mark.parametrize("lines", ["null\nnull\n", '\ufeffnull\n{"text": "a"}', '{"text": "a"}\n null\n'])
def test_lines_that_are_null_are_refused_before_a_library_dies_of_them(tmp_path, hub, monkeypatch, lines, zipped):
    monkeypatch.setattr(datasets, "load_dataset", lambda _: pytest.fail("it was read"))
    for split in ("train", "test"):
        path = tmp_path / f"{split}.jsonl{'.gz' * zipped}"
        path.write_bytes(gzip.compress(lines.encode()) if zipped else lines.encode())
    with pytest.raises(
        ValueError, match=r"cannot be loaded \(line [12] of \w+\.jsonl.* is null: each must be an object"
    ):
        load_data(str(tmp_path))


def test_rows_may_lack_a_value_and_a_file_may_be_one_list(tmp_path, hub):
    words = "To be, or not to be: that is the question. " * 20
    (tmp_path / "train.jsonl").write_text(json.dumps({"text": words}) + '\n{"text": null}\n')
    (tmp_path / "test.json").write_text(json.dumps([words, None], indent=1))
    assert load_data(str(tmp_path), context=8).test.inputs.shape[1:] == (8,)


def test_an_empty_folder_is_refused(tmp_path, hub):
    with pytest.raises(ValueError, match=r"the folder .* cannot be loaded"):
        load_data(str(tmp_path))


def test_batches_can_be_iterated_again_and_cut():
    batches = Batches(torch.arange(10.0)[:, None], torch.arange(10), batch_size=4, classes=("x",))
    assert [len(inputs) for inputs, _ in batches] == [4, 4, 2]
    assert len(batches) == len(list(batches)) == 3
    assert torch.cat([targets for _, targets in batches]).equal(torch.arange(10))
    head, tail = batches.cut(7)
    assert torch.cat([head.targets, tail.targets]).equal(batches.targets)
    assert head.inputs[:, 0].equal(head.targets.float())
    assert (len(head.targets), len(batches.take(3).targets), head.classes) == (7, 3, ("x",))
    with pytest.raises(ValueError, match="empty"):
        batches.cut(10)
    assert len(batches.take(99).targets) == 10


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Batches(torch.zeros(3, 2), torch.zeros(2), 1), "3 inputs but 2 targets"),
        (lambda: Batches(torch.zeros(0, 2), torch.zeros(0), 1), "empty"),
        (lambda: Batches(torch.zeros(3, 2), torch.zeros(3), 0), "batch_size must be at least 1, not 0"),
        (lambda: Batches(torch.zeros(3, 2), torch.zeros(3).long(), 1).take(0), "n must be at least 1, not 0"),
        (lambda: load_data("digits", batch_size=-5), "batch_size must be at least 1, not -5"),
        (lambda: load_data("shakespeare", context=0), "context must be at least 1, not 0"),
    ],
)
def test_bad_numbers_are_named(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_representations_are_short_and_say_what_is_there():
    batches = Batches(torch.zeros(5, 1, 2, 2), torch.zeros(5, dtype=torch.int64), 2)
    assert repr(batches) == "Batches(5 samples (1, 2, 2) float32, 3 x 2)"
    assert repr(Data("toy", batches, batches.take(2), classes=("a", "b"))) == (
        "Data('toy', 2 classes)\n"
        "  train: Batches(5 samples (1, 2, 2) float32, 3 x 2)\n"
        "  test: Batches(2 samples (1, 2, 2) float32, 1 x 2)"
    )
    tokenizer = Tokenizer.from_file(str(data.ASSETS / data.TOKENIZER))
    assert repr(Data("text", batches, batches, batches, tokenizer=tokenizer)).startswith(
        "Data('text', 1024 tokens)\n  train: Batches(5 samples (1, 2, 2) float32, 3 x 2)\n  validation: Batches(5"
    )
