"""The walk in machine code against the regular expressions that it stands for, on texts drawn to be awkward."""

import re
import unicodedata
from collections import Counter
from random import Random

import polars as pl
import pytest

from data import walk
from data.codepoints import POINTS, folds, kinds
from data.filters.groups import numerals_hash
from data.units import (
    FENCED,
    LINE_UNITS,
    NUMERAL,
    PARAGRAPH_END,
    SENTENCE_END,
    UNIT,
    ngrams,
    numerals,
    parts,
    run_hash,
    run_hashes,
    signed_units,
    unit_hash,
    units,
)

PIECES = [
    *"abc xyz  \n\n..!?;。！，；一二三十我们的x1 2.5 3.1.4 -+*/=<>×÷−`_é İßK４²Ⅷ〇々ア한\t~\u3000\x1c\u0301",
    *(
        " a ",
        "an",
        "so a word",
        ", a ",
        "A ",
        "B a",
        "is",
        " and ",
        "ſo a Kat",
        "so a Row",
        "SO A ROW",
        "A ſO",
        "on-on",
        "x-",
        "on - ",
    ),
    *("```", "fourteen", "seven", "no", "not ", "\n\n", "\n \n", "10.", "four", "teen", "a ", "so we do it. "),
]


def drawn(number: int, seed: int) -> list[tuple[str, str]]:
    """Thinking and answer, two of three without what one look cannot settle."""
    rng = Random(seed)
    texts = ["".join(rng.choices(PIECES, k=rng.randrange(120))) for _ in range(2 * number)]
    plain = str.maketrans("", "", "\u0301İß")
    texts = [text.translate(plain) if place % 6 > 1 else text for place, text in enumerate(texts)]
    return list(zip(texts[::2], texts[1::2], strict=True))


def test_the_walk_finds_what_the_regular_expressions_find() -> None:
    pairs = drawn(1500, seed=1)
    texts = [f"{thinking}\n{answer}" for thinking, answer in pairs]
    forbidden = {part for text in texts[:40] for part in parts(text, 4)} - {""}
    lookup = walk.Lookup([run_hash(map(unit_hash, part.split(" "))) for part in forbidden], 4)
    cuts = pl.Series([len(thinking.encode()) for thinking, _ in pairs], dtype=pl.Int64)
    found, collapsed = walk.walked(pl.Series(texts), cuts, lookup, 3)
    begin, known = 0, 0
    for row, (text, (thinking, _)) in enumerate(zip(texts, pairs, strict=True)):
        end = int(found["collapsed"][row])
        copy, begin = bytes(collapsed[begin:end]).decode(), end
        if found["odd"][row]:
            continue
        known += 1
        said = FENCED.sub("\n", thinking)
        lines = Counter(
            " ".join(line) for each in SENTENCE_END.split(said) if len(line := signed_units(each)) >= LINE_UNITS
        )
        grams = list(ngrams(units(said), 3))
        expected = {
            "paragraph": max(len(units(each)) for each in PARAGRAPH_END.split(thinking)),
            "lines": max(lines.values(), default=0),
            "grams": len(grams),
            "distinct": len(set(grams)),
            "seen": any(part in forbidden for part in parts(text, 4)),
            "numerals": numerals_hash(text),
        }
        assert {name: found[name][row].item() for name in expected} == expected, text
        assert copy == " ".join(unicodedata.normalize("NFC", text).split())
    assert 700 < known < 1500
    assert 40 < found["seen"].sum() < 1000


def test_runs_of_units() -> None:
    texts = [text for pair in drawn(200, seed=2) for text in pair] + ["", "one", "one two three"]
    for text, found in zip(texts, walk.runs(pl.Series(texts), 3), strict=True):
        assert found is None or found.to_list() == sorted(run_hashes(units(text), 3))
    assert walk.runs(pl.Series(["one two", "\u0301"]), 3).to_list() == [
        [run_hash([unit_hash("one"), unit_hash("two")])],
        None,
    ]


def test_what_is_looked_for_is_found_and_nothing_else() -> None:
    rng = Random(0)
    held, others = ([rng.getrandbits(64) for _ in range(1000)] for _ in range(2))
    lookup = walk.Lookup(held, 1)
    ask = walk.within.py_func
    import numpy as np

    with np.errstate(over="ignore"):
        assert all(ask(np.uint64(each), lookup.sieve, lookup.slots) for each in held)
        assert not any(ask(np.uint64(each), lookup.sieve, lookup.slots) for each in others)


def test_kinds_are_those_of_the_regular_expressions() -> None:
    from data import codepoints as kind

    found = kinds()
    for point in [*range(0x600), *range(0x2000, 0x2100), *range(0x3000, 0x3100), *range(0xFF00, 0xFF60)]:
        char = chr(point)
        assert bool(found[point] & (kind.LETTER | kind.HAN)) == (char.isalnum() and not char.isdecimal()), hex(point)
        assert bool(found[point] & kind.SPACE) == char.isspace()
        assert bool(found[point] & kind.NUMERAL) == (char in "零〇一二两三四五六七八九十百千万亿半")
        if not found[point] & kind.ODD:
            assert chr(folds()[point]) == char.casefold()
    assert all(found[ord(char)] & kind.ODD for char in "ßİ\u0301\u1161")
    assert not any(found[ord(char)] & kind.ODD for char in "aé中한")
    assert len(found) == POINTS


@pytest.mark.parametrize(
    ("text", "expected"),
    [("seven 7 x ab4teen 三 - not", ["seven", "7", "x", "ab4teen", "三", "-", "not"]),
     ("sevens 3.5.2 xy a4teen knot", ["3.5", "2", "a", "4"])],
)  # fmt: skip
def test_numerals(text: str, expected: list[str]) -> None:
    assert numerals(text) == expected == NUMERAL.findall(text)


def test_an_article_is_no_numeral() -> None:
    for text in (
        "it is a number",
        "so, a word: a row; a case",
        "insert a second row",
        "take a Row",
        "TAKE A ROW",
        "SO, A DNA",
        "SO a row",
        "so a ROW",
        "the a left-hand side",
    ):
        assert numerals(text) == re.findall("second", text), text


@pytest.mark.parametrize(
    "text",
    ["A is a", "say A number", "so A Row", "SO A IS", "a number", "x a number", "2 a number", "x = a number",
     "so a B", "so a x", "so a is it",
     "so a and so", "so a, or", "so a  row", "so a\nrow", "(a row", "so-a row", "so\ta row",
     "一 a row", "i, a i"],
)  # fmt: skip
def test_a_letter_that_may_be_a_variable_is_a_numeral(text: str) -> None:
    assert "a" in numerals(text)


@pytest.mark.parametrize("text", ["x-ray", "on - on", "2-fold", "to x-", "-on", "一-二", "四百-三十"])
def test_a_hyphen_is_a_sign_but_between_words(text: str) -> None:
    assert "-" in numerals(text)
    assert numerals("left-hand, A-flat, Wi-fi") == ["a", "-"]
    assert UNIT.findall("3.5.2 xy") == ["3.5", "2", "xy"]
