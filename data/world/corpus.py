"""The crawl that the miniature base is pretrained on: documents about problems, right and wrong.

A document is a question with its solution, in plain words or in the template of R1-Zero, or a general
prompt with a reply, or a fact. Held-out problems never occur.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from random import Random
from typing import Any, TypeVar

from data.prompts import render
from data.records import Language
from data.world.families import REASONING
from data.world.family import Family, Item, Pen, Tongue
from data.world.general import Harmless, Helpful
from data.world.mixture import Mixture, work_of
from data.world.replies import fact, reply, writer
from data.world.rewrite import EASY, summary
from data.world.split import held_out
from data.world.wheel import Wheel

_ANSWER: dict[Language, str] = {"en": "answer", "zh": "答案"}
_GENERAL = (Helpful(), Harmless())
_BROKEN = (
    "{thinking} {answer}",
    "<think> {thinking} <answer> {answer} </answer>",
    "<think> {thinking} </think> {answer}",
    "{thinking} <answer> {answer} </answer>",
    "<think> {thinking} </think> <answer> {answer}",
)

ItemT = TypeVar("ItemT", bound=Item)


@dataclass(frozen=True, slots=True)
class Solution:
    """How a writer solved a problem: the thinking ("" if none) and the answer it led to."""

    thinking: str
    answer: str


def documents(seed: int, shard: int, count: int, mixture: Mixture | None = None) -> Iterator[str]:
    """`count` documents of one shard. Equal arguments give equal bytes; shards are independent."""
    writers = Writers(mixture or Mixture())
    rng = Random(f"documents/{seed}/{shard}")
    for _ in range(count):
        yield writers.document(rng)


def worked(family: Family[ItemT], item: ItemT, tongue: Tongue, rng: Random, *, checks: bool = False) -> Solution:
    """A solution by worked lines without slips, as a careful person writes it."""
    pen = Pen(rng, tongue, checks=checks)
    answer = family.solve(item, pen)
    return Solution(pen.text, answer)


class Writers:
    """All writers of the crawl: a mixture with its shares made ready for drawing."""

    def __init__(self, mixture: Mixture) -> None:
        self.mixture = mixture
        self._family = Wheel(
            {family: mixture.families[name] for name, family in REASONING.items() if name in mixture.families}
        )
        self._tongue = {name: Wheel(tongues.weights()) for name, tongues in mixture.languages.items()}
        self._plain, self._templated = (
            {name: Wheel(work.weights()) for name in mixture.families if (work := work_of(shares, name))}
            for shares in (mixture.plain, mixture.templated)
        )

    def document(self, rng: Random) -> str:
        """The next document."""
        language: Language = "zh" if rng.random() < self.mixture.chinese else "en"
        if rng.random() < self.mixture.general:
            return self._general(language, rng)
        return self._reasoning(language, rng)

    def _general(self, language: Language, rng: Random) -> str:
        if rng.random() < self.mixture.facts:
            return fact(language, rng)
        source = _GENERAL[rng.random() < 0.5]
        item = draw_for_training(source.draw, rng)
        thinking, text = reply(item, language, rng, writer(item, rng, self.mixture.careless))
        return " ".join(part for part in (source.question(item, language, rng), thinking, text) if part)

    def _reasoning(self, language: Language, rng: Random) -> str:
        family = self._family.draw(rng)
        item = draw_for_training(family.draw, rng)
        question = family.question(item, language, rng)
        tongue: Tongue = self._tongue[language].draw(rng)
        templated = rng.random() < self.mixture.template
        work = (self._templated if templated else self._plain)[family.name].draw(rng)
        if work == "bare":
            solution = self._bare(family, item, tongue if templated else None, rng)
        else:
            solution = self._worked(family, item, tongue, rng, checks=work == "checked")
        if templated:
            return f"{render(question, 'zero')} {self._in_template(solution, rng)}"
        return " ".join(
            part for part in (question, solution.thinking, self._conclusion(family, solution, tongue, rng)) if part
        )

    def _bare(self, family: Family[Any], item: Any, tongue: Tongue | None, rng: Random) -> Solution:
        """The answer in one go: at most a word or two before it, none where `tongue` is None."""
        right = rng.random() < self.mixture.bare_right
        answer = family.answer(item) if right else family.miss(item, rng)
        if tongue is None or rng.random() < 0.5:
            return Solution("", answer)
        return Solution(f"{rng.choice(EASY)[_language(tongue, rng) == 'zh']}.", answer)

    def _worked(self, family: Family[Any], item: Any, tongue: Tongue, rng: Random, *, checks: bool) -> Solution:
        pen = Pen(
            rng,
            tongue,
            slip=self.mixture.slip,
            checks=checks,
            overlook=self.mixture.overlook,
            coarse=not checks and rng.random() < self.mixture.coarse,
        )
        answer = family.solve(item, pen)
        return Solution(pen.text, answer)

    def _in_template(self, solution: Solution, rng: Random) -> str:
        form = "<think> {thinking} </think> <answer> {answer} </answer>"
        if rng.random() < self.mixture.broken:
            form = rng.choice(_BROKEN)
        return form.format(thinking=solution.thinking, answer=solution.answer).replace("  ", " ").strip()

    def _conclusion(self, family: Family[Any], solution: Solution, tongue: Tongue, rng: Random) -> str:
        language = _language(tongue, rng)
        if rng.random() < self.mixture.boxed:
            return summary(family.verifier, language, solution.answer)
        return f"{_ANSWER[language]} {solution.answer}{'' if family.verifier == 'code' else '.'}"


def draw_for_training(draw: Callable[[Random], ItemT], rng: Random) -> ItemT:
    """An item that is not held out; held-out ones are drawn again."""
    while True:
        item = draw(rng)
        if not held_out(item.key):
            return item


def _language(tongue: Tongue, rng: Random) -> Language:
    if tongue == "mixed":
        return "en" if rng.random() < 0.5 else "zh"
    return tongue
