"""What is MulT's own; what every method must hold is in test_methods.py."""

from __future__ import annotations

from dataclasses import replace

import pytest

from msabench.errors import MSABenchError
from msabench.methods.mult import MulT
from msabench.missingness.conditions import MODALITIES
from tests.support.golden_cases import CASES, assert_as_kept, batch_of, build

SPEC = CASES["mult_mmsa"].spec


@pytest.mark.parametrize("name", [name for name in CASES if name.startswith("mult")])
def test_outputs_are_those_of_the_official_code(name: str) -> None:
    assert_as_kept(name)


def test_attention_dropout_goes_by_the_source() -> None:
    method = MulT(SPEC, attn_dropout_text=0.1, attn_dropout_audio=0.2, attn_dropout_vision=0.3)
    rates = {name: encoder.layers[0].self_attn.dropout for name, encoder in method.cross.items()}
    expected = {"text": 0.1, "audio": 0.2, "vision": 0.3}
    assert rates == {f"{t}_from_{s}": expected[s] for t in MODALITIES for s in MODALITIES if s != t}
    assert {encoder.layers[0].self_attn.dropout for encoder in method.memory.values()} == {0.1}


@pytest.mark.parametrize(("layers", "memory_layers"), [(1, 3), (3, 3), (5, 5)])
def test_memories_have_at_least_three_layers(layers: int, memory_layers: int) -> None:
    method = MulT(SPEC, dim=8, heads=2, layers=layers)
    assert {len(encoder.layers) for encoder in method.cross.values()} == {layers}
    assert {len(encoder.layers) for encoder in method.memory.values()} == {memory_layers}


def test_sizes_are_the_official_ones() -> None:
    # Official defaults on the files of MulT, and MMSA's settings on MOSI.
    mosei = replace(SPEC, feature_dims={"text": 300, "audio": 74, "vision": 35})
    assert sum(p.numel() for p in MulT(mosei).parameters()) == pytest.approx(1.074e6, abs=500)
    steps = {"text": 50, "audio": 375, "vision": 500}
    mosi = replace(SPEC, feature_dims={"text": 768, "audio": 5, "vision": 20}, seq_lens=steps)
    kernels = {f"kernel_size_{m}": 5 for m in MODALITIES}
    mmsa = MulT(mosi, dim=50, heads=10, layers=4, positions=False, **kernels)
    assert sum(p.numel() for p in mmsa.parameters()) == pytest.approx(2.572e6, abs=500)


@pytest.mark.parametrize("variant", ["lonly", "aonly", "vonly"])
def test_single_target_still_reads_every_modality(variant: str) -> None:
    case = CASES[f"mult_official_{variant}"]
    method, batch = build(case), batch_of(case)
    features = {m: values.clone().requires_grad_() for m, values in batch.features.items()}
    out = method(replace(batch, features=features))
    out.pred.sum().backward()
    assert all(values.grad is not None and values.grad.any() for values in features.values())
    assert out.representation is not None
    assert out.representation.shape == (batch.size, 60)


def test_kernel_longer_than_the_sequence_is_refused() -> None:
    with pytest.raises(MSABenchError, match="kernel of 5 steps does not fit vision of 1 steps"):
        MulT(replace(SPEC, seq_lens={"text": 9, "audio": 20, "vision": 1}), kernel_size_vision=5)


def test_nothing_but_the_prediction_holds_the_graph() -> None:
    out = build(CASES["mult_official"])(batch_of(CASES["mult_official"]))
    assert out.pred.requires_grad
    assert out.representation is not None
    assert not out.representation.requires_grad


def test_missing_modality_has_no_position_codes() -> None:
    """With vision gone, the order of its steps cannot be told: all its keys are alike."""
    case = CASES["mult_official"]
    method, batch = build(case), batch_of(case)
    batch.features["vision"].zero_()
    seen = []
    encoder = method.cross["text_from_vision"]
    encoder.layers[0].register_forward_pre_hook(lambda _, args: seen.append(args[1]))
    method(batch)
    assert not seen[0].any()
