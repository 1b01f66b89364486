"""Problems and responses with the statistics of DeepSeek-R1's Table 5, before anything is planted in them.

Everything is a function of a seed and of the place of a row among the rows of its domain, so any row can be made
again alone, by any process.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from math import exp, log
from typing import Final

from benchmarks.prose import Prose
from data.prompts import ASSISTANT, END, USER

BYTES_A_TOKEN: Final = 3.4  # of UTF-8; 16 GB are 4.3 billion tokens in the paper's set, and 20 GB 6.4 billion here
MAX_TOKENS: Final = 32_768
SAMPLES: Final = (4, 4, 3, 4, 2, 4, 6, 3, 4, 4)  # of one problem after the other, again and again
CHINESE: Final = 0.3  # of the problems; the paper gives no share
SPREAD: Final = 0.6  # standard deviation of the logarithm of a length

_PLACES: Final = [(number, sample) for number, count in enumerate(SAMPLES) for sample in range(count)]


@dataclass(frozen=True, slots=True)
class Domain:
    """A line of the paper's table: samples of the set, mean tokens and rounds of one; and who judges it here."""

    samples: int
    tokens: float
    rounds: float
    verifier: str


DOMAINS: Final[Mapping[str, Domain]] = {
    "math": Domain(395_285, 6094.2, 1.0, "math"),
    "code": Domain(211_129, 7435.7, 1.1, "code"),
    "stem": Domain(10_124, 4928.8, 1.0, "choice"),
    "logic": Domain(10_395, 2739.0, 1.0, "math"),
    "general": Domain(177_812, 1419.8, 1.1, "judge"),
}


@dataclass(frozen=True, slots=True)
class Question:
    """A problem. `evaluation` questions are made of reserved sentences."""

    id: str
    domain: str
    language: str
    prompt: str
    solution: str
    rounds: int = 1


@dataclass(frozen=True, slots=True)
class Draft:
    """A response in parts: paragraphs of sentences, the summary, how it ended and what its judge said.

    `completion` is the whole text where it is not `<think>`, the paragraphs, `</think>` and the summary.
    """

    question: Question
    thinking: tuple[tuple[str, ...], ...]
    summary: str
    finish: str = "stop"
    verdict: str = "correct"
    detail: str = ""
    completion: str | None = None

    @property
    def text(self) -> str:
        """The completion."""
        if self.completion is not None:
            return self.completion
        space = " " if self.question.language == "en" else ""
        return f"<think>\n{chr(10).join(_with_breaks(self.thinking, space))}\n</think>\n\n{self.summary}"


def _with_breaks(paragraphs: Sequence[Sequence[str]], space: str) -> list[str]:
    return [f"{space.join(paragraph)}\n" for paragraph in paragraphs]


def place(index: int) -> tuple[int, int]:
    """(number of the problem, sample) of a row of a domain."""
    turn, rest = divmod(index, len(_PLACES))
    number, sample = _PLACES[rest]
    return turn * len(SAMPLES) + number, sample


def samples_of(number: int) -> int:
    """How many samples a problem has."""
    return SAMPLES[number % len(SAMPLES)]


def chance(*what: object) -> float:
    """A number from 0 to 1 that depends on what it is for, and on nothing else."""
    return int.from_bytes(blake2b(repr(what).encode(), digest_size=7).digest()) / 2**56


def dice(*what: object) -> random.Random:
    """A generator for one purpose."""
    return random.Random(int.from_bytes(blake2b(repr(what).encode(), digest_size=16).digest()))


def question(prose: Prose, seed: int, domain: str, number: int) -> Question:
    """The problem of this number."""
    rng = dice(seed, "question", domain, number)
    language = "zh" if rng.random() < CHINESE else "en"
    turns = 2 if rng.random() < DOMAINS[domain].rounds - 1 else 1
    prompts = [_prompt(prose, rng, domain, language) for _ in range(turns)]
    prompt = prompts[-1][0]
    if turns == 2:
        said = " ".join(rng.sample(prose.common[language], 3))
        prompt = f"{prompts[0][0]}{ASSISTANT}{said}{END}{USER}{prompt}"
    return Question(f"{domain}/{number:07d}", domain, language, prompt, prompts[-1][1], turns)


def _prompt(prose: Prose, rng: random.Random, domain: str, language: str) -> tuple[str, str]:
    """(prompt, solution)"""
    told = rng.sample(prose.common[language], 4)
    a, b, c = (rng.randrange(100, 10_000) for _ in range(3))
    english = language == "en"
    space = " " if english else ""
    if domain == "general":
        return space.join(told), told[0]
    if domain == "code":
        asked = f"Write a program for {a} and {b} items." if english else f"请为 {a} 和 {b} 个元素写一个程序。"
        return f"{space.join(told)}{space}{asked}", f'[{{"input": "{a} {b}", "output": "{a + b}"}}]'
    asked = f"What is {a} * {b} - {c}?" if english else f"{a} * {b} - {c} 是多少？"
    solution = "ABCD"[a % 4] if domain == "stem" else str(a * b - c)
    return f"{space.join(told)}{space}{asked}", solution


def respond(prose: Prose, seed: int, asked: Question, sample: int | str) -> Draft:
    """A response to a problem with nothing wrong about it."""
    rng = dice(seed, "draft", asked.id, sample)
    mean = DOMAINS[asked.domain].tokens
    drawn = exp(rng.gauss(log(mean) - SPREAD**2 / 2, SPREAD))
    return written(prose, rng, asked, min(max(drawn, 150), 0.97 * MAX_TOKENS))


def written(prose: Prose, rng: random.Random, asked: Question, tokens: float) -> Draft:
    """A response of about so many tokens."""
    summary = _summary(prose, rng, asked)
    room = tokens * BYTES_A_TOKEN - len(summary.encode()) - 30
    pool, counts = prose.common[asked.language], asked.domain != "general"
    paragraph = 3 * prose.mean_bytes[asked.language] + (29 if counts else 3)
    chosen = rng.sample(pool, min(max(3, 3 * round(room / paragraph)), len(pool)))
    parts = [chosen[start : start + 3] for start in range(0, len(chosen), 3)]
    if counts:
        parts = [[*part, arithmetic(rng, asked.language)] for part in parts]
    return Draft(asked, tuple(map(tuple, parts)), summary)


def arithmetic(rng: random.Random, language: str) -> str:
    """A sentence that computes something."""
    a, b = int(rng.random() * 9000) + 11, int(rng.random() * 900) + 7
    sign, value = rng.choice((("+", a + b), ("-", a - b), ("*", a * b)))
    return f"So {a} {sign} {b} = {value}." if language == "en" else f"所以 {a} {sign} {b} = {value}。"


def _summary(prose: Prose, rng: random.Random, asked: Question) -> str:
    english = asked.language == "en"
    said = (" " if english else "").join(rng.sample(prose.common[asked.language], 3))
    if asked.domain == "general":
        return said
    if asked.domain == "code":
        return f"{said}\n\n```python\n{rng.choice(prose.programs)}\n```"
    boxed = f"\\boxed{{{asked.solution}}}"
    return f"{said} The answer is {boxed}." if english else f"{said}答案是 {boxed}。"


def is_short(number: int) -> bool:
    """Whether the evaluation problem of this number is shorter than ten words or characters."""
    return number % 5 == 4


def evaluation(prose: Prose, seed: int, number: int) -> Question:
    """An evaluation problem and its reference solution, made of reserved sentences."""
    rng = dice(seed, "evaluation", number)
    language = ("en", "zh")[number % 2]
    space = " " if language == "en" else ""
    told, shown = (rng.sample(prose.reserved[language], 3) for _ in range(2))
    a, b = rng.randrange(100, 10_000), rng.randrange(100, 10_000)
    asked = f"Find the sum of {a} and {b}." if language == "en" else f"求 {a} 与 {b} 的和。"
    prompt = asked if is_short(number) else space.join([*told, asked])
    solution = space.join([*shown, f"\\boxed{{{a + b}}}"])
    return Question(f"evaluation/{number:05d}", "math", language, prompt, solution)
