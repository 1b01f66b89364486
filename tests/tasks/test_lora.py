"""LoRA in every stage that trains: what is kept, that a stopped one goes on to the same bits, and several processes."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import peft
import polars as pl
import pytest
import torch
import transformers
from safetensors.torch import load_file

from data.lineage import Policy, canonical
from data.records import Problem, Trajectory
from model import adapter, checkpoint
from model.language import TextScorer
from tasks.adopt import adopt
from tasks.collect import ProblemsConfig, by_rule, collect, digest_of, problems_of
from tasks.grpo import GRPOConfig, classroom, learner, reinforce, resume, state_of, train
from tasks.launch import launch
from tasks.lora import LoraConfig, learning
from tasks.midtrain import MidtrainConfig, midtrain
from tasks.preference import JudgeConfig, train_judge
from tasks.resume import latest
from tasks.resume import save as save_state
from tasks.sft import SFTConfig, finetune
from tasks.stage import Session
from tests.model.families import byte_tokenizer, make
from tests.tasks.test_foreign import ROWS, SIZES, STEPS, Folder, by_number, table, told_apart

LORA = LoraConfig(r=4, lora_alpha=8)
TOKENS = torch.arange(60, 90)[None]


def based(folder: Path) -> Policy:
    made = make(folder, "llama", byte_tokenizer(), **SIZES)
    return adopt("base", Folder(path=made, digest=digest_of(made)))


@pytest.fixture
def start(plain: Session, tmp_path: Path) -> Policy:
    return based(tmp_path / "llama")


@torch.no_grad()
def logits(policy: Policy) -> torch.Tensor:
    return transformers.AutoModelForCausalLM.from_pretrained(policy.checkpoint)(TOKENS).logits


@torch.no_grad()
def logits_by_adapter(base: Policy, policy: Policy) -> torch.Tensor:
    inner = transformers.AutoModelForCausalLM.from_pretrained(base.checkpoint)
    return peft.PeftModel.from_pretrained(inner, policy.checkpoint / "adapter")(TOKENS).logits


def reinforced(start: Policy, **changes: Any) -> Policy:
    problems = collect("problems", ProblemsConfig(count=4, general_count=0))
    return reinforce("zero", start, problems, GRPOConfig(**{**STEPS, "lora": LORA, **changes}))


def test_reinforcement_keeps_a_merged_policy_and_its_adapter(start: Policy) -> None:
    zero = reinforced(start, beta=0.5, learning_rate=0.05, partial_format=0.5)
    told = logits(zero)
    torch.testing.assert_close(logits_by_adapter(start, zero), told, atol=1e-4, rtol=1e-4)
    inside = zero.folder / "checkpoints" / "step-000002"
    assert (inside / "adapter" / "adapter_model.safetensors").is_file()
    assert {"policy/adapter/adapter_model.safetensors", "policy/adapter/adapter_config.json"} <= set(
        zero.record()["files"]
    )
    assert not (zero.folder / "reference").exists()


def test_fine_tuning_and_mid_training_move_only_what_the_adapter_reaches(start: Policy, plain: Session) -> None:
    rows = table(plain, "rows", rows=pl.DataFrame([
        {"id": r.id, "family": r.family, "language": r.language, "prompt": r.prompt, "completion": r.completion,
         "source": r.source} for r in ROWS]))  # fmt: skip
    text = plain.runs.parent / "text.jsonl"
    text.write_text("".join(json.dumps({"text": f"Sums of {n} are done from left to right. " * 8}) + "\n"
                            for n in range(60)))  # fmt: skip
    reading = MidtrainConfig(path=text, digest="0", documents=60, sequence_length=64,
                             max_steps=2, batch_size=4, learning_rate=0.01, lora=LORA)  # fmt: skip
    before = checkpoint.official_tensors(checkpoint.load(start.checkpoint)[0])
    for policy in (
        finetune("dev1", start, rows, SFTConfig(num_train_epochs=4, batch_size=3, learning_rate=0.01, lora=LORA)),
        midtrain("read", start, reading),
    ):
        after = checkpoint.official_tensors(checkpoint.load(policy.checkpoint)[0])
        moved = {name.rpartition(".")[0].rpartition(".")[2] for name in before
                 if not torch.equal(before[name], after[name])}  # fmt: skip
        assert moved == {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}
        torch.testing.assert_close(logits_by_adapter(start, policy), logits(policy), atol=1e-4, rtol=1e-4)


def test_a_reward_model_learns_by_an_adapter(start: Policy, plain: Session) -> None:
    config = JudgeConfig(kind="helpful", num_train_epochs=8, batch_size=6, learning_rate=1e-2, lora=LORA)
    judge = train_judge("helpful", start, told_apart(plain), config)
    assert judge.record()["summary"]["accuracy"] == 1.0
    assert isinstance(checkpoint.load(judge.checkpoint)[0], TextScorer)
    kept = load_file(judge.checkpoint / "adapter" / "adapter_model.safetensors")
    assert "base_model.model.score.weight" in kept


def test_a_training_that_was_stopped_goes_on_to_the_same_bits(start: Policy, tmp_path: Path) -> None:
    _, general = by_rule(problems_of(collect("problems", ProblemsConfig(count=1, general_count=12))))
    config = GRPOConfig(**STEPS, general_prompts_per_step=2, preference_last_steps=4, preference_weight=1.0, lora=LORA,
                        gradient_checkpointing=True)  # fmt: skip

    def begun() -> Any:
        return learner(learning(start, "cpu", LORA, 0), config, "cpu"), classroom(config, [], general, by_number)

    whole, room = begun()
    kls = [metrics["kl"] for _, metrics, _ in train(whole, room)]
    assert kls[0] == 0.0 < kls[1]
    assert kls[2] == 0.0 < kls[3]  # the reference has followed
    first, room = begun()
    for step, _, _ in train(first, room):
        if step == 3:
            state = state_of(first, room, step)
            save_state(tmp_path / "stage", state)
            break
    adapters = sum(weight.numel() for weight in adapter.tensors(first.speaker.model).values())
    steps = sum(name.endswith("/step") for name in state.tensors)
    assert sum(tensor.numel() for tensor in state.tensors.values()) == 4 * adapters + steps
    second, room = begun()
    for _ in train(second, room, resume(second, room, latest(tmp_path / "stage"))):
        pass
    ours, theirs = (checkpoint.official_tensors(each.speaker.model) for each in (whole, second))
    assert all(torch.equal(tensor, theirs[name]) for name, tensor in ours.items())
    assert all(tensor.abs().max() > 0 for tensor in ours.values())
    assert all(
        torch.equal(tensor, adapter.tensors(second.reference)[name])
        for name, tensor in adapter.tensors(whole.reference).items()
    )


def taught(start: Policy, general: Sequence[Problem], *, tell: Callable[..., None] = print) -> dict[str, torch.Tensor]:
    """The adapter after two updates."""
    config = GRPOConfig(**{**STEPS, "max_steps": 2}, general_prompts_per_step=2, preference_last_steps=2,
                        preference_weight=1.0, lora=LORA)  # fmt: skip
    apprentice = learner(learning(start, "cpu", LORA, 0), config, "cpu")
    for _ in train(apprentice, classroom(config, [], general, by_rest)):
        pass
    return {name: tensor.detach() for name, tensor in adapter.tensors(apprentice.speaker.model).items()}


def by_rest(trajectories: Sequence[Trajectory]) -> list[float]:
    return by_number(trajectories)


def test_two_processes_learn_what_one_does(start: Policy) -> None:
    _, general = by_rule(problems_of(collect("problems", ProblemsConfig(count=1, general_count=12))))
    alone = taught(start, general)
    ours = launch(2, "cpu", taught, (start, general), print)
    for name, tensor in alone.items():
        torch.testing.assert_close(ours[name], tensor, rtol=1e-3, atol=1e-5)


def test_a_model_of_our_own_is_refused_in_one_line(plain: Session) -> None:
    seed = Path(__file__).parents[2] / "data" / "seeds" / "student"
    start = adopt("base", Folder(path=seed, digest=digest_of(seed)))
    with pytest.raises(ValueError, match=r"^lora: a model of DeepSeek-V3's architecture is trained whole"):
        learning(start, "cpu", LORA, 0)


def test_a_stage_without_an_adapter_is_what_it_was() -> None:
    for config in (GRPOConfig, SFTConfig, MidtrainConfig):
        assert "lora" not in canonical(config())
        assert canonical(config(lora=LORA))["lora"] == {"lora_alpha": 8, "r": 4, "target_modules": []}
