"""A disk that is full or cannot be written to: one line, nothing lost, and the run goes on once there is room."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from data.lineage import read_json
from tests.chaos import differences

ROOT = Path(__file__).parents[2]
NAMESPACE = ["unshare", "--mount", *(["--map-root-user"] if os.getuid() else [])]
CAN_MOUNT = bool(shutil.which("unshare")) and not subprocess.run([*NAMESPACE, "true"], capture_output=True).returncode
pytestmark = [
    pytest.mark.system,
    pytest.mark.timeout(900),
    pytest.mark.skipif(not CAN_MOUNT, reason="needs a mount namespace of its own"),
]
R1 = f"{sys.executable} -m flows"


def mounted(script: str, *words: object) -> subprocess.CompletedProcess[str]:
    """Run a script that may mount without anybody else seeing it."""
    command = [*NAMESPACE, "sh", "-euc", script, "sh", *map(str, words)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=800)


def test_a_full_disk_is_one_line_and_the_run_goes_on_when_there_is_room(tmp_path: Path) -> None:
    script = f"""
        mount -t tmpfs -o size=20m tmpfs $1
        set +e; {R1} run tiny --runs $1 2> $2/told; echo $? > $2/code; set -e
        mount -o remount,size=900m $1
        {R1} run tiny --runs $1
        {R1} verify --runs $1
        cp -a $1 $2/kept
    """
    runs, out = tmp_path / "runs", tmp_path / "out"
    runs.mkdir()
    out.mkdir()
    done = mounted(script, runs, out)
    assert done.returncode == 0, done.stderr[-2000:]
    assert (out / "code").read_text() == "2\n"
    told = (out / "told").read_text().splitlines()
    assert told[-1] == (
        f"r1: {runs}: no space left on its disk; what is finished there is whole. Make room and give the command again"
    )
    whole = tmp_path / "whole"
    subprocess.run([*R1.split(), "run", "tiny", "--runs", str(whole)], cwd=ROOT, check=True, capture_output=True)
    stages = read_json(whole / "tiny" / "report.json")["stages"]
    assert differences(whole, out / "kept", stages) == []


@pytest.mark.parametrize("words", ["run tiny", "run tiny --plain", "up tiny"])
@pytest.mark.parametrize("folder", [".", "new"])
def test_a_runs_folder_that_cannot_be_written_to_is_one_line(tmp_path: Path, words: str, folder: str) -> None:
    script = f"mount --bind $1 $1; mount -o remount,bind,ro $1; {R1} {words} --runs $2"
    done = mounted(script, tmp_path, tmp_path / folder)
    assert done.returncode == 2
    assert done.stderr.endswith(": Read-only file system\n")
    assert done.stderr.startswith(f"r1: {tmp_path}")
    assert done.stderr.count("\n") == 1
