"""Learning from text: `pretrain` makes a base, `finetune` teaches a policy the rows of a table.

Pretraining follows DeepSeek-V3 (section 4.2): AdamW 0.9/0.95, weight decay 0.1, gradient norm 1, documents
packed without a mask between them, a constant rate that decays at the end, the gate's bias moved by the
sign of each expert's load, the sequence-wise balance loss, and multi-token prediction weighed by lambda.
Fine-tuning follows DeepSeek-R1: cosine from the initial rate to a tenth of it, 2 to 3 epochs. Where it is
silent: rows are padded and not packed, only the completion is learned, and the balancing goes on.
"""

from __future__ import annotations

import hashlib
import math
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from functools import partial
from typing import Any

import numpy as np
import torch
from pydantic import Field, field_validator
from torch import Tensor

from data.lineage import PLACE, Policy, Settings, Table, seed_of
from data.prompts import ASSISTANT, BEGIN, CHAT_TEMPLATE, END, PAD, PARAGRAPH, TAGS, USER
from data.records import Row
from data.world.words import pieces
from model import checkpoint, ranks
from model.config import ModelConfig
from model.language import LanguageModel
from model.loss import token_logprobs
from model.moe import balance_loss
from model.optim import adamw, schedule
from model.tokenizer import Tokenizer
from model.transformer import Transformer
from tasks.batch import Batch, padded_batches, pass_tokens
from tasks.collect import rows_of
from tasks.crawl import CrawlConfig, crawl
from tasks.lora import LORA, LoraConfig, learning
from tasks.resume import after, restore
from tasks.rollout import Speaker
from tasks.stage import Metrics, Run, Summary, stage

WINDOW_TOKENS = {"cpu": 8_000, "cuda": 10**9}
"""Tokens of one pass when reading windows, which have no padding; a GPU reads a step's at once."""

OF_TOKENIZER = {"vocab_size", "bos_token_id", "eos_token_id", "pad_token_id"}
"""Fields of a model's configuration that its tokenizer gives."""


class Balance(Settings):
    """How the experts are kept busy, and what the MTP head adds to the loss."""

    bias_update_speed: float = Field(0.001, ge=0, description="gamma: step of the gate's bias; 0 freezes it")
    balance_alpha: float = Field(0.0001, ge=0, description="weight of the sequence-wise balance loss")
    mtp_lambda: float = Field(0.3, ge=0, description="weight of the multi-token prediction loss")


class PretrainConfig(Balance, CrawlConfig):
    """A base model of DeepSeek-V3's architecture and the crawl that it reads."""

    architecture: dict[str, Any] = Field(default={}, description="fields of config.json that differ from the default")
    epochs: int = Field(2, ge=1)
    max_steps: int = Field(0, ge=0, description="stop after so many steps; 0 reads all")
    batch_size: int = Field(256, ge=1, description="windows a step")
    learning_rate: float = Field(3e-3, gt=0)
    warmup_steps: int = Field(50, ge=0)
    decay_fraction: float = Field(0.3, gt=0, le=1, description="last part of the steps, over which the rate falls")
    weight_decay: float = 0.1

    @field_validator("architecture")
    @classmethod
    def _can_be_built(cls, architecture: dict[str, Any]) -> dict[str, Any]:
        allowed = {each.name for each in fields(ModelConfig)} - OF_TOKENIZER
        if unknown := architecture.keys() - allowed:
            raise ValueError(f"unknown fields {', '.join(sorted(unknown))}; allowed are {', '.join(sorted(allowed))}")
        try:
            ModelConfig(**architecture)
        except TypeError as error:  # text where a number is due
            raise ValueError(str(error)) from None
        return architecture


class SFTConfig(Balance):
    """Supervised fine-tuning on rows of prompt and completion."""

    num_train_epochs: int = Field(2, ge=1)
    batch_size: int = Field(64, ge=1, description="rows a step")
    learning_rate: float = Field(5e-4, gt=0)
    final_rate_fraction: float = Field(0.1, ge=0, le=1, description="last rate of the cosine over the first")
    warmup_steps: int = Field(0, ge=0)
    weight_decay: float = Field(0.1, ge=0)
    max_length: int = Field(512, ge=8, description="tokens; a longer row is refused")
    mtp_lambda: float = Field(0.1, ge=0)
    lora: LoraConfig | None = LORA
    gradient_checkpointing: bool = Field(
        False, description="compute activations again instead of keeping them", json_schema_extra=PLACE
    )
    seed: int = 0


def build_tokenizer() -> Tokenizer:
    """Make the miniature's tokenizer: the world's words, single digits, and bytes for all else."""
    return Tokenizer.build(
        pieces(),
        special=[BEGIN, END, PAD, USER, ASSISTANT],
        added=[*TAGS, PARAGRAPH],
        bos=BEGIN,
        eos=END,
        pad=PAD,
        chat_template=CHAT_TEMPLATE,
    )


def losses(model: LanguageModel, batch: Batch, tokens: float, rows: float, config: Balance) -> dict[str, Tensor]:
    """Return a batch's share of a step's losses, their weighted sum under `loss`.

    Cross-entropies are summed over the learned tokens and divided by `tokens`, those of the whole step; the
    MTP head's target is one token further (DeepSeek-V3 eq. 24). The balance loss is the mean over the
    step's `rows`, however they are split into batches.
    """
    routing: list[Tensor] = []
    with_mtp = config.mtp_lambda > 0 and model.has_multi_token
    if with_mtp:
        hidden, further = model.hidden_with_mtp(batch.tokens, batch.valid, routing)
    else:
        hidden = model.hidden(batch.tokens, batch.valid, routing)
    main = cross_entropy(model, hidden[:, :-1], batch.tokens[:, 1:], batch.mask) / tokens
    parts = {"ce_loss": main, "loss": main}
    if with_mtp:
        parts["mtp_loss"] = cross_entropy(model, further[:, :-1], batch.tokens[:, 2:], batch.mask[:, 1:]) / tokens
        parts["loss"] = parts["loss"] + config.mtp_lambda * parts["mtp_loss"]
    if routing and config.balance_alpha:
        alpha = config.balance_alpha * len(batch.tokens) / rows
        for scores in routing:  # the MTP layer sees no first token
            valid = batch.valid[:, -scores.shape[1] :]
            parts["loss"] = parts["loss"] + balance_loss([scores], model.config.num_experts_per_tok, alpha, valid)
    return parts


def cross_entropy(model: LanguageModel, hidden: Tensor, targets: Tensor, mask: Tensor) -> Tensor:
    """Sum of the cross-entropy over the places where the mask is not 0."""
    chosen = mask.bool()
    return -token_logprobs(hidden[chosen], model.head, targets[chosen])[0].sum()


@dataclass(slots=True)
class Student:
    """A policy that learns from text, with its optimiser."""

    speaker: Speaker
    optimizer: torch.optim.Optimizer
    config: Balance
    device: str

    def step(self, batches: Sequence[Batch], rate: float) -> dict[str, float]:
        """Take one optimiser step on this rank's micro-batches; returns the losses, MaxVio and the gradient norm."""
        model = self.speaker.model
        model.train()
        counts = {"tokens": sum(float(batch.mask.sum()) for batch in batches),
                  "rows": sum(len(batch.tokens) for batch in batches)}  # fmt: skip
        tokens, rows = ranks.total(counts).values()
        totals: dict[str, Tensor] = {}
        for batch in batches:
            with torch.autocast("cuda", torch.bfloat16, enabled=self.device.startswith("cuda")):
                parts = losses(model, batch, tokens, rows, self.config)
            parts["loss"].backward()
            for name, value in parts.items():
                totals[name] = totals.get(name, torch.zeros_like(value)) + value.detach()
        ranks.sum_gradients(model.parameters())
        norm = torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        model.gather_load()
        violation = model.max_violation()
        per_layer = model.update_bias(self.config.bias_update_speed)
        figures = ranks.total({name: value.item() for name, value in totals.items()})
        figures |= {f"max_violation/layer_{number}": each for number, each in per_layer.items()}
        return {**figures, "grad_norm": float(norm), "max_violation": violation, "learning_rate": rate,
                "num_tokens": tokens}  # fmt: skip


def beginner(config: PretrainConfig, device: str) -> Student:
    """A policy of random weights, drawn by the configuration's seed, that has read nothing yet."""
    torch.manual_seed(seed_of(config.seed, "weights"))
    tokenizer = build_tokenizer()
    shape = {"vocab_size": tokenizer.vocab_size, "bos_token_id": tokenizer.bos_id, "eos_token_id": tokenizer.eos_id,
             "pad_token_id": tokenizer.pad_id, **config.architecture}  # fmt: skip
    model = Transformer(ModelConfig(**shape)).to(device)
    optimizer = adamw(model, lr=config.learning_rate, weight_decay=config.weight_decay, betas=(0.9, 0.95))
    return Student(Speaker(model, tokenizer), optimizer, config, device)


def read(
    student: Student, windows: np.ndarray, config: PretrainConfig, taken: int = 0
) -> Iterator[tuple[int, int, Metrics]]:
    """Pretrain on windows (N, T) of token ids after `taken` steps; yields (step, of, metrics).

    An epoch's last windows, too few for a step, are left out. Raises ValueError when there is no whole step.
    """
    per_epoch = len(windows) // config.batch_size
    if not per_epoch:
        raise ValueError(
            f"the crawl makes {len(windows)} windows of {config.sequence_length} tokens, fewer than "
            f"batch_size = {config.batch_size}: ask for more documents"
        )
    total = per_epoch * config.epochs
    total = min(total, config.max_steps) if config.max_steps else total
    for step in range(taken, total):
        epoch, place = divmod(step, per_epoch)
        if place == 0 or step == taken:
            order = np.random.default_rng(seed_of(config.seed, "epoch", epoch)).permutation(len(windows))
        chosen = windows[order[place * config.batch_size : (place + 1) * config.batch_size]]
        rate = schedule(
            step, per_epoch * config.epochs, config.learning_rate, 0.0, config.warmup_steps, "linear",
            decay=config.decay_fraction,
        )  # fmt: skip
        yield step + 1, total, student.step(window_batches(ranks.mine(chosen), student.device, WINDOW_TOKENS), rate)


def window_batches(windows: np.ndarray, device: str, most: Mapping[str, int]) -> list[Batch]:
    """Windows (N, T) as batches of at most so many tokens by kind of device, or of one window."""
    rows = max(1, most[device.partition(":")[0]] // windows.shape[1])
    batches = []
    for begin in range(0, len(windows), rows):
        tokens = torch.from_numpy(windows[begin : begin + rows].astype(np.int64)).to(device)
        valid = torch.ones_like(tokens, dtype=torch.bool)
        batches.append(Batch(tokens, valid[:, 1:].float(), valid, []))
    return batches


def study(
    student: Student, rows: Sequence[Row], config: SFTConfig, taken: int = 0
) -> Iterator[tuple[int, int, Metrics]]:
    """Fine-tune on rows after `taken` steps; yields (step, of, metrics).

    Raises ValueError for a row longer than `max_length`.
    """
    tokenizer = student.speaker.tokenizer
    prompts = tokenizer.encode_batch([row.prompt for row in rows])
    answers = tokenizer.encode_batch([row.completion for row in rows])
    sequences = [[*prompt, *answer, tokenizer.eos_id] for prompt, answer in zip(prompts, answers, strict=True)]
    for row, sequence in zip(rows, sequences, strict=True):
        if len(sequence) > config.max_length:
            raise ValueError(f"row {row.id} has {len(sequence)} tokens, more than max_length = {config.max_length}")
    per_epoch = math.ceil(len(rows) / config.batch_size)
    total = per_epoch * config.num_train_epochs
    last = config.learning_rate * config.final_rate_fraction
    for step in range(taken, total):
        epoch, place = divmod(step, per_epoch)
        if place == 0 or step == taken:
            order = list(range(len(rows)))
            random.Random(seed_of(config.seed, "epoch", epoch)).shuffle(order)
        chosen = ranks.mine(order[place * config.batch_size : (place + 1) * config.batch_size])
        batches = list(
            padded_batches(
                [sequences[i] for i in chosen],
                [len(prompts[i]) for i in chosen],
                pad_id=tokenizer.pad_id,
                device=student.device,
                max_tokens=pass_tokens(student.speaker.model, student.device),
            )
        )
        rate = schedule(step, total, config.learning_rate, last, config.warmup_steps, "cosine")
        yield step + 1, total, student.step(batches, rate)


@stage(version=1, makes=Policy, heavy=True)
def pretrain(run: Run, config: PretrainConfig) -> Summary:
    """Make a base model from the miniature world's crawl."""
    student = beginner(config, run.device)
    model, tokenizer = student.speaker.model, student.speaker.tokenizer
    windows = crawl(tokenizer, config)
    for step, total, metrics in read(
        student, windows, config, restore(run.state, student.speaker.model, student.optimizer)
    ):
        run.log(step, total, metrics)
        run.save(step, partial(after, step, student.speaker.model, student.optimizer))
    checkpoint.save(run.folder / "policy", model, tokenizer, dtype=torch.float16)
    return {"parameters": sum(p.numel() for p in model.parameters()), "tokens": int(windows.size) * config.epochs,
            "crawl_digest": hashlib.sha256(windows.tobytes()).hexdigest(), **run.latest}  # fmt: skip


@stage(version=2, makes=Policy, heavy=True)
def finetune(run: Run, policy: Policy, rows: Table, config: SFTConfig) -> Summary:
    """Teach a policy the rows of a table."""
    speaker = learning(policy, run.device, config.lora, config.seed)
    if config.gradient_checkpointing:
        speaker.model.checkpoint_activations()
    optimizer = adamw(speaker.model, lr=config.learning_rate, weight_decay=config.weight_decay, betas=(0.9, 0.95))
    student = Student(speaker, optimizer, config, run.device)
    lessons = rows_of(rows)
    for step, total, metrics in study(
        student, lessons, config, restore(run.state, student.speaker.model, student.optimizer)
    ):
        run.log(step, total, metrics)
        run.save(step, partial(after, step, student.speaker.model, student.optimizer))
    checkpoint.save(run.folder / "policy", speaker.model, speaker.tokenizer)
    return {"rows": len(lessons), **run.latest}
