"""`r1 sql`: a question to all runs, or a prompt for several."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

from data.views import connect, rows, show
from flows.queries import views_text


def answer(sql: str, runs: Path, jsonl: bool) -> None:
    """Print the answer to one SELECT, as a table or as JSON lines. Raises ValueError for what is wrong with it."""
    if jsonl:
        for row in rows(connect(runs), sql):
            print(json.dumps(row, ensure_ascii=False, default=str))
    else:
        show(connect(runs), sql, shutil.get_terminal_size().columns)


def prompt(runs: Path) -> None:
    """Answer questions from standard input, each ended by a semicolon, until its end or an empty line.

    What is wrong with one is a line on standard error, and the next is taken.
    """
    database = connect(runs)
    people = sys.stdin.isatty()
    if people:
        import readline  # noqa: F401  (lets input() edit lines and remember them)

        print(f"{views_text()}\n\nA question ends with a semicolon; an empty line or Ctrl-D ends.")
    while sql := _read(people):
        try:
            show(database, sql, shutil.get_terminal_size().columns)
        except ValueError as error:
            print(f"r1: {error}", file=sys.stderr)


def _read(people: bool) -> str:
    """A question of one or more lines."""
    lines: list[str] = []
    while not lines or not lines[-1].endswith(";"):
        try:
            line = input("" if not people else "... " if lines else "sql> ").strip()
        except EOFError:
            break
        if not line and not lines:
            break
        lines.append(line)
    return "\n".join(lines)
