"""Responses to be read: those of every model to the same prompts, and those that the filters dropped."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from html import escape

import polars as pl

from data.lineage import Json
from tasks.style import MAIN, STATIONS, badge, tag

Frames = Mapping[str, pl.DataFrame]
LONGEST_ANSWER = 80
"""Characters of a gold answer that is printed beside its question; programs' tests are longer."""


def side_by_side(frames: Frames, count: int) -> str:
    """Show the first response of every model to `count` prompts; all but the main line folded away."""
    others = [name for name in STATIONS if name not in MAIN]
    parts = []
    for problem in chosen(next(iter(frames.values()), pl.DataFrame()), count):
        rest = _cards(frames, problem["problem_id"], others)
        folded = f'<details><summary>Ablation and students</summary><div class="cards">{rest}</div></details>'
        parts += [
            _prompt(problem),
            f'<div class="cards">{_cards(frames, problem["problem_id"], MAIN)}</div>',
            folded if rest else "",
        ]
    return "".join(parts)


def chosen(frame: pl.DataFrame, count: int) -> list[dict[str, Json]]:
    """Choose problems by what they ask, not by how they were answered.

    They are the first of different families and sets, in alternating languages where there are. Returns the
    first row of each.
    """
    if frame.is_empty():
        return []
    firsts = list(frame.unique("problem_id", keep="first", maintain_order=True).iter_rows(named=True))
    shown: list[dict[str, Json]] = []
    while firsts and len(shown) < count:
        kinds = {(row["family"], row["verifier"]) for row in shown}
        last = shown[-1]["language"] if shown else ""
        firsts.sort(key=lambda row: ((row["family"], row["verifier"]) in kinds, row["language"] == last))
        shown.append(firsts.pop(0))
    return shown


def dropped_examples(dropped: pl.DataFrame) -> str:
    """Show the rows of each reason beside one another with the rule's figures, folded. `of` is how many it took."""
    blocks = []
    for (reason,), part in dropped.group_by("reason", maintain_order=True):
        count = f"{part['of'][0]:,} row{'s' if part['of'][0] > 1 else ''}"
        head = f'{escape(str(reason).replace("_", " "))} <span class="soft">{count}</span>'
        cards = "".join(
            _card(
                escape(row["detail"] or str(reason)),
                row,
                f'<span class="soft">{escape(row["id"])}</span>',
                question=row["prompt"],
            )
            for row in part.iter_rows(named=True)
        )
        blocks.append(f'<details><summary>{head}</summary><div class="cards two">{cards}</div></details>')
    return "".join(blocks)


def _prompt(problem: Mapping[str, Json]) -> str:
    ruled = problem["verdict"] is not None and len(problem["solution"]) <= LONGEST_ANSWER
    answer = f'<span class="soft">answer: {escape(problem["solution"])}</span>' if ruled else ""
    kind = f'<span class="kind">{escape(problem["family"])}</span>'
    return f'<h3 class="prompt">{kind} {escape(problem["prompt"])} {answer}</h3>'


def _cards(frames: Frames, problem: str, names: Iterable[str]) -> str:
    cards = []
    for name in names:
        if name in frames:
            found = frames[name].filter(pl.col("problem_id") == problem).head(1)
            cards += [_card(tag(name), row, _judgement(row)) for row in found.iter_rows(named=True)]
    return "".join(cards)


def _judgement(row: Mapping[str, Json]) -> str:
    length = f'<span class="soft">{row["tokens"]} tokens</span>'
    if row["verdict"] is not None:
        return f"{badge(row['verdict'])} {length}"
    safety = badge("safe" if row["safe"] else "unsafe") if row["verifier"] == "harmless" else ""
    return f'{safety} <span class="soft">rubric {row["score"]:.2f}</span> {length}'


def _card(head: str, row: Mapping[str, Json], foot: str, question: str = "") -> str:
    """A response with its thinking set apart; the raw text where it is not well formed."""
    asked = f'<p class="asked">{escape(question)}</p>' if question else ""
    if row["thinking"] is None:
        text = f'<p class="raw">{escape(row["completion"])}</p><p class="soft">not well formed</p>'
    else:
        thinking = escape(row["thinking"]) or "no thinking"
        text = f'<p class="thinking">{thinking}</p><p>{escape(row["answer"] or "")}</p>'
    return f'<article class="card"><header>{head}</header>{asked}{text}<footer>{foot}</footer></article>'
