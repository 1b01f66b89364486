"""Where problems come from: the miniature world's generators, or a user's own file.

Problems are split by a hash of their language-free key, so that the Chinese and the English form of one
problem never stand on different sides.
"""

from __future__ import annotations

import codecs
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from random import Random
from typing import Any, Literal, get_args

import polars as pl

from data.records import Language, Problem
from data.world.families import SOURCES
from data.world.family import Item, Source
from data.world.rubric import read_rubric
from data.world.split import held_out
from data.world.wheel import Wheel

__all__ = ["VERIFIERS", "Split", "generate", "held_out", "read_problems"]

Split = Literal["train", "heldout"]
VERIFIERS = ("math", "choice", "code", "expression", "judge", "helpful", "harmless")
"""Verifiers that a problem may name, beside `reasoning_gym:<family>`."""

_COLUMNS = ("prompt", "solution", "verifier", "language")
_REQUIRED = ("prompt", "solution")
_HAN = re.compile(r"[\u3400-\u9fff]")
_FRUITLESS_DRAWS = 5_000


def generate(
    families: Mapping[str, float],
    count: int,
    seed: int,
    split: Split,
    languages: Sequence[Language] = ("en", "zh"),
) -> Iterator[Problem]:
    """`count` problems of the miniature world with distinct keys, their languages taking turns.

    `families` weighs the names in `data.world.families.SOURCES`. Ids read `chain/000012`, and
    `chain/heldout-000012` for held-out problems. ValueError if an argument is not allowed, or (while
    iterating) if a family has no more problems than were already given out.
    """
    unknown = [name for name in families if name not in SOURCES]
    if unknown or not families or min(families.values()) < 0 or sum(families.values()) <= 0:
        raise ValueError(f"families must weigh some of {', '.join(SOURCES)}, got {dict(families)}")
    if split not in get_args(Split):
        raise ValueError(f"split must be out of {', '.join(get_args(Split))}, got {split!r}")
    if not languages or any(language not in get_args(Language) for language in languages):
        raise ValueError(f"languages must be out of {', '.join(get_args(Language))}, got {tuple(languages)}")
    if count < 1:
        raise ValueError(f"count must be at least 1, got {count}")
    return _generate(families, count, seed, split, tuple(languages))


def _generate(
    families: Mapping[str, float], count: int, seed: int, split: Split, languages: tuple[Language, ...]
) -> Iterator[Problem]:
    rng = Random(f"problems/{seed}/{split}")
    wheel = Wheel({source: families[name] for name, source in SOURCES.items() if name in families})
    keys: dict[str, set[str]] = {name: set() for name in families}
    for number in range(count):
        source, language = wheel.draw(rng), languages[number % len(languages)]
        item = _draw_new(source, split, keys[source.name], rng)
        keys[source.name].add(item.key)
        yield Problem(
            id=f"{source.name}/{'heldout-' if split == 'heldout' else ''}{number:06d}",
            key=item.key,
            family=source.name,
            language=language,
            prompt=source.question(item, language, rng),
            solution=source.solution(item, language),
            verifier=source.verifier,
        )


def _draw_new(source: Source[Any], split: Split, keys: set[str], rng: Random) -> Item:
    for _ in range(_FRUITLESS_DRAWS):
        item: Item = source.draw(rng)
        if held_out(item.key) == (split == "heldout") and item.key not in keys:
            return item
    raise ValueError(
        f"{source.name} has no new {split} problem after {len(keys)} of them; ask for fewer of this family"
    )


def read_problems(path: Path, columns: Mapping[str, str] | None = None) -> list[Problem]:
    """A user's problems: JSONL, Parquet, or a Hugging Face data set saved to a folder.

    `columns` says what the file calls our `prompt`, `solution`, `verifier` (default math) and `language`
    (default: zh where the prompt has a Han character, else en). The key of a problem is its prompt.
    Everything is validated before anything is returned; ValueError names the file, the row, what is
    wrong and what is allowed.
    """
    names = dict(zip(_COLUMNS, _COLUMNS, strict=True)) | dict(columns or {})
    strange = [name for name in names if name not in _COLUMNS]
    if strange:
        raise ValueError(f"columns may rename {', '.join(_COLUMNS)}, got {', '.join(strange)}")
    problems = [_problem(row, names, path.stem, number, where) for number, (where, row) in enumerate(_rows(path))]
    if not problems:
        raise ValueError(f"{path.name}: no problems in it")
    return problems


def _rows(path: Path) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """(where it stands, the row) for each row of a file."""
    if not path.exists():
        raise ValueError(f"{path}: no such file")
    if path.suffix in (".jsonl", ".ndjson", ".parquet") and not path.is_file():
        raise ValueError(f"{path.name}: a folder, and a {path.suffix} file is expected")
    if path.suffix in (".jsonl", ".ndjson"):
        yield from _json_lines(path)
    elif path.suffix == ".parquet":
        for number, row in enumerate(_parquet(path).iter_rows(named=True), 1):
            yield f"{path.name} row {number}", row
    elif path.is_dir():
        yield from _saved_dataset(path)
    else:
        raise ValueError(f"{path.name}: problems come as .jsonl, .parquet or a saved data set's folder")


def _parquet(path: Path) -> pl.DataFrame:
    try:
        return pl.read_parquet(path, glob=False)
    except pl.exceptions.PolarsError as error:
        raise ValueError(f"{path.name}: not a Parquet file: {str(error).partition(chr(10))[0]}") from None


def _json_lines(path: Path) -> Iterator[tuple[str, Mapping[str, Any]]]:
    with path.open("rb") as lines:
        for number, line in enumerate(lines, 1):
            where = f"{path.name} line {number}"
            text = line.removeprefix(codecs.BOM_UTF8) if number == 1 else line
            if not text.strip():
                continue
            try:
                row = json.loads(text.decode("utf-8"))
            except UnicodeDecodeError as error:
                raise ValueError(f"{where}: not UTF-8 at its byte {error.start}") from None
            except json.JSONDecodeError as error:
                raise ValueError(f"{where}: not JSON: {error}") from None
            if not isinstance(row, dict):
                raise ValueError(f"{where}: a JSON object is expected, got {type(row).__name__}")
            yield where, row


def _saved_dataset(path: Path) -> Iterator[tuple[str, Mapping[str, Any]]]:
    from datasets import DatasetDict, load_from_disk

    try:
        dataset = load_from_disk(str(path))
    except FileNotFoundError:
        raise ValueError(f"{path.name}: not a data set that was saved with save_to_disk") from None
    if isinstance(dataset, DatasetDict):
        raise ValueError(f"{path.name}: name the folder of one split out of {', '.join(sorted(dataset))}")
    for number, row in enumerate(dataset, 1):
        yield f"{path.name} row {number}", row


def _problem(row: Mapping[str, Any], names: Mapping[str, str], stem: str, number: int, where: str) -> Problem:
    values = {ours: row.get(theirs) for ours, theirs in names.items()}
    for ours in _REQUIRED:
        if values[ours] is None:
            raise ValueError(f"{where}: '{names[ours]}' is missing")
    if isinstance(values["solution"], int | float) and not isinstance(values["solution"], bool):
        values["solution"] = str(values["solution"])
    for ours, value in values.items():
        if value is not None and (not isinstance(value, str) or not value.strip()):
            raise ValueError(f"{where}: '{names[ours]}' must be text that is not empty, got {value!r}")
    prompt, solution = str(values["prompt"]), str(values["solution"])
    verifier = str(values["verifier"] or "math")
    language = values["language"] or ("zh" if _HAN.search(prompt) else "en")
    if language not in get_args(Language):
        raise ValueError(f"{where}: '{names['language']}' must be en or zh, got {language!r}")
    _check_verifier(verifier, f"{where}: '{names['verifier']}'")
    _check_solution(verifier, solution, f"{where}: '{names['solution']}'")
    return Problem(f"{stem}/{number:06d}", prompt, stem, language, prompt, solution, verifier)


def _check_verifier(verifier: str, what: str) -> None:
    if verifier in VERIFIERS:
        return
    prefix, _, family = verifier.partition(":")
    if prefix != "reasoning_gym":
        allowed = ", ".join(VERIFIERS)
        raise ValueError(f"{what} must be out of {allowed}, reasoning_gym:<family>; got {verifier!r}")
    from reasoning_gym.factory import DATASETS

    if family not in DATASETS:
        raise ValueError(f"{what} names no family of reasoning_gym: {family!r}")


def _check_solution(verifier: str, solution: str, what: str) -> None:
    if verifier == "choice" and not re.fullmatch(r"[A-Z]", solution.strip()):
        raise ValueError(f"{what} of a choice must be one capital letter, got {solution!r}")
    if verifier == "code" and not _are_tests(solution):
        raise ValueError(
            f'{what} of a program must be a JSON list of {{"input": text, "output": text}}, got {solution!r}'
        )
    if verifier in ("helpful", "harmless"):
        try:
            read_rubric(solution)
        except ValueError as error:
            raise ValueError(f"{what}: {error}") from None


def _are_tests(solution: str) -> bool:
    try:
        tests = json.loads(solution)
    except json.JSONDecodeError:
        return False
    return (
        isinstance(tests, list)
        and bool(tests)
        and all(
            isinstance(test, dict) and all(isinstance(test.get(side), str) for side in ("input", "output"))
            for test in tests
        )
    )
