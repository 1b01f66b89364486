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

import random
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Self

import polars as pl
import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from data.lineage import PLACE, Judge, Policy, Table, seed_of
from data.prompts import Template, render
from data.records import Problem, Trajectory
from data.sandbox import Isolation
from data.store import write_table
from data.verifiers import Verifier
from model import adapter, checkpoint, ranks
from model.language import LanguageModel
from model.optim import adamw
from model.sampler import logprobs
from tasks import redteam
from tasks.batch import Batch, padded_batches, pass_tokens
from tasks.collect import by_rule, left_to_a_judge, problems_of
from tasks.deck import Deck
from tasks.guard import Guard, OnCollapse
from tasks.lora import LORA, LoraConfig, learning
from tasks.objective import LossType, Scale, advantages, clipped, k3, token_objective, token_weights
from tasks.preference import preferences
from tasks.resume import State, after, restore, shards, write_shard
from tasks.rewards import RewardWeights
from tasks.rollout import (
    INFRA_ERROR_BUDGET,
    Prefer,
    Sampling,
    Speaker,
    as_frame,
    check_budget,
    infra_errors,
    mean_parts,
    rollout,
    trajectories_in,
    with_tokens,
)
from tasks.stage import Metrics, Run, Summary, stage


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
    loss_type: LossType = Field(
        "dapo",
        description="dapo: mean over tokens; grpo: mean over completions of their means; dr_grpo: by max length",
    )
    scale_rewards: Scale = Field("group", description="what advantages are divided by")
    ref_model_sync_steps: int = Field(400, ge=1, description="steps between hard refreshes of the reference")
    dynamic_sampling: bool = Field(False, description="drop groups whose rewards are all equal, and refill")
    mask_truncated_completions: bool = Field(False, description="leave completions that were cut off out of the loss")
    template: Template = "chat"
    temperature: float = Field(1.0, gt=0)
    top_p: float = Field(1.0, gt=0, le=1)
    max_completion_length: int = Field(192, ge=1)
    general_prompts_per_step: int = Field(0, ge=0, description="of the questions, how many are general prompts")
    preference_last_steps: int = Field(0, ge=0, description="general prompts and their reward only in the last steps")
    gradient_checkpointing: bool = Field(
        False, description="compute activations again instead of keeping them", json_schema_extra=PLACE
    )
    lora: LoraConfig | None = LORA
    save_steps: int = Field(20, ge=1, description="steps between checkpoints")
    on_collapse: OnCollapse = Field(
        "warn",
        description="when length and accuracy are given up for the form: say so, or stop the stage there",
        json_schema_extra={"identity": False},
    )
    infra_error_budget: float = INFRA_ERROR_BUDGET
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


@dataclass(slots=True)
class Learner:
    """The policy under training, its optimiser, and the reference it is held close to."""

    speaker: Speaker
    reference: LanguageModel | None
    optimizer: torch.optim.Optimizer
    config: GRPOConfig
    device: str


def learner(speaker: Speaker, config: GRPOConfig, device: str) -> Learner:
    """Make a policy ready for training; its reference, in evaluation mode, counts no expert's load."""
    speaker.model.eval()
    reference = adapter.reference_of(speaker.model) if config.beta else None
    if config.gradient_checkpointing:
        speaker.model.checkpoint_activations()
    optimizer = adamw(speaker.model, lr=config.learning_rate, weight_decay=0.0, betas=(0.9, 0.95))
    return Learner(speaker, reference, optimizer, config, device)


@dataclass(slots=True)
class Classroom:
    """Where questions come from and what judges answers beside the rules.

    `rounds` counts samplings, and `rollout` is the one that updates are being taken on.
    """

    reasoning: Deck
    general: Deck
    prefer: Prefer | None = None
    isolation: Isolation | None = None
    rounds: int = 0
    rollout: list[Trajectory] = field(default_factory=list)

    def ask(self, config: GRPOConfig, first: int) -> list[Problem]:
        """Choose the questions of the rollout that begins at step `first`."""
        steps = config.steps_served(first)
        late = first >= config.max_steps - config.preference_last_steps
        of_general = config.general_prompts_per_step * steps if late and self.general.problems else 0
        self.rounds += 1
        return self.reasoning.deal(config.prompts_per_step * steps - of_general) + self.general.deal(of_general)


def classroom(
    config: GRPOConfig,
    reasoning: Sequence[Problem],
    general: Sequence[Problem],
    prefer: Prefer | None,
    isolation: Isolation | None = None,
) -> Classroom:
    """Shuffle problems into decks by the configuration's seed."""
    decks = Deck(reasoning, (config.seed, "reasoning")), Deck(general, (config.seed, "general"))
    return Classroom(*decks, prefer, isolation)


def train(learner: Learner, room: Classroom, taken: int = 0) -> Iterator[tuple[int, Metrics, list[Trajectory]]]:
    """Go on after `taken` steps; yields (step, metrics, trajectories of a rollout on its first step, else none)."""
    config = learner.config
    for done in range(taken, config.max_steps):
        begun = time.monotonic()
        first = done - done % config.steps_per_generation
        observed: dict[str, float] = {}
        if done == first:
            if learner.reference is not None and first and first % config.ref_model_sync_steps == 0:
                adapter.follow(learner.reference, learner.speaker.model)
            groups, counts = _rollout(learner, room, first)
            room.rollout = _with_advantages(groups, config)
            observed = rollout_metrics(room.rollout, groups) | counts | {"sampling_time": time.monotonic() - begun}
        minibatch = minibatches(room.rollout, config, first)[done - first]
        metrics = update(learner, minibatch, done + 1) | observed | {"step_time": time.monotonic() - begun}
        yield done + 1, metrics, room.rollout if done == first else []


def state_of(learner: Learner, room: Classroom, step: int) -> State:
    """All that is needed to go on after a step: the rollout only where updates are left to be taken on it."""
    position = {"reasoning": room.reasoning.dealt, "general": room.general.dealt, "rounds": room.rounds}
    state = after(step, learner.speaker.model, learner.optimizer, learner.reference, **position)
    unused = step % learner.config.steps_per_generation
    return replace(state, tables={"rollout": with_tokens(room.rollout)}) if unused else state


def resume(learner: Learner, room: Classroom, state: State | None) -> int:
    """Go on from a state; returns the steps that were taken before it."""
    if state is not None:
        room.reasoning.dealt, room.general.dealt = state.values["reasoning"], state.values["general"]
        room.rounds = state.values["rounds"]
        room.rollout = trajectories_in(state.tables["rollout"]) if "rollout" in state.tables else []
    return restore(state, learner.speaker.model, learner.optimizer, learner.reference)


def _rollout(learner: Learner, room: Classroom, first: int) -> tuple[list[list[Trajectory]], dict[str, float]]:
    """Sample groups for the steps from `first`; with dynamic sampling, groups of equal rewards are refilled.

    A group with an infra_error teaches nothing and is dropped, and refilled with dynamic sampling; past their
    budget, ValueError. Returns the groups, and what sampling and judging them took.
    """
    config = learner.config
    wanted = config.prompts_per_step * config.steps_served(first)
    groups: list[list[Trajectory]] = []
    failed: list[Trajectory] = []
    asked: Counter[str] = Counter()
    with Verifier(isolation=room.isolation) as verifier:
        for _ in range(REFILLS if config.dynamic_sampling else 1):
            sampled = _sample(learner, room, first, asked, verifier)
            failed += infra_errors([each for group in sampled for each in group])
            groups += [group for group in sampled if _teaches(group, config)]
            if len(groups) >= wanted:
                break
    check_budget(failed, asked.total() * config.num_generations, config.infra_error_budget, f"step {first + 1}")
    if not groups and not config.dynamic_sampling:
        raise ValueError(f"step {first + 1}: every group had an infra_error, the first: {failed[0].verdict}")
    if not groups:
        raise ValueError(
            f"step {first + 1}: every group's rewards were equal in {asked.total()} problems; "
            "the problems are all too easy or all too hard for this policy"
        )
    return groups[:wanted], {
        "groups_asked": float(asked.total()),
        "infra_errors": float(len(failed)),
        "verdict_time": verifier.work_s,
        "verdict_wait_time": verifier.wait_s,
    }


def _sample(
    learner: Learner, room: Classroom, first: int, asked: Counter[str], verifier: Verifier
) -> list[list[Trajectory]]:
    problems = room.ask(learner.config, first)
    return rollout(
        learner.speaker,
        problems,
        learner.config.sampling,
        learner.config,
        stream=("grpo", room.rounds),
        step=first + 1,
        prefer=room.prefer,
        verifier=verifier,
        firsts=_firsts(problems, learner.config.num_generations, asked),
    )


def _teaches(group: Sequence[Trajectory], config: GRPOConfig) -> bool:
    if infra_errors(group):
        return False
    return not config.dynamic_sampling or len({each.reward.total for each in group}) > 1


def _firsts(problems: Sequence[Problem], size: int, asked: Counter[str]) -> list[int]:
    """Number each problem's first sample; a problem asked again in one rollout goes on counting."""
    firsts = []
    for problem in problems:
        firsts.append(size * asked[problem.id])
        asked[problem.id] += 1
    return firsts


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


def minibatches(flat: Sequence[Trajectory], config: GRPOConfig, first: int) -> list[list[Trajectory]]:
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
    mine = ranks.mine(kept)
    totals: dict[str, Tensor] = {}
    model.train()  # so that the load of the experts is counted; nothing else differs
    for batch in _batches(learner, mine):
        loss, sums = _loss(learner, batch, [mine[i] for i in batch.index], tokens, len(kept))
        loss.backward()
        for name, value in sums.items():
            totals[name] = totals.get(name, torch.zeros((), device=value.device)) + value
    ranks.sum_gradients(model.parameters())
    grad_norm = nn.utils.clip_grad_norm_(model.parameters(), config.max_grad_norm)
    rate = config.learning_rate * min(1.0, step / config.warmup_steps if config.warmup_steps else 1.0)
    for group in learner.optimizer.param_groups:
        group["lr"] = rate
    learner.optimizer.step()
    learner.optimizer.zero_grad(set_to_none=True)
    model.gather_load()
    violations = model.eval().update_bias(0.0)  # counted for the log alone: the bias is frozen
    summed = ranks.total({name: value.item() for name, value in totals.items()})
    means = {name: value / max(tokens, 1) for name, value in summed.items() if name != "loss"}
    return {
        "loss": summed.get("loss", 0.0),
        **means,
        "grad_norm": float(grad_norm),
        "learning_rate": rate,
        "num_tokens": float(tokens),
        **{f"max_violation/layer_{number}": each for number, each in violations.items()},
    }


def _batches(learner: Learner, trajectories: Sequence[Trajectory]) -> Iterator[Batch]:
    tokenizer, template = learner.speaker.tokenizer, learner.config.template
    prompts = tokenizer.encode_batch([render(each.problem.prompt, template) for each in trajectories])
    sequences = [[*p, *each.completion.ids] for p, each in zip(prompts, trajectories, strict=True)]
    return padded_batches(
        sequences,
        [len(prompt) for prompt in prompts],
        pad_id=tokenizer.pad_id,
        device=learner.device,
        max_tokens=pass_tokens(learner.speaker.model, learner.device),
    )


def _loss(
    learner: Learner, batch: Batch, trajectories: Sequence[Trajectory], tokens: int, completions: int
) -> tuple[Tensor, dict[str, Tensor]]:
    """A batch's share of the minibatch's loss, and the sums over its tokens that metrics are made of."""
    config, mask = learner.config, batch.mask
    sampled = [logprob for each in trajectories for logprob in each.completion.logprobs]
    old = torch.zeros_like(mask).masked_scatter(mask.bool(), torch.tensor(sampled, device=learner.device))
    advantage = torch.tensor([each.advantage for each in trajectories], device=learner.device)[:, None]
    now = logprobs(
        learner.speaker.model, batch.tokens, temperature=config.temperature, mask_BT=mask,
        valid_BT=batch.valid, return_entropy=True,
    )  # fmt: skip
    assert isinstance(now, tuple)
    logp, entropy = now
    ref = _reference_logprobs(learner, batch)
    gain = token_objective(
        logp, old, ref, advantage,
        beta=config.beta, epsilon=config.epsilon, epsilon_high=config.epsilon_high,
    )  # fmt: skip
    weights = token_weights(
        mask,
        config.loss_type,
        tokens=tokens,
        completions=completions,
        max_completion_length=config.max_completion_length,
    )
    loss = -(gain * weights).sum()
    spoken = logp.detach()
    low, high = clipped(spoken, old, advantage, config.epsilon, config.epsilon_high)
    observed = {
        "entropy": entropy,
        "kl": torch.zeros_like(mask) if ref is None else k3(spoken, ref),
        "clip_ratio/low_mean": low,
        "clip_ratio/high_mean": high,
    }
    return loss, {"loss": loss.detach()} | {name: (value * mask).sum() for name, value in observed.items()}


@torch.no_grad()
def _reference_logprobs(learner: Learner, batch: Batch) -> Tensor | None:
    if learner.reference is None:
        return None
    values = logprobs(learner.reference, batch.tokens, temperature=learner.config.temperature, mask_BT=batch.mask)
    assert isinstance(values, Tensor)
    return values


def rollout_metrics(flat: Sequence[Trajectory], groups: Sequence[Sequence[Trajectory]]) -> dict[str, float]:
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
    }


def _check_supply(source: str, reasoning: int, general: int, config: GRPOConfig) -> None:
    if not reasoning and config.general_prompts_per_step < config.prompts_per_step:
        raise ValueError(f"{source} holds no reasoning problems to learn from")
    if not general and config.general_prompts_per_step and config.preference_last_steps:
        raise ValueError(
            f"general_prompts_per_step = {config.general_prompts_per_step}, and {source} holds no general prompts"
        )


@stage(version=7, makes=Policy, heavy=True)
def reinforce(run: Run, policy: Policy, problems: Table, config: GRPOConfig, judges: Sequence[Judge] = ()) -> Summary:
    """Train a policy on its own answers.

    Writes the policy, `checkpoints/step-NNNNNN` every `save_steps` steps, and `trajectories.parquet`.
    """
    guard = Guard(run, config, config.on_collapse)
    speaker = learning(policy, run.device, config.lora, config.seed)
    every = problems_of(problems)
    reasoning, general = by_rule(every)
    left = left_to_a_judge(every)
    _check_supply(problems.key, len(reasoning), len(general), config)
    redteam.gate(
        run.session.runs, run.session.isolation, config.template, config, {each.verifier for each in reasoning}
    )
    prefer = preferences(judges, run.device) if judges else None
    apprentice = learner(speaker, config, run.device)
    room = classroom(config, reasoning, general, prefer, run.session.isolation)
    for step, metrics, trajectories in train(apprentice, room, resume(apprentice, room, run.state)):
        run.log(step, config.max_steps, {**metrics, **left})
        if trajectories:
            frame = as_frame(trajectories)
            write_shard(run.folder, f"rollout-{step:08d}", frame)
            if (step - 1) % config.save_steps < config.steps_per_generation:
                run.show(step, frame)
        if step % config.save_steps == 0 and step < config.max_steps:
            checkpoint.save(run.folder / "checkpoints" / f"step-{step:06d}", speaker.model, speaker.tokenizer)
        collapsed = guard.see(step, metrics)
        run.save(step, partial(state_of, apprentice, room, step), at_once=collapsed)
        if collapsed:
            guard.tell()
    checkpoint.save(run.folder / "policy", speaker.model, speaker.tokenizer)
    write_table(run.folder / "trajectories.parquet", pl.concat(shards(run.folder, "rollout-")))
    return {"steps": config.max_steps, **run.latest, **guard.summary}
