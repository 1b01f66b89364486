"""A person's own trajectories -> the table that sampling leaves, so that a set is built of them without any model."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any, Final

import polars as pl
import pyarrow.parquet as pq
from pydantic import Field, field_validator, model_validator

from data.filters import with_language
from data.lineage import PLACE, Settings, Table
from data.outside import MAPS, Response, column_map, responses
from data.prompts import written
from data.records import Problem, Verdict
from data.units import units
from data.verifiers import Verifier
from tasks.collect import RULED
from tasks.rollout import SCHEMA
from tasks.stage import Run, Summary, stage

BATCH: Final = 2048  # responses held at a time
LOOKED_AT: Final = 1000  # responses that are read before anything is made


class TrajectoriesConfig(Settings):
    """Trajectories that were sampled elsewhere."""

    path: Path = Field(description="JSONL, Parquet, a folder of them, or a saved data set", json_schema_extra=PLACE)
    digest: str = Field("", description="SHA-256 of what is at `path`; filled in when the recipe is read")
    map: str = Field("own", description=f"which columns are read: {', '.join(MAPS)}")
    columns: dict[str, str] = Field(default={}, description="the file's column for each of prompt, completion, ...")
    family: str = Field("math", min_length=1, description="the domain of rows that name none")
    verifier: str = Field("math", description="judges rows that have a solution and no verdict")

    @field_validator("verifier")
    @classmethod
    def _known(cls, verifier: str) -> str:
        if verifier.partition(":")[0] not in RULED:
            raise ValueError(f"verifier must be out of {', '.join(sorted(RULED))}, got {verifier!r}")
        return verifier

    @model_validator(mode="after")
    def _mapped(self) -> TrajectoriesConfig:
        column_map(self.map, self.columns)
        return self


def inspect(config: TrajectoriesConfig) -> None:
    """Raise ValueError where there is no response to read, or one of the first cannot be read by the map."""
    found = islice(responses(config.path, column_map(config.map, config.columns)), LOOKED_AT)
    if not sum(1 for _ in found):
        raise ValueError(f"{config.path}: no trajectory in it")


@stage(version=2, makes=Table)
def take(run: Run, config: TrajectoriesConfig) -> Summary:
    """Write `trajectories.parquet` of a person's file; what it leaves open is judged by rule and measured.

    Responses to one prompt share a problem. Tokens that the file does not give are counted as words, numbers and Han
    characters.
    """
    known: dict[bytes, list[int]] = {}
    counts = {"rows": 0, "verified": 0, "malformed": 0}
    found = iter(responses(config.path, column_map(config.map, config.columns)))
    schema = pl.DataFrame(schema=SCHEMA).to_arrow().schema
    with (
        Verifier(isolation=run.session.isolation) as verifier,
        pq.ParquetWriter(run.folder / "trajectories.parquet", schema, compression="zstd") as writer,
    ):
        while batch := list(islice(found, BATCH)):
            frame = with_language(pl.DataFrame(list(_judged(batch, config, known, verifier, counts)), schema=SCHEMA))
            writer.write_table(frame.to_arrow().cast(schema))
    return counts | {"problems": len(known)}


def _judged(
    batch: Iterable[Response],
    config: TrajectoriesConfig,
    known: dict[bytes, list[int]],
    verifier: Verifier,
    counts: dict[str, int],
) -> Iterator[dict[str, Any]]:
    """The rows of a batch. `known` has the number of each prompt's problem, and how many responses it has had."""
    begun = []
    for each in batch:
        family = each.family or config.family
        digest = hashlib.blake2b((each.problem or each.prompt).encode(), digest_size=16).digest()
        place = known.setdefault(digest, [len(known), 0])
        problem = Problem(
            each.problem or f"{family}/{place[0]:07d}", each.prompt, family, each.language, each.prompt,
            each.solution or "", each.verifier or config.verifier,
        )  # fmt: skip
        text = written(each.parts.thinking, each.parts.answer) if each.parts.well_formed else each.text
        asked = each.solution is not None and each.correct is None
        id_ = each.id or f"{problem.id}/{place[1]}"
        begun.append((each, problem, id_, verifier.submit(problem, text, "chat") if asked else None))
        place[1] += 1
        counts["rows"] += 1
        counts["verified"] += asked
        counts["malformed"] += not each.parts.well_formed
    for each, problem, id_, judging in begun:
        verdict = judging.result() if judging else _said(each.correct)
        yield _row(each, problem, id_, verdict)


def _said(correct: bool | None) -> Verdict | None:
    return None if correct is None else Verdict("correct" if correct else "wrong", reason="the file says so")


def _row(each: Response, problem: Problem, id_: str, verdict: Verdict | None) -> dict[str, Any]:
    right = None if verdict is None else float(verdict.status == "correct")
    return dict.fromkeys(SCHEMA) | {
        "id": id_,
        "problem_id": problem.id,
        **{name: getattr(problem, name) for name in ("key", "family", "language", "prompt", "solution", "verifier")},
        "completion": each.text,
        "thinking": each.parts.thinking,
        "answer": each.parts.answer,
        "tokens": len(units(each.text)) if each.tokens is None else each.tokens,
        "finish": "stop" if each.finished else "length",
        "well_formed": each.parts.well_formed,
        "verdict": verdict.status if verdict else None,
        "extracted": verdict.answer if verdict else None,
        "reason_detail": verdict.reason if verdict else None,
        "reward": right or 0.0,
        "reward_accuracy": right,
        "step": 0,
    }
