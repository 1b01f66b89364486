"""The parts of a reward, added up by hand for each stage of the paper."""

from __future__ import annotations

import pytest

from data.lineage import canonical
from data.prompts import Parts, parse
from data.records import Verdict
from tasks.rewards import RewardWeights, reward

GOOD, BROKEN = Parts("two plus two", "4", True), Parts(None, None, False)
RIGHT, WRONG = Verdict("correct", "4"), Verdict("wrong", "5")
ZERO = RewardWeights()
REASONING = RewardWeights(language_weight=1.0)
EVERYTHING = RewardWeights(language_weight=1.0, preference_weight=1.0)


@pytest.mark.parametrize(
    ("parts", "verdict", "consistency", "preference", "weights", "expected"),
    [
        # R1-Zero (eq. 4)
        (GOOD, RIGHT, 0.5, None, ZERO, {"accuracy": 1, "format": 1}),
        (GOOD, WRONG, 1.0, None, ZERO, {"accuracy": 0, "format": 1}),
        (BROKEN, Verdict("unparseable"), None, None, ZERO, {"accuracy": 0, "format": 0}),
        (GOOD, Verdict("timeout"), None, None, ZERO, {"accuracy": 0, "format": 1}),
        # Reasoning RL (eq. 7): the language of the thinking is added
        (GOOD, RIGHT, 0.75, None, REASONING, {"accuracy": 1, "format": 1, "language": 0.75}),
        (GOOD, RIGHT, None, None, REASONING, {"accuracy": 1, "format": 1, "language": 0}),  # no words, no reward
        (BROKEN, WRONG, None, None, REASONING, {"accuracy": 0, "format": 0, "language": 0}),
        # All scenarios (eq. 8-10): a general prompt has a reward model in place of the rule
        (GOOD, RIGHT, 1.0, None, EVERYTHING, {"accuracy": 1, "format": 1, "language": 1}),
        (GOOD, None, 0.5, 0.25, EVERYTHING, {"format": 1, "language": 0.5, "preference": 0.25}),
        (BROKEN, None, None, 0.25, EVERYTHING, {"format": 0, "language": 0, "preference": 0.25}),
        (GOOD, None, 0.5, 0.25, REASONING, {"format": 1, "language": 0.5}),
        # Weights
        (GOOD, RIGHT, 0.5, None, RewardWeights(accuracy_weight=2, format_weight=0.5, language_weight=0.1),
         {"accuracy": 2, "format": 0.5, "language": 0.05}),
        (GOOD, RIGHT, 0.5, None, RewardWeights(accuracy_weight=0, format_weight=0), {}),
    ],
)  # fmt: skip
def test_the_parts_that_apply_add_up(
    parts: Parts,
    verdict: Verdict | None,
    consistency: float | None,
    preference: float | None,
    weights: RewardWeights,
    expected: dict[str, float],
) -> None:
    earned = reward(parts, verdict, consistency, preference, weights)
    assert earned.parts == pytest.approx(expected)
    assert earned.total == pytest.approx(sum(expected.values()))


@pytest.mark.parametrize(
    ("completion", "share"),
    [
        ("<think> a </think> <answer> 4 </answer>", 2.0),  # well formed: all of R_format
        ("<answer> 4 </answer> <think> a </think>", 1.0),  # each tag once, in the wrong order
        ("<think> a </think> <answer> 4", 0.75),
        ("<think> <think> a </think> 4", 0.25),  # one that stands twice earns nothing
        ("4", 0.0),
    ],
)
def test_a_part_of_the_format_can_be_earned_tag_by_tag(completion: str, share: float) -> None:
    parts = parse(completion, "zero")
    assert reward(parts, WRONG, None, None, RewardWeights(partial_format=0.5)).parts["format"] == share / 2
    assert reward(parts, WRONG, None, None, ZERO).parts["format"] == float(share == 2)
    assert "partial_format" not in canonical(ZERO)
    assert canonical(RewardWeights(partial_format=0.5))["partial_format"] == 0.5
