"""A few kills of the schedule that `make chaos` runs in full."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests import chaos

pytestmark = [pytest.mark.system, pytest.mark.timeout(1800)]


def test_a_run_that_is_killed_again_and_again_makes_the_same(tmp_path: Path) -> None:
    assert chaos.main(["--kills", "6", "--seed", "1", "--folder", str(tmp_path)]) == 0


def test_the_schedule_is_spread_over_all_stages() -> None:
    stages = [{"name": f"stage{i}", "wall_s": 1.0} for i in range(35)]
    kills = chaos.schedule(stages, 50, 0)
    assert kills == chaos.schedule(stages, 50, 0)
    assert {kill.stage for kill in kills} == {stage["name"] for stage in stages}
    assert {kill.what for kill in kills} == set(chaos.WHAT)
    assert [kill.stage for kill in kills] == sorted((k.stage for k in kills), key=lambda name: int(name[5:]))
