"""Trajectories that others sampled: rows of a file, read by a map from what we call things to its columns.

A map's values are column names; a dot goes further in, as in `messages.0.info.reference_answer`. One row may hold
several responses to a problem, as lists of one length. A response is a text in which the thinking is set apart by
the tags of DeepSeek-R1, with or without `<answer>` tags, or by those of OpenThoughts; or two texts; or the last turn
of a conversation, whose earlier turns then are the prompt, system prompts aside.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pyarrow as pa
import pyarrow.parquet as pq

from data.files import rows_of
from data.prompts import ASSISTANT, END, TAGS, USER, Parts, parse

FIELDS: Final = (
    "id", "problem", "prompt", "completion", "thinking", "answer", "turns", "solution", "verifier", "correct", "finish",
    "tokens", "family", "language",
)  # fmt: skip
"""What a map may name: where the question and the response are, and what is known of them."""

OWN: Final = {"prompt": "prompt", "completion": "completion"}
SAMPLED: Final = {
    **{name: name for name in ("id", "prompt", "completion", "solution", "verifier", "finish", "tokens", "family")},
    "problem": "problem_id", "language": "language", "correct": "verdict",
}  # fmt: skip
MAPS: Final[Mapping[str, Mapping[str, str]]] = {
    "own": OWN,
    "sampled": SAMPLED,
    "open-r1": {
        "prompt": "problem", "completion": "generations", "solution": "answer", "correct": "correctness_math_verify",
        "finish": "is_reasoning_complete",
    },
    "openthoughts": {"turns": "conversations"},
    "openthoughts-metadata": {
        "prompt": "problem", "thinking": "deepseek_reasoning", "answer": "deepseek_solution",
        "solution": "ground_truth_solution", "family": "domain",
    },
    "bespoke-stratos": {"turns": "conversations"},
    "s1k": {
        "prompt": "question", "thinking": "deepseek_thinking_trajectory", "answer": "deepseek_attempt",
        "solution": "solution", "correct": "deepseek_grade", "family": "cot_type",
    },
    "am": {"turns": "messages", "solution": "messages.0.info.reference_answer"},
    "limo": {"prompt": "question", "thinking": "solution", "answer": "answer", "solution": "answer"},
}  # fmt: skip
"""Column names of one's own file, of what sampling leaves here, and of public sets: OpenR1-Math, OpenThoughts-114k and
its metadata, Bespoke-Stratos, s1K-1.1, AM-DeepSeek-R1-Distilled, LIMO."""

BATCH: Final = 1024  # rows of a Parquet file held at a time
_SAID: Final = {"user": USER, "human": USER, "assistant": ASSISTANT, "gpt": ASSISTANT}
_THOUGHT: Final = re.compile(
    r"\s*<\|begin_of_thought\|>(.*?)<\|end_of_thought\|>\s*<\|begin_of_solution\|>(.*?)<\|end_of_solution\|>\s*",
    re.DOTALL,
)
_YES, _NO = (
    frozenset({"true", "yes", "correct", "1"}),
    frozenset({"false", "no", "wrong", "incorrect", "0", "unparseable", "timeout"}),
)
_HAN: Final = re.compile(r"[\u3400-\u9fff]")


@dataclass(frozen=True, slots=True)
class Response:
    """One response of the file: `text` as it stands there, `parts` of it, and what the file says of it, None where it
    says nothing. `row` counts the file's rows from 0, and `where` names this one for people."""

    row: int
    where: str
    id: str | None
    problem: str | None
    prompt: str
    text: str
    parts: Parts
    language: str
    family: str | None
    solution: str | None
    verifier: str | None
    correct: bool | None
    finished: bool
    tokens: int | None


def column_map(name: str, columns: Mapping[str, str]) -> dict[str, str]:
    """The map of this name with a person's own columns laid over it. Raises ValueError for one that reads nothing."""
    if name not in MAPS:
        raise ValueError(f"no map {name!r}; there are {', '.join(MAPS)}")
    if unknown := [field for field in columns if field not in FIELDS]:
        raise ValueError(f"columns name {', '.join(FIELDS)}, got {unknown[0]!r}")
    found = {**MAPS[name], **columns}
    response = {"completion"} <= found.keys() or {"thinking", "answer"} <= found.keys()
    if "turns" not in found and not ("prompt" in found and response):
        raise ValueError("a map names turns, or prompt with completion or with thinking and answer")
    return found


def responses(path: Path, names: Mapping[str, str]) -> Iterator[Response]:
    """The responses of a file, or of a folder of such files, in order.

    Raises ValueError, with the row, for a column that the map names and the file has not, and for a broken value.
    """
    for number, (where, row) in enumerate(_rows(path)):
        for field, name in names.items():
            if name.partition(".")[0] not in row:
                has = ", ".join(map(str, row))
                raise ValueError(f"{where}: no column {name.partition('.')[0]!r}, named for {field}; it has {has}")
        yield from _of_row(number, where, {field: _at(row, name) for field, name in names.items()})


def _rows(path: Path) -> Iterator[tuple[str, Mapping[str, Any]]]:
    if path.is_dir() and (files := sorted(each for each in path.iterdir() if each.suffix in (".parquet", ".jsonl"))):
        for file in files:
            yield from _rows(file)
    elif path.suffix == ".parquet" and path.is_file():
        yield from _parquet(path)
    else:
        yield from rows_of(path)


def _parquet(path: Path) -> Iterator[tuple[str, Mapping[str, Any]]]:
    number = 0
    try:
        with pq.ParquetFile(path) as file:
            for batch in file.iter_batches(BATCH):
                for row in batch.to_pylist():
                    number += 1
                    yield f"{path.name} row {number}", row
    except (pa.ArrowException, UnicodeDecodeError) as error:
        raise ValueError(f"{path.name} after row {number}: {str(error).splitlines()[0]}") from None


def _at(row: Any, name: str) -> Any:
    """The value at a dotted name; None where the way there ends."""
    for part in name.split("."):
        if isinstance(row, Mapping):
            row = row.get(part)
        elif isinstance(row, list) and part.isdigit() and int(part) < len(row):
            row = row[int(part)]
        else:
            return None
    return row


def _of_row(number: int, where: str, found: Mapping[str, Any]) -> Iterator[Response]:
    """Take a row apart into one response or more."""
    if "turns" in found:
        prompt, text = _conversation(found["turns"], where)
        found = {**found, "prompt": prompt, "completion": text}
    several = found.get("completion") if "completion" in found else found.get("thinking")
    count = len(several) if isinstance(several, list) else 1
    for index in range(count):
        one = {field: _one(value, index, count, field, where) for field, value in found.items() if field != "turns"}
        prompt = _text(one["prompt"], "prompt", where)
        text, parts = _response(one, where)
        language = one.get("language") or ("zh" if _HAN.search(prompt) else "en")
        name = one.get("id")
        yield Response(
            row=number,
            where=where,
            id=name if name is None or count == 1 else f"{name}/{index}",
            problem=one.get("problem"),
            prompt=prompt,
            text=text,
            parts=parts,
            language=str(language),
            family=one.get("family"),
            solution=_solution(one.get("solution")),
            verifier=one.get("verifier"),
            correct=_truth(one.get("correct"), where),
            finished=_finished(one.get("finish")),
            tokens=_count(one.get("tokens"), where),
        )


def _one(value: Any, index: int, count: int, field: str, where: str) -> Any:
    """The value that belongs to one of a row's responses: of a list of as many, that; else the value itself."""
    if not isinstance(value, list) or field == "solution":
        return value
    if len(value) != count:
        raise ValueError(f"{where}: {len(value)} values for {field}, and {count} responses")
    return value[index]


def _response(one: Mapping[str, Any], where: str) -> tuple[str, Parts]:
    if "completion" not in one:
        thinking, answer = (_text(one[name], name, where).strip() for name in ("thinking", "answer"))
        return f"{TAGS[0]} {thinking} {TAGS[1]} {answer}", Parts(thinking, answer, True)
    text = _text(one["completion"], "completion", where)
    if thought := _THOUGHT.fullmatch(text):
        return text, Parts(thought[1].strip(), thought[2].strip(), bool(thought[2].strip()))
    whole = text if TAGS[0] in text or TAGS[1] not in text else TAGS[0] + text  # the prompt opened the thinking
    return text, parse(whole, "zero" if TAGS[2] in text else "chat")


def _conversation(turns: Any, where: str) -> tuple[str, str]:
    """The prompt, of one round or more in the chat template's tokens, and the last response."""
    said: list[tuple[str, str]] = []
    for turn in turns if isinstance(turns, list) else []:
        role = turn.get("role", turn.get("from")) if isinstance(turn, Mapping) else None
        content = turn.get("content", turn.get("value")) if isinstance(turn, Mapping) else None
        if role == "system":
            continue
        if role not in _SAID:
            raise ValueError(f"{where}: a turn of {role!r}; allowed are system, {', '.join(_SAID)}")
        said.append((_SAID[role], _text(content, "a turn", where)))
    if len(said) < 2 or [role for role, _ in said] != [USER, ASSISTANT] * (len(said) // 2):
        raise ValueError(f"{where}: the turns must be a user's and an assistant's in turn, the assistant's last")
    earlier = "".join(
        f"{question}{ASSISTANT}{reply}{END}{USER}"
        for (_, question), (_, reply) in zip(said[:-2:2], said[1:-2:2], strict=True)
    )
    return earlier + said[-2][1], said[-1][1]


def _text(value: Any, field: str, where: str) -> str:
    if not isinstance(value, str) or not value.strip():
        raise ValueError(f"{where}: {field} must be text that is not empty, got {value!r}")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise ValueError(f"{where}: {field} cannot be written as UTF-8") from None
    return value


def _solution(value: Any) -> str | None:
    return str(value) if value is not None and str(value).strip() else None


def _truth(value: Any, where: str) -> bool | None:
    word = str(value).strip().casefold()
    if value is None or word in ("", "infra_error"):
        return None
    if word in _YES or word in _NO:
        return word in _YES
    raise ValueError(f"{where}: correct must be true, false, yes or no, got {value!r}")


def _finished(value: Any) -> bool:
    """Whether a response ended by itself: `stop`, or that its reasoning is complete; where nothing is said, it did."""
    return value is None or str(value).casefold() in {"stop", "true"}


def _count(value: Any, where: str) -> int | None:
    if value is None:
        return None
    if not isinstance(value, int) or value < 0:
        raise ValueError(f"{where}: tokens must be a whole number of 0 or more, got {value!r}")
    return value
