"""Every stage that a policy passes through, on a small Llama with a tokenizer of its own."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import torch
import transformers
from pydantic import Field

from data.lineage import PLACE, Policy, Settings, Table
from data.prompts import render
from data.records import Row, Trajectory
from data.store import read_table, write_table
from model import checkpoint
from model.foreign import ForeignModel
from model.optim import adamw
from tasks.adopt import adopt
from tasks.collect import ProblemsConfig, by_rule, collect, digest_of, problems_of
from tasks.evaluate import EvaluationConfig, evaluate
from tasks.grpo import GRPOConfig, classroom, learner, reinforce, resume, state_of, train
from tasks.preference import JudgeConfig, load_judge, train_judge
from tasks.resume import latest
from tasks.resume import save as save_state
from tasks.rollout import GenerateConfig, Sampling, generate, load
from tasks.sft import SFTConfig, Student, finetune, study
from tasks.stage import Session
from tests.model.families import byte_tokenizer, make

SIZES = {"vocab_size": 264, "num_hidden_layers": 2, "max_position_embeddings": 900, "eos_token_id": 258,
         "bos_token_id": 256, "pad_token_id": None}  # fmt: skip
STEPS: dict[str, Any] = {
    "template": "zero", "max_steps": 4, "prompts_per_step": 2, "num_generations": 2, "steps_per_generation": 2,
    "max_completion_length": 8, "save_steps": 2, "ref_model_sync_steps": 2, "learning_rate": 1e-3, "beta": 0.01,
}  # fmt: skip
ROWS = [Row(f"row/{i}", "chain", "en", render(f"{i} + 1", "chat"), f"<think> {i} </think> {i + 1}", "writers")
        for i in range(6)]  # fmt: skip


class Folder(Settings):
    path: Path = Field(json_schema_extra=PLACE)
    digest: str


def table(session: Session, name: str, **frames: pl.DataFrame) -> Table:
    made = Table(name, "label", "1" * 12, session.runs)
    made.folder.mkdir(parents=True)
    for file, frame in frames.items():
        write_table(made.folder / f"{file}.parquet", frame)
    return made


@pytest.fixture
def start(plain: Session, tmp_path: Path) -> Policy:
    folder = make(tmp_path / "llama", "llama", byte_tokenizer(), **SIZES)
    return adopt("base", Folder(path=folder, digest=digest_of(folder)))


def weights(policy: Policy) -> dict[str, torch.Tensor]:
    return checkpoint.official_tensors(checkpoint.load(policy.checkpoint)[0])


def test_reinforcement_generation_and_evaluation(start: Policy, plain: Session) -> None:
    problems = collect("problems", ProblemsConfig(count=12, general_count=4))
    zero = reinforce("zero", start, problems, GRPOConfig(**STEPS, preference_weight=0.0))
    assert zero.record()["summary"]["num_tokens"] > 0
    samples = generate("samples", zero, problems, GenerateConfig(
        problems=3, sampling=Sampling(num_generations=2, max_completion_length=8)))  # fmt: skip
    assert len(read_table(samples.folder / "trajectories.parquet")) == 6
    few = EvaluationConfig(num_generations=2, general_generations=1, max_completion_length=8, bootstrap=100)
    report = evaluate("evaluation", zero, problems, "zero", few)
    assert 0 < report.record()["summary"]["mean_length"] <= 8
    loaded = transformers.AutoModelForCausalLM.from_pretrained(zero.checkpoint)
    prompt = transformers.AutoTokenizer.from_pretrained(zero.checkpoint)("12 + 30", return_tensors="pt")
    with torch.no_grad():
        told = loaded(prompt.input_ids).logits
        ours = checkpoint.load(zero.checkpoint)[0](prompt.input_ids)
    torch.testing.assert_close(told, ours, atol=1e-4, rtol=1e-4)


def test_a_training_that_was_stopped_goes_on_to_the_same_bits(start: Policy, plain: Session, tmp_path: Path) -> None:
    _, general = by_rule(problems_of(collect("problems", ProblemsConfig(count=1, general_count=12))))
    config = GRPOConfig(**STEPS, general_prompts_per_step=2, preference_last_steps=4, preference_weight=1.0)

    def begun() -> Any:
        return learner(load(start, "cpu"), config, "cpu"), classroom(config, [], general, by_number)

    whole, room = begun()
    for _ in train(whole, room):
        pass
    first, room = begun()
    for step, _, _ in train(first, room):
        if step == 3:
            save_state(tmp_path / "stage", state_of(first, room, step))
            break
    second, room = begun()
    for _ in train(second, room, resume(second, room, latest(tmp_path / "stage"))):
        pass
    ours, theirs = (checkpoint.official_tensors(each.speaker.model) for each in (whole, second))
    assert all(torch.equal(tensor, theirs[name]) for name, tensor in ours.items())
    before = weights(start)
    assert sum(not torch.equal(tensor, before[name]) for name, tensor in ours.items()) == len(before)
    assert whole.reference is not None
    assert not torch.equal(whole.reference.head, whole.speaker.model.head)


def by_number(trajectories: Sequence[Trajectory]) -> list[float]:
    """A preference that differs within every group, which untrained answers else would not."""
    return [0.5 * (int(each.id.rsplit("/", 1)[1]) % 2) for each in trajectories]


def test_fine_tuning_learns_the_rows(start: Policy, plain: Session) -> None:
    speaker = load(start, "cpu")
    config = SFTConfig(num_train_epochs=12, batch_size=3, learning_rate=5e-3, weight_decay=0.0)
    student = Student(speaker, adamw(speaker.model, lr=config.learning_rate, weight_decay=0.0), config, "cpu")
    losses = [metrics["ce_loss"] for _, _, metrics in study(student, ROWS, config)]
    assert losses[-1] < 0.6 * losses[0]
    rows = table(plain, "rows", rows=pl.DataFrame([
        {"id": r.id, "family": r.family, "language": r.language, "prompt": r.prompt, "completion": r.completion,
         "source": r.source} for r in ROWS]))  # fmt: skip
    dev1 = finetune("dev1", start, rows, config)
    assert isinstance(checkpoint.load(dev1.checkpoint)[0], ForeignModel)
    ours, theirs = weights(dev1), checkpoint.official_tensors(speaker.model)
    assert all(torch.equal(tensor, theirs[name]) for name, tensor in ours.items())


def told_apart(plain: Session) -> Table:
    """Pairs of answers of which the chosen one can be told by its last letter."""
    count = range(24)
    pairs = pl.DataFrame({
        "id": [f"{i}/0" for i in count], "problem_id": [str(i) for i in count], "prompt": [f"{i}" for i in count],
        "chosen": [f"{i} a" for i in count], "rejected": [f"{i} b" for i in count],
        "heldout": [i % 4 == 0 for i in count]})  # fmt: skip
    return table(plain, "labels", pairs=pairs)


def test_a_reward_model_on_it_learns_what_can_be_told_apart(start: Policy, plain: Session) -> None:
    config = JudgeConfig(kind="helpful", num_train_epochs=6, batch_size=6, learning_rate=3e-3)
    judge = train_judge("helpful", start, told_apart(plain), config)
    assert judge.record()["summary"]["accuracy"] == 1.0
    scorer = load_judge(judge, "cpu")
    good, bad = scorer(
        ["<｜begin▁of▁sentence｜><｜User｜>7<｜Assistant｜>7 a", "<｜begin▁of▁sentence｜><｜User｜>7<｜Assistant｜>7 b"]
    )
    assert bad < good


def test_a_model_that_would_be_sampled_wrongly_is_not_taken(plain: Session, tmp_path: Path) -> None:
    folder = make(tmp_path / "capped", "gemma2", byte_tokenizer(), **SIZES, final_logit_softcapping=1.0)
    with pytest.raises(ValueError, match="model_type 'gemma2': its logits are no product"):
        adopt("base", Folder(path=folder, digest=digest_of(folder)))
    assert not list(plain.runs.glob("adopt-*/record.json"))
