"""Follow what was made up to the base: rows, datasets and checkpoints by id."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path

import polars as pl

from data.lineage import RECORD, Artifact, Json, Policy, ancestors, read_json, read_record
from data.store import has_row, read_table, rows_of

TABLES = ("trajectories", "kept", "dropped", "rows", "problems", "general", "pairs", "points")


def find(identity: str, runs: Path) -> Artifact:
    """Find an artifact by `recipe/name` or by its key (or the start of one). Raises ValueError with what there is."""
    recipe, _, name = identity.partition("/")
    report = runs / recipe / "report.json"
    if recipe and ".." not in identity and report.is_file():
        stages = {entry["name"]: entry for entry in read_json(report)["stages"]}
        if name not in stages:
            asked = f"no stage {name!r}" if name else "many stages"
            raise ValueError(f"{recipe} has {asked}; name one as in {recipe}/r1: {', '.join(sorted(stages))}")
        entry = stages[name]
        return Policy(name, entry["stage"], entry["fingerprint"], runs)
    keys = sorted(folder.parent.name for folder in runs.glob(f"*-*/{RECORD}"))
    matching = [key for key in keys if recipe and key.startswith(recipe)]
    if len(matching) != 1:
        found = f"{len(matching)} artifacts begin so" if matching else "no such artifact"
        raise ValueError(f"{identity!r}: {found} under {runs}; give recipe/name, such as micro/r1, or a whole key")
    stage, _, digits = matching[0].rpartition("-")
    return Policy(read_record(runs / matching[0])["name"], stage, digits, runs)


def parse(identity: str, runs: Path) -> tuple[Artifact, str]:
    """Find an artifact, and a row's id in it, empty without one: `recipe/name[/row]` or `key[/row]`."""
    head, _, rest = identity.partition("/")
    if (runs / head / "report.json").is_file():
        name, _, row = rest.partition("/")
        return find(f"{head}/{name}", runs), row
    return find(head if rest else identity, runs), rest


def lines(identity: str, runs: Path) -> Iterator[str]:
    """Tell the story of an artifact, or of one row of it, up to the base."""
    artifact, row = parse(identity, runs)
    if row:
        yield from _row(artifact, row)
    yield from _above(artifact.key, 0, set(), runs)


def _above(key: str, depth: int, seen: set[str], runs: Path) -> Iterator[str]:
    """An artifact and, indented beneath it, what it was made from; what was told before is only named."""
    record = read_record(runs / key)
    figures = {name: value for name, value in record["summary"].items() if isinstance(value, int | float)}
    told = "  ".join(f"{name} {value:.4g}" for name, value in list(figures.items())[:6])
    yield f"{'  ' * depth}{record['name']}  {key}  {'(above)' if key in seen else told}"
    if key not in seen:
        seen.add(key)
        for parent in record["parents"]:
            yield from _above(parent["key"], depth + 1, seen, runs)


def rows(identity: str, runs: Path) -> Iterator[str]:
    """Tell every row that a checkpoint learned from, with the policy, the seed and the stage version that made it."""
    artifact, _ = parse(identity, runs)
    seen = 0
    for _, record in ancestors(artifact.key, runs):
        for table, makers in _learned(record, runs):
            for row, source in read_table(table).select("id", _source(table)).iter_rows():
                seen += 1
                yield f"{record['name']}  {row}  {makers[source]}"
    if not seen:
        raise ValueError(f"{artifact.key} learned from no rows")


def _learned(record: Mapping[str, Json], runs: Path) -> Iterator[tuple[Path, Mapping[str, str]]]:
    """The tables that a training stage learned from, and who made their rows, by the rows' source."""
    if record["stage"] == "reinforce":
        yield runs / record["key"] / "trajectories.parquet", {"trajectory": _maker(record)}
    for parent in record["parents"]:
        if record["stage"] == "finetune" and parent["argument"] == "rows":
            built = read_record(runs / parent["key"])
            by = {each["argument"]: _maker(read_record(runs / each["key"])) for each in built["parents"]}
            own = _maker(built)
            makers = {"trajectory": by.get("trajectories", own), "writers": by.get("general", own)}
            yield runs / parent["key"] / "rows.parquet", makers


def _maker(record: Mapping[str, Json]) -> str:
    """Who made the rows of a table: a policy, the writers or others, the stage and its version, and the seed."""
    config = record["config"]["config"]
    policy = next((f"{each['name']} ({each['key']})" for each in record["parents"] if each["argument"] == "policy"), "")
    seed = config.get("sampling", config).get("seed", 0)
    made_by = policy or ("others" if record["stage"] == "take" else "writers")
    return f"by {made_by}, {record['stage']} version {record['version']}, seed {seed}"


def _source(table: Path) -> pl.Expr:
    known = "source" in pl.read_parquet_schema(table)
    return pl.col("source") if known else pl.lit("trajectory").alias("source")


def down(identity: str, runs: Path) -> Iterator[str]:
    """Tell what came of an artifact; of a row, where it was dropped, and every checkpoint that learned from it."""
    artifact, row = parse(identity, runs)
    if row and not _holds(runs / artifact.key, row):
        raise ValueError(f"no row {row!r} in {artifact.key}")
    yield from _below(artifact.key, row, 0, _children(runs), {artifact.key}, runs)


def _below(
    key: str, row: str, depth: int, children: Mapping[str, list[dict[str, Json]]], seen: set[str], runs: Path
) -> Iterator[str]:
    for child in children.get(key, []):
        told, still = _fate(runs, child, row) if child["key"] not in seen else ("", "")
        if told:
            seen.add(child["key"])
            yield f"{'  ' * depth}{child['name']}  {child['key']}  {told}"
            if told != DROPPED:
                yield from _below(child["key"], still, depth + 1, children, seen, runs)


DROPPED = "dropped it"


def _fate(runs: Path, child: Mapping[str, Json], row: str) -> tuple[str, str]:
    """What a stage did with a row of its parent, and the row's id in what it made; without a row, what it is."""
    folder = runs / child["key"]
    is_policy = (folder / "policy").is_dir()
    if not row:
        return ("checkpoint" if is_policy else child["stage"]), ""
    if is_policy:
        if (folder / "trajectories.parquet").is_file() and not _holds(folder, row):
            return "", ""  # this problem was never drawn
        return "learned from it", ""
    if _holds(folder, row):
        return ("dropped it", "") if _dropped(folder, row) else ("took it", row)
    return "", ""


def _children(runs: Path) -> dict[str, list[dict[str, Json]]]:
    found: dict[str, list[dict[str, Json]]] = {}
    for path in sorted(runs.glob(f"[!.]*/{RECORD}")):
        record = read_record(path.parent)
        for parent in record["parents"]:
            found.setdefault(parent["key"], []).append(record)
    return found


def _holds(folder: Path, row: str) -> bool:
    """Whether a table of an artifact has the row, or answers to the problem of that id."""
    return any(has_row(folder / f"{table}.parquet", row) for table in TABLES)


def _dropped(folder: Path, row: str) -> bool:
    return has_row(folder / "dropped.parquet", row) and not has_row(folder / "rows.parquet", row)


def _row(artifact: Artifact, row: str) -> Iterator[str]:
    """Tell where a row stands in an artifact, then in the parents that it came through."""
    found = False
    for depth, record in ancestors(artifact.key, artifact.runs):
        for table in TABLES:
            path = artifact.runs / record["key"] / f"{table}.parquet"
            if not path.is_file():
                continue
            for match in rows_of(path, [row, _problem_of(row)]):
                found = True
                yield f"{'  ' * depth}{record['key']}/{table}.parquet"
                yield from (
                    f"{'  ' * depth}  {key}: {_text(value)}" for key, value in match.items() if value is not None
                )
    if not found:
        raise ValueError(f"no row {row!r} in {artifact.key} or in what it was made from")


def _problem_of(row: str) -> str:
    """Take the problem's id out of a trajectory's: `[step/]<family>/<number>/<sample>`."""
    parts = row.split("/")
    return "/".join(parts[-3:-1]) if len(parts) >= 3 else row


def _text(value: Json) -> str:
    return json.dumps(value, ensure_ascii=False) if isinstance(value, str) else str(value)
