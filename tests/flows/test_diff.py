"""Two builds of the same trajectories, told apart."""

from __future__ import annotations

from pathlib import Path

import polars as pl
import pytest

from data.builds import changes
from data.lineage import Table
from flows.diff import lines
from tests.flows.conftest import Make

#      id   family   language  reason before  reason after; None is kept, "-" not there
FATES = [
    ("a/1/0", "chain", "en", None, None),
    ("a/1/1", "chain", "en", "over_long", None),
    ("a/2/0", "chain", "zh", "over_long", None),
    ("a/3/0", "chain", "zh", "repetition", None),
    ("b/1/0", "logic", "en", None, "over_quota"),
    ("b/2/0", "logic", "en", "over_long", "verdict"),
    ("b/3/0", "logic", "en", "verdict", "verdict"),
    ("b/4/0", "logic", "zh", "-", None),
    ("b/5/0", "logic", "zh", None, "-"),
]


def tables(side: int) -> dict[str, pl.DataFrame]:
    found = [
        {"id": row[0], "problem_id": row[0][:3], "family": row[1], "language": row[2], "prompt": f"what is {row[0]}?\n",
         "reason": row[side], "detail": f"as {side}" if row[side] else None}
        for row in FATES if row[side] != "-"
    ]  # fmt: skip
    frame = pl.DataFrame(found)
    kept = frame.filter(pl.col("reason").is_null()).drop("reason", "detail")
    return {"kept": kept, "dropped": frame.filter(pl.col("reason").is_not_null()), "rows": kept.select("id")}


@pytest.fixture
def builds(made: Make) -> tuple[Table, Table]:
    samples = made("generate", "samples", {})
    other = made("generate", "other", {})
    return (
        made("curate", "rows", tables(3), {"trajectories": samples},
             {"filters": [{"name": "verdict"}, {"name": "over_long", "max_tokens": 9}], "seed": 0},
             {"kept": 3, "rows": 3}),
        made("curate", "rows", tables(4), {"trajectories": other},
             {"filters": [{"name": "verdict"}, {"name": "over_long", "max_tokens": 12}], "seed": 0},
             {"kept": 5, "rows": 3}),
    )  # fmt: skip


def test_changes_are_counted_by_reason_domain_and_language(builds: tuple[Table, Table]) -> None:
    found = changes(*(build.folder for build in builds))
    assert found.counts.rows() == [
        ("gained", "absent", "logic", "zh", 1),
        ("gained", "over_long", "chain", "en", 1),
        ("gained", "over_long", "chain", "zh", 1),
        ("gained", "repetition", "chain", "zh", 1),
        ("lost", "absent", "logic", "zh", 1),
        ("lost", "over_quota", "logic", "en", 1),
        ("moved", "over_long -> verdict", "logic", "en", 1),
    ]
    assert found.examples.rows() == [
        ("gained", "absent", "b/4/0", "", "what is b/4/0?\n"),
        ("gained", "over_long", "a/1/1", "as 3", "what is a/1/1?\n"),
        ("gained", "over_long", "a/2/0", "as 3", "what is a/2/0?\n"),
        ("gained", "repetition", "a/3/0", "as 3", "what is a/3/0?\n"),
        ("lost", "absent", "b/5/0", "", "what is b/5/0?\n"),
        ("lost", "over_quota", "b/1/0", "as 4", "what is b/1/0?\n"),
        ("moved", "over_long -> verdict", "b/2/0", "as 4", "what is b/2/0?\n"),
    ]
    assert len(changes(*(build.folder for build in builds), examples=1).examples) == 6


def test_the_other_way_round_what_was_gained_is_lost(builds: tuple[Table, Table]) -> None:
    forth = changes(builds[0].folder, builds[1].folder).counts
    back = changes(builds[1].folder, builds[0].folder).counts
    columns = ["reason", "domain", "language", "rows"]
    for there, here in (("gained", "lost"), ("lost", "gained")):
        one = forth.filter(pl.col("change") == there).select(columns)
        assert one.equals(back.filter(pl.col("change") == here).select(columns))


def test_a_diff_tells_settings_figures_and_rows(builds: tuple[Table, Table], runs: Path) -> None:
    old, new = builds
    told = list(lines(old.key, new.key, runs))
    trajectories = [build.record()["parents"][0]["key"] for build in builds]
    assert told == [
        f"rows {old.key} -> rows {new.key}",
        "",
        "settings",
        "  config.filters.over_long.max_tokens: 9 -> 12",
        f"  trajectories: {trajectories[0]} -> {trajectories[1]}",
        "",
        "figures",
        "  kept: 3 -> 5",
        "",
        "4 rows gained, by the reason that dropped them before",
        "        1  absent",
        "           logic zh 1",
        "           b/4/0    what is b/4/0?",
        "        2  over_long",
        "           chain en 1  chain zh 1",
        "           a/1/1  as 3  what is a/1/1?",
        "           a/2/0  as 3  what is a/2/0?",
        "        1  repetition",
        "           chain zh 1",
        "           a/3/0  as 3  what is a/3/0?",
        "",
        "2 rows lost, by the reason that drops them now",
        "        1  absent",
        "           logic zh 1",
        "           b/5/0    what is b/5/0?",
        "        1  over_quota",
        "           logic en 1",
        "           b/1/0  as 4  what is b/1/0?",
        "",
        "1 rows that both dropped, for other reasons",
        "        1  over_long -> verdict",
        "           logic en 1",
        "           b/2/0  as 4  what is b/2/0?",
    ]


def test_a_build_is_like_itself(builds: tuple[Table, Table], runs: Path) -> None:
    key = builds[0].key
    assert list(lines(key, key, runs))[1:] == [
        "", "the same settings", "", "the same trajectories kept, the others dropped for the same reasons",
    ]  # fmt: skip


def test_what_is_no_build_is_refused(builds: tuple[Table, Table], runs: Path) -> None:
    samples = builds[0].record()["parents"][0]["key"]
    with pytest.raises(ValueError, match=rf"^{samples} is no build of a fine-tuning set"):
        list(lines(builds[0].key, samples, runs))
    with pytest.raises(ValueError, match="no such artifact"):
        list(lines(builds[0].key, "nothing", runs))
