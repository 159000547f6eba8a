"""What is MFN's own; what every method must hold is in test_methods.py, the encoder in test_multi_view_memory.py."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from msabench.methods.mfn import MFN
from msabench.nn.window_mean import window_means
from tests.support.golden_cases import CASES, assert_as_kept, batch_of, build, numbers

CASE = CASES["mfn_mmsa"]
NAMES = (
    *("hidden_text", "hidden_audio", "hidden_vision", "memory"),
    *("attend_width", "propose_width", "retain_width", "update_width", "out_width"),
)


@pytest.mark.parametrize("name", ["mfn_mmsa", "mfn_mmsa_averaged", "mfn_mmsa_pooled"])
def test_outputs_are_those_of_mmsa(name: str) -> None:
    assert_as_kept(name)


@pytest.mark.parametrize(
    ("dims", "sizes", "parameters"),
    [
        ((768, 5, 20), (256, 32, 256, 400, 32, 64, 256, 32, 128), 2_172_657),  # MOSI
        ((768, 74, 35), (128, 32, 128, 128, 128, 128, 256, 256, 128), 1_276_865),  # MOSEI
        ((768, 33, 709), (64, 16, 64, 64, 128, 128, 64, 64, 64), 601_505),  # SIMS
    ],
)
def test_sizes_are_those_of_mmsa(dims: tuple[int, ...], sizes: tuple[int, ...], parameters: int) -> None:
    spec = replace(CASE.spec, feature_dims=dict(zip(("text", "audio", "vision"), dims, strict=True)))
    method = MFN(spec, **dict(zip(NAMES, sizes, strict=True)))
    assert sum(p.numel() for p in method.parameters()) == parameters


def test_representation_is_states_and_memory_and_alone_makes_the_prediction() -> None:
    method, batch = build(CASE), batch_of(CASE)
    with torch.no_grad():
        out = method(batch)
        assert isinstance(method, MFN)
        assert out.representation is not None
        assert out.representation.shape == (4, 8 + 4 + 6 + 7)
        hidden = (out.representation @ method.output.fc1.weight.T + method.output.fc1.bias).clamp(min=0)
        pred = hidden @ method.output.fc2.weight.T + method.output.fc2.bias
    torch.testing.assert_close(out.pred, pred.squeeze(1))


def test_averaged_audio_and_vision_lose_their_order_in_time_and_nothing_else() -> None:
    case = CASES["mfn_mmsa_averaged"]
    batch = batch_of(case)
    reversed_av = {m: x.flip(1) if m != "text" else x for m, x in batch.features.items()}
    reversed_text = {m: x.flip(1) if m == "text" else x for m, x in batch.features.items()}
    shifted = {m: x + 0.1 if m == "vision" else x for m, x in batch.features.items()}
    for averaged in (True, False):
        method = build(replace(case, settings=case.settings | {"av_time_average": averaged}))
        with torch.no_grad():
            pred = method(batch).pred
            assert torch.allclose(pred, method(replace(batch, features=reversed_av)).pred, atol=1e-5) == averaged
            assert not torch.allclose(pred, method(replace(batch, features=reversed_text)).pred, atol=1e-3)
            assert not torch.allclose(pred, method(replace(batch, features=shifted)).pred, atol=1e-4)


def test_average_counts_all_stored_steps_and_dropped_frames_shrink_it() -> None:
    """Half of the frames dropped is the same as all frames at half their size, if they are equal."""
    case = CASES["mfn_mmsa_averaged"]
    method, batch = build(case), batch_of(case)
    audio = numbers((4, 1, 5), 7).expand(4, 20, 5).clone()
    dropped = audio.clone()
    dropped[:, ::2] = 0
    with torch.no_grad():
        halved = method(replace(batch, features={**batch.features, "audio": audio / 2})).pred
        assert torch.allclose(
            method(replace(batch, features={**batch.features, "audio": dropped})).pred, halved, atol=1e-6
        )


def test_unaligned_sequences_are_averaged_over_windows() -> None:
    case = CASES["mfn_mmsa_pooled"]
    method, batch = build(case), batch_of(case)
    aligned = {m: window_means(x, 9) for m, x in batch.features.items()}
    with torch.no_grad():
        assert torch.equal(method(batch).pred, method(replace(batch, features=aligned)).pred)


def test_padding_behind_a_clip_is_read() -> None:
    """All stored steps are, as in MMSA: also where it makes a difference."""
    method, batch = build(CASE), batch_of(CASE)
    longer = {m: torch.cat([x, x.new_zeros(4, 3, x.shape[2])], dim=1) for m, x in batch.features.items()}
    with torch.no_grad():
        assert not torch.allclose(method(batch).pred, method(replace(batch, features=longer)).pred, atol=1e-3)
