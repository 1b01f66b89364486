"""What `r1 sql --help` tells: the views, and five questions that people ask."""

from __future__ import annotations

from typing import Final, NamedTuple

from data.views import VIEWS


class Query(NamedTuple):
    """A question in words and in SQL."""

    asked: str
    sql: str


QUERIES: Final = (
    Query(
        "What was made last, and how long it took",
        "SELECT name, stage, round(wall_s, 1) AS seconds, made_at, run FROM runs ORDER BY made_at DESC LIMIT 20",
    ),
    Query(
        "Why each build dropped rows",
        "SELECT name, reason, count(*) AS n, round(100 * count(*) / sum(count(*)) OVER (PARTITION BY run), 1) "
        "AS percent FROM dropped JOIN runs USING (run) GROUP BY run, name, reason ORDER BY name, n DESC",
    ),
    Query(
        "How often a policy was right, and at what length",
        "SELECT name, family, language, round(avg(CAST(verdict = 'correct' AS INT)), 3) AS correct, "
        "round(avg(tokens), 1) AS tokens FROM trajectories JOIN runs USING (run) WHERE verdict IS NOT NULL "
        "GROUP BY ALL ORDER BY ALL",
    ),
    Query(
        "Each part of the reward over the steps of R1-Zero",
        "SELECT step, part, round(avg(value), 3) AS mean FROM rewards JOIN runs USING (run) WHERE name = 'zero' "
        "GROUP BY ALL ORDER BY ALL",
    ),
    Query(
        "Problems that nobody solved, the most tried first",
        "SELECT problem_id, count(*) AS tries, any_value(prompt) AS prompt FROM trajectories "
        "WHERE verdict IS NOT NULL GROUP BY ALL HAVING NOT bool_or(verdict = 'correct') "
        "ORDER BY tries DESC, problem_id LIMIT 20",
    ),
)


def views_text() -> str:
    """The views, one a line."""
    return "\n".join(f"{view:<13} {says}" for view, says in VIEWS.items())


def help_text() -> str:
    """What there is to ask, for a command line that keeps the lines as they are."""
    asked = "\n\n".join(f"\b\n{query.asked}:\n  {query.sql}" for query in QUERIES)
    return (
        "Ask all runs at once: a SELECT in DuckDB's SQL, read only; without one, a prompt.\n\n"
        f"\b\n{views_text()}\n\nAll but runs have the column run to join by. Five questions:\n\n{asked}"
    )
