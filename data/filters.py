"""Rejection sampling's filters: which trajectories are dropped, and why (DeepSeek-R1, 3.3 to 3.5).

A filter is a configuration whose `details` look at a table of trajectories and give a text for each row that
it drops, null for the rest. `apply` runs them in the declared order, each on what the earlier ones left: the
first that fires is a row's reason. Rows are taken by id, so their order in the table does not matter.

A text is compared by its units: words and numbers in lower case, and Han characters one by one. The text of
a trajectory is its thinking and answer where it is well formed, so a rewritten trajectory is judged as it
would be trained on; else the whole completion.

Thresholds are not in the paper. Not found here, as there: paraphrases of evaluation problems.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from math import isnan
from typing import Annotated, Literal, Protocol

import polars as pl
from pydantic import Field

from data.language import MAX_FOREIGN_SPAN, MIN_CONSISTENCY, consistency, reflection_count
from data.lineage import Settings
from data.store import query

_UNIT = re.compile(r"[\u3400-\u9fff]|[0-9]+(?:\.[0-9]+)?|(?:(?![\u3400-\u9fff])[^\W\d_])+")
_UNIT_POLARS = r"\p{Han}|[0-9]+(?:\.[0-9]+)?|[\p{L}--\p{Han}]+"
_SENTENCE_END = re.compile(r"\n+|(?<=[.!?;])\s+|(?<=[。！？；])")
_NUMERAL = re.compile(
    r"[0-9]+(?:\.[0-9]+)?|[-+*/=<>×÷−]|[零〇一二两三四五六七八九十百千万亿半]"
    r"|(?<![^\W\d_])[a-z](?![^\W\d_])"
    r"|\b(?:zero|one|two|three|four|five|six|seven|eight|nine|ten|eleven|twelve|\w+teen|twenty|thirty|forty"
    r"|fifty|sixty|seventy|eighty|ninety|hundred|thousand|million|half|no|not|first|second|third)\b"
)
_LOOP_UNITS = 3  # a line shorter than this may come back as often as it likes


@dataclass(frozen=True, slots=True)
class Context:
    """What filters know beside the trajectories: the texts of evaluation problems and of their solutions,
    each a text of its own."""

    evaluation: Sequence[str] = ()


class _Filter(Protocol):
    @property
    def name(self) -> str: ...

    def details(self, frame: pl.DataFrame, context: Context) -> pl.Series: ...


class _ByExpression(Settings):
    """A filter that looks at one row at a time and is a Polars expression."""

    def expression(self) -> pl.Expr:
        """Text for the rows to drop, null for the others."""
        raise NotImplementedError

    def details(self, frame: pl.DataFrame, context: Context) -> pl.Series:
        """The expression's value for each row."""
        return frame.select(self.expression().cast(pl.String).alias("detail")).to_series()


class NotCorrect(_ByExpression):
    """Drops every verdict but "correct"; also a missing one."""

    name: Literal["verdict"] = "verdict"

    def expression(self) -> pl.Expr:
        verdict = pl.col("verdict").fill_null("none")
        return pl.when(verdict != "correct").then(
            pl.concat_str(verdict, pl.col("reason_detail").fill_null(""), separator=": ").str.strip_chars(": ")
        )


class Malformed(_ByExpression):
    """Drops completions that the template cannot take apart."""

    name: Literal["malformed"] = "malformed"

    def expression(self) -> pl.Expr:
        return pl.when(~pl.col("well_formed").fill_null(False)).then(pl.lit(""))


class Truncated(_ByExpression):
    """Drops completions that did not end by themselves."""

    name: Literal["truncated"] = "truncated"

    def expression(self) -> pl.Expr:
        finish = pl.col("finish").fill_null("none")
        return pl.when(finish != "stop").then(finish)


class OverLong(_ByExpression):
    """Drops completions of more than `max_tokens` tokens."""

    name: Literal["over_long"] = "over_long"
    max_tokens: int = Field(ge=1, description="tokens that a completion may have")

    def expression(self) -> pl.Expr:
        return pl.when(pl.col("tokens") > self.max_tokens).then(pl.format("{} tokens", pl.col("tokens")))


class MixedLanguage(Settings):
    """Drops thinking that mixes languages, or has no words at all: `Consistency.mixed`, read off the table's
    ratios, and off the thinking where only a clause in another language can tell."""

    name: Literal["mixed_language"] = "mixed_language"
    min_consistency: float = Field(MIN_CONSISTENCY, ge=0, le=1, description="least share of words in the target")

    def details(self, frame: pl.DataFrame, context: Context) -> pl.Series:
        """The ratio, or how many foreign words stand in a row."""
        return _details(map(self._mixing, frame["consistency"], frame["thinking"], frame["language"]))

    def _mixing(self, ratio: float | None, thinking: str | None, language: str) -> str | None:
        if ratio is None or isnan(ratio):
            return "no words"
        if ratio < self.min_consistency:
            return f"consistency {round(ratio, 3)}"
        if ratio == 1 or thinking is None:
            return None
        span = consistency(thinking, language).longest_foreign_span
        return f"{span} foreign words in a row" if span > MAX_FOREIGN_SPAN else None


class LongParagraph(_ByExpression):
    """Drops thinking with a paragraph that is too long to read."""

    name: Literal["long_paragraph"] = "long_paragraph"
    max_units: int = Field(300, ge=1, description="words, numbers and Han characters of a paragraph")

    def expression(self) -> pl.Expr:
        paragraphs = _thinking().str.replace_all(r"\n[ \t]*\n", "\x00").str.split("\x00")
        longest = paragraphs.list.eval(pl.element().str.count_matches(_UNIT_POLARS)).list.max()
        return pl.when(longest > self.max_units).then(pl.format("{} units", longest))


class CodeBlock(_ByExpression):
    """Drops thinking with a fenced code block."""

    name: Literal["code_block"] = "code_block"

    def expression(self) -> pl.Expr:
        return pl.when(_thinking().str.contains(r"(?m)```|^[ \t]*~~~")).then(pl.lit(""))


class Repetition(Settings):
    """Drops texts that run in circles: a line or sentence again and again, or many repeated n-grams."""

    name: Literal["repetition"] = "repetition"
    max_line_repeats: int = Field(3, ge=1, description="how often one line or sentence may stand")
    ngram: int = Field(8, ge=2, description="units of an n-gram")
    max_ngram_share: float = Field(0.3, ge=0, le=1, description="share of n-grams that stood before")

    def details(self, frame: pl.DataFrame, context: Context) -> pl.Series:
        """The most repeated line, or the share of repeated n-grams."""
        return _details(map(self._loop, _texts(frame)))

    def _loop(self, text: str) -> str | None:
        lines = Counter(
            " ".join(unit) for line in _SENTENCE_END.split(text) if len(unit := _signed_units(line)) >= _LOOP_UNITS
        )
        line, times = max(lines.items(), key=lambda item: (item[1], item[0]), default=("", 0))
        if times > self.max_line_repeats:
            return f"{times} x {line[:60]}"
        grams = list(_ngrams(units(text), self.ngram))
        share = 1 - len(set(grams)) / len(grams) if grams else 0.0
        return f"n-gram share {share:.2f}" if share > self.max_ngram_share else None


class Contaminated(Settings):
    """Drops what shares an n-gram with an evaluation problem or solution, in prompt or text.

    An evaluation text shorter than an n-gram matches only a whole prompt or text that is equal to it.
    """

    name: Literal["contaminated"] = "contaminated"
    ngram: int = Field(10, ge=2, description="units of an n-gram; the paper's is 10")

    def details(self, frame: pl.DataFrame, context: Context) -> pl.Series:
        """Where and what: "prompt: ..." or "text: ..."."""
        forbidden = {part for text in context.evaluation for part in self._parts(text)}
        forbidden.discard("")
        return _details(
            self._first_match(forbidden, prompt, text)
            for prompt, text in zip(frame["prompt"], _texts(frame), strict=True)
        )

    def _first_match(self, forbidden: set[str], prompt: str | None, text: str) -> str | None:
        for where, content in (("prompt", prompt or ""), ("text", text)):
            for part in self._parts(content):
                if part in forbidden:
                    return f"{where}: {part}"
        return None

    def _parts(self, text: str) -> Iterator[str]:
        found = units(text)
        if len(found) < self.ngram:
            return iter([" ".join(found)])
        return _ngrams(found, self.ngram)


class Duplicate(Settings):
    """Drops a text that another response to the same problem has, white space aside."""

    name: Literal["duplicate"] = "duplicate"

    def details(self, frame: pl.DataFrame, context: Context) -> pl.Series:
        """Id of the response that stays: the first by id."""
        texts = _texts(frame).str.normalize("NFC").str.replace_all(r"\s+", " ").str.strip_chars()
        return query(
            """
            SELECT nullif(first_value(id) OVER (PARTITION BY problem_id, text ORDER BY place), id) AS detail
            FROM rows ORDER BY place
            """,
            frame.select("id", "problem_id", texts.alias("text")),
        )


class NearDuplicate(Settings):
    """Drops a response that hardly differs from another to the same problem.

    Texts with other numbers, numerals, arithmetic signs or single letters, or the same ones in another
    order, are never duplicates: a slip in one digit is what makes them worth keeping.
    """

    name: Literal["near_duplicate"] = "near_duplicate"
    min_similarity: float = Field(0.8, gt=0, le=1, description="Jaccard similarity of the shingles")
    shingle: int = Field(3, ge=1, description="units of a shingle")

    def details(self, frame: pl.DataFrame, context: Context) -> pl.Series:
        """Id of the kept partner."""
        return _within_problems(frame, self._partners)

    def _partners(self, group: pl.DataFrame) -> list[str | None]:
        kept: list[tuple[str, list[str], set[str]]] = []
        found: list[str | None] = []
        for id_, text in zip(group["id"], _texts(group), strict=True):
            numerals = _NUMERAL.findall(text.casefold())
            all_units = units(text)
            shingles = set(_ngrams(all_units, min(self.shingle, max(1, len(all_units)))))
            partner = next(
                (other for other, theirs, their_shingles in kept
                 if theirs == numerals and _jaccard(shingles, their_shingles) >= self.min_similarity),
                None,
            )  # fmt: skip
            found.append(partner)
            if partner is None:
                kept.append((id_, numerals, shingles))
        return found


class Surplus(Settings):
    """Keeps at most so many responses a problem: spread over their lengths, the shortest and longest among
    them."""

    name: Literal["surplus"] = "surplus"
    max_per_problem: int = Field(ge=1, description="responses kept of one problem")

    def details(self, frame: pl.DataFrame, context: Context) -> pl.Series:
        """How many responses the problem had."""
        return query(
            """
            WITH ranked AS (
                SELECT place, count(*) OVER (PARTITION BY problem_id) AS n,
                       row_number() OVER (PARTITION BY problem_id ORDER BY tokens, id) - 1 AS rank
                FROM rows
            )
            SELECT CASE WHEN n > $most AND NOT list_contains(
                       CASE WHEN $most = 1 THEN [n // 2]
                            ELSE [step * (n - 1) // ($most - 1) FOR step IN range($most)] END, rank)
                   THEN 'of ' || n END AS detail
            FROM ranked ORDER BY place
            """,
            frame.select("id", "problem_id", "tokens"),
            most=self.max_per_problem,
        )


FilterConfig = Annotated[
    NotCorrect
    | Malformed
    | Truncated
    | OverLong
    | MixedLanguage
    | LongParagraph
    | CodeBlock
    | Repetition
    | Contaminated
    | Duplicate
    | NearDuplicate
    | Surplus,
    Field(discriminator="name"),
]
"""One filter as a recipe writes it: `{name = "over_long", max_tokens = 4096}`."""


def apply(
    frame: pl.DataFrame, filters: Sequence[_Filter], context: Context | None = None
) -> tuple[pl.DataFrame, pl.DataFrame]:
    """(kept, dropped), both by id within their reason; `dropped` has two more columns, `reason` and `detail`.

    Raises ValueError where two rows have one id.
    """
    doubled = frame["id"].filter(frame["id"].is_duplicated())
    if len(doubled):
        raise ValueError(f"{len(doubled)} rows share their id with another, for example {doubled[0]!r}")
    kept, dropped = frame.sort("id"), [_reasoned(frame.clear(), "", pl.Series("detail", [], pl.String))]
    for each in filters:
        details = each.details(kept, context or Context())
        fires = details.is_not_null()
        dropped.append(_reasoned(kept.filter(fires), each.name, details.filter(fires)))
        kept = kept.filter(~fires)
    return kept, pl.concat(dropped)


def waterfall(
    frame_in: pl.DataFrame, dropped: pl.DataFrame, kept: pl.DataFrame, filters: Sequence[_Filter] = ()
) -> pl.DataFrame:
    """(reason, rows): "in", then each reason in order, then "kept"; with `filters` also those that drop none.

    Raises ValueError where rows were lost or won on the way.
    """
    if len(frame_in) != len(dropped) + len(kept):
        raise ValueError(f"{len(frame_in)} rows came in, {len(dropped)} dropped and {len(kept)} kept went out")
    rows = dict.fromkeys((each.name for each in filters), 0)
    for reason in dropped["reason"]:
        rows[reason] = rows.get(reason, 0) + 1
    steps = [("in", len(frame_in)), *rows.items(), ("kept", len(kept))]
    return pl.DataFrame(steps, schema={"reason": pl.String, "rows": pl.Int64}, orient="row")


def with_language(frame: pl.DataFrame) -> pl.DataFrame:
    """The table with `consistency` and `reflections` measured anew from `thinking` and `language`."""
    pairs = list(zip(frame["thinking"], frame["language"], strict=True))
    ratios = [consistency(text, language).ratio if text is not None else None for text, language in pairs]
    reflections = [reflection_count(text or "") for text, _ in pairs]
    return frame.with_columns(
        pl.Series("consistency", ratios, pl.Float64), pl.Series("reflections", reflections, pl.Int32)
    )


def units(text: str) -> list[str]:
    """Words and numbers in lower case, and single Han characters, in order."""
    return _UNIT.findall(text.casefold())


def _signed_units(text: str) -> list[str]:
    """Units and arithmetic signs: lines that differ in a sign are not the same line."""
    return re.findall(rf"{_UNIT.pattern}|[-+*/=<>×÷−]", text.casefold())


def _ngrams(found: Sequence[str], size: int) -> Iterator[str]:
    return (" ".join(found[start : start + size]) for start in range(len(found) - size + 1))


def _jaccard(left: set[str], right: set[str]) -> float:
    return len(left & right) / len(left | right) if left or right else 1.0


def _thinking() -> pl.Expr:
    return pl.coalesce("thinking", "completion").fill_null("")


def _texts(frame: pl.DataFrame) -> pl.Series:
    whole = pl.concat_str("thinking", "answer", separator="\n")  # null where either is
    return frame.select(pl.coalesce(whole, "completion").fill_null("").alias("text")).to_series()


def _details(values: Iterable[str | None]) -> pl.Series:
    return pl.Series("detail", list(values), pl.String)


def _reasoned(frame: pl.DataFrame, reason: str, details: pl.Series) -> pl.DataFrame:
    return frame.with_columns(pl.lit(reason, pl.String).alias("reason"), details.alias("detail"))


def _within_problems(frame: pl.DataFrame, judge: Callable[[pl.DataFrame], list[str | None]]) -> pl.Series:
    """Let a function judge the rows of each problem together; details in the order of the table."""
    details: list[str | None] = [None] * len(frame)
    for group in frame.with_row_index("row").partition_by("problem_id", maintain_order=True):
        for row, detail in zip(group["row"], judge(group), strict=True):
            details[row] = detail
    return _details(details)
