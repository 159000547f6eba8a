"""The encoder of a modality against torch's own modules, and what it may not see."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from msabench.errors import MSABenchError
from msabench.nn.modality_encoder import ModalityEncoder, at_step, mean_over
from msabench.nn.positions import sinusoidal_positions


def build(**changes):
    torch.manual_seed(0)
    encoder = ModalityEncoder(5, 8, **{"steps": 9, "heads": 2, "layers": 2, **changes}).eval()
    with torch.no_grad():
        for parameter in encoder.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return encoder


def sequences(T=9, lengths=(9, 4, 1)):
    valid = torch.arange(T) < torch.tensor(lengths)[:, None]
    return torch.randn(len(lengths), T, 5, generator=torch.Generator().manual_seed(1)) * valid.unsqueeze(2), valid


def test_it_is_convolution_scaled_codes_and_post_norm_layers():
    encoder = build()
    x, valid = sequences()
    padded = nn.functional.pad(x, (0, 0, 1, 1))
    weight, bias = encoder.convolution.weight, encoder.convolution.bias
    h = sum(padded[:, k : k + 9] @ weight[:, :, k].T for k in range(3)) + bias
    h = 8**0.5 * h + sinusoidal_positions(9, 8)
    for layer in encoder.layers:
        attended = layer.self_attn(h, h, h, key_padding_mask=~valid, need_weights=False)[0]
        h = layer.norm1(h + attended)
        h = layer.norm2(h + layer.linear2(layer.linear1(h).relu()))
    assert layer.linear1.out_features == 32
    torch.testing.assert_close(encoder(x, valid)[valid], h[valid], atol=1e-5, rtol=1e-5)
    with torch.no_grad():  # torch has a kernel of its own for inference
        torch.testing.assert_close(encoder(x, valid)[valid], h[valid], atol=1e-5, rtol=1e-5)


def test_layers_start_from_weights_of_their_own():
    first, second = ModalityEncoder(5, 8, steps=9, heads=2).layers
    assert not torch.equal(first.linear1.weight, second.linear1.weight)


def test_padding_is_not_seen():
    encoder = build()
    x, valid = sequences()
    encoded = encoder(x, valid)
    torch.testing.assert_close(encoder(x.masked_fill(~valid.unsqueeze(2), 7.0), valid)[valid], encoded[valid])
    torch.testing.assert_close(encoder(x[1:, :4], valid[1:, :4])[0], encoded[1, :4], atol=1e-5, rtol=1e-5)
    more = encoder(nn.functional.pad(x, (0, 0, 0, 30)), nn.functional.pad(valid, (0, 30)))
    torch.testing.assert_close(more[:, :9][valid], encoded[valid], atol=1e-5, rtol=1e-5)


def test_missing_frames_are_seen_as_zeros():
    encoder = build()
    x, valid = sequences()
    shorter = valid.clone()
    shorter[0, 5:] = False
    x[0, 5:] = 0
    assert not torch.allclose(encoder(x, valid)[0, :5], encoder(x, shorter)[0, :5], atol=1e-3)


def test_clips_without_any_step_and_batches_of_one():
    encoder = build().train()
    x, valid = sequences()
    valid[1] = False
    encoded = encoder(x, valid)
    pooled = mean_over(encoded, valid)
    pooled.sum().backward()
    assert torch.isfinite(encoded).all()
    assert all(torch.isfinite(p.grad).all() for p in encoder.parameters())
    torch.testing.assert_close(pooled[1], encoded[1].mean(0))
    assert encoder(x[:1], valid[:1]).shape == (1, 9, 8)


def test_pooling_by_hand():
    x = torch.tensor([[[1.0, 10.0], [3.0, 20.0], [100.0, 100.0]]])
    valid = torch.tensor([[True, True, False]])
    assert mean_over(x, valid).tolist() == [[2.0, 15.0]]
    two = torch.cat([x, -x])
    assert at_step(two, torch.tensor([1, 2])).tolist() == [[3.0, 20.0], [-100.0, -100.0]]
    assert at_step(two, torch.tensor([-1, 0])).tolist() == [[100.0, 100.0], [-1.0, -10.0]]


@pytest.mark.parametrize("changes", [{"heads": 3}, {"heads": 0}, {"layers": 0}, {"kernel_size": 0}])
def test_arguments_outside_their_range_are_refused(changes):
    with pytest.raises(MSABenchError, match=r"is not allowed|must both be"):
        build(**changes)


def test_even_kernels_and_longer_sequences_keep_the_length():
    x, valid = sequences(T=12, lengths=(12, 3))
    assert build(kernel_size=2)(x, valid).shape == (2, 12, 8)
