"""MPLMM against its official code.

MSABENCH_PARITY_MPLMM: clone of https://github.com/zrguo/MPLMM (c6f8d18)
"""

from __future__ import annotations

import ast
import importlib
import inspect
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from msabench.data.batch import Batch
from msabench.methods.base import MSAMethod, Output
from msabench.methods.mplmm import MPLMM
from msabench.missingness.conditions import MODALITIES
from msabench.missingness.config import MissingConfig
from msabench.testing.corpora import data_module, quiet_trainer, random_corpus
from msabench.training.config_files import config_of
from tests.parity.clones import clone, importing
from tests.support.golden_cases import CASES, Case, batch_of, build, fill, kept, numbers

LETTERS = dict(zip(MODALITIES, "lav", strict=True))
MODES = (("text",), ("audio",), ("vision",), ("text", "audio"), ("text", "vision"), ("audio", "vision"), ())
"""What is missing in each of their modes."""
DEAD = ("missing_type_prompt", "m_l", "m_a", "m_v")
"""Theirs alone where the type prompts are as released."""
CASE = CASES["mplmm_official"]
CONFIGS = Path(__file__).parents[2] / "configs"
OFFICIAL_NAMES = {
    "pretrain_epochs": "num_epochs",
    "tokens": "prompt_length",
    "dim": "proj_dim",
    "heads": "num_heads",
    "layers": "nlevels",
    "dropout_text": "embed_dropout",
    "attn_dropout_text": "attn_dropout",
    "attn_dropout_audio": "attn_dropout_a",
    "attn_dropout_vision": "attn_dropout_v",
    **{name: name for name in ("relu_dropout", "embed_dropout", "res_dropout", "out_dropout", "lr")},
    "lr_patience": "when",
}
UNALIGNED = replace(CASE, dims=(12, 5, 7), steps=(6, 13, 11))
LIVE = {
    "unaligned": UNALIGNED,
    "aligned": replace(UNALIGNED, steps=(9, 9, 9)),
    "emotions": replace(UNALIGNED, task="emotions"),
    "projects_where_widths_agree": replace(UNALIGNED, dims=(8, 8, 8)),
}


@pytest.fixture
def official(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """Their model and training modules."""
    with importing(clone("MSABENCH_PARITY_MPLMM")):
        for name in ("mosidata", "iemodata", "simsdata"):  # their readers ask for packages that nothing here needs
            module = ModuleType(f"src.{name}")
            module.MOSIData = module.IEMOData = module.SIMSData = None  # type: ignore[attr-defined]
            monkeypatch.setitem(sys.modules, f"src.{name}", module)
        return SimpleNamespace(model=importlib.import_module("src.model"), train=importlib.import_module("src.train"))


def hyper_parameters(case: Case, dropout: float = 0.0) -> SimpleNamespace:
    names = ("attn_dropout", "attn_dropout_a", "attn_dropout_v", "relu_dropout", "res_dropout", "out_dropout")
    dim = case.settings["dim"]
    return SimpleNamespace(
        **dict.fromkeys((*names, "embed_dropout"), dropout),
        **{f"orig_d_{letter}": size for letter, size in zip("lav", case.dims, strict=True)},
        proj_dim=dim,
        prompt_dim=dim,
        prompt_length=case.settings["tokens"],
        num_heads=case.settings["heads"],
        layers=case.settings["layers"],
        attn_mask=True,
        seq_len=case.steps,
        output_dim=8 if case.task == "emotions" else 1,
    )


def their_stacks(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Our stacks, by their names."""
    found = {}
    for name, value in state.items():
        name = name.removeprefix("stacks.")
        for m, letter in LETTERS.items():
            name = name.replace(f"memory.{m}.", f"trans_{letter}_mem.")
            for q, other in LETTERS.items():
                name = name.replace(f"cross.{m}_from_{q}.", f"trans_{letter}_with_{other}.")
        found[name] = value
    return found


def their_names(ours: MSAMethod) -> dict[str, Tensor]:
    """All weights of the second stage by their names, in their shapes."""
    state = ours.state_dict()
    found = their_stacks({name: value for name, value in state.items() if name.startswith("stacks.")})
    found["generative_prompt"] = state["generate.prompts"].transpose(1, 2)
    for m, letter in LETTERS.items():
        found[f"proj_{letter}.weight"] = state[f"project.{m}.weight"].unsqueeze(2)
        found[f"prompt{letter}_m"] = state[f"signal_missing.{m}"].T
        found[f"prompt{letter}_nm"] = state[f"signal_there.{m}"].T
        for q, other in LETTERS.items():
            if q != m:
                linear = f"generate.translate.{m}_from_{q}"
                found[f"{other}2{letter}.conv.weight"] = state[f"{linear}.weight"].unsqueeze(2)
                found[f"{other}2{letter}.conv.bias"] = state[f"{linear}.bias"]
                found |= _over_time(state, f"{m}_from_{q}", f"{letter}_{other}p")
        first, second = (q for q in MODALITIES if q != m)
        both = {"l": "l_avp", "a": "a_lvp", "v": "v_alp"}[letter]
        found |= _over_time(state, f"{m}_from_{first}_{second}", both)
        if f"types.Q.{m}" in state:
            found[f"m_{letter}"] = state[f"types.Q.{m}"]
    if any(name.startswith("types") for name in state):
        found["missing_type_prompt"] = torch.stack([state[f"types.T.{m}"] for m in MODALITIES])
    return found | {f"out_layer.{part}": state[f"out_layer.{part}"] for part in ("weight", "bias")}


def first_stage_names(ours: MSAMethod) -> dict[str, Tensor]:
    """All weights of the first stage by their names."""
    state = ours.state_dict()
    found = their_stacks({name: value for name, value in state.items() if name.startswith("stacks.")})
    found |= {f"proj_{letter}.weight": state[f"pretraining.project.{m}.conv.weight"] for m, letter in LETTERS.items()}
    return found | {f"out_layer.{part}": state[f"pretraining.out_layer.{part}"] for part in ("weight", "bias")}


def _over_time(state: dict[str, Tensor], ours: str, theirs: str) -> dict[str, Tensor]:
    linear = f"generate.over_time.{ours}"
    return {
        f"{theirs}.conv.weight": state[f"{linear}.weight"].unsqueeze(2),
        f"{theirs}.conv.bias": state[f"{linear}.bias"],
    }


def copy_into(theirs: nn.Module, state: dict[str, Tensor], without: tuple[str, ...] = ()) -> nn.Module:
    """Load weights that have a place each; what is left of theirs carries nothing."""
    missing, unexpected = theirs.load_state_dict(state, strict=False)
    assert not unexpected
    tables = ("version", "_float_tensor")
    assert {name for name in missing if not name.endswith(tables)} == set(without)
    return theirs.eval()


def with_prompts(official: SimpleNamespace, case: Case, ours: MSAMethod, dropout: float = 0.0) -> nn.Module:
    dead = () if case.settings.get("type_prompts") == "live" else DEAD
    return copy_into(official.model.PromptModel(hyper_parameters(case, dropout)), their_names(ours), dead)


def without_dropout(case: Case) -> Case:
    rates = {name: 0.0 for name in MPLMM.__init__.__kwdefaults__ if "dropout" in name}
    return replace(case, settings={**rates, **case.settings})


def clips(case: Case) -> tuple[Batch, list[int]]:
    """Two clips of each mode, with content in every modality, of which the missing ones are only marked; padded."""
    modes = [*range(7), *reversed(range(7))]
    features, valid, observed = {}, {}, {}
    for key, m in enumerate(MODALITIES, start=101):
        steps = case.spec.seq_lens[m]
        length = 1 + (torch.arange(14) * 5) % steps
        exists = torch.arange(steps) < length[:, None]
        gone = torch.tensor([m in MODES[mode] for mode in modes])
        features[m] = numbers((14, steps, case.spec.feature_dims[m]), key) * 3 * exists.unsqueeze(2)
        valid[m], observed[m] = exists, exists & ~gone[:, None]
    last = {m: torch.full((14,), case.spec.seq_lens[m] - 1) for m in MODALITIES}
    labels = torch.linspace(-3, 3, 14)
    if case.task == "emotions":
        labels = torch.stack([labels > cut for cut in (-2, -1, 0, 1)], 1).long()
    return Batch(features, valid, observed, last, labels=labels), modes


def modes_of(batch: Batch) -> list[int]:
    gone = [tuple(m for m in MODALITIES if not batch.observed[m][row].any()) for row in range(batch.size)]
    return [MODES.index(missing) for missing in gone]


class Noted(nn.Module):
    """The inputs of a part of theirs, kept."""

    def __init__(self, part: nn.Module) -> None:
        super().__init__()
        self.part, self.inputs = part, []

    def forward(self, *inputs: Tensor) -> Tensor:
        self.inputs.append(inputs[0])
        return self.part(*inputs)


@pytest.mark.parametrize("name", [name for name in CASES if name.startswith("mplmm")])
def test_official_code_gives_the_numbers_that_are_kept(name: str, official: SimpleNamespace) -> None:
    case = CASES[name]
    batch = batch_of(case)
    theirs = with_prompts(official, case, build(case))
    joint = theirs.proj1 = Noted(theirs.proj1)
    with torch.no_grad():
        if name.endswith("released"):
            for part in DEAD:  # as their code leaves them
                assert not getattr(theirs, part).any()
        pred = theirs(batch.text, batch.audio, batch.vision, modes_of(batch))
    golden = kept(name)
    torch.testing.assert_close(golden["pred"].flatten(), pred.flatten(), atol=1e-5, rtol=0)
    torch.testing.assert_close(golden["representation"], joint.inputs[0], atol=1e-5, rtol=0)


@pytest.mark.parametrize("case", LIVE.values(), ids=LIVE)
def test_all_modes_in_one_batch_and_every_step_on_the_way(case: Case, official: SimpleNamespace) -> None:
    ours, (batch, modes) = build(case), clips(case)
    theirs = with_prompts(official, case, ours)
    first, memory = (
        Noted(theirs.trans_l_with_a),
        {m: Noted(getattr(theirs, f"trans_{LETTERS[m]}_mem")) for m in LETTERS},
    )
    theirs.trans_l_with_a, theirs.proj1 = first, Noted(theirs.proj1)
    crossed = {
        m: Noted(getattr(theirs, f"trans_{LETTERS[m]}_with_{LETTERS[q]}"))
        for m, q in (("audio", "text"), ("vision", "text"))
    }
    theirs.trans_a_with_l, theirs.trans_v_with_l = crossed["audio"], crossed["vision"]
    for m, part in memory.items():
        setattr(theirs, f"trans_{LETTERS[m]}_mem", part)
    taken: dict[str, Any] = {}
    ours.stacks.register_forward_pre_hook(lambda _, inputs: taken.update(h=inputs[0], types=inputs[1]))
    with torch.no_grad():
        out = ours(batch)
        expected = theirs(batch.text, batch.audio, batch.vision, modes)
    largest = 0.0
    pairs = [(out.pred.flatten(), expected.flatten()), (out.representation, theirs.proj1.inputs[0])]
    for m, part in zip(MODALITIES, (first, crossed["audio"], crossed["vision"]), strict=True):
        pairs += [(taken["h"][m], part.inputs[0].transpose(0, 1))]
        pairs += [(taken["types"][m], memory[m].inputs[0][-case.settings["tokens"] :].transpose(0, 1))]
    for found, official_value in pairs:
        assert found is not None
        torch.testing.assert_close(found, official_value, atol=1e-5, rtol=0)
        largest = max(largest, float((found - official_value).abs().max()))
    assert batch.labels is not None
    loss = ours.loss(out, batch)["task"]
    theirs_loss = (
        F.cross_entropy(expected.view(-1, 2), batch.labels.view(-1))
        if case.task == "emotions"
        else nn.L1Loss()(expected.squeeze(1), batch.labels)
    )
    torch.testing.assert_close(loss, theirs_loss, atol=1e-5, rtol=0)
    print(f"largest difference: {largest:.1e}")


def test_gradients_reach_the_same_weights_by_the_same_amounts(official: SimpleNamespace) -> None:
    case = without_dropout(UNALIGNED)
    ours, (batch, modes) = build(case).train(), clips(case)
    ours.enter_stage("prompts")
    theirs = with_prompts(official, case, ours).train()
    for name, parameter in theirs.named_parameters():
        parameter.requires_grad_(not name.startswith(("trans_", "proj1", "proj2")))
    ours.loss(ours.training_forward(batch), batch)["task"].backward()
    nn.L1Loss()(theirs(batch.text, batch.audio, batch.vision, modes).squeeze(1), batch.labels).backward()
    for parameter in ours.parameters():
        parameter.data = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
    found = their_names(ours)
    for name, parameter in theirs.named_parameters():
        expected = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
        torch.testing.assert_close(found[name], expected, atol=1e-5, rtol=1e-4)


def test_the_first_stage_is_their_model_without_prompts(official: SimpleNamespace) -> None:
    case = replace(UNALIGNED, settings={**UNALIGNED.settings, "backbone": None})
    ours, (batch, _) = MPLMM(case.spec, **case.settings).eval(), clips(case)
    fill(ours)
    assert ours.stage == "pretrain"
    theirs = copy_into(official.model.MULTModel(hyper_parameters(case)), first_stage_names(ours))
    with torch.no_grad():
        found = ours(batch).pred
        expected = theirs(batch.text, batch.audio, batch.vision).squeeze(1)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)


def test_what_they_freeze_is_what_we_freeze(official: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> None:
    """Their transfer between corpora of other sizes, and our second stage."""
    ours = build(CASE)
    other = replace(CASE, dims=(10, 4, 6), steps=(7, 8, 9))
    stacks = their_stacks({name: v for name, v in ours.state_dict().items() if name.startswith("stacks.")})
    pretrained = official.model.MULTModel(hyper_parameters(other))
    pretrained.load_state_dict(stacks, strict=False)
    monkeypatch.setattr(torch, "load", lambda path: pretrained)
    theirs = official.train.transfer_model(official.model.PromptModel(hyper_parameters(CASE)), "theirs.pt")
    frozen = {name for name, parameter in theirs.named_parameters() if not parameter.requires_grad}
    assert frozen == set(stacks)
    assert {n for n, p in ours.named_parameters() if not p.requires_grad} == {
        n for n, _ in ours.named_parameters() if n.startswith("stacks.")
    }
    state = theirs.state_dict()
    assert all(torch.equal(state[name], value) for name, value in stacks.items())
    theirs.train()
    assert theirs.trans_l_mem.training, "their dropouts stay on"
    assert ours.train().stacks.training


class Loader:
    """Their training loader: the recorded epochs, one a pass."""

    def __init__(self, batches: list[Batch], complete: bool) -> None:
        self.passes = iter([batches[start : start + 6] for start in range(0, len(batches), 6)])
        self.complete = complete

    def __iter__(self) -> Iterator[Any]:
        for batch in next(self.passes):
            shown = batch.complete if self.complete else batch
            assert shown is not None
            assert batch.labels is not None
            modes = [6] * batch.size if self.complete else modes_of(batch)
            yield (shown.text, shown.audio, shown.vision), batch.labels[:, None, None], modes


def test_both_stages_train_to_the_same_weights(
    official: SimpleNamespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two epochs of six batches each: L1, Adam over all weights, gradients clipped by their norm."""
    data = data_module(random_corpus(), batch_size=4, missing=MissingConfig(regime="inter"))
    small = {"dim": 8, "heads": 2, "layers": 1, "tokens": 4, "pretrain_epochs": 2, "lr_patience": None}
    case = without_dropout(Case("mplmm", (12, 5, 7), (8, 8, 8), settings=small))
    method, before = (MPLMM(data.spec, **case.settings) for _ in range(2))
    before.load_state_dict(method.state_dict())
    seen, forward = [], method.training_forward

    def recording(batch: Batch) -> Output:
        seen.append((method.stage, batch))
        return forward(batch)

    method.training_forward = recording
    quiet_trainer(tmp_path, 4, gradient_clip_val=0.05, gradient_clip_algorithm="norm").fit(method, datamodule=data)

    def trained(model: nn.Module, stage: str) -> nn.Module:
        batches = [batch for of, batch in seen if of == stage]
        assert len(batches) == 12
        # They evaluate after every epoch, which changes nothing, and keep the model as a whole.
        monkeypatch.setattr(torch, "save", lambda *_: None)
        monkeypatch.setattr(torch, "load", lambda *_: model)
        optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
        made = {"model": model, "optimizer": optimizer, "criterion": nn.L1Loss()}
        made["scheduler"] = SimpleNamespace(step=lambda value: None)
        sizes = {"batch_size": 4, "n_train": 24, "n_valid": 4, "n_test": 4, "log_interval": 30, "num_epochs": 2}
        settings = SimpleNamespace(**sizes, use_cuda=False, dataset="random", clip=0.05, name="")
        shown = list(Loader(batches[:1], stage == "pretrain"))
        official.train.train_model(made, settings, Loader(batches, stage == "pretrain"), shown, shown)
        return model

    first = copy_into(official.model.MULTModel(hyper_parameters(case)), first_stage_names(before))
    trained(first, "pretrain")
    assert_trained_alike(first_stage_names(method), first, first_stage_names(before))
    second = with_prompts(official, case, before)
    second = trained(official.train.transfer_model(second, "theirs.pt"), "prompts")
    assert_trained_alike(their_names(method), second, their_names(before))


def assert_trained_alike(ours: dict[str, Tensor], theirs: nn.Module, before: dict[str, Tensor]) -> None:
    after = theirs.state_dict()
    for name, found in ours.items():
        expected = after[name]
        assert not torch.equal(found, before[name]), name
        if name.endswith("in_proj_bias"):
            # A bias of the keys shifts all scores alike: its gradient is rounding noise, which Adam makes full steps.
            found, expected = (torch.cat([bias.chunk(3)[i] for i in (0, 2)]) for bias in (found, expected))
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=0, msg=lambda text, name=name: f"{name}: {text}")


def test_configs_have_the_official_defaults() -> None:
    calls = [
        node
        for node in ast.walk(ast.parse((clone("MSABENCH_PARITY_MPLMM") / "main.py").read_text()))
        if isinstance(node, ast.Call)
    ]
    defaults = {}
    for call in calls:
        default = next((word.value for word in call.keywords if word.arg == "default"), None)
        if getattr(call.func, "attr", "") == "add_argument" and default is not None:
            defaults[ast.literal_eval(call.args[0]).removeprefix("--")] = ast.literal_eval(default)
    config = config_of(CONFIGS / "mplmm.yaml")
    given = config["model"]["init_args"]
    assert {ours: given[ours] for ours in OFFICIAL_NAMES} == {
        o: defaults[theirs] for o, theirs in OFFICIAL_NAMES.items()
    }
    assert config["data"]["batch_size"] == defaults["batch_size"]
    assert config["trainer"]["gradient_clip_val"] == defaults["clip"]
    assert config["trainer"]["max_epochs"] == 2 * defaults["num_epochs"]
    signature = inspect.signature(MPLMM.__init__).parameters
    assert {ours: signature[ours].default for ours in OFFICIAL_NAMES} == {ours: given[ours] for ours in OFFICIAL_NAMES}


def test_released_type_prompts_never_move(official: SimpleNamespace) -> None:
    case = without_dropout(UNALIGNED)
    theirs = official.model.PromptModel(hyper_parameters(case)).train()
    batch, modes = clips(case)
    optimizer = torch.optim.Adam(theirs.parameters(), lr=1e-2)
    for _ in range(3):
        optimizer.zero_grad()
        nn.L1Loss()(theirs(batch.text, batch.audio, batch.vision, modes).squeeze(1), batch.labels).backward()
        optimizer.step()
    assert not any(getattr(theirs, name).any() for name in DEAD)
    assert theirs.generative_prompt.any()
    assert theirs.promptl_m.any()
