"""What is HME's own; what every method must hold is in test_methods.py."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor, nn
from torch.nn import functional as F

from msabench.data.batch import Batch
from msabench.errors import MSABenchError
from msabench.methods.hme import HME, Bottleneck, Mixture, neighbour_means
from msabench.missingness.conditions import MODALITIES
from msabench.testing.corpora import data_module, quiet_trainer, random_corpus
from msabench.training.config_files import config_of
from tests.support.golden_cases import CASES, assert_as_kept, batch_of, fill, numbers
from tests.support.small_bert import save_small_bert

CASE = CASES["hme_official"]
CONFIGS = Path(__file__).parents[2] / "configs"
SMALL = {"dim": 8, "heads": 2, "layers": 1, "latent_layers": 1, "hyper_layers": 1, "tokens": 2, "fusion_width": 16}


def method(case: Any = CASE, **settings: object) -> HME:
    built = HME(case.spec, **{**SMALL, **settings}).eval()
    fill(built, 0.5)
    return built


def training_batch(task: str = "regression") -> Batch:
    batch = batch_of(CASE)
    labels = numbers((4,), 12) * 4
    return replace(batch, labels=(numbers((4, 4), 12) > 0).long() if task == "emotions" else labels)


def test_outputs_are_those_of_the_official_code() -> None:
    assert_as_kept("hme_official")


def test_neighbours_one_clip_at_a_time() -> None:
    e = torch.tensor([[1.0, 0.0], [0.9, 0.1], [0.0, 1.0], [0.0, 0.0], [2.0, 2.5], [1.0, -1.0]])
    got = neighbour_means(e[None], e[None], 0.9, torch.eye(6, dtype=torch.bool))[0]
    rest = [i for i in range(6) if float(e[i].sum()) != 0]
    assert rest == [0, 1, 2, 4]
    for i in range(6):
        alike = [j for j in range(6) if j != i and float(F.cosine_similarity(e[i], e[j], dim=0)) >= 0.9]
        which = alike if alike and float(e[i].sum()) != 0 else rest
        torch.testing.assert_close(got[i], e[which].mean(0))
    torch.testing.assert_close(got[0], e[1])
    torch.testing.assert_close(got[3], e[rest].mean(0))


def test_a_clip_may_be_its_own_neighbour_only_in_the_bank() -> None:
    e = torch.eye(3)[None]
    torch.testing.assert_close(neighbour_means(e, e, 0.6), e)
    own = torch.eye(3, dtype=torch.bool)
    torch.testing.assert_close(neighbour_means(e, e, 0.6, own), torch.full((1, 3, 3), 1 / 3))


def test_what_all_lack_has_itself_as_neighbours() -> None:
    """The official quirk: clips without a modality share one vector, so that they retrieve nothing but that."""
    lacking, other = torch.tensor([0.3, -0.2, 0.5]), torch.tensor([-0.4, 0.9, 0.1])
    e = torch.stack([lacking, other, lacking])[None]
    got = neighbour_means(e, e, 0.6, torch.eye(3, dtype=torch.bool))[0]
    torch.testing.assert_close(got[0], lacking)
    torch.testing.assert_close(got[2], lacking)


def test_neighbours_pass_gradients_in_training() -> None:
    e = numbers((1, 4, 3), 5).requires_grad_()
    neighbour_means(e, e, 0.1, torch.eye(4, dtype=torch.bool))[0, 0].sum().backward()
    assert e.grad is not None
    assert e.grad[0, 1:].any()


def test_the_bank_holds_the_last_training_clips() -> None:
    ours = method(bank_clips=6)
    first, second = training_batch(), training_batch()
    second.features["text"] = second.text + 1.0 * second.observed["text"].unsqueeze(2)
    with torch.no_grad():
        ours.training_forward(first)
        e = [ours._encode(batch) for batch in (first, second)]
        torch.testing.assert_close(ours.bank[:, 2:], e[0])
        assert not ours.bank[:, :2].any()
        out = ours(first)
        ours.training_forward(second)
    torch.testing.assert_close(ours.bank, torch.cat([e[0][:, 2:], e[1]], 1))
    assert "bank" in ours.state_dict()
    assert not ours.bank.requires_grad
    assert not torch.allclose(out.pred, ours(first).pred, atol=1e-6)


def test_predictions_depend_on_the_bank_and_not_on_the_batch() -> None:
    ours, batch = method(), batch_of(CASE)
    with torch.no_grad():
        alone = ours(batch).pred
        ours.bank = numbers(tuple(ours.bank.shape), 9)
        together = ours(batch).pred
        again = ours(batch).pred
        rows = torch.tensor([2, 0])
        part = ours(
            replace(
                batch,
                features={m: x[rows] for m, x in batch.features.items()},
                valid={m: x[rows] for m, x in batch.valid.items()},
                observed={m: x[rows] for m, x in batch.observed.items()},
                last={m: x[rows] for m, x in batch.last.items()},
            )
        ).pred
    assert torch.equal(together, again)
    assert not torch.allclose(alone, together, atol=1e-6)
    torch.testing.assert_close(part, together[rows])


def test_mixture_by_hand_and_trust_lowers_a_preference() -> None:
    mixture = Mixture(4, 2, 0.3).eval()
    fill(mixture)
    x, trust = numbers((3, 2, 4), 1) * 3, torch.tensor([[1.0, 0.2], [1.0, 1.0], [1.0, 0.5]])
    first, _, _, last = mixture.weigh
    for b in range(3):
        t = last(torch.relu(first(torch.cat([x[b, 0], x[b, 1]])))) * trust[b] / 2
        w = t.exp() / t.exp().sum()
        torch.testing.assert_close(mixture(x, trust)[b], w[0] * x[b, 0] + w[1] * x[b, 1])


def test_new_weights_are_those_of_the_official_network() -> None:
    """Near N(0, .02) with biases of 0 in all linear layers but the projections; new bottlenecks are nearly certain."""
    torch.manual_seed(0)
    ours = HME(CASE.spec)
    for name, part in ours.named_modules():
        if isinstance(part, nn.Linear):
            if name.startswith("project."):
                assert float(part.weight.detach().abs().max()) <= part.in_features**-0.5
                assert float(part.weight.detach().std()) > 0.05
                assert part.bias is None
            elif part.weight.numel() > 1000:
                assert float(part.weight.detach().std()) == pytest.approx(0.02, rel=0.1), name
            assert part.bias is None or not part.bias.detach().any()
        if isinstance(part, nn.LayerNorm):
            assert (part.weight == 1).all()
    packed = ours.encoders["text"].layers[0].self_attn.in_proj_weight
    assert float(packed.detach().std()) == pytest.approx((2 / (4 * 192)) ** 0.5, rel=0.05)
    bottleneck = Bottleneck(4)
    for part in bottleneck.encode:
        if isinstance(part, nn.Linear):
            part.bias.detach().zero_()
    _, sd = bottleneck(torch.zeros(1, 4))
    torch.testing.assert_close(sd, torch.full((1, 4), math.log1p(math.exp(-5))))


def test_size_is_the_official_one_without_what_gets_no_gradient() -> None:
    """Of attention to one key: the map and the norm of queries, and the map of keys."""
    spec = replace(CASE.spec, feature_dims={"text": 768, "audio": 5, "vision": 20})
    with torch.device("meta"):
        ours = HME(spec)
        small = HME(replace(spec, feature_dims={"text": 768, "audio": 74, "vision": 35}), layers=2, latent_layers=3)
    unused = 192 * (192 + 2 + 192)
    assert sum(p.numel() for p in ours.parameters()) == 44_090_573 - (3 * 4 + 6 * 3) * unused
    assert sum(p.numel() for p in small.parameters()) == 36_695_885 - (3 * 3 + 6 * 3) * unused


def test_terms_by_hand() -> None:
    ours, batch = method(lambda_auxiliary=0.5, lambda_information=2.0), training_batch()
    seen: list[tuple[Tensor, Tensor]] = []
    for m in MODALITIES:
        ours.bottlenecks[m].register_forward_hook(lambda _, __, out: seen.append(out))
    torch.manual_seed(4)
    with torch.no_grad():
        out = ours.training_forward(batch)
        terms = ours.loss(out, batch)
        torch.manual_seed(4)
        noise = [torch.randn(4, 8) for _ in MODALITIES]
        own, kl = [], []
        for m, (mu, sd), eps in zip(MODALITIES, seen, noise, strict=True):
            score = ours.scores[m](mu + sd * eps)[:, 0]
            own.append((score - batch.labels).abs().mean())
            normal = torch.distributions.Normal(mu, sd)
            kl.append(torch.distributions.kl_divergence(normal, torch.distributions.Normal(0.0, 1.0)).mean())
    torch.testing.assert_close(terms["task"], (out.pred - batch.labels).abs().mean())
    torch.testing.assert_close(terms["auxiliary"], 0.5 * sum(own) / 3)
    torch.testing.assert_close(terms["information"], 2.0 * sum(kl) / 3)
    torch.testing.assert_close(out.aux["kl"].mean(), sum(kl) / 3)


def test_nothing_is_drawn_in_evaluation() -> None:
    ours, batch = method(), training_batch()
    state = torch.get_rng_state()
    first = ours(batch).pred
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(ours(batch).pred, first)
    assert not torch.equal(ours.training_forward(batch).pred, ours.training_forward(batch).pred)


def test_certainty_without_bounds_gives_a_finite_loss() -> None:
    ours, batch = method(), training_batch()
    with torch.no_grad():
        for m in MODALITIES:
            ours.bottlenecks[m].encode[4].bias[8:] = -300.0
    terms = ours.loss(ours.training_forward(batch), batch)
    torch.stack(list(terms.values())).sum().backward()
    assert all(torch.isfinite(term) for term in terms.values())
    assert all(torch.isfinite(p.grad).all() for p in ours.parameters() if p.grad is not None)


def test_a_removed_modality_is_the_same_vector_for_all_and_order_in_time_counts() -> None:
    ours, batch = method(), batch_of(CASE)
    features = {**batch.features, "audio": torch.zeros_like(batch.audio)}
    with torch.no_grad():
        e = ours._encode(replace(batch, features=features))
        whole, reversed_ = (
            ours._encode(replace(batch, features={m: f(x) for m, x in batch.features.items()}))
            for f in (lambda x: x, lambda x: x.flip(1))
        )
    torch.testing.assert_close(e[1], e[1, :1].expand(4, -1))
    assert not torch.allclose(whole, reversed_, atol=1e-4)


def test_emotions_are_four_questions_for_every_head() -> None:
    ours = method(replace(CASE, task="emotions"))
    batch = training_batch("emotions")
    out = ours.training_forward(batch)
    assert out.pred.shape == (4, 4, 2)
    assert out.aux["scores"].shape == (4, 3, 8)
    terms = ours.loss(out, batch)
    expected = [F.cross_entropy(out.aux["scores"][:, i].reshape(-1, 2), batch.labels.flatten()) for i in range(3)]
    torch.testing.assert_close(terms["auxiliary"], 0.8 * sum(expected) / 3)


def test_decay_spares_biases_and_the_norms_of_bert(tmp_path: Path) -> None:
    ours = HME(CASE.spec, **SMALL, text_encoder=save_small_bert(tmp_path), finetune=True, text_lr=3e-5, lr=1e-4)
    optimizer = ours.configure_optimizers()["optimizer"]
    assert isinstance(optimizer, torch.optim.AdamW)
    names = {id(p): name for name, p in ours.named_parameters()}
    found = {}
    for group in optimizer.param_groups:
        for p in group["params"]:
            found[names[id(p)]] = (group["lr"], group["weight_decay"])
    assert set(found) == set(names.values())
    for name, (lr, decay) in found.items():
        assert lr == (3e-5 if name.startswith("text.") else 1e-4), name
        assert decay == (0.0 if "bias" in name or "LayerNorm.weight" in name else 1e-4), name
    assert found["fusion.0.norm1.weight"][1] == found["whole.tokens"][1] == 1e-4
    assert found["text.encoder.embeddings.LayerNorm.weight"][1] == 0
    assert (ours.gradient_clip, ours.clip_by, ours.criterion) == (0.8, "value", "l1")


class Steps(Callback):
    """How many steps the optimiser remembers at the end of every epoch."""

    def __init__(self) -> None:
        self.counts: list[int] = []

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        (optimizer,) = trainer.optimizers
        self.counts.append(max(int(state["step"]) for state in optimizer.state.values()))


@pytest.mark.parametrize(("restart", "counts"), [(True, [3, 3, 3]), (False, [3, 6, 9])])
def test_moments_are_forgotten_at_every_epoch(tmp_path: Path, restart: bool, counts: list[int]) -> None:
    data = data_module(random_corpus(), batch_size=8)  # 24 clips
    ours = HME(data.spec, **SMALL, restart_optimizer=restart)
    watch = Steps()
    quiet_trainer(tmp_path, 3, callbacks=[watch]).fit(ours, datamodule=data)
    assert watch.counts == counts
    assert ours.bank[:, -24:].any(2).all()


@pytest.mark.parametrize(
    ("dataset", "rate", "layers", "latent_layers"), [("mosi", 0.2, 4, 4), ("mosei", 0.1, 2, 3), ("sims", 0.2, 4, 4)]
)
def test_recipe_is_the_official_one(dataset: str, rate: float, layers: int, latent_layers: int) -> None:
    config = config_of(CONFIGS / f"hme_{dataset}.yaml")
    init = config["model"]["init_args"]
    assert config["data"]["missing"] == {"regime": "random", "rate": [rate, rate]}
    assert (config["data"]["batch_size"], config["trainer"]["max_epochs"], config["early_stop"]) == (256, 100, 10)
    assert (init["layers"], init["latent_layers"], init["hyper_layers"], init["dim"]) == (layers, latent_layers, 3, 192)
    assert (init["lr"], init["text_lr"], init["weight_decay"], init["gradient_clip"]) == (2e-5, 2e-5, 1e-4, 0.8)
    assert init["restart_optimizer"]
    assert init["finetune"]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"similarity": 0.0}, "similarity 0.0"),
        ({"least_trust": 1.5}, "least_trust 1.5"),
        ({"latent_layers": 0}, "latent_layers 0"),
        ({"bank_clips": 0}, "bank_clips 0"),
        ({"heads": 3}, "3 heads"),
    ],
)
def test_arguments_outside_their_range_are_refused(settings: dict[str, object], message: str) -> None:
    with pytest.raises(MSABenchError, match=message):
        method(**settings)
