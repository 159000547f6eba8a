"""TF-Mamba against its official code, with the scan that this brings for reference in place of the one for GPUs.

MSABENCH_PARITY_TF_MAMBA: clone of https://github.com/codemous/TF-Mamba (9a1f07f)
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Mapping
from dataclasses import replace
from types import ModuleType
from typing import Any

import pytest
import torch
import yaml
from torch import Tensor, nn
from torch.nn import functional as F

from msabench.data.batch import Batch
from msabench.missingness.conditions import MODALITIES
from msabench.nn import selective_scan as scan
from msabench.nn.mamba import BidirectionalMamba
from tests.parity.clones import clone, importing
from tests.support.golden_cases import CASES, Case, batch_of, build, kept, numbers

# Their BERT is replaced by its output, so the parameters are those without BERT.
SHAPES = {
    "mosi": (
        Case(
            "tf_mamba",
            (768, 5, 20),
            (50, 375, 500),
            settings={"state": 12, "query_layers": 1, "lambda_reconstruction": 0.7},
        ),
        1_813_209,
    ),
    "mosei": (Case("tf_mamba", (768, 74, 35), (50, 500, 500), settings={"lambda_reconstruction": 0.3}), 2_164_081),
    "sims": (
        Case("tf_mamba", (768, 33, 709), (39, 400, 55), settings={"expand": 2, "lambda_reconstruction": 1.0}),
        1_526_927,
    ),
}
CHANNELS = {"conv_bias": "conv1d.bias", "dt_weight": "dt_proj.weight", "dt_bias": "dt_proj.bias", "skip": "D"}


def official_names(found: Mapping[str, Tensor], layers: dict[str, int]) -> dict[str, Tensor]:
    """Our weights, or gradients, under the official names: ours are stacked over streams and directions."""
    theirs = {}

    def put(here: str, there: str) -> None:
        theirs.update({there + name[len(here) :]: x for name, x in found.items() if name.startswith(here)})

    def put_block(here: str, there: str, streams: tuple[str, ...] = ("",)) -> None:
        inner = found[f"{here}.A_log"].chunk(2)
        theirs.update({f"{there}.A_log": inner[0], f"{there}.A_b_log": inner[1]})
        for stream, first in enumerate(streams):
            for name in ("in_proj", "out_proj"):
                theirs[f"{there}.{first}{name}.weight"] = found[f"{here}.{name}"].chunk(len(streams))[stream]
            for direction, last in enumerate(("", "_b")):

                def lane(name: str, number: int = 2 * stream + direction) -> Tensor:
                    return found[f"{here}.{name}"].chunk(2 * len(streams))[number]

                theirs[f"{there}.{first}conv1d{last}.weight"] = lane("conv_weight").unsqueeze(1)
                theirs[f"{there}.{first}x_proj{last}.weight"] = lane("x_proj")
                for name, official in CHANNELS.items():
                    part, _, kind = official.partition(".")
                    theirs[f"{there}.{first}{part}{last}{'.' if kind else ''}{kind}"] = lane(name)

    for m, letter in (("audio", "a"), ("vision", "v")):
        put(f"embed.align.{m}.position", f"text_modality_mixup.ctc_{letter}t.pred_output_position_inclu_blank")
        put(f"embed.project.{m}", f"text_modality_mixup.proj_{letter}")
        put(f"enhance.{m}.log_scale", f"text_modality_mixup.logit_scale_{letter}t")
        for i in range(layers["tc_mamba"]):
            pair = f"text_based_context_mamba.{letter}t_mamba_layers.{i}"
            put_block(f"context.{i}.pairs.{m}.mamba", f"{pair}.mamba", ("a_", "v_"))
            put(f"context.{i}.pairs.{m}.norms.0", f"{pair}.norm1")
            put(f"context.{i}.pairs.{m}.norms.1", f"{pair}.norm2")
    put("embed.project.text", "text_modality_mixup.proj_t")
    for name in ("to_q", "to_k", "to_v"):
        put(f"attention.{name}", f"text_guided_attention.cross_attention.{name}")
    put("attention.to_out", "text_guided_attention.cross_attention.to_out.0")
    put("attention_norm", "text_guided_attention.norm")
    for i in range(layers["tq_mamba"]):
        put_block(f"query.{i}.mamba", f"text_based_query_mamba.mamba_layers.{i}.mamba")
        put(f"query.{i}.norms.0", f"text_based_query_mamba.mamba_layers.{i}.norm1")
    put("head", "output")
    put("rebuild", "recon_text_low")
    return theirs


def einops() -> ModuleType:
    """Stands in for the library of that name, with the patterns that their code uses on this path."""
    patterns: dict[str, Any] = {
        "b l d -> d (b l)": lambda x: x.flatten(0, 1).T,
        "d (b l) -> b d l": lambda x, l: x.unflatten(1, (-1, l)).transpose(0, 1),  # noqa: E741
        "b d l -> b l d": lambda x: x.transpose(1, 2),
        "d -> d 1": lambda x: x.unsqueeze(1),
        "n -> d n": lambda x, d: x.repeat(d, 1),
        "B G N L -> B (G H) N L": lambda x, H: x.repeat_interleave(H, 1),
        "b n (h d) -> b h n d": lambda x, h: x.unflatten(2, (h, -1)).transpose(1, 2),
        "b h n d -> b n (h d)": lambda x: x.transpose(1, 2).flatten(2),
    }
    module: Any = ModuleType("einops")
    module.rearrange = module.repeat = lambda x, pattern, **sizes: patterns[pattern](x, **sizes)
    return module


class Official:
    """Their modules, with what they need of CUDA replaced by their reference scan and torch's convolution."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        stubs = ("causal_conv1d", "causal_conv1d_cuda", "selective_scan_cuda", "mamba_ssm")
        for name in stubs:
            stub: Any = ModuleType(name)
            stub.causal_conv1d_fn = stub.causal_conv1d_update = stub.Mamba = None
            monkeypatch.setitem(sys.modules, name, stub)
        monkeypatch.setitem(sys.modules, "einops", einops())
        self.folder = clone("MSABENCH_PARITY_TF_MAMBA")
        with importing(self.folder):
            interface = importlib.import_module("models.mamba_nets.selective_scan_interface")
            blocks = [importlib.import_module(f"models.mamba_nets.{name}") for name in ("bimamba", "mm_bimamba")]
            self.network = importlib.import_module("models.TFMamba")
            self.losses = importlib.import_module("core.losses")
        self.scan = interface.selective_scan_ref
        for block in blocks:
            monkeypatch.setattr(block, "mamba_inner_fn_no_out_proj", self.inner)
        self.block = blocks[0].Mamba
        monkeypatch.setattr(self.network, "BertTextEncoder", lambda **_: nn.Identity())

    def inner(
        self, xz: Tensor, w: Tensor, b: Tensor, x_proj: Tensor, dt_proj: Tensor, A: Tensor, *rest: Any, **more: Any
    ) -> Tensor:
        """One direction, up to the gate."""
        x, z = xz.chunk(2, dim=1)
        u = F.silu(F.conv1d(x, w, b, padding=w.shape[2] - 1, groups=len(w))[..., : x.shape[2]])
        rank, state = dt_proj.shape[1], A.shape[1]
        low, B, C = (x_proj @ u).split([rank, state, state], dim=1)
        return self.scan(u, dt_proj @ low, A, B, C, rest[-1], z=z, **more)

    def settings(self, corpus: str, case: Case) -> dict[str, Any]:
        """Their file for training on a corpus; for a golden case that of MOSI with other sizes."""
        path = self.folder / "configs" / f"train_{corpus or 'mosi'}.yaml"
        settings: dict[str, Any] = yaml.safe_load(path.read_text(encoding="utf-8"))
        if not corpus:
            model, dim = settings["model"], case.settings["dim"]
            model["tmm"] |= {"input_dim": [case.dims[i] for i in (0, 2, 1)], "hidden_dim": dim}
            model["tmm"]["input_length"] = [case.steps[i] for i in (0, 2, 1)]
            model["tmr"] |= {"input_dim_low": case.dims[0], "input_dim_high": dim}
            for part, layers in (("tc_mamba", "context_layers"), ("tq_mamba", "query_layers")):
                model[part] |= {"d_model": dim, "num_layers": case.settings[layers]}
                model[part]["mamba_config"] |= {"d_state": case.settings["state"], "expand": case.settings["expand"]}
            model["tq_mamba"]["attn_heads"] = case.settings["heads"]
            model["regression"]["input_dim"] = dim
        return settings


def training_batch(case: Case) -> Batch:
    """The clips of the case and, beside them, complete ones."""
    batch, spec = batch_of(case), case.spec
    features = {
        m: numbers((batch.size, spec.seq_lens[m], spec.feature_dims[m]), key) * 6
        for key, m in enumerate(MODALITIES, start=101)
    }
    complete = replace(batch, features=features, observed=batch.valid)
    return replace(batch, labels=torch.linspace(-3, 3, batch.size), complete=complete)


def assert_close(found: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("corpus", ["", *SHAPES])
def test_official_code_gives_the_same_numbers_for_shapes_of(corpus: str, monkeypatch: pytest.MonkeyPatch) -> None:
    case, parameters = SHAPES[corpus] if corpus else (CASES["tf_mamba_official"], 0)
    official = Official(monkeypatch)
    settings = official.settings(corpus, case)
    theirs, their_loss = official.network.build_model(settings).eval(), official.losses.MultimodalLoss(settings)
    ours = build(case)
    assert not corpus or sum(p.numel() for p in theirs.parameters()) == parameters
    layers = {part: settings["model"][part]["num_layers"] for part in ("tc_mamba", "tq_mamba")}
    theirs.load_state_dict(official_names(ours.state_dict(), layers))
    batch = training_batch(case)
    assert batch.complete is not None
    corrupted, whole = ((b.vision, b.audio, b.text) for b in (batch, batch.complete))

    deployed = ours(batch)
    for found in (vars(deployed), kept("tf_mamba_official") if not corpus else vars(deployed)):
        pooled: list[Tensor] = []
        hook = theirs.pool.register_forward_hook(lambda _, __, out, seen=pooled: seen.append(out))
        with torch.no_grad():
            assert_close(found["pred"], theirs((None, None, None), corrupted)["sentiment_preds"].squeeze(1))
        assert_close(found["representation"], pooled[0].squeeze(2))
        hook.remove()

    out, expected = ours.training_forward(batch), theirs(whole, corrupted)
    assert_close(out.pred, expected["sentiment_preds"].squeeze(1))
    assert_close(out.aux["rebuilt"], expected["rec_text"][0])
    dropped = batch.complete.observed["text"] & ~batch.observed["text"]
    terms = ours.loss(out, batch)
    assert terms["reconstruction"] > 0.01
    their_terms = their_loss(expected, {"sentiment_labels": batch.labels.unsqueeze(1)}, dropped)
    total = torch.stack(list(terms.values())).sum()
    torch.testing.assert_close(total, their_terms["loss"], atol=1e-5, rtol=1e-6)
    total.backward()
    their_terms["loss"].backward()
    gradients = official_names({name: p.grad for name, p in ours.named_parameters()}, layers)
    for name, parameter in theirs.named_parameters():
        scale = max(1.0, float(parameter.grad.abs().max()))
        torch.testing.assert_close(gradients[name], parameter.grad, atol=1e-4 * scale, rtol=0)


def test_scan_equals_the_reference_in_the_layout_of_the_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    official = Official(monkeypatch)
    u, B, C = numbers((3, 2, 7, 5), 1), numbers((3, 2, 7, 4), 2), numbers((3, 2, 7, 4), 3)
    dt, A = numbers((3, 2, 7, 5), 4) + 0.5, numbers((3, 5, 4), 5) - 0.6
    expected = scan._by_kernel(official.scan, u, dt, A, B, C)
    assert_close(scan.selective_scan(u, dt, A, B, C), expected)


def test_initial_weights_are_distributed_like_the_official_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    official, layers = Official(monkeypatch), {"tc_mamba": 0, "tq_mamba": 1}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        theirs = dict(official.block(64, bimamba_type="v2", d_state=8, expand=4).named_parameters())
        ours = BidirectionalMamba(64, state=8, expand=4)
    found = official_names({f"query.0.mamba.{name}": p for name, p in ours.named_parameters()}, layers)
    prefix = "text_based_query_mamba.mamba_layers.0.mamba."
    assert {prefix + name for name in theirs} == set(found)
    for name, parameter in theirs.items():
        mine = found[prefix + name].detach()
        assert mine.shape == parameter.shape
        for statistic in (torch.mean, torch.amin, torch.amax):
            spread = float(parameter.detach().std()) if parameter.numel() > 1 else 0.0
            assert abs(float(statistic(mine) - statistic(parameter.detach()))) <= 0.25 * spread + 1e-7, name
