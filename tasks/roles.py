"""How a tokenizer that is not ours spells a conversation: by its own chat template, and the tags as pieces.

Rows and prompts are written with DeepSeek's role tokens. A tokenizer that has them reads them as they are;
for another they are replaced, as a text is encoded, by what its own chat template puts before and after a
question. A template that opens the thinking itself leaves that to the model here. One without a chat template
gets ours, spelled in its pieces.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence

from jinja2 import TemplateError
from jinja2.sandbox import ImmutableSandboxedEnvironment

from data.prompts import ASSISTANT, BEGIN, CHAT_TEMPLATE, END, TAGS, USER
from model.tokenizer import Tokenizer

FIRST, REPLY, SECOND = "12 + 30, the first question", "a reply", "3 + 4, the second question"
SPELLED = f"{TAGS[0]} 1 + 2 = 3 {TAGS[1]} {TAGS[2]} 3 {TAGS[3]}"
OPENED = re.compile(rf"{TAGS[0]}\s*$")


def fitted(tokenizer: Tokenizer) -> Tokenizer:
    """Make a tokenizer read the roles of a conversation in its own words. Raises ValueError where it cannot."""
    if tokenizer.inner.token_to_id(USER) is not None and tokenizer.inner.token_to_id(ASSISTANT) is not None:
        return tokenizer
    if tokenizer.chat_template is None:
        tokenizer.chat_template = CHAT_TEMPLATE
        tokenizer.spelled = {BEGIN: tokenizer.bos or "", END: tokenizer.eos}
        return tokenizer
    before, after = _around(_filled(tokenizer, [("user", FIRST)]), FIRST)
    talk = _filled(tokenizer, [("user", FIRST), ("assistant", REPLY), ("user", SECOND)])
    between = talk.partition(REPLY)[2].partition(SECOND)[0]
    asks = OPENED.sub("", after)
    if asks != after:
        tokenizer.chat_template = _plain(before, asks, between)
    tokenizer.spelled = {BEGIN + USER: before, END + USER: between, ASSISTANT: asks}
    return tokenizer


def _filled(tokenizer: Tokenizer, turns: Sequence[tuple[str, str]]) -> str:
    """A conversation in a tokenizer's chat template, up to where the answer begins."""
    environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
    environment.globals["raise_exception"] = _raise
    special = {"bos_token": tokenizer.bos, "eos_token": tokenizer.eos, "pad_token": tokenizer.pad}
    try:
        return environment.from_string(tokenizer.chat_template or "").render(
            messages=[{"role": role, "content": content} for role, content in turns], add_generation_prompt=True,
            **{name: token for name, token in special.items() if token is not None},
        )  # fmt: skip
    except (TemplateError, TypeError) as error:
        raise ValueError(f"its chat template cannot be filled in: {str(error).splitlines()[0]}") from None


def _around(text: str, question: str) -> tuple[str, str]:
    before, found, after = text.partition(question)
    if not found:
        raise ValueError("its chat template leaves the question out")
    return before, after


def _plain(before: str, after: str, between: str) -> str:
    """A template of Jinja that writes the same and opens no thinking."""
    first, asks, later = (json.dumps(each, ensure_ascii=False) for each in (before, after, between))
    return (
        f"{{% for m in messages %}}{{% if m.role == 'user' %}}"
        f"{{{{ ({first} if loop.first else {later}) + m.content + {asks} }}}}"
        f"{{% else %}}{{{{ m.content }}}}{{% if loop.last %}}{{{{ eos_token }}}}{{% endif %}}"
        f"{{% endif %}}{{% endfor %}}"
    )


def check(tokenizer: Tokenizer) -> None:
    """Raise ValueError for a tokenizer that cannot spell a response in the templates, or ask a question."""
    told = tokenizer.decode(tokenizer.encode(SPELLED)).strip()
    if told != SPELLED:
        raise ValueError(f"its tokenizer cannot spell the tags: {SPELLED!r} comes back as {told!r}")
    fitted(tokenizer)


def _raise(message: str) -> None:
    raise TemplateError(message)
