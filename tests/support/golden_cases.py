"""Outputs of ported methods with weights and inputs from integer arithmetic, kept in ``golden/`` beside this file.

The parity tests show that official code gives the same numbers; with them the plain test suite holds the ports to the
official code without having it. ``python -m tests.support.golden_cases`` rewrites the files: run the parity tests
afterwards.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from msabench.data.batch import Batch
from msabench.data.info import DataSpec
from msabench.methods.base import MSAMethod
from msabench.methods.registry import method_class
from msabench.missingness.conditions import MODALITIES

FOLDER = Path(__file__).parent / "golden"
CLIPS = 4


@dataclass(frozen=True)
class Case:
    """One method with settings, and the shapes that it sees; ``gain`` is a factor on all matrices."""

    method: str
    dims: tuple[int, int, int]
    steps: tuple[int, int, int]
    task: str = "regression"
    settings: dict[str, Any] = field(default_factory=dict)
    gain: float = 1.0

    @property
    def spec(self) -> DataSpec:
        return DataSpec(
            feature_dims=dict(zip(MODALITIES, self.dims, strict=True)),
            seq_lens=dict(zip(MODALITIES, self.steps, strict=True)),
            task=self.task,
            metric_set="emotions" if self.task == "emotions" else "sentiment",
            features="mmsa-unaligned",  # official code reads what it is given, where it is given
        )


_MMSA = {"dim": 12, "heads": 3, "layers": 2, "positions": False}
_KERNELS = {"kernel_size_text": 3, "kernel_size_audio": 1, "kernel_size_vision": 2}
_LF_DNN = {"hidden_text": 10, "hidden_audio": 4, "hidden_vision": 6, "out_text": 8, "fusion_width": 12}
_TFN = {"hidden_text": 10, "hidden_audio": 4, "hidden_vision": 6, "out_text": 5, "fusion_width": 12}
_LMF = {"hidden_text": 10, "hidden_audio": 4, "hidden_vision": 6}
_HEADS = {"fusion_width": 12, "width_text": 8, "width_audio": 6, "width_vision": 7}
_SELF_MM = {"hidden_audio": 4, "hidden_vision": 6, "out_audio": 5, "out_vision": 7, **_HEADS}
_TETFN = {"dim": 12, "heads": 3, "hidden_audio": 4, "hidden_vision": 6, **_HEADS}
_CUBE = {"dim": 8, "block_widths": (8, 6)}
_EMOE = {"dim": 12, "heads": 3, "layers": 2}
_EMT_DLFR = {"dim": 12, "heads": 3, "layers": 2, "hidden_audio": 4, "hidden_vision": 6, "out_audio": 5, "out_vision": 7}
_EMT_DLFR |= {"fusion_width": 10, "context_width": 9, "width_text": 8, "width_audio": 3, "width_vision": 4}
_MMIM = {"hidden": 5, "dim": 8, "fusion_width": 12}
_DMD = {"dim": 12, "heads": 3, "layers": 2, "edge_width_homo": 5, "edge_width_hetero": 4}
_TFR_NET = {"dim": 12, "heads": 3, "layers": 2, "hidden_text": 6, "hidden_audio": 4, "hidden_vision": 5}
_TF_MAMBA = {"dim": 20, "state": 5, "expand": 2, "context_layers": 2, "query_layers": 2, "heads": 3}
_GCNET = {"hidden": 6, "window_past": 1, "window_future": 0}
_MMIN = {"dim": 8, "out_width": 9, "blocks": 2, "block_widths": (12, 7, 5)}
_MPLMM = {"dim": 8, "heads": 2, "layers": 2, "tokens": 5, "backbone": "theirs"}
_HME = {"dim": 12, "heads": 3, "layers": 2, "latent_layers": 2, "hyper_layers": 2}
_MOMKE = {"dim": 8, "layers": 2}
_RAVEN = {"cell": 6, "hidden": 10}
_MEMORY = {"hidden_text": 8, "hidden_audio": 4, "hidden_vision": 6, "memory": 7, "out_width": 9}
_MEMORY |= {"propose_width": 5, "retain_width": 6, "update_width": 4}
_MFN = {**_MEMORY, "attend_width": 6}
_GRAPH_MFN = {**_MEMORY, "node_width": 5}
_MFM = {name: size for name, size in _MFN.items() if name != "out_width"}
_MFM |= {"latent_joint": 9, "latent_text": 6, "latent_audio": 5, "latent_vision": 8}
_MFM |= {"factor_joint": 7, "factor_text": 5, "factor_audio": 4, "factor_vision": 6}

CASES = {
    # More than 128 audio steps take the fused attention kernel.
    "mult_official": Case("mult", (12, 5, 7), (6, 140, 11), settings={"layers": 2}),
    "mult_official_emotions": Case("mult", (30, 5, 7), (9, 9, 9), task="emotions", settings={"layers": 4}),
    "mult_official_lonly": Case("mult", (12, 5, 7), (9, 5, 11), settings={"layers": 2, "variant": "lonly"}),
    "mult_official_aonly": Case("mult", (12, 5, 7), (9, 5, 11), settings={"layers": 2, "variant": "aonly"}),
    "mult_official_vonly": Case("mult", (12, 5, 7), (9, 5, 11), settings={"layers": 2, "variant": "vonly"}),
    "mult_official_pooled": Case("mult", (12, 5, 7), (1, 1, 1), settings={"layers": 2}),
    "mult_mmsa": Case("mult", (16, 5, 7), (9, 20, 13), settings=_MMSA | _KERNELS),
    "lf_dnn_mmsa": Case("lf_dnn", (16, 5, 7), (9, 20, 13), settings=_LF_DNN),
    "tfn_mmsa": Case("tfn", (16, 5, 7), (9, 20, 13), settings=_TFN, gain=2.5),
    "lmf_mmsa": Case("lmf", (16, 5, 7), (9, 20, 13), settings=_LMF, gain=2.0),
    "lmf_mmsa_emotions": Case("lmf", (16, 5, 7), (9, 9, 9), task="emotions", settings=_LMF | {"rank": 2}, gain=2.5),
    "self_mm_mmsa": Case("self_mm", (16, 5, 7), (9, 20, 13), settings=_SELF_MM),
    "tetfn_mmsa": Case("tetfn", (16, 5, 7), (9, 9, 9), settings=_TETFN),
    # Audio and vision are averaged over windows of 3 and 2 steps; the convolution of vision is that of audio.
    "tetfn_mmsa_pooled": Case(
        "tetfn", (16, 5, 7), (9, 20, 13), settings=_TETFN | {"kernel_size_text": 2, "kernel_size_audio": 3}
    ),
    "almt_official": Case("almt", (16, 5, 7), (9, 20, 13), settings={"dim": 16, "heads": 4, "fusion_layers": 4}),
    # MMSA's port and LNLN have 128 features and 8 tokens in their code.
    "almt_mmsa": Case("almt", (12, 5, 7), (6, 20, 13)),
    "tf_mamba_official": Case("tf_mamba", (16, 5, 7), (9, 20, 13), settings=_TF_MAMBA),
    "lnln_official": Case("lnln", (12, 5, 7), (6, 20, 13)),
    "misa_mmsa": Case("misa", (768, 5, 7), (9, 20, 13), settings={"hidden": 12}),
    "misa_official": Case("misa", (768, 5, 7), (9, 9, 9), settings={"hidden": 12, "lengths": "own"}),
    "mmim_mmsa": Case("mmim", (16, 5, 7), (9, 20, 13), settings={**_MMIM, "bidirectional": True}),
    # Words are fewer than tokens, and the cube is longer than both, or shorter.
    "cubemlp_official": Case("cubemlp", (16, 5, 7), (12, 9, 9), settings={**_CUBE, "steps": 14, "block_steps": (6, 4)}),
    "cubemlp_official_joined": Case(
        "cubemlp",
        (16, 5, 7),
        (12, 10, 10),
        settings={
            **_CUBE,
            "steps": 10,
            "block_steps": (8, 6),
            "block_modalities": (3, 4),
            "bias": False,
            "norm_first": False,
            "encoder": "lstm",
            "compose_steps": "cat",
        },
    ),
    "emoe_official": Case("emoe", (16, 5, 7), (9, 9, 9), settings=_EMOE | _KERNELS),
    "emoe_official_unaligned": Case("emoe", (16, 5, 7), (9, 20, 13), settings={**_EMOE, "fusion": "concat"}),
    "emt_dlfr_official": Case("emt_dlfr", (16, 5, 7), (9, 20, 13), settings=_EMT_DLFR),
    # Both LSTMs and a projection have nothing to widen, as vision's projection for CH-SIMS.
    "emt_dlfr_official_narrow": Case(
        "emt_dlfr",
        (16, 5, 7),
        (9, 20, 13),
        settings={**_EMT_DLFR, "out_audio": 4, "out_vision": 6, "dim": 6, "layers": 3},
    ),
    "mmim_official": Case("mmim", (16, 5, 7), (9, 20, 13), settings=_MMIM),
    # Refiners, flows and heads of the official sizes.
    "dicmor_official": Case("dicmor", (16, 5, 7), (9, 9, 9), settings={"heads": 4, "layers": 2, "kernel_size": 3}),
    "dmd_official": Case("dmd", (16, 5, 7), (9, 20, 13), settings=_DMD | _KERNELS),
    # 48 steps behind the projections are hard-wired in the official sampler.
    "imder_official": Case(
        "imder",
        (16, 5, 7),
        (50, 50, 50),
        settings={"heads": 8, "layers": 1, "kernel_size": 3, "sampling_steps": 4},
    ),
    "mfn_mmsa": Case("mfn", (16, 5, 7), (9, 9, 9), settings=_MFN, gain=2.5),
    "mfn_mmsa_averaged": Case("mfn", (16, 5, 7), (9, 20, 13), settings=_MFN | {"av_time_average": True}, gain=2.5),
    "mfn_mmsa_pooled": Case("mfn", (16, 5, 7), (9, 20, 13), settings=_MFN, gain=2.5),
    "graph_mfn_mmsa": Case("graph_mfn", (16, 5, 7), (9, 9, 9), settings=_GRAPH_MFN, gain=1.5),
    "graph_mfn_mmsa_pooled": Case("graph_mfn", (16, 5, 7), (9, 20, 13), settings=_GRAPH_MFN, gain=1.5),
    "mfm_mmsa": Case("mfm", (16, 5, 7), (9, 9, 9), settings=_MFM, gain=2.5),
    "mfm_mmsa_pooled": Case("mfm", (16, 5, 7), (9, 20, 13), settings=_MFM, gain=2.5),
    "mfm_official_missing": Case("mfm", (16, 5, 7), (9, 9, 9), settings=_MFM | {"variant": "missing"}, gain=2.5),
    "cenet_mmsa": Case("cenet", (16, 5, 7), (9, 20, 13), settings={"dim": 12, "heads": 3, "layers": 3}),
    # The official last Transformer has 25 heads, over the time steps.
    "tfr_net_official": Case("tfr_net", (16, 5, 7), (25, 75, 50), settings=_TFR_NET),
    "tfr_net_mmsa": Case(
        "tfr_net",
        (16, 5, 7),
        (9, 20, 13),
        settings={**_TFR_NET, **{f"temporal_heads_{m}": 1 for m in MODALITIES}, "lambda_similarity": 5.0},
    ),
    "gcnet_official": Case("gcnet", (16, 5, 7), (9, 20, 13), settings={**_GCNET, "time_attention": True}),
    "gcnet_official_padded": Case("gcnet", (16, 5, 7), (9, 20, 13), settings={**_GCNET, "mask_padding": False}),
    "mmin_official": Case("mmin", (16, 5, 7), (9, 20, 13), settings={**_MMIN, "mask_padding": False}, gain=1.5),
    "mmin_port": Case("mmin", (16, 5, 7), (1, 1, 1), settings={**_MMIN, "reads": "vector"}, gain=1.5),
    # Stacks from elsewhere: the second stage alone. More than 128 audio steps take the fused attention kernel.
    "mplmm_official": Case("mplmm", (12, 5, 8), (6, 140, 11), settings=_MPLMM | {"type_prompts": "live"}),
    "mplmm_official_released": Case("mplmm", (16, 5, 7), (9, 9, 9), task="emotions", settings=_MPLMM),
    "hme_official": Case("hme", (16, 5, 7), (9, 20, 13), settings=_HME, gain=0.5),
    "momke_official": Case("momke", (16, 5, 7), (9, 20, 13), settings=_MOMKE),
    "momke_official_emotions": Case("momke", (16, 5, 7), (9, 20, 13), task="emotions", settings=_MOMKE),
    "p_rmf_official": Case("p_rmf", (12, 5, 7), (6, 20, 13), settings={"dim": 16, "heads": 2}),
    # As the official settings for CH-SIMS: more tokens than the 8 that are read on.
    "p_rmf_official_context": Case("p_rmf", (12, 5, 7), (6, 20, 13), settings={"dim": 16, "heads": 2, "tokens": 11}),
    "raven_official": Case("raven", (12, 5, 7), (9, 9, 9), settings=_RAVEN),
    # Words have up to 3 frames of the audio, 2 of the vision.
    "raven_official_frames": Case("raven", (12, 5, 7), (9, 27, 13), settings={**_RAVEN, "frames_per_word": 3}),
}


def numbers(shape: tuple[int, ...], key: int) -> Tensor:
    """float32 in [-1/2, 1/2): ``(2654435761 i^2 + 40503 key i + key) mod 2^32 / 2^32 - 1/2`` for i = 1, 2, ..."""
    count = torch.Size(shape).numel()
    i = torch.arange(1, count + 1, dtype=torch.int64)
    words = (2654435761 * i * i + 40503 * key * i + key) & 0xFFFFFFFF
    return (words.double() / 2**32 - 0.5).float().reshape(shape)


def fill(module: torch.nn.Module, gain: float = 1.0) -> None:
    """Set all weights: matrices keep the scale of what passes through them, gains and variances stay near 1."""
    constant = (
        "output_range",
        "output_shift",
        "bank",
    )  # of TFN's scores; HME's training clips, of which there are none
    state = {
        name: value for name, value in module.state_dict().items() if value.is_floating_point() and name not in constant
    }
    with torch.no_grad():
        for key, (name, value) in enumerate(sorted(state.items()), start=1):
            around_one = name.endswith("running_var") or ("norm" in name and name.endswith("weight"))
            scale = gain * 3 / value.shape[1:].numel() ** 0.5 if value.dim() > 1 else 0.6
            value.copy_(numbers(value.shape, key) * scale + around_one)


def build(case: Case) -> MSAMethod:
    """The method of a case with its weights, in evaluation mode and in its last stage."""
    method = method_class(case.method)(case.spec, **case.settings)
    method.enter_stage(method.stages[-1])
    method.eval()
    fill(method, case.gain)
    return method


def batch_of(case: Case) -> Batch:
    """Four clips: whole, with dropped frames, without vision, and padded at the end; the second is of another video."""
    spec = case.spec
    features, masks = {}, {}
    for key, m in enumerate(MODALITIES, start=101):
        shape = (CLIPS, spec.seq_lens[m])
        observed = torch.ones(shape, dtype=torch.bool)
        observed[1, ::2] = False
        observed[2] &= m != "vision"
        observed[3, (spec.seq_lens[m] + 1) // 2 :] = False
        features[m] = numbers((*shape, spec.feature_dims[m]), key) * 3 * observed.unsqueeze(2)
        masks[m] = observed
    valid = {m: torch.ones_like(mask) for m, mask in masks.items()}
    last = {m: torch.full((CLIPS,), spec.seq_lens[m] - 1) for m in MODALITIES}
    place = {"conversation": torch.tensor([0, 1, 0, 0]), "turn": torch.tensor([1, 0, 0, 2])}
    return Batch(features, valid, masks, last, **place)


def outputs(case: Case) -> dict[str, Tensor]:
    """What is kept of a case."""
    with torch.no_grad():
        out = build(case)(batch_of(case))
    assert out.representation is not None
    return {"pred": out.pred, "representation": out.representation}


def kept(name: str) -> dict[str, Tensor]:
    """Stored outputs of a case."""
    stored = json.loads((FOLDER / f"{name}.json").read_text(encoding="utf-8"))
    return {key: torch.tensor(values) for key, values in stored.items()}


def assert_as_kept(name: str) -> None:
    """A case still gives its stored outputs."""
    now = outputs(CASES[name])
    for key, values in kept(name).items():
        torch.testing.assert_close(now[key], values, atol=1e-5, rtol=1e-5)


if __name__ == "__main__":
    for name, case in CASES.items():
        text = json.dumps({key: value.tolist() for key, value in outputs(case).items()})
        (FOLDER / f"{name}.json").write_text(text + "\n", encoding="utf-8")
