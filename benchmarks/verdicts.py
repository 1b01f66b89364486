"""Verdicts: how many a second, that hostile answers cost their deadline and no more, and what RL waits for.

    python -m benchmarks.verdicts            # all
    python -m benchmarks.verdicts easy       # one of: easy, symbolic, hostile, step, score

The peer is math-verify as its users call it, in process: `verify(parse(gold), parse(answer))`.
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from random import Random

from benchmarks.results import paired, record, seconds
from data.prompts import written
from data.records import Problem
from data.verifiers import verify_all

PACKAGES = ("math-verify", "sympy")
DEADLINE_S = 5.0
WORKERS = 2
Job = tuple[Problem, str]


def job(gold: str, answer: str) -> Job:
    """A problem of this gold answer, and a response that boxes an answer after its thinking."""
    return Problem("p", "p", "f", "en", "question", gold, "math"), written("so", rf"the answer is \boxed{{{answer}}}.")


def easy(count: int) -> list[Job]:
    """Integers, decimals and fractions, a third of the answers wrong."""
    rng, jobs = Random(1), []
    for _ in range(count):
        a, b, off = rng.randrange(-9999, 9999), rng.randrange(2, 99), rng.random() < 1 / 3
        gold, answer = rng.choice(
            [
                (f"{a}", f"{a + off}"),
                (f"{a / 100}", f"{a / 100 + off}"),
                (f"{a}/{b}", rf"\frac{{{a + off}}}{{{b}}}" if a >= 0 else rf"-\frac{{{-a + off}}}{{{b}}}"),
                (f"{a * 1000}", f"{a * 1000 + off:,}"),
            ]
        )
        jobs.append(job(gold, answer))
    return jobs


def symbolic(count: int) -> list[Job]:
    """Expressions that only sympy can compare, all right."""
    return [job(f"x+{n}", rf"\frac{{2x+{2 * n}}}{{2}}") for n in range(1, count + 1)]


def in_process(jobs: list[Job]) -> Callable[[], int]:
    """The peer on the same golds and answers; returns how many it finds equal."""
    from math_verify import parse, verify

    texts = [(rf"$\boxed{{{problem.solution}}}$", response.rpartition("</think>")[2]) for problem, response in jobs]
    return lambda: sum(verify(parse(gold), parse(answer)) for gold, answer in texts)


def correct(jobs: list[Job]) -> int:
    """How many responses are correct by our verdict."""
    return sum(verdict.status == "correct" for verdict in verify_all(jobs, "chat", workers=WORKERS))


def speed(name: str, jobs: list[Job], goal: str) -> None:
    """Verdicts a second beside math-verify's."""
    peer = in_process(jobs)
    print(f"{name}: {correct(jobs)} of {len(jobs)} correct, the peer says {peer()}")
    ours, theirs, ratio = paired(lambda: correct(jobs), peer)
    record(
        f"verdicts, {name}", len(jobs) / ours, len(jobs) / theirs,
        unit="verdicts/s", goal=goal, packages=PACKAGES, ratio=ratio,
    )  # fmt: skip


def hostile() -> None:
    """100 answers that keep sympy busy for minutes, spread among 1,000 right ones that need sympy too."""
    rng = Random(2)
    good, bad = symbolic(1000), [job("x+y+z+w", rf"(x+y+z+w)^{{100}}+{n}") for n in range(1, 101)]
    jobs = good + bad
    rng.shuffle(jobs)
    correct(good[:WORKERS])  # the workers have loaded sympy
    verdicts = []
    took = seconds(lambda: verdicts.extend(verify_all(jobs, "chat", workers=WORKERS, timeout_s=DEADLINE_S)))
    statuses = [verdict.status for verdict in verdicts]
    bound = DEADLINE_S * len(bad) / WORKERS
    device = f"{WORKERS} workers, deadline {DEADLINE_S} s"
    record("verdicts, right among hostile", statuses.count("correct"), unit="of 1000", goal="= 1000", device=device)
    record("verdicts, hostile timed out", statuses.count("timeout"), unit="of 100", goal="= 100", device=device)
    record(
        "verdicts, time with hostile", took, bound, unit="s", goal="<= 1.2 x deadline x hostile / workers",
        device=device, packages=PACKAGES,
    )  # fmt: skip


def step() -> None:
    """What the steps of R1-Zero at miniature scale wait for verdicts, and what these cost beside the sampling."""
    import torch

    from data.problems import generate
    from flows.recipe import load
    from tasks.grpo import classroom, learner, train
    from tasks.rollout import speaker_in

    torch.set_num_threads(2)
    recipe = load("micro", ())
    problems = list(generate(recipe.problems.families, 600, 1, "train"))
    config = recipe.zero.model_copy(update={"max_steps": 12})
    assert recipe.base.path is not None
    student = learner(speaker_in(recipe.base.path, "cpu"), config, "cpu")
    rollouts = [dict(metrics) for _, metrics, flat in train(student, classroom(config, problems, [], None)) if flat]
    totals = {name: sum(each[name] for each in rollouts[1:]) for name in rollouts[0] if name.endswith("_time")}
    print({name: round(value, 3) for name, value in totals.items()})
    record(
        "verdicts, share of sampling that waits for them", totals["verdict_wait_time"] / totals["sampling_time"],
        totals["verdict_time"] / totals["sampling_time"], unit="of the sampling time (peer: their whole cost)",
        goal="<= 0.1", packages=("torch",),
    )  # fmt: skip


def score() -> None:
    """Rows a second of `r1 score`, language consistency included."""
    from tasks.score import as_line
    from tasks.score import score as scored

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "rows.jsonl"
        thinking = "first we add the numbers, then we check the sum once more and 最后 we write it down. " * 5
        lines = [
            json.dumps({"prompt": "q", "solution": p.solution, "completion": r.replace("so", thinking, 1)})
            for p, r in easy(20_000)
        ]
        path.write_text("\n".join(lines))
        took = seconds(lambda: [as_line(line) for line in scored(path)])
    record("rows scored", len(lines) / took, unit="rows/s", goal=">= 1000")


PARTS: dict[str, Callable[[], None]] = {
    "easy": lambda: speed("easy answers", easy(2000), ">= 5x"),
    "symbolic": lambda: speed("answers for sympy", symbolic(400), ">= 1x"),
    "hostile": hostile,
    "step": step,
    "score": score,
}

if __name__ == "__main__":
    for part in sys.argv[1:] or PARTS:
        PARTS[part]()
