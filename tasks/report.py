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
from data.mixture import declared
from data.sets import composition
from data.store import read_table, write_table
from data.waterfall import breakdown, by_reason, examples
from tasks import page
from tasks.evaluate import EvaluationConfig, columns, curve_of, figure, scores_of, wins
from tasks.findings import CLAIMS, Finding, Scores, find
from tasks.preference import load_judge, seen
from tasks.stage import Run, Summary, stage

RIVAL = "dev3"
"""Whose replies every model's are compared with: the start of the last RL."""

PUBLISHED = frozenset({"zero_curves", "families", "consistency", "stages", "waterfall", "reflection"})
"""Figures that are also written as files of their own."""

Kinds = Mapping[str, tuple[str, str]]
"""Problem -> its family and language."""

STARTS = {"zero": "base", "dev2": "dev1", "dev2_without_language_reward": "dev1"}
"""Where the training that a curve follows begins."""


@stage(version=5, makes=Report)
def report(
    run: Run,
    evaluations: Mapping[str, Report],
    curves: Mapping[str, Table],
    trained: Mapping[str, Policy],
    rows: Table,
    judges: Sequence[Judge],
    config: EvaluationConfig,
    read_on: Mapping[str, Policy],
) -> Summary:
    """Write what a run shows, as figures, values and a page; `read_on` are the policies that were mid-trained.

    `models.json` and `findings.json`; `scores.parquet`, a value a model, measure and problem, and
    `curves.parquet`, which they are made of; `report.html`, and some of its figures under `figures`.
    """
    answers = {name: read_table(each.folder / "trajectories.parquet") for name, each in evaluations.items()}
    general = {name: read_table(each.folder / "general.parquet") for name, each in evaluations.items()}
    replies = judged(general, judges, run.device)
    scores = {
        name: measures(scores_of(each), answers[name], replies[name], replies.get(RIVAL))
        for name, each in evaluations.items()
    }
    kinds = {problem: (family, language) for each in answers.values() for problem, family, language in
             each.select("problem_id", "family", "language").iter_rows()}  # fmt: skip
    models = {name: model_figures(found, kinds, config) for name, found in scores.items()}
    findings = [find(claim, scores, config) for claim in CLAIMS]
    histories = {name: history_of(policy) for name, policy in trained.items()}
    traced = {
        name: with_ends(
            read_table(table.folder / "curve.parquet"), models[STARTS[name]], models[name],
            int(histories[name][-1]["step"]), config,
        )
        for name, table in curves.items()
    }  # fmt: skip
    write_json(run.folder / "models.json", models)
    write_json(run.folder / "findings.json", [finding.as_json() for finding in findings])
    write_table(run.folder / "scores.parquet", scores_frame(scores, kinds))
    write_table(run.folder / "curves.parquet", curves_frame(traced))
    drawn = draw(models, traced, histories, rows, config)
    publish(drawn, run.folder / "figures")
    readings = {name: each.record()["summary"] for name, each in read_on.items()}
    sources = {name: each.key for name, each in evaluations.items()} | {rows.name: rows.key}
    domains = declared(rows.record())
    content = page.Content(
        models,
        findings,
        drawn,
        by_reason(breakdown(rows.folder, domains)),
        composition(rows.folder, domains),
        examples(rows.folder, 2),
        answers,
        replies,
        config,
        sources,
        readings,
    )
    (run.folder / "report.html").write_text(page.render(content), encoding="utf-8")
    losses = {f"{name}/{key}": told[key] for name, told in readings.items() for key in page.TEXT_LOSSES}
    return summary(models, findings) | losses


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


def measures(
    scores: pl.DataFrame, answers: pl.DataFrame, replies: pl.DataFrame, rival: pl.DataFrame | None
) -> dict[str, dict[str, float]]:
    """Collect the values by problem of one model, for its figures and for paired comparisons."""
    by_rule = ("pass@1", "cons", "format", "mean_length", "reflection_per_response", "language_consistency")
    values = {measure: _by_problem(scores, measure) for measure in by_rule}
    ends = [has_summary(*row) for row in answers.select("answer", "extracted", "language").iter_rows()]
    values["summary"] = _means(answers.with_columns(pl.Series("summary", ends, dtype=pl.Boolean)), "summary")
    values["safe"] = _means(replies.filter(pl.col("verifier") == "harmless"), "safe")
    has_judge = rival is not None and rival["judge_score"].is_not_null().any()
    values["helpful_win_rate"] = wins(replies, rival) if rival is not None else {}
    values["helpful_win_rate_by_judge"] = wins(replies, rival, "judge_score") if rival is not None and has_judge else {}
    return values


def model_figures(values: Mapping[str, Mapping[str, float]], kinds: Kinds, config: EvaluationConfig) -> dict[str, Json]:
    """Turn one model's values by problem into its figures, each with its interval."""
    names = columns(config) | {
        "harmless_rate": "safe",
        "helpful_win_rate": "helpful_win_rate",
        "helpful_win_rate_by_judge": "helpful_win_rate_by_judge",
    }
    found: dict[str, Json] = {name: figure(list(values[measure].values()), config) for name, measure in names.items()}
    for place, part in enumerate(("family", "language")):
        groups: dict[str, list[float]] = {}
        for problem, value in values["pass@1"].items():
            groups.setdefault(kinds[problem][place], []).append(value)
        found[f"by_{part}"] = {name: figure(groups[name], config) for name in sorted(groups)}
    return found


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


def scores_frame(scores: Scores, kinds: Kinds) -> pl.DataFrame:
    """Lay the values by model, measure and problem out as a table, each with its problem's family and language."""
    rows = [
        (model, measure, problem, *kinds.get(problem, (None, None)), value)
        for model, of in scores.items()
        for measure, values in of.items()
        for problem, value in values.items()
    ]
    names = ("model", "measure", "problem_id", "family", "language")
    return pl.DataFrame(rows, schema=dict.fromkeys(names, pl.String) | {"value": pl.Float64}, orient="row")


def curves_frame(traced: Mapping[str, pl.DataFrame]) -> pl.DataFrame:
    """Put several curves into one table, told apart by the column `curve`."""
    named = [frame.select(pl.lit(name).alias("curve"), pl.all()) for name, frame in traced.items()]
    return pl.concat(named, how="diagonal")


def draw(
    models: Mapping[str, Mapping[str, Json]],
    traced: Mapping[str, pl.DataFrame],
    histories: Mapping[str, Sequence[Mapping[str, float]]],
    rows: Table,
    config: EvaluationConfig,
) -> dict[str, str]:
    """Draw every figure as SVG."""
    from tasks import figures

    votes = page.votes_of(config)
    return {
        "families": figures.families(traced.get("zero")),
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
    ends = curve_of([(0, start)], config), curve_of([(steps, end)], config)
    return pl.concat([ends[0], curve, ends[1]], how="diagonal")


def history_of(policy: Policy) -> list[dict[str, float]]:
    """Read the metrics of a training stage, one entry a step, each with what was measured in it."""
    with (policy.folder / METRICS).open(encoding="utf-8") as lines:
        return [json.loads(line) for line in lines]


def publish(drawn: Mapping[str, str], folder: Path) -> None:
    """Write the figures that stand alone."""
    folder.mkdir()
    for name in PUBLISHED & drawn.keys():
        (folder / f"{name}.svg").write_text(drawn[name], encoding="utf-8")


def summary(models: Mapping[str, Mapping[str, Json]], findings: Sequence[Finding]) -> Summary:
    """Count the verdicts, and give pass@1 of every model."""
    verdicts = [finding.verdict for finding in findings]
    counts = {"shows": verdicts.count("shows"), "does_not_show": verdicts.count("does not show"),
              "unclear": verdicts.count("unclear")}  # fmt: skip
    accuracy = {name: model["pass@1"]["value"] for name, model in models.items() if model["pass@1"]}
    return counts | {f"{name}/pass@1": value for name, value in accuracy.items()}
