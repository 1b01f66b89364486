"""What is measured of many trajectories at once, where there are so many that machine code pays.

`measured` adds columns that filters read to find the rows that need a closer look: null where one walk could not
tell. Without these columns the filters look at every row; the verdicts are the same.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from functools import cache
from typing import Any, Final

import numpy as np
import polars as pl

from data.language import Consistency
from data.prompts import TAGS
from data.trajectories import evaluation_parts, texts
from data.units import run_hash, unit_hash

MEASURES: Final = ("paragraph", "lines", "share", "seen", "numerals", "same_text")
"""`walk.` and one of these: units of the longest paragraph, repeats of a line, share of n-grams that stood before,
whether a run of units may be an evaluation text's, hash of the numerals, digest of the text."""

PARTS: Final = ("thinking", "answer", "well_formed", "consistency")
"""What `taken_apart` adds where it is missing."""


def taken_apart(frame: pl.DataFrame) -> pl.DataFrame:
    """Add `thinking`, `answer` and `well_formed` where a table of completions lacks them: `data.prompts.parse` of the
    chat template; `consistency`, null, is not measured."""
    if "thinking" not in frame.columns:
        text = pl.col("completion")
        tags = text.str.count_matches("|".join(TAGS))
        halves = text.str.split_exact(TAGS[1], 1)
        head, answer = (halves.struct.field(f"field_{n}").fill_null("").str.strip_chars() for n in (0, 1))
        fits = (tags == 2) & head.str.starts_with(TAGS[0]) & (answer != "")
        frame = frame.with_columns(
            pl.when(fits).then(head.str.strip_prefix(TAGS[0]).str.strip_chars()).alias("thinking"),
            pl.when(fits).then(answer).alias("answer"),
            fits.alias("well_formed"),
        )
    if "consistency" not in frame.columns:
        frame = frame.with_columns(pl.lit(None, pl.Float64).alias("consistency"))
    return frame


def measured(frame: pl.DataFrame, evaluation: tuple[str, ...], run: int, gram: int) -> pl.DataFrame:
    """The table with its measures: runs of `run` units are compared with the evaluation texts, of `gram` units among
    themselves."""
    from data import walk

    forbidden = _forbidden(evaluation, run)
    text = texts(frame)
    cuts = frame.select(
        pl.coalesce(pl.when(pl.col("answer").is_not_null()).then(pl.col("thinking")), "completion")
        .fill_null("")
        .str.len_bytes()
        .cast(pl.Int64)
    ).to_series()
    found, collapsed = walk.walked(text, cuts, forbidden, gram)
    prompts = frame["prompt"].fill_null("")
    asked, _ = walk.walked(prompts, prompts.str.len_bytes().cast(pl.Int64), forbidden, gram)
    share = 1 - found["distinct"] / np.maximum(found["grams"], 1)
    columns = {
        "paragraph": found["paragraph"],
        "lines": found["lines"],
        "share": np.where(found["grams"] > 0, share, 0.0),
        "seen": found["seen"] | asked["seen"] | asked["odd"],
        "numerals": found["numerals"],
        "same_text": pl.Series(_digests(collapsed, found["collapsed"]), dtype=pl.Binary),
    }
    odd = pl.Series(found["odd"])
    measures = pl.DataFrame({f"walk.{name}": column for name, column in columns.items()})
    return frame.hstack(measures.select(pl.when(~odd).then(pl.all()).name.keep()))


@cache
def _forbidden(evaluation: tuple[str, ...], run: int) -> Any:
    from data import walk

    found = evaluation_parts(evaluation, run)
    return walk.Lookup((run_hash(map(unit_hash, part.split(" "))) for part in found), run)


def runs(text: pl.Series, size: int) -> pl.Series:
    """The distinct hashes of each text's runs of `size` units; null where one walk cannot tell."""
    from data import walk

    return walk.runs(text, size)


def numerals(texts: pl.Series) -> pl.Series:
    """Each text's hash of numerals; null where one walk cannot tell."""
    from data import walk

    found, _ = walk.walked(texts, texts.str.len_bytes().cast(pl.Int64), walk.Lookup([], 1), 1)
    return pl.Series(found["numerals"]).set(pl.Series(found["odd"]), None)


def consistencies(texts: pl.Series, languages: pl.Series) -> list[Consistency | None]:
    """Each text's `data.language.consistency` with its language; None where machine code cannot tell. No nulls."""
    from data import consistent

    return consistent.consistencies(texts, languages)


def _digests(collapsed: Any, ends: Iterable[int]) -> list[bytes]:
    view, begin, found = memoryview(collapsed), 0, []
    for end in ends:
        found.append(hashlib.blake2b(view[begin:end], digest_size=16).digest())
        begin = end
    return found
