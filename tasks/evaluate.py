"""Policy x held-out problems -> Report: every figure with a bootstrap interval over problems.

As in DeepSeek-R1 (section 3): pass@1 is the mean over k samples at T = 0.6 and top-p 0.95, cons@k the
majority vote. Nothing learns from these problems or is chosen by them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import polars as pl
from pydantic import Field

from data.lineage import Json, Policy, Report, Settings, Table, seed_of, write_json
from data.prompts import Template
from data.records import Problem
from data.store import read_table, write_table
from tasks.collect import RULED, problems_of
from tasks.preference import labelled
from tasks.rewards import RewardWeights
from tasks.rollout import Sampling, Speaker, as_frame, load, rollout, speaker_in
from tasks.stage import Run, Summary, stage

SHARD = 32
"""Problems evaluated at a time."""


class EvaluationConfig(Settings):
    """How a policy is measured."""

    num_generations: int = Field(16, ge=1, description="samples a problem (k)")
    general_generations: int = Field(4, ge=1, description="samples a general prompt")
    temperature: float = Field(0.6, ge=0)
    top_p: float = Field(0.95, gt=0, le=1)
    max_completion_length: int = Field(192, ge=1)
    bootstrap: int = Field(2000, ge=100, description="resamples of the problems for an interval")
    seed: int = 0


def figure(values: Sequence[float] | np.ndarray, config: EvaluationConfig) -> dict[str, float] | None:
    """Mean of one value a problem with its 95 % bootstrap interval over problems; None without problems."""
    if not len(values):
        return None
    sample = np.asarray(values, dtype=np.float64)
    means = resampled_means(sample, config)
    low, high = np.quantile(means, [0.025, 0.975])
    return {"value": float(sample.mean()), "low": float(low), "high": float(high)}


def resampled_means(sample: np.ndarray, config: EvaluationConfig) -> np.ndarray:
    """Means of `config.bootstrap` resamples of the problems; equal seeds resample equally, so differences pair."""
    generator = np.random.default_rng(seed_of(config.seed, "bootstrap"))
    chosen = generator.integers(0, len(sample), size=(config.bootstrap, len(sample)))
    means: np.ndarray = sample[chosen].mean(axis=1)
    return means


def paired_difference(ours: Sequence[float], theirs: Sequence[float], config: EvaluationConfig) -> dict[str, float]:
    """Interval of the mean difference of two policies over the same problems."""
    found = figure(np.asarray(ours) - np.asarray(theirs), config)
    assert found is not None
    return found


def majority(extracted: Sequence[str | None], correct: Sequence[bool]) -> float:
    """Return 1 when the most frequent answer is correct, 0 when not; a tie counts its share of correct ones."""
    votes = Counter(answer for answer in extracted if answer is not None)
    if not votes:
        return 0.0
    most = max(votes.values())
    winners = [answer for answer, count in votes.items() if count == most]
    right = {answer for answer, good in zip(extracted, correct, strict=True) if good and answer is not None}
    return sum(answer in right for answer in winners) / len(winners)


def by_problem(frame: pl.DataFrame) -> pl.DataFrame:
    """Reduce trajectories to one row a problem with the figures that intervals are taken over."""
    correct = pl.col("verdict").eq("correct").fill_null(False)
    groups = frame.group_by("problem_id", maintain_order=True).agg(
        pl.col("family").first(),
        pl.col("language").first(),
        correct.mean().alias("pass@1"),
        pl.col("well_formed").mean().alias("format"),
        pl.col("tokens").mean().alias("mean_length"),
        pl.col("reflections").mean().alias("reflection_per_response"),
        pl.col("consistency").mean().alias("language_consistency"),
        pl.col("extracted"),
        correct.alias("right"),
    )
    votes = [majority(row[0], row[1]) for row in groups.select("extracted", "right").iter_rows()]
    return groups.drop("extracted", "right").with_columns(pl.Series("cons", votes, pl.Float64))


def measure(
    speaker: Speaker,
    problems: Sequence[Problem],
    template: Template,
    generations: int,
    config: EvaluationConfig,
    run: Run,
    offset: int,
    total: int,
) -> pl.DataFrame:
    """Sample and judge every problem; the sampling seeds are the same for every policy."""
    sampling = Sampling(
        template=template,
        num_generations=generations,
        temperature=config.temperature,
        top_p=config.top_p,
        max_completion_length=config.max_completion_length,
        seed=config.seed,
    )
    frames = []
    for begin in range(0, len(problems), SHARD):
        part = problems[begin : begin + SHARD]
        groups = rollout(speaker, part, sampling, RewardWeights(language_weight=1.0), stream=("evaluate",),
                         isolation=run.session.isolation)  # fmt: skip
        frames.append(as_frame([each for group in groups for each in group]))
        run.progress(offset + begin + len(part), total)
    return pl.concat(frames) if frames else as_frame([])


@stage(version=1, makes=Report)
def evaluate(run: Run, policy: Policy, problems: Table, template: Template, config: EvaluationConfig) -> Summary:
    """Measure a policy: `report.json`, `by_problem.parquet`, and its answers, `trajectories` and `general`."""
    speaker = load(policy, run.device)
    everything = problems_of(problems)
    reasoning = [p for p in everything if p.verifier in RULED]
    general = [p for p in everything if p.verifier not in RULED]
    total = len(everything)
    frame = measure(speaker, reasoning, template, config.num_generations, config, run, 0, total)
    answers = measure(speaker, general, template, config.general_generations, config, run, len(reasoning), total)
    replies = labelled(answers)
    scores = by_problem(frame)
    write_table(run.folder / "trajectories.parquet", frame)
    write_table(run.folder / "general.parquet", replies)
    write_table(run.folder / "by_problem.parquet", scores)
    report = figures(scores, replies, config)
    write_json(run.folder / "report.json", report)
    return {key: value["value"] for key, value in report.items() if isinstance(value, dict) and "value" in value}


def figures(scores: pl.DataFrame, replies: pl.DataFrame, config: EvaluationConfig) -> dict[str, Json]:
    """Turn scores by problem into the figures of one policy."""
    columns = {"pass@1": "pass@1", f"cons@{config.num_generations}": "cons", "format": "format",
               "language_consistency": "language_consistency", "mean_length": "mean_length",
               "reflection_per_response": "reflection_per_response"}  # fmt: skip
    report: dict[str, Json] = {
        name: figure(scores[column].drop_nulls().to_list(), config) for name, column in columns.items()
    }
    harmless = replies.filter(pl.col("verifier") == "harmless")
    safe = harmless.group_by("problem_id", maintain_order=True).agg(pl.col("safe").mean())["safe"].to_list()
    report["harmless_rate"] = figure(safe, config)
    for column in ("family", "language"):
        report[f"by_{column}"] = {
            str(name): figure(part["pass@1"].to_list(), config)
            for (name,), part in sorted(scores.group_by(column), key=lambda item: str(item[0]))
        }
    return report


def wins(ours: pl.DataFrame, theirs: pl.DataFrame, score: str = "score") -> list[float]:
    """Win rate for each helpful prompt: every answer of one policy against every answer of the other, ties a half."""
    rates = []
    for (problem,), group in sorted(
        ours.filter(pl.col("verifier") == "helpful").group_by("problem_id"), key=lambda item: str(item[0])
    ):
        mine = group[score].to_numpy()[:, None]
        other = theirs.filter(pl.col("problem_id") == problem)[score].to_numpy()[None, :]
        rates.append(float(((mine > other) + 0.5 * (mine == other)).mean()))
    return rates


@stage(version=1, makes=Table)
def trace_curve(run: Run, policy: Policy, problems: Table, template: Template, config: EvaluationConfig) -> Summary:
    """Measure the checkpoints inside a training stage: `curve.parquet`, one row a step."""
    reasoning = [p for p in problems_of(problems) if p.verifier in RULED]
    folders = checkpoints_of(policy)
    rows: list[Mapping[str, float]] = []
    for index, (step, folder) in enumerate(folders):
        frame = measure(speaker_in(folder, run.device), reasoning, template, config.num_generations, config, run,
                        index * len(reasoning), len(folders) * len(reasoning))  # fmt: skip
        report = figures(by_problem(frame), labelled(as_frame([])), config)
        row = {"step": float(step)} | {
            f"{name}/{end}": value[end]
            for name, value in report.items() if isinstance(value, dict) and "value" in value
            for end in ("value", "low", "high")
        }  # fmt: skip
        run.log(
            step,
            folders[-1][0],
            {name.removesuffix("/value"): v for name, v in row.items() if "/value" in name},
        )
        rows.append(row)
    write_table(run.folder / "curve.parquet", pl.DataFrame(rows))
    return {"checkpoints": len(rows)}


def checkpoints_of(policy: Policy) -> list[tuple[int, Path]]:
    """List (step, folder) of the checkpoints inside a training stage, its final policy last."""
    inside = sorted((policy.folder / "checkpoints").glob("step-*"))
    found = [(int(folder.name.removeprefix("step-")), folder) for folder in inside]
    return [*found, (int(policy.record()["summary"]["steps"]), policy.checkpoint)]


def scores_of(report: Report) -> pl.DataFrame:
    """Read the scores by problem of an evaluation."""
    return read_table(report.folder / "by_problem.parquet")
