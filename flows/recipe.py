"""The recipe: the stages' own settings composed into one frozen object.

People write TOML, machines write JSON. A recipe that ships is called by its name, one's own by its path.
Every error names the file, the line, what is wrong and what is allowed.
"""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import Field, ValidationError, model_validator

from data.lineage import PLACE, Settings, write_json
from tasks.collect import GeneralRowsConfig, ProblemsConfig, digest_of
from tasks.curate import CurateConfig
from tasks.evaluate import EvaluationConfig
from tasks.grpo import GRPOConfig
from tasks.preference import JudgeConfig, PairsConfig
from tasks.rollout import GenerateConfig, Sampling
from tasks.sft import PretrainConfig, SFTConfig

SHIPPED = Path(__file__).parent / "recipes"
SEEDS = Path(__file__).parent.parent / "data" / "seeds"
SEEDED = ("zero", "cold", "reasoning", "rejection", "sft", "preference", "alignment", "distill", "student_rl")


class BaseConfig(Settings):
    """A base model: one that exists, taken by its digest, or one to pretrain."""

    path: Path | None = Field(
        None,
        description="folder in Hugging Face layout; seed:NAME for one that ships",
        json_schema_extra=PLACE,
    )
    digest: str = Field("", description="SHA-256 over the folder's files, so that identity does not hang on a path")
    pretrain: PretrainConfig | None = Field(None, description="make the base instead")

    @model_validator(mode="after")
    def _one_of_two(self) -> Self:
        if (self.path is None) == (self.pretrain is None):
            raise ValueError("a base has either a path or a [pretrain] table")
        return self


class ColdConfig(Settings):
    """From R1-Zero's trajectories to Dev1."""

    generate: GenerateConfig = GenerateConfig(sampling=Sampling(template="zero"))
    curate: CurateConfig = CurateConfig(rewrite=True)
    sft: SFTConfig = SFTConfig()


class RejectionConfig(Settings):
    """From Dev2's trajectories to the set of the second fine-tuning."""

    generate: GenerateConfig = GenerateConfig()
    curate: CurateConfig = CurateConfig()


class PreferenceConfig(Settings):
    """From Dev3's answers to general prompts to the two reward models."""

    generate: GenerateConfig = GenerateConfig(general=True)
    pairs: PairsConfig = PairsConfig()
    helpful: JudgeConfig = JudgeConfig(kind="helpful")
    harmless: JudgeConfig = JudgeConfig(kind="harmless")


class Recipe(Settings):
    """All that determines what the pipeline makes."""

    name: str = Field("", description="filled in from the file's name", json_schema_extra=PLACE)
    description: str = Field("", json_schema_extra=PLACE)
    flow: Literal["r1", "bases"] = Field("r1", description="the whole pipeline, or its base models only")
    seed: int = Field(0, description="of every training and sampling stage that has none of its own")
    base: BaseConfig
    student: BaseConfig
    problems: ProblemsConfig = ProblemsConfig()
    heldout: ProblemsConfig = ProblemsConfig(split="heldout", count=96, general_count=48)
    general: GeneralRowsConfig = GeneralRowsConfig()
    zero: GRPOConfig = GRPOConfig(template="zero")
    cold: ColdConfig = ColdConfig()
    reasoning: GRPOConfig = GRPOConfig(language_weight=1.0)
    rejection: RejectionConfig = RejectionConfig()
    sft: SFTConfig = SFTConfig()
    preference: PreferenceConfig = PreferenceConfig()
    alignment: GRPOConfig = GRPOConfig(language_weight=1.0, preference_weight=1.0, temperature=0.7)
    distill: SFTConfig = SFTConfig()
    student_rl: GRPOConfig = GRPOConfig(template="zero")
    evaluation: EvaluationConfig = EvaluationConfig()


def shipped() -> list[str]:
    """Names of the recipes that ship."""
    return sorted(path.stem for path in SHIPPED.glob("*.toml"))


def load(name: str, changes: Sequence[str] = ()) -> Recipe:
    """Read a recipe by name or path and apply changes such as `zero.num_generations=16`.

    Raises ValueError in one line that says what is wrong, where, and what is allowed.
    """
    path = _find(name)
    text = path.read_text(encoding="utf-8")
    try:
        raw = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ValueError(f"{path.name}: {error}") from None
    for change in changes:
        _apply(raw, change)
    raw["name"] = path.stem
    _spread_seed(raw)
    _resolve_places(raw, path.parent)
    try:
        return Recipe.model_validate(raw)
    except ValidationError as error:
        raise ValueError(_explain(error, path.name, text, changes)) from None


def dump(recipe: Recipe, path: Path) -> None:
    """Write the resolved recipe as JSON."""
    write_json(path, json.loads(recipe.model_dump_json()))


def _find(name: str) -> Path:
    path = Path(name)
    if path.suffix == ".toml":
        if not path.is_file():
            raise ValueError(f"no such recipe file: {name}")
        return path
    if name not in shipped():
        raise ValueError(f"unknown recipe {name!r}; there are {', '.join(shipped())}, or give the path of a .toml file")
    return SHIPPED / f"{name}.toml"


def _apply(raw: dict[str, Any], change: str) -> None:
    key, separator, literal = change.partition("=")
    if not separator or not key:
        raise ValueError(f"--set {change}: write it as table.key=value, such as zero.num_generations=16")
    try:
        value = tomllib.loads(f"value = {literal}")["value"]
    except tomllib.TOMLDecodeError:
        value = literal
    *tables, last = key.strip().split(".")
    for table in tables:
        raw = raw.setdefault(table, {})
        if not isinstance(raw, dict):
            raise ValueError(f"--set {change}: {table!r} is a value, not a table")
    raw[last] = value


def _spread_seed(raw: dict[str, Any]) -> None:
    """Give the recipe's seed to every training and sampling table that names none."""
    for name in SEEDED:
        table = raw.setdefault(name, {})
        for part in _seeded_tables(name, table):
            part.setdefault("seed", raw.get("seed", 0))


def _seeded_tables(name: str, table: dict[str, Any]) -> list[dict[str, Any]]:
    if name == "cold":
        return [table.setdefault("generate", {}).setdefault("sampling", {}), table.setdefault("curate", {}),
                table.setdefault("sft", {})]  # fmt: skip
    if name == "rejection":
        return [table.setdefault("generate", {}).setdefault("sampling", {}), table.setdefault("curate", {})]
    if name == "preference":
        for kind in ("helpful", "harmless"):
            table.setdefault(kind, {}).setdefault("kind", kind)
        return [table.setdefault("generate", {}).setdefault("sampling", {}), table.setdefault("pairs", {}),
                table.setdefault("helpful", {}), table.setdefault("harmless", {})]  # fmt: skip
    return [table]


def _resolve_places(raw: dict[str, Any], beside: Path) -> None:
    """Turn paths into absolute ones, and note the digest of what lies there."""
    for name in ("base", "student"):
        table = raw.get(name)
        if isinstance(table, dict) and isinstance(table.get("path"), str):
            place = table["path"]
            path = SEEDS / place.removeprefix("seed:") if place.startswith("seed:") else (beside / place).resolve()
            table["path"] = path
            digest = digest_of(path)
            if table.setdefault("digest", digest) != digest:
                raise ValueError(f"{name}.path: {place} has digest {digest}, and the recipe asks for {table['digest']}")
    problems, heldout = raw.get("problems", {}), raw.setdefault("heldout", {})
    heldout.setdefault("split", "heldout")
    if isinstance(problems.get("path"), str) and "path" not in heldout:
        heldout |= {key: problems[key] for key in ("path", "columns") if key in problems}
    elif isinstance(problems.get("path"), str):
        problems.setdefault("divide", False)
        heldout.setdefault("divide", False)
    for table in (problems, heldout):
        if isinstance(table.get("path"), str):
            table["path"] = (beside / table["path"]).resolve()
            table["digest"] = digest_of(table["path"])


def _explain(error: ValidationError, file: str, text: str, changes: Sequence[str]) -> str:
    first = error.errors()[0]
    location = [str(part) for part in first["loc"]]
    key = ".".join(location)
    changed = any(change.partition("=")[0].strip() == key for change in changes)
    line = line_of(text, location)
    where = f"--set {key}" if changed else f"{file} line {line}" if line else file
    allowed = _allowed(location) if first["type"] == "extra_forbidden" else []
    message = {
        "extra_forbidden": f"unknown key {location[-1]!r}; allowed are {', '.join(allowed)}",
        "missing": f"{key} is missing",
    }.get(first["type"], f"{key} = {first['input']!r}: {_plain(first['msg'])}")
    if first["type"] == "value_error":
        message = f"{key + ': ' if key else ''}{_plain(first['msg'])}"
    return f"{where}: {message}"


def _plain(message: str) -> str:
    message = message.removeprefix("Value error, ")
    return message[:1].lower() + message[1:]


def _allowed(location: Sequence[str]) -> list[str]:
    """List the keys of the table that a location's last part was looked up in."""
    model: Any = Recipe
    for part in location[:-1]:
        field = model.model_fields.get(part) if hasattr(model, "model_fields") else None
        if field is None:
            return []
        options = [field.annotation, *getattr(field.annotation, "__args__", ())]
        model = next((option for option in options if hasattr(option, "model_fields")), None)
    return sorted(getattr(model, "model_fields", {}))


def line_of(text: str, location: Sequence[str]) -> int | None:
    """Find the line of a TOML text, from 1, where a key stands; the line of its table when it has none."""
    table: list[str] = []
    best: tuple[int, int] | None = None
    for number, line in enumerate(text.splitlines(), start=1):
        if header := re.match(r"\s*\[+([^\]]+)\]", line):
            table = [part.strip() for part in header[1].split(".")]
            here = table
        elif entry := re.match(r"\s*([\w.\-\"]+)\s*=", line):
            here = [*table, *entry[1].replace('"', "").split(".")]
        else:
            continue
        if list(location[: len(here)]) == here and (best is None or len(here) > best[0]):
            best = (len(here), number)
    return best[1] if best else None


def settings_of(recipe: Recipe) -> Mapping[str, Any]:
    """The resolved recipe as plain values."""
    return recipe.model_dump(mode="json")  # type: ignore[no-any-return]
