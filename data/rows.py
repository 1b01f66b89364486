"""One row of a file of problems -> Problem, or what is wrong with it, where, and what is allowed.

A row has a `prompt` and a `solution`, and may have a `verifier` (math when left out), a `language` (zh where
the prompt has a Han character, else en), `options` of a choice and `metadata` of a reasoning-gym item. What
a solution is depends on the verifier: `choice` a capital letter; `code` a list of {"input": text, "output":
text}; `expression` {"numbers": [...], "target": n}; `reasoning_gym:<family>` the item's answer; `math` and
`judge` the right answer. Lists and objects may stand as they are or as text that holds JSON.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Mapping
from fractions import Fraction
from typing import Any

from data.gym import PREFIX, families, gym_solution
from data.records import Problem
from data.world.rubric import read_rubric

COLUMNS = ("prompt", "solution", "verifier", "language", "options", "metadata")
VERIFIERS = ("math", "choice", "code", "expression", "judge", "helpful", "harmless")
"""Verifiers that a problem may name, beside `reasoning_gym:<family>`."""

_HAN = re.compile(r"[\u3400-\u9fff]")
_LETTER = re.compile(r"[A-Z]")
_MAX_OPTIONS = 26


def column_names(columns: Mapping[str, str], fixed: Mapping[str, str]) -> dict[str, str]:
    """What a file calls each of our columns. Raises ValueError, in one line, for a map that is mixed up.

    `columns` maps ours to the file's. Those of ours that are `fixed` have one value, under `fixed.<name>`.
    """
    for name, table in (("columns", columns), ("fixed", fixed)):
        if strange := [key for key in table if key not in COLUMNS]:
            turned = "; it is written the other way round, ours = theirs" if {*table.values()} & {*COLUMNS} else ""
            verb = "rename" if table is columns else "set"
            raise ValueError(f"{name} may {verb} {', '.join(COLUMNS)}, got {', '.join(strange)}{turned}")
    if both := [key for key in columns if key in fixed]:
        raise ValueError(f"{both[0]} stands in columns and in fixed; one of them must go")
    names = {key: f"fixed.{key}" if key in fixed else columns.get(key, key) for key in COLUMNS}
    taken: dict[str, str] = {}
    for key in ("prompt", "solution", *sorted(columns.keys() - {"prompt", "solution"})):
        if names[key] in taken:
            raise ValueError(f"{taken[names[key]]} and {key} have the same column {names[key]!r}; see columns")
        taken[names[key]] = key
    return names


def problem_in(
    row: Mapping[str, Any],
    names: Mapping[str, str],
    stem: str,
    number: int,
    where: str,
    languages: Collection[str] = (),
) -> Problem:
    """Read one row, whose columns `names` gives. `languages` are those allowed; without any, every ISO 639 code."""
    prompt = _text(row, names["prompt"], where)
    verifier = _text(row, names["verifier"], where, "math")
    language = _text(row, names["language"], where, "zh" if _HAN.search(prompt) else "en")
    if language not in languages if languages else not re.fullmatch("[a-z]{2,3}", language):
        allowed = " or ".join(languages) or "a language code such as en, zh, fr"
        raise ValueError(f"{where}: '{names['language']}' must be {allowed}, got {language!r}")
    _check_verifier(verifier, f"{where}: '{names['verifier']}'")
    solution = _solution(verifier, row, names, where)
    return Problem(f"{stem}/{number:06d}", prompt, stem, language, prompt, solution, verifier)


def _text(row: Mapping[str, Any], name: str, where: str, default: str | None = None) -> str:
    value = row.get(name)
    if value is None and default is None and name in row:
        raise ValueError(f"{where}: '{name}' is empty")
    if value is None and default is None:
        raise ValueError(f"{where}: '{name}' is missing; there are {', '.join(map(str, row)) or 'no columns'}")
    value = default if value is None else value
    if not isinstance(value, str) or not value.strip():
        raise ValueError(f"{where}: '{name}' must be text that is not empty, got {value!r}")
    return value


def _check_verifier(verifier: str, what: str) -> None:
    if verifier in VERIFIERS:
        return
    if not verifier.startswith(PREFIX):
        raise ValueError(f"{what} must be out of {', '.join(VERIFIERS)}, {PREFIX}<family>; got {verifier!r}")
    family = verifier.removeprefix(PREFIX)
    if family not in families():
        raise ValueError(f"{what} names no family of reasoning_gym: {family!r}")


def _solution(verifier: str, row: Mapping[str, Any], names: Mapping[str, str], where: str) -> str:
    """The gold answer as `data.verifiers` takes it."""
    what = f"{where}: '{names['solution']}'"
    gold = row.get(names["solution"])
    if verifier.startswith(PREFIX):
        metadata = _json(row.get(names["metadata"]))
        if not isinstance(metadata, dict | None):
            raise ValueError(f"{where}: '{names['metadata']}' must be an object, got {metadata!r}")
        if gold is not None or metadata is None:
            gold = _number_or_text(row, names, where)
        return gym_solution(gold, metadata or {})
    if gold is not None and verifier in _STRUCTURED:
        return _STRUCTURED[verifier](_json(gold), gold, what)
    solution = _number_or_text(row, names, where)
    if verifier == "choice":
        return _choice(solution.strip(), _json(row.get(names["options"])), what, f"{where}: '{names['options']}'")
    if verifier in ("helpful", "harmless"):
        try:
            read_rubric(solution)
        except ValueError as error:
            raise ValueError(f"{what}: {error}") from None
    return solution


def _number_or_text(row: Mapping[str, Any], names: Mapping[str, str], where: str) -> str:
    name = names["solution"]
    value = row.get(name)
    if isinstance(value, int | float) and not isinstance(value, bool):
        return str(value)
    return _text(row, name, where)


def _json(value: Any) -> Any:
    """A value, or what the JSON in a text says; a text without JSON is None."""
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value)
    except ValueError:
        return None


def _tests(tests: Any, given: Any, what: str) -> str:
    fits = isinstance(tests, list) and tests and all(isinstance(test, dict) for test in tests)
    if not fits or not all(isinstance(test.get(side), str) for test in tests for side in ("input", "output")):
        raise ValueError(f'{what} of a program must be a JSON list of {{"input": text, "output": text}}, got {given!r}')
    return given if isinstance(given, str) else json.dumps(tests, ensure_ascii=False)


def _goal(goal: Any, given: Any, what: str) -> str:
    try:
        numbers, target = goal["numbers"], goal["target"]
        fits = bool(numbers) and all(type(each) is int and each >= 0 for each in numbers)
        Fraction(str(target))
    except (KeyError, TypeError, ValueError, ZeroDivisionError):
        fits = False
    if not fits:
        raise ValueError(
            f'{what} of an expression must be {{"numbers": [whole numbers], "target": number}}, got {given!r}'
        )
    return given if isinstance(given, str) else json.dumps(goal)


_STRUCTURED = {"code": _tests, "expression": _goal}


def _choice(letter: str, options: Any, what: str, what_options: str) -> str:
    if not _LETTER.fullmatch(letter):
        raise ValueError(f"{what} of a choice must be one capital letter, got {letter!r}")
    if options is None:
        return letter
    texts = (
        dict(zip(map(chr, range(65, 65 + _MAX_OPTIONS)), options, strict=False))
        if isinstance(options, list)
        else options
    )
    fits = isinstance(texts, dict) and len(texts) == len(options) and all(map(_LETTER.fullmatch, texts))
    if not fits or not all(isinstance(text, str) for text in texts.values()):
        raise ValueError(
            f"{what_options} must be a list of texts, or an object of a text for each letter, got {options!r}"
        )
    if letter not in texts:
        raise ValueError(f"{what} = {letter!r} is none of the options {', '.join(texts)}")
    return json.dumps({"answer": letter, "options": texts}, ensure_ascii=False)
