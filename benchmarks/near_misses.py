"""Good responses that stand as close to a defect as they may: what fires here fires wrongly."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Final

from benchmarks.drafts import Draft, arithmetic
from benchmarks.surgery import (
    COMMON,
    DIGITS,
    LINES,
    LONG,
    NAMES,
    Bench,
    Change,
    cut,
    halves,
    model_of,
    other_numbers,
    paragraph_of,
    size_of,
    with_paragraph,
    with_paragraphs,
    with_sentence,
)  # fmt: skip


def one_word(draft: Draft, bench: Bench) -> Draft:
    """One word of the other language alone."""
    language = draft.question.language
    word = cut(bench.plain("zh"), bench.rng, 2, 2) if language == "en" else bench.rng.choice(COMMON)
    head, tail = halves(bench.plain(language), language)
    return with_sentence(draft, bench, f"{head} {word} {tail}")


def quoted(draft: Draft, bench: Bench) -> Draft:
    """A sentence of the other language between quotation marks."""
    head, tail = halves(bench.plain(draft.question.language), draft.question.language)
    said = cut(bench.other(draft), bench.rng, 5, 9)
    return with_sentence(draft, bench, f"{head}“{said}”{tail}")


def name(draft: Draft, bench: Bench) -> Draft:
    """Names in the other script, one within brackets."""
    language = draft.question.language
    head, tail = halves(bench.plain(language), language)
    named = bench.rng.choice(NAMES[language])
    return with_sentence(draft, bench, f"{head} ({named}) {tail}" if language == "en" else f"{head} {named} {tail}")


def brief(draft: Draft, bench: Bench) -> Draft:
    """Thinking of one sentence."""
    return replace(
        draft, thinking=((bench.plain(draft.question.language), arithmetic(bench.rng, draft.question.language)),)
    )


def full_paragraph(draft: Draft, bench: Bench) -> Draft:
    """A paragraph almost as long as may be."""
    return with_paragraph(draft, bench, paragraph_of(draft, bench, int(LONG * bench.rng.uniform(0.7, 0.9)), below=LONG))


def inline_code(draft: Draft, bench: Bench) -> Draft:
    """Code within a sentence of the thinking, and a program in the summary."""
    program = bench.rng.choice(bench.prose.programs)
    named = program[4 : program.index("(")] if program.startswith("def ") else "main"
    head, tail = halves(bench.plain(draft.question.language), draft.question.language)
    shown = f"{draft.summary}\n\n```python\n{program}\n```"
    return replace(with_sentence(draft, bench, f"{head} `{named}(x)` {tail}"), summary=shown)


def said_thrice(draft: Draft, bench: Bench) -> Draft:
    """A line as often as it may stand, in different places of a text that is long enough for it."""
    if size_of(draft) < 500:
        return draft
    line = bench.plain(draft.question.language)
    if line in draft.text:
        return draft
    for _ in range(LINES):
        draft = with_paragraph(draft, bench, (line,))
    return draft


def steps(draft: Draft, bench: Bench) -> Draft:
    """Twenty lines that differ in their numbers alone."""
    language = draft.question.language
    form = "Step {}: {}" if language == "en" else "第 {} 步：{}"
    return with_paragraphs(draft, [(form.format(n, arithmetic(bench.rng, language)),) for n in range(1, 21)], at=1)


def nine_words(draft: Draft, bench: Bench) -> Draft:
    """Nine words of an evaluation problem, between numbers."""
    part = cut(bench.rng.choice(bench.examined()).prompt, bench.rng, 9, 9)
    return with_sentence(
        draft, bench, f"{bench.rng.randrange(10**5, 10**6)}: {part}: {bench.rng.randrange(10**5, 10**6)}."
    )


def other_number(draft: Draft, bench: Bench) -> Draft:
    """The other response with another number in one place."""
    model = model_of(bench)
    thinking = list(model.thinking)
    places = [place for place, paragraph in enumerate(thinking) if any(map(DIGITS.search, paragraph))]
    if not places:
        thinking[0] = (*thinking[0], arithmetic(bench.rng, draft.question.language))
    else:
        at = bench.rng.choice(places)
        last = max(number for number, each in enumerate(thinking[at]) if DIGITS.search(each))
        changed = other_numbers(thinking[at][last], bench.rng)
        thinking[at] = (*thinking[at][:last], changed, *thinking[at][last + 1 :])
    return replace(model, question=draft.question, thinking=tuple(thinking))


def half_of_it(draft: Draft, bench: Bench) -> Draft:
    """Every other paragraph of the other response, and as many of its own."""
    model = model_of(bench)
    size = min(len(model.thinking), len(draft.thinking))
    mixed = [pair[number % 2] for number, pair in enumerate(zip(model.thinking, draft.thinking, strict=False))]
    return replace(draft, thinking=tuple(mixed[:size]) if size > 1 else draft.thinking)


NEAR_MISSES: Final[Mapping[str, tuple[float, Change]]] = {
    "mixed_language/one_word": (0.01, one_word),
    "mixed_language/quoted": (0.01, quoted),
    "mixed_language/name": (0.01, name),
    "no_thinking/brief": (0.01, brief),
    "long_paragraph/full": (0.01, full_paragraph),
    "code_block/inline": (0.01, inline_code),
    "repetition/thrice": (0.01, said_thrice),
    "repetition/steps": (0.01, steps),
    "contaminated/nine": (0.01, nine_words),
    "near_duplicate/number": (0.01, other_number),
    "near_duplicate/half": (0.01, half_of_it),
}
