"""Evaluations of every model -> the figures and tables of a whole run: JSON, SVG, and one page of HTML.

The page shows what DeepSeek-R1 shows: the curves of R1-Zero (Fig. 2 and 3 of v1), the table by stage
(Table 3 of v2), the language ablation (Fig. 7), reflection (Fig. 9), distillation against RL.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import polars as pl

from data.language import consistency
from data.lineage import METRICS, Json, Judge, Policy, Report, Table, read_json, write_json
from data.store import read_table
from tasks import page
from tasks.evaluate import EvaluationConfig, curve_of, figure, scores_of, wins
from tasks.findings import CLAIMS, Finding, find
from tasks.preference import load_judge, seen
from tasks.stage import Run, Summary, stage

RIVAL = "dev3"
"""Whose replies every model's are compared with: the start of the last RL."""

PUBLISHED = ("zero_curves", "consistency", "stages", "waterfall")
"""Figures that are also written as files of their own."""

STARTS = {"zero": "base", "dev2": "dev1", "dev2_without_language_reward": "dev1"}
"""Where the training that a curve follows begins."""


@stage(version=1, makes=Report)
def report(
    run: Run,
    evaluations: Mapping[str, Report],
    curves: Mapping[str, Table],
    trained: Mapping[str, Policy],
    rows: Table,
    judges: Sequence[Judge],
    config: EvaluationConfig,
) -> Summary:
    """Write `models.json`, `findings.json`, `report.html`, and some of its figures under `figures`."""
    answers = {name: read_table(each.folder / "trajectories.parquet") for name, each in evaluations.items()}
    general = {name: read_table(each.folder / "general.parquet") for name, each in evaluations.items()}
    replies = judged(general, judges, run.device)
    models = {
        name: model_figures(read_json(each.folder / "report.json"), replies[name], replies.get(RIVAL), config)
        for name, each in evaluations.items()
    }
    scores = {
        name: measures(scores_of(each), answers[name], replies[name], replies.get(RIVAL))
        for name, each in evaluations.items()
    }
    findings = [find(claim, scores, config) for claim in CLAIMS]
    write_json(run.folder / "models.json", models)
    write_json(run.folder / "findings.json", [finding.as_json() for finding in findings])
    drawn = draw(models, curves, trained, rows, config)
    publish(drawn, run.folder / "figures")
    sources = {name: each.key for name, each in evaluations.items()} | {rows.name: rows.key}
    content = page.Content(
        models,
        findings,
        drawn,
        read_table(rows.folder / "dropped.parquet"),
        answers,
        replies,
        config,
        sources,
    )
    (run.folder / "report.html").write_text(page.render(content), encoding="utf-8")
    return summary(models, findings)


def judged(general: Mapping[str, pl.DataFrame], judges: Sequence[Judge], device: str) -> dict[str, pl.DataFrame]:
    """Add `judge_score`, the helpful reward model's score of each helpful reply; null without one."""
    helpful = [judge for judge in judges if read_json(judge.folder / "scale.json")["kind"] == "helpful"]
    scorer = load_judge(helpful[0], device) if helpful else None
    scored = {}
    for name, frame in general.items():
        rows = list(frame.select("id", "verifier", "prompt", "thinking", "answer").iter_rows(named=True))
        asked = [row for row in rows if row["verifier"] == "helpful"] if scorer else []
        texts = [seen("helpful", row["prompt"], row["thinking"], row["answer"]) for row in asked]
        found = scorer(texts) if scorer else []
        by_id = {row["id"]: score for row, score in zip(asked, found, strict=True)}
        column = pl.Series("judge_score", [by_id.get(row["id"]) for row in rows], dtype=pl.Float64)
        scored[name] = frame.with_columns(column)
    return scored


def model_figures(
    measured: Mapping[str, Json], replies: pl.DataFrame, rival: pl.DataFrame | None, config: EvaluationConfig
) -> dict[str, Json]:
    """Join the figures of one evaluation with its win rates against the rival, by rubric and reward model."""
    by_rubric = wins(replies, rival) if rival is not None else []
    has_judge = rival is not None and rival["judge_score"].is_not_null().any()
    by_judge = wins(replies, rival, "judge_score") if rival is not None and has_judge else []
    win_rates = {
        "helpful_win_rate": figure(by_rubric, config),
        "helpful_win_rate_by_judge": figure(by_judge, config),
    }
    return {**measured, **win_rates}


def measures(
    scores: pl.DataFrame, answers: pl.DataFrame, replies: pl.DataFrame, rival: pl.DataFrame | None
) -> dict[str, dict[str, float]]:
    """Collect the values by problem of one model, for paired comparisons."""
    columns = ("pass@1", "cons", "mean_length", "reflection_per_response", "language_consistency")
    values = {column: _by_problem(scores, column) for column in columns}
    ends = [has_summary(*row) for row in answers.select("answer", "extracted", "language").iter_rows()]
    values["summary"] = _means(answers.with_columns(pl.Series("summary", ends, dtype=pl.Boolean)), "summary")
    values["safe"] = _means(replies.filter(pl.col("verifier") == "harmless"), "safe")
    won = wins(replies, rival) if rival is not None else []
    values["helpful_win_rate"] = {str(index): rate for index, rate in enumerate(won)}
    return values


def has_summary(answer: str | None, extracted: str | None, language: str) -> bool:
    """Whether what follows the thinking says more, in words, than the bare result."""
    rest = (answer or "").replace(extracted, "") if extracted else answer or ""
    return consistency(rest, language).words > 0


def _by_problem(frame: pl.DataFrame, column: str) -> dict[str, float]:
    pairs = frame.select("problem_id", pl.col(column).cast(pl.Float64)).drop_nulls()
    return dict(pairs.iter_rows())


def _means(frame: pl.DataFrame, column: str) -> dict[str, float]:
    means = frame.group_by("problem_id", maintain_order=True).agg(pl.col(column).cast(pl.Float64).mean())
    return _by_problem(means, column)


def draw(
    models: Mapping[str, Mapping[str, Json]],
    curves: Mapping[str, Table],
    trained: Mapping[str, Policy],
    rows: Table,
    config: EvaluationConfig,
) -> dict[str, str]:
    """Draw every figure as SVG."""
    from tasks import figures

    histories = {name: history_of(policy) for name, policy in trained.items()}
    traced = {
        name: with_ends(
            read_table(table.folder / "curve.parquet"),
            models[STARTS[name]],
            models[name],
            int(histories[name][-1]["step"]),
            config,
        )
        for name, table in curves.items()
    }
    votes = f"cons@{config.num_generations}"
    return {
        "zero_curves": figures.zero_curves(traced.get("zero"), histories.get("zero", []), votes),
        "consistency": figures.consistency(traced),
        "stages": figures.stages(models, votes),
        "waterfall": figures.waterfall(read_table(rows.folder / "waterfall.parquet")),
        "reflection": figures.reflection(models, traced.get("zero")),
        "health": figures.health(histories),
    }


def with_ends(
    curve: pl.DataFrame, start: Mapping[str, Json], end: Mapping[str, Json], steps: int, config: EvaluationConfig
) -> pl.DataFrame:
    """Put where training began, as step 0, and where it ended around a curve."""
    return pl.concat([curve_of([(0, start)], config), curve, curve_of([(steps, end)], config)])


def history_of(policy: Policy) -> list[dict[str, float]]:
    """Read the metrics of a training stage, one entry a step, each with what was measured in it."""
    with (policy.folder / METRICS).open(encoding="utf-8") as lines:
        return [json.loads(line) for line in lines]


def publish(drawn: Mapping[str, str], folder: Path) -> None:
    """Write the figures that stand alone."""
    folder.mkdir()
    for name in PUBLISHED:
        (folder / f"{name}.svg").write_text(drawn[name], encoding="utf-8")


def summary(models: Mapping[str, Mapping[str, Json]], findings: Sequence[Finding]) -> Summary:
    """Count the verdicts, and give pass@1 of every model."""
    verdicts = [finding.verdict for finding in findings]
    counts = {"shows": verdicts.count("shows"), "does_not_show": verdicts.count("does not show"),
              "unclear": verdicts.count("unclear")}  # fmt: skip
    accuracy = {name: model["pass@1"]["value"] for name, model in models.items() if model["pass@1"]}
    return counts | {f"{name}/pass@1": value for name, value in accuracy.items()}
