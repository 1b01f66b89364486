"""`data.language.consistency` of many texts against English or Chinese, in machine code.

The words come from `data.prose`, fastText's odds from `data.odds`. These odds are not fastText's to the last bit:
where a decision hangs on less than `NEAR`, nothing is said of a text, nor where it holds kana or a letter that is
not known; what is said is what `data.language` would say. fastText is asked about in two steps: the probability of
the target alone bounds the evidence of a span, and only where it could suffice are other languages' computed.
"""

from __future__ import annotations

from functools import cache
from itertools import pairwise
from typing import Any, Final

import numpy as np
import polars as pl
from numba import njit

from data.language import EVIDENCE, FLOOR, OPENERS, PARTICLES, PRIOR, WINDOW, Consistency, common_english, plain_english
from data.odds import MOST, PENDING, Odds, hide, likeliest, probability, slot_of
from data.prose import (
    ASIDES,
    BEGIN,
    BREAK,
    CAPITAL,
    END,
    HAN,
    LATIN,
    SCRIPT,
    STRANGE,
    STRETCH,
    UNITS,
    WRITTEN,
    find_words,
    marks,
    prose,
    without_asides,
)
from data.units import BASIS, PRIME, unit_hash
from data.walk import buffers, mixed

OPEN, SURE, ASKING = range(3)
NEAR: Final = 1e-3
_BASIS, _PRIME = np.uint64(BASIS), np.uint64(PRIME)
_SCRIPTS: Final = {"en": LATIN, "zh": HAN}
_LETTERS: Final = 1 << 18  # of all words that are asked about at a time
_PLAIN, _COMMON, _PARTICLE, _OPENER, _CAPITAL = (1 << bit for bit in range(5))
_KNOWN: Final = 1 << 16  # slots


def consistencies(texts: pl.Series, languages: pl.Series) -> list[Consistency | None]:
    """Each text's consistency with its language; None where it is not known here. No nulls."""
    data, offsets = buffers(texts)
    own = languages.replace_strict(_SCRIPTS, default=0, return_dtype=pl.Int8).to_numpy()
    odds = _odds()
    if odds.words > MOST // 2:
        odds.clear()
    found = np.zeros((len(texts), 5), np.int64)
    state = np.where(own > 0, ASKING, OPEN)
    letters, asked = np.empty(_LETTERS, np.uint32), np.empty((_LETTERS, 2), np.int64)
    longest = int(np.max(np.diff(offsets), initial=0)) + 1
    while True:
        many = _measured(
            data, offsets, own, longest, marks(), *_known(), odds.keys, odds.sums, odds.tree,
            letters, asked, MOST - odds.words, state, found,
        )  # fmt: skip
        if not many:
            break
        ends = [0, *asked[:many, 1].tolist()]
        words = [letters[begin:end].tobytes().decode("utf-32") for begin, end in pairwise(ends)]
        odds.learn(asked[:many, 0].tolist(), words)
    return [
        Consistency(target / words if words else None, words, target, switches, span) if sure == SURE else None
        for sure, (words, target, switches, span, _) in zip(state.tolist(), found.tolist(), strict=True)
    ]


@cache
def _odds() -> Odds:
    return Odds("en", "latin")


@cache
def _known() -> tuple[Any, Any]:
    """Hashes of English words that decide what is a name, in open slots, and what they are, as bits."""
    keys, kinds = np.zeros(_KNOWN, np.uint64), np.zeros(_KNOWN, np.uint8)
    for kind, words in (
        (_PLAIN, plain_english()),
        (_COMMON, common_english()),
        (_PARTICLE, PARTICLES),
        (_OPENER, OPENERS),
    ):
        for word in words:
            key = np.uint64(unit_hash(word))
            slot = slot_of(key, keys)
            keys[slot] = key
            kinds[slot] |= kind
    return keys, kinds


@njit(cache=True)  # type: ignore[untyped-decorator, unused-ignore]
def _measured(  # type: ignore[no-untyped-def]
    data, offsets, own, longest, marks, known, kinds_of, keys, sums, tree, letters, asked, most, state, found
):  # fmt: skip
    """Measure the texts that are `ASKING`, as far as words are known; returns how many words are asked about."""
    points, bare = np.empty(longest, np.uint32), np.empty(longest, np.uint32)
    words, inside = np.empty((longest, 5), np.int64), np.empty((longest, 5), np.int64)
    kinds, languages = np.empty(longest, np.uint8), np.empty(longest, np.int64)
    judged, slots = np.empty(longest, np.int64), np.empty(longest, np.int64)
    hidden, chances = np.empty(len(tree.end)), np.empty(2 * len(tree.sides) + 1)
    many = 0
    for row in range(len(own)):
        if state[row] != ASKING:
            continue
        state[row] = OPEN
        script = own[row]
        number, seen = prose(data, offsets[row], offsets[row + 1], points, marks)
        if seen & STRANGE and _is_strange(points, number, marks):
            continue
        bare[:number] = points[:number]
        left, aside = number, 0
        if seen & ASIDES:
            left, aside = without_asides(bare, number, marks, script, inside)
        count = find_words(bare, left, marks, words)
        _name_kinds(bare, words, count, kinds, known, kinds_of, marks)
        own_words, neutral = _neutral(bare, words, count, kinds, marks, script)
        if 2 * (aside + neutral) > own_words:
            count = find_words(points, number, marks, words)
            _name_kinds(points, words, count, kinds, known, kinds_of, marks)
            bare, points = points, bare
        for word in range(count):
            languages[word] = words[word, WRITTEN]
        if script == LATIN:
            left = _to_judge(words, count, kinds, judged)
            ready, many = _looked_up(
                bare, words, kinds, judged, left, keys, sums, slots, letters, asked, many, most
            )  # fmt: skip
            if not ready:
                state[row] = ASKING
                continue
            if not _judge(kinds, judged, left, slots, sums, tree, hidden, chances, languages):
                continue
        _count(words, count, languages, script, found[row])
        state[row] = SURE
    return many


@njit(cache=True)  # type: ignore[untyped-decorator, unused-ignore]
def _is_strange(points, number, marks):  # type: ignore[no-untyped-def]
    for at in range(number):  # noqa: SIM110
        if marks[points[at]] & STRANGE:
            return True
    return False


@njit(cache=True)  # type: ignore[untyped-decorator, unused-ignore]
def _name_kinds(points, words, count, kinds, known, kinds_of, marks):  # type: ignore[no-untyped-def]
    """Write of each Latin word what English word it is in lower case, and whether it begins with a capital."""
    for word in range(count):
        kinds[word] = 0
        if words[word, WRITTEN] != LATIN:
            continue
        value, plain, begin = _BASIS, True, words[word, BEGIN]
        for at in range(begin, words[word, END]):
            point = points[at]
            if 65 <= point <= 90:
                point += np.uint32(32)
            plain = plain and 97 <= point <= 122
            value = (value ^ np.uint64(point)) * _PRIME
        if plain:
            value = mixed(value)
            slot = slot_of(value, known)
            kinds[word] = kinds_of[slot]
        if marks[points[begin]] & CAPITAL:
            kinds[word] |= _CAPITAL


@njit(cache=True)  # type: ignore[untyped-decorator, unused-ignore]
def _neutral(points, words, count, kinds, marks, own):  # type: ignore[no-untyped-def]
    """Set aside the Latin stretches among others that are names and terms: their script becomes 0.

    Returns (words of the script `own` before, words of another that were set aside).
    """
    several = False
    own_words, neutral = 0, 0
    for word in range(count):
        several = several or words[word, STRETCH] != words[0, STRETCH]
        own_words += words[word, UNITS] if words[word, WRITTEN] == own else 0
    first = 0
    while several and first < count:
        last = first + 1
        while last < count and words[last, STRETCH] == words[first, STRETCH]:
            last += 1
        if words[first, WRITTEN] == LATIN and _are_names(points, words, first, last, kinds, marks):
            words[first:last, WRITTEN] = 0
            neutral += last - first if own != LATIN else 0
        first = last
    return own_words, neutral


@njit(cache=True)  # type: ignore[untyped-decorator, unused-ignore]
def _are_names(points, words, first, last, kinds, marks):  # type: ignore[no-untyped-def]
    """`data.language._is_neutral`: each part of a stretch up to a comma or so is a name or a term."""
    begin = first
    for word in range(first, last):
        ends = word + 1 == last
        if not ends:
            for at in range(words[word, END], words[word + 1, BEGIN]):
                ends = ends or marks[points[at]] & BREAK != 0
        if ends:
            if not _is_name(kinds, begin, word + 1):
                return False
            begin = word + 1
    return True


@njit(cache=True)  # type: ignore[untyped-decorator, unused-ignore]
def _is_name(kinds, begin, end):  # type: ignore[no-untyped-def]
    """`data.language._is_name`."""
    content, capitals, opening, common, told = 0, 0, False, 0, 0
    for word in range(begin, end):
        kind = kinds[word]
        plain = kind & (_COMMON | _OPENER) != 0
        common += plain
        if kind & _PARTICLE:
            continue
        content += 1
        told += plain
        if kind & _CAPITAL:
            capitals += 1
            opening = opening or kind & _OPENER != 0
    if capitals and capitals == content:
        return not opening
    if end - begin <= 2:
        return common < end - begin
    return capitals > 0 and content - capitals <= 2 and told == 0


@njit(cache=True)  # type: ignore[untyped-decorator, unused-ignore]
def _to_judge(words, count, kinds, judged):  # type: ignore[no-untyped-def]
    """Write the Latin words that fastText may be asked about, without capitalised ones in a row; none where no two
    rare words stand in one window. Returns how many."""
    left, rare, pair = 0, -WINDOW, False
    for word in range(count):
        if words[word, WRITTEN] == LATIN:
            judged[left] = word
            if not kinds[word] & _PLAIN:
                pair = pair or left - rare < WINDOW
                rare = left
            left += 1
    if not pair:
        return 0
    kept, before = 0, 0
    for at in range(left):
        kind = kinds[judged[at]] & _CAPITAL
        if not (kind and (before or (at + 1 < left and kinds[judged[at + 1]] & _CAPITAL))):
            judged[kept] = judged[at]
            kept += 1
        before = kind
    return kept


@njit(cache=True, inline="always")  # type: ignore[untyped-decorator, unused-ignore]
def _is_suspicious(kinds, judged, at):  # type: ignore[no-untyped-def]
    """Whether two words of a window are rare."""
    rare = 0
    for place in range(at, at + WINDOW):
        rare += not kinds[judged[place]] & _PLAIN
    return rare >= 2


@njit(cache=True)  # type: ignore[untyped-decorator, unused-ignore]
def _looked_up(  # type: ignore[no-untyped-def]
    points, words, kinds, judged, left, keys, sums, slots, letters, asked, many, most
):  # fmt: skip
    """Write the slots of the words of suspicious windows, and what is not known yet to `letters` and `asked`: a
    slot, and where the word ends. Returns (whether all are known, how many are asked about)."""
    ready, done = True, 0
    for at in range(left - WINDOW + 1):
        if not _is_suspicious(kinds, judged, at):
            continue
        for place in range(max(at, done), at + WINDOW):
            begin, end = words[judged[place], BEGIN], words[judged[place], END]
            key = _BASIS
            for each in range(begin, end):
                key = (key ^ np.uint64(points[each])) * _PRIME
            key = mixed(key)
            slot = slot_of(key, keys)
            slots[place] = slot
            if keys[slot] == key:
                ready = ready and sums[slot, -1] != PENDING
                continue
            ready = False
            first = asked[many - 1, 1] if many else 0
            if many < most and first + end - begin <= len(letters):
                letters[first : first + end - begin] = points[begin:end]
                keys[slot], sums[slot, -1] = key, PENDING
                asked[many, 0], asked[many, 1] = slot, first + end - begin
                many += 1
        done = at + WINDOW
    return ready, many


@njit(cache=True)  # type: ignore[untyped-decorator, unused-ignore]
def _judge(kinds, judged, left, slots, sums, tree, hidden, chances, languages):  # type: ignore[no-untyped-def]
    """Write the languages of foreign spans; returns whether they are sure.

    Windows fall into groups that the evidence cannot bridge, even with each window at its most; only where it could
    suffice within a group is it weighed.
    """
    total = most = 0.0
    first = before = 0
    for at in range(left - WINDOW + 1):
        if not _is_suspicious(kinds, judged, at):
            continue
        total -= PRIOR * (at - before - 1)
        if total <= 0:
            if most >= EVIDENCE - NEAR and not _weigh(
                kinds, judged, first, before, slots, sums, tree, hidden, chances, languages
            ):  # fmt: skip
                return False
            first, total, most = at, 0.0, 0.0
        hide(slots, at, at + WINDOW, sums, tree, hidden)
        total += _bound(probability(hidden, tree))
        most = max(most, total)
        before = at
    return most < EVIDENCE - NEAR or _weigh(
        kinds, judged, first, before, slots, sums, tree, hidden, chances, languages
    )  # fmt: skip


@njit(cache=True)  # type: ignore[untyped-decorator, unused-ignore]
def _bound(own):  # type: ignore[no-untyped-def]
    """The most that a window adds to the evidence, given the probability of the target: all others are one language.
    Where three others may be likelier than the target, it may be missing from fastText's answer."""
    own = max(0.0, own - NEAR)
    other = np.log(max(1 - own, FLOOR) / max(own, FLOOR))
    if own <= 0.25:
        other = max(other, np.log((1 - 3 * own + NEAR) / FLOOR))
    return other - PRIOR


@njit(cache=True)  # type: ignore[untyped-decorator, unused-ignore]
def _weigh(kinds, judged, begin, end, slots, sums, tree, hidden, chances, languages):  # type: ignore[no-untyped-def]
    """`data.language._foreign` for the windows from `begin` to `end`; returns whether it is sure."""
    odds, names = np.zeros(end + 1 - begin), np.zeros(end + 1 - begin, np.int64)
    total, best = 0.0 if begin else PRIOR, 0.0
    first = last = begin
    before = begin - 1
    for at in range(begin, end + 1):
        if not _is_suspicious(kinds, judged, at):
            continue
        hide(slots, at, at + WINDOW, sums, tree, hidden)
        odds[at - begin], names[at - begin], sure = likeliest(hidden, tree, chances)
        if not sure or abs(odds[at - begin]) < NEAR:
            return False
        total -= PRIOR * (at - before - 1)
        if at > begin:
            least = max(0.0, best - EVIDENCE)
            if abs(total - least) < NEAR or abs(best - EVIDENCE) < NEAR:
                return False
            if total <= least:
                if best >= EVIDENCE:
                    _write(judged, first, last, odds, names, begin, languages)
                total, best, first = 0.0, 0.0, at
        total += odds[at - begin]
        before = at
        if total > EVIDENCE - NEAR and abs(total - best) < NEAR:
            return False
        if total > best:
            best, last = total, at
    if best >= EVIDENCE:
        _write(judged, first, last, odds, names, begin, languages)
    return abs(best - EVIDENCE) >= NEAR


@njit(cache=True)  # type: ignore[untyped-decorator, unused-ignore]
def _write(judged, first, last, odds, names, begin, languages):  # type: ignore[no-untyped-def]
    """Give the words of a span the language that most of its foreign windows have, the first of several."""
    most, name = 0, 0
    for at in range(first, last + 1):
        votes = 0
        for each in range(first, last + 1):
            votes += odds[each - begin] > 0 and names[each - begin] == names[at - begin]
        if odds[at - begin] > 0 and votes > most:
            most, name = votes, names[at - begin]
    for place in range(first, last + WINDOW):
        languages[judged[place]] = SCRIPT + 1 + name


@njit(cache=True)  # type: ignore[untyped-decorator, unused-ignore]
def _count(words, count, languages, own, found):  # type: ignore[no-untyped-def]
    """Write (words, those of the target, switches, longest foreign span)."""
    total, target, switches, longest, span, before = 0, 0, 0, 0, 0, 0
    for word in range(count):
        if words[word, WRITTEN] == 0:
            continue
        units = words[word, UNITS]
        total += units
        if languages[word] == own:
            target += units
            span = 0
        else:
            span += units
            longest = max(longest, span)
        switches += before != 0 and languages[word] != before
        before = languages[word]
    found[0], found[1], found[2], found[3] = total, target, switches, longest
