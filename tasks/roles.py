"""How a tokenizer that is not ours spells a conversation: by its own chat template, and the tags as pieces.

Rows and prompts are written with DeepSeek's role tokens. A tokenizer that has them reads them as they are;
for another they are replaced, as a text is encoded, by what its own chat template puts before and after a
question. A template that opens the thinking itself leaves that to the model here. One without a chat template
gets ours, spelled in its pieces.
"""

from __future__ import annotations

import re

from jinja2 import TemplateError
from jinja2.sandbox import ImmutableSandboxedEnvironment

from data.prompts import ASSISTANT, BEGIN, CHAT_TEMPLATE, TAGS, USER
from model.tokenizer import Tokenizer

QUESTION = "12 + 30, question and answer"
SPELLED = f"{TAGS[0]} 1 + 2 = 3 {TAGS[1]} {TAGS[2]} 3 {TAGS[3]}"


def fitted(tokenizer: Tokenizer) -> Tokenizer:
    """Make a tokenizer read the roles of a conversation in its own words. Raises ValueError where it cannot."""
    if tokenizer.inner.token_to_id(USER) is not None and tokenizer.inner.token_to_id(ASSISTANT) is not None:
        return tokenizer
    if tokenizer.chat_template is None:
        tokenizer.chat_template = CHAT_TEMPLATE
        tokenizer.spelled = {BEGIN: tokenizer.bos or ""}
    else:
        before, after = around_question(tokenizer)
        tokenizer.spelled = {BEGIN + USER: before, ASSISTANT: after}
    return tokenizer


def around_question(tokenizer: Tokenizer) -> tuple[str, str]:
    """What a tokenizer's chat template writes before a question, and after it up to where the answer begins."""
    environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
    environment.globals["raise_exception"] = _raise
    special = {"bos_token": tokenizer.bos, "eos_token": tokenizer.eos, "pad_token": tokenizer.pad}
    try:
        text = environment.from_string(tokenizer.chat_template or "").render(
            messages=[{"role": "user", "content": QUESTION}], add_generation_prompt=True,
            **{name: token for name, token in special.items() if token is not None},
        )  # fmt: skip
    except (TemplateError, TypeError) as error:
        raise ValueError(f"its chat template cannot be filled in: {str(error).splitlines()[0]}") from None
    before, found, after = text.partition(QUESTION)
    if not found:
        raise ValueError("its chat template leaves the question out")
    return before, re.sub(rf"{TAGS[0]}\s*$", "", after)


def check(tokenizer: Tokenizer) -> None:
    """Raise ValueError for a tokenizer that cannot spell a response in the templates, or ask a question."""
    told = tokenizer.decode(tokenizer.encode(SPELLED)).strip()
    if told != SPELLED:
        raise ValueError(f"its tokenizer cannot spell the tags: {SPELLED!r} comes back as {told!r}")
    fitted(tokenizer)


def _raise(message: str) -> None:
    raise TemplateError(message)
