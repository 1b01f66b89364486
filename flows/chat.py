"""Talk to a checkpoint in the terminal."""

from __future__ import annotations

import sys
import time
from pathlib import Path

from rich.console import Console

from data.lineage import Policy
from data.prompts import Template, parse
from data.records import Problem
from flows.trace import find
from tasks.rollout import Sampling, complete, load


def template_of(policy: Policy) -> Template:
    """Say which template a checkpoint was trained on: that of its stage, or of the stages below it."""
    record = policy.record()
    config = record["config"].get("config") or {}
    if "template" in config:
        return "zero" if config["template"] == "zero" else "chat"
    return "chat" if record["stage"] == "finetune" else "zero"


def converse(identity: str, runs: Path, temperature: float, max_tokens: int) -> None:
    """Answer questions from standard input until an empty line or its end."""
    artifact = find(identity, runs)
    policy = Policy(artifact.name, artifact.stage, artifact.fingerprint, runs)
    if not policy.checkpoint.is_dir():
        raise ValueError(f"{artifact.key} holds no checkpoint to talk to")
    speaker, template, console = load(policy, "cpu"), template_of(policy), Console(highlight=False)
    sampling = Sampling(
        template=template, num_generations=1, temperature=temperature, top_p=0.95, max_completion_length=max_tokens,
        seed=time.time_ns(),
    )  # fmt: skip
    asking = sys.stdin.isatty()
    while question := _ask(asking):
        asked = Problem(f"chat/{time.time_ns()}", "", "chat", "en", question, "", "math")
        text = complete(speaker, [asked], sampling, ("chat",))[0][0].text
        parts = parse(text, template)
        thinking = parts.thinking if parts.well_formed else text.strip()
        console.print(thinking or "", style="dim", markup=False, soft_wrap=True)
        if parts.well_formed:
            console.print(parts.answer or "", markup=False, soft_wrap=True)


def _ask(asking: bool) -> str:
    try:
        return input("> " if asking else "").strip()
    except EOFError:
        return ""
