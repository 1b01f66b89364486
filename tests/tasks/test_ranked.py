"""Two processes do what one does: the same losses, weights and trajectories, and one clear end where a rank dies."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from pydantic import Field

from data.lineage import METRICS, PLACE, RECORD, RESUME, Artifact, Settings
from data.problems import generate as problems_of_family
from data.records import Row
from model import checkpoint, ranks
from tasks.adopt import adopt
from tasks.collect import ProblemsConfig, collect, digest_of
from tasks.grpo import GRPOConfig, reinforce
from tasks.launch import RankDied, launch
from tasks.preference import JudgeConfig, PairsConfig, label, train_judge
from tasks.ranked import Ranked
from tasks.rewards import RewardWeights
from tasks.rollout import GenerateConfig, Sampling, as_frame, generate, rollout
from tasks.sft import PretrainConfig, SFTConfig, Student, beginner, read, study
from tasks.stage import Launcher, Metrics, Session, Step, session

SHIPPED = Path(__file__).parents[2] / "data" / "seeds" / "student"
SMALL = {
    "hidden_size": 32, "intermediate_size": 48, "moe_intermediate_size": 16, "num_hidden_layers": 2,
    "num_attention_heads": 2, "n_routed_experts": 4, "num_experts_per_tok": 2, "n_group": 1, "topk_group": 1,
    "first_k_dense_replace": 1, "q_lora_rank": 0, "kv_lora_rank": 8, "qk_nope_head_dim": 8, "qk_rope_head_dim": 8,
    "v_head_dim": 8, "num_nextn_predict_layers": 1,
}  # fmt: skip
ZERO = GRPOConfig(
    template="zero", max_steps=7, prompts_per_step=3, num_generations=4, steps_per_generation=3,
    max_completion_length=24, save_steps=3, ref_model_sync_steps=3, learning_rate=1e-3, beta=0.01,
)  # fmt: skip
FLOATS = pl.col(pl.Float64)


class Folder(Settings):
    path: Path = Field(SHIPPED, json_schema_extra=PLACE)
    digest: str = digest_of(SHIPPED)


def base() -> Any:
    return adopt("base", Folder())


def problems() -> Any:
    return collect("problems", ProblemsConfig(split="train", count=14, general_count=24))


def lessons(folder: Path, *, tell: Callable[..., None] = print) -> dict[str, Any]:
    """Pretraining, fine-tuning and rollouts, where some steps have fewer rows than there are ranks."""
    pretraining = PretrainConfig(architecture=SMALL, batch_size=3, epochs=1, balance_alpha=0.1, bias_update_speed=0.1)
    student = beginner(pretraining, "cpu")
    windows = np.random.default_rng(0).integers(0, student.speaker.tokenizer.vocab_size, (7, 24))
    metrics = [told for _, _, told in read(student, windows, pretraining)]
    tuning = SFTConfig(batch_size=4, num_train_epochs=1, balance_alpha=0.1)
    again = Student(student.speaker, student.optimizer, tuning, "cpu")
    rows = [Row(f"r{n}", "test", "en", f"what is {n} + 4?", "so it is" + f" {n}" * (n + 1), "test") for n in range(5)]
    metrics += [told for _, _, told in study(again, rows, tuning)]
    drawn = []
    for count in (3, 1):
        asked = list(problems_of_family({"chain": 1.0}, count, 1, "train"))
        drawing = Sampling(template="zero", num_generations=2, max_completion_length=8)
        groups = rollout(student.speaker, asked, drawing, RewardWeights(), firsts=list(range(0, 4 * count, 4)))
        drawn += [each for group in groups for each in group]
    checkpoint.save(folder / f"rank-{ranks.rank()}", student.speaker.model, student.speaker.tokenizer)
    weights = student.speaker.model.state_dict()
    sums = ranks.gathered({name: tensor.double().sum().item() for name, tensor in weights.items()})
    tell("learned", len(metrics))
    return {"metrics": metrics, "weights": weights, "drawn": as_frame(drawn), "sums": sums,
            "first": ranks.from_first(ranks.rank), "size": ranks.size()}  # fmt: skip


def test_two_ranks_learn_and_sample_what_one_process_does(tmp_path: Path) -> None:
    heard: list[tuple[object, ...]] = []
    ours = launch(2, "cpu", lessons, (tmp_path / "two",), lambda *told: heard.append(told))
    alone = lessons(tmp_path / "one", tell=lambda *told: None)
    assert heard == [("learned", 4)]
    assert (ours["size"], alone["size"], ours["first"]) == (2, 1, 0)
    for one, other in zip(alone["metrics"], ours["metrics"], strict=True):
        assert other == pytest.approx(one, rel=1e-4)
    assert alone["metrics"][0]["max_violation"] > 0
    for name, tensor in alone["weights"].items():
        torch.testing.assert_close(ours["weights"][name], tensor, rtol=1e-3, atol=1e-5)
    assert [path.name for path in (tmp_path / "two").iterdir()] == ["rank-0"]
    assert ours["sums"][0] == ours["sums"][1]  # the ranks hold the same to the bit
    assert same_rows(ours["drawn"], alone["drawn"])
    assert ours["drawn"]["id"].to_list()[-2:] == [f"{ours['drawn']['problem_id'][-1]}/{n}" for n in (0, 1)]


def same_rows(ours: pl.DataFrame, theirs: pl.DataFrame) -> bool:
    for name in ours.select(FLOATS).columns:
        assert ours[name].to_list() == pytest.approx(theirs[name].to_list(), abs=1e-4), name
    return ours.select(pl.exclude(pl.Float64)).equals(theirs.select(pl.exclude(pl.Float64)))


def judge() -> tuple[Artifact, Artifact]:
    asked = GenerateConfig(general=True, problems=9, sampling=Sampling(num_generations=4, max_completion_length=16))
    answers = generate("answers", base(), problems(), asked)
    labels = label("labels", answers, PairsConfig(heldout_share=0.0, margin=0.01))
    return answers, train_judge("judge", base(), labels, JudgeConfig(kind="harmless", batch_size=3))


def lines(artifact: Artifact) -> list[dict[str, float]]:
    return [json.loads(line) for line in (artifact.folder / METRICS).read_text().splitlines()]


def in_session(runs: Path, launcher: Launcher, make: Callable[[], Any], *displays: Any) -> Any:
    with session(Session(runs, "plain", displays=displays, launcher=launcher, save_every_s=0.0)):
        return make()


def test_generated_answers_and_a_reward_model_are_those_of_one_process(tmp_path: Path) -> None:
    answers, trained = in_session(tmp_path / "one", Launcher(), judge)
    ours, model = in_session(tmp_path / "two", Ranked(2), judge)
    assert ours.record()["made_on"]["processes"] == 2
    assert answers.record()["made_on"]["processes"] == 1
    tables = [pl.read_parquet(each.folder / "trajectories.parquet") for each in (ours, answers)]
    assert same_rows(*tables)
    for one, other in zip(lines(trained), lines(model), strict=True):
        assert other == pytest.approx(one, rel=1e-3, abs=1e-6)
    assert (ours.folder / RESUME).exists() is False


class Killer:
    """A display that kills rank 1 when step 4 is done."""

    def __init__(self) -> None:
        self.told: list[int] = []
        self.pids: list[int] = []
        self.killed_at = 0.0

    def begin(self, step: Step) -> None:
        self.told.clear()

    def advance(self, step: Step, done: int, total: int, metrics: Metrics) -> None:
        self.told.append(done)
        if done == 4 and not self.pids:
            by_rank = running_ranks()
            self.pids = list(by_rank.values())
            self.killed_at = time.monotonic()
            os.kill(by_rank["1"], signal.SIGKILL)

    def warn(self, step: Step, message: str) -> None:
        pass

    def end(self, step: Step) -> None:
        pass


def running_ranks() -> dict[str, int]:
    """The processes of ranks that come from this one, by rank."""
    found = {}
    for task in Path("/proc/self/task").iterdir():
        for pid in (task / "children").read_text().split():
            told = Path(f"/proc/{pid}/environ").read_bytes().decode().split("\0")
            found |= {entry.removeprefix("RANK="): int(pid) for entry in told if entry.startswith("RANK=")}
    return found


def zero() -> Artifact:
    return reinforce("zero", base(), problems(), ZERO)


def test_a_killed_rank_ends_all_and_the_stage_goes_on_to_what_one_process_makes(tmp_path: Path) -> None:
    killer = Killer()
    with pytest.raises(RankDied, match=r"^zero: rank 1 of 2 \(process \d+\) was killed by SIGKILL, and") as raised:
        in_session(tmp_path / "two", Ranked(2), zero, killer)
    assert time.monotonic() - killer.killed_at < 15
    assert "\n" not in str(raised.value)
    assert len(killer.pids) == 2
    assert not [pid for pid in killer.pids if Path(f"/proc/{pid}").exists()]
    [folder] = (tmp_path / "two").glob("reinforce-*")
    assert not (folder / RECORD).exists()
    assert list((folder / RESUME).glob("state-*"))
    made = in_session(tmp_path / "two", Ranked(2), zero, killer)
    assert 1 < killer.told[0] <= 5  # it went on
    shutil.copytree(tmp_path / "two" / ".redteam", tmp_path / "one" / ".redteam")
    alone = in_session(tmp_path / "one", Launcher(), zero)
    assert made.key == alone.key
    for one, other in zip(lines(alone), lines(made), strict=True):
        assert other == pytest.approx(one, rel=1e-3, abs=1e-6)
    frames = [pl.read_parquet(each.folder / "trajectories.parquet") for each in (made, alone)]
    assert same_rows(*frames)
    assert set(made.record()["files"]) == set(alone.record()["files"])


def fail_in_second(*, tell: Callable[..., None]) -> None:
    if ranks.rank() == 1:
        raise ValueError("row 7 is too long")
    ranks.wait()


def tell_for_ever(*, tell: Callable[..., None]) -> None:
    while True:
        ranks.wait()
        tell("tick")


def test_what_a_rank_raises_is_raised_here_and_names_the_rank() -> None:
    with pytest.raises(ValueError) as raised:  # noqa: PT011
        launch(2, "cpu", fail_in_second, (), print)
    assert str(raised.value) == "row 7 is too long"
    assert raised.value.__notes__[0].startswith("in rank 1 of 2:")
    assert not running_ranks()


def test_no_rank_outlives_a_caller_that_is_interrupted() -> None:
    def interrupt(*told: object) -> None:
        assert len(running_ranks()) == 2
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        launch(2, "cpu", tell_for_ever, (), interrupt)
    assert not running_ranks()


def show_ranks(*told: object) -> None:
    print(*running_ranks().values(), flush=True)


def call_for_ever() -> None:
    launch(2, "cpu", tell_for_ever, (), show_ranks)


def is_alive(pid: str) -> bool:
    try:
        return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return False


def test_no_rank_outlives_a_caller_that_is_killed() -> None:
    script = f"import sys; sys.path[:] = {sys.path!r}; from {__name__} import call_for_ever; call_for_ever()"
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True) as caller:
        assert caller.stdout is not None
        pids = caller.stdout.readline().split()
        assert len(pids) == 2
        assert all(map(is_alive, pids))
        caller.kill()
    limit = time.monotonic() + 10
    while any(map(is_alive, pids)) and time.monotonic() < limit:
        time.sleep(0.05)
    assert not any(map(is_alive, pids))


def test_ranks_that_cannot_begin_are_told_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with pytest.raises(RankDied, match=r"^a rank ended before it began to work; what it wrote is above$"):
        launch(2, "cpu", fail_in_second, (), print)
    assert not running_ranks()


def test_shares_put_together_are_in_the_order_they_had(monkeypatch: pytest.MonkeyPatch) -> None:
    items = list(range(7))
    monkeypatch.setattr(ranks, "size", lambda: 3)
    shares = []
    for number in range(3):
        monkeypatch.setattr(ranks, "rank", lambda number=number: number)
        shares.append(ranks.mine(items))
    assert shares == [[0, 3, 6], [1, 4], [2, 5]]
    monkeypatch.setattr(ranks, "gathered", lambda share: shares)
    assert ranks.merged(shares[0]) == items
