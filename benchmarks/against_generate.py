"""An evaluation beside `generate` of transformers: python -m benchmarks.against_generate [tiny]

500 problems x 16 samples of up to 256 tokens at temperature 0.6 and top-p 0.95, as the paper measures, by
SmolLM2-135M on one GPU. Ours judges every answer too; `generate` has bfloat16 weights, prompts of similar length
together and the largest of some batches that is fastest. `tiny` is a small model and few tokens, which any machine
does, and keeps no figures.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from benchmarks.results import paired, record
from benchmarks.sampler import copy_bandwidth
from benchmarks.shapes import PACKAGES, device
from benchmarks.small import Work, peer, problems, write_base
from data.prompts import render
from tasks.rewards import RewardWeights
from tasks.rollout import Sampling, Speaker, rollout, speaker_in

PROBLEMS, SAMPLES, TOKENS = 500, 16, 256
BATCHES = (512, 1024, 2048)
DRAWN: dict[str, Any] = {"temperature": 0.6, "top_p": 0.95}


class Generating:
    """`generate` on prompts of similar length at a time; counts its tokens, those after an end left out."""

    def __init__(self, folder: Path, where: str, texts: Sequence[str], rows: int) -> None:
        self.model, self.tokenizer = peer(folder, where)
        self.texts = sorted(texts, key=lambda text: len(self.tokenizer(text).input_ids))
        self.rows, self.tokens, self.where = rows, 0, where

    def __call__(self, limit: int, most: int | None = None) -> None:
        """Complete all prompts, or as many as `most`, by up to `limit` tokens."""
        self.tokens, at_once = 0, max(1, self.rows // SAMPLES)
        end = self.model.generation_config.eos_token_id
        for begin in range(0, len(self.texts[:most]), at_once):
            given = self.tokenizer(
                self.texts[:most][begin : begin + at_once],
                return_tensors="pt",
                padding=True,
                return_token_type_ids=False,
            ).to(self.where)
            with torch.inference_mode():
                out = self.model.generate(
                    **given, max_new_tokens=limit, do_sample=True, top_k=0, num_return_sequences=SAMPLES, **DRAWN,
                    pad_token_id=self.tokenizer.pad_token_id,
                )[:, given.input_ids.shape[1] :]  # fmt: skip
            ended = (out == end).int()
            self.tokens += int((ended.cumsum(1) - ended == 0).sum())

    def fit(self) -> None:
        """Settle on the batch that makes most tokens a second."""
        found: dict[int, float] = {}
        for self.rows in BATCHES:
            try:
                self(4, self.rows // SAMPLES)
                begun = time.perf_counter()
                self(64, self.rows // SAMPLES)
                found[self.rows] = self.tokens / (time.perf_counter() - begun)
            except torch.OutOfMemoryError:
                torch.cuda.empty_cache()
        self.rows = max(found, key=lambda rows: found[rows])
        print("generate, tokens/s by rows at once:", {rows: round(speed) for rows, speed in found.items()}, flush=True)


class Evaluating:
    """Our rollout, as an evaluation draws and judges it."""

    def __init__(self, speaker: Speaker, count: int) -> None:
        self.speaker, self.asked, self.lengths = speaker, problems(count), [0]

    def __call__(self, limit: int) -> None:
        """Sample and judge all problems."""
        sampling = Sampling(template="zero", num_generations=SAMPLES, max_completion_length=limit, **DRAWN)
        groups = rollout(self.speaker, self.asked, sampling, RewardWeights(), stream=("evaluate",))
        self.lengths = [len(each.completion.ids) for group in groups for each in group]


def main(wanted: list[str]) -> None:
    where = "cuda" if torch.cuda.is_available() else "cpu"
    tiny = "tiny" in wanted or where == "cpu"
    count, limit = (8, 6) if tiny else (PROBLEMS, TOKENS)
    texts = [render(each.prompt, "zero") for each in problems(count)]
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / "base"
        base = write_base(folder, tiny)
        ours = Evaluating(speaker_in(folder, where), count)
        theirs = Generating(folder, where, texts, 64)
        if where == "cuda":
            theirs.fit()
        ours(8 if tiny else 64), theirs(2, 4)
        a, b, ratio = paired(lambda: ours(limit), lambda: theirs(limit), rounds=1 if tiny else 2)
    made = sum(ours.lengths)
    print(f"{base}: ours {a:.2f} s for {made} tokens, generate {b:.2f} s for {theirs.tokens}, ratio {ratio:.2f}")
    if tiny:
        return
    prompt = sum(len(theirs.tokenizer(text).input_ids) for text in texts) / len(texts)
    rows = count * SAMPLES
    what = f"evaluation beside generate, {base}, {PROBLEMS} x {SAMPLES}, {TOKENS} new tokens"
    named: dict[str, Any] = {"device": device(), "packages": PACKAGES}
    record(what, a, b, ratio=ratio, unit="s", goal="generate >= 5x ours", **named)
    record(f"{what}, tokens", made / a, theirs.tokens / b, unit="tokens/s", goal="reported", **named)
    work = Work(rows, prompt, made / rows, max(ours.lengths), theirs.model.config)
    record(f"{what}, share of the copy bandwidth", 100 * work.moved / a / copy_bandwidth(), unit="%",
           goal="reported", **named)  # fmt: skip


if __name__ == "__main__":
    main(sys.argv[1:])
