"""The filters that look at one row at a time."""

from __future__ import annotations

import zlib
from collections import Counter
from functools import partial
from typing import Literal

import polars as pl
from pydantic import Field

from data.filters.kinds import Context, Expression, RowFilter, asked, details_of
from data.language import MIN_CONSISTENCY, Consistency, consistency
from data.prompts import TAGS
from data.scan import consistencies
from data.trajectories import evaluation_parts, texts, thinking, thinking_of
from data.units import FENCED, LINE_UNITS, PARAGRAPH_END, SENTENCE_END, ngrams, parts, signed_units, units


class NotCorrect(Expression):
    """Drops every verdict but "correct"; also a missing one."""

    name: Literal["verdict"] = "verdict"

    def expression(self) -> pl.Expr:
        verdict = pl.col("verdict").fill_null("none")
        return pl.when(verdict != "correct").then(
            pl.concat_str(verdict, pl.col("reason_detail").fill_null(""), separator=": ").str.strip_chars(": ")
        )


class NoThinking(Expression):
    """Drops completions without any thinking: no tags, or nothing between them."""

    name: Literal["no_thinking"] = "no_thinking"

    def expression(self) -> pl.Expr:
        whole, unknown = _whole("thinking"), pl.col("thinking").is_null()
        parts = whole.fill_null("").str.split_exact(TAGS[1], 1).struct.field("field_0")
        untold = unknown & (parts.str.replace(TAGS[0], "", literal=True).str.strip_chars() == "")
        untagged = unknown & ~whole.str.contains(TAGS[0], literal=True)
        return pl.when(untold | untagged | _is_blank("thinking")).then(pl.lit(""))


class NoSummary(Expression):
    """Drops completions that end with their thinking."""

    name: Literal["no_summary"] = "no_summary"

    def expression(self) -> pl.Expr:
        said = _whole("answer").fill_null("").str.split_exact(TAGS[1], 1).struct.field("field_1")
        for tag in TAGS[2:]:
            said = said.str.replace(tag, "", literal=True)
        unsaid = pl.col("answer").is_null() & (said.str.strip_chars() == "")
        return pl.when(unsaid | _is_blank("answer")).then(pl.lit(""))


def _whole(part: str) -> pl.Expr:
    """The completion where a part of it is not known; the others need no look at it."""
    return pl.when(pl.col(part).is_null()).then("completion")


def _is_blank(column: str) -> pl.Expr:
    return ~pl.col(column).str.contains(r"\S")


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
    """Drops thinking that mixes languages, or has no words at all: `Consistency.mixed`.

    The ratio is read off the table where sampling has measured it, and the thinking only where a clause in
    another language can hide in it; without a ratio the thinking is measured here.
    """

    name: Literal["mixed_language"] = "mixed_language"
    measured = True
    min_consistency: float = Field(MIN_CONSISTENCY, ge=0, le=1, description="least share of words in the target")

    def details(self, frame: pl.DataFrame, context: Context) -> pl.Series:
        """The ratio, or how many foreign words stand in a row."""
        carried = frame["consistency"]  # null where it was not measured
        rows = (carried.is_null() | ((carried != 1) & (carried >= self.min_consistency))).arg_true()
        details: list[str | None] = [
            f"consistency {round(ratio, 3)}" if ratio is not None and ratio < self.min_consistency else None
            for ratio in carried
        ]
        for row, detail in zip(rows, mixings(frame[rows], "thinking", self.min_consistency), strict=True):
            details[row] = detail
        return details_of(details)


class SummaryLanguage(RowFilter):
    """Drops answers that are not in the question's language, or mix it with others; one without words stays."""

    name: Literal["summary_language"] = "summary_language"
    measured = True
    min_consistency: float = Field(MIN_CONSISTENCY, ge=0, le=1, description="least share of words in the target")

    def details(self, frame: pl.DataFrame, context: Context) -> pl.Series:
        """The ratio, or how many foreign words stand in a row."""
        found = mixings(frame, "answer", self.min_consistency)
        return details_of(None if each == NO_WORDS else each for each in found)


NO_WORDS = "no words"


def mixings(frame: pl.DataFrame, column: str, min_consistency: float) -> list[str | None]:
    """How each row's text mixes languages; None where it does not."""
    texts, languages = frame[column].fill_null(""), frame["language"]
    known = consistencies(texts, languages) if "walk.lines" in frame.columns else [None] * len(frame)
    return [
        mixing(consistency(texts[row], languages[row]) if found is None else found, min_consistency)
        for row, found in enumerate(known)
    ]


def mixing(found: Consistency, min_consistency: float) -> str | None:
    """What is wrong with a text's consistency; None where nothing is."""
    if not found.mixed(min_consistency):
        return None
    if found.ratio is None:
        return NO_WORDS
    if found.ratio < min_consistency:
        return f"consistency {round(found.ratio, 3)}"
    return f"{found.longest_foreign_span} foreign words in a row"


class LongParagraph(RowFilter):
    """Drops thinking with a paragraph that is too long to read."""

    name: Literal["long_paragraph"] = "long_paragraph"
    measured = True
    max_units: int = Field(300, ge=1, description="words, numbers and Han characters of a paragraph")

    def details(self, frame: pl.DataFrame, context: Context) -> pl.Series:
        """How long the longest paragraph is."""
        doubt = pl.col("walk.paragraph") > self.max_units
        return asked(frame, "paragraph", doubt, self._length, thinking_of(frame))

    def _length(self, thinking: str) -> str | None:
        longest = max(len(units(paragraph)) for paragraph in PARAGRAPH_END.split(thinking))
        return f"{longest} units" if longest > self.max_units else None


class CodeBlock(Expression):
    """Drops thinking with a fenced code block."""

    name: Literal["code_block"] = "code_block"

    def expression(self) -> pl.Expr:
        fenced = thinking().str.contains("```", literal=True) | thinking().str.contains(r"(?:\A|\n)[ \t]*~~~")
        return pl.when(fenced).then(pl.lit(""))


class Repetition(RowFilter):
    """Drops thinking that runs in circles: a line or sentence again and again, or many repeated n-grams.

    Code in a fence is left out: its lines come back by right.
    """

    name: Literal["repetition"] = "repetition"
    measured = True
    max_line_repeats: int = Field(3, ge=1, description="how often one line or sentence may stand")
    ngram: int = Field(8, ge=2, description="units of an n-gram")
    max_ngram_share: float = Field(0.3, ge=0, le=1, description="share of n-grams that stood before")

    def details(self, frame: pl.DataFrame, context: Context) -> pl.Series:
        """The most repeated line, or the share of repeated n-grams."""
        doubt = (pl.col("walk.lines") > self.max_line_repeats) | (pl.col("walk.share") > self.max_ngram_share)
        return asked(frame, "lines", doubt, self._loop, thinking_of(frame))

    def _loop(self, thinking: str) -> str | None:
        text = FENCED.sub("\n", thinking)
        lines = Counter(
            " ".join(unit) for line in SENTENCE_END.split(text) if len(unit := signed_units(line)) >= LINE_UNITS
        )
        line, times = max(lines.items(), key=lambda item: (item[1], item[0]), default=("", 0))
        if times > self.max_line_repeats:
            return f"{times} x {line[:60]}"
        grams = list(ngrams(units(text), self.ngram))
        share = 1 - len(set(grams)) / len(grams) if grams else 0.0
        return f"n-gram share {share:.2f}" if share > self.max_ngram_share else None


class Compressible(RowFilter):
    """Drops thinking that packs too well (zlib): another sign of circles, for those who want it."""

    name: Literal["compressible"] = "compressible"
    min_ratio: float = Field(0.15, gt=0, lt=1, description="least size after packing, as a share of the size before")

    def details(self, frame: pl.DataFrame, context: Context) -> pl.Series:
        """The share."""
        return details_of(map(self._packed, thinking_of(frame)))

    def _packed(self, thinking: str) -> str | None:
        raw = thinking.encode()
        share = len(zlib.compress(raw, 1)) / len(raw) if raw else 1.0
        return f"packs to {share:.3f}" if share < self.min_ratio else None


class Contaminated(RowFilter):
    """Drops what shares an n-gram with an evaluation problem or solution, in prompt or text.

    An evaluation text shorter than an n-gram matches only a whole prompt or text that is equal to it.
    """

    name: Literal["contaminated"] = "contaminated"
    measured = True
    ngram: int = Field(10, ge=2, description="units of an n-gram; the paper's is 10")

    def details(self, frame: pl.DataFrame, context: Context) -> pl.Series:
        """Where and what: "prompt: ..." or "text: ..."."""
        forbidden = evaluation_parts(tuple(context.evaluation), self.ngram)
        judge = partial(self._first_match, forbidden)
        return asked(frame, "seen", pl.col("walk.seen"), judge, frame["prompt"], texts(frame))

    def _first_match(self, forbidden: frozenset[str], prompt: str | None, text: str) -> str | None:
        for where, content in (("prompt", prompt or ""), ("text", text)):
            for part in parts(content, self.ngram):
                if part in forbidden:
                    return f"{where}: {part}"
        return None
