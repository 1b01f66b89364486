"""Policy x problems -> scored groups, for training and for evaluation; `generate` keeps them as a table."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import polars as pl
import torch
from pydantic import Field

from data.judge import JudgeModel
from data.language import reflection_count
from data.lineage import WHEN_SET, Policy, Settings, Table, seed_of
from data.prompts import Template, parse, render, response
from data.records import Completion, Problem, Reward, Trajectory, Verdict
from data.store import read_table, write_table
from data.verifiers import Judge, Verifier
from model import checkpoint, ranks
from model.language import LanguageModel
from model.sampler import Sample, sample
from model.tokenizer import Tokenizer
from tasks.collect import JUDGE, by_rule, left_to_a_judge, problems_of, ruled
from tasks.judge import judge_of
from tasks.rewards import RewardWeights, reading, reward
from tasks.roles import fitted
from tasks.stage import Run, Summary, stage

Prefer = Callable[[Sequence[Trajectory]], Sequence[float]]
"""Preference scores in [0, 1] of answers to general prompts."""


INFRA_ERROR_BUDGET: Any = Field(
    0.01,
    ge=0,
    le=1,
    description="share of a step's verdicts that may fail before the stage stops",
    json_schema_extra={"identity": False},
)


class Sampling(Settings):
    """How completions are drawn."""

    template: Template = Field("chat", description="zero: plain text for a base model; chat: role tokens")
    num_generations: int = Field(4, ge=1, description="completions a problem")
    temperature: float = Field(1.0, ge=0, description="0 takes the likeliest token")
    top_p: float = Field(1.0, gt=0, le=1)
    max_completion_length: int = Field(192, ge=1, description="tokens; a longer completion is cut off")
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Speaker:
    """A language model with its tokenizer: what a policy is in memory."""

    model: LanguageModel
    tokenizer: Tokenizer


def load(policy: Policy, device: str, dtype: torch.dtype = torch.float32) -> Speaker:
    """Read a policy from its folder, in evaluation mode. Raises ValueError for a reward model."""
    return speaker_in(policy.checkpoint, device, dtype)


def speaker_in(folder: Path, device: str, dtype: torch.dtype = torch.float32) -> Speaker:
    """Read the policy of a checkpoint folder, in evaluation mode. Raises ValueError for a reward model."""
    model, tokenizer = checkpoint.load(folder, device=device, dtype=dtype)
    if not isinstance(model, LanguageModel):
        raise ValueError(f"{folder} holds a reward model, which scores texts and writes none")
    return Speaker(model, fitted(tokenizer))


def complete(
    speaker: Speaker,
    problems: Sequence[Problem],
    sampling: Sampling,
    stream: Sequence[object],
    on_progress: Callable[[int, int], None] | None = None,
    firsts: Sequence[int] | None = None,
    on_completion: Callable[[int, Completion], None] | None = None,
) -> list[list[Completion]]:
    """Draw `num_generations` completions a problem.

    The random stream of each is named by (`sampling.seed`, `stream`, problem id, sample number), so it
    does not depend on what else is drawn beside it. Numbers begin at `firsts`, 0 when left out.
    `on_completion(place, completion)` is called as each ends, while others are still drawn; `place` counts
    through all problems.
    """
    tokenizer = speaker.tokenizer
    prompts = tokenizer.encode_batch([render(problem.prompt, sampling.template) for problem in problems])
    _check_room(speaker, problems, prompts, sampling)
    seeds = [
        [seed_of(sampling.seed, *stream, problem.id, number) for number in numbers]
        for problem, numbers in zip(problems, _numbers(len(problems), sampling, firsts), strict=True)
    ]
    ended: dict[int, Completion] = {}

    def end(place: int, drawn: Sample) -> None:
        text = _text(tokenizer, drawn.ids)
        ended[place] = Completion(tuple(drawn.ids), tuple(drawn.logprobs), text, drawn.finish)
        if on_completion:
            on_completion(place, ended[place])

    sample(
        speaker.model,
        prompts,
        seeds,
        max_tokens=sampling.max_completion_length,
        temperature=sampling.temperature,
        top_p=sampling.top_p,
        stop_ids=[tokenizer.eos_id],
        on_progress=on_progress,
        on_sample=end,
    )
    size = sampling.num_generations
    return [[ended[begin + place] for place in range(size)] for begin in range(0, size * len(problems), size)]


def _check_room(
    speaker: Speaker, problems: Sequence[Problem], prompts: Sequence[Sequence[int]], sampling: Sampling
) -> None:
    """Raise ValueError where a prompt or the longest completion does not fit into the model's context."""
    context = speaker.model.context
    if sampling.max_completion_length >= context:
        raise ValueError(
            f"max_completion_length = {sampling.max_completion_length} fills the context of {context} tokens"
        )
    for problem, prompt in zip(problems, prompts, strict=True):
        if len(prompt) >= context:
            raise ValueError(f"problem {problem.id}: {len(prompt)} tokens, and the context has {context}")


def _numbers(problems: int, sampling: Sampling, firsts: Sequence[int] | None) -> list[range]:
    return [range(first, first + sampling.num_generations) for first in firsts or [0] * problems]


def rollout(
    speaker: Speaker,
    problems: Sequence[Problem],
    sampling: Sampling,
    weights: RewardWeights,
    *,
    stream: Sequence[object] = (),
    step: int = 0,
    prefer: Prefer | None = None,
    verifier: Verifier | None = None,
    on_progress: Callable[[int, int], None] | None = None,
    firsts: Sequence[int] | None = None,
) -> list[list[Trajectory]]:
    """Draw completions, judge each as it ends, and return the groups in the order of the problems.

    Where there are several ranks, each does so for its share of the problems, and all get all groups.

    `firsts` are the numbers of the problems' first samples, for a problem that is asked more than once.
    `verifier` is left open; without one, a verifier with its own defaults serves this call.
    """
    size, template = sampling.num_generations, sampling.template
    problems, firsts = ranks.mine(problems), ranks.mine(firsts) if firsts else None
    with nullcontext(verifier) if verifier else Verifier() as judge:
        pending: dict[int, Future[Verdict]] = {}

        def end(place: int, completion: Completion) -> None:
            problem = problems[place // size]
            if ruled(problem) or problem.verifier == JUDGE:
                pending[place] = judge.submit(problem, _response(problem, completion, template), template)

        completions = complete(speaker, problems, sampling, stream, on_progress, firsts, end)
        verdicts = dict(zip(pending, judge.wait(pending.values()), strict=True))
    pairs = [(p, c) for p, group in zip(problems, completions, strict=True) for c in group]
    numbers = [number for each in _numbers(len(problems), sampling, firsts) for number in each]
    flat = [
        _trajectory(problem, completion, number, verdicts.get(place), template, weights, step)
        for place, ((problem, completion), number) in enumerate(zip(pairs, numbers, strict=True))
    ]
    if prefer is not None:
        flat = _preferred(flat, prefer, template, weights)
    return ranks.merged([flat[begin : begin + size] for begin in range(0, len(flat), size)])


def _response(problem: Problem, completion: Completion, template: Template) -> str:
    return response(render(problem.prompt, template), completion.text)


def infra_errors(trajectories: Sequence[Trajectory]) -> list[Trajectory]:
    """Those of which nothing is known, since the machinery that judges failed."""
    return [each for each in trajectories if each.verdict is not None and each.verdict.status == "infra_error"]


def check_budget(failed: Sequence[Trajectory], of: int, budget: float, where: str) -> None:
    """Raise ValueError, naming a cause, where more than this share of `of` verdicts failed."""
    if len(failed) > budget * of:
        first = failed[0]
        assert first.verdict is not None
        raise ValueError(
            f"{where}: {len(failed)} of {of} verdicts failed, more than infra_error_budget = {budget}; "
            f"the first, of {first.id} ({first.problem.verifier}): {first.verdict.reason}"
        )


def _text(tokenizer: Tokenizer, ids: Sequence[int]) -> str:
    return tokenizer.decode([token for token in ids if token != tokenizer.eos_id])


def _trajectory(
    problem: Problem,
    completion: Completion,
    number: int,
    verdict: Verdict | None,
    template: Template,
    weights: RewardWeights,
    step: int,
) -> Trajectory:
    parts, language = reading(_response(problem, completion, template), template, problem.language)
    ratio = language.ratio if language else None
    return Trajectory(
        id=f"{step}/{problem.id}/{number}" if step else f"{problem.id}/{number}",
        problem=problem,
        completion=completion,
        thinking=parts.thinking,
        answer=parts.answer,
        verdict=verdict,
        reward=reward(parts, verdict, ratio, None, weights),
        consistency=ratio,
        reflections=reflection_count(completion.text),
        step=step,
    )


def _preferred(
    flat: Sequence[Trajectory], prefer: Prefer, template: Template, weights: RewardWeights
) -> list[Trajectory]:
    general = [index for index, each in enumerate(flat) if each.verdict is None]
    scores = dict(zip(general, prefer([flat[index] for index in general]), strict=True))
    scored = list(flat)
    for index, preference in scores.items():
        each = flat[index]
        parts = parse(_response(each.problem, each.completion, template), template)
        again = reward(parts, None, each.consistency, preference, weights)
        scored[index] = replace(each, reward=again)
    return scored


def as_frame(trajectories: Sequence[Trajectory]) -> pl.DataFrame:
    """Lay trajectories out as a table, one row each, every part of the reward a column."""
    return pl.DataFrame([_row(each) for each in trajectories], schema=SCHEMA)


def with_tokens(trajectories: Sequence[Trajectory]) -> pl.DataFrame:
    """Lay trajectories out with the tokens and log-probabilities that training needs: `trajectories_in` reads them."""
    return as_frame(trajectories).with_columns(
        pl.Series("ids", [each.completion.ids for each in trajectories], pl.List(pl.Int32)),
        pl.Series("logprobs", [each.completion.logprobs for each in trajectories], pl.List(pl.Float64)),
    )


def trajectories_in(frame: pl.DataFrame) -> list[Trajectory]:
    """Read trajectories back from a table with tokens."""
    return [_read(row) for row in frame.iter_rows(named=True)]


def _read(row: Mapping[str, Any]) -> Trajectory:
    problem = Problem(row["problem_id"], **{name: row[name] for name in PROBLEM})
    completion = Completion(tuple(row["ids"]), tuple(row["logprobs"]), row["completion"], row["finish"])
    judged = Verdict(row["verdict"], row["extracted"], row["reason_detail"]) if row["verdict"] else None
    parts = {part: row[f"reward_{part}"] for part in PARTS if row[f"reward_{part}"] is not None}
    return Trajectory(
        id=row["id"],
        problem=problem,
        completion=completion,
        thinking=row["thinking"],
        answer=row["answer"],
        verdict=judged,
        reward=Reward(row["reward"], parts),
        consistency=row["consistency"],
        reflections=row["reflections"],
        step=row["step"],
        advantage=row["advantage"],
    )


PROBLEM = ("key", "family", "language", "prompt", "solution", "verifier")
PARTS = ("accuracy", "format", "language", "preference")

SCHEMA: dict[str, Any] = {
    "id": pl.String,
    "problem_id": pl.String,
    "key": pl.String,
    "family": pl.String,
    "language": pl.String,
    "prompt": pl.String,
    "solution": pl.String,
    "verifier": pl.String,
    "completion": pl.String,
    "thinking": pl.String,
    "answer": pl.String,
    "tokens": pl.Int32,
    "finish": pl.String,
    "well_formed": pl.Boolean,
    "verdict": pl.String,
    "extracted": pl.String,
    "reason_detail": pl.String,
    "reward": pl.Float64,
    **{f"reward_{part}": pl.Float64 for part in PARTS},
    "consistency": pl.Float64,
    "reflections": pl.Int32,
    "step": pl.Int32,
    "advantage": pl.Float64,
}


def _row(each: Trajectory) -> dict[str, object]:
    problem, completion, verdict, earned = each.problem, each.completion, each.verdict, each.reward
    return {
        "id": each.id,
        "problem_id": problem.id,
        "key": problem.key,
        "family": problem.family,
        "language": problem.language,
        "prompt": problem.prompt,
        "solution": problem.solution,
        "verifier": problem.verifier,
        "completion": completion.text,
        "thinking": each.thinking,
        "answer": each.answer,
        "tokens": len(completion.ids),
        "finish": completion.finish,
        "well_formed": each.thinking is not None,
        "verdict": verdict.status if verdict else None,
        "extracted": verdict.answer if verdict else None,
        "reason_detail": verdict.reason if verdict else None,
        "reward": earned.total,
        **{f"reward_{part}": earned.parts.get(part) for part in PARTS},
        "consistency": each.consistency,
        "reflections": each.reflections,
        "step": each.step,
        "advantage": each.advantage,
    }


class GenerateConfig(Settings):
    """Trajectories of a policy on training problems."""

    sampling: Sampling = Sampling()
    problems: int = Field(1000, ge=1, description="how many problems of the set are asked, from its start")
    general: bool = Field(False, description="ask the general prompts instead of the reasoning problems")
    judge: JudgeModel | None = Field(
        None, description="in rejection sampling, from the recipe's [judge]", json_schema_extra=WHEN_SET
    )
    infra_error_budget: float = INFRA_ERROR_BUDGET


@stage(version=6, makes=Table, heavy=True)
def generate(run: Run, policy: Policy, problems: Table, config: GenerateConfig) -> Summary:
    """Sample trajectories: `trajectories.parquet`, one row a completion.

    Problems that only a language model can judge are asked where there is one; else they are left out and counted.
    """
    every = problems_of(problems)
    asked = by_rule(every, with_judge=config.judge is not None)[config.general][: config.problems]
    if not asked:
        raise ValueError(f"{problems.key} holds no {'general prompts' if config.general else 'reasoning problems'}")
    speaker = load(policy, run.device)
    judge = judge_of(config.judge, run.device) if config.judge else None
    shards = []
    for done, shard in in_shards(
        run, "answers", speaker, asked, config.sampling, "generate", SHARD, config.infra_error_budget, judge
    ):
        run.progress(done, len(asked))
        shards.append(shard)
    frame = pl.concat(shards)
    write_table(run.folder / "trajectories.parquet", frame)
    return {
        "rows": len(frame),
        "problems": len(asked),
        "accuracy": None if config.general else _mean(frame, pl.col("verdict") == "correct"),
        "well_formed": _mean(frame, pl.col("well_formed")),
        "mean_length": _mean(frame, pl.col("tokens")),
        **({} if config.general or judge else left_to_a_judge(every)),
    }


SHARD = 128
"""Problems sampled at a time by `generate`."""


def in_shards(
    run: Run,
    name: str,
    speaker: Speaker,
    problems: Sequence[Problem],
    sampling: Sampling,
    stream: str,
    size: int,
    budget: float = 0.01,
    judge: Judge | None = None,
) -> Iterator[tuple[int, pl.DataFrame]]:
    """Draw and judge `size` problems at a time; yields how many are done and the shard's trajectories as a table.

    A shard is kept under the name, so that another attempt of the stage takes it. Raises ValueError where more
    than the budget of a shard's verdicts failed.
    """
    weights = RewardWeights(language_weight=1.0)

    def answers(begin: int) -> pl.DataFrame:
        part = problems[begin : begin + size]
        with Verifier(isolation=run.session.isolation, judge=judge) as verifier:
            groups = rollout(speaker, part, sampling, weights, stream=(stream,), verifier=verifier)
        flat = [each for group in groups for each in group]
        check_budget(infra_errors(flat), len(flat), budget, f"{run.name}, problems {begin} to {begin + len(part)}")
        return as_frame(flat)

    for begin in range(0, len(problems), size):
        frame = run.shard(f"{name}-{begin:08d}", partial(answers, begin))
        yield min(begin + size, len(problems)), frame


def trajectories_of(table: Table) -> pl.DataFrame:
    """Read the trajectories of a table."""
    return read_table(table.folder / "trajectories.parquet")


def mean_parts(trajectories: Sequence[Trajectory]) -> Mapping[str, float]:
    """Average each part of the reward over the trajectories that it applies to, under TRL's names."""
    means = {}
    for part in PARTS:
        values = [each.reward.parts[part] for each in trajectories if part in each.reward.parts]
        if values:
            means[f"rewards/{part}/mean"] = sum(values) / len(values)
    return means


def _mean(frame: pl.DataFrame, column: pl.Expr) -> float:
    return float(frame.select(column.cast(pl.Float64).mean()).item())
