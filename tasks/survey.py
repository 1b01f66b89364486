"""What a recipe's problems are, as its base reads them: how many, in which languages, how long, judged by what."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Final

from data.golds import gold_answer, unverified
from data.prompts import Template, render
from data.records import Problem, Trajectory
from data.sandbox import Isolation
from data.verifiers import Verifier
from model.tokenizer import Tokenizer
from tasks.collect import ProblemsConfig, by_rule, drawn, read_own
from tasks.midtrain import MidtrainConfig, text_windows
from tasks.rewards import RewardWeights
from tasks.rollout import Sampling, Speaker, rollout

SHOWN: Final = 3
"""Problems that a base is asked for people to read."""
TOKENS_SHOWN: Final = 12
"""Of a prompt, the tokens at its begin and its end that are shown."""


@dataclass(frozen=True, slots=True)
class Survey:
    """One set of problems. `lengths` are those of the prompts in tokens, in the order of the problems."""

    name: str
    problems: list[Problem]
    lengths: list[int]
    golds: int
    refused: list[str]

    @property
    def longest(self) -> int:
        """Tokens of the longest prompt."""
        return max(self.lengths)

    def lines(self) -> Iterator[str]:
        """Say it to people."""
        counts = {
            "languages": Counter(each.language for each in self.problems),
            "verifiers": Counter(each.verifier for each in self.problems),
            "families": Counter(each.family for each in self.problems),
        }
        yield f"{self.name}: {len(self.problems)} rows"
        for title, counted in counts.items():
            yield f"  {title:<10} {', '.join(f'{name} {count}' for name, count in counted.most_common())}"
        yield (
            f"  {'prompts':<10} {min(self.lengths)} to {self.longest} tokens, half of them at most "
            f"{median(self.lengths):.0f}"
        )
        yield f"  {'golds':<10} {self.golds - len(self.refused)} of {self.golds} pass their own verifier"
        for told in self.refused[:SHOWN]:
            yield f"    {told}"


def survey(name: str, config: ProblemsConfig, tokenizer: Tokenizer, template: Template) -> Survey:
    """Read a set of problems whole, as `collect` would make it. Raises ValueError as that does.

    Of one's own file, the rows whose gold answer is refused are named, those that `max_unverified` lets pass.
    """
    problems = drawn(config)
    if config.path:
        located, refused = read_own(config)
    else:
        located = [(each.id, each) for each in problems]
        refused = unverified(located)
    prompts = tokenizer.encode_batch([render(each.prompt, template) for each in problems])
    golds = sum(gold_answer(each) is not None for _, each in located)
    told = [f"{each.where}: {gold_answer(each.problem)!r} is {each.verdict.status}" for each in refused]
    return Survey(name, problems, [len(prompt) for prompt in prompts], golds, told)


@dataclass(frozen=True, slots=True)
class Reading:
    """The tokens of text that are held out of a mid-training, and what is said of all of it."""

    heldout: int
    line: str


def read_on(config: MidtrainConfig, tokenizer: Tokenizer) -> Reading:
    """Read the text of a mid-training whole. Raises ValueError as that does."""
    text, heldout = text_windows(config, tokenizer)
    of_text = round(config.batch_size * config.text_share) * config.max_steps
    return Reading(
        int(heldout.size),
        f"reads on for {config.max_steps} steps; {text.size:,} tokens of text, each read {of_text / len(text):.1f} "
        f"times, and {heldout.size:,} held out",
    )


def answers(
    speaker: Speaker, problems: Sequence[Problem], sampling: Sampling, isolation: Isolation
) -> list[Trajectory]:
    """One answer of the base to each of a handful of the reasoning problems, judged."""
    asked = by_rule(problems)[0][:SHOWN]
    with Verifier(isolation=isolation) as verifier:
        once = sampling.model_copy(update={"num_generations": 1})
        groups = rollout(speaker, asked, once, RewardWeights(), stream=("check",), verifier=verifier)
    return [each for group in groups for each in group]


def told(each: Trajectory, tokenizer: Tokenizer, template: Template) -> Iterator[str]:
    """Show an answer with its prompt as the tokenizer cuts it."""
    ids = tokenizer.encode(render(each.problem.prompt, template))
    pieces = [tokenizer.decode([token]) for token in ids]
    if len(pieces) > 2 * TOKENS_SHOWN:
        pieces = [*pieces[:TOKENS_SHOWN], f"... {len(pieces) - 2 * TOKENS_SHOWN} more ...", *pieces[-TOKENS_SHOWN:]]
    verdict = each.verdict.status if each.verdict else "not judged by a rule"
    formed = "malformed" if each.thinking is None else "well formed"
    yield f"{each.problem.id}, {len(ids)} tokens: {' '.join(repr(piece)[1:-1] for piece in pieces)}"
    yield f"  gold    {(gold_answer(each.problem) or each.problem.solution)[:200]!r}"
    yield f"  answer  {each.completion.text[:400]!r}"
    yield f"  {verdict}, {len(each.completion.ids)} tokens, {formed}"


def room(context: int, prompts: Mapping[str, int], asks: Mapping[str, tuple[str, int]]) -> list[str]:
    """Say which completions a context cuts off.

    `prompts` are the longest prompts of each set of problems, and `asks` the longest completions: by the setting,
    which set it asks and how many tokens.
    """
    found = []
    for setting, (problems, tokens) in asks.items():
        needed = prompts[problems] + tokens
        if needed > context:
            found.append(
                f"{setting} = {tokens} with the longest prompt of {problems}, {prompts[problems]} tokens, needs "
                f"{needed}, and the base's context has {context}; {max(context - prompts[problems], 0)} would fit"
            )
    return found
