"""The pictures of a report: frames and figures in, SVG text out. The only `import matplotlib`.

Equal data give equal bytes: no date, hashed ids, and a layout measured with the typeface that matplotlib
ships. The text stays text, to be shown in the reader's own typeface.
"""

from __future__ import annotations

import io
import re
import textwrap
from collections.abc import Mapping, Sequence
from math import nan
from typing import Any

import polars as pl
from matplotlib import colormaps, rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import MaxNLocator

from data.lineage import Json
from tasks.findings import scale_of
from tasks.style import HAIR, INK, MUTED, PAPER, STATIONS, TYPEFACE

Models = Mapping[str, Mapping[str, Json]]
History = Sequence[Mapping[str, float]]

WIDTH = 10.0
"""Inches of every figure; all are shown at one width, so equal sizes of text look equal."""

FADED = "#b9bec5"
"""What is taken away."""

STYLE: dict[str, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "r1",
    "font.family": "DejaVu Sans",
    "font.size": 8.5,
    "text.color": INK,
    "axes.edgecolor": MUTED,
    "axes.labelcolor": MUTED,
    "axes.linewidth": 0.6,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": 9.5,
    "axes.titlelocation": "left",
    "axes.titlepad": 8,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "axes.axisbelow": True,
    "grid.color": HAIR,
    "grid.linewidth": 0.6,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.major.size": 0,
    "ytick.major.size": 0,
    "lines.linewidth": 1.6,
    "lines.markersize": 4,
    "legend.frameon": False,
    "figure.facecolor": PAPER,
    "axes.facecolor": "none",
}


def zero_curves(curve: pl.DataFrame | None, history: History, votes: str) -> str:
    """R1-Zero over its steps: accuracy on held-out problems, and length of responses."""
    with rc_context(STYLE):
        figure, (accuracy, length) = _panels(2, height=3.3)
        _percent(accuracy, "Accuracy on held-out problems")
        length.set_title("Length of a response, tokens")
        colour = STATIONS["zero"].colour
        if curve is not None:
            _trace(accuracy, curve, votes, MUTED, label=f"{votes}, majority vote", marker="s")
            _trace(accuracy, curve, "pass@1", colour, label="pass@1, mean of samples")
            _trace(length, curve, "mean_length", colour, label="held-out problems")
        steps, lengths = series(history, "completions/mean_length")
        if steps:
            length.plot(steps, lengths, color=MUTED, linewidth=0.9, label="training rollouts")
        for axes in (accuracy, length):
            _steps(axes)
            _legend(axes, loc="lower right")
        length.set_ylim(bottom=0)
        return _svg(figure, "Accuracy and length of responses of R1-Zero over its training steps")


def families(curve: pl.DataFrame | None) -> str:
    """R1-Zero's accuracy over its steps by family, a panel for each that comes in levels."""
    measured = [name.removesuffix("/value") for name in (curve.columns if curve is not None else ())
                if name.startswith("by_family/") and name.endswith("/value")]  # fmt: skip
    panels: dict[str, list[str]] = {}
    for name in measured:
        family, _, level = name.removeprefix("by_family/").rpartition("_")
        panels.setdefault(family if level.isdigit() else "", []).append(name)
    with rc_context(STYLE):
        figure, every = _panels(max(1, len(panels)), height=2.9)
        for axes, (family, names) in zip(every, sorted(panels.items()), strict=False):
            _percent(axes, _wrapped(family.replace("_", " ") or "pass@1", 16))
            for name, colour in zip(names, _shades(family, len(names)), strict=True):
                assert curve is not None
                label = name.removeprefix("by_family/").removeprefix(f"{family}_").replace("_", " ")
                _line(axes, curve, f"{name}/value", colour, f"level {label}" if family else label)
            _steps(axes)
            _legend(axes, loc="lower right")
        return _svg(figure, "Accuracy of R1-Zero over its training steps, by family and level of difficulty")


def _shades(family: str, count: int) -> list[Any]:
    """Colours from light to dark for levels, and clearly different ones for families."""
    if not family:
        return [colormaps["tab10"](place) for place in range(count)]
    return [colormaps["Reds"](0.35 + 0.6 * place / max(1, count - 1)) for place in range(count)]


def _line(axes: Axes, curve: pl.DataFrame, column: str, colour: Any, label: str) -> None:
    known = curve.select("step", column).drop_nulls()
    axes.plot(known["step"].to_list(), [100 * each for each in known[column]], color=colour, marker="o", label=label)


def consistency(curves: Mapping[str, pl.DataFrame]) -> str:
    """Language consistency of Zero, and of Dev2's training with and without the language reward."""
    pair = ("dev2", "dev2_without_language_reward")
    with rc_context(STYLE):
        figure, (mixing, repair, cost) = _panels(3, height=2.9)
        _percent(mixing, "Zero: thinking in the language asked")
        _percent(repair, "Dev2: thinking in the language asked")
        _percent(cost, "Dev2: pass@1")
        if "zero" in curves:
            _trace(mixing, curves["zero"], "language_consistency", STATIONS["zero"].colour)
        for name in pair:
            if name in curves:
                label = "with language reward" if name == "dev2" else "without"
                _trace(repair, curves[name], "language_consistency", STATIONS[name].colour, label=label)
                _trace(cost, curves[name], "pass@1", STATIONS[name].colour, label=label)
        for axes in (mixing, repair, cost):
            _steps(axes)
        for axes in (repair, cost):
            _legend(axes, loc="lower right")
        return _svg(figure, "Language consistency over training steps, with and without the language reward")


def curve(frame: pl.DataFrame, setting: str) -> str:
    """Rows kept and their quality over the values of a swept setting, which `frame` has as its first column."""
    values, places = frame[setting].to_list(), range(len(frame))
    shares = [("quality", "quality of what is kept", INK), ("caught", "planted defects dropped", "#c8553d"),
              ("spared", "clean rows kept", "#2b5c9e")]  # fmt: skip
    with rc_context(STYLE):
        figure, (rows, good) = _panels(2, height=3.0)
        rows.set_title("Rows kept")
        rows.plot(places, frame["kept"].to_list(), color=INK, marker="o")
        rows.set_ylim(bottom=0)
        _percent(good, "Quality")
        for name, label, colour in shares:
            if name in frame.columns and frame[name].null_count() < len(frame):
                good.plot(
                    places, [100 * each for each in frame[name].fill_null(nan)], color=colour, marker="o", label=label
                )
        _legend(good, loc="lower right")
        for axes in (rows, good):
            axes.set_xticks(list(places), [str(value) for value in values])
            axes.set_xlabel(setting)
        return _svg(figure, f"Rows kept and their quality over {setting}")


def stages(models: Models, votes: str) -> str:
    """pass@1 of every model with its interval, and its majority vote."""
    with rc_context(STYLE):
        figure, (axes,) = _panels(1, height=3.3)
        _percent(axes, "pass@1 on held-out problems")
        for place, name in enumerate(_bars(axes, models, "pass@1")):
            if vote := models[name].get(votes):
                label = None if place else f"{votes}, majority vote"
                axes.plot([place], [100 * vote["value"]], "o", markersize=6, markerfacecolor="white",
                          markeredgecolor=INK, label=label)  # fmt: skip
        _legend(axes, loc="lower right", bbox_to_anchor=(1, 1), borderaxespad=0)
        return _svg(figure, "pass@1 of every model with 95 % intervals, and its majority vote")


def waterfall(frame: pl.DataFrame) -> str:
    """Rows in, what each filter takes away, and what is kept: `frame` is `data.filters.waterfall`'s."""
    counts = frame["rows"].to_list()
    labels = [reason.replace("_", " ") for reason in frame["reason"]]
    with rc_context(STYLE):
        figure, (axes,) = _panels(1, height=0.9 + 0.3 * len(labels))
        ends = {0: STATIONS["dev2"].colour, len(counts) - 1: STATIONS["dev3"].colour}
        total = max(counts[0], 1)
        remaining = counts[0]
        for place, count in enumerate(counts):
            whole = ends.get(place)
            remaining -= 0 if whole else count
            left = 0 if whole else remaining
            axes.barh(place, count, left=left, color=whole or FADED, height=0.62)
            sign = "−" if count and not whole else ""
            axes.annotate(f"{sign}{count:,}  ({100 * count / total:.1f} %)", (left + count, place), (5, 0),
                          textcoords="offset points", va="center")  # fmt: skip
        axes.set_yticks(range(len(labels)), labels)
        axes.tick_params(axis="y", labelcolor=INK)
        axes.set_xlim(0, 1.14 * total)
        axes.xaxis.set_major_formatter("{x:,.0f}")
        axes.set_xlabel("trajectories")
        axes.grid(axis="x")
        axes.grid(visible=False, axis="y")
        axes.invert_yaxis()
        return _svg(figure, "Trajectories that come in, those each filter removes, and those that are kept")


def reflection(models: Models, curve: pl.DataFrame | None) -> str:
    """Reflection words of a response: by model, and over the steps of Zero."""
    key = "reflection_per_response"
    with rc_context(STYLE):
        figure, (bars, trace) = _panels(2, height=3.0, widths=(2.2, 1))
        bars.set_title("Reflection words in a response, by model")
        trace.set_title("Over the steps of Zero")
        _bars(bars, models, key)
        if curve is not None:
            _trace(trace, curve, key, STATIONS["zero"].colour)
        _steps(trace)
        for axes in (bars, trace):
            axes.set_ylim(bottom=0)
        return _svg(figure, "Reflection words in a response, by model and over the steps of R1-Zero")


HEALTH = {
    "reward": "reward",
    "entropy": "entropy, nats",
    "kl": "KL to reference",
    "frac_reward_zero_std": "groups of equal\nrewards, share",
    "grad_norm": "gradient norm",
}
"""What is watched of a training, by TRL's name, and how the panel calls it."""


def health(histories: Mapping[str, History]) -> str:
    """One column a training, one row a metric; a row shares its scale."""
    names = [name for name in STATIONS if name in histories]
    with rc_context(STYLE | {"font.size": 7.5, "axes.titlesize": 8.5, "lines.linewidth": 1.1}):
        figure = Figure(figsize=(WIDTH, 0.5 + 1.05 * len(HEALTH)), layout="constrained")
        grid = figure.subplots(len(HEALTH), max(len(names), 1), sharey="row", sharex="col", squeeze=False)
        for row, (key, title) in enumerate(HEALTH.items()):
            grid[row][0].set_ylabel(title, color=INK)
            for column, name in enumerate(names):
                grid[row][column].plot(*series(histories[name], key), color=STATIONS[name].colour)
                grid[row][column].yaxis.set_major_locator(MaxNLocator(3))
        for column, name in enumerate(names):
            grid[0][column].set_title(_wrapped(STATIONS[name].label, 16))
            _steps(grid[-1][column])
        return _svg(figure, "Reward, entropy, KL, equal groups and gradient norm of every training")


def series(history: History, key: str) -> tuple[list[float], list[float]]:
    """Return the steps at which a metric was measured, and its values."""
    found = [(entry["step"], entry[key]) for entry in history if entry.get(key) is not None]
    return [step for step, _ in found], [value for _, value in found]


def _panels(count: int, height: float, widths: Sequence[float] | None = None) -> tuple[Figure, list[Axes]]:
    figure = Figure(figsize=(WIDTH, height), layout=ConstrainedLayoutEngine(wspace=0.06))
    grid = figure.subplots(1, count, squeeze=False, width_ratios=widths)
    return figure, list(grid[0])


def _trace(axes: Axes, curve: pl.DataFrame, key: str, colour: str, label: str | None = None, marker: str = "o") -> None:
    """Draw a figure over the steps with its interval as a band, where it was measured."""
    columns = [f"{key}/{end}" for end in ("value", "low", "high")]
    if not set(columns) <= set(curve.columns):
        return
    known = curve.select("step", *columns).drop_nulls()
    value, low, high = ([scale_of(key) * each for each in known[column]] for column in columns)
    axes.fill_between(known["step"].to_list(), low, high, color=colour, alpha=0.15, linewidth=0)
    axes.plot(known["step"].to_list(), value, color=colour, marker=marker, label=label)


def _bars(axes: Axes, models: Models, key: str) -> list[str]:
    """Draw a bar with its interval for every model that the figure was measured for; return their names."""
    names = [name for name in STATIONS if (models.get(name) or {}).get(key)]
    scale = scale_of(key)
    labels = []
    for place, name in enumerate(names):
        value, low, high = (scale * models[name][key][end] for end in ("value", "low", "high"))
        axes.bar(place, value, color=STATIONS[name].colour, width=0.66)
        axes.vlines(place, low, high, color=INK, linewidth=1.2)
        labels.append(f"{value:.{1 if scale > 1 else 2}f}\n{_wrapped(STATIONS[name].label, 9)}")
    axes.set_xticks(range(len(names)), labels)
    axes.tick_params(axis="x", labelcolor=INK)
    return names


def _percent(axes: Axes, title: str) -> None:
    axes.set_title(f"{title}, %")
    axes.set_ylim(0, 103)
    axes.set_yticks(range(0, 101, 25))


def _steps(axes: Axes) -> None:
    axes.set_xlabel("training step")
    axes.set_xlim(left=0)
    axes.xaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 5, 10], integer=True))


def _legend(axes: Axes, **place: Any) -> None:
    if axes.get_legend_handles_labels()[1]:
        axes.legend(labelcolor=INK, **place)


def _wrapped(label: str, width: int) -> str:
    return "\n".join(textwrap.wrap(label, width, break_long_words=False))


def _svg(figure: Figure, title: str) -> str:
    """Write a figure as SVG with its title, without metadata, in the page's typeface."""
    buffer = io.StringIO()
    nothing = dict.fromkeys(("Creator", "Date", "Format", "Type"))
    figure.savefig(buffer, format="svg", metadata=nothing)
    text = buffer.getvalue().replace("'DejaVu Sans'", TYPEFACE)
    text = "\n".join(line.rstrip() for line in text.splitlines())
    return re.sub(r"(<svg [^>]*>)", rf"\1\n <title>{title}</title>", text, count=1) + "\n"
