"""A file of completions -> one line of JSON each: the verdict, the reward and its parts, and the language.

Rows are those of a problem file (`data.rows`) with a `completion`. A completion is read by the template that
its prompt shows: with `<answer>` tags where the prompt or the completion has them, else as thinking and
summary; `<think>` is put before it exactly where the prompt ends with it. Rows stream: what is held at a time
is a window of them, judged in `workers` threads.
"""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from data.files import rows_of
from data.language import Consistency
from data.prompts import Parts, Template, response
from data.records import Verdict
from data.rows import COLUMNS, problem_in
from data.sandbox import Isolation
from data.verifiers import VERIFIERS, Judge, Verifier
from tasks.rewards import RewardWeights, reading, reward

WINDOW = 256
"""Rows that are held at a time."""
WEIGHTS = RewardWeights(language_weight=1.0)
Form = Literal["auto", "zero", "chat"]


@dataclass(frozen=True, slots=True)
class _Scored:
    parts: Parts
    language: Consistency | None
    verdict: Future[Verdict]

    def line(self) -> dict[str, Any]:
        """The row's line. An infra_error says nothing of the answer, so it earns null and not 0."""
        verdict, language = self.verdict.result(), self.language
        ratio = language.ratio if language else None
        earned = reward(self.parts, verdict, ratio, None, WEIGHTS)
        known = verdict.status != "infra_error"
        return {
            "verdict": verdict.status,
            "reason": verdict.reason,
            "answer": verdict.answer,
            "reward": {
                "accuracy": earned.parts["accuracy"] if known else None,
                "format": earned.parts["format"],
                "language": earned.parts["language"],
                "total": earned.total if known else None,
            },
            "language_consistency": ratio,
            "switches": language.switches if language else 0,
            "longest_foreign_span": language.longest_foreign_span if language else 0,
        }


def score(
    path: Path,
    form: Form = "auto",
    *,
    workers: int = 2,
    isolation: Isolation | None = None,
    judge: Judge | None = None,
) -> Iterator[dict[str, Any]]:
    """Score the rows of a file, in order.

    Raises ValueError, once all rows before it are scored, for a row that is broken: its number, what is wrong,
    and what is allowed.
    """
    with Verifier(workers=workers, isolation=isolation, judge=judge) as verifier:
        window: deque[_Scored] = deque()
        rows = enumerate(rows_of(path))
        broken: ValueError | None = None
        while broken is None:
            try:
                number, (where, row) = next(rows)
                window.append(_begin(row, path.stem, number, where, form, verifier))
            except StopIteration:
                break
            except ValueError as error:
                broken = error
            if len(window) > WINDOW:
                yield window.popleft().line()
        while window:
            yield window.popleft().line()
        if broken is not None:
            raise broken


def _begin(row: Any, stem: str, number: int, where: str, form: Form, verifier: Verifier) -> _Scored:
    problem = problem_in(row, dict(zip(COLUMNS, COLUMNS, strict=True)), stem, number, where)
    if problem.verifier.partition(":")[0] not in VERIFIERS:
        allowed = ", ".join(VERIFIERS).replace("reasoning_gym", "reasoning_gym:<family>")
        raise ValueError(f"{where}: 'verifier' must be out of {allowed}; got {problem.verifier!r}")
    completion = row.get("completion")
    if not isinstance(completion, str):
        wrong = "is missing" if completion is None else f"must be text, got {completion!r}"
        raise ValueError(f"{where}: 'completion' {wrong}")
    template = form if form != "auto" else _template(problem.prompt, completion)
    whole = response(problem.prompt, completion)
    parts, language = reading(whole, template, problem.language)
    try:
        return _Scored(parts, language, verifier.submit(problem, whole, template))
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from None


def _template(prompt: str, completion: str) -> Template:
    return "zero" if "<answer>" in prompt or "<answer>" in completion else "chat"


def as_line(scored: dict[str, Any]) -> str:
    """One line of JSON, readable where the text can be written as UTF-8."""
    line = json.dumps(scored, ensure_ascii=False)
    return line if _writable(line) else json.dumps(scored)


def _writable(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
