"""`r1 check`: read all that a recipe names, ask its base a handful, and say what a run would take and what would fail.

Nothing is written.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from data.sandbox import choose
from flows.inspect import lengths_asked
from flows.plan import plan
from flows.recipe import Recipe
from model.tokenizer import Tokenizer
from tasks import roles
from tasks.collect import by_rule
from tasks.forecast import Forecaster, Supply
from tasks.pace import measure, memory_of, parameters_of, parts_of, shortage
from tasks.rollout import Speaker, speaker_in
from tasks.sft import build_tokenizer
from tasks.survey import Survey, answers, room, survey, told

NOWHERE = Path("/nonexistent")
"""A runs folder in which nothing is done."""


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
    lacking = _needs(recipe, speaker, device)
    if lacking:
        yield f"would fail: {lacking}", True
    elif recipe.flow == "r1":
        try:
            yield from ((line, False) for line in _forecast(recipe, speaker, surveys, device))
        except ValueError as error:
            yield f"would fail: {error}", True


def _described(base: Path, speaker: Speaker) -> Iterator[str]:
    template = "its own" if speaker.tokenizer.spelled else "ours"
    yield (
        f"base: {base}: {parameters_of(speaker):,} parameters, a context of {speaker.model.context} tokens, "
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


def _needs(recipe: Recipe, speaker: Speaker, device: str) -> str | None:
    """Say where the device is too small for what does not depend on lengths; None where it is not."""
    beta = max(recipe.zero.beta, recipe.reasoning.beta, recipe.alignment.beta)
    return shortage(f"RL on {device}", parts_of(parameters_of(speaker), beta), memory_of(device))


def _forecast(recipe: Recipe, speaker: Speaker, surveys: list[Survey], device: str) -> Iterator[str]:
    """The time and the memory of every stage, measured on the base and the student's base."""
    reasoning = by_rule(surveys[0].problems)[0]
    isolation = choose(recipe.allow_rlimit)
    paces = {"base": measure(speaker, reasoning, recipe.zero, recipe.sft, device, isolation)}
    if recipe.student.path and not recipe.student.midtrain:
        student = speaker_in(recipe.student.path, device)
        paces["student"] = measure(student, reasoning, recipe.student_rl, recipe.distill, device, isolation)
    for name, pace in paces.items():
        yield (
            f"{name} on {device}: samples {1 / pace.sampled_token_s:,.0f} tokens/s, learns from "
            f"{1 / max(pace.reinforcing.token_s, 1e-9):,.0f} by RL and {1 / max(pace.tuning.token_s, 1e-9):,.0f} by "
            f"rows; answers of {pace.answer:.0f} tokens, {pace.accuracy:.0%} right"
        )
    supplies = {each.name: Supply(*map(len, by_rule(each.problems))) for each in surveys}
    found = Forecaster(paces, supplies).of(plan(recipe, NOWHERE))
    for each in found:
        held = f"{each.peak / 1e9:5.2f} GB" if each.peak else ""
        yield f"  {each.name:<42} {each.seconds:8.1f} s  {held}".rstrip()
    yield f"  {'altogether':<42} {sum(each.seconds for each in found):8.1f} s"
