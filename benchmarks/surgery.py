"""How responses are taken apart and put together again: what defects and near misses have in common."""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Final

from benchmarks.drafts import Draft, Question
from benchmarks.prose import UNIT, Prose, units

LONG: Final = 300  # words, numbers and Han characters that a paragraph may have
LINES: Final = 3  # how often a line may stand
DIGITS: Final = re.compile(r"\d+")
_CLAUSE = {"en": re.compile(r"(?<=[,;:]) "), "zh": re.compile(r"(?<=[，；：、])")}
WORD = {"en": re.compile(r"(?<= )[a-z]{4,10}(?= )"), "zh": re.compile(r"[\u4e00-\u9fff]")}
_MARKS = re.compile(r"[`\"“”‘’「」『』《》()（）\[\]<>«»*$\\_/=]")
NUMBERS = re.compile(
    r"\d|\b(?:one|two|three|four|five|six|seven|eight|nine|ten|zero|half|no|not|first|second|third)\b"
    r"|[零〇一二两三四五六七八九十百千万亿半]|(?<![^\W\d_])[b-hj-z](?![^\W\d_])|[+*/=<>×÷−]|(?<![a-z])-|-(?![a-z])",
    re.IGNORECASE,
)
"""Numbers, numerals, variables and signs: texts that differ in one are no duplicates."""
COMMON = (
    *("then", "because", "first", "check", "again", "with"),
    *("number", "after", "result", "however", "same", "every"),
)
NAMES = {"en": ("王小明", "李华", "北京"), "zh": ("Alice", "GitHub", "New York", "Python", "Debian")}


@dataclass(slots=True)
class Bench:
    """What a defect is made with: the sentences, a generator, evaluation problems, the response it takes after."""

    prose: Prose
    rng: random.Random
    examined: Callable[[], Sequence[Question]]  # in the response's language, longer than an n-gram
    model: Draft | None = None

    def other(self, draft: Draft) -> str:
        """A sentence of the other language, without marks."""
        return self.plain("zh" if draft.question.language == "en" else "en")

    def plain(self, language: str) -> str:
        """A sentence without quotations, brackets or code."""
        while True:
            sentence = self.rng.choice(self.prose.common[language])
            if not _MARKS.search(sentence) and len(units(sentence)) >= 8:
                return sentence


Change = Callable[[Draft, Bench], Draft]


def other_numbers(text: str, rng: random.Random) -> str:
    """The text with its first number changed."""
    return DIGITS.sub(lambda match: str(int(match[0]) + rng.randrange(1, 90)), text, count=1)


def model_of(bench: Bench) -> Draft:
    assert bench.model is not None
    return bench.model


def size_of(draft: Draft) -> int:
    return len(units(draft.text))


def cut(text: str, rng: random.Random, least: int, most: int) -> str:
    """So many words, numbers or characters of a text in a row."""
    spans = [match.span() for match in UNIT.finditer(text)]
    count = min(rng.randint(least, most), len(spans))
    start = rng.randrange(len(spans) - count + 1)
    return text[spans[start][0] : spans[start + count - 1][1]]


def halves(sentence: str, language: str) -> tuple[str, str]:
    """A sentence taken apart at a comma, or in the middle."""
    parts = _CLAUSE[language].split(sentence, maxsplit=1)
    if len(parts) == 2:
        return parts[0].rstrip(",;:，；：、"), parts[1]
    spans = [match.span() for match in UNIT.finditer(sentence)]
    middle = spans[len(spans) // 2][0]
    return sentence[:middle].rstrip(), sentence[middle:]


def with_word(sentence: str, language: str) -> str:
    """A sentence with a word at its start that it had not."""
    return f"Indeed {sentence}" if language == "en" else f"确实{sentence}"


def with_sentence(draft: Draft, bench: Bench, sentence: str) -> Draft:
    place = bench.rng.randrange(len(draft.thinking))
    paragraph = list(draft.thinking[place])
    paragraph.insert(bench.rng.randrange(len(paragraph) + 1), sentence)
    return replace(draft, thinking=(*draft.thinking[:place], tuple(paragraph), *draft.thinking[place + 1 :]))


def with_paragraph(draft: Draft, bench: Bench, paragraph: tuple[str, ...]) -> Draft:
    return with_paragraphs(draft, [paragraph], at=bench.rng.randrange(len(draft.thinking) + 1))


def with_paragraphs(draft: Draft, paragraphs: Sequence[tuple[str, ...]], at: int) -> Draft:
    return replace(draft, thinking=(*draft.thinking[:at], *paragraphs, *draft.thinking[at:]))


def paragraph_of(draft: Draft, bench: Bench, size: int, below: int | None = None) -> tuple[str, ...]:
    """Sentences of `size` words or more together, and of fewer than `below`."""
    chosen, have = [], 0
    for sentence in bench.rng.sample(
        bench.prose.common[draft.question.language], min(400, len(bench.prose.common[draft.question.language]))
    ):
        count = len(units(sentence))
        if have >= size:
            break
        if below is None or have + count < below:
            chosen.append(sentence)
            have += count
    return tuple(chosen)


def disguised(text: str, rng: random.Random) -> str:
    """The same words with other case, punctuation and spaces."""
    return rng.choice((str.upper, str.lower, str))(text).replace(" ", rng.choice((" ", "  ", ", ", "\n")))
