"""What kind of character each code point is, as arrays that machine code can look up.

Kinds are those of `data.units`' regular expressions, of the text in lower case: a test holds one against the
other. Code points that a look at one character cannot settle are `ODD`: their case folding is longer than they
are, or they may compose with a neighbour; texts with one are left to the regular expressions.
"""

from __future__ import annotations

import re
import unicodedata
from functools import cache
from typing import Any, Final

import numpy as np

from data.units import HAN_NUMERALS

LETTER, HAN, SPACE, WORD, SIGN, NUMERAL, ODD, STOP = (1 << bit for bit in range(8))
"""Letter of a word; Han character; white space; `\\w`; arithmetic sign; Han numeral; see above; end of a Chinese
sentence."""

CAPITAL: Final = ODD
"""Of a character in a text that is not odd: folding has changed it."""

POINTS: Final = 0x30000
_SIGNS, _STOPS = "-+*/=<>×÷−", "。！？；"
_PLAIN: Final = ((0x3400, 0xA000), (0xAC00, 0xD7A4), (0xD800, 0xF900), (0x20000, 0x2F800))
"""Ranges whose characters neither fold nor compose."""


@cache
def kinds() -> Any:
    """The kind of each code point below `POINTS`: an array of bits."""
    every = "".join(map(chr, range(POINTS)))
    found = np.zeros(POINTS, np.uint8)
    for kind, pattern in (
        (LETTER, r"(?:(?![\u3400-\u9fff])[^\W\d_])+"),
        (HAN, r"[\u3400-\u9fff]+"),
        (SPACE, r"\s+"),
        (WORD, r"\w+"),
    ):
        for match in re.finditer(pattern, every):
            found[match.start() : match.end()] |= kind
    for kind, characters in ((SIGN, _SIGNS), (NUMERAL, HAN_NUMERALS), (STOP, _STOPS)):
        found[list(map(ord, characters))] |= kind
    found[_odd()] |= ODD
    return found


@cache
def folds() -> Any:
    """The code point that each becomes in lower case."""
    found = np.arange(POINTS, dtype=np.uint32)
    for point in _changing():
        folded = chr(point).casefold()
        if len(folded) == 1:
            found[point] = ord(folded)
    return found


def _changing() -> list[int]:
    return [point for point in range(POINTS) if not any(low <= point < high for low, high in _PLAIN)]


def _odd() -> list[int]:
    odd, seconds = [], set(range(0x1161, 0x1176)) | set(range(0x11A8, 0x11C3))
    for point in _changing():
        char = chr(point)
        parts = unicodedata.decomposition(char).split()
        if len(parts) == 2 and not parts[0].startswith("<"):
            seconds.add(int(parts[1], 16))
        if len(char.casefold()) > 1 or unicodedata.combining(char) or unicodedata.normalize("NFC", char) != char:
            odd.append(point)
    return sorted(seconds | set(odd))
