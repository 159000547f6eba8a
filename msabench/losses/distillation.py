"""Losses that make two sets of predictions agree."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F


def js_divergence(logits_a: Tensor, logits_b: Tensor) -> Tensor:
    """Jensen-Shannon divergence of two categorical distributions, averaged over the batch.

    ``(KL(p || m) + KL(q || m)) / 2`` with ``m = (p + q) / 2``, in nats; symmetric, and finite where one of the two is
    zero. Several distributions per clip, e.g. IEMOCAP's emotions, are summed.

    Source: Lin, IEEE Trans. Inf. Theory 1991.

    Args:
        logits_a: float ``(B, ..., C)``, unnormalised log probabilities over the last axis.
        logits_b: Likewise.

    Returns:
        float ``()``, in [0, ln 2] times the number of distributions per clip.
    """
    log_p, log_q = F.log_softmax(logits_a, dim=-1), F.log_softmax(logits_b, dim=-1)
    log_m = torch.logaddexp(log_p, log_q) - math.log(2)
    divergence = 0.5 * (log_p.exp() * (log_p - log_m) + log_q.exp() * (log_q - log_m))
    return divergence.sum() / len(logits_a)
