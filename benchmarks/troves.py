"""datatrove's pipeline over trajectories, in a process of its own, whose packages are not the project's.

    PYTHONPATH=SITE python benchmarks/troves.py FOLDER MODEL WORKERS

`FOLDER/en` and `FOLDER/zh` hold Parquet files with the columns `id` and `text`, `FOLDER/evaluation.json` the texts of
evaluation problems by language; MODEL is fastText's `lid.176`. Each language goes through language identification,
Gopher's repetition filter, C4's quality filter, decontamination by 10-grams and MinHash deduplication, as datatrove's
own examples put them together. What stays, and why the rest does not, is written below FOLDER; the last line printed is
JSON: seconds by step, and for each reason the ids.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from datatrove.executor import LocalPipelineExecutor
from datatrove.pipeline.decont.n_grams import NGramsDecontConfig, NGramsDecontFilter
from datatrove.pipeline.dedup import MinhashDedupBuckets, MinhashDedupCluster, MinhashDedupFilter, MinhashDedupSignature
from datatrove.pipeline.dedup.minhash import MinhashConfig
from datatrove.pipeline.filters import C4QualityFilter, GopherRepetitionFilter, LanguageFilter
from datatrove.pipeline.readers import JsonlReader, ParquetReader
from datatrove.pipeline.writers.jsonl import JsonlWriter
from datatrove.utils.text import ngrams, simplify_text

NGRAM = 10
NAMES = {"en": "eng", "zh": "zho_Hani"}  # what datatrove calls the languages where it takes words apart


def main() -> None:
    """Run everything and print what it took."""
    folder, model, workers = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
    texts = json.loads((folder / "evaluation.json").read_text(encoding="utf-8"))
    took: dict[str, float] = {}
    dropped: dict[str, list[str]] = {}
    for language, name in NAMES.items():
        place = folder / language
        if not list(place.glob("*.parquet")):
            continue
        for step, pipeline in steps(place, language, name, model, texts[language]).items():
            tasks = {"buckets": MinhashConfig().num_buckets, "cluster": 1}.get(step, workers)
            begun = time.perf_counter()
            LocalPipelineExecutor(
                pipeline, tasks=tasks, workers=workers, logging_dir=str(place / "logs" / step), skip_completed=False
            ).run()
            took[f"{language} {step}"] = time.perf_counter() - begun
        for reason in ("language", "repetition", "c4", "contaminated", "duplicate"):
            dropped.setdefault(reason, []).extend(ids(place / reason))
    print(json.dumps({"seconds": took, "dropped": dropped}))


def steps(place: Path, language: str, name: str, model: str, texts: Sequence[str]) -> Mapping[str, list[Any]]:
    """Pipelines by name, in order."""
    where = {part: str(place / part) for part in ("filtered", "index", "signatures", "buckets", "clusters", "out")}
    excluded = {part: JsonlWriter(str(place / part), compression=None) for part in ("language", "repetition", "c4")}
    known = LanguageFilter([language], exclusion_writer=excluded["language"])
    known.model.MODEL_URL = model
    seen = NGramsDecontFilter(
        where["index"],
        NGramsDecontConfig(n_grams=NGRAM),
        JsonlWriter(str(place / "contaminated"), compression=None),
        language=name,
    )
    write_index(seen, Path(where["index"]), texts)
    return {
        "filters": [
            ParquetReader(str(place), glob_pattern="*.parquet"),
            known,
            GopherRepetitionFilter(exclusion_writer=excluded["repetition"], language=name),
            C4QualityFilter(
                exclusion_writer=excluded["c4"],
                filter_no_terminal_punct=False,
                filter_curly_bracket=False,
                language=name,
            ),
            seen,
            JsonlWriter(where["filtered"], compression=None),
        ],
        "signatures": [JsonlReader(where["filtered"]), MinhashDedupSignature(where["signatures"], language=name)],
        "buckets": [MinhashDedupBuckets(where["signatures"], where["buckets"])],
        "cluster": [MinhashDedupCluster(where["buckets"], where["clusters"])],
        "duplicates": [
            JsonlReader(where["filtered"]),
            MinhashDedupFilter(where["clusters"], JsonlWriter(str(place / "duplicate"), compression=None)),
            JsonlWriter(where["out"], compression=None),
        ],
    }


def write_index(seen: NGramsDecontFilter, folder: Path, texts: Sequence[str]) -> None:
    """Hashes of all 10-grams of texts, in the form of datatrove's indexer, which takes its own tasks only."""
    found = set()
    for text in texts:
        tokens = seen.tokenizer.word_tokenize(simplify_text(text, seen.config.norm_config))
        found.update(seen.hash_func(" ".join(each)) for each in ngrams(tokens, NGRAM))
    folder.mkdir(parents=True, exist_ok=True)
    hashes = np.array(sorted(found), dtype=seen.config.hash_config.np_descr)
    hashes.tofile(folder / "evaluation.index.hashes")


def ids(folder: Path) -> list[str]:
    """The ids that a writer wrote."""
    return [json.loads(line)["id"] for path in sorted(folder.rglob("*.jsonl")) for line in path.open(encoding="utf-8")]


if __name__ == "__main__":
    main()
