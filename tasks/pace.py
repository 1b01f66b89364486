"""How fast a base samples and learns on this device, and what memory that takes, by a timed step of each kind.

Where stages take several processes, those time the steps together, and memory is that of the first one.
"""

from __future__ import annotations

import resource
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final, TypeVar

import numpy as np
import torch

from data.prompts import render
from data.records import Problem, Row, Trajectory
from data.sandbox import Isolation
from data.verifiers import Verifier
from model import ranks
from model.device import memory_of
from model.optim import adamw
from tasks.batch import padded_batches
from tasks.grpo import GRPOConfig, learner, update
from tasks.launch import Tell, launch
from tasks.lora import learning_in
from tasks.midtrain import PASS_TOKENS, MidtrainConfig
from tasks.rollout import Speaker, rollout
from tasks.sft import SFTConfig, Student, window_batches

ASKED: Final = 32
"""Problems of the timed rollout, of a model that is not too large for that."""
OPERATIONS: Final = {"cpu": 3e11, "cuda": 1e15}
"""Of a timed rollout or step, by kind of device; a larger model is timed on fewer answers."""
FLOAT_BYTES: Final = 4
RATE: Final = 1e-9
"""Learning rate of the timed steps, which nobody is to learn from."""

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Line:
    """Seconds of a step: so many for each step, and so many for each token in it."""

    step_s: float
    token_s: float

    def seconds(self, steps: float, tokens: float) -> float:
        """Seconds of so many steps with so many tokens altogether."""
        return steps * self.step_s + tokens * self.token_s


@dataclass(frozen=True, slots=True)
class Pace:
    """What was measured on a base: seconds a token, tokens of a prompt and of an answer, the share that is right.

    `reading` is that of mid-training, 0 where there is none. `bytes_sampling`, `bytes_tuning`, `bytes_reinforcing`
    and `bytes_reading` are the peaks of memory at the longest completions that the settings allow.
    """

    sampled_token_s: float
    tuning: Line
    reinforcing: Line
    prompt: float
    answer: float
    accuracy: float
    bytes_sampling: int
    bytes_tuning: int
    bytes_reinforcing: int
    reading: Line = Line(0.0, 0.0)
    bytes_reading: int = 0


@dataclass(frozen=True, slots=True)
class Lesson:
    """What a base is to learn by: RL, rows and, where it reads on, text."""

    reinforcing: GRPOConfig
    tuning: SFTConfig
    reading: MidtrainConfig | None = None


def measured(
    folder: Path, problems: Sequence[Problem], lesson: Lesson, device: str, isolation: Isolation, processes: int = 1
) -> Pace:
    """Time the policy of a folder as `measure` does, in as many processes as its stages will take."""
    if processes == 1:
        lora, seed = lesson.reinforcing.lora, lesson.reinforcing.seed
        return measure(learning_in(folder, device, lora, seed), problems, lesson, device, isolation)
    given = (folder, problems, lesson, device, isolation)
    found: Pace = launch(processes, device, measure_as_rank, given, lambda what, *values: None)
    return found


def measure_as_rank(
    folder: Path, problems: Sequence[Problem], lesson: Lesson, device: str, isolation: Isolation, tell: Tell
) -> Pace:
    """`measure` as one rank of several, on a GPU of its own where the device is one."""
    own = f"cuda:{ranks.rank()}" if device == "cuda" else device
    lora, seed = lesson.reinforcing.lora, lesson.reinforcing.seed
    return measure(learning_in(folder, own, lora, seed), problems, lesson, own, isolation)


def measure(speaker: Speaker, problems: Sequence[Problem], lesson: Lesson, device: str, isolation: Isolation) -> Pace:
    """Time a rollout, a step of fine-tuning, an update of RL and a step of reading on a base, which is changed by that.

    `problems` are reasoning problems. Steps are timed at a quarter of their answers and at all of them, the
    second time they are taken, and memory is that of the longest answers allowed. Raises ValueError where those
    do not fit into a GPU.
    """
    try:
        return _measured(speaker, problems, lesson, device, isolation)
    except torch.OutOfMemoryError:
        raise ValueError(
            f"a step with prompts and max_completion_length = {lesson.reinforcing.max_completion_length} does not fit "
            f"into the {memory_of(device) / 1e9:.1f} GB of {device} beside {parameters_of(speaker):,} parameters and "
            "their optimiser; a smaller max_completion_length or beta = 0 takes less"
        ) from None


def parameters_of(speaker: Speaker) -> int:
    """How many parameters a policy has."""
    return sum(each.numel() for each in speaker.model.parameters())


def _measured(speaker: Speaker, problems: Sequence[Problem], lesson: Lesson, device: str, isolation: Isolation) -> Pace:
    config = lesson.reinforcing
    _forget_peak(device)
    flat, sampling_s = _sampled(speaker, problems[: _asked(speaker, config, device)], config, device, isolation)
    generated = sum(len(each.completion.ids) for each in flat)
    prompts = _tokens(flat, speaker, config) - generated
    peak_sampling = _peak(device)
    learned = flat[: _learned(speaker, (prompts + generated) / len(flat), device)]
    tuned = _tuning(speaker, learned, config, lesson.tuning, device)
    peak_tuning = _peak(device)
    reinforced = _reinforcing(speaker, learned, config, device)
    peak_reinforcing = _peak(device)
    _forget_peak(device)
    return Pace(
        sampling_s / generated,
        tuned,
        reinforced,
        prompts / len(flat),
        generated / len(flat),
        sum(each.verdict is not None and each.verdict.status == "correct" for each in flat) / len(flat),
        peak_sampling,
        peak_tuning,
        peak_reinforcing,
        *((_reading(speaker, lesson.reading, device), _peak(device)) if lesson.reading else ()),
    )


def _asked(speaker: Speaker, config: GRPOConfig, device: str) -> int:
    """How many problems are asked: two operations a parameter and token."""
    group = 2 * parameters_of(speaker) * config.num_generations * config.max_completion_length
    return max(1, min(ASKED, int(OPERATIONS[device.partition(":")[0]] / group)))


def _learned(speaker: Speaker, tokens: float, device: str) -> int:
    """How many answers of so many tokens are learned from: six operations a parameter and token, two of a reference."""
    most = int(OPERATIONS[device.partition(":")[0]] / (8 * parameters_of(speaker) * tokens))
    return max(2 * ranks.size(), most)


def _sampled(
    speaker: Speaker, asked: Sequence[Problem], config: GRPOConfig, device: str, isolation: Isolation
) -> tuple[list[Trajectory], float]:
    """Answers with an advantage, and the seconds that sampling and judging them took."""

    def ask(tokens: int) -> list[list[Trajectory]]:
        sampling = config.sampling.model_copy(update={"max_completion_length": tokens})
        return rollout(speaker, asked, sampling, config, stream=("pace",), verifier=verifier)

    with Verifier(isolation=isolation) as verifier:
        ask(min(8, config.max_completion_length))  # warms up what is made once
        begun = time.perf_counter()
        groups = ask(config.max_completion_length)
        _finish(device)
        return [replace(each, advantage=1.0) for group in groups for each in group], time.perf_counter() - begun


def _tuning(speaker: Speaker, flat: Sequence[Trajectory], config: GRPOConfig, tuning: SFTConfig, device: str) -> Line:
    optimizer = adamw(speaker.model, lr=RATE, weight_decay=0.0, betas=(0.9, 0.95))
    student = Student(speaker, optimizer, tuning, device)
    found = _line(lambda part: _tune(student, part), flat, speaker, config, device)
    _tune(student, _longest(flat, config)[: ranks.size()])
    return found


def _reinforcing(speaker: Speaker, flat: Sequence[Trajectory], config: GRPOConfig, device: str) -> Line:
    apprentice = learner(speaker, config.model_copy(update={"learning_rate": RATE}), device)
    found = _line(lambda part: update(apprentice, part, 1), flat, speaker, config, device)
    update(apprentice, _longest(flat, config)[: 2 * ranks.size()], 1)
    return found


def _reading(speaker: Speaker, config: MidtrainConfig, device: str) -> Line:
    """Steps of one window a rank, and of as many as a timed step may have."""
    length, size = config.sequence_length, ranks.size()
    most = min(config.batch_size, max(2, _learned(speaker, length, device) // size) * size)
    few = min(most, size)
    optimizer = adamw(speaker.model, lr=RATE, weight_decay=0.0, betas=(0.9, 0.95))
    student = Student(speaker, optimizer, config, device)
    windows = np.arange(most * length).reshape(most, length) % len(speaker.model.head)

    def read(part: np.ndarray) -> None:
        student.step(window_batches(ranks.mine(part), device, PASS_TOKENS), RATE)

    read(windows[:few])
    small_s, large_s = _seconds(read, windows[:few], device), _seconds(read, windows, device)
    return _through(small_s, large_s, few * length, most * length)


def _tune(student: Student, part: Sequence[Trajectory]) -> None:
    part = ranks.mine(part)
    rows = [Row(each.id, "", "", render(each.problem.prompt, "chat"), each.completion.text, "") for each in part]
    tokenizer = student.speaker.tokenizer
    prompts = tokenizer.encode_batch([row.prompt for row in rows])
    sequences = [[*prompt, *each.completion.ids] for prompt, each in zip(prompts, part, strict=True)]
    lengths = [len(prompt) for prompt in prompts]
    student.step(list(padded_batches(sequences, lengths, pad_id=tokenizer.pad_id, device=student.device)), RATE)


def _longest(flat: Sequence[Trajectory], config: GRPOConfig) -> list[Trajectory]:
    """The same answers, repeated until they are as long as an answer may be."""
    long = []
    for each in flat:
        ids, logprobs = each.completion.ids, each.completion.logprobs
        times = -(-config.max_completion_length // len(ids))
        whole = replace(
            each.completion,
            ids=(ids * times)[: config.max_completion_length],
            logprobs=(logprobs * times)[: config.max_completion_length],
        )
        long.append(replace(each, completion=whole))
    return long


def _line(
    step: Callable[[Sequence[Trajectory]], object],
    flat: Sequence[Trajectory],
    speaker: Speaker,
    config: GRPOConfig,
    device: str,
) -> Line:
    """Fit the time of a step over its tokens, prompts among them, through a small step and a large one."""
    few = flat[: max(1, len(flat) // 4)]
    step(few)
    small_s, large_s = _seconds(step, few, device), _seconds(step, flat, device)
    return _through(small_s, large_s, *(_tokens(part, speaker, config) for part in (few, flat)))


def _through(small_s: float, large_s: float, small: int, large: int) -> Line:
    """The line through the times of a small step and a large one, of so many tokens."""
    if small == large:
        return Line(small_s, 0.0)
    token_s = max(large_s - small_s, 0.0) / (large - small)
    return Line(max(small_s - token_s * small, 0.0), token_s)


def _seconds(step: Callable[[T], object], part: T, device: str) -> float:
    """The shorter time of two."""
    times = []
    for _ in range(2):
        begun = time.perf_counter()
        step(part)
        _finish(device)
        times.append(time.perf_counter() - begun)
    return min(times)


def _tokens(part: Sequence[Trajectory], speaker: Speaker, config: GRPOConfig) -> int:
    prompts = speaker.tokenizer.encode_batch([render(each.problem.prompt, config.template) for each in part])
    return sum(map(len, prompts)) + sum(len(each.completion.ids) for each in part)


def _finish(device: str) -> None:
    """Wait for what the device was told to do."""
    if device.startswith("cuda"):
        torch.cuda.synchronize(device)


# Memory.


def _forget_peak(device: str) -> None:
    if device.startswith("cuda"):
        torch.cuda.reset_peak_memory_stats(device)


def _peak(device: str) -> int:
    """The most bytes held so far: on a GPU by tensors, on a CPU by the process."""
    if device.startswith("cuda"):
        return torch.cuda.max_memory_allocated(device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def parts_of(parameters: int, beta: float, frozen_bytes: int = 0) -> dict[str, int]:
    """Bytes of each part of an update, activations not counted: float32 throughout, AdamW with two moments.

    `parameters` are those that are trained; `frozen_bytes` have the weights that stand still beside an adapter.
    """
    whole = FLOAT_BYTES * parameters
    parts = {"weights": whole + frozen_bytes, "gradients": whole, "AdamW": 2 * whole}
    return parts | ({"reference": whole} if beta else {})


def frozen_bytes_of(speaker: Speaker) -> int:
    """Bytes of a policy's weights that are not trained."""
    return sum(each.nbytes for each in speaker.model.parameters() if not each.requires_grad)


def trained_of(speaker: Speaker) -> int:
    """How many parameters of a policy are trained."""
    return sum(each.numel() for each in speaker.model.parameters() if each.requires_grad)


def shortage(name: str, parts: Mapping[str, int], has: int, parameters: int | None = None) -> str | None:
    """Say which part needs how much where the parts are more than a device has, and what would fit; None if not.

    `parameters` are those of the policy, where not all of its weights are float32.
    """
    needed = sum(parts.values())
    if needed <= has:
        return None
    listed = ", ".join(f"{part} {size / 1e9:.1f} GB" for part, size in parts.items())
    without = needed - parts.get("reference", 0)
    if without <= has:
        remedy = f"beta = 0, which needs no reference, would fit with {without / 1e9:.1f} GB"
    else:
        parameters = parameters or parts["weights"] // FLOAT_BYTES
        remedy = f"a base of at most {int(parameters * has / without):,} parameters would fit, with beta = 0"
    sizes = f"{needed / 1e9:.1f} GB beside the activations, and the device has {has / 1e9:.1f} GB"
    return f"{name}: {listed}: {sizes}; {remedy}"
