"""Completions, their judgement, and the table of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from data import rows
from data.lineage import Judge, Policy, Table
from data.prompts import Template, render
from data.records import Problem, Trajectory, Verdict
from data.store import write_table
from data.verifiers import VERIFIERS, Verifier, verify
from model import checkpoint
from model.transformer import RewardModel
from tasks.collect import GENERAL, JUDGE, RULED, ProblemsConfig, collect
from tasks.collect import as_frame as problems_as_frame
from tasks.rewards import RewardWeights
from tasks.rollout import (
    GenerateConfig,
    Sampling,
    Speaker,
    as_frame,
    complete,
    generate,
    load,
    mean_parts,
    rollout,
    speaker_in,
    trajectories_of,
)
from tasks.stage import Session

Make = Callable[..., Speaker]
Problems = Callable[..., list[Problem]]
SHIPPED = Path(__file__).parents[2] / "data" / "seeds" / "base"


def test_the_rules_are_those_of_the_verifiers() -> None:
    assert set(VERIFIERS) - {JUDGE} == RULED
    assert set(rows.VERIFIERS) == RULED - {"reasoning_gym"} | GENERAL.keys() | {JUDGE}


def test_a_completion_does_not_depend_on_what_is_drawn_beside_it(small: Make, problems: Problems) -> None:
    asked, speaker = problems(4), small()
    sampling = Sampling(num_generations=3, max_completion_length=8, seed=5)
    together = complete(speaker, asked, sampling, ("here",))
    assert [[each.ids for each in group] for group in complete(speaker, asked[1:2], sampling, ("here",))] == [
        [each.ids for each in together[1]]
    ]
    twin = replace(asked[0], id="chain/twin")  # the same question has a stream of its own under another id
    assert complete(speaker, [twin], sampling, ("here",))[0][0].ids != together[0][0].ids
    later = complete(speaker, asked, sampling, ("here",), firsts=[2] * 4)
    assert [group[0].ids for group in later] == [group[2].ids for group in together]
    for other in (complete(speaker, asked, sampling, ("there",)),
                  complete(speaker, asked, sampling.model_copy(update={"seed": 6}), ("here",))):  # fmt: skip
        assert [group[0].ids for group in other] != [group[0].ids for group in together]


def test_completions_are_judged_and_rewarded_by_their_text(problems: Problems) -> None:
    speaker = speaker_in(SHIPPED, "cpu")
    asked = problems(6, {"chain": 1.0, "choice": 1.0})
    sampling = Sampling(template="zero", num_generations=4, max_completion_length=64)
    groups = rollout(speaker, asked, sampling, RewardWeights(), step=7)
    assert [[each.id for each in group] for group in groups] == [
        [f"7/{problem.id}/{number}" for number in range(4)] for problem in asked
    ]
    flat = [each for group in groups for each in group]
    for each in flat:
        assert each.verdict == verify(each.problem, each.completion.text, "zero")
        assert each.reward.parts == {
            "accuracy": float(each.verdict.status == "correct"),
            "format": float(each.thinking is not None),
        }
        assert speaker.tokenizer.decode(list(each.completion.ids)).startswith(each.completion.text)
    assert len({each.reward.total for each in flat}) > 1
    means = mean_parts(flat)
    assert means["rewards/accuracy/mean"] == sum(t.reward.parts["accuracy"] for t in flat) / 24
    assert set(means) == {"rewards/accuracy/mean", "rewards/format/mean"}


def test_answers_are_judged_while_others_are_still_drawn(problems: Problems) -> None:
    speaker = speaker_in(SHIPPED, "cpu")
    asked = problems(6, {"chain": 1.0, "code": 1.0})
    sampling = Sampling(template="zero", num_generations=4, max_completion_length=64)
    drawn_at_verdict: list[int] = []
    drawn = 0

    class Noting(Verifier):
        def submit(self, problem: Problem, response: str, template: Template) -> Future[Verdict]:
            drawn_at_verdict.append(drawn)
            return super().submit(problem, response, template)

    def progress(done: int, total: int) -> None:
        nonlocal drawn
        drawn = done

    with Noting() as verifier:
        groups = rollout(speaker, asked, sampling, RewardWeights(), verifier=verifier, on_progress=progress)
    assert groups == rollout(speaker, asked, sampling, RewardWeights())
    assert len(drawn_at_verdict) == 24
    assert drawn_at_verdict == sorted(drawn_at_verdict)
    assert len(set(drawn_at_verdict)) > 2


BROKEN_GOLD = r"\frac{"


def test_a_stage_stops_where_too_many_verdicts_fail(plain: Session) -> None:
    broken = [
        Problem(f"mine/{n:06}", f"{n}", "mine", "en", f"what is {n} + 1?", BROKEN_GOLD, "math") for n in range(10, 16)
    ]
    base = write_policy(plain.runs, speaker_in(SHIPPED, "cpu"))
    asked = Table("problems", "collect", "0" * 12, plain.runs)
    asked.folder.mkdir(parents=True)
    write_table(asked.folder / "problems.parquet", problems_as_frame(broken))
    sampling = Sampling(template="zero", num_generations=4, max_completion_length=64)
    message = (
        r"^samples, problems 0 to 6: \d+ of 24 verdicts failed, more than infra_error_budget = 0\.01; "
        r"the first, of mine/00001\d/\d \(math\): gold: a brace without its other one$"
    )
    with pytest.raises(ValueError, match=message):
        generate("samples", base, asked, GenerateConfig(sampling=sampling))
    allowing = GenerateConfig(sampling=sampling, infra_error_budget=1.0)
    made = generate("samples", base, asked, allowing)
    assert made.fingerprint == generate("samples", base, asked, GenerateConfig(sampling=sampling)).fingerprint
    frame = trajectories_of(made).filter(verdict="infra_error")
    assert len(frame) > 1
    assert set(frame["reason_detail"]) == {"gold: a brace without its other one"}


def test_general_prompts_get_their_preference_and_no_verdict(small: Make, problems: Problems) -> None:
    asked = [*problems(1), *problems(2, {"helpful": 1.0})]
    seen: list[str] = []

    def prefer(trajectories: Sequence[Trajectory]) -> list[float]:
        seen.extend(each.id for each in trajectories)
        return [0.25 + 0.5 * index for index in range(len(trajectories))]

    sampling = Sampling(num_generations=1, max_completion_length=4)
    weights = RewardWeights(preference_weight=2.0)
    groups = rollout(small(), asked, sampling, weights, prefer=prefer)
    assert seen == [f"{problem.id}/0" for problem in asked[1:]]
    assert [group[0].verdict is None for group in groups] == [False, True, True]
    assert [group[0].reward.parts.get("preference") for group in groups] == [None, 0.5, 1.5]
    assert [group[0].reward.total for group in groups] == [0.0, 0.5, 1.5]


def test_sampling_leaves_the_mode_and_the_loads_as_they_were(small: Make, problems: Problems) -> None:
    speaker = small()
    [experts] = speaker.model.model.moe_layers()
    for training in (False, True):
        speaker.model.train(training)
        rollout(speaker, problems(2), Sampling(max_completion_length=4), RewardWeights())
        assert speaker.model.training == training
        assert experts.load.tolist() == [0] * 4


def test_the_table_holds_every_part(small: Make, problems: Problems) -> None:
    [[each]] = rollout(small(), problems(1), Sampling(num_generations=1, max_completion_length=4), RewardWeights())
    [row] = as_frame([each]).iter_rows(named=True)
    assert row["id"] == f"{each.problem.id}/0"
    assert row["prompt"] == each.problem.prompt
    assert row["completion"] == each.completion.text
    assert (row["tokens"], row["finish"]) == (4, "length")
    assert (row["verdict"], row["reward"]) == ("unparseable", 0.0)
    assert each.verdict == Verdict("unparseable", None, "malformed")
    assert (row["extracted"], row["reason_detail"]) == (None, "malformed")
    assert (row["reward_accuracy"], row["reward_language"], row["advantage"]) == (0.0, None, None)


def write_policy(runs: Path, speaker: Speaker, kind: type[Policy] = Policy) -> Policy:
    policy = kind("base", "adopt", "0" * 12, runs)
    policy.folder.mkdir(parents=True)
    model = RewardModel.from_policy(speaker.model) if kind is Judge else speaker.model
    checkpoint.save(policy.checkpoint, model, speaker.tokenizer)
    return policy


def test_a_policy_is_read_in_evaluation_mode(small: Make, plain: Session) -> None:
    speaker = small()
    speaker.model.train()
    read = load(write_policy(plain.runs, speaker), "cpu")
    assert not any(module.training for module in read.model.modules())
    tokens = torch.tensor([read.tokenizer.encode(render("1 + 1", "chat"))])
    torch.testing.assert_close(read.model(tokens), speaker.model.eval()(tokens))


def test_a_reward_model_does_not_speak(small: Make, plain: Session) -> None:
    judge = write_policy(plain.runs, small(), Judge)
    with pytest.raises(ValueError, match=r"adopt-0+/policy holds a reward model, which scores texts and writes none"):
        load(judge, "cpu")


@pytest.mark.parametrize(("general", "families"), [(False, {"chain"}), (True, {"helpful", "harmless"})])
def test_generate_asks_the_first_problems_of_one_kind(
    small: Make, plain: Session, general: bool, families: set[str]
) -> None:
    problems: Table = collect("problems", ProblemsConfig(count=6, general_count=10, families={"chain": 1.0}))
    config = GenerateConfig(sampling=Sampling(num_generations=2, max_completion_length=4), problems=5, general=general)
    made = generate("samples", write_policy(plain.runs, small()), problems, config)
    frame = trajectories_of(made)
    assert len(frame) == 10
    assert set(frame["family"]) == families
    summary = made.record()["summary"]
    assert summary["problems"] == 5
    assert summary["accuracy"] == (None if general else 0.0)
    assert summary["mean_length"] == 4


def test_generate_needs_problems_of_its_kind(small: Make, plain: Session) -> None:
    problems = collect("problems", ProblemsConfig(count=4, general_count=0))
    with pytest.raises(ValueError, match=rf"{problems.key} holds no general prompts"):
        generate("samples", write_policy(plain.runs, small()), problems, GenerateConfig(general=True))
