"""Configuration -> Table of problems or of general fine-tuning rows."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from random import Random
from typing import Any, Literal, Self

import polars as pl
from pydantic import Field, field_validator, model_validator

from data.golds import Located, Unverified, check_bound, unverified
from data.lineage import PLACE, WHEN_SET, Settings, Table, sha256_of
from data.problems import generate, held_out, known_families, located_problems, unknown_families
from data.prompts import ASSISTANT, END, USER, check_frame, framed, render, written
from data.records import Language, Problem, Row
from data.rows import column_names
from data.store import read_table, write_table
from data.world.corpus import draw_for_training
from data.world.families import SHARES, SOURCES
from data.world.replies import reply, writer
from data.world.wheel import Wheel
from tasks.stage import Run, Summary, stage

GENERAL: dict[str, float] = {"helpful": 0.6, "harmless": 0.4}
"""Shares of the general prompts: questions to help with, and requests some of which must be refused."""


RULED = frozenset({"math", "choice", "code", "expression", "reasoning_gym"})
"""Verifiers that judge by a rule, up to a colon in their names; the others' problems are general prompts."""

JUDGE = "judge"
"""The verifier that is a language model: its problems are for rejection sampling, and left out of RL."""


def ruled(problem: Problem) -> bool:
    """Whether a rule judges the problem."""
    return problem.verifier.partition(":")[0] in RULED


def by_rule(problems: Iterable[Problem], *, with_judge: bool = False) -> tuple[list[Problem], list[Problem]]:
    """Part the reasoning problems, which a rule judges, from the general prompts.

    Problems that are left to a language model are in neither, or `with_judge` among the reasoning problems.
    """
    parts: tuple[list[Problem], list[Problem]] = [], []
    for problem in problems:
        if problem.verifier != JUDGE:
            parts[not ruled(problem)].append(problem)
        elif with_judge:
            parts[0].append(problem)
    return parts


def left_to_a_judge(problems: Iterable[Problem]) -> dict[str, int]:
    """How many problems only a language model can judge, for metrics and summaries; nothing where there is none."""
    count = sum(problem.verifier == JUDGE for problem in problems)
    return {"left_to_a_judge": count} if count else {}


Languages = tuple[Language, ...]
LANGUAGES: Any = Field(
    ("en", "zh"), min_length=1, description="of generated prompts, in turn", json_schema_extra=WHEN_SET
)


class ProblemsConfig(Settings):
    """Where problems come from: the miniature world, or a file of one's own."""

    split: Literal["train", "heldout"] = Field("train", description="by a hash of the language-free problem")
    count: int = Field(4000, ge=0, description="reasoning problems; ignored with a path")
    general_count: int = Field(600, ge=0, description="general prompts: questions to help with, requests to refuse")
    families: dict[str, float] = Field(default=dict(SHARES), description="generated families and their shares")
    languages: Languages = LANGUAGES
    seed: int = 0
    path: Path | None = Field(
        None,
        description="JSONL, CSV, Parquet or a dataset on disk, or hub:OWNER/NAME/FILE, instead of the generated",
        json_schema_extra=PLACE,
    )
    digest: str = Field("", description="SHA-256 of the file at `path`; filled in when the recipe is read")
    columns: dict[str, str] = Field(default={}, description="column of the file for each of prompt, solution, ...")
    fixed: dict[str, str] = Field(
        default={}, description='one value for all rows, such as { language = "en" }', json_schema_extra=WHEN_SET
    )
    system: str = Field("", description="instructions before each question", json_schema_extra=WHEN_SET)
    template: str = Field("", description="a text around each question, {prompt} in it", json_schema_extra=WHEN_SET)
    max_unverified: int = Field(
        0,
        ge=0,
        description="rows whose gold answer may fail its own verifier, and is left out",
        json_schema_extra=WHEN_SET,
    )
    divide: bool = Field(True, description="keep only this split's part of the file, by the hash")

    @model_validator(mode="after")
    def _not_empty(self) -> Self:
        if self.path is None and self.count + self.general_count == 0:
            raise ValueError("an empty problem set: count and general_count are both 0")
        return self

    @model_validator(mode="after")
    def _readable(self) -> Self:
        column_names(self.columns, self.fixed)
        check_frame(self.system, self.template)
        own = {"columns": self.columns, "fixed": self.fixed, "system": self.system, "template": self.template}
        if self.path is None and any(own.values()):
            given = ", ".join(name for name, value in own.items() if value)
            raise ValueError(f"{given}: only problems of one's own, which have a path, are read so")
        return self

    @field_validator("families")
    @classmethod
    def _weighed(cls, families: dict[str, float]) -> dict[str, float]:
        if not families or min(families.values()) < 0 or sum(families.values()) <= 0:
            raise ValueError("families are weighed by shares of 0 or more, and some by more than 0")
        return families

    @field_validator("families")
    @classmethod
    def _known(cls, families: dict[str, float]) -> dict[str, float]:
        if unknown := unknown_families(families):
            raise ValueError(f"unknown families {', '.join(unknown)}; allowed are {known_families()}")
        return families


def digest_of(path: Path) -> str:
    """SHA-256 of the file at `path`, or over the names and hashes of the folder's files.

    Raises ValueError when there is nothing.
    """
    if not path.exists():
        raise ValueError(f"no such file or folder: {path}")
    if path.is_file():
        return sha256_of(path)
    files = {file.relative_to(path).as_posix(): sha256_of(file) for file in path.rglob("*") if file.is_file()}
    return hashlib.sha256(json.dumps(files, sort_keys=True).encode()).hexdigest()


@stage(version=1, makes=Table)
def collect(run: Run, config: ProblemsConfig) -> Summary:
    """Write `problems.parquet`: reasoning problems and general prompts of one split."""
    frame = as_frame(drawn(config))
    write_table(run.folder / "problems.parquet", frame)
    counts = frame.group_by("family").len().sort("family")
    return {"rows": len(frame), "families": dict(counts.iter_rows())}


def drawn(config: ProblemsConfig) -> list[Problem]:
    """The problems of a configuration: reasoning problems, one's own or generated, then general prompts."""
    return [*(own_problems(config) if config.path else _generated(config)), *_general(config)]


def _generated(config: ProblemsConfig) -> list[Problem]:
    return list(_made(config, config.families, config.count))


def _general(config: ProblemsConfig) -> list[Problem]:
    return list(_made(config, GENERAL, config.general_count))


def _made(config: ProblemsConfig, families: Mapping[str, float], count: int) -> Iterator[Problem]:
    return generate(families, count, config.seed, config.split, config.languages) if count else iter(())


def own_problems(config: ProblemsConfig) -> list[Problem]:
    """Read and validate the problems of a file, and keep those of the split, as they are asked.

    Rows whose gold answer its own verifier refuses are left out. Raises ValueError for a broken row, or more such
    rows than the bound.
    """
    located, refused = read_own(config)
    check_bound(refused, len(located), config.max_unverified)
    bad = {each.problem.id for each in refused}
    problems = [problem for _, problem in located if problem.id not in bad]
    kept = [each for each in problems if not config.divide or held_out(each.key) == (config.split == "heldout")]
    if not kept:
        raise ValueError(
            f"{config.path}: none of its {len(problems)} problems falls in the {config.split} split "
            "(1 in 20 is held out); give heldout.path a file of its own"
        )
    return [replace(each, prompt=framed(each.prompt, config.system, config.template)) for each in kept]


def read_own(config: ProblemsConfig) -> tuple[list[Located], list[Unverified]]:
    """All problems of a file, with the place of each, and those whose gold answer its own verifier refuses."""
    assert config.path is not None
    located = located_problems(config.path, config.columns, config.fixed)
    return located, unverified(located)


class GeneralRowsConfig(Settings):
    """Non-reasoning rows for fine-tuning: replies of writers of mixed quality to general prompts."""

    rows: int = Field(300, ge=0)
    careless: float = Field(0.35, ge=0, le=1, description="share of writers who fail in some way")
    two_rounds: float = Field(
        0.0, ge=0, le=1, description="share of rows with an earlier round; paper: 1.1 rounds on average",
        json_schema_extra=WHEN_SET,
    )  # fmt: skip
    languages: Languages = LANGUAGES
    seed: int = 0


@stage(version=1, makes=Table)
def collect_general(run: Run, config: GeneralRowsConfig) -> Summary:
    """Write `rows.parquet`: general prompts with written replies, thinking left empty for trivial ones."""
    rows = list(_written(config))
    frame = rows_frame(rows)
    write_table(run.folder / "rows.parquet", frame)
    return {"rows": len(frame)}


def _written(config: GeneralRowsConfig) -> Iterator[Row]:
    rng = Random(f"general rows/{config.seed}")
    sources = Wheel({SOURCES[name]: share for name, share in GENERAL.items()})
    for index in range(config.rows):
        language = config.languages[index % len(config.languages)]
        source = sources.draw(rng)
        item = draw_for_training(source.draw, rng)
        question = source.question(item, language, rng)
        thinking, summary = reply(item, language, rng, writer(item, rng, config.careless))
        if config.two_rounds:
            earlier = Random(f"earlier round/{config.seed}/{index}")
            if earlier.random() < config.two_rounds:
                question = f"{_round(language, earlier)}{question}"
        yield Row(
            id=f"general/{index:06d}",
            family=source.name,
            language=language,
            prompt=render(question, "chat"),
            completion=written(thinking, summary),
            source="writers",
        )


def _round(language: Language, rng: Random) -> str:
    """A question and its good reply, of which the summary is told, up to the next question."""
    source = SOURCES[rng.choice(sorted(GENERAL))]
    item = draw_for_training(source.draw, rng)
    question = source.question(item, language, rng)
    _, summary = reply(item, language, rng, writer(item, rng, 0.0))
    return f"{question}{ASSISTANT}{summary}{END}{USER}"


PROBLEM_SCHEMA: dict[str, Any] = dict.fromkeys(Problem.__dataclass_fields__, pl.String)
ROW_SCHEMA: dict[str, Any] = dict.fromkeys(Row.__dataclass_fields__, pl.String)


def as_frame(problems: Sequence[Problem]) -> pl.DataFrame:
    """Lay problems out as a table."""
    return pl.DataFrame([asdict(problem) for problem in problems], schema=PROBLEM_SCHEMA)


def rows_frame(rows: Sequence[Row]) -> pl.DataFrame:
    """Lay fine-tuning rows out as a table."""
    return pl.DataFrame([asdict(row) for row in rows], schema=ROW_SCHEMA)


def problems_of(table: Table) -> list[Problem]:
    """Read the problems of a table."""
    frame = read_table(table.folder / "problems.parquet")
    return [Problem(**row) for row in frame.iter_rows(named=True)]


def rows_of(table: Table) -> list[Row]:
    """Read the fine-tuning rows of a table."""
    return [Row(**row) for row in read_table(table.folder / "rows.parquet").iter_rows(named=True)]
