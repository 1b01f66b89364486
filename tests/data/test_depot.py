"""Artifacts in a folder that machines share; the same against S3-compatible storage is in `tests/system`."""

from __future__ import annotations

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


@pytest.mark.parametrize("address", ["s3:/x", "s3://", "file://host/x", "/x", "", "gs://x/y"])
def test_no_address(address: str) -> None:
    with pytest.raises(ValueError, match="give s3://bucket/prefix or file:///folder"):
        Depot(address)


def test_a_place_that_cannot_be_written_to(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="cannot be written to"):
        Depot(f"file://{tmp_path}/file/under").check()
