"""What is MISA's own; what every method must hold is in test_methods.py."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from msabench.data.batch import Batch
from msabench.errors import MSABenchError
from msabench.methods.base import Output
from msabench.methods.misa import MISA
from msabench.testing.corpora import data_module, quiet_trainer, random_corpus
from tests.support.golden_cases import CASES, assert_as_kept, batch_of, build, numbers

CASE = CASES["misa_mmsa"]
CODES = ("original", "private", "shared", "reconstructed")


def codes(clips: int = 6, width: int = 4) -> dict[str, torch.Tensor]:
    """Codes of some clips, as leaves."""
    return {name: numbers((clips, 3, width), key).add(0.5).requires_grad_() for key, name in enumerate(CODES, start=1)}


def labelled(clips: int = 6) -> tuple[Output, Batch]:
    batch = replace(batch_of(CASE), labels=numbers((clips,), 8) * 6)
    return Output(pred=numbers((clips,), 9) * 6, aux=codes(clips)), batch


@pytest.mark.parametrize("name", ["misa_mmsa", "misa_official"])
def test_outputs_are_those_of_the_official_code(name: str) -> None:
    assert_as_kept(name)


@pytest.mark.parametrize(
    ("dims", "parameters"),
    # MMSA's counts without BERT: 1,138,033, 1,435,105 and 21,664,749.
    [((768, 5, 20), 1_138_033), ((768, 74, 35), 1_435_105), ((768, 33, 709), 21_664_749)],
)
def test_sizes_are_those_of_mmsa(dims: tuple[int, ...], parameters: int) -> None:
    spec = replace(CASE.spec, feature_dims=dict(zip(("text", "audio", "vision"), dims, strict=True)))
    # Without a LayerNorm of 2 x 768 and a layer from 128 to 4, which are not used there.
    assert sum(p.numel() for p in MISA(spec).parameters()) == parameters - 4 * 768 - (128 * 4 + 4)


def test_losses_are_those_of_the_paper() -> None:
    out, batch = labelled()
    method = MISA(CASE.spec, hidden=4, lambda_similarity=0.7, lambda_difference=0.3, lambda_reconstruction=0.9)
    terms = method.loss(out, batch)
    x = {name: value.detach().numpy().astype(np.float64) for name, value in out.aux.items()}

    def cmd(a: np.ndarray, b: np.ndarray) -> float:
        a_, b_ = a - a.mean(0), b - b.mean(0)
        moments = [np.linalg.norm((a_**k).mean(0) - (b_**k).mean(0)) for k in (2, 3, 4, 5)]
        return float(np.linalg.norm(a.mean(0) - b.mean(0)) + sum(moments))

    def rows(a: np.ndarray) -> np.ndarray:
        centred = a - a.mean(0)
        return centred / (np.linalg.norm(centred, axis=1, keepdims=True) + 1e-6)

    p, s = (x[name].transpose(1, 0, 2) for name in ("private", "shared"))
    similarity = (cmd(s[0], s[1]) + cmd(s[0], s[2]) + cmd(s[1], s[2])) / 3
    pairs = [(p[0], s[0]), (p[1], s[1]), (p[2], s[2]), (p[0], p[1]), (p[0], p[2]), (p[1], p[2])]
    difference = sum(((rows(a).T @ rows(b)) ** 2).mean() for a, b in pairs)
    recon = ((x["reconstructed"] - x["original"]) ** 2).mean()
    task = ((out.pred - batch.labels) ** 2).mean()
    expected = {"task": task.item(), "sim": 0.7 * similarity, "diff": 0.3 * difference, "recon": 0.9 * recon}
    assert {name: term.item() for name, term in terms.items()} == pytest.approx(expected, abs=1e-5)


def test_the_target_of_the_reconstruction_gets_gradient_too() -> None:
    out, batch = labelled()
    MISA(CASE.spec, hidden=4, lambda_reconstruction=0.5).loss(out, batch)["recon"].backward()
    original, reconstructed = out.aux["original"], out.aux["reconstructed"]
    expected = (original - reconstructed).detach() / original.numel()
    assert torch.allclose(original.grad, expected, atol=1e-7)
    assert torch.allclose(reconstructed.grad, -expected, atol=1e-7)


def test_discriminator_learns_what_the_shared_codes_unlearn() -> None:
    """Against the same loss without the reversal."""
    case = replace(
        CASE, settings={**CASE.settings, "variant": "adversarial", "lambda_similarity": 0.4, "reverse_weight": 2.0}
    )
    method, batch = build(case), replace(batch_of(case), labels=torch.zeros(4))
    term = method.loss(method.training_forward(batch), batch)["sim"]
    term.backward()
    found = {name: p.grad.clone() for name, p in method.named_parameters() if p.grad is not None}
    method.zero_grad()
    logits = method.discriminator(method(batch).aux["shared"])
    plain = 0.4 * sum(F.cross_entropy(logits[:, i], torch.full((4,), i)) for i in range(3)) / 3
    plain.backward()
    assert term.item() == pytest.approx(plain.item(), abs=1e-6)
    for name, parameter in method.named_parameters():
        if parameter.grad is not None:
            factor = 1.0 if name.startswith("discriminator") else -2.0
            assert torch.allclose(found[name], factor * parameter.grad, atol=1e-6), name
    assert found["shared.weight"].abs().max() > 1e-4


@pytest.mark.parametrize("lengths", ["text", "own"])
def test_audio_and_vision_are_read_for_the_texts_steps_or_their_own(lengths: str) -> None:
    case = replace(CASE, settings={**CASE.settings, "lengths": lengths})
    method, batch = build(case), batch_of(case)
    last = {"text": torch.tensor([4, 4, 4, 4]), "audio": torch.full((4,), 11), "vision": torch.full((4,), 12)}
    batch = replace(batch, last=last)

    def changed_after(steps: int) -> bool:
        audio = batch.audio.clone()
        audio[:, steps:] += 1
        with torch.no_grad():
            other = method(replace(batch, features={**batch.features, "audio": audio}))
            return not torch.equal(other.pred, method(batch).pred)

    read = 5 if lengths == "text" else 12
    assert changed_after(read - 1)
    assert not changed_after(read)


def test_a_text_longer_than_audio_reads_all_of_it() -> None:
    case = replace(CASE, steps=(9, 4, 3))
    with torch.no_grad():
        assert torch.isfinite(build(case)(batch_of(case)).pred).all()


def test_text_is_its_mean_over_existing_steps() -> None:
    method, batch = build(CASE), batch_of(CASE)
    valid = torch.arange(9) < torch.tensor([9, 9, 9, 4])[:, None]
    batch = replace(batch, valid={**batch.valid, "text": valid})
    mean = (batch.text * valid.unsqueeze(2)).sum(1) / valid.sum(1, keepdim=True)
    assert torch.allclose(method._vectors(batch)["text"], mean, atol=1e-6)


@pytest.mark.parametrize("variant", ["default", "adversarial"])
def test_a_single_clip_has_finite_gradients(variant: str) -> None:
    method = build(replace(CASE, settings={**CASE.settings, "variant": variant})).train()
    whole = batch_of(CASE)
    parts = [{m: x[:1] for m, x in part.items()} for part in (whole.features, whole.valid, whole.observed, whole.last)]
    batch = Batch(*parts, labels=torch.ones(1))
    torch.stack(list(method.loss(method.training_forward(batch), batch).values())).sum().backward()
    assert all(torch.isfinite(p.grad).all() for p in method.parameters() if p.grad is not None)


def test_steps_are_as_the_arguments_say(tmp_path: Path) -> None:
    """Two batches are summed, and no entry of a gradient that is stepped on is larger than the limit."""
    data = data_module(random_corpus(), batch_size=8)
    method = MISA(data.spec, hidden=4, gradient_clip=1e-3, accumulate=2, lr=1e-2)
    stepped = []

    def watch(*_: object) -> None:
        stepped.append(max(p.grad.abs().max().item() for p in method.parameters() if p.grad is not None))

    method.on_before_optimizer_step = watch  # type: ignore[method-assign]
    quiet_trainer(tmp_path, 1).fit(method, datamodule=data)
    # Three batches: the third one is left over.
    assert stepped == [pytest.approx(1e-3, rel=1e-3)]


def test_values_outside_their_range_are_refused() -> None:
    with pytest.raises(MSABenchError, match="hidden 7 is not allowed: the fusion has 2 heads; give an even width"):
        MISA(CASE.spec, hidden=7)
    with pytest.raises(MSABenchError, match="lengths 'words'"):
        MISA(CASE.spec, lengths="words")
