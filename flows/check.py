"""`r1 check`: read all that a recipe names, ask its base a handful, and say what a run would take and what would fail.

Nothing is left behind: a base that has to be converted first, or that begins from random weights, goes into a
folder that is taken away.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory

from data.sandbox import choose
from flows.inspect import lengths_asked
from flows.plan import plan
from flows.recipe import BaseConfig, Recipe
from model import checkpoint, gguf
from model.device import current, memory_of
from model.foreign import ForeignModel
from model.tokenizer import Tokenizer
from tasks import roles
from tasks.collect import by_rule
from tasks.forecast import Forecaster, Supply
from tasks.lora import adapted_bytes, learning_in
from tasks.midtrain import beginner
from tasks.pace import Lesson, frozen_bytes_of, measured, parameters_of, parts_of, shortage, trained_of
from tasks.rollout import Speaker
from tasks.sft import build_tokenizer
from tasks.survey import Survey, answers, read_on, room, survey, told

NOWHERE = Path("/nonexistent")
"""A runs folder in which nothing is done."""


def check(recipe: Recipe, device: str, processes: int = 1) -> Iterator[tuple[str, bool]]:
    """Lines to print, and for each whether it says that a run would fail.

    Steps are timed in as many `processes` as stages would take. Raises ValueError for what cannot be read at all.
    """
    with TemporaryDirectory(prefix="r1-check-") as place, current(device):
        yield from _checked(recipe, device, processes, Path(place))


def _checked(recipe: Recipe, device: str, processes: int, place: Path) -> Iterator[tuple[str, bool]]:
    base, converting_s = _taken("base", recipe.base, None, place)
    tokenizer = roles.fitted(Tokenizer.load(base)) if base else build_tokenizer()
    template = recipe.zero.template
    surveys = [survey(name, getattr(recipe, name), tokenizer, template) for name in ("problems", "heldout")]
    for each in surveys:
        yield from ((line, False) for line in each.lines())
    if base is None:
        yield "base: made by the recipe, so there is nobody to ask yet", False
        return
    speaker = learning_in(base, device, recipe.zero.lora, recipe.zero.seed)
    assert recipe.base.path is not None
    yield from ((line, False) for line in _described(recipe.base.path, speaker))
    for line in _cut_off(recipe, speaker, surveys):
        yield f"would fail: {line}", True
    isolation = choose(recipe.allow_rlimit)
    for answer in answers(speaker, surveys[0].problems, recipe.zero.sampling, isolation):
        yield from ((line, False) for line in told(answer, tokenizer, template))
    lacking = _needs(recipe, speaker, device)
    if lacking:
        yield f"would fail: {lacking}", True
        return
    try:
        heldout_text = {}
        for name, config in (("base", recipe.base.midtrain), ("student_base", recipe.student.midtrain)):
            if config is not None:
                reading = read_on(config, tokenizer)
                heldout_text[name] = reading.heldout
                yield f"{name}: {reading.line}", False
        if recipe.flow == "r1":
            del speaker
            student, converting_student_s = _taken("student", recipe.student, base, place)
            reading_on = "base_untouched" if recipe.base.midtrain else "base"
            student_on = "student_base_untouched" if recipe.student.midtrain else "student_base"
            known = {reading_on: converting_s, student_on: converting_student_s}
            yield from ((line, False) for line in _forecast(
                recipe, base, student, surveys, heldout_text, {name: s for name, s in known.items() if s}, device,
                processes,
            ))  # fmt: skip
    except ValueError as error:
        yield f"would fail: {error}", True


def _taken(name: str, config: BaseConfig, like: Path | None, place: Path) -> tuple[Path | None, float]:
    """The folder of a base, under `place` where it is to be made first, and the seconds of converting it.

    None for one that the recipe pretrains. Raises ValueError for one that cannot be converted.
    """
    begun = time.monotonic()
    if config.initialise:
        assert like is not None
        tokenizer = Tokenizer.load(like)
        checkpoint.save(place / name, beginner(tokenizer, config.initialise), tokenizer)
        return place / name, 0.0
    if config.path is None or not config.is_gguf:
        return config.path, 0.0
    try:
        gguf.convert(config.path, place / name)
        roles.check(Tokenizer.load(place / name))
        checkpoint.try_out(place / name)
    except ValueError as error:
        raise ValueError(f"{name}.path = {str(config.path)!r}: {error}") from None
    return place / name, time.monotonic() - begun


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
    parameters, has = parameters_of(speaker), memory_of(device)
    parts = parts_of(trained_of(speaker), beta, frozen_bytes_of(speaker))
    told = shortage(f"RL on {device}", parts, has, parameters)
    if told and recipe.zero.lora is None and isinstance(speaker.model, ForeignModel):
        return f"{told}; an adapter ([zero.lora]) leaves of these {adapted_bytes(parameters, device) / 1e9:.1f} GB"
    return told


def _forecast(
    recipe: Recipe, base: Path, student: Path | None, surveys: list[Survey], heldout_text: Mapping[str, int],
    known: Mapping[str, float], device: str, processes: int,
) -> Iterator[str]:  # fmt: skip
    """The time and the memory of every stage, measured on the base and the student's base."""
    reasoning = by_rule(surveys[0].problems)[0]
    isolation = choose(recipe.allow_rlimit)
    lessons = {"base": (base, Lesson(recipe.zero, recipe.sft, recipe.base.midtrain))}
    if student is not None:
        lessons["student"] = student, Lesson(recipe.student_rl, recipe.distill, recipe.student.midtrain)
    paces = {
        name: measured(folder, reasoning, lesson, device, isolation, processes)
        for name, (folder, lesson) in lessons.items()
    }
    where = f"{device} in {processes} processes, memory of the first" if processes > 1 else device
    for name, pace in paces.items():
        reads = f", {1 / pace.reading.token_s:,.0f} by reading on" if pace.reading.token_s else ""
        yield (
            f"{name} on {where}: samples {1 / pace.sampled_token_s:,.0f} tokens/s, learns from "
            f"{1 / max(pace.reinforcing.token_s, 1e-9):,.0f} by RL and {1 / max(pace.tuning.token_s, 1e-9):,.0f} by "
            f"rows{reads}; answers of {pace.answer:.0f} tokens, {pace.accuracy:.0%} right"
        )
    supplies = {each.name: Supply(*map(len, by_rule(each.problems))) for each in surveys}
    found = Forecaster(paces, supplies, heldout_text, known).of(plan(recipe, NOWHERE))
    for each in found:
        held = f"{each.peak / 1e9:5.2f} GB" if each.peak else ""
        yield f"  {each.name:<42} {each.seconds:8.1f} s  {held}".rstrip()
    yield f"  {'altogether':<42} {sum(each.seconds for each in found):8.1f} s"
