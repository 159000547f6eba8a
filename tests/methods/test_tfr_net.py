"""What is TFR-Net's own; what every method must hold is in test_methods.py."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from msabench.data.batch import Batch
from msabench.data.datamodule import MSADataModule
from msabench.data.needs import Needs
from msabench.errors import MSABenchError
from msabench.methods.base import Output
from msabench.methods.tfr_net import GatedReader, TFRNet
from msabench.missingness.conditions import MODALITIES
from msabench.missingness.config import MissingConfig
from msabench.nn import text
from msabench.testing.corpora import data_module, quiet_trainer, random_corpus
from tests.support.golden_cases import CASES, assert_as_kept, numbers

SPEC = CASES["tfr_net_mmsa"].spec
ONE_HEAD = {f"temporal_heads_{m}": 1 for m in MODALITIES}
SMALL = {"dim": 8, "heads": 2, "layers": 1, "hidden_text": 4, "hidden_audio": 3, "hidden_vision": 5, **ONE_HEAD}
NO_DROPOUT = {
    **{f"{name}_dropout": 0.0 for name in ("relu", "embed", "res", "fusion")},
    "dropout_text": 0.0,
    **{f"attn_dropout_{m}": 0.0 for m in MODALITIES},
}


def data(**missing: object) -> MSADataModule:
    settings = {"regime": "intra", "rate": (0.4, 0.4), **missing}
    return data_module(random_corpus(), batch_size=4, missing=MissingConfig(**settings))  # type: ignore[arg-type]


def build(source: MSADataModule, **settings: object) -> TFRNet:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return TFRNet(source.spec, **{**SMALL, "prediction_epochs": 0, **settings})  # type: ignore[arg-type]


def clips(source: MSADataModule, rows: int = 6) -> Batch:
    return source.training_batch(torch.arange(rows), 0, needs=Needs(complete=True))


@pytest.mark.parametrize("name", [name for name in CASES if name.startswith("tfr_net")])
def test_outputs_are_those_of_the_official_code(name: str) -> None:
    assert_as_kept(name)


@pytest.mark.parametrize(
    ("dims", "steps", "settings", "parameters"),
    [
        ((768, 5, 20), (50, 375, 500), {}, 14_850_620),  # MOSI
        ((768, 74, 35), (50, 500, 500), {}, 18_812_589),  # MOSEI
        (
            (768, 33, 709),
            (39, 400, 55),
            {"layers": 2, "temporal_heads_text": 13, "temporal_heads_vision": 11},
            6_668_422,
        ),  # SIMS
    ],
)
def test_sizes_are_the_official_ones(
    dims: tuple[int, ...], steps: tuple[int, ...], settings: dict[str, int], parameters: int
) -> None:
    places = ({"feature_dims": dims}, {"seq_lens": steps})
    shape = {key: dict(zip(MODALITIES, value, strict=True)) for place in places for key, value in place.items()}
    with torch.device("meta"):
        method = TFRNet(replace(SPEC, **shape), **settings)  # type: ignore[arg-type]
    assert sum(p.numel() for p in method.parameters()) == parameters


def test_reader_sees_a_clip_up_to_its_length_and_the_maximum_all_of_it() -> None:
    torch.manual_seed(0)
    reader = GatedReader(4, 3, layers=2)
    h, lengths = numbers((2, 6, 4), 1) * 4, torch.tensor([6, 2])
    with torch.no_grad():
        for vector, sequence, length in zip(reader(h, lengths), h, lengths.tolist(), strict=True):
            context = torch.zeros(6, 6)
            context[:length] = reader.gru(sequence[:length])[0]
            window = np.pad(context.numpy(), ((1, 1), (0, 0)))
            weight, bias = reader.gate.weight[0].numpy(), reader.gate.bias.item()
            gate = [1 / (1 + math.exp(-(window[t : t + 3].T * weight).sum() - bias)) for t in range(6)]
            joined = torch.cat([sequence, context.tanh() * torch.tensor(gate)[:, None]], dim=1)
            expected = torch.tanh(joined @ reader.out.weight.T + reader.out.bias).amax(0)
            torch.testing.assert_close(vector, expected, atol=1e-6, rtol=0)
        # A step behind the end is read by no GRU, but it may hold the maximum.
        changed = h.clone()
        changed[1, 5] = 50 * reader.out.weight[:, :4].sum(0)
        assert torch.equal(reader(changed, lengths)[0], reader(h, lengths)[0])
        assert not torch.equal(reader(changed, lengths)[1], reader(h, lengths)[1])


def test_attention_dropout_goes_by_the_source_and_stacks_without_one_have_three_layers() -> None:
    method = TFRNet(SPEC, **SMALL, attn_dropout_text=0.1, attn_dropout_audio=0.2, attn_dropout_vision=0.3)
    rates = {name: encoder.layers[0].self_attn.dropout for name, encoder in method.cross.items()}
    expected = {"text": 0.1, "audio": 0.2, "vision": 0.3}
    assert rates == {f"{t}_from_{s}": expected[s] for t in MODALITIES for s in MODALITIES if s != t}
    for stacks in (method.memory, method.final):
        assert {encoder.layers[0].self_attn.dropout for encoder in stacks.values()} == {0.1}
        assert {len(encoder.layers) for encoder in stacks.values()} == {3}
    assert {len(encoder.layers) for encoder in method.cross.values()} == {1}
    assert {encoder.positions for encoder in method.final.values()} == {False}


def test_streams_of_a_modality_are_itself_then_the_others() -> None:
    source = data()
    method = build(source).eval()
    batch = clips(source)
    before = method.training_forward(batch).aux
    other = replace(batch, features={**batch.features, "audio": batch.audio + 1})
    after = method.training_forward(other).aux
    # Of the streams itself, second, third: which read audio.
    for m, reads in {"text": (False, True, False), "audio": (True, True, True), "vision": (False, False, True)}.items():
        parts = zip(before[m].chunk(3, dim=2), after[m].chunk(3, dim=2), strict=True)
        assert tuple(not torch.equal(*pair) for pair in parts) == reads


def given(
    method: TFRNet, monkeypatch: pytest.MonkeyPatch, rebuilt: dict[str, Tensor], batch: Batch
) -> dict[str, float]:
    """Losses of features that were rebuilt."""
    monkeypatch.setattr(method, "rebuilt", lambda m, h: rebuilt[m])
    assert batch.complete is not None
    aux = {**dict.fromkeys(MODALITIES, torch.zeros(())), "target_text": batch.complete.text}
    out = Output(pred=torch.zeros(batch.size), aux=aux)
    return {name: term.item() for name, term in method.loss(out, batch).items()}


def test_losses_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    """Smooth L1 over the values of frames that exist and were dropped, and those alone."""
    source = data()
    method = build(source, lambda_text=5.0, lambda_audio=2.0, lambda_vision=20.0)
    batch = clips(source)
    assert batch.complete is not None
    assert batch.labels is not None
    rebuilt = {m: numbers(tuple(batch.complete.features[m].shape), key) * 9 for key, m in enumerate(MODALITIES)}
    terms = given(method, monkeypatch, rebuilt, batch)
    assert terms["task"] == pytest.approx(batch.labels.abs().mean().item())
    for m, weight in {"text": 5, "audio": 2, "vision": 20}.items():
        lost = (batch.complete.valid[m] & ~batch.observed[m]).numpy()
        assert lost.any()
        assert not lost.all()
        d = np.abs((rebuilt[m] - batch.complete.features[m]).numpy()[lost].astype(np.float64))
        assert (d < 1).any()
        assert (d > 1).any()
        assert terms[f"rec_{m}"] == pytest.approx(weight * np.where(d < 1, d**2 / 2, d - 0.5).mean(), rel=1e-5)


def test_moment_discrepancy_is_over_all_rows_and_divided_as_the_error(monkeypatch: pytest.MonkeyPatch) -> None:
    source = data()
    batch = clips(source)
    assert batch.complete is not None
    rebuilt = {m: numbers(tuple(batch.complete.features[m].shape), key) * 9 for key, m in enumerate(MODALITIES)}
    without, with_it = (
        given(build(source, lambda_similarity=weight, lambda_text=2.0), monkeypatch, rebuilt, batch)
        for weight in (0.0, 3.0)
    )
    lost = (batch.complete.valid["text"] & ~batch.observed["text"]).numpy()
    dims = batch.complete.text.shape[2]
    x, y = (values.numpy().astype(np.float64) * lost[:, :, None] for values in (rebuilt["text"], batch.complete.text))
    x, y = x.reshape(-1, dims), y.reshape(-1, dims)
    moments = [(x.mean(0), y.mean(0))]
    moments += [(((x - x.mean(0)) ** k).mean(0), ((y - y.mean(0)) ** k).mean(0)) for k in (2, 3)]
    discrepancy = sum(np.linalg.norm(a - b) for a, b in moments)
    found = with_it["rec_text"] - without["rec_text"]
    assert found == pytest.approx(2 * 3 * discrepancy / (lost.sum() * dims), rel=1e-4)


def test_complete_clips_have_nothing_to_rebuild_unless_all_is() -> None:
    source = data(regime="complete")
    batch = clips(source)
    for reconstruct, rebuilds in (("missing", False), ("all", True)):
        method = build(source, reconstruct=reconstruct)
        terms = method.loss(method.training_forward(batch), batch)
        assert all((terms[f"rec_{m}"] > 0) == rebuilds for m in MODALITIES)


def test_a_modality_that_a_clip_never_had_is_not_rebuilt(monkeypatch: pytest.MonkeyPatch) -> None:
    corpus = random_corpus()
    corpus.splits["train"].lengths["audio"].zero_()
    corpus.splits["train"].features["audio"].zero_()
    source = data_module(corpus, missing=MissingConfig(regime="intra", rate=(0.4, 0.4)))
    batch = clips(source)
    assert batch.complete is not None
    rebuilt = {m: torch.ones_like(batch.complete.features[m]) for m in MODALITIES}
    assert given(build(source), monkeypatch, rebuilt, batch)["rec_audio"] == 0


@pytest.mark.parametrize("axis", ["batch", "channel"])
def test_on_the_official_axis_a_clip_is_rebuilt_from_those_before_it(axis: str) -> None:
    source = data()
    method = build(source, final_axis=axis).eval()
    h = numbers((5, 8, 24), 1) * 4
    other = h.clone()
    other[2] += 1
    with torch.no_grad():
        changed = (method.rebuilt("text", h) != method.rebuilt("text", other)).flatten(1).any(1)
        alone = method.rebuilt("text", h[3:4])
    # The first clip attends to itself, as if it were alone.
    assert changed.tolist() == [False, False, True, axis == "batch", axis == "batch"]
    assert torch.allclose(alone[0], method.rebuilt("text", h)[3], atol=1e-5) == (axis == "channel")


def test_predictions_do_not_pass_through_the_last_transformer() -> None:
    source = data()
    axes = [build(source, final_axis=axis).eval() for axis in ("batch", "channel")]
    batch = clips(source)
    with torch.no_grad():
        for weights in axes[1].final.parameters():
            weights.zero_()
        assert torch.equal(*(method(batch).pred for method in axes))


def test_the_first_epoch_trains_the_prediction_alone(tmp_path: Path) -> None:
    source = data()
    method = build(source, prediction_epochs=1)
    start = {name: value.clone() for name, value in method.named_parameters()}
    names: list[set[str]] = []
    loss, ends = method.loss, method.on_train_epoch_end
    unmoved: list[bool] = []

    def watched(out: Output, batch: Batch) -> dict[str, Tensor]:
        terms = loss(out, batch)
        names.append(set(terms))
        return terms

    def ended() -> None:
        ends()
        rebuilding = [n for n in start if n.startswith(("final.", "generators."))]
        unmoved.append(all(torch.equal(method.get_parameter(n), start[n]) for n in rebuilding))

    method.loss, method.on_train_epoch_end = watched, ended  # type: ignore[method-assign]
    quiet_trainer(tmp_path, 2).fit(method, datamodule=source)
    assert names == [{"task"}] * 6 + [{"task", "rec_text", "rec_audio", "rec_vision"}] * 6
    assert unmoved == [True, False]


@pytest.mark.parametrize(("accumulate", "step_every_batch"), [(4, True), (4, False), (1, True)])
def test_steps_within_a_group(tmp_path: Path, accumulate: int, step_every_batch: bool) -> None:
    """Six batches an epoch; gradients add up over four, every one is clipped, the fourth steps twice."""
    source = data()
    settings = {**NO_DROPOUT, "gradient_clip": 0.02, "lr_patience": None, "weight_decay": 0.01}
    settings |= {"accumulate": accumulate, "step_every_batch": step_every_batch}
    method, by_hand = (build(source, **settings).train() for _ in range(2))
    batches: list[Batch] = []
    forward = method.training_forward
    method.training_forward = lambda batch: batches.append(batch) or forward(batch)  # type: ignore[method-assign]
    quiet_trainer(tmp_path, 2).fit(method, datamodule=source)
    assert len(batches) == 12

    optimizer = torch.optim.Adam(by_hand.parameters(), lr=2e-3, weight_decay=0.01, fused=True)
    for number, batch in enumerate(batches):
        place = number % 6 % accumulate
        if place == 0:
            optimizer.zero_grad()
        torch.stack(list(by_hand.loss(by_hand.training_forward(batch), batch).values())).sum().backward()
        torch.nn.utils.clip_grad_value_(by_hand.parameters(), 0.02)
        steps = int(place == accumulate - 1) + int(step_every_batch and accumulate > 1)
        for _ in range(steps):
            optimizer.step()
    for (name, ours), expected in zip(method.named_parameters(), by_hand.parameters(), strict=True):
        if not name.endswith("in_proj_bias"):  # a keys' bias has rounding noise for a gradient
            torch.testing.assert_close(ours, expected, atol=1e-6, rtol=0)


def test_text_targets_are_states_of_the_encoder_in_training(monkeypatch: pytest.MonkeyPatch) -> None:
    from transformers import BertConfig, BertModel

    config = BertConfig(vocab_size=200, hidden_size=6, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8)
    monkeypatch.setattr(text, "_load_bert", lambda name: BertModel(config, add_pooling_layer=False))
    source = data(level="tokens")
    method = build(source, text_encoder="bert", finetune=True, text_lr=1e-4, text_weight_decay=0.5)
    batch = source.training_batch(torch.arange(6), 0, needs=Needs(complete=True, tokens=True))
    out = method.training_forward(batch)
    assert out.aux["target_text"].requires_grad
    assert batch.complete is not None
    assert batch.complete.tokens is not None
    out.aux["target_text"].sum().backward()
    gradient = method.text.encoder.get_input_embeddings().weight.grad  # type: ignore[union-attr, operator]
    read = set(batch.complete.tokens[:, 0].unique().tolist()) - {0}  # padding's embedding is fixed
    assert set(gradient.abs().sum(1).nonzero().flatten().tolist()) == read
    decayed, kept, rest = method.param_groups()
    assert (decayed["lr"], decayed["weight_decay"], kept["weight_decay"]) == (1e-4, 0.5, 0.0)
    assert "lr" not in rest


def test_without_reconstruction_nothing_complete_is_needed() -> None:
    source = data()
    method = build(source, variant="wo_reconstruction")
    assert not hasattr(method, "final")
    batch = replace(clips(source), complete=None)
    assert set(method.loss(method.training_forward(batch), batch)) == {"task"}
    with pytest.raises(MSABenchError, match="trains on complete clips"):
        build(source).training_forward(batch)


def test_clips_of_one_step_are_rebuilt_from_what_they_are() -> None:
    """A LayerNorm over one number would give the same for every clip."""
    source = data_module(random_corpus(steps=dict.fromkeys(MODALITIES, 1)))
    method = build(source).eval()
    rebuilt = method.rebuilt("text", numbers((3, 1, 24), 1))
    assert not torch.allclose(rebuilt[0], rebuilt[1])
    assert not list(method.final.parameters())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"temporal_heads_text": 25}, "temporal_heads_text 25 do not divide the 9 time steps of text"),
        ({"temporal_heads_audio": 0}, "temporal_heads_audio 0 do not divide the 20 time steps of audio"),
        ({"final_axis": "time"}, "unknown final_axis"),
        ({"reconstruct": "none"}, "unknown reconstruct"),
        ({"lambda_audio": -1.0}, "weights .* are not allowed"),
    ],
)
def test_what_is_refused(settings: dict[str, object], message: str) -> None:
    with pytest.raises(MSABenchError, match=message):
        TFRNet(SPEC, **{**SMALL, **settings})  # type: ignore[arg-type]
