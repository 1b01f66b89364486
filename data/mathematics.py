"""Mathematics: whether an answer says what the gold answer says (DeepSeek-R1, 2.2).

In this order: the same text; the same unit; numbers as exact fractions; words as words; and only then math-verify,
for what it alone can decide. It is lenient where a reward must not be, so an answer reaches it only in the form of
the gold answer: one relation where that has one, as many elements within the same brackets, no names but its
names, and no commands but its commands and those of plain formulas. A sum, a limit or a logarithm that the gold
answer has not is work left to the verifier, and so is what stands in the question itself.

A unit may be left out, and must agree where both have one. A gold answer without a unit takes a measure that is set
as text (`5\\text{ cm}`), but no words that it does not know: those may say anything.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import lru_cache
from typing import Final

from data.answers import Unparseable, boxes, check_caps, normal, number, one_content, without_lead_in
from data.measures import Measured, measured
from data.records import Problem, Verdict


@dataclass(frozen=True, slots=True)
class Symbolic:
    """A comparison that only sympy can decide."""

    gold: str
    answer: str


def judge(text: str, problem: Problem) -> Verdict | Symbolic:
    """Hold the one answer of a text against the problem's. Raises Unparseable where there is none."""
    content = one_content(text)
    answer = normal(content)
    try:
        gold_content = (boxes(problem.solution) or [problem.solution])[-1]
        gold = normal(gold_content)
        _check_braces(gold)
    except Unparseable as why:
        return Verdict("infra_error", answer, f"gold: {why}")
    if answer == gold:
        return Verdict("correct", answer, "same text")
    expected, found = number(gold), number(answer)
    if expected is not None and found is not None:
        return _held(found, {expected}, answer, gold, problem.prompt)
    wanted = measured(gold_content)
    given = measured(content)
    if not _RELATION.search(gold):
        answer, given = without_lead_in(answer), replace(given, value=without_lead_in(given.value))
    if other := _other_unit(wanted, given):
        return Verdict("wrong", answer, other)
    return _compared(wanted, given, answer, problem.prompt)


def _check_braces(gold: str) -> None:
    if gold.count("{") != gold.count("}"):
        raise Unparseable("a brace without its other one")


def _other_unit(wanted: Measured, given: Measured) -> str:
    """How the units differ; empty where they agree. Raises Unparseable for one that is not asked for."""
    if not given.unit or given.unit == wanted.unit:
        return ""
    if wanted.unit:
        return "another unit"
    if given.is_measure:
        return ""
    raise Unparseable("a unit that is not asked for")


def _compared(wanted: Measured, given: Measured, answer: str, prompt: str) -> Verdict | Symbolic:
    gold, said = wanted.value, given.value
    expected, found = number(gold), number(said)
    if expected is not None:
        if found is None:
            raise Unparseable("not a number")
        values = {expected * wanted.factor}
        if wanted.unit == "%" and not given.unit:
            values.add(expected / 100)
        return _held(found * given.factor, values, said, gold, prompt)
    if wanted.factor != given.factor:
        return Verdict("wrong", answer, "another multiple")
    if said.replace(" ", "") == gold.replace(" ", ""):
        return Verdict("correct", answer, "same text")
    if _WORDS.fullmatch(gold):
        if not _WORDS.fullmatch(said):
            raise Unparseable("not words")
        same = not gold.isupper() and gold.casefold() == said.casefold()
        return Verdict("correct" if same else "wrong", answer, "same words" if same else "other text")
    check_caps(said)
    said = _in_form(gold, said)
    _check_new(said, prompt)
    why = "not factored" if _asks_for_factors(prompt, gold) and _is_sum(said) else _other_form(gold, said)
    return Verdict("wrong", answer, why) if why else Symbolic(gold, said)


def _held(found: Fraction, values: set[Fraction], said: str, gold: str, prompt: str) -> Verdict:
    """Hold a number against those that are right; it must be worked out."""
    equal = found in values
    form = _form(said)
    if equal and form != _form(gold):
        if form[0] == "fraction" and found.denominator == 1:
            raise Unparseable("a division left to the verifier")
        _check_new(said, prompt)
    return Verdict("correct" if equal else "wrong", said, "exact")


_WORDS = re.compile(r"[^\W\d_]+(?: [^\W\d_]+)+|[^\W\d_]{3,}|[A-Z]{2}")
_RELATION = re.compile(r"[=<>≤≥≠≈~]|\\(?:[lg]eq?(?:slant)?|[lg]t|neq?|approx|sim|equiv|cong|propto|in)(?![A-Za-z])")
_SEVERAL = re.compile(r"[,;，；、]|\b(?:or|and)\b|[或和]")
_NAMED = re.compile(r"(?:[A-Za-z]|\\[A-Za-z]+)(?:_\{?\w+\}?)?'?(?: ?\( ?[a-z](?: ?, ?[a-z])* ?\))? ?= ?")


def _in_form(gold: str, said: str) -> str:
    """An answer without the name that it is given. Raises Unparseable where it says more than one thing."""
    relations = len(_RELATION.findall(gold))
    if not relations:
        said = _NAMED.sub("", said, count=1) if _NAMED.match(said) else said
    if len(_RELATION.findall(said)) not in (0, relations):
        raise Unparseable("several values")
    if _SEVERAL.search(said) and not _SEVERAL.search(gold) and not relations:
        raise Unparseable("several answers")
    return said


_INTEGER = re.compile(r"[0-9]+")


def _form(text: str) -> tuple[str, ...]:
    """What must agree for two ways of writing a number to be one form."""
    if "/" in text or "frac" in text:
        return ("fraction", *_INTEGER.findall(text))
    return ("power of ten",) if "e" in text or ("10" in text and "^" in text) else ("decimal",)


# The form of a formula.

_COMMAND = re.compile(r"\\([A-Za-z]+|.)")
_NOT_NAMES = re.compile(r"\\(?:begin|end) ?\{[a-z*]+\}|\\[A-Za-z]+|\\.|\b(?:and|or)\b")
_ABSOLUTE: Final = frozenset({"|", "lvert", "vert"})
_PLAIN: Final = frozenset(
    ("frac", "dfrac", "tfrac", "cfrac", "sqrt", "cdot", "times", "div", "pi", "infty", "exp", "{", "}")
)
_FAMILIES: Final = (
    frozenset(("log", "ln", "lg")),
    frozenset(("sin", "cos", "tan", "cot", "sec", "csc")),
    frozenset(("arcsin", "arccos", "arctan")),
    frozenset(("sinh", "cosh", "tanh")),
    frozenset(("cup", "in", "leq", "le", "geq", "ge", "lt", "gt", "leqslant", "geqslant")),
)


def _other_form(gold: str, said: str) -> str:
    """Why an answer cannot be the gold answer, by its names and its elements; empty where it can.

    Raises Unparseable for a command that leaves work to the verifier.
    """
    commands = set(_COMMAND.findall(gold))
    allowed = _PLAIN.union(commands, *(family for family in _FAMILIES if family & commands))
    if _RELATION.search(gold):
        allowed |= _FAMILIES[-1]
    if foreign := sorted(set(_COMMAND.findall(said)) - allowed):
        raise Unparseable(f"\\{foreign[0]} is left to the verifier")
    if "|" in said and "|" not in gold:
        raise Unparseable("| is left to the verifier")
    if not _names(gold) | ({"e"} if "exp" in commands else set()) >= _names(said):
        return "other names"
    if _RELATION.search(gold):
        return ""
    wanted, given = _elements(gold), _elements(said)
    if wanted[1] > 1 and wanted != given:
        return "other brackets" if wanted[0] != given[0] else "more or fewer elements"
    return ""


def _names(formula: str) -> set[str]:
    return {char for char in _NOT_NAMES.sub(" ", formula) if char.isalpha()}


def _elements(text: str) -> tuple[str, int]:
    """The brackets around a list, of which those of a set may be left out, and how many elements it has."""
    plain = text.replace(r"\{", "⦃").replace(r"\}", "⦄").strip()
    depth, closed_at, counts = 0, [], {0: 1, 1: 1}
    for place, char in enumerate(plain):
        if char in "([{⦃":
            depth += 1
        elif char in ")]}⦄":
            depth -= 1
            closed_at += [place] if depth == 0 else []
        elif depth in counts:
            counts[depth] += bool(_SEVERAL.match(plain, place))
    if plain[:1] in tuple("([⦃") and closed_at == [len(plain) - 1]:
        return (plain[0] + plain[-1]).replace("⦃⦄", ""), counts[1]
    return "", counts[0]


def _is_sum(formula: str) -> bool:
    """Whether terms are added outside of all brackets."""
    depth = 0
    for place, char in enumerate(formula):
        depth += (char in "([{") - (char in ")]}")
        if char in "+-" and depth == 0 and place and formula[place - 1] not in "^_":
            return True
    return False


# What stands in the question.

_FACTOR = re.compile(r"\bfactor|因式", re.IGNORECASE)

_PROSE = re.compile(
    r"\\text\s*\{[^{}]*\}|(?<![\\A-Za-z])(?!sqrt|frac|sin|cos|tan|log|exp)[A-Za-z]{2,}|[^\x00-\x7f]+|[?;:!]|[,.](?![0-9])|\$|\\[()\[\]]"
)
_BLANK = re.compile(r"\\[,;: !]|\\left|\\right|\s")


def _bare(formula: str) -> str:
    """A formula without blanks and with one sign for each operation."""
    return (
        _BLANK.sub("", formula).replace(r"\times", "*").replace(r"\cdot", "*").replace(r"\div", "/").replace("**", "^")
    )


@lru_cache(maxsize=512)
def _formulas_in(prompt: str) -> frozenset[str]:
    """The formulas between the words of a question, and the sides of its equations."""
    found = {_bare(piece) for piece in _PROSE.split(prompt.translate(str.maketrans("−×÷", "-*/")))}
    return frozenset(found.union(*(piece.split("=") for piece in found)) - {""})


def _check_new(said: str, prompt: str) -> None:
    if _bare(said) in _formulas_in(prompt):
        raise Unparseable("stands in the question")


def _asks_for_factors(prompt: str, gold: str) -> bool:
    return bool(_FACTOR.search(prompt)) and not _is_sum(gold)
