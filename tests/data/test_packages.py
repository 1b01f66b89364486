"""Files of installed packages by name."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from data.packages import file_in, installed


def test_a_file_is_found_without_importing_its_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "carrier").mkdir()
    (tmp_path / "carrier" / "__init__.py").write_text("raise RuntimeError('imported')")
    (tmp_path / "carrier" / "a.gguf").write_bytes(b"GGUF")
    monkeypatch.syspath_prepend(tmp_path)
    assert installed("package:carrier/a.gguf")
    assert file_in("package:carrier/a.gguf") == tmp_path / "carrier" / "a.gguf"
    assert "carrier" not in sys.modules
    with pytest.raises(ValueError, match=r"the package carrier has no file b.gguf"):
        file_in("package:carrier/b.gguf")


@pytest.mark.parametrize(
    ("place", "message"),
    [
        ("package:nowhere_at_all/a", "no package nowhere_at_all here: pip install nowhere_at_all"),
        ("package:carrier", "write it as package:MODULE/FILE"),
        ("package:../a", "write it as package:MODULE/FILE"),
        ("package:a.b/c", "write it as package:MODULE/FILE"),
    ],
)
def test_what_is_no_such_place_is_said(place: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        file_in(place)
