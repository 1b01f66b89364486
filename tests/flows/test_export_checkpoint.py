"""An exported checkpoint is used by a process that knows nothing but transformers."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from data.lineage import Policy, read_json, write_json
from data.prompts import render
from flows.export import export
from flows.recipe import SEEDS
from model.checkpoint import load, official_tensors
from model.tokenizer import Tokenizer
from tasks.roles import fitted
from tests.model.families import byte_tokenizer, make

SIZES = {"vocab_size": 264, "num_hidden_layers": 1, "max_position_embeddings": 2048, "eos_token_id": 258,
         "bos_token_id": 256, "pad_token_id": None}  # fmt: skip
ALONE = """
import json, sys, transformers
for folder in sys.argv[1:]:
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    model = transformers.AutoModelForCausalLM.from_pretrained(folder)
    asked = [{"role": "user", "content": "What is 12 + 30?"}]
    ids = tokenizer.apply_chat_template(asked, add_generation_prompt=True, return_tensors="pt", return_dict=True)
    made = model.generate(**ids, max_new_tokens=3)
    how = model.generation_config
    print(json.dumps({"asked": ids["input_ids"][0].tolist(), "made": made.shape[1] - ids["input_ids"].shape[1],
                      "how": [how.do_sample, how.temperature, how.top_p]}))
"""
QUIET = """
import sys, warnings, transformers
warnings.simplefilter("always")
transformers.utils.logging.disable_progress_bar()
model, told = transformers.AutoModelForCausalLM.from_pretrained(sys.argv[1], output_loading_info=True)
tokenizer = transformers.AutoTokenizer.from_pretrained(sys.argv[1])
print(*(kind for kind, names in told.items() if names))
model.save_pretrained(sys.argv[2])
tokenizer.save_pretrained(sys.argv[2])
"""
FIGURE = {"value": 0.5, "low": 0.25, "high": 0.75}


def record(runs: Path, stage: str, name: str, config: Any, parents: list[dict[str, str]]) -> Policy:
    made = Policy(name, stage, name[0] * 12, runs)
    made.folder.mkdir(parents=True)
    told = {"key": made.key, "name": name, "stage": stage, "version": 1, "fingerprint": made.fingerprint,
            "config": config, "parents": parents, "summary": {}, "files": {}, "wall_s": 1.0}  # fmt: skip
    write_json(made.folder / "record.json", told | {"made_at": "today"})
    return made


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    """A base, R1-Zero on it with an evaluation, and a model fine-tuned in the chat template."""
    runs = tmp_path / "runs"
    base = record(runs, "adopt", "base", {}, [])
    above = [{"argument": "policy", "name": "base", "key": base.key}]
    zero = record(runs, "reinforce", "zero", {"config": {"template": "zero", "beta": 0.001}}, above)
    dev1 = record(runs, "finetune", "dev1", {"config": {"num_train_epochs": 2}}, above)
    for each in (base, zero, dev1):
        make(each.checkpoint, "llama", fitted(byte_tokenizer()) if each is not base else byte_tokenizer(), **SIZES)
    of_zero = [{"argument": "policy", "name": "zero", "key": zero.key}]
    evaluated = record(runs, "evaluate", "evaluation", {}, of_zero)
    write_json(evaluated.folder / "report.json", {"pass@1": FIGURE, "by_family": {"chain": {}}, "harmless_rate": None})
    (runs / "mine").mkdir()
    write_json(runs / "mine" / "report.json", {"stages": [{"stage": "reinforce", "fingerprint": zero.fingerprint}]})
    write_json(runs / "mine" / "recipe.json", {"name": "mine", "seed": 7})
    return runs


def of(runs: Path, stage: str, name: str) -> Policy:
    return Policy(name, stage, name[0] * 12, runs)


def test_transformers_alone_asks_and_samples_as_in_training(runs: Path, tmp_path: Path) -> None:
    zero, dev1 = (
        export(of(runs, "reinforce", "zero"), tmp_path / "zero"),
        export(of(runs, "finetune", "dev1"), tmp_path / "dev1"),
    )
    done = subprocess.run(
        [sys.executable, "-c", ALONE, str(zero), str(dev1)], capture_output=True, text=True, cwd=tmp_path, timeout=250
    )
    assert done.returncode == 0, done.stderr[-2000:]
    of_zero, of_dev1 = (json.loads(line) for line in done.stdout.splitlines())
    tokenizer = fitted(Tokenizer.load(dev1))
    assert of_zero["asked"] == tokenizer.encode(render("What is 12 + 30?", "zero"))
    assert of_dev1["asked"] == tokenizer.encode(render("What is 12 + 30?", "chat"))
    assert of_zero["how"] == of_dev1["how"] == [True, 0.6, 0.95]
    assert 1 <= of_zero["made"] <= 3


def test_the_card_holds_figures_settings_recipe_and_lineage(runs: Path, tmp_path: Path) -> None:
    card = (export(of(runs, "reinforce", "zero"), tmp_path / "zero") / "README.md").read_text()
    assert card.startswith("---\nlibrary_name: transformers\n")
    for part in ("# zero\n", "`reinforce-zzzzzzzzzzzz`, made today", "| pass@1 | 0.500 | 0.250 to 0.750 |",
                 "- base, `adopt-bbbbbbbbbbbb`", '"beta": 0.001', '"seed": 7', "`<answer>` tags"):  # fmt: skip
        assert part in card
    assert "harmless" not in card
    other = (export(of(runs, "finetune", "dev1"), tmp_path / "dev1") / "README.md").read_text()
    assert "## Figures" not in other
    assert "## Recipe" not in other
    assert "then a summary" in other


def test_a_base_is_exported_as_it_is(runs: Path, tmp_path: Path) -> None:
    base = of(runs, "adopt", "base")
    folder = export(base, tmp_path / "base")
    for file in base.checkpoint.iterdir():
        assert (folder / file.name).read_bytes() == file.read_bytes()
    assert {file.name for file in folder.iterdir()} - {file.name for file in base.checkpoint.iterdir()} == {
        "record.json"
    }
    assert "do_sample" not in read_json(folder / "generation_config.json")


def test_the_shipped_base_is_exported_so_that_transformers_does_not_warn_and_saves_what_loads_here(
    runs: Path, tmp_path: Path
) -> None:
    base = record(runs, "adopt", "seed", {}, [])
    shutil.copytree(SEEDS / "base", base.checkpoint)
    folder, saved = export(base, tmp_path / "base"), tmp_path / "saved"
    done = subprocess.run(
        [sys.executable, "-c", QUIET, str(folder), str(saved)], capture_output=True, text=True, timeout=250
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "\n", "")
    shipped, again, theirs = (load(each)[0] for each in (SEEDS / "base", folder, saved))
    assert shipped.has_multi_token
    assert not theirs.has_multi_token
    own = official_tensors(shipped)
    assert official_tensors(again).keys() == own.keys()
    for model in (again, theirs):
        assert all(torch.equal(tensor, own[name]) for name, tensor in official_tensors(model).items())
    assert sum(".layers.3." in name for name in own.keys() - official_tensors(theirs).keys()) == len(own) - len(
        official_tensors(theirs)
    )
