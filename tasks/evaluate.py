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
from tasks.collect import by_rule, problems_of
from tasks.preference import labelled
from tasks.rollout import Sampling, Speaker, as_frame, in_shards, load, speaker_in
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
    name: str,
    offset: int,
    total: int,
) -> pl.DataFrame:
    """Sample and judge every problem; the sampling seeds are the same for every policy. Shards bear the name."""
    sampling = Sampling(
        template=template,
        num_generations=generations,
        temperature=config.temperature,
        top_p=config.top_p,
        max_completion_length=config.max_completion_length,
        seed=config.seed,
    )
    frames = [as_frame([])]
    for done, frame in in_shards(run, name, speaker, problems, sampling, "evaluate", SHARD):
        run.progress(offset + done, total)
        frames.append(frame)
    return pl.concat(frames)


@stage(version=6, makes=Report, heavy=True)
def evaluate(run: Run, policy: Policy, problems: Table, template: Template, config: EvaluationConfig) -> Summary:
    """Measure a policy: `report.json`, `by_problem.parquet`, and its answers, `trajectories` and `general`."""
    speaker = load(policy, run.device)
    reasoning, general = by_rule(problems_of(problems))
    total = len(reasoning) + len(general)
    frame = measure(speaker, reasoning, template, config.num_generations, config, run, "problems", 0, total)
    answers = measure(
        speaker, general, template, config.general_generations, config, run, "general", len(reasoning), total
    )
    replies = labelled(answers)
    scores = by_problem(frame)
    write_table(run.folder / "trajectories.parquet", frame)
    write_table(run.folder / "general.parquet", replies)
    write_table(run.folder / "by_problem.parquet", scores)
    report = figures(scores, replies, config)
    write_json(run.folder / "report.json", report)
    return {key: value["value"] for key, value in report.items() if isinstance(value, dict) and "value" in value}


def columns(config: EvaluationConfig) -> dict[str, str]:
    """Figures on reasoning problems, and the column of `by_problem` that each is the mean of."""
    return {
        "pass@1": "pass@1",
        f"cons@{config.num_generations}": "cons",
        "format": "format",
        "language_consistency": "language_consistency",
        "mean_length": "mean_length",
        "reflection_per_response": "reflection_per_response",
    }


def figures(scores: pl.DataFrame, replies: pl.DataFrame, config: EvaluationConfig) -> dict[str, Json]:
    """Turn scores by problem into the figures of one policy."""
    report: dict[str, Json] = {
        name: figure(scores[column].drop_nulls().to_list(), config) for name, column in columns(config).items()
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


def wins(ours: pl.DataFrame, theirs: pl.DataFrame, score: str = "score") -> dict[str, float]:
    """Win rate for each helpful prompt: every answer of one policy against every answer of the other, ties a half."""
    rates = {}
    for (problem,), group in sorted(
        ours.filter(pl.col("verifier") == "helpful").group_by("problem_id"), key=lambda item: str(item[0])
    ):
        mine = group[score].to_numpy()[:, None]
        other = theirs.filter(pl.col("problem_id") == problem)[score].to_numpy()[None, :]
        rates[str(problem)] = float(((mine > other) + 0.5 * (mine == other)).mean())
    return rates


@stage(version=8, makes=Table, heavy=True)
def trace_curve(run: Run, policy: Policy, problems: Table, template: Template, config: EvaluationConfig) -> Summary:
    """Measure the checkpoints inside a training stage: `curve.parquet`, one row a step.

    Where training began and ended is measured by the evaluations of those policies.
    """
    reasoning, _ = by_rule(problems_of(problems))
    folders = checkpoints_of(policy)
    reports: list[tuple[int, dict[str, Json]]] = []
    for index, (step, folder) in enumerate(folders):
        frame = measure(speaker_in(folder, run.device), reasoning, template, config.num_generations, config, run,
                        f"step-{step:08d}", index * len(reasoning), len(folders) * len(reasoning))  # fmt: skip
        report = figures(by_problem(frame), labelled(as_frame([])), config)
        run.log(step, folders[-1][0], {name: report[name]["value"] for name in columns(config) if report[name]})
        reports.append((step, report))
    write_table(run.folder / "curve.parquet", curve_of(reports, config))
    return {"checkpoints": len(reports)}


def curve_of(reports: Sequence[tuple[int, Mapping[str, Json]]], config: EvaluationConfig) -> pl.DataFrame:
    """Lay the figures of policies at several steps out as a table: `step`, and `<figure>/value`, `/low`, `/high`.

    pass@1 of a family is the figure `by_family/<family>`.
    """
    flat = [{**each, **{f"by_family/{name}": one for name, one in each.get("by_family", {}).items()}}
            for _, each in reports]  # fmt: skip
    families = sorted({name for each in flat for name in each if name.startswith("by_family/")})
    names = [f"{name}/{end}" for name in (*columns(config), *families) for end in ("value", "low", "high")]
    rows = [
        [float(step), *((each.get(name) or {}).get(end) for name, _, end in (every.rpartition("/") for every in names))]
        for (step, _), each in zip(reports, flat, strict=True)
    ]
    return pl.DataFrame(rows, schema=dict.fromkeys(("step", *names), pl.Float64), orient="row")


def checkpoints_of(policy: Policy) -> list[tuple[int, Path]]:
    """List (step, folder) of the checkpoints inside a training stage, its final policy not among them."""
    inside = sorted((policy.folder / "checkpoints").glob("step-*"))
    return [(int(folder.name.removeprefix("step-")), folder) for folder in inside]


def scores_of(report: Report) -> pl.DataFrame:
    """Read the scores by problem of an evaluation."""
    return read_table(report.folder / "by_problem.parquet")
