"""The build in shards: the same as in memory, whatever the shards, the order and the processes; and resumed."""

import hashlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from itertools import count
from pathlib import Path
from random import Random
from typing import Any

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from polars.testing import assert_frame_equal
from pydantic import ValidationError

from data import passes
from data.build import BuildConfig, Input, build
from data.filters import Context, FilterConfig, NearDuplicate, NearDuplicatePrompt, NotCorrect, Surplus, apply, name_of
from data.mixture import PAPER
from data.prompts import parse, render, written
from data.scan import taken_apart
from data.waterfall import breakdown

TYPES: dict[str, Any] = {
    **dict.fromkeys(("id", "problem_id", "family", "language", "prompt", "verifier", "completion"), pl.String),
    **dict.fromkeys(("thinking", "answer", "finish", "verdict", "reason_detail"), pl.String),
    "tokens": pl.Int32,
    "well_formed": pl.Boolean,
    "consistency": pl.Float64,
    "reward": pl.Float64,
}
EVALUATION = ["start with 398 then take 7 and add 458 what is left"]
CONFIG = BuildConfig(general_share=0.1, max_rows=30, seed=3)
CONFIG = CONFIG.model_copy(update={"filters": [*CONFIG.filters, NearDuplicatePrompt()]})


def trajectories(problems: int = 60, samples: int = 5, seed: int = 0) -> pl.DataFrame:
    """Rows of which some fall to each of the filters that a build has by default."""
    rng = Random(seed)
    rows = []
    for problem in range(problems):
        for sample in range(samples):
            steps = [f"then {rng.choice('abcdefgh')} step {rng.randrange(9)} of it." for _ in range(12)]
            thinking, answer, fault = " ".join(steps), str(problem), rng.randrange(12)
            if fault == 1:
                thinking += "\n```python\nprint(1)\n```"
            if fault == 2:
                thinking += " again and again and again." * 5
            if fault == 3:
                thinking = f"well {EVALUATION[0]} so"
            if fault in (4, 5):
                thinking = f"the sum of the numbers is taken and we find it to be {problem} in the end, as asked"
                thinking += " indeed" * (fault == 5 and sample % 2)
            rows.append(
                {
                    "id": f"p{problem}/{sample}", "problem_id": f"p{problem}",
                    "family": ("chain", "logic")[problem % 2], "language": "en",
                    "prompt": f"what is {problem // 3 * 3} ?", "verifier": "math",
                    "completion": ("", "<think> so </think>", "<think> so")[sample % 3],
                    "thinking": None if fault == 6 else thinking, "answer": None if fault == 6 else answer,
                    "finish": "length" if fault == 7 else "stop", "verdict": "wrong" if fault == 8 else "correct",
                    "reason_detail": "", "tokens": len(thinking.split()), "well_formed": fault != 6,
                    "consistency": 0.5 if fault == 9 else 1.0, "reward": rng.random(),
                }
            )  # fmt: skip
    return pl.DataFrame(rows, schema=TYPES)


def general(rows: int = 40) -> pl.DataFrame:
    names = ("id", "family", "language", "prompt", "completion", "source")
    return pl.DataFrame([[f"general/{n:03}", "helpful", "en", f"hi {n}", "<think> </think> hi", "writers"]
                         for n in range(rows)], schema=names, orient="row")  # fmt: skip


Make = Callable[..., tuple[Path, Input]]


@pytest.fixture
def made(tmp_path: Path) -> Make:
    """made(frame, files=1, group=1000): a folder to build in, and tables in so many files."""

    def make(frame: pl.DataFrame, files: int = 1, group: int = 1000, name: str = "a") -> tuple[Path, Input]:
        folder = tmp_path / name
        for part, rows in (("trajectories", frame), ("general", general())):
            (folder / part).mkdir(parents=True)
            size = -(-len(rows) // files)
            for number in range(files):
                rows[number * size : (number + 1) * size].write_parquet(
                    folder / part / f"{number:03}.parquet", row_group_size=group
                )
        (folder / "out").mkdir()
        return folder, Input(folder / "trajectories", folder / "general", EVALUATION)

    return make


def run(folder: Path, given: Input, config: BuildConfig = CONFIG, **how: Any) -> dict[str, str]:
    """The digests of the files of a build."""
    build(given, config, folder / "out", folder / "work", **how)
    assert not (folder / "work").exists()
    return {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in sorted((folder / "out").iterdir())}


def test_a_build_in_shards_is_what_the_filters_do_in_memory(made: Make) -> None:
    frame = trajectories()
    folder, given = made(frame, files=3, group=7)
    config = CONFIG.model_copy(update={"max_rows": 0})
    run(folder, given, config, shard_bytes=1)
    kept, dropped = apply(frame, config.filters, Context(EVALUATION))
    assert_frame_equal(pl.read_parquet(folder / "out" / "kept.parquet"), kept)
    assert_frame_equal(pl.read_parquet(folder / "out" / "dropped.parquet"), dropped)
    without_long_paragraph = {name_of(each) for each in config.filters} - {"long_paragraph"}
    assert set(dropped["reason"]) == without_long_paragraph
    rows = {row["id"]: row for row in pl.read_parquet(folder / "out" / "rows.parquet").iter_rows(named=True)}
    assert len(rows) == len(kept) + round(len(kept) / 9)
    for row in kept.iter_rows(named=True):
        assert rows[row["id"]]["prompt"] == render(row["prompt"], "chat")
        assert rows[row["id"]]["completion"] == written(row["thinking"], row["answer"])


@pytest.mark.parametrize(("thinking", "answer"), [(None, "7"), ("", "7"), ("so", ""), ("so", None), (None, None)])
def test_rows_are_written_as_the_prompts_say(thinking: str | None, answer: str | None) -> None:
    frame = pl.DataFrame({"thinking": [thinking], "answer": [answer], "prompt": ["3 + 4?"], "id": ["i"],
                          "family": ["f"], "language": ["en"], "rows_at": [0]},
                         schema_overrides={"thinking": pl.String, "answer": pl.String})  # fmt: skip
    [row] = passes.as_rows(frame).to_dicts()
    assert row["completion"] == written(thinking, answer)
    assert row["prompt"] == render("3 + 4?", "chat")


def test_neither_shards_nor_order_nor_processes_matter(made: Make) -> None:
    frame = trajectories()
    one = run(*made(frame, name="one"))
    assert one == run(*made(frame, files=4, group=11, name="four"), shard_bytes=1)
    shuffled = frame.sample(fraction=1, shuffle=True, seed=5)
    assert one == run(*made(shuffled, files=2, group=50, name="shuffled"), shard_bytes=1)
    assert one == run(*made(shuffled, files=3, group=90, name="processes"), shard_bytes=1, workers=2)
    other = run(*made(frame, name="other"), CONFIG.model_copy(update={"seed": 4}))
    assert other["dropped.parquet"] != one["dropped.parquet"]


def test_machine_code_finds_what_the_regular_expressions_find(made: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    one = run(*made(trajectories(), name="one"))
    monkeypatch.setattr("data.build.MUCH", 1)
    assert one == run(*made(trajectories(), name="other"), workers=0)


def test_completions_are_taken_apart(made: Make) -> None:
    frame = trajectories().with_columns(completion=pl.format("<think>\n{}\n</think>\n\n{}", "thinking", "answer"))
    frame = frame.with_columns(pl.col("completion").fill_null("<think> so"))
    folder, given = made(frame, name="apart")
    bare, taken = made(frame.drop("thinking", "answer", "well_formed"), name="whole")
    run(folder, given)
    run(bare, taken)
    one, other = (pl.read_parquet(each / "out" / "rows.parquet") for each in (folder, bare))
    assert_frame_equal(one, other)


@pytest.mark.parametrize("text", ["<think>so</think>7", " <think> so </think> 7 ", "<think></think>7", "7", "<think>so",
                                  "<think>so</think> ", "x<think>so</think>7", "<think>so</think><think>7</think>",
                                  "<think>so</think>7<answer>", "<think>a</think>b</think>c"])  # fmt: skip
def test_a_completion_is_taken_apart_as_the_prompts_say(text: str) -> None:
    [row] = taken_apart(pl.DataFrame({"completion": [text]})).to_dicts()
    parts = parse(text, "chat")
    assert (row["thinking"], row["answer"], row["well_formed"]) == (parts.thinking, parts.answer, parts.well_formed)


def test_the_number_of_buckets_does_not_matter(made: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    one = run(*made(trajectories(), name="one"))
    monkeypatch.setattr("data.build.ROWS_OF_A_BUCKET", 17)
    monkeypatch.setattr("data.passes.BIN", 4096)
    assert one == run(*made(trajectories(), files=2, name="other"))


def test_how_many_rows_are_worked_on_at_a_time_does_not_matter(made: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    one = run(*made(trajectories(), name="one"))
    monkeypatch.setattr("data.job.PIECE", 1)
    assert one == run(*made(trajectories(), name="other"))
    monkeypatch.setattr("data.build.MUCH", 1)
    assert one == run(*made(trajectories(), name="machine code"), workers=0)


def test_bins_are_joined_in_order(made: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    run(*made(trajectories(), name="one"))
    folder, given = made(trajectories(), files=3, group=10, name="other")
    monkeypatch.setattr("data.passes.BIN", 8)
    run(folder, given, shard_bytes=1)
    for table in ("kept", "dropped", "rows"):
        one = pl.read_parquet(folder.parent / "one" / "out" / f"{table}.parquet")
        assert_frame_equal(pl.read_parquet(folder / "out" / f"{table}.parquet"), one)


def test_a_stopped_build_goes_on_without_doing_anything_twice(made: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = run(*made(trajectories(), files=4, name="whole"))
    folder, given = made(trajectories(), files=4, name="stopped")
    does, ran, calls = passes.PASSES.copy(), [], count(1)

    def counted(name: str) -> Any:
        def call(job: passes.Job, item: Any, path: Path) -> None:
            does[name](job, item, path)
            if next(calls) in (2, 7, 13, 20):
                raise KeyboardInterrupt  # before its file is in place
            ran.append((name, item))

        return call

    monkeypatch.setattr(passes, "PASSES", {name: counted(name) for name in does})
    stops = 0
    while not (folder / "out" / "rows.parquet").exists():
        try:
            found = run(folder, given)
        except KeyboardInterrupt:
            stops += 1
    assert stops == 4
    assert len(ran) == len(set(ran)) == 4 + 1 + 4 + 1 + 1 + 4 + 1 + 1 + 8 + 3
    assert found == whole


KILLED = """
import sys
from pathlib import Path
from data.build import BuildConfig, Input, build
from data.filters import NearDuplicatePrompt
folder = Path(sys.argv[1])
given = Input(folder / "trajectories", folder / "general", [{evaluation!r}])
if __name__ == "__main__":
    config = BuildConfig(general_share=0.1, max_rows=30, seed=3)
    config = config.model_copy(update={{"filters": [*config.filters, NearDuplicatePrompt()]}})
    build(given, config, folder / "out", folder / "work",
          workers=2, shard_bytes=1)
"""


def test_a_build_survives_sigkill(made: Make, tmp_path: Path) -> None:
    frame = trajectories(problems=200)
    whole = run(*made(frame, files=20, name="whole"))
    folder, given = made(frame, files=20, name="killed")
    script = tmp_path / "killed.py"
    script.write_text(KILLED.format(evaluation=EVALUATION[0]))
    process = subprocess.Popen(
        [sys.executable, str(script), str(folder)], env=os.environ | {"PYTHONPATH": os.getcwd()}, start_new_session=True
    )
    until = time.monotonic() + 120
    while len(list((folder / "work").glob("facts-*.parquet"))) < 3 and time.monotonic() < until:
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    before = {file.name: file.stat().st_mtime_ns for file in (folder / "work").glob("facts-*.parquet")}
    assert len(before) >= 3
    seen = {}

    def watch(done: int, total: int) -> None:
        seen.update({file.name: file.stat().st_mtime_ns for file in (folder / "work").glob("facts-*.parquet")})

    assert run(folder, given, on_progress=watch) == whole
    assert {name: seen[name] for name in before} == before


def test_another_build_starts_anew(made: Make) -> None:
    folder, given = made(trajectories(), files=2)
    with pytest.raises(ValueError, match="general_share = 0"):
        run(folder, given, CONFIG.model_copy(update={"general_share": 0.9}))
    assert (folder / "work" / "facts-0.parquet").is_file()
    assert not list((folder / "out").iterdir())
    other = CONFIG.model_copy(update={"filters": [Surplus(max_per_problem=1)], "max_rows": 50})
    run(folder, given, other)
    assert set(pl.read_parquet(folder / "out" / "dropped.parquet")["reason"]) == {"surplus", "over_quota"}


def test_what_is_broken_is_named_with_its_place(made: Make) -> None:
    frame = trajectories()

    def breaks(name: str, message: str, change: Callable[[Path], None]) -> None:
        folder, given = made(frame, files=2, name=name)
        change(folder / "trajectories" / "001.parquet")
        with pytest.raises(ValueError, match=message):
            run(folder, given)
        assert not list((folder / "out").iterdir())

    breaks("cut", r"001.parquet: not a whole Parquet file", lambda file: os.truncate(file, 500))
    breaks("column", "001.parquet: no column prompt; it has id, ",
           lambda file: frame.drop("prompt").write_parquet(file))  # fmt: skip
    breaks("type", "001.parquet: column tokens must be whole numbers, and it is (large_)?string",
           lambda file: frame.cast({"tokens": pl.String}).write_parquet(file))  # fmt: skip
    holed = frame.with_columns(pl.when(pl.col("id") == "p0/3").then(None).otherwise("prompt").alias("prompt"))
    breaks("null", "001.parquet row 3: prompt is missing", lambda file: holed.write_parquet(file))

    breaks("garbled", "001.parquet row 5: thinking is no UTF-8", lambda file: garbled(file, "thinking", 5))


def garbled(file: Path, column: str, row: int) -> None:
    """Put bytes that are no UTF-8 into a file."""
    table = pq.read_table(file)
    raw = table[column].cast(pa.large_binary()).to_pylist()
    raw[row] = b"so \xff\xfe"
    found = pa.array(raw, pa.large_binary()).view(pa.large_string())
    pq.write_table(table.set_column(table.schema.get_field_index(column), column, found), file)


def broken_input(made: Make, name: str) -> tuple[Path, Input, list[str]]:
    """Five files of 60 rows, of which only three rows fewer than 120 can be read; and the ids of these."""
    frame = trajectories()
    folder, given = made(frame, files=5, name=name)
    files = sorted(given.trajectories.iterdir())
    os.truncate(files[0], 500)
    frame[60:120].drop("prompt").write_parquet(files[1])
    frame[120:180].cast({"tokens": pl.String}).write_parquet(files[2])
    part = frame[180:240]
    holes = pl.when(pl.col("id").is_in([part["id"][3], part["id"][7]])).then(None).otherwise("prompt").alias("prompt")
    part.with_columns(holes).write_parquet(files[3])
    garbled(files[4], "thinking", 5)
    garbled(sorted(given.general.iterdir())[0], "completion", 2)
    lost = {part["id"][3], part["id"][7], frame["id"][245]}
    return folder, given, [id_ for id_ in frame["id"][180:] if id_ not in lost]


@pytest.mark.parametrize("many", [False, True])
def test_what_is_broken_can_be_set_aside(made: Make, monkeypatch: pytest.MonkeyPatch, many: bool) -> None:
    folder, given, whole = broken_input(made, "broken")
    if many:
        monkeypatch.setattr("data.build.MUCH", 1)
    config = CONFIG.model_copy(update={"on_broken": "set_aside", "max_rows": 0})
    built = build(given, config, folder / "out", folder / "work", workers=0, shard_bytes=1)
    kept, dropped, rows, broken, waterfall = (
        pl.read_parquet(folder / "out" / f"{name}.parquet")
        for name in ("kept", "dropped", "rows", "broken", "waterfall")
    )
    assert sorted([*kept["id"], *dropped["id"]]) == sorted(whole)
    assert "general/002" not in set(rows["id"])
    assert built.broken == 60 + 60 + 2 + 1
    assert built.trajectories == 120 + 120
    assert waterfall.rows()[:2] == [("in", 240), ("broken", 123)]
    found = broken.with_columns(pl.col("file").str.split("/").list.last(), pl.col("what").str.split(": ").list.last())
    assert found.filter(pl.col("row").is_not_null()).rows() == [
        ("trajectories", "003.parquet", 3, 1, "prompt is missing"),
        ("trajectories", "003.parquet", 7, 1, "prompt is missing"),
        ("trajectories", "004.parquet", 5, 1, "thinking is no UTF-8"),
        ("general", "000.parquet", 2, 1, "completion is no UTF-8"),
    ]
    assert found.filter(pl.col("row").is_null()).select("file", "rows").rows() == [
        ("000.parquet", None), ("001.parquet", 60), ("002.parquet", 60),
    ]  # fmt: skip
    table = breakdown(folder / "out")
    assert table.filter(reason="in")["rows"].sum() == 240
    assert table.filter(reason="broken").select("rows", "domain").rows() == [(123, None)]


def test_what_is_set_aside_leaves_the_rest_as_it_would_be(made: Make) -> None:
    folder, given, whole = broken_input(made, "broken")
    config = CONFIG.model_copy(update={"on_broken": "set_aside"})
    found = run(folder, given, config)
    again, given, _ = broken_input(made, "again")
    assert found == {**run(again, given, config, workers=2, shard_bytes=1), "broken.parquet": found["broken.parquet"]}
    only, given = made(trajectories().filter(pl.col("id").is_in(whole)), name="only")
    rest = general().filter(pl.col("id") != "general/002")
    rest.write_parquet(given.general / "000.parquet")
    expected = run(only, given, CONFIG)
    assert {name: found[name] for name in ("kept.parquet", "dropped.parquet", "rows.parquet")} == {
        name: expected[name] for name in ("kept.parquet", "dropped.parquet", "rows.parquet")
    }


def test_a_shard_whose_bytes_are_damaged_is_set_aside(made: Make) -> None:
    folder, given = made(trajectories(), files=2, name="damaged")
    file = given.trajectories / "001.parquet"
    raw = bytearray(file.read_bytes())
    raw[100:2000] = bytes(1900)
    file.write_bytes(raw)
    with pytest.raises(ValueError, match=r"001\.parquet rows 0 to 150: damaged"):
        run(folder, given)
    config = CONFIG.model_copy(update={"on_broken": "set_aside", "max_rows": 0})
    built = build(given, config, folder / "out", folder / "work")
    assert (built.trajectories, built.broken, built.kept + built.dropped) == (300, 150, 150)
    given.trajectories.joinpath("000.parquet").unlink()
    with pytest.raises(ValueError, match="no whole trajectory in it; 150 are broken"):
        build(given, config, folder / "out", folder / "other")


def test_ids_have_to_be_unique(made: Make) -> None:
    frame = trajectories(problems=3)
    with pytest.raises(ValueError, match=r"2 rows share their id with another, for example 'p0/0'"):
        run(*made(pl.concat([frame, frame[:1]])))


def test_an_empty_input_is_refused(made: Make) -> None:
    with pytest.raises(ValueError, match="no trajectory in it"):
        run(*made(trajectories()[:0]))


def test_near_duplicates_are_found_across_shards(made: Make) -> None:
    text = "first we take the sum of all the numbers here, then we double it and get 7"
    frame = trajectories(problems=1, samples=3).with_columns(
        pl.Series("thinking", [text, text + " indeed", text.replace("7", "8")]), pl.lit("0").alias("answer")
    )
    folder, given = made(frame, files=3)
    filters: list[FilterConfig] = [NearDuplicate()]
    run(folder, given, BuildConfig(filters=filters, general_share=0), shard_bytes=1)
    dropped = pl.read_parquet(folder / "out" / "dropped.parquet")
    assert dropped.select("id", "reason", "detail").rows() == [("p0/1", "near_duplicate", "p0/0")]


def test_quotas_by_domain(made: Make) -> None:
    frame = trajectories()
    config = BuildConfig(
        filters=[NotCorrect()], quotas={"reasoned": 20, "logic": 15, "general": 12}, domains={"reasoned": ["chain"]}
    )
    folder, given = made(frame)
    run(folder, given, config)
    rows = pl.read_parquet(folder / "out" / "rows.parquet")
    assert dict(rows["family"].value_counts().iter_rows()) == {"chain": 20, "logic": 15, "helpful": 12}
    dropped = pl.read_parquet(folder / "out" / "dropped.parquet").filter(pl.col("reason") == "over_quota")
    assert set(dropped["detail"]) == {"reasoned: 20", "logic: 15"}
    again, given = made(frame.sample(fraction=1, shuffle=True, seed=1), files=3, name="again")
    run(again, given, config)
    assert_frame_equal(pl.read_parquet(again / "out" / "rows.parquet"), rows)


def test_quotas_that_cannot_be_met(made: Make) -> None:
    folder, given = made(trajectories(problems=4))
    config = BuildConfig(filters=[NotCorrect()], quotas={"logic": 50, "chain": 1, "general": 41})
    left = len(pl.read_parquet(given.trajectories / "000.parquet").filter(verdict="correct", family="logic"))
    message = f"quotas cannot be met: logic is {50 - left} rows short of 50, general is 1 rows short of 41; sample"
    with pytest.raises(ValueError, match=message):
        run(folder, given, config)
    assert not list((folder / "out").iterdir())
    run(folder, given, config.model_copy(update={"on_short": "go_on"}))
    families = pl.read_parquet(folder / "out" / "rows.parquet")["family"].value_counts()
    assert dict(families.iter_rows()) == {"logic": left, "chain": 1, "helpful": 40}


def test_a_build_is_declared_without_contradiction() -> None:
    assert sum(PAPER.values()) == 804_745
    assert BuildConfig(quotas=PAPER).quotas["math"] == 395_285
    with pytest.raises(ValidationError, match="two filters of one name: surplus"):
        BuildConfig(filters=[Surplus(max_per_problem=1), Surplus(max_per_problem=2)])
    with pytest.raises(ValidationError, match="families of two domains: chain"):
        BuildConfig(domains={"a": ["chain"], "b": ["chain", "logic"]})
    with pytest.raises(ValidationError, match="greater than or equal to 0"):
        BuildConfig(quotas={"math": -1})


def test_decontamination_needs_evaluation_problems(made: Make) -> None:
    folder, given = made(trajectories(problems=4))
    bare = Input(given.trajectories, given.general)
    with pytest.raises(ValueError, match="contaminated: no evaluation problems to compare with; give some"):
        run(folder, bare)
    assert not (folder / "work").exists()
    run(folder, bare, BuildConfig(filters=[NotCorrect()], general_share=0))
