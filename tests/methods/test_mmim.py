"""What is MMIM's own; what every method must hold is in test_methods.py."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from msabench.data.batch import Batch
from msabench.errors import MSABenchError
from msabench.methods.base import Output
from msabench.methods.mmim import MMIM
from msabench.nn import text
from msabench.testing.corpora import data_module, quiet_trainer, random_corpus
from tests.support.golden_cases import CASES, assert_as_kept, batch_of, build, numbers

CASE = CASES["mmim_mmsa"]


def clips(count: int, key: int, labels: Tensor | None = None) -> Batch:
    """Clips of random content and label."""
    features = {m: numbers((count, 6, size), key + i) * 3 for i, (m, size) in enumerate(CASE.spec.feature_dims.items())}
    mask, last = torch.ones(count, 6, dtype=torch.bool), torch.full((count,), 5)
    if labels is None:
        labels = (numbers((count,), key + 9) * 6).round()
    return Batch(
        features, *(dict.fromkeys(features, mask) for _ in range(2)), dict.fromkeys(features, last), labels=labels
    )


def in_main(**changes: object) -> MMIM:
    method = build(replace(CASE, settings={**CASE.settings, "dropout": 0.0, **changes}))
    method.turn = "main"
    return method


def step(method: MMIM, batch: Batch) -> dict[str, Tensor]:
    return method.loss(method.training_forward(batch), batch)


@pytest.mark.parametrize("name", ["mmim_mmsa", "mmim_official"])
def test_outputs_are_those_of_the_official_code(name: str) -> None:
    assert_as_kept(name)


@pytest.mark.parametrize(
    ("dims", "parameters"), [((768, 5, 20), 281_673), ((768, 74, 35), 292_425), ((768, 33, 709), 373_449)]
)
def test_sizes_are_those_of_mmsa(dims: tuple[int, ...], parameters: int) -> None:
    spec = replace(CASE.spec, feature_dims=dict(zip(("text", "audio", "vision"), dims, strict=True)))
    assert sum(p.numel() for p in MMIM(spec, bidirectional=True).parameters()) == parameters


def test_likelihood_is_that_of_a_gaussian_without_its_constant() -> None:
    method, batch = in_main(), clips(5, 1)
    x = method._vectors(batch)
    expected = torch.zeros(5)
    for m in ("audio", "vision"):
        mean, variance = method.bounds[m].mean(x["text"]), method.bounds[m].log_variance(x["text"]).exp()
        gaussian = torch.distributions.Normal(mean, variance.sqrt())
        constant = torch.distributions.Normal(torch.zeros_like(mean), variance.sqrt()).log_prob(torch.zeros(()))
        expected = expected + (gaussian.log_prob(x[m]) - constant).sum(1)
    found = method.training_forward(batch).aux["likelihood"]
    assert torch.allclose(found, expected, atol=1e-4)
    assert step(method, batch)["likelihood"].item() == pytest.approx(-0.1 * expected.mean().item(), abs=1e-5)


def test_contrast_finds_each_clips_prediction_among_the_batchs() -> None:
    method, batch = in_main(lambda_cpc=0.3), clips(7, 1)
    x = method._vectors(batch)
    z = method.fusion(torch.cat([x["text"], x["audio"], x["vision"]], dim=1))
    nce = 0.0
    for m, vectors in x.items():
        cosine = F.cosine_similarity(vectors.unsqueeze(1), method.back[m](z).unsqueeze(0), dim=2)
        nce += F.cross_entropy(cosine, torch.arange(7)).item()
    assert step(method, batch)["contrast"].item() == pytest.approx(0.3 * (nce - 3 * np.log(7)), abs=1e-5)


def test_entropy_is_of_two_gaussians_over_this_batch_and_the_one_before() -> None:
    method = in_main(lambda_bounds=0.2)
    batches = [clips(20, 10 * key) for key in (1, 2, 3, 4)]
    terms, codes = [], []
    for batch in batches:
        codes.append(method.training_forward(batch).aux["codes"].detach().numpy().astype(np.float64))
        terms.append(step(method, batch))
    # It first counts in the third batch, though the second could have it.
    assert ["entropy" in found for found in terms] == [False, False, True, True]
    for number in (2, 3):
        both = np.concatenate([codes[number - 1], codes[number]])
        labels = np.concatenate([batches[number - 1].labels, batches[number].labels])
        expected = 0.0
        for target in (0, 1):
            for of_sign in (both[labels > 0, target], both[labels < 0, target]):
                _, log_det = np.linalg.slogdet(np.cov(of_sign, rowvar=False))
                expected += 0.5 * (0.5 * log_det + np.log(2 * np.pi * np.e))
        assert terms[number]["entropy"].item() == pytest.approx(-0.2 * expected, abs=1e-3)


def test_memory_is_of_the_batch_before_alone_and_gets_no_gradient() -> None:
    method = in_main()
    for key in (1, 2, 3):
        before = {name: value.clone() for name, value in method.named_buffers() if name.startswith("memory")}
        batch = clips(12, 10 * key)
        step(method, batch)
    out = method.training_forward(batch)
    assert torch.equal(method.memory, out.aux["codes"].detach())
    assert torch.equal(method.memory_labels, batch.labels)
    assert not torch.equal(method.memory, before["memory"])
    assert not method.memory.requires_grad
    assert not any(name.startswith("memory") for name in method.state_dict())


@pytest.mark.parametrize(
    "labels",
    [[1.0] * 6, [0.0] * 6, [1.0] * 5 + [-1.0], [1.0, -1.0] * 3],
    ids=["one sign", "neutral", "one negative", "three of each"],
)
@pytest.mark.parametrize("equal", [False, True])
def test_few_or_equal_codes_have_finite_entropy_and_gradients(labels: list[float], equal: bool) -> None:
    method = in_main()
    for key in (1, 2, 3):
        batch = clips(6, 10 * key, torch.tensor(labels))
        if equal:
            batch.features["audio"].zero_()
        method.zero_grad()
        terms = step(method, batch)
    terms["entropy"].backward()
    assert torch.isfinite(terms["entropy"])
    assert all(torch.isfinite(p.grad).all() for p in method.parameters() if p.grad is not None)


class Watched(MMIM):
    """Remembers its weights at the start of every pass, and what the memory held."""

    def training_forward(self, batch: Batch) -> Output:
        if not hasattr(self, "log_of_turns"):
            self.log_of_turns: list[tuple[str, int, dict[str, Tensor]]] = []
        weights = {name: p.detach().clone() for name, p in self.named_parameters()}
        self.log_of_turns.append((self.turn, len(self.memory), weights))
        return super().training_forward(batch)


def moved(before: dict[str, Tensor], after: dict[str, Tensor]) -> set[str]:
    return {name.partition(".")[0] for name in before if not torch.equal(before[name], after[name])}


def test_each_epoch_trains_the_bounds_and_then_everything_else(tmp_path: Path) -> None:
    data = data_module(random_corpus(), batch_size=8)
    torch.manual_seed(0)
    method = Watched(data.spec, **CASE.settings)
    quiet_trainer(tmp_path, 2).fit(method, datamodule=data)
    log = method.log_of_turns
    assert [turn for turn, _, _ in log] == (["bounds"] * 3 + ["main"] * 3) * 2
    # The memory starts empty in every epoch.
    assert [held for _, held, _ in log] == [0, 0, 0, 0, 8, 8] * 2
    weights = [found for _, _, found in log]
    everything = {name.partition(".")[0] for name in weights[0]}
    for start in (0, 6):
        assert moved(weights[start], weights[start + 3]) == {"bounds"}
        assert moved(weights[start + 3], weights[start + 5]) == everything - {"bounds", "codes"}
    assert moved(weights[0], dict(method.named_parameters())) == everything - {"codes"}


def test_gradients_that_are_not_stepped_count_in_the_norm(tmp_path: Path) -> None:
    data = data_module(random_corpus(), batch_size=12)
    norms = []

    class Norms(MMIM):
        def on_before_optimizer_step(self, optimizer: object) -> None:
            gradients = {name: p.grad for name, p in self.named_parameters() if p.grad is not None}
            total = torch.stack([g.norm() for g in gradients.values()]).norm().item()
            norms.append((self.turn, total, {name.partition(".")[0] for name in gradients}))

    quiet_trainer(tmp_path, 1).fit(Norms(data.spec, gradient_clip=1e-2, **CASE.settings), datamodule=data)
    assert [turn for turn, _, _ in norms] == ["bounds"] * 2 + ["main"] * 2
    for turn, total, parts in norms:
        assert total == pytest.approx(1e-2, rel=1e-3)
        assert {"bounds", "encoders"} <= parts
        assert ("predict" in parts) == (turn == "main")


def test_a_resumed_training_is_the_same(tmp_path: Path) -> None:
    data = data_module(random_corpus(), batch_size=8)
    ends = []
    for epochs in (2, 3):
        torch.manual_seed(0)
        method = MMIM(data.spec, **{**CASE.settings, "dropout": 0.0})
        trainer = quiet_trainer(tmp_path, epochs)
        trainer.fit(method, datamodule=data)
        trainer.save_checkpoint(tmp_path / f"{epochs}.ckpt")
        ends.append({name: p.detach().clone() for name, p in method.named_parameters()})
    resumed = MMIM(data.spec, **{**CASE.settings, "dropout": 0.0})
    quiet_trainer(tmp_path, 3).fit(resumed, datamodule=data, ckpt_path=tmp_path / "2.ckpt")
    for name, parameter in resumed.named_parameters():
        assert torch.equal(parameter, ends[1][name])
    assert moved(ends[0], ends[1])


def test_text_is_its_first_state_or_its_mean() -> None:
    batch = batch_of(CASE)
    valid = torch.arange(9) < torch.tensor([9, 9, 9, 4])[:, None]
    batch = replace(batch, valid={**batch.valid, "text": valid})
    assert torch.equal(in_main()._vectors(batch)["text"], batch.text[:, 0])
    mean = (batch.text * valid.unsqueeze(2)).sum(1) / valid.sum(1, keepdim=True)
    assert torch.allclose(in_main(text_vector="mean")._vectors(batch)["text"], mean, atol=1e-6)


def test_matrices_start_normal_with_xaviers_variance() -> None:
    method = MMIM(replace(CASE.spec, feature_dims={"text": 300, "audio": 40, "vision": 60}), hidden=50, dim=48)
    for name, parameter in method.named_parameters():
        if parameter.numel() > 2000 and parameter.dim() > 1:
            expected = (2 / sum(parameter.shape)) ** 0.5
            assert parameter.std().item() == pytest.approx(expected, rel=0.1), name
            # A uniform distribution of this variance ends at 1.73.
            assert parameter.abs().max().item() > 2.5 * expected, name


def test_emotions_have_no_entropy() -> None:
    method = MMIM(replace(CASE.spec, task="emotions", metric_set="emotions"), **CASE.settings)
    method.turn = "main"
    for key in (1, 2, 3):
        batch = clips(6, key, torch.zeros(6, 4, dtype=torch.int64))
        terms = step(method, batch)
    assert set(terms) == {"task", "contrast", "likelihood"}
    assert not any(name.startswith("codes") for name, _ in method.named_parameters())


def test_every_parameter_has_one_optimiser_and_the_encoder_its_own_rate(monkeypatch: pytest.MonkeyPatch) -> None:
    from transformers import BertConfig, BertModel

    config = BertConfig(vocab_size=8, hidden_size=12, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8)
    bert = BertModel(config, add_pooling_layer=False)
    before = {name: p.detach().clone() for name, p in bert.named_parameters()}
    monkeypatch.setattr(text, "_load_bert", lambda name: bert)
    method = MMIM(CASE.spec, text_encoder="bert", finetune=True, text_lr=1e-5, lr=1e-2, bounds_lr=1e-3)
    assert all(torch.equal(before[name], p) for name, p in method.text.encoder.named_parameters())
    rates = {}
    for turn in method.turns:
        method.turn = turn
        for group in method.param_groups():
            for parameter in group["params"]:
                assert id(parameter) not in rates
                rates[id(parameter)] = group.get("lr", method.lr)
    expected = {"bounds": 1e-3, "text": 1e-5, "codes": 0.0}
    for name, parameter in method.named_parameters():
        assert rates.pop(id(parameter)) == expected.get(name.partition(".")[0], 1e-2), name
    assert not rates


def test_each_pass_sees_every_clip_and_steps_by_the_norm_of_all_gradients(tmp_path: Path) -> None:
    data = data_module(random_corpus(), batch_size=5)
    seen: list[tuple[str, Batch]] = []

    class Noted(MMIM):
        def training_forward(self, batch: Batch) -> Output:
            seen.append((self.turn, batch))
            return super().training_forward(batch)

    settings = {**MMIM.info.smoke, "dropout": 0.0, "gradient_clip": 0.05}

    def fresh() -> MMIM:
        torch.manual_seed(0)
        return Noted(data.spec, **settings)

    method = fresh()
    quiet_trainer(tmp_path, 1).fit(method, datamodule=data)
    noted, by_hand = list(seen), fresh()
    assert [turn for turn, _ in noted] == ["bounds"] * 5 + ["main"] * 5
    rows = [torch.cat([batch.index for _, batch in noted[start : start + 5]]) for start in (0, 5)]
    assert all(torch.equal(order.sort().values, torch.arange(24)) for order in rows)
    assert not torch.equal(*rows)

    optimizers = {}
    for turn in by_hand.turns:
        by_hand.turn = turn
        groups = [group for group in by_hand.param_groups() if group["params"]]
        optimizers[turn] = torch.optim.Adam(groups, lr=by_hand.lr, weight_decay=by_hand.weight_decay)
    for turn, batch in noted:
        by_hand.turn = turn
        by_hand.zero_grad()
        torch.stack(list(by_hand.loss(by_hand.training_forward(batch), batch).values())).sum().backward()
        nn.utils.clip_grad_norm_(by_hand.parameters(), 0.05)
        optimizers[turn].step()
    for (name, ours), theirs in zip(method.named_parameters(), by_hand.parameters(), strict=True):
        assert torch.allclose(ours, theirs, atol=1e-6), name


def test_a_training_in_which_main_has_no_batch_is_refused(tmp_path: Path) -> None:
    data = data_module(random_corpus(), batch_size=5)
    with pytest.raises(MSABenchError, match="mmim takes its first step after 1 batches, but turn 'main' of an epoch"):
        quiet_trainer(tmp_path, 1, limit_train_batches=1).fit(MMIM(data.spec, **MMIM.info.smoke), datamodule=data)


def test_the_pass_of_the_bounds_may_stop_early(tmp_path: Path) -> None:
    data = data_module(random_corpus(), batch_size=5)
    method = Watched(data.spec, bounds_share=0.5, **MMIM.info.smoke)
    quiet_trainer(tmp_path, 2).fit(method, datamodule=data)
    # Batches 0, 1, 2 of 5 lie below half of the loader.
    assert [turn for turn, _, _ in method.log_of_turns] == (["bounds"] * 3 + ["main"] * 5) * 2
    with pytest.raises(MSABenchError, match=r"bounds_share 0\.0 is not allowed"):
        MMIM(data.spec, bounds_share=0.0, **MMIM.info.smoke)
