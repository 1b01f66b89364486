"""Recipes: what ships parses and says what the paper says, and every mistake is named where it stands."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from pydantic import BaseModel

from data.lineage import Settings, read_json, write_json
from data.problems import held_out
from flows.recipe import SEEDED, SEEDS, Recipe, line_of, load, reseeded, settings_of, settled, shipped
from tasks.collect import collect, digest_of, problems_of
from tasks.grpo import GRPOConfig
from tasks.preference import JudgeConfig
from tasks.sft import SFTConfig
from tasks.stage import Session, session

MINIMAL = '[base]\npath = "seed:base"\n[student]\npath = "seed:student"\n'


def written(folder: Path, text: str) -> str:
    path = folder / "mine.toml"
    path.write_text(text, encoding="utf-8")
    return str(path)


@pytest.mark.parametrize("name", shipped())
def test_every_shipped_recipe_parses(name: str) -> None:
    recipe = load(name)
    assert recipe.name == name
    assert recipe.description


def test_a_recipe_that_names_its_bases_alone_is_whole(tmp_path: Path) -> None:
    recipe = load(written(tmp_path, MINIMAL))
    assert recipe.base.digest == digest_of(SEEDS / "base")
    assert recipe.base.path == SEEDS / "base"
    blank = Recipe(base=recipe.base, student=recipe.student, name="mine", file=tmp_path / "mine.toml")
    assert recipe == blank
    # What a table of the recipe says stays where the file names other keys of that table.
    more = "[zero]\nmax_steps = 4\nsave_steps = 4\n[cold.generate]\nproblems = 7\n[heldout]\nseed = 5\n"
    more += "[preference.helpful]\nbatch_size = 4\n[alignment]\nmax_steps = 8\n"
    some = load(written(tmp_path, MINIMAL + more))
    assert (some.zero.template, some.zero.max_steps) == ("zero", 4)
    assert (some.cold.generate.sampling.template, some.cold.generate.problems) == ("zero", 7)
    assert (some.heldout.split, some.heldout.count, some.heldout.seed) == ("heldout", 96, 5)
    assert (some.preference.helpful.kind, some.preference.helpful.batch_size) == ("helpful", 4)
    assert (some.alignment.language_weight, some.alignment.preference_weight) == (1.0, 1.0)
    assert some.preference.generate.general
    assert some.cold.curate.rewrite
    assert some.student_rl.template == "zero"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[zero]\nmax_step = 3\n",
         "mine.toml line 6: unknown key 'max_step'; allowed are accuracy_weight, beta, dynamic_sampling, epsilon"),
        ("[zerro]\nmax_steps = 3\n",
         "mine.toml line 5: unknown key 'zerro'; allowed are alignment, allow_rlimit, base, cold, description"),
        ("[cold.curate]\n[cold.typo]\n", "mine.toml line 6: unknown key 'typo'; allowed are curate, generate, sft"),
        ("[preference.pairs]\n\nmargins = 1\n", "mine.toml line 7: unknown key 'margins'; allowed are balance_lengths"),
        ('[zero]\nmax_steps = "many"\n',
         "mine.toml line 6: zero.max_steps = 'many': input should be a valid integer"),
        ("[zero]\nnum_generations = 1\n",
         "mine.toml line 6: zero.num_generations = 1: input should be greater than or equal to 2"),
        ('[zero]\nloss_type = "ppo"\n',
         "mine.toml line 6: zero.loss_type = 'ppo': input should be 'grpo', 'dapo' or 'dr_grpo'"),
        ("[zero]\nsave_steps = 3\n",
         "mine.toml line 5: zero: save_steps = 3 is not a multiple of steps_per_generation = 2"),
        ("[zero]\nref_model_sync_steps = 5\n",
         "mine.toml line 5: zero: ref_model_sync_steps = 5 is not a multiple of steps_per_generation = 2"),
        ("[alignment]\npreference_last_steps = 400\n",
         "mine.toml line 5: alignment: preference_last_steps = 400 is more than max_steps = 100"),
        ("[zero\nmax_steps = 3\n", r"mine.toml: .*\(at line 5, column \d+\)"),
        ("[zero]\nmax_steps = \n", r"mine.toml: .*\(at line 6, column \d+\)"),
        ("[problems]\nfamilies = { chian = 1.0 }\n",
         "mine.toml line 6: problems.families: unknown families chian; allowed are chain, choice, code"),
        ("[problems]\ncount = 0\ngeneral_count = 0\n", "mine.toml line 5: problems: an empty problem set"),
        ('[problems]\npath = "nowhere.jsonl"\n',
         "mine.toml line 6: problems.path: no such file or folder: .*/nowhere.jsonl"),
        ('[[sft.filters]]\nname = "x"\n', "mine.toml line 5: unknown key 'filters'; allowed are balance_alpha"),
        ('[[rejection.curate.filters]]\nname = "x"\n',
         "mine.toml line 5: .*does not match any of the expected tags: 'verdict', 'malformed'"),
        ('[[rejection.curate.filters]]\nname = "over_long"\n',
         "mine.toml line 5: rejection.curate.filters.0.over_long.max_tokens is missing"),
    ],
)  # fmt: skip
def test_a_mistake_is_named_with_its_line_and_what_is_allowed(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ValueError, match=f"^{message}") as caught:
        load(written(tmp_path, MINIMAL + text))
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('[base]\npath = "seed:bse"\n',
         "mine.toml line 2: base.path: 'seed:bse' does not ship; there are seed:base, seed:student"),
        ('[base]\npath = "nowhere"\n', "mine.toml line 2: base.path: no such file or folder: .*/nowhere"),
        (f'[base]\npath = "seed:base"\ndigest = "{"0" * 64}"\n',
         f"mine.toml line 3: base.digest = '{'0' * 64}', but seed:base has the digest [0-9a-f]{{64}}"),
        ('[base]\npath = "seed:base"\n[base.pretrain]\n',
         r"mine.toml line 1: base: a base has either a path \(such as \"seed:base\"\) or a \[pretrain\] table"),
        ("[base.pretrain.architecture]\nhiden_size = 3\n",
         "mine.toml line 1: base.pretrain.architecture: unknown fields hiden_size; allowed are first_k_dense_replace"),
        ("", r"mine.toml: base: a base has either a path \(such as \"seed:base\"\) or a \[pretrain\] table"),
        ("base = 3\n", "mine.toml line 1: base = 3: input should be a valid dictionary"),
        ("[base.pretrain]\n[student.pretrain]\n\n[cold]\nsft = 4\n",
         "mine.toml line 5: cold.sft = 4: input should be a valid dictionary"),
    ],
)  # fmt: skip
def test_a_mistake_about_the_bases_is_named(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ValueError, match=f"^{message}"):
        load(written(tmp_path, text))


@pytest.mark.parametrize(
    ("name", "message"),
    [("tini", "unknown recipe 'tini'; there are micro, paper"), ("tini.toml", "no such recipe file: tini.toml")],
)
def test_an_unknown_recipe_is_named(name: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        load(name)


# Changes from the command line.


def test_changes_are_read_as_toml(tmp_path: Path) -> None:
    changes = [
        "zero.num_generations=16", "zero.learning_rate=2e-5", "reasoning.dynamic_sampling=true",
        "zero.loss_type=grpo", 'sft = { batch_size = 4 }', "cold.generate.sampling.temperature = 0.5",
        "problems.families={ chain = 1.0 }", "description=a = b",
    ]  # fmt: skip
    recipe = load(written(tmp_path, MINIMAL + "[sft]\nmax_length = 99\n"), changes)
    assert (recipe.zero.num_generations, recipe.zero.learning_rate) == (16, 2e-5)
    assert recipe.reasoning.dynamic_sampling
    assert recipe.zero.loss_type == "grpo"
    assert (recipe.sft.batch_size, recipe.sft.max_length) == (4, SFTConfig().max_length)
    assert recipe.cold.generate.sampling.temperature == 0.5
    assert recipe.problems.families == {"chain": 1.0}
    assert recipe.description == "a = b"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("zero.num_generations", "--set zero.num_generations: write it as table.key=value, such as"),
        ("=3", "--set =3: write it as table.key=value"),
        ("zero.typo=1", "--set zero.typo: unknown key 'typo'; allowed are accuracy_weight"),
        ("zero.num_generations=1", "--set zero.num_generations: zero.num_generations = 1: input should be greater"),
        ("zero.save_steps=3", "--set zero.save_steps: zero: save_steps = 3 is not a multiple of"),
        ("zero={ typo = 1 }", "--set zero: unknown key 'typo'"),
        ("seed.typo=1", "--set seed.typo=1: 'seed' is a value, not a table"),
        ("base.path=nowhere", "--set base.path: base.path: no such file or folder: .*/nowhere"),
    ],
)
def test_a_mistake_in_a_change_is_named(tmp_path: Path, change: str, message: str) -> None:
    with pytest.raises(ValueError, match=f"^{message}"):
        load(written(tmp_path, "seed = 1\n" + MINIMAL + "[zero]\nmax_steps = 4\n"), [change])


def test_of_several_changes_the_one_that_a_message_speaks_of_is_named() -> None:
    with pytest.raises(ValueError, match=r"^--set zero\.save_steps: zero: save_steps = 3 is not a multiple"):
        load("tiny", ["zero.max_steps=2", "zero.save_steps=3", "zero.beta=0.1"])
    with pytest.raises(ValueError, match=r"^--set zero\.beta: zero\.beta = -1: input should be greater"):
        load("tiny", ["zero.max_steps=2", "zero.beta=-1"])


def test_paths_are_relative_to_the_recipe_and_in_changes_to_here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here, there = tmp_path / "here", tmp_path / "there"
    for folder in (here, there):
        folder.mkdir()
        (folder / "mine.jsonl").write_text(json.dumps({"prompt": str(folder), "solution": "1"}) + "\n")
    monkeypatch.chdir(here)
    recipe = written(there, MINIMAL + '[problems]\npath = "mine.jsonl"\n')
    assert load(recipe).problems.path == there / "mine.jsonl"
    assert load(recipe, ["problems.path=mine.jsonl"]).problems.path == here / "mine.jsonl"
    assert load("tiny", ["problems.path=mine.jsonl"]).heldout.path == here / "mine.jsonl"


# Seeds.


def seeded_tables(settings: type[BaseModel], prefix: str = "") -> Iterator[str]:
    """Dotted names of all tables that have a seed."""
    for name, field in settings.model_fields.items():
        if isinstance(field.default, Settings):
            if "seed" in type(field.default).model_fields:
                yield prefix + name
            yield from seeded_tables(type(field.default), f"{prefix}{name}.")


OWN_SEEDS = {"problems", "heldout", "general", "evaluation"}


def seed_in(recipe: Recipe, table: str) -> int:
    value: Any = recipe
    for part in table.split("."):
        value = getattr(value, part)
    return int(value.seed)


def test_the_seed_reaches_every_stage_that_trains_or_samples_and_no_other(tmp_path: Path) -> None:
    assert set(SEEDED) == set(seeded_tables(Recipe)) - OWN_SEEDS
    text = "seed = 7\n[base.pretrain]\n[student.pretrain]\nseed = 5\n[zero]\nseed = 3\n"
    recipe = load(written(tmp_path, text))
    found = {table: seed_in(recipe, table) for table in (*SEEDED, *OWN_SEEDS, "base.pretrain", "student.pretrain")}
    expected = dict.fromkeys((*SEEDED, "base.pretrain"), 7) | dict.fromkeys(OWN_SEEDS, 0)
    assert found == expected | {"zero": 3, "student.pretrain": 5}
    again = load(written(tmp_path, text), ["seed=8"])
    assert seed_in(again, "cold.generate.sampling") == 8
    assert again.evaluation == recipe.evaluation


# The paper's numbers (DeepSeek-R1: supplement on hyperparameters, Table 4 and 5).


@pytest.fixture(scope="module")
def paper() -> Recipe:
    return load("paper")


def test_reinforcement_has_the_papers_numbers(paper: Recipe) -> None:
    stages = {"zero": paper.zero, "reasoning": paper.reasoning, "alignment": paper.alignment, "rl": paper.student_rl}
    for config in stages.values():
        assert config.prompts_per_step == 32
        assert config.num_generations == 16
        assert config.prompts_per_step * config.num_generations == 512
        assert config.steps_per_generation == 16
        assert config.prompts_per_step * config.num_generations * config.steps_per_generation == 8192
        assert config.beta == 0.001
        assert config.ref_model_sync_steps == 400
        assert config.max_completion_length == 32_768
    assert {name: config.learning_rate for name, config in stages.items()} == {
        "zero": 3e-6, "reasoning": 3e-6, "alignment": 3e-6, "rl": 2e-6,
    }  # fmt: skip
    assert {name: config.temperature for name, config in stages.items()} == {
        "zero": 1.0, "reasoning": 1.0, "alignment": 0.7, "rl": 1.0,
    }  # fmt: skip
    assert (paper.reasoning.epsilon, paper.alignment.epsilon) == (10, 10)
    assert paper.zero.max_steps == 10_400
    assert (paper.alignment.max_steps, paper.alignment.preference_last_steps) == (1_700, 400)
    assert paper.student_rl.max_steps >= 10_000


def test_rewards_are_those_of_each_stage(paper: Recipe) -> None:
    def weights(config: GRPOConfig) -> tuple[float, float, float, float]:
        return config.accuracy_weight, config.format_weight, config.language_weight, config.preference_weight

    assert weights(paper.zero) == weights(paper.student_rl) == (1, 1, 0, 0)
    assert weights(paper.reasoning) == (1, 1, 1, 0)
    assert weights(paper.alignment) == (1, 1, 1, 1)
    assert paper.alignment.general_prompts_per_step > 0
    assert (paper.zero.template, paper.reasoning.template, paper.alignment.template) == ("zero", "chat", "chat")


def test_fine_tuning_has_the_papers_numbers(paper: Recipe) -> None:
    for config in (paper.cold.sft, paper.sft):
        assert config.learning_rate == 5e-5
        assert config.learning_rate * config.final_rate_fraction == pytest.approx(5e-6)
        assert config.batch_size == 128
        assert config.max_length == 32_768
        assert config.num_train_epochs in (2, 3)
    assert paper.distill.batch_size == 64
    assert paper.distill.learning_rate == 1e-4  # the 1.5B student's
    assert paper.distill.final_rate_fraction == 0.1
    assert paper.distill.num_train_epochs in (2, 3)
    assert paper.rejection.curate.general_share == 200 / 800
    assert paper.cold.generate.sampling.temperature == 1.0


def test_reward_models_have_the_papers_numbers(paper: Recipe) -> None:
    for kind, config in (("helpful", paper.preference.helpful), ("harmless", paper.preference.harmless)):
        assert config == JudgeConfig(kind=kind, batch_size=256, learning_rate=6e-6, num_train_epochs=1)


def test_problems_and_evaluation_have_the_papers_numbers(paper: Recipe) -> None:
    assert paper.problems.count == 26_000 + 17_000 + 22_000 + 15_000
    assert paper.problems.general_count == 66_000 + 12_000
    assert (paper.evaluation.temperature, paper.evaluation.top_p) == (0.6, 0.95)
    assert paper.evaluation.num_generations == 64


# One's own problems.


@pytest.mark.parametrize("suffix", ["jsonl", "parquet"])
def test_own_problems_come_through_collect(tmp_path: Path, suffix: str) -> None:
    rows = [{"question": f"{i} + {i} = ?", "gold": str(2 * i)} for i in range(80)]
    frame = pl.DataFrame(rows)
    if suffix == "jsonl":
        frame.write_ndjson(tmp_path / "own.jsonl")
    else:
        frame.write_parquet(tmp_path / "own.parquet")
    columns = 'columns = { prompt = "question", solution = "gold" }\n'
    recipe = load(written(tmp_path, MINIMAL + f'[problems]\npath = "own.{suffix}"\ngeneral_count = 3\n{columns}'))
    with session(Session(tmp_path / "runs", "plain")):
        train = problems_of(collect("problems", recipe.problems))
        heldout = problems_of(collect("heldout", recipe.heldout))
    ours, held = ([each for each in part if each.family == "own"] for part in (train, heldout))
    assert {each.prompt: each.solution for each in ours + held} == {row["question"]: row["gold"] for row in rows}
    assert all(held_out(each.key) for each in held)
    assert not any(held_out(each.key) for each in ours)
    assert (len(train) - len(ours), len(heldout) - len(held)) == (3, recipe.heldout.general_count)


def test_two_files_are_taken_whole(tmp_path: Path) -> None:
    for name in ("mine", "theirs"):
        rows = [{"prompt": f"{name} {i}", "solution": "1"} for i in range(30)]
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    text = '[problems]\npath = "mine.jsonl"\ngeneral_count = 0\n[heldout]\npath = "theirs.jsonl"\ngeneral_count = 0\n'
    recipe = load(written(tmp_path, MINIMAL + text))
    with session(Session(tmp_path / "runs", "plain")):
        for config, name in ((recipe.problems, "mine"), (recipe.heldout, "theirs")):
            prompts = [each.prompt for each in problems_of(collect("problems", config))]
            assert prompts == [f"{name} {i}" for i in range(30)]


def test_a_broken_row_is_named_by_file_and_line(tmp_path: Path) -> None:
    (tmp_path / "own.jsonl").write_text('{"prompt": "1 + 1", "solution": "2"}\n{"prompt": "1 + 2"}\n')
    recipe = load(written(tmp_path, MINIMAL + '[problems]\npath = "own.jsonl"\n'))
    with (
        session(Session(tmp_path / "runs", "plain")),
        pytest.raises(ValueError, match=r"own.jsonl line 2: 'solution' is missing"),
    ):
        collect("problems", recipe.problems)
    assert not list((tmp_path / "runs").glob("*/record.json"))


# Reading and writing.


def test_lines_are_found_by_the_longest_match() -> None:
    text = '# zero\nseed = 1\n[zero]\nbeta = 0\n\n[cold.sft]\n"batch_size" = 3\ngenerate.problems = 4\n[[x.filters]]\n'
    places = {"seed": 2, "zero": 3, "zero.beta": 4, "zero.gamma": 3, "cold.sft.batch_size": 7, "x.filters.0.name": 9}
    assert {key: line_of(text, key.split(".")) for key in places} == places
    assert line_of(text, ["absent"]) is None


def test_a_recipe_as_plain_values_is_whole_and_reads_back(tmp_path: Path) -> None:
    recipe = load("micro")
    write_json(tmp_path / "recipe.json", settings_of(recipe))
    assert Recipe.model_validate(read_json(tmp_path / "recipe.json")) == recipe


def test_what_a_form_sends_is_read_as_changes_of_the_file() -> None:
    sent = settings_of(load("tiny"))
    sent["seed"] = 3
    sent["zero"]["num_generations"] = 6
    sent["base"]["digest"] = "0" * 64  # a form cannot know it
    found = settled(Recipe.model_validate(sent))
    assert found == load("tiny", ["seed=3", "zero.num_generations=6"])
    assert found.zero.seed == found.distill.seed == 3
    blank = Recipe(base=found.base, student=found.student)
    assert settled(blank) == blank


def test_a_recipe_is_reseeded_all_over() -> None:
    recipe = load("tiny", ["zero.seed=5"])
    assert reseeded(recipe, 2) == load("tiny", ["seed=2", "zero.seed=7"]).model_copy(update={"seed": 0})
