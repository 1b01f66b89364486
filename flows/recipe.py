"""The recipe: the stages' own settings composed into one frozen object.

People write TOML, machines write JSON. A recipe that ships is called by its name, one's own by its path.
Every error names the file, the line, what is wrong and what is allowed.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import BaseModel, Field, ValidationError, model_validator

from data import hub, packages
from data.judge import JudgeModel
from data.lineage import PLACE, Settings
from data.text import python_version
from tasks.collect import GeneralRowsConfig, ProblemsConfig, digest_of
from tasks.curate import CurateConfig
from tasks.evaluate import EvaluationConfig
from tasks.grpo import GRPOConfig
from tasks.midtrain import InitialiseConfig, MidtrainConfig
from tasks.opinion import OpinionConfig
from tasks.preference import JudgeConfig, PairsConfig
from tasks.rollout import GenerateConfig, Sampling
from tasks.sft import PretrainConfig, SFTConfig
from tasks.sift import DifficultyConfig
from tasks.trajectories import TrajectoriesConfig

SHIPPED = Path(__file__).parent / "recipes"
SEEDS = Path(__file__).parent.parent / "data" / "seeds"
SEEDED = (
    "zero", "cold.generate.sampling", "cold.curate", "cold.sft", "reasoning", "rejection.generate.sampling",
    "rejection.curate", "sft", "preference.generate.sampling", "preference.pairs", "preference.helpful",
    "preference.harmless", "alignment", "distill", "student_rl",
)  # fmt: skip
"""Tables of training and sampling, which the recipe's seed reaches; those that make a base, and `direct`, too."""

LATER: dict[str, Any] = {"identity": False}
"""Settings of a base that are another stage's than the one which takes it: that stage has them for its identity."""

READ_SO = ("columns", "fixed", "system", "template", "max_unverified")
"""Settings of `problems` that hold for the problems held out of the same file, too."""

Raw = dict[str, Any]


class BaseConfig(Settings):
    """A base model: one that exists, taken by its digest, or one to pretrain."""

    path: Path | None = Field(
        None,
        description="folder in Hugging Face layout, GGUF file, hub:OWNER/NAME, package:MODULE/FILE, or seed:NAME",
        json_schema_extra=PLACE,
    )
    digest: str = Field(
        "", description="SHA-256 over the file, or the folder's files, so that identity does not hang on a path"
    )
    pretrain: PretrainConfig | None = Field(None, description="make the base instead")
    initialise: InitialiseConfig | None = Field(
        None,
        description="student: begin from random weights instead, with the base's tokenizer",
        json_schema_extra=LATER,
    )
    midtrain: MidtrainConfig | None = Field(
        None, description="let it read on before anything else learns from it", json_schema_extra=LATER
    )

    @model_validator(mode="after")
    def _one_of_them(self) -> Self:
        if [self.path, self.pretrain, self.initialise].count(None) != 2:
            raise ValueError('a base has either a path (such as "seed:base") or a [pretrain] table')
        return self

    @property
    def is_gguf(self) -> bool:
        """Whether the base is a GGUF file, which is converted."""
        return self.path is not None and self.path.suffix.lower() == ".gguf"


class ColdConfig(Settings):
    """From R1-Zero's trajectories to Dev1."""

    generate: GenerateConfig = GenerateConfig(sampling=Sampling(template="zero"))
    curate: CurateConfig = CurateConfig(rewrite=True)
    sft: SFTConfig = SFTConfig()


class RejectionConfig(Settings):
    """From Dev2's trajectories to the set of the second fine-tuning."""

    generate: GenerateConfig = GenerateConfig()
    trajectories: TrajectoriesConfig | None = Field(None, description="one's own, instead of sampling")
    curate: CurateConfig = CurateConfig()


class PreferenceConfig(Settings):
    """From Dev3's answers to general prompts to the two reward models."""

    generate: GenerateConfig = GenerateConfig(general=True)
    pairs: PairsConfig = PairsConfig()
    opinion: OpinionConfig | None = Field(None, description="let the recipe's [judge] choose of two answers")
    helpful: JudgeConfig = JudgeConfig(kind="helpful")
    harmless: JudgeConfig = JudgeConfig(kind="harmless")


class Recipe(Settings):
    """All that determines what the pipeline makes."""

    name: str = Field("", description="filled in from the file's name", json_schema_extra=PLACE)
    description: str = Field("", json_schema_extra=PLACE)
    file: Path | None = Field(None, description="filled in: where it was read", json_schema_extra=PLACE)
    flow: Literal["r1", "bases"] = Field("r1", description="the whole pipeline, or its base models only")
    seed: int = Field(0, description="of every training and sampling stage that has none of its own")
    num_seeds: int = Field(1, ge=1, description="train everything so often, from `seed` on, and average the reports")
    allow_rlimit: bool = Field(
        False,
        description="where the host grants no namespaces, run untrusted programs under resource limits alone",
        json_schema_extra=PLACE,
    )
    base: BaseConfig
    student: BaseConfig
    problems: ProblemsConfig = ProblemsConfig()
    heldout: ProblemsConfig = ProblemsConfig(split="heldout", count=96, general_count=48)
    general: GeneralRowsConfig = GeneralRowsConfig()
    difficulty: DifficultyConfig | None = Field(None, description="leave out what the base always or never solves")
    zero: GRPOConfig = GRPOConfig(template="zero")
    cold: ColdConfig = ColdConfig()
    reasoning: GRPOConfig = GRPOConfig(language_weight=1.0)
    judge: JudgeModel | None = Field(None, description="of problems without a rule, in rejection sampling")
    rejection: RejectionConfig = RejectionConfig()
    sft: SFTConfig = SFTConfig()
    preference: PreferenceConfig = PreferenceConfig()
    alignment: GRPOConfig = GRPOConfig(language_weight=1.0, preference_weight=1.0, temperature=0.7)
    distill: SFTConfig = SFTConfig()
    student_rl: GRPOConfig = GRPOConfig(template="zero")
    direct: GRPOConfig | None = Field(None, description="the base's RL without its mid-training, to be shown beside")
    evaluation: EvaluationConfig = EvaluationConfig()

    @model_validator(mode="after")
    def _has_problems(self) -> Self:
        for name, problems in (("problems", self.problems), ("heldout", self.heldout)):
            if self.flow == "r1" and problems.path is None and problems.count == 0:
                raise ValueError(f"{name}.count = 0 and no {name}.path: there must be reasoning problems")
        if self.flow == "r1" and self.problems.path is None and self.problems.general_count == 0:
            raise ValueError("problems.general_count = 0: the reward models need general prompts")
        return self

    @model_validator(mode="after")
    def _begins(self) -> Self:
        if self.base.initialise:
            raise ValueError("base.initialise: only a student begins from random weights with the base's tokenizer")
        if self.direct and not self.base.midtrain:
            raise ValueError("direct: without [base.midtrain] it is what zero is")
        return self

    @model_validator(mode="after")
    def _judged(self) -> Self:
        if any(each.generate.judge for each in (self.cold, self.rejection, self.preference)):
            raise ValueError("generate.judge: the recipe's [judge] is what judges in rejection sampling")
        opinion = self.preference.opinion
        if self.preference.pairs.opinion or (opinion and opinion.judge):
            raise ValueError("preference.opinion takes queries and margin; the recipe's [judge] is what is asked")
        if opinion and self.judge is None:
            raise ValueError("preference.opinion: there is no [judge] to be asked")
        return self

    @property
    def rejection_sampling(self) -> GenerateConfig:
        """How rejection sampling draws, and the judge of what no rule judges."""
        return self.rejection.generate.model_copy(update={"judge": self.judge})

    @property
    def pairs(self) -> PairsConfig:
        """How preference pairs are made, and by whose opinion."""
        opinion = self.preference.opinion
        asked = opinion.model_copy(update={"judge": self.judge}) if opinion else None
        return self.preference.pairs.model_copy(update={"opinion": asked})


def settled(recipe: Recipe) -> Recipe:
    """Read a recipe's file anew with the settings that differ from it, so that what hangs on them follows.

    A form sends every setting; a seed, a path or its digest that was not changed in it is one that the file
    or another setting gives.
    """
    if recipe.file is None:
        return recipe
    return load(str(recipe.file), overrides=_differing(settings_of(load(str(recipe.file))), settings_of(recipe)))


def _differing(before: Raw, after: Raw) -> Raw:
    found: Raw = {}
    for key, value in after.items():
        if key == "digest" or value == before.get(key):
            continue
        inner = before.get(key)
        found[key] = _differing(inner, value) if isinstance(inner, dict) and isinstance(value, dict) else value
    return found


def reseeded(recipe: Recipe, offset: int) -> Recipe:
    """The same recipe with every seed of training and sampling raised."""
    raw = settings_of(recipe)
    for name in SEEDED:
        _table(raw, name)["seed"] += offset
    return Recipe.model_validate(raw)


def shipped() -> list[str]:
    """Names of the recipes that ship."""
    return sorted(path.stem for path in SHIPPED.glob("*.toml"))


def load(name: str, changes: Sequence[str] = (), overrides: Raw | None = None, absent: Raw | None = None) -> Recipe:
    """Read a recipe by name or path and apply changes such as `zero.num_generations=16`, or a table of them.

    `absent` are tables for a recipe that has none of these names.

    Raises ValueError in one line that says what is wrong, where, and what is allowed.
    """
    path = _find(name)
    try:
        text = path.read_text(encoding="utf-8")
        raw = tomllib.loads(text)
    except UnicodeDecodeError as error:
        raise ValueError(f"{path.name}: not UTF-8 at byte {error.start}") from None
    except tomllib.TOMLDecodeError as error:
        raise ValueError(f"{path.name}: {error}") from None
    origin = Origin(path, text, tuple(_apply(raw, change) for change in changes))
    raw = _merged(_merged(_declared(Recipe), raw), overrides or {})
    raw = (absent or {}) | raw | {"name": path.stem, "file": path.resolve()}
    _spread_seed(raw)
    _resolve_places(raw, origin)
    try:
        return Recipe.model_validate(raw)
    except ValidationError as error:
        raise ValueError(_explain(error, origin)) from None


@dataclass(frozen=True, slots=True)
class Origin:
    """Where settings were written: a file, and the keys that the command line changed."""

    file: Path
    text: str
    changes: tuple[str, ...]

    def where(self, location: Sequence[str]) -> str:
        """Say where a setting, or a setting within a table, was written."""
        key = ".".join(location)
        for change in self.changes:
            if f"{key}.".startswith(f"{change}.") or f"{change}.".startswith(f"{key}."):
                return f"--set {change}"
        line = line_of(self.text, location)
        return f"{self.file.name} line {line}" if line else self.file.name

    def beside(self, key: str) -> Path:
        """The folder that a path is relative to: the recipe's, or the current one for a change."""
        return Path.cwd() if key in self.changes else self.file.parent


def _declared(settings: type[BaseModel]) -> Raw:
    """What tables within these settings say by default where their own type says something else."""
    declared = {}
    for name, field in settings.model_fields.items():
        if isinstance(field.default, Settings):
            within = _declared(type(field.default))
            declared[name] = _merged(within, field.default.model_dump(exclude_unset=True))
    return declared


def _merged(below: Raw, above: Raw) -> Raw:
    """Lay one table over another, tables within them alike."""
    merged = below | above
    for key in below.keys() & above.keys():
        if isinstance(below[key], dict) and isinstance(above[key], dict):
            merged[key] = _merged(below[key], above[key])
    return merged


def _find(name: str) -> Path:
    path = Path(name)
    if path.suffix == ".toml":
        if not path.is_file():
            raise ValueError(f"no such recipe file: {name}")
        return path
    if name not in shipped():
        raise ValueError(f"unknown recipe {name!r}; there are {', '.join(shipped())}, or give the path of a .toml file")
    return SHIPPED / f"{name}.toml"


def _apply(raw: Raw, change: str) -> str:
    """Make one change and return its key."""
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
    return key.strip()


def _spread_seed(raw: Raw) -> None:
    """Give the recipe's seed to every training and sampling table that names none."""
    tables = [_table(raw, name) for name in SEEDED]
    made = [(name, table) for name in ("base", "student") for table in ("pretrain", "initialise", "midtrain")]
    tables += [_table(raw, f"{name}.{table}") for name, table in made if table in _table(raw, name)]
    tables += [_table(raw, name) for name in ("direct", "difficulty") if name in raw]
    for table in tables:
        table.setdefault("seed", raw.get("seed", 0))


def _table(raw: Raw, name: str) -> Raw:
    """The table of a dotted name, made if need be; a loose one where a value stands, which validation refuses."""
    for part in name.split("."):
        table = raw.setdefault(part, {})
        raw = table if isinstance(table, dict) else {}
    return raw


def _resolve_places(raw: Raw, origin: Origin) -> None:
    """Turn paths into absolute ones, and note the digest of what lies there."""
    for name in ("base", "student"):
        _resolve(_table(raw, name), name, origin)
        if "midtrain" in _table(raw, name):
            reading = _table(raw, f"{name}.midtrain")
            _resolve(reading, f"{name}.midtrain", origin)
            reading.setdefault("digest", python_version())
    problems, heldout = _table(raw, "problems"), _table(raw, "heldout")
    if isinstance(problems.get("path"), str) and "path" not in heldout:
        _resolve(problems, "problems", origin)
        heldout |= {key: problems[key] for key in ("path", "digest", *READ_SO) if key in problems}
    elif isinstance(problems.get("path"), str):
        problems.setdefault("divide", False)
        heldout.setdefault("divide", False)
        heldout |= {key: problems[key] for key in ("system", "template") if key in problems and key not in heldout}
    _resolve(problems, "problems", origin)
    _resolve(heldout, "heldout", origin)
    if "judge" in raw:
        _resolve(_table(raw, "judge"), "judge", origin)
    if "trajectories" in _table(raw, "rejection"):
        _resolve(_table(raw, "rejection.trajectories"), "rejection.trajectories", origin)


def _resolve(table: Raw, name: str, origin: Origin) -> None:
    place = table.get("path")
    if not isinstance(place, str):
        return
    key = f"{name}.path"
    if place.startswith("seed:"):
        seeds = sorted(folder.name for folder in SEEDS.iterdir() if folder.is_dir())
        if place.removeprefix("seed:") not in seeds:
            allowed = ", ".join(f"seed:{seed}" for seed in seeds)
            raise ValueError(f"{origin.where(key.split('.'))}: {key}: {place!r} does not ship; there are {allowed}")
    if place.startswith(packages.PREFIX) and "digest" in table and not packages.installed(place):
        return  # it can be planned without; flows.inspect tells before it runs
    try:
        path = _located(place, name, origin.beside(key))
        digest = digest_of(path)
    except ValueError as error:
        raise ValueError(f"{origin.where(key.split('.'))}: {key}: {error}") from None
    if table.setdefault("digest", digest) != digest:
        where = origin.where([*name.split("."), "digest"])
        raise ValueError(f"{where}: {name}.digest = {table['digest']!r}, but {place} has the digest {digest}")
    table["path"] = path


def _located(place: str, name: str, beside: Path) -> Path:
    if place.startswith("seed:"):
        return SEEDS / place.removeprefix("seed:")
    if place.startswith(hub.PREFIX) and name in ("problems", "heldout"):
        return hub.fetched(place)
    if place.startswith(hub.PREFIX) and name in ("base", "student"):
        return hub.base(place)
    if place.startswith(packages.PREFIX):
        return packages.file_in(place)
    return (beside / place).resolve()


def _explain(error: ValidationError, origin: Origin) -> str:
    first = error.errors()[0]
    location = [str(part) for part in first["loc"]]
    key = ".".join(location)
    if first["type"] == "extra_forbidden":
        message = f"unknown key {location[-1]!r}; allowed are {', '.join(_allowed(location))}"
    elif first["type"] == "missing":
        message = f"{key} is missing"
    elif first["type"] == "value_error":
        message = f"{key + ': ' if key else ''}{_plain(first['msg'])}"
        location = _blamed(location, first["msg"], origin)
    else:
        message = f"{key} = {first['input']!r}: {_plain(first['msg'])}"
    return f"{origin.where(location)}: {message}"


def _blamed(table: list[str], message: str, origin: Origin) -> list[str]:
    """The setting of a table that its message names and the command line changed, or the table."""
    words = set(re.findall(r"\w+", message))
    for change in origin.changes:
        *above, name = change.split(".")
        if above == table and name in words:
            return [*table, name]
    return table


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


def settings_of(recipe: Recipe) -> Raw:
    """The resolved recipe as plain values."""
    return recipe.model_dump(mode="json")
