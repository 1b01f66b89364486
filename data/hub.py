"""A data set's file or a base on the Hugging Face hub, for those who have a network or have it in their cache."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

PREFIX: Final = "hub:"
_NAME = re.compile(r"(?P<repo>[\w.-]+/[\w.-]+)(?:/(?P<file>[^@]+))?(?:@(?P<revision>[\w./-]+))?")
_KINDS = (".jsonl", ".csv", ".tsv", ".parquet")
_OF_A_BASE: Final = ("*.safetensors", "*.json", "*.jinja")  # nothing that could hold code
_NAMED: Final = 8
"""Files that an error names."""


def fetched(name: str) -> Path:
    """The local copy of `hub:OWNER/NAME/FILE`, or of the only data file of `hub:OWNER/NAME`, `@REVISION` after it.

    Raises ValueError where the hub cannot be reached or has no such file.
    """
    parts = _NAME.fullmatch(name.removeprefix(PREFIX))
    if parts is None:
        raise ValueError(f"{name!r}: write it as hub:OWNER/NAME or hub:OWNER/NAME/FILE, @REVISION after it")
    from huggingface_hub import hf_hub_download

    repo, revision = parts["repo"], parts["revision"]
    file = parts["file"] or _only_file(name, repo, revision)
    if not file.endswith(_KINDS):
        raise ValueError(f"{name!r}: problems come as {', '.join(_KINDS)}")
    try:
        return Path(hf_hub_download(repo, file, repo_type="dataset", revision=revision))
    except Exception as error:
        raise _unreachable(name, error) from None


def base(name: str) -> Path:
    """The local folder of the model `hub:OWNER/NAME`, or `hub:OWNER/NAME@REVISION`, kept in the hub's own cache.

    Raises ValueError where the hub has no such model, or cannot be reached and the model was not fetched before.
    """
    parts = _NAME.fullmatch(name.removeprefix(PREFIX))
    if parts is None or parts["file"]:
        raise ValueError(f"{name!r}: write it as hub:OWNER/NAME, @REVISION after it")
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(parts["repo"], revision=parts["revision"], allow_patterns=list(_OF_A_BASE)))
    except Exception as error:
        raise _unreachable(name, error) from None


def _only_file(name: str, repo: str, revision: str | None) -> str:
    from huggingface_hub import HfApi

    try:
        found = HfApi().list_repo_files(repo, repo_type="dataset", revision=revision)
    except Exception as error:
        raise _unreachable(name, error) from None
    files = [file for file in found if file.endswith(_KINDS)]
    if len(files) != 1:
        told = ", ".join(files[:_NAMED]) + (", ..." if len(files) > _NAMED else "")
        raise ValueError(f"{name!r}: name one of its files, as in hub:{repo}/FILE; it has {told or 'none that fit'}")
    return files[0]


def _unreachable(name: str, error: Exception) -> ValueError:
    told = str(error).strip().partition("\n")[0]
    return ValueError(
        f"{name!r} cannot be had from the Hugging Face hub, which needs a network ({type(error).__name__}: {told}); "
        "a file that you have is given by its path"
    )
