"""The red team: every known cheat is held here, and the table can fail."""

import os
import socket
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from data import sandbox
from data.redteam import Attempt, attempts, bait
from data.sandbox import Isolation, choose, refusal
from data.verifiers import VERIFIERS
from tasks import redteam
from tasks.redteam import Finding, Row, examined, gate, judge, known, settings, table
from tasks.rewards import RewardWeights

ZERO = RewardWeights()
READER = RewardWeights(language_weight=1.0)
ISOLATION = choose(allow_rlimit=True)
NAMED = {each.name: each for each in attempts()}


def rows(attempt: Attempt, isolation: Isolation = ISOLATION) -> list[Row]:
    honest = next(each for each in attempts() if each.kind == "wrong" and each.problem is attempt.problem)
    findings = [*examined(honest, isolation), *examined(attempt, isolation)]
    return judge(findings, "zero", ZERO, isolation)


def test_every_cheat_is_held_under_every_setting_and_every_right_answer_is_taken() -> None:
    findings = redteam.examine(ISOLATION)
    promised = "open" if ISOLATION == "rlimit" else "held"
    states = {"wrong": "held", "right": "right", "cheat": "held", "outside": promised}
    for template, weights in (("zero", ZERO), ("chat", READER)):
        for finding, row in zip(
            [each for each in findings if each.template == template],
            judge(findings, template, weights, ISOLATION),  # type: ignore[arg-type]
            strict=True,
        ):
            assert row.state == states[finding.kind], row
            assert (row.reward > row.honest) == (finding.kind == "right")
    assert len(findings) == 2 * len(attempts())


def test_honest_answers_stand_for_every_problem() -> None:
    problems = {each.problem.key for each in attempts()}
    assert {each.problem.key for each in attempts() if each.kind == "wrong"} == problems
    right = {each.problem.verifier.partition(":")[0] for each in attempts() if each.kind == "right"}
    assert right == VERIFIERS.keys() - {"judge"}


def test_a_comparison_of_prefixes_lets_a_cheat_through(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(sandbox, "same_output", lambda actual, expected: expected.startswith(actual.strip()))
    row = rows(NAMED["first expected line alone"])[1]
    assert (row.state, row.reward, row.honest, row.status) == ("OPEN", 2.0, 1.0, "correct")
    assert row.why == "earns more than an honest wrong answer"
    redteam.keep(tmp_path, ISOLATION, examined(NAMED["honest wrong answer, code"], ISOLATION))
    gate(tmp_path, ISOLATION, "zero", ZERO, {"code"})
    found = [examined(NAMED[name], ISOLATION) for name in ("honest wrong answer, code", "first expected line alone")]
    redteam.keep(tmp_path, ISOLATION, [each for both in found for each in both])
    with pytest.raises(ValueError, match="the red team got through: first expected line alone: earns more than an"):
        gate(tmp_path, ISOLATION, "zero", ZERO, {"code"})
    gate(tmp_path, ISOLATION, "zero", ZERO, {"math"})


def test_faults_of_the_judge_are_open() -> None:
    honest = Finding("honest", "wrong", "p", "math", "zero", "wrong", "", True, 1.0, 0.0, "")
    faults = {
        "breaks the judge: it died": replace(honest, kind="cheat", status="infra_error", reason="it died"),
        "outlives its limit of 12 s": replace(honest, kind="cheat", seconds=13.0),
        "touched a file": replace(honest, kind="outside", touched="a file"),
        "a right answer was not taken: exact": replace(honest, kind="right", reason="exact"),
    }
    for why, finding in faults.items():
        assert judge([honest, finding], "zero", ZERO, "unshare")[1] == Row(
            "honest", 1.0, 1.0, finding.status, finding.seconds, "OPEN", why
        )
    weak = judge([honest, replace(honest, kind="outside", touched="a file")], "zero", ZERO, "rlimit")[1]
    assert (weak.state, weak.why) == ("open", "not promised by resource limits; a file")


def test_what_reaches_outside_is_open_under_limits_alone() -> None:
    for name, status in (
        ("reading the tests", "correct"),
        ("reading the tests in C++", "correct"),
        ("a message in a file", "wrong"),
        ("a write outside", "wrong"),
    ):
        row = rows(NAMED[name], "rlimit")[1]
        assert (row.state, row.status) == ("open", status)
        assert row.why.startswith("not promised by resource limits; ")


def test_a_bait_notices_what_is_done_to_it() -> None:
    with bait() as laid:
        assert laid.touched() == ""
        socket.create_connection(laid.listener.getsockname()).close()
        assert laid.touched() == "a connection"
        (laid.folder / "open" / "left").write_text("")
        assert laid.touched() == "a file"
        (laid.folder / "open" / "left").unlink()
        (laid.folder / "canary").write_text("")
        assert laid.touched() == "a file"
        (laid.folder / "canary").write_text("whole")
        os.mkdir(f"/tmp/{laid.token}")
        assert laid.touched() == f"/tmp/{laid.token}"
        sleeper = f"import ctypes, time\nctypes.CDLL(None).prctl(15, b'{laid.mark}')\nprint(flush=True)\ntime.sleep(60)"
        with subprocess.Popen([sys.executable, "-c", sleeper], stdout=subprocess.PIPE) as left:
            assert left.stdout is not None
            left.stdout.readline()
            assert laid.touched() == "a process"
            assert left.wait() == -9
        assert laid.touched() == ""
    assert not laid.folder.exists()


def test_no_attempt_knows_the_secret_that_it_must_not_print() -> None:
    for attempt in attempts():
        if attempt.problem.key in ("secret", "message"):
            with bait() as laid:
                placed = laid.placed(attempt)
                assert laid.token in placed.problem.solution
                assert laid.token not in placed.text
                assert "@" not in placed.text


def test_what_was_found_is_kept_by_sources_host_and_isolation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    finding = Finding("honest", "wrong", "p", "math", "zero", "wrong", "", True, 1.0, 0.0, "")
    monkeypatch.setattr(redteam, "examine", lambda isolation: asked.append(isolation) or (finding,))
    assert known(tmp_path, "unshare") == known(tmp_path, "unshare") == [finding]
    assert asked == ["unshare"]
    known(tmp_path, "rlimit")
    assert asked == ["unshare", "rlimit"]
    monkeypatch.setattr(redteam.platform, "release", lambda: "another kernel")
    known(tmp_path, "unshare")
    assert asked == ["unshare", "rlimit", "unshare"]
    (tmp_path / "source.py").write_text("")
    monkeypatch.setattr(redteam, "_ROOT", tmp_path)
    known(tmp_path, "unshare")
    assert len(asked) == 4


def test_without_isolation_programs_are_refused_and_rules_are_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(redteam, "attempts", lambda: [NAMED["honest wrong answer, number"], NAMED["fork bomb"]])
    with pytest.raises(ValueError, match=r"cannot be shut in on this host .*apt-get install bubblewrap"):
        gate(tmp_path, "none", "zero", ZERO, {"math", "code"})
    redteam.examine.cache_clear()
    gate(tmp_path, "none", "zero", ZERO, {"math"})
    assert {finding.verifier for finding in redteam.examine("none")} == {"math"}
    redteam.examine.cache_clear()


def test_stages_that_share_a_setting_are_tried_once() -> None:
    named = {"zero": ("zero", ZERO), "reasoning": ("chat", READER), "student": ("zero", RewardWeights())}
    assert settings(named) == {("zero", ZERO): ["zero", "student"], ("chat", READER): ["reasoning"]}  # type: ignore[arg-type]


def test_the_table_shows_each_attempt() -> None:
    lines = list(
        table([Row("spray", 1.0, 2.0, "unparseable", 0.25, "held"), Row("x", 3.0, 2.0, "wrong", 1.0, "OPEN", "why")])
    )
    assert [line.split() for line in lines] == [
        ["attempt", "reward", "honest", "verdict", "time"],
        ["spray", "1.00", "2.00", "unparseable", "0.25", "s", "held"],
        ["x", "3.00", "2.00", "wrong", "1.00", "s", "OPEN:", "why"],
    ]


@pytest.mark.parametrize("isolation", ["bubblewrap", "unshare", "rlimit"])
def test_every_room_holds_what_reaches_outside(isolation: Isolation) -> None:
    if why := refusal(isolation):
        pytest.skip(why)
    for name in ("reading the tests", "a write outside", "a sleeping process left behind", "a message in a file"):
        assert rows(NAMED[name], isolation)[1].state == ("open" if isolation == "rlimit" else "held")
