"""A stage that was stopped goes on where it was, and what it makes in the end is the same to the bit."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import torch
from pydantic import Field

from data.lineage import METRICS, PLACE, RESUME, TIMES, Artifact, Settings
from tasks import evaluate as evaluation
from tasks import resume
from tasks import rollout as rollouts
from tasks.adopt import adopt
from tasks.collect import GeneralRowsConfig, ProblemsConfig, collect, collect_general, digest_of
from tasks.evaluate import EvaluationConfig, evaluate, trace_curve
from tasks.grpo import GRPOConfig, reinforce
from tasks.midtrain import MidtrainConfig, midtrain
from tasks.preference import JudgeConfig, PairsConfig, label, train_judge
from tasks.resume import State, cut_back
from tasks.rollout import GenerateConfig, Sampling, generate, trajectories_in, with_tokens
from tasks.sft import PretrainConfig, SFTConfig, finetune, pretrain
from tasks.stage import Metrics, Session, Step, session

SHIPPED = Path(__file__).parents[2] / "data" / "seeds" / "student"


class Folder(Settings):
    path: Path = Field(SHIPPED, json_schema_extra=PLACE)
    digest: str = digest_of(SHIPPED)


@dataclass
class Stopper:
    """A display that is interrupted when it is told of progress for the `after`-th time; 0 lets everything pass."""

    after: int = 0
    told: list[int] = field(default_factory=list)

    def begin(self, step: Step) -> None:
        self.told.clear()

    def advance(self, step: Step, done: int, total: int, metrics: Metrics) -> None:
        self.told.append(done)
        if len(self.told) == self.after:
            raise KeyboardInterrupt

    def warn(self, step: Step, message: str) -> None:
        pass

    def end(self, step: Step) -> None:
        pass


ZERO = GRPOConfig(
    template="zero", max_steps=7, prompts_per_step=3, num_generations=4, steps_per_generation=3,
    max_completion_length=24, save_steps=3, ref_model_sync_steps=3, learning_rate=1e-3, beta=0.01,
)  # fmt: skip
SMALL = {
    "hidden_size": 32, "intermediate_size": 48, "moe_intermediate_size": 16, "num_hidden_layers": 2,
    "num_attention_heads": 2, "n_routed_experts": 4, "num_experts_per_tok": 2, "n_group": 1, "topk_group": 1,
    "first_k_dense_replace": 1, "q_lora_rank": 0, "kv_lora_rank": 8, "qk_nope_head_dim": 8, "qk_rope_head_dim": 8,
    "v_head_dim": 8,
}  # fmt: skip
SHORT = Sampling(template="zero", num_generations=2, max_completion_length=16)
EVALUATION = EvaluationConfig(num_generations=2, general_generations=2, max_completion_length=12, bootstrap=100)


def base() -> Any:
    return adopt("base", Folder())


def problems(split: str = "train") -> Any:
    return collect("problems", ProblemsConfig(split=split, count=14, general_count=24))


def zero() -> Artifact:
    return reinforce("zero", base(), problems(), ZERO)


def judge(kind: str) -> Artifact:
    asked = GenerateConfig(general=True, problems=24, sampling=SHORT.model_copy(update={"template": "chat"}))
    labels = label(
        "labels", generate("answers", base(), problems(), asked), PairsConfig(heldout_share=0.0, margin=0.01)
    )
    return train_judge(kind, base(), labels, JudgeConfig(kind=kind, num_train_epochs=3, batch_size=8))


STAGES: dict[str, Callable[[], Artifact]] = {
    "reinforce": zero,
    "finetune": lambda: finetune(
        "dev1", base(), collect_general("rows", GeneralRowsConfig(rows=20)), SFTConfig(num_train_epochs=2, batch_size=6)
    ),
    "pretrain": lambda: pretrain(
        "new", PretrainConfig(architecture=SMALL, documents=400, sequence_length=64, batch_size=32, max_steps=6)
    ),
    "midtrain": lambda: midtrain(
        "further",
        base(),
        MidtrainConfig(
            documents=150,
            sequence_length=64,
            batch_size=8,
            max_steps=6,
            warmup_steps=1,
            text_share=0.5,
        ),
    ),
    "train_judge": lambda: judge("harmless"),
    "generate": lambda: generate("samples", base(), problems(), GenerateConfig(sampling=SHORT)),
    "evaluate": lambda: evaluate("evaluation", base(), problems("heldout"), "zero", EVALUATION),
    "trace_curve": lambda: trace_curve("curve", zero(), problems("heldout"), "zero", EVALUATION),
}


@pytest.fixture(autouse=True)
def small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(evaluation, "SHARD", 4)
    monkeypatch.setattr(rollouts, "SHARD", 4)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("whole") / "runs"


def files(artifact: Artifact) -> dict[str, str]:
    return {name: digest for name, digest in artifact.record()["files"].items() if name != TIMES}


@pytest.mark.parametrize("name", STAGES)
def test_a_stage_that_is_stopped_again_and_again_makes_the_same(name: str, whole: Path, tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    with session(Session(whole, "plain")):
        expected = STAGES[name]()
    stops, first_told = 0, []
    while True:
        stopper = Stopper(after=3 if stops < 8 else 0)
        try:
            with session(Session(runs, "plain", displays=[stopper], save_every_s=0.0)):
                made = STAGES[name]()
            break
        except KeyboardInterrupt:
            stops += 1
            first_told.append(stopper.told[0])
    assert stops > 1
    assert first_told[1] > first_told[0] or max(first_told) > 1  # it went on, and did not begin anew
    assert files(made) == files(expected)
    assert not (made.folder / RESUME).exists()
    if (made.folder / METRICS).is_file():
        steps = [json.loads(line)["step"] for line in (made.folder / METRICS).read_text().splitlines()]
        assert steps == sorted(set(steps))
        assert {k: v for k, v in made.record()["summary"].items() if not k.endswith("_time")} == {
            k: v for k, v in expected.record()["summary"].items() if not k.endswith("_time")
        }


# States.


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for step in (1, 2, 3):
        table = pl.DataFrame({"a": [step]})
        resume.save(tmp_path, State(step, {"w": torch.full((2,), step / 3)}, {"dealt": step}, {"rollout": table}))
    return tmp_path


def test_the_last_two_states_are_kept_and_the_last_is_read(folder: Path) -> None:
    assert sorted(path.name for path in (folder / RESUME).iterdir()) == ["state-00000002", "state-00000003"]
    state = resume.latest(folder)
    assert state is not None
    assert (state.step, state.values) == (3, {"dealt": 3})
    assert torch.equal(state.tensors["w"], torch.full((2,), 1.0))
    assert state.tables["rollout"]["a"].to_list() == [3]


def truncate(state: Path) -> None:
    file = state / "tensors.safetensors"
    file.write_bytes(file.read_bytes()[:-4])


def lose_manifest(state: Path) -> None:
    (state / "state.json").unlink()


def half_manifest(state: Path) -> None:
    (state / "state.json").write_text('{"step": 3, "val')


def other_table(state: Path) -> None:
    pl.DataFrame({"a": [4]}).write_parquet(state / "rollout.parquet")


@pytest.mark.parametrize("harm", [truncate, lose_manifest, half_manifest, other_table])
def test_a_state_that_is_not_whole_is_passed_over(folder: Path, harm: Callable[[Path], None]) -> None:
    harm(folder / RESUME / "state-00000003")
    state = resume.latest(folder)
    assert state is not None
    assert state.step == 2


def test_a_state_that_was_being_written_is_not_seen(folder: Path) -> None:
    (folder / RESUME / "state-00000004.partial").mkdir()
    state = resume.latest(folder)
    assert state is not None
    assert state.step == 3


def test_trajectories_come_back_from_their_table(whole: Path) -> None:
    with session(Session(whole, "plain")):
        made = zero()
    frame = pl.read_parquet(made.folder / "trajectories.parquet").with_columns(
        tokens=pl.lit(2, pl.Int32),
        ids=pl.lit([1, 2], pl.List(pl.Int32)),
        logprobs=pl.lit([-0.1, -1 / 3], pl.List(pl.Float64)),
    )
    back = trajectories_in(frame)
    assert len(back) == len(frame)
    assert with_tokens(back).equals(frame)
    assert {each.completion.logprobs for each in back} == {(-0.1, -1 / 3)}


@pytest.fixture
def metrics(tmp_path: Path) -> Path:
    path = tmp_path / METRICS
    path.write_text('{"step": 1, "loss": 3.0}\n{"step": 2, "loss": 2.0}\n{"step": 3, "lo')
    return path


@pytest.mark.parametrize(("step", "left"), [(0, []), (1, [1]), (2, [1, 2]), (9, [1, 2])])
def test_metrics_are_cut_back_to_a_state(metrics: Path, step: int, left: list[int]) -> None:
    assert [line["step"] for line in cut_back(metrics, step)] == left
    assert [json.loads(line)["step"] for line in metrics.read_text().splitlines()] == left
