"""CTC + MCTN: MCTN on what was aligned, its targets, and which term trains what."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from msabench.data.needs import Needs
from msabench.methods.ctc_mctn import CTCMCTN
from msabench.methods.mctn import MCTN
from msabench.missingness.config import MissingConfig
from msabench.nn.ctc_aligner import ctc_loss
from msabench.testing.corpora import data_module, random_corpus

STEPS = {"text": 4, "audio": 9, "vision": 6}


def made(**arguments):
    data = data_module(random_corpus(steps=STEPS), missing=MissingConfig(regime="mixed"))
    torch.manual_seed(0)
    method = CTCMCTN(data.spec, **{"hidden": 6, **arguments}).eval()
    return method, data.training_batch(torch.arange(11), 0, needs=Needs(complete=True))


def plain_of(method, **arguments):
    """MCTN with the same weights."""
    plain = MCTN(method.spec, **{"hidden": 6, **arguments}).eval()
    plain.load_state_dict({name: method.state_dict()[name] for name in plain.state_dict()})
    return plain


@pytest.mark.parametrize("variant", ["default", "text"])
def test_it_is_mctn_on_what_was_aligned(variant):
    method, batch = made(variant=variant, lambda_ctc=0.5)
    plain = plain_of(method, variant=variant)
    both = replace(method.align(batch)[0], complete=method.align(batch.complete)[0])
    out, expected = method.training_forward(batch), plain.training_forward(both)
    torch.testing.assert_close(method(batch.for_inference()).pred, plain(both).pred)
    for name, value in expected.aux.items():
        torch.testing.assert_close(out.aux[name], value)
    terms = method.loss(out, batch)
    for name, value in plain.loss(expected, both).items():
        torch.testing.assert_close(terms.pop(name), value)
    _, scores = method.align(batch)
    ctc = sum(ctc_loss(scores[m])[batch.observed[m].any(1)].sum() for m in scores)
    torch.testing.assert_close(terms.pop("ctc"), 0.5 * ctc)
    assert not terms


def test_targets_are_complete_and_without_gradient():
    method, batch = made()
    out = method.training_forward(batch)
    complete, _ = method.align(batch.complete)
    for m in ("audio", "vision"):
        target = out.aux[f"target_{m}"]
        torch.testing.assert_close(target, complete.features[m].detach())
        assert not target.requires_grad
        assert not torch.equal(target, method.align(batch)[0].features[m])


def reached(method, term):
    method.zero_grad()
    term.backward(retain_graph=True)
    return {n.split(".")[0] for n, p in method.named_parameters() if p.grad is not None and p.grad.any()}


def test_which_term_trains_what():
    method, batch = made()
    terms = method.loss(method.training_forward(batch), batch)
    assert reached(method, terms["ctc"]) == {"align"}
    assert reached(method, terms["task"]) == {"align", "encode_1", "encode_2", "regress"}
    assert reached(method, terms["cycle"]) == {"align", "encode_1", "decode_1"}
    method, batch = made(variant="text")
    terms = method.loss(method.training_forward(batch), batch)
    assert reached(method, terms["task"]) == {"encode_1", "encode_2", "regress"}
    assert reached(method, terms["vision"]) == {"encode_1", "decode_1"}


def test_the_loss_needs_no_more_than_several_devices_gather():
    method, batch = made()
    out = method.training_forward(batch)
    terms = method.loss(out, replace(batch, features={}, last={}))
    torch.testing.assert_close(terms, method.loss(out, batch))
