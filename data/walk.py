"""One walk over the bytes of many texts, in machine code: what the regular expressions of `data.units` would find.

The functions here say of each text only what decides which texts need no closer look, and hashes that are those
of `data.units` to the bit. A text with a character that one look cannot settle (`codepoints.ODD`) gets nothing,
and is left to the regular expressions.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

import numpy as np
import polars as pl
import pyarrow as pa
from numba import njit

from data.codepoints import CAPITAL, HAN, LETTER, NUMERAL, ODD, POINTS, SIGN, SPACE, STOP, WORD, folds, kinds
from data.units import AFTER_A_VARIABLE, BASIS, LINE_UNITS, NUMBER_WORDS, PRIME, STEP, unit_hash

_BASIS, _PRIME, _STEP = np.uint64(BASIS), np.uint64(PRIME), np.uint64(STEP)
_MIX_1, _MIX_2, _SHIFT = np.uint64(0xFF51AFD7ED558CCD), np.uint64(0xC4CEB9FE1A85EC53), np.uint64(33)
_BITS: Final = 16  # of the sieve for each hash that is looked for
FIELDS: Final = ("odd", "paragraph", "lines", "grams", "distinct", "seen", "numerals", "collapsed")


def walked(texts: pl.Series, cuts: pl.Series, forbidden: Lookup, gram: int) -> tuple[dict[str, Any], Any]:
    """Walk texts whose thinking ends at `cuts` (bytes). Arrays by `FIELDS`, and the texts with white space collapsed.

    odd: the rest is not known. paragraph: units of the longest paragraph of the thinking. lines: how often its
    most frequent line stands. grams, distinct: runs of `gram` units in it, and how many differ. seen: whether a
    run of units is among `forbidden`. numerals: their hash. collapsed: where the collapsed text ends.
    """
    data, offsets = buffers(texts)
    rows = len(texts)
    out = (
        np.zeros(rows, np.bool_), np.zeros(rows, np.int32), np.zeros(rows, np.int32), np.zeros(rows, np.int32),
        np.zeros(rows, np.int32), np.zeros(rows, np.bool_), np.zeros(rows, np.uint64), np.zeros(rows, np.int64),
    )  # fmt: skip
    collapsed = np.empty(len(data), np.uint8)
    longest = int(np.max(np.diff(offsets), initial=0)) + 1
    _walk(
        data, offsets, cuts.to_numpy(), kinds(), folds(), _WORDS, forbidden.sieve, forbidden.slots, forbidden.size,
        gram, longest, collapsed, *out,
    )  # fmt: skip
    return dict(zip(FIELDS, out, strict=True)), collapsed


def buffers(texts: pl.Series) -> tuple[Any, Any]:
    """The bytes of a column of texts without nulls, one after the other, and where each begins."""
    array = texts.to_arrow(compat_level=pl.CompatLevel.oldest())
    _, offsets, data = array.buffers()
    begins = np.frombuffer(offsets, np.int64)[array.offset : array.offset + len(array) + 1]
    return np.frombuffer(data, np.uint8) if data is not None and data.size else np.zeros(0, np.uint8), begins


class Lookup:
    """A set of 64-bit hashes that machine code can ask: a sieve of bits, and hashes in open slots."""

    def __init__(self, hashes: Iterable[int], size: int) -> None:
        values = np.unique(np.fromiter(hashes, np.uint64))
        self.size = size
        self.slots = np.zeros(1 << max(4, (4 * len(values)).bit_length()), np.uint64)
        self.sieve = np.zeros(max(16, len(self.slots) * _BITS // 64), np.uint64)
        _fill(values, self.sieve, self.slots)


def runs(texts: pl.Series, size: int) -> pl.Series:
    """The distinct hashes of each text's runs of `size` units, sorted: `data.units.run_hashes`; null for odd texts."""
    data, offsets = buffers(texts)
    found, odd = np.empty(len(data), np.uint64), np.zeros(len(texts), np.bool_)
    ends = np.zeros(len(texts) + 1, np.int64)
    _runs(data, offsets, kinds(), folds(), size, found, ends, odd)
    lists = pa.LargeListArray.from_arrays(ends, found[: ends[-1]], mask=pa.array(odd))
    return pl.Series("runs", lists, pl.List(pl.UInt64))


@njit(cache=True, inline="always")  # type: ignore[untyped-decorator, unused-ignore]
def mixed(value):  # type: ignore[no-untyped-def]
    """`data.units.mixed`."""
    value = (value ^ (value >> _SHIFT)) * _MIX_1
    value = (value ^ (value >> _SHIFT)) * _MIX_2
    return value ^ (value >> _SHIFT)


@njit(cache=True, inline="always")  # type: ignore[untyped-decorator, unused-ignore]
def point_at(data, at):  # type: ignore[no-untyped-def]
    """(code point, bytes) at a place of valid UTF-8."""
    first = np.uint32(data[at])
    if first < 0x80:
        return first, 1
    if first < 0xE0:
        return ((first & np.uint32(0x1F)) << np.uint32(6)) | (np.uint32(data[at + 1]) & np.uint32(0x3F)), 2
    second = np.uint32(data[at + 1]) & np.uint32(0x3F)
    third = np.uint32(data[at + 2]) & np.uint32(0x3F)
    if first < 0xF0:
        return ((first & np.uint32(0x0F)) << np.uint32(12)) | (second << np.uint32(6)) | third, 3
    high = ((first & np.uint32(0x07)) << np.uint32(18)) | (second << np.uint32(12))
    return high | (third << np.uint32(6)) | (np.uint32(data[at + 3]) & np.uint32(0x3F)), 4


@njit(cache=True)  # type: ignore[untyped-decorator, unused-ignore]
def _fill(values, sieve, slots):  # type: ignore[no-untyped-def]
    mask, bits = np.uint64(len(slots) - 1), np.uint64(len(sieve) * 64 - 1)
    for value in values:
        bit = value & bits
        sieve[bit >> np.uint64(6)] |= np.uint64(1) << (bit & np.uint64(63))
        slot = (value >> np.uint64(20)) & mask
        while slots[slot] != 0 and slots[slot] != value:
            slot = (slot + np.uint64(1)) & mask
        slots[slot] = value


@njit(cache=True, inline="always")  # type: ignore[untyped-decorator, unused-ignore]
def within(value, sieve, slots):  # type: ignore[no-untyped-def]
    """Whether a `Lookup` holds a hash."""
    bit = value & np.uint64(len(sieve) * 64 - 1)
    if not (sieve[bit >> np.uint64(6)] >> (bit & np.uint64(63))) & np.uint64(1):
        return False
    mask = np.uint64(len(slots) - 1)
    slot = (value >> np.uint64(20)) & mask
    while slots[slot] != 0:
        if slots[slot] == value:
            return True
        slot = (slot + np.uint64(1)) & mask
    return False


@njit(cache=True)  # type: ignore[untyped-decorator, unused-ignore]
def _rolled(units, size, out):  # type: ignore[no-untyped-def]
    """Write the hashes of the runs of `size` units; returns how many there are."""
    power = np.uint64(1)
    for _ in range(size - 1):
        power *= _STEP
    value = np.uint64(0)
    for at in range(len(units)):
        if at >= size:
            value -= units[at - size] * power
        value = value * _STEP + units[at]
        if at >= size - 1:
            out[at - size + 1] = mixed(value)
    return max(0, len(units) - size + 1)


@njit(cache=True)  # type: ignore[untyped-decorator, unused-ignore]
def _counted(values, slots, times):  # type: ignore[no-untyped-def]
    """(distinct values, how often the most frequent one stands); `slots` are all 0, and 0 again afterwards."""
    mask = np.uint64((1 << int(np.ceil(np.log2(2 * len(values) + 2)))) - 1)
    distinct, most = 0, 0
    for value in values:
        slot = value & mask
        while slots[slot] != 0 and slots[slot] != value:
            slot = (slot + np.uint64(1)) & mask
        if slots[slot] == 0:
            slots[slot] = value
            times[slot] = 0
            distinct += 1
        times[slot] += 1
        most = max(most, times[slot])
    slots[: np.int64(mask) + 1] = 0
    return distinct, most


@njit(cache=True)  # type: ignore[untyped-decorator, unused-ignore]
def _decoded(data, begin, end, cut, kinds, folds, points, marks):  # type: ignore[no-untyped-def]
    """Write each character in lower case and its kind; (characters, those before `cut`), (-1, 0) for an odd text."""
    at, number, before = begin, 0, 0
    while at < end:
        if at < cut:
            before += 1
        point, size = point_at(data, at)
        if point >= POINTS or kinds[point] & ODD:
            return -1, 0
        points[number] = folds[point]
        marks[number] = kinds[points[number]] | (CAPITAL if points[number] != point else 0)
        number += 1
        at += size
    return number, before


@njit(cache=True)  # type: ignore[untyped-decorator, unused-ignore]
def _signed_units(points, marks, number, hashes, places, stops, signs):  # type: ignore[no-untyped-def]
    """Write the hash and place of each unit and arithmetic sign, where it stops, and which are signs; returns how many
    there are."""
    found, at = 0, 0
    while at < number:
        begin, value = at, _BASIS
        if marks[at] & (HAN | SIGN):
            at += 1
        elif marks[at] & LETTER:
            while at < number and marks[at] & LETTER:
                at += 1
        elif 48 <= points[at] <= 57:
            while at < number and 48 <= points[at] <= 57:
                at += 1
            if at + 1 < number and points[at] == 46 and 48 <= points[at + 1] <= 57:
                at += 1
                while at < number and 48 <= points[at] <= 57:
                    at += 1
        else:
            at += 1
            continue
        for each in range(begin, at):
            value = (value ^ np.uint64(points[each])) * _PRIME
        hashes[found], places[found], stops[found], signs[found] = mixed(value), begin, at, marks[begin] & SIGN
        found += 1
    return found


@njit(cache=True)  # type: ignore[untyped-decorator, unused-ignore]
def _zones(points, marks, number, lines, paragraphs, fenced):  # type: ignore[no-untyped-def]
    """Number the lines and paragraphs that characters stand in, and say which stand in a fence."""
    line, paragraph, ticks, blank, within = 0, 0, 0, False, False
    for at in range(number):
        point = points[at]
        if point == 10:
            line += 1
            paragraph += blank
            blank = True
        elif point != 32 and point != 9:
            blank = False
        if at and marks[at] & SPACE and (points[at - 1] in (46, 33, 63, 59)):
            line += 1
        ticks = ticks + 1 if point == 96 else 0
        if ticks == 3:
            within, ticks = not within, 0
            line += 1
        lines[at], paragraphs[at], fenced[at] = line, paragraph, within
        if marks[at] & STOP:
            line += 1


@njit(cache=True)  # type: ignore[untyped-decorator, unused-ignore]
def _spoken(hashes, places, signs, found, lines, paragraphs, fenced, said, whole):  # type: ignore[no-untyped-def]
    """Write the units outside of fences and the hashes of long enough lines.

    Returns (units, lines, units of the longest paragraph).
    """
    units, written, longest, length, size, value = 0, 0, 0, 0, 0, np.uint64(0)
    line, paragraph = -1, -1
    for each in range(found):
        place = places[each]
        if paragraphs[place] != paragraph:
            length, paragraph = 0, paragraphs[place]
        if not signs[each]:
            length += 1
            longest = max(longest, length)
        if fenced[place]:
            continue
        if lines[place] != line:
            if size >= LINE_UNITS:
                whole[written] = mixed(value)
                written += 1
            size, value, line = 0, np.uint64(0), lines[place]
        size += 1
        value = value * _STEP + hashes[each]
        if not signs[each]:
            said[units] = hashes[each]
            units += 1
    if size >= LINE_UNITS:
        whole[written] = mixed(value)
        written += 1
    return units, written, longest


@njit(cache=True)  # type: ignore[untyped-decorator, unused-ignore]
def _numeral_hash(points, marks, number, hashes, places, stops, signs, found, words):  # type: ignore[no-untyped-def]
    """`data.units.NUMERAL` in order, as one hash: of units, where no word hangs together with what is no letter."""
    value = np.uint64(0)
    for each in range(found):
        begin, stop = places[each], stops[each]
        if signs[each]:
            counts = not _is_hyphen(points, number, begin)
        elif not marks[begin] & LETTER:
            counts = not marks[begin] & HAN or marks[begin] & NUMERAL
        elif stop - begin == 1 and 97 <= points[begin] <= 122:
            counts = _is_single(points, marks, number, begin) and not _is_article(
                points, marks, number, begin, words[1]
            )
        else:
            whole = (begin == 0 or not marks[begin - 1] & WORD) and (stop == number or not marks[stop] & WORD)
            if _is_teen(points, begin, stop):
                if not whole:
                    return _every_numeral_hash(points, marks, number, words)
                counts = stop - begin > 4
            else:
                counts = whole and stop - begin <= 8 and within(hashes[each], words[0][0], words[0][1])
            for at in range(begin, stop):
                if marks[at] & NUMERAL:
                    return _every_numeral_hash(points, marks, number, words)
        if counts:
            value = value * _STEP + hashes[each]
    return mixed(value)


@njit(cache=True, inline="always")  # type: ignore[untyped-decorator, unused-ignore]
def _is_teen(points, begin, stop):  # type: ignore[no-untyped-def]
    return (
        stop - begin >= 4
        and points[stop - 4] == 116
        and points[stop - 3] == 101
        and points[stop - 2] == 101
        and points[stop - 1] == 110
    )


@njit(cache=True)  # type: ignore[untyped-decorator, unused-ignore]
def _every_numeral_hash(points, marks, number, words):  # type: ignore[no-untyped-def]
    """`data.units.NUMERAL` in order, as one hash; what a number's word or `...teen` spells counts once."""
    value, at = np.uint64(0), 0
    while at < number:
        end = at + 1
        starts = marks[at] & WORD and (at == 0 or not marks[at - 1] & WORD)
        if 48 <= points[at] <= 57:
            while end < number and 48 <= points[end] <= 57:
                end += 1
            if end + 1 < number and points[end] == 46 and 48 <= points[end + 1] <= 57:
                end += 2
                while end < number and 48 <= points[end] <= 57:
                    end += 1
        elif marks[at] & (SIGN | NUMERAL):
            if _is_hyphen(points, number, at):
                at += 1
                continue
        elif _is_single(points, marks, number, at) and not _is_article(points, marks, number, at, words[1]):
            pass
        elif starts:
            while end < number and marks[end] & WORD:
                end += 1
            teen = end - at > 4 and _is_teen(points, at, end)
            if not teen and not _spells(points, at, end, words[0]):
                at += 1
                continue
        else:
            at += 1
            continue
        value = value * _STEP + _hash_of(points, at, end)
        at = end
    return mixed(value)


@njit(cache=True, inline="always")  # type: ignore[untyped-decorator, unused-ignore]
def _is_single(points, marks, number, at):  # type: ignore[no-untyped-def]
    """Whether a letter from a to z stands without another beside it."""
    letter = LETTER | HAN
    return (
        97 <= points[at] <= 122
        and (at == 0 or not marks[at - 1] & letter)
        and (at + 1 == number or not marks[at + 1] & letter)
    )


@njit(cache=True)  # type: ignore[untyped-decorator, unused-ignore]
def _is_article(points, marks, number, at, followers):  # type: ignore[no-untyped-def]
    """Whether an "a" is one: `data.units.ARTICLE`."""
    if points[at] != 97 or at < 2 or at + 3 >= number or points[at - 1] != 32 or points[at + 1] != 32:
        return False
    comma = points[at - 2] == 44 or points[at - 2] == 58 or points[at - 2] == 59
    if not comma and not (at > 2 and _is_latin(points, at - 2) and _is_latin(points, at - 3)):
        return False
    if marks[at] & CAPITAL and not (marks[at + 2] & CAPITAL and marks[at + 3] & CAPITAL):
        return False
    end = at + 2
    while end < number and _is_latin(points, end):
        end += 1
    return end > at + 3 and not _spells(points, at + 2, end, followers)


@njit(cache=True, inline="always")  # type: ignore[untyped-decorator, unused-ignore]
def _is_hyphen(points, number, at):  # type: ignore[no-untyped-def]
    """Whether a sign is a hyphen with two letters from a to z on both sides."""
    if points[at] != 45 or at < 2 or at + 2 >= number:
        return False
    before = _is_latin(points, at - 2) and _is_latin(points, at - 1)
    return before and _is_latin(points, at + 1) and _is_latin(points, at + 2)


@njit(cache=True, inline="always")  # type: ignore[untyped-decorator, unused-ignore]
def _is_latin(points, at):  # type: ignore[no-untyped-def]
    return 97 <= points[at] <= 122


@njit(cache=True, inline="always")  # type: ignore[untyped-decorator, unused-ignore]
def _hash_of(points, begin, end):  # type: ignore[no-untyped-def]
    value = _BASIS
    for at in range(begin, end):
        value = (value ^ np.uint64(points[at])) * _PRIME
    return mixed(value)


@njit(cache=True, inline="always")  # type: ignore[untyped-decorator, unused-ignore]
def _spells(points, begin, end, words):  # type: ignore[no-untyped-def]
    return 2 <= end - begin <= 8 and within(_hash_of(points, begin, end), words[0], words[1])


@njit(cache=True)  # type: ignore[untyped-decorator, unused-ignore]
def _collapse(data, begin, end, kinds, out, written):  # type: ignore[no-untyped-def]
    """Copy a text, runs of white space as one space and none at the ends; returns where the copy ends."""
    at, first, space = begin, written, False
    while at < end:
        point, size = point_at(data, at)
        if kinds[point] & SPACE:
            space = written > first
        elif size == 1 and not space:
            out[written] = point
            written += 1
        else:
            if space:
                out[written] = 32
                written += 1
                space = False
            for each in range(size):
                out[written + each] = data[at + each]
            written += size
        at += size
    return written


@njit(cache=True)  # type: ignore[untyped-decorator, unused-ignore]
def _any_run(hashes, signs, found, size, sieve, slots, units, out):  # type: ignore[no-untyped-def]
    """Whether a run of units, or the whole of a shorter text, is looked for."""
    number = 0
    for each in range(found):
        if not signs[each]:
            units[number] = hashes[each]
            number += 1
    if number == 0:
        return False
    for each in range(_rolled(units[:number], min(size, number), out)):  # noqa: SIM110
        if within(out[each], sieve, slots):
            return True
    return False


@njit(cache=True)  # type: ignore[untyped-decorator, unused-ignore]
def _walk(  # type: ignore[no-untyped-def]
    data, offsets, cuts, kinds, folds, words, sieve, slots, size, gram, longest, collapsed,
    odd, paragraph, lines_out, grams, distinct, seen, numerals, ends,
):  # fmt: skip
    points, marks = np.empty(longest, np.uint32), np.empty(longest, np.uint8)
    hashes, units, runs = np.empty(longest, np.uint64), np.empty(longest, np.uint64), np.empty(longest, np.uint64)
    places, stops, signs = np.empty(longest, np.int64), np.empty(longest, np.int64), np.empty(longest, np.uint8)
    lines, paragraphs, fenced = np.empty(longest, np.int64), np.empty(longest, np.int64), np.empty(longest, np.bool_)
    table = np.zeros(4 << int(np.ceil(np.log2(longest + 1))), np.uint64)
    times = np.zeros(len(table), np.int32)
    written = 0
    for row in range(len(offsets) - 1):
        begin, end = offsets[row], offsets[row + 1]
        number, before = _decoded(data, begin, end, begin + cuts[row], kinds, folds, points, marks)
        odd[row] = number < 0
        if number >= 0:
            found = _signed_units(points, marks, number, hashes, places, stops, signs)
            seen[row] = _any_run(hashes, signs, found, size, sieve, slots, units, runs)
            numerals[row] = _numeral_hash(points, marks, number, hashes, places, stops, signs, found, words)
            _zones(points, marks, before, lines, paragraphs, fenced)
            thought = np.searchsorted(places[:found], before)
            said, whole, paragraph[row] = _spoken(
                hashes, places, signs, thought, lines, paragraphs, fenced, units, runs
            )
            _, lines_out[row] = _counted(runs[:whole], table, times)
            grams[row] = _rolled(units[:said], gram, runs)
            distinct[row], _ = _counted(runs[: grams[row]], table, times)
            written = _collapse(data, begin, end, kinds, collapsed, written)
        ends[row] = written


@njit(cache=True)  # type: ignore[untyped-decorator, unused-ignore]
def _runs(data, offsets, kinds, folds, size, out, ends, odd):  # type: ignore[no-untyped-def]
    """Write the distinct hashes of runs of units, text after text, and where each text's end."""
    longest = 1
    for row in range(len(odd)):
        longest = max(longest, offsets[row + 1] - offsets[row])
    points, marks = np.empty(longest, np.uint32), np.empty(longest, np.uint8)
    hashes, signs = np.empty(longest, np.uint64), np.empty(longest, np.uint8)
    places, stops = np.empty(longest, np.int64), np.empty(longest, np.int64)
    written = 0
    for row in range(len(odd)):
        number, _ = _decoded(data, offsets[row], offsets[row + 1], 0, kinds, folds, points, marks)
        odd[row] = number < 0
        units = 0
        for each in range(_signed_units(points, marks, number, hashes, places, stops, signs)):
            if not signs[each]:
                hashes[units] = hashes[each]
                units += 1
        if units:
            many = _rolled(hashes[:units], min(size, units), out[written:])
            out[written : written + many].sort()
            first = written
            for each in range(written, written + many):
                if each == first or out[each] != out[written - 1]:
                    out[written] = out[each]
                    written += 1
        ends[row + 1] = written


_WORDS: Final = tuple(
    (found.sieve, found.slots)
    for found in (Lookup(map(unit_hash, words), 1) for words in (NUMBER_WORDS, AFTER_A_VARIABLE))
)
