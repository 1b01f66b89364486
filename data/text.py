"""Ordinary text that people wrote: one's own files, or what every Python brings along, its manual and docstrings.

The standard library's English (Python Software Foundation licence) is small, plain and on every machine.
"""

from __future__ import annotations

import ast
import platform
import sysconfig
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path

from data.files import rows_of

HELD_OUT_ONE_IN = 20
_LEAST_DOCSTRING = 80  # characters; shorter ones are labels
_DOCUMENT = 4_000  # characters at which a plain text file is cut, at the next empty line
_NO_PROSE = frozenset({"test", "tests", "idlelib", "idle_test", "site-packages", "dist-packages", "pydoc_data"})


def python_version() -> str:
    """Names the text that comes with this Python."""
    return f"python {platform.python_version()}"


def documents_in(path: Path | None, column: str = "text") -> list[str]:
    """The documents of a .txt, .jsonl or .parquet file, or without a path Python's own.

    Rows have their text in `column`. Raises ValueError, naming the place, for a row without text, a file of
    another kind, one that is not UTF-8, or one without any text.
    """
    if path is None:
        return [*_manual(), *_docstrings()]
    if path.suffix == ".txt":
        found = list(_pieces(path))
    elif path.suffix in (".jsonl", ".ndjson", ".parquet"):
        found = [_text(row.get(column), column, where) for where, row in rows_of(path)]
    else:
        raise ValueError(f"{path.name}: text comes as .txt, .jsonl or .parquet")
    if not found:
        raise ValueError(f"{path.name}: no text in it")
    return found


def divided(documents: Sequence[str]) -> tuple[list[str], list[str]]:
    """(train, held out): one document in 20 is held out, by its hash, and its paragraphs leave the others too.

    Raises ValueError where nothing is left on one of the sides.
    """
    held = [text for text in documents if zlib.crc32(text.encode()) % HELD_OUT_ONE_IN == 0]
    seen = {paragraph for text in held for paragraph in _paragraphs(text)}
    trained = []
    for text in documents:
        kept = [paragraph for paragraph in _paragraphs(text) if paragraph not in seen]
        if kept:
            trained.append("\n\n".join(kept))
    if not held or not trained:
        raise ValueError(f"{len(documents)} documents are too few to hold out one in {HELD_OUT_ONE_IN}")
    return trained, held


def _paragraphs(text: str) -> Iterator[str]:
    return (stripped for paragraph in text.split("\n\n") if (stripped := paragraph.strip("\n")).strip())


def _manual() -> Iterator[str]:
    from pydoc_data.topics import topics

    for name in sorted(topics):
        yield topics[name]


def _docstrings() -> Iterator[str]:
    root = Path(sysconfig.get_path("stdlib"))
    for file in sorted(root.rglob("*.py")):
        if _NO_PROSE.isdisjoint(file.relative_to(root).parts):
            told = [text for text in _told(file) if len(text) >= _LEAST_DOCSTRING]
            if told:
                yield "\n\n".join(told)


def _told(file: Path) -> Iterator[str]:
    try:
        tree = ast.parse(file.read_bytes())
    except SyntaxError:  # a template or a sample of bad code
        return
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            yield ast.get_docstring(node) or ""


def _pieces(path: Path) -> Iterator[str]:
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise ValueError(f"{path}: no such file") from None
    except UnicodeDecodeError as error:
        raise ValueError(f"{path.name}: not UTF-8 at byte {error.start}") from None
    piece: list[str] = []
    for paragraph in _paragraphs(text):
        piece.append(paragraph)
        if sum(map(len, piece)) >= _DOCUMENT:
            yield "\n\n".join(piece)
            piece = []
    if piece:
        yield "\n\n".join(piece)


def _text(value: object, column: str, where: str) -> str:
    if not isinstance(value, str) or not value.strip():
        raise ValueError(f"{where}: {column!r} must be text, got {value!r:.60}")
    return value
