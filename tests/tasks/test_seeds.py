"""The shipped bases are what their records say: the first steps, taken again on this machine, lose the same."""

import hashlib
import json
from pathlib import Path

import pytest
import torch

from data.lineage import METRICS, RECORD, canonical, read_json, seed_of
from flows import recipe
from model.config import ModelConfig
from model.optim import adamw
from model.transformer import Transformer
from tasks.crawl import crawl
from tasks.rollout import Speaker
from tasks.sft import Student, build_tokenizer, read

SEEDS = Path(__file__).parent.parent.parent / "data" / "seeds"
STEPS = 3


@pytest.mark.timeout(600)
def test_pretraining_begins_as_the_record_says() -> None:
    record = read_json(SEEDS / "base" / RECORD)
    config = recipe.load("seeds").base.pretrain
    assert config is not None
    assert canonical(config) == record["config"]["config"]
    tokenizer = build_tokenizer()
    windows = crawl(tokenizer, config)
    assert hashlib.sha256(windows.tobytes()).hexdigest() == record["summary"]["crawl_digest"]
    assert windows.size * config.epochs == record["summary"]["tokens"]

    torch.manual_seed(seed_of(config.seed, "weights"))
    ids = {"bos_token_id": tokenizer.bos_id, "eos_token_id": tokenizer.eos_id, "pad_token_id": tokenizer.pad_id}
    model = Transformer(ModelConfig(vocab_size=tokenizer.vocab_size, **ids, **config.architecture))
    optimizer = adamw(model, lr=config.learning_rate, weight_decay=config.weight_decay, betas=(0.9, 0.95))
    student = Student(Speaker(model, tokenizer), optimizer, config, "cpu")
    recorded = [json.loads(line) for line in (SEEDS / "base" / METRICS).read_text().splitlines()[:STEPS]]
    for then, (step, _, metrics) in zip(recorded, read(student, windows, config), strict=False):
        assert step == then["step"]
        for name in ("ce_loss", "mtp_loss"):
            assert metrics[name] == pytest.approx(then[name], rel=2e-3), (step, name)


def test_both_seeds_read_the_same_crawl_and_are_small() -> None:
    records = [read_json(SEEDS / name / RECORD) for name in ("base", "student")]
    assert records[0]["summary"]["crawl_digest"] == records[1]["summary"]["crawl_digest"]
    assert sum(path.stat().st_size for path in SEEDS.rglob("*") if path.is_file()) < 10_000_000
