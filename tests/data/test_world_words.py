"""The pieces cover the world: no text falls back to bytes, and numbers are spelled one way."""

import re
from itertools import pairwise
from random import Random

import pytest
from tokenizers import AddedToken, Tokenizer, decoders
from tokenizers.models import Unigram

from data.prompts import ASSISTANT, BEGIN, END, PAD, PARAGRAPH, TAGS, USER, render
from data.world.corpus import documents
from data.world.families import FAMILIES, SOURCES
from data.world.graded import GRADED
from data.world.replies import CARELESS, reply
from data.world.rewrite import summary
from data.world.words import pieces

SPECIAL = {PAD, BEGIN, END, USER, ASSISTANT, *TAGS, PARAGRAPH}


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    control = [("<unk>", 0.0), *((f"<0x{byte:02X}>", -20.0) for byte in range(256))]
    made = Tokenizer(Unigram([*control, *((piece, -1.0) for piece in pieces())], unk_id=0, byte_fallback=True))
    made.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Fuse()])
    made.add_special_tokens([AddedToken(token, normalized=False) for token in sorted(SPECIAL)])
    return made


def tokens_of(tokenizer: Tokenizer, text: str) -> list[str]:
    encoding = tokenizer.encode(text)
    assert not [token for token in encoding.tokens if token.startswith("<0x") or token == "<unk>"], text
    assert tokenizer.decode(encoding.ids, skip_special_tokens=False) == text
    return encoding.tokens


def test_documents_are_whole_words(tokenizer: Tokenizer) -> None:
    lengths = []
    for document in documents(11, 0, 3000):
        tokens = tokens_of(tokenizer, document)
        lengths.append(len(tokens))
        for token, following in pairwise(tokens):
            assert token != " " or following in SPECIAL, document
    print(f"mean tokens a document: {sum(lengths) / len(lengths):.1f}, longest {max(lengths)}")
    assert 50 < sum(lengths) / len(lengths) < 70
    assert max(lengths) < 256


def test_problems_and_replies_have_no_byte_tokens(tokenizer: Tokenizer) -> None:
    rng = Random(0)
    for name in sorted(SOURCES.keys() - GRADED.keys()):  # those are for tokenizers of real models
        source = SOURCES[name]
        for item in (source.draw(rng) for _ in range(400)):
            for language in ("en", "zh"):
                question = source.question(item, language, rng)
                tokens_of(tokenizer, render(question, "zero"))
                tokens_of(tokenizer, render(question, "chat"))
                if name in FAMILIES:
                    tokens_of(tokenizer, summary(source.verifier, language, source.answer(item)))
                    continue
                for quality in ("good", *CARELESS[item.kind]):
                    thinking, text = reply(item, language, rng, quality)
                    tokens_of(tokenizer, f"<think> {thinking} </think> {text}")
                    assert " " not in tokens_of(tokenizer, text)


def test_a_number_begins_with_a_spaced_digit_wherever_it_stands(tokenizer: Tokenizer) -> None:
    texts = [*documents(12, 0, 500), summary("math", "en", "849"), summary("math", "zh", "849")]
    for text in texts:
        spelled = "\x1f".join([*tokens_of(tokenizer, text), ""])
        for number in re.findall(r"(?<![\d-])\d+", text):
            assert f"\x1f {chr(31).join(number)}\x1f" in spelled
        assert not re.search(r"[^\d\s-]\x1f\d", spelled), text


def test_pieces_are_few_and_distinct() -> None:
    assert len(pieces()) == len(set(pieces())) <= 450
    assert not set(pieces()) & SPECIAL


def test_every_piece_is_used(tokenizer: Tokenizer) -> None:
    used: set[str] = set()
    for document in documents(13, 0, 15_000):
        used.update(tokenizer.encode(document).tokens)
    rng = Random(1)
    for name in ("helpful", "harmless"):
        for item in (SOURCES[name].draw(rng) for _ in range(600)):
            for language in ("en", "zh"):
                question = SOURCES[name].question(item, language, rng)
                thinking, text = reply(item, language, rng, "good")
                for part in (f"{question} {text}", thinking, text):
                    used.update(tokenizer.encode(part).tokens)
    for begin in (
        "first",
        "先",
        "easy",
        "简单",
        *(summary("math", language, "1") for language in ("en", "zh")),
    ):
        used.update(tokenizer.encode(begin).tokens)
    used.update(tokenizer.encode(FAMILIES["code"].answer(FAMILIES["code"].draw(rng))).tokens)
    assert set(pieces()) - used - {" "} == set()
