"""The red team against a recipe's rewards: what each attempt earns, beside an honest wrong answer.

An attempt is held when it earns no more than an honest wrong answer to its problem, ends within its limit, breaks
nothing of the judge and touches nothing outside. What reaches outside is promised by a room alone: under resource
limits (`allow_rlimit`) it is shown as open, whatever came of it this time.

What was found is kept beside the artifacts, by the sources, the host and the isolation, and bears no identity.
"""

from __future__ import annotations

import hashlib
import platform
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Final, Literal, get_args

from data import workers
from data.lineage import read_json, sha256_of, write_json
from data.lock import locked
from data.prompts import Parts, Template
from data.records import Status, Verdict
from data.redteam import Attempt, Kind, attempts, bait
from data.sandbox import Isolation, refuse
from data.verifiers import verify_all
from tasks.rewards import RewardWeights, reading, reward

State = Literal["held", "OPEN", "open", "right"]
"""`open` is not promised in this isolation; `right` is an honest right answer that was taken for one."""

TIMEOUT_S: Final = 0.5  # for a cheat; an honest answer has ten times as much
LIMIT_S: Final = 12.0  # from the question to the verdict, the start of a jail on a busy machine included
WORKERS: Final = 2
_ROOT = Path(__file__).resolve().parent.parent
_SOURCES = ("data/*.py", "data/jail/*.py", "tasks/redteam.py", "tasks/rewards.py")


@dataclass(frozen=True, slots=True)
class Finding:
    """What became of one attempt under one template; `touched` names what it did outside."""

    name: str
    kind: Kind
    problem: str
    verifier: str
    template: Template
    status: Status
    reason: str
    well_formed: bool
    consistency: float | None
    seconds: float
    touched: str


@dataclass(frozen=True, slots=True)
class Row:
    """One attempt under one setting of the rewards."""

    name: str
    reward: float
    honest: float
    status: Status
    seconds: float
    state: State
    why: str = ""


@cache
def examine(isolation: Isolation) -> tuple[Finding, ...]:
    """Make every attempt under every template, once a process; some seconds. Without isolation no program is run."""
    chosen = [each for each in attempts() if isolation != "none" or each.problem.verifier != "code"]
    with ThreadPoolExecutor(WORKERS) as pool:
        list(pool.map(_load, range(WORKERS)))
        found = list(pool.map(lambda attempt: examined(attempt, isolation), chosen))
    return tuple(finding for each in found for finding in each)


def _load(_: int) -> None:
    """Have workers that have loaded their libraries, which is no time of an attempt's."""
    workers.compare("x", "x", LIMIT_S)
    workers.score("chain_sum", "1", {"answer": "1", "metadata": {}}, LIMIT_S)


def examined(attempt: Attempt, isolation: Isolation) -> list[Finding]:
    """The findings of one attempt; where templates leave the same answer, it is judged once."""
    judged: dict[str | None, tuple[Verdict, float]] = {}
    findings = []
    timeout_s = TIMEOUT_S * (10 if attempt.kind in ("right", "wrong") else 1)
    with bait() as laid:
        placed = laid.placed(attempt)
        for template in get_args(Template):
            *before, text = placed.completions(template)
            begun = time.monotonic()
            parts, language = reading(text, template, placed.problem.language)
            if parts.answer not in judged:
                jobs = [(placed.problem, each) for each in (*before, text)]
                found = verify_all(jobs, template, workers=1, timeout_s=timeout_s, isolation=isolation)
                judged[parts.answer] = found[-1], time.monotonic() - begun
            verdict, seconds = judged[parts.answer]
            findings.append(Finding(
                attempt.name, attempt.kind, attempt.problem.key, attempt.problem.verifier, template, verdict.status,
                verdict.reason[:200], parts.well_formed, language.ratio if language else None,
                round(seconds, 3), laid.touched(),
            ))  # fmt: skip
    return findings


def judge(findings: Sequence[Finding], template: Template, weights: RewardWeights, isolation: Isolation) -> list[Row]:
    """What the attempts earn under one setting, and whether they are held."""
    here = [finding for finding in findings if finding.template == template]
    honest = {finding.problem: _earned(finding, weights) for finding in here if finding.kind == "wrong"}
    return [_row(each, _earned(each, weights), honest[each.problem], isolation) for each in here]


def _earned(finding: Finding, weights: RewardWeights) -> float:
    verdict = Verdict(finding.status)
    return reward(Parts(None, None, finding.well_formed), verdict, finding.consistency, None, weights).total


def _row(finding: Finding, earned: float, honest: float, isolation: Isolation) -> Row:
    state: State = "held"
    why = ""
    if finding.kind == "right":
        state = "right" if finding.status == "correct" else "OPEN"
        why = "" if finding.status == "correct" else f"a right answer was not taken: {finding.reason}"
    elif finding.kind == "outside" and isolation == "rlimit":
        state = "open"
        why = f"not promised by resource limits; {finding.touched or finding.reason or 'refused this time'}"
    else:
        faults = {
            "earns more than an honest wrong answer": earned > honest,
            f"breaks the judge: {finding.reason}": finding.status == "infra_error",
            f"outlives its limit of {LIMIT_S:g} s": finding.seconds > LIMIT_S,
            f"touched {finding.touched}": bool(finding.touched),
        }
        why = "; ".join(fault for fault, found in faults.items() if found)
        state = "OPEN" if why else "held"
    return Row(finding.name, earned, honest, finding.status, finding.seconds, state, why)


def known(runs: Path, isolation: Isolation) -> list[Finding]:
    """What was found on this host with these sources, or found now and kept."""
    path = runs / ".redteam" / f"{_key(isolation)}.json"
    with locked(runs / ".redteam.lock"):
        if not path.is_file():
            keep(runs, isolation, examine(isolation))
        return [Finding(**finding) for finding in read_json(path)["findings"]]


def keep(runs: Path, isolation: Isolation, findings: Sequence[Finding]) -> None:
    """Keep what was found beside the artifacts."""
    path = runs / ".redteam" / f"{_key(isolation)}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, {"isolation": isolation, "findings": [asdict(finding) for finding in findings]})


def _key(isolation: Isolation) -> str:
    """Names the rewards' sources and the host."""
    files = [path for pattern in _SOURCES for path in sorted(_ROOT.glob(pattern))]
    host = [platform.node(), platform.release(), platform.python_version(), isolation]
    return hashlib.sha256("\n".join([*map(sha256_of, files), *host]).encode()).hexdigest()[:16]


def gate(
    runs: Path, isolation: Isolation, template: Template, weights: RewardWeights, verifiers: Collection[str]
) -> None:
    """Raise ValueError where an attempt at one of the verifiers gets through, or programs cannot be shut in."""
    if "code" in verifiers and isolation == "none":
        raise ValueError(refuse())
    findings = [finding for finding in known(runs, isolation) if finding.verifier in verifiers]
    through = [row for row in judge(findings, template, weights, isolation) if row.state == "OPEN"]
    if through:
        first = through[0]
        more = f", and {len(through) - 1} more" if len(through) > 1 else ""
        raise ValueError(f"the red team got through: {first.name}: {first.why}{more}; `r1 redteam RECIPE` shows all")


def table(rows: Sequence[Row]) -> Iterator[str]:
    """Rows as lines of text."""
    width = max(len(row.name) for row in rows)
    yield f"{'attempt':<{width}}  reward  honest  {'verdict':<11}  {'time':>7}"
    for row in rows:
        line = f"{row.name:<{width}}  {row.reward:>6.2f}  {row.honest:>6.2f}  {row.status:<11}  {row.seconds:>5.2f} s"
        yield f"{line}  {row.state}{': ' + row.why if row.why else ''}"


def settings(named: Mapping[str, tuple[Template, RewardWeights]]) -> dict[tuple[Template, RewardWeights], list[str]]:
    """The names of the stages that share a setting of the rewards."""
    shared: dict[tuple[Template, RewardWeights], list[str]] = {}
    for name, (template, weights) in named.items():
        own = RewardWeights(**{field: getattr(weights, field) for field in RewardWeights.model_fields})
        shared.setdefault((template, own), []).append(name)
    return shared
