"""Templates between people and models, and how a completion is read back.

`zero` is the plain-text template that the base model gets in R1-Zero (DeepSeek-R1, Table 1).
`chat` is the form from the cold start on: the question between DeepSeek's role tokens, and a
completion of thinking in `<think>` tags followed by a summary.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Literal

Template = Literal["zero", "chat"]

PARAGRAPH = (
    "A conversation between User and Assistant. The user asks a question, and the Assistant solves it. "
    "The assistant first thinks about the reasoning process in the mind and then provides the user with "
    "the answer. The reasoning process and answer are enclosed within <think>...</think> and "
    "<answer>...</answer> tags, respectively, i.e., <think> reasoning process here </think> "
    "<answer> answer here </answer>."
)
USER, ASSISTANT = "<｜User｜>", "<｜Assistant｜>"
END = "<｜end▁of▁sentence｜>"
BEGIN = "<｜begin▁of▁sentence｜>"
PAD = "<｜▁pad▁｜>"
QUESTION = "{prompt}"
TAGS = ("<think>", "</think>", "<answer>", "</answer>")

_ROLES = {USER: "user", ASSISTANT: "assistant"}
_TURN = re.compile(rf"({USER}|{ASSISTANT})(.*?)(?={USER}|{ASSISTANT}|\Z)", re.DOTALL)
CHAT_TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}{% if m.role == 'user' %}"
    + f"{USER}{{{{ m.content }}}}"
    + "{% else %}"
    + f"{ASSISTANT}{{{{ m.content }}}}{{{{ eos_token }}}}"
    + "{% endif %}{% endfor %}{% if add_generation_prompt %}"
    + ASSISTANT
    + "{% endif %}"
)
"""`chat` as a template of Jinja, which a checkpoint's tokenizer carries."""

ZERO_TEMPLATE = (
    "{% for m in messages %}{% if m.role == 'user' %}"
    + f"{PARAGRAPH} User: {{{{ m.content }}}} Assistant:"
    + "{% else %}{{ m.content }}{{ eos_token }}{% endif %}{% endfor %}"
)
"""`zero` likewise, for what was trained in it."""

_ZERO = re.compile(r"\s*<think>(?P<thinking>.*?)</think>\s*<answer>(?P<answer>.*?)</answer>\s*", re.DOTALL)
_CHAT = re.compile(r"\s*<think>(?P<thinking>.*?)</think>(?P<answer>.*)", re.DOTALL)
_TAG = re.compile(r"</?(?:think|answer)>")


@dataclass(frozen=True, slots=True)
class Parts:
    """A completion taken apart. `answer` is where the answer counts; None where it is not well formed."""

    thinking: str | None
    answer: str | None
    well_formed: bool
    tags: float = field(default=1.0, compare=False)
    """Share of the template's tags that stand exactly once."""


def framed(question: str, system: str = "", template: str = "") -> str:
    """A question as the user asks it: a template of one's own around it, and instructions before it.

    DeepSeek advises to put all instructions into the user's turn, so there is no turn of the system.
    """
    asked = template.replace(QUESTION, question) if template else question
    return f"{system}\n\n{asked}" if system else asked


def check_frame(system: str, template: str) -> None:
    """Raise ValueError where a template lacks the question, or has what the pipeline's own templates add."""
    if template and template.count(QUESTION) != 1:
        raise ValueError(f"a template must hold {QUESTION} once, got it {template.count(QUESTION)} times")
    if QUESTION in system:
        raise ValueError(f"{QUESTION} belongs into the template, not into system")
    for own in (*TAGS, USER, ASSISTANT, BEGIN, END):
        if own in system + template:
            raise ValueError(f"{own} in system or template: the stage's own template sets it around the question")


def render(question: str, template: Template) -> str:
    """Put a question into a template; the completion starts where the returned text ends."""
    if template == "zero":
        return f"{PARAGRAPH} User: {question} Assistant:"
    return f"{BEGIN}{USER}{question}{ASSISTANT}"


def messages(prompt: str, completion: str) -> list[dict[str, str]]:
    """A prompt in the chat template, of one round or more, and its completion as `{"role", "content"}` each.

    Raises ValueError for a prompt that is not in that template.
    """
    turns = _TURN.findall(prompt.removeprefix(BEGIN))
    spelled = "".join(role + content for role, content in turns)
    if not turns or BEGIN * prompt.startswith(BEGIN) + spelled != prompt or turns[-1] != (ASSISTANT, ""):
        raise ValueError(f"not a prompt in the chat template: {prompt[:80]!r}")
    said = [{"role": _ROLES[role], "content": content.removesuffix(END)} for role, content in turns[:-1]]
    return [*said, {"role": "assistant", "content": completion}]


def written(thinking: str | None, answer: str | None) -> str:
    """Spell a whole response in the chat template's form, the tags set off by spaces as the crawl has them."""
    return " ".join(part for part in ("<think>", thinking, "</think>", answer) if part)


def parse(completion: str, template: Template) -> Parts:
    """Read a completion: each tag once, in order, and nothing outside of them that the template forbids."""
    pattern, tags = (_ZERO, 4) if template == "zero" else (_CHAT, 2)
    found = _TAG.findall(completion)
    match = pattern.fullmatch(completion) if len(found) == tags else None
    if match is None or not match["answer"].strip():
        return Parts(None, None, False, sum(found.count(tag) == 1 for tag in TAGS[:tags]) / tags)
    return Parts(match["thinking"].strip(), match["answer"].strip(), True)


def response(prompt: str, completion: str) -> str:
    """The whole response: `<think>` is put before the completion exactly where the prompt ends with it."""
    return TAGS[0] + completion if prompt.rstrip().endswith(TAGS[0]) else completion
