"""Users' files: CSV with all its faults, column maps that are mixed up, values that are fixed, and the hub."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from data import hub
from data.files import rows_of
from data.problems import located_problems
from data.prompts import check_frame, framed


def csv(folder: Path, text: str | bytes, name: str = "mine.csv") -> Path:
    path = folder / name
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


def test_csv_is_read_by_the_lines_that_records_begin_at(tmp_path: Path) -> None:
    path = csv(tmp_path, '\ufeffq,a\n"one\nplus ""one""",2\n\n"2, 2",\n三,3\n')
    assert list(rows_of(path)) == [
        ("mine.csv line 2", {"q": 'one\nplus "one"', "a": "2"}),
        ("mine.csv line 5", {"q": "2, 2", "a": None}),
        ("mine.csv line 6", {"q": "三", "a": "3"}),
    ]
    assert list(rows_of(csv(tmp_path, "q\ta\n1, 1\t2\n", "mine.tsv"))) == [("mine.tsv line 2", {"q": "1, 1", "a": "2"})]


def test_csv_makes_the_problems_that_json_lines_make(tmp_path: Path) -> None:
    rows = [{"prompt": "1 + 1?", "solution": "2"}, {"prompt": 'which, "A"?', "solution": "B", "verifier": "choice",
            "options": '["x", "y"]'}]  # fmt: skip
    lines = tmp_path / "mine.jsonl"
    lines.write_text("".join(json.dumps(row) + "\n" for row in rows))
    table = csv(tmp_path, 'prompt,solution,verifier,options\n1 + 1?,2,,\n"which, ""A""?",B,choice,"[""x"", ""y""]"\n')
    assert [each for _, each in located_problems(table)] == [each for _, each in located_problems(lines)]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "mine.csv line 1: a header of distinct column names is expected, got []"),
        ("a,a\n1,2\n", "mine.csv line 1: a header of distinct column names is expected, got ['a', 'a']"),
        ("prompt,solution\n1,2\n1,2,3\n", "mine.csv line 3: 3 fields, and the header has 2"),
        ("prompt,solution\n1,2\n1\n", "mine.csv line 3: 1 fields, and the header has 2"),
        ('prompt,solution\n1,2\n"1,2\n', "mine.csv line 3: not CSV: unexpected end of data"),
        (b"prompt,solution\n\xe9,2\n", "mine.csv: not UTF-8 in or after line 1"),
        ("prompt,gold\n1,2\n", "mine.csv line 2: 'solution' is missing; there are prompt, gold"),
        ("prompt,solution\n", "mine.csv: no problems in it"),
    ],
)
def test_a_fault_of_a_csv_is_one_line(tmp_path: Path, text: str | bytes, message: str) -> None:
    with pytest.raises(ValueError, match="mine") as error:
        located_problems(csv(tmp_path, text))
    assert str(error.value) == message


def test_a_value_is_fixed_for_all_rows_even_over_a_column(tmp_path: Path) -> None:
    path = csv(tmp_path, "prompt,solution,language\n1 + 1?,2,de\n九?,9,fr\n")
    [first, second] = [each for _, each in located_problems(path, fixed={"language": "en"})]
    assert (first.language, second.language) == ("en", "en")
    constant = {"language": "zh", "solution": "7"}
    [first, _] = [each for _, each in located_problems(path, {"prompt": "solution"}, constant)]
    assert (first.prompt, first.language, first.solution) == ("2", "zh", "7")


@pytest.mark.parametrize(
    ("columns", "fixed", "message"),
    [
        ({"question": "prompt"}, {}, "got question; it is written the other way round, ours = theirs"),
        ({"answer": "gold"}, {}, "rename prompt, solution, verifier, language, options, metadata, got answer"),
        ({}, {"lang": "en"}, "fixed may set prompt, solution, verifier, language, options, metadata, got lang"),
        ({"language": "lang"}, {"language": "en"}, "language stands in columns and in fixed; one of them must go"),
        ({"prompt": "text", "solution": "text"}, {}, "prompt and solution have the same column 'text'; see columns"),
        ({"prompt": "solution"}, {}, "prompt and solution have the same column 'solution'; see columns"),
        ({"prompt": "text"}, {}, "mine.csv line 2: 'text' is missing; there are prompt, solution"),
        ({}, {"language": "fr"}, "mine.csv line 2: 'fixed.language' must be en or zh, got 'fr'"),
    ],
)  # fmt: skip
def test_a_mixed_up_map_is_one_line(
    tmp_path: Path, columns: dict[str, str], fixed: dict[str, str], message: str
) -> None:
    with pytest.raises(ValueError) as error:  # noqa: PT011
        located_problems(csv(tmp_path, "prompt,solution\n1 + 1?,2\n"), columns, fixed)
    assert str(error.value).endswith(message)


# Frames.


def test_a_question_is_framed_by_ones_own_words() -> None:
    assert framed("1 + 1?") == "1 + 1?"
    assert framed("1 + 1?", "Be brief.", r"{prompt} Answer in \boxed{}.") == "Be brief.\n\n1 + 1? Answer in \\boxed{}."


@pytest.mark.parametrize(
    ("system", "template", "message"),
    [
        ("", "Solve it.", "a template must hold {prompt} once, got it 0 times"),
        ("", "{prompt} {prompt}", "a template must hold {prompt} once, got it 2 times"),
        ("Solve {prompt}", "", "{prompt} belongs into the template"),
        ("Put it in <answer> tags", "", "<answer> in system or template: the stage's own template sets it"),
        ("", "<｜User｜>{prompt}", "<｜User｜> in system or template"),
    ],
)
def test_a_frame_is_checked(system: str, template: str, message: str) -> None:
    with pytest.raises(ValueError, match="template") as error:
        check_frame(system, template)
    assert message in str(error.value)


# The hub.


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A hub cache that holds one file of one data set, and no network."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    held = tmp_path / "datasets--us--sums"
    snapshot = held / "snapshots" / ("a" * 40)
    snapshot.mkdir(parents=True)
    (held / "refs").mkdir()
    (held / "refs" / "main").write_text("a" * 40)
    (snapshot / "train.csv").write_text("prompt,solution\n1 + 1?,2\n")
    return snapshot


def test_a_file_of_the_hub_is_taken_from_the_cache(cache: Path) -> None:
    assert hub.fetched("hub:us/sums/train.csv").read_text() == (cache / "train.csv").read_text()
    assert hub.fetched(f"hub:us/sums/train.csv@{'a' * 40}").samefile(cache / "train.csv")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("hub:us/sums/test.csv", "cannot be had from the Hugging Face hub, which needs a network"),
        ("hub:us/others", "a file that you have is given by its path"),
        ("hub:us", "write it as hub:OWNER/NAME or hub:OWNER/NAME/FILE"),
        ("hub:us/sums/train.txt", "problems come as .jsonl, .csv, .tsv, .parquet"),
    ],
)
def test_what_the_hub_cannot_give_is_one_line(cache: Path, name: str, message: str) -> None:
    with pytest.raises(ValueError, match="hub:us") as error:
        hub.fetched(name)
    assert message in str(error.value)
    assert "\n" not in str(error.value)
