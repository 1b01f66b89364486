"""Workers that are killed, replaced and confined."""

import contextlib
import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

from data import workers
from data.oracle import scored

SLOW = r"(x+y+z+w)^{100}"  # sympy expands it for minutes
MATRIX = {"answer": "1 2", "metadata": {"matrix": [[1, 2]]}}


@pytest.fixture(autouse=True)
def fresh() -> None:
    workers.stop_idle()


def test_a_worker_that_died_is_replaced() -> None:
    worker = workers.Worker("math")
    workers._idle["math"].put(worker)
    worker._process.kill()
    worker._process.wait()
    assert workers.compare("x+1", "1+x", 5.0) == "equal"


def test_a_question_that_ends_its_workers_is_told_from_a_host_without_any(monkeypatch: pytest.MonkeyPatch) -> None:
    assert workers.score("spiral_matrix", "[__import__('os')._exit(1)]", MATRIX, 5.0) == "deadly"
    assert workers.score("spiral_matrix", "1 2", MATRIX, 5.0) == "equal"
    workers.stop_idle()
    monkeypatch.setattr(workers.sys, "executable", "/bin/false")
    assert workers.score("spiral_matrix", "1 2", MATRIX, 5.0) == "broken"


def test_the_deadline_kills_and_the_next_question_gets_a_new_worker() -> None:
    assert workers.compare("x+1", SLOW, 0.5) == "timeout"
    assert workers.compare("x+1", "1+x", 5.0) == "equal"


def test_an_answer_that_a_scorer_evaluates_can_do_nothing(tmp_path: Path) -> None:
    target = tmp_path / "written"
    target.write_text("kept")
    for attack in (
        f"[open({str(target)!r}, 'w').write('x')]",
        f"[__import__('os').remove({str(target)!r})]",
        f"[__import__('os').system('echo x > {target}')]",
        f"[__import__('subprocess').run(['rm', {str(target)!r}])]",
        "[__import__('socket').socket()]",
        f"[__import__('os').rename({str(target)!r}, {str(target)!r} + '2')]",
        f"[__import__('ctypes').CDLL(None).unlink({str(target)!r}.encode())]",
    ):
        assert workers.score("spiral_matrix", attack, MATRIX, 5.0) == "different"
    assert target.read_text() == "kept"
    assert workers.score("spiral_matrix", "1 2", MATRIX, 5.0) == "equal"


def test_a_worker_and_the_scorer_in_this_process_agree() -> None:
    item = {"answer": "(1+2)*5", "metadata": {"numbers": [1, 2, 5], "target": 15}}
    for answer in ("(1+2)*5", "5*(2+1)", "3*5", "(1+2)*5 = 15", "(", "", "x"):
        assert workers.score("countdown", answer, item, 5.0) == scored(
            "countdown", answer, json.loads(json.dumps(item))
        )


def test_metadata_that_a_scorer_cannot_use_is_no_fault_of_the_answer() -> None:
    assert workers.score("sudoku", "1 2", {"answer": "1 2", "metadata": {}}, 5.0) == "gold_unparseable"


def test_no_process_outlives_a_parent_that_was_killed_at_work() -> None:
    parent = subprocess.Popen(
        [sys.executable, "-c", f"from data import workers\nworkers.compare('x+1', {SLOW!r}, 1.0)"],
        cwd=Path(__file__).parents[2],
    )
    while not (found := [pid for pid in _oracles() if _parent(pid) == parent.pid]):
        time.sleep(0.05)
    [worker] = found
    while not [pid for pid in _oracles() if _parent(pid) == worker]:
        time.sleep(0.05)
    parent.kill()
    parent.wait()
    while Path(f"/proc/{worker}").exists():
        time.sleep(0.05)
    assert not [pid for pid in _oracles() if _parent(pid) == worker]


def _oracles() -> list[int]:
    found = []
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            if b"oracle.py" in entry.read_bytes():
                found.append(int(entry.parent.name))
    return found


def _parent(pid: int) -> int:
    with contextlib.suppress(OSError):
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    return 0
