"""Ordinary text: where it comes from, and that nothing held out stands on the side that is learned from."""

from __future__ import annotations

import json
import zlib
from pathlib import Path

import polars as pl
import pytest

from data.text import divided, documents_in, python_version


def test_every_python_brings_a_megabyte_of_english() -> None:
    documents = documents_in(None)
    assert documents == documents_in(None)
    assert sum(map(len, documents)) > 1_000_000
    whole = "\n".join(documents)
    assert whole.count(" the ") > 10_000
    assert 'The "assert" statement' in whole or "Assert statements" in whole  # the manual
    assert "JSON (JavaScript Object Notation)" in whole  # a docstring
    assert python_version().startswith("python 3.")


def test_held_out_documents_and_their_paragraphs_are_never_learned_from() -> None:
    documents = [f"first {i}\n\nshared {i % 7}\n\nlast {i}" for i in range(400)]
    trained, held = divided(documents)
    assert held == [text for text in documents if zlib.crc32(text.encode()) % 20 == 0]
    assert 5 < len(held) < 40
    learned = {paragraph for text in trained for paragraph in text.split("\n\n")}
    assert not learned & {paragraph for text in held for paragraph in text.split("\n\n")}
    firsts = {paragraph for paragraph in learned if paragraph.startswith("first")}
    assert firsts | {text.split("\n\n")[0] for text in held} == {f"first {i}" for i in range(400)}


def test_too_little_to_hold_out_is_said() -> None:
    with pytest.raises(ValueError, match="1 documents are too few to hold out one in 20"):
        divided(["only one"])


def test_ones_own_text(tmp_path: Path) -> None:
    plain = tmp_path / "own.txt"
    plain.write_text("\n\n".join(f"paragraph {i} " + "word " * 300 for i in range(9)), encoding="utf-8")
    pieces = documents_in(plain)
    assert [piece.count("paragraph") for piece in pieces] == [3, 3, 3]
    assert "\n\n".join(pieces).count("word") == 2700
    lines = tmp_path / "own.jsonl"
    lines.write_text("".join(json.dumps({"body": f"text {i}"}) + "\n" for i in range(3)), encoding="utf-8")
    assert documents_in(lines, "body") == ["text 0", "text 1", "text 2"]
    table = tmp_path / "own.parquet"
    pl.DataFrame({"text": ["a", "b"]}).write_parquet(table)
    assert documents_in(table) == ["a", "b"]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.jsonl", b'{"text": "x"}\n{"txt": "y"}\n', "a.jsonl line 2: 'text' must be text, got None"),
        ("a.jsonl", b'{"text": "  "}\n', "a.jsonl line 1: 'text' must be text, got '  '"),
        ("a.jsonl", b"", "a.jsonl: no text in it"),
        ("a.txt", b" \n\n \n", "a.txt: no text in it"),
        ("a.txt", b"\xff", "a.txt: not UTF-8 at byte 0"),
        ("a.pdf", b"", "a.pdf: text comes as .txt, .jsonl or .parquet"),
    ],
)
def test_what_is_no_text_is_named(name: str, content: bytes, message: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=message):
        documents_in(tmp_path / name)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    for name in ("a.txt", "a.jsonl", "a.parquet"):
        with pytest.raises(ValueError, match="no such file"):
            documents_in(tmp_path / name)
