"""What is written out for a CPU gives the bits that autograd gives for the plain formula."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from model.attention import rotate
from model.lean import ExpertsLayer, KeysAndValues, RotatedHeads, beside_norm, norm_of, residual, swiglu


def equal_with_gradients(one, other, leaves):
    """Whether two results are equal, and the gradients of a weighed sum of each."""
    weights = [torch.randn(each.shape, generator=torch.Generator().manual_seed(9)) for each in one]
    gradients = [
        torch.autograd.grad(
            sum((each * weight).sum() for each, weight in zip(results, weights, strict=True)), leaves, retain_graph=True
        )
        for results in (one, other)
    ]
    return all(map(torch.equal, one, other)) and all(map(torch.equal, *gradients))


def leaf(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).requires_grad_()


def test_a_norm_beside_its_stream():
    x, norm = leaf(3, 70, 96), nn.RMSNorm(96, 1e-6)
    nn.init.uniform_(norm.weight, 0.5, 1.5)
    stream = x * 1.0
    assert equal_with_gradients(beside_norm(stream, norm), (stream, norm(stream)), [x, norm.weight])


def test_a_norm_of_a_part_of_a_product():
    x, weight, norm = leaf(3, 70, 40), leaf(24, 24, seed=1), nn.RMSNorm(24, 1e-6)
    part = (x * 1.0).split([24, 16], -1)[0]
    results = [norm_of(part, norm) @ weight], [norm(part) @ weight]
    assert equal_with_gradients(*results, [x, norm.weight, weight])


def test_gate_and_up():
    gate, up = leaf(700, 96), leaf(700, 96, seed=1)
    assert equal_with_gradients([swiglu(gate, up)], [F.silu(gate) * up], [gate, up])


def test_a_residual_is_added_to_the_change_in_place():
    x, weight = leaf(30, 48), leaf(48, 48, seed=1)
    changed = F.linear(x, weight)
    address = changed.data_ptr()
    assert residual(x, changed).data_ptr() == address
    assert equal_with_gradients([residual(x, F.linear(x, weight))], [x + F.linear(x, weight)], [x, weight])


@pytest.mark.parametrize("active", [1, 2, 4])
@pytest.mark.parametrize("tokens", [300, 1500])
def test_experts_and_the_sum_of_what_they_say(active, tokens):
    """Expert 5 is sent nothing."""
    experts, width, hidden = 8, 32, 48
    scores = torch.rand(tokens, experts, generator=torch.Generator().manual_seed(3))
    scores[:, 5] = -1.0
    chosen = scores.topk(active).indices
    x, gate_up, down = leaf(tokens, hidden), leaf(experts, 2 * width, hidden, seed=1), leaf(experts, hidden, width)
    weights = leaf(tokens, active, seed=2)
    order = chosen.flatten().argsort(stable=True)
    place = order.argsort()
    counts = torch.bincount(chosen.flatten(), minlength=experts).tolist()
    plain = []
    for rows, both, last in zip(x.index_select(0, order // active).split(counts), gate_up, down, strict=True):
        gate, up = F.linear(rows, both).chunk(2, -1)
        plain.append(F.linear(F.silu(gate) * up, last))
    said = torch.cat(plain).index_select(0, place).unflatten(0, (tokens, active))
    expected = (said * weights[..., None]).sum(1)
    made = ExpertsLayer.apply(x, weights, gate_up, down, order, place, counts)
    assert equal_with_gradients([made], [expected], [x, weights, gate_up, down])


@pytest.mark.parametrize(("batch", "length", "heads"), [(3, 20, 4), (1, 1, 1), (2, 7, 1)])
def test_heads_in_the_order_that_attention_reads(batch, length, heads):
    content, rotary, value = 16, 16, 24
    rotation = torch.polar(torch.ones(length, rotary // 2), torch.arange(length)[:, None] * torch.rand(rotary // 2))
    q, key = leaf(batch, length, heads * (content + rotary)), leaf(batch, length, rotary, seed=1)
    expanded = leaf(batch, length, heads * (content + value), seed=2)
    own = q.unflatten(-1, (heads, -1))
    before = own.detach().clone()
    head, tail = own.transpose(1, 2).split([content, rotary], -1)
    turned = torch.cat([head, rotate(tail, rotation)], -1)
    assert equal_with_gradients([RotatedHeads.apply(own, rotation, content)], [turned], [q])
    assert torch.equal(own, before)
    wide = expanded.unflatten(-1, (heads, -1))
    head, values = wide.transpose(1, 2).split([content, value], -1)
    keys = torch.cat([head, key[:, None].expand(-1, heads, -1, -1)], -1)
    assert equal_with_gradients(KeysAndValues.apply(wide, key, content), (keys, values), [expanded, key])
