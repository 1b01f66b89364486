"""Reward models for what no rule judges: helpful (pairwise) and harmless (pointwise).

DeepSeek-R1 section 3.1 and supplement: the architecture of the policy with a scalar head. The helpful
model learns from pairs, -log sigmoid(s_chosen - s_rejected), and sees the summary only; the harmless one
learns safe or unsafe by cross-entropy and sees the whole response.

Here the labels come from the world's rubric (right facts, asked form, refusal where it is due), or pairs from
the opinion of a language model (`tasks.opinion`), never from a model under training. Pairs need a margin between
the two scores, and the longer answer is chosen as often as the shorter one. The paper does not say how a pairwise
score becomes a reward: it is standardised over the answers of the training set and squashed by a sigmoid, so that
it lies in [0, 1].
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal

import polars as pl
import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from data.lineage import WHEN_SET, Judge, Policy, Settings, Table, read_json, seed_of, write_json
from data.prompts import render, written
from data.records import Trajectory
from data.store import write_table
from data.world.rubric import rubric
from model import checkpoint, ranks
from model.language import TextScorer
from model.optim import adamw, schedule
from model.tokenizer import Tokenizer
from tasks.batch import padded_batches
from tasks.judge import judge_of
from tasks.lora import LORA, LoraConfig, adapted, frozen_type
from tasks.opinion import OpinionConfig, Opinions
from tasks.resume import after, restore
from tasks.roles import fitted
from tasks.rollout import Prefer, load, trajectories_of
from tasks.stage import Run, Summary, stage

Kind = Literal["helpful", "harmless"]


class PairsConfig(Settings):
    """How answers become labelled examples."""

    margin: float = Field(0.15, gt=0, le=1, description="least difference of the rubric's scores in a pair")
    pairs_per_prompt: int = Field(4, ge=1)
    balance_lengths: bool = Field(True, description="the chosen answer is the longer one as often as the shorter")
    heldout_share: float = Field(0.1, ge=0, lt=1, description="prompts left out of training, to measure accuracy")
    opinion: OpinionConfig | None = Field(
        None, description="from preference.opinion: a language model chooses", json_schema_extra=WHEN_SET
    )
    seed: int = 0


class JudgeConfig(Settings):
    """Training of one reward model."""

    kind: Kind
    num_train_epochs: int = Field(1, ge=1)
    batch_size: int = Field(32, ge=1)
    learning_rate: float = Field(3e-4, gt=0)
    lora: LoraConfig | None = LORA
    seed: int = 0


def seen(kind: Kind, prompt: str, thinking: str | None, summary: str | None) -> str:
    """Return the text that a reward model reads: the prompt, then the summary only or the whole response."""
    return render(prompt, "chat") + (written(thinking, summary) if kind == "harmless" else summary or "")


def labelled(frame: pl.DataFrame) -> pl.DataFrame:
    """Score every answer to a general prompt by the rubric: columns `score` in [0, 1] and `safe`."""
    scores = [
        rubric(row["solution"], row["thinking"] or "", row["answer"] or "", row["language"])
        for row in frame.select("solution", "thinking", "answer", "language").iter_rows(named=True)
    ]
    return frame.with_columns(
        pl.Series("score", [each.score for each in scores], dtype=pl.Float64),
        pl.Series("safe", [each.safe for each in scores], dtype=pl.Boolean),
    )


def pairs_of(frame: pl.DataFrame, config: PairsConfig, opinions: Opinions | None = None) -> pl.DataFrame:
    """Pair answers to one prompt: columns prompt, chosen, rejected.

    Their scores differ by the margin; or opinions choose, out of twice as many pairs as a prompt may have.
    """
    pairs: list[dict[str, str]] = []
    balance = 0
    for _, group in frame.sort("id").group_by("problem_id", maintain_order=True):
        rows = list(group.unique("answer", keep="first", maintain_order=True).iter_rows(named=True))
        if opinions:
            candidates = opinions.pairs(rows, 2 * config.pairs_per_prompt)
        else:
            candidates = [(a, b) for a in rows for b in rows if a["score"] >= b["score"] + config.margin]
        random.Random(seed_of(config.seed, rows[0]["problem_id"])).shuffle(candidates)
        if config.balance_lengths:  # first those that bring the count of longer chosen answers back to half
            candidates.sort(key=lambda pair: (_longer(*pair) > 0) == (balance > 0))
        for chosen, rejected in candidates[: config.pairs_per_prompt]:
            balance += _longer(chosen, rejected)
            pairs.append({"id": chosen["id"], "problem_id": chosen["problem_id"], "prompt": chosen["prompt"],
                          "chosen": chosen["answer"] or "", "rejected": rejected["answer"] or ""})  # fmt: skip
    return pl.DataFrame(pairs, schema=dict.fromkeys(("id", "problem_id", "prompt", "chosen", "rejected"), pl.String))


def _longer(chosen: dict[str, str], rejected: dict[str, str]) -> int:
    return 1 if len(chosen["answer"] or "") > len(rejected["answer"] or "") else -1


@stage(version=1, makes=Table)
def label(run: Run, trajectories: Table, config: PairsConfig) -> Summary:
    """Label answers to general prompts: `pairs.parquet` (helpful) and `points.parquet` (harmless)."""
    frame = labelled(trajectories_of(trajectories))
    opinions = _opinions(config, run.device)
    pairs = pairs_of(frame.filter(pl.col("verifier") == "helpful"), config, opinions)
    if opinions:
        opinions.check(run.name)
    points = frame.filter(pl.col("verifier") == "harmless").select(
        "id", "problem_id", "prompt", "thinking", "answer", "safe"
    )
    for name, table in (("pairs", pairs), ("points", points)):
        held = [seed_of(config.seed, "split", p) % 1000 < config.heldout_share * 1000 for p in table["problem_id"]]
        write_table(run.folder / f"{name}.parquet", table.with_columns(pl.Series("heldout", held, pl.Boolean)))
    return {"answers": len(frame), "pairs": len(pairs), "points": len(points),
            "unsafe": int((~points["safe"]).sum()),
            **({"opinions": opinions.asked, "opinions_failed": len(opinions.failed)} if opinions else {})}  # fmt: skip


def _opinions(config: PairsConfig, device: str) -> Opinions | None:
    if config.opinion is None:
        return None
    if config.opinion.judge is None:
        raise ValueError("opinion: there is no judge to be asked")
    return Opinions(judge_of(config.opinion.judge, device), config.opinion, config.seed)


@stage(version=2, makes=Judge, heavy=True)
def train_judge(run: Run, policy: Policy, labels: Table, config: JudgeConfig) -> Summary:
    """Train a reward model from a policy's weights on labelled answers."""
    speaker = load(policy, run.device, frozen_type(config.lora, run.device))
    tokenizer = speaker.tokenizer
    torch.manual_seed(seed_of(config.seed, "head"))
    judge = adapted(speaker.model.reward_model(), config.lora, config.seed).eval()  # counts no expert's load
    frame = pl.read_parquet(labels.folder / f"{'pairs' if config.kind == 'helpful' else 'points'}.parquet")
    training, heldout = frame.filter(~pl.col("heldout")), frame.filter(pl.col("heldout"))
    if training.is_empty():
        raise ValueError(f"{labels.key} holds no labelled answers to train the {config.kind} reward model on")
    examples = _examples(training, config.kind, tokenizer)
    optimizer = adamw(judge, lr=config.learning_rate, weight_decay=0.0, betas=(0.9, 0.95))
    orders = list(_batches(len(examples), config))
    begun = restore(run.state, judge, optimizer)
    for step, chosen in enumerate(orders[begun:], begun):
        for group in optimizer.param_groups:
            group["lr"] = schedule(step, len(orders), config.learning_rate, 0.0, 0, "cosine")
        optimizer.zero_grad()
        loss = 0.0
        if mine := ranks.mine([examples[i] for i in chosen]):
            part = _loss(judge, mine, config.kind, tokenizer, run.device) * (len(mine) / len(chosen))
            part.backward()
            loss = part.item()
        ranks.sum_gradients(judge.parameters())
        torch.nn.utils.clip_grad_norm_(judge.parameters(), 1.0)
        optimizer.step()
        run.log(step + 1, len(orders), ranks.total({"loss": loss}))
        run.save(step + 1, partial(after, step + 1, judge, optimizer))
    texts = [text for example in examples for text in example.texts]
    with torch.no_grad():
        scores = _scores(judge, [tokenizer.encode(text) for text in texts], tokenizer, run.device)
    checkpoint.save(run.folder / "policy", judge, tokenizer)
    write_json(
        run.folder / "scale.json",
        {"kind": config.kind, "mean": scores.mean().item(), "std": scores.std().item()},
    )
    held = _examples(heldout, config.kind, tokenizer)
    return {"examples": len(examples), "accuracy": _accuracy(judge, held, config.kind, tokenizer, run.device)}


@dataclass(frozen=True, slots=True)
class Example:
    """Texts to score and their target: (chosen, rejected), or one text that is safe (1) or not (0)."""

    texts: tuple[str, ...]
    target: float = 1.0


def _examples(frame: pl.DataFrame, kind: Kind, tokenizer: Tokenizer) -> list[Example]:
    if kind == "helpful":
        return [
            Example(
                (
                    seen(kind, row["prompt"], None, row["chosen"]),
                    seen(kind, row["prompt"], None, row["rejected"]),
                )
            )
            for row in frame.iter_rows(named=True)
        ]
    return [
        Example((seen(kind, row["prompt"], row["thinking"], row["answer"]),), float(row["safe"]))
        for row in frame.iter_rows(named=True)
    ]


def _batches(count: int, config: JudgeConfig) -> Iterator[list[int]]:
    for epoch in range(config.num_train_epochs):
        order = list(range(count))
        random.Random(seed_of(config.seed, epoch)).shuffle(order)
        for begin in range(0, count, config.batch_size):
            yield order[begin : begin + config.batch_size]


def _loss(judge: TextScorer, examples: Sequence[Example], kind: Kind, tokenizer: Tokenizer, device: str) -> Tensor:
    ids = [tokenizer.encode(text) for example in examples for text in example.texts]
    scores = _scores(judge, ids, tokenizer, device)
    if kind == "helpful":
        chosen, rejected = scores.view(-1, 2).unbind(dim=1)
        return -F.logsigmoid(chosen - rejected).mean()
    targets = torch.tensor([example.target for example in examples], device=device)
    return F.binary_cross_entropy_with_logits(scores, targets)


def _scores(judge: TextScorer, ids: Sequence[Sequence[int]], tokenizer: Tokenizer, device: str) -> Tensor:
    """Score texts, each at its last token; returns (N,) in the order given."""
    parts: list[Tensor] = []
    order: list[int] = []
    for batch in padded_batches(ids, [0] * len(ids), pad_id=tokenizer.pad_id, device=device):
        parts.append(judge(batch.tokens, batch.valid.sum(dim=1)))
        order += batch.index
    return torch.cat(parts)[torch.tensor(order, device=device).argsort()]


@torch.no_grad()
def _accuracy(
    judge: TextScorer, examples: Sequence[Example], kind: Kind, tokenizer: Tokenizer, device: str
) -> float | None:
    if not examples:
        return None
    scores = _scores(judge, [tokenizer.encode(t) for e in examples for t in e.texts], tokenizer, device)
    if kind == "helpful":
        pairs = scores.view(-1, 2)
        return (pairs[:, 0] > pairs[:, 1]).float().mean().item()
    targets = torch.tensor([example.target for example in examples], device=device)
    return ((scores > 0) == (targets > 0.5)).float().mean().item()


@dataclass(frozen=True, slots=True)
class Scorer:
    """A reward model in memory, with the mean and spread of its scores in training."""

    kind: Kind
    model: TextScorer
    tokenizer: Tokenizer
    mean: float
    std: float
    device: str

    @torch.no_grad()
    def __call__(self, texts: Sequence[str]) -> list[float]:
        """Score texts in [0, 1]."""
        if not texts:
            return []
        scores = _scores(self.model, [self.tokenizer.encode(text) for text in texts], self.tokenizer, self.device)
        if self.kind == "helpful":
            scores = (scores - self.mean) / max(self.std, 1e-6)
        return scores.sigmoid().tolist()


def load_judge(judge: Judge, device: str) -> Scorer:
    """Read a reward model from its folder."""
    model, tokenizer = checkpoint.load(judge.checkpoint, device=device)
    if not isinstance(model, TextScorer):
        raise ValueError(f"{judge.key} has no scalar head")
    scale = read_json(judge.folder / "scale.json")
    return Scorer(scale["kind"], model, fitted(tokenizer), scale["mean"], scale["std"], device)


def preferences(judges: Sequence[Judge], device: str) -> Prefer:
    """Score answers to general prompts, each by the reward model of its problem's set."""
    scorers = {scorer.kind: scorer for scorer in (load_judge(judge, device) for judge in judges)}

    def prefer(trajectories: Sequence[Trajectory]) -> list[float]:
        scores = [0.0] * len(trajectories)
        for kind, scorer in scorers.items():
            mine = [i for i, each in enumerate(trajectories) if each.problem.verifier == kind]
            texts = [seen(kind, t.problem.prompt, t.thinking, t.answer) for t in (trajectories[i] for i in mine)]
            for index, score in zip(mine, scorer(texts), strict=True):
                scores[index] = score
        return scores

    return prefer
