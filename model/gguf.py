"""A GGUF file made into a Hugging Face folder: float weights that train, its tokenizer and chat template.

Read by transformers, which takes the packages `gguf` and `accelerate` for it. What it reads bears a mark of
quantisation, with which it refuses to be saved; the weights are dense by then, so the mark is taken off.
"""

from __future__ import annotations

import struct
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

from model import foreign
from model.foreign import quiet

MAGIC = b"GGUF"
NEEDED = ("gguf", "accelerate")


def inspect(file: Path) -> int:
    """The longest context of a GGUF file's model.

    Raises ValueError for a file that is none, of an architecture that transformers does not read, or where a
    package is missing.
    """
    with file.open("rb") as opened:
        if opened.read(4) != MAGIC:
            raise ValueError("no GGUF file: it does not begin with GGUF")
    if missing := [package for package in NEEDED if find_spec(package) is None]:
        raise ValueError(f"a GGUF file needs the package {missing[0]}: pip install 'r1[gguf]'")
    from gguf import GGUFReader

    try:
        fields = GGUFReader(file).fields
    except (ValueError, KeyError, IndexError, struct.error) as error:
        raise ValueError(f"no whole GGUF file: {error}") from None
    architecture = fields["general.architecture"].contents() if "general.architecture" in fields else None
    if architecture not in _architectures():
        known = ", ".join(sorted(_architectures()))
        raise ValueError(f"GGUF of architecture {architecture!r}, which transformers does not read; it reads {known}")
    context = fields.get(f"{architecture}.context_length")
    if context is None:
        raise ValueError(f"the GGUF file names no {architecture}.context_length")
    return int(context.contents())


def convert(file: Path, folder: Path) -> None:
    """Write a GGUF file's model as a Hugging Face folder, in float32. Raises ValueError for one that cannot be read."""
    import transformers
    from transformers import modeling_gguf_pytorch_utils as reader
    from transformers.utils import logging

    inspect(file)
    reader.tqdm = logging.tqdm  # of tqdm's own the reader would draw a bar though bars are off
    name: dict[str, Any] = {"gguf_file": file.name}
    told = getattr(transformers, "GgufConfig", None)
    dense = {"quantization_config": told(dequantize=True)} if told is not None else {}
    try:
        with quiet():
            model = transformers.AutoModelForCausalLM.from_pretrained(file.parent, dtype=torch.float32, **name, **dense)
            tokenizer = transformers.AutoTokenizer.from_pretrained(file.parent, **name)
    except Exception as error:  # of any kind: tokenizers raise no narrower one
        raise ValueError(f"transformers cannot read this GGUF file: {_line(error)}") from error
    if packed := [each for each, weight in model.named_parameters() if not weight.is_floating_point()]:
        raise ValueError(f"tensor {packed[0]!r} of the GGUF file was left quantised ({len(packed)} in all)")
    _unmark(model)
    foreign.write(folder, foreign.ForeignModel(model), None, 5 * 10**9)
    tokenizer.save_pretrained(folder)


def _unmark(model: Any) -> None:
    """Take off what says that the weights are quantised."""
    model.hf_quantizer = None
    model.is_quantized = False
    for name in ("quantization_config", "_pre_quantization_dtype"):
        if hasattr(model.config, name):
            delattr(model.config, name)


def _architectures() -> set[str]:
    """Those that this version of transformers reads, of either of its readers."""
    from transformers import modeling_gguf_pytorch_utils

    known = set(modeling_gguf_pytorch_utils.GGUF_SUPPORTED_ARCHITECTURES)
    if find_spec("transformers.integrations.gguf"):
        from transformers.integrations.gguf import utils

        known |= set(getattr(utils, "GGUF_ARCHS", ()))
    return known


def _line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
