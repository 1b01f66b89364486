"""Text to ids and back, over Hugging Face `tokenizers`; any Unicode text survives the round trip."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import tokenizers
from tokenizers import AddedToken, Regex, decoders, models, pre_tokenizers

PIECE_SCORE, BYTE_SCORE = -1.0, -1000.0
_BYTES = [f"<0x{byte:02X}>" for byte in range(256)]
_TOKENIZER, _CONFIG, _MAP = "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"


class Tokenizer:
    """A tokenizer with the ids that a decoder model needs; `bos_id` and `pad_id` may be absent (None)."""

    def __init__(
        self,
        inner: tokenizers.Tokenizer,
        *,
        eos: str,
        bos: str | None = None,
        pad: str | None = None,
        chat_template: str | None = None,
        told: Mapping[str, Any] | None = None,
    ) -> None:
        self.inner = inner
        self.told = dict(told or {})  # tokenizer_config.json as it was read, which is kept when it is written
        self.spelled: dict[str, str] = {}  # what is written in another way, as a text is encoded
        self.eos, self.bos, self.pad, self.chat_template = eos, bos, pad, chat_template
        self.eos_id = self._id(eos)
        self.bos_id = None if bos is None else self._id(bos)
        self.pad_id = None if pad is None else self._id(pad)
        self._silent = {token for token in (self.eos_id, self.bos_id, self.pad_id) if token is not None}

    @classmethod
    def build(
        cls,
        pieces: Sequence[str],
        special: Sequence[str],
        added: Sequence[str],
        bos: str,
        eos: str,
        pad: str,
        chat_template: str | None = None,
    ) -> Tokenizer:
        """A Unigram tokenizer over given pieces, with all 256 bytes for what they do not cover.

        Every piece has one score, so the best path is the one of fewest pieces; spaces are literal (" word").
        `special` (to which bos, eos, pad belong) and `added` are matched whole, before the pieces.
        Ids: special, added, bytes, pieces. Raises ValueError for an empty, repeated or byte-like piece.
        """
        whole = [*dict.fromkeys([pad, bos, eos, *special]), *added]
        vocabulary = [*whole, *_BYTES, *pieces]
        _check_vocabulary(vocabulary, pieces)
        scores = [BYTE_SCORE] * (len(whole) + len(_BYTES)) + [PIECE_SCORE] * len(pieces)
        inner = tokenizers.Tokenizer(
            models.Unigram(list(zip(vocabulary, scores, strict=True)), unk_id=len(whole), byte_fallback=True)
        )
        # A literal "<0x41>" in a text must not be read as that byte: cut it after its bracket.
        inner.pre_tokenizer = pre_tokenizers.Split(Regex("<(?=0x[0-9A-F]{2}>)"), "isolated")
        inner.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Fuse()])
        specials = set(whole) - set(added)
        inner.add_tokens([AddedToken(text, normalized=False, special=text in specials) for text in whole])
        return cls(inner, eos=eos, bos=bos, pad=pad, chat_template=chat_template)

    @property
    def vocab_size(self) -> int:
        return self.inner.get_vocab_size(with_added_tokens=True)

    @property
    def largest_id(self) -> int:
        return max(self.inner.get_vocab(with_added_tokens=True).values())

    def encode(self, text: str) -> list[int]:
        """Ids of a text; nothing is added before or after."""
        return self.inner.encode(self._spell(text), add_special_tokens=False).ids

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """`encode` of many texts, in parallel."""
        spelled = [self._spell(text) for text in texts]
        return [encoding.ids for encoding in self.inner.encode_batch_fast(spelled, add_special_tokens=False)]

    def _spell(self, text: str) -> str:
        for ours, theirs in self.spelled.items():
            text = text.replace(ours, theirs)
        return text

    def decode(self, ids: Iterable[int], skip_special: bool = False) -> str:
        """The text of ids; `skip_special` leaves out bos, eos and pad, and no other token."""
        kept = [token for token in ids if not (skip_special and token in self._silent)]
        return self.inner.decode(kept, skip_special_tokens=False)

    def decode_batch(self, batch: Sequence[Iterable[int]], skip_special: bool = False) -> list[str]:
        """`decode` of many rows, in parallel."""
        silent = self._silent if skip_special else set()
        kept = [[token for token in ids if token not in silent] for ids in batch]
        return self.inner.decode_batch(kept, skip_special_tokens=False)

    def save(self, folder: str | Path) -> None:
        """Write the files that AutoTokenizer reads."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        names = {"bos_token": self.bos, "eos_token": self.eos, "pad_token": self.pad}
        special = {name: text for name, text in names.items() if text is not None}
        own = {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "clean_up_tokenization_spaces": False,
            "add_bos_token": False,
            "add_eos_token": False,
            **special,
        }
        template = {"chat_template": self.chat_template} if self.chat_template else {}
        config = {**(self.told or own), **template}
        self.inner.save(str(folder / _TOKENIZER))
        _write_json(folder / _CONFIG, config)
        _write_json(folder / _MAP, special)

    @classmethod
    def load(cls, folder: str | Path) -> Tokenizer:
        """Read a folder of ours or of another model. Raises ValueError without tokenizer.json or an eos."""
        folder = Path(folder)
        if not (folder / _TOKENIZER).is_file():
            raise ValueError(f"no {_TOKENIZER} in {folder}")
        inner = tokenizers.Tokenizer.from_file(str(folder / _TOKENIZER))
        config = {**_read_json(folder / _MAP), **_read_json(folder / _CONFIG)}
        eos = _content(config.get("eos_token"))
        if eos is None:
            raise ValueError(f"no eos_token in {folder / _CONFIG}")
        template = folder / "chat_template.jinja"
        chat = template.read_text("utf-8") if template.is_file() else config.get("chat_template")
        bos, pad = _content(config.get("bos_token")), _content(config.get("pad_token"))
        told = _read_json(folder / _CONFIG)
        return cls(inner, eos=eos, bos=bos, pad=pad, chat_template=chat if isinstance(chat, str) else None, told=told)

    def _id(self, text: str) -> int:
        token = self.inner.token_to_id(text)
        if token is None:
            raise ValueError(f"{text!r} is not in the vocabulary")
        return token


def _check_vocabulary(vocabulary: Sequence[str], pieces: Sequence[str]) -> None:
    seen: set[str] = set()
    for text in vocabulary:
        if not text or text in seen:
            raise ValueError(f"piece {text!r} is {'repeated' if text else 'empty'}")
        seen.add(text)
    for piece in pieces:
        if re.search("<0x[0-9A-F]{2}>", piece):
            raise ValueError(f"piece {piece!r} looks like a byte token")


def _content(token: str | dict[str, Any] | None) -> str | None:
    """The text of a special token, which folders write as a string or as an object."""
    return token["content"] if isinstance(token, dict) else token


def _read_json(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text("utf-8")) if path.is_file() else {}


def _write_json(path: Path, value: dict[str, Any]) -> None:
    path.write_text(json.dumps(value, ensure_ascii=False, indent=2) + "\n", "utf-8")
