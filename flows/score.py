"""`r1 score`: verdicts on standard output, progress on standard error."""

from __future__ import annotations

import sys
from collections import Counter
from pathlib import Path
from typing import cast, get_args

from data.endpoint import KEY, Endpoint
from data.judge import ModelJudge
from data.sandbox import choose
from tasks.score import Form, as_line
from tasks.score import score as scores

EVERY = 1000
"""Rows between two lines of progress."""


def score(
    file: Path, template: str, workers: int, allow_rlimit: bool, judge: str, judge_model: str, runs: Path
) -> None:
    """Print one line a row. Raises ValueError for a broken row or an option that is not allowed."""
    if template not in get_args(Form):
        raise ValueError(f"--template must be out of {', '.join(get_args(Form))}, got {template!r}")
    asked = _judge(judge, judge_model, runs) if judge else None
    counts: Counter[str] = Counter()
    isolation = choose(allow_rlimit)
    for scored in scores(file, cast(Form, template), workers=workers, isolation=isolation, judge=asked):
        print(as_line(scored))
        counts[scored["verdict"]] += 1
        if counts.total() % EVERY == 0:
            _tell(counts)
    sys.stdout.flush()
    _tell(counts)


def _tell(counts: Counter[str]) -> None:
    parts = ", ".join(f"{number} {verdict}" for verdict, number in sorted(counts.items()))
    print(f"{counts.total()} rows: {parts or 'none'}", file=sys.stderr)


def _judge(judge: str, model: str, runs: Path) -> ModelJudge:
    """The model at an address, whose key is in `R1_JUDGE_KEY`, or a policy of this folder."""
    if judge.startswith(("http://", "https://")):
        return ModelJudge(Endpoint(judge, model, KEY))
    from flows.plan import default_device
    from flows.trace import find
    from tasks.judge import voice_in

    return ModelJudge(voice_in(find(judge, runs).folder / "policy", default_device()))
