"""The rules of the house: imports point down, and heavy packages stay in their rooms."""

import ast
import importlib.metadata
import importlib.util
from pathlib import Path

import mlflow
import pytest

ROOT = Path(__file__).parent.parent
BELOW = {
    "model": {"model"},
    "data": {"data"},
    "tasks": {"tasks", "model", "data"},
    "flows": {"flows", "tasks", "model", "data"},
}
ROOMS = set(BELOW)
HEAVY = {
    "torch": {"model", "tasks"},
    "polars": {"data", "tasks", "flows"},
    "duckdb": {"data"},
    "fasttext": {"data"},
    "ray": {"data/cluster.py"},
    "prefect": {"tasks/stage.py", "flows"},
    "mlflow": {"tasks/tracking.py"},
}
SOURCES = sorted(path for room in BELOW for path in (ROOT / room).rglob("*.py"))


def imports(path: Path) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            assert node.level == 0, f"{path} has a relative import"
            names.add(node.module.split(".")[0])
    return names


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_point_down(path: Path) -> None:
    room = path.relative_to(ROOT).parts[0]
    assert imports(path) & ROOMS <= BELOW[room]


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_heavy_packages_stay_in_their_rooms(path: Path) -> None:
    place = path.relative_to(ROOT)
    for package in imports(path) & set(HEAVY):
        if package == "torch" and place.as_posix() == "flows/plan.py":
            continue  # asks whether there is a GPU
        assert place.parts[0] in HEAVY[package] or place.as_posix() in HEAVY[package], package


def test_the_mlflow_folder_does_not_shadow_the_package() -> None:
    assert mlflow.__version__ == "3.17.2"
    assert not list((ROOT / "mlflow").rglob("*.py"))


def test_one_fasttext_is_installed() -> None:
    found = importlib.util.find_spec("fasttext")
    assert found is not None
    owners = importlib.metadata.packages_distributions()["fasttext"]
    assert owners == ["fasttext-community"]


def test_source_files_are_short_enough_to_read() -> None:
    long = {str(path): count for path in SOURCES if (count := path.read_text().count("\n")) > 500}
    assert not long
