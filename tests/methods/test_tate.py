"""TATE: its blocks against literal computations, its tags, what each loss reaches, its twin and its recipe."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from msabench.data.batch import Batch
from msabench.data.info import DataSpec
from msabench.errors import MSABenchError
from msabench.methods.checkpoint import load_checkpoint
from msabench.methods.tate import TATE, Block, GatedPooling, tags_of, two_way_divergence
from msabench.missingness.conditions import MODALITIES, SUBSETS, Cell
from msabench.missingness.config import MissingConfig
from msabench.testing.corpora import data_module, quiet_trainer, random_corpus
from tests.support.small_bert import save_small_bert
from tests.support.teacher_student import DIMS, STEPS, Weights, changed, training_batch

SMALL: dict[str, Any] = TATE.info.smoke


def method(stage: str = "task", task: str = "regression", **settings: Any) -> TATE:
    """A small instance in evaluation mode, network apart from twin."""
    torch.manual_seed(0)
    spec = DataSpec(DIMS, dict(STEPS), task=task, metric_set="emotions" if task == "emotions" else "sentiment")
    made = TATE(spec, **{**SMALL, **settings})
    made.enter_stage(stage)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return made.eval()


def reached(made: TATE, term: Tensor) -> set[str]:
    made.zero_grad()
    term.backward(retain_graph=True)
    return {n.split(".")[0] for n, p in made.named_parameters() if p.grad is not None and p.grad.any()}


# Blocks.


def literal_norm(x: np.ndarray, norm: nn.LayerNorm) -> np.ndarray:
    centred = x - x.mean(-1, keepdims=True)
    spread = np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-8)
    return centred / spread * norm.weight.detach().numpy() + norm.bias.detach().numpy()


def literal_block(block: Block, x: np.ndarray) -> np.ndarray:
    """One clip ``(T, D)``, head by head and step by step."""
    q, k, v = (x @ project.weight.detach().numpy().T for project in block.project)
    width = x.shape[1] // block.heads
    read = np.zeros_like(x)
    for head in range(block.heads):
        part = slice(head * width, (head + 1) * width)
        keys = [t for t in range(len(x)) if np.abs(k[t, part]).sum() > 0]
        for t in range(len(x)):
            if np.abs(q[t, part]).sum() == 0:
                continue
            weights = np.exp([q[t, part] @ k[s, part] / np.sqrt(width) for s in keys])
            read[t, part] = (weights / weights.sum()) @ v[keys][:, part]
    x = literal_norm(x + read, block.attention_norm)
    wide = np.maximum(0, x @ block.widen.weight.detach().numpy().T + block.widen.bias.detach().numpy())
    out = x + wide @ block.narrow.weight.detach().numpy().T + block.narrow.bias.detach().numpy()
    return literal_norm(out, block.norm)


def block_of(width: int, heads: int = 2) -> Block:
    torch.manual_seed(0)
    block = Block(width, heads, dropout=0.5).eval()
    with torch.no_grad():
        for parameter in block.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return block


@pytest.mark.parametrize("zeros", [(), (1, 4), (0, 1, 2, 3, 4)])
def test_a_block_follows_its_formulas_step_by_step(zeros: tuple[int, ...]) -> None:
    block, x = block_of(8), torch.randn(3, 5, 8, generator=torch.Generator().manual_seed(1))
    x[:, list(zeros)] = 0
    with torch.no_grad():
        found = block(x)
    for clip, expected in zip(found.numpy(), x.numpy(), strict=True):
        np.testing.assert_allclose(clip, literal_block(block, expected), atol=1e-5)


def test_zero_steps_come_out_as_one_vector_and_change_no_other() -> None:
    block, x = block_of(8), torch.randn(1, 3, 8, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        alone, padded = block(x), block(nn.functional.pad(x, (0, 0, 2, 4)))
    torch.testing.assert_close(padded[:, 2:5], alone)
    silent = padded[:, [0, 1, 5, 6, 7, 8]]
    torch.testing.assert_close(silent, silent[:, :1].expand_as(silent))


def test_pooling_is_attention_with_a_gate() -> None:
    torch.manual_seed(0)
    pool, e = GatedPooling(4), torch.randn(2, 3, 4)
    values, gates = e @ pool.values.weight.T, torch.sigmoid(e @ pool.gates.weight.T)
    scores = torch.einsum("btd,d->bt", values * gates, pool.scores.weight[0])
    expected = torch.einsum("bt,btd->bd", scores.softmax(1), e)
    torch.testing.assert_close(pool(e), expected)


def test_the_divergence_goes_both_ways() -> None:
    p, q = torch.tensor([0.5, 0.25, 0.25]), torch.tensor([0.25, 0.5, 0.25])
    a, b = torch.stack([p, q]).log().unsqueeze(0), torch.stack([q, q]).log().unsqueeze(0)
    # KL(p || q) = KL(q || p) = ln(2) / 4 at the first step, 0 at the second.
    torch.testing.assert_close(two_way_divergence(a, b + 7), torch.tensor([np.log(2) / 4], dtype=torch.float32))
    certain = torch.tensor([[[100.0, 0.0]]])
    assert torch.isfinite(two_way_divergence(certain, -certain)).all()


# Tags.


def test_tags_say_which_modalities_a_clip_lacks() -> None:
    data = data_module(random_corpus())
    expected = {
        **{"lav": "1000", "la": "0100", "lv": "0010", "av": "0001"},
        **{"l": "0110", "a": "0101", "v": "0011"},
    }
    assert set(expected) == set(SUBSETS)
    for letters, digits in expected.items():
        batch = next(data.cell_batches(Cell(letters), 0))
        assert tags_of(batch).tolist() == [[float(digit) for digit in digits]] * batch.size
    nothing = replace(batch, observed={m: torch.zeros_like(mask) for m, mask in batch.observed.items()})
    assert tags_of(nothing)[0].tolist() == [0, 1, 1, 1]


def test_frames_that_were_dropped_are_not_a_missing_modality() -> None:
    batch = next(data_module(random_corpus()).cell_batches(Cell.parse("intra/0.5"), 0))
    some = torch.stack([batch.observed[m].any(1) for m in MODALITIES]).all(0)
    assert (tags_of(batch)[:, 0] == some.float()).all()
    assert some.any()


def test_the_network_reads_streams_through_shared_spaces_and_the_tag_at_every_step() -> None:
    made, batch = method(), training_batch()
    x, e = made.encoder(made._features(batch), tags_of(batch))
    steps = sum(STEPS.values())
    assert x.shape == e.shape == (6, steps, 8 + 4)
    assert torch.equal(x[:, :, 8:], tags_of(batch)[:, None].expand(-1, steps, -1))
    assert x[0, 0, 8:].tolist() == [0, 0, 1, 0]  # the first clip has no audio
    spaces, at = made.encoder.spaces, 0
    for m, pairs in {"vision": ("va", "vt"), "audio": ("va", "ta"), "text": ("vt", "ta")}.items():
        h = made.encoder.blocks[m](batch.features[m] @ made.encoder.enter[m].weight.T)  # type: ignore[operator]
        part = torch.cat([h @ spaces[pair].weight.T for pair in pairs], dim=2)  # type: ignore[operator]
        torch.testing.assert_close(x[:, at : at + STEPS[m], :8], part)
        at += STEPS[m]
    torch.testing.assert_close(e, made.encoder.encode(x))


def test_predictions_depend_on_tags_and_without_them_they_do_not() -> None:
    batch = training_batch().complete
    assert batch is not None
    # Audio that is observed but zero looks like audio that is missing, but for the tag.
    zero = {**batch.features, "audio": torch.zeros_like(batch.audio)}
    there = replace(batch, features=zero)
    missing = replace(there, observed={**batch.observed, "audio": torch.zeros_like(batch.observed["audio"])})
    told, untold = method(), method(variant="wo_tags")
    with torch.no_grad():
        assert (told(there).pred - told(missing).pred).abs().max() > 1e-3
        assert torch.equal(untold(there).pred, untold(missing).pred)
    assert untold._tags(missing).tolist() == [[1, 0, 0, 0]] * 6


def test_a_removed_text_is_zero_whatever_a_text_encoder_says(tmp_path: Path) -> None:
    data = data_module(random_corpus(), missing=MissingConfig(regime="inter", level="tokens"))
    made = TATE(data.spec, **SMALL, text_encoder=save_small_bert(tmp_path))
    batch = data.training_batch(torch.arange(12), 0, needs=made.data_needs)
    removed = ~batch.observed["text"].any(1)
    assert 0 < removed.sum() < 12
    assert made.text(batch)[removed].any()
    text = made._features(batch)["text"]
    assert not text[removed].any()
    assert text[~removed].any(2).any(1).all()
    assert made.text.encoder is not None
    for stage in made.stages:
        made.enter_stage(stage)
        torch.stack(list(made.loss(made.training_forward(batch), batch).values())).sum().backward()
    assert all(p.grad is None for p in made.text.encoder.parameters())


# Losses.


def by_hand(made: TATE, batch: Batch, complete: Batch) -> dict[str, Tensor]:
    assert batch.labels is not None
    x, e = made.encoder(batch.features, tags_of(batch))
    c = made.pool(e)
    pred = made.out(made.squeeze(c)).squeeze(1)
    wanted = made.teacher(complete.features, tags_of(complete))[1].detach()
    return {
        "task": (pred - batch.labels).abs().mean(),
        "teacher": two_way_divergence(e, wanted).mean(),
        "reconstruction": two_way_divergence(x, made.decoder(e)).mean(),
        "tag": (tags_of(batch) - torch.sigmoid(c[:, 8:])).abs().mean(),
    }


@pytest.mark.parametrize("source", ["complete", "same"])
def test_terms_of_the_loss_are_weighted_means_and_reach_what_they_should(source: str) -> None:
    made, batch = (
        method(lambda_teacher=2.0, lambda_reconstruction=3.0, lambda_tag=0.5, teacher_input=source),
        training_batch(),
    )
    assert batch.complete is not None
    terms = made.loss(made.training_forward(batch), batch)
    expected = by_hand(made, batch, batch.complete if source == "complete" else batch)
    assert terms.keys() == expected.keys()
    for name, weight in {"task": 1.0, "teacher": 2.0, "reconstruction": 3.0, "tag": 0.5}.items():
        torch.testing.assert_close(terms[name], weight * expected[name], atol=1e-5, rtol=1e-5)
    assert reached(made, terms["task"]) == {"encoder", "pool", "squeeze", "out"}
    assert reached(made, terms["teacher"]) == {"encoder"}
    assert reached(made, terms["reconstruction"]) == {"encoder", "decoder"}
    assert reached(made, terms["tag"]) == {"encoder", "pool"}
    # X is no fixed target: without its last block the encoder is reached through X alone.
    made.zero_grad()
    terms["reconstruction"].backward()
    assert all(p.grad is not None and p.grad.any() for p in made.encoder.spaces.parameters())


def test_what_the_twin_reads_changes_its_term_alone() -> None:
    batch = training_batch()
    terms = [m.loss(m.training_forward(batch), batch) for m in (method(), method(teacher_input="same"))]
    assert torch.equal(terms[0]["reconstruction"], terms[1]["reconstruction"])
    assert not torch.allclose(terms[0]["teacher"], terms[1]["teacher"])


def test_the_first_stage_reads_complete_clips_alone() -> None:
    made, batch = method("teacher"), training_batch()
    assert batch.complete is not None
    out = made.training_forward(batch)
    torch.testing.assert_close(out.pred, made(batch.complete).pred)
    assert not torch.allclose(out.pred[0], made(batch).pred[0])
    terms = made.loss(out, batch)
    assert set(terms) == {"task", "reconstruction", "tag"}
    told = torch.tensor([1.0, 0.0, 0.0, 0.0])
    assert out.representation is not None
    expected = (told - torch.sigmoid(out.representation[:, 8:])).abs().mean()
    torch.testing.assert_close(terms["tag"], 0.1 / 32 * expected)
    with pytest.raises(MSABenchError, match="complete"):
        made.training_forward(replace(batch, complete=None))


def test_questions_are_predicted_side_by_side() -> None:
    made, batch = method(task="emotions"), training_batch(task="emotions")
    out = made.training_forward(batch)
    assert out.pred.shape == (6, 4, 2)
    assert batch.labels is not None
    expected = nn.functional.cross_entropy(out.pred.flatten(0, 1), batch.labels.flatten())
    torch.testing.assert_close(made.loss(out, batch)["task"], expected)


# The twin, and the recipe.


def test_the_twin_is_the_network_at_the_end_of_its_stage_and_stays_so() -> None:
    made = method("teacher")
    made.enter_stage("task")
    for a, b in zip(made.encoder.parameters(), made.teacher.parameters(), strict=True):
        assert torch.equal(a, b)
        assert a is not b
    kept = {name: value.clone() for name, value in made.teacher.state_dict().items()}
    with torch.no_grad():
        made.encoder.enter["text"].weight.add_(1.0)
    made.enter_stage("task")
    assert all(torch.equal(value, kept[name]) for name, value in made.teacher.state_dict().items())
    made.train()
    assert not any(part.training for part in made.teacher.modules())
    assert not any(p.requires_grad for p in made.teacher.parameters())


def test_a_fit_keeps_the_twin_and_goes_on_from_its_weights(tmp_path: Path) -> None:
    data = data_module(random_corpus(), batch_size=8, missing=MissingConfig(regime="inter"))
    torch.manual_seed(0)
    made = TATE(data.spec, **{**SMALL, "teacher_epochs": 2})
    watch = Weights()
    trainer = quiet_trainer(tmp_path, 4, callbacks=[watch])
    trainer.fit(made, datamodule=data)
    after = {name: p.detach() for name, p in made.named_parameters()}
    parts = {"encoder", "decoder", "pool", "squeeze", "out"}
    assert changed(watch.at[0], watch.at[1]) == parts
    # Parameters are noted when an epoch starts, after what the stage begins with.
    for name, value in watch.at[2].items():
        if name.startswith("encoder."):
            assert torch.equal(value, after[name.replace("encoder.", "teacher.", 1)])
    assert changed(watch.at[2], after) - {"teacher"} == parts
    trainer.save_checkpoint(tmp_path / "a.ckpt")
    loaded, _ = load_checkpoint(tmp_path / "a.ckpt")
    for name, value in loaded.named_parameters():
        assert torch.equal(value, after[name])
    batch = data.validation_batch(torch.arange(8)).for_inference()
    with torch.no_grad():
        for name, parameter in loaded.named_parameters():
            if name.startswith(("teacher", "decoder")):
                parameter.fill_(torch.nan)
    assert torch.equal(loaded.eval()(batch).pred, made.eval()(batch).pred)


@pytest.mark.parametrize("stage", ["teacher", "task"])
def test_the_last_layer_alone_decays_and_the_twin_is_in_no_group(stage: str) -> None:
    made = method(stage)
    rest, last = made.param_groups()
    assert (last["weight_decay"], made.weight_decay) == (1e-4 / 32, 0.0)
    assert "weight_decay" not in rest
    assert {id(p) for p in last["params"]} == {id(p) for p in made.out.parameters()}
    trained = {id(p) for p in made.parameters()} - {id(p) for p in made.teacher.parameters()}
    assert {id(p) for group in (rest, last) for p in group["params"]} == trained


@pytest.mark.parametrize(("dims", "size"), [((768, 33, 709), 5_881_963), ((768, 5, 20), 5_666_863)])
def test_size_is_the_official_one_but_for_the_classes(dims: tuple[int, int, int], size: int) -> None:
    """The official last layer has three classes, ours one score."""
    spec = DataSpec(dict(zip(MODALITIES, dims, strict=True)), dict.fromkeys(MODALITIES, 50))
    made = TATE(spec)
    assert sum(p.numel() for p in made.parameters() if p.requires_grad) == size - 2 * (300 + 1)
    assert sum(p.numel() for p in made.decoder.parameters()) == 1_019_312


def test_weights_begin_as_xavier_has_them() -> None:
    made = TATE(DataSpec({"text": 768, "audio": 5, "vision": 20}, dict.fromkeys(MODALITIES, 50)))
    of_the_network = [(name, p) for name, p in made.named_parameters() if not name.startswith("teacher.")]
    for name, parameter in of_the_network:
        if parameter.ndim == 2:
            bound = (6 / sum(parameter.shape)) ** 0.5
            assert 0.9 * bound < float(parameter.abs().max()) <= bound, name
        elif name.endswith("bias"):
            assert not parameter.any()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"teacher_epochs": 0}, "teacher_epochs 0"),
        ({"teacher_input": "missing"}, "complete"),
        ({"dim": 9, "heads": 1}, "dim 9"),
        ({"dim": 10, "heads": 4}, "dim 10"),
        ({"dim": 12, "heads": 3}, "dim 12"),
        ({"dim": 0}, "dim 0"),
    ],
)
def test_arguments_outside_their_range_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(MSABenchError, match=message):
        method(**settings)
