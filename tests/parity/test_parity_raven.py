"""RAVEN against its official code, Python 2 that is ported while it is read.

MSABENCH_PARITY_RAVEN: clone of https://github.com/victorywys/RAVEN (c276657)
"""

from __future__ import annotations

import importlib.util
import re
import sys
from collections.abc import Iterator
from dataclasses import replace
from importlib.machinery import SourceFileLoader
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor

from msabench.data.batch import Batch
from msabench.methods import raven
from msabench.methods.raven import RAVEN
from tests.parity.clones import clone
from tests.support.golden_cases import CASES, CLIPS, Case, batch_of, build, kept, numbers

FILES = ("consts", "layer", "model")
FULL = {"dropout": 0.0}
# The paper's features, and those of SIMS; words with up to 20 frames.
SHAPES = {
    "mosi": Case("raven", (300, 74, 47), (50, 60, 60), settings=FULL),
    "sims": Case("raven", (768, 33, 709), (39, 400, 55), settings=FULL),
    "small": Case("raven", (12, 5, 7), (9, 20, 13), settings={"cell": 6, "hidden": 10, "dropout": 0.0}),
}
GOLDEN = ("raven_official", "raven_official_frames")


class Python3(SourceFileLoader):
    """Prints, a ``map`` that is indexed, and axes of size 1 that go, not all of them."""

    def get_data(self, path: str) -> bytes:
        text = re.sub(r"(?m)^(\s*)print (.*)$", r"\1print(\2)", Path(path).read_text(encoding="utf-8"))
        text = text.replace("map(lambda x:x[:, i, :].squeeze(), [h, c])", "[x[:, i, :] for x in (h, c)]")
        return text.replace(".squeeze()", ".squeeze(1)").encode()

    def set_data(self, path: str, data: object, *, _mode: int = 0) -> None:
        """Keep nothing."""


@pytest.fixture(scope="module")
def official() -> Iterator[dict[str, ModuleType]]:
    folder = clone("MSABENCH_PARITY_RAVEN") / "code"
    modules = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "dont_write_bytecode", True)
        for name in FILES:
            loader = Python3(name, str(folder / f"{name}.py"))
            spec = importlib.util.spec_from_loader(name, loader)
            assert spec is not None
            modules[name] = importlib.util.module_from_spec(spec)
            patch.setitem(sys.modules, name, modules[name])
            loader.exec_module(modules[name])
        modules["layer"].gc = modules["consts"].global_consts  # it forgets to import it
        yield modules


def made(official: dict[str, ModuleType], ours: RAVEN, frames: int) -> Any:
    """The official network with our weights, which normalises by the statistics of its batch."""
    settings = official["consts"].global_consts
    settings.device = torch.device("cpu")
    settings.wordDim, settings.padding_len, settings.shift_padding_len = ours.text.width, ours.text.steps, frames
    settings.covarepDim, settings.facetDim = ours.audio.resize.in_features, ours.vision.resize.in_features
    settings.cellDim = settings.normDim = ours.shift.in_features // 2
    settings.hiddenDim = ours.head.in_features
    settings.dropProb = 0.0
    theirs = official["model"].Net().eval()
    assert ours.audio.norm is not None
    with torch.no_grad():
        theirs.normcovarep.weight.copy_(ours.audio.norm.weight)
        theirs.normcovarep.bias.copy_(ours.audio.norm.bias)
    for name, mine in {"covarep": ours.audio, "Facet": ours.vision}.items():
        getattr(theirs, f"fc_rsz{name}").load_state_dict(mine.resize.state_dict())
        getattr(theirs, f"{name.lower()}LSTM").load_state_dict(mine.lstm.state_dict())
        getattr(theirs, f"{name.lower()}W").load_state_dict(mine.gate.state_dict())
    theirs.calcAddon.load_state_dict(ours.shift.state_dict())
    cell = {name.removesuffix("_l0"): weight for name, weight in ours.lstm.state_dict().items()}
    theirs.lstm1.layer_1.lstm.load_state_dict(cell)
    theirs.fc_afterLSTM.load_state_dict(ours.head.state_dict())
    return theirs


def close(ours: Tensor, theirs: Tensor) -> float:
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=0)
    return float((ours - theirs).detach().abs().max())


def ended(case: Case) -> tuple[Batch, Tensor]:
    """A batch whose sentences have other lengths, from one word to all."""
    batch, steps = batch_of(case), case.steps[0]
    lengths = torch.tensor([steps, 1, steps // 2, steps - 1])
    valid = torch.arange(steps) < lengths.unsqueeze(1)
    features = {**batch.features, "text": batch.text * valid.unsqueeze(2)}
    return replace(batch, features=features, valid={**batch.valid, "text": valid}), lengths


def sub_words(case: Case, frames: int) -> dict[str, tuple[Tensor, Tensor]]:
    """Frames ``(B, T, F, D)`` of words and how many they have, 0 and F among them."""
    given = {}
    for key, (m, features) in enumerate(zip(("audio", "vision"), case.dims[1:], strict=True), start=201):
        counts = ((numbers((CLIPS, case.steps[0]), key) + 0.5) * (frames + 1)).long()
        counts[0, 0], counts[0, 1] = 0, frames
        exists = torch.arange(frames) < counts.unsqueeze(2)
        given[m] = numbers((*exists.shape, features), key + 7) * 3 * exists.unsqueeze(3), counts
    return given


def use_statistics_of(ours: RAVEN, audio: Tensor) -> None:
    """Let our norm have the statistics of a batch for its own."""
    assert ours.audio.norm is not None
    rows = audio.transpose(0, 1).flatten(1)
    ours.audio.norm.running_mean = rows.mean(1)
    ours.audio.norm.running_var = rows.var(1, correction=0)


@pytest.mark.parametrize("scale", [0.02, 1.0])
@pytest.mark.parametrize("shape", SHAPES)
def test_the_network_gives_the_same_numbers(
    official: dict[str, ModuleType], monkeypatch: pytest.MonkeyPatch, shape: str, scale: float
) -> None:
    """With 20 frames of words; raw shifts are shorter than 1 where ``scale`` is small, else longer."""
    case = SHAPES[shape]
    ours = build(case)
    assert isinstance(ours, RAVEN)
    with torch.no_grad():
        ours.shift.weight *= scale
        ours.shift.bias *= scale
    theirs = made(official, ours, 20)
    given, (batch, lengths) = sub_words(case, 20), ended(case)
    use_statistics_of(ours, given["audio"][0])
    monkeypatch.setattr(raven, "frames_of_words", lambda batch, m, most: given[m])
    with torch.no_grad():
        heard, seen = (getattr(ours, m)(*given[m], batch.text) for m in ("audio", "vision"))
        raw = torch.linalg.vector_norm(ours.shift(torch.cat([heard, seen], 2)), dim=2)
        assert (raw < 1).any() if scale < 1 else (raw > 1).any()
        spec_output: list[Tensor] = []
        theirs.fc_afterLSTM.register_forward_pre_hook(lambda _, inputs: spec_output.append(inputs[0]))
        expected = theirs(batch.text, *given["audio"], *given["vision"], lengths)
        out = ours(batch)
    assert out.representation is not None
    print(f"{shape}: pred {close(out.pred, expected):.1e} h {close(out.representation, spec_output[0]):.1e}")
    assert expected.std() > 0.01


def test_gradients_are_the_same_and_reach_six_tensors(
    official: dict[str, ModuleType], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A training step with the statistics of its batch, with the shift out of the graph as there."""
    case = replace(SHAPES["small"], settings={**SHAPES["small"].settings, "detach_shift": True})
    ours = build(case).train()
    assert isinstance(ours, RAVEN)
    theirs = made(official, ours, 20).train()
    given, (batch, lengths) = sub_words(case, 20), ended(case)
    monkeypatch.setattr(raven, "frames_of_words", lambda batch, m, most: given[m])
    labels = numbers((CLIPS,), 12) * 4
    expected = torch.nn.MSELoss()(theirs(batch.text, *given["audio"], *given["vision"], lengths), labels)
    batch = replace(batch, labels=labels)
    loss = ours.loss(ours.training_forward(batch), batch)["task"]
    close(loss, expected)
    loss.backward()
    expected.backward()
    there = {name: p.grad for name, p in theirs.named_parameters() if p.grad is not None}
    here = {name: p.grad for name, p in ours.named_parameters() if p.grad is not None}
    assert len(there) == len(here) == 6
    cell = dict(theirs.lstm1.layer_1.lstm.named_parameters())
    for name, gradient in here.items():
        place = name.partition(".")[2]
        other = theirs.fc_afterLSTM.get_parameter(place).grad if "head" in name else cell[place[:-3]].grad
        print(f"{name} {close(gradient, other):.1e}", end=" ")


def dealt(case: Case, batch: Batch, modality: str, most: int) -> tuple[Tensor, Tensor]:
    """The golden batch's frames by word, one clip and word at a time."""
    x, observed = batch.features[modality], batch.observed[modality]
    words, steps = case.steps[0], x.shape[1]
    frames = torch.zeros(CLIPS, words, most, x.shape[2])
    counts = torch.zeros(CLIPS, words, dtype=torch.int64)
    for clip in range(CLIPS):
        for word in range(words):
            own = [s for s in range(steps) if word * steps // words <= s < (word + 1) * steps // words][:most]
            for place, step in enumerate(own):
                frames[clip, word, place] = x[clip, step]
                if observed[clip, step]:
                    counts[clip, word] = place + 1
    return frames, counts


@pytest.mark.parametrize("name", GOLDEN)
def test_the_method_gives_the_same_numbers(official: dict[str, ModuleType], name: str) -> None:
    """The golden batch, with our running statistics on both sides."""
    case = CASES[name]
    ours, batch = build(case), batch_of(case)
    assert isinstance(ours, RAVEN)
    frames = 1 if len(set(case.steps)) == 1 else ours.frames_per_word
    theirs = made(official, ours, frames)
    assert ours.audio.norm is not None
    theirs.normcovarep.running_mean = ours.audio.norm.running_mean
    theirs.normcovarep.running_var = ours.audio.norm.running_var
    given = {m: dealt(case, batch, m, frames) for m in ("audio", "vision")}
    lengths = torch.full((CLIPS,), case.steps[0])
    with torch.no_grad():
        out = ours(batch)
        expected = theirs(batch.text, *given["audio"], *given["vision"], lengths)
    print(f"{name}: pred {close(out.pred, expected):.1e}")
    for key, values in {"pred": out.pred, "representation": out.representation}.items():
        torch.testing.assert_close(kept(name)[key], values, atol=1e-5, rtol=0)
