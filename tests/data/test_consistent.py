"""Consistency in machine code against the regular expressions and fastText that it stands for."""

import json
from pathlib import Path
from random import Random

import numpy as np
import polars as pl
import pytest

from data.consistent import consistencies
from data.filters import MixedLanguage
from data.filters.kinds import Context
from data.language import consistency, detector
from data.odds import Odds, hide, likeliest, probability

MESSAGES = json.loads((Path(__file__).parent / "translated.json").read_text(encoding="utf-8"))["messages"]
PIECES = [
    *("the ", "we ", "add ", "and ", "then ", "bonjour ", "monde ", "étoile ", "don't ", "well-known ", "x-y ", "DNA "),
    *("NASA's ", "fooBar ", "`a b` ", "$x$ ", "(see) ", "我们", "检查", "一下 ", "Wait, ", "git push ", "\n", ". "),
    *(", ", "http://a.b/c ", "<b> ", "-v ", "--opt ", "a/b ", "der ", "Hund ", "ist ", "'foo' ", "3-fold ", "“ok” "),
    *("x ", "2 ", "the, ", "so. ", "``", "\\(", "\\b ", "’s ", "Alice Bob ", "nous allons diviser la somme ", "か"),
    *("```\nfor x\n```", "~~~", "`", "$$", "$", "\\[", "\\]", "\\)", "\\begin{align*}", "\\end{align*}", "\\end{a}"),
    *(
        "<think>",
        "</a",
        ">",
        "<｜end｜>",
        "<｜",
        "｜>",
        "https://",
        "(",
        ")",
        "[12]",
        '"',
        "“",
        "”",
        "（3）",
        "《",
        "》",
    ),
    *(
        "foo(3) ",
        "DNA RNA ",
        "DNAs",
        "a@b.org ",
        "file.txt ",
        "my_name ",
        "x1 ",
        "I'm ",
        "İstanbul ",
        "π ",
        "αβγ ",
        "мы ",
    ),
    *(
        "считаем ",
        "ß",
        "𠀀",
        "\U00030001",
        "😀",
        "\u3000",
        "1",
        "_",
        "-",
        "--",
        "'",
        "/",
        "\\",
        "~",
        "@",
        " ",
        "grub dpkg ",
    ),
    *(
        "sbuild at Debian wiki ",
        "Divide It By ",
        "of ",
        "van ",
        "Zhang San ",
        "quick ",
        "sum of ",
        "，",
        "；",
        "（the sum）",
    ),
]


def drawn(number: int, seed: int) -> tuple[list[str], list[str]]:
    """Texts of few kinds of pieces each, and languages."""
    rng = Random(seed)
    texts = [
        "".join(rng.choices(rng.sample(PIECES, rng.randrange(2, 14)), k=rng.randrange(1, 60))) for _ in range(number)
    ]
    return texts, [rng.choice(["en", "zh"]) for _ in texts]


def told(number: int, seed: int) -> tuple[list[str], list[str]]:
    """Sentences that people wrote, some of them in another language or cut short."""
    rng = Random(seed)
    texts, languages = [], []
    for _ in range(number):
        own = rng.choice(["en", "zh"])
        parts = []
        for _ in range(rng.randrange(2, 12)):
            words = rng.choice(MESSAGES)[own if rng.random() < 0.8 else rng.choice(["en", "zh", "fr", "de"])].split(" ")
            begin = rng.randrange(len(words)) if rng.random() < 0.3 else 0
            parts.append(" ".join(words[begin : begin + rng.randrange(1, 30)]))
        texts.append(rng.choice([" ", "\n", ", "]).join(parts))
        languages.append(own)
    return texts, languages


@pytest.mark.parametrize(("texts", "known"), [(drawn(6000, 4), 0.6), (told(1500, 5), 0.98)], ids=["drawn", "told"])
def test_what_machine_code_says_is_the_consistency(texts: tuple[list[str], list[str]], known: float) -> None:
    found = consistencies(pl.Series(texts[0]), pl.Series(texts[1]))
    for text, language, each in zip(*texts, found, strict=True):
        assert each is None or each == consistency(text, language), (text, language)
    assert sum(each is not None for each in found) > known * len(found)
    assert sum(each is not None and each.mixed() for each in found) > len(found) // 10
    assert sum(each is not None and not each.mixed() for each in found) > len(found) // 10


def test_other_languages_kana_and_unknown_letters_are_left_open() -> None:
    texts = pl.Series(["so we take the sum", "计算は簡単です", "我们 \U00030001", "", "先算 3 + 4 = 7"])
    found = consistencies(texts, pl.Series(["fr", "zh", "zh", "en", "zh"]))
    assert [each and (each.words, each.ratio) for each in found] == [None, None, None, (0, None), (1, 1.0)]


@pytest.mark.parametrize(
    "words", ["hello my friend", "nous allons diviser", "grub dpkg apt", "étoile x's Weißbier", "a"]
)
def test_odds_are_those_of_fasttext(words: str) -> None:
    odds = Odds("en", "latin")
    parts = words.split(" ")
    odds.learn(range(len(parts)), parts)
    hidden, chances = np.empty(len(odds.tree.end)), np.empty(2 * len(odds.tree.sides) + 1)
    hide(np.arange(len(parts)), 0, len(parts), odds.sums, odds.tree, hidden)
    (labels,), (found,) = detector().predict([words], k=176)
    said = dict(zip(labels, found, strict=True))
    assert probability(hidden, odds.tree) == pytest.approx(said["__label__en"], abs=2e-6)
    log_odds, name, sure = likeliest(hidden, odds.tree, chances)
    assert sure
    top = dict(list(said.items())[:3])
    own = max(0.01, top.pop("__label__en", 0.0))
    other, label = max((chance, label) for label, chance in top.items() if label not in ("__label__ru", "__label__ja"))
    assert log_odds == pytest.approx(np.log(max(0.01, other) / own) - 2, abs=2e-4)
    assert detector().get_labels(include_freq=True)[0][name] == label


def test_the_filter_drops_the_same_rows_with_and_without_machine_code() -> None:
    texts, languages = told(300, 6)
    rng = Random(7)
    frame = pl.DataFrame(
        {
            "thinking": [*texts, None],
            "language": [*languages, "en"],
            "consistency": pl.Series(
                [rng.choice([None, None, 1.0, 0.95, 0.4234]) for _ in range(301)], dtype=pl.Float64
            ),
        }
    )
    plain = MixedLanguage().details(frame, Context())
    assert MixedLanguage().details(frame.with_columns(pl.lit(0).alias("walk.lines")), Context()).equals(plain)
    assert {"consistency 0.423", "no words"} <= set(plain)
    assert 30 < plain.null_count() < 270
