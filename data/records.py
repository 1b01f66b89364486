"""The rows that walk through the pipeline: a problem is asked, completed, scored and kept or dropped.

All are frozen; a row's id reads as the path it took (`<problem id>/<sample>`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

Language = Literal["en", "zh"]
Finish = Literal["stop", "length"]
Status = Literal["correct", "wrong", "unparseable", "timeout", "infra_error"]


@dataclass(frozen=True, slots=True)
class Problem:
    """One question with what it takes to judge an answer.

    `key` names the problem without its language: the Chinese and the English form of one problem
    share it, and the split into training and held-out problems hashes it.
    `solution` is the gold answer as text; for code it is a JSON list of `{"input", "output"}`,
    for general prompts the JSON rubric.
    """

    id: str
    key: str
    family: str
    language: str
    prompt: str
    solution: str
    verifier: str


@dataclass(frozen=True, slots=True)
class Completion:
    """What a policy answered: token ids, log-probabilities of those ids, text, and why it ended."""

    ids: tuple[int, ...]
    logprobs: tuple[float, ...]
    text: str
    finish: Finish


@dataclass(frozen=True, slots=True)
class Verdict:
    """A judgement of one answer: status, the extracted answer, and the reason in a few words."""

    status: Status
    answer: str | None = None
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Reward:
    """The scalar that is trained on, and the named parts whose sum it is."""

    total: float
    parts: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Trajectory:
    """One completion of one problem with all that was thought of it.

    `id` is `<problem id>/<sample>`, in training `<step>/<problem id>/<sample>`. `thinking` and `answer`
    are the completion taken apart, None where it is not well formed; `consistency` is the share of the
    thinking's words that are in the problem's language, None where it has no words; `verdict` is None
    for general prompts, which no rule judges, and `advantage` outside of training.
    """

    id: str
    problem: Problem
    completion: Completion
    thinking: str | None
    answer: str | None
    verdict: Verdict | None
    reward: Reward
    consistency: float | None
    reflections: int
    step: int = 0
    advantage: float | None = None


@dataclass(frozen=True, slots=True)
class Row:
    """One row of a fine-tuning set: prompt text as the model sees it, and the completion it learns.

    `id` is the id of the trajectory that it was made from.
    """

    id: str
    family: str
    language: str
    prompt: str
    completion: str
    source: str
