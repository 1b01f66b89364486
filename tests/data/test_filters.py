"""Each filter with near misses on both sides; the order decides the reason."""

from random import Random
from typing import Any

import polars as pl
import pytest
from polars.testing import assert_frame_equal
from pydantic import TypeAdapter, ValidationError

from data.filters import (
    CodeBlock,
    Compressible,
    Contaminated,
    Context,
    Duplicate,
    FilterConfig,
    LongParagraph,
    Malformed,
    MixedLanguage,
    NearDuplicate,
    NearDuplicatePrompt,
    NoSummary,
    NotCorrect,
    NoThinking,
    OverLong,
    Repetition,
    SummaryLanguage,
    Surplus,
    Truncated,
    apply,
    units,
    waterfall,
    with_language,
)

TYPES = {
    **dict.fromkeys(("id", "problem_id", "key", "family", "language", "prompt"), pl.String),
    **dict.fromkeys(("thinking", "answer", "completion", "finish", "verdict", "reason_detail"), pl.String),
    "tokens": pl.Int32,
    "consistency": pl.Float64,
    "well_formed": pl.Boolean,
}
GOOD: dict[str, Any] = {
    "problem_id": "p",
    "key": "k",
    "family": "chain",
    "language": "en",
    "prompt": "3 + 4?",
    "thinking": "so 3 + 4 = 7.",
    "answer": "7",
    "completion": "",
    "tokens": 9,
    "finish": "stop",
    "verdict": "correct",
    "reason_detail": "",
    "consistency": 1.0,
    "well_formed": True,
}


def table(*rows: dict[str, Any]) -> pl.DataFrame:
    return pl.DataFrame([{"id": f"{n:02}", **GOOD, **row} for n, row in enumerate(rows)], schema=TYPES)


def reasons(rows: list[dict[str, Any]], *filters: Any, context: Context | None = None) -> dict[str, tuple[str, str]]:
    _, dropped = apply(table(*rows), filters, context)
    return {row["id"]: (row["reason"], row["detail"]) for row in dropped.iter_rows(named=True)}


def test_verdict() -> None:
    rows = [{}, {"verdict": "wrong", "reason_detail": "exact"}, {"verdict": None}, {"verdict": "infra_error"}]
    assert reasons(rows, NotCorrect()) == {
        "01": ("verdict", "wrong: exact"),
        "02": ("verdict", "none"),
        "03": ("verdict", "infra_error"),
    }


def test_malformed_and_truncated() -> None:
    rows = [{}, {"well_formed": False}, {"finish": "length"}]
    assert reasons(rows, Malformed(), Truncated()) == {"01": ("malformed", ""), "02": ("truncated", "length")}


def test_over_long() -> None:
    rows = [{"tokens": 9}, {"tokens": 10}, {"tokens": 11}]
    assert reasons(rows, OverLong(max_tokens=10)) == {"02": ("over_long", "11 tokens")}


def test_mixed_language() -> None:
    rows = [{"consistency": 0.9}, {"consistency": 0.899}, {"consistency": None, "thinking": "3 + 4 = 7."},
            {"consistency": 0.0}, {"consistency": None, "thinking": "so we add: 从三加四 is 7 now, as we see it"},
            {"consistency": None, "thinking": "so we add 3 and 4"}]  # fmt: skip
    assert reasons(rows, MixedLanguage(min_consistency=0.9)) == {
        "01": ("mixed_language", "consistency 0.899"),
        "02": ("mixed_language", "no words"),
        "03": ("mixed_language", "consistency 0.0"),
        "04": ("mixed_language", "consistency 0.818"),
    }


def test_a_clause_in_another_language_is_mixing_where_the_ratio_is_high() -> None:
    long = "so 3 + 4 = 7, " * 60
    rows = table({"thinking": long + "我们再检查一遍"}, {"thinking": long + "检查 4, so 检查 4"}, {"thinking": long})
    rows = with_language(rows)
    assert [round(ratio, 3) for ratio in rows["consistency"]] == [0.938, 0.968, 1.0]
    _, dropped = apply(rows, [MixedLanguage()])
    assert [(row["id"], row["detail"]) for row in dropped.iter_rows(named=True)] == [("00", "4 foreign words in a row")]


def test_an_answer_in_another_language() -> None:
    rows = [{"answer": "the sum of both is 7"}, {"answer": "两个数的和是 7"}, {"answer": "7"}, {"answer": None},
            {"answer": "两个数的和是 7", "language": "zh"}, {"answer": "the sum is `两个` 7"}]  # fmt: skip
    assert reasons(rows, SummaryLanguage()) == {"01": ("summary_language", "consistency 0.0")}


def test_no_thinking_and_no_summary_have_reasons_of_their_own() -> None:
    lost = {"thinking": None, "answer": None, "well_formed": False}
    rows = [
        {},
        {"thinking": " "},
        lost | {"completion": "7"},
        lost | {"completion": "<think> </think> 7 <think>"},
        lost | {"completion": "<think> so 7 </think>\n"},
        lost | {"completion": "<think> so 7 </think> <answer> </answer>"},
        lost | {"completion": "<think> so 7 </think> <answer> 7"},
        lost | {"completion": "<think> so 7"},
    ]
    found = reasons(rows, NoThinking(), NoSummary(), Malformed())
    assert {id_: reason for id_, (reason, _) in found.items()} == {
        "01": "no_thinking", "02": "no_thinking", "03": "no_thinking", "04": "no_summary", "05": "no_summary",
        "06": "malformed", "07": "malformed",
    }  # fmt: skip


def test_thinking_that_packs_too_well() -> None:
    rows = [{"thinking": "so we go on and on. " * 40}, {"thinking": "".join(f"{n * n} " for n in range(200))}]
    assert set(reasons(rows, Compressible(min_ratio=0.15))) == {"00"}
    assert set(reasons(rows, Compressible(min_ratio=0.02))) == set()
    assert set(reasons(rows, Compressible(min_ratio=0.9))) == {"00", "01"}


def test_long_paragraph_counts_words_numbers_and_han_characters() -> None:
    rows = [
        {"thinking": "one two 3.5 four five\n\nsix seven"},
        {"thinking": "one two 3.5 four five\n six"},
        {"thinking": "我们先算这个"},
        {"thinking": "我们先算这"},
    ]
    assert reasons(rows, LongParagraph(max_units=5)) == {
        "01": ("long_paragraph", "6 units"),
        "02": ("long_paragraph", "6 units"),
    }


def test_code_block_in_the_thinking_only() -> None:
    rows = [
        {"thinking": "so\n```python\nprint(7)\n```"},
        {"thinking": "so\n~~~\nprint(7)"},
        {"thinking": "so `print` ~~ 7"},
        {"answer": "```python\nprint(7)\n```"},
    ]
    assert set(reasons(rows, CodeBlock())) == {"00", "01"}


def test_repetition_of_lines() -> None:
    line = "then 3 + 4 = 7. "
    rows = [
        {"thinking": line * 3},
        {"thinking": line * 4},
        {"thinking": "".join(f"then 3 + {n} = {n + 3}. " for n in range(9))},
        {"thinking": "then 3 + 4 = 7. then 3 - 4 = 7. " * 2},
        {"thinking": "right. " * 9},
        {"thinking": "再算一次。" * 4},
        {"thinking": "so\n```\n" + "x = x + 1\n" * 9 + "```", "answer": line * 9},
    ]
    assert reasons(rows, Repetition(max_line_repeats=3, max_ngram_share=1.0)) == {
        "01": ("repetition", "4 x then 3 + 4 = 7"),
        "05": ("repetition", "4 x 再 算 一 次"),
    }


def test_repetition_of_ngrams() -> None:
    rows = [{"thinking": "a b c d a b c d"}, {"thinking": "a b c d a b c e"}]
    # seven 2-grams: ab bc cd da ab bc cd has 3 repeats, the other row 2
    assert reasons(rows, Repetition(ngram=2, max_ngram_share=0.4)) == {"00": ("repetition", "n-gram share 0.43")}


def test_contamination_by_ngrams() -> None:
    problem = "start with 398 then take 7 and add 458 what is left"  # 12 units
    nine, ten = "START with 398, then take 7 and add 458", "with 398, then take 7 and add 458: what"
    rows = [
        {"prompt": f"please {nine} soon"},
        {"prompt": f"please {ten} soon"},
        {"prompt": ten.replace("458", "459")},
        {"thinking": f"so {ten}"},
        {"thinking": None, "answer": None, "completion": f"so {ten}", "well_formed": False},
    ]
    gram = "with 398 then take 7 and add 458 what"
    found = reasons(rows, Contaminated(ngram=9), context=Context([problem]))
    assert found["00"] == ("contaminated", "prompt: start with 398 then take 7 and add 458")
    assert found["01"] == ("contaminated", f"prompt: {gram}")
    assert found["03"] == found["04"] == ("contaminated", f"text: {gram}")
    assert set(found) == {"00", "01", "03", "04"}
    assert set(reasons(rows, Contaminated(), context=Context([problem]))) == set()


def test_short_evaluation_texts_match_as_a_whole() -> None:
    rows = [
        {"prompt": "3+4 ?"},
        {"prompt": "what is 3 + 4?"},
        {"prompt": "从3 加4"},
        {"answer": "7", "prompt": "x"},
    ]
    assert set(reasons(rows, Contaminated(), context=Context(["3 + 4", "7", "从 3 加 4。", ""]))) == {
        "00",
        "02",
    }
    assert reasons(rows, Contaminated()) == {}


def test_duplicate_within_one_problem() -> None:
    rows = [
        {"thinking": "so  3 +\n4"},
        {"thinking": "so 3 + 4"},
        {"thinking": "so 3 + 4", "problem_id": "q"},
        {"thinking": "So 3 + 4"},
        {"thinking": "so 3 + 4", "answer": "8"},
        {"thinking": None, "answer": None, "completion": "so 3 + 4\n7"},
    ]
    assert reasons(rows, Duplicate()) == {"01": ("duplicate", "00"), "05": ("duplicate", "00")}


def test_near_duplicates_name_the_kept_partner() -> None:
    text = "first we take the sum of all the numbers here, then we double it and get {}"
    rows = [
        {"thinking": text.format(7)},
        {"thinking": text.format(7) + " indeed"},
        {"thinking": text.format(8)},
        {"thinking": text.format(7), "problem_id": "q"},
        {"thinking": "now the double of a sum is wanted and found to be 7"},
        {"thinking": text.format(7).replace("then", "and so").replace("take", "make").replace("all", "every")},
    ]
    found = reasons(rows, NearDuplicate(min_similarity=0.8))
    assert found == {"01": ("near_duplicate", "00")}


def test_near_duplicate_prompts_across_problems() -> None:
    ask = "please take all of the apples and the pears together and then say how many of them there are, given {}"
    prompts = [ask.format(7), ask.format(8), ask.format(7).upper(), ask.format(7).replace("then say", "tell"),
               ask.format(7).replace("take", "put"), "what is it then?", "what is it then?"]  # fmt: skip
    rows = [{"prompt": prompt, "problem_id": f"p{n}", "thinking": f"so {n}"} for n, prompt in enumerate(prompts)]
    found = reasons([*rows, rows[2]], NearDuplicatePrompt(min_similarity=0.8))
    assert {id_: detail for id_, (_, detail) in found.items()} == {"02": "p0", "04": "p0", "06": "p5", "07": "p0"}
    assert set(reasons(rows, NearDuplicatePrompt(min_similarity=0.7))) == {"02", "03", "04", "06"}


def test_near_duplicate_prompts_are_those_of_all_pairs() -> None:
    rng = Random(3)
    prompts = [" ".join(rng.choices(["abc", "def", "ghi", "jkl", "mno"], k=rng.randrange(1, 9))) for _ in range(150)]
    rows = [{"prompt": prompt, "problem_id": f"p{n:03}"} for n, prompt in enumerate(prompts)]
    each = NearDuplicatePrompt(min_similarity=0.6, shingle=1)
    kept: list[int] = []
    expected = {}
    for n, prompt in enumerate(prompts):
        mine, sets = set(prompt.split()), [set(each.split()) for each in prompts]
        alike = [other for other in kept if len(mine & sets[other]) / len(mine | sets[other]) >= 0.6]
        if alike:
            expected[f"{n:02}"] = f"p{alike[0]:03}"
        else:
            kept.append(n)
    assert {id_: detail for id_, (_, detail) in reasons(rows, each).items()} == expected
    assert 20 < len(expected) < 140


@pytest.mark.parametrize("pair", [("3 + 4", "3 - 4"), ("得 三", "得 四"), ("three", "four"), ("C A B D", "A C B D")])
def test_texts_with_other_numbers_signs_or_letters_are_no_duplicates(pair: tuple[str, str]) -> None:
    rows = [{"thinking": "so we look at the whole of it and find that it is " + each} for each in pair]
    assert reasons(rows, NearDuplicate(min_similarity=0.1, shingle=1)) == {}
    assert set(reasons([rows[0], rows[0]], NearDuplicate(min_similarity=1.0))) == {"01"}


def test_surplus_keeps_a_spread_of_lengths() -> None:
    rows = [{"tokens": n} for n in (50, 10, 20, 40, 30)] + [{"tokens": 1, "problem_id": "q"}]
    kept, dropped = apply(table(*rows), [Surplus(max_per_problem=3)])
    assert sorted(kept.filter(pl.col("problem_id") == "p")["tokens"]) == [10, 30, 50]
    assert len(kept) == 4
    assert set(dropped["detail"]) == {"of 5"}
    assert apply(table(*rows), [Surplus(max_per_problem=1)])[0]["tokens"].to_list() == [30, 1]


def test_the_order_decides_the_reason() -> None:
    rows = [{"verdict": "wrong", "finish": "length"}, {}]
    assert reasons(rows, NotCorrect(), Truncated()) == {"00": ("verdict", "wrong")}
    assert reasons(rows, Truncated(), NotCorrect()) == {"00": ("truncated", "length")}


def test_a_dropped_row_is_nobodys_partner() -> None:
    rows = [{"verdict": "wrong"}, {}, {}]
    assert reasons(rows, NotCorrect(), Duplicate()) == {"00": ("verdict", "wrong"), "02": ("duplicate", "01")}
    assert reasons(rows, Duplicate(), NotCorrect())["01"] == ("duplicate", "00")


def test_the_order_of_rows_does_not_matter() -> None:
    rows = [
        {
            "thinking": f"so we take it and look and find that the sum is {n % 3}",
            "tokens": n,
            "problem_id": f"p{n % 2}",
        }
        for n in range(20)
    ]
    filters = [Duplicate(), NearDuplicate(), Surplus(max_per_problem=2)]
    frame = table(*rows)
    for one, other in zip(
        apply(frame, filters), apply(frame.sample(fraction=1, shuffle=True, seed=3), filters), strict=True
    ):
        assert_frame_equal(one, other)


def test_waterfall_counts_in_order() -> None:
    frame = table({"verdict": "wrong"}, {"finish": "length"}, {}, {}, {"verdict": "wrong"})
    filters = [Truncated(), Malformed(), NotCorrect()]
    kept, dropped = apply(frame, filters)
    steps = [("in", 5), ("truncated", 1), ("verdict", 2), ("kept", 2)]
    assert waterfall(frame, dropped, kept).rows() == steps
    assert waterfall(frame, dropped, kept, filters).rows() == [*steps[:2], ("malformed", 0), *steps[2:]]
    with pytest.raises(ValueError, match="5 rows came in, 2 dropped and 2 kept went out"):
        waterfall(frame, dropped[1:], kept)


def test_no_filters_and_no_rows() -> None:
    frame = table({}, {})
    kept, dropped = apply(frame, [])
    assert kept.equals(frame)
    assert dropped.columns == [*frame.columns, "reason", "detail"]
    defaults = (NotCorrect, Malformed, Truncated, MixedLanguage, LongParagraph, CodeBlock, Repetition)
    of_groups = (Contaminated, Duplicate, NearDuplicate)
    every = [each() for each in defaults + of_groups] + [OverLong(max_tokens=1), Surplus(max_per_problem=1)]
    assert [len(part) for part in apply(frame.clear(), every)] == [0, 0]


def test_ids_have_to_be_unique() -> None:
    with pytest.raises(ValueError, match="2 rows share their id with another, for example '00'"):
        apply(table({"id": "00"}, {"id": "00"}), [])


def test_filters_are_read_from_a_recipe() -> None:
    adapter: TypeAdapter[Any] = TypeAdapter(list[FilterConfig])
    read = adapter.validate_python([{"name": "verdict"}, {"name": "over_long", "max_tokens": 5}])
    assert read == [NotCorrect(), OverLong(max_tokens=5)]
    for wrong in ({"name": "verdict", "k": 1}, {"name": "nonsense"}, {"name": "over_long", "max_tokens": 0}):
        with pytest.raises(ValidationError):
            adapter.validate_python([wrong])


def test_language_is_measured_anew() -> None:
    frame = with_language(table({"thinking": "wait, 等等", "consistency": None}, {"thinking": None}))
    assert frame["consistency"].to_list() == [0.5, None]
    assert frame["reflections"].to_list() == [2, 0]


def test_units() -> None:
    assert units("Don't: 先算 3.50 + x1, É") == ["don", "t", "先", "算", "3.50", "x", "1", "é"]
