"""Configs against the settings that official code is published with.

MSABENCH_PARITY_MMSA: clone of https://github.com/thuiar/MMSA (a94e65d)
MSABENCH_PARITY_DMD: clone of https://github.com/mdswyz/DMD (516d4e1)
MSABENCH_PARITY_EMOE: clone of https://github.com/fuyyyyy/EMOE (c4759c7)
"""

from __future__ import annotations

import inspect
import json
from pathlib import Path
from typing import Any

import pytest

from msabench.methods.registry import method_class
from msabench.training.config_files import config_of
from tests.parity.clones import clone

CONFIGS = Path(__file__).parents[2] / "configs"
MMSA = ("MSABENCH_PARITY_MMSA", "src/MMSA/config/config_regression.json")

# Ours -> theirs; a dot goes into a list or a dict.
_CROSSMODAL = {
    "dim": "dst_feature_dim_nheads.0",
    "heads": "dst_feature_dim_nheads.1",
    "layers": "nlevels",
    "kernel_size_text": "conv1d_kernel_size_l",
    "kernel_size_audio": "conv1d_kernel_size_a",
    "kernel_size_vision": "conv1d_kernel_size_v",
    "dropout_text": "text_dropout",
    "attn_dropout_text": "attn_dropout",
    "attn_dropout_audio": "attn_dropout_a",
    "attn_dropout_vision": "attn_dropout_v",
    "relu_dropout": "relu_dropout",
    "embed_dropout": "embed_dropout",
    "res_dropout": "res_dropout",
    "lr_patience": "patience",
}
_RATES = ("attn_dropout_text", "attn_dropout_audio", "attn_dropout_vision")
_RATES += ("relu_dropout", "embed_dropout", "res_dropout")
_BERT = {"text_encoder": "pretrained", "finetune": "use_finetune"}
_HIDDEN = {"hidden_text": "hidden_dims.0", "hidden_audio": "hidden_dims.1", "hidden_vision": "hidden_dims.2"}
_DROPOUTS = {"dropout_audio": "dropouts.0", "dropout_vision": "dropouts.1"}
_MEMORY = {
    **_HIDDEN,
    "memory": "memsize",
    "retain_width": "gamma1Config.shapes",
    "retain_dropout": "gamma1Config.drop",
    "update_width": "gamma2Config.shapes",
    "update_dropout": "gamma2Config.drop",
}
_MEMORY_PAIR = {
    **_MEMORY,
    "attend_width": "NN1Config.shapes",
    "attend_dropout": "NN1Config.drop",
    "propose_width": "NN2Config.shapes",
    "propose_dropout": "NN2Config.drop",
}
_OUT = {"out_width": "outConfig.shapes", "out_dropout": "outConfig.drop"}
_ADAM = {"lr": "learning_rate", "weight_decay": "weight_decay"}
_HEADS = {
    "hidden_audio": "a_lstm_hidden_size",
    "hidden_vision": "v_lstm_hidden_size",
    "fusion_width": "post_fusion_dim",
    "width_text": "post_text_dim",
    "width_audio": "post_audio_dim",
    "width_vision": "post_video_dim",
    "fusion_dropout": "post_fusion_dropout",
    "dropout_text": "post_text_dropout",
    "dropout_audio": "post_audio_dropout",
    "dropout_vision": "post_video_dropout",
    "label_bound": "H",
    "text_lr": "learning_rate_bert",
    "text_weight_decay": "weight_decay_bert",
    "audio_lr": "learning_rate_audio",
    "audio_weight_decay": "weight_decay_audio",
    "vision_lr": "learning_rate_video",
    "vision_weight_decay": "weight_decay_video",
    "lr": "learning_rate_other",
    "weight_decay": "weight_decay_other",
    "accumulate": "update_epochs",
    **_BERT,
}

_MFM_SIZES = {
    f"{ours}_{part}": f"{letter}{m}_size"
    for ours, letter in (("latent", "z"), ("factor", "f"))
    for part, m in (("joint", "y"), ("text", "l"), ("audio", "a"), ("vision", "v"))
}
_MFM_DROPOUTS = {
    f"factor_dropout_{part}": f"z{m}_to_f{m}_dropout"
    for part, m in (("joint", "y"), ("text", "l"), ("audio", "a"), ("vision", "v"))
}
# Method -> ours: theirs. What is written there and read by no code is left out.
SETTINGS: dict[str, dict[str, str]] = {
    "lf_dnn": {**_HIDDEN, **_DROPOUTS, **_ADAM, "fusion_dropout": "dropouts.3", "out_text": "text_out"}
    | {"fusion_width": "post_fusion_dim"},
    "tfn": {**_HIDDEN, **_DROPOUTS, "fusion_dropout": "dropouts.3", "out_text": "text_out", "lr": "learning_rate"}
    | {"fusion_width": "post_fusion_dim"},
    "lmf": {**_HIDDEN, **_DROPOUTS, **_ADAM, "rank": "rank", "factor_lr": "factor_lr"},
    "mfn": {**_MEMORY_PAIR, **_OUT, **_ADAM},
    "graph_mfn": {**_MEMORY, **_OUT, **_ADAM, "node_width": "inner_node_dim"}
    | {"propose_width": "NNConfig.shapes", "propose_dropout": "NNConfig.drop"},
    "mfm": {**_MEMORY_PAIR, **_MFM_SIZES, **_MFM_DROPOUTS, "out_dropout": "fy_to_y_dropout"}
    | {"lambda_mmd": "lda_mmd", "lambda_text": "lda_xl", "lambda_audio": "lda_xa", "lambda_vision": "lda_xv"}
    | {"weight_decay": "weight_decay"},
    "mult": {**_CROSSMODAL, "out_dropout": "output_dropout", "lr": "learning_rate", "gradient_clip": "grad_clip"}
    | {"accumulate": "update_epochs"},
    "misa": {"hidden": "hidden_size", "dropout": "dropout", "lambda_similarity": "sim_weight", **_BERT}
    | {"lambda_difference": "diff_weight", "lambda_reconstruction": "recon_weight", "gradient_clip": "grad_clip"}
    | {"accumulate": "update_epochs", "lr": "learning_rate", "text_lr": "learning_rate"},
    "mmim": {"hidden": "d_ah", "dim": "d_aout", "fusion_width": "d_prjh", "dropout": "dropout_prj", **_BERT}
    | {"bidirectional": "bidirectional", "lambda_cpc": "alpha", "lambda_bounds": "beta", "text_lr": "lr_bert"}
    | {"lr": "lr_main", "bounds_lr": "lr_mmilb", "weight_decay": "weight_decay_main", "lr_patience": "when"}
    | {"gradient_clip": "grad_clip"},
    "self_mm": {**_HEADS, "out_audio": "audio_out", "out_vision": "video_out"},
    "tetfn": {
        **_HEADS,
        "dim": "dst_feature_dims",
        "heads": "nheads",
        # That of vision's kernel is read by nobody.
        **{name: _CROSSMODAL[name] for name in ("kernel_size_text", "kernel_size_audio", *_RATES)},
    },
    "tfr_net": {
        **_CROSSMODAL,
        **{f"hidden_{m}": f"fusion_{m[0]}_hid" for m in ("text", "audio", "vision")},
        **{f"lambda_{m}": f"weight_gen_loss.{i}" for i, m in enumerate(("text", "audio", "vision"))},
        "gru_layers": "fusion_gru_layers",
        "fusion_width": "cls_hidden_dim",
        "fusion_dropout": "fusion_drop",
        "out_dropout": "cls_dropout",
        "lambda_similarity": "weight_sim_loss",
        "text_encoder": "pretrained",
        "finetune": "use_bert_finetune",
        "text_lr": "learning_rate_bert",
        "text_weight_decay": "weight_decay_bert",
        "lr": "learning_rate_other",
        "weight_decay": "weight_decay_other",
        "gradient_clip": "grad_clip",
        "accumulate": "update_epochs",
    },
    "cenet": {**_BERT, **_ADAM, "text_lr": "learning_rate", "adam_eps": "adam_epsilon"}
    | {"gradient_clip": "max_grad_norm"},
    "dmd": {**_CROSSMODAL, **_BERT, "out_dropout": "output_dropout", "lr": "learning_rate"}
    | {"text_lr": "learning_rate", "gradient_clip": "grad_clip", "accumulate": "update_epochs"},
    "emoe": {**_CROSSMODAL, **_BERT, "out_dropout": "output_dropout", "lr": "learning_rate"}
    | {
        "text_lr": "learning_rate",
        "accumulate": "update_epochs",
        "fusion": "fusion_method",
        "temperature": "temperature",
    },
}
# MulT's other configs are those of its paper.
ELSEWHERE = {("mult", "mosi"), ("mult", "mosei")}
# Settings of the authors' code that MMSA has changed; the configs' comments say so.
DEPARTURES = {
    ("mmim", "mosi"): ("bidirectional", "early_stop"),
    ("mmim", "mosei"): ("bidirectional", "early_stop"),
    ("tfr_net", "mosi"): ("lambda_similarity", "lr", "text_lr"),
}
SOURCES = {"dmd": ("MSABENCH_PARITY_DMD", "config/config.json"), "emoe": ("MSABENCH_PARITY_EMOE", "config/config.json")}


def theirs_for(method: str, corpus: str) -> dict[str, Any] | None:
    """Their settings of a method for a corpus; None where they have none."""
    variable, path = SOURCES.get(method, MMSA)
    settings = json.loads((clone(variable) / path).read_text(encoding="utf-8"))[method]
    of_corpus = settings["datasetParams"].get(corpus)
    return None if of_corpus is None else {**settings["commonParams"], **of_corpus}


def looked_up(settings: Any, path: str) -> Any:
    for part in path.split("."):
        settings = settings[int(part)] if isinstance(settings, list) else settings[part]
    return settings


@pytest.mark.parametrize("corpus", ["mosi", "mosei", "sims"])
@pytest.mark.parametrize("method", SETTINGS)
def test_config_has_the_published_settings(method: str, corpus: str) -> None:
    theirs = theirs_for(method, corpus)
    if theirs is None or (method, corpus) in ELSEWHERE:
        pytest.skip(f"the settings of {method} for {corpus} are not from there")
    config = config_of(CONFIGS / f"{method}_{corpus}.yaml")
    defaults = inspect.signature(method_class(method).__init__).parameters
    ours = {**{name: p.default for name, p in defaults.items()}, **config["model"]["init_args"]}
    aligned = theirs["need_data_aligned"] and corpus != "sims"  # of which there is no aligned file
    found = {"batch_size": config["data"]["batch_size"], "early_stop": config["early_stop"]}
    found |= {"features": config["data"]["features"]} | {name: ours[name] for name in SETTINGS[method]}
    expected = {"batch_size": theirs["batch_size"], "early_stop": theirs["early_stop"]}
    expected |= {"features": f"mmsa-{'aligned' if aligned else 'unaligned'}"}
    expected |= {name: looked_up(theirs, path) for name, path in SETTINGS[method].items()}
    for name in DEPARTURES.get((method, corpus), ()):
        assert found[name] != expected.pop(name)
        del found[name]
    assert found == expected
