"""IMDer against its official code, in every pattern of modalities, from features and from tokens.

MSABENCH_PARITY_IMDER: clone of https://github.com/mdswyz/IMDer (1901a92)
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from msabench.methods.imder import IMDer
from msabench.methods.recovering import sources_of
from msabench.missingness.conditions import LETTERS
from tests.parity import mdswyz
from tests.support.golden_cases import CASES, batch_of, build, kept
from tests.support.small_bert import save_small_bert

VARIABLE = "MSABENCH_PARITY_IMDER"
CASE = CASES["imder_official"]
DOWN, UP = ("conv1", "conv2", "conv3", "conv4"), ("tconv4", "tconv3", "tconv2", "tconv1")
PAIRS = {"text": "va", "audio": "lv", "vision": "la"}
"""Their name of the map that stands in for a missing modality's sources."""


def official_names(ours: IMDer) -> dict[str, Tensor]:
    """Our weights by their name and in their shape."""
    theirs = mdswyz.shared_names(ours)
    for letter, m in LETTERS.items():
        assert [dict(zip("lav", LETTERS.values(), strict=True))[pair] for pair in PAIRS[m]] == list(sources_of(m))
        theirs |= mdswyz.as_convolution(f"cat_{PAIRS[m]}", ours.merge[m])
        score, place = ours.scores[m], f"score_{letter}"
        theirs[f"{place}.embed.0.W"] = score.frequencies
        theirs |= {f"{place}.embed.1.{key}": value for key, value in score.embed.named_parameters()}
        levels = [*zip(DOWN, score.down, strict=True), *zip(UP, score.up, strict=True)]
        for number, (name, level) in enumerate(levels, start=1):
            attention = name.replace("tconv", "attention_t").replace("conv", "attention_")
            norm = name.replace("tconv", "tgnorm") if name in UP else name.replace("conv", "gnorm")
            parts = {name: level.main, f"{name}_cond": level.condition, attention: level.attend}
            parts |= {f"dense{number}.dense": level.time, norm: level.norm}
            for part, module in parts.items():
                if module is not None:
                    theirs |= {f"{place}.{part}.{key}": value for key, value in module.named_parameters()}
    return {name: value.detach() for name, value in theirs.items()}


class Torch:
    """What their sampler draws from: the noise of our predictions; all else is torch."""

    def __init__(self) -> None:
        self.noises: Iterator[Tensor] | None = None

    def __getattr__(self, name: str) -> Any:
        return getattr(torch, name)

    def randn(self, clips: int, *_: int, **__: object) -> Tensor:
        assert self.noises is not None
        return next(self.noises).T.expand(clips, -1, -1)

    def randn_like(self, x: Tensor) -> Tensor:
        return torch.randn_like(x) if self.noises is None else self.randn(len(x))


class Official:
    """Their network with our weights; samples are drawn with our noise, in our number of steps."""

    def __init__(self, ours: IMDer) -> None:
        self.module: Any = mdswyz.model_module(VARIABLE, "imder")
        self.module.device = "cpu"
        self.network = self.module.IMDER(mdswyz.settings_of(CASE)).eval()
        missing, unexpected = self.network.load_state_dict(official_names(ours), strict=False)
        assert not unexpected
        assert all(name.endswith(("version", "_float_tensor")) for name in missing)
        sampler = self.module.Euler_Maruyama_sampler
        drawing = Torch()
        sampler.__globals__["torch"] = drawing

        def on_cpu(score: Any, *given: Any, device: str, condition: Tensor) -> Tensor:
            (m,) = (m for letter, m in LETTERS.items() if score is getattr(self.network, f"score_{letter}"))
            drawing.noises = ours._noises(m, condition.transpose(1, 2))
            sample = sampler(score, *given, num_steps=ours.sampling_steps, device="cpu", condition=condition)
            drawing.noises = None
            return sample

        self.module.Euler_Maruyama_sampler = on_cpu

    def __call__(self, text: Tensor, batch: Any, letters: str) -> dict[str, Tensor]:
        chosen = mdswyz.chosen_there(letters)
        self.module.sample = lambda _, count: chosen[:count]
        with torch.no_grad():
            return self.network(text, batch.audio, batch.vision, num_modal=len(chosen))


@pytest.fixture
def ours() -> IMDer:
    method = build(CASE)
    assert isinstance(method, IMDer)
    method.idle_recovery = False
    return method


def assert_same(theirs: Official, ours: IMDer, whole: Any, text: Tensor, letters: str) -> None:
    """Prediction and both generative terms; the noise of training is drawn from one seed, in one order."""
    with torch.random.fork_rng():
        torch.manual_seed(3)
        expected = theirs(text, whole, letters)
        torch.manual_seed(3)
        out, terms = mdswyz.training_terms(ours, mdswyz.keeping(whole, letters))
    torch.testing.assert_close(out.pred, expected["M"].flatten(), atol=1e-5, rtol=0)
    score = sum(expected[f"loss_score_{letter}"].float() for letter in LETTERS)
    torch.testing.assert_close(terms["score"], 0.1 * score, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(terms["rec"], 0.1 * expected["loss_rec"].float(), atol=1e-5, rtol=1e-5)
    assert (float(terms["score"]) > 0) == (float(terms["rec"]) > 0) == (letters != "lav")
    print(
        f"{letters}: {float((out.pred - expected['M'].flatten()).abs().max()):.1e}, score {float(terms['score']):.1f}"
    )


@pytest.mark.parametrize("letters", mdswyz.PATTERNS)
def test_official_code_gives_the_same_numbers(letters: str, ours: IMDer) -> None:
    whole = mdswyz.clips_of(CASE)
    assert_same(Official(ours), ours, whole, whole.text, letters)


def test_all_the_official_steps_give_the_same_numbers(ours: IMDer) -> None:
    ours.sampling_steps = 100
    whole = mdswyz.clips_of(CASE)
    assert_same(Official(ours), ours, whole, whole.text, "la")


def test_kept_numbers_are_those_of_the_official_code(ours: IMDer) -> None:
    theirs, batch = Official(ours), batch_of(CASE)
    whole, silent = (theirs(batch.text, batch, letters)["M"].flatten() for letters in ("lav", "la"))
    expected = torch.where(torch.arange(4) == 2, silent, whole)  # the third clip has no vision
    torch.testing.assert_close(kept("imder_official")["pred"], expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("letters", mdswyz.PATTERNS)
def test_official_code_gives_the_same_numbers_from_tokens(letters: str, ours: IMDer, tmp_path: Path) -> None:
    folder = save_small_bert(tmp_path, CASE.dims[0], CASE.steps[0])
    reading = IMDer(CASE.spec, **CASE.settings, text_encoder=folder, idle_recovery=False)
    reading.enter_stage("task")
    reading.eval().load_state_dict(ours.state_dict(), strict=False)
    theirs, whole = Official(reading), mdswyz.clips_of(CASE)
    theirs.network.use_bert = True
    theirs.network.text_model = mdswyz.official_encoder(VARIABLE, mdswyz.bert_of(Path(folder)))
    assert whole.tokens is not None
    assert_same(theirs, reading, whole, whole.tokens, letters)
