"""Presets: how end points are made, the paper's own among them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from torch import Tensor

from ..arguments import brief, choice, instance
from ..data import Data, vocabulary
from ..networks.base import BUILDERS


@dataclass(frozen=True)
class Preset:
    """How an end point is made.

    Parameters
    ----------
    architecture, config
        A name in ``BUILDERS``, and the arguments of what builds it, but for those that the data decide.
    recipe
        Arguments of :func:`lmc_utils.train`.
    data
        What ships, or a name on the hub.
    samples
        How many samples of the training split to use (None: all). Texts are cut as long as the network reads.
    augment
        How images change at each step: ``"flip"``, ``"crop"``, ``"crop and jitter"``, ``"crop and policy"``, or not.
    """

    architecture: str
    config: dict
    recipe: dict
    data: str
    samples: int | None = None
    augment: str | None = None


VIT = {"patch_size": 7, "embed_dim": 64, "depth": 2, "num_heads": 4, "class_token": False, "global_pool": "avg"}
DROPOUT = {"proj_drop_rate": 0.2, "pos_drop_rate": 0.2}
VIT_RECIPE = {"epochs": 8, "batch_size": 128, "lr": 3e-3, "weight_decay": 0.05, "betas": (0.9, 0.98), "warmup": 0.05,
              "clip": 1.0}  # fmt: skip
GPT2 = {"n_layer": 4, "n_embd": 128, "n_head": 4, "n_inner": 512, "n_positions": 128, "attn_pdrop": 0.0,
        "activation_function": "gelu_pytorch_tanh", "tie_word_embeddings": False, "bos_token_id": 0,
        "eos_token_id": 0}  # fmt: skip
GPT2_RECIPE = {"epochs": 4.5, "batch_size": 16, "lr": 5e-3, "weight_decay": 0.1, "warmup": 0.05, "clip": 1.0}

#: What ``python -m lmc_utils train`` makes, by name; those that begin with ``paper-`` are as the paper has them.
PRESETS: dict[str, Preset] = {
    "mlp": Preset("mlp", {"hidden": [256, 256, 256]}, {"epochs": 8, "batch_size": 128, "lr": 1e-3}, "fashion-mnist"),
    # dropout is what makes these connected: benchmarks/vit_study.py
    "vit": Preset("vit", VIT | DROPOUT, VIT_RECIPE, "fashion-mnist", augment="flip"),
    "vit-token": Preset(
        "vit",
        VIT | DROPOUT | {"class_token": True, "global_pool": "token"},
        VIT_RECIPE,
        "fashion-mnist",
        augment="flip",
    ),
    "vit-overfit": Preset("vit", VIT, VIT_RECIPE | {"epochs": 20}, "fashion-mnist"),
    # 411,000 tokens, as many as Tiny Shakespeare has, so the end points are overfit, as the paper's are
    "gpt2": Preset("gpt2", GPT2, GPT2_RECIPE, "shakespeare", samples=3212),
}
# Narrower ones: a quarter, a half and three quarters of the width, and a half with heads half as many and as wide as
# those of the full network
NARROW = {"gpt2-32": (32, 4), "gpt2-64": (64, 4), "gpt2-96": (96, 4), "gpt2-64-heads2": (64, 2)}
PRESETS |= {
    name: replace(PRESETS["gpt2"], config=GPT2 | {"n_embd": width, "n_inner": 4 * width, "n_head": heads})
    for name, (width, heads) in NARROW.items()
}
# More dropout, and longer for it: a tenth of a nat worse on new text, and much easier to connect (book, chapter 9)
PRESETS["gpt2-dropout"] = replace(
    PRESETS["gpt2"], config=GPT2 | {"resid_pdrop": 0.4, "embd_pdrop": 0.4}, recipe=GPT2_RECIPE | {"epochs": 7}
)

# Modern blocks at the size of the GPT-2, on the same text, and Git Re-Basin's ResNet-20 on the same images (chapter 12)
LLAMA = {"hidden_size": 128, "num_hidden_layers": 4, "num_attention_heads": 4, "num_key_value_heads": 2,
         "intermediate_size": 344, "max_position_embeddings": 128, "bos_token_id": 0, "eos_token_id": 0}  # fmt: skip
NEOX = {"hidden_size": 128, "num_hidden_layers": 4, "num_attention_heads": 4, "intermediate_size": 512,
        "max_position_embeddings": 128, "bos_token_id": 0, "eos_token_id": 0}  # fmt: skip
PRESETS |= {
    "llama": replace(PRESETS["gpt2"], architecture="llama", config=LLAMA),
    "neox": replace(PRESETS["gpt2"], architecture="neox", config=NEOX),
    "resnet20": Preset(
        "resnet20",
        {},
        {"epochs": 12, "batch_size": 128, "lr": 5e-3, "weight_decay": 0.05, "warmup": 0.05, "clip": 1.0},
        "fashion-mnist",
        augment="flip",
    ),
}

# Two numbers of two digits (front page): so small that a page runs it. 1,500 steps are too few for some seeds
PRESETS["adder"] = Preset(
    "gpt2",
    GPT2 | {"n_layer": 2, "n_embd": 32, "n_inner": 128, "n_positions": 8},
    {"epochs": 125, "batch_size": 256, "lr": 2e-3, "weight_decay": 0.05, "warmup": 0.025, "clip": 1.0},
    "sums",
)

# The paper's own (arXiv 2506.22712, Table 3 and appendix B), for those who have GPUs and a network. Where it says
# "warm-up" without a number, 5 % of the steps are taken, which it gives for BookCorpus.
PAPER_VIT = {"global_pool": "token", "num_heads": 8}
CIFAR = {"epochs": 150, "batch_size": 128, "lr": 3e-4, "weight_decay": 1e-3}
PAPER_GPT2 = GPT2 | {"n_layer": 6, "activation_function": "gelu_new", "attn_pdrop": 0.1, "tie_word_embeddings": True}
PRESETS |= {
    f"paper-{name}": Preset(
        "vit",
        PAPER_VIT | {"patch_size": 4, "embed_dim": 256, "depth": 6, "mlp_ratio": 2.0},
        CIFAR,
        f"uoft-cs/{name}",
        augment="crop and jitter",
    )
    for name in ("cifar10", "cifar100")
}
PRESETS |= {
    "paper-tiny-imagenet": Preset(
        "vit",
        PAPER_VIT | {"patch_size": 8, "embed_dim": 384, "depth": 8, "mlp_ratio": 2.0},
        CIFAR | {"weight_decay": 0.05, "warmup": 0.05},
        "zh-plus/tiny-imagenet",
        augment="crop and policy",
    ),
    "paper-tiny-shakespeare": Preset(
        "gpt2",
        PAPER_GPT2 | {"n_embd": 256, "n_head": 4, "n_inner": 1024, "n_positions": 256},
        {"epochs": 100, "batch_size": 32, "lr": 3e-4, "weight_decay": 0.01, "warmup": 0.05, "patience": 5},
        "Trelis/tiny-shakespeare",
    ),
    "paper-bookcorpus": Preset(
        "gpt2",
        PAPER_GPT2 | {"n_embd": 512, "n_head": 8, "n_inner": 2048, "n_positions": 512},
        {"epochs": 5, "batch_size": 64, "lr": 2.5e-4, "weight_decay": 0.01, "warmup": 0.05},
        "bookcorpus/bookcorpus",
    ),
}


def shaped(architecture: str, config: dict, data: Data) -> dict:
    """The configuration of a network for these data: with its input size and its number of classes.

    Raises
    ------
    ValueError
        If there is no such architecture, an mlp has no hidden layers, or the network reads text and the data hold
        images, or the other way round.
    """
    choice("architecture", architecture, tuple(BUILDERS))
    instance("config", config, dict)
    instance("data", data, Data, "lmc.load_data loads them")
    builder = BUILDERS[architecture]
    if builder.text:
        if data.tokenizer is None:
            raise ValueError(f"{architecture!r} reads text, but {data.name!r} holds images")
        return builder.text(config, vocabulary(data.tokenizer))
    if data.tokenizer is not None:
        raise ValueError(f"{architecture!r} reads images, but {data.name!r} holds text")
    if data.train.inputs.ndim != 4:
        raise ValueError(f"images are needed, of shape (N, C, H, W), but the inputs are {brief(data.train.inputs)}")
    return builder.images(config, tuple(data.train.inputs.shape[1:]), len(data.classes))


def augmentation(name: str, data: Data) -> Callable[[Tensor], Tensor]:
    """A random change of one standardised image of these data.

    Raises
    ------
    ValueError
        If there is no such change, or the data are no images.
    """
    choice("augment", name, ("flip", "crop", "crop and jitter", "crop and policy"))
    instance("data", data, Data, "lmc.load_data loads them")
    if data.scale is None:
        raise ValueError(f"augment={name!r} changes images, but {data.name!r} holds none")
    from torchvision.transforms import v2

    size = data.train.inputs.shape[-1]
    mean, std = data.scale
    known = {
        "flip": [v2.RandomHorizontalFlip()],
        "crop": [v2.RandomCrop(size, padding=2), v2.RandomHorizontalFlip()],
        "crop and jitter": [
            v2.RandomCrop(size, padding=4), v2.RandomHorizontalFlip(), v2.ColorJitter(0.4, 0.4, 0.4, 0.1)
        ],
        "crop and policy": [
            v2.RandomResizedCrop(size, scale=(0.8, 1.0), ratio=(0.9, 1.1)), v2.RandomHorizontalFlip(), v2.AutoAugment()
        ],
    }  # fmt: skip
    return v2.Compose([lambda x: (x * std + mean).clamp(0, 1), *known[name], lambda x: (x - mean) / std])
