"""Which texts keep to one language beyond doubt, by their script alone and at machine speed.

`surely` says True only where `data.language.consistency` would find no mixing; what it leaves open is for that
function. Its reasons, which hold whatever that function takes out as code, formula, tag or name:

- English: there is no letter of another script, and between any two words that are not common English ones there
  stand two that are, in lines without a sign that could hide them. So no window is doubtful.
- Chinese: the Han characters of such lines outweigh all Latin words, and no more Latin words than a clause may
  have follow each other without such Han between.
"""

from __future__ import annotations

import re
from functools import cache
from typing import Any, Final

import numpy as np
import polars as pl
from numba import njit

from data.codepoints import POINTS
from data.language import MAX_FOREIGN_SPAN, common_english, scripts
from data.units import BASIS, PRIME, unit_hash
from data.walk import Lookup, buffers, mixed, point_at, within

NONE, LATIN, HAN, OTHER = range(4)
_BASIS, _PRIME = np.uint64(BASIS), np.uint64(PRIME)
_TARGETS: Final = {"en": 1, "zh": 2}


def surely(texts: pl.Series, languages: pl.Series, min_consistency: float) -> Any:
    """Whether each text is of its language beyond doubt, mixing judged by `min_consistency`; no nulls."""
    data, offsets = buffers(texts)
    targets = languages.replace_strict(_TARGETS, default=0, return_dtype=pl.Int8).to_numpy()
    english = _english()
    return _surely(data, offsets, targets, min_consistency, _scripts(), english.sieve, english.slots)


@cache
def _english() -> Lookup:
    return Lookup(map(unit_hash, common_english()), 1)


@cache
def _scripts() -> Any:
    found = np.zeros(POINTS, np.uint8)
    every = "".join(map(chr, range(POINTS)))
    for script, characters in scripts().items():
        for match in re.finditer(f"[{characters}]+", every):
            found[match.start() : match.end()] = {"latin": LATIN, "han": HAN}.get(script, OTHER)
    return found


@njit(cache=True)  # type: ignore[untyped-decorator, unused-ignore]
def _surely(data, offsets, targets, least, scripts, sieve, slots):  # type: ignore[no-untyped-def]
    found = np.zeros(len(targets), np.bool_)
    for row in range(len(targets)):
        begin, end = offsets[row], offsets[row + 1]
        if targets[row] == 1:
            found[row] = _is_english(data, begin, end, scripts, sieve, slots)
        elif targets[row] == 2:
            han, latin, span = _weighed(data, begin, end, scripts)
            found[row] = han > 0 and span <= MAX_FOREIGN_SPAN and han / (han + latin) >= least
    return found


@njit(cache=True)  # type: ignore[untyped-decorator, unused-ignore]
def _hides(data, at, end):  # type: ignore[no-untyped-def]
    """How much a sign may hide: 0 nothing, 1 something of its line, 2 anything after it."""
    byte = data[at]
    after = data[at + 1] if at + 1 < end else 0
    if byte == 96:  # `
        return 2 if after == 96 else 1
    if byte == 36:  # $
        return 2 if after == 36 else 1
    if byte == 92:  # \
        return 2 if after == 91 or after == 40 or after == 98 else 1  # \[ \( \b(egin)
    if byte == 60 or (byte == 58 and after == 47):  # < and :/
        return 1
    return 0


@njit(cache=True)  # type: ignore[untyped-decorator, unused-ignore]
def _line(data, at, end):  # type: ignore[no-untyped-def]
    """(end of the line, most that a sign in it hides)."""
    hidden = 0
    while at < end and data[at] != 10:
        hidden = max(hidden, _hides(data, at, end))
        at += 1
    return at, hidden


@njit(cache=True)  # type: ignore[untyped-decorator, unused-ignore]
def _weighed(data, begin, end, scripts):  # type: ignore[no-untyped-def]
    """(words of Han at least, Latin words at most, most Latin words in a row); (0, 0, 0) where it cannot be said."""
    han, latin, span, longest, at = 0, 0, 0, 0, begin
    while at < end:
        stop, hidden = _line(data, at, end)
        if hidden == 2:
            return 0, 0, 0
        letters, run = 0, 0
        while at < stop:
            point, size = point_at(data, at)
            script = scripts[point] if point < POINTS else OTHER
            if script == OTHER:
                return 0, 0, 0
            if script == HAN:
                run += 1
                if not hidden:
                    span = 0
            else:
                han, run = han + (0 if hidden else (run + 1) // 2), 0
            letters = letters + 1 if script == LATIN else 0
            joins = letters == 1 and at > begin and data[at - 1] in (39, 45, 0x99)
            if letters == 2 or joins:
                latin, span = latin + 1, span + 1
                longest = max(longest, span)
            at += size
        han += 0 if hidden else (run + 1) // 2
        at += 1
    return han, latin, longest


@njit(cache=True)  # type: ignore[untyped-decorator, unused-ignore]
def _is_english(data, begin, end, scripts, sieve, slots):  # type: ignore[no-untyped-def]
    """Whether every rare word is far from the next, and there is a word at all."""
    between, words, at = 2, 0, begin
    while at < end:
        stop, hidden = _line(data, at, end)
        if hidden == 2:
            return False
        while at < stop:
            point, size = point_at(data, at)
            script = scripts[point] if point < POINTS else OTHER
            if script > LATIN:
                return False
            if script != LATIN:
                at += size
                continue
            last, kind = _token(data, at, stop, begin, scripts, sieve, slots)
            if kind == 2 and not hidden:
                between, words = between + 1, words + 1
            if kind == 1:
                if between < 2:
                    return False
                between = 0
            at = last
        at += 1
    return words > 0


@njit(cache=True)  # type: ignore[untyped-decorator, unused-ignore]
def _token(data, at, stop, begin, scripts, sieve, slots):  # type: ignore[no-untyped-def]
    """(where Latin letters end, hyphens and apostrophes within, what they are): 2 a common word that counts, 1 what
    may be a rare word, 0 neither.
    """
    first, chained = at, False
    at, letters, plain, value = _letters(data, at, stop, scripts)
    while at < stop:
        size = 1 if data[at] == 39 or data[at] == 45 else 3 if data[at] == 0xE2 and data[at + 2] == 0x99 else 0
        last, more, _, _ = _letters(data, at + size, stop, scripts)
        if size == 0 or more == 0:
            break
        at, chained = last, True
    if chained:
        return at, 1
    if letters == 1:
        return at, 0
    if not plain or not within(value, sieve, slots):
        return at, 1
    if first > begin and data[first - 1] != 32 and data[first - 1] != 10 and data[first - 1] != 9:
        return at, 0
    follows = data[at] if at < stop else 10
    after = data[at + 1] if at + 1 < stop else 10
    for each in b" \n,;:?!)":
        if follows == each:
            return at, 2
    return at, 2 if follows == 46 and (after == 32 or after == 10) else 0


@njit(cache=True)  # type: ignore[untyped-decorator, unused-ignore]
def _letters(data, at, stop, scripts):  # type: ignore[no-untyped-def]
    """(end of a run of Latin letters, how many, whether no capital stands within and all are ASCII, hash in lower
    case).
    """
    value, letters, plain = _BASIS, 0, True
    while at < stop:
        point, size = point_at(data, at)
        if point >= POINTS or scripts[point] != LATIN:
            break
        if point >= 128:
            plain = False
        elif point < 97:
            plain = plain and letters == 0
            point += np.uint32(32)
        value = (value ^ np.uint64(point)) * _PRIME
        letters += 1
        at += size
    return at, letters, plain, mixed(value)
