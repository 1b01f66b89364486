"""Continued pretraining: a policy goes on reading ordinary text mixed with documents about the problem families.

Stands for what DeepSeek-V3's pretraining brought to R1-Zero: a base that does a worked line right more often
than it guesses. A base that cannot do so collapses under RL to well-formed guesses. Windows hold either text
or documents, packed without a mask between them, and a step has both in a fixed share. The loss on text that
is held out, before and after, tells whether the policy is still a language model.

`initialise` makes a smaller model of random weights for another policy's tokenizer, to be trained likewise.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pydantic import Field

from data.lineage import PLACE, Policy, Settings, seed_of
from data.text import divided, documents_in
from model import checkpoint, foreign, ranks
from model.language import LanguageModel
from model.optim import adamw, schedule
from model.tokenizer import Tokenizer
from tasks.crawl import CrawlConfig, crawl, pack
from tasks.lora import LORA, LoraConfig, learning
from tasks.resume import after, restore
from tasks.sft import Balance, Student, cross_entropy, window_batches
from tasks.stage import Metrics, Run, Summary, stage

PASS_TOKENS = {"cpu": 4_000, "cuda": 16_384}
"""Tokens of one pass through a model."""


class MidtrainConfig(Balance, CrawlConfig):
    """What a policy reads on top of what it knows, and how."""

    path: Path | None = Field(
        None,
        description="ordinary text of one's own, .txt, .jsonl or .parquet; left out: Python's manual and docstrings",
        json_schema_extra=PLACE,
    )
    digest: str = Field("", description="SHA-256 of that file, or Python's version; filled in when the recipe is read")
    column: str = Field("text", description="column of the text's rows")
    text_share: float = Field(0.25, ge=0, lt=1, description="of a step's windows: ordinary text, the others documents")
    documents: int = Field(60_000, ge=1, description="documents about the families; read again when they are used up")
    sequence_length: int = Field(512, ge=8)
    max_steps: int = Field(300, ge=1)
    batch_size: int = Field(64, ge=1, description="windows a step")
    learning_rate: float = Field(5e-4, gt=0)
    final_rate_fraction: float = Field(0.1, ge=0, le=1, description="last rate of the cosine over the first")
    warmup_steps: int = Field(20, ge=0)
    weight_decay: float = Field(0.1, ge=0)
    lora: LoraConfig | None = LORA


class InitialiseConfig(Settings):
    """A model to begin from nothing: fields of its config.json, `model_type` among them."""

    architecture: dict[str, Any] = Field(description="fields of config.json; the tokenizer's are filled in")
    seed: int = 0


def tokenised(texts: Sequence[str], tokenizer: Tokenizer, length: int) -> np.ndarray:
    """Texts as windows (N, length) of token ids, each text ended by the end token."""
    ids = [np.asarray([*each, tokenizer.eos_id], dtype=np.int32) for each in tokenizer.encode_batch(texts)]
    return pack(np.concatenate(ids), length)


def text_windows(config: MidtrainConfig, tokenizer: Tokenizer) -> tuple[np.ndarray, np.ndarray]:
    """The ordinary text to read and that which is held out, each as windows (N, sequence_length) of token ids.

    Raises ValueError for text that cannot be read, or that is too little.
    """
    parts = divided(documents_in(config.path, config.column))
    text, heldout = (tokenised(each, tokenizer, config.sequence_length) for each in parts)
    if not len(text) or not len(heldout):
        raise ValueError(f"the text has no whole window of {config.sequence_length} tokens: give more of it")
    return text, heldout


def chosen(windows: np.ndarray, first: int, count: int, seed: int, name: str) -> np.ndarray:
    """`count` windows from number `first` on of an endless deck that is shuffled anew for every round."""
    found: list[np.ndarray] = []
    for number in range(first, first + count):
        round_, place = divmod(number, len(windows))
        if not found or place == 0:
            order = np.random.default_rng(seed_of(seed, name, round_)).permutation(len(windows))
        found.append(windows[order[place]])
    return np.stack(found) if found else windows[:0]


def read(
    student: Student, documents: np.ndarray, text: np.ndarray, config: MidtrainConfig, taken: int = 0
) -> Iterator[tuple[int, Metrics]]:
    """Train on windows of documents and of text after `taken` steps; yields (step, metrics)."""
    of_text = round(config.batch_size * config.text_share)
    of_documents = config.batch_size - of_text
    last = config.learning_rate * config.final_rate_fraction
    for step in range(taken, config.max_steps):
        windows = np.concatenate([
            chosen(documents, step * of_documents, of_documents, config.seed, "documents"),
            chosen(text, step * of_text, of_text, config.seed, "text"),
        ])  # fmt: skip
        rate = schedule(step, config.max_steps, config.learning_rate, last, config.warmup_steps, "cosine")
        yield step + 1, student.step(window_batches(ranks.mine(windows), student.device, PASS_TOKENS), rate)


@torch.no_grad()
def text_loss(model: LanguageModel, windows: np.ndarray, device: str) -> float:
    """Mean cross-entropy a token over windows, in nats."""
    model.eval()
    total: float = 0.0
    for batch in window_batches(ranks.mine(windows), device, PASS_TOKENS):
        with torch.autocast("cuda", torch.bfloat16, enabled=device.startswith("cuda")):
            hidden = model.hidden(batch.tokens, batch.valid)
            total += cross_entropy(model, hidden[:, :-1], batch.tokens[:, 1:], batch.mask).item()
    return ranks.total({"loss": total})["loss"] / float(windows[:, 1:].size)


@stage(version=1, makes=Policy, heavy=True)
def midtrain(run: Run, policy: Policy, config: MidtrainConfig) -> Summary:
    """Let a policy go on reading ordinary text mixed with documents about the problem families."""
    speaker = learning(policy, run.device, config.lora, config.seed)
    model, tokenizer = speaker.model, speaker.tokenizer
    if config.sequence_length > model.context:
        raise ValueError(f"sequence_length = {config.sequence_length} is more than the context of {model.context}")
    text, heldout = text_windows(config, tokenizer)
    documents = crawl(tokenizer, config)
    if not len(documents):
        raise ValueError(f"the documents make no whole window of {config.sequence_length} tokens: ask for more")
    before = text_loss(model, heldout, run.device)
    optimizer = adamw(model, lr=config.learning_rate, weight_decay=config.weight_decay, betas=(0.9, 0.95))
    student = Student(speaker, optimizer, config, run.device)
    for step, metrics in read(student, documents, text, config, restore(run.state, model, optimizer)):
        ends = {"heldout_text_loss": text_loss(model, heldout, run.device)} if step == config.max_steps else {}
        run.log(step, config.max_steps, {**metrics, **ends})
        run.save(step, partial(after, step, model, optimizer))
    checkpoint.save(run.folder / "policy", model, tokenizer)
    return {
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "tokens": config.max_steps * config.batch_size * config.sequence_length,
        "text_tokens": int(text.size),
        "document_tokens": int(documents.size),
        "text_digest": hashlib.sha256(text.tobytes() + heldout.tobytes()).hexdigest(),
        "heldout_text_loss_before": before,
        **run.latest,
    }


@stage(version=1, makes=Policy)
def initialise(run: Run, like: Policy, config: InitialiseConfig) -> Summary:
    """Make a model of random weights for the tokenizer of another policy."""
    tokenizer = Tokenizer.load(like.checkpoint)
    model = beginner(tokenizer, config)
    checkpoint.save(run.folder / "policy", model, tokenizer)
    return {"parameters": sum(parameter.numel() for parameter in model.parameters())}


def beginner(tokenizer: Tokenizer, config: InitialiseConfig) -> LanguageModel:
    """A model of random weights, drawn by the configuration's seed, for a tokenizer.

    Raises ValueError for an architecture that there is none of.
    """
    torch.manual_seed(seed_of(config.seed, "weights"))
    return foreign.built({
        **config.architecture,
        "vocab_size": tokenizer.largest_id + 1,
        "bos_token_id": tokenizer.bos_id,
        "eos_token_id": tokenizer.eos_id,
        "pad_token_id": tokenizer.pad_id,
    })  # fmt: skip


def try_beginner(config: InitialiseConfig) -> int:
    """The longest context of what `initialise` would make; no weight is drawn. Raises ValueError as that does."""
    with torch.device("meta"):
        return foreign.built({**config.architecture, "vocab_size": 8}).context
