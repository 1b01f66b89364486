"""Tables that are read in shards: Parquet files whose runs of row groups are small enough for memory.

Everything about a file that can be known from its footer is checked before the first row is read; what is
wrong is said with the file, the place in it and what is allowed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pyarrow.types as kinds

SHARD_BYTES: Final = 64 << 20
"""Text of a shard, before compression. A row group is the least that is read at once."""

_KINDS: Final[Mapping[str, tuple[str, Callable[[Any], bool]]]] = {
    "text": ("text", lambda kind: kinds.is_string(kind) or kinds.is_large_string(kind) or kinds.is_string_view(kind)),
    "whole": ("whole numbers", kinds.is_integer),
    "number": ("numbers", lambda kind: kinds.is_floating(kind) or kinds.is_integer(kind)),
    "truth": ("true or false", kinds.is_boolean),
}


@dataclass(frozen=True, slots=True)
class Shard:
    """Row groups `first` to `last` (not included) of a file, which hold `rows` rows from row `begin` on."""

    file: Path
    first: int
    last: int
    begin: int
    rows: int

    def __str__(self) -> str:
        return f"{self.file.name} rows {self.begin} to {self.begin + self.rows}"


@dataclass(frozen=True, slots=True)
class Column:
    """What a column has to be: "text", "whole", "number" or "truth", whether a row may lack it, and a table."""

    kind: str
    nullable: bool = True
    optional: bool = False


def files_of(path: Path) -> list[Path]:
    """The Parquet files of a table: itself, or those in its folder by name. Raises ValueError where there is none."""
    if path.is_file():
        return [path]
    found = sorted(path.glob("*.parquet"))
    if not found:
        raise ValueError(f"no table at {path}")
    return found


def shards_of(path: Path, columns: Mapping[str, Column], size: int = SHARD_BYTES) -> list[Shard]:
    """Divide a table into shards of about `size` bytes. Raises ValueError for a file that is not whole or lacks
    one of `columns`."""
    return [shard for file in files_of(path) for shard in divided(file, columns, size)]


def divided(file: Path, columns: Mapping[str, Column], size: int = SHARD_BYTES) -> list[Shard]:
    """Divide a file into shards. Raises ValueError as `shards_of`."""
    try:
        metadata = pq.read_metadata(file)
        schema = pq.read_schema(file)
    except (pa.ArrowException, OSError) as error:
        raise ValueError(f"{file}: not a whole Parquet file: {str(error).splitlines()[0]}") from None
    _check(file, schema, columns)
    shards, first, begin, rows, weight = [], 0, 0, 0, 0
    for number in range(metadata.num_row_groups):
        group = metadata.row_group(number)
        rows, weight = rows + group.num_rows, weight + group.total_byte_size
        if weight >= size or number == metadata.num_row_groups - 1:
            shards.append(Shard(file, first, number + 1, begin, rows))
            first, begin, rows, weight = number + 1, begin + rows, 0, 0
    return [shard for shard in shards if shard.rows]


def rows_in(file: Path) -> int | None:
    """How many rows a file has by its footer; None where that cannot be read."""
    try:
        return int(pq.read_metadata(file).num_rows)
    except (pa.ArrowException, OSError):
        return None


def _check(file: Path, schema: pa.Schema, columns: Mapping[str, Column]) -> None:
    missing = [name for name, column in columns.items() if name not in schema.names and not column.optional]
    if missing:
        raise ValueError(f"{file}: no column {', '.join(missing)}; it has {', '.join(schema.names)}")
    for name, column in columns.items():
        if name not in schema.names:
            continue
        said, fits = _KINDS[column.kind]
        kind = schema.field(name).type
        if not fits(kind) and not (kinds.is_null(kind) and column.nullable):
            raise ValueError(f"{file}: column {name} must be {said}, and it is {kind}")


def read(
    shard: Shard, columns: Mapping[str, Column], only: Sequence[str] | None = None, places: Sequence[int] | None = None
) -> pl.DataFrame:
    """Read a shard, or some columns of it, or the rows at some places. Raises ValueError where its bytes are damaged, a
    text is no UTF-8, or a row lacks what none may lack, with the row's number in the file."""
    table = _table(shard, only) if places is None or len(places) else _nothing(shard, only)
    if places is not None and len(places) < len(table):
        table = table.take(pa.array(places, pa.int64()))
    for name in table.column_names:
        for row, what in _faults(name, table[name], columns.get(name, Column("text"))):
            raise ValueError(f"{shard.file} row {shard.begin + row}: {what}")
    frame = pl.from_arrow(table)
    assert isinstance(frame, pl.DataFrame)
    return frame


def faults(shard: Shard, columns: Mapping[str, Column], only: Sequence[str] | None = None) -> pl.DataFrame:
    """(place, what) of each row that `read` would refuse, the first reason of each; the place is null where the whole
    shard cannot be read."""
    found: dict[int | None, str] = {}
    try:
        table = _table(shard, only)
        for name in table.column_names:
            for row, what in _faults(name, table[name], columns.get(name, Column("text"))):
                found.setdefault(row, what)
    except ValueError as error:
        found = {None: str(error)}
    schema = {"place": pl.UInt32, "what": pl.String}
    return pl.DataFrame({"place": [*found], "what": [*found.values()]}, schema=schema).sort("place")


def _table(shard: Shard, only: Sequence[str] | None) -> pa.Table:
    try:
        with pq.ParquetFile(shard.file) as file:
            return file.read_row_groups(range(shard.first, shard.last), columns=only, use_threads=False)
    except (pa.ArrowException, OSError) as error:
        raise ValueError(f"{shard}: damaged: {str(error).splitlines()[0]}") from None


def _nothing(shard: Shard, only: Sequence[str] | None) -> pa.Table:
    table = pq.read_schema(shard.file).empty_table()
    return table.select(only) if only else table


def _faults(name: str, values: pa.ChunkedArray, column: Column) -> Iterator[tuple[int, str]]:
    """(row, what is wrong) of a column."""
    if values.null_count and not column.nullable:
        lacking = values.is_null().to_pylist()
        yield from ((row, f"{name} is missing") for row, is_null in enumerate(lacking) if is_null)
    try:
        values.validate(full=True)
    except pa.ArrowInvalid:
        raw = values.cast(pa.large_binary()).to_pylist()
        yield from ((row, f"{name} is no UTF-8") for row, each in enumerate(raw) if each and not _is_text(each))


def _is_text(raw: bytes) -> bool:
    try:
        raw.decode()
    except UnicodeDecodeError:
        return False
    return True
