"""The shipped bases are what their records say: the first steps, taken again on this machine, lose the same."""

import hashlib
import json
from pathlib import Path

import pytest

from data.lineage import METRICS, RECORD, canonical, read_json
from flows import recipe
from tasks.crawl import crawl
from tasks.sft import beginner, read

SEEDS = Path(__file__).parent.parent.parent / "data" / "seeds"
STEPS = 3


@pytest.mark.timeout(600)
def test_pretraining_begins_as_the_record_says() -> None:
    record = read_json(SEEDS / "base" / RECORD)
    config = recipe.load("seeds").base.pretrain
    assert config is not None
    assert canonical(config) == record["config"]["config"]
    student = beginner(config, "cpu")
    windows = crawl(student.speaker.tokenizer, config)
    assert hashlib.sha256(windows.tobytes()).hexdigest() == record["summary"]["crawl_digest"]
    assert windows.size * config.epochs == record["summary"]["tokens"]

    recorded = [json.loads(line) for line in (SEEDS / "base" / METRICS).read_text().splitlines()[:STEPS]]
    for then, (step, _, metrics) in zip(recorded, read(student, windows, config), strict=False):
        assert step == then["step"]
        for name in ("ce_loss", "mtp_loss"):
            assert metrics[name] == pytest.approx(then[name], rel=2e-3), (step, name)


def test_both_seeds_read_the_same_crawl_and_are_small() -> None:
    records = [read_json(SEEDS / name / RECORD) for name in ("base", "student")]
    assert records[0]["summary"]["crawl_digest"] == records[1]["summary"]["crawl_digest"]
    assert sum(path.stat().st_size for path in SEEDS.rglob("*") if path.is_file()) < 10_000_000
