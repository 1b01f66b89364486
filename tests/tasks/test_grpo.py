"""The reinforcement loop on small real models: what is asked, what is learned, and that it repeats to the bit."""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import torch
from pydantic import Field, ValidationError
from torch import Tensor

from data.lineage import PLACE, Policy, Settings
from data.prompts import render
from data.records import Problem, Trajectory
from data.store import read_table
from model import checkpoint
from model.sampler import logprobs
from tasks import batch
from tasks.adopt import adopt
from tasks.collect import ProblemsConfig, collect, digest_of
from tasks.deck import Deck
from tasks.grpo import GRPOConfig, Learner, classroom, learner, minibatches, reinforce, train, update
from tasks.rollout import Prefer, Speaker, rollout, speaker_in
from tasks.stage import Metrics, Session, session

Make = Callable[..., Speaker]
Problems = Callable[..., list[Problem]]


def taught(
    student: Learner, reasoning: list[Problem], general: list[Problem], prefer: Prefer | None
) -> Iterator[tuple[int, Metrics, list[Trajectory]]]:
    """Train from the start on these problems."""
    return train(student, classroom(student.config, reasoning, general, prefer))


def config(**changes: Any) -> GRPOConfig:
    """A few short steps; completions of an untrained model never end by themselves."""
    few = {"max_steps": 4, "prompts_per_step": 4, "num_generations": 2, "steps_per_generation": 2,
           "max_completion_length": 6, "save_steps": 2, "ref_model_sync_steps": 2}  # fmt: skip
    return GRPOConfig(**{**few, **changes})


def by_number(trajectories: Sequence[Trajectory]) -> list[float]:
    """A preference that differs within every group: half a point for a sample with an odd number."""
    return [0.5 * (int(each.id.rsplit("/", 1)[1]) % 2) for each in trajectories]


GENERAL = {"general_prompts_per_step": 4, "preference_last_steps": 4, "preference_weight": 1.0}
"""With these every question is a general prompt, so that the preference alone decides."""


# What is asked.


def test_a_deck_deals_every_problem_once_an_epoch_whatever_the_portions(problems: Problems) -> None:
    ten = problems(10)
    deck = Deck(ten, (0, "reasoning"))
    dealt = [each.id for portion in (3, 4, 4, 7, 2) for each in deck.deal(portion)]
    for epoch in (dealt[:10], dealt[10:20]):
        assert sorted(epoch) == sorted(each.id for each in ten)
    assert dealt[:10] != dealt[10:20]
    assert [each.id for each in Deck(ten, (0, "reasoning")).deal(20)] == dealt
    assert [each.id for each in Deck(ten, (1, "reasoning")).deal(20)] != dealt


def asked(steps: Sequence[tuple[int, Any, list[Trajectory]]]) -> list[list[str]]:
    """Problem ids of each rollout, in the order asked."""
    return [list(dict.fromkeys(each.problem.id for each in flat)) for _, _, flat in steps if flat]


def test_general_prompts_come_in_the_last_steps_and_no_problem_twice_in_an_epoch(
    small: Make, problems: Problems
) -> None:
    reasoning, general = problems(28), problems(5, {"helpful": 1.0})
    settings = config(max_steps=8, general_prompts_per_step=1, preference_last_steps=4)
    rollouts = asked(list(taught(learner(small(), settings, "cpu"), reasoning, general, by_number)))
    of_general = [[name for name in each if name.startswith("helpful/")] for each in rollouts]
    assert [len(each) for each in of_general] == [0, 0, 2, 2]
    assert len(set(of_general[2] + of_general[3])) == 4
    of_reasoning = [name for each in rollouts for name in each if not name.startswith("helpful/")]
    assert [len(each) for each in rollouts] == [8, 8, 8, 8]
    assert sorted(of_reasoning) == sorted(each.id for each in reasoning)


def test_the_last_rollout_may_serve_fewer_steps(small: Make, problems: Problems) -> None:
    settings = config(max_steps=5)
    steps = list(taught(learner(small(), settings, "cpu"), problems(40), [], None))
    assert [step for step, _, _ in steps] == [1, 2, 3, 4, 5]
    assert [len(flat) for _, _, flat in steps] == [16, 0, 16, 0, 8]
    assert [metrics["groups_asked"] for _, metrics, flat in steps if flat] == [8, 8, 4]
    assert {metrics["num_tokens"] for _, metrics, _ in steps} == {8 * 6}
    everything = [name for rollout in asked(steps) for name in rollout]
    assert len(set(everything)) == 20


def test_a_problem_asked_again_in_one_rollout_is_sampled_anew(small: Make, problems: Problems) -> None:
    settings = config(max_steps=2)
    [(_, _, flat), _] = taught(learner(small(), settings, "cpu"), problems(3), [], None)
    assert len({each.id for each in flat}) == len(flat) == 16
    assert len({each.completion.ids for each in flat}) == 16


def test_minibatches_partition_a_rollout(problems: Problems, trajectory: Callable[..., Trajectory]) -> None:
    flat = [trajectory(problem, [1], [0.0]) for problem in problems(32)]
    settings = config(max_steps=10, steps_per_generation=4, save_steps=4, ref_model_sync_steps=4)
    parts = minibatches(flat, settings, 0)
    assert [len(part) for part in parts] == [8, 8, 8, 8]
    assert Counter(each.id for part in parts for each in part) == Counter(each.id for each in flat)
    assert [each.id for part in parts for each in part] != [each.id for each in flat]
    assert [len(part) for part in minibatches(flat, settings, 8)] == [16, 16]
    assert minibatches(flat, settings, 4) != parts


def test_dynamic_sampling_drops_groups_of_equal_rewards_and_refills(small: Make, problems: Problems) -> None:
    general = problems(24, {"helpful": 1.0})
    fickle = {each.id for each in general[::2]}

    def prefer(trajectories: Sequence[Trajectory]) -> list[float]:
        scores = by_number(trajectories)
        return [score if each.problem.id in fickle else 0.5 for each, score in zip(trajectories, scores, strict=True)]

    settings = config(max_steps=2, dynamic_sampling=True, **GENERAL | {"preference_last_steps": 2})
    [(_, metrics, flat), _] = taught(learner(small(), settings, "cpu"), [], general, prefer)
    order = [each.id for each in Deck(general, (0, "general")).deal(24)]
    kept = list(dict.fromkeys(each.problem.id for each in flat))
    assert kept == [name for name in order if name in fickle][:8]
    needed = order.index(kept[-1]) + 1
    assert 8 < needed <= metrics["groups_asked"] <= 24
    assert metrics["groups_asked"] % 8 == 0
    assert metrics["frac_reward_zero_std"] == 0


def test_dynamic_sampling_says_so_when_every_reward_is_equal(small: Make, problems: Problems) -> None:
    settings = config(dynamic_sampling=True)
    with pytest.raises(ValueError, match="step 1: every group's rewards were equal in 32 problems"):
        list(taught(learner(small(), settings, "cpu"), problems(40), [], None))


def with_broken_gold(problems: Sequence[Problem], broken: int) -> list[Problem]:
    """The first of the problems have a gold answer that nothing can be compared with."""
    return [replace(each, solution=r"\frac{") if n < broken else each for n, each in enumerate(problems)]


def judged(**changes: Any) -> GRPOConfig:
    """Steps of the shipped base, most of whose answers are well formed."""
    return config(template="zero", num_generations=4, max_completion_length=64, max_steps=2, **changes)


def test_a_group_with_an_infra_error_is_not_trained_on_but_counted(problems: Problems) -> None:
    mixed = with_broken_gold(problems(8), 2)
    student = learner(speaker_in(SHIPPED, "cpu"), judged(infra_error_budget=1.0), "cpu")
    [(_, metrics, flat), (_, after, _)] = taught(student, mixed, [], None)
    assert {each.problem.id for each in flat} == {each.id for each in mixed[2:]}
    assert all(each.verdict and each.verdict.status != "infra_error" for each in flat)
    assert len(flat) == 6 * 4
    assert 2 <= metrics["infra_errors"] <= 8
    assert metrics["groups_asked"] == 8
    assert 0 <= metrics["verdict_wait_time"] <= metrics["sampling_time"]
    assert metrics["verdict_time"] > 0
    assert after["loss"] != 0


def test_dynamic_sampling_refills_a_group_with_an_infra_error(problems: Problems) -> None:
    mixed = with_broken_gold(problems(16), 4)
    settings = judged(infra_error_budget=1.0, dynamic_sampling=True, prompts_per_step=2)
    [(_, metrics, flat), _] = taught(learner(speaker_in(SHIPPED, "cpu"), settings, "cpu"), mixed, [], None)
    assert len(flat) == 4 * 4
    assert metrics["groups_asked"] > 4
    assert not {each.problem.id for each in flat} & {each.id for each in mixed[:4]}


@pytest.mark.parametrize(
    ("broken", "budget", "message"),
    [
        (1, 0.01, r"step 1: \d of 32 verdicts failed, more than infra_error_budget = 0\.01; the first, of "
                  r"1/chain/000000/\d \(math\): gold: a brace without its other one"),
        (8, 1.0, r"step 1: every group had an infra_error, the first: .*gold: a brace without its other one"),
    ],
)  # fmt: skip
def test_past_the_budget_of_infra_errors_training_stops_and_says_why(
    problems: Problems, broken: int, budget: float, message: str
) -> None:
    settings = judged(infra_error_budget=budget)
    student = learner(speaker_in(SHIPPED, "cpu"), settings, "cpu")
    with pytest.raises(ValueError, match=message):
        list(taught(student, with_broken_gold(problems(8), broken), [], None))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_generations": 1}, "greater than or equal to 2"),
        ({"save_steps": 3}, "save_steps = 3 is not a multiple of steps_per_generation = 2"),
        ({"ref_model_sync_steps": 5}, "ref_model_sync_steps = 5 is not a multiple"),
        ({"general_prompts_per_step": 5}, "general_prompts_per_step = 5 is more than prompts_per_step = 4"),
        ({"preference_last_steps": 5}, "preference_last_steps = 5 is more than max_steps = 4"),
        ({"temperature": 0}, "greater than 0"),
    ],
)
def test_settings_that_do_not_fit_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        config(**changes)


# What is learned.


def moved(speaker: Speaker, seed: int) -> Speaker:
    """A copy of a policy, some way off."""
    model = copy.deepcopy(speaker.model)
    noise = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.02 * torch.randn(parameter.shape, generator=noise)
    return Speaker(model, speaker.tokenizer)


def plain_loss(speaker: Speaker, reference: Speaker, rollouts: Sequence[Trajectory], settings: GRPOConfig) -> Tensor:
    """The paper's objective with its sign turned, one completion and one token at a time."""
    total = torch.zeros(())
    tokens = sum(len(each.completion.ids) for each in rollouts)
    for each in rollouts:
        prompt = speaker.tokenizer.encode(render(each.problem.prompt, settings.template))
        ids = each.completion.ids
        whole = torch.tensor([[*prompt, *ids]])
        scores = (speaker.model(whole)[0] / settings.temperature).log_softmax(-1)
        held = (reference.model(whole)[0] / settings.temperature).log_softmax(-1).detach()
        for place, token in enumerate(ids):
            now, ref = scores[len(prompt) - 1 + place, token], held[len(prompt) - 1 + place, token]
            ratio = (now - each.completion.logprobs[place]).exp()
            bounded = ratio.clamp(1 - settings.epsilon, 1 + settings.epsilon)
            gain = torch.min(ratio * each.advantage, bounded * each.advantage)
            gain = gain - settings.beta * ((ref - now).exp() - (ref - now) - 1)
            total = total - gain * {
                "dapo": 1 / tokens,
                "grpo": 1 / (len(rollouts) * len(ids)),
                "dr_grpo": 1 / (len(rollouts) * settings.max_completion_length),
            }[settings.loss_type]  # fmt: skip
    return total


@pytest.mark.parametrize("loss_type", ["dapo", "grpo", "dr_grpo"])
@pytest.mark.parametrize("pass_tokens", [2000, 60])
def test_the_gradient_of_an_update_is_that_of_the_formula(
    small: Make, problems: Problems, trajectory: Callable[..., Trajectory], monkeypatch: pytest.MonkeyPatch,
    loss_type: str, pass_tokens: int,
) -> None:  # fmt: skip
    monkeypatch.setitem(batch.MICROBATCH_TOKENS, "cpu", pass_tokens)
    settings = config(loss_type=loss_type, beta=0.3, temperature=0.8, learning_rate=1.0, max_grad_norm=1e9)
    speaker, reference = small(), moved(small(), 1)
    sampled = rollout(speaker, problems(3), settings.sampling, settings)
    flat = [
        trajectory(each.problem, each.completion.ids[: 2 + number], each.completion.logprobs[: 2 + number], advantage)
        for number, (each, advantage) in enumerate(
            zip([t for group in sampled for t in group], [1.2, -0.7, 0.4, -1.1, 2.0, -0.3], strict=False)
        )
    ]  # fmt: skip
    now = moved(speaker, 2)
    loss = plain_loss(now, reference, flat, settings)
    expected = torch.autograd.grad(loss, list(now.model.parameters()))
    before = [parameter.detach().clone() for parameter in now.model.parameters()]
    descent = torch.optim.SGD(now.model.parameters(), lr=1.0)
    metrics = update(Learner(now, reference.model, descent, settings, "cpu"), flat, 1)
    assert metrics["loss"] == pytest.approx(loss.item(), rel=1e-4)
    assert metrics["clip_ratio/low_mean"] + metrics["clip_ratio/high_mean"] > 0
    assert metrics["grad_norm"] == pytest.approx(torch.stack([g.square().sum() for g in expected]).sum().sqrt().item(),
                                                 rel=1e-3)  # fmt: skip
    for parameter, old, gradient in zip(now.model.parameters(), before, expected, strict=True):
        torch.testing.assert_close(old - parameter, gradient, rtol=2e-3, atol=2e-5)


def test_sampled_log_probabilities_are_the_trainers(small: Make, problems: Problems) -> None:
    settings = config(temperature=0.7, beta=0.1, **GENERAL)
    speaker = small()
    student = learner(speaker, settings, "cpu")
    start = copy.deepcopy(speaker.model)
    [first, second, *_] = taught(student, [], problems(20, {"helpful": 1.0}), by_number)
    for each in first[2]:
        prompt = speaker.tokenizer.encode(render(each.problem.prompt, "chat"))
        with torch.no_grad():
            values = logprobs(start, torch.tensor([[*prompt, *each.completion.ids]]), temperature=0.7)
        assert isinstance(values, Tensor)
        torch.testing.assert_close(
            torch.tensor(each.completion.logprobs), values[0, len(prompt) - 1 :], rtol=1e-4, atol=1e-4
        )
    assert first[1]["kl"] == 0
    assert first[1]["clip_ratio/low_mean"] == first[1]["clip_ratio/high_mean"] == 0
    assert second[1]["kl"] > 0


def test_the_reference_follows_at_the_refresh_only(
    small: Make, problems: Problems, digest: Callable[[torch.nn.Module], str]
) -> None:
    settings = config(max_steps=6, ref_model_sync_steps=4, **GENERAL | {"preference_last_steps": 6})
    student = learner(small(), settings, "cpu")
    assert student.reference is not None
    policies, references = [digest(student.speaker.model)], []
    for _ in taught(student, [], problems(60, {"helpful": 1.0}), by_number):
        policies.append(digest(student.speaker.model))
        references.append(digest(student.reference))
    assert len(set(policies)) == 7
    assert references == [policies[0]] * 4 + [policies[4]] * 2


def test_without_beta_there_is_no_reference(small: Make, problems: Problems) -> None:
    student = learner(small(), config(beta=0), "cpu")
    assert student.reference is None
    assert [metrics["kl"] for _, metrics, _ in taught(student, problems(20), [], None)] == [0.0] * 4


def test_truncated_completions_are_left_out_of_the_loss(
    small: Make, problems: Problems, trajectory: Callable[..., Trajectory], digest: Callable[[torch.nn.Module], str]
) -> None:
    whole, cut = (
        trajectory(problem, [300, 301, 302], [-5.0, -5.0, -5.0], advantage, finish)
        for problem, advantage, finish in zip(problems(2), (1.0, -1.0), ("stop", "length"), strict=True)
    )
    states = {}
    for name, masked, minibatch in (("both", False, [whole, cut]), ("masked", True, [whole, cut]),
                                    ("whole", True, [whole]), ("none", True, [cut])):  # fmt: skip
        student = learner(small(), config(mask_truncated_completions=masked), "cpu")
        metrics = update(student, minibatch, 1)
        assert metrics["num_tokens"] == {"both": 6, "masked": 3, "whole": 3, "none": 0}[name]
        states[name] = digest(student.speaker.model)
    assert states["masked"] == states["whole"] != states["both"]
    assert states["none"] == digest(small().model)


def test_the_rate_warms_up(small: Make, problems: Problems) -> None:
    student = learner(small(), config(warmup_steps=4, max_steps=6, learning_rate=1e-3), "cpu")
    rates = [metrics["learning_rate"] for _, metrics, _ in taught(student, problems(40), [], None)]
    assert rates == pytest.approx([0.25e-3, 0.5e-3, 0.75e-3, 1e-3, 1e-3, 1e-3])


def test_training_ends_in_evaluation_mode_and_leaves_the_gate_alone(small: Make, problems: Problems) -> None:
    speaker = small()
    speaker.model.train()
    student = learner(speaker, config(**GENERAL), "cpu")
    told = [metrics for _, metrics, _ in taught(student, [], problems(20, {"helpful": 1.0}), by_number)]
    assert all(0 < metrics["max_violation/layer_1"] <= 1 for metrics in told)  # at most 2 of 4 experts are idle
    assert student.reference is not None
    for model in (speaker.model, student.reference):
        assert not any(module.training for module in model.modules())
        [experts] = model.model.moe_layers()
        assert experts.load.tolist() == [0] * 4
        assert experts.gate.e_score_correction_bias.tolist() == [0.0] * 4


# The stage.


SHIPPED = Path(__file__).parents[2] / "data" / "seeds" / "base"
"""The base that ships: its answers earn different rewards, an untrained model's do not."""


class Folder(Settings):
    path: Path = Field(SHIPPED, json_schema_extra=PLACE)
    digest: str


@pytest.fixture
def start(plain: Session) -> Policy:
    return adopt("base", Folder(digest=digest_of(SHIPPED)))


def test_a_rerun_gives_the_same_bits(start: Policy, tmp_path: Path) -> None:
    settings = config(
        template="zero",
        num_generations=4,
        general_prompts_per_step=1,
        preference_last_steps=2,
        max_completion_length=48,
    )
    made = []
    for place in ("first", "second"):
        with session(Session(tmp_path / place, "plain")):
            problems = collect("problems", ProblemsConfig(count=20, general_count=8))
            made.append(reinforce("zero", start, problems, settings))
    ours, theirs = (each.record() for each in made)
    assert ours["fingerprint"] == theirs["fingerprint"]
    weights = sorted(name for name in ours["files"] if name.endswith(".safetensors"))
    folders = ["checkpoints/step-000002", "policy"]
    assert weights == [f"{folder}/{part}.safetensors" for folder in folders for part in ("model", "mtp")]
    for name in (*weights, "trajectories.parquet"):
        assert ours["files"][name] == theirs["files"][name]
    trained = {ours["files"][f"{folder}/model.safetensors"] for folder in folders}
    assert len({*trained, start.record()["files"]["policy/model.safetensors"]}) == 3
    assert ours["files"][f"{folders[0]}/mtp.safetensors"] == ours["files"]["policy/mtp.safetensors"]  # not trained


def test_the_stage_writes_what_its_loop_did(start: Policy, plain: Session) -> None:
    problems = collect("problems", ProblemsConfig(count=20, general_count=0))
    policy = reinforce("zero", start, problems, config())
    frame = read_table(policy.folder / "trajectories.parquet")
    assert frame.group_by("step").len().sort("step").rows() == [(1, 16), (3, 16)]
    assert frame["id"].n_unique() == 32
    assert frame.filter(pl.col("advantage").is_null()).is_empty()
    assert policy.record()["summary"]["steps"] == 4
    saved, _ = checkpoint.load(policy.checkpoint)
    assert not saved.training


@pytest.mark.parametrize(
    ("collected", "changes", "message"),
    [
        ({"count": 0, "general_count": 4}, {}, "holds no reasoning problems to learn from"),
        ({"count": 4, "general_count": 0}, GENERAL | {"general_prompts_per_step": 1}, "holds no general prompts"),
    ],
)
def test_too_few_kinds_of_problems_are_named(
    start: Policy, plain: Session, collected: dict[str, Any], changes: dict[str, Any], message: str
) -> None:
    problems = collect("problems", ProblemsConfig(**collected))
    with pytest.raises(ValueError, match=message):
        reinforce("zero", start, problems, config(**changes))
