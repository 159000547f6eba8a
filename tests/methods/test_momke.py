"""What is MoMKE's own; what every method must hold is in test_methods.py."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from msabench.data.batch import Batch
from msabench.errors import MSABenchError
from msabench.methods.momke import Expert, MoMKE
from msabench.missingness.conditions import MODALITIES
from msabench.missingness.config import MissingConfig
from msabench.testing.corpora import data_module, quiet_trainer, random_corpus
from msabench.training.config_files import config_of
from tests.support.golden_cases import CASES, assert_as_kept, batch_of, fill, numbers
from tests.support.teacher_student import Weights, changed

CASE = CASES["momke_official"]
CONFIGS = Path(__file__).parents[2] / "configs"


def method(stage: str = "mixing", **settings: object) -> MoMKE:
    built = MoMKE(CASE.spec, **{**CASE.settings, **settings}).eval()
    fill(built)
    built.enter_stage(stage)
    return built


def training_batch() -> Batch:
    """The golden batch with a complete version, of which every frame is there."""
    batch = batch_of(CASE)
    features = {m: numbers(tuple(x.shape), key) for key, (m, x) in enumerate(batch.features.items(), start=7)}
    complete = replace(batch, features=features, observed=batch.valid)
    return replace(batch, complete=complete, labels=numbers((4,), 12) * 4)


def without(batch: Batch, row: int, m: str) -> Batch:
    """The batch with one modality of one clip removed."""
    observed = {**batch.observed, m: batch.observed[m].clone()}
    features = {**batch.features, m: batch.features[m].clone()}
    observed[m][row], features[m][row] = False, 0
    return replace(batch, observed=observed, features=features)


@pytest.mark.parametrize("name", ["momke_official", "momke_official_emotions"])
def test_outputs_are_those_of_the_official_code(name: str) -> None:
    assert_as_kept(name)


def test_expert_follows_its_formulas_one_clip_at_a_time() -> None:
    expert = Expert(6, 2, 2, 0.5).eval()
    fill(expert)
    x = numbers((2, 4, 6), 3) * 3
    there = torch.tensor([[True, False, True, True], [False] * 4])
    got = expert(x, there)
    for c in range(2):
        h = list(x[c])
        for layer in expert.layers:
            read = [layer.qkv(row).chunk(3) for row in h]
            after = []
            for i in range(4):
                o = torch.zeros(6)
                for head in (slice(0, 3), slice(3, 6)):
                    score = [math.exp(float(read[i][0][head] @ read[j][1][head]) / 3**0.5) for j in range(4)]
                    total = sum(score[j] for j in range(4) if there[c, j])
                    for j in range(4):
                        if there[c, j]:
                            o[head] += score[j] / total * read[j][2][head]
                first, _, _, second, _ = layer.perceptron
                after.append(h[i] + o + second(torch.nn.functional.gelu(first(o))))
            h = after
        torch.testing.assert_close(got[c], torch.stack(h), atol=1e-5, rtol=1e-5)


def test_a_gate_mixes_what_all_experts_say_of_a_modality() -> None:
    """Of a clip alone, which hears itself; z by hand, then the residual head."""
    ours = method(context=False)
    batch = batch_of(CASE)
    parts = []
    for m in MODALITIES:
        seen = [batch.features[m][i][batch.observed[m][i]] for i in range(4)]
        vector = torch.stack([x.mean(0) if len(x) else torch.zeros(x.shape[1]) for x in seen])
        h = ours.project[m](vector)
        gate = ours.gates[m](h).softmax(1)
        alone = torch.ones(4, 1, dtype=torch.bool)
        heard = [ours.experts[e](h[:, None], alone)[:, 0] for e in MODALITIES]
        mixed = sum(gate[:, [i]] * heard[i] for i in range(3))
        parts.append(mixed * batch.observed[m].any(1, keepdim=True))
    z = torch.cat(parts, 1)
    joint = z + torch.relu(ours.joint(z))
    out = ours(batch)
    torch.testing.assert_close(out.representation, joint)
    torch.testing.assert_close(out.pred, ours.predict(joint)[:, 0])
    assert not z[2, 16:].any()
    assert out.unimodal == {}


def test_a_text_alone_is_read_by_the_experts_of_the_others_too() -> None:
    batch = batch_of(CASE)
    for row in range(4):
        for m in ("audio", "vision"):
            batch = without(batch, row, m)
    for stage, heard in (("mixing", True), ("experts", False)):
        ours = method(stage)
        before = ours(batch).representation
        with torch.no_grad():
            for parameter in ours.experts["vision"].parameters():
                parameter.mul_(2)
        assert (not torch.equal(ours(batch).representation, before)) is heard


def test_nobody_attends_to_a_clip_that_lacks_the_modality() -> None:
    """What an audio that is not there projects to (the bias) moves its neighbours only if it is attended to."""
    ours, batch = method(), batch_of(CASE)
    removed = without(batch, 0, "audio")
    alone = replace(removed, conversation=torch.tensor([3, 1, 0, 0]))  # the clip is taken out of the conversation
    assert not torch.allclose(ours(batch).representation[3], ours(removed).representation[3], atol=1e-4)

    def audio(of: Batch) -> Tensor:
        heads = []
        handle = ours.joint.register_forward_pre_hook(lambda _, inputs: heads.append(inputs[0][:, 8:16]))
        ours(of)
        handle.remove()
        return heads[0]

    torch.testing.assert_close(audio(removed)[[2, 3]], audio(alone)[[2, 3]])
    assert not audio(removed)[0].any()
    assert not torch.allclose(audio(batch)[[2, 3]], audio(alone)[[2, 3]], atol=1e-4)


def test_a_clip_hears_its_own_conversation_only_and_without_context_itself_only() -> None:
    batch = batch_of(CASE)
    moved = replace(batch, features={**batch.features, "text": batch.text.clone()})
    moved.text[0] += 3
    for context, expected in ((True, [True, False, True, True]), (False, [True, False, False, False])):
        ours = method(context=context)
        assert ours.data_needs.conversations is context
        differs = (ours(batch).representation - ours(moved).representation).abs().amax(1) > 1e-5
        assert differs.tolist() == expected


def test_order_in_time_does_not_matter() -> None:
    ours, batch = method(), batch_of(CASE)
    assert batch.turn is not None
    torch.testing.assert_close(ours(batch).pred, ours(replace(batch, turn=2 - batch.turn)).pred)


def test_where_nobody_has_a_modality_gradients_are_finite() -> None:
    ours, batch = method(), training_batch()
    for row in range(4):
        batch = without(batch, row, "audio")
    ours.loss(ours.training_forward(batch), batch)["task"].backward()
    grads = [p.grad for p in ours.parameters() if p.grad is not None]
    assert all(torch.isfinite(grad).all() for grad in grads)
    assert not ours.project["audio"].weight.grad.any()
    assert ours.experts["audio"].layers[0].qkv.weight.grad.any()


def test_of_a_clip_without_anything_the_same_is_predicted() -> None:
    ours, batch = method(), batch_of(CASE)
    for m in MODALITIES:
        for row in (0, 1):
            batch = without(batch, row, m)
    pred = ours(batch).pred
    assert pred[0] == pred[1]
    torch.testing.assert_close(pred[0], ours.predict(torch.relu(ours.joint.bias))[0])


def test_experts_learn_apart_from_complete_clips() -> None:
    ours, batch = method("experts"), training_batch()
    assert batch.complete is not None
    out = ours.training_forward(batch)
    torch.testing.assert_close(out.pred, ours(batch.complete).pred)
    terms = ours.loss(out, batch)
    assert list(terms) == list(MODALITIES)
    for m in MODALITIES:
        torch.testing.assert_close(terms[m], ((out.unimodal[m] - batch.labels) ** 2).mean())
        ours.zero_grad()
        terms[m].backward(retain_graph=True)
        reached = {name for name, p in ours.named_parameters() if p.grad is not None and p.grad.any()}
        assert reached
        assert {name.split(".")[1] for name in reached} == {m}
        assert {name.split(".")[0] for name in reached} == {"project", "experts", "unimodal"}


def test_each_stage_serves_what_it_trains() -> None:
    def served(ours: MoMKE) -> set[str]:
        ids = {id(p) for group in ours.param_groups() for p in group["params"]}
        return {name.split(".")[0] for name, p in ours.named_parameters() if id(p) in ids}

    assert served(method("experts")) == {"project", "experts", "unimodal"}
    mixing = method()
    assert served(mixing) == {"project", "experts", "gates", "joint", "predict"}
    batch = training_batch()
    out = mixing.training_forward(batch)
    torch.testing.assert_close(out.pred, mixing(batch).pred)
    (task,) = mixing.loss(out, batch).values()
    torch.testing.assert_close(task, ((out.pred - batch.labels) ** 2).mean())
    task.backward()
    assert all((p.grad is None) == name.startswith("unimodal") for name, p in mixing.named_parameters())


def test_a_fit_trains_experts_first_and_then_their_mixing(tmp_path: Path) -> None:
    data = data_module(random_corpus(), batch_size=2, missing=MissingConfig(regime="inter"))
    torch.manual_seed(0)
    ours = MoMKE(data.spec, dim=8, layers=1, experts_epochs=2)
    watch = Weights()
    quiet_trainer(tmp_path, 4, callbacks=[watch]).fit(ours, datamodule=data)
    after = {name: p.detach() for name, p in ours.named_parameters()}
    assert changed(watch.at[0], watch.at[2]) == {"project", "experts", "unimodal"}
    assert changed(watch.at[2], after) == {"project", "experts", "gates", "joint", "predict"}


def test_what_is_dropped_out() -> None:
    """Inputs, perceptrons, the gates' logits and the joint head, all at one rate; attention is whole."""
    ours = method(dropout=0.3)
    rates = [part.p for part in ours.modules() if isinstance(part, torch.nn.Dropout)]
    assert rates == [0.3] * len(rates)
    assert len(rates) == 2 * (3 * 2 + 3) + 1
    gate = ours.gates["text"].train()
    torch.manual_seed(0)
    assert (gate(torch.ones(200, 8)) == 0).float().mean() == pytest.approx(0.3, abs=0.05)


@pytest.mark.parametrize(
    ("dataset", "epochs", "experts", "batch_size"),
    [("mosi", 300, 150, 32), ("mosei", 100, 50, 32), ("iemocap", 200, 100, 16)],
)
def test_recipe_is_the_official_one(dataset: str, epochs: int, experts: int, batch_size: int) -> None:
    config = config_of(CONFIGS / f"momke_{dataset}.yaml")
    init = config["model"]["init_args"]
    assert (config["trainer"]["max_epochs"], init["experts_epochs"]) == (epochs, experts)
    assert config["data"]["batch_size"] == batch_size
    assert config["data"]["missing"] == {"regime": "inter", "subsets": "all"}
    assert config["early_stop"] is None
    ours = MoMKE(CASE.spec, **init)
    assert (ours.lr, ours.weight_decay, ours.optimizer_class) == (1e-4, 1e-5, torch.optim.Adam)
    assert (ours.lr_patience, ours.gradient_clip, ours.criterion) == (None, None, "mse")
    assert ours.init_args["dim"] == 256
    assert (len(ours.experts["text"].layers), ours.experts["text"].layers[0].heads) == (4, 2)


def test_training_without_complete_clips_is_refused() -> None:
    with pytest.raises(MSABenchError, match="trains on complete clips"):
        method("experts").training_forward(batch_of(CASE))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"experts_epochs": 0}, "experts_epochs 0"),
        ({"heads": 3}, "heads must divide dim 8"),
        ({"layers": 0}, "layers 0"),
        ({"text_vector": "last"}, "unknown text_vector"),
    ],
)
def test_arguments_outside_their_range_are_refused(settings: dict[str, object], message: str) -> None:
    with pytest.raises(MSABenchError, match=message):
        method(**settings)
