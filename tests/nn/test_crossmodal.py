"""Maths of the crossmodal encoder and of the temporal projection."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

from msabench.errors import MSABenchError
from msabench.nn.crossmodal import CrossmodalEncoder, position_codes
from msabench.nn.temporal import TemporalProjection
from tests.support.golden_cases import fill, numbers

CPU = torch.device("cpu")


def encoder(width: int = 8, heads: int = 2, layers: int = 2, **settings: object) -> CrossmodalEncoder:
    made = CrossmodalEncoder(width, heads, layers, **settings).eval()
    fill(made)
    return made


def one_layer_by_hand(made: CrossmodalEncoder, target: Tensor, source: Tensor) -> Tensor:
    """The paper's equations with torch's own attention, for one layer without positions."""
    layer, width = made.layers[0], target.shape[2]
    attention = nn.MultiheadAttention(width, layer.self_attn.heads, batch_first=True)
    attention.load_state_dict(layer.self_attn.state_dict())
    hidden, keys = target * math.sqrt(width), layer.layer_norms[0](source * math.sqrt(width))
    step, key = torch.arange(target.shape[1])[:, None], torch.arange(source.shape[1])[None, :]
    hidden_keys = key - step > abs(source.shape[1] - target.shape[1])
    attended, _ = attention(layer.layer_norms[0](hidden), keys, keys, attn_mask=hidden_keys)
    hidden = hidden + attended
    hidden = hidden + layer.fc2(F.relu(layer.fc1(layer.layer_norms[1](hidden))))
    return made.layer_norm(hidden)


@given(target_steps=st.integers(1, 9), source_steps=st.sampled_from([1, 2, 5, 9, 130]))
def test_layer_follows_the_equations(target_steps: int, source_steps: int) -> None:
    made = encoder(layers=1, positions=False)
    target, source = numbers((3, target_steps, 8), 1), numbers((3, source_steps, 8), 2)
    with torch.no_grad():
        expected = one_layer_by_hand(made, target, source)
        assert torch.allclose(made(target, source), expected, atol=1e-5)


def test_fused_and_plain_attention_agree_with_and_without_gradient() -> None:
    made = encoder()
    target, source = numbers((2, 6, 8), 1), numbers((2, 200, 8), 2)
    fused = made(target, source)
    made.layers.apply(lambda part: setattr(part, "dropout", 1e-12) if hasattr(part, "dropout") else None)
    made.train()  # dropout in force, so that the plain products are taken, but nothing is ever dropped
    torch.manual_seed(0)
    plain = made(target, source)
    assert torch.allclose(fused, plain, atol=1e-5)


@given(target_steps=st.integers(1, 7), source_steps=st.integers(1, 7))
def test_future_mask_lets_the_last_query_see_everything(target_steps: int, source_steps: int) -> None:
    made = encoder(layers=1)
    target = numbers((1, target_steps, 8), 1)
    source = numbers((1, source_steps, 8), 2).requires_grad_()
    out = made(target, source)
    for step in range(target_steps):
        (grad,) = torch.autograd.grad(out[0, step].square().sum(), source, retain_graph=True)
        seen = grad[0].abs().sum(1) > 0
        allowed = torch.arange(source_steps) - step <= abs(source_steps - target_steps)
        assert torch.equal(seen, allowed)
    assert seen.all()


def test_without_mask_every_query_sees_everything() -> None:
    made = encoder(layers=1, future_mask=False)
    source = numbers((1, 5, 8), 2).requires_grad_()
    (grad,) = torch.autograd.grad(made(numbers((1, 5, 8), 1), source)[0, 0].square().sum(), source)
    assert (grad[0].abs().sum(1) > 0).all()


@pytest.mark.parametrize("steps", [1, 6, 140])
@pytest.mark.parametrize("with_source", [True, False])
def test_last_step_alone_is_the_last_step(steps: int, with_source: bool) -> None:
    made = encoder()
    target, source = numbers((3, steps, 8), 1), numbers((3, 4, 8), 2) if with_source else None
    with torch.no_grad():
        alone = made(target, source, last_only=True)
        assert alone.shape == (3, 1, 8)
        assert torch.allclose(alone, made(target, source)[:, -1:], atol=1e-5)


def test_position_codes_are_fairseqs() -> None:
    codes = position_codes(3, 7, CPU)
    for row in range(3):
        for i, rate in enumerate((1.0, 1e-2, 1e-4)):
            assert codes[row, i] == pytest.approx(math.sin((row + 1) * rate), abs=1e-6)
            assert codes[row, 3 + i] == pytest.approx(math.cos((row + 1) * rate), abs=1e-6)
    assert not codes[:, 6].any()


def test_steps_with_a_zero_first_feature_get_no_code() -> None:
    inputs = numbers((1, 4, 8), 1)
    inputs[0, 1] = 0
    inputs[0, 2, 0] = 0
    codes = position_codes(4, 8, CPU)
    made = encoder()
    added = made._embedded(inputs) - math.sqrt(8) * inputs
    assert not added[0, 1:3].any()
    # Steps behind a gap keep their own number.
    assert torch.allclose(added[0, [0, 3]], codes[[0, 3]], atol=1e-6)
    everywhere = encoder(zero_is_pad=False)._embedded(inputs) - math.sqrt(8) * inputs
    assert torch.allclose(everywhere[0], codes, atol=1e-6)


def test_missing_modality_keeps_no_order() -> None:
    """Behind a bias-free projection, a removed source looks the same at every step."""
    projection = TemporalProjection(5, 8, steps=6, kernel_size=3)
    source = projection(torch.zeros(2, 6, 5))
    assert source.shape == (2, 4, 8)
    assert not source.any()
    assert not encoder()._embedded(source).any()


def test_embedding_dropout_is_drawn_apart_for_keys_and_values() -> None:
    made = encoder(embed_dropout=0.5).train()
    seen: list[tuple[Tensor, Tensor]] = []
    made.layers[0].self_attn.register_forward_pre_hook(lambda _, args: seen.append((args[1], args[2])))
    made(numbers((2, 4, 8), 1), numbers((2, 5, 8), 2))
    assert not torch.equal(*seen[0])
    made.eval()(numbers((2, 4, 8), 1), numbers((2, 5, 8), 2))
    assert seen[1][0] is seen[1][1]


def test_training_after_inference_mode_uses_the_same_tables() -> None:
    target, source = numbers((1, 23, 8), 1), numbers((1, 29, 8), 2)
    made = encoder()
    with torch.inference_mode():
        made(target, source)
    made(target, source).sum().backward()
    assert all(parameter.grad is not None for parameter in made.parameters())


def test_initialisation_is_the_official_one() -> None:
    torch.manual_seed(0)
    made = CrossmodalEncoder(40, 4, 1)
    layer = made.layers[0]
    bound = math.sqrt(6 / (120 + 40))
    assert layer.self_attn.in_proj_weight.abs().max() <= bound
    assert layer.self_attn.in_proj_weight.detach().std() == pytest.approx(bound / math.sqrt(3), rel=0.05)
    for linear in (layer.self_attn.out_proj, layer.fc1, layer.fc2):
        assert not linear.bias.any()
    assert not layer.self_attn.in_proj_bias.any()


def test_parameter_names_are_the_official_ones() -> None:
    names = {name for name, _ in CrossmodalEncoder(8, 2, 1).named_parameters()}
    attention = {"in_proj_weight", "in_proj_bias", "out_proj.weight", "out_proj.bias"}
    expected = {f"layers.0.self_attn.{name}" for name in attention}
    for part in ("layers.0.fc1", "layers.0.fc2", "layers.0.layer_norms.0", "layers.0.layer_norms.1", "layer_norm"):
        expected |= {f"{part}.weight", f"{part}.bias"}
    assert names == expected
    assert set(CrossmodalEncoder(8, 2, 1).state_dict()) == names


@pytest.mark.parametrize(("width", "heads", "message"), [(10, 4, "4 heads"), (2, 1, "position codes")])
def test_impossible_widths_are_refused(width: int, heads: int, message: str) -> None:
    with pytest.raises(MSABenchError, match=message):
        CrossmodalEncoder(width, heads, 1)


@given(steps=st.integers(1, 8), kernel=st.integers(1, 8), same=st.booleans())
def test_projection_says_its_length_or_refuses(steps: int, kernel: int, same: bool) -> None:
    padding = "same" if same else "none"
    kernel += same and kernel % 2 == 0  # torch warns about copies where it cannot pad evenly
    if kernel > steps and not same:
        with pytest.raises(MSABenchError, match=f"{kernel} steps does not fit audio of {steps} steps"):
            TemporalProjection(3, 4, steps=steps, kernel_size=kernel, what="audio")
        return
    made = TemporalProjection(3, 4, steps=steps, kernel_size=kernel, padding=padding)
    out = made(numbers((2, steps, 3), 1))
    assert out.shape == (2, made.steps, 4)
    assert made.steps == (steps if same else steps - kernel + 1)


def test_projection_of_one_step_is_the_convolution() -> None:
    made = TemporalProjection(3, 4, steps=6)
    inputs = numbers((2, 6, 3), 1)
    assert made.conv is not None
    assert torch.allclose(made(inputs), made.conv(inputs.transpose(1, 2)).transpose(1, 2), atol=1e-6)


def test_projection_to_the_same_width_is_the_identity() -> None:
    made = TemporalProjection(4, 4, steps=6, kernel_size=3)
    inputs = numbers((2, 6, 4), 1)
    assert made(inputs) is inputs
    assert made.steps == 6
    assert not list(made.parameters())
