"""Every family of reasoning-gym: its gold answer verifies, and near misses of it do not."""

import json
import re
from random import Random

import pytest

from data.gym import PREFIX, GymSource, families, gym_solution, is_gym
from data.records import Problem
from data.verifiers import verify

NO_GOLD = {
    "boxnet": (
        '[{"Agent[0.5, 0.5]": "move(box_red, target_red)"}]',
        {"row_num": 1, "column_num": 1, "initial_state": {"0.5_0.5": ["box_red", "target_red"]}},
    ),
    "rush_hour": ("A+4", {"board_config": "o" * 12 + "AAoooo" + "o" * 18}),
}
"""Families that give no answer, and an item of each with one that was worked out by hand."""

LENIENT = {
    "coin_flip",  # a probability within 1e-4
    "fraction_simplification",  # a fraction somewhere in the text
    "game_of_life",  # -0
    "game_of_life_halting",  # whatever is not the opposite
    "gsm_symbolic",  # a number somewhere in the text, without its sign
    "kakurasu",  # a grid with something around it
    "knights_knaves",
    "letter_jumble",
    "polynomial_multiplication",  # terms in another order are no miss
    "quantum_lock",
    "simple_integration",  # terms in another order are no miss
    "sokoban",
    "survo",
}
"""Families whose own scorers give 1 to some near misses."""


def problem(family: str, answer: str | None, metadata: object) -> Problem:
    return Problem("p/1", "p", family, "en", "question", gym_solution(answer, metadata), PREFIX + family)


def misses(gold: str) -> list[str]:
    """Another digit, another sign, a unit, and another order."""
    found = [f"{gold} km"]
    if digits := list(re.finditer(r"\d", gold)):
        first = digits[0].start()
        found += [f"{gold[:first]}{(int(gold[first]) + 1) % 10}{gold[first + 1 :]}"]
        found += [gold[: first - 1] + gold[first:] if gold[:first].endswith("-") else gold[:first] + "-" + gold[first:]]
    parts = re.findall(r"\S+\s*", gold) if " " in gold else list(gold)
    found += ["".join(parts[1:] + parts[:1])]
    return [miss for miss in found if miss.strip() != gold.strip()]


def gold_of(answer: str | None, metadata: dict[str, object]) -> str:
    """The answer, or the example that families with many right answers give."""
    example = metadata.get("example_answer") or metadata.get("example_correct_answer")
    return answer or (str(example) if example else json.dumps(metadata["possible_answer"]))


@pytest.mark.parametrize("family", sorted(families() - {"composite"} - set(NO_GOLD)))
def test_gold_verifies_and_near_misses_do_not(family: str) -> None:
    source = GymSource(PREFIX + family)
    item = source.draw(Random(3))
    asked = Problem("p/1", item.key, family, "en", item.key, source.solution(item, "en"), source.verifier)
    gold = gold_of(item.answer, json.loads(item.metadata))
    for said in (gold, rf"the answer is \boxed{{{gold}}}."):
        verdict = verify(asked, f"<think>so</think> {said}", "chat")
        assert verdict.status == "correct", (said, verdict)
    for miss in misses(gold):
        verdict = verify(asked, f"<think>so</think> {miss}", "chat")
        assert verdict.status in ("wrong", "unparseable") or family in LENIENT, (miss, gold, verdict)


@pytest.mark.parametrize("family", sorted(NO_GOLD))
def test_a_family_without_gold_accepts_an_answer_that_solves_it(family: str) -> None:
    answer, metadata = NO_GOLD[family]
    asked = problem(family, None, metadata)
    assert verify(asked, f"<think>so</think> {answer}", "chat").status == "correct"
    for miss in ("", "[]", "A-1", "{}"):
        assert verify(asked, f"<think>so</think> {miss}", "chat").status != "correct"


def test_a_mixture_is_scored_by_the_family_of_its_item() -> None:
    asked = problem("composite", "7", {"source_dataset": "chain_sum"})
    assert [verify(asked, f"<think>so</think> {said}", "chat").status for said in ("7", "8")] == ["correct", "wrong"]
    assert not is_gym("reasoning_gym:composite")


@pytest.mark.parametrize(
    "attack",
    ["__import__('os')._exit(1)", "[].__class__", "(1).real", "exec('1')", r"S('\x31')", "open('x')", "lambda: 1",
     "[x for x in (1, 2)]", "9**9**9**9", "chr(49)"],
)  # fmt: skip
@pytest.mark.parametrize("family", ["countdown", "puzzle24", "simple_integration", "polynomial_multiplication"])
def test_nothing_but_arithmetic_is_evaluated(family: str, attack: str) -> None:
    assert verify(problem(family, "1", {}), f"<think>so</think> {attack}", "chat").status == "unparseable"


def test_items_are_seeded() -> None:
    source = GymSource(PREFIX + "sudoku")
    assert source.draw(Random(5)) == source.draw(Random(5)) != source.draw(Random(6))
