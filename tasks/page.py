"""One page of HTML out of a run's figures: inline CSS and SVG, no scripts, nothing fetched from elsewhere."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import NamedTuple

import polars as pl

from data.lineage import Json
from tasks.evaluate import EvaluationConfig
from tasks.findings import MARGIN, Finding, scale_of
from tasks.samples import Frames, dropped_examples, side_by_side
from tasks.style import CSS, MAIN, STATIONS, STUDENTS, badge, tag

Models = Mapping[str, Mapping[str, Json]]
Interval = Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Content:
    """What a page shows. `sources` names the artifact that each set of figures comes from, `readings` are the
    summaries of mid-trainings."""

    models: Models
    findings: Sequence[Finding]
    drawn: Mapping[str, str]
    waterfall: pl.DataFrame
    composition: pl.DataFrame
    dropped: pl.DataFrame
    answers: Frames
    replies: Frames
    config: EvaluationConfig
    sources: Mapping[str, str]
    readings: Models


@dataclass(frozen=True, slots=True)
class Average:
    """What a page over several seeds shows: averages, and each seed's own figures."""

    models: Models
    findings: Sequence[Finding]
    drawn: Mapping[str, str]
    by_seed: Sequence[Models]
    config: EvaluationConfig
    sources: Mapping[str, str]


class Section(NamedTuple):
    """A headed part of the page; `body` is HTML."""

    anchor: str
    title: str
    body: str


def render(content: Content) -> str:
    """Return the whole page."""
    drawn = content.drawn
    sections = [
        Section("findings", "Findings", _findings(content.findings)),
        Section("zero", "R1-Zero over its steps", _figure(drawn, "zero_curves", _ZERO)),
        Section("families", "R1-Zero by family and difficulty", _figure(drawn, "families", _FAMILIES)),
        Section("language", "Language", _figure(drawn, "consistency", _LANGUAGE)),
        Section("stages", "Stage by stage", _stages(content.models, drawn, content.config)),
        Section("filters", "The rejection-sampling set", _filters(content)),
        Section("reflection", "Reflection", _figure(drawn, "reflection", _REFLECTION)),
        Section("distillation", "Distillation against RL", _distillation(content.models, content.config)),
        Section("health", "Training health", _figure(drawn, "health", _HEALTH)),
        *([Section("reading", "Mid-training", _readings(content.readings))] if content.readings else []),
        Section("samples", "Responses side by side", _samples(content)),
        Section("sources", "Where the figures come from", _sources(content.sources)),
    ]
    return _document("From a base model to R1", _lede(content) + _legend(content.models), sections)


def render_average(content: Average) -> str:
    """Return the page over several seeds."""
    drawn, models, config = content.drawn, content.models, content.config
    verdicts = _verdicts(content.findings)
    lede = (
        f'<p class="lede">Trained with {len(content.by_seed)} seeds: of {verdicts}</p>'
        '<p class="note">Every figure is the '
        "mean over the seeds of training. Brackets and bands are 95 % bootstrap intervals over the held-out problems, "
        "each with its mean over the seeds; they do not cover the choice of the seeds. The band of a curve is the mean "
        "of the seeds' bands.</p>"
    )
    sections = [
        Section("findings", "Findings", _findings(content.findings)),
        Section("zero", "R1-Zero over its steps", _figure(drawn, "zero_curves", _ZERO)),
        Section("families", "R1-Zero by family and difficulty", _figure(drawn, "families", _FAMILIES)),
        Section("language", "Language", _figure(drawn, "consistency", _LANGUAGE)),
        Section("stages", "Stage by stage", _stages(models, drawn, config)),
        Section("reflection", "Reflection", _figure(drawn, "reflection", _REFLECTION)),
        Section("distillation", "Distillation against RL", _distillation(models, config)),
        Section("seeds", "Seed by seed", _seeds(content.by_seed, config)),
        Section("sources", "Where the figures come from", _sources(content.sources)),
    ]
    return _document("From a base model to R1, over seeds", lede + _legend(models), sections)


def _seeds(by_seed: Sequence[Models], config: EvaluationConfig) -> str:
    """A row for each model, a column for each figure, and the seeds' values beside one another in a cell."""
    shown = {"pass@1", "language_consistency", "mean_length", "helpful_win_rate", "harmless_rate"}
    lines = [line for line in (*_lines(votes_of(config)), *_GENERAL_LINES) if line.key in shown]
    names = [name for name in STATIONS if name in by_seed[0]]
    rows = [(tag(name), *(_values(line.key, [each[name] for each in by_seed]) for line in lines)) for name in names]
    return _table(("", *(line.label for line in lines)), rows, "seeds")


def _values(key: str, models: Sequence[Mapping[str, Json]]) -> str:
    return " · ".join(_number(each[key]["value"], scale_of(key)) if each.get(key) else "–" for each in models)


def votes_of(config: EvaluationConfig) -> str:
    """The name of the majority vote's figure."""
    return f"cons@{config.num_generations}"


TEXT_LOSSES = ("heldout_text_loss_before", "heldout_text_loss")
"""What a mid-training's summary says of ordinary text: nats a token before and after."""

_READINGS = (
    "What a base read on top of what it knew: ordinary text mixed with worked problems. The loss is the mean "
    "cross-entropy of a token in nats on ordinary text that nothing is trained on, and tells how much of a language "
    "model is left."
)
_ZERO = (
    "Left: right answers on held-out problems at each checkpoint, as the mean over samples (pass@1) and "
    "as the majority vote of a problem's samples. Right: tokens a response. Bands are 95 % intervals over "
    "problems; step 0 is the base. The thin line is the mean length of training rollouts, which are drawn "
    "at their own temperature from training problems. Compare the paper's figures 2 and 3 (version 1)."
)
_FAMILIES = (
    "pass@1 of Zero on the held-out problems of each family at each checkpoint. Where a family comes in levels of "
    "difficulty, a darker line is a harder level; families without levels share the first panel."
)
_LANGUAGE = (
    "Share of the words of the thinking that are in the question's language, on held-out problems, at "
    "each checkpoint. Left: Zero, which has no reward for it. Middle: one reasoning RL from Dev1, with "
    "and without the language reward. Right: what that reward costs in accuracy. Bands are 95 % "
    "intervals; step 0 is where the training begins. Compare the paper's figure 7 (version 2)."
)
_REFLECTION = (
    "How often a response says one of the paper's reflection words (wait, mistake, however, but, retry, "
    "error, verify, wrong, evaluate, check) or a Chinese word for the same: mean over held-out problems, "
    "with 95 % intervals. Compare the paper's figure 9 (version 2)."
)
_HEALTH = (
    "One column a training, one row a metric, over training steps; a row shares its scale. The reward is "
    "the sum of its parts, which differ by stage. The entropy is that of the next token, the KL the "
    "estimate that is in the loss. Groups of equal rewards teach nothing. The gradient norm is before "
    "clipping."
)
_PAPER_STAGES = {
    "AIME 2024, pass@1": ("77.9", "59.0", "74.0", "78.1", "79.8"),
    "LiveCodeBench": ("50.0", "57.5", "63.5", "64.6", "65.9"),
    "IF-Eval": ("46.6", "71.7", "72.0", "78.1", "83.3"),
    "AlpacaEval 2.0": ("24.7", "50.1", "55.8", "62.1", "87.6"),
    "ArenaHard": ("53.6", "77.0", "73.2", "75.6", "92.3"),
}
_PAPER_STUDENTS = {"AIME 2024, pass@1": ("47.0", "72.6"), "AIME 2024, cons@64": ("60.0", "83.3")}


def _lede(content: Content) -> str:
    config = content.config
    return (
        f'<p class="lede">Of {_verdicts(content.findings)}</p>'
        f'<p class="note">Measured on {_problems(content.answers)} held-out problems with '
        f"{config.num_generations} samples each, and on {_problems(content.replies)} general prompts with "
        f"{config.general_generations} each, at temperature {config.temperature:g} and top-p "
        f"{config.top_p:g}. Brackets and bands are 95 % bootstrap intervals over problems; they do not "
        "cover another seed of training.</p>"
    )


def _verdicts(findings: Sequence[Finding]) -> str:
    verdicts = [finding.verdict for finding in findings]
    shows, fails = verdicts.count("shows"), verdicts.count("does not show")
    return (
        f"{len(verdicts)} findings of the DeepSeek-R1 paper, this run shows {shows}, "
        f"does not show {fails}, and leaves {len(verdicts) - shows - fails} unclear."
    )


def _problems(frames: Frames) -> int:
    return max((frame["problem_id"].n_unique() for frame in frames.values()), default=0)


def _legend(models: Models) -> str:
    items = "".join(
        f"<div><dt>{tag(name)}</dt><dd>{escape(station.made)}</dd></div>"
        for name, station in STATIONS.items()
        if name in models
    )
    return f'<dl class="legend">{items}</dl>'


def _findings(findings: Sequence[Finding]) -> str:
    rows = [
        (
            escape(each.claim.name),
            f'<span class="soft">{escape(each.claim.paper)}</span>',
            _change(each),
            _difference(each),
            _whisker(each.difference),
            badge(each.verdict),
        )
        for each in findings
    ]
    note = (
        "<b>Shows</b>: the interval of the difference lies wholly on the looked-for side of zero. <b>Does "
        "not show</b>: wholly off it. <b>Unclear</b>: it spans zero. Where accuracy is to be kept, it "
        f"shows when the interval reaches zero and goes no further than {100 * MARGIN:.0f} points below "
        "it. Shares are in %, their differences in points; lengths in tokens and reflection in words a "
        "response. The paper's figures are of its own benchmarks: compare directions, not values. The mark "
        "beside a difference shows its interval and zero, each row on its own scale."
    )
    head = ("Finding", "Paper", "Here", "Difference [95 %]", "", "Verdict")
    return _table(head, rows, "findings") + f'<p class="note">{note}</p>'


def _change(finding: Finding) -> str:
    if finding.before is None or finding.after is None:
        return "–"
    scale = scale_of(finding.claim.after[1])
    before, after = _number(finding.before, scale), _number(finding.after, scale)
    return f"{after} against {before}" if isinstance(finding.claim.before, float) else f"{before} → {after}"


def _difference(finding: Finding) -> str:
    if finding.difference is None:
        return "–"
    scale = scale_of(finding.claim.after[1])
    value, low, high = (_number(finding.difference[end], scale, "+") for end in ("value", "low", "high"))
    return f'<b>{value}</b> <span class="soft">[{low}, {high}]</span>'


def _number(value: float, scale: float, sign: str = "") -> str:
    """Write a share in percent with one digit, and a count with two below ten."""
    digits = 2 if scale == 1 and abs(value) < 10 else 1
    return f"{round(scale * value, digits) + 0.0:{sign}.{digits}f}".replace("-", "−")


def _whisker(difference: Interval | None) -> str:
    """A difference and its interval beside a line at zero, each on its own scale."""
    if difference is None:
        return ""
    value, low, high = (difference[end] for end in ("value", "low", "high"))
    reach = max(abs(low), abs(high)) or 1.0
    at_value, at_low, at_high = (50 + 44 * each / reach for each in (value, low, high))
    return (
        '<svg class="whisker" viewBox="0 0 100 14" aria-hidden="true"><path d="M50 0V14"/>'
        f'<path class="reach" d="M{at_low:.1f} 7H{at_high:.1f}"/>'
        f'<circle cx="{at_value:.1f}" cy="7" r="3"/></svg>'
    )


class Line(NamedTuple):
    """A row of figures: its key, how it is called, and whether more of it is better."""

    key: str
    label: str
    ranked: bool = True


def _lines(votes: str) -> list[Line]:
    return [
        Line("pass@1", "pass@1, %"),
        Line(votes, f"{votes}, majority vote, %"),
        Line("format", "well formed, %"),
        Line("language_consistency", "thinking in the language asked, %"),
        Line("mean_length", "length of a response, tokens", ranked=False),
        Line("reflection_per_response", "reflection words a response", ranked=False),
    ]


_GENERAL_LINES = [
    Line("helpful_win_rate", "helpful, wins against Dev3 by rubric, %"),
    Line("helpful_win_rate_by_judge", "helpful, wins against Dev3 by reward model, %"),
    Line("harmless_rate", "harmless replies, %"),
]


def _stages(models: Models, drawn: Mapping[str, str], config: EvaluationConfig) -> str:
    names = [name for name in MAIN if name in models]
    rows = [_heading("Reasoning problems", names), *_figure_rows(models, names, _lines(votes_of(config)))]
    for group in ("family", "language"):
        parts = {name: models[name].get(f"by_{group}") or {} for name in names}
        lines = [Line(part, part) for part in sorted({part for each in parts.values() for part in each})]
        rows += [_heading(f"pass@1 by {group}, %", names), *_figure_rows(parts, names, lines)]
    rows += [_heading("General prompts", names), *_figure_rows(models, names, _GENERAL_LINES)]
    rows += [_heading("For comparison: the paper's Table 3", names), *_quoted(_PAPER_STAGES, MAIN[1:], names)]
    caption = f"pass@1 with its 95 % interval, and {votes_of(config)}, the majority vote, as a ring."
    note = (
        "Best of a row in bold, where more is better; 95 % intervals in small print. A win rate compares "
        "every reply with every reply of Dev3 to the same prompt, a tie counting a half, so that Dev3 "
        "against itself is 50. The rubric checks facts, form, language and courtesy; the reward model is "
        "the one that R1 was trained against."
    )
    table = _table(("", *(tag(name) for name in names)), rows, "stages")
    return _figure(drawn, "stages", caption) + table + f'<p class="note">{note}</p>'


def _distillation(models: Models, config: EvaluationConfig) -> str:
    names = [name for name in STUDENTS if name in models]
    rows = _figure_rows(models, names, _lines(votes_of(config)))
    heading = _heading("For comparison: the paper's Qwen2.5-32B", names)
    rows += [heading, *_quoted(_PAPER_STUDENTS, STUDENTS[1:], names)]
    note = (
        "One small base, two ways: RL alone, or fine-tuning on the set that made Dev3. The set is in the "
        "language asked; the reward of the RL has no term for it."
    )
    return _table(("", *(tag(name) for name in names)), rows, "stages") + f'<p class="note">{note}</p>'


def _heading(title: str, names: Sequence[str]) -> tuple[str, ...]:
    return (f"<b>{escape(title)}</b>", *[""] * len(names))


def _quoted(rows: Mapping[str, Sequence[str]], columns: Sequence[str], names: Sequence[str]) -> list[tuple[str, ...]]:
    """Lay the paper's own figures under the columns of ours."""
    return [
        (escape(label), *(f'<span class="soft">{figures.get(name, "–")}</span>' for name in names))
        for label, values in rows.items()
        for figures in [dict(zip(columns, values, strict=True))]
    ]


def _figure_rows(models: Models, names: Sequence[str], lines: Iterable[Line]) -> list[tuple[str, ...]]:
    rows = []
    for line in lines:
        found = [models[name].get(line.key) for name in names]
        shown = [_number(each["value"], scale_of(line.key)) if each else "–" for each in found]
        known = [float(text.replace("−", "-")) for text in shown if text != "–"]
        best = max(known) if line.ranked and len(set(known)) > 1 else None
        cells = [_cell(each, text, best, line.key) for each, text in zip(found, shown, strict=True)]
        rows.append((escape(line.label), *cells))
    return rows


def _cell(figure: Interval | None, text: str, best: float | None, key: str) -> str:
    if figure is None:
        return "–"
    low, high = (_number(figure[end], scale_of(key)) for end in ("low", "high"))
    value = f"<b>{text}</b>" if best is not None and float(text.replace("−", "-")) == best else text
    return f"{value}<small>{low}–{high}</small>"


def _filters(content: Content) -> str:
    caption = (
        "Dev2's answers to training problems, on their way into the set that Dev3 and the distilled "
        "student learn from. A row is dropped for the first reason that fires; in brackets the share of "
        "all that came in."
    )
    examples = dropped_examples(content.dropped)
    heading = "<h3>Two rows of each reason</h3>" if examples else ""
    parts = [_figure(content.drawn, "waterfall", caption), _fall(content.waterfall), heading, examples]
    return "".join([*parts, "<h3>What is in the set</h3>", _composition(content.composition)])


def _composition(found: pl.DataFrame) -> str:
    """The paper's Table 5 of the set; tokens are those of sampled responses."""
    rows = [
        (escape(domain), f"{samples:,}", f"{rounds:.1f}", "–" if tokens is None else f"{tokens:,.1f}")
        for domain, samples, rounds, tokens in found.iter_rows()
    ]
    return _table(("domain", "samples", "rounds a sample", "tokens a response"), rows, "stages")


def _fall(counts: pl.DataFrame) -> str:
    """The waterfall as a table: a row for each reason, with its rows by domain and by language."""
    names = [name for name in counts.columns if name not in ("reason", "share")]
    rows = [
        (escape(row["reason"].replace("_", " ")), *(f"{row[name]:,}" for name in names))
        for row in counts.iter_rows(named=True)
    ]
    return _table(("", *map(escape, names)), rows, "stages")


def _samples(content: Content) -> str:
    note = (
        "The first sample of each model to the same prompts; neither prompts nor samples are chosen by "
        "how they were answered. The thinking stands in grey beside a rule, what the reader is told below "
        "it."
    )
    reasoning, general = side_by_side(content.answers, 3), side_by_side(content.replies, 2)
    return f'<p class="note">{note}</p>{reasoning}{general}'


def _readings(readings: Models) -> str:
    rows = [
        (
            tag(name),
            f"{told['tokens']:,}",
            *(f"{told[key]:.2f}" for key in TEXT_LOSSES),
        )
        for name, told in readings.items()
    ]
    head = ("", "Tokens read", "Loss on held-out text before", "after")
    return _table(head, rows, "sources") + f'<p class="note">{_READINGS}</p>'


def _sources(sources: Mapping[str, str]) -> str:
    rows = [(escape(name.replace("_", " ")), f"<code>{escape(key)}</code>") for name, key in sources.items()]
    return _table(("Figures of", "Artifact"), rows, "sources")


def _table(head: Sequence[str], rows: Iterable[Sequence[str]], kind: str) -> str:
    """Lay cells of HTML out as a table; the first of a row heads it."""
    top = "".join(f'<th scope="col">{cell}</th>' for cell in head)
    body = "".join(
        f'<tr><th scope="row">{row[0]}</th>{"".join(f"<td>{cell}</td>" for cell in row[1:])}</tr>' for row in rows
    )
    table = f'<table class="{kind}"><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table>'
    return f'<div class="scroll">{table}</div>'


def _figure(drawn: Mapping[str, str], name: str, caption: str) -> str:
    return f"<figure>{inline(drawn[name], name)}<figcaption>{escape(caption)}</figcaption></figure>"


def inline(svg: str, name: str) -> str:
    """Make a file of SVG fit for HTML: no prologue or namespaces, ids of its own, its title as a label."""
    found = re.search(r"<title>(.*?)</title>", svg)
    label = found[1] if found else name
    body = svg[svg.index("<svg ") :]
    end = body.index(">")
    opening = re.sub(r' (?:xmlns(?::\w+)?|version|width|height)="[^"]*"', "", body[:end])
    rest = re.sub(r'(\bid="|url\(#|href="#)', rf"\g<1>{name}-", body[end:])
    return opening.replace("<svg", f'<svg role="img" aria-label="{label}"', 1) + rest


def _document(title: str, opening: str, sections: Sequence[Section]) -> str:
    links = "".join(f'<a href="#{each.anchor}">{each.title}</a>' for each in sections)
    parts = "".join(f'<section id="{each.anchor}"><h2>{each.title}</h2>{each.body}</section>' for each in sections)
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{title}</title>'
        f'<meta name="viewport" content="width=device-width, initial-scale=1"><style>{CSS}</style></head>'
        f"<body><header><h1>{title}</h1>{opening}<nav>{links}</nav></header><main>{parts}</main></body>"
        "</html>\n"
    )
