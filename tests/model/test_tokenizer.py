from __future__ import annotations

import random

import pytest
from transformers import AutoTokenizer

from model.tokenizer import Tokenizer

PARAGRAPH = "The assistant first thinks, and then answers. " * 12
TEXTS = [
    "",
    "ab abc",
    "  two  spaces ",
    "<0x41> <0xE4><0xB8><0xAD> <<0x41>> <0x4",
    "中文 and 丁 and 👩‍👩‍👧 and e\u0301 \u00e9 ﬁ",
    "\x00\x7f\r\n\t\u2028\ufffd\U0010ffff",
    "▁a ▁▁b",
    "<s>a</s><pad><|user|>",
    "<think> a</think>\nb",
]


@pytest.fixture
def wordy():
    pieces = ["the", " the", " theorem", "t", "h", "e", "o", "r", "m", " ", "中"]
    return Tokenizer.build(
        pieces, ["<|user|>"], ["<think>", PARAGRAPH], "<s>", "</s>", "<pad>", chat_template="{{ messages }}"
    )


def random_text(rng):
    ranges = [(0, 0x7F), (0, 0xD7FF), (0xE000, 0x10FFFF), (0x4E00, 0x9FFF)]
    return "".join(chr(rng.randint(*rng.choice(ranges))) for _ in range(rng.randint(0, 40)))


def test_any_text_survives(tokenizer):
    rng = random.Random(0)
    for text in [*TEXTS, PARAGRAPH, *(random_text(rng) for _ in range(500))]:
        assert tokenizer.decode(tokenizer.encode(text)) == text


def test_batches_equal_single_calls(tokenizer):
    ids = tokenizer.encode_batch(TEXTS)
    assert ids == [tokenizer.encode(text) for text in TEXTS]
    assert tokenizer.decode_batch(ids) == TEXTS


def test_the_fewest_pieces_win(wordy):
    ids = {wordy.inner.id_to_token(i): i for i in range(wordy.vocab_size)}
    assert wordy.encode("the theorem") == [ids["the"], ids[" theorem"]]
    assert wordy.encode("there") == [ids["the"], ids["r"], ids["e"]]


def test_what_no_piece_covers_is_bytes(wordy):
    names = [wordy.inner.id_to_token(i) for i in wordy.encode("中丁")]
    assert names == ["中", "<0xE4>", "<0xB8>", "<0x81>"]


def test_special_and_added_tokens_are_one_id_each_and_survive_decoding(wordy):
    text = f"<|user|>{PARAGRAPH}<think>the</s>"
    ids = wordy.encode(text)
    assert len(ids) == 5
    assert wordy.decode(ids) == text


def test_only_bos_eos_and_pad_are_left_out_on_request(wordy):
    ids = wordy.encode("<s><|user|>the<think></s><pad>")
    assert wordy.decode(ids, skip_special=True) == "<|user|>the<think>"
    assert wordy.decode_batch([ids], skip_special=True) == ["<|user|>the<think>"]


def test_ids_of_the_control_tokens(wordy):
    assert [wordy.pad_id, wordy.bos_id, wordy.eos_id] == [0, 1, 2]
    assert wordy.encode("<pad><s></s>") == [0, 1, 2]
    assert wordy.vocab_size == 4 + 2 + 256 + 11


def test_a_saved_tokenizer_is_read_back_and_by_transformers(wordy, tmp_path):
    wordy.save(tmp_path)
    again, theirs = Tokenizer.load(tmp_path), AutoTokenizer.from_pretrained(tmp_path)
    for text in [*TEXTS, f"<think>{PARAGRAPH} theorem"]:
        assert again.encode(text) == wordy.encode(text)
        assert theirs(text)["input_ids"] == wordy.encode(text)
        assert theirs.decode(wordy.encode(text)) == text
    own = [again.bos_id, again.eos_id, again.pad_id, again.chat_template]
    assert own == [theirs.bos_token_id, theirs.eos_token_id, theirs.pad_token_id, theirs.chat_template]
    assert own == [1, 2, 0, "{{ messages }}"]


def test_a_folder_written_by_transformers_is_read(wordy, tmp_path):
    wordy.save(tmp_path / "ours")
    AutoTokenizer.from_pretrained(tmp_path / "ours").save_pretrained(tmp_path / "theirs")
    again = Tokenizer.load(tmp_path / "theirs")
    assert again.encode("the<think>丁") == wordy.encode("the<think>丁")
    assert (again.bos_id, again.eos_id, again.pad_id, again.chat_template) == (1, 2, 0, "{{ messages }}")


def test_a_folder_may_lack_bos_and_pad(wordy, tmp_path):
    wordy.save(tmp_path)
    (tmp_path / "special_tokens_map.json").unlink()
    (tmp_path / "tokenizer_config.json").write_text('{"eos_token": {"content": "</s>"}, "bos_token": null}')
    again = Tokenizer.load(tmp_path)
    assert (again.eos_id, again.bos_id, again.pad_id) == (2, None, None)


def test_folders_without_a_tokenizer_or_an_end_are_refused(wordy, tmp_path):
    with pytest.raises(ValueError, match=r"tokenizer\.json"):
        Tokenizer.load(tmp_path)
    wordy.save(tmp_path)
    (tmp_path / "special_tokens_map.json").unlink()
    (tmp_path / "tokenizer_config.json").write_text("{}")
    with pytest.raises(ValueError, match="eos_token"):
        Tokenizer.load(tmp_path)


@pytest.mark.parametrize("piece", ["", "a", "<think>", "<0x41>", "x<0x41>"])
def test_pieces_that_would_confuse_are_refused(piece):
    with pytest.raises(ValueError, match=r"piece"):
        Tokenizer.build(["a", piece], [], ["<think>"], "<s>", "</s>", "<pad>")
