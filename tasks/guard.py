"""The watch over reinforcement learning: has the policy given its answers up for the form alone?

Small bases find the form before they find the answers (DeepSeek-R1, 4.9). Points for the form then come with
shorter and shorter guesses, and the groups, each as wrong throughout as the next, teach nothing more.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from data.lineage import METRICS
from tasks.rewards import RewardWeights
from tasks.stage import Run, Summary

Row = Mapping[str, float]
OnCollapse = Literal["warn", "stop"]

WINDOW: Final = 4
"""Rollouts that are averaged at a time."""

LENGTH_LEFT: Final = 0.6
"""Of the length before, no more than this is left in a collapse."""
FORMAT_GAIN: Final = 0.2
"""By so much the share of well-formed answers has risen."""
ACCURACY_PER_FORMAT: Final = 0.15
"""Accuracy counts in well-formed answers alone, so it rises with them; it has gained less than this share of that."""
ZERO_STD_GAIN: Final = 0.1
"""By so much the share of groups without variance has risen from its lowest."""

LENGTH, ZERO_STD = "completions/mean_length", "frac_reward_zero_std"
FORMAT, ACCURACY, PREFERENCE = "rewards/format/mean", "rewards/accuracy/mean", "rewards/preference/mean"

ADVICE: Final = (
    "Try a base that works problems out before it guesses (fine-tune it on worked solutions first), easier problems, "
    "a smaller format_weight or learning_rate, a larger beta, or dynamic_sampling = true"
)


@dataclass(frozen=True, slots=True)
class Window:
    """Means over some rollouts: tokens a completion, shares of well-formed and right ones, and of idle groups."""

    length: float
    well_formed: float
    accuracy: float
    zero_std: float


@dataclass(frozen=True, slots=True)
class Collapse:
    """What was seen, and at which step."""

    step: int
    before: Window
    now: Window

    def __str__(self) -> str:
        before, now = self.before, self.now
        return (
            f"the policy collapses at step {self.step}: completions went from {before.length:.0f} to "
            f"{now.length:.0f} tokens and well-formed ones from {before.well_formed:.0%} to {now.well_formed:.0%}, "
            f"right ones from {before.accuracy:.1%} to {now.accuracy:.1%}, and {now.zero_std:.0%} of the groups "
            f"teach nothing. {ADVICE}"
        )


def collapse(rollouts: Sequence[Row], format_weight: float = 1.0, accuracy_weight: float = 1.0) -> Collapse | None:
    """Hold the last `WINDOW` rollouts against those before them; None where the policy has not collapsed.

    `rollouts` are the metrics of the steps that sampled, each with its `step`, under `rollout_metrics`' names;
    the rewards are divided by their weights. Rollouts that asked general prompts and such that did not are not
    compared. Without an accuracy or a format reward there is nothing to tell by.
    """
    if not format_weight or not accuracy_weight or not rollouts:
        return None
    alike = [row for row in rollouts if (PREFERENCE in row) == (PREFERENCE in rollouts[-1])]
    told = [row for row in alike if FORMAT in row and ACCURACY in row]
    if len(told) < 2 * WINDOW or told[-1] is not rollouts[-1]:
        return None
    windows = [_mean(told[end - WINDOW : end], format_weight, accuracy_weight) for end in range(WINDOW, len(told) + 1)]
    now = windows[-1]
    lowest = now.zero_std
    for place in range(len(windows) - 2, -1, -1):
        lowest = min(lowest, windows[place].zero_std)
        if len(windows) - place > WINDOW and _gave_up(windows[place], now) and now.zero_std - lowest >= ZERO_STD_GAIN:
            return Collapse(int(rollouts[-1]["step"]), windows[place], now)
    return None


def _gave_up(before: Window, now: Window) -> bool:
    gained = now.well_formed - before.well_formed
    return (
        now.length <= LENGTH_LEFT * before.length
        and gained >= FORMAT_GAIN
        and now.accuracy - before.accuracy < ACCURACY_PER_FORMAT * gained
    )


def _mean(rows: Sequence[Row], format_weight: float, accuracy_weight: float) -> Window:
    def mean(name: str) -> float:
        return sum(row[name] for row in rows) / len(rows)

    return Window(mean(LENGTH), mean(FORMAT) / format_weight, mean(ACCURACY) / accuracy_weight, mean(ZERO_STD))


def sampled_rows(file: Path) -> list[Row]:
    """The metrics of the steps that sampled, out of a stage's `metrics.jsonl`; none where there is no file yet."""
    lines = file.read_text(encoding="utf-8").splitlines() if file.is_file() else []
    return [row for row in map(json.loads, lines) if ZERO_STD in row]


class Guard:
    """Sees the rollouts of a stage as they come, after those of an attempt that the stage goes on from.

    Raises ValueError where that attempt was stopped and `on_collapse` has not changed.
    """

    def __init__(self, run: Run, weights: RewardWeights, on_collapse: OnCollapse) -> None:
        self._run, self._weights, self._on_collapse = run, weights, on_collapse
        self._rollouts: list[Row] = []
        self._found: Collapse | None = None
        if any(self.see(int(row["step"]), row) for row in sampled_rows(run.folder / METRICS)):
            self.tell()

    def see(self, step: int, metrics: Row) -> bool:
        """Take in a step's metrics. Returns whether the policy is found to have collapsed, which is so once."""
        if self._found or ZERO_STD not in metrics:
            return False
        self._rollouts.append({**metrics, "step": step})
        self._found = collapse(self._rollouts, self._weights.format_weight, self._weights.accuracy_weight)
        return self._found is not None

    def tell(self) -> None:
        """Tell people of the collapse that was found. Raises ValueError where the stage is to stop there."""
        self._run.warn("collapse", str(self._found))
        if self._on_collapse == "stop":
            raise ValueError(
                f'{self._run.name}: {self._found}. on_collapse = "stop" ended the stage here and its state is saved; '
                'with on_collapse = "warn" it goes on from there'
            )

    @property
    def summary(self) -> Summary:
        """What the record keeps: the step of a collapse, nothing without one."""
        return {"collapsed_at_step": self._found.step} if self._found else {}
