"""PRLF: every equation against an independent computation, the state it keeps, and its promises on masks."""

import math
from dataclasses import replace

import lightning.pytorch as pl
import pytest
import torch
from torch.nn import functional as F

from msabench.data.batch import Batch
from msabench.data.info import DataSpec
from msabench.errors import MSABenchError
from msabench.methods.base import Output
from msabench.methods.checkpoint import load_checkpoint
from msabench.methods.prlf import HISTORY_KEY, PRLF, fisher_trace, fusion_weight
from msabench.missingness.conditions import MODALITIES
from msabench.missingness.config import MissingConfig
from msabench.nn.token_transformer import TokenEmbedding, TokenTransformer
from msabench.testing.corpora import data_module, quiet_trainer, random_corpus

DIMS = {"text": 6, "audio": 3, "vision": 4}
STEPS = {"text": 7, "audio": 9, "vision": 5}
NAN = float("nan")
T, A, V = range(3)


def build(variant="default", *, seed=0, sims=False, **arguments):
    torch.manual_seed(seed)
    metrics = {"metric_set": "sims", "label_range": (-1.0, 1.0)} if sims else {}
    spec = DataSpec(DIMS, dict(STEPS), n_train=12, **metrics)
    sizes = {"dim": 8, "tokens": 3, "layers": 2, "heads": 2, "dim_head": 4}
    method = PRLF(spec, variant=variant, **{**sizes, **arguments})
    with torch.no_grad():  # leave no weight at a value that hides it
        for parameter in method.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return method.eval()


def make_batch(n=5, removed=(), drop=0.3, seed=0, sims=False):
    """Clips with holes; ``removed`` modalities look as the protocol ``hide`` makes them look."""
    generator = torch.Generator().manual_seed(seed)
    features, valid, observed, last = {}, {}, {}, {}
    for m, steps in STEPS.items():
        length = 2 + torch.arange(n) % (steps - 1)
        exists = torch.arange(steps) < length[:, None]
        seen = exists & (torch.rand(n, steps, generator=generator) >= drop)
        seen[:, 0] = True
        if m in removed:
            exists, seen = torch.ones_like(exists), torch.zeros_like(seen)
        content = torch.randn(n, steps, DIMS[m], generator=generator)
        features[m], valid[m], observed[m] = content * seen[:, :, None], exists, seen
        last[m] = exists.sum(1) - 1
    labels = torch.linspace(-1, 1, n) if sims else torch.linspace(-3, 3, n)
    return Batch(features, valid, observed, last, labels=labels, index=torch.arange(n))


def frozen_dropout(method):
    """Dropout is the only draw; without it, training and evaluation compute the same."""
    for module in method.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    return method


# Fisher information, (3)-(7).


def literal_trace(unimodal, x):
    """Clip by clip and class by class, p(c) times squared norms of gradients: of the head, of the projection."""
    head, projection = torch.zeros(len(x)), torch.zeros(len(x))
    parameters = [unimodal.head.weight, unimodal.head.bias, unimodal.embedding.project.weight]
    for i in range(len(x)):
        for c in range(unimodal.head.out_features):
            log_p = unimodal.head(unimodal.embedding(x[[i]]).mean(1))[0].log_softmax(0)[c]
            squares = [g.square().sum() for g in torch.autograd.grad(log_p, parameters)]
            head[i] += log_p.exp().item() * (squares[0] + squares[1])
            projection[i] += log_p.exp().item() * squares[2]
    return head, projection


@pytest.mark.parametrize("modality", MODALITIES)
def test_eq_3_and_4_traces_agree_with_gradients_of_single_clips(modality):
    unimodal = build().unimodal[modality]
    with torch.no_grad():  # so that the head's part does not hide the projection's
        unimodal.head.weight.mul_(3)
        unimodal.embedding.project.weight.mul_(0.3)
    batch = make_batch()
    x, observed = batch.features[modality], batch.observed[modality]
    got = unimodal(x, observed, True)[2]
    head, projection = literal_trace(unimodal, x)
    torch.testing.assert_close(got, head + projection, rtol=1e-4, atol=1e-6)
    assert (projection > 2e-3 * head).all()


def test_eq_4_head_part_in_closed_form():
    # With zero input, only the head has gradients: E_c ||e_c - p||^2 (||u||^2 + 1).
    torch.manual_seed(0)
    u, z = torch.randn(4, 8), torch.randn(4, 5)
    projected = torch.zeros(4, 2, 3, requires_grad=True)
    got = fisher_trace(torch.zeros(4, 2, 6), projected, u, z + projected.sum((1, 2)).unsqueeze(1))
    p = z.softmax(1)
    expected = sum(p[:, c] * (F.one_hot(torch.tensor(c), 5) - p).square().sum(1) for c in range(5))
    torch.testing.assert_close(got, expected * (u.square().sum(1) + 1))


def test_eq_5_to_7_removed_modality_has_the_head_part_alone_and_unobserved_frames_add_nothing():
    unimodal = build().unimodal["text"]
    batch = make_batch()
    x, observed = batch.text, batch.observed["text"]
    logits, trace = unimodal(x * 0, observed, True)[1:]
    pooled = unimodal.embedding(x * 0).mean(1)
    p = logits.softmax(1)
    torch.testing.assert_close(trace, (1 - p.square().sum(1)) * (pooled.square().sum(1) + 1))
    # A text encoder leaves states that are not zero where words were dropped: encoded, but not in the sum.
    states = torch.randn_like(x)
    hidden = unimodal(states, torch.zeros_like(observed), True)[2]
    p = unimodal(states, observed, True)[1].softmax(1)
    pooled = unimodal.embedding(states).mean(1)
    torch.testing.assert_close(hidden, (1 - p.square().sum(1)) * (pooled.square().sum(1) + 1))
    assert (unimodal(states, observed, True)[2] > hidden).all()


def test_trace_leaves_the_graph_usable_and_has_none_itself():
    method = frozen_dropout(build()).train()
    batch = make_batch()
    out = method.training_forward(batch)
    assert not out.aux["trace"].requires_grad
    assert not out.aux["importance"].requires_grad
    torch.stack(list(method.loss(out, batch).values())).sum().backward()
    assert all(p.grad is not None for p in method.parameters())


def test_traces_do_not_depend_on_no_grad_or_on_frozen_weights():
    method, batch = build(), make_batch()
    with_grad = method(batch).aux["trace"]
    with torch.no_grad():
        out = method(batch)
    assert torch.equal(out.aux["trace"], with_grad)
    assert not out.pred.requires_grad
    assert not any(value.requires_grad for value in out.aux.values())
    method.requires_grad_(False)
    torch.testing.assert_close(method(batch).aux["trace"], with_grad)


def test_certain_predictions_give_finite_importance():
    method = build()
    with torch.no_grad():
        for part in method.unimodal.values():
            part.head.weight.mul_(1e4)
    for removed in ((), ("text", "audio"), MODALITIES):
        out = method(make_batch(removed=removed))
        assert torch.isfinite(out.aux["importance"]).all()
        assert (out.aux["trace"] >= 0).all()
        assert torch.isfinite(out.pred).all()


# Confidence, fusion, (1) and (9)-(12).


def test_eq_1_confidence_is_the_largest_probability_normalised_over_modalities():
    logits = torch.log(torch.tensor([[[0.6, 0.3, 0.1], [0.2, 0.5, 0.3], [0.1, 0.2, 0.7]]]))
    mu = build("wo_fimi").importance_of(logits, torch.ones(1, 3))
    torch.testing.assert_close(mu, torch.tensor([[6.0, 5.0, 7.0]]) / 18)
    labelled = build("wo_fimi").importance_of(logits, torch.ones(1, 3), target=torch.tensor([0]))
    torch.testing.assert_close(labelled, torch.tensor([[6.0, 2.0, 1.0]]) / 9)


def test_eq_9_traces_normalised_over_modalities():
    mu = build("wo_cmi").importance_of(torch.randn(2, 3, 4), torch.tensor([[1.0, 3.0, 4.0], [0.0, 0.0, 0.0]]))
    torch.testing.assert_close(mu, torch.tensor([[1 / 8, 3 / 8, 1 / 2], [1 / 3, 1 / 3, 1 / 3]]))


def test_eq_10_and_11_fusion_weight_hand_computed():
    now = torch.tensor([[2.0, 1.0, 4.0], [2.0, 0.0, NAN]])
    before = torch.tensor([[1.0, 3.0, NAN], [2.0, 0.0, 1.0]])
    got = fusion_weight(now, before)
    expected = [[1 / (1 + math.exp(-0.5)), 1 / (1 + math.exp(2)), 0.5], [0.5, 0.5, NAN]]
    torch.testing.assert_close(got, torch.tensor(expected), equal_nan=True)
    assert fusion_weight(torch.zeros(3), torch.ones(3)).tolist() == [0.0] * 3  # no division by zero
    assert fusion_weight(torch.ones(3), torch.zeros(3)).max() < 0.7311


def test_eq_12_mixture_of_both_criteria():
    method = build()
    logits = torch.log(torch.tensor([[[0.6, 0.3, 0.1], [0.2, 0.5, 0.3], [0.1, 0.2, 0.7]]]))
    trace, before = torch.tensor([[1.0, 3.0, 4.0]]), torch.tensor([[0.5, 3.0, 8.0]])
    alpha, beta = torch.tensor([6.0, 5.0, 7.0]) / 18, torch.tensor([1.0, 3.0, 4.0]) / 8
    w = torch.sigmoid(torch.tensor([0.5, 0.0, -1.0]))
    torch.testing.assert_close(method.importance_of(logits, trace, before)[0], (1 - w) * alpha + w * beta)
    method.mean_weight.copy_(torch.tensor([0.1, 0.2, 0.3]))  # at test
    w = method.mean_weight
    torch.testing.assert_close(method.importance_of(logits, trace)[0], (1 - w) * alpha + w * beta)


# ProgInteract, (13)-(22).


def literal_interaction(module, f, mu, dominant, scale, gamma=0.8):
    """(13)-(22) clip by clip, on dicts of single modalities."""
    S, d, outputs, losses = module.steps, f.shape[3], [], []
    for clip in range(len(f)):
        x = {m: f[clip, m] for m in range(3)}
        lead = int(dominant[clip])
        phase = 0.0
        for t in range(S):
            fused = {}
            for m in range(3):
                first, _, second, _ = module.update[m]
                own = x[m] + torch.relu(x[m] @ first.weight.T + first.bias) @ second.weight.T + second.bias  # (13)
                seen = []
                for n in range(3):
                    if n != m:
                        a, b = mu[clip, m] * x[m], mu[clip, n] * x[n]
                        seen.append(torch.softmax(a @ b.T / math.sqrt(d), dim=1) @ a)  # (14)
                both = torch.cat(seen, 0) if module.join is None else torch.cat(seen, 1)
                both = torch.softmax(both @ both.T / math.sqrt(d), dim=1) @ both  # (15)
                half = len(both) // 2
                cross = (both[:half] + both[half:]) / 2 if module.join is None else module.join(both)
                share = 1 - t / max(1, S - 1)
                fused[m] = share * own + (1 - share) * cross  # (16)
            following = {lead: fused[lead]}
            for m in {0, 1, 2} - {lead}:
                first, _, second, _ = module.gate
                hidden = torch.relu(torch.cat([fused[lead], fused[m]], 1) @ first.weight.T + first.bias)
                gate = torch.sigmoid(hidden @ second.weight.T + second.bias)  # (17)
                common = gate * fused[lead]  # (18)
                rest = fused[m] - common  # (19)
                phase += ((common * rest).sum(1) / scale).square().mean() / (2 * S)  # (20)
                noise = torch.relu(rest @ module.noise[0].weight.T)  # (21)
                following[m] = common + gamma * (rest - noise)  # (22)
            x = following
        outputs.append(torch.stack([x[m] for m in range(3)]))
        losses.append(phase)
    return torch.stack(outputs), torch.stack(losses)


@pytest.mark.parametrize(
    ("variant", "steps", "scale"),
    [("default", 4, 8), ("step1", 1, 8), ("step2", 2, 8), ("step5", 5, 8), ("phase_unscaled", 4, 1), ("project", 4, 8)],
)
def test_eq_13_to_22_progressive_interaction(variant, steps, scale):
    module = build(variant).interaction
    assert module.steps == steps
    torch.manual_seed(1)
    f, mu, dominant = torch.randn(6, 3, 3, 8), torch.rand(6, 3), torch.tensor([0, 1, 2, 2, 1, 0])
    got, phase = module(f, mu, dominant)
    expected, expected_phase = literal_interaction(module, f, mu, dominant, scale)
    torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(phase, expected_phase, rtol=1e-4, atol=1e-6)


def test_a_single_step_reads_no_importance_and_more_steps_do():
    f, dominant = torch.randn(4, 3, 3, 8), torch.tensor([0, 1, 2, 0])
    for variant, reads in (("step1", False), ("step2", True)):
        module = build(variant).interaction
        changed = not torch.equal(module(f, torch.rand(4, 3), dominant)[0], module(f, torch.ones(4, 3), dominant)[0])
        assert changed == reads


# Head and losses, (2), (23)-(25).


def test_eq_23_and_24_join_in_the_order_of_importance():
    method, batch = build(seed=6), make_batch(8)
    out = method(batch)
    tokens = torch.stack(
        [method.unimodal[m](batch.features[m], batch.observed[m], False)[0] for m in MODALITIES], dim=1
    )
    mu = out.aux["importance"]
    f = method.interaction(tokens, mu, mu.argmax(1))[0].mean(2)
    rows = []
    for clip in range(8):
        lead = int(mu[clip].argmax())
        rows.append(torch.cat([f[clip, m] for m in (lead, *(m for m in range(3) if m != lead))]))
    joint = torch.stack(rows)
    assert len(set(mu.argmax(1).tolist())) > 1
    torch.testing.assert_close(out.representation, joint)
    logits = joint @ method.head.weight.T + method.head.bias
    torch.testing.assert_close(out.logits, logits)
    torch.testing.assert_close(out.pred, logits.softmax(1) @ torch.arange(-3.0, 4.0))


@pytest.mark.parametrize(("sims", "classes"), [(False, 7), (True, 5)])
def test_classes_of_the_corpora(sims, classes):
    method, batch = build(sims=sims), make_batch(sims=sims)
    out = method.training_forward(batch)
    assert out.logits.shape == (5, classes)
    assert out.aux["unimodal_logits"].shape == (5, 3, classes)
    assert all(torch.isfinite(term) for term in method.loss(out, batch).values())
    limit = 1 if sims else 3
    assert (out.pred.abs() <= limit).all()


def output(n=3):
    generator = torch.Generator().manual_seed(3)
    aux = {
        "importance": torch.rand(n, 3, generator=generator),
        "trace": torch.rand(n, 3, generator=generator),
        "unimodal_logits": torch.randn(n, 3, 7, generator=generator),
        "phase": torch.arange(1.0, n + 1),
    }
    return Output(torch.zeros(n), torch.randn(n, 7, generator=generator), aux=aux)


def test_eq_2_and_25_losses_hand_computed():
    out, batch = output(), replace(make_batch(3), labels=torch.tensor([-3.0, 0.4, 2.6]))
    terms = build(lambda_unimodal=0.3, lambda_phase=0.2).loss(out, batch)
    target = [0, 3, 6]
    rows = torch.arange(3)
    task = -out.logits.log_softmax(1)[rows, target].mean()
    uni = -out.aux["unimodal_logits"].log_softmax(2)[rows, :, target].sum() / 3
    torch.testing.assert_close(terms["task"], task)
    torch.testing.assert_close(terms["uni"], 0.3 * uni)
    assert terms["phase"].item() == pytest.approx(0.2 * 2)
    assert set(terms) == {"task", "uni", "phase"}


# Variants.


@pytest.mark.parametrize("variant", ["wo_phase", "wo_pi"])
def test_variants_without_the_phase_loss(variant):
    batch = make_batch()
    method = build(variant)
    assert set(method.loss(method.training_forward(batch), batch)) == {"task", "uni"}


def test_wo_amre_weighs_equally_with_text_dominant():
    out = build("wo_amre")(make_batch())
    assert out.aux["importance"].eq(1 / 3).all()
    method, batch = build("wo_amre"), make_batch()
    tokens = torch.stack(
        [method.unimodal[m](batch.features[m], batch.observed[m], False)[0] for m in MODALITIES], dim=1
    )
    f = method.interaction(tokens, out.aux["importance"], torch.zeros(5, dtype=torch.long))[0]
    torch.testing.assert_close(out.representation, f.mean(2).flatten(1))


def test_wo_pi_joins_weighted_modalities():
    method, batch = build("wo_pi"), make_batch(2)
    out = method(batch)
    mu = out.aux["importance"]
    for clip in range(2):
        lead = int(mu[clip].argmax())
        parts = [
            mu[clip, m] * method.unimodal[MODALITIES[m]].embedding(batch.features[MODALITIES[m]])[clip].mean(0)
            for m in (lead, *(m for m in range(3) if m != lead))
        ]
        torch.testing.assert_close(out.representation[clip], torch.cat(parts))


def test_wo_uni_trains_heads_on_the_side():
    method, batch = build("wo_uni"), make_batch()
    torch.testing.assert_close(method(batch).aux, build()(batch).aux)  # the same numbers
    method.loss(method.training_forward(batch), batch)["uni"].backward()
    for part in method.unimodal.values():
        assert part.head.weight.grad.abs().sum() > 0
        assert all(p.grad is None for p in part.embedding.parameters())
    full = build()
    full.loss(full.training_forward(batch), batch)["uni"].backward()
    assert full.unimodal["text"].embedding.project.weight.grad.abs().sum() > 0


def test_conf_label_reads_the_label_in_training_only():
    batch = make_batch()
    other = replace(batch, labels=-batch.labels.roll(1))
    for variant, reads in (("default", False), ("conf_label", True)):
        method = frozen_dropout(build(variant))
        first, second = (method.training_forward(b).aux["importance"] for b in (batch, other))
        assert torch.equal(first, second) != reads
        assert torch.equal(method(batch).aux["importance"], method(batch.for_inference()).aux["importance"])
        assert torch.equal(method(batch).pred, build()(batch).pred)


@pytest.mark.parametrize("variant", ["wo_fimi", "wo_amre"])
def test_variants_without_traces_do_not_pay_for_them(variant, monkeypatch):
    monkeypatch.setattr("msabench.methods.prlf.fisher_trace", None)
    assert torch.isfinite(build(variant)(make_batch()).pred).all()


# What is kept over epochs.


def test_table_of_traces_and_weight_at_test():
    method, batch = frozen_dropout(build()), make_batch(4)
    before = torch.full((4, 3), 2.0)
    method.trace_before[:4] = before
    batch = replace(batch, index=torch.tensor([3, 0, 7, 1]))
    out = method.training_forward(batch)
    trace = out.aux["trace"]
    known = torch.tensor([True, True, False, True])
    w = torch.where(known[:, None], torch.sigmoid((trace - 2) / trace), torch.tensor(0.5))
    p = out.aux["unimodal_logits"].softmax(2).amax(2)
    alpha, beta = F.normalize(p, p=1, dim=1), F.normalize(trace, p=1, dim=1)
    torch.testing.assert_close(out.aux["importance"], (1 - w) * alpha + w * beta)
    method.loss(out, batch)
    assert torch.equal(method.trace[[3, 0, 7, 1]], trace)
    assert method.trace[[2, 4, 5, 6, 8, 9, 10, 11]].isnan().all()
    torch.testing.assert_close(method.mean_weight, w.mean(0))
    torch.testing.assert_close(
        method.importance_history()[0, [3, 0, 7, 1]].float(), out.aux["importance"], atol=1e-3, rtol=0
    )


def fit(method, data, epochs, tmp_path, resume=None):
    trainer = quiet_trainer(tmp_path, epochs, num_sanity_val_steps=1)
    trainer.fit(method, datamodule=data, ckpt_path=resume, weights_only=True if resume else None)
    return trainer


def test_epochs_turn_pages_and_checkpoints_resume(tmp_path):
    # (10) compares with the epoch before, the checkpoint holds what test time and figures need, and a training that
    # was interrupted goes on as if it had not been.
    data = data_module(random_corpus(), batch_size=8, missing=MissingConfig(regime="intra", rate=(0.5, 0.5)))

    def fresh():
        torch.manual_seed(0)
        return PRLF(data.spec, dim=8, tokens=3, layers=1, heads=2, dim_head=4, dropout=0.0)

    seen = []

    class Watch(PRLF):
        def loss(self, out, batch):
            terms = super().loss(out, batch)
            seen.append((self.current_epoch, self.trace.clone(), self.trace_before.clone(), self.mean_weight.clone()))
            return terms

    torch.manual_seed(0)
    watched = Watch(data.spec, dim=8, tokens=3, layers=1, heads=2, dim_head=4, dropout=0.0)
    trainer = fit(watched, data, 3, tmp_path)
    last = {epoch: pages for epoch, *pages in seen}
    assert last[0][1].isnan().all()
    assert last[0][2].tolist() == [0.5] * 3
    for epoch in (1, 2):
        trace, before, weight = last[epoch]
        assert torch.equal(before, last[epoch - 1][0])
        torch.testing.assert_close(weight, torch.sigmoid((trace - before) / trace).mean(0))
    history = watched.importance_history()
    assert history.shape == (3, 24, 3)
    assert history.dtype == torch.float16
    assert torch.isfinite(history).all()
    assert trainer.callback_metrics["train/importance_text"].item() == pytest.approx(
        history[2, :, T].float().mean().item(), abs=1e-3
    )

    first = fresh()
    fit(first, data, 2, tmp_path).save_checkpoint(tmp_path / "two.ckpt")
    state = torch.load(tmp_path / "two.ckpt", weights_only=True)
    assert torch.equal(state[HISTORY_KEY], history[:2])
    loaded, _ = load_checkpoint(tmp_path / "two.ckpt")
    assert torch.equal(loaded.importance_history(), history[:2])
    assert torch.equal(loaded.mean_weight, last[1][2])
    resumed = fresh()
    fit(resumed, data, 3, tmp_path, resume=tmp_path / "two.ckpt")
    assert torch.equal(resumed.importance_history(), history)
    assert torch.equal(resumed.trace, watched.trace)
    assert torch.equal(resumed.head.weight, watched.head.weight)


def test_a_checkpoint_of_validation_resumes_with_the_next_epoch(tmp_path):
    data = data_module(random_corpus(), batch_size=8)

    def fresh():
        torch.manual_seed(0)
        return PRLF(data.spec, dim=8, tokens=3, layers=1, heads=2, dim_head=4, dropout=0.0)

    class SaveAtValidation(pl.callbacks.Callback):
        def on_validation_end(self, trainer, method):
            if not trainer.sanity_checking:
                trainer.save_checkpoint(tmp_path / f"{trainer.current_epoch}.ckpt")

    whole = fresh()
    quiet_trainer(tmp_path, 3, num_sanity_val_steps=2, callbacks=[SaveAtValidation()]).fit(whole, datamodule=data)
    resumed = fresh()
    quiet_trainer(tmp_path, 3, num_sanity_val_steps=2).fit(
        resumed, datamodule=data, ckpt_path=tmp_path / "1.ckpt", weights_only=True
    )
    assert resumed.importance_history().shape == (3, 24, 3)
    assert torch.equal(resumed.importance_history(), whole.importance_history())
    assert torch.equal(resumed.trace_before, whole.trace_before)


# Masks and arguments.


@pytest.mark.parametrize("modality", MODALITIES)
def test_length_of_a_modality_is_read_from_its_features_alone(modality):
    method, batch = build(), make_batch(removed=(modality,))
    told = torch.arange(STEPS[modality]) < torch.tensor([[1], [2], [3], [4], [5]])
    shown = method(replace(batch, valid={**batch.valid, modality: told}))
    assert torch.equal(shown.pred, method(batch).pred)
    assert torch.equal(shown.aux["importance"], method(batch).aux["importance"])


@pytest.mark.parametrize("removed", [("text",), ("audio", "vision"), MODALITIES], ids=",".join)
def test_modalities_missing_for_a_whole_batch_give_finite_losses_and_gradients(removed):
    method, batch = build().train(), make_batch(removed=removed)
    out = method.training_forward(batch)
    torch.stack(list(method.loss(out, batch).values())).sum().backward()
    assert all(torch.isfinite(p.grad).all() for p in method.parameters())


def test_traces_of_present_modalities_do_not_depend_on_a_removed_one():
    method = build()
    full, gone = method(make_batch(drop=0.0)), method(make_batch(drop=0.0, removed=("text",)))
    assert torch.equal(gone.aux["trace"][:, [A, V]], full.aux["trace"][:, [A, V]])
    assert gone.aux["trace"][:, T].unique().numel() == 1  # every removed text is the same


@pytest.mark.parametrize("arguments", [{"interaction_steps": 0}, {"dim": 0}, {"layers": 0}, {"tokens": 0}])
def test_arguments_outside_their_range_are_refused(arguments):
    with pytest.raises(MSABenchError, match=next(iter(arguments))):
        build(**arguments)


def test_kept_tokens_equal_those_of_the_whole_sequence():
    torch.manual_seed(0)
    transformer = TokenTransformer(8, 6, tokens=3, layers=3, heads=2, dim_head=4)
    x = torch.randn(2, 6, 8)
    torch.testing.assert_close(transformer(x, keep=3), transformer(x)[:, :3])
    embedding = TokenEmbedding(5, 8, 6, tokens=3, layers=2, heads=2, dim_head=4)
    x = torch.randn(2, 6, 5)
    torch.testing.assert_close(embedding(x), embedding.transformer(embedding.project(x))[:, :3])
