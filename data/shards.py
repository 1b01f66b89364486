"""Tables that are read in shards: Parquet files whose runs of row groups are small enough for memory.

Everything about a file that can be known from its footer is checked before the first row is read; what is
wrong is said with the file, the place in it and what is allowed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
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
    return [shard for file in files_of(path) for shard in _divided(file, columns, size)]


def _divided(file: Path, columns: Mapping[str, Column], size: int) -> list[Shard]:
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


def read(shard: Shard, columns: Mapping[str, Column], only: Sequence[str] | None = None) -> pl.DataFrame:
    """Read a shard, or some columns of it. Raises ValueError where its bytes are damaged, a text is no UTF-8, or a
    row lacks what none may lack, with the row's number in the file."""
    try:
        with pq.ParquetFile(shard.file) as file:
            table = file.read_row_groups(range(shard.first, shard.last), columns=only, use_threads=False)
    except (pa.ArrowException, OSError) as error:
        raise ValueError(f"{shard}: damaged: {str(error).splitlines()[0]}") from None
    for name in table.column_names:
        _check_values(shard, name, table[name], columns.get(name, Column("text")))
    frame = pl.from_arrow(table)
    assert isinstance(frame, pl.DataFrame)
    return frame


def _check_values(shard: Shard, name: str, values: pa.ChunkedArray, column: Column) -> None:
    if values.null_count and not column.nullable:
        row = shard.begin + values.is_null().to_pylist().index(True)
        raise ValueError(f"{shard.file} row {row}: {name} is missing")
    try:
        values.validate(full=True)
    except pa.ArrowInvalid:
        row = shard.begin + _first_invalid(values)
        raise ValueError(f"{shard.file} row {row}: {name} is no UTF-8") from None


def _first_invalid(values: pa.ChunkedArray) -> int:
    raw = values.cast(pa.large_binary()).to_pylist()
    return next(place for place, each in enumerate(raw) if each is not None and not _is_text(each))


def _is_text(raw: bytes) -> bool:
    try:
        raw.decode()
    except UnicodeDecodeError:
        return False
    return True
