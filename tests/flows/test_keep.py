"""What deleting takes from a runs folder, and what it leaves."""

from pathlib import Path

from data.lineage import RECORD, RECORDED, write_json
from flows.keep import collect_garbage


def artifact(runs: Path, key: str, parents: list[str]) -> Path:
    folder = runs / key
    folder.mkdir(parents=True)
    stage, _, digits = key.rpartition("-")
    named = {"key": key, "name": stage, "stage": stage, "fingerprint": digits}
    above = [{"argument": "rows", "name": parent, "key": parent} for parent in parents]
    write_json(folder / RECORD, dict.fromkeys(RECORDED, 0) | named | {"parents": above})
    return folder


def test_only_artifacts_that_no_recipe_needs_are_deleted(tmp_path: Path) -> None:
    kept = artifact(tmp_path, "collect_general-00000000000a", [])
    used = artifact(tmp_path, "finetune-00000000000b", [kept.name])
    unused = artifact(tmp_path, "finetune-00000000000c", [kept.name])
    unfinished = tmp_path / "curate-00000000000d"
    unfinished.mkdir()
    for recipe in ("my-recipe", "curate-00000000000e"):  # the second is named as an artifact is
        (tmp_path / recipe).mkdir()
        write_json(tmp_path / recipe / "recipe.json", {})
        write_json(
            tmp_path / recipe / "report.json", {"stages": [{"stage": "finetune", "fingerprint": "00000000000b"}]}
        )
    notes = tmp_path / "my-notes"
    notes.mkdir()
    (notes / "thoughts.txt").write_text("all mine")
    shown = [line.split()[-2] for line in collect_garbage(tmp_path, delete=False)][:-1]
    assert shown == [unfinished.name, unused.name]
    list(collect_garbage(tmp_path, delete=True))
    left = {path.name for path in tmp_path.iterdir() if path.is_dir()}
    assert left == {kept.name, used.name, "my-recipe", "curate-00000000000e", "my-notes"}
    assert (notes / "thoughts.txt").read_text() == "all mine"
