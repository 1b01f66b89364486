"""What the generator says of its rows is so, and it says the same again."""

import json
import random
import re
from functools import cache
from pathlib import Path

import polars as pl
import pytest
from polars.testing import assert_frame_equal

from benchmarks.drafts import DOMAINS, place, samples_of
from benchmarks.planting import COPIES, PROMPT_NEAR_MISSES, PROMPTS, World, counts, row, world
from benchmarks.prose import Prose, split, units
from benchmarks.trajectories import BREAKS, break_shards, generate
from data.prompts import parse

ROWS = 700
PROGRAM = "def total(values):\n    result = 0\n    for value in values:\n        result += value\n    return result"


@cache
def prose() -> Prose:
    rng = random.Random(0)
    words = Path("data/seeds/english.txt").read_text().split()
    messages = json.loads(Path("tests/data/translated.json").read_text())["messages"]
    han = sorted({character for each in messages for character in each["zh"] if "\u4e00" <= character <= "\u9fff"})
    english = [f"{' '.join(rng.sample(words, 14)).capitalize()}." for _ in range(2500)]
    chinese = [f"{''.join(rng.sample(han, 12))}，{''.join(rng.sample(han, 12))}。" for _ in range(2500)]
    return split({"en": english, "zh": chinese}, [PROGRAM, PROGRAM.replace("total", "sum_of")])


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("made") / "set"
    generate(world(prose(), seed=0), ROWS, folder, workers=1, shard_rows=100)
    return folder


def rows_of(folder: Path) -> pl.DataFrame:
    return pl.read_parquet(folder / "shards" / "*.parquet").sort("id")


def truth_of(folder: Path) -> pl.DataFrame:
    return pl.read_parquet(folder / "truth.parquet").sort("id")


def test_the_papers_table() -> None:
    assert counts(804_745) == {name: domain.samples for name, domain in DOMAINS.items()}
    assert [sum(counts(rows).values()) for rows in (1, 2, 700, 20_020)] == [1, 2, 700, 20_020]


def test_places_count_through_samples() -> None:
    places = [place(index) for index in range(200)]
    assert places[:5] == [(0, 0), (0, 1), (0, 2), (0, 3), (1, 0)]
    assert all(places.count((number, samples_of(number) - 1)) == 1 for number in range(50))
    assert all(sample < samples_of(number) for number, sample in places)


def test_the_same_whatever_the_shards_and_in_any_process(made: Path, tmp_path: Path) -> None:
    again, other = tmp_path / "again", tmp_path / "other"
    generate(world(prose(), seed=0), ROWS, again, workers=2, shard_rows=100)
    generate(world(prose(), seed=0), ROWS, other, workers=1, shard_rows=333)
    shards = [sorted((folder / "shards").iterdir()) for folder in (made, again)]
    assert [one.read_bytes() for one in shards[0]] == [two.read_bytes() for two in shards[1]]
    assert len(list((other / "shards").iterdir())) == 3
    assert_frame_equal(rows_of(made), rows_of(other))
    assert_frame_equal(truth_of(made), truth_of(other))


def test_another_seed_gives_others() -> None:
    one, two = (row(world(prose(), seed, 10), "math", 0)[0]["completion"] for seed in (0, 1))
    assert one != two


def test_every_row_has_its_truth(made: Path) -> None:
    rows, truth = rows_of(made), truth_of(made)
    assert rows["id"].to_list() == truth["id"].to_list()
    assert rows["id"].n_unique() == ROWS
    assert dict(rows.group_by("family").len().iter_rows()) == counts(ROWS)
    assert truth.filter(pl.col("defect").is_not_null() & pl.col("near_miss").is_not_null()).is_empty()


def test_what_is_planted_is_there_and_nowhere_else(made: Path) -> None:
    frame = rows_of(made).join(truth_of(made).select("id", "defect", "partner", "near_miss"), on="id")
    for each in frame.iter_rows(named=True):
        defect = (each["defect"] or "").partition("/")[0]
        parts = parse(each["completion"], "chat")
        assert (each["verdict"] != "correct") == (defect == "verdict"), each["id"]
        assert (each["finish"] != "stop") == (defect == "truncated"), each["id"]
        assert (each["tokens"] > 32_768) == (defect == "over_long"), each["id"]
        assert parts.well_formed == (
            each["defect"] not in ("no_thinking/no_tags", "no_summary/empty", "truncated/in_thinking")
        ), each["id"]
        assert (parts.thinking == "") == (each["defect"] == "no_thinking/empty"), each["id"]
        thinking = parts.thinking or ""
        assert ("```" in thinking or "~~~" in thinking) == (defect == "code_block"), each["id"]
        longest = max((len(units(part)) for part in re.split(r"\n *\n", thinking)), default=0)
        assert (longest > 300) == (defect == "long_paragraph"), each["id"]


def test_contamination_is_planted_and_there_is_no_other(made: Path) -> None:
    examined = pl.read_parquet(made / "evaluation.parquet")
    known = {part for text in (*examined["prompt"], *examined["solution"]) for part in grams(text)}
    whole = {tuple(units(text)) for text in examined["prompt"]}
    frame = rows_of(made).join(truth_of(made).select("id", "defect"), on="id")
    found = {
        each["id"]
        for each in frame.iter_rows(named=True)
        if tuple(units(each["prompt"])) in whole
        or any(not known.isdisjoint(grams(each[column])) for column in ("prompt", "completion"))
    }
    planted = frame.filter(pl.col("defect").str.starts_with("contaminated/"))["id"].to_list()
    assert len(planted) >= 5
    assert found == set(planted)


def grams(text: str) -> list[tuple[str, ...]]:
    found = units(text)
    return [tuple(found[start : start + 10]) for start in range(len(found) - 9)]


def test_copies_are_like_their_partner() -> None:
    planted = partners(world(prose(), 0, 20), 2000)
    assert {kind for kind, _, _ in planted} == COPIES
    for kind, copy, original in planted:
        alike = similarity(copy, original)
        numbers = [re.findall(r"\d+", text) for text in (copy, original)]
        if kind.startswith("duplicate/"):
            assert " ".join(copy.split()) == " ".join(original.split())
        elif kind in ("near_duplicate/words", "near_duplicate/sentence"):
            assert copy != original
            assert numbers[0] == numbers[1]
            assert alike >= 0.85
        elif kind == "near_duplicate/number":
            assert numbers[0] != numbers[1]
            assert alike >= 0.85
        else:
            assert alike <= 0.6


def partners(made_of: World, rows: int) -> list[tuple[str, str, str]]:
    """(kind, text, text of the partner), four of each kind at most."""
    found: list[tuple[str, str, str]] = []
    for index in range(rows):
        number, sample = place(index)
        each, truth = row(made_of, "general", index)
        kind = truth["defect"] or truth["near_miss"] or ""
        if kind in COPIES and [other for other, _, _ in found].count(kind) < 4:
            original, clean = row(made_of, "general", index - sample)
            assert (clean["defect"], clean["id"], place(index - sample)[0]) == (None, truth["partner"], number)
            found.append((kind, each["completion"], original["completion"]))
    return found


def similarity(one: str, two: str) -> float:
    left, right = ({tuple(found[n : n + 3]) for n in range(len(found) - 2)} for found in (units(one), units(two)))
    return len(left & right) / len(left | right)


def test_prompts_that_are_copied_stay_alike() -> None:
    made_of = world(prose(), 0, 20)
    kinds = set()
    for index in range(6000):
        if place(index)[1] > 0:
            continue
        each, truth = row(made_of, "logic", index)
        kind = truth["defect"] or truth["near_miss"]
        if kind in ("near_prompt/word", "near_prompt/case", "near_prompt/number"):
            assert truth["partner"] is not None
            number = int(truth["partner"].split("/")[1])
            original, clean = row(made_of, "logic", next(n for n in range(index) if place(n) == (number, 0)))
            assert clean["defect"] is None
            numbers = [
                [part for part in units(text) if part.isdigit()] for text in (each["prompt"], original["prompt"])
            ]
            assert (numbers[0] == numbers[1]) == (kind != "near_prompt/number")
            assert similarity(each["prompt"], original["prompt"]) >= 0.8
            kinds.add(kind)
    assert kinds == {kind for kind in (*PROMPTS, *PROMPT_NEAR_MISSES) if kind.startswith("near_prompt/")}


def test_broken_shards(made: Path) -> None:
    break_shards(made)
    broken = made.with_name("set-broken")
    named = {name: broken / "shards" / file for name, file in json.loads((broken / "broken.json").read_text()).items()}
    assert list(named) == list(BREAKS)
    for name in ("truncated", "invalid UTF-8"):
        with pytest.raises(pl.exceptions.PolarsError):
            pl.read_parquet(named[name])
    assert "completion" not in pl.read_parquet_schema(named["missing column"])
    assert pl.read_parquet_schema(named["wrong type"])["tokens"] == pl.String
    assert pl.read_parquet(named["null"])["prompt"].null_count() == 1
    whole = sorted((broken / "shards").iterdir())[-1]
    assert whole.read_bytes() == (made / "shards" / whole.name).read_bytes()
