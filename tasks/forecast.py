"""What each stage of a plan would take, from the pace of its bases.

How long answers become and how many are right cannot be known before; both are taken to rise in RL as they do in
the miniature: over some 40 updates, answers to two fifths of the length allowed, and three in four of them right.
What has read on is taken to answer as SmolLM2-135M did after the mid-training of `small`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import ceil
from typing import Any, Final

from tasks.pace import Pace
from tasks.stage import Step

GROWN_STEPS: Final = 40
GROWN_LENGTH: Final = 0.42
GROWN_ACCURACY: Final = 0.75
KEPT_OF_RIGHT: Final = 0.5
"""Of the right answers, those that a curation keeps."""
EXAMPLES: Final = 0.35
"""Of the answers to general prompts, the examples of each reward model; half of them have two texts."""
GATE_S: Final = 8.0
"""The red team's attempts at the rewards before the first RL, on one core."""
READ_ON_TOKENS: Final = 28.0
READ_ON_ACCURACY: Final = 0.13
"""Of an answer after mid-training, and of those the right ones."""
DOCUMENT_S: Final = 1e-4
"""A document about a problem written and cut into tokens, on one core."""
LIGHT_S: Final = 0.2
"""Stages that neither sample nor learn."""
HEAVY_S: Final = 0.7
"""What other stages take beside that: weights read and written, judges started."""
REPORT_S: Final = 4.0
"""The report's pictures and intervals."""


@dataclass(frozen=True, slots=True)
class Supply:
    """How many problems a table holds."""

    reasoning: int
    general: int


@dataclass(frozen=True, slots=True)
class Policy:
    """What is expected of a policy: whose pace it has, the length of its answers, and the share that is right."""

    pace: Pace
    length: float
    accuracy: float


@dataclass(frozen=True, slots=True)
class Forecast:
    """Seconds and bytes of one stage."""

    name: str
    seconds: float
    peak: int


class Forecaster:
    """Goes through a plan stage by stage, and keeps what is expected of what each makes."""

    def __init__(
        self, paces: Mapping[str, Pace], supplies: Mapping[str, Supply], heldout_text: Mapping[str, int] | None = None,
        known: Mapping[str, float] | None = None,
    ) -> None:  # fmt: skip
        """`heldout_text` holds the tokens of the text that is held out of mid-training, by what reads on; `known`
        the seconds of stages that were tried whole."""
        self._paces, self._supplies = paces, dict(supplies)
        self._heldout_text, self._known = heldout_text or {}, known or {}
        self._policies: dict[str, Policy] = {}
        self._rows: dict[str, tuple[float, Policy]] = {}
        self._checkpoints: dict[str, int] = {}
        self._gated = False

    def of(self, steps: Sequence[Step]) -> list[Forecast]:
        """Forecasts of the stages, in the order of the plan."""
        return [Forecast(step.artifact.name, *self._stage(step)) for step in steps]

    def _stage(self, step: Step) -> tuple[float, int]:
        if step.artifact.name in self._known:
            return self._known[step.artifact.name], 0
        told = getattr(self, f"_{step.artifact.stage}", None)
        if told is None:
            return LIGHT_S, 0
        seconds, peak = told(step, step.config.get("config", {}))
        return seconds + HEAVY_S * (peak > 0), peak

    def _policy(self, step: Step) -> Policy:
        name = step.parents["policy"][0].name
        if name not in self._policies:
            pace = self._paces["student" if name.startswith("student") and "student" in self._paces else "base"]
            self._policies[name] = Policy(pace, pace.answer, pace.accuracy)
        return self._policies[name]

    def _asks(self, policy: Policy, answers: float) -> float:
        return answers * policy.length * policy.pace.sampled_token_s

    def _midtrain(self, step: Step, config: Mapping[str, Any]) -> tuple[float, int]:
        pace = self._policy(step).pace
        self._policies[step.artifact.name] = Policy(pace, READ_ON_TOKENS, READ_ON_ACCURACY)
        tokens = config["max_steps"] * config["batch_size"] * config["sequence_length"]
        losses = 2 * self._heldout_text.get(step.artifact.name, 0) * pace.reading.token_s / 3  # no backward pass
        seconds = pace.reading.seconds(config["max_steps"], tokens) + losses + config["documents"] * DOCUMENT_S
        return seconds, pace.bytes_reading

    def _reinforce(self, step: Step, config: Mapping[str, Any]) -> tuple[float, int]:
        policy, steps = self._policy(step), config["max_steps"]
        target = max(policy.length, GROWN_LENGTH * config["max_completion_length"])
        grown = min(1.0, steps / GROWN_STEPS)
        end = policy.length + (target - policy.length) * grown
        right = max(policy.accuracy, policy.accuracy + (GROWN_ACCURACY - policy.accuracy) * grown)
        growing = min(steps, GROWN_STEPS) / steps
        mean = growing * (policy.length + end) / 2 + (1 - growing) * end
        self._policies[step.artifact.name] = Policy(policy.pace, end, right)
        self._checkpoints[step.artifact.name] = (steps - 1) // config["save_steps"]
        answers = steps * config["prompts_per_step"] * config["num_generations"]
        gate, self._gated = (0.0 if self._gated else GATE_S), True
        pace = policy.pace
        learning = pace.reinforcing.seconds(steps, answers * (pace.prompt + mean))
        return gate + self._asks(Policy(pace, mean, right), answers) + learning, pace.bytes_reinforcing

    def _generate(self, step: Step, config: Mapping[str, Any]) -> tuple[float, int]:
        policy, supply = self._policy(step), self._supplies[step.parents["problems"][0].name]
        asked = min(config["problems"], supply.general if config["general"] else supply.reasoning)
        answers = asked * config["sampling"]["num_generations"]
        self._rows[step.artifact.name] = answers, policy
        return self._asks(policy, answers), policy.pace.bytes_sampling

    def _curate(self, step: Step, config: Mapping[str, Any]) -> tuple[float, int]:
        answers, policy = self._rows.get(step.parents["trajectories"][0].name, (0.0, None))
        if policy is None:
            return LIGHT_S, 0
        kept = answers * policy.accuracy * KEPT_OF_RIGHT
        kept = min(kept, config["max_rows"]) if config["max_rows"] else kept
        self._rows[step.artifact.name] = kept / (1 - config["general_share"]), policy
        return LIGHT_S, 0

    def _finetune(self, step: Step, config: Mapping[str, Any]) -> tuple[float, int]:
        learns, (rows, teacher) = self._policy(step), self._rows[step.parents["rows"][0].name]
        self._policies[step.artifact.name] = Policy(learns.pace, teacher.length, teacher.accuracy)
        steps = config["num_train_epochs"] * ceil(rows / config["batch_size"])
        tokens = config["num_train_epochs"] * rows * (learns.pace.prompt + teacher.length)
        return learns.pace.tuning.seconds(steps, tokens), learns.pace.bytes_tuning

    def _train_judge(self, step: Step, config: Mapping[str, Any]) -> tuple[float, int]:
        policy = self._policy(step)
        answers = next((rows for name, (rows, _) in self._rows.items() if name.startswith("general_samples")), 0.0)
        examples = config["num_train_epochs"] * answers * EXAMPLES
        tokens = 1.5 * examples * (policy.pace.prompt + policy.length)
        return policy.pace.tuning.seconds(examples / config["batch_size"], tokens), policy.pace.bytes_tuning

    def _evaluate(self, step: Step, config: Mapping[str, Any]) -> tuple[float, int]:
        policy, supply = self._policy(step), self._supplies[step.parents["problems"][0].name]
        answers = supply.reasoning * config["num_generations"] + supply.general * config["general_generations"]
        return self._asks(policy, answers), policy.pace.bytes_sampling

    def _trace_curve(self, step: Step, config: Mapping[str, Any]) -> tuple[float, int]:
        policy, supply = self._policy(step), self._supplies[step.parents["problems"][0].name]
        inside = self._checkpoints.get(step.parents["policy"][0].name, 0)
        return self._asks(policy, inside * supply.reasoning * config["num_generations"]), policy.pace.bytes_sampling

    def _sift(self, step: Step, config: Mapping[str, Any]) -> tuple[float, int]:
        policy, name = self._policy(step), step.parents["problems"][0].name
        self._supplies[step.artifact.name] = self._supplies[name]
        return self._asks(
            policy, self._supplies[name].reasoning * config["num_generations"]
        ), policy.pace.bytes_sampling

    def _report(self, step: Step, config: Mapping[str, Any]) -> tuple[float, int]:
        return REPORT_S, 0
