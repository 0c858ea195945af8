"""Where transformers says how to cut a model over devices, it says of each layer whether it reads or writes the stream.

Layers that are cut by columns read the stream and write hidden units, those that are cut by rows the reverse: somebody
else wrote down a part of our tables.
"""

from __future__ import annotations

import re

import pytest
import transformers

import lmc_utils as lmc

SHAPE = {"vocab_size": 31, "hidden_size": 12, "num_hidden_layers": 2, "num_attention_heads": 3,
         "num_key_value_heads": 1, "intermediate_size": 5, "max_position_embeddings": 16}  # fmt: skip
CLASSES = ["LlamaForCausalLM", "MistralForCausalLM", "Qwen2ForCausalLM", "Qwen3ForCausalLM", "Olmo2ForCausalLM",
           "MixtralForCausalLM", "GPTNeoXForCausalLM"]  # fmt: skip


def layers(name: str) -> list[tuple[str, str, str, str]]:
    """Of each parameter that the plan cuts: its name, how it is cut, and what its last two axes write and read."""
    cls = getattr(transformers, name)
    shape = {key: value for key, value in SHAPE.items() if key != "num_key_value_heads" or "NeoX" not in name}
    model = cls(cls.config_class(**shape))
    pieces, found = lmc.canonicalize(model).architecture.pieces, []
    for pattern, cut in cls.config_class.base_model_tp_plan.items():
        kind = set(cut.split("_"))
        if not {"colwise", "rowwise"} & kind or "embedding" in kind:  # of which the vocabulary is cut
            continue
        place = re.compile(r"\w+\." + re.escape(pattern).replace(r"\*", r"\d+") + r"(\.weight)?")
        for key, entry in pieces.items():
            if place.fullmatch(key) and not isinstance(entry, float):
                writes, reads = (" ".join(group) for group in entry[0].groups[-2:])
                found.append((key, cut, writes, reads))
    return found


def stream(side: str) -> bool:
    """Whether this side of a weight is the residual stream."""
    return side.split()[0].rstrip("*") == "r"


@pytest.mark.parametrize("name", CLASSES)
def test_layouts_agree_with_the_plan_for_many_devices(name):
    found = layers(name)
    assert len(found) == 2 * {"MixtralForCausalLM": 6, "GPTNeoXForCausalLM": 4}.get(name, 7)
    for key, cut, writes, reads in found:
        if "colwise" in cut:
            assert (stream(writes), stream(reads)) == (False, True), key
        else:
            assert (stream(writes), stream(reads)) == (True, False), key
