from __future__ import annotations

from itertools import pairwise

import pytest
import torch

from model.optim import adamw, schedule


def test_norms_and_vectors_do_not_decay(build):
    model = build()
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    optimizer = adamw(model, lr=1e-3, weight_decay=0.1)
    decay = {names[id(p)]: group["weight_decay"] for group in optimizer.param_groups for p in group["params"]}
    assert decay.keys() == set(names.values())
    for name, value in decay.items():
        assert value == (0.0 if "norm" in name else 0.1), name


def test_frozen_parameters_are_left_out(build):
    model = build()
    model.lm_head.weight.requires_grad_(False)
    held = [p for group in adamw(model, lr=1e-3).param_groups for p in group["params"]]
    assert not any(p is model.lm_head.weight for p in held)


def test_a_step_of_adamw_moves_each_weight_by_the_rate(build):
    model = build(first_k_dense_replace=3)
    before = {name: parameter.clone() for name, parameter in model.named_parameters()}
    optimizer = adamw(model, lr=1e-3, weight_decay=0.0)
    model(torch.arange(60)[None]).square().sum().backward()
    optimizer.step()
    for name, parameter in model.named_parameters():
        moved = (parameter - before[name])[parameter.grad.abs() > 1e-4]
        torch.testing.assert_close(moved.abs(), torch.full_like(moved, 1e-3), atol=1e-5, rtol=1e-2)


def rates(kind, steps, **changes):
    settings = {"peak": 1.0, "final": 0.1, "warmup": 4, "kind": kind, **changes}
    return [schedule(step, steps, **settings) for step in range(steps)]


def test_warmup_rises_in_equal_steps_to_the_peak():
    assert rates("constant", 10) == pytest.approx([0.25, 0.5, 0.75, 1.0] + [1.0] * 6)


def test_cosine_falls_from_peak_to_final():
    values = rates("cosine", 25)
    assert (values[4], values[14], values[24]) == pytest.approx((1.0, 0.55, 0.1))
    assert values[4:] == sorted(values[4:], reverse=True)


def test_linear_stays_and_then_falls_over_the_last_part():
    values = rates("linear", 101, decay=0.2, warmup=0)
    assert values[:80] == [1.0] * 80
    assert values[-1] == pytest.approx(0.1)
    slopes = [a - b for a, b in pairwise(values[81:])]
    assert slopes == pytest.approx([0.9 / 20.2] * len(slopes))


def test_an_unknown_schedule_is_refused():
    with pytest.raises(ValueError, match="square"):
        schedule(0, 10, 1.0, kind="square")
