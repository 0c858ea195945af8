"""A folder that somebody else made: nothing in it runs, nothing is random, and what is wrong is said in one line."""

from __future__ import annotations

import json
import os
import shutil
import struct
import subprocess
import sys
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import (
    GPT2Config,
    GPT2ForSequenceClassification,
    GPT2LMHeadModel,
    GPT2Model,
    LlamaForCausalLM,
    MixtralForCausalLM,
)

import lmc_utils as lmc
from lmc_utils.networks.mlp import mlp
from lmc_utils.storage import save_atomically
from lmc_utils.zoo import folders
from lmc_utils.zoo.folders import load_pair

GPT2 = {
    "n_layer": 2,
    "n_embd": 16,
    "n_head": 2,
    "n_positions": 12,
    "vocab_size": 31,
    "bos_token_id": 0,
    "eos_token_id": 0,
}
VIT = {"img_size": 28, "patch_size": 14, "in_chans": 1, "embed_dim": 16, "depth": 1, "num_heads": 2}
NAME = "vit_tiny_patch16_224"


def noisy(model: nn.Module, seed: int) -> nn.Module:
    """Norms and biases far from where they start."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.3 * torch.randn(p.shape, generator=generator))
    return model.eval()


def save_gpt2(folder: Path, seed: int = 0, kind: type = GPT2LMHeadModel, **options: object) -> nn.Module:
    model = noisy(kind(GPT2Config(**GPT2 | options)), seed)
    model.save_pretrained(folder)
    return model


def save_vit(folder: Path, seed: int = 0, **options: object) -> nn.Module:
    arguments = VIT | options
    model = noisy(timm.create_model(NAME, num_classes=10, **arguments), seed)
    timm.models.save_for_hf(model, folder, model_args=arguments, safe_serialization=True)
    return model


SAVE = {"gpt2": save_gpt2, "vit": save_vit}


def rewrite(folder: Path, change) -> None:
    """Change the configuration of a folder in place."""
    config = json.loads((folder / "config.json").read_text())
    change(config)
    (folder / "config.json").write_text(json.dumps(config))


def logits(model: nn.Module) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    dtype = next(model.parameters()).dtype
    if isinstance(model, GPT2LMHeadModel):
        inputs = torch.randint(31, (3, 12), generator=generator)
    else:
        inputs = torch.randn(3, 1, 28, 28, generator=generator).to(dtype)
    with torch.no_grad():
        found = model(inputs)
    return getattr(found, "logits", found)


# What is loaded is what was saved


@pytest.mark.parametrize("kind", SAVE)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_a_folder_comes_back_with_the_same_logits_in_its_dtype_and_draws_no_random_numbers(tmp_path, kind, dtype):
    model = SAVE[kind](tmp_path / "m").to(dtype)
    if kind == "gpt2":
        model.save_pretrained(tmp_path / "m")
    else:
        timm.models.save_for_hf(model, tmp_path / "m", model_args=VIT, safe_serialization=True)
    state = torch.get_rng_state()
    again = lmc.load_model(tmp_path / "m")
    assert torch.equal(torch.get_rng_state(), state)
    assert {p.dtype for p in again.parameters()} == {dtype}
    assert type(again) is type(model)
    assert not again.training
    assert torch.equal(logits(again), logits(model))


@pytest.mark.parametrize("kind", SAVE)
def test_a_tensor_that_is_missing_renamed_or_of_another_shape_is_named(tmp_path, kind):
    SAVE[kind](tmp_path / "m")
    file = tmp_path / "m" / "model.safetensors"
    whole = load_file(file)
    for name in whole:
        rest = {key: tensor for key, tensor in whole.items() if key != name}
        damaged = {
            "missing": rest,
            "unknown": rest | {f"{name}.x": whole[name]},
            "misshapen": rest | {name: torch.cat([whole[name], whole[name]])},
        }
        for wrong, tensors in damaged.items():
            save_file(tensors, file, {"format": "pt"})
            with pytest.raises(ValueError, match=rf"tensors are not those of its config.*{wrong} \d \(.*'{name}"):
                lmc.load_model(tmp_path / "m")


@pytest.mark.parametrize("kind", [GPT2Model, GPT2ForSequenceClassification])
def test_another_class_is_loaded_as_what_it_is_or_not_at_all(tmp_path, kind):
    model = save_gpt2(tmp_path / "m", kind=kind, tie_word_embeddings=False, pad_token_id=0)
    again = lmc.load_model(tmp_path / "m")
    assert type(again) is kind
    assert all(torch.equal(tensor, model.state_dict()[name]) for name, tensor in again.state_dict().items())
    rewrite(tmp_path / "m", lambda config: config.update(architectures=["GPT2LMHeadModel"]))
    with pytest.raises(ValueError, match=r"missing 1 \('lm_head.weight'\)"):
        lmc.load_model(tmp_path / "m")


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({}, "architectures must be a list with the name of one class, not None"),
        ({"architectures": ["GPT2LMHeadModel"]}, r"n_layer|missing 149 \('transformer.wte.weight', .*unknown 1"),
    ],
)
def test_the_name_of_a_model_alone_draws_no_weights(tmp_path, more, message):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "gpt2"} | more))
    save_file({"w": torch.zeros(60000)}, tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match=message):
        lmc.load_model(tmp_path)


def test_the_hubs_older_files_are_read(tmp_path):
    model = save_gpt2(tmp_path / "m")
    file = tmp_path / "m" / "model.safetensors"
    tensors = {name.removeprefix("transformer."): tensor for name, tensor in load_file(file).items()}
    assert "lm_head.weight" not in tensors  # tied
    masks = {f"h.{i}.attn.bias": torch.ones(1, 1, 12, 12, dtype=torch.bool).tril() for i in range(2)}
    masks |= {f"h.{i}.attn.masked_bias": torch.tensor(-1e4) for i in range(2)}
    save_file(tensors | masks, file)
    assert torch.equal(logits(lmc.load_model(tmp_path / "m")), logits(model))


def test_a_head_that_is_tied_but_differs_is_refused(tmp_path):
    save_gpt2(tmp_path / "m", tie_word_embeddings=False)
    rewrite(tmp_path / "m", lambda config: config.update(tie_word_embeddings=True))
    with pytest.raises(ValueError, match=r"'lm_head.weight' is tied to another tensor by the configuration, but diff"):
        lmc.load_model(tmp_path / "m")


def test_weights_stay_when_their_file_is_written_anew(tmp_path):
    model = save_gpt2(tmp_path / "m")
    again = lmc.load_model(tmp_path / "m")
    file = tmp_path / "m" / "model.safetensors"
    with file.open("r+b") as opened:
        opened.seek(-4000, os.SEEK_END)
        opened.write(bytes(4000))
    assert torch.equal(logits(again), logits(model))


# What a stranger's configuration may not ask for


CONFIGS = {
    "pretrained": ("vit", {"model_args": {"pretrained": True}}, "model_args has 'pretrained'"),
    "url": ("vit", {"model_args": {"pretrained_cfg": {"url": "http://x.org/x.pth"}}}, "has 'pretrained_cfg'"),
    "overlay": ("vit", {"model_args": {"pretrained_cfg_overlay": {"file": "/x"}}}, "has 'pretrained_cfg_overlay'"),
    "checkpoint": ("vit", {"model_args": {"checkpoint_path": "/etc/hostname"}}, "model_args has 'checkpoint_path'"),
    "cache": ("vit", {"model_args": {"cache_dir": "/nowhere"}}, "model_args has 'cache_dir'"),
    "class": ("vit", {"model_args": {"block_fn": "Block"}}, "model_args has 'block_fn'"),
    "device": ("vit", {"model_args": {"device": "cuda"}}, "model_args has 'device'"),
    "object": ("vit", {"model_args": {"act_layer": {"a": 1}}}, "act_layer must be a plain value or a list of them"),
    "arguments": ("vit", {"model_args": [1]}, "model_args must be an object"),
    "hub": ("vit", {"architecture": "hf-hub:x/y"}, "'hf-hub:x/y' is none of timm"),
    "local": ("vit", {"architecture": "local-dir:/etc"}, "'local-dir:/etc' is none of timm"),
    "unknown": ("vit", {"architecture": "vit_of_mine"}, "'vit_of_mine' is none of timm"),
    "list": ("vit", {"architecture": ["vit"]}, r"\['vit'\] is none of timm"),
    "other module": ("vit", {"architecture": "convnext_tiny"}, "'convnext_tiny' is none of timm"),
    "pooling": ("vit", {"model_args": VIT | {"global_pool": "x"}}, "builds no model: AssertionError: Only avg, avgmax"),
    "no patches": ("vit", {"model_args": VIT | {"patch_size": 0}}, "builds no model: ZeroDivisionError"),
    "negative": ("vit", {"model_args": VIT | {"embed_dim": -2}}, "embed_dim is -2, but a file of"),
    "heads": ("vit", {"model_args": VIT | {"num_heads": -2}}, "num_heads is -2, but a file of"),
    "epsilon": ("gpt2", {"layer_norm_epsilon": -0.99999}, "layer_norm_epsilon is -0.99999, but a file of"),
    "deep": ("vit", {"model_args": VIT | {"depth": 10**7}}, "depth is 10000000, but a file of 20 tensors"),
    "wide": ("vit", {"model_args": VIT | {"embed_dim": 10**9}}, "embed_dim is 1000000000, but a file of"),
    "infinite": ("vit", {"model_args": VIT | {"mlp_ratio": 1e300}}, r"mlp_ratio is 1e\+300, but a file of"),
    "kernels": ("gpt2", {"attn_implementation": "kernels-community/x"}, "has 'attn_implementation', which asks for"),
    "kernels by hand": ("gpt2", {"_attn_implementation_internal": "a/b"}, "has '_attn_implementation_internal', which"),
    "code": ("gpt2", {"auto_map": {"AutoModel": "x--y.Z"}}, "config.json has 'auto_map', which asks for other code"),
    "quantizer": ("gpt2", {"quantization_config": {"quant_method": "gptq"}}, "config.json has 'quantization_config'"),
    "alias": ("gpt2", {"num_attention_heads": 4}, "config.json has 'num_attention_heads': call it 'n_head'"),
    "layers": ("gpt2", {"n_layer": 10**7}, "n_layer is 10000000, but a file of 28 tensors"),
    "tokens": ("gpt2", {"vocab_size": 2**50}, "vocab_size is 1125899906842624, but a file of 28 tensors"),
    "padding": ("gpt2", {"pad_token_id": 2**64}, "pad_token_id is 18446744073709551616, but a file of"),
    "words": ("gpt2", {"n_embd": "16"}, "builds no model: StrictDataclassFieldValid.* expected int, got str"),
    "no heads": ("gpt2", {"n_head": 0}, "builds no model: ZeroDivisionError"),
    "activation": ("gpt2", {"activation_function": "x"}, "builds no model: KeyError: 'x'"),
    "class saved": ("gpt2", {"architectures": "GPT2LMHeadModel"}, "the name of one class, not 'GPT2LMHeadModel'"),
    "model": ("gpt2", {"model_type": "rnn"}, "no class 'GPT2LMHeadModel' of model_type 'rnn' is known here"),
}  # fmt: skip


@pytest.mark.parametrize("case", CONFIGS)
def test_a_configuration_that_asks_for_more_than_a_plain_model_is_refused_in_one_line(tmp_path, case):
    kind, change, message = CONFIGS[case]
    SAVE[kind](tmp_path / "m")
    rewrite(tmp_path / "m", lambda config: config.update(change))
    with pytest.raises(ValueError, match=message) as caught:
        lmc.load_model(tmp_path / "m")
    told = str(caught.value).replace(str(tmp_path), "")
    assert "\n" not in told
    assert len(told) < 400


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"[1]", "must hold a JSON object"),
        (b"\xff{}", "config.json is corrupt: .*decode"),
        (b"[" * 100_000, "config.json is corrupt: .*recursion"),
        (b'{"model_type": "gpt2", "n_embd": NaN}', "NaN is no JSON"),
        (b"{" + b" " * 2**24 + b"}", "is larger than 16777216 bytes"),
    ],
    ids=["list", "bytes", "deep", "nan", "large"],
)
def test_a_configuration_that_is_no_json_object_is_named(tmp_path, content, message):
    save_gpt2(tmp_path / "m")
    (tmp_path / "m" / "config.json").write_bytes(content)
    with pytest.raises(ValueError, match=message):
        lmc.load_model(tmp_path / "m")


def test_a_pooling_is_not_needed(tmp_path):
    model = save_vit(tmp_path / "m")
    rewrite(tmp_path / "m", lambda config: [config.pop("global_pool"), config.pop("num_classes")])
    rewrite(tmp_path / "m", lambda config: config["model_args"].update(num_classes=10))
    assert torch.equal(logits(lmc.load_model(tmp_path / "m")), logits(model))


@pytest.mark.parametrize("kind", SAVE)
def test_mixed_and_whole_numbers_are_refused_with_what_to_do(tmp_path, kind):
    SAVE[kind](tmp_path / "m")
    file = tmp_path / "m" / "model.safetensors"
    tensors = load_file(file)
    first = next(iter(tensors))
    for dtype, told in ((torch.float16, "F16"), (torch.int8, "I8")):
        save_file(tensors | {first: tensors[first].to(dtype)}, file)
        with pytest.raises(ValueError, match=rf"the tensors are .*{told} \('{first}'\).*: save them all as one of F64"):
            lmc.load_model(tmp_path / "m")


def test_a_header_that_claims_more_than_the_file_holds_is_corrupt(tmp_path):
    save_gpt2(tmp_path / "m")
    claim = {"w": {"dtype": "F32", "shape": [10**6, 10**6], "data_offsets": [0, 4 * 10**12]}}
    header = json.dumps(claim).encode()
    (tmp_path / "m" / "model.safetensors").write_bytes(struct.pack("<Q", len(header)) + header)
    with pytest.raises(ValueError, match=r"model.safetensors is corrupt: Error while deserializing header"):
        lmc.load_model(tmp_path / "m")


@pytest.mark.parametrize("default", [False, True], ids=["removed", "timm's default"])
def test_a_pickle_is_not_read_and_the_argument_that_helps_is_named(tmp_path, default):
    model = save_vit(tmp_path / "m")
    if default:
        shutil.rmtree(tmp_path / "m")
        timm.models.save_for_hf(model, tmp_path / "m", model_args=VIT)
        message = "only pytorch_model.bin, a pickle, which can run code"
    else:
        (tmp_path / "m" / "model.safetensors").unlink()
        message = "no model.safetensors in"
    with pytest.raises(FileNotFoundError, match=rf"{message}.*save_for_hf\(..., safe_serialization=True\)"):
        lmc.load_model(tmp_path / "m")


# Shards


def shard(folder: Path) -> dict:
    """Cut the weights of a folder in two files; return the index."""
    tensors = list(load_file(folder / "model.safetensors").items())
    (folder / "model.safetensors").unlink()
    index = {}
    for i, part in enumerate((tensors[:9], tensors[9:]), 1):
        save_file(dict(part), folder / f"model-{i:05}-of-00002.safetensors")
        index |= {name: f"model-{i:05}-of-00002.safetensors" for name, _ in part}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": index}))
    return index


@pytest.mark.parametrize("kind", SAVE)
def test_shards_are_read(tmp_path, kind):
    model = SAVE[kind](tmp_path / "m")
    shard(tmp_path / "m")
    assert torch.equal(logits(lmc.load_model(tmp_path / "m")), logits(model))


@pytest.mark.parametrize(
    ("place", "message"),
    [
        ("../b/model.safetensors", "must name safetensors files of this folder"),
        ("/etc/model.safetensors", "must name safetensors files of this folder"),
        (7, "must name safetensors files of this folder"),
        ("model-00002-of-00002.safetensors", r"does not tell where these tensors are: 1 \('transformer.wte.weight'\)"),
        ("other.safetensors", "no other.safetensors in"),
    ],
)
def test_an_index_names_only_files_of_its_folder_that_hold_what_it_says(tmp_path, place, message):
    save_gpt2(tmp_path / "m")
    save_gpt2(tmp_path / "b")
    index = shard(tmp_path / "m")
    if place == "model-00002-of-00002.safetensors" == index["transformer.wte.weight"]:
        place = "model-00001-of-00002.safetensors"
    index["transformer.wte.weight"] = place
    (tmp_path / "m" / "model.safetensors.index.json").write_text(json.dumps({"weight_map": index}))
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        lmc.load_model(tmp_path / "m")


# No code, no network, no other file


WATCHED = """
import json, os, sys, sysconfig
import timm.models.vision_transformer
import lmc_utils as lmc
from pathlib import Path
from lmc_utils.networks.base import register
from transformers import GPT2LMHeadModel, LlamaForCausalLM, MixtralForCausalLM  # how they are imported is not watched

register(*(f"{kind.__module__}.{kind.__name__}" for kind in (LlamaForCausalLM, MixtralForCausalLM)))(None)

libraries = {sys.prefix, sys.base_prefix, *sysconfig.get_paths().values(), Path(lmc.__file__).parent}
libraries |= {"/proc", "/sys", "/dev"}
running = ("socket.", "subprocess.", "os.system", "os.exec", "os.posix_spawn", "pickle.", "ctypes.dlopen")
allowed = tuple(os.path.realpath(place) + os.sep for place in libraries)
seen, folder = [], ""

def watch(event, arguments):
    if event == "open" and isinstance(arguments[0], str | bytes | os.PathLike):
        path = os.path.realpath(os.fsdecode(arguments[0]))
        if not path.startswith((*allowed, folder + os.sep)):
            seen.append(f"open {path}")
    elif event.startswith(running):
        seen.append(event)

sys.addaudithook(watch)
for path in sorted(Path(sys.argv[1]).iterdir()):
    folder, seen = os.path.realpath(path), []
    try:
        lmc.load_model(path)
        outcome = "loaded"
    except (ValueError, OSError) as error:
        outcome = type(error).__name__
    except BaseException as error:
        outcome = f"escaped: {type(error).__name__}"
    print(json.dumps([path.name, outcome, seen]))
"""


def test_loading_opens_no_file_outside_of_the_folder_and_no_socket_and_runs_nothing(tmp_path):
    folders = tmp_path / "folders"
    hostile = [case for case in CONFIGS if case != "deep" and case != "layers"]
    for case in hostile:
        kind, change, _ = CONFIGS[case]
        SAVE[kind](folders / f"hostile {case}")
        rewrite(folders / f"hostile {case}", lambda config, change=change: config.update(change))
    for kind, save in SAVE.items():
        save(folders / f"good {kind}")
        save(folders / f"hostile {kind} pickle beside")
        torch.save({}, folders / f"hostile {kind} pickle beside" / "pytorch_model.bin")
        (folders / f"hostile {kind} pickle beside" / "model.safetensors").unlink()
        save(folders / f"good {kind} pickle beside")
        torch.save({}, folders / f"good {kind} pickle beside" / "pytorch_model.bin")
        save(folders / f"good {kind} adapter beside")
        adapter = {"base_model_name_or_path": str(tmp_path / "base"), "peft_type": "LORA"}
        (folders / f"good {kind} adapter beside" / "adapter_config.json").write_text(json.dumps(adapter))
        save(folders / f"hostile {kind} index")
        index = shard(folders / f"hostile {kind} index") | {next(iter(CONFIGS)): "../x.safetensors"}
        (folders / f"hostile {kind} index" / "model.safetensors.index.json").write_text(
            json.dumps({"weight_map": index})
        )
    sizes = {
        "hidden_size": 8,
        "intermediate_size": 8,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "vocab_size": 9,
    }
    attacks = {
        "code": {"auto_map": {"AutoModelForCausalLM": "bait.Bait"}}, "kernels": {"_attn_implementation": "a/b"},
        "class": {"architectures": ["os.system"]}, "angles": {"rope_scaling": {"rope_type": "os.system", "factor": 2}},
        "activation": {"hidden_act": "os.system"}, "type": {"model_type": "../llama"}, "quantizer":
        {"quantization_config": {"quant_method": "gptq"}}, "experts": {"_experts_implementation": "a/b"},
    }  # fmt: skip
    for kind in (LlamaForCausalLM, MixtralForCausalLM):
        for case in (*attacks, "good", "good sharded"):
            name = case if case.startswith("good") else f"hostile {case}"
            folder = folders / f"{name} {kind.__name__}"
            kind(kind.config_class(**sizes)).save_pretrained(folder, max_shard_size="2KB" if "sh" in case else "1GB")
            rewrite(folder, lambda config, case=case: config.update(attacks.get(case, {})))
            (folder / "bait.py").write_text("raise SystemExit")
    environment = os.environ | {"HF_HUB_OFFLINE": "0", "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(
        [sys.executable, "-c", WATCHED, str(folders)], capture_output=True, text=True, env=environment, check=True
    )
    found = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(found) == len(hostile) + 10 + 2 * (len(attacks) + 2)
    for name, outcome, seen in found:
        assert seen == [], name
        assert outcome in (["loaded"] if name.startswith("good") else ["ValueError", "FileNotFoundError"]), name


# Models that are not what their class says


class Louder(GPT2LMHeadModel):
    """Another function under its parent's weights."""

    def forward(self, *args, **kwargs):
        found = super().forward(*args, **kwargs)
        found.logits = 2 * found.logits
        return found


class Doubled(nn.Linear):
    def forward(self, x):
        return 2 * super().forward(x)


def with_hook(model: nn.Module) -> nn.Module:
    model.transformer.h[1].mlp.register_forward_hook(lambda _, __, y: 2 * y)
    return model


def with_forward(model: nn.Module) -> nn.Module:
    model.transformer.h[0].forward = lambda x, **_: x
    return model


def with_part(model: nn.Module, name: str, part: nn.Module) -> nn.Module:
    model.set_submodule(name, part)
    return model


def small_gpt2(kind: type = GPT2LMHeadModel) -> nn.Module:
    return kind(GPT2Config(**GPT2))


def small_vit() -> nn.Module:
    return timm.create_model(NAME, num_classes=10, **VIT)


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: small_gpt2(Louder), TypeError, "for Louder, a subclass of .*GPT2LMHeadModel that may compute someth"),
        (lambda: with_hook(small_gpt2()), ValueError, "transformer.h.1.mlp has a hook or a forward of its own"),
        (lambda: with_forward(small_gpt2()), ValueError, "transformer.h.0 has a hook or a forward of its own"),
        (
            lambda: with_part(small_gpt2(), "transformer.h.1.mlp.c_fc", nn.Linear(16, 64)),
            ValueError,
            "'transformer.h.1.mlp.c_fc' is a Linear, where the stock module has a Conv1D",
        ),
        (
            lambda: with_part(small_vit(), "blocks.0.mlp.fc2", Doubled(64, 16)),
            ValueError,
            r"no linear mlp.fc2 in block 0 \(Doubled\)",
        ),
        (lambda: with_part(mlp((4, 5, 3)), "fc1", Doubled(5, 3)), ValueError, "layer 'fc1' is a Doubled"),
    ],
    ids=["subclass", "hook", "forward", "gpt2's part", "vit's part", "mlp's part"],
)
def test_a_model_that_may_compute_something_else_than_its_class_is_refused(make, error, message):
    with pytest.raises(error, match=message):
        lmc.canonicalize(make())


class PeftModel(nn.Module):
    """Stands for the class of the library of that name."""

    __module__ = "peft.peft_model"


class LoraLayer(nn.Linear):
    __module__ = "peft.tuners.lora.layer"


class Split(torch.Tensor):
    """Stands for tensors that are spread over machines, or packed."""


def quantised(model: nn.Module) -> nn.Module:
    packed = nn.Parameter(torch.zeros(3, 4, dtype=torch.uint8), requires_grad=False)
    return with_part(model, "fc1", type("Linear4bit", (nn.Linear,), {})(5, 3)), setattr(model.fc1, "weight", packed)


WRAPPED = {
    "data parallel": (lambda: nn.DataParallel(mlp((4, 5, 3))), r"wrapped \(DataParallel\): pass model.module"),
    "averaged": (
        lambda: torch.optim.swa_utils.AveragedModel(mlp((4, 5, 3))),
        r"wrapped \(AveragedModel\): pass model.module",
    ),
    "compiled": (lambda: torch.compile(mlp((4, 5, 3))), r"wrapped \(OptimizedModule\): pass model._orig_mod"),
    "scripted": (lambda: torch.jit.script(mlp((4, 5, 3))), r"wrapped \(ScriptModule\): pass the model that was script"),
    "traced": (
        lambda: torch.fx.symbolic_trace(mlp((4, 5, 3))),
        r"wrapped \(GraphModule\): pass the model that was traced",
    ),
    "adapted": (PeftModel, r"wrapped \(PeftModel\): pass model.merge_and_unload\(\)"),
    "adapters inside": (
        lambda: with_part(mlp((4, 5, 3)), "fc1", LoraLayer(5, 3)),
        r"wrapped \(LoraLayer at 'fc1'\): pass the model with its adapt",
    ),
    "no numbers": (lambda: mlp((4, 5, 3)).to("meta"), r"'fc0.weight' has a shape, but no numbers \(device meta\)"),
    "quantised": (lambda: quantised(mlp((4, 5, 3)))[0], "'fc1.weight' is a torch.uint8: pass the model as it was bef"),
    "eight bits": (lambda: mlp((4, 5, 3)).to(torch.float8_e4m3fn), "'fc0.weight' is a torch.float8_e4m3fn: pass the"),
    "no model": (lambda: "gpt2", "model must be a Module, not a str"),
}


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("case", WRAPPED)
def test_a_wrapped_model_is_refused_in_one_line_with_what_to_pass_instead(case):
    make, message = WRAPPED[case]
    with pytest.raises(TypeError, match=message) as caught:
        lmc.canonicalize(make())
    assert "\n" not in str(caught.value)


def test_tensors_that_are_no_plain_ones_are_refused():
    model = mlp((4, 5, 3))
    model.fc1.weight = nn.Parameter(model.fc1.weight.detach().as_subclass(Split))
    with pytest.raises(TypeError, match=r"parameter 'fc1.weight' is a Split: pass the model as it was before"):
        lmc.canonicalize(model)


def test_a_model_that_was_asked_for_its_hidden_states_is_still_itself():
    model = noisy(small_gpt2(), 0)
    model(torch.zeros(1, 3, dtype=torch.long), output_hidden_states=True)
    lmc.assert_canonical(lmc.canonicalize(model), model, torch.arange(12).unsqueeze(0))


@pytest.mark.parametrize(
    ("make", "name"), [(small_gpt2, "transformer.h.0.attn.c_attn.weight"), (small_vit, "blocks.0.attn.qkv.weight")]
)
@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_weights_that_are_not_finite_are_named_before_anything_is_decomposed(make, name, value):
    model = make()
    with torch.no_grad():
        model.get_parameter(name)[2, 3] = value
    with pytest.raises(ValueError, match=rf"parameter '{name}' of shape .* has 1 NaN or infinite entries"):
        lmc.canonicalize(model)


@pytest.mark.parametrize("make", [small_gpt2, small_vit])
def test_assert_canonical_sees_another_function_and_leaves_the_model_alone(make):
    model = noisy(make(), 0).double().train()
    network = lmc.canonicalize(model)
    probe = network.architecture.probe()
    assert torch.equal(probe, network.architecture.probe())
    lmc.assert_canonical(network, model, probe)
    assert model.training
    with torch.no_grad():
        next(p for name, p in model.named_parameters() if name.endswith(("c_proj.bias", "proj.bias")))[0] += 0.1
    with pytest.raises(AssertionError, match=r"not this model's canonical form: a logit differs by [\d.e-]+, allowed"):
        lmc.assert_canonical(network, model, probe)


@pytest.mark.parametrize("kind", SAVE)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_a_pair_is_compared_with_its_models_before_it_is_matched(tmp_path, monkeypatch, kind, dtype):
    for seed, name in enumerate("ab"):
        SAVE[kind](tmp_path / name, seed)
        file = tmp_path / name / "model.safetensors"
        save_file({key: tensor.to(dtype) for key, tensor in load_file(file).items()}, file)
    a, _ = load_pair(tmp_path / "a", tmp_path / "b")
    assert a.reference.dtype == dtype

    def careless(model: nn.Module) -> lmc.Network:
        network = lmc.canonicalize(model)
        return lmc.Network(network.architecture, network.params | {"0.fc.bias": network.params["0.fc.bias"] + 1})

    monkeypatch.setattr(folders, "canonicalize", careless)
    with pytest.raises(ValueError, match=r"the model in .*a cannot be matched: not this model's canonical form"):
        load_pair(tmp_path / "a", tmp_path / "b")


@pytest.mark.parametrize("change", [{"img_size": 3}, {"img_size": [28, 28, 28]}, {"norm_layer": "batchnorm2d"}])
def test_sizes_that_no_image_has_are_refused_in_one_line(tmp_path, change):
    save_vit(tmp_path / "m", no_embed_class=True, pos_embed="none")
    rewrite(tmp_path / "m", lambda config: config["model_args"].update(change))
    with pytest.raises(ValueError, match=r"the model in .*m (cannot be matched|is not loaded): .*"):
        load_pair(tmp_path / "m", tmp_path / "m")


@pytest.mark.parametrize(("kind", "change"), [("gpt2", {"n_layer": 0}), ("vit", {"model_args": VIT | {"depth": 0}})])
def test_a_model_without_blocks_is_refused(tmp_path, kind, change):
    SAVE[kind](tmp_path / "m")
    rewrite(tmp_path / "m", lambda config: config.update(change))
    blocks = "transformer.h." if kind == "gpt2" else "blocks."
    file = tmp_path / "m" / "model.safetensors"
    save_file({n: t for n, t in load_file(file).items() if not n.startswith(blocks)}, file)
    with pytest.raises(ValueError, match=r"without blocks|no blocks"):
        lmc.canonicalize(lmc.load_model(tmp_path / "m"))


# What a merged folder keeps


def test_a_merged_gpt2_keeps_what_its_parent_had(tmp_path):
    labels = {"id2label": {0: "no", 1: "yes"}, "label2id": {"no": 0, "yes": 1}}
    model = save_gpt2(
        tmp_path / "a", resid_pdrop=0.3, embd_pdrop=0.25, attn_pdrop=0.4, scale_attn_weights=False, **labels
    )
    beside = {
        "tokenizer.json": "{}", "tokenizer_config.json": '{"chat_template": "x"}', "chat_template.jinja": "{{ x }}",
        "added_tokens.json": '{"<x>": 30}', "generation_config.json": '{"temperature": 0.7, "do_sample": true}',
        "additional_chat_templates/tool.jinja": "{{ y }}",
    }  # fmt: skip
    (tmp_path / "a" / "additional_chat_templates").mkdir()
    for name, text in beside.items():
        (tmp_path / "a" / name).write_text(text)
    lmc.save_model(lmc.canonicalize(model), tmp_path / "m", like=tmp_path / "a")
    assert {name: (tmp_path / "m" / name).read_text() for name in beside} == beside
    stock = GPT2LMHeadModel.from_pretrained(tmp_path / "m").eval()
    config = stock.config
    assert (config.resid_pdrop, config.embd_pdrop, config.attn_pdrop) == (0.3, 0.25, 0.4)
    assert (config.id2label, config.label2id) == (labels["id2label"], labels["label2id"])
    assert stock.generation_config.temperature == 0.7
    assert not config.tie_word_embeddings  # the last norm was folded into the head
    for again in (stock, lmc.load_model(tmp_path / "m")):
        assert torch.allclose(logits(again), logits(model), atol=1e-4)


def test_a_head_stays_tied_where_it_still_is_the_embedding(tmp_path):
    torch.manual_seed(0)
    model = GPT2LMHeadModel(GPT2Config(**GPT2)).eval()  # its last norm is trivial
    words, positions = model.transformer.wte.weight, model.transformer.wpe.weight
    with torch.no_grad():  # nothing is left to fold into the words
        words -= words.mean(1, keepdim=True)
        positions -= positions.mean(0)
    network = lmc.canonicalize(model)
    params = network.params | {"head.weight": network.params["wte"], "head.bias": 0 * network.params["head.bias"]}
    model.save_pretrained(tmp_path / "a")
    lmc.save_model(lmc.Network(network.architecture, params), tmp_path / "m", like=tmp_path / "a")
    assert "lm_head.weight" not in load_file(tmp_path / "m" / "model.safetensors")
    for again in (lmc.load_model(tmp_path / "m"), GPT2LMHeadModel.from_pretrained(tmp_path / "m").eval()):
        assert again.lm_head.weight is again.transformer.wte.weight
        assert torch.allclose(logits(again), logits(model), atol=1e-5)


FORMS = {
    "plain": {},
    "no biases": {"qkv_bias": False, "proj_bias": False},
    "no position table": {"pos_embed": "none"},
    "no position table, class token apart": {"pos_embed": "none", "no_embed_class": True},
    "class token apart": {"no_embed_class": True},
    "pooling": {"global_pool": "avg", "class_token": False},
    "pooling with the class token": {"global_pool": "avg", "pool_include_prefix": True},
    "norm before pooling": {"global_pool": "avg", "fc_norm": False},
    "relu": {"act_layer": "relu"},
    "narrow": {"mlp_ratio": 1.7},
    "rectangle": {"img_size": [28, 28], "patch_size": [7, 14]},
}


@pytest.mark.parametrize("form", FORMS)
def test_a_merged_timm_model_loads_again_in_every_form_and_keeps_what_its_parent_had(tmp_path, form):
    model = save_vit(tmp_path / "a", **FORMS[form] | {"drop_rate": 0.1, "proj_drop_rate": 0.2})
    extra = {"label_names": [f"class {i}" for i in range(10)], "license": "mit"}
    rewrite(tmp_path / "a", lambda config: config.update(extra))
    lmc.save_model(lmc.canonicalize(model), tmp_path / "m", like=tmp_path / "a")
    again = lmc.load_model(tmp_path / "m")
    assert torch.allclose(logits(again), logits(model), atol=1e-4)
    parent, config = (json.loads((tmp_path / name / "config.json").read_text()) for name in "am")
    assert config.items() >= extra.items()
    assert config["pretrained_cfg"] == parent["pretrained_cfg"]
    assert (again.head_drop.p, again.blocks[0].attn.proj_drop.p) == (0.1, 0.2)


@pytest.mark.parametrize("kind", SAVE)
def test_a_large_model_is_written_in_shards(tmp_path, monkeypatch, kind):
    model = SAVE[kind](tmp_path / "a")
    monkeypatch.setattr(folders, "SHARD", "9KB")
    lmc.save_model(lmc.canonicalize(model), tmp_path / "m", like=tmp_path / "a")
    assert len(list((tmp_path / "m").glob("model-*.safetensors"))) > 1
    assert torch.allclose(logits(lmc.load_model(tmp_path / "m")), logits(model), atol=1e-4)


def test_a_folder_of_another_kind_is_no_parent_and_nothing_is_written(tmp_path, make_mlp):
    model = save_gpt2(tmp_path / "a")
    save_vit(tmp_path / "b")
    with pytest.raises(ValueError, match=r"a model like the one in .*a does not hold this network: "):
        lmc.save_model(lmc.canonicalize(small_vit()), tmp_path / "m", like=tmp_path / "a")
    with pytest.raises(TypeError, match="no folder is written for a Sequential of torch"):
        lmc.save_model(make_mlp(), tmp_path / "m", like=tmp_path / "a")
    (tmp_path / "m").mkdir()
    (tmp_path / "m" / "mine").touch()
    with pytest.raises(FileExistsError, match="nothing was written"):
        lmc.save_model(lmc.canonicalize(model), tmp_path / "m", like=tmp_path / "a")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b", "m"]
    assert [path.name for path in (tmp_path / "m").iterdir()] == ["mine"]


# Our own checkpoints and tokenizers


@pytest.mark.parametrize(
    ("architecture", "config", "message"),
    [
        (["mlp"], {}, r"says architecture \['mlp'\]; known are"),
        ("mlp", [4, 5, 3], r"says config \[4, 5, 3\], not the arguments of 'mlp'"),
        ("mlp", {"widths": [4, 10**12, 3]}, "widths is .4, 1000000000000, 3., but a file of 4 tensors"),
        ("mlp", {"widths": [1] * 99}, "widths is .*but a file of 4 tensors with 43 numbers"),
        ("mlp", {"widths": [4, -5, 3]}, "widths is .4, -5, 3., but a file of 4 tensors"),
        ("mlp", {"depth": 3}, "its configuration builds no model: TypeError: .*'depth'"),
        ("mlp", {"widths": [4, 6, 3]}, r"tensors are not .*\('fc0.weight' of shape \(5, 4\) instead of \(6, 4\)"),
        ("vit", {"block_fn": "x"}, "VisionTransformer has no plain argument block_fn"),
        ("gpt2", {"attn_implementation": "a/b"}, "GPT2Config has no attn_implementation"),
        ("gpt2", {"n_layer": 10**8}, "n_layer is 100000000, but a file of 4 tensors"),
    ],
)
def test_a_checkpoint_names_plain_arguments_that_its_tensors_can_have(tmp_path, architecture, config, message):
    tensors = mlp((4, 5, 3)).state_dict()
    metadata = {"architecture": json.dumps(architecture), "config": json.dumps(config)}
    save_atomically(tensors, tmp_path / "a.safetensors", metadata)
    with pytest.raises(ValueError, match=message) as caught:
        lmc.load_checkpoint(tmp_path / "a.safetensors")
    assert "\n" not in str(caught.value)


def test_weights_that_are_whole_numbers_are_refused(tmp_path):
    tensors = {name: tensor.long() for name, tensor in mlp((4, 5, 3)).state_dict().items()}
    metadata = {"architecture": json.dumps("mlp"), "config": json.dumps({"widths": [4, 5, 3]})}
    save_atomically(tensors, tmp_path / "a.safetensors", metadata)
    with pytest.raises(ValueError, match=r"'fc0.weight'.* must hold floating-point numbers, but torch.int64"):
        lmc.load_checkpoint(tmp_path / "a.safetensors")


def test_a_model_with_other_logits_is_not_the_original():
    network = lmc.canonicalize(mlp((4, 5, 3)))
    with pytest.raises(AssertionError, match=r"logits of shape .*3.*, not .*4"):
        lmc.assert_canonical(network, torch.nn.Sequential(), torch.ones(2, 4))
