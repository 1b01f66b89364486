"""The filters that look at one row at a time."""

from __future__ import annotations

from collections import Counter
from math import isnan
from typing import Literal

import polars as pl
from pydantic import Field

from data.filters.kinds import Context, Expression, RowFilter, details_of, texts, thinking
from data.language import MAX_FOREIGN_SPAN, MIN_CONSISTENCY, consistency
from data.units import SENTENCE_END, ngrams, parts, signed_units, units

_UNIT = r"\p{Han}|[0-9]+(?:\.[0-9]+)?|[\p{L}--\p{Han}]+"
_LOOP_UNITS = 3  # a line shorter than this may come back as often as it likes


class NotCorrect(Expression):
    """Drops every verdict but "correct"; also a missing one."""

    name: Literal["verdict"] = "verdict"

    def expression(self) -> pl.Expr:
        verdict = pl.col("verdict").fill_null("none")
        return pl.when(verdict != "correct").then(
            pl.concat_str(verdict, pl.col("reason_detail").fill_null(""), separator=": ").str.strip_chars(": ")
        )


class Malformed(Expression):
    """Drops completions that the template cannot take apart."""

    name: Literal["malformed"] = "malformed"

    def expression(self) -> pl.Expr:
        return pl.when(~pl.col("well_formed").fill_null(False)).then(pl.lit(""))


class Truncated(Expression):
    """Drops completions that did not end by themselves."""

    name: Literal["truncated"] = "truncated"

    def expression(self) -> pl.Expr:
        finish = pl.col("finish").fill_null("none")
        return pl.when(finish != "stop").then(finish)


class OverLong(Expression):
    """Drops completions of more than `max_tokens` tokens."""

    name: Literal["over_long"] = "over_long"
    max_tokens: int = Field(ge=1, description="tokens that a completion may have")

    def expression(self) -> pl.Expr:
        return pl.when(pl.col("tokens") > self.max_tokens).then(pl.format("{} tokens", pl.col("tokens")))


class MixedLanguage(RowFilter):
    """Drops thinking that mixes languages, or has no words at all: `Consistency.mixed`, read off the table's
    ratios, and off the thinking where only a clause in another language can tell."""

    name: Literal["mixed_language"] = "mixed_language"
    min_consistency: float = Field(MIN_CONSISTENCY, ge=0, le=1, description="least share of words in the target")

    def details(self, frame: pl.DataFrame, context: Context) -> pl.Series:
        """The ratio, or how many foreign words stand in a row."""
        return details_of(map(self._mixing, frame["consistency"], frame["thinking"], frame["language"]))

    def _mixing(self, ratio: float | None, thinking: str | None, language: str) -> str | None:
        if ratio is None or isnan(ratio):
            return "no words"
        if ratio < self.min_consistency:
            return f"consistency {round(ratio, 3)}"
        if ratio == 1 or thinking is None:
            return None
        span = consistency(thinking, language).longest_foreign_span
        return f"{span} foreign words in a row" if span > MAX_FOREIGN_SPAN else None


class LongParagraph(Expression):
    """Drops thinking with a paragraph that is too long to read."""

    name: Literal["long_paragraph"] = "long_paragraph"
    max_units: int = Field(300, ge=1, description="words, numbers and Han characters of a paragraph")

    def expression(self) -> pl.Expr:
        paragraphs = thinking().str.replace_all(r"\n[ \t]*\n", "\x00").str.split("\x00")
        longest = paragraphs.list.eval(pl.element().str.count_matches(_UNIT)).list.max()
        return pl.when(longest > self.max_units).then(pl.format("{} units", longest))


class CodeBlock(Expression):
    """Drops thinking with a fenced code block."""

    name: Literal["code_block"] = "code_block"

    def expression(self) -> pl.Expr:
        return pl.when(thinking().str.contains(r"(?m)```|^[ \t]*~~~")).then(pl.lit(""))


class Repetition(RowFilter):
    """Drops texts that run in circles: a line or sentence again and again, or many repeated n-grams."""

    name: Literal["repetition"] = "repetition"
    max_line_repeats: int = Field(3, ge=1, description="how often one line or sentence may stand")
    ngram: int = Field(8, ge=2, description="units of an n-gram")
    max_ngram_share: float = Field(0.3, ge=0, le=1, description="share of n-grams that stood before")

    def details(self, frame: pl.DataFrame, context: Context) -> pl.Series:
        """The most repeated line, or the share of repeated n-grams."""
        return details_of(map(self._loop, texts(frame)))

    def _loop(self, text: str) -> str | None:
        lines = Counter(
            " ".join(unit) for line in SENTENCE_END.split(text) if len(unit := signed_units(line)) >= _LOOP_UNITS
        )
        line, times = max(lines.items(), key=lambda item: (item[1], item[0]), default=("", 0))
        if times > self.max_line_repeats:
            return f"{times} x {line[:60]}"
        grams = list(ngrams(units(text), self.ngram))
        share = 1 - len(set(grams)) / len(grams) if grams else 0.0
        return f"n-gram share {share:.2f}" if share > self.max_ngram_share else None


class Contaminated(RowFilter):
    """Drops what shares an n-gram with an evaluation problem or solution, in prompt or text.

    An evaluation text shorter than an n-gram matches only a whole prompt or text that is equal to it.
    """

    name: Literal["contaminated"] = "contaminated"
    ngram: int = Field(10, ge=2, description="units of an n-gram; the paper's is 10")

    def details(self, frame: pl.DataFrame, context: Context) -> pl.Series:
        """Where and what: "prompt: ..." or "text: ..."."""
        forbidden = {part for text in context.evaluation for part in parts(text, self.ngram)}
        forbidden.discard("")
        return details_of(
            self._first_match(forbidden, prompt, text)
            for prompt, text in zip(frame["prompt"], texts(frame), strict=True)
        )

    def _first_match(self, forbidden: set[str], prompt: str | None, text: str) -> str | None:
        for where, content in (("prompt", prompt or ""), ("text", text)):
            for part in parts(content, self.ngram):
                if part in forbidden:
                    return f"{where}: {part}"
        return None
