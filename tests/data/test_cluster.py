"""The passes of a build on a Ray cluster of two worker nodes: the same bytes as without."""

import hashlib
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from random import Random

import polars as pl
import pytest

from data.build import BuildConfig, Input, build
from data.filters import Duplicate, MixedLanguage, NearDuplicate, NearDuplicatePrompt, NotCorrect, Surplus

CONFIG = BuildConfig(
    filters=[
        NotCorrect(), MixedLanguage(), Duplicate(), NearDuplicatePrompt(), NearDuplicate(), Surplus(max_per_problem=2),
    ],
    general_share=0.2,
    quotas={"chain": 20},
)  # fmt: skip


def tables(folder: Path) -> Input:
    """Trajectories in six files, the same text now and then, and general rows in two."""
    rng = Random(0)
    rows = [
        {
            "id": f"p{n // 4}/{n % 4}", "problem_id": f"p{n // 4}", "family": ("chain", "logic")[n // 4 % 2],
            "language": "en", "prompt": f"what is {n // 8} ?", "verifier": "math",
            "completion": f"<think> the sum is {rng.randrange(3)} and we see it </think> {rng.randrange(2)}",
            "finish": "stop", "verdict": "wrong" if n % 7 == 0 else "correct", "reason_detail": "", "tokens": 9 + n % 5,
        }
        for n in range(240)
    ]  # fmt: skip
    names = ("id", "family", "language", "prompt", "completion", "source")
    said = [(f"general/{n:03}", "helpful", "en", f"hi {n}", "<think> </think> hi", "writers") for n in range(60)]
    for part, frame, files in (
        ("trajectories", pl.DataFrame(rows), 6),
        ("general", pl.DataFrame(said, schema=names, orient="row"), 2),
    ):
        (folder / part).mkdir(parents=True)
        for number, piece in enumerate(frame.iter_slices(len(frame) // files)):
            piece.write_parquet(folder / part / f"{number}.parquet")
    return Input(folder / "trajectories", folder / "general")


def digests(given: Input, folder: Path, cluster: str = "") -> dict[str, str]:
    folder.mkdir()
    build(given, CONFIG, folder, folder / ".work", cluster=cluster, workers=0)
    return {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in sorted(folder.glob("*.parquet"))}


def test_an_address_where_nobody_answers(tmp_path: Path) -> None:
    pytest.importorskip("ray", reason="Ray is an extra that is not installed")
    with pytest.raises(ValueError, match="no Ray cluster at auto"):
        digests(tables(tmp_path / "in"), tmp_path / "out", "auto")


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    """That of a cluster whose head does no work and whose two nodes have a processor each."""
    pytest.importorskip("ray", reason="Ray is an extra that is not installed")
    from ray.cluster_utils import Cluster

    environment = pytest.MonkeyPatch()
    environment.setenv("PYTHONPATH", os.pathsep.join([os.getcwd(), *filter(None, sys.path)]))
    made = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    for _ in range(2):
        made.add_node(num_cpus=1)
    made.wait_for_nodes()
    yield made.address
    made.shutdown()
    environment.undo()


@pytest.mark.timeout(600)
def test_a_cluster_makes_the_same(address: str, tmp_path: Path) -> None:
    import ray

    given = tables(tmp_path / "in")
    expected = digests(given, tmp_path / "here")
    assert digests(given, tmp_path / "there", address) == expected
    assert set(expected) == {"kept.parquet", "dropped.parquet", "rows.parquet", "waterfall.parquet"}
    reasons = set(pl.read_parquet(tmp_path / "there" / "dropped.parquet")["reason"])
    assert reasons >= {"verdict", "duplicate", "over_quota"}
    assert not ray.is_initialized()


@pytest.mark.timeout(600)
def test_an_error_of_a_node_is_the_builds_own(address: str, tmp_path: Path) -> None:
    given = tables(tmp_path / "in")
    file = given.trajectories / "3.parquet"
    holed = pl.read_parquet(file).with_columns(pl.when(pl.col("id") != "p30/1").then("prompt").alias("prompt"))
    holed.write_parquet(file)
    with pytest.raises(ValueError, match=r"3\.parquet row 1: prompt is missing"):
        digests(given, tmp_path / "there", address)
    assert not list((tmp_path / "there").glob("*.parquet"))


def test_ray_is_asked_for_and_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ValueError, match=r"Ray is not installed: pip install 'r1\[ray\]'"):
        digests(tables(tmp_path / "in"), tmp_path / "out", "host:6379")
