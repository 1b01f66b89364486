"""What of a text is prose, and its words, in machine code: what `data.language`'s regular expressions find.

Texts are arrays of code points. What is no prose is taken out in place, each piece with one space in its stead, as
`data.language` does it in the same order: code, formulas, tags, links; then, by the target's script, asides.
"""

from __future__ import annotations

import re
from functools import cache
from typing import Any, Final

import numpy as np
from numba import njit

from data.codepoints import POINTS
from data.language import ASIDE, BRACKETS, BREAKS, scripts
from data.walk import point_at

LATIN, HAN, KANA, ODD = 1, 2, 3, 15
SCRIPT, SPACE, DIGIT, CAPITAL, BREAK = 15, 16, 32, 64, 128
CODE, FORMULA, TAG, LINK, ASIDES, STRANGE = (1 << bit for bit in range(8, 14))
"""What a code point is: the number of its letter's script in the lower bits, `ODD` where it is not known; white
space; decimal digit; upper case; what ends a name; what code, a formula, a tag, a link and an aside cannot do without;
a letter of `KANA` or `ODD`."""
_SIGNS: Final = {CODE: "`~", FORMULA: "$\\", TAG: "<", LINK: ":", ASIDES: "".join(each[0] for each in BRACKETS)}


@cache
def marks() -> Any:
    """What each code point below `POINTS` is; the last stands for all above."""
    every = "".join(map(chr, range(POINTS)))
    found = np.zeros(POINTS + 1, np.uint16)
    first = {"latin": LATIN, "han": HAN, "kana": KANA}
    others = sorted(scripts().keys() - first.keys())
    numbers = first | {name: number for number, name in enumerate(others, KANA + 1)}
    kinds = [(numbers[name], f"[{characters}]+") for name, characters in scripts().items()]
    for kind, pattern in (*kinds, (SPACE, r"\s+"), (DIGIT, r"\d+"), (BREAK, BREAKS.pattern)):
        for match in re.finditer(pattern, every):
            found[match.start() : match.end()] |= kind
    found[[at for at, char in enumerate(every) if char.isupper()]] |= CAPITAL
    for kind, signs in _SIGNS.items():
        found[list(map(ord, signs))] |= kind
    found[POINTS] = ODD
    found[np.isin(found & SCRIPT, (KANA, ODD))] |= STRANGE
    return found


@njit(cache=True)  # type: ignore[untyped-decorator, unused-ignore]
def prose(data, begin, end, points, marks):  # type: ignore[no-untyped-def]
    """Write the prose of UTF-8, bytes `begin` to `end`; returns (its length, the bits of all that the text holds)."""
    number, at, seen = 0, begin, np.uint16(0)
    while at < end:
        point, size = point_at(data, at)
        point = min(point, _POINTS)
        points[number] = point
        seen |= marks[point]
        number += 1
        at += size
    for what in (CODE, FORMULA, TAG, LINK):
        if seen & what:
            number = _cut(points, number, marks, what)
    return number, seen


@njit(cache=True)  # type: ignore[untyped-decorator, unused-ignore]
def without_asides(points, number, marks, own, words):  # type: ignore[no-untyped-def]
    """Take out quotations and brackets without a letter of the script `own`; returns (length that is left, words that
    were in them). `words` is for work."""
    at, written, within = 0, 0, 0
    while at < number:
        last = _aside(points, at, number, marks, own)
        if last:
            for each in range(find_words(points[at:last], last - at, marks, words)):
                within += words[each, UNITS]
            points[written] = 32
            at = last
        else:
            points[written] = points[at]
            at += 1
        written += 1
    return written, within


@njit(cache=True)  # type: ignore[untyped-decorator, unused-ignore]
def _cut(points, number, marks, what):  # type: ignore[no-untyped-def]
    """Replace each match by a space. What stands before a place that is read is what stood there at first."""
    at, written = 0, 0
    while at < number:
        last = 0
        point = points[at]
        if what == CODE:
            if point == 96 or point == 126:
                last = _code(points, at, number)
        elif what == FORMULA:
            if point == 36 or point == 92:
                last = _formula(points, at, number, marks)
        elif what == TAG:
            if point == 60:
                last = _tag(points, at, number)
        elif point == 104:
            last = _link(points, at, number)
        if last and what == FORMULA and _holds_han(points, at, last, marks):
            points[written : written + last - at] = points[at:last].copy()
            written += last - at
            at = last
        elif last:
            points[written] = 32
            written += 1
            at = last
        else:
            points[written] = point
            written += 1
            at += 1
    return written


@njit(cache=True)  # type: ignore[untyped-decorator, unused-ignore]
def _holds_han(points, begin, end, marks):  # type: ignore[no-untyped-def]
    for at in range(begin, end):
        script = marks[points[at]] & SCRIPT
        if script in (HAN, ODD):
            return True
    return False


@njit(cache=True)  # type: ignore[untyped-decorator, unused-ignore]
def _is(points, at, number, first, second, third):  # type: ignore[no-untyped-def]
    """Whether these three stand here; 0 is anything."""
    return (
        at + (3 if third else 2) <= number
        and points[at] == first
        and points[at + 1] == second
        and (third == 0 or points[at + 2] == third)
    )


@njit(cache=True)  # type: ignore[untyped-decorator, unused-ignore]
def _after(points, at, number, first, second, third):  # type: ignore[no-untyped-def]
    """The place after the next of these; 0 for none."""
    while at < number:
        if points[at] == first and _is(points, at, number, first, second, third):
            return at + (3 if third else 2)
        at += 1
    return 0


@njit(cache=True)  # type: ignore[untyped-decorator, unused-ignore]
def _code(points, at, number):  # type: ignore[no-untyped-def]
    """Where code that begins here ends: a fence, or marks within a line; 0 for none."""
    point = points[at]
    if _is(points, at, number, point, point, point):
        last = _after(points, at + 3, number, point, point, point)
        return last if last else number
    if point == 126:
        return 0
    for last in range(at + 1, number):
        if points[last] == 96:
            return last + 1
        if points[last] == 10:
            return 0
    return 0


@njit(cache=True)  # type: ignore[untyped-decorator, unused-ignore]
def _formula(points, at, number, marks):  # type: ignore[no-untyped-def]
    """Where a formula that begins here ends; 0 for none."""
    if points[at] == 92:
        if _is(points, at, number, 92, 91, 0):
            return _after(points, at + 2, number, 92, 93, 0)
        if _is(points, at, number, 92, 40, 0):
            return _after(points, at + 2, number, 92, 41, 0)
        return _environment(points, at, number)
    if _is(points, at, number, 36, 36, 0):
        last = _after(points, at + 2, number, 36, 36, 0)
        if last:
            return last
    if at > 0 and points[at - 1] == 92:
        return 0
    if at + 1 >= number or marks[points[at + 1]] & SPACE:
        return 0
    for last in range(at + 1, number):
        if points[last] == 10:
            return 0
        if points[last] == 36:
            if marks[points[last - 1]] & SPACE or (last + 1 < number and marks[points[last + 1]] & DIGIT):
                return 0
            return last + 1
    return 0


@njit(cache=True)  # type: ignore[untyped-decorator, unused-ignore]
def _said(points, at, number, text):  # type: ignore[no-untyped-def]
    """Whether an ASCII text stands here."""
    if at + len(text) > number:
        return False
    for each in range(len(text)):  # noqa: SIM110
        if points[at + each] != text[each]:
            return False
    return True


@njit(cache=True)  # type: ignore[untyped-decorator, unused-ignore]
def _environment(points, at, number):  # type: ignore[no-untyped-def]
    if not _said(points, at, number, b"\\begin{"):
        return 0
    first = at + 7
    last = first
    while last < number and (97 <= points[last] <= 122 or points[last] == 42):
        last += 1
    if last == first or last >= number or points[last] != 125:
        return 0
    size = last + 1 - first
    for close in range(last + 1, number - 4 - size):
        if points[close] == 92 and _said(points, close, number, b"\\end{"):
            same = True
            for each in range(size):
                same &= points[close + 5 + each] == points[first + each]
            if same:
                return close + 5 + size
    return 0


@njit(cache=True)  # type: ignore[untyped-decorator, unused-ignore]
def _tag(points, at, number):  # type: ignore[no-untyped-def]
    if at + 1 < number and points[at + 1] == 0xFF5C:
        for last in range(at + 2, min(number, at + 44)):
            if points[last] == 62:
                return last + 1 if points[last - 1] == 0xFF5C and last - 1 >= at + 2 else 0
            if points[last] == 60 or points[last] == 10:
                return 0
        return 0
    first = at + 2 if at + 1 < number and points[at + 1] == 47 else at + 1
    if first >= number or not _is_ascii_letter(points[first]):
        return 0
    for last in range(first + 1, min(number, first + 82)):
        if points[last] == 62:
            return last + 1
        if points[last] == 60 or points[last] == 10:
            return 0
    return 0


@njit(cache=True)  # type: ignore[untyped-decorator, unused-ignore]
def _link(points, at, number):  # type: ignore[no-untyped-def]
    if _said(points, at, number, b"http://"):
        first = at + 7
    elif _said(points, at, number, b"https://"):
        first = at + 8
    else:
        return 0
    last = first
    while last < number and 33 <= points[last] <= 126:
        last += 1
    return last if last > first else 0


@njit(cache=True)  # type: ignore[untyped-decorator, unused-ignore]
def _aside(points, at, number, marks, own):  # type: ignore[no-untyped-def]
    opening = points[at]
    if not marks[opening] & ASIDES:
        return 0
    closing = np.uint32(0)
    for each in range(len(_OPENINGS)):
        if opening == _OPENINGS[each]:
            closing = _CLOSINGS[each]
    if closing == 0:
        return 0
    for last in range(at + 1, min(number, at + ASIDE + 2)):
        point = points[last]
        if point == closing:
            return last + 1 if last > at + 1 else 0
        if point == opening or point == 10 or marks[point] & SCRIPT == own:
            return 0
    return 0


@njit(cache=True, inline="always")  # type: ignore[untyped-decorator, unused-ignore]
def _is_ascii_letter(point):  # type: ignore[no-untyped-def]
    return 65 <= point <= 90 or 97 <= point <= 122


@njit(cache=True, inline="always")  # type: ignore[untyped-decorator, unused-ignore]
def _is_word(point):  # type: ignore[no-untyped-def]
    """A-Z, a-z, 0-9 or _."""
    return _is_ascii_letter(point) or 48 <= point <= 57 or point == 95


WRITTEN, BEGIN, END, UNITS, STRETCH = range(5)
"""What is said of a word, a column each: its script; its place; how many words it counts as, a run of Han as one for
two characters; the number of its stretch."""


@njit(cache=True)  # type: ignore[untyped-decorator, unused-ignore]
def find_words(points, number, marks, words):  # type: ignore[no-untyped-def]
    """Write a text's words, without kana, a row each; returns how many there are."""
    found, at, stretch, current = 0, 0, 0, 0
    while at < number:
        script = marks[points[at]] & SCRIPT
        if not script:
            at += 1
            continue
        if script != current:
            stretch, current = stretch + 1, script
        last, word, units = at + 1, 0, 1
        while last < number and marks[points[last]] & SCRIPT == script:
            last += 1
        if script == LATIN:
            word = _latin_word(points, at, last, number, marks)
        elif script == HAN:
            word, units = last, (last - at + 1) // 2
        else:
            chain = _chained(points, last, number, marks, script)
            if chain > at + 1:
                word = chain
        if word:
            words[found, WRITTEN], words[found, BEGIN], words[found, END] = script, at, word
            words[found, UNITS], words[found, STRETCH] = units, stretch
            found += 1
            last = word
        at = last
    return found


@njit(cache=True)  # type: ignore[untyped-decorator, unused-ignore]
def _chained(points, at, number, marks, script):  # type: ignore[no-untyped-def]
    """Where a word ends whose letters end here, with what hyphens and apostrophes join to them."""
    while at + 1 < number and marks[points[at + 1]] & SCRIPT == script and _is_joint(points[at]):
        at += 2
        while at < number and marks[points[at]] & SCRIPT == script:
            at += 1
    return at


@njit(cache=True, inline="always")  # type: ignore[untyped-decorator, unused-ignore]
def _is_joint(point):  # type: ignore[no-untyped-def]
    return point == 39 or point == 45 or point == 0x2019


@njit(cache=True)  # type: ignore[untyped-decorator, unused-ignore]
def _latin_word(points, at, run, number, marks):  # type: ignore[no-untyped-def]
    """Where the Latin word ends that begins with the letters up to `run`; 0 for none."""
    last = _chained(points, run, number, marks, LATIN)
    if not _may_begin(points, at, marks) or not _is_spoken(points, at, run, last, number):
        return 0
    return last if _may_end(points, last, number) else 0


@njit(cache=True)  # type: ignore[untyped-decorator, unused-ignore]
def _may_begin(points, at, marks):  # type: ignore[no-untyped-def]
    """Whether a word may begin after what stands before: it is not within a path, address or option."""
    if at == 0:
        return True
    before = points[at - 1]
    if 48 <= before <= 57 or before == 95 or before == 47 or before == 92 or before == 36 or before == 126:
        return False
    if at == 1 or not (before == 45 or before == 46 or before == 64):
        return True
    second = points[at - 2]
    return not (_is_word(second) or (before == 45 and (second == 45 or marks[second] & SPACE)))


@njit(cache=True)  # type: ignore[untyped-decorator, unused-ignore]
def _is_spoken(points, at, run, end, number):  # type: ignore[no-untyped-def]
    """Whether letters up to `run` are no single letter, acronym or `camelCase`."""
    if run == at + 1:
        return end > run
    first = at
    while first < run and 97 <= points[first] <= 122:
        first += 1
    if first > at:
        return not (first < run and 65 <= points[first] <= 90)
    while first < run and 65 <= points[first] <= 90:
        first += 1
    if not 2 <= first - at <= 5:
        return True
    last = first + 1 if first < run and points[first] == 115 else first
    if last < run or (last < number and (48 <= points[last] <= 57 or points[last] == 95)):
        return True
    return last + 2 < number and (points[last] == 32 and 65 <= points[last + 1] <= 90 and 65 <= points[last + 2] <= 90)


@njit(cache=True)  # type: ignore[untyped-decorator, unused-ignore]
def _may_end(points, at, number):  # type: ignore[no-untyped-def]
    if at == number:
        return True
    point = points[at]
    if 48 <= point <= 57 or point == 95 or point == 40 or point == 92:
        return False
    if at + 1 == number or not (point == 46 or point == 47 or point == 64):
        return True
    return not (_is_ascii_letter(points[at + 1]) or points[at + 1] == 95)


_POINTS: Final = np.uint32(POINTS)
_OPENINGS: Final = np.array([ord(opening) for opening, _ in BRACKETS], np.uint32)
_CLOSINGS: Final = np.array([ord(closing) for _, closing in BRACKETS], np.uint32)
