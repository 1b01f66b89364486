"""Known defects, each a function from a good response to a bad one, and the rate of rows that it is planted in.

`defect/kind` names each: what the paper's rejection sampling removes (DeepSeek-R1, 3.3 to 3.5).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Final

from benchmarks.drafts import MAX_TOKENS, Draft, written
from benchmarks.prose import units
from benchmarks.surgery import (
    COMMON,
    LONG,
    NUMBERS,
    WORD,
    Bench,
    Change,
    cut,
    disguised,
    halves,
    model_of,
    paragraph_of,
    size_of,
    with_paragraph,
    with_paragraphs,
    with_sentence,
    with_word,
)  # fmt: skip

_CLAUSE = re.compile(r"[a-z]{2,}(?: [a-z]{2,}){4,7}")
_HAN_CLAUSE = re.compile(r"[\u4e00-\u9fff，]+")


def wrong(draft: Draft, bench: Bench) -> Draft:
    """Any verdict but correct."""
    verdict = bench.rng.choice(("wrong", "wrong", "wrong", "unparseable", "timeout"))
    return replace(draft, verdict=verdict, detail="exact" if verdict == "wrong" else "")


def empty_thinking(draft: Draft, bench: Bench) -> Draft:
    return replace(draft, completion=f"<think>\n\n</think>\n\n{draft.summary}")


def no_tags(draft: Draft, bench: Bench) -> Draft:
    return replace(draft, completion=draft.summary)


def no_summary(draft: Draft, bench: Bench) -> Draft:
    return replace(draft, completion=replace(draft, summary="").text.rstrip())


def cut_in_thinking(draft: Draft, bench: Bench) -> Draft:
    end = draft.text.index("\n</think>")
    return replace(draft, completion=draft.text[: int(end * bench.rng.uniform(0.5, 0.95))], finish="length")


def cut_in_summary(draft: Draft, bench: Bench) -> Draft:
    return replace(draft, completion=draft.text[: -len(draft.summary) // 2], finish="length")


def over_long(draft: Draft, bench: Bench) -> Draft:
    return written(bench.prose, bench.rng, draft.question, MAX_TOKENS * bench.rng.uniform(1.05, 1.2))


def foreign_sentence(draft: Draft, bench: Bench) -> Draft:
    """A sentence of the other language among the thinking's."""
    return with_sentence(draft, bench, bench.other(draft))


def foreign_clause(draft: Draft, bench: Bench) -> Draft:
    """Five to eight words of the other language within a sentence."""
    language = draft.question.language
    words = ""
    while not (_HAN_CLAUSE if language == "en" else _CLAUSE).fullmatch(words):
        words = cut(bench.other(draft), bench.rng, *((5, 8) if language == "zh" else (10, 16)))
    mark = "，" if language == "zh" else ", "
    head, tail = halves(bench.plain(language), language)
    return with_sentence(draft, bench, f"{head}{mark}{words}{mark}{tail}")


def foreign_words(draft: Draft, bench: Bench) -> Draft:
    """Words of the other language all over the thinking, each alone, about one in five."""
    draft = _first_part(draft)

    def mix(sentence: str) -> str:
        if draft.question.language == "en":
            return " ".join(
                f"{word} {cut(bench.other(draft), bench.rng, 2, 2)}" if number % 4 == 1 else word
                for number, word in enumerate(sentence.split(" "))
            )
        runs = re.split(r"(?<=[\u4e00-\u9fff]{8})(?=[\u4e00-\u9fff])", sentence)
        return "".join(f"{run} {bench.rng.choice(COMMON)} " for run in runs)

    return replace(draft, thinking=tuple(tuple(map(mix, paragraph)) for paragraph in draft.thinking))


def foreign_summary(draft: Draft, bench: Bench) -> Draft:
    """A summary whose sentences are all of the other language."""
    said = [bench.other(draft) for _ in range(3)]
    rest = draft.summary[draft.summary.index("\n\n```") :] if "\n\n```" in draft.summary else ""
    return replace(draft, summary=(" " if draft.question.language == "zh" else "").join(said) + rest)


def long_paragraph(draft: Draft, bench: Bench) -> Draft:
    """A paragraph half as long again as may be, or twice."""
    return with_paragraph(draft, bench, paragraph_of(draft, bench, int(LONG * bench.rng.uniform(1.3, 2.0))))


def fenced(draft: Draft, bench: Bench) -> Draft:
    """A short program in a fence."""
    fence = bench.rng.choice(("```python\n{}\n```", "```\n{}\n```", "~~~\n{}\n~~~"))
    program = bench.rng.choice([each for each in bench.prose.programs if len(each) < 2 * LONG])
    return with_paragraph(draft, bench, (fence.format(program),))


def looped_line(draft: Draft, bench: Bench) -> Draft:
    """One sentence again and again, eight times at least."""
    line = bench.plain(draft.question.language)
    return with_paragraphs(draft, [(line,)] * bench.rng.randrange(8, 40), at=len(draft.thinking))


def looped_phrase(draft: Draft, bench: Bench) -> Draft:
    """A few words without an end, until they are more than half of the text."""
    draft = _first_part(draft)
    language = draft.question.language
    phrase = cut(bench.plain(language), bench.rng, 5, 8)
    part = (" " if language == "en" else "").join([phrase] * 12)
    times = max(2, size_of(draft) // (12 * len(units(phrase))))
    return with_paragraphs(draft, [(part,)] * (times + 1), at=len(draft.thinking))


def looped_passage(draft: Draft, bench: Bench) -> Draft:
    """The last paragraphs once and again, until they are more than half of the text."""
    draft = _first_part(draft)
    tail = draft.thinking[-max(1, min(4, len(draft.thinking) // 3)) :]
    size = sum(len(units(sentence)) for paragraph in tail for sentence in paragraph)
    return with_paragraphs(draft, tail * (size_of(draft) // size + 4), at=len(draft.thinking))


def _first_part(draft: Draft) -> Draft:
    """A third of the thinking, for what makes it longer but not over-long."""
    return replace(draft, thinking=draft.thinking[: (len(draft.thinking) + 2) // 3])


def seen_problem(draft: Draft, bench: Bench) -> Draft:
    """Ten to fourteen words of an evaluation problem in the thinking, written another way."""
    return with_sentence(
        draft, bench, disguised(cut(bench.rng.choice(bench.examined()).prompt, bench.rng, 10, 14), bench.rng)
    )


def seen_solution(draft: Draft, bench: Bench) -> Draft:
    """Ten to fourteen words of a reference solution in the summary."""
    part = disguised(cut(bench.rng.choice(bench.examined()).solution, bench.rng, 10, 14), bench.rng)
    return replace(draft, summary=f"{part}\n\n{draft.summary}")


def same(draft: Draft, bench: Bench) -> Draft:
    """The other response to the letter."""
    return replace(model_of(bench), question=draft.question)


def respaced(draft: Draft, bench: Bench) -> Draft:
    """The other response with more white space where it has some."""
    text = model_of(bench).text
    more = bench.rng.choice((("\n\n", "\n\n\n"), ("\n", " \n"), ("\n\n", "\n \n")))
    return replace(model_of(bench), question=draft.question, completion=text.replace(*more) + "\n")


def reworded(draft: Draft, bench: Bench) -> Draft:
    """The other response with one word in a hundred another one."""
    language, rng = draft.question.language, bench.rng

    def change(match: re.Match[str]) -> str:
        if rng.random() > (0.03 if language == "en" else 0.008) or NUMBERS.search(match[0]):
            return match[0]
        return rng.choice(COMMON[6:9]) if language == "en" else rng.choice("的地得了着过")

    model = model_of(bench)
    thinking = [[WORD[language].sub(change, each) for each in paragraph] for paragraph in model.thinking]
    place = rng.randrange(len(thinking))
    thinking[place][0] = with_word(thinking[place][0], language)
    return replace(model, question=draft.question, thinking=tuple(map(tuple, thinking)))


def shortened(draft: Draft, bench: Bench) -> Draft:
    """The other response less one sentence without a number; reworded where each is more than a twentieth of it."""
    model = model_of(bench)
    most = size_of(model) / 20
    places = [
        (number, each)
        for number, paragraph in enumerate(model.thinking)
        for each in paragraph
        if len(units(each)) <= most and not NUMBERS.search(each)
    ]
    if not places:
        return reworded(draft, bench)
    at, left_out = bench.rng.choice(places)
    shorter = tuple(each for each in model.thinking[at] if each != left_out)
    return replace(model, question=draft.question, thinking=(*model.thinking[:at], shorter, *model.thinking[at + 1 :]))


DEFECTS: Final[Mapping[str, tuple[float, Change]]] = {
    "verdict/wrong": (0.08, wrong),
    "no_thinking/empty": (0.008, empty_thinking),
    "no_thinking/no_tags": (0.007, no_tags),
    "no_summary/empty": (0.012, no_summary),
    "truncated/in_thinking": (0.01, cut_in_thinking),
    "truncated/in_summary": (0.01, cut_in_summary),
    "over_long/written": (0.003, over_long),
    "mixed_language/sentence": (0.01, foreign_sentence),
    "mixed_language/clause": (0.01, foreign_clause),
    "mixed_language/words": (0.01, foreign_words),
    "summary_language/whole": (0.01, foreign_summary),
    "long_paragraph/joined": (0.01, long_paragraph),
    "code_block/fenced": (0.012, fenced),
    "repetition/line": (0.006, looped_line),
    "repetition/phrase": (0.006, looped_phrase),
    "repetition/passage": (0.006, looped_passage),
    "contaminated/thinking": (0.005, seen_problem),
    "contaminated/solution": (0.005, seen_solution),
    "duplicate/same": (0.012, same),
    "duplicate/spaces": (0.012, respaced),
    "near_duplicate/words": (0.008, reworded),
    "near_duplicate/sentence": (0.008, shortened),
}
