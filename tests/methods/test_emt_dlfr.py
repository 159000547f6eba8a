"""What is EMT-DLFR's own; what every method must hold is in test_methods.py."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from msabench.data.batch import Batch
from msabench.data.datamodule import MSADataModule
from msabench.data.needs import Needs
from msabench.errors import MSABenchError
from msabench.methods.emt_dlfr import CONTEXT, EMTDLFR, AttractionHead
from msabench.missingness.conditions import MODALITIES
from msabench.missingness.config import MissingConfig
from msabench.missingness.patterns import inner_steps
from msabench.nn.positions import sinusoidal_positions
from msabench.testing.corpora import data_module, quiet_trainer, random_corpus
from tests.support.golden_cases import CASES, assert_as_kept, fill, numbers
from tests.support.small_bert import save_small_bert

SPEC = CASES["emt_dlfr_official"].spec
NO_DROPOUT = {f"{name}_dropout": 0.0 for name in ("attn", "ff", "fusion")}
SMALL = {**EMTDLFR.info.smoke, **NO_DROPOUT, "reconstruct": "missing", "text_vector": "first", "accumulate": 1}
PARTS = (CONTEXT, *MODALITIES)


def data(**missing: object) -> MSADataModule:
    settings = {"regime": "intra", "rate": (0.4, 0.4), **missing}
    return data_module(random_corpus(), batch_size=4, missing=MissingConfig(**settings))  # type: ignore[arg-type]


def make(source: MSADataModule | None = None, **settings: object) -> EMTDLFR:
    method = EMTDLFR((source or data()).spec, **{**SMALL, **settings}).eval()  # type: ignore[arg-type]
    fill(method)
    return method


def clips(source: MSADataModule | None = None, rows: int = 6) -> Batch:
    return (source or data()).training_batch(torch.arange(rows), 0, needs=Needs(complete=True))


@pytest.mark.parametrize("name", [name for name in CASES if name.startswith("emt_dlfr")])
def test_outputs_are_those_of_the_official_code(name: str) -> None:
    assert_as_kept(name)


_SIMS = {"dim": 32, "layers": 4, "hidden_audio": 16, "hidden_vision": 32}
_MOSEI = {"layers": 2, "hidden_audio": 16, "hidden_vision": 32, "fusion_width": 128}


@pytest.mark.parametrize(
    ("dims", "steps", "settings", "parameters", "deployed", "fusion"),
    [
        ((768, 5, 20), (50, 375, 500), {}, 2_322_779, 985_906, 478_337),  # MOSI
        ((768, 74, 35), (50, 500, 500), _MOSEI, 2_115_583, 767_874, 478_337),  # MOSEI
        ((768, 33, 709), (39, 400, 55), _SIMS, 1_525_592, 453_730, 30_497),  # SIMS
    ],
)
def test_sizes_are_the_official_ones(
    dims: tuple[int, ...],
    steps: tuple[int, ...],
    settings: dict[str, int],
    parameters: int,
    deployed: int,
    fusion: int,
) -> None:
    places = ({"feature_dims": dims}, {"seq_lens": steps})
    shape = {key: dict(zip(MODALITIES, value, strict=True)) for place in places for key, value in place.items()}
    method = EMTDLFR(replace(SPEC, **shape), **settings)  # type: ignore[arg-type]
    sizes = {name: p.numel() for name, p in method.named_parameters()}
    assert sum(sizes.values()) == parameters
    training = ("attraction.", "generators.")
    assert sum(n for name, n in sizes.items() if not name.startswith(training)) == deployed
    assert sum(n for name, n in sizes.items() if name.startswith(("unit.", "pool."))) == fusion


@torch.no_grad()
def test_fusion_by_hand() -> None:
    """Every modality and the context are promoted by what the other was before the layer; then contexts are pooled."""
    method, batch = make(layers=3), clips()
    states = method.text(batch)
    vectors, steps = {"text": states[:, 0]}, {"text": states[:, 1:]}
    vectors["audio"], steps["audio"] = method.audio(batch.audio, batch.last["audio"] + 1)
    vectors["vision"], steps["vision"] = method.vision(batch.vision, batch.last["vision"] + 1)
    keep = {**batch.valid, "text": inner_steps(batch.valid["text"])[:, 1:]}
    context = torch.stack([method.project[m](vectors[m]) for m in MODALITIES], dim=1)
    x = {m: method.project[m](steps[m]) for m in MODALITIES}
    x = {m: value + sinusoidal_positions(value.shape[1], 8) for m, value in x.items()}
    for _ in range(3):
        contexts = [method.unit(context, x[m], None, keep[m]).reshape(6, 24) for m in MODALITIES]
        x = {m: method.unit(x[m], context, keep[m], None) for m in MODALITIES}
        first, _, last = method.pool
        scores = torch.cat([torch.tanh(c @ first.weight.T + first.bias) @ last.weight.T for c in contexts], dim=1)
        weights = scores.exp() / scores.exp().sum(1, keepdim=True)
        context = sum(weights[:, i : i + 1] * c for i, c in enumerate(contexts)).view(6, 3, 8)  # type: ignore[union-attr]
    view = method._view(batch, slice(None))
    torch.testing.assert_close(view.vectors[CONTEXT], context.flatten(1))
    for m in MODALITIES:
        torch.testing.assert_close(view.steps[m], x[m])
    out = method(batch)
    torch.testing.assert_close(out.representation, context.flatten(1))
    joint = torch.cat([*(vectors[m] for m in MODALITIES), context.flatten(1)], dim=1)
    torch.testing.assert_close(out.pred, method.head(joint).squeeze(1))


@torch.no_grad()
def test_steps_of_some_clips_are_those_of_all() -> None:
    method, batch = make(), clips()
    everything = method._view(batch, slice(None))
    some, none = method._view(batch, slice(4, None)), method._view(batch, None)
    for m in MODALITIES:
        torch.testing.assert_close(some.steps[m], everything.steps[m][4:])
    for k in PARTS:
        assert torch.equal(none.vectors[k], everything.vectors[k])


@torch.no_grad()
def test_the_sequence_encoder_reads_up_to_the_end_and_maps_both_alike() -> None:
    method, batch = make(), clips()
    vector, steps = method.vision(batch.vision, batch.last["vision"] + 1)
    for row, last in enumerate(batch.last["vision"].tolist()):
        torch.testing.assert_close(vector[row], steps[row, last])
        # Behind the end an LSTM's output is 0, of which the map makes its bias.
        assert torch.equal(steps[row, last + 1 :], method.vision.linear.bias.expand_as(steps[row, last + 1 :]))
    assert isinstance(EMTDLFR(SPEC, **{**SMALL, "hidden_audio": 6, "out_audio": 6}).audio.linear, torch.nn.Identity)


@torch.no_grad()
def test_mean_text_reads_all_words_and_first_what_stands_behind_it() -> None:
    batch = clips()
    words = batch.valid["text"]
    first, mean = make(), make(text_vector="mean")
    expected = (batch.text * words[:, :, None]).sum(1) / words.sum(1, keepdim=True)
    torch.testing.assert_close(mean._view(batch, None).vectors["text"], expected)
    assert torch.equal(first._view(batch, None).vectors["text"], batch.text[:, 0])
    assert mean._view(batch, slice(None)).steps["text"].shape[1] == batch.text.shape[1]
    assert first._view(batch, slice(None)).steps["text"].shape[1] == batch.text.shape[1] - 1
    # The last word, [SEP], is no step of a text that has words.
    ends = batch.last["text"]
    has_words = ends > 1
    assert has_words.any()
    changed = batch.text.clone()
    changed[torch.arange(6), ends] += 3
    other = replace(batch, features={**batch.features, "text": changed})
    assert torch.equal(first(batch).pred[has_words], first(other).pred[has_words])
    assert bool(((mean(batch).pred - mean(other).pred).abs() > 1e-5)[has_words].all())


@torch.no_grad()
def test_padding_is_not_read_by_clips_with_words() -> None:
    method, batch = make(), clips()
    words = inner_steps(batch.valid["text"]).any(1)
    assert words.any()
    assert not words.all()
    for m in MODALITIES:
        gone = ~batch.valid[m]
        assert gone.any()
        changed = batch.features[m].clone()
        changed[gone] = 7.0
        other = replace(batch, features={**batch.features, m: changed})
        differs = (method(other).pred - method(batch).pred).abs() > 1e-6
        # With nothing to read all steps count alike, as in the official code.
        assert torch.equal(differs, ~words if m == "text" else torch.zeros_like(words))


def test_attraction_head_foretells_and_keeps_its_target_apart() -> None:
    head = AttractionHead(5, 3)
    fill(head)
    x = (numbers((6, 5), 1) * 4).requires_grad_()
    z, p = head.train()(x)
    projected = x @ head.project.weight.T + head.project.bias
    normal = (projected - projected.mean(0)) / (projected.var(0, unbiased=False) + 1e-5).sqrt()
    torch.testing.assert_close(z, normal.detach())
    assert not z.requires_grad
    hidden = normal @ head.narrow.weight.T
    hidden = (hidden - hidden.mean(0)) / (hidden.var(0, unbiased=False) + 1e-5).sqrt()
    hidden = torch.relu(hidden * head.norm_p.weight + head.norm_p.bias)
    torch.testing.assert_close(p, hidden @ head.widen.weight.T + head.widen.bias)
    p.square().sum().backward()
    assert x.grad is not None
    assert x.grad.any()


def test_losses_by_hand() -> None:
    method = make(lambda_attraction=0.5, lambda_reconstruction=3.0)
    batch = clips()
    assert batch.complete is not None
    assert batch.labels is not None
    with torch.no_grad():
        out = method.training_forward(batch)
        terms = {name: term.item() for name, term in method.loss(out, batch).items()}
    assert list(terms) == ["task", "attraction", "complete", *(f"rec_{m}" for m in MODALITIES)]
    assert terms["task"] == pytest.approx((out.pred - batch.labels).abs().mean().item())
    complete = (out.aux["complete_pred"] - batch.labels).abs().mean().item()
    assert terms["complete"] == pytest.approx(0.5 * complete)

    def cosine(a: Tensor, b: Tensor) -> float:
        return float(((a * b).sum(1) / (a.norm(dim=1) * b.norm(dim=1))).mean())

    aux = out.aux
    attraction = sum(
        -(cosine(aux[f"p_{k}"], aux[f"complete_z_{k}"]) + cosine(aux[f"complete_p_{k}"], aux[f"z_{k}"])) / 2
        for k in PARTS
    )
    assert terms["attraction"] == pytest.approx(0.5 * attraction, rel=1e-5)
    for m in MODALITIES:
        lost = (batch.complete.valid[m] & ~batch.observed[m]).numpy()
        target = batch.complete.features[m]
        if m == "text":
            lost, target = lost[:, 1:], target[:, 1:]
        assert lost.any()
        assert not lost.all()
        d = np.abs((aux[f"rebuilt_{m}"] - target).numpy()[lost].astype(np.float64))
        assert terms[f"rec_{m}"] == pytest.approx(3 * np.where(d < 1, d**2 / 2, d - 0.5).mean(), rel=1e-5)


def test_views_are_seen_as_they_are() -> None:
    """The first view of the attraction is the complete clip, the second the corrupted one, alone in a batch."""
    method, batch = make(), clips()
    assert batch.complete is not None
    with torch.no_grad():
        aux = method.training_forward(batch).aux
        for prefix, version in (("complete_", batch.complete), ("", batch)):
            view = method._view(version, slice(None))
            torch.testing.assert_close(
                aux["complete_pred"] if prefix else method(batch).pred, method._predict(view.vectors).pred
            )
            for k in PARTS:
                z, p = method.attraction[k](view.vectors[k])
                torch.testing.assert_close(aux[f"{prefix}z_{k}"], z)
                torch.testing.assert_close(aux[f"{prefix}p_{k}"], p)
        corrupted = method._view(batch, slice(None))
        for m in MODALITIES:
            torch.testing.assert_close(aux[f"rebuilt_{m}"], method.generators[m](corrupted.steps[m]))


def test_batchnorm_sees_each_view_by_itself_the_complete_one_first() -> None:
    method, batch = make(), clips()
    assert batch.complete is not None
    norm = method.attraction["audio"].norm_z
    with torch.no_grad():
        norm.running_mean.zero_()
        method.train().training_forward(batch)
        found = norm.running_mean.clone()
        projected = [
            method.attraction["audio"].project(method._view(version, None).vectors["audio"]).mean(0)
            for version in (batch.complete, batch)
        ]
    torch.testing.assert_close(found, 0.9 * 0.1 * projected[0] + 0.1 * projected[1])


def moved(method: EMTDLFR, term: Tensor) -> set[str]:
    """Parts that a term reaches."""
    method.zero_grad()
    term.backward(retain_graph=True)
    return {name.split(".")[0] for name, p in method.named_parameters() if p.grad is not None and p.grad.any()}


def test_what_each_term_reaches() -> None:
    method, batch = make(), clips()
    terms = method.train().loss(method.training_forward(batch), batch)
    fusion = {"audio", "vision", "project", "unit", "pool"}
    assert moved(method, terms["task"]) == fusion | {"head"}
    assert moved(method, terms["complete"]) == fusion | {"head"}
    assert moved(method, terms["attraction"]) == fusion | {"attraction"}
    for m in MODALITIES:
        reached = moved(method, terms[f"rec_{m}"])
        assert reached == fusion | {"generators"}


def test_the_complete_view_is_no_frozen_teacher_but_what_is_foretold_is_constant() -> None:
    method, batch = make(), clips()
    assert batch.complete is not None
    for m in MODALITIES:
        batch.complete.features[m].requires_grad_()
    out = method.train().training_forward(batch)
    terms = method.loss(out, batch)
    inputs = [batch.complete.features[m] for m in MODALITIES]
    for name in ("attraction", "complete"):
        got = torch.autograd.grad(terms[name], inputs, retain_graph=True, allow_unused=True)
        assert all(g is not None and g.any() for g in got)
    assert not any(value.requires_grad for key, value in out.aux.items() if key.removeprefix("complete_")[:2] == "z_")
    assert not out.aux["target_text"].requires_grad
    got = torch.autograd.grad(terms["task"], inputs, retain_graph=True, allow_unused=True)
    assert not any(g is not None and g.any() for g in got)
    # A corrupted clip's guesses at a constant: no gradient reaches the complete clip.
    guesses = F.cosine_similarity(out.aux["p_audio"], out.aux["complete_z_audio"], dim=1).sum()
    got = torch.autograd.grad(guesses, inputs, allow_unused=True)
    assert not any(g is not None and g.any() for g in got)


def test_complete_clips_have_nothing_to_rebuild_unless_all_is() -> None:
    source = data(regime="complete")
    batch = clips(source)
    for reconstruct, rebuilds in (("missing", False), ("all", True)):
        method = make(source, reconstruct=reconstruct)
        terms = method.loss(method.training_forward(batch), batch)
        assert all((terms[f"rec_{m}"] > 0) == rebuilds for m in MODALITIES)


def test_a_removed_modality_is_rebuilt_as_far_as_the_clip_went() -> None:
    source = data(regime="inter")
    batch = clips(source, 24)
    assert batch.complete is not None
    method = make(source)
    with torch.no_grad():
        out = method.training_forward(batch)
        found = method.loss(out, batch)["rec_audio"].item()
    gone = ~batch.observed["audio"].any(1)
    assert gone.any()
    frames = batch.complete.valid["audio"] & gone[:, None]
    error = F.smooth_l1_loss(out.aux["rebuilt_audio"], batch.complete.audio, reduction="none")
    assert found == pytest.approx(error[frames].mean().item(), rel=1e-5)


@pytest.mark.parametrize(
    ("variant", "terms"),
    [
        ("wo_attraction", {"task", *(f"rec_{m}" for m in MODALITIES)}),
        ("wo_reconstruction", {"task", "attraction", "complete"}),
    ],
)
def test_variants_leave_out_a_term_and_what_serves_it(variant: str, terms: set[str]) -> None:
    method, default, batch = make(variant=variant), make(), clips()
    method.load_state_dict(default.state_dict(), strict=False)
    out = method.training_forward(batch)
    found, expected = method.loss(out, batch), default.loss(default.training_forward(batch), batch)
    assert set(found) == terms
    for name in terms:
        torch.testing.assert_close(found[name], expected[name])
    assert hasattr(method, "attraction") == (variant != "wo_attraction")
    assert hasattr(method, "generators") == (variant != "wo_reconstruction")
    torch.testing.assert_close(method(batch).pred, default(batch).pred)


def test_emotions_have_cross_entropy_for_both_views() -> None:
    case = replace(SPEC, task="emotions", metric_set="emotions")
    method = EMTDLFR(case, **SMALL)  # type: ignore[arg-type]
    labels = torch.randint(0, 2, (4, 4), generator=torch.Generator().manual_seed(0))
    shape = {m: (4, SPEC.seq_lens[m], SPEC.feature_dims[m]) for m in MODALITIES}
    valid = {m: torch.ones(size[:2], dtype=torch.bool) for m, size in shape.items()}
    last = {m: torch.full((4,), size[1] - 1) for m, size in shape.items()}
    features = {m: numbers(size, key) for key, m in enumerate(MODALITIES) for size in [shape[m]]}
    batch = Batch(features=features, valid=valid, observed=valid, last=last, labels=labels)
    batch = replace(batch, complete=batch)
    out = method.eval().training_forward(batch)
    terms = method.loss(out, batch)
    assert out.aux["complete_pred"].shape == (4, 4, 2)
    expected = F.cross_entropy(out.aux["complete_pred"].reshape(-1, 2), labels.reshape(-1))
    torch.testing.assert_close(terms["complete"], expected)
    torch.testing.assert_close(terms["task"], expected)


def test_rates_are_those_of_the_official_groups(tmp_path: Path) -> None:
    rates = {f"{part}_lr": lr for part, lr in (("text", 1e-5), ("audio", 2e-3), ("vision", 3e-4))}
    decays = {f"{part}_weight_decay": decay for part, decay in (("text", 0.1), ("audio", 0.2), ("vision", 0.3))}
    method = make(text_encoder=save_small_bert(tmp_path), finetune=True, lr=1e-3, weight_decay=0.4, **rates, **decays)
    method._trainer = quiet_trainer(tmp_path, 1)
    optimizer = method.configure_optimizers()["optimizer"]  # type: ignore[index, call-overload]
    assert type(optimizer) is torch.optim.Adam
    of = {id(p): (g["lr"], g["weight_decay"]) for g in optimizer.param_groups for p in g["params"]}
    for name, parameter in method.named_parameters():
        part = name.split(".")[0]
        own = part in MODALITIES
        kept = part == "text" and ("bias" in name or "LayerNorm" in name)
        expected = (rates[f"{part}_lr"], decays[f"{part}_weight_decay"]) if own else (1e-3, 0.4)
        assert of[id(parameter)] == (expected[0], 0.0 if kept else expected[1])


def test_text_targets_are_states_of_the_encoder_without_gradient(tmp_path: Path) -> None:
    source = data(level="tokens")
    folder = save_small_bert(tmp_path)
    batch = source.training_batch(torch.arange(6), 0, needs=Needs(complete=True, tokens=True))
    assert batch.complete is not None
    for variant in ("default", "wo_attraction"):
        method = make(source, variant=variant, text_encoder=folder, finetune=True)
        assert method.data_needs.tokens
        out = method.training_forward(batch)
        with torch.no_grad():
            torch.testing.assert_close(out.aux["target_text"], method.text(batch.complete)[:, 1:])
        assert not out.aux["target_text"].requires_grad
        assert out.aux["rebuilt_text"].shape == out.aux["target_text"].shape


def test_complete_clips_are_needed_in_training() -> None:
    for variant in ("default", "wo_attraction", "wo_reconstruction"):
        with pytest.raises(MSABenchError, match="emt_dlfr trains on complete clips"):
            make(variant=variant).training_forward(clips().for_inference())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"heads": 3}, "heads 3 do not divide dim 8"),
        ({"layers": 0}, "layers 0 is not allowed"),
        ({"lambda_attraction": -1.0}, r"weights \[-1.0, 1.0\] of the loss are not allowed"),
        ({"reconstruct": "some"}, "'some'.*missing"),
        ({"text_vector": "last"}, "'last'.*first"),
        ({"variant": "wo_context"}, "wo_attraction"),
    ],
)
def test_arguments_outside_their_range_are_refused(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(MSABenchError, match=message):
        make(**arguments)


def test_texts_of_one_step_need_their_mean() -> None:
    source = data_module(random_corpus(steps=dict.fromkeys(MODALITIES, 1)))
    with pytest.raises(MSABenchError, match="give text_vector: mean"):
        make(source)
    assert make(source, text_vector="mean")(clips(source)).pred.isfinite().all()


def test_a_batch_of_one_clip_is_normalised_by_what_was_before() -> None:
    method, batch = make().train(), clips(rows=1)
    terms = method.loss(method.training_forward(batch), batch)
    assert all(term.isfinite() for term in terms.values())
