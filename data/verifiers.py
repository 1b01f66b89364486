"""Text -> verdict, by rule: mathematics, choice, code, and arithmetic expressions (DeepSeek-R1, 2.2).

The answer counts only where the template asks for it (`data.prompts.parse`). If it has `\\boxed{}` the box is
the answer, and all boxes have to agree; without a box the text is one answer, perhaps led in by a few words
("the answer is", "答案是"), and nothing that offers several.

Normalisation, all of it: runs of white space become one space, the signs `−` and `×` `÷` `：` become ASCII,
LaTeX that only sets type (`\\left`, `\\,`, `\\text{}`, `$`) goes away. Digits outside ASCII and invisible
characters make an answer unparseable. Numbers are compared as exact fractions; a number must be given as a
number, so a sum left to the verifier ("398 - 7") is wrong. Only answers to a gold that is no number may reach
sympy, behind caps and in a process that can be killed; a gold of words or spaced letters ("C A B D") never
does, since sympy would take it for a product and any order for the same.
"""

from __future__ import annotations

import ast
import json
import math
import re
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from typing import Final

from data import symbolic
from data.prompts import Template, parse
from data.records import Problem, Verdict
from data.sandbox import CodeLanguage, Isolation, Jail, Limits, SandboxError, Test, choose, run

MAX_LENGTH: Final = 200  # characters of an answer that is no program
MAX_DIGITS: Final = 30
MAX_EXPONENT: Final = 100
MAX_EXPONENT_PRODUCT: Final = 100_000  # of all exponents of one answer: (((2^9)^9)^9)^9
MAX_NESTING: Final = 12


@dataclass(frozen=True, slots=True)
class Symbolic:
    """A comparison that only sympy can decide."""

    gold: str
    answer: str


@dataclass(frozen=True, slots=True)
class Program:
    """A program that has to be run."""

    code: str
    language: CodeLanguage
    tests: tuple[Test, ...]


Pending = Symbolic | Program


class Unparseable(Exception):
    """There is no single answer to judge; the reason in a few words."""


def verify(problem: Problem, completion: str, template: Template, timeout_s: float = 5.0) -> Verdict:
    """Judge one completion. Raises ValueError for a verifier that is unknown or has no rule."""
    first = _judge(problem, completion, template)
    return first if isinstance(first, Verdict) else _decide(first, timeout_s)


def verify_all(
    jobs: Sequence[tuple[Problem, str]],
    template: Template,
    *,
    workers: int = 2,
    timeout_s: float = 5.0,
    isolation: Isolation | None = None,
) -> list[Verdict]:
    """Judge many completions, in order; `timeout_s` is for one comparison or one test, from its start.

    Programs run in the strongest isolation that the host has when none is given. Raises ValueError where one is to
    be run and `isolation` is "none".

    What needs sympy or the sandbox is done once for equal work, by `workers` threads.
    """
    firsts = [_judge(problem, completion, template) for problem, completion in jobs]
    pending = list(dict.fromkeys(first for first in firsts if not isinstance(first, Verdict)))
    decided: dict[Pending, Verdict] = {}

    def work() -> None:
        with Jail(_limits(timeout_s), isolation or choose(allow_rlimit=True)) as jail:
            while True:
                try:
                    item = pending.pop()
                except IndexError:
                    return
                decided[item] = _decide(item, timeout_s, jail)

    _in_threads(work, min(workers, len(pending)))
    return [first if isinstance(first, Verdict) else decided[first] for first in firsts]


def _in_threads(work: Callable[[], None], number: int) -> None:
    failures: list[BaseException] = []

    def guarded() -> None:
        try:
            work()
        except BaseException as failure:
            failures.append(failure)

    threads = [threading.Thread(target=guarded) for _ in range(number)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failures:
        raise failures[0]


def _limits(timeout_s: float) -> Limits:
    """Processor time is the limit; the wall limit is wider, for a machine that is busy with other things."""
    return Limits(cpu_s=max(1, round(timeout_s)), wall_s=2 * timeout_s)


def _judge(problem: Problem, completion: str, template: Template) -> Verdict | Pending:
    rule = VERIFIERS.get(problem.verifier)
    if rule is None:
        raise ValueError(f"unknown verifier {problem.verifier!r}; allowed: {', '.join(VERIFIERS)}")
    text = parse(completion, template).answer
    if text is None:
        return Verdict("unparseable", None, "malformed")
    try:
        return rule(text, problem.solution)
    except Unparseable as why:
        return Verdict("unparseable", text[:MAX_LENGTH], str(why))


def _decide(item: Pending, timeout_s: float, jail: Jail | None = None) -> Verdict:
    if isinstance(item, Program):
        return _run_program(item, timeout_s, jail)
    found = symbolic.compare(item.gold, item.answer, timeout_s)
    if found == "equal":
        return Verdict("correct", item.answer, "equal by sympy")
    if found == "different":
        return Verdict("wrong", item.answer, "different by sympy")
    if found == "timeout":
        return Verdict("timeout", item.answer, f"no comparison within {timeout_s} s")
    if found == "unparseable":
        return Verdict("unparseable", item.answer, "not an expression")
    return Verdict("infra_error", item.answer, f"sympy: {found}")


# The one answer.

_INVISIBLE = re.compile(r"[\u00ad\u061c\u180e\u200b-\u200f\u202a-\u202e\u2060-\u2064\u2066-\u206f\ufeff\ufe00-\ufe0f]")
_TYPESETTING = re.compile(r"\\(?:left|right|displaystyle)(?![a-zA-Z])|\\[,;: ()\[\]]|\$")
_TEXT = re.compile(r"\\(?:text|mathrm|textbf|mathbf|mbox)\s*\{([^{}]*)\}")
_UNIT = re.compile(r"(?<=[0-9}])\s*\\(?:text|mathrm|mbox)\s*\{[^{}0-9]*\}\s*$")
_EMPHASIS = re.compile(r"\*\*([^*]*)\*\*")
_SIGNS = str.maketrans({"−": "-", "×": "*", "÷": "/", "：": ":"})
_CONNECTIVE = r"(?:\b(?:is|are|equals|gives|get|be|[Oo]ption|[Cc]hoose)\b:?|=|:|是|为|得到?|等于|选项?)"
_LEAD_IN = re.compile(rf"([^0-9\\{{}}+*/^_<>()\[\]]{{0,80}}?){_CONNECTIVE}\s*(?=\S)")
_HEDGE = re.compile(r"\b(?:not|never|or|maybe|either|except)\b|n't|[不非或]|可能")
_BOX = "\\boxed{"
_BRACE = re.compile(r"\\boxed\{|[{}]")


def boxes(text: str) -> list[str]:
    """Contents of all `\\boxed{...}` with balanced braces, outermost only, in order; one pass over the text."""
    opened: list[tuple[int, bool]] = []  # where the content of each open brace begins, and whether it is a box
    closed: list[tuple[int, int]] = []
    for brace in _BRACE.finditer(text):
        if brace[0] != "}":
            opened.append((brace.end(), brace[0] == _BOX))
        elif opened:
            begin, is_box = opened.pop()
            if is_box:
                while closed and closed[-1][0] > begin:
                    closed.pop()
                closed.append((begin, brace.start()))
    return [text[begin:end] for begin, end in closed]


def _normal(text: str) -> str:
    if not text.isascii():
        if _INVISIBLE.search(text):
            raise Unparseable("invisible characters")
        if any(char.isdigit() and not char.isascii() for char in text):
            raise Unparseable("digits outside ASCII")
        text = text.translate(_SIGNS)
    if "\\" in text or "$" in text:
        text = _TEXT.sub(r"\1", _UNIT.sub("", text)).replace("\\!", "")
        text = _TYPESETTING.sub(" ", text)
    text = " ".join(text.split()).rstrip(" .。！")
    emphasis = _EMPHASIS.fullmatch(text) if "**" in text else None
    return emphasis[1].strip() if emphasis else text


def _one_answer(text: str) -> str:
    """The content of the box, or else the whole text."""
    if _BOX in text:
        contents = list(dict.fromkeys(map(_normal, boxes(text))))
        if not contents:
            raise Unparseable("box without end")
        if len(contents) > 1 or _BOX in contents[0]:
            raise Unparseable("several boxes")
        answer = contents[0]
    else:
        answer = _normal(text)
    if not answer:
        raise Unparseable("empty")
    if len(answer) > MAX_LENGTH:
        raise Unparseable("too long")
    return answer


def _without_lead_in(answer: str) -> str:
    """What is left of "the answer is 42": nothing before the answer may itself look like one."""
    while match := _LEAD_IN.match(answer):
        if _HEDGE.search(match[1]):
            raise Unparseable("hedged")
        answer = answer[match.end() :]
    return answer


# Mathematics.

_NUMBER = re.compile(
    r"(?P<sign>[+-]?) ?(?:"
    r"(?P<whole>[0-9]{1,3}(?:,[0-9]{3})+|[0-9]+)?(?:\.(?P<part>[0-9]+))?"
    r"(?: ?(?:e|(?:\\times|\\cdot|\*) ?10 ?\^) ?\{?(?P<exponent>[+-]?[0-9]{1,3})\}?)?"
    r"|(?P<over>[0-9]+) ?/ ?(?P<under>[0-9]+)"
    r"|\\[dt]?frac ?\{ ?(?P<over2>-?[0-9]+) ?\} ?\{ ?(?P<under2>[0-9]+) ?\}"
    r"|\\[dt]?frac ?(?P<over3>[0-9]) ?(?P<under3>[0-9])"
    r")"
)
_WORDS = re.compile(r"[^\W\d_]+(?: [^\W\d_]+)+|[^\W\d_]{3,}")
_SEVERAL = re.compile(r"[,;，；、]|\b(?:or|and)\b|[或和]")
_RELATION = re.compile(r"[=<>≤≥≠≈~]|\\(?:leq?|geq?|neq?|approx|sim)\b")
_LONG_NUMBER = re.compile(rf"[0-9][0-9,. ]{{{MAX_DIGITS},}}")
_EXPONENT = re.compile(r"(?:\^|\*\*)\s*\{?\s*[-+(]*\s*([0-9]+)")
_TOWER = re.compile(r"(?:\^|\*\*)\s*(?:\{[^}]*|\([^)]*|\w+\s*)(?:\^|\*\*)")


@lru_cache(maxsize=4096)
def number(text: str) -> Fraction | None:
    """An integer, decimal, fraction, or number in scientific notation, exactly; None for anything else."""
    match = _NUMBER.fullmatch(text) if len(text) <= MAX_LENGTH else None
    if match is None:
        return None
    sign, whole, part, exponent, *fractions = match.groups()
    over, under = next(((a, b) for a, b in zip(fractions[::2], fractions[1::2], strict=True) if b), ("", ""))
    if max(len(whole or "") + len(part or ""), len(over), len(under)) > MAX_DIGITS:
        return None
    if under:
        value = Fraction(int(over), int(under)) if int(under) else None
    elif whole or part:
        power = int(exponent or 0) - len(part or "")
        value = int((whole or "").replace(",", "") + (part or "")) * Fraction(10) ** power
        value = value if abs(int(exponent or 0)) <= MAX_EXPONENT else None
    else:
        value = None
    return -value if value is not None and sign == "-" else value


def _math(text: str, solution: str) -> Verdict | Pending:
    answer = _one_answer(text)
    gold = _normal(solution)
    if answer == gold:
        return Verdict("correct", answer, "same text")
    expected = number(gold)
    found = number(answer)
    if found is None and not _RELATION.search(gold):
        answer = _without_lead_in(answer)
        found = number(answer)
    if expected is not None:
        if found is None:
            raise Unparseable("not a number")
        return Verdict("correct" if found == expected else "wrong", answer, "exact")
    if answer.replace(" ", "") == gold.replace(" ", ""):
        return Verdict("correct", answer, "same text")
    if _WORDS.fullmatch(gold):
        if not _WORDS.fullmatch(answer):
            raise Unparseable("not words")
        return Verdict("wrong", answer, "other text")
    _check_caps(answer)
    if _SEVERAL.search(answer) and not _SEVERAL.search(gold):
        raise Unparseable("several answers")
    return Symbolic(gold, answer)


def _check_caps(answer: str) -> None:
    """Refuse what would make sympy build something huge."""
    depth = deepest = 0
    for char in answer:
        depth += (char in "([{") - (char in ")]}")
        deepest = max(deepest, depth)
    if deepest > MAX_NESTING:
        raise Unparseable("nested too deeply")
    if _LONG_NUMBER.search(answer) or _TOWER.search(answer) or "!" in answer:
        raise Unparseable("too large")
    exponents = [int(digits) for digits in _EXPONENT.findall(answer)]
    if max(exponents, default=0) > MAX_EXPONENT or math.prod(exponents) > MAX_EXPONENT_PRODUCT:
        raise Unparseable("exponents too large")


# Choice.

_OPTION = re.compile(r"(?:[Oo]ption |[Cc]hoice |选项?|选择)? ?\(?([A-Z])(?:\)|\b)(?:[.:、)] ?(?P<rest>.*))?")
_LETTER = re.compile(r"(?<![A-Za-z])(?!I [a-z])[A-Z](?![A-Za-z])")


def _choice(text: str, solution: str) -> Verdict:
    whole = _one_answer(text)
    answer = whole if _OPTION.fullmatch(whole) else _without_lead_in(whole)
    if _LETTER.search(whole.removesuffix(answer)):
        raise Unparseable("several options")
    match = _OPTION.fullmatch(answer.upper() if len(answer) == 1 and answer.isascii() else answer)
    if match is None or _LETTER.search(match["rest"] or ""):
        raise Unparseable("not exactly one option")
    return Verdict("correct" if match[1] == solution.strip() else "wrong", match[1], "option")


# Expressions.

_ARITHMETIC = re.compile(r"[0-9+\-*/() ]+")
_OPERATORS: Final[dict[type[ast.operator], Callable[[Fraction, Fraction], Fraction]]] = {
    ast.Add: lambda left, right: left + right,
    ast.Sub: lambda left, right: left - right,
    ast.Mult: lambda left, right: left * right,
    ast.Div: lambda left, right: left / right,
}


def _expression(text: str, solution: str) -> Verdict:
    """`solution` is JSON: {"numbers": [...], "target": n}; each number is used exactly once."""
    gold = json.loads(solution)
    answer = _one_answer(text)
    written = answer.replace("\\times", "*").replace("\\cdot", "*").replace("\\div", "/")
    left, equals, right = written.partition("=")
    if not _ARITHMETIC.fullmatch(left) or left.count("(") > MAX_NESTING:
        raise Unparseable("not an arithmetic expression")
    used: list[int] = []
    try:
        value = _value(ast.parse(left.strip(), mode="eval").body, used)
    except (SyntaxError, ZeroDivisionError) as why:
        raise Unparseable(type(why).__name__) from why
    target = Fraction(str(gold["target"]))
    if equals and number(right.strip()) != target:
        return Verdict("wrong", answer, "states another result")
    if sorted(used) != sorted(gold["numbers"]):
        return Verdict("wrong", answer, "other numbers")
    return Verdict("correct" if value == target else "wrong", answer, f"value {value}")


def _value(node: ast.expr, used: list[int]) -> Fraction:
    if isinstance(node, ast.Constant) and type(node.value) is int and node.value < 10**MAX_DIGITS:
        used.append(node.value)
        return Fraction(node.value)
    if isinstance(node, ast.BinOp) and type(node.op) in _OPERATORS:
        left, right = _value(node.left, used), _value(node.right, used)
        return _OPERATORS[type(node.op)](left, right)
    raise Unparseable(f"{type(node).__name__} is not allowed")


# Code.

_FENCE = re.compile(r"```[ \t]*(python3?|py|cpp|[cC]\+\+)?[ \t]*\n(.*?)```", re.DOTALL)


def program_of(text: str) -> tuple[CodeLanguage, str]:
    """The last fenced block in Python, C++ or without a language, then Python; the whole text without a fence."""
    blocks: list[tuple[str, str]] = _FENCE.findall(text)
    if blocks:
        tag, code = blocks[-1]
        return "cpp" if tag.lower() in ("cpp", "c++") else "python", code
    if "```" in text:
        raise Unparseable("no Python or C++ block")
    return "python", text


def _code(text: str, solution: str) -> Program:
    tests = tuple(Test(test["input"], test["output"]) for test in json.loads(solution))
    if not tests:
        raise ValueError("a code problem without tests")
    language, code = program_of(text)
    return Program(code, language, tests)


def _run_program(item: Program, timeout_s: float, jail: Jail | None) -> Verdict:
    try:
        limits = _limits(timeout_s)
        outcomes = run(item.code, item.tests, item.language, limits, stop_at_failure=True, jail=jail)
    except SandboxError as why:
        return Verdict("infra_error", item.code, f"sandbox: {why}")
    last = outcomes[-1]
    if last.status == "passed":
        return Verdict("correct", item.code, f"{len(outcomes)} tests passed")
    reason = f"test {len(outcomes)} of {len(item.tests)}: {last.status} {last.detail}".rstrip()
    return Verdict("timeout" if last.status == "timeout" else "wrong", item.code, reason)


VERIFIERS: Final[dict[str, Callable[[str, str], Verdict | Pending]]] = {
    "math": _math,
    "choice": _choice,
    "code": _code,
    "expression": _expression,
}
