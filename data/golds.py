"""Whether a problem's gold answer satisfies its own verifier; where it does not, no answer can be right."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from data.prompts import written
from data.records import Problem, Verdict
from data.verifiers import Verifier

Located = tuple[str, Problem]
"""Where a problem stands in its file, and the problem."""

OTHER: Final = "987654321"
"""An answer that a gold answer of mathematics can be compared with, be it right or wrong."""

_TOLD: Final = 5
"""Rows that an error names."""


@dataclass(frozen=True, slots=True)
class Unverified:
    """A problem whose gold answer its verifier refuses."""

    where: str
    problem: Problem
    verdict: Verdict


def gold_answer(problem: Problem) -> str | None:
    """The gold answer as a policy would give it; None where a problem keeps what judges answers, but no answer."""
    name = problem.verifier.partition(":")[0]
    if name == "math":
        return problem.solution
    if name == "choice":
        held = problem.solution
        return held if len(held) == 1 else str(json.loads(held)["answer"])
    if name == "reasoning_gym":
        answer = json.loads(problem.solution)["answer"]
        return None if answer is None else str(answer)
    return None


def unverified(located: Iterable[Located], verifier: Verifier | None = None) -> list[Unverified]:
    """Hold every gold answer against its own verifier. Programs, expressions and rubrics have none to hold.

    The same text is always right, so a gold answer of mathematics is held against another answer, too: where that
    cannot be compared with it, only its own wording would ever be right.
    """
    if verifier is None:
        with Verifier() as own:
            return unverified(located, own)
    held = [(where, problem, gold) for where, problem in located if (gold := gold_answer(problem)) is not None]
    own_words = verifier.wait([verifier.submit(problem, written("so", gold), "chat") for _, problem, gold in held])
    others = verifier.wait([verifier.submit(each, written("so", OTHER), "chat") for _, each, _ in held if _math(each)])
    other = iter(others)
    found = []
    for (where, problem, _), verdict in zip(held, own_words, strict=True):
        again = next(other) if _math(problem) else verdict
        refused = verdict if verdict.status != "correct" else again if again.status == "infra_error" else None
        if refused:
            found.append(Unverified(where, problem, refused))
    return found


def _math(problem: Problem) -> bool:
    return problem.verifier == "math"


def check_bound(found: Sequence[Unverified], of: int, bound: int) -> None:
    """Raise ValueError, naming the first and where the others stand, for more than `bound` out of `of` rows."""
    if len(found) <= bound:
        return
    first = found[0]
    places = ", ".join(each.where.split()[-1] for each in found[:_TOLD]) + (", ..." if len(found) > _TOLD else "")
    raise ValueError(
        f"{first.where}: the gold answer {gold_answer(first.problem)!r} does not pass its own verifier "
        f"{first.problem.verifier} ({first.verdict.status}: {first.verdict.reason or 'another answer'}); so it is "
        f"with {len(found)} of {of} rows ({places}), more than max_unverified = {bound}"
    )
