"""fastText's odds of another language for a few words, in machine code, from what it adds up of each word.

The hidden layer of fastText is the mean of the vectors of all words' parts, and a word's parts hang on the word
alone: so of a word only the sum of their vectors and their number is kept. A language is a leaf of a binary tree,
each turn on the way to it decided by one product with the hidden layer.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any, Final, NamedTuple

import numpy as np
from numba import njit

from data.language import FLOOR, PRIOR, detector, written_in

SLOTS: Final = 1 << 18
MOST: Final = SLOTS // 2  # words
PENDING: Final = -1.0
NEAR: Final = 1e-5  # how far probabilities here may be from fastText's, at most
_ADDED: Final = 1e-5  # fastText adds it to each turn's probability
_END: Final = "</s>"  # stands at the end of every line


class Tree(NamedTuple):
    """fastText's tree of languages; inner nodes come after the leaves, the root last.

    `path` and `turns` lead from the target's leaf to the root, 1 for right and -1 for left; `sides` (inner, 2) are
    the nodes to the left and right, `weights` (inner, D) decide. `like` says of each leaf whether it is another
    language of the target's script. `end` (D + 1) is what the end of a line adds.
    """

    target: int
    path: Any
    turns: Any
    sides: Any
    weights: Any
    like: Any
    end: Any


class Odds:
    """What fastText thinks of words: `keys` hold the hashes of those that were asked about in open slots, `sums`
    (slots, D + 1) their parts' vectors added up and how many they are, `PENDING` while they are not known yet."""

    def __init__(self, language: str, script: str) -> None:
        labels, counts = detector().get_labels(include_freq=True)
        names = [label.removeprefix("__label__") for label in labels]
        weights = np.array(detector().f.getOutputMatrix(), np.float64)
        self._part = lru_cache(1 << 16)(lambda part: np.array(detector().get_input_vector(part), np.float64))
        self._size = weights.shape[1]
        sides = _sides(counts)
        target = names.index(language)
        path, turns = _path(sides, target)
        like = np.array([name != language and written_in(name) == script for name in names])
        self.tree = Tree(target, path, turns, sides, weights, like, self._added(_END))
        self.keys, self.sums, self.words = np.zeros(0, np.uint64), np.zeros((0, 0)), 0
        self.clear()

    def clear(self) -> None:
        """Forget all words."""
        self.keys = np.zeros(SLOTS, np.uint64)
        self.sums = np.zeros((SLOTS, self._size + 1), np.float32)
        self.words = 0

    def learn(self, slots: Sequence[int], words: Sequence[str]) -> None:
        """Fill the slots of words that were asked about."""
        for slot, word in zip(slots, words, strict=True):
            self.sums[slot] = self._added(word)
        self.words += len(words)

    def _added(self, word: str) -> Any:
        parts = detector().get_subwords(word)[1].tolist()
        return np.array([*sum(map(self._part, parts), np.zeros(self._size)), len(parts)])


def _sides(counts: Sequence[int]) -> Any:
    """(nodes to the left, to the right) of each inner node: the Huffman tree of fastText, `counts` falling."""
    leaves = len(counts)
    weights = [*map(int, counts), *[10**15] * (leaves - 1)]
    sides = []
    leaf, node = leaves - 1, leaves
    for parent in range(leaves, len(weights)):
        pair = []
        for _ in range(2):
            if leaf >= 0 and weights[leaf] < weights[node]:
                pair.append(leaf)
                leaf -= 1
            else:
                pair.append(node)
                node += 1
        weights[parent] = weights[pair[0]] + weights[pair[1]]
        sides.append(pair)
    return np.array(sides)


def _path(sides: Any, node: int) -> tuple[Any, Any]:
    """(inner nodes from a leaf to the root, 1 where it is to the right and -1 to the left)."""
    path, turns = [], []
    while len(found := np.argwhere(sides == node)):
        (inner, side) = found[0].tolist()
        path.append(inner)
        turns.append(2 * side - 1)
        node = inner + len(sides) + 1
    return np.array(path), np.array(turns)


@njit(cache=True)  # type: ignore[untyped-decorator, unused-ignore]
def slot_of(key, keys):  # type: ignore[no-untyped-def]
    """The slot that holds a hash, or would hold it."""
    mask = np.uint64(len(keys) - 1)
    slot = (key >> np.uint64(20)) & mask
    while keys[slot] != 0 and keys[slot] != key:
        slot = (slot + np.uint64(1)) & mask
    return np.int64(slot)


@njit(cache=True)  # type: ignore[untyped-decorator, unused-ignore]
def hide(slots, first, last, sums, tree, hidden):  # type: ignore[no-untyped-def]
    """Write the hidden layer for the words in a few slots."""
    hidden[:] = tree.end
    for at in range(first, last):
        for each in range(len(hidden)):
            hidden[each] += sums[slots[at], each]
    hidden /= hidden[-1]


@njit(cache=True)  # type: ignore[untyped-decorator, unused-ignore]
def probability(hidden, tree):  # type: ignore[no-untyped-def]
    """fastText's probability of the target."""
    found = 1.0
    for each in range(len(tree.path)):
        found *= _right(hidden, tree, tree.path[each], tree.turns[each])
    return found


@njit(cache=True)  # type: ignore[untyped-decorator, unused-ignore]
def _right(hidden, tree, inner, sign):  # type: ignore[no-untyped-def]
    value = 0.0
    for each in range(tree.weights.shape[1]):
        value += hidden[each] * tree.weights[inner, each]
    return 1 / (1 + np.exp(-sign * value)) + _ADDED


@njit(cache=True)  # type: ignore[untyped-decorator, unused-ignore]
def likeliest(hidden, tree, chances):  # type: ignore[no-untyped-def]
    """(log odds of the likeliest other language less `PRIOR`, that language, whether they are sure) as
    `data.language` asks fastText for them: among the three likeliest languages. `chances` is for work.

    They are sure where no two languages lie nearer to each other than `NEAR` that it makes a difference for.
    """
    inner = len(tree.sides)
    chances[:] = 0.0
    chances[2 * inner] = 1.0
    for node in range(inner - 1, -1, -1):
        here = chances[node + inner + 1]
        if here > FLOOR / 2:
            right = _right(hidden, tree, node, 1)
            chances[tree.sides[node, 0]] = here * (1 - right + 2 * _ADDED)
            chances[tree.sides[node, 1]] = here * right
    ranked = [0, 0, 0, 0]
    for place in range(4):
        best = -1
        for leaf in range(inner + 1):
            taken = False
            for before in range(place):
                taken |= ranked[before] == leaf
            if not taken and (best < 0 or chances[leaf] > chances[best]):
                best = leaf
        ranked[place] = best
    own = other = FLOOR
    name, sure = tree.target, True
    for place in range(3):
        leaf = ranked[place]
        chance = chances[leaf]
        if leaf == tree.target:
            own = max(own, chance)
        elif tree.like[leaf] and chance > other:
            other, name = chance, leaf
            sure = chance - FLOOR > NEAR and sure
        elif tree.like[leaf]:
            sure = sure and other - chance > NEAR
    third, fourth = chances[ranked[2]], chances[ranked[3]]
    if third - fourth < NEAR and third > FLOOR - NEAR:
        sure = False
    return np.log(other / own) - PRIOR, name, sure
