"""What texts are compared by: units, which are words, numbers and Han characters, and hashes of runs of them.

Words and numbers are in lower case (Unicode case folding); a number is ASCII digits with one point at most.
Hashes have 64 bits and are the same everywhere, so that what was written by one process is read by another:
`data.walk` computes them in machine code, and this module says what they are.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache
from typing import Final

UNIT: Final = re.compile(r"[\u3400-\u9fff]|[0-9]+(?:\.[0-9]+)?|(?:(?![\u3400-\u9fff])[^\W\d_])+")
SIGNED_UNIT: Final = re.compile(rf"{UNIT.pattern}|[-+*/=<>×÷−]")
SENTENCE_END: Final = re.compile(r"\n+|(?<=[.!?;])\s+|(?<=[。！？；])")
PARAGRAPH_END: Final = re.compile(r"\n[ \t]*\n")
FENCED: Final = re.compile(r"```.*?(?:```|\Z)", re.DOTALL)
NUMBER_WORDS: Final = (
    *("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve"),
    *("twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety", "hundred", "thousand"),
    *("million", "half", "no", "not", "first", "second", "third"),
)
HAN_NUMERALS: Final = "零〇一二两三四五六七八九十百千万亿半"
NUMERAL: Final = re.compile(
    rf"[0-9]+(?:\.[0-9]+)?|[+*/=<>×÷−]|(?<![a-z]{{2}})-|-(?![a-z]{{2}})|[{HAN_NUMERALS}]|(?<![^\W\d_])[a-z](?![^\W\d_])"
    rf"|\b(?:{'|'.join(NUMBER_WORDS)}|\w+teen)\b"
)
"""What two near duplicates must have in common, one by one: a slip in one digit is what makes a text worth keeping. A
hyphen between words is no sign."""

AFTER_A_VARIABLE: Final = (
    *("is", "are", "was", "be", "has", "and", "or", "plus", "minus", "times", "over", "divided", "equals", "equal"),
    *("to", "from", "by", "in", "of", "on", "at", "for", "with", "as", "if", "then", "so", "must", "can", "will"),
    *("but", "because", "when", "where", "while", "that", "which", "should", "would", "could", "may", "not", "into"),
)
"""Words that follow a variable and no article."""
ARTICLE: Final = re.compile(
    rf"(?i)(?:(?<=[a-z]{{2}} )|(?<=[,;:] ))(?-i:a|A(?= [A-Zſ]{{2}}))(?= (?!(?:{'|'.join(AFTER_A_VARIABLE)})(?![a-z]))"
    r"[a-z]{2})"
)
"""An "a" that is no variable: after a word or comma, before a word that can follow an article; an "A" only before one
in capitals. Whether another "A" is one, or what begins a line or stands among signs, cannot be told."""

LINE_UNITS: Final = 3
"""A line of fewer units may come back as often as it likes."""

MASK: Final = 2**64 - 1
PRIME: Final = 0x100000001B3
BASIS: Final = 0xCBF29CE484222325
STEP: Final = 0x9E3779B97F4A7C15


def units(text: str) -> list[str]:
    """Words and numbers in lower case, and single Han characters, in order."""
    return UNIT.findall(text.casefold())


def signed_units(text: str) -> list[str]:
    """Units and arithmetic signs: lines that differ in a sign are not the same line."""
    return SIGNED_UNIT.findall(text.casefold())


def numerals(text: str) -> list[str]:
    """Numbers, numerals, arithmetic signs and single letters in order; no articles."""
    return NUMERAL.findall(ARTICLE.sub("an", text).casefold())


def ngrams(found: Sequence[str], size: int) -> Iterator[str]:
    """Runs of `size` units, joined by spaces."""
    return (" ".join(found[start : start + size]) for start in range(len(found) - size + 1))


def parts(text: str, size: int) -> Iterator[str]:
    """A text's runs of `size` units, or the whole of it where it is shorter."""
    found = units(text)
    return ngrams(found, size) if len(found) >= size else iter([" ".join(found)])


@lru_cache(maxsize=1 << 18)
def unit_hash(unit: str) -> int:
    """FNV-1a over the code points of a unit, mixed."""
    value = BASIS
    for point in map(ord, unit):
        value = ((value ^ point) * PRIME) & MASK
    return mixed(value)


def mixed(value: int) -> int:
    """Spread a 64-bit value over all its bits (the finaliser of MurmurHash3)."""
    value = ((value ^ (value >> 33)) * 0xFF51AFD7ED558CCD) & MASK
    value = ((value ^ (value >> 33)) * 0xC4CEB9FE1A85EC53) & MASK
    return value ^ (value >> 33)


def run_hash(hashes: Iterable[int]) -> int:
    """One hash for a run of units, of theirs; the order counts."""
    value = 0
    for each in hashes:
        value = (value * STEP + each) & MASK
    return mixed(value)


def run_hashes(found: Sequence[str], size: int) -> set[int]:
    """The distinct hashes of a text's runs of `size` units; of the whole where it is shorter."""
    hashes = [unit_hash(unit) for unit in found]
    size = min(size, max(1, len(hashes)))
    return {run_hash(hashes[start : start + size]) for start in range(len(hashes) - size + 1)}
