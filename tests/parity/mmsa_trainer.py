"""MMSA's models and trainers with pseudo labels (Self-MM, TETFN), without its command line, metrics and BERT."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

from msabench.data.batch import Batch
from msabench.methods.base import MSAMethod
from tests.parity import mmsa
from tests.parity.recorded import fit_recorded
from tests.support.golden_cases import Case

LETTERS = {"text": "t", "audio": "a", "vision": "v"}
BRANCHES = {"joint": "fusion", "text": "text", "audio": "audio", "vision": "vision"}


class _FeaturesAsText(nn.Module):
    """In place of BERT: the text is given as its states."""

    def __init__(self, **settings: object) -> None:
        super().__init__()

    def forward(self, text: Tensor) -> Tensor:
        return text


def model_class(name: str) -> Any:
    """One of MMSA's models, named as its file."""
    module = mmsa.model_module("multiTask", name)
    module.BertTextEncoder = _FeaturesAsText
    return getattr(module, name)


def trainer_class(name: str) -> Any:
    """The trainer of one of MMSA's models."""
    return getattr(mmsa.trainer_module("multiTask", name), name)


def head_settings(settings: dict[str, Any]) -> dict[str, Any]:
    """Widths of the heads and everything else that both models ask for; no dropout."""
    posts = {"fusion": "fusion_width", "text": "width_text", "audio": "width_audio", "video": "width_vision"}
    return {
        "need_data_aligned": False,
        "use_finetune": True,
        "transformers": "bert",
        "pretrained": "",
        **{f"{letter}_lstm_{key}": value for letter in "av" for key, value in (("layers", 1), ("dropout", 0.0))},
        "a_lstm_hidden_size": settings["hidden_audio"],
        "v_lstm_hidden_size": settings["hidden_vision"],
        **{f"post_{theirs}_dim": settings[ours] for theirs, ours in posts.items()},
        **{f"post_{theirs}_dropout": 0.0 for theirs in posts},
    }


def head_name(name: str) -> str:
    """Name there of one of our heads' weights."""
    for ours, theirs in {"joint_head": "fusion", "heads.text": "text", "heads.audio": "audio"}.items():
        name = name.replace(f"{ours}.layer_", f"post_{theirs}_layer_")
    return name.replace("heads.vision.layer_", "post_video_layer_")


def run(model: nn.Module, batch: Batch) -> dict[str, Tensor]:
    """Their outputs for a batch."""
    return model(batch.text, (batch.audio, batch.last["audio"] + 1), (batch.vision, batch.last["vision"] + 1))


def assert_same_outputs(theirs: dict[str, Tensor], method: MSAMethod, batch: Batch) -> float:
    """Scores and features of all branches agree; returns the largest difference."""
    with torch.no_grad():
        ours = method(batch)
    pairs = [(ours.pred, theirs["M"].squeeze(1)), (ours.aux["joint"], theirs["Feature_f"])]
    for m, letter in LETTERS.items():
        pairs.append((ours.unimodal[m], theirs[letter.upper()].squeeze(1)))
        pairs.append((ours.aux[m], theirs[f"Feature_{letter}"]))
    for found, expected in pairs:
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)
    return max(float((found - expected).abs().max()) for found, expected in pairs)


def trainer_settings(clips: int, widths: dict[str, int], **more: object) -> SimpleNamespace:
    """What their trainer reads besides the model's settings."""
    posts = {"joint": "fusion", "text": "text", "audio": "audio", "vision": "video"}
    return SimpleNamespace(
        train_mode="regression",
        dataset_name="mosi",
        device="cpu",
        train_samples=clips,
        excludeZero=True,
        need_data_aligned=False,
        save_labels=False,
        KeyEval="Loss",
        **{f"post_{posts[branch]}_dim": width for branch, width in widths.items()},
        **more,
    )


class Recorded:
    """Their train loader: the recorded epochs, one a pass.

    Args:
        epochs: Batches of each epoch.
        sample: What their loader would give for a batch.
    """

    def __init__(self, epochs: list[list[Batch]], sample: Callable[[Batch], dict[str, Any]]) -> None:
        self.passes = iter(epochs)
        self.batches = len(epochs[0])
        self.sample = sample

    def __len__(self) -> int:
        return self.batches

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return map(self.sample, next(self.passes))


class Replay(Recorded):
    """One pass to label the clips, then the recorded epochs.

    Args:
        epochs: Batches of each epoch.
    """

    def __init__(self, epochs: list[list[Batch]]) -> None:
        super().__init__([epochs[0], *epochs], _labelled)


def _labelled(batch: Batch) -> dict[str, Any]:
    return {
        "text": batch.text,
        "audio": batch.audio,
        "vision": batch.vision,
        "audio_lengths": batch.last["audio"] + 1,
        "vision_lengths": batch.last["vision"] + 1,
        "index": batch.index,
        "id": [],
        "labels": {"M": batch.labels},
    }


class Named(nn.Module):
    """Their wrapper: the trainer looks for the model under this name."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.Model = model

    def forward(self, *inputs: object) -> dict[str, Tensor]:
        return self.Model(*inputs)


RATES = {
    "audio_lr": 5e-3,
    "audio_weight_decay": 1e-2,
    "vision_lr": 1e-3,
    "vision_weight_decay": 0.0,
    "lr": 2e-3,
    "weight_decay": 1e-3,
}
"""Different for every part, so that a parameter in the wrong group shows."""

NO_DROPOUT = dict.fromkeys(("fusion_dropout", "dropout_text", "dropout_audio", "dropout_vision"), 0.0)


def optimiser_settings() -> dict[str, float]:
    """``RATES`` in their words."""
    parts = {"audio": "audio", "video": "vision"}
    return {
        "learning_rate_bert": 0.0,
        "weight_decay_bert": 0.0,
        "learning_rate_other": RATES["lr"],
        "weight_decay_other": RATES["weight_decay"],
        **{f"learning_rate_{theirs}": RATES[f"{ours}_lr"] for theirs, ours in parts.items()},
        **{f"weight_decay_{theirs}": RATES[f"{ours}_weight_decay"] for theirs, ours in parts.items()},
    }


def assert_same_training(
    name: str,
    case: Case,
    official: Callable[[Case, MSAMethod], nn.Module],
    short_name: Callable[[str], str],
    folder: Path,
) -> float:
    """Three epochs of six batches, two of each left over, give the same weights and labels.

    Ours are trained through data module, base and trainer. Returns the largest difference between weights.
    """
    settings = {**case.settings, **NO_DROPOUT}
    method, before, epochs = fit_recorded(case.method, settings, RATES, folder)
    dims = method.spec.feature_dims
    theirs = official(replace(case, dims=(dims["text"], dims["audio"], dims["vision"])), before)
    widths = {branch: settings["fusion_width" if branch == "joint" else f"width_{branch}"] for branch in BRANCHES}
    state = train(
        name,
        trainer_settings(method.spec.n_train, widths, H=3.0, update_epochs=4, **optimiser_settings()),
        theirs,
        epochs,
        folder,
    )
    after, largest = dict(theirs.named_parameters()), 0.0
    for (key, ours), start in zip(method.named_parameters(), before.parameters(), strict=True):
        found, expected = ours.detach(), after[short_name(key)].detach()
        assert not torch.equal(found, start)
        if key.endswith("in_proj_bias"):
            # A bias of the keys shifts all scores alike: its gradient is rounding noise, which Adam makes full steps.
            found, expected = (torch.cat([bias.chunk(3)[i] for i in (0, 2)]) for bias in (found, expected))
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)
        largest = max(largest, float((found - expected).abs().max()))
    for branch, there in BRANCHES.items():
        memory = method.pseudo_labels.branches[branch]
        torch.testing.assert_close(memory.labels, state.label_map[there], atol=1e-5, rtol=0)
    return largest


def train(name: str, settings: SimpleNamespace, model: nn.Module, epochs: list[list[Batch]], folder: Path) -> Any:
    """Train one of their models on recorded batches with their trainer, which comes back with its state."""
    settings.early_stop = len(epochs) - 1
    settings.model_save_path = folder / "model.pt"
    trainer = trainer_class(name)(settings)
    trainer.do_test = lambda *args, **more: {"Loss": 1.0}
    trainer.do_train(Named(model), {"train": Replay(epochs), "valid": None})
    return trainer
