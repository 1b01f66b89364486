"""Reports of one recipe under several seeds of training -> one report of their means.

A value of a model on a problem is averaged over the seeds first; figures, intervals and findings are then
made of the averages as for a single run. So the intervals cover the choice of problems, with the noise of
training averaged out as far as the seeds go.
"""

from __future__ import annotations

from collections.abc import Sequence

import polars as pl

from data.lineage import Json, Report, read_json, write_json
from data.store import read_table, write_table
from tasks import page
from tasks.evaluate import EvaluationConfig
from tasks.findings import CLAIMS, find
from tasks.report import Kinds, model_figures, publish, summary
from tasks.stage import Run, Summary, stage


@stage(version=3, makes=Report)
def average(run: Run, reports: Sequence[Report], config: EvaluationConfig) -> Summary:
    """Write the same files as `report`, of the means over the reports."""
    values = mean_scores([read_table(each.folder / "scores.parquet") for each in reports])
    curves = mean_curves([read_table(each.folder / "curves.parquet") for each in reports])
    scores, kinds = as_scores(values)
    models: dict[str, dict[str, Json]] = {name: model_figures(found, kinds, config) for name, found in scores.items()}
    findings = [find(claim, scores, config) for claim in CLAIMS]
    write_json(run.folder / "models.json", models)
    write_json(run.folder / "findings.json", [finding.as_json() for finding in findings])
    write_table(run.folder / "scores.parquet", values)
    write_table(run.folder / "curves.parquet", curves)
    drawn = draw(models, curves, config)
    publish(drawn, run.folder / "figures")
    by_seed = [read_json(each.folder / "models.json") for each in reports]
    sources = {each.name: each.key for each in reports}
    content = page.Average(models, findings, drawn, by_seed, config, sources)
    (run.folder / "report.html").write_text(page.render_average(content), encoding="utf-8")
    return summary(models, findings)


def mean_scores(frames: Sequence[pl.DataFrame]) -> pl.DataFrame:
    """Average each model's value of each measure on each problem over the seeds that have one."""
    of = ("model", "measure", "problem_id", "family", "language")
    return pl.concat(frames).group_by(of, maintain_order=True).agg(pl.col("value").mean())


def mean_curves(frames: Sequence[pl.DataFrame]) -> pl.DataFrame:
    """Average each figure of each curve over the seeds, step by step."""
    together = pl.concat(frames, how="diagonal")
    return together.group_by("curve", "step", maintain_order=True).agg(pl.exclude("curve", "step").mean())


def as_scores(values: pl.DataFrame) -> tuple[dict[str, dict[str, dict[str, float]]], Kinds]:
    """Take the table of scores apart again: values by model, measure and problem, and what each problem is."""
    scores: dict[str, dict[str, dict[str, float]]] = {}
    kinds: dict[str, tuple[str, str]] = {}
    for model, measure, problem, family, language, value in values.iter_rows():
        scores.setdefault(model, {}).setdefault(measure, {})[problem] = value
        kinds[problem] = (family, language)
    measures: dict[str, dict[str, float]] = {measure: {} for of in scores.values() for measure in of}
    return {model: measures | of for model, of in scores.items()}, kinds


def draw(models: dict[str, dict[str, Json]], curves: pl.DataFrame, config: EvaluationConfig) -> dict[str, str]:
    """Draw the figures that averages can be drawn of."""
    from tasks import figures

    traced = {str(name): part.drop("curve") for (name,), part in curves.group_by("curve", maintain_order=True)}
    votes = page.votes_of(config)
    return {
        "families": figures.families(traced.get("zero")),
        "zero_curves": figures.zero_curves(traced.get("zero"), [], votes),
        "consistency": figures.consistency(traced),
        "stages": figures.stages(models, votes),
        "reflection": figures.reflection(models, traced.get("zero")),
    }
