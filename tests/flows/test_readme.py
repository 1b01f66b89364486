"""The README's commands exist."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import typer

from flows.__main__ import app
from flows.recipe import shipped

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
MAKEFILE = (ROOT / "Makefile").read_text(encoding="utf-8")
VERBS = typer.main.get_command(app).commands  # type: ignore[attr-defined]
TARGETS = re.findall(r"^(\w+):", MAKEFILE, flags=re.MULTILINE)


def commands(text: str) -> list[str]:
    """Lines of code, indented or fenced, and code within a sentence, that call `r1` or `make` with a word."""
    fenced = re.findall(r"^```\w*\n(.*?)^```", text, flags=re.MULTILINE | re.DOTALL)
    lines = [line for block in fenced for line in block.splitlines()]
    lines += re.findall(r"^ {4}(.+)$", text, flags=re.MULTILINE) + re.findall(r"`([^`\n]+)`", text)
    lines = [line.strip().removeprefix("$ ").partition(" #")[0].strip() for line in lines]
    return [line for line in lines if re.match(r"(r1|make) \w", line)]


def mistake(command: str) -> str:
    """What about a command does not exist; empty when all of it does."""
    program, name, *rest = command.split()
    if program == "make":
        return "" if name in TARGETS else f"no target {name}"
    if name not in VERBS:
        return f"no verb {name}"
    known = {option for parameter in VERBS[name].params for option in parameter.opts} | {"--help"}
    strange = [word for word in rest if word.startswith("--") and word.partition("=")[0] not in known]
    if strange:
        return f"no option {strange[0]}"
    if name in ("run", "show") and re.fullmatch(r"\w+", rest[0]) and rest[0] not in shipped():
        return f"no recipe {rest[0]}"
    return ""


@pytest.mark.parametrize("command", sorted(set(commands(README))))
def test_a_command_of_the_readme_exists(command: str) -> None:
    assert mistake(command) == ""


def test_the_readme_begins_with_two_commands() -> None:
    assert commands(README)[:2] == ["make r1", "make test"]


def test_commands_of_the_makefile_exist() -> None:
    called = [f"r1 {rest}" for rest in re.findall(r"\$\(BIN\)/r1 (.+)", MAKEFILE)]
    assert "r1 run micro" in called
    assert [mistake(command) for command in called] == [""] * len(called)


def test_commands_are_found_and_mistakes_noticed() -> None:
    text = (
        "    make r1   # all\n\nSee `r1 show micro --set a=1`, `r1`:\n\n```sh\n$ r1 walk\nmake tea\n```\nr1 is prose\n"
    )
    assert commands(text) == ["r1 walk", "make tea", "make r1", "r1 show micro --set a=1"]
    wrong = ["r1 walk", "make tea", "r1 run macro", "r1 show tiny --fast"]
    assert [mistake(each) for each in wrong] == ["no verb walk", "no target tea", "no recipe macro", "no option --fast"]
