"""Query heads that stand side by side attend as those that each have keys and values of their own."""

from __future__ import annotations

import math

import pytest
import torch
import transformers
from torch import nn
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from model.foreign_attention import PACKED, pack_heads, packed
from tests.model.families import FAMILIES, SMALL


@pytest.mark.parametrize(("heads", "shared", "queries"), [(6, 2, 1), (4, 1, 1), (4, 4, 1), (6, 2, 5)])
def test_it_is_the_same_attention(heads, shared, queries):
    torch.manual_seed(0)
    module = nn.Module()
    module.num_key_value_groups = heads // shared
    query = torch.randn(3, heads, queries, 8)
    key, value = torch.randn(2, 3, shared, 7, 8)
    mask = torch.zeros(3, 1, queries, 7)
    mask[1, :, :, 4:] = mask[2, :, :, :2] = -math.inf
    ours, _ = packed(module, query, key, value, mask, scaling=0.3, dropout=0.0)
    scores = query @ key.repeat_interleave(heads // shared, 1).transpose(2, 3) * 0.3 + mask
    wanted = (scores.softmax(-1) @ value.repeat_interleave(heads // shared, 1)).transpose(1, 2)
    torch.testing.assert_close(ours, wanted)
    theirs, _ = sdpa_attention_forward(module, query, key, value, mask, scaling=0.3)
    torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("family", ["llama", "qwen3", "mistral"])
def test_a_model_says_the_same_with_it(family):
    torch.manual_seed(0)
    config = transformers.AutoConfig.for_model(family, **{**SMALL, **FAMILIES[family]})
    model = transformers.AutoModelForCausalLM.from_config(config, attn_implementation="sdpa").eval()
    tokens = torch.arange(5, 14)[None]
    before = model(input_ids=tokens).logits
    pack_heads(model)
    assert model.config._attn_implementation == PACKED
    torch.testing.assert_close(model(input_ids=tokens).logits, before)
    assert PACKED not in model.config.to_json_string()


def test_attention_of_another_kind_stays_as_it_is():
    config = transformers.AutoConfig.for_model("llama", **SMALL)
    model = transformers.AutoModelForCausalLM.from_config(config, attn_implementation="eager")
    pack_heads(model)
    assert model.config._attn_implementation == "eager"
