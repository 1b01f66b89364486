from __future__ import annotations

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from model.loss import token_logprobs


@pytest.fixture
def case():
    torch.manual_seed(0)
    hidden = torch.randn(37, 16, requires_grad=True)
    head = torch.randn(50, 16, requires_grad=True)
    return hidden, head, torch.randint(0, 50, (37,)), torch.randn(37)


def plain(hidden, head, targets, temperature):
    full = torch.log_softmax(hidden @ head.t() / temperature, -1)
    return full.gather(1, targets[:, None])[:, 0], -(full.exp() * full).sum(-1)


@pytest.mark.parametrize("kept", [True, False])
@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_values_and_gradients_equal_the_plain_formula(case, kept, temperature, monkeypatch):
    if not kept:
        monkeypatch.setattr("model.loss.KEPT_BYTES", 0)
    hidden, head, targets, weight = case
    expected, entropy = plain(hidden, head, targets, temperature)
    values, own = token_logprobs(hidden, head, targets, temperature=temperature, chunk=10, entropy=True)
    torch.testing.assert_close(values, expected)
    torch.testing.assert_close(own, entropy)
    gradients = torch.autograd.grad((values * weight).sum(), [hidden, head])
    for gradient, other in zip(gradients, torch.autograd.grad((expected * weight).sum(), [hidden, head]), strict=True):
        torch.testing.assert_close(gradient, other)


def test_entropy_comes_on_request_and_without_gradient(case):
    hidden, head, targets, _ = case
    assert token_logprobs(hidden, head, targets)[1] is None
    assert not token_logprobs(hidden, head, targets, entropy=True)[1].requires_grad


def test_backward_can_run_twice(case):
    hidden, head, targets, _ = case
    total = token_logprobs(hidden, head, targets)[0].sum()
    first = torch.autograd.grad(total, hidden, retain_graph=True)[0]
    assert torch.equal(first, torch.autograd.grad(total, hidden)[0])


def test_no_tokens_are_no_trouble(case):
    hidden, head, targets, _ = case
    values, entropy = token_logprobs(hidden[:0], head, targets[:0], entropy=True)
    assert values.shape == entropy.shape == (0,)
    values.sum().backward()
    assert head.grad.abs().sum() == 0


def test_a_head_that_stands_still_is_spared_its_gradient(case):
    hidden, head, targets, weight = case
    (token_logprobs(hidden, head, targets)[0] * weight).sum().backward()
    fixed, own = head.detach(), hidden.detach().requires_grad_()
    (token_logprobs(own, fixed, targets)[0] * weight).sum().backward()
    assert torch.equal(own.grad, hidden.grad)
    assert fixed.grad is None


class Largest(TorchDispatchMode):
    """The most numbers of any tensor that an operation makes."""

    numbers = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        made = func(*args, **(kwargs or {}))
        self.numbers = max([self.numbers, *(each.numel() for each in [made] if isinstance(each, torch.Tensor))])
        return made


@pytest.mark.parametrize("entropy", [False, True])
def test_logits_of_more_than_a_chunk_of_tokens_never_exist(entropy, monkeypatch):
    """Neither on the way forth nor back, where those of all tokens would be large."""
    monkeypatch.setattr("model.loss.KEPT_BYTES", 4 * 600 * 300 - 1)
    hidden, head = torch.randn(600, 16, requires_grad=True), torch.randn(300, 16, requires_grad=True)
    targets = torch.randint(0, 300, (600,))
    with Largest() as largest:
        token_logprobs(hidden, head, targets, chunk=50, entropy=entropy)[0].sum().backward()
    assert largest.numbers == 50 * 300
