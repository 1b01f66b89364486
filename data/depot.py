"""Artifacts where several machines reach them: S3-compatible storage, or a folder of a shared file system.

An artifact is put file by file, its record last; so whoever finds a record there finds all that it names. It is
taken into a hidden folder, held against its record, and renamed. Of one that is not finished there is what its
stage has saved so far, so that another machine can go on from there.
"""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Iterable
from pathlib import Path
from urllib.parse import urlsplit

from pyarrow import fs

from data.lineage import RECORD, RESUME, Artifact, Json, broken_files, read_record


class Depot:
    """A place for finished artifacts, by an address `s3://bucket/prefix` or `file:///folder`.

    The keys, the region and the address of S3-compatible storage come from the usual `AWS_ACCESS_KEY_ID`,
    `AWS_SECRET_ACCESS_KEY`, `AWS_DEFAULT_REGION` and `AWS_ENDPOINT_URL`.
    """

    def __init__(self, address: str) -> None:
        self.address = address.rstrip("/")
        parts = urlsplit(self.address)
        if parts.scheme == "s3" and parts.netloc:
            self._files: fs.FileSystem = _s3()
            self._root = f"{parts.netloc}{parts.path}"
        elif parts.scheme == "file" and not parts.netloc and parts.path.startswith("/"):
            self._files, self._root = fs.LocalFileSystem(), parts.path
        else:
            raise ValueError(f"no depot {address!r}: give s3://bucket/prefix or file:///folder")

    def check(self) -> None:
        """Raise ValueError where the place cannot be listed and written to."""
        mark = f"{self._root}/.written-{secrets.token_hex(4)}"
        try:
            self._files.create_dir(self._root, recursive=True)
            self._files.open_output_stream(mark).close()
            self._files.delete_file(mark)
        except OSError as error:
            raise ValueError(f"depot {self.address} cannot be written to: {_first_line(error)}") from None

    def has(self, artifact: Artifact) -> bool:
        """Whether the whole artifact is there."""
        info = self._files.get_file_info(f"{self._root}/{artifact.key}/{RECORD}")
        return bool(info.type == fs.FileType.File)

    def put(self, artifact: Artifact) -> None:
        """Put a finished artifact there, unless it is; what was kept of it before gives way."""
        if self.has(artifact):
            return
        names = [*_files_of(artifact.record()), RECORD]
        for name in names:
            self._send(artifact, name)
        for name in self._sizes(artifact).keys() - set(names):
            self._files.delete_file(f"{self._root}/{artifact.key}/{name}")

    def keep(self, artifact: Artifact) -> None:
        """Put there what an unfinished artifact has so far: files that are new or have grown."""
        there, here = self._sizes(artifact), _sizes(artifact.folder)
        for name in sorted(here):
            if there.get(name) != here[name]:
                self._send(artifact, name)
        for name in there.keys() - here.keys():
            self._files.delete_file(f"{self._root}/{artifact.key}/{name}")

    def regain(self, artifact: Artifact) -> None:
        """Fetch what was kept of an unfinished artifact, where that is further than what is here."""
        there = self._sizes(artifact)
        if _progress(there) <= _progress(_sizes(artifact.folder)):
            return
        beside = artifact.runs / f".{artifact.key}.taken"
        shutil.rmtree(beside, ignore_errors=True)
        for name in there:
            _copy(self._files, f"{self._root}/{artifact.key}/{name}", fs.LocalFileSystem(), str(beside / name))
        shutil.rmtree(artifact.folder, ignore_errors=True)
        beside.rename(artifact.folder)

    def take(self, artifact: Artifact) -> bool:
        """Fetch an artifact into its folder. Returns False where it is not there.

        Raises ValueError when what is there is not what its record says.
        """
        if not self.has(artifact):
            return False
        beside = artifact.runs / f".{artifact.key}.taken"
        shutil.rmtree(beside, ignore_errors=True)
        beside.mkdir(parents=True)
        local = fs.LocalFileSystem()
        _copy(self._files, f"{self._root}/{artifact.key}/{RECORD}", local, str(beside / RECORD))
        for name in _files_of(read_record(beside)):
            _copy(self._files, f"{self._root}/{artifact.key}/{name}", local, str(beside / name))
        if broken := broken_files(beside):
            raise ValueError(f"{self.address}/{artifact.key}/{broken[0]} is not what its record says")
        shutil.rmtree(artifact.folder, ignore_errors=True)
        beside.rename(artifact.folder)
        return True

    def drop(self, artifact: Artifact) -> None:
        """Delete an artifact there, its record first."""
        if self.has(artifact):
            self._files.delete_file(f"{self._root}/{artifact.key}/{RECORD}")
        if self._sizes(artifact):
            self._files.delete_dir(f"{self._root}/{artifact.key}")

    def _send(self, artifact: Artifact, name: str) -> None:
        _copy(fs.LocalFileSystem(), str(artifact.folder / name), self._files, f"{self._root}/{artifact.key}/{name}")

    def _sizes(self, artifact: Artifact) -> dict[str, int]:
        """The files that are there of an artifact, by name."""
        place = f"{self._root}/{artifact.key}/"
        found = self._files.get_file_info(fs.FileSelector(place, allow_not_found=True, recursive=True))
        return {info.path.removeprefix(place): info.size for info in found if info.type == fs.FileType.File}


def _s3() -> fs.S3FileSystem:
    address = urlsplit(os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL") or "")
    return fs.S3FileSystem(
        endpoint_override=address.netloc or None,
        scheme=address.scheme or "https",
        region=os.environ.get("AWS_DEFAULT_REGION") or None,
        allow_bucket_creation=False,
        connect_timeout=10,
    )


def _files_of(record: dict[str, Json]) -> list[str]:
    return sorted(record["files"])


def _sizes(folder: Path) -> dict[str, int]:
    """The files of a folder by name, without those that are being written."""
    names = {file.relative_to(folder).as_posix(): file for file in folder.rglob("*") if file.is_file()}
    return {
        name: file.stat().st_size
        for name, file in names.items()
        if not file.name.startswith(".") and ".partial" not in name
    }


def _progress(names: Iterable[str]) -> str:
    """The last state or shard among files; their names count up."""
    return max((name for name in names if name.startswith(f"{RESUME}/")), default="")


def _copy(source: fs.FileSystem, name: str, target: fs.FileSystem, to: str) -> None:
    """Copy a file. It appears whole: an object when its stream is closed, a file when it is renamed."""
    is_local = isinstance(target, fs.LocalFileSystem)
    if is_local:
        target.create_dir(to.rpartition("/")[0], recursive=True)
    with source.open_input_stream(name) as reading, target.open_output_stream(to + ".part" * is_local) as writing:
        shutil.copyfileobj(reading, writing, 8 * 2**20)
    if is_local:
        target.move(to + ".part", to)


def _first_line(error: OSError) -> str:
    return str(error).partition("\n")[0][:200]
