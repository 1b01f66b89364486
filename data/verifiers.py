"""Text -> verdict: mathematics, choice, code, arithmetic expressions, reasoning-gym (DeepSeek-R1, 2.2).

The answer counts only where the template asks for it (`data.prompts.parse`); `data.answers` reads it. Numbers
are compared as exact fractions; a number must be given as a number, so a sum left to the verifier ("398 - 7")
is wrong. Only answers to a gold that is no number may reach sympy, behind caps and in a process that can be
killed; a gold of words or spaced letters ("C A B D") never does, since sympy would take it for a product and
any order for the same. reasoning-gym's own scorers run in such processes too.

What a problem's `solution` holds: for `choice` a letter, or JSON `{"answer": "B", "options": {"A": text, ...}}`;
for `code` a JSON list of `{"input", "output"}`; for `expression` JSON `{"numbers", "target"}`; for
`reasoning_gym:<family>` JSON `{"answer", "metadata"}`; for `judge` the ground truth in words.

A verdict of `infra_error` says nothing about the answer: the machinery failed, or the gold answer is broken.
"""

from __future__ import annotations

import ast
import json
import re
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from fractions import Fraction
from types import TracebackType
from typing import Final, Protocol

from data import gym, mathematics, workers
from data.answers import (
    MAX_DIGITS,
    MAX_LENGTH,
    MAX_NESTING,
    Unparseable,
    boxes,
    check_caps,
    normal,
    number,
    one_answer,
    without_lead_in,
)
from data.mathematics import Symbolic
from data.prompts import Template, parse
from data.records import Problem, Verdict
from data.sandbox import CodeLanguage, Isolation, Jail, Limits, SandboxError, Test, choose, run

MAX_GYM_LENGTH: Final = 20_000  # characters of an answer to a reasoning-gym problem, which may be a grid
GYM: Final = "reasoning_gym"


@dataclass(frozen=True, slots=True)
class Program:
    """A program that has to be run."""

    code: str
    language: CodeLanguage
    tests: tuple[Test, ...]


@dataclass(frozen=True, slots=True)
class Gym:
    """An answer for a scorer of reasoning-gym; `item` is JSON."""

    family: str
    answer: str
    item: str


@dataclass(frozen=True, slots=True)
class Opinion:
    """An answer that only a language model can hold against the ground truth."""

    question: str
    truth: str
    prediction: str


Pending = Symbolic | Program | Gym | Opinion


class Judge(Protocol):
    """A language model as verifier (`data.judge`)."""

    def verdict(self, question: str, truth: str, prediction: str) -> Verdict:
        """Hold a prediction against the ground truth; infra_error where the model does not answer."""
        ...


def verify(problem: Problem, response: str, template: Template, timeout_s: float = 5.0) -> Verdict:
    """Judge one response. Raises ValueError for a verifier that is unknown or has no rule."""
    return verify_all([(problem, response)], template, workers=1, timeout_s=timeout_s)[0]


def verify_all(
    jobs: Sequence[tuple[Problem, str]],
    template: Template,
    *,
    workers: int = 2,
    timeout_s: float = 5.0,
    isolation: Isolation | None = None,
) -> list[Verdict]:
    """Judge many responses, in order.

    Programs run in the strongest isolation that the host has when none is given. Raises ValueError where one is to
    be run and `isolation` is "none".
    """
    with Verifier(workers=workers, timeout_s=timeout_s, isolation=isolation) as verifier:
        futures = [verifier.submit(problem, response, template) for problem, response in jobs]
        return verifier.wait(futures)


class Verifier:
    """Judges responses as they come, in `workers` threads beside the caller's.

    What an exact comparison decides is decided at once; what needs a process is done once for equal work.
    `timeout_s` is for one comparison or one test, from the start of its work. Programs run in the strongest
    isolation that the host has when none is given. `work_s` is the time that judging took, summed over the
    threads, and `wait_s` what of it `wait` has seen: the rest went by beside other work. Leaving the context
    drops what nobody has waited for.
    """

    def __init__(
        self,
        *,
        workers: int = 2,
        timeout_s: float = 5.0,
        isolation: Isolation | None = None,
        judge: Judge | None = None,
    ) -> None:
        self.work_s = self.wait_s = 0.0
        self._timeout_s, self._isolation, self._judge = timeout_s, isolation, judge
        self._threads = ThreadPoolExecutor(workers, "verdict")
        self._decided: dict[Pending, Future[Verdict]] = {}
        self._jails: list[Jail] = []
        self._idle_jails: list[Jail] = []
        self._lock = threading.Lock()

    def __enter__(self) -> Verifier:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._threads.shutdown(cancel_futures=True)
        for jail in self._jails:
            jail.close()

    def submit(self, problem: Problem, response: str, template: Template) -> Future[Verdict]:
        """Begin to judge a response. Raises ValueError for a verifier that is unknown or cannot be had here."""
        begun = time.perf_counter()
        first = _judge(problem, response, template)
        if isinstance(first, Verdict):
            future: Future[Verdict] = Future()
            future.set_result(first)
        else:
            if isinstance(first, Opinion) and self._judge is None:
                raise ValueError("the verifier 'judge' needs a judge, and none is given")
            known = self._decided.get(first)
            future = known or self._threads.submit(self._decide, first)
            self._decided[first] = future
        self._worked(begun)
        return future

    def wait(self, futures: Iterable[Future[Verdict]]) -> list[Verdict]:
        """The verdicts, once all are there."""
        begun = time.perf_counter()
        verdicts = [future.result() for future in futures]
        self.wait_s += time.perf_counter() - begun
        return verdicts

    def _decide(self, item: Pending) -> Verdict:
        begun = time.perf_counter()
        try:
            match item:
                case Program():
                    return self._run(item)
                case Opinion():
                    assert self._judge is not None
                    return self._judge.verdict(item.question, item.truth, item.prediction)
                case _:
                    return _found(item, self._timeout_s)
        finally:
            self._worked(begun)

    def _worked(self, begun: float) -> None:
        with self._lock:
            self.work_s += time.perf_counter() - begun

    def _run(self, item: Program) -> Verdict:
        with self._lock:
            if not self._idle_jails:
                isolation = self._isolation or choose(allow_rlimit=True)
                self._idle_jails.append(Jail(_limits(self._timeout_s), isolation))
                self._jails.append(self._idle_jails[-1])
            jail = self._idle_jails.pop()
        try:
            return _run_program(item, jail)
        finally:
            with self._lock:
                self._idle_jails.append(jail)


def _limits(timeout_s: float) -> Limits:
    """Processor time is the limit; the wall limit is wider, for a machine that is busy with other things."""
    compile_cpu_s = max(2, round(2 * timeout_s))
    return Limits(cpu_s=max(1, round(timeout_s)), wall_s=2 * timeout_s, compile_cpu_s=compile_cpu_s)


def _judge(problem: Problem, response: str, template: Template) -> Verdict | Pending:
    name, _, family = problem.verifier.partition(":")
    rule = VERIFIERS.get(name)
    if rule is None or bool(family) != (name == GYM):
        raise ValueError(f"unknown verifier {problem.verifier!r}; allowed: {', '.join(VERIFIERS)}")
    text = parse(response, template).answer
    if text is None:
        return Verdict("unparseable", None, "malformed")
    try:
        return rule(text, problem)
    except Unparseable as why:
        return Verdict("unparseable", text[:MAX_LENGTH], str(why))


def _found(item: Symbolic | Gym, timeout_s: float) -> Verdict:
    if isinstance(item, Symbolic):
        by, found = "sympy", workers.compare(item.gold, item.answer, timeout_s)
    else:
        by, found = item.family, workers.score(item.family, item.answer, json.loads(item.item), timeout_s)
    answer = item.answer[:MAX_LENGTH]
    match found:
        case "equal":
            return Verdict("correct", answer, f"equal by {by}")
        case "different":
            return Verdict("wrong", answer, f"different by {by}")
        case "timeout":
            return Verdict("timeout", answer, f"no comparison within {timeout_s} s")
        case "unparseable":
            return Verdict("unparseable", answer, "not an expression" if by == "sympy" else f"nothing that {by} reads")
        case "deadly":
            return Verdict("unparseable", answer, f"ends the process of {by}")
        case "gold_unparseable" | "broken":
            return Verdict("infra_error", answer, f"{by}: {found}")


# Choice.

_OPTION = re.compile(r"(?:[Oo]ption |[Cc]hoice |选项?|选择)? ?\(?([A-Z])(?:\)|\b)(?:[.:、)] ?(?P<rest>.*))?")
_TAIL = re.compile(
    r"(?<=[A-Z)*项]) ?(?:选?项|(?:是|为)?(?:正确|对)的?(?:选项|答案)?"
    r"|is (?:the |my )?(?:final )?(?:(?:correct|right|true)(?: (?:one|option|choice|answer))?|answer))$"
)
_LETTER = re.compile(r"(?<![A-Za-z])(?!I [a-z])[A-Z](?![A-Za-z])")


def _choice(text: str, problem: Problem) -> Verdict:
    gold, options = _options(problem.solution)
    whole = one_answer(text)
    while tail := _TAIL.search(whole):
        whole = whole[: tail.start()]
    answer = without_lead_in(whole, until=_OPTION)
    if _LETTER.search(whole.removesuffix(answer)):
        raise Unparseable("several options")
    answer = normal(answer)
    match = _OPTION.fullmatch(answer.upper() if len(answer) == 1 and answer.isascii() else answer)
    named = [letter for letter, option in options.items() if answer.casefold() == option]
    if len(named) == 1 and not (match and match["rest"] is None):
        return Verdict("correct" if named[0] == gold else "wrong", named[0], "text of an option")
    if match is None or _LETTER.search(match["rest"] or ""):
        raise Unparseable("not exactly one option")
    said = (match["rest"] or "").casefold()
    if any(option == said and letter != match[1] for letter, option in options.items()):
        raise Unparseable("letter and text of two options")
    return Verdict("correct" if match[1] == gold else "wrong", match[1], "option")


def _options(solution: str) -> tuple[str, dict[str, str]]:
    """The right letter, and the options' texts as answers are normalised, where the problem has them."""
    if not solution.startswith("{"):
        return solution.strip(), {}
    gold = json.loads(solution)
    return gold["answer"], {letter: normal(text).casefold() for letter, text in gold["options"].items()}


# Expressions.

_ARITHMETIC = re.compile(r"[0-9+\-*/() ]+")
_OPERATORS: Final[dict[type[ast.operator], Callable[[Fraction, Fraction], Fraction]]] = {
    ast.Add: lambda left, right: left + right,
    ast.Sub: lambda left, right: left - right,
    ast.Mult: lambda left, right: left * right,
    ast.Div: lambda left, right: left / right,
}


def _expression(text: str, problem: Problem) -> Verdict:
    """Each number of the problem is used exactly once."""
    gold = json.loads(problem.solution)
    answer = one_answer(text)
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


# reasoning-gym.

_PARSED: Final = frozenset(
    ("countdown", "intermediate_integration", "polynomial_multiplication", "puzzle24", "simple_integration")
)
_EVALUATED: Final = _PARSED | {"binary_matrix", "n_queens", "spiral_matrix", "string_insertion"}
"""Families whose scorers evaluate an answer as Python, some of them by sympy's parser."""
_NAME = re.compile(r"[^\W\d]\w*")
_HARMLESS = re.compile(r"_|[A-Z]+|[A-Za-z][0-9]*|a?(?:sin|cos|tan|cot|sec|csc)h?|exp|log|ln|sqrt|pi|Abs")
_ATTRIBUTE = re.compile(r"\.\s*[^\W\d]|\\")


def _gym(text: str, problem: Problem) -> Verdict | Gym:
    family = problem.verifier.partition(":")[2]
    answer = (boxes(text) or [text])[-1].strip()
    if len(answer) > MAX_GYM_LENGTH:
        raise Unparseable("too long")
    if family in _EVALUATED and (
        _ATTRIBUTE.search(answer) or not all(_HARMLESS.fullmatch(name) for name in _NAME.findall(answer))
    ):
        raise Unparseable("nothing that may be evaluated")
    if family in _PARSED:
        check_caps(answer)
    if why := gym.check(family, answer, json.loads(problem.solution)):
        return Verdict("wrong", answer[:MAX_LENGTH], why)
    return Gym(family, answer, problem.solution)


# Code.

_FENCE_OR_LINE = re.compile(r"```|\n")
_TAG = re.compile(r"[ \t]*([\w+#.-]*)")
_LANGUAGES: Final[dict[str, CodeLanguage]] = {
    **dict.fromkeys(("", "python", "python3", "py"), "python"),
    **dict.fromkeys(("cpp", "c++", "cc", "cxx"), "cpp"),
}
"""The language that the tag of a fence names."""


def program_of(text: str) -> tuple[str, CodeLanguage]:
    """(code, language) of the last fenced block in a known language, of the whole text when it has no fence."""
    blocks = [(code, _LANGUAGES.get(tag.lower())) for tag, code in _fenced(text)]
    known = [(code, language) for code, language in blocks if language]
    if known:
        return known[-1]
    if "```" in text:
        raise Unparseable("no Python or C++ block")
    return text, "python"


def _fenced(text: str) -> Iterator[tuple[str, str]]:
    """(tag, code) of each fenced block: a fence with a line of its own to open it, up to the next. Linear."""
    head = begun = -1  # where the tag and the code begin
    for found in _FENCE_OR_LINE.finditer(text):
        if found[0] == "\n":
            begun = found.end() if begun < 0 <= head else begun
        elif head < 0:
            head = found.end()
        else:
            tag = _TAG.match(text, head)
            if begun >= 0 and tag:
                yield tag[1], text[begun : found.start()]
            head = begun = -1


def _code(text: str, problem: Problem) -> Program:
    tests = tuple(Test(test["input"], test["output"]) for test in json.loads(problem.solution))
    if not tests:
        raise ValueError("a code problem without tests")
    return Program(*program_of(text), tests)


def _run_program(item: Program, jail: Jail) -> Verdict:
    try:
        outcomes = run(item.code, item.tests, item.language, stop_at_failure=True, jail=jail)
    except SandboxError as why:
        return Verdict("infra_error", item.code, f"sandbox: {why}")
    last = outcomes[-1]
    if last.status == "passed":
        return Verdict("correct", item.code, f"{len(outcomes)} tests passed")
    reason = f"test {len(outcomes)} of {len(item.tests)}: {last.status} {last.detail}".rstrip()
    return Verdict("timeout" if last.status == "timeout" else "wrong", item.code, reason)


# Judge.


def _opinion(text: str, problem: Problem) -> Opinion:
    return Opinion(problem.prompt, problem.solution, text)


VERIFIERS: Final[dict[str, Callable[[str, Problem], Verdict | Pending]]] = {
    "math": mathematics.judge,
    "choice": _choice,
    "code": _code,
    "expression": _expression,
    GYM: _gym,
    "judge": _opinion,
}
"""Rules by the name before the colon of a problem's verifier."""
