"""DiCMoR against its official code, in every pattern of modalities, from features and from tokens.

MSABENCH_PARITY_DICMOR: clone of https://github.com/mdswyz/DiCMoR (3d7e617)
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from msabench.methods.dicmor import DiCMoR
from msabench.missingness.conditions import LETTERS
from tests.parity import mdswyz
from tests.support.golden_cases import CASES, batch_of, build, kept
from tests.support.small_bert import save_small_bert

VARIABLE = "MSABENCH_PARITY_DICMOR"
CASE = CASES["dicmor_official"]
CLASSES = ("hn", "n", "wn", "neutral", "wp", "p", "hp")


def official_names(ours: DiCMoR) -> dict[str, Tensor]:
    """Our weights by their name and in their shape."""
    theirs = mdswyz.shared_names(ours)
    for letter, m in LETTERS.items():
        theirs |= mdswyz.as_convolution(f"cat_{letter}", ours.merge[m])
        flow = ours.flows[m]
        for k in range(len(flow.gain)):
            net = f"flow_{letter}.blocks.0.flows.{k}.coupling.net"
            for layer, name in enumerate((f"{net}.0", f"{net}.2", f"{net}.4.conv"), start=1):
                theirs[f"{name}.weight"] = getattr(flow, f"weight{layer}")[k].T[:, :, None, None]
                theirs[f"{name}.bias"] = getattr(flow, f"bias{layer}")[k, 0]
            theirs[f"{net}.4.scale"] = flow.gain[k, 0][None, :, None, None]
    for number, name in enumerate(CLASSES):
        theirs[f"prior_{name}.conv.bias"] = ours.gaussians.values[0, number]
        theirs[f"prior_{name}.scale"] = ours.gaussians.gain[0, number][None, :, None, None]
    return {name: value.detach() for name, value in theirs.items()}


class Official:
    """Their network with our weights."""

    def __init__(self, ours: DiCMoR) -> None:
        self.module: Any = mdswyz.model_module(VARIABLE, "dicmor")
        self.network = self.module.DICMOR(mdswyz.settings_of(CASE)).eval()
        missing, unexpected = self.network.load_state_dict(official_names(ours), strict=False)
        assert not unexpected
        never_called = ("actnorm", "invconv", "blocks.0.prior", "weight_", "version", "_float_tensor")
        of_zeros = tuple(f"prior_{name}.conv.weight" for name in CLASSES)
        assert all(name in of_zeros or any(part in name for part in never_called) for name in missing)

    def __call__(self, text: Tensor, batch: Any, letters: str, labels: Tensor = mdswyz.LABELS) -> dict[str, Tensor]:
        chosen = mdswyz.chosen_there(letters)
        self.module.sample = lambda _, count: chosen[:count]
        with torch.no_grad():
            return self.network(text, batch.audio, batch.vision, labels[:, None], num_modal=len(chosen))


@pytest.fixture
def ours() -> DiCMoR:
    method = build(CASE)
    assert isinstance(method, DiCMoR)
    method.idle_recovery = False
    return method


@pytest.mark.parametrize("letters", mdswyz.PATTERNS)
def test_official_code_gives_the_same_numbers(letters: str, ours: DiCMoR) -> None:
    theirs, whole = Official(ours), mdswyz.clips_of(CASE)
    expected = theirs(whole.text, whole, letters)
    out, terms = mdswyz.training_terms(ours, mdswyz.keeping(whole, letters))
    torch.testing.assert_close(out.pred, expected["M"].flatten(), atol=1e-5, rtol=0)
    bits = sum(expected[f"log_p_{letter}"] for letter in LETTERS)
    assert float(bits) > 0
    torch.testing.assert_close(terms["nll"], 0.1 * bits.squeeze(), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(terms["rec"], 0.1 * expected["loss_rec"].float(), atol=1e-5, rtol=1e-5)
    assert (float(terms["rec"]) > 0) == (letters != "lav")
    print(f"{letters}: {float((out.pred - expected['M'].flatten()).abs().max()):.1e}")


def test_kept_numbers_are_those_of_the_official_code(ours: DiCMoR) -> None:
    theirs, batch = Official(ours), batch_of(CASE)
    whole, silent = (theirs(batch.text, batch, letters)["M"].flatten() for letters in ("lav", "la"))
    expected = torch.where(torch.arange(4) == 2, silent, whole)  # the third clip has no vision
    torch.testing.assert_close(kept("dicmor_official")["pred"], expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("letters", mdswyz.PATTERNS)
def test_official_code_gives_the_same_numbers_from_tokens(letters: str, ours: DiCMoR, tmp_path: Path) -> None:
    folder = save_small_bert(tmp_path, CASE.dims[0])
    reading = DiCMoR(CASE.spec, **CASE.settings, text_encoder=folder, idle_recovery=False)
    reading.enter_stage("task")
    reading.eval().load_state_dict(ours.state_dict(), strict=False)
    theirs, whole = Official(ours), mdswyz.clips_of(CASE)
    theirs.network.use_bert = True
    theirs.network.text_model = mdswyz.official_encoder(VARIABLE, mdswyz.bert_of(folder))
    assert whole.tokens is not None
    expected = theirs(whole.tokens, whole, letters)
    out, terms = mdswyz.training_terms(reading, mdswyz.keeping(whole, letters))
    torch.testing.assert_close(out.pred, expected["M"].flatten(), atol=1e-5, rtol=0)
    torch.testing.assert_close(terms["rec"], 0.1 * expected["loss_rec"].float(), atol=1e-5, rtol=1e-5)
    bits = sum(expected[f"log_p_{letter}"] for letter in LETTERS)
    torch.testing.assert_close(terms["nll"], 0.1 * bits.squeeze(), atol=1e-5, rtol=1e-5)
