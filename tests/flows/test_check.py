"""`r1 check`: a recipe on one's own file, read whole, asked of its base, and what would fail in it."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
import torch
import transformers

from data.golds import gold_answer
from flows.check import check
from flows.plan import plan
from flows.recipe import Recipe, load
from model import checkpoint
from model.tokenizer import Tokenizer
from tasks.survey import room, survey
from tests.flows.beginner import beginner
from tests.model.families import byte_tokenizer, make
from tests.model.test_gguf import SIZES, write

ROOT = Path(__file__).parents[2]
SEEDED = '[base]\npath = "seed:base"\n[student]\npath = "seed:student"\n'


@pytest.fixture
def recipe(tmp_path: Path) -> Recipe:
    rows = ["q,a,kind,tag"]
    rows += [f"start with {i}; add {i}. result?,{2 * i},math,en" for i in range(60)]
    rows += [f"从{i}开始; 加上{i}; 得几?,{2 * i},math,zh" for i in range(40)]
    rows += ["which is 2: A 1+1; B 1+2?,A,choice,en", "what?,#### 3,math,en"]
    (tmp_path / "mine.csv").write_text("\n".join(rows) + "\n", encoding="utf-8")
    text = SEEDED + (
        '[problems]\npath = "mine.csv"\nmax_unverified = 1\ngeneral_count = 4\nsystem = "result?"\n'
        'columns = { prompt = "q", solution = "a", verifier = "kind", language = "tag" }\n'
        "[heldout]\ngeneral_count = 2\n"
    )
    (tmp_path / "mine.toml").write_text(text)
    return load(str(tmp_path / "mine.toml"))


def test_rows_languages_verifiers_lengths_and_golds_are_told(recipe: Recipe) -> None:
    assert recipe.base.path is not None
    tokenizer = Tokenizer.load(recipe.base.path)
    train = survey("problems", recipe.problems, tokenizer, "zero")
    held = survey("heldout", recipe.heldout, tokenizer, "zero")
    assert len(train.problems) + len(held.problems) == 101 + 4 + 2  # one row is refused
    assert (train.golds, train.refused) == (102, ["mine.csv line 103: '#### 3' is infra_error"])
    assert all(each.prompt.startswith("result?\n\n") for each in train.problems if gold_answer(each))
    head, languages, verifiers, _, prompts, golds, refused = train.lines()
    assert head == f"problems: {len(train.problems)} rows"
    counted = dict(each.split() for each in languages.split(maxsplit=1)[1].split(", "))
    assert sum(map(int, counted.values())) == len(train.problems)
    assert set(counted) == {"en", "zh"}
    assert " math " in verifiers
    assert prompts.split()[1:4] == [str(min(train.lengths)), "to", str(train.longest)]
    assert golds.split(maxsplit=1)[1] == "101 of 102 pass their own verifier"
    assert refused.strip() == train.refused[0]


def test_a_completion_that_the_context_cuts_off_is_told_with_what_would_fit() -> None:
    prompts, asks = {"problems": 40, "heldout": 10}, {"zero.x": ("problems", 60), "evaluation.x": ("heldout", 61)}
    assert room(100, prompts, asks) == []
    assert room(99, prompts, asks) == [
        "zero.x = 60 with the longest prompt of problems, 40 tokens, needs 100, and the base's context has 99; "
        "59 would fit"
    ]
    assert [each.split()[0] for each in room(70, prompts, asks)] == ["zero.x", "evaluation.x"]


def test_a_base_answers_a_handful_and_faults_are_marked(recipe: Recipe) -> None:
    lines = list(check(recipe, "cpu"))
    assert [line for line, fault in lines if fault] == []
    text = "\n".join(line for line, _ in lines)
    assert "714,912 parameters, a context of 512 tokens" in text
    assert text.count("\n  gold    '") == text.count("\n  answer  '") == 3
    stages = [step.artifact.name for step in plan(recipe, Path("nowhere"))]
    assert [line.split()[0] for line, _ in lines[-len(stages) - 1 :]] == [*stages, "altogether"]
    assert text.count(" User:  result ? ") == 3  # the system's words, before each question as it is tokenised


def test_a_gguf_base_that_reads_on_and_a_beginner_are_converted_measured_and_forgotten(
    recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("gguf")
    torch.manual_seed(0)
    sizes = {**SIZES, "max_position_embeddings": 2048}
    llama = transformers.AutoModelForCausalLM.from_config(transformers.AutoConfig.for_model("llama", **sizes))
    write(tmp_path / "base.gguf", llama)
    (tmp_path / "own.txt").write_text("\n\n".join(f"{n} and {n + 1} are numbers. " * 150 for n in range(99)))
    text = '[base]\npath = "base.gguf"\n[base.midtrain]\npath = "own.txt"\nsequence_length = 64\n' + beginner(2048)
    assert recipe.file is not None
    recipe.file.write_text(text + recipe.file.read_text().partition('"seed:student"\n')[2])
    short = [f"{name}.max_completion_length=24" for name in ("zero", "reasoning", "alignment", "student_rl")]
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))
    changed = load(str(recipe.file), short)
    lines = list(check(changed, "cpu", processes=2))
    assert [line for line, fault in lines if fault] == []
    text = "\n".join(line for line, _ in lines)
    assert "base.gguf: " in text
    assert "\nbase: reads on for 300 steps; " in text
    assert text.count(" on cpu in 2 processes, memory of the first: samples ") == 2
    stages = {line.split()[0]: float(line.split()[1]) for line, _ in lines if line.startswith("  ") and " s" in line
              and line.split()[1].replace(".", "").isdigit()}  # fmt: skip
    assert {"base_untouched", "base", "student_base", "zero", "student_rl", "altogether"} <= set(stages)
    assert stages["base"] > 6  # 60,000 documents alone
    assert not any(temporary.iterdir())


def test_too_little_text_to_read_on_is_a_fault(recipe: Recipe, tmp_path: Path) -> None:
    (tmp_path / "own.txt").write_text("few words")
    assert recipe.file is not None
    lines = list(check(load(str(recipe.file), [f"base.midtrain.path={tmp_path / 'own.txt'}"]), "cpu"))
    assert [line for line, fault in lines if fault] == [
        "would fail: 1 documents are too few to hold out one in 20"
    ]  # fmt: skip


def run(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "flows", "check", *words], capture_output=True, text=True, cwd=ROOT, timeout=300,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )  # fmt: skip


def test_faults_are_counted_and_exit_with_1(recipe: Recipe) -> None:
    done = run(str(recipe.file), "--set", "reasoning.max_completion_length=505")
    assert done.returncode == 1, done.stderr
    [line] = [line for line in done.stdout.splitlines() if line.startswith("would fail: ")]
    assert "reasoning.max_completion_length = 505 with the longest prompt of problems" in line
    assert done.stdout.splitlines()[-1] == "1 would fail"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            "problems.max_unverified=0",
            "mine.csv line 103: the gold answer '#### 3' does not pass its own verifier math",
        ),
        ("problems.columns={q='prompt'}", "columns may rename prompt, solution, verifier, language, options, metadata"),
        ("problems.path=hub:nobody", "write it as hub:OWNER/NAME or hub:OWNER/NAME/FILE"),
        ("problems.template=no question", "a template must hold {prompt} once, got it 0 times"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(recipe: Recipe, change: str, message: str) -> None:
    done = run(str(recipe.file), "--set", change)
    assert done.returncode == 2
    assert message in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


def test_a_device_too_small_for_all_weights_is_told_what_an_adapter_takes(
    recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = make(tmp_path / "llama", "llama", byte_tokenizer(), vocab_size=264, num_hidden_layers=1,
                  max_position_embeddings=4096, eos_token_id=258, bos_token_id=256, pad_token_id=None)  # fmt: skip
    short = ["zero.max_completion_length=8", "zero.num_generations=2", "zero.beta=0", "reasoning.beta=0"]
    changes = [f"base.path={folder}", f"student.path={folder}", "alignment.beta=0", *short]
    assert recipe.file is not None
    whole = load(str(recipe.file), changes)
    weights = 4 * sum(each.numel() for each in checkpoint.load(folder)[0].parameters())
    monkeypatch.setattr("flows.check.memory_of", lambda device: 2 * weights)
    told = [line for line, fails in check(whole, "cpu") if fails and "RL on cpu" in line]
    assert [line.rpartition("; ")[2] for line in told] == ["an adapter ([zero.lora]) leaves of these 0.0 GB"]
    adapter = ["zero.lora.r=2", "zero.lora.target_modules=['q_proj']"]
    lines = list(check(load(str(recipe.file), [*changes, *adapter]), "cpu"))
    assert not [line for line, fails in lines if fails and "RL on cpu" in line]
    assert lines[-1][0].lstrip().startswith("altogether")
