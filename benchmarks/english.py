"""Writes `data/seeds/english.txt`: common English words, for `data/language.py`.

Counted in sayings, in the development half of the manuals, in the problems of reasoning-gym, and in what SymPy's
docstrings say of mathematics, as far as the sayings know the word. What translators into Chinese, Japanese and
Russian leave in Latin letters (`shell`, `root`, `systemd`) is a term and left out. The words of the miniature world
are all in, whatever their number.

    python -m benchmarks.english
"""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

import reasoning_gym
import sympy
from reasoning_gym.factory import DATASETS

from benchmarks import translations
from data.world.words import pieces

OUT = Path("data/seeds/english.txt")
WORDS = 5000
SAYINGS = (
    *("art", "cookie", "education", "ethnic", "food", "fortunes", "humorists", "kids", "law", "literature"),
    *("love", "medicine", "men-women", "miscellaneous", "news", "people", "pets", "platitudes", "politics"),
    *("riddles", "science", "sports", "tao", "wisdom", "work"),
)

_WORD = re.compile(r"(?<![\w/.'’-])[a-z]{2,}(?![\w/'’]|\.\w)")
_CODE = re.compile(r"`[^`]*`")


def main() -> None:
    """Count, choose, write."""
    translations.fetch()
    manuals, terms = _manuals()
    sayings = _sayings()
    counts = sayings + Counter({word: 3 * number for word, number in manuals.items()})
    counts += Counter({word: number for word, number in _mathematics().items() if word in sayings})
    counts += Counter({word: 5 * number for word, number in _problems().items()})
    common = [word for word, _ in sorted(counts.items(), key=lambda item: (-item[1], item[0])) if word not in terms]
    world = {word for piece in pieces() for word in re.findall(r"[a-z]{2,}", piece.lower())}
    words = sorted({*common[:WORDS], *world})
    OUT.write_text("\n".join(words) + "\n", encoding="utf-8")
    print(f"{len(words)} words in {OUT}; the rarest was seen {counts[common[WORDS - 1]]} times")


def _sayings() -> Counter[str]:
    folder = translations.CACHE / "files/usr/share/games/fortunes"
    return Counter(word for name in SAYINGS for word in _WORD.findall((folder / name).read_text(encoding="utf-8")))


def _manuals() -> tuple[Counter[str], set[str]]:
    """Words of the originals, each paragraph once, and those that translations keep."""
    seen: dict[str, list[str]] = {}
    kept: Counter[str] = Counter()
    offered: Counter[str] = Counter()
    for language in translations.LANGUAGES:
        for document in translations.documents(language):
            for pair in () if document.test else document.pairs:
                if pair.code:
                    continue
                words = seen.setdefault(pair.english, _WORD.findall(_CODE.sub(" ", pair.english)))
                if language in ("zh", "ja", "ru"):
                    offered.update(words)
                    kept.update(_WORD.findall(_CODE.sub(" ", pair.translated)))
    terms = {word for word, number in kept.items() if number >= 4 and number >= 0.2 * offered[word]}
    return Counter(word for words in seen.values() for word in words), terms


def _mathematics() -> Counter[str]:
    counts: Counter[str] = Counter()
    for path in sorted(Path(sympy.__file__).parent.rglob("*.py")):
        for docstring in re.findall(r'"""(.*?)"""', path.read_text(encoding="utf-8"), re.DOTALL):
            prose = [line for line in docstring.splitlines() if not line.lstrip().startswith((">>>", "..."))]
            counts.update(_WORD.findall(_CODE.sub(" ", "\n".join(prose))))
    return counts


def _problems() -> Counter[str]:
    """In how many of ten problems of a family a word stands, over families; what stands in one or two is chance."""
    counts: Counter[str] = Counter()
    for name in sorted(DATASETS):
        if name == "composite":
            continue
        problems = reasoning_gym.create_dataset(name, size=10, seed=0)
        words = Counter(word for problem in problems for word in set(_WORD.findall(problem["question"])))
        counts.update(word for word, number in words.items() if number >= 3)
    return counts


if __name__ == "__main__":
    main()
