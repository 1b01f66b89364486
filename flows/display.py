"""What people watch while a recipe runs: one line a stage, with progress, figures and time left."""

from __future__ import annotations

import sys
import time

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from tasks.stage import Metrics, Step

SHOWN = ("reward", "loss", "pass@1", "completions/mean_length")
PLAIN_EVERY_S = 15.0


def figures_of(metrics: Metrics) -> str:
    """The metrics that people look for first, in a line."""
    return "  ".join(f"{name.split('/')[-1]} {metrics[name]:.3g}" for name in SHOWN if name in metrics)


class Watch:
    """Shows stages as they run: a live bar in a terminal, a line now and then elsewhere."""

    def __init__(self, total: int) -> None:
        self.total = total
        self.console = Console(file=sys.stderr)
        self.live = self.console.is_terminal
        self._begun = time.monotonic()
        self._stage_begun = self._said = self._begun
        self._bar: Progress | None = None
        self._task: TaskID | None = None

    def begin(self, step: Step) -> None:
        """A stage begins."""
        self._stage_begun = self._said = time.monotonic()
        if self.live:
            self._bar = Progress(
                TextColumn("[dim]{task.fields[place]}[/] [bold]{task.description}[/]"),
                BarColumn(bar_width=30),
                TextColumn("{task.fields[figures]}"),
                TimeElapsedColumn(),
                TextColumn("left"),
                TimeRemainingColumn(),
                console=self.console,
                transient=True,
            )
            self._task = self._bar.add_task(step.artifact.name, total=None, place=self._place(step), figures="")
            self._bar.start()

    def advance(self, step: Step, done: int, total: int, metrics: Metrics) -> None:
        """A stage has come to `done` of `total`."""
        figures = figures_of(metrics)
        if self._bar is not None and self._task is not None:
            self._bar.update(self._task, completed=done, total=total)
            if figures:
                self._bar.update(self._task, figures=figures)
            return
        now = time.monotonic()
        if now - self._said > PLAIN_EVERY_S and done:
            self._said = now
            left = (now - self._stage_begun) / done * (total - done)
            self._say(f"{self._place(step)} {step.artifact.name}: {done}/{total}  {figures}  {left:.0f} s left")

    def warn(self, step: Step, message: str) -> None:
        """Something about a stage that people should know while it runs."""
        self._say(f"{self._place(step)} {step.artifact.name}: WARNING: {message}")

    def end(self, step: Step) -> None:
        """A stage is done."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = None
        state = "cached" if step.cached else f"made in {step.wall_s:.1f} s"
        self._say(f"{self._place(step)} {step.artifact.name:<34} {state:<16} {step.artifact.key}")

    def _place(self, step: Step) -> str:
        return f"[{step.index + 1:>2}/{self.total}]"

    def _say(self, line: str) -> None:
        self.console.print(line, markup=False, highlight=False, soft_wrap=True)
