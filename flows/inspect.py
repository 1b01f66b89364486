"""What a recipe takes from outside, looked at before anything is made: bases, and files of problems."""

from __future__ import annotations

from flows.recipe import Recipe
from model import checkpoint
from tasks.collect import own_problems


def inspect(recipe: Recipe) -> None:
    """Raise ValueError, naming the setting, for a base that cannot be loaded or a file with a broken row."""
    for name, base in (("base", recipe.base), ("student", recipe.student)):
        if base.path is not None:
            try:
                checkpoint.inspect(base.path)
            except ValueError as error:
                raise ValueError(f"{name}.path = {str(base.path)!r}: {error}") from None
    for name, problems in (("problems", recipe.problems), ("heldout", recipe.heldout)):
        if problems.path is not None:
            try:
                own_problems(problems)
            except ValueError as error:
                raise ValueError(f"{name}.path = {str(problems.path)!r}: {error}") from None
