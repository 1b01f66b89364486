"""Where a stage that was stopped goes on: the state that it saved last, and the shards that it finished.

Both lie in `.resume` of the stage's folder until its record is written. A state is a folder that is written
beside and renamed, its manifest last, so that it is whole or not there; the last two are kept.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import polars as pl
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from data.lineage import METRICS, RESUME, TIMES, Json, read_json, sha256_of, write_json
from data.store import read_table, write_table
from model.checkpoint import Model, load_official, official_tensors

KEPT = 2
"""States that are kept: should the last one have been cut short by a loss of power, there is one before it."""

_TENSORS, _MANIFEST = "tensors.safetensors", "state.json"


@dataclass(frozen=True, slots=True)
class State:
    """All that a stage needs to go on after `step`."""

    step: int
    tensors: dict[str, Tensor]
    values: dict[str, Json] = field(default_factory=dict)
    tables: dict[str, pl.DataFrame] = field(default_factory=dict)


def save(folder: Path, state: State) -> None:
    """Write a state into the stage's folder, and take away those before the last two."""
    place = folder / RESUME / f"state-{state.step:08d}"
    beside = place.with_name(place.name + ".partial")
    shutil.rmtree(beside, ignore_errors=True)
    beside.mkdir(parents=True)
    save_file({name: tensor.detach().cpu().contiguous() for name, tensor in state.tensors.items()}, beside / _TENSORS)
    _sync(beside / _TENSORS)
    for name, table in state.tables.items():
        write_table(beside / f"{name}.parquet", table)
    files = {file.name: sha256_of(file) for file in sorted(beside.iterdir())}
    write_json(beside / _MANIFEST, {"step": state.step, "values": state.values, "files": files})
    shutil.rmtree(place, ignore_errors=True)
    beside.rename(place)
    for old in _states(folder)[:-KEPT]:
        shutil.rmtree(old)


def latest(folder: Path) -> State | None:
    """Read the last state that is whole; None where there is none."""
    for place in reversed(_states(folder)):
        try:
            return _read(place)
        except (OSError, ValueError, SafetensorError):
            continue  # cut short when the machine went down
    return None


def recover(folder: Path) -> tuple[State | None, dict[str, float]]:
    """Make a folder ready to be filled: what an earlier attempt left is cut back to its last state.

    Returns that state and the last value of each metric up to it.
    """
    state = latest(folder)
    kept = {RESUME, METRICS, TIMES, "checkpoints"} if any((folder / RESUME).glob("*")) else set()
    folder.mkdir(parents=True, exist_ok=True)
    for path in [path for path in folder.iterdir() if path.name not in kept]:
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    last: dict[str, float] = {}
    for name in (METRICS, TIMES):
        for line in cut_back(folder / name, state.step if state else 0):
            last |= line
    last.pop("step", None)
    return state, last


def cut_back(path: Path, step: int) -> list[dict[str, float]]:
    """Cut a file of metrics back to a step, and return its lines; a last line that was not finished goes too."""
    if not path.is_file():
        return []
    lines = [line for line in path.read_text(encoding="utf-8").splitlines(keepends=True) if line.endswith("\n")]
    kept = [line for line in lines if json.loads(line)["step"] <= step]
    beside = path.with_name(path.name + ".partial")
    beside.write_text("".join(kept), encoding="utf-8")
    beside.replace(path)
    return [json.loads(line) for line in kept]


def _read(place: Path) -> State:
    manifest = read_json(place / _MANIFEST)
    for name, digest in manifest["files"].items():
        if sha256_of(place / name) != digest:
            raise ValueError(f"{place / name} is not what was saved")
    tables = {file.stem: read_table(file) for file in sorted(place.glob("*.parquet"))}
    return State(manifest["step"], load_file(place / _TENSORS), manifest["values"], tables)


def _states(folder: Path) -> list[Path]:
    return sorted(place for place in (folder / RESUME).glob("state-*") if place.suffix != ".partial")


def _sync(file: Path) -> None:
    with file.open("rb") as opened:
        os.fsync(opened.fileno())


def write_shard(folder: Path, name: str, frame: pl.DataFrame) -> None:
    """Keep a finished part of a table."""
    (folder / RESUME).mkdir(exist_ok=True)
    write_table(folder / RESUME / f"{name}.parquet", frame)


def read_shard(folder: Path, name: str) -> pl.DataFrame | None:
    """Read a finished part; None where it was not finished."""
    file = folder / RESUME / f"{name}.parquet"
    return read_table(file) if file.is_file() else None


def shards(folder: Path, prefix: str) -> Iterator[pl.DataFrame]:
    """Read the finished parts whose names begin so, in the order of their names."""
    for file in sorted((folder / RESUME).glob(f"{prefix}*.parquet")):
        yield read_table(file)


def after(
    step: int, model: Model, optimizer: torch.optim.Optimizer, reference: Model | None = None, **values: Json
) -> State:
    """The state of a training after a step."""
    return State(step, packed(model, optimizer, reference), values)


def restore(state: State | None, model: Model, optimizer: torch.optim.Optimizer, reference: Model | None = None) -> int:
    """Put a training back to where it was; returns the steps that were taken before, 0 without a state."""
    if state is None:
        return 0
    unpack(state.tensors, model, optimizer, reference)
    return state.step


def packed(model: Model, optimizer: torch.optim.Optimizer, reference: Model | None = None) -> dict[str, Tensor]:
    """Put a model, its optimiser and its reference into one dictionary of tensors."""
    found = {f"model/{name}": tensor for name, tensor in official_tensors(model).items()}
    for index, values in optimizer.state_dict()["state"].items():
        found |= {f"optimizer/{index}/{name}": value for name, value in values.items()}
    if reference is not None:
        found |= {f"reference/{name}": tensor for name, tensor in official_tensors(reference).items()}
    return found


def unpack(
    tensors: dict[str, Tensor], model: Model, optimizer: torch.optim.Optimizer, reference: Model | None = None
) -> None:
    """Put back what `packed` took. Raises ValueError for a tensor that does not fit."""
    load_official(model, _under("model/", tensors))
    if reference is not None:
        load_official(reference, _under("reference/", tensors))
    values: dict[int, dict[str, Tensor]] = {}
    for name, tensor in _under("optimizer/", tensors).items():
        index, _, key = name.partition("/")
        values.setdefault(int(index), {})[key] = tensor
    optimizer.load_state_dict({"state": values, "param_groups": optimizer.state_dict()["param_groups"]})


def _under(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
