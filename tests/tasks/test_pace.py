"""What a base is measured at, and what a plan would take by that."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from data.records import Problem
from data.sandbox import choose
from flows.plan import plan
from flows.recipe import Recipe, load
from model import checkpoint
from model.device import memory_of
from tasks.forecast import DOCUMENT_S, GATE_S, HEAVY_S, LIGHT_S, REPORT_S, Forecast, Forecaster, Supply
from tasks.grpo import GRPOConfig
from tasks.midtrain import MidtrainConfig
from tasks.pace import (
    ASKED,
    OPERATIONS,
    Lesson,
    Line,
    Pace,
    _asked,
    _learned,
    _through,
    measure,
    measured,
    parameters_of,
    parts_of,
    shortage,
)
from tasks.rollout import Speaker
from tasks.sft import SFTConfig

PACE = Pace(
    sampled_token_s=0.001, tuning=Line(0.5, 0.002), reinforcing=Line(0.25, 0.004), prompt=30.0, answer=20.0,
    accuracy=0.2, bytes_sampling=1, bytes_tuning=2, bytes_reinforcing=3,
)  # fmt: skip
SUPPLIES = {"problems": Supply(200, 60), "heldout": Supply(10, 10)}


def forecast(recipe: Recipe, runs: Path, **paces: Pace) -> dict[str, Forecast]:
    found = Forecaster(paces or {"base": PACE}, SUPPLIES).of(plan(recipe, runs))
    return {each.name: each for each in found}


def test_every_stage_of_a_plan_has_a_forecast_by_hand(tmp_path: Path) -> None:
    recipe = load("tiny")
    found = forecast(recipe, tmp_path)
    assert list(found) == [step.artifact.name for step in plan(recipe, tmp_path)]
    # Four updates are a tenth of those that answers grow in: from 20 to 20 + (0.42 x 192 - 20) / 10 tokens.
    end = 20 + (0.42 * 192 - 20) / 10
    mean, right = (20 + end) / 2, 0.2 + (0.75 - 0.2) / 10
    answers = 4 * 8 * 4
    zero = HEAVY_S + GATE_S + answers * mean * 0.001 + 4 * 0.25 + answers * (30 + mean) * 0.004
    assert found["zero"].seconds == pytest.approx(zero)
    assert found["cold_samples"].seconds == pytest.approx(HEAVY_S + 160 * 4 * end * 0.001)
    rows = 160 * 4 * right * 0.5 / 0.9
    steps = 10 * -(-rows // 16)
    assert found["dev1"].seconds == pytest.approx(HEAVY_S + steps * 0.5 + 10 * rows * (30 + end) * 0.002)
    assert found["base_evaluation"].seconds == pytest.approx(HEAVY_S + (10 * 4 + 10 * 2) * 20 * 0.001)
    assert found["dev1_evaluation"].seconds == pytest.approx(HEAVY_S + (10 * 4 + 10 * 2) * end * 0.001)
    assert found["zero_curve"].seconds == pytest.approx(HEAVY_S + 1 * 10 * 4 * end * 0.001)
    assert (found["problems"].seconds, found["report"].seconds) == (LIGHT_S, REPORT_S)
    assert (found["zero"].peak, found["dev1"].peak, found["base_evaluation"].peak) == (3, 2, 1)


def test_a_student_has_its_own_pace_and_only_the_first_rl_waits_for_the_gate(tmp_path: Path) -> None:
    fast = Pace(0.0, Line(0.0, 0.0), Line(0.0, 0.0), 30.0, 20.0, 0.2, 1, 2, 3)
    found = forecast(load("tiny"), tmp_path, base=PACE, student=fast)
    assert found["student_rl"].seconds == found["student_distilled"].seconds == HEAVY_S
    assert found["zero"].seconds > GATE_S
    assert forecast(load("tiny"), tmp_path, base=fast)["zero"].seconds == HEAVY_S + GATE_S


READING = """
[base]
path = "seed:base"
[base.midtrain]
max_steps = 3
batch_size = 8
sequence_length = 64
documents = 5000
[student]
path = "seed:student"
[direct]
template = "zero"
max_steps = 40
prompts_per_step = 2
num_generations = 4
save_steps = 40
[zero]
max_steps = 40
prompts_per_step = 2
num_generations = 4
max_completion_length = 100
save_steps = 40
"""


def test_what_reads_on_takes_its_text_its_documents_and_answers_otherwise_after(tmp_path: Path) -> None:
    (tmp_path / "mine.toml").write_text(READING)
    recipe = load(str(tmp_path / "mine.toml"))
    paces = {"base": replace(PACE, reading=Line(0.3, 0.006), bytes_reading=4)}
    steps = plan(recipe, tmp_path)
    told = Forecaster(paces, SUPPLIES, {"base": 900}, {"base_untouched": 12.5}).of(steps)
    found = {each.name: each for each in told}
    assert (found["base_untouched"].seconds, found["base_untouched"].peak) == (12.5, 0)
    reading = 3 * 0.3 + 3 * 8 * 64 * 0.006 + 2 * 900 * 0.006 / 3 + 5000 * DOCUMENT_S
    assert found["base"].seconds == pytest.approx(HEAVY_S + reading)
    assert found["base"].peak == 4
    learning = 40 * 0.25 + 320 * (30 + (28 + 42) / 2) * 0.004
    assert found["zero"].seconds == pytest.approx(HEAVY_S + 320 * (28 + 42) / 2 * 0.001 + learning)
    end = 0.42 * 192
    learning = 40 * 0.25 + 320 * (30 + (20 + end) / 2) * 0.004
    assert found["direct"].seconds == pytest.approx(HEAVY_S + GATE_S + 320 * (20 + end) / 2 * 0.001 + learning)


def test_answers_grow_no_further_than_they_can_be_long_and_sifting_asks_every_problem(tmp_path: Path) -> None:
    recipe = load("tiny", ["difficulty.num_generations=8", "zero.max_steps=400"])
    found = forecast(recipe, tmp_path)
    assert found["sifted_problems"].seconds == pytest.approx(HEAVY_S + 200 * 8 * 20 * 0.001)
    assert found["cold_samples"].seconds == pytest.approx(HEAVY_S + 160 * 4 * 0.42 * 192 * 0.001)


# Memory.


def test_a_device_that_is_too_small_is_told_with_each_part_and_what_would_fit() -> None:
    parts = parts_of(1_000_000_000, beta=0.001)
    assert parts == {"weights": 4 * 10**9, "gradients": 4 * 10**9, "AdamW": 8 * 10**9, "reference": 4 * 10**9}
    assert shortage("RL on cuda", parts, 20 * 10**9) is None
    assert shortage("RL on cuda", parts, 20 * 10**9 - 1) == (
        "RL on cuda: weights 4.0 GB, gradients 4.0 GB, AdamW 8.0 GB, reference 4.0 GB: 20.0 GB beside the activations, "
        "and the device has 20.0 GB; beta = 0, which needs no reference, would fit with 16.0 GB"
    )
    told = shortage("RL on cuda", parts, 8 * 10**9)
    assert told is not None
    assert told.endswith("a base of at most 500,000,000 parameters would fit, with beta = 0")
    assert shortage("RL", parts_of(1_000_000_000, beta=0.0), 16 * 10**9) is None
    assert memory_of("cpu") > 2**30


def test_an_adapter_is_told_by_what_is_trained_and_what_stands_still() -> None:
    parts = parts_of(10_000_000, beta=0.001, frozen_bytes=2 * 10**9)
    assert parts == {"weights": 204 * 10**7, "gradients": 4 * 10**7, "AdamW": 8 * 10**7, "reference": 4 * 10**7}
    told = shortage("RL", parts, 10**9, parameters=1_000_000_000)
    assert told is not None
    assert told.endswith("a base of at most 462,962,962 parameters would fit, with beta = 0")


def test_a_base_is_measured(small: Callable[..., Speaker], problems: Callable[..., list[Problem]]) -> None:
    config = GRPOConfig(template="zero", num_generations=4, max_completion_length=16)
    lesson = Lesson(config, SFTConfig(mtp_lambda=0.0))
    found = measure(small(), problems(8), lesson, "cpu", choose(allow_rlimit=True))
    assert (found.answer, found.accuracy) == (16.0, 0.0)  # an untrained model never ends by itself
    assert 10 < found.prompt < 40
    assert 0 < found.sampled_token_s < 1
    for line in (found.tuning, found.reinforcing):
        assert line.step_s >= 0
        assert line.token_s >= 0
        assert 0 < line.seconds(1, 32 * (found.prompt + found.answer)) < 60
    assert (found.reading, found.bytes_reading) == (Line(0.0, 0.0), 0)
    assert 0 < found.bytes_sampling <= found.bytes_tuning <= found.bytes_reinforcing < memory_of("cpu")


def test_a_line_goes_through_its_two_steps() -> None:
    assert _through(3.0, 7.0, 10, 50) == Line(2.0, 0.1)
    assert _through(3.0, 2.0, 10, 50) == Line(3.0, 0.0)
    assert _through(3.0, 2.0, 10, 10) == Line(3.0, 0.0)


def test_a_large_model_is_timed_on_fewer_answers(
    small: Callable[..., Speaker], monkeypatch: pytest.MonkeyPatch
) -> None:
    speaker = small()
    config = GRPOConfig(template="zero", num_generations=4, max_completion_length=16)
    per_problem = 2 * parameters_of(speaker) * 4 * 16
    assert _asked(speaker, config, "cpu") == ASKED
    monkeypatch.setitem(OPERATIONS, "cpu", 3 * per_problem)
    assert _asked(speaker, config, "cpu") == 3
    monkeypatch.setitem(OPERATIONS, "cpu", 1)
    assert (_asked(speaker, config, "cpu"), _learned(speaker, 50.0, "cpu")) == (1, 2)


def test_two_processes_time_the_same_together(
    small: Callable[..., Speaker], problems: Callable[..., list[Problem]], tmp_path: Path
) -> None:
    speaker = small()
    checkpoint.save(tmp_path / "policy", speaker.model, speaker.tokenizer)
    config = GRPOConfig(template="zero", num_generations=4, max_completion_length=8)
    reading = MidtrainConfig(sequence_length=32, batch_size=3)
    lesson = Lesson(config, SFTConfig(mtp_lambda=0.0), reading)
    alone, together = (
        measured(tmp_path / "policy", problems(4), lesson, "cpu", choose(allow_rlimit=True), processes)
        for processes in (1, 2)
    )
    assert (together.prompt, together.answer, together.accuracy) == (alone.prompt, alone.answer, alone.accuracy)
    for pace in (alone, together):
        assert 0 < pace.reading.seconds(1, 96) < 60
        assert 0 < pace.bytes_reading < memory_of("cpu")
