"""Group Relative Policy Optimization: Policy x problems -> Policy and its trajectories.

DeepSeek-R1 section 2.1 with DeepSeekMath's token-level form. Per token, with ratio rho = pi / pi_old:

    max over theta of  min(rho A, clip(rho, 1 - epsilon, 1 + epsilon) A) - beta KL,
    KL = pi_ref / pi - log(pi_ref / pi) - 1,        A_i = (r_i - mean(r)) / (std(r) + 1e-4) over the group.

A step is one policy update, as in the paper. A rollout serves `steps_per_generation` of them: its
completions are split at random into as many minibatches, each used once.

Where the papers are silent: the loss is the mean over all completion tokens of the minibatch (`dapo`;
with 1/|o|, `grpo`, the decision to check one's work gets less push, since such answers are longer); the
standard deviation is the sample's; a group whose rewards are all equal has zero advantage and adds only
its KL term; a completion that was cut off earns what its text earns; the gate's bias is frozen, and the
MTP head is not trained; AdamW has no weight decay, betas 0.9 and 0.95.
"""

from __future__ import annotations

import copy
import random
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal, Self

import polars as pl
import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from data.lineage import Judge, Policy, Table, seed_of
from data.prompts import Template, render
from data.records import Problem, Trajectory
from data.sandbox import Isolation
from data.store import write_table
from model import checkpoint
from model.optim import adamw
from model.sampler import logprobs
from tasks.batch import Batch, padded_batches
from tasks.collect import problems_of
from tasks.preference import preferences
from tasks.rewards import RewardWeights
from tasks.rollout import RULED, Prefer, Sampling, Speaker, as_frame, load, mean_parts, rollout
from tasks.stage import Metrics, Run, Summary, stage

MICROBATCH_TOKENS = 6_000
"""Padded tokens of one forward and backward pass; sorted by length, so that little of it is padding."""


class GRPOConfig(RewardWeights):
    """One stage of reinforcement learning. Names are TRL's; a step is one policy update."""

    max_steps: int = Field(100, ge=1, description="policy updates")
    prompts_per_step: int = Field(16, ge=1, description="questions an update")
    num_generations: int = Field(8, ge=2, description="completions a question (G)")
    steps_per_generation: int = Field(2, ge=1, description="minibatches a rollout is split into, one update each")
    learning_rate: float = Field(1e-4, gt=0)
    warmup_steps: int = Field(0, ge=0)
    max_grad_norm: float = Field(1.0, gt=0)
    beta: float = Field(0.001, ge=0, description="weight of the KL term; 0 needs no reference model")
    epsilon: float = Field(0.2, gt=0, description="clip range; the paper's RL stages use 10")
    epsilon_high: float | None = Field(None, gt=0, description="upper clip range, where it differs")
    loss_type: Literal["grpo", "dapo", "dr_grpo"] = Field(
        "dapo",
        description="dapo: mean over tokens; grpo: mean over completions of their means; dr_grpo: by max length",
    )
    scale_rewards: Literal["group", "batch", "none"] = Field("group", description="what advantages are divided by")
    ref_model_sync_steps: int = Field(400, ge=1, description="steps between hard refreshes of the reference")
    dynamic_sampling: bool = Field(False, description="drop groups whose rewards are all equal, and refill")
    mask_truncated_completions: bool = Field(False, description="leave completions that were cut off out of the loss")
    template: Template = "chat"
    temperature: float = Field(1.0, gt=0)
    top_p: float = Field(1.0, gt=0, le=1)
    max_completion_length: int = Field(192, ge=1)
    general_prompts_per_step: int = Field(0, ge=0, description="of the questions, how many are general prompts")
    preference_last_steps: int = Field(0, ge=0, description="general prompts and their reward only in the last steps")
    save_steps: int = Field(20, ge=1, description="steps between checkpoints")
    seed: int = 0

    @model_validator(mode="after")
    def _fits(self) -> Self:
        for name in ("ref_model_sync_steps", "save_steps"):
            if getattr(self, name) % self.steps_per_generation:
                raise ValueError(
                    f"{name} = {getattr(self, name)} is not a multiple of "
                    f"steps_per_generation = {self.steps_per_generation}"
                )
        if self.general_prompts_per_step > self.prompts_per_step:
            raise ValueError(
                f"general_prompts_per_step = {self.general_prompts_per_step} is more than "
                f"prompts_per_step = {self.prompts_per_step}"
            )
        if self.preference_last_steps > self.max_steps:
            raise ValueError(
                f"preference_last_steps = {self.preference_last_steps} is more than max_steps = {self.max_steps}"
            )
        return self

    def steps_served(self, first: int) -> int:
        """How many updates the rollout that begins at step `first` serves; the last one may serve fewer."""
        return min(self.steps_per_generation, self.max_steps - first)

    @property
    def sampling(self) -> Sampling:
        """The sampling that these settings describe."""
        return Sampling(
            template=self.template,
            num_generations=self.num_generations,
            temperature=self.temperature,
            top_p=self.top_p,
            max_completion_length=self.max_completion_length,
            seed=self.seed,
        )


def advantages(rewards: Tensor, scale_rewards: Literal["group", "batch", "none"] = "group") -> Tensor:
    """Turn rewards (N, G) into advantages (N, G): centred on the group, divided by a standard deviation."""
    centred = rewards - rewards.mean(dim=1, keepdim=True)
    if scale_rewards == "none":
        return centred
    spread = rewards.std(dim=1, keepdim=True) if scale_rewards == "group" else rewards.std()
    return centred / (spread + 1e-4)


def token_objective(
    logp: Tensor,
    old_logp: Tensor,
    ref_logp: Tensor | None,
    advantage: Tensor,
    *,
    beta: float,
    epsilon: float,
    epsilon_high: float | None = None,
) -> Tensor:
    """Return the objective of each token (B, T), to be maximised. `advantage` is (B, 1)."""
    ratio = (logp - old_logp).exp()
    clipped = ratio.clamp(1 - epsilon, 1 + (epsilon if epsilon_high is None else epsilon_high))
    objective = torch.minimum(ratio * advantage, clipped * advantage)
    if ref_logp is None or beta == 0:
        return objective
    return objective - beta * k3(logp, ref_logp)


def k3(logp: Tensor, ref_logp: Tensor) -> Tensor:
    """Schulman's estimate of KL(pi || pi_ref) from samples of pi: unbiased and never negative."""
    delta = ref_logp - logp
    return delta.exp() - delta - 1


def token_weights(mask: Tensor, lengths: Tensor, config: GRPOConfig, tokens: int, completions: int) -> Tensor:
    """Weigh each token's objective (B, T) so that the sum over a whole minibatch is the `loss_type`'s mean.

    `tokens` and `completions` count the whole minibatch, of which the mask may hold only a part.
    """
    if config.loss_type == "dapo":
        return mask / max(tokens, 1)
    if config.loss_type == "grpo":
        return mask / (lengths.clamp(min=1)[:, None] * completions)
    return mask / (completions * config.max_completion_length)


@dataclass(slots=True)
class Learner:
    """The policy under training, its optimiser, the reference it is held close to, and rounds of questions asked."""

    speaker: Speaker
    reference: nn.Module | None
    optimizer: torch.optim.Optimizer
    config: GRPOConfig
    device: str
    visits: int = 0


def learner(speaker: Speaker, config: GRPOConfig, device: str) -> Learner:
    """Make a policy ready for training."""
    reference = copy.deepcopy(speaker.model).requires_grad_(False) if config.beta else None
    optimizer = adamw(speaker.model, lr=config.learning_rate, weight_decay=0.0, betas=(0.9, 0.95))
    return Learner(speaker, reference, optimizer, config, device)


def train(
    learner: Learner,
    reasoning: Sequence[Problem],
    general: Sequence[Problem],
    prefer: Prefer | None,
    isolation: Isolation = "rlimit",
) -> Iterator[tuple[int, Metrics, list[Trajectory]]]:
    """Yield (step, metrics, trajectories of the rollout on its first step, else none) after every update."""
    config = learner.config
    for first in range(0, config.max_steps, config.steps_per_generation):
        begun = time.monotonic()
        if learner.reference is not None and first and first % config.ref_model_sync_steps == 0:
            learner.reference.load_state_dict(learner.speaker.model.state_dict())
        groups, asked = _rollout(learner, reasoning, general, prefer, first, isolation)
        flat = _with_advantages(groups, config)
        sampled = time.monotonic()
        observed = rollout_metrics(flat, groups, asked) | {"sampling_time": sampled - begun}
        for offset, minibatch in enumerate(_minibatches(flat, config, first)):
            step = first + offset + 1
            metrics = update(learner, minibatch, step)
            if offset == 0:
                metrics |= observed
            if offset + 1 == config.steps_served(first):
                metrics["step_time"] = (time.monotonic() - begun) / config.steps_served(first)
            yield step, metrics, flat if offset == 0 else []


def _questions(
    reasoning: Sequence[Problem], general: Sequence[Problem], config: GRPOConfig, first: int, visit: int
) -> list[Problem]:
    """Choose the questions of the rollout that begins at step `first`: epochs over a seeded shuffle."""
    steps = config.steps_served(first)
    count = config.prompts_per_step * steps
    late = first >= config.max_steps - config.preference_last_steps
    of_general = config.general_prompts_per_step * steps if late and general else 0
    chosen = _take(reasoning, count - of_general, visit, (config.seed, "reasoning"))
    return chosen + _take(general, of_general, visit, (config.seed, "general"))


def _take(problems: Sequence[Problem], count: int, visit: int, stream: Sequence[object]) -> list[Problem]:
    chosen: list[Problem] = []
    position = visit * count
    while len(chosen) < count:
        epoch, offset = divmod(position + len(chosen), len(problems))
        order = list(range(len(problems)))
        random.Random(seed_of(*stream, epoch)).shuffle(order)
        chosen += [problems[i] for i in order[offset : offset + count - len(chosen)]]
    return chosen


def _rollout(
    learner: Learner,
    reasoning: Sequence[Problem],
    general: Sequence[Problem],
    prefer: Prefer | None,
    first: int,
    isolation: str,
) -> tuple[list[list[Trajectory]], int]:
    """Sample groups for the steps from `first`; with dynamic sampling, groups of equal rewards are refilled.

    Returns the groups and how many were asked in all.
    """
    config = learner.config
    wanted = config.prompts_per_step * config.steps_served(first)
    groups: list[list[Trajectory]] = []
    asked = 0
    for _ in range(REFILLS if config.dynamic_sampling else 1):
        problems = _questions(reasoning, general, config, first, learner.visits)
        learner.visits += 1
        asked += len(problems)
        sampled = rollout(
            learner.speaker,
            problems,
            config.sampling,
            config,
            stream=("grpo", learner.visits),
            step=first + 1,
            prefer=prefer,
            isolation=isolation,
        )
        if config.dynamic_sampling:
            sampled = [group for group in sampled if len({each.reward.total for each in group}) > 1]
        groups += sampled
        if len(groups) >= wanted:
            break
    if not groups:
        raise ValueError(
            f"step {first + 1}: every group's rewards were equal in {asked} problems; "
            "the problems are all too easy or all too hard for this policy"
        )
    return groups[:wanted], asked


REFILLS = 4
"""Rounds of sampling that dynamic sampling may take for one rollout."""


def _with_advantages(groups: Sequence[Sequence[Trajectory]], config: GRPOConfig) -> list[Trajectory]:
    rewards = torch.tensor([[each.reward.total for each in group] for group in groups])
    gains = advantages(rewards, config.scale_rewards).tolist()
    return [
        replace(each, advantage=gain)
        for group, row in zip(groups, gains, strict=True)
        for each, gain in zip(group, row, strict=True)
    ]


def _minibatches(flat: Sequence[Trajectory], config: GRPOConfig, first: int) -> list[list[Trajectory]]:
    """Split a rollout's completions at random into minibatches of one size, one for each update it serves."""
    order = list(range(len(flat)))
    random.Random(seed_of(config.seed, "minibatches", first)).shuffle(order)
    parts = config.steps_served(first)
    return [[flat[i] for i in order[part::parts]] for part in range(parts)]


def update(learner: Learner, minibatch: Sequence[Trajectory], step: int) -> dict[str, float]:
    """Take one optimiser step on a minibatch. Returns TRL's metrics."""
    config, model = learner.config, learner.speaker.model
    kept = [t for t in minibatch if not (config.mask_truncated_completions and t.completion.finish == "length")]
    tokens = sum(len(each.completion.ids) for each in kept)
    totals: dict[str, Tensor] = {}
    for batch in _batches(learner, kept):
        loss, sums = _loss(learner, batch, [kept[i] for i in batch.index], tokens, len(kept))
        loss.backward()
        for name, value in sums.items():
            totals[name] = totals.get(name, torch.zeros((), device=value.device)) + value
    grad_norm = nn.utils.clip_grad_norm_(model.parameters(), config.max_grad_norm)
    rate = config.learning_rate * min(1.0, step / config.warmup_steps if config.warmup_steps else 1.0)
    for group in learner.optimizer.param_groups:
        group["lr"] = rate
    learner.optimizer.step()
    learner.optimizer.zero_grad(set_to_none=True)
    means = {name: value.item() / max(tokens, 1) for name, value in totals.items() if name != "loss"}
    return {
        "loss": totals["loss"].item() if totals else 0.0,
        **means,
        "grad_norm": float(grad_norm),
        "learning_rate": rate,
        "num_tokens": float(tokens),
    }


def _batches(learner: Learner, trajectories: Sequence[Trajectory]) -> Iterator[Batch]:
    tokenizer, template = learner.speaker.tokenizer, learner.config.template
    prompts = [tokenizer.encode(render(each.problem.prompt, template)) for each in trajectories]
    sequences = [[*p, *each.completion.ids] for p, each in zip(prompts, trajectories, strict=True)]
    return padded_batches(
        sequences,
        [len(prompt) for prompt in prompts],
        max_tokens=MICROBATCH_TOKENS,
        pad_id=tokenizer.pad_id,
        device=learner.device,
    )


def _loss(
    learner: Learner, batch: Batch, trajectories: Sequence[Trajectory], tokens: int, completions: int
) -> tuple[Tensor, dict[str, Tensor]]:
    config = learner.config
    old = torch.zeros_like(batch.mask)
    starts = batch.mask.argmax(dim=1).tolist()
    for row, (each, start) in enumerate(zip(trajectories, starts, strict=True)):
        old[row, start : start + len(each.completion.ids)] = torch.tensor(each.completion.logprobs)
    advantage = torch.tensor([each.advantage for each in trajectories], device=learner.device)[:, None]
    logp, entropy = logprobs(learner.speaker.model, batch.tokens, temperature=config.temperature, return_entropy=True)
    ref = None
    if learner.reference is not None:
        with torch.no_grad():
            ref = logprobs(learner.reference, batch.tokens, temperature=config.temperature)
    gain = token_objective(
        logp, old, ref, advantage,
        beta=config.beta, epsilon=config.epsilon, epsilon_high=config.epsilon_high,
    )  # fmt: skip
    lengths = batch.mask.sum(dim=1)
    loss = -(gain * token_weights(batch.mask, lengths, config, tokens, completions)).sum()
    return loss, _token_sums(loss, logp.detach(), old, ref, entropy.detach(), advantage, batch.mask, config)


def _token_sums(
    loss: Tensor,
    logp: Tensor,
    old: Tensor,
    ref: Tensor | None,
    entropy: Tensor,
    advantage: Tensor,
    mask: Tensor,
    config: GRPOConfig,
) -> dict[str, Tensor]:
    ratio = (logp - old).exp()
    high = config.epsilon if config.epsilon_high is None else config.epsilon_high
    return {
        "loss": loss.detach(),
        "entropy": (entropy * mask).sum(),
        "kl": (k3(logp, ref) * mask).sum() if ref is not None else torch.zeros_like(loss),
        "clip_ratio/low_mean": (((ratio < 1 - config.epsilon) & (advantage < 0)) * mask).sum(),
        "clip_ratio/high_mean": (((ratio > 1 + high) & (advantage > 0)) * mask).sum(),
    }


def rollout_metrics(flat: Sequence[Trajectory], groups: Sequence[Sequence[Trajectory]], asked: int) -> dict[str, float]:
    """Summarise a rollout under TRL's names."""
    totals = torch.tensor([[each.reward.total for each in group] for group in groups])
    ratios = [each.consistency for each in flat if each.consistency is not None]
    lengths = [len(each.completion.ids) for each in flat]
    return {
        "reward": totals.mean().item(),
        "reward_std": totals.std(dim=1).mean().item(),
        "frac_reward_zero_std": (totals.std(dim=1) == 0).float().mean().item(),
        **mean_parts(flat),
        "completions/mean_length": sum(lengths) / len(lengths),
        "completions/clipped_ratio": sum(t.completion.finish == "length" for t in flat) / len(flat),
        "language_consistency": sum(ratios) / len(ratios) if ratios else 0.0,
        "reflections": sum(each.reflections for each in flat) / len(flat),
        "groups_asked": float(asked),
    }


@stage(version=1, makes=Policy)
def reinforce(run: Run, policy: Policy, problems: Table, config: GRPOConfig, judges: Sequence[Judge] = ()) -> Summary:
    """Train a policy on its own answers.

    Writes the policy, `checkpoints/step-NNNNNN` every `save_steps` steps, and `trajectories.parquet`.
    """
    speaker = load(policy, run.device)
    everything = problems_of(problems)
    reasoning = [problem for problem in everything if problem.verifier in RULED]
    general = [problem for problem in everything if problem.verifier not in RULED]
    prefer = preferences(judges, run.device) if judges else None
    apprentice = learner(speaker, config, run.device)
    kept: list[pl.DataFrame] = []
    last: dict[str, float] = {}
    for step, metrics, trajectories in train(apprentice, reasoning, general, prefer, run.session.isolation):
        run.log(step, config.max_steps, metrics)
        last |= metrics
        if trajectories:
            kept.append(as_frame(trajectories))
        if step % config.save_steps == 0 and step < config.max_steps:
            checkpoint.save(run.folder / "checkpoints" / f"step-{step:06d}", speaker.model, speaker.tokenizer)
    checkpoint.save(run.folder / "policy", speaker.model, speaker.tokenizer)
    write_table(run.folder / "trajectories.parquet", pl.concat(kept))
    return {"steps": config.max_steps, **last}
