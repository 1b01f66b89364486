"""Sentences and programs that people wrote, from packages: what benchmarks put together into trajectories.

English and Chinese sentences come from LibreOffice's help and from manuals and catalogues (`translations.py`),
English ones also from what SymPy's docstrings say of mathematics, programs from Python's standard library. A
sentence is taken where it holds no letter of the other script and no identifier or formula outside of marked code,
so no detector decides what is clean.

A part of the sentences is reserved for evaluation problems: those that share no five units in a row with any
other text, so that no passage put together from the others holds ten units of an evaluation problem by chance.

Licences: MPL, GFDL, CC-BY-SA, GPL, BSD and PSF, as the packages say. Nothing of them is kept but in `build/`.
"""

from __future__ import annotations

import ast
import re
import sysconfig
import zlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import sympy

from benchmarks import translations

CACHE = Path("build/prose")
DEBIAN = ("libreoffice-help-en-us", "libreoffice-help-zh-cn")
SHARED = 5  # units in a row that no reserved sentence shares

UNIT = re.compile(r"[\u3400-\u9fff]|[0-9]+(?:\.[0-9]+)?|(?:(?![\u3400-\u9fff])[^\W\d_])+")
"""A word, a number or a Han character."""

_PAGES = {"en": "en-US", "zh": "zh-CN"}
_LENGTH = {"en": range(30, 241), "zh": range(10, 121)}  # characters
_END = {"en": (".", "!", "?"), "zh": ("。", "！", "？")}
_CODE = re.compile(r"(?<!`)`[^`]+`(?!`)")
_PLAIN = {
    "en": re.compile(r"(?:[\"'(]*(?:[A-Z]?[a-z]+|[A-Z]+|[0-9]+)(?:['-][A-Za-z]+)*[\"'),.;:!?]*(?: - | |$))+"),
    "zh": re.compile(r"[^A-Za-z`]+"),
}
_TUPLE = re.compile(r"\([a-z]+, ")
_MARKED = re.compile(r">>>|\.\.\.|::|===|---|[\\|{}]")


@dataclass(frozen=True, slots=True)
class Prose:
    """Sentences by language, for training (`common`) and evaluation (`reserved`), and how many bytes one of the
    former has; programs in Python."""

    common: Mapping[str, tuple[str, ...]]
    reserved: Mapping[str, tuple[str, ...]]
    programs: tuple[str, ...]
    mean_bytes: Mapping[str, float]


@cache
def read() -> Prose:
    """All of it; the packages are loaded by apt and pip into `build/` at the first call."""
    translations.fetch()
    if not (CACHE / "done").is_file():
        translations.unpack(DEBIAN, CACHE)
        (CACHE / "done").touch()
    english, chinese = set(_help("en")) | set(_mathematics()), set(_help("zh"))
    for document in translations.documents("zh"):
        for pair in document.pairs:
            if not pair.code:
                english |= set(_clean(pair.english, "en"))
                chinese |= set(_clean(pair.translated, "zh"))
    return split({"en": english, "zh": chinese}, sorted(_programs()))


def split(sentences: Mapping[str, Iterable[str]], programs: Iterable[str]) -> Prose:
    """Reserve a tenth of the sentences, as far as they share nothing with the others, nor with the programs."""
    programs = tuple(programs)
    common, reserved = {}, {}
    for language, found in sentences.items():
        ordered = sorted(found)
        chosen = [each for each in ordered if _drawn(each) and len(units(each)) >= 12]
        rest = sorted({*ordered} - {*chosen})
        known = {part for text in (*rest, *programs) for part in _parts(text)}
        common[language] = tuple(rest)
        reserved[language] = tuple(each for each in chosen if known.isdisjoint(_parts(each)))
    sizes = {language: sum(len(each.encode()) for each in found) / len(found) for language, found in common.items()}
    return Prose(common, reserved, programs, sizes)


def units(text: str) -> list[str]:
    """Words and numbers in lower case, and single Han characters, in order."""
    return UNIT.findall(text.casefold())


def _drawn(sentence: str) -> bool:
    return zlib.crc32(sentence.encode()) % 10 == 0


def _parts(text: str) -> Iterator[tuple[str, ...]]:
    found = units(text)
    return (tuple(found[start : start + SHARED]) for start in range(len(found) - SHARED + 1))


def _clean(paragraph: str, language: str) -> Iterator[str]:
    """Its sentences that are nothing but words, numbers, punctuation and marked code."""
    for sentence in translations.sentences(paragraph):
        fits = len(sentence) in _LENGTH[language] and sentence.endswith(_END[language])
        bare = _CODE.sub("", sentence)
        if fits and _PLAIN[language].fullmatch(bare) and not _TUPLE.search(bare):
            yield sentence


def _help(language: str) -> Iterator[str]:
    pages = CACHE / "files/usr/share/libreoffice/help" / _PAGES[language] / "text"
    for path in sorted(pages.rglob("*.html")):
        for code, text in translations.blocks(path.read_text(encoding="utf-8")):
            if not code:
                yield from _clean(text, language)


def _mathematics() -> Iterator[str]:
    for path in sorted(Path(sympy.__file__).parent.rglob("*.py")):
        for docstring in re.findall(r'"""(.*?)"""', path.read_text(encoding="utf-8"), re.DOTALL):
            for paragraph in re.split(r"\n\s*\n", docstring):
                if not _MARKED.search(paragraph):
                    yield from (each for each in _clean(" ".join(paragraph.split()), "en") if each[0].isupper())


def _programs() -> Iterator[str]:
    """Functions of 4 to 60 lines of the standard library, without their docstrings."""
    for path in sorted(Path(sysconfig.get_path("stdlib")).glob("*.py")):
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.FunctionDef):
                if ast.get_docstring(node) is not None:
                    node.body = node.body[1:] or [ast.Pass()]
                program = ast.unparse(node)
                if 4 <= program.count("\n") + 1 <= 60 and program.isascii() and "```" not in program:
                    yield program
