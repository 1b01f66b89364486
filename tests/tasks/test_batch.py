"""Rows become tensors: by hand, and with little padding."""

from __future__ import annotations

from pathlib import Path

import pytest

from model import checkpoint
from model.foreign import ForeignModel
from tasks import batch
from tasks.batch import microbatches, pad, padded_batches
from tests.model.families import byte_tokenizer, make


def test_padding_by_hand() -> None:
    made = pad([[5, 6, 7, 8], [9, 10]], [2, 1], [4, 2], 3, "cpu")
    assert made.tokens.tolist() == [[5, 6, 7, 8], [9, 10, 3, 3]]
    assert made.valid.tolist() == [[True, True, True, True], [True, True, False, False]]
    assert made.mask.tolist() == [[0, 1, 1], [1, 0, 0]]  # entry t is of token t + 1
    assert made.index == [4, 2]


def test_a_tokenizer_without_a_token_for_padding() -> None:
    made = pad([[5, 6], [7]], [1, 0], [0, 1], None, "cpu")
    assert made.tokens.tolist() == [[5, 6], [7, 0]]
    assert made.valid.tolist() == [[True, True], [True, False]]


@pytest.mark.parametrize(
    ("lengths", "max_tokens", "expected"),
    [
        ([3, 1, 2], 100, [[1, 2, 0]]),
        ([3, 1, 2], 4, [[1, 2], [0]]),  # 2 x 2, then 3
        ([2, 2, 2, 2], 4, [[0, 1], [2, 3]]),
        ([9, 1], 4, [[1], [0]]),  # one that is too long stands alone
        ([], 4, []),
    ],
)
def test_microbatches_by_length(lengths: list[int], max_tokens: int, expected: list[list[int]]) -> None:
    assert microbatches(lengths, max_tokens) == expected


def test_batches_hold_every_sequence_once_within_the_limit() -> None:
    sequences = [[number] * (1 + number * 7 % 13) for number in range(1, 41)]
    found = {}
    for made in padded_batches(sequences, [0] * 40, pad_id=0, device="cpu", max_tokens=30):
        assert made.tokens.numel() <= 30
        for row, index in enumerate(made.index):
            found[index] = made.tokens[row, : int(made.valid[row].sum())].tolist()
    assert [found[index] for index in range(40)] == sequences


def test_the_limit_is_the_devices_when_none_is_given(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(batch.MICROBATCH_TOKENS, "cpu", 6)
    made = padded_batches([[1, 2, 3]] * 5, [0] * 5, pad_id=0, device="cpu")
    assert [len(each.index) for each in made] == [2, 2, 1]


def test_a_pass_has_as_many_tokens_as_memory_leaves_room_for() -> None:
    small = {"parameters": 10**8, "memory": 80 * 10**9}
    assert batch.fitting(**small, a_token=1_000_000, held=30 * 10**9) == 20_000
    assert batch.fitting(**small, a_token=1_000_000, held=79 * 10**9) == batch.FEWEST
    assert batch.fitting(**small, a_token=1_000, held=0) == batch.MOST
    assert batch.fitting(**{**small, "parameters": 7 * 10**9}, a_token=1_000, held=0) == 8_000
    assert batch.fitting(**{**small, "parameters": 4 * 10**8}, a_token=1_000, held=0) == 12_500


def test_what_a_token_takes_is_told_of_dense_models_and_less_where_layers_are_computed_again(tmp_path: Path) -> None:
    dense, mixed = (checkpoint.load(make(tmp_path / family, family, byte_tokenizer(), vocab_size=320))[0]
                    for family in ("llama", "qwen3_moe"))  # fmt: skip
    assert isinstance(dense, ForeignModel)
    layer = 50 * 32 + 12 * 48
    assert dense.activation_bytes == 3 * layer
    dense.checkpoint_activations()
    assert dense.activation_bytes == 4 * 3 * 32 + layer
    assert mixed.activation_bytes is None
    assert batch.pass_tokens(dense, "cpu") == batch.MICROBATCH_TOKENS["cpu"]
