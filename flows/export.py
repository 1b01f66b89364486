"""`r1 export`: a checkpoint as a Hugging Face folder, or a fine-tuning set that `datasets` loads."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from data.lineage import METRICS, RECORD, Artifact, Json, Policy, ancestors, check, read_json, read_record, write_json
from data.mixture import declared
from data.prompts import ZERO_TEMPLATE
from data.sets import composition, write_set
from flows.chat import template_of
from model.checkpoint import set_apart
from tasks.card import card, model_card

TRAINED = ("finetune", "reinforce")
"""Stages whose checkpoints are made ready for use; a base keeps its tokenizer and how it samples."""

SAMPLED: dict[str, Json] = {"do_sample": True, "temperature": 0.6, "top_p": 0.95}


def export(artifact: Artifact, folder: Path) -> Path:
    """Write a checkpoint or a set into a folder that does not exist yet. Raises ValueError for anything else."""
    if (artifact.folder / "policy").is_dir():
        return write_checkpoint(Policy(artifact.name, artifact.stage, artifact.fingerprint, artifact.runs), folder)
    if (artifact.folder / "rows.parquet").is_file() and (artifact.folder / "kept.parquet").is_file():
        return write_rows(artifact, folder)
    raise ValueError(f"{artifact.key} is neither a checkpoint nor a fine-tuning set")


def write_checkpoint(policy: Policy, folder: Path) -> Path:
    """Copy a checkpoint, with its record and the metrics of its training; transformers loads it without a warning.

    One that was trained here asks by the template of its training, samples as it is measured (DeepSeek-R1:
    temperature 0.6, top-p 0.95), and has a card: figures, settings, and what it was made from.
    """
    with _new(folder) as beside:
        shutil.copytree(policy.checkpoint, beside, dirs_exist_ok=True)
        set_apart(beside)
        if policy.done and policy.record()["stage"] in TRAINED:
            _make_usable(policy, beside)
        for told in (RECORD, METRICS):
            if (policy.folder / told).is_file():
                shutil.copyfile(policy.folder / told, beside / told)
    return folder


def _make_usable(policy: Policy, folder: Path) -> None:
    config = folder / "tokenizer_config.json"
    template = template_of(policy)
    if template == "zero":
        write_json(config, read_json(config) | {"chat_template": ZERO_TEMPLATE})
        (folder / "chat_template.jinja").unlink(missing_ok=True)
    write_json(folder / "generation_config.json", read_json(folder / "generation_config.json") | SAMPLED)
    above = [record for _, record in ancestors(policy.key, policy.runs)]
    text = model_card(above[0], template, measured(policy), above[1:], _recipe(policy))
    (folder / "README.md").write_text(text, encoding="utf-8")


def measured(policy: Policy) -> dict[str, Json]:
    """The figures of a policy by its evaluation among the runs; empty where it has none."""
    for path in sorted(policy.runs.glob(f"evaluate-*/{RECORD}")):
        record = read_record(path.parent)
        if any(parent["key"] == policy.key for parent in record["parents"]):
            return read_json(path.parent / "report.json")
    return {}


def _recipe(policy: Policy) -> dict[str, Json]:
    """The recipe whose last run made the policy; empty where none did."""
    for path in sorted(policy.runs.glob("*/report.json")):
        keys = [f"{stage['stage']}-{stage['fingerprint']}" for stage in read_json(path).get("stages", [])]
        if policy.key in keys and (path.parent / "recipe.json").is_file():
            return read_json(path.parent / "recipe.json")
    return {}


def write_rows(built: Artifact, folder: Path) -> Path:
    """Write a set's rows as Parquet and JSON lines in chat form, with its card and its record."""
    check(built)
    record = built.record()
    above = [read_record(built.runs / parent["key"]) for parent in record["parents"]]
    with _new(folder) as beside:
        write_set(built.folder / "rows.parquet", beside)
        found = composition(built.folder, declared(record))
        (beside / "README.md").write_text(card(record, found, above), encoding="utf-8")
        shutil.copyfile(built.folder / RECORD, beside / RECORD)
    return folder


@contextmanager
def _new(folder: Path) -> Iterator[Path]:
    """A folder beside the one to be made, which it becomes when it is filled."""
    if folder.exists():
        raise ValueError(f"{folder} exists already; name a folder that does not")
    beside = folder.with_name(folder.name + ".partial")
    shutil.rmtree(beside, ignore_errors=True)  # left by an export that was stopped
    beside.mkdir(parents=True)
    try:
        yield beside
        beside.rename(folder)
    finally:
        shutil.rmtree(beside, ignore_errors=True)
