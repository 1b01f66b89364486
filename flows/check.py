"""`r1 check`: read all that a recipe names, ask its base a handful, and say what a run would take and what would fail.

Nothing is written.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from data.sandbox import choose
from flows.inspect import lengths_asked
from flows.recipe import Recipe
from model.tokenizer import Tokenizer
from tasks import roles
from tasks.rollout import Speaker, speaker_in
from tasks.sft import build_tokenizer
from tasks.survey import Survey, answers, room, survey, told


def check(recipe: Recipe, device: str) -> Iterator[tuple[str, bool]]:
    """Lines to print, and for each whether it says that a run would fail.

    Raises ValueError for what cannot be read at all.
    """
    base = recipe.base.path
    tokenizer = roles.fitted(Tokenizer.load(base)) if base else build_tokenizer()
    template = recipe.zero.template
    surveys = [survey(name, getattr(recipe, name), tokenizer, template) for name in ("problems", "heldout")]
    for each in surveys:
        yield from ((line, False) for line in each.lines())
    if base is None:
        yield "base: made by the recipe, so there is nobody to ask yet", False
        return
    speaker = speaker_in(base, device)
    yield from ((line, False) for line in _described(base, speaker))
    for line in _cut_off(recipe, speaker, surveys):
        yield f"would fail: {line}", True
    isolation = choose(recipe.allow_rlimit)
    for answer in answers(speaker, surveys[0].problems, recipe.zero.sampling, isolation):
        yield from ((line, False) for line in told(answer, tokenizer, template))


def _described(base: Path, speaker: Speaker) -> Iterator[str]:
    count = sum(each.numel() for each in speaker.model.parameters())
    template = "its own" if speaker.tokenizer.spelled else "ours"
    yield (
        f"base: {base}: {count:,} parameters, a context of {speaker.model.context} tokens, "
        f"a vocabulary of {speaker.tokenizer.vocab_size}, {template} chat template"
    )


def _cut_off(recipe: Recipe, speaker: Speaker, surveys: list[Survey]) -> list[str]:
    longest = {each.name: each.longest for each in surveys}
    asked = lengths_asked(recipe, "base")
    return room(
        speaker.model.context,
        longest,
        {name: ("heldout" if name.startswith("evaluation") else "problems", tokens) for name, tokens in asked.items()},
    )
