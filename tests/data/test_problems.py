"""Problems: the split, generation, and users' files with all their faults."""

import json
import zlib
from collections import Counter
from pathlib import Path

import polars
import pytest
from datasets import Dataset, DatasetDict

from data.problems import generate, held_out, read_problems
from data.verifiers import verify
from data.world.corpus import documents
from data.world.mixture import Mixture

SHARES = {"chain": 0.3, "order": 0.2, "choice": 0.2, "logic": 0.15, "code": 0.15}


def write(folder: Path, *rows: object) -> Path:
    path = folder / "problems.jsonl"
    text = [row if isinstance(row, str) else json.dumps(row, ensure_ascii=False) for row in rows]
    path.write_text("\n".join(text), encoding="utf-8")
    return path


def test_one_key_in_twenty_is_held_out() -> None:
    assert held_out("chain 131 +2 +3") is (zlib.crc32(b"chain 131 +2 +3") % 20 == 0)
    assert sum(held_out(f"key {number}") for number in range(20_000)) == pytest.approx(1000, abs=120)


@pytest.mark.parametrize("split", ["train", "heldout"])
def test_generated_problems_are_distinct_and_on_their_side(split: str) -> None:
    problems = list(generate(SHARES, 1000, 0, split))
    assert len({problem.key for problem in problems}) == len({problem.id for problem in problems}) == 1000
    assert {held_out(problem.key) for problem in problems} == {split == "heldout"}
    assert Counter(problem.language for problem in problems) == {"en": 500, "zh": 500}
    counts = Counter(problem.family for problem in problems)
    assert {name: counts[name] / 1000 for name in SHARES} == pytest.approx(SHARES, abs=0.05)
    for number, problem in enumerate(problems):
        mark = "heldout-" if split == "heldout" else ""
        assert problem.id == f"{problem.family}/{mark}{number:06d}"


def test_the_two_sides_share_no_key_and_no_id() -> None:
    train, held = list(generate(SHARES, 500, 0, "train")), list(generate(SHARES, 500, 0, "heldout"))
    assert not {problem.key for problem in train} & {problem.key for problem in held}
    assert not {problem.id for problem in train} & {problem.id for problem in held}


def test_generation_is_seeded() -> None:
    first = list(generate(SHARES, 50, 5, "train"))
    assert first == list(generate(SHARES, 50, 5, "train"))
    assert first[:20] == list(generate(SHARES, 20, 5, "train"))
    assert not set(first) & set(generate(SHARES, 50, 6, "train"))
    assert {problem.language for problem in generate(SHARES, 20, 5, "train", ("zh",))} == {"zh"}


def test_a_family_that_runs_out_says_so() -> None:
    with pytest.raises(ValueError, match=r"harmless has no new heldout problem after \d+ of them"):
        list(generate({"harmless": 1}, 1000, 0, "heldout"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"families": {"geometry": 1}}, "families must weigh some of chain, choice"),
        ({"families": {}}, "families must weigh some of"),
        ({"families": {"chain": -1}}, "got {'chain': -1}"),
        ({"split": "test"}, "split must be out of train, heldout, got 'test'"),
        ({"count": 0}, "count must be at least 1, got 0"),
        ({"languages": ("fr",)}, r"languages must be out of en, zh, got \('fr',\)"),
    ],
)
def test_generation_refuses_what_it_does_not_know(change: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        generate(**{"families": SHARES, "count": 1, "seed": 0, "split": "train", **change})


def test_jsonl_is_read_with_its_defaults(tmp_path: Path) -> None:
    tests = json.dumps([{"input": "1\n", "output": "2\n"}])
    path = write(
        tmp_path,
        {"prompt": "1 + 1?", "solution": 2},
        "",
        {"prompt": "一加一?", "solution": "2", "verifier": "math"},
        {"prompt": "double it", "solution": tests, "verifier": "code", "language": "zh"},
        {"prompt": "sort", "solution": "1 2", "verifier": "reasoning_gym:number_sorting"},
    )
    problems = read_problems(path)
    assert [problem.id for problem in problems] == [f"problems/{number:06d}" for number in range(4)]
    assert [problem.language for problem in problems] == ["en", "zh", "zh", "en"]
    assert [problem.solution for problem in problems] == ["2", "2", tests, '{"answer": "1 2", "metadata": {}}']
    assert problems[0].verifier == "math"
    assert problems[0].key == problems[0].prompt == "1 + 1?"


def test_solutions_may_be_text_or_what_it_stands_for(tmp_path: Path) -> None:
    tests, goal = [{"input": "1\n", "output": "2\n"}], {"numbers": [1, 2], "target": 3}
    gold = {"prompt": "x", "solution": "1 2", "metadata": {"n": 2}, "verifier": "reasoning_gym:number_sorting"}
    rows = [
        {"prompt": "double it", "solution": tests, "verifier": "code"},
        {"prompt": "reach 3", "solution": goal, "verifier": "expression"},
        gold,
        {**gold, "metadata": json.dumps(gold["metadata"])},
        {**gold, "solution": None},
        {"prompt": "which?", "solution": "B", "verifier": "choice", "options": ["red", "green"]},
        {"prompt": "which?", "solution": "B", "verifier": "choice", "options": {"A": "red", "B": "green"}},
    ]
    found = [problem.solution for problem in read_problems(write(tmp_path, *rows))]
    assert [json.loads(each) for each in found] == [
        tests, goal, *[{"answer": "1 2", "metadata": {"n": 2}}] * 2, {"answer": None, "metadata": {"n": 2}},
        *[{"answer": "B", "options": {"A": "red", "B": "green"}}] * 2,
    ]  # fmt: skip
    as_text = [row | {"solution": json.dumps(row["solution"])} for row in rows[:2]]
    assert [problem.solution for problem in read_problems(write(tmp_path, *as_text))] == found[:2]


def test_a_family_of_reasoning_gym_is_a_source_by_its_name() -> None:
    families = {"reasoning_gym:chain_sum": 0.5, "chain": 0.5}
    problems = list(generate(families, 40, 3, "train"))
    assert problems == list(generate(dict(reversed(families.items())), 40, 3, "train"))
    gym = [problem for problem in problems if problem.family != "chain"]
    assert 10 < len(gym) < 30
    for problem in gym:
        assert problem.id.startswith("reasoning_gym:chain_sum/")
        assert (problem.verifier, problem.language) == ("reasoning_gym:chain_sum", "en")
        assert not held_out(problem.key)
        right = json.loads(problem.solution)["answer"]
        for answer, status in ((right, "correct"), (str(int(right) + 1), "wrong")):
            assert verify(problem, f"<think>so</think> <answer>{answer}</answer>", "zero").status == status


def test_parquet_and_saved_data_sets_are_read_with_renamed_columns(tmp_path: Path) -> None:
    columns = {"prompt": "question", "solution": "gold"}
    rows = {"question": ["1 + 1?", "2 + 2?"], "gold": ["2", "4"]}
    polars.DataFrame(rows).write_parquet(tmp_path / "sums.parquet")
    Dataset.from_dict(rows).save_to_disk(str(tmp_path / "sums"))
    from_parquet = read_problems(tmp_path / "sums.parquet", columns)
    assert [(problem.prompt, problem.solution) for problem in from_parquet] == [
        ("1 + 1?", "2"),
        ("2 + 2?", "4"),
    ]
    assert read_problems(tmp_path / "sums", columns) == from_parquet
    polars.DataFrame({"question": ["a", "b"], "gold": ["1", None]}).write_parquet(tmp_path / "hole.parquet")
    with pytest.raises(ValueError, match=r"hole\.parquet row 2: 'gold' is empty"):
        read_problems(tmp_path / "hole.parquet", columns)
    DatasetDict({"train": Dataset.from_dict(rows)}).save_to_disk(str(tmp_path / "splits"))
    with pytest.raises(ValueError, match="splits: name the folder of one split out of train"):
        read_problems(tmp_path / "splits", columns)


GOOD = {"prompt": "1 + 1?", "solution": "2"}


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"prompt": "x"}, "problems.jsonl line 3: 'solution' is missing"),
        ({"prompt": "x", "solution": None}, "problems.jsonl line 3: 'solution' is empty"),
        ({"solution": "x"}, "problems.jsonl line 3: 'prompt' is missing"),
        ({"prompt": " ", "solution": "2"}, "line 3: 'prompt' must be text that is not empty, got ' '"),
        ({"prompt": "x", "solution": [1]}, "line 3: 'solution' must be text that is not empty, got [1]"),
        ({"prompt": "x", "solution": True}, "line 3: 'solution' must be text that is not empty, got True"),
        ({**GOOD, "verifier": "vibes"}, "line 3: 'verifier' must be out of math, choice, code"),
        (
            {**GOOD, "verifier": "reasoning_gym:no"},
            "line 3: 'verifier' names no family of reasoning_gym: 'no'",
        ),
        ({**GOOD, "language": "fr"}, "line 3: 'language' must be en or zh, got 'fr'"),
        (
            {**GOOD, "verifier": "choice"},
            "line 3: 'solution' of a choice must be one capital letter, got '2'",
        ),
        ({**GOOD, "verifier": "choice", "solution": "B", "options": 5}, "line 3: 'options' must be a list of texts"),
        ({**GOOD, "verifier": "choice", "solution": "B", "options": {"A": 1, "B": 2}}, "line 3: 'options' must be a"),
        ({**GOOD, "verifier": "choice", "solution": "C", "options": ["a", "b"]}, "'C' is none of the options A, B"),
        ({**GOOD, "verifier": "expression"}, "line 3: 'solution' of an expression must be"),
        ({**GOOD, "verifier": "expression", "solution": {"numbers": [1.5], "target": 3}}, "line 3: 'solution' of an"),
        ({**GOOD, "verifier": "reasoning_gym:countdown", "metadata": [1]}, "line 3: 'metadata' must be an object"),
        ({**GOOD, "verifier": "code"}, "line 3: 'solution' of a program must be a JSON list"),
        ({**GOOD, "verifier": "code", "solution": [{"input": "1"}]}, "line 3: 'solution' of a program must be a JSON"),
        ({**GOOD, "verifier": "helpful"}, "line 3: 'solution': a rubric has a 'kind' out of"),
        ("{oops", "line 3: not JSON from character 2 on: "),
        ("[" * 100_000, "line 3: not JSON"),
        ("[1]", "line 3: a JSON object is expected, got list"),
    ],
)
def test_a_bad_row_is_named(tmp_path: Path, row: object, message: str) -> None:
    with pytest.raises(ValueError, match=r"^problems\.jsonl line 3") as error:
        read_problems(write(tmp_path, GOOD, GOOD, row, GOOD))
    assert message in str(error.value)


def test_empty_missing_and_strange_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"problems\.jsonl: no problems in it"):
        read_problems(write(tmp_path))
    with pytest.raises(ValueError, match="no such file"):
        read_problems(tmp_path / "absent.jsonl")
    (tmp_path / "problems.txt").touch()
    with pytest.raises(ValueError, match=r"problems\.txt: problems come as \.jsonl, \.csv"):
        read_problems(tmp_path / "problems.txt")
    (tmp_path / "folder").mkdir()
    with pytest.raises(ValueError, match="folder: not a data set"):
        read_problems(tmp_path / "folder")
    with pytest.raises(ValueError, match=r"columns may rename prompt, .*, metadata, got answer; it is"):
        read_problems(write(tmp_path, GOOD), {"answer": "solution"})


def test_the_order_in_which_families_are_weighed_means_nothing() -> None:
    weights = {"chain": 0.5, "logic": 0.3, "code": 0.2}
    backwards = dict(reversed(weights.items()))
    assert list(generate(weights, 50, 3, "train")) == list(generate(backwards, 50, 3, "train"))
    crawls = [documents(1, 0, 50, Mixture(families=each)) for each in (weights, backwards)]
    assert list(crawls[0]) == list(crawls[1])
