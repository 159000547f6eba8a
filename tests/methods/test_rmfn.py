"""What is RMFN's own; what every method must hold is in test_methods.py."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from msabench.data.batch import Batch
from msabench.data.info import DataSpec
from msabench.errors import MSABenchError
from msabench.methods.rmfn import _LSTHM, RMFN
from msabench.missingness.conditions import MODALITIES
from tests.support.golden_cases import Case, batch_of, build, fill, numbers

SMALL = {"hidden_text": 6, "hidden_audio": 4, "hidden_vision": 5, "shared": 3, "mlp_width": 8, "stages": 3}
D = 15
CASE = Case("rmfn", (16, 5, 7), (9, 9, 9), settings=SMALL)


def method_of(**changes: Any) -> RMFN:
    method = build(replace(CASE, settings={**SMALL, **changes}))
    assert isinstance(method, RMFN)
    return method


def padded(batch: Batch, lengths: Tensor) -> Batch:
    """The batch with nothing past each clip's length."""
    valid = {m: torch.arange(x.shape[1]) < lengths.unsqueeze(1) for m, x in batch.features.items()}
    features = {m: x * valid[m].unsqueeze(2) for m, x in batch.features.items()}
    return replace(batch, features=features, valid=valid, observed=valid, last=dict.fromkeys(MODALITIES, lengths - 1))


def test_published_sizes_of_the_features_give_the_expected_number_of_parameters() -> None:
    dims, lengths = {"text": 300, "audio": 74, "vision": 35}, dict.fromkeys(MODALITIES, 50)
    method = RMFN(DataSpec(dims, lengths, "regression", "sentiment"))
    assert sum(p.numel() for p in method.parameters()) == 970_153


def test_the_hybrid_cell_is_an_lstm_cell_on_inputs_beside_the_shared_state() -> None:
    cell, reference = _LSTHM(5, 4, 3), nn.LSTMCell(8, 4)
    fill(cell)

    def as_torch(blocks: Tensor) -> Tensor:
        f, i, o, g = blocks.chunk(4)
        return torch.cat([i, f, g, o])

    with torch.no_grad():
        reference.weight_ih.copy_(as_torch(torch.cat([cell.input.weight, cell.hybrid.weight], dim=1)))
        reference.weight_hh.copy_(as_torch(cell.recurrent.weight))
        reference.bias_ih.copy_(as_torch(cell.input.bias + cell.hybrid.bias))
        reference.bias_hh.copy_(as_torch(cell.recurrent.bias))
        x, h, c, z = (numbers((6, width), key) * 2 for key, width in enumerate((5, 4, 4, 3), start=1))
        found, expected = cell(cell.input(x), h, c, z), reference(torch.cat([x, z], dim=1), (h, c))
    torch.testing.assert_close(found, expected)


def by_hand(method: RMFN, states: Tensor, *, rescale: bool, summary: str) -> Tensor:
    """z of one step, written from the equations on the weights alone."""
    weights = dict(method.fusion.state_dict())

    def lstm(name: str, x: Tensor, h: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
        gates = x @ weights[f"{name}.weight_ih"].T + h @ weights[f"{name}.weight_hh"].T
        i, f, g, o = (gates + weights[f"{name}.bias_ih"] + weights[f"{name}.bias_hh"]).chunk(4, dim=1)
        c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
        return torch.sigmoid(o) * torch.tanh(c), c

    def mlp(name: str, x: Tensor) -> Tensor:
        inner = torch.relu(x @ weights[f"{name}.fc1.weight"].T + weights[f"{name}.fc1.bias"])
        return inner @ weights[f"{name}.fc2.weight"].T + weights[f"{name}.fc2.bias"]

    attention, memory = torch.zeros_like(states), torch.sigmoid(mlp("first_highlight", states))
    s, s_memory = torch.zeros_like(states), weights["first"].expand(len(states), -1)
    read, found = states, []
    for _ in range(method.fusion.stages):
        h, memory = lstm("highlight", read, attention, memory)
        attention = torch.exp(h) / torch.exp(h).sum(1, keepdim=True)
        read = attention * states * (D if rescale else 1)
        s, s_memory = lstm("fuse", read, s, s_memory)
        found.append(s)
    return mlp("to_z", torch.cat(found, dim=1) if summary == "all" else found[-1])


@pytest.mark.parametrize("stages", [1, 3])
@pytest.mark.parametrize("rescale", [False, True])
@pytest.mark.parametrize("summary", ["all", "last"])
def test_stages_highlight_fuse_and_summarise(stages: int, rescale: bool, summary: str) -> None:
    method = method_of(stages=stages, rescale_attention=rescale, summary=summary)
    states = numbers((6, D), 7) * 2
    with torch.no_grad():
        found, expected = method.fusion(states), by_hand(method, states, rescale=rescale, summary=summary)
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize(("rescale", "total"), [(False, 1.0), (True, float(D))])
def test_highlighting_weighs_all_states_of_all_modalities_together(rescale: bool, total: float) -> None:
    fusion = method_of(rescale_attention=rescale).fusion
    states = numbers((6, D), 7) + 2
    with torch.no_grad():
        weights = torch.stack(fusion.highlights(states)) / states
    assert weights.shape == (3, 6, D)
    assert (weights > 0).all()
    torch.testing.assert_close(weights.sum(2), torch.full((3, 6), total))


@pytest.mark.parametrize("summary", ["all", "last"])
def test_variant_sdk_is_an_lstm_over_repeated_states(summary: str) -> None:
    method = method_of(variant="sdk", summary=summary)
    reference = nn.LSTM(D, D)
    names = {name: getattr(method.fusion.fuse, name.removesuffix("_l0")) for name in dict(reference.named_parameters())}
    reference.load_state_dict(names)
    states = numbers((6, D), 7) * 2
    with torch.no_grad():
        outputs, (last, _) = reference(states.repeat(3, 1, 1))
        read = outputs.transpose(0, 1).flatten(1) if summary == "all" else last[0]
        torch.testing.assert_close(method.fusion(states), method.fusion.to_z(read))
    assert not any("highlight" in name for name, _ in method.named_parameters())


def test_prediction_is_that_of_a_loop_over_the_equations() -> None:
    """Also on its own: the shared state starts at 0, is the same for all cells, and enters the next step."""
    method, batch = method_of(), batch_of(CASE)
    with torch.no_grad():
        h = {m: torch.zeros(4, SMALL[f"hidden_{m}"]) for m in MODALITIES}
        c, z = dict(h), torch.zeros(4, 3)
        for t in range(9):
            for m, x in batch.features.items():
                f, i, o, g = (
                    method.cells[m].input(x[:, t]) + method.cells[m].recurrent(h[m]) + method.cells[m].hybrid(z)
                ).chunk(4, dim=1)
                c[m] = torch.sigmoid(f) * c[m] + torch.sigmoid(i) * torch.tanh(g)
                h[m] = torch.sigmoid(o) * torch.tanh(c[m])
            states = torch.cat([h["text"], h["audio"], h["vision"]], dim=1)
            z = by_hand(method, states, rescale=False, summary="all")
        joint = torch.cat([z, states], dim=1)
        out = method(batch)
    torch.testing.assert_close(out.representation, joint)
    torch.testing.assert_close(out.pred, method.head(joint).squeeze(1))


@pytest.mark.parametrize("modality", MODALITIES)
def test_the_shared_state_hears_every_modality_and_every_cell_hears_it(modality: str) -> None:
    method, batch = method_of(rescale_attention=True), batch_of(CASE)
    changed = batch.features[modality].clone()
    changed[:, 0] += 1
    with torch.no_grad():
        before = method(batch).representation
        after = method(replace(batch, features={**batch.features, modality: changed})).representation
    parts = [part.abs().amax(1) for part in (after - before).split([3, 6, 4, 5], dim=1)]
    assert all((part > 1e-6).all() for part in parts)


def test_without_the_shared_state_modalities_are_apart() -> None:
    method, batch = method_of(rescale_attention=True), batch_of(CASE)
    with torch.no_grad():
        for cell in method.cells.values():
            cell.hybrid.weight.zero_()
        before = method(batch).representation
        after = method(replace(batch, features={**batch.features, "text": batch.text + 1})).representation
    _, text, audio, vision = (after - before).split([3, 6, 4, 5], dim=1)
    assert text.abs().max() > 1e-3
    assert torch.equal(audio, torch.zeros_like(audio))
    assert torch.equal(vision, torch.zeros_like(vision))


def test_clips_are_read_at_their_own_last_step_from_whichever_side_they_are_padded() -> None:
    method = method_of()
    lengths = torch.tensor([9, 4, 1, 6])
    batch = padded(batch_of(CASE), lengths)
    offsets = 9 - lengths.unsqueeze(1)
    order = (torch.arange(9) - offsets) % 9
    clips = torch.arange(4).unsqueeze(1)
    in_front = {m: x[clips, order] for m, x in batch.features.items()}
    valid = {m: x[clips, order] for m, x in batch.valid.items()}
    shifted = replace(
        batch, features=in_front, valid=valid, observed=valid, last=dict.fromkeys(MODALITIES, lengths + 8)
    )
    with torch.no_grad():
        pred = method(batch).pred
        torch.testing.assert_close(method(shifted).pred, pred)
        for row, length in enumerate(lengths.tolist()):
            alone = {m: x[row : row + 1, :length] for m, x in batch.features.items()}
            valid = {m: torch.ones(1, length, dtype=torch.bool) for m in MODALITIES}
            cut = Batch(alone, valid, valid, dict.fromkeys(MODALITIES, torch.tensor([length - 1])))
            torch.testing.assert_close(method(cut).pred, pred[row : row + 1])


def test_fusion_begins_at_a_unit_vector_that_is_drawn_once_and_saved() -> None:
    first, second = RMFN(CASE.spec, **SMALL), RMFN(CASE.spec, **SMALL)
    start = first.state_dict()["fusion.first"]
    torch.testing.assert_close(start.norm(), torch.tensor(1.0))
    assert not torch.equal(start, second.state_dict()["fusion.first"])
    second.load_state_dict(first.state_dict())
    batch = batch_of(CASE)
    with torch.no_grad():
        assert torch.equal(first.eval()(batch).pred, second.eval()(batch).pred)
        assert torch.equal(first(batch).pred, first(batch).pred)
        second.fusion.first.neg_()
        assert not torch.equal(first(batch).pred, second(batch).pred)


def test_other_rates_are_brought_onto_the_steps_of_the_text() -> None:
    """A sequence that does not change over time is the same at any rate."""
    method, batch = method_of(), batch_of(CASE)
    still = {**batch.features, "audio": batch.audio[:1, :1].expand(4, 9, -1)}
    masks = {m: torch.ones(4, 9, dtype=torch.bool) for m in MODALITIES}
    aligned = replace(batch, features=still, valid=masks, observed=masks)
    longer = {m: torch.ones(4, 20 if m == "audio" else 9, dtype=torch.bool) for m in MODALITIES}
    unaligned = replace(
        aligned, features={**still, "audio": batch.audio[:1, :1].expand(4, 20, -1)}, valid=longer, observed=longer
    )
    with torch.no_grad():
        torch.testing.assert_close(method(unaligned).pred, method(aligned).pred)


def test_no_stage_is_refused() -> None:
    with pytest.raises(MSABenchError, match="stages 0 is not allowed"):
        RMFN(CASE.spec, **{**SMALL, "stages": 0})
