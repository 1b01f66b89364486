"""The passes of a build on a Ray cluster, whose nodes all see the build's folders. Nothing else imports Ray.

Ray is an extra of the package, `ray`. A pass is one task; a node that dies has its passes done again elsewhere.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from data import passes
from data.job import Job


class Cluster:
    """A connection to a Ray cluster. `address` is `host:port`, or `auto` for the one of this machine.

    Raises ValueError where Ray is not installed or no cluster answers there.
    """

    def __init__(self, address: str, shared: Path) -> None:
        self._ray = _ray()
        self._mine = not self._ray.is_initialized()
        if self._mine:
            try:
                self._ray.init(address, log_to_driver=False, logging_level="error")
            except (ConnectionError, OSError, RuntimeError, ValueError) as error:
                raise ValueError(f"no Ray cluster at {address}: {str(error).partition(chr(10))[0]}") from None
        self._make = self._ray.remote(num_cpus=1, max_retries=3)(passes.make)

    def all(self, job: Job, name: str, items: Sequence[int | str]) -> Iterator[None]:
        """Run a pass on all items, as many at a time as the cluster has processors. The first error stops it."""
        told = self._ray.put(job)
        waiting = [self._make.remote(told, name, item) for item in items]
        try:
            while waiting:
                ready, waiting = self._ray.wait(waiting)
                yield from self._ray.get(ready)
        except self._ray.exceptions.RayTaskError as error:
            raise error.as_instanceof_cause() from None
        except self._ray.exceptions.RayError as error:
            raise ValueError(f"the cluster failed while it made {name}: {str(error).partition(chr(10))[0]}") from None
        finally:
            for each in waiting:
                self._ray.cancel(each)

    def leave(self) -> None:
        """Disconnect, where the connection is this object's own."""
        if self._mine:
            self._ray.shutdown()


def _ray() -> Any:
    try:
        import ray
    except ModuleNotFoundError:
        raise ValueError("a cluster is asked for, and Ray is not installed: pip install 'r1[ray]'") from None
    return ray
