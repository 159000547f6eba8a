"""CTC + RAVEN: RAVEN on what was aligned, and which term trains what."""

from __future__ import annotations

import pytest
import torch

from msabench.methods.ctc_raven import CTCRAVEN
from msabench.methods.raven import RAVEN
from msabench.missingness.config import MissingConfig
from msabench.nn.ctc_aligner import ctc_loss
from msabench.testing.corpora import data_module, random_corpus

SMALL = {"cell": 5, "hidden": 6}
STEPS = {"text": 4, "audio": 9, "vision": 6}


def made(**arguments):
    data = data_module(random_corpus(steps=STEPS), missing=MissingConfig(regime="mixed"))
    torch.manual_seed(0)
    return CTCRAVEN(data.spec, **{**SMALL, **arguments}).eval(), data.training_batch(torch.arange(11), 0)


def test_it_is_raven_on_what_was_aligned():
    method, batch = made()
    aligned, _ = method.align(batch)
    plain = RAVEN(method.spec, **SMALL).eval()
    own = method.state_dict()
    plain.load_state_dict({name: own[name] for name in plain.state_dict()})
    assert set(own) - set(plain.state_dict()) == {name for name in own if name.startswith("align.")}
    torch.testing.assert_close(method(batch).pred, plain(aligned).pred)
    torch.testing.assert_close(method.training_forward(batch).pred, plain(aligned).pred)
    assert method.spec.seq_lens == STEPS


@pytest.mark.parametrize("weight", [1.0, 0.25])
def test_loss_terms(weight):
    method, batch = made(lambda_ctc=weight)
    out = method.training_forward(batch)
    terms = method.loss(out, batch)
    assert set(terms) == {"task", "ctc"}
    torch.testing.assert_close(terms["task"], (out.pred - batch.labels).square().mean())
    _, scores = method.align(batch)
    there = {m: batch.observed[m].any(1) for m in scores}
    assert not all(mask.all() for mask in there.values())
    expected = sum(ctc_loss(scores[m])[there[m]].sum() for m in scores)
    torch.testing.assert_close(terms["ctc"], weight * expected)


def test_which_term_trains_what():
    method, batch = made()
    terms = method.loss(method.training_forward(batch), batch)
    reached = {}
    for name, term in terms.items():
        method.zero_grad()
        term.backward(retain_graph=True)
        reached[name] = {n.split(".")[0] for n, p in method.named_parameters() if p.grad is not None and p.grad.any()}
    assert reached == {"task": {"align", "audio", "vision", "shift", "lstm", "head"}, "ctc": {"align"}}


def test_prediction_does_not_need_the_loss():
    method, batch = made()
    assert method(batch.for_inference()).aux == {}
