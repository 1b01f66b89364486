"""A GRPO step beside TRL's GRPOTrainer: python -m benchmarks.against_trl [settings of TRL; one is paired at once]

Both train SmolLM2-135M on one device in one process, a step each in turn: 32 prompts x 16 completions of up to 256
tokens, one update, no reference model. TRL has bfloat16 weights on a GPU and the fastest of `SETTINGS` that runs; its
reward is a comparison of numbers. Ours has float32 masters, and judges every answer by the project's verifiers.
`tiny` is a small model and few tokens, which any machine does, and keeps no figures.
"""

from __future__ import annotations

import gc
import re
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import torch
from transformers import TrainerCallback

from benchmarks.results import record
from benchmarks.sampler import copy_bandwidth
from benchmarks.shapes import PACKAGES, device
from benchmarks.small import PEAK, Work, peer, problems, write_base
from data.prompts import render
from data.records import Problem
from tasks.grpo import GRPOConfig, classroom, learner, train
from tasks.rollout import speaker_in

GROUP = 16
RATE = 1e-6


@dataclass(frozen=True, slots=True)
class Size:
    """Of a step: prompts, and the most tokens of a completion."""

    prompts: int
    tokens: int


WHOLE, TINY = Size(32, 256), Size(2, 8)
SETTINGS: dict[str, dict[str, Any]] = {
    "continuous-64": {"use_transformers_continuous_batching": True, "per_device_train_batch_size": 64},
    "dynamic-64": {"per_device_train_batch_size": 64},
    "static-64": {"cache_implementation": "static", "per_device_train_batch_size": 64},
    "dynamic-128": {"per_device_train_batch_size": 128},
    "compiled-64": {"torch_compile": True, "per_device_train_batch_size": 64},
}
"""How TRL samples, and rows of a pass; those of `COSTLY` are tried only where they are named."""
COSTLY = ("compiled-64",)
NUMBER = re.compile(r"-?\d+")


def finish() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


class Trl:
    """GRPOTrainer, its steps timed."""

    def __init__(self, folder: Path, asked: Sequence[Problem], where: str, steps: int, size: Size, **how: Any) -> None:
        from datasets import Dataset
        from trl import GRPOConfig as Settings
        from trl import GRPOTrainer

        model, tokenizer = peer(folder, where)
        rows = min(how.pop("per_device_train_batch_size"), size.prompts * GROUP)
        self.lengths: list[list[int]] = []
        self.generating = 0.0
        settings = Settings(
            output_dir=str(folder.parent / "trl"), max_steps=steps, num_generations=GROUP, temperature=1.0, top_p=1.0,
            top_k=0, max_completion_length=size.tokens, beta=0.0, learning_rate=RATE, lr_scheduler_type="constant",
            per_device_train_batch_size=rows, gradient_accumulation_steps=size.prompts * GROUP // rows,
            gradient_checkpointing=False, bf16=where == "cuda", use_cpu=where == "cpu", report_to="none",
            save_strategy="no", logging_steps=10_000, disable_tqdm=True, shuffle_dataset=False, **how,
        )  # fmt: skip
        data = Dataset.from_list([
            {"prompt": render(each.prompt, "zero"), "solution": str(each.solution)} for each in asked
        ])  # fmt: skip
        self.trainer = GRPOTrainer(
            model=model, reward_funcs=self._rewards, args=settings, train_dataset=data, processing_class=tokenizer
        )
        generate = self.trainer._generate

        def timed(*args: Any, **kwargs: Any) -> Any:
            finish()
            begun = time.perf_counter()
            found = generate(*args, **kwargs)
            finish()
            self.generating += time.perf_counter() - begun
            return found

        self.trainer._generate = timed

    def _rewards(self, completions: list[str], completion_ids: list[Any], solution: list[str], **_: Any) -> list[float]:
        self.lengths.append([len(each) for each in completion_ids])
        last = [(NUMBER.findall(each) or [""])[-1] for each in completions]
        return [float(found == wanted) for found, wanted in zip(last, solution, strict=True)]

    def run(self, between: Iterator[Any] | None = None) -> list[tuple[float, float]]:
        """Take all steps; returns seconds of each and of sampling in it. `between` goes on once after each."""
        times: list[tuple[float, float]] = []

        class Clock(TrainerCallback):
            begun = sampled = 0.0

            def on_step_begin(inner, *_: Any, **__: Any) -> None:
                finish()
                inner.begun, inner.sampled = time.perf_counter(), self.generating

            def on_step_end(inner, *_: Any, **__: Any) -> None:
                finish()
                times.append((time.perf_counter() - inner.begun, self.generating - inner.sampled))
                if between is not None:
                    next(between)

        self.trainer.add_callback(Clock())
        self.trainer.train()
        return times


def ours(folder: Path, asked: Sequence[Problem], where: str, steps: int, size: Size, kept: list[Any]) -> Iterator[None]:
    """A step of ours each time; keeps seconds and metrics of each."""
    config = GRPOConfig(
        template="zero", max_steps=steps, prompts_per_step=size.prompts, num_generations=GROUP, steps_per_generation=1,
        max_completion_length=size.tokens, beta=0.0, learning_rate=RATE, temperature=1.0, save_steps=1,
        ref_model_sync_steps=1,
    )  # fmt: skip
    steps_of = train(learner(speaker_in(folder, where), config, where), classroom(config, asked, [], None))
    for _ in range(steps):
        begun = time.perf_counter()
        _, metrics, _ = next(steps_of)
        finish()
        kept.append((time.perf_counter() - begun, metrics))
        yield


def free() -> None:
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def fastest(folder: Path, asked: Sequence[Problem], where: str, size: Size, names: Sequence[str]) -> str:
    """The setting of TRL whose second step takes the least; what does not run is told and left out."""
    found: dict[str, float] = {}
    for name in names:
        try:
            found[name] = Trl(folder, asked, where, 2, size, **SETTINGS[name]).run()[-1][0]
            print(f"TRL, {name}: {found[name]:.2f} s a step", flush=True)
        except Exception as error:
            print(f"TRL, {name}: does not run here: {str(error).splitlines()[:1]}", flush=True)
        free()
    if not found:
        raise RuntimeError("TRL runs by none of its settings")
    return min(found, key=lambda name: found[name])


def step(names: Sequence[str], tiny: bool) -> None:
    """Pair the steps, the first of each left out."""
    rounds = 1 if tiny else 5
    where, size = "cuda" if torch.cuda.is_available() else "cpu", TINY if tiny else WHOLE
    asked = problems(size.prompts * (rounds + 1))
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / "base"
        base = write_base(folder, tiny)
        best = names[0] if len(names) == 1 else fastest(folder, asked, where, size, names)
        theirs, kept = Trl(folder, asked, where, rounds + 1, size, **SETTINGS[best]), []
        times = theirs.run(ours(folder, asked, where, rounds + 1, size, kept))
    own = kept[1:]
    a, b = median(each for each, _ in own), median(each for each, _ in times[1:])
    ratio = median(their / our for (our, _), (their, _) in zip(own, times[1:], strict=True))
    length = median(metrics["completions/mean_length"] for _, metrics in own)
    their_length = median(sum(each) / len(each) for each in theirs.lengths[1:])
    print(f"{base}; TRL by {best}; mean length {length:.1f}, TRL's {their_length:.1f}")
    rows = size.prompts * GROUP
    sampling = median(metrics["sampling_time"] for _, metrics in own)
    waiting = median(metrics["verdict_wait_time"] for _, metrics in own)
    their_sampling = median(sampled for _, sampled in times[1:])
    print(f"ours: {a:.2f} s, sampling {sampling:.2f} (of it waiting for verdicts {waiting:.2f}), update "
          f"{a - sampling:.2f}; TRL: {b:.2f} s, sampling {their_sampling:.2f}")  # fmt: skip
    if tiny:
        return
    named: dict[str, Any] = {"device": device(), "packages": (*PACKAGES, "trl")}
    what = f"GRPO step beside TRL, {base}, {size.prompts} x {GROUP}, {size.tokens} new tokens"
    record(what, a, b, ratio=ratio, unit="s", goal="TRL >= 3x ours", **named)
    record(f"{what}, tokens sampled over the step", rows * length / a, rows * their_length / b,
           unit="tokens/s", goal="reported", **named)  # fmt: skip
    record(f"{what}, sampling", sampling, their_sampling, unit="s", goal="reported", **named)
    record(f"{what}, update and rest", a - sampling, b - their_sampling, unit="s", goal="reported", **named)
    tokenizer = theirs.trainer.processing_class
    prompt = sum(len(tokenizer(render(each.prompt, "zero")).input_ids) for each in asked) / len(asked)
    work = Work(rows, prompt, length, max(map(max, theirs.lengths)), theirs.trainer.model.config)
    record(f"{what}, sampling, share of the copy bandwidth", 100 * work.moved / sampling / copy_bandwidth(),
           unit="%", goal="reported", **named)  # fmt: skip
    record(f"{what}, update, share of 989 TFLOP/s", 100 * work.flops / (a - sampling) / PEAK,
           unit="%", goal="reported", **named)  # fmt: skip


def main(wanted: list[str]) -> None:
    try:
        import trl  # noqa: F401
    except ImportError:
        print("no trl here: pip install trl datasets")
        return
    tiny = "tiny" in wanted or not torch.cuda.is_available()
    names = [name for name in wanted if name != "tiny"] or [name for name in SETTINGS if name not in COSTLY]
    step(names, tiny)


if __name__ == "__main__":
    main(sys.argv[1:])
