"""Gradient reversal."""

import torch

from msabench.nn.gradient_reversal import reverse_gradient


def test_identity_forward_and_turned_round_backward():
    x = torch.tensor([1.0, -2.0, 3.0], requires_grad=True)
    y = reverse_gradient(x, 0.5)
    assert torch.equal(y, x)
    (y * torch.tensor([1.0, 2.0, 4.0])).sum().backward()
    assert torch.equal(x.grad, torch.tensor([-0.5, -1.0, -2.0]))


def test_only_what_comes_before_is_turned_round():
    before, after = torch.tensor(2.0, requires_grad=True), torch.tensor(3.0, requires_grad=True)
    (reverse_gradient(before) * after).backward()
    assert (before.grad, after.grad) == (torch.tensor(-3.0), torch.tensor(2.0))
