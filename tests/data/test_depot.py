"""Artifacts in a folder that machines share; the same against S3-compatible storage is in `tests/system`."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from data.depot import Depot
from data.lineage import RECORDED, Artifact, sha256_of, write_json


def made(runs: Path) -> Artifact:
    artifact = Artifact("rows", "curate", "0123456789ab", runs)
    rows = artifact.folder / "deep" / "rows.txt"
    rows.parent.mkdir(parents=True)
    rows.write_text("a row")
    record = dict.fromkeys(RECORDED) | {"files": {"deep/rows.txt": sha256_of(rows)}}
    write_json(artifact.folder / "record.json", record)
    return artifact


def at(artifact: Artifact, runs: Path) -> Artifact:
    return Artifact(artifact.name, artifact.stage, artifact.fingerprint, runs)


def test_what_one_machine_puts_another_takes(tmp_path: Path) -> None:
    depot = Depot(f"file://{tmp_path}/depot")
    depot.check()
    assert not list((tmp_path / "depot").iterdir())
    here = made(tmp_path / "here")
    there = at(here, tmp_path / "there")
    assert not depot.take(there)
    assert not there.folder.exists()
    depot.put(here)
    (there.folder / ".resume").mkdir(parents=True)  # of an attempt that was stopped
    assert depot.take(there)
    assert [path.relative_to(there.folder).as_posix() for path in sorted(there.folder.rglob("*"))] == [
        "deep", "deep/rows.txt", "record.json",
    ]  # fmt: skip
    assert (there.folder / "deep" / "rows.txt").read_text() == "a row"
    assert [path.name for path in there.runs.iterdir()] == [there.key]
    depot.drop(here)
    assert not depot.has(here)
    assert not depot.take(at(here, tmp_path / "third"))


def test_what_is_not_as_its_record_says_is_not_taken(tmp_path: Path) -> None:
    depot = Depot(f"file://{tmp_path}/depot")
    here = made(tmp_path / "here")
    depot.put(here)
    (tmp_path / "depot" / here.key / "deep" / "rows.txt").write_text("another")
    there = at(here, tmp_path / "there")
    with pytest.raises(ValueError, match=r"curate-0123456789ab/deep/rows\.txt is not what its record says"):
        depot.take(there)
    assert not there.folder.exists()


def test_without_its_record_nothing_is_there(tmp_path: Path) -> None:
    depot = Depot(f"file://{tmp_path}/depot")
    here = made(tmp_path / "here")
    depot.put(here)
    (tmp_path / "depot" / here.key / "record.json").unlink()
    assert not depot.take(at(here, tmp_path / "there"))
    depot.put(here)
    assert depot.take(at(here, tmp_path / "there"))


def begun(runs: Path, *states: str) -> Artifact:
    artifact = Artifact("zero", "reinforce", "0123456789ab", runs)
    for state in states:
        saved = artifact.folder / ".resume" / state / "tensors"
        saved.parent.mkdir(parents=True)
        saved.write_text(state)
    (artifact.folder / "metrics.jsonl").write_text("a line\n" * len(states))
    return artifact


def files_of(folder: Path) -> dict[str, str]:
    return {path.relative_to(folder).as_posix(): path.read_text() for path in folder.rglob("*") if path.is_file()}


def test_another_machine_goes_on_from_what_was_kept(tmp_path: Path) -> None:
    depot = Depot(f"file://{tmp_path}/depot")
    here = begun(tmp_path / "here", "state-00000002", "state-00000004")
    (here.folder / ".resume" / "state-00000006.partial").mkdir()
    (here.folder / ".resume" / "state-00000006.partial" / "tensors").write_text("half")
    depot.keep(here)
    there = at(here, tmp_path / "there")
    depot.regain(there)
    kept = {
        ".resume/state-00000002/tensors": "state-00000002",
        ".resume/state-00000004/tensors": "state-00000004",
        "metrics.jsonl": "a line\na line\n",
    }
    assert files_of(there.folder) == kept
    assert not depot.has(here)

    shutil.rmtree(there.folder)
    begun(there.runs, "state-00000004", "state-00000006", "state-00000008")
    depot.regain(there)  # which is behind
    assert ".resume/state-00000008/tensors" in files_of(there.folder)
    depot.keep(there)
    depot.regain(here)
    assert files_of(here.folder) == files_of(there.folder)
    assert ".resume/state-00000002/tensors" not in files_of(here.folder)


def test_what_was_kept_gives_way_to_what_is_finished_or_forgotten(tmp_path: Path) -> None:
    depot = Depot(f"file://{tmp_path}/depot")
    here = made(tmp_path / "here")
    (here.folder / ".resume").mkdir()
    (here.folder / ".resume" / "answers-00000000.parquet").write_text("rows")
    (here.folder / "record.json").rename(tmp_path / "record.json")
    depot.keep(here)
    shutil.rmtree(here.folder / ".resume")
    (tmp_path / "record.json").rename(here.folder / "record.json")
    depot.put(here)
    assert sorted(files_of(tmp_path / "depot" / here.key)) == ["deep/rows.txt", "record.json"]

    begun_only = begun(tmp_path / "here", "state-00000002")
    depot.keep(begun_only)
    depot.drop(begun_only)
    assert not (tmp_path / "depot" / begun_only.key).exists()


@pytest.mark.parametrize("address", ["s3:/x", "s3://", "file://host/x", "/x", "", "gs://x/y"])
def test_no_address(address: str) -> None:
    with pytest.raises(ValueError, match="give s3://bucket/prefix or file:///folder"):
        Depot(address)


def test_a_place_that_cannot_be_written_to(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="cannot be written to"):
        Depot(f"file://{tmp_path}/file/under").check()
