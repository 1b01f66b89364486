"""The paper's figure as flows: each takes a recipe and the artifacts that it builds on.

base -> R1-Zero -> cold start -> Dev1 -> reasoning RL -> Dev2 -> rejection sampling
base -> SFT on that set -> Dev3 -> RL for all scenarios -> R1
student -> SFT on that set; beside it the same student with RL alone
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from data.lineage import Judge, Policy, Report, Table
from data.prompts import Template
from flows.recipe import BaseConfig, Recipe, reseeded
from tasks.adopt import adopt, convert
from tasks.average import average
from tasks.collect import collect, collect_general
from tasks.curate import curate
from tasks.evaluate import evaluate, trace_curve
from tasks.grpo import reinforce
from tasks.midtrain import initialise, midtrain
from tasks.preference import label, train_judge
from tasks.report import report
from tasks.rollout import generate
from tasks.sft import finetune, pretrain
from tasks.sift import sift
from tasks.stage import variant
from tasks.trajectories import take


@dataclass(frozen=True)
class Ground:
    """What every flow stands on."""

    problems: Table
    heldout: Table
    general: Table


def ground(recipe: Recipe) -> Ground:
    """Problems to learn from, problems to be measured by, and written general rows."""
    return Ground(
        collect("problems", recipe.problems),
        collect("heldout", recipe.heldout),
        collect_general("general", recipe.general),
    )


def sifted(recipe: Recipe, base: Policy, on: Ground) -> Ground:
    """The same with the problems to learn from that the base solves sometimes, where the recipe asks for that."""
    if recipe.difficulty is None:
        return on
    return replace(on, problems=sift("sifted_problems", base, on.problems, recipe.difficulty))


@dataclass(frozen=True)
class Bases:
    """What training begins from; `untouched` is the base before its mid-training, or the base itself."""

    untouched: Policy
    base: Policy
    student: Policy


def base_of(name: str, config: BaseConfig, like: Policy | None = None) -> Policy:
    """A base model: taken, converted, pretrained, or of random weights with the tokenizer of `like`."""
    if config.pretrain:
        return pretrain(name, config.pretrain)
    if config.initialise:
        assert like is not None
        return initialise(name, like, config.initialise)
    return convert(name, config) if config.is_gguf else adopt(name, config)


def read_on(name: str, config: BaseConfig, like: Policy | None = None) -> tuple[Policy, Policy]:
    """A base before and after its mid-training; twice the same where it has none."""
    if config.midtrain is None:
        base = base_of(name, config, like)
        return base, base
    untouched = base_of(f"{name}_untouched", config, like)
    return untouched, midtrain(name, untouched, config.midtrain)


def bases(recipe: Recipe) -> Bases:
    """The base and the student's base, and nothing else: what ships as seeds."""
    untouched, base = read_on("base", recipe.base)
    return Bases(untouched, base, read_on("student_base", recipe.student, untouched)[1])


def cold_start(recipe: Recipe, base: Policy, zero: Policy, on: Ground) -> Policy:
    """Readable trajectories of R1-Zero, and the base fine-tuned on them: Dev1."""
    config = recipe.cold
    sampled = generate("cold_samples", zero, on.problems, config.generate)
    rows = curate("cold_rows", sampled, on.general, on.heldout, config.curate)
    return finetune("dev1", base, rows, config.sft)


def rejection(recipe: Recipe, dev2: Policy, on: Ground) -> Table:
    """The 600k + 200k set: right and readable trajectories of Dev2, or one's own, with non-reasoning rows."""
    config = recipe.rejection
    own = take("rejection_samples", config.trajectories) if config.trajectories else None
    sampled = own or generate("rejection_samples", dev2, on.problems, recipe.rejection_sampling)
    return curate("rejection_rows", sampled, on.general, on.heldout, recipe.rejection.curate)


def alignment(recipe: Recipe, dev3: Policy, on: Ground) -> tuple[Policy, list[Judge]]:
    """RL for all scenarios, with reward models trained on labelled answers of Dev3: R1."""
    config = recipe.preference
    answers = generate("general_samples", dev3, on.problems, config.generate)
    labels = label("preference_labels", answers, recipe.pairs)
    judges = [
        train_judge("helpful", dev3, labels, config.helpful),
        train_judge("harmless", dev3, labels, config.harmless),
    ]
    return reinforce("r1", dev3, on.problems, recipe.alignment, judges), judges


def r1(recipe: Recipe) -> Report:
    """The whole pipeline, and its report; with several seeds, the average of theirs."""
    collected = ground(recipe)
    begun = bases(recipe)
    on = sifted(recipe, begun.base, collected)
    beside = direct(recipe, begun.untouched, on) if recipe.direct else Beside()
    reports = []
    for number in range(recipe.num_seeds):
        with variant(f"_seed{recipe.seed + number}" if number else ""):
            reports.append(chain(reseeded(recipe, number), on, begun.base, begun.student, beside))
    return average("average", reports, recipe.evaluation) if len(reports) > 1 else reports[0]


@dataclass(frozen=True)
class Beside:
    """What is shown beside the chain, the same for all its seeds: evaluations and trained policies by name."""

    evaluations: Mapping[str, Report] = field(default_factory=dict)
    trained: Mapping[str, Policy] = field(default_factory=dict)


def direct(recipe: Recipe, untouched: Policy, on: Ground) -> Beside:
    """RL from the base as it is, without mid-training."""
    assert recipe.direct is not None
    config = recipe.direct
    policy = reinforce("direct", untouched, on.problems, config)
    evaluations = {
        name: evaluate(f"{name}_evaluation", each, on.heldout, config.template, recipe.evaluation)
        for name, each in (("base_untouched", untouched), ("direct", policy))
    }
    return Beside(evaluations, {"direct": policy})


def chain(recipe: Recipe, on: Ground, base: Policy, student: Policy, beside: Beside) -> Report:
    """Base -> R1-Zero -> Dev1 -> Dev2 -> Dev3 -> R1, the students, and their evaluation."""
    zero = reinforce("zero", base, on.problems, recipe.zero)
    dev1 = cold_start(recipe, base, zero, on)
    dev2 = reinforce("dev2", dev1, on.problems, recipe.reasoning)
    plain = recipe.reasoning.model_copy(update={"language_weight": 0.0})
    dev2_plain = reinforce("dev2_without_language_reward", dev1, on.problems, plain)
    rows = rejection(recipe, dev2, on)
    dev3 = finetune("dev3", base, rows, recipe.sft)
    final, judges = alignment(recipe, dev3, on)
    distilled = finetune("student_distilled", student, rows, recipe.distill)
    student_rl = reinforce("student_rl", student, on.problems, recipe.student_rl)

    def measured(name: str, policy: Policy, template: Template) -> Report:
        return evaluate(f"{name}_evaluation", policy, on.heldout, template, recipe.evaluation)

    evaluations = {
        **beside.evaluations,
        "base": measured("base", base, recipe.zero.template),
        "zero": measured("zero", zero, recipe.zero.template),
        "dev1": measured("dev1", dev1, "chat"),
        "dev2": measured("dev2", dev2, recipe.reasoning.template),
        "dev2_without_language_reward": measured("dev2_without_language_reward", dev2_plain, plain.template),
        "dev3": measured("dev3", dev3, "chat"),
        "r1": measured("r1", final, recipe.alignment.template),
        "student_base": measured("student_base", student, recipe.student_rl.template),
        "student_distilled": measured("student_distilled", distilled, "chat"),
        "student_rl": measured("student_rl", student_rl, recipe.student_rl.template),
    }
    curves = {
        name: trace_curve(f"{name}_curve", policy, on.heldout, template, recipe.evaluation)
        for name, policy, template in (
            ("zero", zero, recipe.zero.template),
            ("dev2", dev2, recipe.reasoning.template),
            ("dev2_without_language_reward", dev2_plain, recipe.reasoning.template),
        )
    }
    trained = {"zero": zero, "dev2": dev2, "dev2_without_language_reward": dev2_plain, "r1": final,
               "student_rl": student_rl, **beside.trained}  # fmt: skip
    begun = (("base", recipe.base, base), ("student_base", recipe.student, student))
    read_on = {name: policy for name, config, policy in begun if config.midtrain}
    return report("report", evaluations, curves, trained, rows, judges, recipe.evaluation, read_on)
