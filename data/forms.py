"""The form of a formula: its names, its elements within brackets, and whether anything is left to be worked out.

math-verify compares values. What a reward must see beside them is read here from the text of two formulas: that
an answer has the gold answer's names and brackets, no command that would leave work to the verifier, and no sum
or product that a person would write as one number.
"""

from __future__ import annotations

import re
from typing import Final

from data.answers import Unparseable

RELATION: Final = re.compile(
    r"[=<>≤≥≠≈~]|\\(?:[lg]eq?(?:slant)?|[lg]t|neq?|approx|sim|equiv|cong|propto|in)(?![A-Za-z])"
)
SEVERAL: Final = re.compile(r"[,;、]|\b(?:or|and)\b|[或和]")

_COMMAND = re.compile(r"\\([A-Za-z]+|.)")
_NOT_NAMES = re.compile(r"\\(?:begin|end) ?\{[a-z*]+\}|\\[A-Za-z]+|\\.|\b(?:and|or)\b")
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
_DROPPED = re.compile(r"['\"!?@#`%]")  # signs that math-verify reads over


def other_form(gold: str, said: str) -> str:
    """Why an answer cannot be the gold answer, by its names and its elements; empty where it can.

    Raises Unparseable for a command that leaves work to the verifier, and for a sign that it would not see.
    """
    commands = set(_COMMAND.findall(gold))
    allowed = _PLAIN.union(commands, *(family for family in _FAMILIES if family & commands))
    if RELATION.search(gold):
        allowed |= _FAMILIES[-1]
    if foreign := sorted(set(_COMMAND.findall(said)) - allowed):
        raise Unparseable(f"\\{foreign[0]} is left to the verifier")
    if "|" in said and "|" not in gold:
        raise Unparseable("| is left to the verifier")
    if signs := sorted(set(_DROPPED.findall(said)) - set(gold)):
        raise Unparseable(f"{signs[0]} says nothing here")
    if not names(gold) | ({"e"} if "exp" in commands else set()) >= names(said):
        return "other names"
    if RELATION.search(gold):
        return ""
    wanted, given = _elements(gold), _elements(said)
    if wanted[1] > 1 and wanted != given:
        return "other brackets" if wanted[0] != given[0] else "more or fewer elements"
    sets = max(gold.count(r"\{"), wanted[1] > 1)
    lists = said.startswith("[") and wanted[1] == 1 and not gold.startswith("[")
    return "other brackets" if said.count(r"\{") > sets or lists else ""


def names(formula: str) -> set[str]:
    """The letters that stand for something."""
    return {char for char in _NOT_NAMES.sub(" ", formula) if char.isalpha()}


def check_braces(formula: str) -> None:
    """Raise Unparseable where a brace has no other one."""
    plain = formula.replace(r"\{", "").replace(r"\}", "")
    if plain.count("{") != plain.count("}"):
        raise Unparseable("a brace without its other one")


def check_brackets(formula: str) -> None:
    """Raise Unparseable where a bracket of any kind has no other one; an interval may close with the other kind."""
    check_braces(formula)
    if sum(map(formula.count, "([")) != sum(map(formula.count, ")]")):
        raise Unparseable("a bracket without its other one")


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
            counts[depth] += bool(SEVERAL.match(plain, place))
    if plain[:1] in tuple("([⦃") and closed_at == [len(plain) - 1]:
        return (plain[0] + plain[-1]).replace("⦃⦄", ""), counts[1]
    return "", counts[0]


def is_sum(formula: str) -> bool:
    """Whether terms are added outside of all brackets."""
    depth = 0
    for place, char in enumerate(formula):
        depth += (char in "([{") - (char in ")]}")
        if char in "+-" and depth == 0 and place and formula[place - 1] not in "^_":
            return True
    return False


# What is left to be worked out.

NOTHING: Final = re.compile(
    r"[+-]0(?![0-9.])|(?<![0-9.])0\+|(?<![0-9.^_])1\*|\*1(?![0-9.])|\^(?:[01](?![0-9.])|\{[01]\})|(?<![0-9.])1\^|\(1\)"
)
"""What adds nothing to a formula without blanks whose operations are `+-*/^`: a term 0, a factor 1, a power 0 or 1."""

_BLANK = re.compile(r"\\left|\\right|(?<![A-Za-z])\s|\s(?![A-Za-z])")
_BETWEEN = re.compile(r"\\\\|\\(?:cup|cap|to|pm|mp)(?![A-Za-z])|[,;&|]|" + RELATION.pattern)
_VALUE = r"(?>[0-9]*\.?[0-9]+|\\[dtc]?frac\{[0-9]+\}\{[0-9]+\})(?![.^_])"
_TIMES = r"(?:\*|\\cdot|\\times)"
_COEFFICIENT = re.compile(rf"\A{_VALUE}(?:/[0-9]+)?{_TIMES}?")
_TWO_NUMBERS = re.compile(rf"(?<![\^_/0-9.}}]){_VALUE}{_TIMES}{_VALUE}")


def unfinished(formula: str) -> str:
    """What a person would still work out: like terms of one sum (`x + 2 - 1`, `x + x`) or two numbers of a product.

    Empty where there is nothing. Fractions, powers and brackets may stand.
    """
    plain = _BLANK.sub("", formula).replace(r"\{", "(").replace(r"\}", ")")
    if NOTHING.search(re.sub(_TIMES, "*", plain)):
        return "what adds nothing"
    if _TWO_NUMBERS.search(plain):
        return "a product"
    plain = _BETWEEN.sub(",", plain) + ","
    sums: list[tuple[int, set[str]]] = [(0, set())]  # of each open sum: where its term begins, and those before that
    for place, char in enumerate(plain):
        begun, terms = sums[-1]
        if char in "([{":
            sums.append((place + 1, set()))
        elif char in ",)]}" or (char in "+-" and plain[place - 1] not in "^_*/"):
            if term := plain[begun:place]:
                like = _COEFFICIENT.sub("", term)
                if like in terms:
                    return "a sum"
                terms.add(like)
            sums[-1] = place + 1, set() if char == "," else terms
            if char in ")]}" and len(sums) > 1:
                sums.pop()
    return ""


# Intervals.

_ORDER = re.compile(r"\s*([<>≤≥]|\\(?:[lg]eq?(?:slant)?|[lg]t)(?![A-Za-z]))\s*")
_UPWARD: Final = ("<", "≤", r"\l")
_VARIABLE = re.compile(r"[A-Za-z]|\\(?!infty)[a-z]+")
_INTERVAL = re.compile(r"[(\[][^()\[\],]+,[^()\[\],]+[)\]]")
_MEMBER = re.compile(r"[A-Za-z] ?\\in ?(?=[(\[])")


def is_interval(gold: str) -> bool:
    """Whether a gold answer can be nothing but an interval: it has no end, or one end of its own and one not."""
    plain = gold.replace(" ", "")
    return bool(_INTERVAL.fullmatch(plain)) and (r"\infty" in plain or plain[0] + plain[-1] in ("(]", "[)"))


def as_interval(said: str) -> str:
    """What says where one variable lies (`x >= 1`, `1 < x <= 2`, `x in [1, 2)`) as an interval; else as it is."""
    if _MEMBER.match(said):
        return _MEMBER.sub("", said)
    parts = _ORDER.split(said)
    if len({sign.startswith(_UPWARD) for sign in parts[1::2]}) != 1:
        return said
    if not parts[1].startswith(_UPWARD):
        parts.reverse()
    bounds, closed = parts[::2], ["e" in sign or sign in "≤≥" for sign in parts[1::2]]
    if len(bounds) == 2:
        has_no_low = bool(_VARIABLE.fullmatch(bounds[0]))
        bounds = [r"-\infty", *bounds] if has_no_low else [*bounds, r"\infty"]
        closed = [False, *closed] if has_no_low else [*closed, False]
    if len(bounds) != 3 or not all(bounds) or not _VARIABLE.fullmatch(bounds[1]):
        return said
    return f"{'(['[closed[0]]}{bounds[0]},{bounds[2]}{')]'[closed[1]]}"
