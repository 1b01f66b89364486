"""A base by its name on the hub: from the cache without a network, and one line where there is nothing."""

from __future__ import annotations

from pathlib import Path

import huggingface_hub
import pytest

from data.hub import base

REVISION = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The hub's cache, empty, and no network."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    return tmp_path


def test_what_was_fetched_before_is_found_without_a_network(cache: Path) -> None:
    kept = cache / "models--someone--small"
    (kept / "snapshots" / REVISION).mkdir(parents=True)
    (kept / "snapshots" / REVISION / "config.json").write_text("{}")
    (kept / "refs").mkdir()
    (kept / "refs" / "main").write_text(REVISION)
    assert base("hub:someone/small") == kept / "snapshots" / REVISION
    assert base(f"hub:someone/small@{REVISION}") == kept / "snapshots" / REVISION
    with pytest.raises(ValueError, match="cannot be had from the Hugging Face hub"):
        base("hub:someone/small@other")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("hub:someone/small", "'hub:someone/small' cannot be had from the Hugging Face hub, which needs a network"),
        ("hub:small", "'hub:small': write it as hub:OWNER/NAME, @REVISION after it"),
        ("hub:a/b/c", "write it as hub:OWNER/NAME, @"),
        ("hub:some one/small", "write it as hub:OWNER/NAME, @"),
    ],
)
def test_where_there_is_nothing_it_is_one_line(cache: Path, name: str, message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        base(name)
    assert "\n" not in str(caught.value)
    assert not list(cache.rglob("*.safetensors"))
