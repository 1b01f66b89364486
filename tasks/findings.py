"""What DeepSeek-R1 found, and whether a run shows it: paired differences over held-out problems.

The intervals cover the choice of problems and the sampling of answers. They do not cover another seed of
training: two runs of one recipe with different seeds may differ by more.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from data.lineage import Json
from tasks.evaluate import EvaluationConfig, paired_difference

Scores = Mapping[str, Mapping[str, Mapping[str, float]]]
"""Model -> measure -> problem -> value."""

Sense = Literal["rises", "falls", "holds"]
Verdict = Literal["shows", "does not show", "unclear"]

MARGIN = 0.05
"""A share "holds" when its interval reaches zero or above and no more than this below it."""

COUNTS = frozenset({"mean_length", "reflection_per_response"})
"""Measures in tokens or words a response; the others are shares in [0, 1]."""


@dataclass(frozen=True, slots=True)
class Claim:
    """A finding: a measure of one model against that of another, or against a number."""

    name: str
    paper: str
    before: tuple[str, str] | float
    after: tuple[str, str]
    sense: Sense = "rises"


CLAIMS: tuple[Claim, ...] = (
    Claim("RL alone, from the base, raises pass@1", "AIME 2024: 15.6 → 77.9",
          ("base", "pass@1"), ("zero", "pass@1")),
    Claim("Zero's majority vote is above its single answers", "AIME 2024: pass@1 77.9, cons@16 86.7",
          ("zero", "pass@1"), ("zero", "cons")),
    Claim("Responses grow longer under RL", "0.5k → 9.6k tokens at step 8,400",
          ("base", "mean_length"), ("zero", "mean_length")),
    Claim("Reflection grows under RL", "5 to 7 times as many reflection words",
          ("base", "reflection_per_response"), ("zero", "reflection_per_response")),
    Claim("Zero mixes languages", "reported, no figure given",
          ("base", "language_consistency"), ("zero", "language_consistency"), "falls"),
    Claim("The cold start costs accuracy", "AIME 2024: 77.9 → 59.0",
          ("zero", "pass@1"), ("dev1", "pass@1"), "falls"),
    Claim("The cold start brings thinking into the reader's language", "reported; ArenaHard 53.6 → 77.0",
          ("zero", "language_consistency"), ("dev1", "language_consistency")),
    Claim("The cold start ends answers with a summary", "reported; IF-Eval 46.6 → 71.7",
          ("zero", "summary"), ("dev1", "summary")),
    Claim("Reasoning RL brings the accuracy back", "AIME 2024: 59.0 → 74.0",
          ("dev1", "pass@1"), ("dev2", "pass@1")),
    Claim("The language reward keeps thinking in one language", "stable with it, decays without (Fig. 7)",
          ("dev2_without_language_reward", "language_consistency"), ("dev2", "language_consistency")),
    Claim("With its reward, at least 97 % of the thinking is in the language asked", "stable (Fig. 7)",
          0.97, ("dev2", "language_consistency")),
    Claim("The language reward costs little accuracy", "mathematics comparable, code slightly lower (Fig. 7)",
          ("dev2_without_language_reward", "pass@1"), ("dev2", "pass@1"), "holds"),
    Claim("The last RL lifts preference: win rate of R1 against Dev3", "AlpacaEval 2.0: 62.1 → 87.6",
          0.5, ("r1", "helpful_win_rate")),
    Claim("The last RL lifts harmlessness", "not given by stage; R1 95.0 over six benchmarks",
          ("dev3", "safe"), ("r1", "safe")),
    Claim("The last RL keeps reasoning", "AIME 2024: 78.1 → 79.8",
          ("dev3", "pass@1"), ("r1", "pass@1"), "holds"),
    Claim("On the small model, distillation beats RL", "Qwen-32B, AIME 2024: RL 47.0, distilled 72.6",
          ("student_rl", "pass@1"), ("student_distilled", "pass@1")),
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Finding:
    """A claim with its means and the interval of their difference; None where nothing was measured."""

    claim: Claim
    before: float | None
    after: float | None
    difference: dict[str, float] | None
    verdict: Verdict

    def as_json(self) -> dict[str, Json]:
        """Return the entry of `findings.json`."""
        claim = self.claim
        return {
            "name": claim.name,
            "paper": claim.paper,
            "before": {"of": _of(claim.before), "value": self.before},
            "after": {"of": _of(claim.after), "value": self.after},
            "ours": self.difference,
            "looked_for": claim.sense,
            "verdict": self.verdict,
        }


def scale_of(measure: str) -> float:
    """Return what a measure is multiplied with to be read: shares are read in percent."""
    return 1.0 if measure in COUNTS else 100.0


def find(claim: Claim, scores: Scores, config: EvaluationConfig) -> Finding:
    """Measure a claim on the problems that both of its sides have a value for."""
    after = _values(scores, claim.after)
    before = _values(scores, claim.before, like=after)
    shared = sorted(before.keys() & after.keys())
    if not shared:
        return Finding(claim, None, None, None, "unclear")
    theirs, ours = [before[problem] for problem in shared], [after[problem] for problem in shared]
    difference = paired_difference(ours, theirs, config)
    means = sum(theirs) / len(shared), sum(ours) / len(shared)
    return Finding(claim, *means, difference, verdict(difference, claim.sense))


def verdict(difference: Mapping[str, float], sense: Sense) -> Verdict:
    """Judge an interval: wholly on the looked-for side of zero, wholly off it, or neither."""
    low, high = difference["low"], difference["high"]
    if sense == "holds":
        if high < 0:
            return "does not show"
        return "shows" if low > -MARGIN else "unclear"
    if sense == "falls":
        low, high = -high, -low
    if low > 0:
        return "shows"
    return "does not show" if high <= 0 else "unclear"


def _values(
    scores: Scores, side: tuple[str, str] | float, like: Mapping[str, float] | None = None
) -> Mapping[str, float]:
    """Values by problem of one side of a claim; a number stands for itself on every problem of `like`."""
    if isinstance(side, float):
        return dict.fromkeys(like or {}, side)
    model, measure = side
    return scores.get(model, {}).get(measure, {})


def _of(side: tuple[str, str] | float) -> str:
    return str(side) if isinstance(side, float) else " ".join(side)
