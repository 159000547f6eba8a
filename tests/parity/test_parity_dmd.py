"""DMD against its official code. MSABENCH_PARITY_DMD: clone of https://github.com/mdswyz/DMD (516d4e1)."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from msabench.data.batch import Batch
from msabench.losses.margin import label_margin
from msabench.methods.dmd import DMD
from msabench.nn import crossmodal
from tests.parity.clones import clone, importing
from tests.parity.mmsa_single import GivenText
from tests.parity.recorded import fit_recorded
from tests.support.golden_cases import CASES, Case, batch_of, build, kept, numbers

LETTERS = {"text": "l", "vision": "v", "audio": "a"}
GRAPHS = ("graph_homo", "graph_hetero")
CASE = CASES["dmd_official"]
KERNELS = {"kernel_size_text": 5, "kernel_size_audio": 1, "kernel_size_vision": 3}
SHAPES = {
    "golden": CASE,
    "mosi": Case("dmd", (768, 5, 20), (50, 50, 50)),
    "mosei": Case("dmd", (768, 74, 35), (50, 50, 50), settings={"dim": 30, "heads": 6, **KERNELS}),
    "sims": Case("dmd", (768, 33, 709), (39, 400, 55)),
}


@pytest.fixture
def official(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """Their modules, on the CPU and on recent PyTorch."""
    packages = ("trains", "trains.singleTask", "trains.singleTask.model", "trains.singleTask.distillnets")
    with importing(clone("MSABENCH_PARITY_DMD"), *packages):
        helpers: Any = ModuleType("trains.utils")
        helpers.MetricsTop = lambda mode: SimpleNamespace(getMetics=lambda dataset: lambda pred, true: {})
        helpers.dict_to_str = str
        sys.modules["trains.utils"] = helpers
        load = importlib.import_module
        found = SimpleNamespace(
            model=load("trains.singleTask.model.dmd"),
            homo=load("trains.singleTask.distillnets.get_distillation_kernel_homo"),
            hetero=load("trains.singleTask.distillnets.get_distillation_kernel"),
            trainer=load("trains.singleTask.DMD"),
            helpers=load("trains.singleTask.utils"),
            positions=load("trains.subNets.transformers_encoder.position_embedding"),
        )
        # It is no file of the clone, so that nothing else would take it out.
        sys.modules.pop("trains.utils")
    found.model.BertTextEncoder = GivenText
    # Recent PyTorch wants the index contiguous before it is flattened.
    looked_up = found.positions.make_positions
    monkeypatch.setattr(found.positions, "make_positions", lambda *a: looked_up(*a).contiguous())
    monkeypatch.setattr(Tensor, "cuda", lambda self: self)
    return found


def short_name(name: str) -> str:
    """Name there of one of our weights; those of the units without the unit."""
    for m, letter in LETTERS.items():
        for ours, theirs in {
            f"project.{m}.conv.": f"proj_{letter}.",
            f"private.{m}.": f"encoder_s_{letter}.",
            f"decode.{m}.": f"decoder_{letter}.",
            f"align.{m}.": f"align_c_{letter}.",
            f"common_encoder.{m}.": f"self_attentions_c_{letter}.",
            f"memory.{m}.": f"trans_{letter}_mem.",
            f"gate.{m}.": f"weight_{letter}.",
            **{f"cross.{m}_from_{source}.": f"trans_{letter}_with_{other}." for source, other in LETTERS.items()},
        }.items():
            if name.startswith(ours):
                return theirs + name.removeprefix(ours)
        for space, height in {"homo": "low", "hetero": "high"}.items():
            if name.startswith(f"head_{space}.{m}."):
                return name.removeprefix(f"head_{space}.{m}.").replace(".", f"_{letter}_{height}.")
    if name.startswith("head_common."):
        return name.removeprefix("head_common.").replace(".", "_c.")
    for ours, theirs in {
        "common.": "encoder_c.",
        "gate_common.": "weight_c.",
        "head.": "",
        **{f"{graph}.of_logits.": "W_logit." for graph in GRAPHS},
        **{f"{graph}.of_reprs.": "W_repr." for graph in GRAPHS},
        **{f"{graph}.edge.": "W_edge." for graph in GRAPHS},
    }.items():
        if name.startswith(ours):
            return theirs + name.removeprefix(ours)
    raise KeyError(name)


def as_theirs(name: str, value: Tensor, width: int) -> Tensor:
    """One of our weights in their layout."""
    if name.startswith(("private.", "common.", "decode.")):
        return value.unsqueeze(2)  # a linear layer is a convolution of kernel 1
    if name.startswith("align.") and name.endswith("weight"):
        # We flatten frames of channels, they flatten channels of frames.
        return value.unflatten(1, (-1, width)).transpose(1, 2).flatten(1)
    return value


def copy_weights(ours: nn.Module, model: nn.Module, homo: nn.Module, hetero: nn.Module) -> None:
    """Copy ours into theirs by name; what is left of theirs is known to have no effect."""
    states: dict[str, dict[str, Tensor]] = {"": {}, **{graph: {} for graph in GRAPHS}}
    for name, value in ours.named_parameters():
        part = name.split(".")[0] if name.startswith(GRAPHS) else ""
        states[part][short_name(name)] = as_theirs(name, value.detach(), ours.private["text"].in_features)
    missing, unexpected = model.load_state_dict(states[""], strict=False)
    assert not unexpected
    assert all(name.startswith("proj_cosine_") or name.endswith(("version", "_float_tensor")) for name in missing)
    for graph, unit in (("graph_homo", homo), ("graph_hetero", hetero)):
        missing, unexpected = unit.load_state_dict(states[graph], strict=False)
        assert not unexpected
        assert set(missing) == {"W_logit.bias", "W_repr.bias", "W_edge.bias"}


def theirs_for(official: SimpleNamespace, case: Case, ours: nn.Module) -> tuple[Any, Any, Any]:
    """Their model and units with our weights; biases of the units, which we do not have, stay as they are drawn."""
    chosen = {"dim": 50, "heads": 10, "layers": 4, "edge_width_homo": 64, "edge_width_hetero": 32}
    chosen |= {f"kernel_size_{m}": 5 for m in LETTERS} | case.settings
    dropouts = ("attn_dropout", "attn_dropout_a", "attn_dropout_v", "relu_dropout", "embed_dropout", "res_dropout")
    settings = SimpleNamespace(
        use_bert=True,
        use_finetune=True,
        transformers="bert",
        pretrained="",
        dataset_name="none of theirs",
        dst_feature_dim_nheads=(chosen["dim"], chosen["heads"]),
        feature_dims=case.dims,
        nlevels=chosen["layers"],
        attn_mask=True,
        output_dropout=0.0,
        text_dropout=0.0,
        **dict.fromkeys(dropouts, 0.0),
        **{f"conv1d_kernel_size_{letter}": chosen[f"kernel_size_{m}"] for m, letter in LETTERS.items()},
    )
    # Their lengths are constants of two corpora.
    steps = dict(zip(("len_l", "len_a", "len_v"), case.steps, strict=True))
    model = type("DMD", (official.model.DMD,), steps)(settings).eval()

    def unit(module: ModuleType, hidden: int, width: int, prior: list[int]) -> nn.Module:
        return module.DistillationKernel(
            n_classes=1,
            hidden_size=hidden,
            gd_size=width,
            to_idx=[0, 1, 2],
            from_idx=[0, 1, 2],
            gd_prior=official.helpers.softmax(prior, 0.25),
            gd_reg=10,
            w_losses=[1, 10],
            metric="l1",
            alpha=1 / 8,
            hyp_params=None,
        )

    homo = unit(official.homo, chosen["dim"], chosen["edge_width_homo"], [0, 0, 1, 0, 1, 0])
    hetero = unit(official.hetero, 2 * chosen["dim"], chosen["edge_width_hetero"], [0, 0, 1, 0, 1, 1])
    copy_weights(ours, model, homo, hetero)
    return model, homo, hetero


def run(model: Any, batch: Batch) -> dict[str, Tensor]:
    """Their outputs; what is given as text stands for BERT's states."""
    model.text_model.states = batch.text
    return model(torch.zeros(batch.size, 3, 1), batch.audio, batch.vision)


def stacked(out: dict[str, Tensor], name: str) -> Tensor:
    return torch.stack([out[name.format(letter)] for letter in LETTERS.values()])


@pytest.mark.parametrize("shape", SHAPES)
def test_official_code_gives_the_same_numbers(shape: str, official: SimpleNamespace) -> None:
    case = SHAPES[shape]
    ours, batch = build(case), batch_of(case)
    model, homo, hetero = theirs_for(official, case, ours)
    with torch.no_grad():
        theirs, out = run(model, batch), ours.training_forward(batch)
    aux = out.aux
    pairs = {
        "pred": (out.pred, theirs["output_logit"].squeeze(1)),
        "common logits": (aux["common_logits"], theirs["logits_c"]),
        "aligned": (aux["aligned"].transpose(0, 1), stacked(theirs, "c_{}_sim")),
    }
    for space, unit in {"homo": homo, "hetero": hetero}.items():
        logits, reprs = stacked(theirs, f"logits_{{}}_{space}"), stacked(theirs, f"repr_{{}}_{space}")
        edges, _ = unit(logits, reprs)
        pairs[f"{space} logits"] = (aux[f"{space}_logits"].transpose(0, 1), logits)
        pairs[f"{space} reprs"] = (aux[f"{space}_reprs"].transpose(0, 1), reprs)
        pairs[f"{space} edges"] = (aux[f"{space}_edges"].T, edges)
        graph = getattr(ours, f"graph_{space}")
        to_prior, of_logits, of_reprs = unit.distillation_loss(logits, reprs, edges)
        pairs[f"{space} prior"] = (graph.to_prior(aux[f"{space}_edges"]), to_prior)
        pairs[f"{space} predictions"] = (
            graph.of_predictions(aux[f"{space}_edges"], aux[f"{space}_logits"]),
            of_logits,
        )
        if space == "hetero":
            term = graph.of_representations(aux["hetero_edges"], aux["hetero_reprs"])
            pairs["hetero representations"] = (term, of_reprs)
    for m, letter in LETTERS.items():
        pairs[f"projected {m}"] = (aux[f"projected_{m}"], theirs[f"origin_{letter}"].transpose(1, 2))
        pairs[f"private {m}"] = (aux[f"private_{m}"], theirs[f"s_{letter}"].transpose(0, 1))
        pairs[f"common {m}"] = (aux[f"common_{m}"], theirs[f"c_{letter}"].transpose(0, 1))
        pairs[f"recon {m}"] = (aux[f"recon_{m}"], theirs[f"recon_{letter}"].transpose(1, 2))
        pairs[f"cycle {m}"] = (aux[f"cycle_{m}"], theirs[f"s_{letter}_r"].transpose(1, 2))
    for name, (ours_there, expected) in pairs.items():
        torch.testing.assert_close(ours_there, expected, atol=1e-5, rtol=1e-5, msg=lambda text, name=name: name + text)
    print(f"{shape}: {max((a - b).abs().max().item() for a, b in pairs.values()):.1e} of all, pred ", end="")
    print(f"{(out.pred - theirs['output_logit'].squeeze(1)).abs().max():.1e}")
    if shape == "golden":
        torch.testing.assert_close(kept("dmd_official")["pred"], pairs["pred"][1], atol=1e-5, rtol=0)


class CosineOf19(nn.Module):
    """What PyTorch 1.9 made of a cosine embedding loss with target -1 on three axes: it reduces axis 1."""

    def forward(self, a: Tensor, b: Tensor, target: Tensor) -> Tensor:
        assert a.dim() == 3
        assert target.tolist() == [-1]
        lengths = ((a.square().sum(1) + 1e-12) * (b.square().sum(1) + 1e-12)).sqrt()
        return ((a * b).sum(1) / lengths).clamp(min=0).mean()


@pytest.fixture
def _double_precision() -> Iterator[None]:
    """Adam makes full steps of gradients that are rounding noise; in double precision these are fewer."""
    crossmodal._attention_mask.cache_clear()
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)
    crossmodal._attention_mask.cache_clear()


@pytest.mark.usefixtures("_double_precision")
def test_official_code_trains_to_the_same_weights(
    official: SimpleNamespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Three epochs of six batches in steps of four, two of them left over; entries clipped after every batch."""
    clip = 0.02
    settings = {**DMD.info.smoke, "gradient_clip": clip, "accumulate": 4, "orth": "official"}
    dropouts = ("dropout_text", "attn_dropout_text", "attn_dropout_audio", "embed_dropout", "out_dropout")
    method, before, epochs = fit_recorded("dmd", {**settings, **dict.fromkeys(dropouts, 0.0)}, {"lr": 1e-3}, tmp_path)

    case = Case("dmd", (12, 5, 7), (8, 8, 8), settings=settings)
    model, homo, hetero = theirs_for(official, case, before)
    passes = iter(epochs)

    class Replay:
        def __len__(self) -> int:
            return 6

        def __iter__(self) -> Iterator[dict[str, Any]]:
            for batch in next(passes):
                model.text_model.states = batch.text
                yield {
                    "text": torch.zeros(batch.size, 3, 1),
                    "audio": batch.audio,
                    "vision": batch.vision,
                    "labels": {"M": batch.labels},
                }

    theirs = SimpleNamespace(
        train_mode="regression",
        dataset_name="mosi",
        learning_rate=1e-3,
        patience=5,
        KeyEval="Loss",
        update_epochs=4,
        device="cpu",
        grad_clip=clip,
        early_stop=len(epochs) - 1,
        model_name="dmd",
        cur_seed=1,
    )
    module = official.trainer
    plateau = module.ReduceLROnPlateau
    monkeypatch.setattr(module, "ReduceLROnPlateau", lambda *a, verbose, **more: plateau(*a, **more))
    monkeypatch.setattr(torch, "save", lambda *_: None)
    trainer = module.DMD(theirs)
    trainer.cosine = CosineOf19()
    trainer.do_test = lambda *_, **__: {"Loss": 1.0}
    trainer.do_train([model, homo, hetero], {"train": Replay(), "valid": None, "test": None})

    after = {"": dict(model.named_parameters()), "graph_homo": dict(homo.named_parameters())}
    after["graph_hetero"] = dict(hetero.named_parameters())
    start, largest = dict(before.named_parameters()), 0.0
    for name, parameter in method.named_parameters():
        part = name.split(".")[0] if name.startswith(GRAPHS) else ""
        found, expected = as_theirs(name, parameter.detach(), 8), after[part][short_name(name)].detach()
        assert not torch.equal(parameter, start[name])
        if name.endswith("in_proj_bias"):
            # A bias of the keys shifts all scores alike: its gradient is rounding noise, which Adam makes full steps.
            found, expected = (torch.cat([bias.chunk(3)[i] for i in (0, 2)]) for bias in (found, expected))
        torch.testing.assert_close(found, expected, atol=1e-6, rtol=0)
        largest = max(largest, float((found - expected).abs().max()))
    print(f"training: {largest:.1e}")


def test_the_official_margin_loss_gives_the_same_numbers(official: SimpleNamespace) -> None:
    vectors, labels = numbers((15, 6), 1).requires_grad_(), torch.tensor([1.0, -2.0, 1.0, 0.5, 3.0])
    labels = labels.repeat_interleave(3)
    expected = official.trainer.HingeLoss()(labels.view(-1, 1), vectors)
    (wanted,) = torch.autograd.grad(expected, vectors)
    found = label_margin(vectors, labels, 0.15)
    (gradient,) = torch.autograd.grad(found, vectors)
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=0)
    torch.testing.assert_close(gradient, wanted, atol=1e-6, rtol=0)
