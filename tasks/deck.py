"""The order in which problems are asked."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

from data.lineage import seed_of
from data.records import Problem


@dataclass(slots=True)
class Deck:
    """Problems in an order shuffled anew for every epoch, which goes on from one call to the next."""

    problems: Sequence[Problem]
    stream: Sequence[object]
    dealt: int = 0

    def deal(self, count: int) -> list[Problem]:
        """Take the next `count` problems, over the end of an epoch if need be."""
        chosen: list[Problem] = []
        while len(chosen) < count:
            epoch, offset = divmod(self.dealt, len(self.problems))
            order = list(range(len(self.problems)))
            random.Random(seed_of(*self.stream, epoch)).shuffle(order)
            part = order[offset : offset + count - len(chosen)]
            chosen += [self.problems[i] for i in part]
            self.dealt += len(part)
        return chosen
