"""What is CubeMLP's own; what every method must hold is in test_methods.py."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from msabench.data.batch import Batch
from msabench.errors import MSABenchError
from msabench.methods.cubemlp import CubeMLP, _AxisMLP, _like_text
from msabench.missingness.conditions import MODALITIES
from msabench.nn import text
from msabench.testing.corpora import data_module, quiet_trainer, random_corpus
from tests.support.golden_cases import CASES, assert_as_kept, batch_of, build, numbers

CASE = CASES["cubemlp_official"]


@pytest.mark.parametrize("name", ["cubemlp_official", "cubemlp_official_joined"])
def test_outputs_are_those_of_the_official_code(name: str) -> None:
    assert_as_kept(name)


@pytest.mark.parametrize(
    ("dims", "steps", "parameters"),
    [
        ((768, 74, 47), 50, 1.053),
        ((768, 74, 47), 100, 1.058),
        ((768, 5, 20), 50, 0.979),
        ((768, 74, 35), 50, 1.043),
        ((768, 33, 709), 39, 1.528),
    ],
)
def test_sizes_are_those_of_the_official_code(dims: tuple[int, ...], steps: int, parameters: float) -> None:
    spec = replace(CASE.spec, feature_dims=dict(zip(MODALITIES, dims, strict=True)))
    count = sum(p.numel() for p in CubeMLP(spec, steps=steps).parameters())
    assert round(count / 1e6, 3) == parameters


def normalised(x: Tensor, gain: Tensor, bias: Tensor) -> Tensor:
    """Over the last axis."""
    mean = x.mean(-1, keepdim=True)
    return (x - mean) / ((x - mean).square().mean(-1, keepdim=True) + 1e-6).sqrt() * gain + bias


@pytest.mark.parametrize("norm_first", [True, False])
@pytest.mark.parametrize("project", [True, False])
@pytest.mark.parametrize("axis", [1, 2, 3])
def test_each_axis_is_mixed_alone(axis: int, project: bool, norm_first: bool) -> None:
    sizes = (5, 3, 4)
    size = sizes[axis - 1]
    out = size + 2 if project else size
    block = _AxisMLP(axis, size, out, dropout=0.0, bias=True, norm_first=norm_first, project=project)
    with torch.no_grad():
        for key, parameter in enumerate(block.parameters()):
            parameter.copy_(numbers(parameter.shape, key + 1) * 2)
    x = numbers((2, *sizes), 9) * 3
    gain, bias = block.norm.weight, block.norm.bias
    letters = "blkd"
    own = letters[axis]
    along = f"{letters},h{own}->{letters.replace(own, 'h')}"
    inside = normalised(x.movedim(axis, -1), gain, bias).movedim(-1, axis) if norm_first else x
    hidden = torch.einsum(along, inside, block.fc1.weight).movedim(axis, -1) + block.fc1.bias
    hidden = 0.5 * hidden * (1 + torch.erf(hidden / 2**0.5))
    made = (hidden @ block.fc2.weight.T + block.fc2.bias).movedim(-1, axis)
    # The residual is of what came in, not of what was normalised.
    expected = made + (torch.einsum(along, x, block.residual.weight) if project else x)
    if not norm_first:
        expected = normalised(expected.movedim(axis, -1), gain, bias).movedim(-1, axis)
    found = block(x)
    assert found.shape[axis] == out
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


def test_empty_frames_with_text_are_filled_and_words_come_into_the_middle() -> None:
    x = numbers((2, 4, 3), 5)
    x[0, 1] = 0.0
    mask = torch.tensor([[True] * 7, [True] * 5 + [False] * 2])
    found = _like_text(x, mask)
    assert found.shape == (2, 7, 3)
    # Three more steps: one before, two behind.
    assert torch.equal(found[0, 1:5], x[0].where(x[0] != 0, 1e-6))
    assert (found[0, [0, 5, 6]] == 1e-6).all()
    assert (found[1, [0]] == 1e-6).all()
    assert (found[1, 5:] == 0).all()
    # A frame with some feature that is not zero is not empty.
    x[0, 1, 2] = 0.5
    assert torch.equal(_like_text(x, mask)[0, 2], torch.tensor([0.0, 0.0, 0.5]))


def test_longer_sequences_are_averaged_down_to_the_text() -> None:
    x = numbers((1, 6, 2), 3)
    found = _like_text(x, torch.ones(1, 3, dtype=torch.bool))
    torch.testing.assert_close(found, x.unflatten(1, (3, 2)).mean(2))


def shorter_text(batch: Batch, last: int) -> Batch:
    steps = batch.text.shape[1]
    valid = (torch.arange(steps) <= last).expand(batch.size, -1)
    return replace(
        batch,
        valid={**batch.valid, "text": valid},
        last={**batch.last, "text": torch.full((batch.size,), last)},
    )


@pytest.mark.parametrize("encoder", ["gru", "lstm"])
def test_audio_is_read_as_long_as_there_is_text(encoder: str) -> None:
    method = build(replace(CASE, settings={**CASE.settings, "encoder": encoder}))
    batch = shorter_text(batch_of(CASE), 5)
    cube = method._cube(batch)
    # Behind the text LayerNorm's bias is left, and behind all steps of the file nothing.
    for i, m in ((1, "audio"), (2, "vision")):
        bias = F.relu(method.sequence[m].norm.bias)
        torch.testing.assert_close(cube[:, 6:12, i], bias.expand(4, 6, -1))
        assert (cube[:, :6, i] - bias).abs().max() > 0.1
    assert (cube[:, 12:] == 0).all()
    other = replace(batch, features={**batch.features, "audio": batch.audio.clone()})
    # Nine words stand in the steps 1 to 9 of twelve.
    other.audio[:, 5:] = 7.0
    assert torch.equal(method(batch).pred, method(other).pred)
    other.audio[:, 4] = 7.0
    assert not torch.equal(method(batch).pred, method(other).pred)


def test_both_directions_are_summed() -> None:
    method = build(CASE)
    x, lengths = numbers((1, 12, 5), 4), torch.tensor([12])
    encoder = method.sequence["audio"]
    assert encoder.rnn is not None
    states, _ = encoder.rnn(x)
    torch.testing.assert_close(encoder(x, lengths), F.relu(encoder.norm(states[..., :8] + states[..., 8:])))


def test_cube_that_is_too_short_cuts_off_the_end() -> None:
    case = CASES["cubemlp_official_joined"]
    method, batch = build(case), batch_of(case)
    cut = method._cube(batch)
    method.steps = 12
    assert torch.equal(cut, method._cube(batch)[:, :10])


@pytest.mark.parametrize(
    ("compose", "width", "linear"),
    [(("mean", "cat"), 18, True), (("cat", "mean"), 24, True), (("cat", "cat"), 72, True), (("mean", "mean"), 6, True)],
)
def test_composition(compose: tuple[Any, Any], width: int, linear: bool) -> None:
    settings = {**CASE.settings, "compose_steps": compose[0], "compose_modalities": compose[1]}
    method = build(replace(CASE, settings=settings))
    out = method(batch_of(CASE))
    cube = out.aux["cube"]
    expected = []
    for clip in cube:
        rows = [clip.mean(0)] if compose[0] == "mean" else list(clip)
        # By modality, each with its steps one after the other.
        parts = [torch.cat([row[k] for row in rows]) for k in range(3)]
        expected.append(torch.cat(parts) if compose[1] == "cat" else torch.stack(parts).mean(0))
    torch.testing.assert_close(out.representation, torch.stack(expected))
    assert out.representation.shape == (4, width)


def test_wide_compositions_have_a_head_of_two_layers() -> None:
    settings = {"steps": 14, "block_steps": (14,), "block_modalities": (3,), "compose_steps": "cat"}
    assert isinstance(CubeMLP(CASE.spec, dim=3, block_widths=(3,), **settings).head, torch.nn.Linear)  # 126
    wide = CubeMLP(CASE.spec, dim=4, block_widths=(4,), **settings).head
    assert [type(layer).__name__ for layer in wide] == ["Linear", "ReLU", "Dropout", "Linear"]
    assert (wide[0].in_features, wide[0].out_features) == (168, 128)


def test_recurrent_matrices_start_orthogonal() -> None:
    rnn = CubeMLP(CASE.spec, **CASE.settings).sequence["audio"].rnn
    matrices = [p for name, p in rnn.named_parameters() if "weight_hh" in name]
    assert len(matrices) == 4
    for matrix in matrices:
        torch.testing.assert_close(matrix.T @ matrix, torch.eye(8), atol=1e-5, rtol=0)


def test_learning_rate_falls_once(tmp_path: Path) -> None:
    data = data_module(random_corpus(), batch_size=12)
    method = CubeMLP(data.spec, **CubeMLP.info.smoke, lr=0.01, lr_epoch=2, gradient_clip=1e-3)
    rates, entries = [], []

    def watch(optimizer: Any) -> None:
        rates.append(optimizer.param_groups[0]["lr"])
        entries.append(max(p.grad.abs().max().item() for p in method.parameters() if p.grad is not None))

    method.on_before_optimizer_step = watch  # type: ignore[method-assign]
    quiet_trainer(tmp_path, 4).fit(method, datamodule=data)
    assert rates == pytest.approx([0.01] * 4 + [0.001] * 4)
    assert max(entries) == pytest.approx(1e-3)


def test_first_layers_of_a_trained_text_encoder_are_frozen(monkeypatch: pytest.MonkeyPatch) -> None:
    from transformers import BertConfig, BertModel

    sizes = {"hidden_size": 16, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 16}
    config = BertConfig(vocab_size=200, max_position_embeddings=16, **sizes)
    monkeypatch.setattr(text, "_load_bert", lambda name: BertModel(config, add_pooling_layer=False))
    method = CubeMLP(CASE.spec, **CASE.settings, text_encoder="bert", finetune=True, frozen_layers=2, text_lr=7e-5)
    trained = {name for name, p in method.text.named_parameters() if p.requires_grad}
    assert any("embeddings" in name for name in trained)
    assert {name.split("layer.")[1][0] for name in trained if "layer." in name} == {"2"}
    _, encoder = method.param_groups()
    assert encoder["lr"] == 7e-5
    assert len(encoder["params"]) == len(trained)
    frozen = CubeMLP(CASE.spec, **CASE.settings, text_encoder="bert")
    assert not any(p.requires_grad for p in frozen.text.parameters())


def test_values_outside_their_range_are_refused() -> None:
    with pytest.raises(MSABenchError, match="must have one size for each of the same number of blocks"):
        CubeMLP(CASE.spec, block_steps=(50, 10, 5))
    with pytest.raises(MSABenchError, match="res_project false is not allowed"):
        CubeMLP(CASE.spec, res_project=False)
    with pytest.raises(MSABenchError, match="encoder of cubemlp"):
        CubeMLP(CASE.spec, encoder="rnn")  # type: ignore[arg-type]
    with pytest.raises(MSABenchError, match="compose_modalities of cubemlp"):
        CubeMLP(CASE.spec, compose_modalities="sum")  # type: ignore[arg-type]
