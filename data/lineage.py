"""Identity of what the pipeline makes: fingerprints, handles, and the record that says "done".

An artifact is a folder `runs/<stage>-<fingerprint>/`. Its fingerprint covers the stage's name and
version, the literals of its configuration and the fingerprints of its parents; where and how a stage
runs (device, workers, paths) never enters. `record.json` is written last, so its presence means that
the folder is whole.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict
from pydantic.fields import FieldInfo

Json = Any  # what json.dumps takes

PLACE: dict[str, Json] = {"identity": False}
"""`json_schema_extra` of a setting that says where something lies, not what it is."""

WHEN_SET: dict[str, Json] = {"identity": "when set"}
"""`json_schema_extra` of a setting whose default means that what it asks for is not done."""

RECORD = "record.json"
RECORDED = ("key", "name", "stage", "version", "fingerprint", "config", "parents", "summary", "files", "wall_s")
RESUME = ".resume"
"""What an attempt to make an artifact left: all of it, until there is a record; then that its history is open."""

METRICS = "metrics.jsonl"
"""One JSON object a step of training, in the folder of the artifact."""

TIMES = "times.jsonl"
"""The same for how long things took, which no two runs share."""


class Settings(BaseModel):
    """Base of every configuration: frozen, and an unknown key is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class BrokenArtifact(ValueError):
    """An artifact whose files are not those that its record names; `name` is its station in the recipe."""

    def __init__(self, message: str, name: str) -> None:
        super().__init__(message)
        self.name = name


@dataclass(frozen=True, slots=True)
class Artifact:
    """A handle to something a stage makes. `name` is its station in the recipe and bears no identity."""

    name: str
    stage: str
    fingerprint: str
    runs: Path

    @property
    def key(self) -> str:
        return f"{self.stage}-{self.fingerprint}"

    @property
    def folder(self) -> Path:
        return self.runs / self.key

    @property
    def done(self) -> bool:
        return (self.folder / RECORD).is_file()

    @property
    def closed(self) -> bool:
        """Whether it is done and so is its history."""
        return self.done and not (self.folder / RESUME).is_dir()

    def record(self) -> dict[str, Json]:
        """Return the record. Raises FileNotFoundError while the artifact is not made."""
        return read_record(self.folder)


class Policy(Artifact):
    """A language model; `checkpoint` is its folder in Hugging Face layout."""

    @property
    def checkpoint(self) -> Path:
        return self.folder / "policy"


class Judge(Policy):
    """A reward model: the same layout with a scalar head."""


class Table(Artifact):
    """Rows in Parquet files."""


class Report(Artifact):
    """Figures: `report.json`, and what else shows them."""


def canonical(value: object) -> Json:
    """Turn a configuration into plain JSON values. Raises TypeError for what has no stable identity."""
    if isinstance(value, BaseModel):
        fields = type(value).model_fields
        told = {name: getattr(value, name) for name in sorted(fields)}
        return {name: canonical(each) for name, each in told.items() if _bears_identity(fields[name], each)}
    if isinstance(value, Enum):
        return canonical(value.value)
    if isinstance(value, bool | int | float | str) or value is None:
        return value
    if isinstance(value, Mapping):
        return {str(key): canonical(value[key]) for key in sorted(value, key=str)}
    if isinstance(value, Sequence):
        return [canonical(item) for item in value]
    raise TypeError(f"{value!r} has no stable identity: a configuration holds numbers, text, lists and tables")


def _bears_identity(info: FieldInfo, value: object) -> bool:
    told = info.json_schema_extra.get("identity") if isinstance(info.json_schema_extra, dict) else True
    return told is not False and not (told == "when set" and value == info.get_default(call_default_factory=True))


def fingerprint(stage: str, version: int, config: Mapping[str, object], parents: Mapping[str, Json]) -> str:
    """Name what a stage will make: 12 hexadecimal digits over all that determines it."""
    identity = {"stage": stage, "version": version, "config": canonical(config), "parents": parents}
    return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:12]


def seed_of(*parts: object) -> int:
    """Derive a 63-bit seed from what names a random stream, such as (run seed, stage, step, problem, sample)."""
    text = "\x1f".join(str(part) for part in parts)
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big") >> 1


def file_digests(folder: Path, without: str) -> dict[str, str]:
    """Return the SHA-256 of every file under a folder by relative path, the record and one folder left out."""
    files = sorted(path.relative_to(folder) for path in folder.rglob("*") if path.is_file())
    return {path.as_posix(): sha256_of(folder / path) for path in files if path.parts[0] not in (RECORD, without)}


def check(artifact: Artifact) -> None:
    """Raise BrokenArtifact when a file of the artifact was changed or is missing since its record was written."""
    if broken := broken_files(artifact.folder):
        message = f"{artifact.key}/{broken[0]} was changed or is missing since it was made"
        raise BrokenArtifact(message, artifact.name)


def broken_files(folder: Path) -> list[str]:
    """List the files of an artifact's folder that are not as its record says."""
    files: dict[str, str] = read_record(folder)["files"]
    return [name for name, digest in files.items() if not _is(folder / name, digest)]


def _is(path: Path, digest: str) -> bool:
    return path.is_file() and sha256_of(path) == digest


def read_json(path: Path) -> dict[str, Json]:
    """Read a JSON object. Raises ValueError, naming the file, where it is damaged."""
    try:
        value: dict[str, Json] = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is damaged, no JSON: {error}") from None
    return value


def read_record(folder: Path) -> dict[str, Json]:
    """Read an artifact's record. Raises ValueError for one that another version of the project has written."""
    record = read_json(folder / RECORD)
    if missing := [key for key in RECORDED if key not in record]:
        told = f"{folder / RECORD} has no {missing[0]!r}: another version made it"
        raise ValueError(f"{told}. Delete the folder to make it again, or choose another --runs")
    return record


def write_json(path: Path, value: Json) -> None:
    """Write JSON beside `path`, then rename, so that no reader sees half of it."""
    beside = path.with_name(path.name + ".tmp")
    with beside.open("w", encoding="utf-8") as file:
        json.dump(value, file, indent=1, ensure_ascii=False)
        file.flush()
        os.fsync(file.fileno())
    beside.replace(path)


def ancestors(artifact_key: str, runs: Path) -> Iterator[tuple[int, dict[str, Json]]]:
    """Walk the records from an artifact up to its roots, each once, as (depth, record)."""
    seen: set[str] = set()
    level = [artifact_key]
    depth = 0
    while level:
        following: list[str] = []
        for key in level:
            if key in seen:
                continue
            seen.add(key)
            record = read_record(runs / key)
            yield depth, record
            following += [parent["key"] for parent in record["parents"]]
        level, depth = following, depth + 1


def sha256_of(path: Path) -> str:
    """SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
