"""Folders of any known class: what the libraries write is read, and what is written they read, under their names."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import timm
import torch
import transformers
from safetensors.torch import load_file, save_file
from torch import nn

import lmc_utils as lmc
from lmc_utils.networks import base
from lmc_utils.networks.folders import blueprint, to_folder

TEXT = {"vocab_size": 31, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 4,
        "max_position_embeddings": 20, "pad_token_id": 0}  # fmt: skip
GROUPED = TEXT | {"num_key_value_heads": 2, "bos_token_id": 0, "eos_token_id": 0}
GPT2 = {"n_layer": 2, "n_embd": 16, "n_head": 2, "n_positions": 12, "vocab_size": 31, "bos_token_id": 0,
        "eos_token_id": 0, "pad_token_id": 0}  # fmt: skip
ROPE = {"rope_type": "llama3", "rope_theta": 5e5, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
        "original_max_position_embeddings": 16}  # fmt: skip
LONG = {"rope_type": "longrope", "rope_theta": 1e4, "factor": 2.0, "short_factor": [1.0, 1.0],
        "long_factor": [1.0, 2.0], "original_max_position_embeddings": 10}  # fmt: skip
IMAGES = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 4,
          "image_size": 8, "patch_size": 4}  # fmt: skip
LABELS = {"id2label": {0: "cat", 1: "dog", 2: "owl"}, "label2id": {"cat": 0, "dog": 1, "owl": 2}}
CLASSES = {
    "GPT2LMHeadModel": GPT2,
    "GPT2Model": GPT2,
    "GPT2ForSequenceClassification": GPT2 | LABELS,
    "LlamaForCausalLM": GROUPED | {"rope_parameters": ROPE, "mlp_bias": True},
    "MistralForCausalLM": GROUPED | {"sliding_window": 4},
    "Qwen2ForCausalLM": GROUPED | {"tie_word_embeddings": True},
    "Qwen3ForCausalLM": GROUPED | {"head_dim": 8, "use_sliding_window": True, "max_window_layers": 1},
    "Olmo2ForCausalLM": GROUPED | {"rope_parameters": LONG},
    "GPTNeoXForCausalLM": TEXT | {"rotary_pct": 0.5, "bos_token_id": 0, "eos_token_id": 0},
    "MixtralForCausalLM": GROUPED | {"num_local_experts": 3},
    "BertModel": TEXT,
    "BertForMaskedLM": TEXT,
    "ViTForImageClassification": IMAGES | LABELS,
}  # fmt: skip


@pytest.fixture(autouse=True)
def known(monkeypatch):
    """All these classes are known, whether or not there is a canonical form of each."""
    kinds = [getattr(transformers, name) for name in CLASSES] + [timm.models.resnet.ResNet, timm.models.eva.Eva]
    names = [f"{kind.__module__}.{kind.__qualname__}" for kind in kinds]
    monkeypatch.setattr(base, "_HANDLERS", dict.fromkeys(names) | base._HANDLERS)


def noisy(model: nn.Module) -> nn.Module:
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.1 * torch.randn(p.shape, generator=generator))
    return model.eval()


def make(name: str, **options: object) -> nn.Module:
    kind = getattr(transformers, name)
    return noisy(kind(kind.config_class(**CLASSES[name] | options)))


@torch.no_grad()
def answer(model: nn.Module) -> torch.Tensor:
    images = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0)).to(next(model.parameters()).dtype)
    text = torch.randint(1, 31, (2, 12), generator=torch.Generator().manual_seed(0))
    return model(images if "ViT" in type(model).__name__ else text)[0]


def same(one: nn.Module, other: nn.Module) -> bool:
    """Class, weights, tables and answers."""
    tensors = [dict(model.state_dict()) | dict(model.named_buffers()) for model in (one, other)]
    equal = tensors[0].keys() == tensors[1].keys() and all(torch.equal(x, tensors[1][n]) for n, x in tensors[0].items())
    return type(one) is type(other) and equal and torch.equal(answer(one), answer(other))


def rewrite(folder: Path, change) -> None:
    config = json.loads((folder / "config.json").read_text())
    change(config)
    (folder / "config.json").write_text(json.dumps(config))


def read(folder: Path) -> dict:
    return json.loads((folder / "config.json").read_text())


def write(folder: Path, config: dict, tensors: dict) -> Path:
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(config))
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, folder / "model.safetensors")
    return folder


# What the library writes


@pytest.mark.parametrize("name", CLASSES)
@pytest.mark.parametrize("size", ["1GB", "4KB"])
def test_what_save_pretrained_writes_is_loaded_whole_or_in_shards_and_draws_no_random_numbers(tmp_path, name, size):
    model = make(name)
    model.save_pretrained(tmp_path / "m", max_shard_size=size)
    assert (len(list((tmp_path / "m").glob("*.safetensors"))) > 1) == (size == "4KB")
    state = torch.get_rng_state()
    again = lmc.load_model(tmp_path / "m")
    assert torch.equal(torch.get_rng_state(), state)
    assert not again.training
    assert all(p.requires_grad for p in again.parameters())
    assert same(again, model)


@pytest.mark.parametrize("name", ["LlamaForCausalLM", "GPTNeoXForCausalLM", "BertForMaskedLM"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
def test_a_model_comes_back_as_from_pretrained_makes_it_in_its_dtype(tmp_path, name, dtype):
    make(name).to(dtype).save_pretrained(tmp_path / "m")
    again = lmc.load_model(tmp_path / "m")
    assert next(again.parameters()).dtype == dtype
    assert same(again, type(again).from_pretrained(tmp_path / "m", dtype="auto").eval())


def test_the_names_of_today_and_those_of_yesterday_are_read(tmp_path):
    for name, old, new in (
        ("MixtralForCausalLM", "block_sparse_moe.experts.2.w1.weight", "mlp.experts.gate_up_proj"),
        ("ViTForImageClassification", "attention.attention.query.weight", "attention.q_proj.weight"),
    ):
        model = make(name)
        for original in (True, False):
            folder = tmp_path / f"{name} {original}"
            model.save_pretrained(folder, save_original_format=original)
            assert any((old if original else new) in key for key in load_file(folder / "model.safetensors"))
            assert same(lmc.load_model(folder), model)


def test_old_names_of_norms_and_the_prefix_of_another_head_are_read(tmp_path):
    model = make("BertModel")
    older = {"LayerNorm.weight": "LayerNorm.gamma", "LayerNorm.bias": "LayerNorm.beta"}
    old = {}
    for name, tensor in model.state_dict().items():
        end = ".".join(name.split(".")[-2:])
        old[f"bert.{name.removesuffix(end)}{older.get(end, end)}"] = tensor
    model.save_pretrained(tmp_path / "a")
    made = {"bert.embeddings.position_ids": torch.arange(20).unsqueeze(0)}
    assert same(lmc.load_model(write(tmp_path / "m", read(tmp_path / "a"), old | made)), model)


def test_masks_and_angles_that_old_files_hold_are_made_by_the_module(tmp_path):
    model = make("GPTNeoXForCausalLM")
    model.save_pretrained(tmp_path / "a")
    tensors = load_file(tmp_path / "a" / "model.safetensors")
    for i in range(2):
        at = f"gpt_neox.layers.{i}.attention"
        tensors |= {f"{at}.bias": torch.ones(1, 1, 20, 20, dtype=torch.bool), f"{at}.masked_bias": torch.tensor(-1e9)}
        tensors |= {f"{at}.rotary_emb.inv_freq": torch.zeros(1)}
    assert same(lmc.load_model(write(tmp_path / "m", read(tmp_path / "a"), tensors)), model)
    bias = {"gpt_neox.layers.0.attention.bias": torch.ones(16)}  # no mask, but a part that the class does not have
    with pytest.raises(ValueError, match=r"unknown 1 \('gpt_neox.layers.0.attention.bias'\)"):
        lmc.load_model(write(tmp_path / "n", read(tmp_path / "a"), tensors | bias))


@pytest.mark.parametrize(
    ("change", "gone"),
    [
        ({"rope_theta": 500.0, "rope_scaling": None}, ("rope_parameters",)),
        ({"rope_theta": 500.0, "rope_scaling": {"type": "linear", "factor": 4.0}}, ("rope_parameters",)),
        ({"rope_scaling": {"rope_type": "yarn", "factor": 4.0, "beta_fast": 16, "truncate": False}}, ()),
        ({"rope_parameters": None}, ()),
        ({"num_key_value_heads": 2, "torch_dtype": "float32", "_attn_implementation_autoset": True}, ()),
    ],
)
def test_rotary_settings_are_read_as_from_pretrained_reads_them(tmp_path, change, gone):
    make("LlamaForCausalLM").save_pretrained(tmp_path / "m")
    rewrite(tmp_path / "m", lambda config: [config.pop(key) for key in gone])
    rewrite(tmp_path / "m", lambda config: config.update(change))
    stock = transformers.LlamaForCausalLM.from_pretrained(tmp_path / "m").eval()
    assert same(lmc.load_model(tmp_path / "m"), stock)


@pytest.mark.parametrize("older", [{"rotary_pct": 1.0, "rotary_emb_base": 77}, {"rotary_pct": 0.5}])
def test_older_names_of_rotary_settings_are_read(tmp_path, older):
    make("GPTNeoXForCausalLM").save_pretrained(tmp_path / "m")
    rewrite(tmp_path / "m", lambda config: config.pop("rope_parameters"))
    rewrite(tmp_path / "m", lambda config: config.update(older))
    stock = transformers.GPTNeoXForCausalLM.from_pretrained(tmp_path / "m").eval()
    assert same(lmc.load_model(tmp_path / "m"), stock)


# What a stranger's folder may not do

DEEP = json.loads("[" * 200 + "]" * 200)
CONFIGS = {
    "layers": ("Llama", {"num_hidden_layers": 10**9}, "num_hidden_layers is 1000000000, but a file of 27 tensors"),
    "many layers": ("Bert", {"num_hidden_layers": 101}, "num_hidden_layers is 101, but a file of"),
    "experts": ("Mixtral", {"num_local_experts": 10**12}, "num_local_experts is 1000000000000, but a file of"),
    "context": ("Llama", {"max_position_embeddings": 2**40}, "max_position_embeddings is 1099511627776, but a file"),
    "negative": ("Llama", {"hidden_size": -16}, "hidden_size is -16, but a file of"),
    "no heads": ("Llama", {"num_attention_heads": 0}, "builds no model: "),
    "giant head": ("Mistral", {"head_dim": 2**20}, "misshapen .*q_proj.weight' of shape"),
    "factor": ("Llama", {"rope_parameters": ROPE | {"factor": 1e300}}, r"rope_parameters\['factor'\] is 1e\+300, but"),
    "negative factor": ("Llama", {"rope_scaling": ROPE | {"factor": -1}}, r"rope_scaling\['factor'\] is -1, but"),
    "theta": ("Llama", {"rope_theta": 1e99}, r"rope_theta is 1e\+99, but a file of"),
    "theta inside": ("Llama", {"rope_parameters": {"rope_theta": 1e99}}, r"\['rope_theta'\] is 1e\+99, but a file"),
    "share": ("GPTNeoX", {"rotary_pct": 1e6}, "rotary_pct is 1000000.0, but a file of"),
    "share inside": ("Llama", {"rope_parameters": {"partial_rotary_factor": 9}}, r"_factor'\] is 9, but a file of"),
    "nested": ("Llama", {"rope_parameters": {"factor": {"factor": {}}}}, r"\['factor'\] must be a plain value or a li"),
    "bomb": ("Llama", {"rope_parameters": {"factor": DEEP}}, r"\['factor'\] must be a plain value or a list"),
    "by layers": ("Llama", {"rope_parameters": {"full_attention": ROPE}}, r"has 1 \('full_attention'\), which no rota"),
    "long": ("Llama", {"rope_parameters": {"long_factor": [1] * 10**5}}, r"\['long_factor'\] is \[1, 1, .* a file of"),
    "no angles": ("Llama", {"rope_parameters": [1]}, "builds no model: "),
    "method": ("Llama", {"rope_parameters": {"rope_type": "os.system"}}, "builds no model: KeyError: 'os.system'"),
    "no word": ("Llama", {"rope_parameters": {"rope_type": 7}}, "builds no model: KeyError: 7"),
    "sizes": ("Bert", {"hidden_size": {"a": 1}}, "hidden_size must be a plain value or a list of them"),
    "labels": ("ViT", {"id2label": {"0": ["a"]}}, "id2label must name each class once, not"),
    "no labels": ("ViT", {"id2label": [1]}, r"id2label must name each class once, not \[1\]"),
    "other labels": ("ViT", {"id2label": {"0": "a"}}, r"misshapen 2 \('classifier.weight' of shape \(3, 16\)"),
    "kernels": ("Llama", {"_experts_implementation": "a/b"}, "has '_experts_implementation', which asks for other"),
    "code": ("Llama", {"auto_map": {"AutoModel": "x--y.Z"}}, "config.json has 'auto_map', which asks for other code"),
    "quantised": ("Llama", {"quantization_config": {}}, "config.json has 'quantization_config', which asks for other"),
    "each layer": ("Llama", {"per_layer_config": {"0": {"hidden_size": 9}}}, "config.json has 'per_layer_config'"),
    "alias": ("Mixtral", {"num_experts": 3}, "has 'num_experts': call it 'num_local_experts', as MixtralConfig does"),
    "two classes": ("Llama", {"architectures": ["LlamaForCausalLM", "LlamaModel"]}, "the name of one class, not "),
    "no class": ("Llama", {"architectures": []}, r"the name of one class, not \[\]"),
    "a text": ("Llama", {"architectures": "LlamaForCausalLM"}, "the name of one class, not 'LlamaForCausalLM'"),
    "a number": ("Llama", {"architectures": [7]}, r"the name of one class, not \[7\]"),
    "dots": ("Llama", {"architectures": ["os.path.join"]}, "no class 'os.path.join' of model_type 'llama' is known"),
    "path": ("Llama", {"architectures": ["../Llama"]}, "no class '../Llama' of model_type 'llama' is known here"),
    "not a model": ("Llama", {"architectures": ["LlamaConfig"]}, "no class 'LlamaConfig' of model_type 'llama'"),
    "function": ("Llama", {"architectures": ["rotate_half"]}, "no class 'rotate_half' of model_type 'llama'"),
    "imported": ("Llama", {"architectures": ["PreTrainedModel"]}, "no class 'PreTrainedModel' of model_type"),
    "dunder": ("Llama", {"architectures": ["__builtins__"]}, "no class '__builtins__' of model_type 'llama'"),
    "other type": ("Llama", {"model_type": "gpt2"}, "no class 'LlamaForCausalLM' of model_type 'gpt2' is known here"),
    "other class": ("Llama", {"architectures": ["GPT2LMHeadModel"]}, "no class 'GPT2LMHeadModel' of model_type 'llam"),
    "no type": ("Llama", {"model_type": ["llama"]}, r"of model_type \['llama'\] is known here"),
    "unknown": ("Llama", {"model_type": "t5", "architectures": ["T5Model"]}, "no class 'T5Model' of model_type 't5'"),
    "sibling": ("Bert", {"architectures": ["BertForQuestionAnswering"]}, "missing 2.*qa_outputs"),
    "activation": ("Llama", {"hidden_act": "os.system"}, "builds no model: KeyError: 'os.system'"),
}  # fmt: skip
FULL = {"Llama": "LlamaForCausalLM", "Bert": "BertForMaskedLM", "Mixtral": "MixtralForCausalLM",
        "Mistral": "MistralForCausalLM", "GPTNeoX": "GPTNeoXForCausalLM",
        "ViT": "ViTForImageClassification"}  # fmt: skip


@pytest.mark.parametrize("case", CONFIGS)
def test_a_configuration_that_asks_for_more_is_refused_in_one_line_before_weights_are_read(tmp_path, case):
    kind, change, message = CONFIGS[case]
    model = make(FULL[kind])
    model.save_pretrained(tmp_path / "m")
    shapes = {name: tuple(tensor.shape) for name, tensor in load_file(tmp_path / "m" / "model.safetensors").items()}
    with pytest.raises(ValueError, match=message) as caught:
        blueprint(read(tmp_path / "m") | change, shapes)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 480


def experts(**change: str) -> dict[str, torch.Tensor]:
    """The file of a Mixtral of three experts, with names changed."""
    tensors = make("MixtralForCausalLM")
    written = to_folder(tensors, {"architectures": ["MixtralForCausalLM"], "model_type": "mixtral"}, {})[1]
    at = "model.layers.0.block_sparse_moe."
    return {at + change.get(n.removeprefix(at), n.removeprefix(at)) if n.startswith(at) else n: x
            for n, x in written.items()}  # fmt: skip


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        (lambda: experts(**{"experts.1.w1.weight": "experts.7.w1.weight"}), r"unknown 1 \(.*experts.7.w1.weight"),
        (lambda: experts(**{"experts.1.w1.weight": "experts.01.w1.weight"}), r"unknown 1 \(.*experts.01.w1.weight"),
        (
            lambda: {n: x for n, x in experts().items() if "0.block_sparse_moe.experts.1.w1" not in n},
            "not those of its",
        ),
        (lambda: experts() | {"model.layers.0.mlp.experts.down_proj": torch.ones(3, 16, 24)}, "are both the module's"),
        (
            lambda: experts() | {"embed_tokens.weight": torch.ones(31, 16)},
            "'model.embed_tokens.weight' are both the module's",
        ),
        (lambda: experts() | {"x" * 301: torch.ones(1)}, "a tensor's name has 301 characters, allowed are 300"),
        (lambda: experts() | {"model.layers.0.block_sparse_moe.experts.0.w1.weight": torch.ones(3, 3)}, "not those of"),
    ],
)
def test_tensors_that_do_not_make_up_those_of_the_module_are_refused(tmp_path, tensors, message):
    make("MixtralForCausalLM").save_pretrained(tmp_path / "a")
    with pytest.raises(ValueError, match=message) as caught:
        lmc.load_model(write(tmp_path / "m", read(tmp_path / "a"), tensors()))
    assert "\n" not in str(caught.value)


# What is written


@pytest.mark.parametrize("name", CLASSES)
def test_a_folder_is_written_as_save_pretrained_writes_it(tmp_path, name):
    model = make(name)
    model.save_pretrained(tmp_path / "a")
    config, tensors = to_folder(lmc.load_model(tmp_path / "a"), read(tmp_path / "a"), {})
    folder = write(tmp_path / "m", config, tensors)
    written = load_file(tmp_path / "a" / "model.safetensors")
    assert config == read(tmp_path / "a")
    assert tensors.keys() == written.keys()
    assert all(torch.equal(tensor, written[key]) for key, tensor in tensors.items())
    assert same(type(model).from_pretrained(folder).eval(), model)


def test_a_head_is_tied_in_the_file_exactly_if_it_is_the_embedding(tmp_path):
    model = make("Qwen2ForCausalLM")
    model.save_pretrained(tmp_path / "a")
    parent, free = read(tmp_path / "a"), make("Qwen2ForCausalLM", tie_word_embeddings=False)
    config, tensors = to_folder(free, parent, {})
    assert not config["tie_word_embeddings"]
    assert same(lmc.load_model(write(tmp_path / "free", config, tensors)), free)
    with torch.no_grad():
        free.lm_head.weight.copy_(free.model.embed_tokens.weight)
    config, tensors = to_folder(free, parent, {})
    assert config["tie_word_embeddings"]
    assert "lm_head.weight" not in tensors


def test_the_parents_configuration_stays_but_for_what_the_canonical_form_decides(tmp_path):
    make("LlamaForCausalLM").save_pretrained(tmp_path / "a")
    kept = {"attention_dropout": 0.3, "_name_or_path": "mine", "license": "mit", "initializer_range": 0.5}
    decided = {"rms_norm_eps": 0.5, "torch_dtype": "float64", "tie_word_embeddings": True}
    config, _ = to_folder(lmc.load_model(tmp_path / "a"), read(tmp_path / "a") | kept | decided, {})
    assert config == read(tmp_path / "a") | kept


def test_a_parent_of_another_class_is_refused(tmp_path):
    make("LlamaForCausalLM").save_pretrained(tmp_path / "a")
    with pytest.raises(ValueError, match=r"it holds a \['LlamaForCausalLM'\]"):
        to_folder(make("MistralForCausalLM"), read(tmp_path / "a"), {})


# timm and torchvision


TIMM = {
    "resnet18": {"layers": [1, 1, 1, 1], "channels": [4, 4, 8, 8], "stem_width": 4},
    "deit3_small_patch16_224": {"img_size": 32, "embed_dim": 16, "depth": 2, "num_heads": 2},
    "eva02_tiny_patch14_224": {"img_size": 28, "embed_dim": 32, "depth": 2, "num_heads": 2},
}


@pytest.mark.parametrize("name", TIMM)
@torch.no_grad()
def test_models_of_timm_come_back_with_their_tables_and_statistics(tmp_path, name):
    model = noisy(timm.create_model(name, num_classes=5, **TIMM[name]))
    for part in model.modules():
        if isinstance(part, nn.BatchNorm2d):
            part.running_mean.uniform_(), part.running_var.uniform_(0.5, 2), part.num_batches_tracked.fill_(7)
    timm.models.save_for_hf(model, tmp_path / "m", model_args=TIMM[name], safe_serialization=True)
    state = torch.get_rng_state()
    again = lmc.load_model(tmp_path / "m")
    assert torch.equal(torch.get_rng_state(), state)
    size = TIMM[name].get("img_size", 32)
    inputs = torch.randn(2, 3, size, size)
    assert type(again) is type(model)
    assert torch.equal(again(inputs), model(inputs))
    config, tensors = to_folder(again, read(tmp_path / "m"), {})
    assert config == read(tmp_path / "m")
    assert torch.equal(lmc.load_model(write(tmp_path / "n", config, tensors))(inputs), model(inputs))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"block": "Bottleneck"}, "builds no model: AttributeError"),
        ({"layers": [10**7, 1, 1, 1]}, r"layers is \[10000000, 1, 1, 1\], but a file of"),
        ({"norm_layer": "x"}, "model_args has 'norm_layer': no plain argument of ResNet"),
        ({"block_args": {"a": 1}}, "block_args must be a plain value or a list of them"),
        ({"features_only": True}, "model_args has 'features_only': no plain argument of ResNet"),
        ({"embed_dim": 4}, "model_args has 'embed_dim': no plain argument of ResNet"),
    ],
)
def test_arguments_that_are_not_of_the_class_are_refused(tmp_path, change, message):
    model = timm.create_model("resnet18", num_classes=5, **TIMM["resnet18"])
    shapes = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    config = {"architecture": "resnet18", "num_classes": 5, "model_args": TIMM["resnet18"] | change}
    with pytest.raises(ValueError, match=message):
        blueprint(config, shapes)


def test_a_class_beside_a_known_one_is_refused(tmp_path):
    arguments = {"img_size": 32, "embed_dim": 16, "depth": 1, "num_heads": 2}
    model = timm.create_model("deit_tiny_distilled_patch16_224", num_classes=5, **arguments)
    timm.models.save_for_hf(model, tmp_path / "m", model_args=arguments, safe_serialization=True)
    with pytest.raises(ValueError, match="builds a VisionTransformerDistilled, which is not known here"):
        lmc.load_model(tmp_path / "m")


def test_statistics_of_another_dtype_are_refused(tmp_path):
    model = timm.create_model("resnet18", num_classes=5, **TIMM["resnet18"])
    timm.models.save_for_hf(model, tmp_path / "m", model_args=TIMM["resnet18"], safe_serialization=True)
    tensors = load_file(tmp_path / "m" / "model.safetensors")
    tensors["bn1.num_batches_tracked"] = torch.tensor(math.pi)
    with pytest.raises(ValueError, match=r"1 \('bn1.num_batches_tracked'\) must hold whole numbers, but torch.float32"):
        lmc.load_model(write(tmp_path / "n", read(tmp_path / "m"), tensors))


def test_torchvision_has_no_folders():
    from torchvision.models import resnet18

    with pytest.raises(TypeError, match=r"no folder is written for a ResNet of torchvision.* save the state_dict"):
        to_folder(resnet18(), {}, {})
