"""What is TETFN's own; what every method must hold is in test_methods.py."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from msabench.data.batch import Batch
from msabench.errors import MSABenchError
from msabench.methods.tetfn import TETFN
from msabench.missingness.conditions import MODALITIES
from msabench.nn.window_mean import window_means
from msabench.testing.corpora import data_module, random_corpus
from tests.support.golden_cases import CASES, assert_as_kept, batch_of, build

POOLED = CASES["tetfn_mmsa_pooled"]
SMOKE = TETFN.info.smoke


@pytest.mark.parametrize("name", ["tetfn_mmsa", "tetfn_mmsa_pooled"])
def test_outputs_are_those_of_the_official_code(name: str) -> None:
    assert_as_kept(name)


MOSEI = {"hidden_audio": 32, "hidden_vision": 32, "width_text": 64}
SIMS = {"kernel_size_text": 3, "kernel_size_audio": 5, "width_text": 64, "width_audio": 16, "width_vision": 32}


@pytest.mark.parametrize(
    ("dims", "settings", "parameters"),
    [((768, 5, 20), {}, 1_254_224), ((768, 74, 35), MOSEI, 1_257_360), ((768, 33, 709), SIMS, 1_529_968)],
    ids=["mosi", "mosei", "sims"],
)
def test_sizes_are_those_of_mmsa(dims: tuple[int, ...], settings: dict[str, int], parameters: int) -> None:
    method = TETFN(replace(POOLED.spec, feature_dims=dict(zip(MODALITIES, dims, strict=True))), **settings)
    assert sum(p.numel() for p in method.parameters()) == parameters


def clips(rows: int = 12, **settings: Any) -> tuple[TETFN, Batch]:
    data = data_module(random_corpus())
    with torch.random.fork_rng():
        torch.manual_seed(0)
        method = TETFN(data.spec, **{**SMOKE, **settings})
    return method, data.training_batch(torch.arange(rows), 0)


def test_convolution_of_vision_is_that_of_audio_unless_told() -> None:
    method, _ = clips(kernel_size_audio=3)
    assert (method.audio.project.steps, method.vision.project.steps) == (6, 6)
    method, _ = clips(kernel_size_audio=3, kernel_size_vision=1)
    assert (method.audio.project.steps, method.vision.project.steps) == (6, 8)
    with pytest.raises(MSABenchError, match="kernel of 9 steps does not fit audio of 8 steps"):
        clips(kernel_size_audio=9)


def test_longer_sequences_are_averaged_down_to_the_text() -> None:
    method, batch = build(POOLED), batch_of(POOLED)
    pooled = {**batch.features, **{m: window_means(batch.features[m], 9) for m in ("audio", "vision")}}
    with torch.no_grad():
        assert torch.equal(method(batch).pred, method(replace(batch, features=pooled)).pred)


def test_attention_dropout_goes_by_the_source() -> None:
    method, _ = clips(attn_dropout_text=0.1, attn_dropout_audio=0.2, attn_dropout_vision=0.3, embed_dropout=0.4)

    def attention(encoder: Any) -> set[float]:
        assert encoder.embed_dropout == 0.4
        return {layer.self_attn.dropout for layer in encoder.layers}

    found = {name: attention(encoder) for name, encoder in method.cross.items()}
    assert found == {
        "text_from_audio": {0.2},
        "text_from_vision": {0.3},
        "audio_from_text": {0.1},
        "vision_from_text": {0.1},
    }
    enhanced = (method.audio_from_vision, method.vision_from_audio)
    others = (*method.memory.values(), *(part for pair in enhanced for part in (pair.lower, pair.upper)))
    assert all(attention(encoder) == {0.1} for encoder in others)
    assert [len(pair.lower.layers) for pair in enhanced] == [1, 1]
    assert {len(encoder.layers) for encoder in (*method.cross.values(), *method.memory.values())} == {2}
    assert {encoder.positions for encoder in (*method.cross.values(), *method.memory.values())} == {False}
    assert all(pair.lower.positions and pair.upper.positions for pair in enhanced)


def test_modality_reads_the_other_only_through_the_text() -> None:
    """Where the text says nothing, vision's query finds the same everywhere."""
    method, _ = clips()
    torch.manual_seed(0)
    pair = method.audio_from_vision.eval()
    pair.lower.layers[0].self_attn.out_proj.weight.data.zero_()
    audio, vision, text = (torch.randn(3, steps, 8) for steps in (6, 8, 7))
    with torch.no_grad():
        assert pair(audio, vision, text).shape == (3, 6, 8)
        assert torch.equal(pair(audio, vision, text), pair(audio, vision, text + 1.0))
        assert not torch.equal(pair(audio, vision, text), pair(audio, vision + torch.randn(8), text))


def test_unimodal_scores_read_maxima_over_all_steps() -> None:
    method, batch = clips()
    method.eval()
    with torch.no_grad():
        score = method(batch).unimodal["text"]
        backwards = replace(batch, features={**batch.features, "text": batch.text.flip(1)})
        assert torch.allclose(score, method(backwards).unimodal["text"], atol=1e-6)
        louder = batch.text.clone()
        louder[:, 0] += 5.0
        other = method(replace(batch, features={**batch.features, "text": louder})).unimodal
    assert not torch.allclose(score, other["text"])
    assert torch.equal(method(batch).unimodal["audio"], other["audio"])


def test_unimodal_tasks_are_those_of_self_mm() -> None:
    method, batch = clips()
    terms = [method.loss(method(batch), batch) for _ in range(3)]
    assert all(terms[epoch][m] == 0 for epoch in (0, 1) for m in MODALITIES)
    assert all(terms[2][m] > 0 for m in MODALITIES)
    alone, _ = clips(variant="wo_unimodal")
    assert set(alone.loss(alone(batch), batch)) == {"task"}
    assert not alone.heads


def test_rates_of_the_parts() -> None:
    method, _ = clips(audio_lr=0.1, audio_weight_decay=0.2, vision_lr=0.3, vision_weight_decay=0.4, lr=0.5)
    audio, vision, rest = method.configure_optimizers()["optimizer"].param_groups
    assert {id(p) for p in audio["params"]} == {id(p) for p in method.audio.parameters()}
    assert (audio["lr"], audio["weight_decay"]) == (0.1, 0.2)
    assert (vision["lr"], vision["weight_decay"]) == (0.3, 0.4)
    assert (rest["lr"], rest["weight_decay"]) == (0.5, 1e-2)
    # The convolution of the text is in no encoder; those of audio and vision are.
    assert any(p is method.project_text.conv.weight for p in rest["params"])
    assert any(p is method.audio.project.conv.weight for p in audio["params"])
