"""The decoder of a GPU, with steps that are called instead of captured: same tokens, few graphs, fresh weights."""

from __future__ import annotations

import gc
from collections.abc import Callable

import pytest
import torch
import transformers

from model import checkpoint, foreign_capture, foreign_decode
from model.foreign_capture import CapturingDecoder, Work, can_be_captured, in_type
from model.sampler import sample
from tests.model.families import make

PROMPTS = [[5, 6, 7], [9, 8, 7, 6, 5, 4, 3, 12, 13], [11], [20, 21, 22, 23]]
SEEDS = [[10, 11, 12], [20, 21], [30, 31, 32, 33], [40]]
SETTINGS = {"max_tokens": 24, "temperature": 0.8, "top_p": 1.0, "stop_ids": {2, 3, 4, 250, 251}}


def counted(seen: list[Work]) -> Callable[[Work], Work]:
    """Records by calling twice, as a GPU does, and replays by calling again."""

    def capture(work: Work) -> Work:
        seen.append(work)
        work()
        return work

    return capture


@pytest.fixture(params=["llama", "mistral", "gemma2"])
def model(request, tmp_path, tokenizer):
    return checkpoint.load(make(tmp_path / "model", request.param, tokenizer))[0]


def drawn(model, **changes):
    return [[one.ids for one in group] for group in sample(model, PROMPTS, SEEDS, **{**SETTINGS, **changes})]


@pytest.mark.parametrize("kind", [torch.float32, torch.float64])
def test_samples_are_those_of_the_plain_decoder(model, monkeypatch, kind):
    plain = [drawn(model), drawn(model, max_batch=3), drawn(model, max_tokens=8, temperature=0.0)]
    seen: list[Work] = []
    decoder = CapturingDecoder(model, kind, lambda: counted(seen), 8)
    monkeypatch.setattr(foreign_decode, "foreign_decoder", decoder.begin)
    assert drawn(model) == plain[0]
    after_one = len(seen)
    assert drawn(model) == plain[0]
    assert len(seen) == after_one  # replayed, not recorded again
    assert {rows for rows, _ in decoder.graphs} <= {1, 2, 3, 4, 6, 8, 12}
    assert len({width for _, width in decoder.graphs}) > 1
    assert drawn(model, max_batch=3) == plain[1]
    assert drawn(model, max_tokens=8, temperature=0.0) == plain[2]


def test_the_copy_takes_over_what_was_trained(model, monkeypatch):
    decoder = CapturingDecoder(model, torch.float64, lambda: lambda work: work, 8)
    monkeypatch.setattr(foreign_decode, "foreign_decoder", decoder.begin)
    before = drawn(model)
    with torch.no_grad():
        for weight in model.parameters():
            weight.mul_(1.1)
    after = drawn(model)
    assert after != before
    monkeypatch.undo()
    assert drawn(model) == after


def test_a_larger_cache_is_made_where_it_is_needed_and_given_up_where_it_is_too_large(model, monkeypatch):
    recorders = []

    def recorder():
        recorders.append(lambda work: work)
        return recorders[-1]

    decoder = CapturingDecoder(model, torch.float32, recorder, 8)
    monkeypatch.setattr(foreign_decode, "foreign_decoder", decoder.begin)
    drawn(model, max_tokens=4)
    small, first = decoder.cache, decoder.capture
    assert small is not None
    drawn(model, max_tokens=3)
    assert decoder.cache is small
    assert decoder.capture is first
    longer = drawn(model, max_tokens=70)
    assert decoder.cache is not small
    assert decoder.capture is recorders[-1] is not first  # memory of graphs that are gone takes no new ones
    monkeypatch.setattr(foreign_capture, "memory_of", lambda device: 10)
    assert drawn(model, max_tokens=70) == longer
    assert decoder.cache is None
    assert not decoder.graphs


def test_a_copy_shares_nothing_and_ties_what_was_tied(model):
    copied = in_type(model.inner, torch.bfloat16)
    theirs = {weight.data_ptr() for weight in model.inner.parameters()}
    assert all(weight.dtype == torch.bfloat16 and weight.data_ptr() not in theirs for weight in copied.parameters())
    tied = model.config.tie_word_embeddings
    assert (copied.get_output_embeddings().weight is copied.get_input_embeddings().weight) == tied
    assert len(list(copied.parameters())) == len(list(model.inner.parameters()))
    assert in_type(model.inner, torch.float32) is model.inner


@pytest.mark.parametrize(
    ("family", "changes", "expected"),
    [
        ("llama", {}, True),
        ("gemma2", {}, True),
        ("qwen3_moe", {}, False),
        ("mixtral", {}, False),
        ("llama", {"rope_parameters": {"rope_type": "linear", "factor": 2.0, "rope_theta": 1e4}}, True),
        ("llama", {"rope_parameters": {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 1e4}}, False),
    ],
)
def test_what_asks_the_cpu_is_not_captured(family, changes, expected):
    config = transformers.AutoConfig.for_model(family, **changes)
    assert can_be_captured(config) == expected


def test_a_decoder_goes_with_its_model(tmp_path, tokenizer):
    kept = foreign_capture._kept
    model = checkpoint.load(make(tmp_path / "model", "llama", tokenizer))[0]
    kept[model] = CapturingDecoder(model, torch.float64, lambda: lambda work: work, 8)
    assert model in kept
    before = len(kept)
    del model
    gc.collect()
    assert len(kept) == before - 1
