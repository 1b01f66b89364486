"""Mid-training: what a step reads, what the losses are, and that a policy learns the families and keeps its text."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import Field

from data.lineage import METRICS, PLACE, Policy, Settings
from data.text import divided, documents_in
from data.world.mixture import Mixture, Tongues, Work
from model import checkpoint
from model.foreign import ForeignModel
from model.tokenizer import Tokenizer
from tasks.adopt import adopt
from tasks.collect import digest_of
from tasks.midtrain import InitialiseConfig, MidtrainConfig, chosen, initialise, midtrain, text_loss, tokenised
from tasks.rollout import Speaker
from tasks.stage import Session

ENGLISH = Tongues(en=1, zh=0, mixed=0)
WORK = Work(bare=0.4, worked=0.4, checked=0.2)
MIXTURE = Mixture(
    general=0, families={"chain_sum_1": 1.0}, chinese=0, languages={"en": ENGLISH, "zh": ENGLISH},
    plain={"graded": WORK}, templated={"graded": WORK},
)  # fmt: skip
LLAMA = {
    "model_type": "llama", "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
    "num_attention_heads": 2, "num_key_value_heads": 2, "max_position_embeddings": 128, "tie_word_embeddings": True,
}  # fmt: skip


class Folder(Settings):
    path: Path = Field(json_schema_extra=PLACE)
    digest: str


@pytest.fixture
def text(tmp_path: Path) -> Path:
    """300 documents of a few words that belong together."""
    path = tmp_path / "own.jsonl"
    rows = [{"text": f"say the word {i % 5} and the number {i} more. " * 3} for i in range(300)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


@pytest.fixture
def config(text: Path) -> Callable[..., MidtrainConfig]:
    def make(**changes: Any) -> MidtrainConfig:
        settings = {"path": text, "mixture": MIXTURE, "documents": 150, "sequence_length": 48, "max_steps": 12,
                    "batch_size": 8, "learning_rate": 5e-3, "warmup_steps": 2}  # fmt: skip
        return MidtrainConfig(**{**settings, **changes})

    return make


@pytest.fixture
def start(plain: Session, small: Callable[..., Speaker], tmp_path: Path) -> Policy:
    speaker = small()
    checkpoint.save(tmp_path / "start", speaker.model, speaker.tokenizer)
    return adopt("start", Folder(path=tmp_path / "start", digest=digest_of(tmp_path / "start")))


def metrics(policy: Policy) -> list[dict[str, float]]:
    return [json.loads(line) for line in (policy.folder / METRICS).read_text().splitlines()]


def test_a_deck_gives_every_window_once_a_round_wherever_it_is_entered() -> None:
    windows = np.arange(7)[:, None].repeat(3, axis=1)
    long = chosen(windows, 0, 21, 4, "text")[:, 0]
    for begin in (0, 7, 14):
        assert sorted(long[begin : begin + 7]) == list(range(7))
    assert list(long[:7]) != list(long[7:14])
    parts = [chosen(windows, first, 3, 4, "text")[:, 0] for first in range(0, 21, 3)]
    assert np.concatenate(parts).tolist() == long.tolist()
    assert chosen(windows, 5, 0, 4, "text").shape == (0, 3)
    assert list(chosen(windows, 0, 21, 5, "text")[:, 0]) != long.tolist()


def test_it_learns_the_documents_and_tells_the_loss_on_text_before_and_after(
    start: Policy, config: Callable[..., MidtrainConfig], text: Path
) -> None:
    made = midtrain("base", start, config())
    summary, told = made.record()["summary"], metrics(made)
    assert [line["step"] for line in told] == list(range(1, 13))
    assert told[-1]["ce_loss"] < 0.8 * told[0]["ce_loss"]
    assert ["heldout_text_loss" in line for line in told] == [False] * 11 + [True]
    _, held = divided(documents_in(text))
    for policy, name in ((start, "heldout_text_loss_before"), (made, "heldout_text_loss")):
        model, tokenizer = checkpoint.load(policy.checkpoint)
        windows = tokenised(held, tokenizer, 48)
        with torch.no_grad():
            rows = torch.from_numpy(windows.astype(np.int64))
            logits = model.logits(model.hidden(rows[:, :-1]))
            anew = torch.nn.functional.cross_entropy(logits.flatten(0, 1), rows[:, 1:].flatten())
        assert summary[name] == pytest.approx(float(anew), rel=1e-5)
        assert text_loss(model, windows, "cpu") == pytest.approx(float(anew), rel=1e-5)
    assert summary["heldout_text_loss"] < summary["heldout_text_loss_before"]


def test_equal_settings_give_equal_bits_and_other_shares_others(
    start: Policy, plain: Session, config: Callable[..., MidtrainConfig], digest: Callable[..., str], tmp_path: Path
) -> None:
    def weights(policy: Policy) -> str:
        return digest(checkpoint.load(policy.checkpoint)[0])

    first = midtrain("base", start, config(max_steps=3))
    seen = weights(first)
    (first.folder / "record.json").unlink()
    assert weights(midtrain("base", start, config(max_steps=3))) == seen
    other = midtrain("base", start, config(max_steps=3, text_share=0.0))
    assert other.fingerprint != first.fingerprint
    assert weights(other) != seen


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sequence_length": 513}, "sequence_length = 513 is more than the context of 512"),
        ({"sequence_length": 512, "documents": 3}, "the documents make no whole window of 512 tokens: ask for more"),
    ],
)
def test_what_cannot_be_read_is_said(
    start: Policy, config: Callable[..., MidtrainConfig], changes: dict[str, int], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        midtrain("base", start, config(**changes))


def test_too_short_a_text_is_said(start: Policy, config: Callable[..., MidtrainConfig], tmp_path: Path) -> None:
    path = tmp_path / "short.jsonl"
    path.write_text("".join(json.dumps({"text": f"{i}"}) + "\n" for i in range(60)), encoding="utf-8")
    with pytest.raises(ValueError, match="the text has no whole window of 48 tokens"):
        midtrain("base", start, config(path=path))


def test_a_smaller_model_is_made_for_anothers_tokenizer(start: Policy, config: Callable[..., MidtrainConfig]) -> None:
    made = initialise("student", start, InitialiseConfig(architecture=LLAMA))
    model, tokenizer = checkpoint.load(made.checkpoint)
    assert isinstance(model, ForeignModel)
    theirs = Tokenizer.load(start.checkpoint)
    assert tokenizer.encode("first 3 + 4 = 7") == theirs.encode("first 3 + 4 = 7")
    values = json.loads((made.checkpoint / "config.json").read_text())
    assert (values["vocab_size"], values["eos_token_id"]) == (theirs.largest_id + 1, theirs.eos_id)
    assert made.record()["summary"]["parameters"] == sum(parameter.numel() for parameter in model.parameters())
    again = initialise("student", start, InitialiseConfig(architecture=LLAMA, seed=1))
    other, _ = checkpoint.load(again.checkpoint)
    assert not torch.equal(model.head, other.head)
    read = midtrain("student", made, config(max_steps=6))
    told = metrics(read)
    assert told[-1]["ce_loss"] < told[0]["ce_loss"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"hiden_size": 3}, "model_type 'llama' has no field 'hiden_size'"),
        ({"model_type": "vit"}, "model_type 'vit' is no causal language model that transformers knows"),
    ],
)
def test_an_architecture_that_cannot_be_is_named(start: Policy, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        initialise("student", start, InitialiseConfig(architecture={**LLAMA, **changes}))
