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
    "fraction_simplification",  # a dollar sign in another place
    "game_of_life",  # -0
    "kakurasu",  # -1
    "polynomial_multiplication",  # terms in another order are no miss
    "quantum_lock",  # another way to the same state, and whatever is no button
    "simple_integration",  # terms in another order are no miss
    "sokoban",  # whatever is no move
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
    ("family", "gold", "metadata", "taken", "refused"),
    [
        ("coin_flip", "0.03125", {}, ["0.03125", "1/32", "0.0312"], ["0", "0.03", "0.0", "-0.03125"]),
        ("complex_arithmetic", "1.0 + 2.0i", {"result": [1, 2]}, ["1 + 2i", "(1+2i)"], ["nan", "nani", "1 - 2i"]),
        ("game_of_life_halting", "True", {}, ["True", "true"], ["False", "no", "?", "True False"]),
        ("game_of_life_halting", "False", {}, ["False", "false"], ["True", "yes", "42"]),
        ("gsm_symbolic", "42", {}, ["42", "42.0", "the answer is 42"], ["-42", "42 43", "42 or 41", "x42", "42 km"]),
        ("codeio", "[]", {}, ["[]"], ["{}", "{ }"]),
        ("power_function", "4.814e-23", {}, ["4.81e-23", "4.814e-23"], ["4", "4.8", "-4.814e-23", "0"]),
        ("letter_jumble", "act on", {}, ["act on", "Act on"], ["act on act on", "act on or go", "act"]),
        ("knights_knaves", "Al is a knight, and Bo is a knave.", {}, ["Al is a knight and Bo is a knave"],
         ["Al is a knight knave, and Bo is a knave knight", "Al is a knave, and Bo is a knight."]),
        ("propositional_logic", None, {"variables": ["P", "Q"], "premises": ["(P ↔ Q)", "Q", "¬R"]}, ["(P ∧ Q)"],
         ["(P ↔ Q)", "P↔Q", "((P ↔ Q))", "Q", "R"]),
    ],
)  # fmt: skip
def test_what_a_scorer_takes_though_it_is_no_answer(
    family: str, gold: str | None, metadata: object, taken: list[str], refused: list[str]
) -> None:
    asked = problem(family, gold, metadata)
    for said in taken:
        assert verify(asked, f"<think>so</think> {said}", "chat").status == "correct", said
    for said in refused:
        assert verify(asked, f"<think>so</think> {said}", "chat").status in ("wrong", "unparseable"), said


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
