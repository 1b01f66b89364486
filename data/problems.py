"""Where problems come from: the miniature world's generators, reasoning-gym's, or a user's own file.

Problems are split by a hash of their language-free key, so that the Chinese and the English form of one
problem never stand on different sides.
"""

from __future__ import annotations

import codecs
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from random import Random
from typing import Any, Literal, get_args

import polars as pl

from data.gym import GymSource, is_gym
from data.records import Language, Problem
from data.rows import COLUMNS, problem_in
from data.world.families import SOURCES
from data.world.family import Item, Source
from data.world.graded import GRADED, Level
from data.world.split import held_out
from data.world.wheel import Wheel

__all__ = ["Split", "generate", "held_out", "known_families", "read_problems", "unknown_families"]

Split = Literal["train", "heldout"]
_FRUITLESS_DRAWS = 5_000


def generate(
    families: Mapping[str, float],
    count: int,
    seed: int,
    split: Split,
    languages: Sequence[Language] = ("en", "zh"),
) -> Iterator[Problem]:
    """`count` problems of the miniature world with distinct keys, their languages taking turns.

    `families` weighs the names in `data.world.families.SOURCES` and `reasoning_gym:<family>`; its problems
    and those of graded families are in English. Ids read `chain/000012`, and `chain/heldout-000012` for held-out
    problems. ValueError if an argument is not allowed, or (while iterating) if a family has no more problems than
    were already given out.
    """
    unknown = unknown_families(families)
    if unknown or not families or min(families.values()) < 0 or sum(families.values()) <= 0:
        raise ValueError(f"families must weigh some of {known_families()}, got {dict(families)}")
    if split not in get_args(Split):
        raise ValueError(f"split must be out of {', '.join(get_args(Split))}, got {split!r}")
    if not languages or any(language not in get_args(Language) for language in languages):
        raise ValueError(f"languages must be out of {', '.join(get_args(Language))}, got {tuple(languages)}")
    if count < 1:
        raise ValueError(f"count must be at least 1, got {count}")
    return _generate(families, count, seed, split, tuple(languages))


def unknown_families(names: Iterable[str]) -> list[str]:
    """Those of the names that no source of problems has."""
    return sorted(name for name in names if name not in SOURCES and not is_gym(name))


def known_families() -> str:
    """The names of all sources of problems, for people."""
    return f"{', '.join(sorted(SOURCES.keys() - GRADED.keys()))}, {', '.join(GRADED)}, reasoning_gym:<family>"


def _generate(
    families: Mapping[str, float], count: int, seed: int, split: Split, languages: tuple[Language, ...]
) -> Iterator[Problem]:
    rng = Random(f"problems/{seed}/{split}")
    sources = {**SOURCES, **{name: GymSource(name) for name in sorted(families) if name not in SOURCES}}
    wheel = Wheel({source: families[name] for name, source in sources.items() if name in families})
    keys: dict[str, set[str]] = {name: set() for name in families}
    for number in range(count):
        source, language = wheel.draw(rng), languages[number % len(languages)]
        language = "en" if isinstance(source, GymSource | Level) else language
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
    """A user's problems: JSONL, Parquet, or a Hugging Face data set saved to a folder, as `data.rows` reads them.

    `columns` says what the file calls our columns. The key of a problem is its prompt. Everything is validated
    before anything is returned; ValueError names the file, the row, what is wrong and what is allowed.
    """
    names = dict(zip(COLUMNS, COLUMNS, strict=True)) | dict(columns or {})
    strange = [name for name in names if name not in COLUMNS]
    if strange:
        raise ValueError(f"columns may rename {', '.join(COLUMNS)}, got {', '.join(strange)}")
    problems = [
        problem_in(row, names, path.stem, number, where, get_args(Language))
        for number, (where, row) in enumerate(rows_of(path))
    ]
    if not problems:
        raise ValueError(f"{path.name}: no problems in it")
    return problems


def rows_of(path: Path) -> Iterator[tuple[str, Mapping[str, Any]]]:
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
            except (json.JSONDecodeError, RecursionError) as error:
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
