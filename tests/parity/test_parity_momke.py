"""MoMKE against its official code.

MSABENCH_PARITY_MOMKE: clone of https://github.com/wxxv/MoMKE (2dceb57)
"""

from __future__ import annotations

import importlib
import itertools
import re
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from msabench.data.batch import Batch
from msabench.methods.momke import MoMKE
from msabench.missingness.conditions import MODALITIES, SUBSETS
from msabench.training.config_files import config_of
from tests.parity.clones import clone, importing
from tests.support.golden_cases import CASES, Case, batch_of, fill, kept, numbers

CONFIGS = Path(__file__).parents[2] / "configs"
THEIRS = ("audio", "text", "vision")  # their order
SHAPES = {
    "golden": CASES["momke_official"],
    "golden_emotions": CASES["momke_official_emotions"],
    "sims": Case("momke", (768, 33, 709), (3, 4, 5), settings={"dim": 32, "layers": 4}, gain=0.7),
    "official": Case("momke", (1024, 512, 1024), (1, 1, 1), gain=0.5),
}
LENGTHS = (7, 4, 1)


@pytest.fixture(scope="module")
def official() -> Iterator[dict[str, ModuleType]]:
    with importing(clone("MSABENCH_PARITY_MOMKE") / "MoMKE"):
        yield {name: importlib.import_module(name) for name in ("model_expert_softmoe", "loss")}


def built(case: Case, stage: str) -> MoMKE:
    """Ours in a stage; nothing is frozen yet in the first one."""
    ours = MoMKE(case.spec, **case.settings).eval()
    fill(ours, case.gain)
    ours.enter_stage(stage)
    return ours


def made(official: dict[str, ModuleType], ours: MoMKE) -> Any:
    """The official model with our weights."""
    dim = ours.joint.out_features // 3
    dims = [ours.project[m].in_features for m in THEIRS]
    first = ours.experts["text"].layers[0]
    args = SimpleNamespace(device="cpu", drop_rate=0.5)
    theirs = official["model_expert_softmoe"].MoMKE(
        args,
        *dims,
        dim,
        ours.n_outputs,
        depth=len(ours.experts["text"].layers),
        num_heads=first.heads,
        mlp_ratio=1,
        drop_rate=0.5,
        attn_drop_rate=0.0,
    )
    state = {f"nlp_head.{key}": value for key, value in ours.predict.state_dict().items()}
    order = torch.cat([torch.arange(dim) + dim * MODALITIES.index(m) for m in THEIRS])
    state["nlp_head.weight"] = state["nlp_head.weight"][:, order]
    state["proj1.weight"] = ours.joint.weight[order][:, order]
    state["proj1.bias"] = ours.joint.bias[order]
    of_experts = torch.tensor([MODALITIES.index(m) for m in THEIRS])
    for m in THEIRS:
        state |= {f"{m[0]}_in_proj.0.{key}": value for key, value in ours.project[m].state_dict().items()}
        state |= {f"nlp_head_{m[0]}.{key}": value for key, value in ours.unimodal[m].state_dict().items()}
        gate = ours.gates[m]
        for key in ("weight", "bias"):
            state[f"router_{m[0]}.fc1.{key}"] = getattr(gate[0], key)
            state[f"router_{m[0]}.fc2.{key}"] = getattr(gate[3], key)[of_experts]
        for i, layer in enumerate(ours.experts[m].layers):
            there = f"block.blocks.{i}.Transformer_{m[0]}."
            for key in ("weight", "bias"):
                for part, value in zip("qkv", getattr(layer.qkv, key).chunk(3), strict=True):
                    state[f"{there}{part}.{key}"] = value
                state[f"{there}mlp.fc1.{key}"] = getattr(layer.perceptron[0], key)
                state[f"{there}mlp.fc2.{key}"] = getattr(layer.perceptron[3], key)
    theirs.load_state_dict(state)
    return theirs.eval()


def conversations(case: Case, present: Tensor) -> Batch:
    """Conversations of 7, 4 and 1 clips, in no order; ``present`` is bool ``(12, 3)``, by our order of modalities."""
    rows, steps = sum(LENGTHS), case.spec.seq_lens
    valid = {m: torch.ones(rows, steps[m], dtype=torch.bool) for m in MODALITIES}
    observed = {m: valid[m] & present[:, [i]] for i, m in enumerate(MODALITIES)}
    features = {
        m: numbers((rows, steps[m], case.spec.feature_dims[m]), key) * 3 * observed[m].unsqueeze(2)
        for key, m in enumerate(MODALITIES, start=31)
    }
    shuffled = torch.tensor([5, 0, 9, 11, 3, 7, 1, 10, 2, 8, 6, 4])
    number = torch.repeat_interleave(torch.arange(3), torch.tensor(LENGTHS))[shuffled]
    turn = torch.cat([torch.arange(length) for length in LENGTHS])[shuffled]
    last = {m: torch.full((rows,), steps[m] - 1) for m in MODALITIES}
    labels = numbers((rows,), 51) * 6
    if case.task == "emotions":
        labels = (numbers((rows, 4), 51) > 0).long()
    return Batch(features, valid, observed, last, labels=labels, conversation=number, turn=turn)


def placed(rows: Tensor, batch: Batch) -> Tensor:
    """``(B, ...)`` as their ``(C, U, ...)``, by hand."""
    assert batch.conversation is not None
    assert batch.turn is not None
    length = 1 + int(batch.turn.max())
    out = rows.new_zeros(int(batch.conversation.max()) + 1, length, *rows.shape[1:])
    for row, c, u in zip(rows, batch.conversation, batch.turn, strict=True):
        out[c, u] = row
    return out


def close(ours: Tensor, theirs: Tensor) -> float:
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=0)
    return float((ours - theirs).abs().max())


def run_theirs(theirs: Any, batch: Batch, first_stage: bool) -> tuple[Any, ...]:
    """Their outputs; what remains of a clip is averaged by hand, and the flags say what is there."""
    counts = {m: batch.observed[m].sum(1, keepdim=True).clamp(min=1) for m in THEIRS}
    vectors = torch.cat([batch.features[m].sum(1) / counts[m] for m in THEIRS], dim=1)
    flags = torch.stack([batch.observed[m].any(1) for m in THEIRS], dim=1).long()
    umask = placed(torch.ones(len(flags)), batch)
    return theirs(
        placed(vectors, batch).transpose(0, 1), placed(flags, batch).transpose(0, 1), umask, first_stage=first_stage
    )


def flags_of(pattern: str) -> Tensor:
    if pattern == "random":
        return numbers((sum(LENGTHS), 3), 77) > -0.2
    return torch.tensor([m[0] in pattern.replace("l", "t") for m in MODALITIES]).expand(sum(LENGTHS), 3)


@pytest.mark.parametrize("pattern", [*SUBSETS, "random"])
@pytest.mark.parametrize("stage", ["experts", "mixing"])
@pytest.mark.parametrize("shape", SHAPES)
def test_outputs_features_gates_and_losses_are_the_same(
    official: dict[str, ModuleType], shape: str, stage: str, pattern: str
) -> None:
    case = SHAPES[shape]
    ours = built(case, stage)
    theirs = made(official, ours)
    batch = conversations(case, flags_of(pattern))
    gates: dict[str, Tensor] = {}
    for m in MODALITIES:
        ours.gates[m].register_forward_hook(lambda _, __, out, m=m: gates.__setitem__(m, out.softmax(1)))
    out = ours(batch)
    hidden, logits, *unimodal, their_gates = run_theirs(theirs, batch, stage == "experts")
    at = (batch.conversation, batch.turn)
    dim = ours.joint.out_features // 3
    order = torch.cat([torch.arange(dim) + dim * MODALITIES.index(m) for m in THEIRS])
    print(f"hidden {close(out.representation[:, order], hidden[at]):.1e}", end=" ")
    print(f"out {close(out.pred, ours.to_pred(logits[at])):.1e}", end=" ")
    assert set(out.unimodal) == (set(MODALITIES) if stage == "experts" else set())
    terms, umask = ours.loss(out, batch), placed(torch.ones(len(batch.turn)), batch)
    scores = dict(zip(THEIRS, unimodal, strict=True)) if stage == "experts" else {"task": logits}
    for name, score in scores.items():
        if stage == "experts":
            print(f"{name} {close(out.unimodal[name], ours.to_pred(score[at])):.1e}", end=" ")
        if case.task == "emotions":  # their classes exclude one another: asked one question at a time
            losses = []
            for question, answers in zip(score.split(2, dim=2), batch.labels.unbind(1), strict=True):
                target = placed(answers.float(), batch).view(-1)
                losses.append(official["loss"].MaskedCELoss()(question.reshape(-1, 2), target, umask))
            loss = torch.stack(losses).mean()
        else:
            loss = official["loss"].MaskedMSELoss()(score.reshape(-1), placed(batch.labels, batch).view(-1), umask)
        print(f"loss {close(terms[name], loss):.1e}", end=" ")
    if stage == "mixing":
        for m, there in zip(THEIRS, torch.from_numpy(their_gates)[0], strict=True):
            experts = [THEIRS.index(e) for e in MODALITIES]
            close(gates[m].detach(), there[at][:, experts])
    torch.stack(list(terms.values())).sum().backward()


@pytest.mark.parametrize("stage", ["experts", "mixing"])
def test_gradients_are_the_same_and_reach_the_same_parts(official: dict[str, ModuleType], stage: str) -> None:
    case = SHAPES["sims"]
    ours = built(case, stage)
    theirs = made(official, ours)
    batch = conversations(case, flags_of("random"))
    terms = ours.loss(ours(batch), batch)
    torch.stack(list(terms.values())).sum().backward()
    _, logits, *unimodal, _ = run_theirs(theirs, batch, stage == "experts")
    umask, target = placed(torch.ones(len(batch.turn)), batch), placed(batch.labels, batch).view(-1)
    for score in unimodal if stage == "experts" else [logits]:
        official["loss"].MaskedMSELoss()(score.reshape(-1), target, umask).backward()
    pairs: list[tuple[nn.Module, nn.Module]] = [(ours.predict, theirs.nlp_head), (ours.joint, theirs.proj1)]
    for m in MODALITIES:
        pairs += [(ours.project[m], getattr(theirs, f"{m[0]}_in_proj")[0])]
        pairs += [(ours.unimodal[m], getattr(theirs, f"nlp_head_{m[0]}"))]
        pairs += [(ours.gates[m][0], getattr(theirs, f"router_{m[0]}").fc1)]
        for i, layer in enumerate(ours.experts[m].layers):
            there = getattr(theirs.block.blocks[i], f"Transformer_{m[0]}")
            pairs += [(layer.perceptron[0], there.mlp.fc1), (layer.perceptron[3], there.mlp.fc2)]
            if layer.qkv.weight.grad is not None:
                close(layer.qkv.weight.grad, torch.cat([getattr(there, part).weight.grad for part in "qkv"]))
    for mine, other in pairs:
        assert (mine.bias.grad is None) == (other.bias.grad is None)
        if mine.bias.grad is not None:
            close(mine.bias.grad, other.bias.grad if mine is not ours.joint else _ours(other.bias.grad))


def _ours(joint: Tensor) -> Tensor:
    """A gradient of their joint layer's outputs in our order of modalities."""
    parts = dict(zip(THEIRS, joint.chunk(3), strict=True))
    return torch.cat([parts[m] for m in MODALITIES])


@pytest.mark.parametrize("name", ["momke_official", "momke_official_emotions"])
def test_kept_vectors_are_those_of_the_official_code(official: dict[str, ModuleType], name: str) -> None:
    ours, batch = built(CASES[name], "mixing"), batch_of(CASES[name])
    theirs = made(official, ours)
    with torch.no_grad():
        logits = run_theirs(theirs, batch, first_stage=False)[1]
    close(kept(name)["pred"], ours.to_pred(logits[batch.conversation, batch.turn]))


def test_configs_are_the_published_commands() -> None:
    """Of every command: sizes, rates, epochs; one command for each of the seven conditions."""
    folder = clone("MSABENCH_PARITY_MOMKE")
    text = (folder / "MoMKE/train_MoMKE.py").read_text(encoding="utf-8")
    assert re.search(r"'--l2', type=float, default=0.00001", text)
    files = {"mosi": "run_MoMKE_cmumosi.sh", "mosei": "run_MoMKE_cmumosei.sh", "iemocap": "run_MoMKE_iemocap4.sh"}
    for dataset, file in files.items():
        config = config_of(CONFIGS / f"momke_{dataset}.yaml")
        init = config["model"]["init_args"]
        commands = [
            dict(re.findall(r"--([\w-]+)=(\S+)", line))
            for line in (folder / file).read_text(encoding="utf-8").splitlines()
            if line.startswith("python")
        ]
        letters = ("a", "t", "v")
        subsets = {"".join(s) for n in (1, 2, 3) for s in itertools.combinations(letters, n)}
        assert {command["test_condition"] for command in commands} == subsets
        for command in commands:
            assert float(command["lr"]) == init["lr"]
            assert (int(command["hidden"]), int(command["depth"])) == (init["dim"], init["layers"])
            assert int(command["num_heads"]) == init["heads"]
            assert float(command["drop_rate"]) == init["dropout"]
            assert float(command["attn_drop_rate"]) == 0
            assert int(command["batch-size"]) == config["data"]["batch_size"]
            assert int(command["epoch"]) == config["trainer"]["max_epochs"]
            assert int(command["stage_epoch"]) == init["experts_epochs"]
        assert init["weight_decay"] == 1e-5


def test_size_is_the_official_one(official: dict[str, ModuleType]) -> None:
    ours = built(SHAPES["official"], "experts")
    theirs = made(official, ours)
    sizes = [sum(p.numel() for p in module.parameters()) for module in (ours, theirs)]
    assert sizes == [5_395_469] * 2
