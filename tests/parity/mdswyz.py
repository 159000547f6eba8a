"""What the official codes of DiCMoR and IMDer have in common: names of weights, settings, patterns, clips."""

from __future__ import annotations

import importlib
from dataclasses import replace
from pathlib import Path
from types import ModuleType, SimpleNamespace

import torch
from torch import Tensor, nn

from msabench.data.batch import Batch
from msabench.methods.base import Output
from msabench.methods.recovering import Recovering
from msabench.missingness.conditions import LETTERS, MODALITIES, SUBSETS
from msabench.testing.corpora import tokens_of
from tests.parity.clones import clone, importing
from tests.support.golden_cases import Case, numbers

PATTERNS = SUBSETS
"""Letters of what is there."""
OF_THEIRS = {"text": 0, "vision": 1, "audio": 2}
LABELS = torch.tensor([2.5, 0.5, -1.6, 3.0])
"""Of which two are halfway between classes."""
_BLOCK = {"conv1": "body.0", "conv2": "body.2", "squeeze": "body.3.conv_du.0", "excite": "body.3.conv_du.2"}


def model_module(variable: str, name: str) -> ModuleType:
    """A file of theirs with a network."""
    with importing(clone(variable), "trains", "trains.singleTask", "trains.singleTask.model"):
        return importlib.import_module(f"trains.singleTask.model.{name}")


def settings_of(case: Case) -> SimpleNamespace:
    dropouts = ("attn_dropout", "attn_dropout_a", "attn_dropout_v", "relu_dropout", "embed_dropout", "res_dropout")
    return SimpleNamespace(
        use_bert=False,
        dst_feature_dim_nheads=(32, case.settings["heads"]),
        feature_dims=case.dims,
        nlevels=case.settings["layers"],
        attn_mask=True,
        output_dropout=0.0,
        text_dropout=0.0,
        train_mode="regression",
        **dict.fromkeys(dropouts, 0.0),
        **{f"conv1d_kernel_size_{letter}": case.settings["kernel_size"] for letter in LETTERS},
    )


def shared_names(ours: Recovering) -> dict[str, Tensor]:
    """Those of our weights that both methods have, by their name and in their shape."""
    theirs: dict[str, Tensor] = {}
    for letter, m in LETTERS.items():
        theirs[f"proj_{letter}.weight"] = ours.project[m].conv.weight
        refine, place = ours.refine[m], f"rec_{letter}"
        _take(theirs, f"{place}.0", refine.widen)
        _take(theirs, f"{place}.2", refine.narrow)
        for number, block in enumerate(refine.blocks):
            for part, name in _BLOCK.items():
                _take(theirs, f"{place}.1.body.{number}.{name}", block.get_submodule(part))
        _take(theirs, f"{place}.1.body.{len(refine.blocks)}", refine.last)
        _encoder(theirs, f"trans_{letter}_mem", ours.head.memory[m])
        for other, source in LETTERS.items():
            if source != m:
                _encoder(theirs, f"trans_{letter}_with_{other}", ours.head.cross[f"{m}_from_{source}"])
    for name in ("proj1", "proj2", "out_layer"):
        theirs |= {f"{name}.{key}": value for key, value in ours.head.output.get_submodule(name).named_parameters()}
    return {name: value.detach() for name, value in theirs.items()}


def as_convolution(name: str, linear: nn.Module) -> dict[str, Tensor]:
    """A linear layer as a convolution of kernel 1; a convolution as it is."""
    weight = linear.weight.detach()
    return {
        f"{name}.weight": weight.unsqueeze(2) if weight.dim() == 2 else weight,
        f"{name}.bias": linear.bias.detach(),
    }


def _take(theirs: dict[str, Tensor], name: str, part: nn.Module) -> None:
    theirs |= as_convolution(name, part)


def _encoder(theirs: dict[str, Tensor], name: str, part: nn.Module) -> None:
    theirs |= {f"{name}.{key}": value for key, value in part.named_parameters()}


def clips_of(case: Case) -> Batch:
    """Clips of unequal length, the longest first, padded at the end, with nothing missing; tokens beside features."""
    steps = case.steps[0]
    lengths = torch.tensor([steps, steps - 2, (steps + 1) // 2, steps // 3])
    valid = torch.arange(steps) < lengths[:, None]
    features = {
        m: numbers((4, steps, size), key) * 3 * valid.unsqueeze(2)
        for key, (m, size) in enumerate(zip(MODALITIES, case.dims, strict=True), start=101)
    }
    masks = dict.fromkeys(MODALITIES, valid)
    last = dict.fromkeys(MODALITIES, lengths - 1)
    tokens = tokens_of(lengths, steps, torch.Generator().manual_seed(0))
    whole = Batch(features, masks, masks, last, tokens=tokens, labels=LABELS)
    return replace(whole, complete=whole)


def keeping(batch: Batch, letters: str) -> Batch:
    """The clips with these modalities alone; complete ones still beside them."""
    kept = [LETTERS[letter] for letter in letters]
    features = {m: x if m in kept else torch.zeros_like(x) for m, x in batch.features.items()}
    observed = {m: x if m in kept else torch.zeros_like(x) for m, x in batch.observed.items()}
    valid = {m: x if m in kept else torch.ones_like(x) for m, x in batch.valid.items()}
    last = {m: x if m in kept else torch.full_like(x, batch.valid[m].shape[1] - 1) for m, x in batch.last.items()}
    return replace(batch, features=features, observed=observed, valid=valid, last=last)


def chosen_there(letters: str) -> list[int]:
    """What their ``sample`` is to draw for a pattern."""
    return [OF_THEIRS[LETTERS[letter]] for letter in letters]


def official_encoder(variable: str, bert: nn.Module) -> nn.Module:
    """What a clone reads tokens with, around our BERT."""
    with importing(clone(variable), "trains", "trains.subNets"):
        made: nn.Module = importlib.import_module("trains.subNets.BertTextEncoder").BertTextEncoder.__new__(
            importlib.import_module("trains.subNets.BertTextEncoder").BertTextEncoder
        )
    nn.Module.__init__(made)
    made.model, made.use_finetune = bert, True
    return made


def training_terms(ours: Recovering, batch: Batch) -> tuple[Output, dict[str, Tensor]]:
    """Our prediction and loss terms on a training batch, without gradients."""
    with torch.no_grad():
        out = ours.training_forward(batch)
        return out, ours.loss(out, batch)


def bert_of(folder: Path) -> nn.Module:
    from transformers import BertModel

    bert: nn.Module = BertModel.from_pretrained(folder).eval()
    return bert
