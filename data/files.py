"""The rows of a user's file: JSONL, CSV, Parquet, or a Hugging Face data set saved to a folder."""

from __future__ import annotations

import codecs
import csv
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, TextIO

import polars as pl

Rows = Iterator[tuple[str, Mapping[str, Any]]]
_DELIMITERS = {".csv": ",", ".tsv": "\t"}
_FILES = (".jsonl", ".ndjson", ".parquet", *_DELIMITERS)


def rows_of(path: Path) -> Rows:
    """(where it stands, the row) for each row of a file.

    Raises ValueError, naming the file and the row, for what cannot be read.
    """
    if not path.exists():
        raise ValueError(f"{path}: no such file")
    if path.suffix in _FILES and not path.is_file():
        raise ValueError(f"{path.name}: a folder, and a {path.suffix} file is expected")
    if path.suffix in (".jsonl", ".ndjson"):
        yield from _json_lines(path)
    elif path.suffix in _DELIMITERS:
        yield from _delimited(path, _DELIMITERS[path.suffix])
    elif path.suffix == ".parquet":
        for number, row in enumerate(_parquet(path).iter_rows(named=True), 1):
            yield f"{path.name} row {number}", row
    elif path.is_dir():
        yield from _saved_dataset(path)
    else:
        raise ValueError(f"{path.name}: problems come as .jsonl, .csv, .tsv, .parquet or a saved data set's folder")


def _parquet(path: Path) -> pl.DataFrame:
    try:
        return pl.read_parquet(path, glob=False)
    except pl.exceptions.PolarsError as error:
        raise ValueError(f"{path.name}: not a Parquet file: {str(error).partition(chr(10))[0]}") from None


def _json_lines(path: Path) -> Rows:
    with path.open("rb") as lines:
        for number, line in enumerate(lines, 1):
            where = f"{path.name} line {number}"
            text = line.removeprefix(codecs.BOM_UTF8) if number == 1 else line
            if not text.strip():
                continue
            try:
                row = json.loads(text.decode("utf-8"))
            except UnicodeDecodeError as error:
                raise ValueError(f"{where}: not UTF-8 at its byte {error.start}") from None
            except json.JSONDecodeError as error:
                raise ValueError(f"{where}: not JSON from character {error.pos + 1} on: {error.msg}") from None
            except RecursionError as error:
                raise ValueError(f"{where}: not JSON: {error}") from None
            if not isinstance(row, dict):
                raise ValueError(f"{where}: a JSON object is expected, got {type(row).__name__}")
            yield where, row


def _delimited(path: Path, delimiter: str) -> Rows:
    """Rows under a header, by the lines that they begin at; an empty field is a value that is missing."""
    with path.open(encoding="utf-8-sig", newline="") as file:
        records = _records(file, path.name, delimiter)
        header = next(records, (1, []))[1]
        if not header or len(set(header)) < len(header) or not all(header):
            raise ValueError(f"{path.name} line 1: a header of distinct column names is expected, got {header}")
        for line, fields in records:
            where = f"{path.name} line {line}"
            if len(fields) != len(header):
                raise ValueError(f"{where}: {len(fields)} fields, and the header has {len(header)}")
            yield where, {name: field or None for name, field in zip(header, fields, strict=True)}


def _records(file: TextIO, name: str, delimiter: str) -> Iterator[tuple[int, list[str]]]:
    """(line where it begins, fields) of each record that is not blank."""
    reader, begin = csv.reader(file, delimiter=delimiter, strict=True), 1
    while True:
        try:
            fields = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            raise ValueError(f"{name} line {begin}: not CSV: {error}") from None
        except UnicodeDecodeError:
            raise ValueError(f"{name}: not UTF-8 in or after line {begin}") from None
        if fields:
            yield begin, fields
        begin = reader.line_num + 1


def _saved_dataset(path: Path) -> Rows:
    from datasets import DatasetDict, load_from_disk

    try:
        dataset = load_from_disk(str(path))
    except FileNotFoundError:
        raise ValueError(f"{path.name}: not a data set that was saved with save_to_disk") from None
    if isinstance(dataset, DatasetDict):
        raise ValueError(f"{path.name}: name the folder of one split out of {', '.join(sorted(dataset))}")
    for number, row in enumerate(dataset, 1):
        yield f"{path.name} row {number}", row
