"""Learning from text: what is learned, by which rate, and that micro-batches and reruns change nothing."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from torch import Tensor

from data.lineage import Policy, read_json
from data.records import Row
from model import checkpoint
from model.moe import balance_loss
from model.tokenizer import Tokenizer
from model.transformer import Transformer
from tasks.batch import Batch, padded_batches
from tasks.rollout import Speaker
from tasks.sft import Balance, PretrainConfig, SFTConfig, Student, losses, pretrain, read, study
from tasks.stage import Session, session

Make = Callable[..., Speaker]
TEXTS = [
    ("12 + 30", " = 42."),
    ("start with 7, add 5. result?", " first 7 + 5 = 12. the answer is 12."),
    ("3 + 4", " = 7. wait, check 7 - 4 = 3."),
    ("1 + 1", " = 2."),
]
ROWS = [Row(f"row/{i}", "chain", "en", prompt, answer, "writers") for i, (prompt, answer) in enumerate(TEXTS)]


def sequences(tokenizer: Tokenizer, rows: Sequence[Row] = ROWS) -> tuple[list[list[int]], list[int]]:
    prompts = [tokenizer.encode(row.prompt) for row in rows]
    whole = [[*p, *tokenizer.encode(r.completion), tokenizer.eos_id] for p, r in zip(prompts, rows, strict=True)]
    return whole, [len(prompt) for prompt in prompts]


def batches(tokenizer: Tokenizer, max_tokens: int) -> list[Batch]:
    whole, prompts = sequences(tokenizer)
    return list(padded_batches(whole, prompts, pad_id=tokenizer.pad_id, device="cpu", max_tokens=max_tokens))


def one_by_one(model: Transformer, whole: list[list[int]], prompts: list[int], config: Balance) -> dict[str, Tensor]:
    """The step's losses, one row at a time and without padding."""
    tokens = sum(len(row) - start for row, start in zip(whole, prompts, strict=True))
    ce, further, balance = torch.zeros(()), torch.zeros(()), torch.zeros(())
    for row, start in zip(whole, prompts, strict=True):
        routing: list[Tensor] = []
        hidden, beyond = model.hidden_with_mtp(torch.tensor([row]), None, routing)
        for place in range(start, len(row)):
            ce = ce - model.logits(hidden[0, place - 1]).log_softmax(-1)[row[place]] / tokens
            if place >= 2:
                further = further - model.logits(beyond[0, place - 2]).log_softmax(-1)[row[place]] / tokens
        for scores in routing:
            balance = balance + balance_loss([scores], model.config.num_experts_per_tok, config.balance_alpha)
    loss = ce + config.mtp_lambda * further + balance / len(whole)
    return {"ce_loss": ce, "mtp_loss": further, "loss": loss}


@pytest.mark.parametrize("max_tokens", [1000, 40])
def test_losses_are_those_of_the_completions_however_they_are_batched(
    small: Make, tokenizer: Tokenizer, max_tokens: int
) -> None:
    model = small(num_nextn_predict_layers=1).model
    config = Balance(balance_alpha=0.5, mtp_lambda=0.3)
    whole, prompts = sequences(tokenizer)
    expected = one_by_one(model, whole, prompts, config)
    gradients = torch.autograd.grad(expected["loss"], list(model.parameters()))
    parts = batches(tokenizer, max_tokens)
    assert len(parts) == (1 if max_tokens == 1000 else 3)
    tokens = sum(len(row) - start for row, start in zip(whole, prompts, strict=True))
    found = [losses(model, part, tokens, len(whole), config) for part in parts]
    for name, value in expected.items():
        torch.testing.assert_close(torch.stack([part[name] for part in found]).sum(), value, rtol=1e-5, atol=1e-6)
    torch.stack([part["loss"] for part in found]).sum().backward()
    for parameter, gradient in zip(model.parameters(), gradients, strict=True):
        torch.testing.assert_close(parameter.grad, gradient, rtol=1e-4, atol=1e-6)


def test_prompts_and_padding_are_not_learned(small: Make, tokenizer: Tokenizer) -> None:
    [batch] = batches(tokenizer, 1000)
    whole, prompts = sequences(tokenizer)
    for row, index in enumerate(batch.index):
        learned = [int(batch.tokens[row, 1 + at]) for at in batch.mask[row].nonzero().flatten()]
        assert learned == whole[index][prompts[index] :]
        assert learned[-1] == tokenizer.eos_id


def student(speaker: Speaker, config: Balance) -> Student:
    return Student(speaker, torch.optim.SGD(speaker.model.parameters(), lr=0.1), config, "cpu")


def test_micro_batches_take_the_same_step(small: Make, tokenizer: Tokenizer) -> None:
    config, models = Balance(balance_alpha=0.5), []
    for max_tokens in (1000, 40):
        speaker = small(num_nextn_predict_layers=1)
        metrics = student(speaker, config).step(batches(tokenizer, max_tokens), 0.5)
        whole, prompts = sequences(tokenizer)
        assert metrics["num_tokens"] == sum(map(len, whole)) - sum(prompts)
        models.append((speaker.model, metrics))
    (ours, one), (theirs, several) = models
    for name in ("loss", "ce_loss", "mtp_loss", "grad_norm", "max_violation"):
        assert one[name] == pytest.approx(several[name], rel=1e-4)
    for name, tensor in ours.state_dict().items():
        torch.testing.assert_close(tensor, theirs.state_dict()[name], rtol=1e-4, atol=1e-6)


def test_a_step_counts_the_load_of_valid_tokens_and_moves_the_gates_bias(small: Make, tokenizer: Tokenizer) -> None:
    speaker = small()
    speaker.model.eval()
    learner = student(speaker, Balance(bias_update_speed=0.25))
    [experts] = speaker.model.model.moe_layers()
    parts = batches(tokenizer, 1000)
    speaker.model.train()
    with torch.no_grad():
        losses(speaker.model, parts[0], 1, len(ROWS), learner.config)
    load = experts.load.clone()
    assert int(load.sum()) == 2 * int(parts[0].valid.sum())  # two experts a token, padding not counted
    experts.load.zero_()
    speaker.model.eval()
    metrics = learner.step(parts, 0.0)
    assert speaker.model.training
    mean = load.double().mean()
    assert metrics["max_violation/layer_1"] == metrics["max_violation"]
    assert metrics["max_violation"] == pytest.approx(float((load.max() - mean) / mean))
    assert experts.gate.e_score_correction_bias.tolist() == [0.25 * math.copysign(1, mean - n) for n in load]
    assert experts.load.tolist() == [0] * 4


def test_the_rate_falls_from_the_first_to_the_last_step(small: Make) -> None:
    config = SFTConfig(num_train_epochs=3, batch_size=2, learning_rate=5e-5)
    steps = list(study(student(small(), config), ROWS, config))
    assert [(step, total) for step, total, _ in steps] == [(i, 6) for i in range(1, 7)]
    rates = [metrics["learning_rate"] for _, _, metrics in steps]
    assert rates[0] == pytest.approx(5e-5)
    assert rates[-1] == pytest.approx(5e-6)
    assert rates == sorted(rates, reverse=True)
    assert rates[1] == pytest.approx(5e-6 + 4.5e-5 * (1 + math.cos(math.pi / 5)) / 2)


def test_every_row_is_read_once_an_epoch(small: Make, tokenizer: Tokenizer) -> None:
    config = SFTConfig(num_train_epochs=2, batch_size=3)
    tokens = [metrics["num_tokens"] for _, _, metrics in study(student(small(), config), ROWS, config)]
    whole, prompts = sequences(tokenizer)
    assert tokens[0] + tokens[1] == tokens[2] + tokens[3] == sum(map(len, whole)) - sum(prompts)


def test_a_row_too_long_is_named(small: Make) -> None:
    config = SFTConfig(max_length=16)
    with pytest.raises(ValueError, match=r"row row/1 has \d+ tokens, more than max_length = 16"):
        list(study(student(small(), config), ROWS, config))


# Pretraining.

ARCHITECTURE: dict[str, Any] = {
    "hidden_size": 32, "intermediate_size": 64, "moe_intermediate_size": 16, "num_hidden_layers": 2,
    "num_nextn_predict_layers": 1, "num_attention_heads": 2, "n_routed_experts": 4, "num_experts_per_tok": 2,
    "n_group": 1, "topk_group": 1, "first_k_dense_replace": 1, "q_lora_rank": 0, "kv_lora_rank": 8,
    "qk_nope_head_dim": 8, "qk_rope_head_dim": 8, "v_head_dim": 8, "max_position_embeddings": 64,
    "initializer_range": 0.02,
}  # fmt: skip


def crawl_config(**changes: Any) -> PretrainConfig:
    few = {"architecture": ARCHITECTURE, "documents": 300, "epochs": 2, "sequence_length": 48, "batch_size": 16,
           "learning_rate": 1e-2, "warmup_steps": 2}  # fmt: skip
    return PretrainConfig(**{**few, **changes})


def test_a_short_pretraining_lowers_the_loss_and_repeats_to_the_bit(tmp_path: Path) -> None:
    made: list[Policy] = []
    for place in ("first", "second"):
        with session(Session(tmp_path / place, "plain")):
            made.append(pretrain("base", crawl_config()))
    records = [each.record() for each in made]
    assert records[0]["files"]["policy/model.safetensors"] == records[1]["files"]["policy/model.safetensors"]
    lines = (made[0].folder / "metrics.jsonl").read_text().splitlines()
    assert (made[1].folder / "metrics.jsonl").read_text().splitlines() == lines
    history = [entry["ce_loss"] for entry in map(json.loads, lines)]
    model, tokenizer = checkpoint.load(made[0].checkpoint)
    assert history[0] == pytest.approx(math.log(tokenizer.vocab_size), rel=0.02)
    assert history[-1] < 0.6 * history[0]
    assert records[0]["summary"]["parameters"] == sum(each.numel() for each in model.parameters())
    assert read_json(made[0].checkpoint / "config.json")["vocab_size"] == tokenizer.vocab_size


def test_an_epoch_reads_every_window_once_and_the_rate_falls_at_the_end(small: Make) -> None:
    config = crawl_config(epochs=2, batch_size=4, sequence_length=8, warmup_steps=2, decay_fraction=0.5)
    windows = np.random.default_rng(0).integers(5, 600, (22, 8))
    steps = list(read(student(small(), config), windows, config))
    assert [(step, total) for step, total, _ in steps] == [(i, 10) for i in range(1, 11)]
    assert {metrics["num_tokens"] for _, _, metrics in steps} == {4 * 7}
    rates = [metrics["learning_rate"] / config.learning_rate for _, _, metrics in steps]
    assert rates == pytest.approx([0.5, 1, 1, 1, 1, 0.8, 0.6, 0.4, 0.2, 0])
    limited = crawl_config(epochs=2, batch_size=4, sequence_length=8, max_steps=3)
    assert [total for _, total, _ in read(student(small(), limited), windows, limited)] == [3, 3, 3]


def test_too_few_documents_for_one_step_are_refused(small: Make) -> None:
    config = crawl_config(batch_size=16)
    with pytest.raises(ValueError, match="the crawl makes 3 windows of 48 tokens, fewer than batch_size = 16"):
        list(read(student(small(), config), np.zeros((3, 48), dtype=np.int64), config))


@pytest.mark.parametrize(
    ("architecture", "message"),
    [
        ({"hiden_size": 32}, "unknown fields hiden_size; allowed are first_k_dense_replace, hidden_size"),
        ({"vocab_size": 32}, "unknown fields vocab_size"),
        ({"hidden_size": 0}, "hidden_size must be at least 1, got 0"),
        ({"hidden_size": "wide"}, "not supported between instances of 'str' and 'int'"),
    ],
)
def test_an_architecture_that_cannot_be_built_is_refused(architecture: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        PretrainConfig(architecture=architecture)
