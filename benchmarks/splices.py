"""Passages of translated documents, clean ones and ones with a sentence, clause or word of the other language.

What is spliced comes from the very paragraph's other side, so topic and style are the same. It has no code in
it, and is language by its looks: mostly lower case where the script has case.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from benchmarks.translations import Document, sentences

KINDS: Final = ("sentence", "clause", "word")
PASSAGE: Final = {"zh": 300, "ja": 350}  # characters; 800 in languages with spaces

_CLAUSE_END = re.compile(r"(?<=[,;:])\s+|(?<=[，；：、])")
_INSIDE = re.compile(r"(?<=\w) (?=\w)|(?<=[\u3041-\u9fff])(?=[\u3041-\u9fff])")
_WORD = re.compile(r"[^\W\d_]+")
_QUOTED = re.compile(r"[`\"“”„«»「」『』《》()（）\[\]<>/=@_]")
_CODE = re.compile(r"```.*?```|`[^`]*`", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Passage:
    """Text that should be in `target`, and the paragraphs of the other language that say the same."""

    document: str
    target: str
    blocks: tuple[str, ...]
    other: tuple[str, ...]

    @property
    def text(self) -> str:
        return "\n\n".join(self.blocks)


def passages(document: Document, target: str) -> Iterator[Passage]:
    """Consecutive paragraphs, code among them, up to a length; `target` is "en" or the document's language."""
    blocks: list[str] = []
    other: list[str] = []
    for pair in document.pairs:
        own, foreign = (pair.english, pair.translated) if target == "en" else (pair.translated, pair.english)
        blocks.append(own)
        other.append("" if pair.code else foreign)
        if sum(map(len, (block for block, said in zip(blocks, other, strict=True) if said))) >= PASSAGE.get(
            target, 800
        ):
            yield Passage(document.name, target, tuple(blocks), tuple(other))
            blocks, other = [], []


def splice(passage: Passage, kind: str, source: str, seed: int) -> str | None:
    """The passage with a `kind` in the language `source` somewhere in its prose; None where none fits."""
    rng = random.Random(f"{seed} {passage.document} {kind} {passage.blocks[0]}")
    places = [index for index, said in enumerate(passage.other) if said]
    candidates = [(index, part) for index in places for part in _parts(passage.other[index], kind, source)]
    if not candidates:
        return None
    index, part = rng.choice(candidates)
    if len(part) > 2 and part in passage.text:
        return None
    blocks = list(passage.blocks)
    blocks[index] = _insert(blocks[index], part, kind, rng)
    return "\n\n".join(blocks)


def with_names(passage: Passage, names: Sequence[str], seed: int) -> str:
    """The passage with two people named in it, each in another paragraph where there are."""
    rng = random.Random(f"{seed} {passage.document} {passage.blocks[0]}")
    blocks = list(passage.blocks)
    places = [index for index, said in enumerate(passage.other) if said]
    for index in rng.sample(places, min(2, len(places))):
        blocks[index] = _insert(blocks[index], rng.choice(names), "word", rng)
    return "\n\n".join(blocks)


def _parts(text: str, kind: str, source: str) -> list[str]:
    whole = [part for part in sentences(text) if not _QUOTED.search(part)]
    if kind == "sentence":
        return [part for part in whole if _size(part, source) >= 6 and _is_prose(part)]
    clauses = [part.strip(" ,;:，；：、.。") for sentence in whole for part in _clauses(sentence)]
    if kind == "clause":
        return [part for part in clauses if 4 <= _size(part, source) <= 8 and _is_prose(part)]
    if source in PASSAGE:
        return [word for part in clauses for word in re.findall(r"[\u3041-\u9fff]+", part) if 2 <= len(word) <= 4]
    return [
        word
        for part in clauses
        if _is_prose(part)
        for word in _WORD.findall(part)[1:]
        if len(word) > 3 and word.islower()
    ]


def _clauses(sentence: str) -> Sequence[str]:
    parts = _CLAUSE_END.split(sentence)
    return parts if len(parts) > 1 else []


def _size(text: str, language: str) -> float:
    """Words; two characters are one in Chinese and Japanese."""
    if language in PASSAGE:
        return len(re.findall(r"[\u3041-\u9fff]", text)) / 2
    return sum(len(word) > 1 and not word.isupper() for word in _WORD.findall(text))


def _is_prose(text: str) -> bool:
    words = _WORD.findall(text)
    return sum(word[0].isupper() for word in words) <= len(words) / 4


def _insert(block: str, part: str, kind: str, rng: random.Random) -> str:
    if kind == "sentence":
        parts = sentences(block)
        at = rng.randrange(len(parts) + 1)
        return " ".join([*parts[:at], part, *parts[at:]])
    code = [match.span() for match in _CODE.finditer(block)]
    ends = _CLAUSE_END if kind == "clause" else _INSIDE
    places = [m.end() for m in ends.finditer(block) if not any(start < m.end() < end for start, end in code)]
    at = rng.choice(places or [len(block)])
    mark = ", " if kind == "clause" else " "
    return block[:at].rstrip() + f" {part}{mark}" + block[at:].lstrip()
