"""`r1 diff`: how two builds of a fine-tuning set differ, in their settings and in their rows."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import polars as pl

from data.builds import Changes, changes
from data.lineage import Artifact, Json, check
from flows.plan import differences
from flows.trace import find

SHOWN = 70
"""Characters of an example's question."""
_WORDS = {
    "gained": "rows gained, by the reason that dropped them before",
    "lost": "rows lost, by the reason that drops them now",
    "moved": "rows that both dropped, for other reasons",
}


def lines(before: str, after: str, runs: Path) -> Iterator[str]:
    """Tell how the second build differs from the first. Raises ValueError for what is no build."""
    old, new = _build(before, runs), _build(after, runs)
    yield f"{old.name} {old.key} -> {new.name} {new.key}"
    told = [*_settings(old.record(), new.record())]
    yield from ["", "settings", *told] if told else ["", "the same settings"]
    figures = differences(old.record()["summary"], new.record()["summary"], "")
    yield from ["", "figures", *(f"  {each}" for each in figures)] if figures else []
    found = changes(old.folder, new.folder)
    if found.counts.is_empty():
        yield from ["", "the same trajectories kept, the others dropped for the same reasons"]
    for change, words in _WORDS.items():
        yield from _told(found, change, words)


def _build(identity: str, runs: Path) -> Artifact:
    found = find(identity, runs)
    if not all((found.folder / f"{table}.parquet").is_file() for table in ("kept", "dropped", "rows")):
        raise ValueError(f"{found.key} is no build of a fine-tuning set; name one as in micro/rejection_rows")
    check(found)
    return found


def _settings(old: Mapping[str, Json], new: Mapping[str, Json]) -> Iterator[str]:
    if old["version"] != new["version"]:
        yield f"  stage version: {old['version']} -> {new['version']}"
    yield from (f"  {each}" for each in differences(_by_filter(old["config"]), _by_filter(new["config"]), ""))
    before, after = ({each["argument"]: each for each in record["parents"]} for record in (old, new))
    for argument in sorted(before.keys() | after.keys()):
        keys = [parents.get(argument, {}).get("key") for parents in (before, after)]
        if keys[0] != keys[1]:
            yield f"  {argument}: {keys[0]} -> {keys[1]}"


def _by_filter(config: Json) -> Json:
    """The settings with each filter under its name, so that one of them is compared with itself."""
    if isinstance(config, Mapping):
        return {key: _by_filter(value) for key, value in config.items()}
    if isinstance(config, list) and config and all(isinstance(each, Mapping) and "name" in each for each in config):
        return {"order": [each["name"] for each in config], **{each["name"]: each for each in config}}
    return config


def _told(found: Changes, change: str, words: str) -> Iterator[str]:
    """The rows of one kind of change: each reason with its rows by domain and language, and examples."""
    counts = found.counts.filter(pl.col("change") == change)
    if counts.is_empty():
        return
    yield from ["", f"{counts['rows'].sum():,} {words}"]
    for (reason,), part in counts.group_by("reason", maintain_order=True):
        yield f"  {part['rows'].sum():>7,}  {reason}"
        by = "  ".join(f"{domain} {language} {rows:,}" for _, _, domain, language, rows in part.iter_rows())
        yield f"           {by}"
        shown = found.examples.filter((pl.col("change") == change) & (pl.col("reason") == reason))
        for _, _, row, detail, prompt in shown.iter_rows():
            yield f"           {row}  {_short(detail)}  {_short(prompt)}".rstrip()


def _short(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= SHOWN else line[: SHOWN - 1] + "…"
