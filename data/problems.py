"""Where problems come from: the miniature world's generators, reasoning-gym's, or a user's own file.

Problems are split by a hash of their language-free key, so that the Chinese and the English form of one
problem never stand on different sides.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from random import Random
from typing import Any, Literal, get_args

from data.files import rows_of
from data.gym import GymSource, is_gym
from data.records import Language, Problem
from data.rows import column_names, problem_in
from data.world.families import SOURCES
from data.world.family import Item, Source
from data.world.graded import GRADED, Level
from data.world.split import held_out
from data.world.wheel import Wheel

__all__ = ["Split", "generate", "held_out", "known_families", "located_problems", "read_problems", "unknown_families"]

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
    """A user's problems, as `located_problems` reads them."""
    return [problem for _, problem in located_problems(path, columns)]


def located_problems(
    path: Path, columns: Mapping[str, str] | None = None, fixed: Mapping[str, str] | None = None
) -> list[tuple[str, Problem]]:
    """(where it stands, problem) for each row of a user's file, as `data.files` and `data.rows` read them.

    `columns` says what the file calls our columns, and `fixed` gives one of ours the same value in every row. The
    key of a problem is its prompt. Everything is validated before anything is returned; ValueError names the file,
    the row, what is wrong and what is allowed.
    """
    names = column_names(columns or {}, fixed or {})
    constants = {names[key]: value for key, value in (fixed or {}).items()}
    located = [
        (where, problem_in({**row, **constants}, names, path.stem, number, where, get_args(Language)))
        for number, (where, row) in enumerate(rows_of(path))
    ]
    if not located:
        raise ValueError(f"{path.name}: no problems in it")
    return located
