"""ShaSpec's fusion, its rule for missing modalities and its losses against the official code, whose encoders are stubs.

MSABENCH_PARITY_SHASPEC: clone of https://github.com/billhhh/ShaSpec (081fe7a)
"""

from __future__ import annotations

import importlib
import sys
from dataclasses import replace
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from msabench.data.batch import Batch
from msabench.methods.shaspec import ShaSpec, modality_loss, shared_distance
from msabench.missingness.conditions import MODALITIES
from tests.parity.clones import clone, importing
from tests.support.golden_cases import Case, batch_of, fill

CASE = Case("shaspec", (16, 5, 7), (9, 20, 13), settings={"dim": 256, "heads": 2, "layers": 1, "substitute": "first"})
MODES = ("0,1,2", "0", "1", "2", "0,1", "0,2", "1,2")
ENCODERS = ("flair_enc", "t1_enc", "t1ce_enc", "t2_enc")


@pytest.fixture
def official(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """Their network and losses."""
    for name in ("sklearn", "sklearn.manifold", "matplotlib", "matplotlib.pyplot", "scipy", "scipy.ndimage"):
        module: Any = ModuleType(name)  # they draw and measure with these
        module.TSNE = module.manifold = module.pyplot = module.ndimage = None
        monkeypatch.setitem(sys.modules, name, module)
    with importing(clone("MSABENCH_PARITY_SHASPEC")):
        return SimpleNamespace(
            network=importlib.import_module("DualNet_SS"), losses=importlib.import_module("loss_Dual")
        )


class Codes(nn.Module):
    """In the place of an encoder of theirs: gives codes that are known, and keeps what it was given."""

    def __init__(self, codes: Tensor) -> None:
        super().__init__()
        self.codes = codes[:, :, None, None, None]
        self.seen: Tensor | None = None
        self.backbone = SimpleNamespace(get_layers=list)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        self.seen = images
        return self.codes, self.codes


class Joined(nn.Module):
    """In the place of their decoder: keeps the joined features."""

    def forward(self, features: Tensor, layers: list[Tensor]) -> list[Tensor]:
        self.features = features.flatten(1)
        return [features]


def their_network(official: SimpleNamespace, ours: ShaSpec, s: Tensor, p: Tensor) -> nn.Module:
    """Theirs with our codes and weights. Its fourth modality, of the first's codes, is in no fixed mode."""
    theirs: Any = official.network.DualNet_SS.__new__(official.network.DualNet_SS)
    nn.Module.__init__(theirs)
    four = [0, 1, 2, 0]
    theirs.self_att = False
    theirs.shared_enc, theirs.shared_dec = Codes(s[:, four].flatten(0, 1)), Joined()
    for name, column in zip(ENCODERS, four, strict=True):
        setattr(theirs, name, Codes(p[:, column]))
    theirs.compos_layer = official.network.CompositionalLayer()
    theirs.dom_classifier = nn.Linear(256, 4)
    with torch.no_grad():
        # One place in each direction: only the middle of the kernel is used.
        theirs.compos_layer.conv.weight.zero_()[:, :, 1, 1, 1] = ours.join.weight
        ours.join.bias.zero_()
        theirs.dom_classifier.weight[:3], theirs.dom_classifier.bias[:3] = ours.which.weight, ours.which.bias
        theirs.dom_classifier.bias[3] = -1e9
    return theirs


def with_only(batch: Batch, mode: str) -> Batch:
    there = [MODALITIES[int(number)] for number in mode.split(",")]
    observed = {m: batch.observed[m] if m in there else torch.zeros_like(batch.observed[m]) for m in MODALITIES}
    features = {m: batch.features[m] * observed[m].unsqueeze(2) for m in MODALITIES}
    return replace(batch, features=features, observed=observed)


@pytest.mark.parametrize("mode", MODES)
def test_official_code_joins_and_judges_the_same(mode: str, official: SimpleNamespace) -> None:
    ours = ShaSpec(CASE.spec, **CASE.settings).eval()
    fill(ours)
    ours.enter_stage("task")
    whole = batch_of(CASE)
    whole = replace(whole, observed={m: torch.ones_like(mask) for m, mask in whole.observed.items()})
    batch = replace(with_only(whole, mode), labels=torch.zeros(4))
    with torch.no_grad():
        ours.join.bias.zero_()
        out = ours(batch)
        s, p = out.aux["shared"], out.aux["specific"]
        theirs = their_network(official, ours, s, p)
        _, shared, domains, split = theirs(torch.ones(4, 4, 1, 1, 1), mode=mode)
    assert split == [int(number) for number in mode.split(",")]
    seen = theirs.shared_enc.seen.view(4, 4)
    assert seen[0].tolist() == [float(number in split) for number in range(4)], "what is missing is zero for encoders"
    assert out.representation is not None
    found = theirs.shared_dec.features[:, : 3 * 256]
    torch.testing.assert_close(out.representation, found, atol=1e-5, rtol=0)

    ring = [shared[number::4].flatten(1) for number in range(4)]
    distance = nn.L1Loss()
    their_shared = sum(distance(ring[i], ring[(i + 1) % 4]) for i in range(4))
    counted = torch.ones(4, 3, dtype=torch.bool)
    torch.testing.assert_close(shared_distance(s, counted), their_shared, atol=1e-5, rtol=0)
    rows = torch.arange(16).view(4, 4)[:, :3].flatten()
    their_specific = official.losses.DomainClsLoss()(domains[rows], torch.arange(3).repeat(4))
    with torch.no_grad():
        torch.testing.assert_close(modality_loss(ours.which(p), counted), their_specific, atol=1e-5, rtol=0)
        terms = ours.loss(out, batch)
    torch.testing.assert_close(terms["shared"], 0.1 * their_shared, atol=1e-5, rtol=0)
    torch.testing.assert_close(terms["specific"], 0.02 * their_specific, atol=1e-5, rtol=0)
    print(f"{mode}: {float((out.representation - found).abs().max()):.1e}")


def test_their_random_modes_take_a_random_one_of_those_that_are_there(official: SimpleNamespace) -> None:
    """The rule of ``substitute`` random: what stands for the missing is the first of an order drawn anew."""
    ours = ShaSpec(CASE.spec, **CASE.settings).eval()
    s, p = torch.randn(2, 3, 256), torch.randn(2, 3, 256)
    theirs, firsts = their_network(official, ours, s, p), set()
    for _ in range(60):
        with torch.no_grad():
            _, _, _, split = theirs(torch.ones(2, 4, 1, 1, 1), mode="random")
        if len(split) < 4:
            missing = next(number for number in range(4) if number not in split)
            taken = theirs.shared_dec.features.view(2, 4, 256)[:, missing]
            assert torch.equal(taken, s[:, [0, 1, 2, 0][split[0]]])
            firsts.add(split[0])
    assert firsts == {0, 1, 2, 3}
