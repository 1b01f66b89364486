"""A foreign tokenizer asks by its own chat template, as transformers does, and spells the tags in its pieces."""

from __future__ import annotations

from pathlib import Path

import pytest
import transformers

from data.prompts import ASSISTANT, BEGIN, CHAT_TEMPLATE, END, TAGS, USER, render, written
from model.tokenizer import Tokenizer
from tasks.roles import SPELLED, check, fitted
from tests.model.families import CHATML, byte_tokenizer

OPENS_THINKING = CHATML.replace("'<|im_start|>assistant\\n' }}", "'<|im_start|>assistant\\n<think>\\n' }}")
WITH_SYSTEM = "<|im_start|>system\nBe brief.<|im_end|>\n" + CHATML


@pytest.mark.parametrize("template", [CHATML, WITH_SYSTEM, None], ids=["chatml", "system", "none"])
def test_a_question_has_the_tokens_that_transformers_gives_it(template: str | None, tmp_path: Path) -> None:
    byte_tokenizer(template).save(tmp_path / "first")
    ours = fitted(Tokenizer.load(tmp_path / "first"))
    ours.save(tmp_path / "again")
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path / "again")
    question = "What is 12 + 30? 答案"
    asked = theirs.apply_chat_template(
        [{"role": "user", "content": question}], add_generation_prompt=True, return_dict=False
    )
    assert ours.encode(render(question, "chat")) == asked
    assert ours.encode_batch([render(question, "chat")]) == [asked]
    again = fitted(Tokenizer.load(tmp_path / "again"))
    assert again.encode(render(question, "chat")) == asked
    assert again.chat_template == (template or CHAT_TEMPLATE)
    assert ours.decode(asked).count(question) == 1
    assert ("<|im_start|>user\n" + question in ours.decode(asked)) == (template is not None)


def test_what_a_template_opens_is_left_to_the_model(tmp_path: Path) -> None:
    ours = fitted(byte_tokenizer(OPENS_THINKING))
    asked = ours.encode(render("1 + 1", "chat"))
    assert ours.decode(asked).endswith("1 + 1<|im_end|>\n<|im_start|>assistant\n")
    ours.save(tmp_path)
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path)
    question = [{"role": "user", "content": "1 + 1"}]
    assert theirs.apply_chat_template(question, add_generation_prompt=True, return_dict=False) == asked


@pytest.mark.parametrize("template", [CHATML, OPENS_THINKING, None], ids=["chatml", "opens", "none"])
def test_a_second_round_is_asked_as_transformers_does(template: str | None, tmp_path: Path) -> None:
    ours = fitted(byte_tokenizer(template))
    ours.save(tmp_path)
    talk = [("user", "1 + 1"), ("assistant", "It is 2."), ("user", "and 2 + 2?")]
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path).apply_chat_template(
        [{"role": role, "content": content} for role, content in talk], add_generation_prompt=True, return_dict=False
    )
    prompt = f"{BEGIN}{USER}1 + 1{ASSISTANT}It is 2.{END}{USER}and 2 + 2?{ASSISTANT}"
    assert ours.decode(ours.encode(prompt)) == ours.decode(theirs)
    assert ours.encode(prompt) == theirs


def test_other_texts_are_encoded_as_they_are() -> None:
    ours = fitted(byte_tokenizer())
    for text in (render("1 + 1", "zero"), written("1 + 1 = 2", "2"), SPELLED):
        assert ours.decode(ours.encode(text)) == text
        assert ours.encode(text) == byte_tokenizer().encode(text)
    assert len(ours.encode(TAGS[0])) > 1


def test_our_own_tokenizer_is_left_alone(tokenizer: Tokenizer) -> None:
    assert fitted(tokenizer) is tokenizer
    assert tokenizer.spelled == {}
    check(tokenizer)


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        (byte_tokenizer(known="abcdefhiknrstw</>Ġ12"), "its tokenizer cannot spell the tags: '<think> 1"),
        (byte_tokenizer("{{ raise_exception('no user') }}"), "its chat template cannot be filled in: no user"),
        (byte_tokenizer("{% for m in messages %}{{ m.odd.even }}{% endfor %}"), "cannot be filled in: "),
        (byte_tokenizer("{% if %}"), "cannot be filled in: "),
        (byte_tokenizer("hello"), "its chat template leaves the question out"),
        (byte_tokenizer("{{ ''.__class__.__mro__ }}"), "cannot be filled in: "),
    ],
)
def test_a_tokenizer_that_cannot_ask_or_spell_is_one_line(broken: Tokenizer, message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        check(broken)
    assert "\n" not in str(caught.value)


def test_what_a_tokenizers_folder_said_is_kept(tmp_path: Path) -> None:
    byte_tokenizer().save(tmp_path)
    config = tmp_path / "tokenizer_config.json"
    config.write_text(config.read_text().replace('"add_bos_token": false', '"add_bos_token": true, "odd": 3'))
    Tokenizer.load(tmp_path).save(tmp_path / "again")
    assert (tmp_path / "again" / "tokenizer_config.json").read_text().count('"odd": 3') == 1
    assert '"add_bos_token": true' in (tmp_path / "again" / "tokenizer_config.json").read_text()
