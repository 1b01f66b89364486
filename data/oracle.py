"""The process that decides what only math-verify or reasoning-gym can: a script for `data.workers`.

A child of it answers one question at a time, a line of JSON each way. The child is killed at the deadline, which
costs a fork and not the import of sympy; a kernel alarm ends it soon after even if nobody is left to kill it.
Some of reasoning-gym's scorers, and sympy's parser, evaluate an answer as Python: so the child cannot write,
start, connect or load.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import re
import resource
import signal
import sys
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

_PDEATHSIG = 1  # prctl(2)
MEMORY_BYTES = 2 << 30
_GRACE_S = 1.0  # the alarm comes this much after the deadline
_FORBIDDEN = (
    *("os.exec", "os.fork", "os.kill", "os.posix_spawn", "os.spawn", "os.startfile", "os.system", "pty."),
    *("os.chmod", "os.chown", "os.link", "os.mkdir", "os.remove", "os.rename", "os.rmdir", "os.symlink", "os.truncate"),
    *("os.putenv", "os.unsetenv", "shutil.", "subprocess.", "tempfile."),
    *("socket.", "urllib.", "http.", "ftplib.", "smtplib.", "ctypes.", "syslog.", "fcntl."),
)
"""Beginnings of the names of Python's audit events that an answer must not cause."""
_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
_TUPLES = frozenset({"arc_agi", "rearc"})
"""Families whose scorers compare grids of tuples, which JSON turns into lists."""


_DECIMAL = re.compile(r"([0-9]+)\.([0-9]+)|(?<![0-9])\.([0-9]+)")
_PRECISION = 60  # digits, twice those that a number in an answer may have


def exact(text: str) -> str:
    """A formula with its decimals as fractions: math-verify rounds decimals, and "3.141593" is not pi."""

    def fraction(found: re.Match[str]) -> str:
        part = found[2] or found[3]
        return rf"{{\frac{{{found[1] or ''}{part}}}{{1{'0' * len(part)}}}}}"

    return _DECIMAL.sub(fraction, text)


def equality(gold: str, answer: str) -> str:
    """Whether two LaTeX expressions are equal: equal, different, unparseable, or gold_unparseable."""
    from math_verify import LatexExtractionConfig, parse, verify

    latex = [LatexExtractionConfig()]
    sides = [
        list(map(_plain, parse(rf"\boxed{{{exact(text)}}}", latex, fallback_mode="no_fallback", parsing_timeout=None)))
        for text in (gold, answer)
    ]
    if not sides[0]:
        return "gold_unparseable"
    if not sides[1]:
        return "unparseable"
    return "equal" if verify(sides[0], sides[1], numeric_precision=_PRECISION, timeout_seconds=None) else "different"


def _plain(expression: Any) -> Any:
    """An expression whose names say nothing but themselves: math-verify takes the i of `2 \\cdot i` for no real one."""
    from sympy import Basic, Symbol  # type: ignore[import-untyped, unused-ignore]

    if not isinstance(expression, Basic):
        return expression
    return expression.xreplace({each: Symbol(each.name, real=True) for each in expression.free_symbols})


def scored(family: str, answer: str, item: dict[str, Any]) -> str:
    """What the family's own scorer says of an answer: equal where it gives 1, different where it gives less.

    `item` has the `answer` and `metadata` of a reasoning-gym item. Where its own answer cannot be scored
    either, the fault is not the answer's: gold_unparseable. Where it gives 1 to what says nothing too, the answer must
    be the gold one.
    """
    entry = item | {"metadata": _tuples(item["metadata"])} if family in _TUPLES else item
    try:
        taken = _scorer(family)(answer, entry) >= 1 and (not _takes_all(family, entry) or _same(answer, item["answer"]))
        return "equal" if taken else "different"
    except Exception:
        if item["answer"] is not None:
            try:
                _scorer(family)(item["answer"], entry)
            except Exception:
                return "gold_unparseable"
        return "unparseable"


def _takes_all(family: str, entry: dict[str, Any]) -> bool:
    return any(_taken(family, nothing, entry) for nothing in ("?", "{}"))


def _taken(family: str, answer: str, entry: dict[str, Any]) -> bool:
    try:
        return _scorer(family)(answer, entry) >= 1
    except Exception:
        return False


def _same(answer: str, gold: str) -> bool:
    return answer.strip().casefold() == gold.strip().casefold()


@cache
def _scorer(family: str) -> Callable[[str, dict[str, Any]], float]:
    from reasoning_gym.factory import get_score_answer_fn

    if family == "composite":  # a mixture, whose items name the family that scores them
        return lambda answer, entry: _scorer(entry["metadata"]["source_dataset"])(answer, entry)
    scorer: Callable[[str, dict[str, Any]], float] = get_score_answer_fn(family)
    return scorer


def _tuples(value: Any) -> Any:
    if isinstance(value, list):
        return tuple(map(_tuples, value))
    return {key: _tuples(each) for key, each in value.items()} if isinstance(value, dict) else value


def _guard(event: str, arguments: tuple[Any, ...]) -> None:
    if event.startswith(_FORBIDDEN) or (event == "open" and isinstance(arguments[2], int) and arguments[2] & _WRITING):
        raise PermissionError(event)


def _confine() -> None:
    ctypes.CDLL(None).prctl(_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    for limit, value in ((resource.RLIMIT_AS, MEMORY_BYTES), (resource.RLIMIT_CORE, 0), (resource.RLIMIT_FSIZE, 0)):
        resource.setrlimit(limit, (value, value))
    sys.addaudithook(_guard)


_DECIDE: dict[str, Callable[..., str]] = {"math": equality, "reasoning_gym": scored}
_FIRST: dict[str, Sequence[tuple[Any, ...]]] = {
    "math": (
        (r"\frac{2x+2}{2}", "1+x"),
        (r"\sqrt{x}+\pi\cdot(y-1)^{2}", r"\pi(y-1)^2+x^{1/2}"),
        ("(1,2)", r"\{2,1\}"),
        (r"x\leq 3", r"(-\infty,3]"),
        (r"\sin x=0.5", r"\sin(x)=\frac{1}{2}"),
    ),
    "reasoning_gym": (("countdown", "1 + x", {"answer": "1", "metadata": {}}),),
}
"""Questions of each kind that load its libraries and fill the tables of its parser, before any child is forked."""


def _serve(decide: Callable[..., str], replies: int) -> None:
    """Answer questions from standard input until it ends."""
    _confine()
    os.write(replies, f"ready {os.getpid()}\n".encode())
    for line in sys.stdin:
        timeout_s, question = json.loads(line)
        signal.setitimer(signal.ITIMER_REAL, timeout_s + _GRACE_S)
        try:
            found = decide(*question)
        except (Exception, RecursionError, MemoryError):
            found = "unparseable"
        signal.setitimer(signal.ITIMER_REAL, 0)
        os.write(replies, json.dumps(found).encode() + b"\n")


def main(kind: str) -> None:
    """Load the libraries once, and fork a child that answers; another one whenever it is killed."""
    replies = os.dup(1)
    os.dup2(2, 1)  # whatever the libraries print
    decide = _DECIDE[kind]
    for question in _FIRST[kind]:
        decide(*question)
    while True:
        child = os.fork()
        if not child:
            with contextlib.suppress(BrokenPipeError):  # nobody asks any more
                _serve(decide, replies)
            os._exit(0)
        _, status = os.waitpid(child, 0)
        if status == 0:
            return


if __name__ == "__main__":
    main(sys.argv[1])
