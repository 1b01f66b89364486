"""Accuracy + format + language (+ preference) -> Reward(total, parts).

R1-Zero: R_acc + R_format (DeepSeek-R1 eq. 4). Reasoning RL adds R_language (eq. 7), summed directly.
RL for all scenarios: a reasoning prompt gets R_rule + R_language, a general prompt its reward model's
score + R_format + R_language (eq. 8-10).

Where the paper is silent: every part is in [0, 1] before its weight; a completion that is not well formed
has no thinking and therefore no language reward; a thinking without words earns no language reward,
since dropping all words would otherwise be a way to full marks.
"""

from __future__ import annotations

from pydantic import Field

from data.language import Consistency, consistency
from data.lineage import WHEN_SET, Settings
from data.prompts import Parts, Template, parse
from data.records import Reward, Verdict


class RewardWeights(Settings):
    """How much each part of the reward counts; 0 leaves a part out."""

    accuracy_weight: float = Field(1.0, ge=0, description="R_acc: the answer is right")
    format_weight: float = Field(1.0, ge=0, description="R_format: the tags are where the template asks")
    partial_format: float = Field(
        0.0,
        ge=0,
        le=1,
        json_schema_extra=WHEN_SET,
        description="of R_format, for a completion that is not well formed but has each tag once; less with fewer tags",
    )
    language_weight: float = Field(0.0, ge=0, description="R_language: share of the thinking in the language asked")
    preference_weight: float = Field(0.0, ge=0, description="R_reward_model, on general prompts only")


def reading(response: str, template: Template, language: str) -> tuple[Parts, Consistency | None]:
    """Take a response apart, and measure its thinking in the language asked; None where it has no thinking."""
    parts = parse(response, template)
    return parts, consistency(parts.thinking, language) if parts.thinking is not None else None


def reward(
    parts: Parts,
    verdict: Verdict | None,
    consistency: float | None,
    preference: float | None,
    weights: RewardWeights,
) -> Reward:
    """Add up the parts of one completion's reward.

    `verdict` is None for general prompts and `preference` is None for reasoning problems; a part that
    does not apply is left out of `Reward.parts`, one that applies and is not earned is 0.
    """
    earned: dict[str, float] = {}
    if verdict is not None and weights.accuracy_weight:
        earned["accuracy"] = weights.accuracy_weight * (verdict.status == "correct")
    if weights.format_weight:
        placed = 1.0 if parts.well_formed else weights.partial_format * parts.tags
        earned["format"] = weights.format_weight * placed
    if weights.language_weight:
        earned["language"] = weights.language_weight * (consistency or 0.0)
    if preference is not None and weights.preference_weight:
        earned["preference"] = weights.preference_weight * preference
    return Reward(sum(earned.values()), earned)
