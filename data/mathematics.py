"""Mathematics: whether an answer says what the gold answer says (DeepSeek-R1, 2.2).

In this order: the same text; the same unit; numbers as exact fractions; words as words; and only then math-verify,
for what it alone can decide. It is lenient where a reward must not be, so an answer reaches it only in the form of
the gold answer (`data.forms`): one relation where that has one, as many elements within the same brackets, no names
but its names, and no commands but its commands and those of plain formulas. A sum, a limit or a logarithm that the
gold answer has not is work left to the verifier, and so is what stands in the question itself.

A unit may be left out, and must agree where both have one. A gold answer without a unit takes a measure that is set
as text (`5\\text{ cm}`) and what the question asks the number of ("how many apples"), but no other words: those may
say anything.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import lru_cache

from data.answers import Unparseable, boxes, check_caps, normal, number, one_content, without_lead_in
from data.forms import (
    NOTHING,
    RELATION,
    SEVERAL,
    as_interval,
    check_braces,
    check_brackets,
    is_interval,
    is_sum,
    names,
    other_form,
    unfinished,
)
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
        check_braces(gold)
    except Unparseable as why:
        return Verdict("infra_error", answer, f"gold: {why}")
    if answer == gold:
        return Verdict("correct", answer, "same text")
    expected, found = number(gold), number(answer)
    if expected is not None and found is not None:
        return _held(found, {expected}, answer, gold, problem.prompt)
    wanted = measured(gold_content)
    given = measured(content)
    if not RELATION.search(gold) and (answer.count("=") < 2 or not SEVERAL.search(gold)):
        answer, given = without_lead_in(answer), replace(given, value=without_lead_in(given.value))
    if expected is not None and answer != (count := _without_counted(answer, problem.prompt)):
        answer, given = count, measured(count)
    if other := _other_unit(wanted, given):
        return Verdict("wrong", answer, other)
    return _compared(wanted, given, answer, problem.prompt)


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
    check_brackets(said)
    gold, said = _latex(gold), _latex(said)
    said = _in_form(gold, said)
    _check_new(said, gold, prompt)
    why = "not factored" if _asks_for_factors(prompt, gold) and is_sum(said) else other_form(gold, said)
    if not why and (left := unfinished(said)) and not unfinished(gold):
        raise Unparseable(f"{left} is left to the verifier")
    return Verdict("wrong", answer, why) if why else Symbolic(gold, said)


def _held(found: Fraction, values: set[Fraction], said: str, gold: str, prompt: str) -> Verdict:
    """Hold a number against those that are right; it must be worked out."""
    equal = found in values
    form = _form(said)
    if equal and form != _form(gold):
        if form[0] == "fraction" and found.denominator == 1:
            raise Unparseable("a division left to the verifier")
        _check_new(said, gold, prompt)
    return Verdict("correct" if equal else "wrong", said, "exact")


_WORDS = re.compile(r"[^\W\d_]+(?: [^\W\d_]+)+|[^\W\d_]{3,}|[A-Z]{2}")
_NAMED = re.compile(
    r"(?P<name>[A-Za-z]|\\[A-Za-z]+)(?:_\{?\w+\}?)?'?(?: ?\( ?[a-z](?: ?, ?[a-z])* ?\))? ?= ?(?P<value>[^=]*)\Z"
)
_INTEGER = re.compile(r"[0-9]+")
_BARE_SET = re.compile(r"\{([^{}]*,[^{}]*)\}")
_IMAGINARY = re.compile(r"\\sqrt ?\{ ?- ?([0-9]+) ?\}")


def _latex(formula: str) -> str:
    """A formula with LaTeX for what people type instead."""
    for typed, meant in (("<=", r"\leq "), (">=", r"\geq "), ("!=", r"\neq "), ("**", "^"), ("或", ","), ("和", ",")):
        formula = formula.replace(typed, meant)
    return _BARE_SET.sub(r"\\{\1\\}", formula) if _BARE_SET.fullmatch(formula) else formula


def _in_form(gold: str, said: str) -> str:
    """An answer without the name that it is given. Raises Unparseable where it says more than one thing."""
    relations = len(RELATION.findall(gold))
    if not relations:
        said = as_interval(said) if is_interval(gold) else _without_names(gold, said)
    if len(RELATION.findall(said)) not in (0, relations):
        raise Unparseable("several values")
    if SEVERAL.search(said) and not SEVERAL.search(gold) and not relations:
        raise Unparseable("several answers")
    return _IMAGINARY.sub(r"{i\\sqrt{\1}}", said) if "i" in names(gold) else said


def _without_names(gold: str, said: str) -> str:
    """`y = x + 1` without its name, and `x = 1 or x = 2`, where several values are asked for, without their one."""
    parts = SEVERAL.split(said) if SEVERAL.search(gold) else [said]
    found = [_NAMED.match(part.strip()) for part in parts]
    named = [match for match in found if match]
    if len(named) < len(parts) or len({match["name"] for match in named}) > 1:
        return said
    return ",".join(match["value"] for match in named)


def _form(text: str) -> tuple[str, ...]:
    """What must agree for two ways of writing a number to be one form."""
    if "/" in text or "frac" in text:
        return ("fraction", *_INTEGER.findall(text))
    return ("power of ten",) if "e" in text or ("10" in text and "^" in text) else ("decimal",)


# What stands in the question.

_FACTOR = re.compile(r"\bfactor|因式", re.IGNORECASE)

_PROSE = re.compile(
    r"\\text\s*\{[^{}]*\}|(?<![\\A-Za-z])(?!sqrt|frac|sin|cos|tan|log|exp)[A-Za-z]{2,}|[^\x00-\x7f]+|[?;:!]|[,.](?![0-9])|\$|\\[()\[\]]"
)
_BLANK = re.compile(r"\\[,;: !]|\\left|\\right|\s")
_TOKEN = re.compile(r"[0-9.]+|\\[A-Za-z]+|[^(){}\[\]+]")


def _bare(formula: str) -> str:
    """A formula without blanks and with one sign for each operation."""
    bare = _BLANK.sub("", formula).replace(r"\times", "*").replace(r"\cdot", "*").replace(r"\div", "/")
    return re.sub(r"\\[dtc]?frac", "/", bare.replace("**", "^"))


def _parts(bare: str) -> tuple[str, ...]:
    """What a formula is made of, in whatever order and brackets; what adds nothing is left out."""
    return tuple(sorted(_TOKEN.findall(NOTHING.sub("", bare))))


@lru_cache(maxsize=512)
def _formulas_in(prompt: str) -> frozenset[tuple[str, ...]]:
    """The formulas between the words of a question, and the sides of its equations, by their parts."""
    found = {_bare(piece) for piece in _PROSE.split(prompt.translate(str.maketrans("−×÷", "-*/")))}
    return frozenset(map(_parts, found.union(*(piece.split("=") for piece in found)) - {""}))


def _check_new(said: str, gold: str, prompt: str) -> None:
    """Raise Unparseable where an answer is a formula of the question that was at most written in another way."""
    parts = _parts(_bare(said))
    if parts in _formulas_in(prompt) and parts != _parts(_bare(gold)):
        raise Unparseable("stands in the question")


def _asks_for_factors(prompt: str, gold: str) -> bool:
    return bool(_FACTOR.search(prompt)) and not is_sum(gold)


# What is counted.

_COUNT = re.compile(r"(.*[0-9}]) ?([A-Za-z]+(?: [A-Za-z]+)?|[\u4e00-\u9fff]{1,8})")
_HOW_MANY = re.compile(r"\bhow many ((?:[a-z]+ ){0,2}[a-z]+)", re.IGNORECASE)


def _without_counted(answer: str, prompt: str) -> str:
    """`5 apples` without what the question asks the number of, where it does: "how many apples", "多少个苹果"."""
    found = _COUNT.fullmatch(answer)
    return found[1] if found and _is_counted(found[2], prompt) else answer


def _is_counted(what: str, prompt: str) -> bool:
    if not what.isascii():
        return re.search(rf"(?:多少|几)[\u4e00-\u9fff]?{what}", prompt) is not None
    words = _singular(what)
    asked = [_singular(found) for found in _HOW_MANY.findall(prompt)]
    return any(words == each[at : at + len(words)] for each in asked for at in range(len(each)))


def _singular(words: str) -> list[str]:
    return [word.removesuffix("s") for word in words.casefold().split()]
