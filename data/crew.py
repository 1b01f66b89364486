"""Who does the passes of a build: this process, several on this machine, or a Ray cluster. The result is the same."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context

from data import cluster, passes
from data.job import Job, done

Progress = Callable[[int, int], None]
"""Gets how many passes over a shard, bucket or table are done, and of how many."""


class Crew:
    """Runs a pass on all shards or buckets: on the Ray cluster at `address`, or by `workers` processes, none where
    0, as many as processors where None and there is much to do."""

    def __init__(self, job: Job, workers: int | None, address: str, on_progress: Progress | None) -> None:
        self._job, self._on_progress = job, on_progress
        if workers is None:
            workers = len(os.sched_getaffinity(0)) if job.many else 0
        self._cluster = cluster.Cluster(address, job.workspace) if address else None
        self._pool = ProcessPoolExecutor(workers, get_context("spawn")) if workers and not address else None
        self._done = 0
        shards, general = len(job.trajectories), len(job.general)
        self._total = 3 * shards + 2 * general + 4 * job.buckets + job.ranges + len(passes.TABLES)
        self._total += (shards + general) * job.set_aside

    def __enter__(self) -> Crew:
        return self

    def __exit__(self, *_: object) -> None:
        if self._pool:
            self._pool.shutdown(cancel_futures=True)
        if self._cluster:
            self._cluster.leave()

    def all(self, name: str, items: Sequence[int] | Sequence[str]) -> None:
        """Run a pass on what has not been done yet. The first error stops it."""
        todo = [item for item in items if not done(self._job, name, item)]
        self._count(len(items) - len(todo))
        for _ in self._made(name, todo):
            self._count(1)

    def _count(self, many: int) -> None:
        self._done += many
        if self._on_progress and many:
            self._on_progress(self._done, self._total)

    def _made(self, name: str, items: Sequence[int | str]) -> Iterator[None]:
        if self._cluster:
            yield from self._cluster.all(self._job, name, items)
        elif self._pool:
            try:
                for each in as_completed([self._pool.submit(passes.make, self._job, name, item) for item in items]):
                    yield each.result()
            except BrokenProcessPool:
                raise ValueError(
                    f"a process of the build was killed while it made {name}; too little memory?"
                ) from None
        else:
            for item in items:
                passes.make(self._job, name, item)
                yield
