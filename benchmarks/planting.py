"""Which rows get which defect, and the rows themselves with the truth about them."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import accumulate
from typing import Any, Final

from benchmarks.defects import DEFECTS
from benchmarks.drafts import (
    BYTES_A_TOKEN,
    DOMAINS,
    MAX_TOKENS,
    Question,
    chance,
    dice,
    evaluation,
    is_short,
    place,
    question,
    respond,
    samples_of,
)  # fmt: skip
from benchmarks.near_misses import NEAR_MISSES
from benchmarks.prose import Prose
from benchmarks.surgery import COMMON, DIGITS, NUMBERS, WORD, Bench, cut, disguised, other_numbers

EVALUATION = 1_000  # problems
COPIES: Final = frozenset(
    [
        *("duplicate/same", "duplicate/spaces", "near_duplicate/words", "near_duplicate/sentence"),
        *("near_duplicate/number", "near_duplicate/half"),
    ]
)
"""What is made after the first response to the same problem."""
PROMPTS: Final = {
    "near_prompt/word": 0.006,
    "near_prompt/case": 0.004,
    "contaminated/prompt": 0.005,
    "contaminated/short": 0.002,
}
"""Defects of a problem, and so of all responses to it."""
PROMPT_NEAR_MISSES: Final = {"near_prompt/number": 0.01, "contaminated/holds_short": 0.005}


@dataclass(frozen=True, slots=True)
class World:
    """What rows are made of; every row is a function of it and of its place."""

    prose: Prose
    seed: int
    evaluation: Sequence[Question]

    def examined(self, language: str, short: bool) -> Sequence[Question]:
        """Evaluation problems in a language, those shorter than an n-gram or the others."""
        return [
            each
            for number, each in enumerate(self.evaluation)
            if each.language == language and is_short(number) == short
        ]


def world(prose: Prose, seed: int, problems: int = EVALUATION) -> World:
    """With so many evaluation problems."""
    return World(prose, seed, [evaluation(prose, seed, number) for number in range(problems)])


def counts(rows: int) -> dict[str, int]:
    """Rows by domain in the proportions of the paper's table: the largest remainders are rounded up."""
    total = sum(domain.samples for domain in DOMAINS.values())
    shares = {name: rows * domain.samples / total for name, domain in DOMAINS.items()}
    found = {name: int(share) for name, share in shares.items()}
    order = sorted(shares, key=lambda name: found[name] - shares[name])
    return {name: found[name] + (name in order[: rows - sum(found.values())]) for name in found}


def row(world: World, domain: str, index: int) -> tuple[dict[str, Any], dict[str, str | None]]:
    """A row of a domain, and the truth about it."""
    number, sample = place(index)
    asked, kind, partner = _asked(world, domain, number)
    draft = respond(world.prose, world.seed, asked, sample)
    if kind is None:
        kind = _kind(world, domain, number, sample)
        partner = f"{asked.id}/0" if kind in COPIES else None
        rng = dice(world.seed, "change", domain, number, sample)
        model = respond(world.prose, world.seed, asked, 0) if partner else None
        bench = Bench(world.prose, rng, partial(world.examined, asked.language, short=False), model)
        change = {**DEFECTS, **NEAR_MISSES}.get(kind or "")
        draft = change[1](draft, bench) if change else draft
    text = draft.text
    bad = kind in DEFECTS or kind in PROMPTS
    made = {
        "id": f"{asked.id}/{sample}",
        "problem_id": asked.id,
        "key": asked.id,
        "family": domain,
        "language": asked.language,
        "prompt": asked.prompt,
        "solution": asked.solution,
        "verifier": DOMAINS[domain].verifier,
        "completion": text,
        "finish": draft.finish,
        "verdict": draft.verdict,
        "reason_detail": draft.detail,
        "tokens": MAX_TOKENS if draft.finish == "length" else round(len(text.encode()) / BYTES_A_TOKEN),
        "rounds": asked.rounds,
    }
    truth = {name: made[name] for name in ("id", "problem_id", "family", "language")}
    return made, truth | {"defect": kind if bad else None, "partner": partner, "near_miss": None if bad else kind}


def _asked(world: World, domain: str, number: int) -> tuple[Question, str | None, str | None]:
    """(problem, what was planted in its prompt, the problem that it copies)"""
    own = question(world.prose, world.seed, domain, number)
    kind = _prompt_kind(world, domain, number)
    if kind is None or own.rounds > 1:
        return own, None, None
    rng = dice(world.seed, "prompt", domain, number)
    if kind.startswith("near_prompt/"):
        model = _original(world, domain, number, rng)
        prompt = _edited(model.prompt, kind, model.language, rng) if model else None
        return (own, None, None) if prompt is None or model is None else (
            replace(own, language=model.language, prompt=prompt, solution=model.solution), kind, model.id
        )  # fmt: skip
    examined = rng.choice(world.examined(own.language, short=kind != "contaminated/prompt")).prompt
    if kind == "contaminated/short":
        return replace(own, prompt=disguised(examined, rng)), kind, None
    part = disguised(cut(examined, rng, 10, 14), rng) if kind == "contaminated/prompt" else examined
    return replace(own, prompt=f"{own.prompt}\n{part}"), kind, None


def _original(world: World, domain: str, number: int, rng: random.Random) -> Question | None:
    """An earlier problem of the domain with nothing about it whose first response is good."""
    for _ in range(50 if number else 0):
        other = rng.randrange(number)
        if _prompt_kind(world, domain, other) is None and _kind(world, domain, other, 0) is None:
            found = question(world.prose, world.seed, domain, other)
            if found.rounds == 1:
                return found
    return None


def _edited(prompt: str, kind: str, language: str, rng: random.Random) -> str | None:
    """A prompt with one word another one, in other case and spaces, or with another number."""
    if kind == "near_prompt/number":
        return other_numbers(prompt, rng) if DIGITS.search(prompt) else None
    if kind == "near_prompt/case":
        return f"  {prompt.upper()}\n"
    places = [each for each in WORD[language].finditer(prompt) if not NUMBERS.search(each[0])]
    if not places:
        return None
    at = rng.choice(places)
    words = [each for each in COMMON if not NUMBERS.search(each)] if language == "en" else list("的地得了着过")
    word = rng.choice([each for each in words if each != at[0]])
    return f"{prompt[: at.start()]}{word}{prompt[at.end() :]}"


def _prompt_kind(world: World, domain: str, number: int) -> str | None:
    return _drawn({**PROMPTS, **PROMPT_NEAR_MISSES}, chance(world.seed, "prompt kind", domain, number))


def _kind(world: World, domain: str, number: int, sample: int) -> str | None:
    """What is planted in a response; the first to a problem is good where others copy it."""
    found = _drawn(_RATES, chance(world.seed, "kind", domain, number, sample))
    if sample > 0:
        return found
    others = (_kind(world, domain, number, other) for other in range(1, samples_of(number)))
    return None if found in COPIES or any(other in COPIES for other in others) else found


_RATES: Final = {name: rate for changes in (DEFECTS, NEAR_MISSES) for name, (rate, _) in changes.items()}


def _drawn(rates: Mapping[str, float], value: float) -> str | None:
    return next((name for name, edge in zip(rates, accumulate(rates.values()), strict=True) if value < edge), None)
