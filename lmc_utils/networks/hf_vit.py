"""Vision Transformers of transformers (``ViTForImageClassification``, pre-norm); timm's are in ``vit.py``."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor

from ..spec import Site
from ..symmetry import StreamOrthogonal
from .base import Network, register
from .fold import bias_of, centre, fold_norm, fold_values
from .gpt2 import ACTIVATIONS
from .layout import Layout, Weights, stacked
from .pretrained import Pretrained, block_sites, demand

if TYPE_CHECKING:
    from transformers import ViTForImageClassification

BLOCK: Layout = {
    "layernorm_before.weight": 1,
    "layernorm_before.bias": 0,
    "attention.q_proj.weight": "(heads* qk) r*",
    "attention.q_proj.bias": "(heads* qk)",
    "attention.k_proj.weight": "(heads* qk*) r*",
    "attention.k_proj.bias": 0,
    "attention.v_proj.weight": "(heads ov) r*",
    "attention.v_proj.bias": 0,
    "attention.o_proj.weight": "r (heads* ov*)",
    "attention.o_proj.bias": "r",
    "layernorm_after.weight": 1,
    "layernorm_after.bias": 0,
    "mlp.fc1.weight": "ff r*",
    "mlp.fc1.bias": "ff",
    "mlp.fc2.weight": "r ff*",
    "mlp.fc2.bias": "r",
}
STEM: Layout = {
    "vit.embeddings.cls_token": 0,
    "vit.embeddings.patch_embeddings.projection.weight": "r _ _ _",
    "vit.embeddings.patch_embeddings.projection.bias": 0,
    "vit.embeddings.position_embeddings": "1 _ r -> _ r",
}
HEAD: Layout = {"vit.layernorm.weight": 1, "vit.layernorm.bias": 0, "classifier.weight": "_ r*", "classifier.bias": "_"}


class ViTClassifier(Pretrained):
    """Equal if the configurations that decide the function are."""

    decides = ("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size", "hidden_act",
               "layer_norm_eps", "image_size", "patch_size", "num_channels", "num_labels")  # fmt: skip
    canonical: ClassVar = {"qkv_bias": True}
    widths: ClassVar = {"intermediate_size": "ff"}
    call: ClassVar = {}

    @classmethod
    def table(cls, config: Mapping[str, Any]) -> tuple[Layout, dict[str, Site], dict[str, Sequence[str]]]:
        layers = config["num_hidden_layers"]
        blocks, sites = stacked("vit.layers.{}.", layers, BLOCK, block_sites(config))
        sites = {"r": Site(StreamOrthogonal, config["hidden_size"])} | sites
        return {**STEM, **blocks, **HEAD}, sites, {"r": [f"vit.layers.{i}" for i in range(layers)]}

    @property
    def image(self) -> tuple[int, int, int]:
        """Channels, height and width of the images that it reads."""
        size = self.config["image_size"]
        return self.config["num_channels"], *((size, size) if isinstance(size, int) else size)

    def probe(self) -> Tensor:
        """Two images of noise."""
        return torch.randn(2, *self.image, generator=torch.Generator().manual_seed(0))


@register("transformers.models.vit.modeling_vit.ViTForImageClassification")
def canonicalize(model: ViTForImageClassification) -> Network:
    """Fold norms and biases, the class token and the patch bias into the position table; exact in float64."""
    demand(model.config, hidden_act=ACTIVATIONS, head_dim=[None])
    for name in ("num_hidden_layers", "num_labels"):
        if getattr(model.config, name) < 1:
            raise ValueError(f"{name} 0: a Vision Transformer without blocks or classes has nothing to match")
    architecture, w = ViTClassifier.fits(model)
    return architecture.network(w, _fold(w, model.config.num_hidden_layers))


def _fold(w: Weights, layers: int) -> Iterator[str]:
    patch, table = "vit.embeddings.patch_embeddings.projection", "vit.embeddings.position_embeddings"
    first, rest = w[table].split([1, w[table].shape[1] - 1], 1)
    w[table] = torch.cat([first + w["vit.embeddings.cls_token"], rest + w[f"{patch}.bias"]], 1)
    centre(w, [table], 2)
    centre(w, [f"{patch}.weight"], 0)
    for i in range(layers):
        at = f"vit.layers.{i}."
        q, k, v, o = (f"{at}attention.{name}_proj" for name in "qkvo")
        fc, proj = f"{at}mlp.fc1", f"{at}mlp.fc2"
        fold_norm(w, f"{at}layernorm_before", [q, k, v])
        fold_norm(w, f"{at}layernorm_after", [fc])
        fold_values(w, o, bias_of(w, v))
        centre(w, [f"{layer}.{part}" for layer in (o, proj) for part in ("weight", "bias")], 0)
        yield at
    fold_norm(w, "vit.layernorm", ["classifier"])
