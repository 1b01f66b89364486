"""The flows that people trigger: the whole pipeline, and each part of it with what that part needs.

Every flow takes a recipe. What is there already is taken; what a part stands on and is not there is made first.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from uuid import UUID

from prefect import flow
from prefect.flows import Flow
from prefect.runtime import deployment, flow_run

from data.parent import end_with_parent
from flows import recipe as recipes
from flows.board import Board
from flows.curate import Asked
from flows.curate import conclude as conclude_build
from flows.inspect import inspect
from flows.plan import FLOWS, closure, conclude, launcher_for, naming_dependents, placed
from flows.recipe import Recipe
from flows.shared import Installation, SharedSite
from flows.sweep import is_owned, owned
from tasks.stage import Display, Session, session
from tasks.tracking import MlflowTracker

audience: ContextVar[Sequence[Display]] = ContextVar("audience", default=())
"""Who watches beside Prefect: the terminal of `r1 run`."""


def conduct(
    recipe: Recipe,
    targets: Sequence[str],
    device: str,
    save_every_s: float,
    processes: int,
    only: str = "",
    pipeline: str = "",
) -> Path:
    """Make the targets of a recipe, or all of it without any, within a flow run; returns the report's path.

    `only` names a stage that is made by itself: what it stands on is there or in the depot. `pipeline` is the run
    in MLflow that it belongs to.
    """
    begun = time.monotonic()
    runs = Path(os.environ["R1_RUNS"])
    settled = recipes.settled(recipe)
    inspect(settled)
    shared = Installation.here()
    own, elsewhere = placed(device, shared is not None)
    launcher = launcher_for(processes, own, elsewhere)
    board = Board()
    opened = Session(
        runs,
        "run",
        own,
        settled.allow_rlimit,
        displays=[board, *audience.get()],
        launcher=launcher,
        recipe=settled.name,
        wanted=closure(settled, runs, targets or [only], with_parents=not only) if targets or only else None,
        save_every_s=save_every_s,
    )
    if deployment.id:  # triggered on a server: ends with the server's runner
        end_with_parent()
    with owned(runs, str(flow_run.id)):
        with _history(runs, settled.name, shared, pipeline) as tracker:
            opened.tracker = tracker
            if shared:
                opened.site = SharedSite(shared, settled, elsewhere, save_every_s, processes, tracker.pipeline)
            with session(opened), naming_dependents(settled, runs):
                FLOWS[settled.flow](settled)
            for step in opened.steps:
                if step.artifact.done:
                    tracker.place(step.artifact)
        board.close([step for step in opened.steps if step.artifact.done], settled.name)
    return conclude(settled, runs, opened.steps, time.monotonic() - begun)


@contextmanager
def _history(
    runs: Path, recipe: str, shared: Installation | None = None, pipeline: str = ""
) -> Iterator[MlflowTracker]:
    """Open the run in MLflow of the flow run that runs here, and close it as what happens in this block ends.

    Those of flow runs that have lost their process are closed as well; other machines' processes are not known here.
    """
    server, depot = (shared.mlflow, shared.depot) if shared else ("", "")
    tracker = MlflowTracker(runs, recipe, server, pipeline, depot, str(flow_run.id))
    if shared is None:
        tracker.close_lost(lambda run_id: is_owned(runs, UUID(run_id)))
    try:
        yield tracker
    except Exception:
        tracker.close("FAILED")
        raise
    except BaseException:
        tracker.close("KILLED")
        raise
    tracker.close()


NAME = "{recipe.name}"


@flow(name="r1", flow_run_name=f"r1 {NAME}")
def r1(recipe: Recipe, device: str = "", save_every_s: float = 30.0, processes: int = 0) -> Path:
    """The whole of DeepSeek-R1: base, R1-Zero, Dev1, Dev2, Dev3, R1, the students, and their evaluation."""
    return conduct(recipe, (), device, save_every_s, processes)


@flow(name="r1-zero", flow_run_name=f"r1-zero {NAME}")
def r1_zero(recipe: Recipe, device: str = "", save_every_s: float = 30.0, processes: int = 0) -> Path:
    """R1-Zero: GRPO from the base with rule rewards alone."""
    return conduct(recipe, ["zero"], device, save_every_s, processes)


@flow(name="cold-start", flow_run_name=f"cold-start {NAME}")
def cold_start(recipe: Recipe, device: str = "", save_every_s: float = 30.0, processes: int = 0) -> Path:
    """Cold start: readable answers of R1-Zero, and the base fine-tuned on them (Dev1)."""
    return conduct(recipe, ["dev1"], device, save_every_s, processes)


@flow(name="reasoning-rl", flow_run_name=f"reasoning-rl {NAME}")
def reasoning_rl(recipe: Recipe, device: str = "", save_every_s: float = 30.0, processes: int = 0) -> Path:
    """Reasoning RL with the language reward, and without it (Dev2)."""
    return conduct(recipe, ["dev2", "dev2_without_language_reward"], device, save_every_s, processes)


@flow(name="rejection-sampling", flow_run_name=f"rejection-sampling {NAME}")
def rejection_sampling(recipe: Recipe, device: str = "", save_every_s: float = 30.0, processes: int = 0) -> Path:
    """Rejection sampling: Dev2's right and readable answers joined with general rows."""
    return conduct(recipe, ["rejection_rows"], device, save_every_s, processes)


@flow(name="second-sft", flow_run_name=f"second-sft {NAME}")
def second_sft(recipe: Recipe, device: str = "", save_every_s: float = 30.0, processes: int = 0) -> Path:
    """SFT from the base again, on the set of rejection sampling (Dev3)."""
    return conduct(recipe, ["dev3"], device, save_every_s, processes)


@flow(name="reward-models", flow_run_name=f"reward-models {NAME}")
def reward_models(recipe: Recipe, device: str = "", save_every_s: float = 30.0, processes: int = 0) -> Path:
    """Preference labels, and the helpful and the harmless reward model."""
    return conduct(recipe, ["helpful", "harmless"], device, save_every_s, processes)


@flow(name="rl-all-scenarios", flow_run_name=f"rl-all-scenarios {NAME}")
def rl_all_scenarios(recipe: Recipe, device: str = "", save_every_s: float = 30.0, processes: int = 0) -> Path:
    """RL for all scenarios with the reward models (R1)."""
    return conduct(recipe, ["r1"], device, save_every_s, processes)


@flow(name="distillation", flow_run_name=f"distillation {NAME}")
def distillation(recipe: Recipe, device: str = "", save_every_s: float = 30.0, processes: int = 0) -> Path:
    """A smaller student fine-tuned on Dev3's set, and the same student with RL alone."""
    return conduct(recipe, ["student_distilled", "student_rl"], device, save_every_s, processes)


STAGES: tuple[Flow[..., Path], ...] = (
    r1_zero, cold_start, reasoning_rl, rejection_sampling, second_sft, reward_models, rl_all_scenarios, distillation,
)  # fmt: skip


@flow(name="stage", flow_run_name="stage {name} {recipe.name}")
def one_stage(
    recipe: Recipe,
    name: str = "zero",
    device: str = "",
    save_every_s: float = 30.0,
    processes: int = 0,
    pipeline: str = "",
) -> Path:
    """One stage by its name, for another machine's run: what it stands on comes from the depot."""
    return conduct(recipe, (), device, save_every_s, processes, only=name, pipeline=pipeline)


@flow(name="curate", flow_run_name="curate {asked.name}", validate_parameters=False)
def what_if(asked: Asked) -> Path:
    """Another set from the trajectories that a recipe has, or several of one swept setting."""
    begun = time.monotonic()
    runs = Path(os.environ["R1_RUNS"])
    board = Board()
    opened = Session(runs, "run", "cpu", asked.recipe.allow_rlimit, [board, *audience.get()], recipe=asked.recipe.name)
    with owned(runs, str(flow_run.id)), _history(runs, asked.recipe.name) as tracker, session(opened):
        opened.tracker = tracker
        asked.make(runs)
    board.close(opened.steps, asked.name)
    return conclude_build(asked, runs, opened.steps, time.monotonic() - begun)
