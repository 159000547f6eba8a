"""What is DMD's own; what every method must hold is in test_methods.py."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from msabench.data.batch import Batch
from msabench.data.info import DataSpec
from msabench.errors import MSABenchError
from msabench.methods.base import Output
from msabench.methods.dmd import DMD
from tests.support.golden_cases import CASES, Case, assert_as_kept, batch_of, build, numbers

CASE = CASES["dmd_official"]
ORDER = ("text", "vision", "audio")
LETTERS = dict(zip("lva", range(3), strict=True))
# Ordered pairs of student and teacher, and the prior of each: softmax of 4 where text teaches (and vision audio in the
# private space), else of 0.
PAIRS = ("lv", "la", "vl", "va", "al", "av")
GOOD = {"homo": ("vl", "al"), "hetero": ("vl", "al", "av")}
MOSEI = {"dim": 30, "heads": 6, "kernel_size_audio": 1, "kernel_size_vision": 3}


def prior(space: str) -> np.ndarray:
    weights = np.array([np.e**4 if pair in GOOD[space] else 1.0 for pair in PAIRS])
    return weights / weights.sum()


def labelled(clips: int = 5, **settings: Any) -> tuple[DMD, Output, Batch]:
    """A method with arguments of its own, and what it might give for some clips, as leaves."""
    method = DMD(CASE.spec, **{**CASE.settings, "dim": 12, **settings})
    shapes = {"aligned": (3, 4), "common_logits": (1,)}
    shapes |= {"homo_logits": (3, 1), "homo_reprs": (3, 6), "hetero_logits": (3, 1), "hetero_reprs": (3, 12)}
    sequences = ("projected", "private", "common", "recon", "cycle")
    shapes |= {f"{name}_{m}": (steps, 6) for name in sequences for steps, m in enumerate(ORDER, start=3)}
    aux = {name: numbers((clips, *shape), key).add(0.1) for key, (name, shape) in enumerate(shapes.items(), start=1)}
    for key, space in enumerate(("homo", "hetero"), start=1):
        aux[f"{space}_edges"] = numbers((clips, 6), 40 + key).mul(4).softmax(1)
    aux = {name: value.detach().requires_grad_() for name, value in aux.items()}
    labels = torch.tensor([1.0, -2.0, 1.0, 0.5, 3.0])[:clips]
    return method, Output(pred=numbers((clips,), 50), aux=aux), replace(batch_of(CASE), labels=labels)


def test_outputs_are_those_of_the_official_code() -> None:
    assert_as_kept("dmd_official")


@pytest.mark.parametrize(
    ("dims", "settings", "official"),
    [((768, 5, 20), {}, 4_743_658), ((768, 74, 35), MOSEI, 1_792_778)],
    ids=["mosi", "mosei"],
)
def test_sizes_are_those_of_the_official_code(
    dims: tuple[int, int, int], settings: dict[str, int], official: int
) -> None:
    method = DMD(Case("dmd", dims, (50, 50, 50)).spec, **settings)
    sizes = {name: value.numel() for name, value in method.named_parameters()}
    graphs = sum(size for name, size in sizes.items() if name.startswith("graph_"))
    width = settings.get("dim", 50)
    assert graphs == 64 * (1 + width + 4) + 32 * (1 + 2 * width + 4)
    unused = sum(size for name, size in sizes.items() if name.startswith("align."))  # another such layer for s
    assert sum(sizes.values()) - graphs + unused == official


def test_losses_are_those_of_the_paper() -> None:
    method, out, batch = labelled(lambda_graph=0.3, lambda_decoupling=0.7, lambda_margin=0.2)
    terms = method.loss(out, batch)
    x = {name: value.detach().double().numpy() for name, value in out.aux.items()}
    y = batch.labels.double().numpy()[:, None]

    def graph(space: str) -> float:
        edges, p, total = x[f"{space}_edges"], prior(space), 0.0
        for k, (student, teacher) in enumerate(PAIRS):
            j, i = LETTERS[student], LETTERS[teacher]
            weight = edges[:, k] + p[k]
            total += 10 * (edges[:, k].mean() - p[k]) ** 2
            total += (weight * np.abs(x[f"{space}_logits"][:, j] - x[f"{space}_logits"][:, i])[:, 0]).mean()
            if space == "hetero":
                a, b = x["hetero_reprs"][:, j], x["hetero_reprs"][:, i]
                cosine = (a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)
                total += 10 * weight.mean() * np.maximum(cosine, 0).mean()
        return total

    def mse(a: str, b: str) -> float:
        return sum(((x[f"{a}_{m}"] - x[f"{b}_{m}"]) ** 2).mean() for m in ORDER)

    logits = [*x["homo_logits"].transpose(1, 0, 2), *x["hetero_logits"].transpose(1, 0, 2), x["common_logits"]]
    expected = {
        "task": np.abs(out.pred.numpy() - y[:, 0]).mean(),
        "heads": sum(np.abs(logit - y).mean() for logit in logits),
        "graph_homo": 0.3 * graph("homo"),
        "graph_hetero": 0.3 * graph("hetero"),
        "recon": 0.7 * mse("recon", "projected"),
        "cycle": 0.7 * mse("cycle", "private"),
    }
    found = {name: term.item() for name, term in terms.items()}
    assert {name: found[name] for name in expected} == pytest.approx(expected, abs=1e-5)
    assert found.keys() - expected.keys() == {"margin", "orth"}


def test_margin_compares_the_modalities_of_all_clips() -> None:
    """Aligned vectors of a clip point its way in all modalities, and ways of different labels are orthogonal."""
    method, out, batch = labelled(4, lambda_decoupling=1.0, lambda_margin=0.5)
    batch.labels = torch.tensor([1.0, 2.0, 3.0, 4.0])
    out.aux["aligned"] = torch.eye(4)[:, None].expand(4, 3, 4)
    assert method.loss(out, batch)["margin"].item() == 0  # margins are at most 0.45, cosines 1 and 0
    batch.labels = 10 * batch.labels
    # Anchors at the ends have negatives at 10, 20 and 30, those between at 10, 10 and 20; 1.5 a step of 10.
    expected = 0.5 * ((0.5 + 2.0 + 3.5) / 3 + (0.5 + 0.5 + 2.0) / 3) / 2
    assert method.loss(out, batch)["margin"].item() == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("orth", ["frames", "official"])
def test_private_and_common_parts_shall_not_share_directions(orth: str) -> None:
    method, out, batch = labelled(orth=orth, lambda_decoupling=1.0, lambda_margin=1.0)
    expected = 0.0
    for m in ORDER:
        s, c = (out.aux[f"{name}_{m}"].detach().double() for name in ("private", "common"))
        axis = 2 if orth == "frames" else 0
        expected += F.cosine_similarity(s, c, dim=axis).clamp(min=0).mean().item()
    assert method.loss(out, batch)["orth"].item() == pytest.approx(expected, abs=1e-5)


def test_students_learn_and_teachers_do_not() -> None:
    """With all weight on one edge, only its student moves, towards the teacher's logit and away from its direction."""
    method, out, _ = labelled()
    graph = method.graph_hetero
    graph.prior = torch.zeros(6)
    edges = torch.eye(6)[PAIRS.index("av")].expand(5, 6)
    logits, reprs = (out.aux[f"hetero_{name}"] for name in ("logits", "reprs"))
    graph.of_predictions(edges, logits).backward()
    student, teacher = LETTERS["a"], LETTERS["v"]
    assert torch.equal(logits.grad[:, student], (logits[:, student] - logits[:, teacher]).sign().detach() / 5)
    assert not logits.grad[:, [LETTERS["l"], teacher]].any()
    before = F.cosine_similarity(reprs[:, student], reprs[:, teacher], dim=1)
    term = graph.of_representations(edges, reprs)
    assert term.item() == pytest.approx(10 * before.clamp(min=0).mean().item(), abs=1e-5)
    term.backward()
    assert not reprs.grad[:, [LETTERS["l"], teacher]].any()
    moved = F.cosine_similarity(reprs[:, student] - reprs.grad[:, student], reprs[:, teacher], dim=1)
    assert (before > 0).any()
    assert (moved < before)[before > 0].all()


def test_edges_are_softmax_over_ordered_pairs_of_each_clip() -> None:
    graph = DMD(CASE.spec, **CASE.settings).graph_homo
    logits, reprs = numbers((4, 3, 1), 1), numbers((4, 3, 12), 2)
    with torch.no_grad():
        for parameter in graph.parameters():
            parameter.mul_(10)
        found = graph(logits, reprs)
        expected = []
        for student, teacher in PAIRS:
            codes = []
            for letter in (student, teacher):
                codes += [graph.of_logits(logits[:, LETTERS[letter]]), graph.of_reprs(reprs[:, LETTERS[letter]])]
            expected.append(graph.edge(torch.cat(codes, 1)) / 8)
    assert torch.allclose(found, torch.cat(expected, 1).softmax(1), atol=1e-6)
    assert found.std(0).min() > 1e-3
    np.testing.assert_allclose(graph.prior, prior("homo"), atol=1e-6)
    # The official values.
    assert prior("homo").max() == pytest.approx(0.4823, abs=1e-4)
    assert prior("hetero").max() == pytest.approx(0.3273, abs=1e-4)


def test_edges_get_gradient_from_both_losses_and_give_it_to_all_modalities() -> None:
    method = build(CASE)
    batch = replace(batch_of(CASE), labels=torch.tensor([1.0, 2.0, -1.0, 0.0]))
    terms = method.loss(method.training_forward(batch), batch)
    (terms["graph_homo"] + terms["graph_hetero"]).backward()
    for name in ("graph_homo.edge", "graph_hetero.of_reprs", "head_homo.text.proj1", "head_hetero.text.out_layer"):
        assert method.get_parameter(f"{name}.weight").grad.abs().max() > 1e-6


def test_training_predicts_what_evaluation_does() -> None:
    method, batch = build(CASE), batch_of(CASE)
    with torch.no_grad():
        plain, full = method(batch), method.training_forward(batch)
    assert torch.equal(plain.pred, full.pred)
    assert torch.equal(plain.representation, full.representation)
    assert not plain.aux


def test_parts_add_up() -> None:
    """What ``aux`` holds comes from the layers that it is said to come from."""
    method, batch = build(CASE), batch_of(CASE)
    with torch.no_grad():
        aux = method.training_forward(batch).aux
        for i, m in enumerate(ORDER):
            p, s, c = (aux[f"{name}_{m}"] for name in ("projected", "private", "common"))
            assert torch.allclose(c, p @ method.common.weight.T, atol=1e-6)
            assert torch.allclose(s, p @ method.private[m].weight.T, atol=1e-6)
            recon = torch.cat([s, c], dim=2) @ method.decode[m].weight.T
            assert torch.allclose(aux[f"recon_{m}"], recon, atol=1e-5)
            assert torch.allclose(aux[f"cycle_{m}"], recon @ method.private[m].weight.T, atol=1e-5)
            frames = c.flatten(1)
            assert torch.allclose(aux["aligned"][:, i], method.align[m](frames), atol=1e-5)
            inner = method.head_homo[m].proj1(frames).relu()
            assert torch.allclose(aux["homo_reprs"][:, i], inner, atol=1e-5)
            logit = method.head_homo[m].out_layer(frames + method.head_homo[m].proj2(inner))
            assert torch.allclose(aux["homo_logits"][:, i], logit, atol=1e-5)
            logit = method.head_hetero[m].out_layer(aux["hetero_reprs"][:, i])
            assert torch.allclose(aux["hetero_logits"][:, i], logit, atol=1e-5)


def test_a_removed_modality_has_no_frames_in_either_space() -> None:
    method, batch = build(CASE), batch_of(CASE)
    with torch.no_grad():
        aux = method.training_forward(batch).aux
    # The third clip has no vision.
    for name in ("projected", "private", "common", "recon", "cycle"):
        assert not aux[f"{name}_vision"][2].any()
        assert aux[f"{name}_vision"][0].any()


def test_gates_replace_the_features() -> None:
    """A gate is a sigmoid: shifted far enough, it is 1 whatever the clip."""
    method, batch = build(CASE), batch_of(CASE)
    with torch.no_grad():
        for gate in (*method.gate.values(), method.gate_common):
            gate.bias.fill_(1e4)
        out = method(batch)
    assert torch.equal(out.representation, torch.ones(4, 9 * 12))
    assert out.pred.std() < 1e-6


def test_emotions_have_losses_over_all_logits() -> None:
    spec: DataSpec = replace(CASE, task="emotions").spec
    method = DMD(spec, **CASE.settings).eval()
    labels: Tensor = torch.tensor([[1, 0, 0, 0], [1, 0, 0, 0], [0, 1, 1, 0], [0, 0, 0, 0]])
    batch = replace(batch_of(CASE), labels=labels)
    out = method.training_forward(batch)
    terms = method.loss(out, batch)
    assert out.aux["homo_logits"].shape == (4, 3, 8)
    heads = [out.aux[f"{space}_logits"][:, i] for space in ("homo", "hetero") for i in range(3)]
    expected = sum(
        F.cross_entropy(logits.reshape(-1, 2), labels.reshape(-1)) for logits in (*heads, out.aux["common_logits"])
    )
    assert terms["heads"].item() == pytest.approx(expected.item(), abs=1e-5)
    assert terms["margin"].item() > 0


def test_unknown_orth_is_refused() -> None:
    with pytest.raises(MSABenchError, match="orth"):
        DMD(CASE.spec, **CASE.settings, orth="nonsense")
