"""Sandboxed programs a second on two cores, and what the start of a jail costs, in every isolation of this host.

    python -m benchmarks.sandbox

Beside it a new bare interpreter for each program (`python -I -S -c`), without any isolation: what a sandbox that
starts a process a test cannot go below.
"""

from __future__ import annotations

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from statistics import median
from typing import Final

from benchmarks.results import paired, record, seconds
from data.sandbox import Isolation, Jail, Limits, Outcome, Test, refusal, run

PROGRAM: Final = "a, b = map(int, input().split())\nprint(a + b)"
WRITER: Final = PROGRAM + "\nopen('file', 'w').write('x')"
CPP: Final = '#include <cstdio>\nint main() { int a, b; scanf("%d %d", &a, &b); printf("%d", a + b); }'
BATCH: Final = 400
WORKERS: Final = 2
ROUNDS: Final = 7
TESTS: Final = [Test(f"{number} 1", str(number + 1)) for number in range(BATCH // WORKERS)]


def batch(isolation: Isolation, program: str = PROGRAM, language: str = "python") -> None:
    """Run a program on `BATCH` inputs in jails that are started for it, one a core."""

    def work(_: int) -> None:
        outcomes = run(program, TESTS, language, Limits(), isolation)  # type: ignore[arg-type]
        assert outcomes == [Outcome("passed")] * len(TESTS)

    with ThreadPoolExecutor(WORKERS) as pool:
        list(pool.map(work, range(WORKERS)))


def fresh_interpreters() -> None:
    """The same work with a new interpreter for each input."""

    def work(_: int) -> None:
        for test in TESTS:
            command = [sys.executable, "-I", "-S", "-c", PROGRAM]
            subprocess.run(command, input=test.input.encode(), capture_output=True, check=True)

    with ThreadPoolExecutor(WORKERS) as pool:
        list(pool.map(work, range(WORKERS)))


def start(isolation: Isolation) -> None:
    """Start a jail, run an empty program, and end it."""
    with Jail(Limits(), isolation) as jail:
        jail.test("", Test("", ""))


def main() -> None:
    """Measure and record."""
    isolations: tuple[Isolation, ...] = ("bubblewrap", "unshare", "rlimit")
    for isolation in isolations:
        if why := refusal(isolation):
            print(f"{isolation} is not measured: {why}")
            continue
        ours, peer, ratio = paired(lambda chosen=isolation: batch(chosen), fresh_interpreters, ROUNDS)  # type: ignore[misc]
        record(f"sandbox/programs a second, {isolation}", BATCH / ours, BATCH / peer, unit="programs/s",
               goal="beside a new interpreter each", ratio=ratio)  # fmt: skip
        starts = [seconds(lambda chosen=isolation: start(chosen)) for _ in range(4 * ROUNDS)]  # type: ignore[misc]
        record(f"sandbox/start of a jail, {isolation}", 1000 * median(starts), unit="ms", goal="shown")
        compiled = [seconds(lambda chosen=isolation: batch(chosen, CPP, "cpp")) for _ in range(3)]  # type: ignore[misc]
        record(f"sandbox/C++ programs a second, compiled once a core, {isolation}", BATCH / median(compiled),
               unit="programs/s", goal="shown")  # fmt: skip
        if isolation != "rlimit":
            written = [seconds(lambda chosen=isolation: batch(chosen, WRITER)) for _ in range(3)]  # type: ignore[misc]
            record(f"sandbox/programs a second that write a file, {isolation}", BATCH / median(written),
                   unit="programs/s", goal="shown")  # fmt: skip


if __name__ == "__main__":
    main()
