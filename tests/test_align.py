"""``python -m lmc_utils align``: two saved models in, one ordinary model out, and errors that name what is wrong."""

from __future__ import annotations

import json
import shutil

import datasets
import pytest
import timm
import tokenizers
import torch
from pyarrow import parquet
from transformers import GPT2Config, GPT2LMHeadModel

import lmc_utils as lmc
from lmc_utils.__main__ import data_for, main
from lmc_utils.data import ASSETS, TOKENIZER

TINY = {"n_layer": 1, "n_embd": 16, "n_head": 2, "n_positions": 128, "vocab_size": 1024}
VIT = {"img_size": 28, "patch_size": 14, "in_chans": 1, "embed_dim": 16, "depth": 1, "num_heads": 2}


def save_gpt2(folder, seed=0, **options):
    torch.manual_seed(seed)
    model = GPT2LMHeadModel(GPT2Config(**TINY | {"bos_token_id": 0, "eos_token_id": 0} | options)).eval()
    model.save_pretrained(folder)
    shutil.copy(ASSETS / TOKENIZER, folder / "tokenizer.json")
    return model


def save_vit(folder, seed=0, **options):
    torch.manual_seed(seed)
    arguments = VIT | options
    model = timm.create_model("vit_tiny_patch16_224", num_classes=10, **arguments).eval()
    timm.models.save_for_hf(model, folder, model_args=arguments, safe_serialization=True)
    return model


@pytest.fixture
def pair(tmp_path):
    return save_gpt2(tmp_path / "a", 0), save_gpt2(tmp_path / "b", 1)


@torch.no_grad()
def test_two_gpt2_folders_become_one_that_from_pretrained_loads(tmp_path, pair, capsys, monkeypatch):
    data = lmc.load_data("shakespeare", batch_size=4)
    few = type(data)(data.name, data.train.take(4), data.test.take(4))
    monkeypatch.setattr("lmc_utils.__main__.load_data", lambda *_, **__: few)
    main(["align", str(tmp_path / "a"), str(tmp_path / "b"), "--out", str(tmp_path / "m"), "--points", "3"])
    printed = capsys.readouterr().out
    assert "barrier before alignment on shakespeare" in printed
    assert "barrier after alignment" in printed
    merged = GPT2LMHeadModel.from_pretrained(tmp_path / "m")
    a, b = (lmc.canonicalize(model) for model in pair)
    expected = lmc.merge(a, lmc.weight_matching(a, b)(b))
    ids = few.test.inputs
    assert torch.allclose(merged(ids).logits, expected(ids), atol=1e-4)
    assert (tmp_path / "m" / "tokenizer.json").exists()


@torch.no_grad()
def test_two_timm_folders_become_one(tmp_path, monkeypatch):
    models = [save_vit(tmp_path / name, seed, qkv_bias=False) for seed, name in enumerate("ab")]
    data = lmc.load_data("fashion-mnist")
    few = type(data)(data.name, data.train.take(8), data.test.take(8))
    monkeypatch.setattr("lmc_utils.__main__.load_data", lambda *_, **__: few)
    main(
        [
            "align",
            str(tmp_path / "a"),
            str(tmp_path / "b"),
            "--out",
            str(tmp_path / "m"),
            "--lam",
            "0.3",
            "--points",
            "2",
        ]
    )
    merged = lmc.load_model(tmp_path / "m")
    a, b = (lmc.canonicalize(model) for model in models)
    expected = lmc.merge(a, lmc.weight_matching(a, b)(b), 0.3)
    assert torch.allclose(merged(few.test.inputs), expected(few.test.inputs), atol=1e-4)


def train_tokenizer(path, size):
    """A tokenizer of bytes and a few merges, with other numbers than the shipped one's."""
    tokenizer = tokenizers.ByteLevelBPETokenizer()
    tokenizer.train_from_iterator(["to be or not to be, that is the question " * 9], vocab_size=size)
    tokenizer.enable_truncation(5)  # as tokenizers are often saved
    tokenizer.save(str(path))
    return tokenizers.Tokenizer.from_file(str(path))


@pytest.mark.parametrize("name", ["shakespeare", "a folder"])
def test_text_is_cut_into_the_models_own_tokens_and_no_more_than_they_read(tmp_path, monkeypatch, name):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    size = 270
    networks = [lmc.canonicalize(save_gpt2(tmp_path / x, vocab_size=size, n_positions=9)) for x in "ab"]
    tokenizer = train_tokenizer(tmp_path / "b" / "tokenizer.json", size)
    (tmp_path / "a" / "tokenizer.json").unlink()  # one of the two has it: both have the same
    tokenizer.no_truncation()
    if name == "shakespeare":
        texts = parquet.read_table(ASSETS / "shakespeare-test.parquet")["text"].to_pylist()
    else:
        name, texts = str(tmp_path / "texts"), ["to be, or not to be", "that is the question"]
        (tmp_path / "texts").mkdir()
        for split in ("train", "test"):
            lines = "".join(json.dumps({"text": text}) + "\n" for text in texts)
            (tmp_path / "texts" / f"{split}.jsonl").write_text(lines)
    data = data_for(networks[0].architecture, name, tmp_path / "a", tmp_path / "b")
    assert data.test.inputs.shape[1] == 9
    assert data.tokenizer.get_vocab_size() == size
    ids = [i for text in texts for i in tokenizer.encode(text).ids]
    assert data.test.inputs.flatten().tolist() == ids[: data.test.inputs.numel()]
    assert networks[0](data.test.inputs[:2]).shape == (2, 9, size)


@pytest.mark.parametrize(
    ("vocabulary", "own", "message"),
    [
        (1000, False, r"a vocabulary of 1000 tokens, but the shipped tokenizer \(there is no .*\) has 1024"),
        (2000, False, r"a vocabulary of 2000 tokens, but the shipped tokenizer \(there is no .*\) has 1024"),
        (1000, True, "a vocabulary of 1000 tokens, but their tokenizer.json has 1024"),
    ],
)
def test_tokens_of_another_vocabulary_are_refused_before_the_work(tmp_path, monkeypatch, vocabulary, own, message):
    for x in "ab":
        save_gpt2(tmp_path / x, vocab_size=vocabulary)
        if not own:
            (tmp_path / x / "tokenizer.json").unlink()
    monkeypatch.setattr("lmc_utils.__main__.weight_matching", lambda *_, **__: pytest.fail("matched"))
    monkeypatch.setattr("lmc_utils.__main__.load_data", lambda *_, **__: pytest.fail("read data"))
    with pytest.raises(SystemExit, match=message):
        main(["align", str(tmp_path / "a"), str(tmp_path / "b"), "--out", str(tmp_path / "m")])
    assert not list(tmp_path.glob("m*"))


def damage(folder, name, content):
    (folder / name).write_bytes(content)


@pytest.mark.parametrize(
    ("prepare", "options", "message"),
    [
        (lambda b: save_gpt2(b, vocab_size=1000), [], r"wte.weight' is torch.float32 \(1024, 16\) in .* \(1000, 16\)"),
        (lambda b: save_gpt2(b, n_layer=2), [], r"'transformer.h.1.ln_1.weight' is in .*b only"),
        (lambda b: save_gpt2(b).half().save_pretrained(b), [], r"is torch.float32 .* and torch.float16"),
        (lambda b: damage(b, "tokenizer.json", b"[]"), [], "the tokenizers differ"),
        (lambda b: [damage(x, "tokenizer.json", b"[]") for x in (b, b.parent / "a")], [], "json is not a tokenizer"),
        (lambda b: damage(b, "model.safetensors", b"junk"), [], "corrupt"),
        (lambda b: (b / "model.safetensors").unlink(), [], "no model.safetensors in"),
        (lambda b: damage(b, "config.json", json.dumps({"model_type": "rnn"}).encode()), [], "list with"),
    ],
    ids=["vocabulary", "depth", "dtype", "tokenizers", "tokenizer", "corrupt", "missing", "architecture"],
)  # fmt: skip
def test_mistakes_are_named_and_nothing_is_written(tmp_path, pair, prepare, options, message):
    prepare(tmp_path / "b")
    with pytest.raises(SystemExit, match=message):
        main(["align", str(tmp_path / "a"), str(tmp_path / "b"), "--out", str(tmp_path / "m"), *options])
    assert not list(tmp_path.glob("m*"))


def test_a_nan_is_named(tmp_path, pair):
    with torch.no_grad():
        pair[1].transformer.wte.weight[3, 4] = torch.nan
    pair[1].save_pretrained(tmp_path / "b")
    with pytest.raises(SystemExit, match=r"'transformer.wte.weight' of shape \(1024, 16\) has 1 NaN"):
        main(["align", str(tmp_path / "a"), str(tmp_path / "b"), "--out", str(tmp_path / "m")])


def test_an_existing_folder_is_never_overwritten(tmp_path, pair):
    shutil.copytree(tmp_path / "a", tmp_path / "m")
    with pytest.raises(SystemExit, match="exists: choose another folder, nothing was written"):
        main(["align", str(tmp_path / "a"), str(tmp_path / "b"), "--out", str(tmp_path / "m")])
