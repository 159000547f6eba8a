"""Margin loss on cosines against hand-computed triples and plain loops."""

import math

import numpy as np
import pytest
import torch

from msabench.losses.margin import label_margin


def by_loops(vectors, labels, slope):
    x, y = vectors.double().numpy(), labels.double().numpy().reshape(len(labels), -1)
    norm = np.sqrt((x**2).sum(1) + 1e-8)
    cos = x @ x.T / np.outer(norm, norm)
    anchors = []
    for i in range(len(x)):
        others = [j for j in range(len(x)) if j != i]
        positives = [j for j in others if (y[i] == y[j]).all()]
        negatives = [j for j in others if j not in positives]
        terms = [
            max(0.0, slope * np.abs(y[i] - y[n]).sum() - cos[i, p] + cos[i, n]) for p in positives for n in negatives
        ]
        if terms:
            anchors.append(np.mean(terms))
    return float(np.mean(anchors)) if anchors else 0.0


def test_hand_computed_triples():
    # Directions of 0, 60 and 90 degrees; the first two agree, and the third, which differs by 2, has no positive.
    vectors = torch.tensor([[2.0, 0.0], [0.5, math.sqrt(3) / 2], [0.0, 3.0]])
    labels = torch.tensor([1.0, 1.0, -1.0])
    # Anchor 1: 0.3 - cos 60 + cos 90 < 0; anchor 2: 0.3 - cos 60 + cos 30.
    expected = (0 + 0.3 - 0.5 + math.sqrt(3) / 2) / 2
    assert label_margin(vectors, labels, 0.15).item() == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("shape", [(9,), (9, 4)])
def test_agrees_with_plain_loops(shape):
    generator = torch.Generator().manual_seed(0)
    vectors = torch.randn(27, 5, generator=generator)
    labels = torch.randint(0, 2 if len(shape) > 1 else 4, shape, generator=generator).repeat_interleave(3, 0)
    for slope in (0.0, 0.15, 1.0):
        found = label_margin(vectors, labels, slope).item()
        assert found == pytest.approx(by_loops(vectors, labels, slope), abs=1e-6)
        assert found > 0


def test_anchors_with_positives_or_negatives_alone_count_for_nothing():
    generator = torch.Generator().manual_seed(1)
    vectors = torch.randn(4, 3, generator=generator, requires_grad=True)
    for labels in ([2.0] * 4, [1.0, 2.0, 3.0, 4.0]):
        value = label_margin(vectors, torch.tensor(labels), 0.15)
        value.backward()
        assert value.item() == 0
        assert torch.isfinite(vectors.grad).all()


def test_vectors_of_length_zero():
    vectors = torch.zeros(4, 3, requires_grad=True)
    value = label_margin(vectors, torch.tensor([0.0, 0.0, 1.0, 1.0]), 0.15)
    value.backward()
    assert value.item() == pytest.approx(0.15)
    assert torch.isfinite(vectors.grad).all()


def test_gradient():
    vectors = torch.randn(6, 3, generator=torch.Generator().manual_seed(2), dtype=torch.float64, requires_grad=True)
    labels = torch.tensor([0.0, 0.0, 1.0, 1.0, 1.0, -2.0])
    assert torch.autograd.gradcheck(lambda x: label_margin(x, labels, 0.15), (vectors,))
