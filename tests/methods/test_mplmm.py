"""MPLMM: what generates, what is told, what each stage trains, and stacks from elsewhere."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from msabench.data.batch import Batch
from msabench.data.info import DataSpec
from msabench.errors import MSABenchError
from msabench.methods.checkpoint import load_checkpoint
from msabench.methods.mplmm import MPLMM
from msabench.methods.mult import MulT
from msabench.missingness.conditions import MODALITIES, Cell
from msabench.missingness.config import MissingConfig
from msabench.testing.corpora import data_module, quiet_trainer, random_corpus
from msabench.testing.subject import predict
from tests.support.golden_cases import CASES, assert_as_kept, fill
from tests.support.saved_checkpoints import saved

DIMS = {"text": 6, "audio": 3, "vision": 4}
STEPS = {"text": 5, "audio": 11, "vision": 8}
SPEC = DataSpec(DIMS, STEPS, task="regression", metric_set="sentiment")
SUBSETS = ("l", "a", "v", "la", "lv", "av", "lav")
LETTERS = dict(zip("lav", MODALITIES, strict=True))
SMALL: dict[str, Any] = {"dim": 8, "heads": 2, "layers": 1, "tokens": 3, "pretrain_epochs": 1}


def made(stage: str = "prompts", spec: DataSpec = SPEC, **arguments: Any) -> MPLMM:
    method = MPLMM(spec, **{**SMALL, **arguments})
    fill(method)
    method.enter_stage(stage)
    return method.eval()


def clips(*subsets: str, seed: int = 0) -> Batch:
    """A clip for each subset, its observed frames random; a modality that is there may have lost its first frame."""
    n, generator = len(subsets), torch.Generator().manual_seed(seed)
    features, observed = {}, {}
    for letter, m in LETTERS.items():
        seen = torch.ones(n, STEPS[m], dtype=torch.bool)
        seen[::2, 0] = False
        seen &= torch.tensor([letter in subset for subset in subsets])[:, None]
        features[m] = torch.randn(n, STEPS[m], DIMS[m], generator=generator) * seen.unsqueeze(2)
        observed[m] = seen
    valid = {m: torch.ones_like(mask) for m, mask in observed.items()}
    last = {m: torch.full((n,), STEPS[m] - 1) for m in MODALITIES}
    return Batch(features, valid, observed, last, labels=torch.linspace(-2, 2, n))


def sequences(method: MPLMM, batch: Batch) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """What enters the stacks."""
    taken: list[Any] = []
    hook = method.stacks.register_forward_pre_hook(lambda _, inputs: taken.append(inputs))
    with torch.no_grad():
        method(batch)
    hook.remove()
    return taken[0]


@pytest.mark.parametrize("name", [name for name in CASES if name.startswith("mplmm")])
def test_outputs_are_those_of_the_official_code(name: str) -> None:
    assert_as_kept(name)


@pytest.mark.parametrize("subset", SUBSETS)
def test_what_is_missing_is_generated_from_what_is_there(subset: str) -> None:
    method, batch = made(), clips(subset, "lav", subset)
    h, _ = sequences(method, batch)
    state = method.state_dict()
    for column, (letter, m) in enumerate(LETTERS.items()):
        x = batch.features[m][0]
        if letter in subset:
            expected = x @ state[f"project.{m}.weight"].T + state[f"signal_there.{m}"]
        else:
            sources = [q for other, q in LETTERS.items() if other in subset]
            parts = [state["generate.prompts"][column]]
            for q in sources:
                linear = f"generate.translate.{m}_from_{q}"
                parts.append(F.gelu(batch.features[q][0] @ state[f"{linear}.weight"].T + state[f"{linear}.bias"]))
            over = f"generate.over_time.{m}_from_{'_'.join(sources)}"
            steps = torch.einsum("ts,sd->td", state[f"{over}.weight"], torch.cat(parts))
            expected = F.gelu(steps + state[f"{over}.bias"][:, None]) + state[f"signal_missing.{m}"]
        torch.testing.assert_close(h[m][0], expected, atol=1e-5, rtol=1e-5)


def test_a_clip_without_anything_is_its_missing_signals() -> None:
    method = made()
    h, _ = sequences(method, clips("", "la"))
    for m in MODALITIES:
        assert torch.equal(h[m][0], method.signal_missing[m])


@pytest.mark.parametrize("subset", SUBSETS)
def test_nothing_is_read_of_a_missing_modality(subset: str) -> None:
    method, batch = made(type_prompts="live"), clips(subset, subset)
    gone = [m for letter, m in LETTERS.items() if letter not in subset]
    poisoned = replace(batch, features={**batch.features, **{m: batch.features[m] + torch.nan for m in gone}})
    with torch.no_grad():
        assert torch.equal(method(poisoned).pred, method(batch).pred)


def test_released_type_prompts_are_steps_of_zeros_and_hold_no_weights() -> None:
    method = made()
    _, types = sequences(method, clips("l", "av"))
    assert {m: tuple(value.shape) for m, value in types.items()} == dict.fromkeys(MODALITIES, (2, 3, 16))
    assert not any(value.any() for value in types.values())
    assert not any(name.startswith("types") for name in method.state_dict())


def test_live_type_prompts_say_what_is_missing() -> None:
    method, (one, other) = made(type_prompts="live"), ("lv", "a")
    _, types = sequences(method, clips(one, other, one))
    assert torch.equal(types["text"][0], types["text"][2])
    state = method.state_dict()
    for row, subset in enumerate((one, other)):
        M = sum(
            state[f"signal_{'there' if letter in subset else 'missing'}.{m}"].T @ state[f"types.Q.{m}"]
            for letter, m in LETTERS.items()
        )
        for m in MODALITIES:
            torch.testing.assert_close(types[m][row], state[f"types.T.{m}"] @ M, atol=1e-5, rtol=1e-5)


def test_live_type_prompts_learn_from_the_second_step_on() -> None:
    torch.manual_seed(0)
    method = MPLMM(SPEC, **SMALL, type_prompts="live").train()
    method.enter_stage("prompts")
    optimizer = torch.optim.Adam(method.param_groups(), lr=1e-2)
    batch, moved = clips(*SUBSETS), []
    before = {name: value.clone() for name, value in method.types.state_dict().items()}
    for _ in range(3):
        optimizer.zero_grad()
        method.loss(method.training_forward(batch), batch)["task"].backward()
        optimizer.step()
        moved.append(
            {name[0] for name, value in method.types.state_dict().items() if not torch.equal(value, before[name])}
        )
    # s = 0 keeps Q where it is in the first step, and Q = 0 T in the second.
    assert moved == [set(), {"Q"}, {"Q", "T"}]


def test_the_first_stage_is_mult_on_complete_clips() -> None:
    method = made("pretrain", layers=2)
    mult = MulT(SPEC, dim=8, heads=2, layers=2).eval()
    state = {name.removeprefix("stacks."): v for name, v in method.state_dict().items() if name.startswith("stacks.")}
    ends = {name.removeprefix("pretraining."): v for name, v in method.state_dict().items() if "pretraining" in name}
    mult.load_state_dict(state | ends)
    batch = replace(clips("l", "a", "av"), complete=clips("lav", "lav", "lav", seed=1))
    with torch.no_grad():
        assert torch.equal(method.training_forward(batch).pred, mult(batch.complete).pred)
        assert torch.equal(method(batch).pred, mult(batch).pred)
    with pytest.raises(MSABenchError, match="no complete version"):
        method.training_forward(clips("l"))


def trained_and_reached(method: MPLMM) -> set[str]:
    """Parameters that the stage trains, each of which a batch of all subsets reaches."""
    batch = replace(clips(*SUBSETS), complete=clips(*["lav"] * 7))
    method.train()
    method.loss(method.training_forward(batch), batch)["task"].backward()
    served = {id(p) for group in method.param_groups() for p in group["params"]}
    reached = {name for name, p in method.named_parameters() if p.grad is not None and p.grad.any()}
    assert reached == {name for name, p in method.named_parameters() if id(p) in served}
    return {name.split(".")[0] for name in reached}


def test_each_stage_trains_its_own() -> None:
    assert trained_and_reached(made("pretrain")) == {"stacks", "pretraining"}
    assert trained_and_reached(made("prompts")) == {
        "generate",
        "project",
        "signal_there",
        "signal_missing",
        "out_layer",
    }


def test_frozen_stacks_keep_their_dropouts() -> None:
    method = made().train()
    assert not any(p.requires_grad for p in method.stacks.parameters())
    h, types = ({m: torch.randn(2, t, d) for m, t in STEPS.items()} for d in (8, 16))
    assert not torch.equal(method.stacks(h, types)[0], method.stacks(h, types)[0])


def test_numbers_of_weights_are_the_official_ones() -> None:
    """On CMU-MOSI of MulT's files: all but the prompts that never move, and what the first stage keeps for itself."""
    aligned = DataSpec({"text": 300, "audio": 5, "vision": 20}, dict.fromkeys(MODALITIES, 50))
    method = MPLMM(aligned)
    method.enter_stage("prompts")
    trained = sum(p.numel() for p in method.parameters() if p.requires_grad)
    assert trained == 88_141 - 10_440
    assert sum(p.numel() for p in method.stacks.parameters()) == 1_061_280
    assert sum(p.numel() for p in (*method.stacks.parameters(), *method.pretraining.parameters())) == 1_071_211
    live = MPLMM(aligned, type_prompts="live")
    live.enter_stage("prompts")
    assert sum(p.numel() for p in live.parameters() if p.requires_grad) == 88_141


def test_drop_rate_makes_the_official_draws_of_whole_clips_in_training_alone() -> None:
    method, taken = made(drop_rate=0.7), []
    method.generate.register_forward_pre_hook(lambda _, inputs: taken.append(inputs[1]))
    many = clips(*["lav"] * 6000)
    torch.manual_seed(0)
    with torch.no_grad():
        method.training_forward(many)
        method(many)
        method.training_forward(clips("la", "v"))
    drawn, evaluated, incomplete = (torch.stack(list(there.values()), 1) for there in taken)
    shares = {}
    for row in drawn.tolist():
        shares[tuple(row)] = shares.get(tuple(row), 0) + 1 / len(drawn)
    assert shares.pop((True, True, True)) == pytest.approx(0.3, abs=0.02)
    assert len(shares) == 6
    assert all(share == pytest.approx(0.7 / 6, abs=0.015) for share in shares.values())
    assert evaluated.all()
    assert incomplete.tolist() == [[True, True, False], [False, False, True]]


def test_emotions_have_eight_outputs() -> None:
    spec = replace(SPEC, task="emotions", metric_set="emotions")
    assert made(spec=spec)(clips("l", "av")).pred.shape == (2, 4, 2)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"type_prompts": "dead"}, "type_prompts"),
        ({"drop_rate": 1.1}, "drop_rate 1.1 is not allowed; give a share from 0 to 1"),
        ({"pretrain_epochs": 0}, "pretrain_epochs 0, tokens 16 and layers 5 must all be at least 1"),
        ({"dim": 30, "heads": 4}, "dim 30 cannot be shared by 4 heads"),
    ],
)
def test_bad_arguments_are_refused(arguments: dict[str, Any], said: str) -> None:
    with pytest.raises(MSABenchError, match=said):
        MPLMM(SPEC, **arguments)


def stacks_of(method: MPLMM) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in method.stacks.state_dict().items()}


def test_stacks_of_another_corpus_are_taken_and_stay(tmp_path: Path) -> None:
    elsewhere = data_module(random_corpus(steps=STEPS, dims=DIMS))
    theirs = saved(tmp_path / "pretrain.ckpt", "mplmm", elsewhere)
    data = data_module(random_corpus(seed=1), batch_size=12, missing=MissingConfig(regime="inter"))
    smoke = {**MPLMM.info.smoke, "backbone": str(tmp_path / "pretrain.ckpt")}
    torch.manual_seed(1)
    method = MPLMM(data.spec, **smoke)
    assert method.stages == ("prompts",)
    assert method.pretraining is None
    before = {name: value.clone() for name, value in method.state_dict().items() if not name.startswith("stacks")}
    trainer = quiet_trainer(tmp_path, 2)
    trainer.fit(method, datamodule=data)
    found, expected = stacks_of(method), stacks_of(theirs)
    assert all(torch.equal(found[name], value) for name, value in expected.items())
    assert not torch.equal(method.generate.prompts, before["generate.prompts"])
    # Who has the checkpoint needs the other no more.
    trainer.save_checkpoint(tmp_path / "best.ckpt")
    (tmp_path / "pretrain.ckpt").unlink()
    loaded, _ = load_checkpoint(tmp_path / "best.ckpt")
    assert torch.equal(predict(loaded, data, Cell("a")), predict(method, data, Cell("a")))
    with pytest.raises(MSABenchError, match=r"there is no backbone .*pretrain\.ckpt; give a checkpoint of mplmm"):
        quiet_trainer(tmp_path, 1).fit(MPLMM(data.spec, **smoke), datamodule=data)


@pytest.mark.parametrize(
    ("method", "arguments", "said"),
    [
        ("mult", {}, "is of mult version 1; give a checkpoint of mplmm version 1"),
        ("mplmm", {"heads": 4}, "has heads 4, the config says 2; give the same"),
        ("mplmm", {"dim": 12}, "has dim 12, the config says 8; give the same"),
        ("mplmm", {"layers": 2}, "has layers 2, the config says 1; give the same"),
    ],
)
def test_stacks_that_do_not_fit_are_refused(method: str, arguments: dict[str, Any], said: str, tmp_path: Path) -> None:
    data = data_module(random_corpus(), batch_size=12)
    saved(tmp_path / "best.ckpt", method, data, **arguments)
    ours = MPLMM(data.spec, **{**MPLMM.info.smoke, "backbone": str(tmp_path / "best.ckpt")})
    with pytest.raises(MSABenchError, match=said):
        quiet_trainer(tmp_path, 1).fit(ours, datamodule=data)


def test_a_backbone_that_could_run_code_is_not_loaded(tmp_path: Path) -> None:
    data = data_module(random_corpus(), batch_size=12)
    torch.save({"state_dict": MPLMM(data.spec, **MPLMM.info.smoke)}, tmp_path / "theirs.pt")
    ours = MPLMM(data.spec, **{**MPLMM.info.smoke, "backbone": str(tmp_path / "theirs.pt")})
    with pytest.raises(MSABenchError, match="is not a checkpoint of msabench"):
        quiet_trainer(tmp_path, 1).fit(ours, datamodule=data)
