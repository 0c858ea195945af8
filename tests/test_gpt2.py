"""GPT-2's other classes: a classifier, and the model without a head, whose answer is the stream itself."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from transformers import GPT2Config, GPT2ForSequenceClassification, GPT2LMHeadModel, GPT2Model, PreTrainedModel

import lmc_utils as lmc

SIZE = {"vocab_size": 23, "n_positions": 9, "n_embd": 12, "n_layer": 2, "n_head": 3, "pad_token_id": 5}
KINDS = [GPT2ForSequenceClassification, GPT2Model]
SHAPES = [{}, {"n_layer": 1, "n_head": 1}, {"n_head": 12, "n_inner": 7}, {"activation_function": "relu"},
          {"scale_attn_by_inverse_layer_idx": True}]  # fmt: skip


def make(kind: type[PreTrainedModel], seed: int = 0, **options) -> PreTrainedModel:
    torch.manual_seed(seed)
    options = {"num_labels": 4} | options if kind is GPT2ForSequenceClassification else options
    model = kind(GPT2Config(**SIZE | {"bos_token_id": 0, "eos_token_id": 0} | options)).double().eval()
    with torch.no_grad():
        for p in model.parameters():
            p += 0.2 * torch.randn_like(p)
    return model


@pytest.fixture
def text() -> Tensor:
    """Windows of random tokens; the second ends in padding."""
    text = torch.randint(6, 23, (4, 9), generator=torch.Generator().manual_seed(1))
    text[1, 5:] = SIZE["pad_token_id"]
    return text


def answer(model: PreTrainedModel, text: Tensor) -> Tensor:
    with torch.no_grad():
        return model(text, use_cache=False)[0]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("kind", KINDS)
def test_canonical_form_is_exact_there_and_back(tmp_path, text, kind, shape):
    model = make(kind, **shape)
    network = lmc.canonicalize(model)
    expected = answer(model, text)
    with torch.no_grad():
        assert (network(text) - expected).abs().max() < 1e-10
    back = network.to_model()
    assert type(back) is kind
    assert (answer(back, text) - expected).abs().max() < 1e-10
    back.save_pretrained(tmp_path)
    for again in (kind.from_pretrained(tmp_path), lmc.load_model(tmp_path)):
        assert (answer(again, text) - expected).abs().max() < 1e-10


@pytest.mark.parametrize("kind", KINDS)
def test_every_symmetry_leaves_the_answer_alone(text, kind):
    network = lmc.canonicalize(make(kind))
    lmc.assert_invariant(network, network.spec.sample(seed=0), text)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("kind", KINDS)
def test_a_planted_symmetry_is_found(kind, shape):
    network = lmc.canonicalize(make(kind, **shape))
    moved = network.spec.sample(seed=3)(network)
    found = lmc.weight_matching(network, moved)(moved)
    for name, p in network.params.items():
        assert (found.params[name] - p).abs().max() < 1e-6, name


def test_a_model_without_a_head_answers_with_its_stream_so_the_stream_is_fixed():
    classes = {kind: lmc.canonicalize(make(kind)).spec.sites["r"].symmetry for kind in (GPT2LMHeadModel, GPT2Model)}
    assert classes == {GPT2LMHeadModel: lmc.StreamOrthogonal, GPT2Model: lmc.Fixed}


def test_classes_and_labels_that_differ_cannot_be_merged():
    a = lmc.canonicalize(make(GPT2ForSequenceClassification))
    for b in (make(GPT2ForSequenceClassification, num_labels=5), make(GPT2Model), make(GPT2LMHeadModel)):
        with pytest.raises(ValueError, match=r"architecture|differ"):
            lmc.weight_matching(a, lmc.canonicalize(b))


def test_a_classifier_without_padding_is_refused_with_what_to_do():
    with pytest.raises(ValueError, match=r"pad_token_id None: .* set it in the config"):
        lmc.canonicalize(make(GPT2ForSequenceClassification, pad_token_id=None))
