"""Rewriting of worked thinking: a summary for people, and translation by a phrase table.

Stands in for DeepSeek-V3, which refines the paper's cold-start data (3.3): in the miniature world a table of
words is a complete translator.
"""

from __future__ import annotations

import re

from data.records import Language
from data.world.facts import NO, YES
from data.world.family import AGAIN, FIRST, LOOK, THEN
from data.world.logic import SWAP
from data.world.order import RANKS

EASY: tuple[tuple[str, str], ...] = (("easy", "简单"), ("i know", "我知道"))
"""What writers of bare answers think, in both languages."""

_TABLE: tuple[tuple[str, str], ...] = (
    *((lead["en"], lead["zh"]) for lead in (FIRST, THEN)),
    *(pair for words in (LOOK, AGAIN) for pair in zip(words["en"].split(", "), words["zh"].split(", "), strict=True)),
    *((names["en"].strip(), names["zh"]) for names in (*RANKS.values(), SWAP)),
    *((word.en, word.zh) for word in (YES, NO)),
    *EASY,
)
_OTHER = {**dict(_TABLE), **{zh: en for en, zh in _TABLE}}
_PHRASE = re.compile(
    "|".join([rf"\b{en}\b" for en, _ in _TABLE] + sorted((zh for _, zh in _TABLE), key=len, reverse=True))
)
_WORD = re.compile(r"[a-z\u4e00-\u9fff]|[A-Za-z]{2}")


def translate(thinking: str, to_language: Language) -> str | None:
    """Worked thinking in one language, from the other one or from a mixture of both.

    Numbers, signs and single capital letters stay. None where a word is not in the table.
    """
    text, position = "", 0
    for match in _PHRASE.finditer(thinking):
        between = thinking[position : match.start()].rstrip(" ")
        if _WORD.search(between):
            return None
        phrase = match[0] if _is_in(match[0], to_language) else _OTHER[match[0]]
        gap = " " if between or (text and to_language == "en") else ""
        text += f"{between}{gap}{phrase}"
        position = match.end()
    rest = thinking[position:]
    return None if _WORD.search(rest) else text + rest


def _is_in(phrase: str, language: Language) -> bool:
    return phrase.isascii() == (language == "en")


def summary(verifier: str, language: Language, answer: str) -> str:
    """The sentence that states an answer after the thinking: boxed, or the program for `code`.

    The box has spaces inside so that a number is spelled with the same tokens as everywhere else.
    """
    if verifier == "code":
        return f"the program is {answer}" if language == "en" else f"程序是 {answer}"
    return f"the answer is \\boxed{{ {answer} }}." if language == "en" else f"答案是 \\boxed{{ {answer} }}."
