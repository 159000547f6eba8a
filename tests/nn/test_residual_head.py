"""Residual block and linear output."""

import torch

from msabench.nn.residual_head import ResidualHead


def test_against_the_formula():
    torch.manual_seed(0)
    head, x = ResidualHead(4, 3, 2, 0.5).eval(), torch.randn(5, 4)
    output, inner, refined = head(x)
    u = (x @ head.proj1.weight.T + head.proj1.bias).clamp(min=0)
    r = x + u @ head.proj2.weight.T + head.proj2.bias
    torch.testing.assert_close(inner, u)
    torch.testing.assert_close(refined, r)
    torch.testing.assert_close(output, r @ head.out_layer.weight.T + head.out_layer.bias)


def test_dropout_is_on_the_inner_units_alone():
    torch.manual_seed(0)
    head, x = ResidualHead(4, 3, 2, 1.0).train(), torch.randn(5, 4)
    _, inner, refined = head(x)
    assert inner.any()
    torch.testing.assert_close(refined, x + head.proj2.bias)
