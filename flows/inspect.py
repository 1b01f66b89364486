"""What a recipe takes from outside, looked at before anything is made: bases, problems, trajectories."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from data import packages
from data.prompts import render
from data.records import Problem
from data.text import divided, documents_in
from flows.recipe import BaseConfig, Recipe
from model import adapter, checkpoint, gguf
from model.tokenizer import Tokenizer
from tasks import roles, trajectories
from tasks.collect import JUDGE, own_problems
from tasks.lora import LoraConfig
from tasks.midtrain import try_beginner


def inspect(recipe: Recipe) -> None:
    """Raise ValueError, naming the setting, for a base that cannot be loaded or a file with a broken row."""
    for name, base in (("base", recipe.base), ("student", recipe.student)):
        if base.path is not None:
            try:
                _inspect_base(base, _longest(recipe, name), f"{name}.midtrain")
            except ValueError as error:
                raise ValueError(f"{name}.path = {str(base.path)!r}: {error}") from None
    _inspect_adapters(recipe)
    for name, reading in (("base", recipe.base.midtrain), ("student", recipe.student.midtrain)):
        if reading and reading.path:
            try:
                divided(documents_in(reading.path, reading.column))
            except ValueError as error:
                raise ValueError(f"{name}.midtrain.path = {str(reading.path)!r}: {error}") from None
    if recipe.student.initialise:
        try:
            context = try_beginner(recipe.student.initialise)
            _inspect_context(context, recipe.student, _longest(recipe, "student"), "student.midtrain")
        except ValueError as error:
            raise ValueError(f"student.initialise: {error}") from None
    for name, problems in (("problems", recipe.problems), ("heldout", recipe.heldout)):
        if problems.path is not None:
            try:
                own = own_problems(problems)
                _inspect_judged(own, recipe)
                _inspect_prompts(own, recipe)
            except ValueError as error:
                raise ValueError(f"{name}.path = {str(problems.path)!r}: {error}") from None
    if recipe.judge and recipe.judge.path:
        try:
            checkpoint.inspect(recipe.judge.path)
        except ValueError as error:
            raise ValueError(f"judge.path = {str(recipe.judge.path)!r}: {error}") from None
    inspect_trajectories(recipe)


def _inspect_adapters(recipe: Recipe) -> None:
    """Raise ValueError, naming the setting, for an adapter that its base cannot have; GGUF files are not read."""
    for name, base, lora in adapters_asked(recipe):
        if base.pretrain:
            raise ValueError(f"{name}.{adapter.WHOLE}")
        if base.path and base.path.is_dir():
            try:
                checkpoint.check_adapter(base.path, lora.target_modules)
            except ValueError as error:
                raise ValueError(f"{name}.{error}") from None


def adapters_asked(recipe: Recipe) -> Iterator[tuple[str, BaseConfig, LoraConfig]]:
    """Each table that trains by an adapter, the base that what it trains was made from, and the adapter."""
    preference = recipe.preference
    tables: dict[str, dict[str, Any]] = {
        "base": {"base.midtrain": recipe.base.midtrain, "zero": recipe.zero, "direct": recipe.direct,
                 "cold.sft": recipe.cold.sft, "reasoning": recipe.reasoning, "sft": recipe.sft,
                 "preference.helpful": preference.helpful, "preference.harmless": preference.harmless,
                 "alignment": recipe.alignment},
        "student": {"student.midtrain": recipe.student.midtrain, "distill": recipe.distill,
                    "student_rl": recipe.student_rl},
    }  # fmt: skip
    for base, its in tables.items():
        for name, table in its.items():
            if table is not None and table.lora is not None:
                yield name, getattr(recipe, base), table.lora


def _inspect_judged(problems: Sequence[Problem], recipe: Recipe) -> None:
    count = sum(problem.verifier == JUDGE for problem in problems)
    if count and recipe.judge is None:
        raise ValueError(f"{count} problems have the verifier 'judge', and the recipe has no [judge] table")


def _inspect_prompts(problems: Sequence[Problem], recipe: Recipe) -> None:
    """Raise ValueError for a prompt that fills the base's context; a GGUF file's tokenizer is not at hand yet."""
    if recipe.base.path is None or recipe.base.is_gguf:
        return
    context, tokenizer = checkpoint.inspect(recipe.base.path), roles.fitted(Tokenizer.load(recipe.base.path))
    prompts = tokenizer.encode_batch([render(each.prompt, recipe.zero.template) for each in problems])
    longest, at = max((len(prompt), at) for at, prompt in enumerate(prompts))
    if longest >= context:
        raise ValueError(
            f"problem {problems[at].id} has {longest} tokens in its template, and the base's context has {context}"
        )


def inspect_trajectories(recipe: Recipe) -> None:
    """Raise ValueError, naming the setting, where one's own trajectories cannot be read by their map."""
    if recipe.rejection.trajectories is not None:
        try:
            trajectories.inspect(recipe.rejection.trajectories)
        except ValueError as error:
            raise ValueError(f"rejection.trajectories: {error}") from None


def _inspect_base(base: BaseConfig, longest: tuple[str, int], reading: str) -> None:
    path = base.path
    assert path is not None
    if str(path).startswith(packages.PREFIX):
        packages.file_in(str(path))
    if base.is_gguf and path.is_file():
        context = gguf.inspect(path)
    else:
        context = checkpoint.inspect(path)
        roles.check(Tokenizer.load(path))
    _inspect_context(context, base, longest, reading)


def _inspect_context(context: int, base: BaseConfig, longest: tuple[str, int], reading: str) -> None:
    if context <= longest[1]:
        raise ValueError(f"its context of {context} tokens has no room for {longest[0]} = {longest[1]} and a prompt")
    if base.midtrain and context < base.midtrain.sequence_length:
        asked = f"{reading}.sequence_length = {base.midtrain.sequence_length}"
        raise ValueError(f"its context of {context} tokens has no room for {asked}")


def _longest(recipe: Recipe, base: str) -> tuple[str, int]:
    """The setting that asks most of a base's context, and how many tokens that is."""
    return max(lengths_asked(recipe, base).items(), key=lambda item: item[1])


def lengths_asked(recipe: Recipe, base: str) -> dict[str, int]:
    """The tokens of the longest completion that each setting asks of what is made from a base."""
    lengths = {"evaluation.max_completion_length": recipe.evaluation.max_completion_length}
    if base == "student":
        lengths["student_rl.max_completion_length"] = recipe.student_rl.max_completion_length
    else:
        for name in ("zero", "reasoning", "alignment"):
            lengths[f"{name}.max_completion_length"] = getattr(recipe, name).max_completion_length
        if recipe.difficulty:
            lengths["difficulty.max_completion_length"] = recipe.difficulty.max_completion_length
        if recipe.direct:
            lengths["direct.max_completion_length"] = recipe.direct.max_completion_length
        for name in ("cold", "rejection", "preference"):
            sampling = getattr(recipe, name).generate.sampling
            lengths[f"{name}.generate.sampling.max_completion_length"] = sampling.max_completion_length
    return lengths
