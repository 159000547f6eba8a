"""MISA against its official code and MMSA's port.

MSABENCH_PARITY_MISA: clone of https://github.com/declare-lab/MISA (ec42fad)
MSABENCH_PARITY_MMSA: clone of https://github.com/thuiar/MMSA (a94e65d)
"""

from __future__ import annotations

import importlib
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from msabench.data.batch import Batch
from msabench.methods.misa import MISA
from msabench.testing.corpora import data_module, quiet_trainer, random_corpus
from tests.parity.clones import clone, importing
from tests.parity.mmsa_single import GivenText, model_class, trainer_module
from tests.support.golden_cases import CASES, Case, batch_of, build, kept, numbers

LETTERS = {"text": "t", "vision": "v", "audio": "a"}
CASE = CASES["misa_mmsa"]
SHAPES = {
    "golden": CASE,
    "mosi": Case("misa", (768, 5, 20), (50, 375, 500), settings={"hidden": 128}),
    "sims": Case("misa", (768, 33, 709), (39, 400, 55), settings={"hidden": 128}),
}
VARIANTS = ("default", "adversarial")
UNUSED = ("sp_discriminator.", "tlayer_norm.", "bertmodel.")


def short_name(name: str) -> str:
    """Name there of one of our weights."""
    for m, letter in LETTERS.items():
        number = 3 if m == "audio" else 1
        for ours, theirs in {
            f"sequence.{m}.rnn": f"{letter}rnn",
            f"sequence.{m}.norm.": f"{letter}layer_norm.",
            f"project.{m}.0.": f"project_{letter}.project_{letter}.",
            f"project.{m}.2.": f"project_{letter}.project_{letter}_layer_norm.",
            f"private.{m}.": f"private_{letter}.private_{letter}_{number}.",
            f"reconstruct.{m}.": f"recon_{letter}.recon_{letter}_1.",
            "shared.": "shared.shared_1.",
            "discriminator.0.": "discriminator.discriminator_layer_1.",
            "discriminator.3.": "discriminator.discriminator_layer_2.",
            "fuse.": "transformer_encoder.layers.0.",
            "predict.0.": "fusion.fusion_layer_1.",
            "predict.3.": "fusion.fusion_layer_3.",
        }.items():
            if name.startswith(ours):
                return theirs + name.removeprefix(ours)
    raise KeyError(name)


def copy_weights(ours: nn.Module, theirs: nn.Module) -> None:
    """Copy ours into theirs by name; what is left of theirs is known unused."""
    state = {short_name(name): value for name, value in ours.state_dict().items()}
    missing, unexpected = theirs.load_state_dict(state, strict=False)
    assert not unexpected
    assert all(name.startswith(UNUSED) for name in missing)


def settings_of(case: Case, **more: Any) -> SimpleNamespace:
    return SimpleNamespace(
        feature_dims=list(case.dims),
        hidden_size=case.settings["hidden"],
        dropout=0.0,
        rnncell="lstm",
        use_bert=True,
        use_finetune=True,
        use_cmd_sim=case.settings.get("variant", "default") == "default",
        reverse_grad_weight=0.8,
        train_mode="regression",
        transformers="bert",
        pretrained="",
        **more,
    )


def mmsa(case: Case, ours: nn.Module) -> nn.Module:
    """MMSA's model with our weights."""
    theirs = model_class("MISA")(settings_of(case)).eval()
    copy_weights(ours, theirs)
    return theirs


def run_mmsa(theirs: Any, batch: Batch) -> Tensor:
    """Their score; the text's mask stands where BERT's tokens would."""
    theirs.bertmodel.states = batch.text
    mask = batch.valid["text"].float()
    return theirs(torch.stack([mask, mask, mask], dim=1), batch.audio, batch.vision)["M"].squeeze(1)


def ending_early(batch: Batch) -> Batch:
    """The same clips, all but the first with a shorter text."""
    steps = batch.text.shape[1]
    last = torch.tensor([steps - 1, 0, steps // 2, steps - 2])
    valid = {**batch.valid, "text": torch.arange(steps) <= last[:, None]}
    return replace(batch, valid=valid, last={**batch.last, "text": last})


def assert_same_codes(theirs: Any, aux: dict[str, Tensor]) -> None:
    for i, letter in enumerate(LETTERS.values()):
        for name, attribute in {
            "original": f"utt_{letter}_orig",
            "private": f"utt_private_{letter}",
            "shared": f"utt_shared_{letter}",
            "reconstructed": f"utt_{letter}_recon",
        }.items():
            torch.testing.assert_close(aux[name][:, i], getattr(theirs, attribute), atol=1e-5, rtol=0)


@pytest.mark.parametrize("shape", SHAPES)
def test_mmsa_gives_the_same_numbers(shape: str) -> None:
    case = SHAPES[shape]
    ours = build(case)
    theirs = mmsa(case, ours)
    for batch in (batch_of(case), ending_early(batch_of(case))):
        with torch.no_grad():
            expected, out = run_mmsa(theirs, batch), ours(batch)
        torch.testing.assert_close(out.pred, expected, atol=1e-5, rtol=0)
        assert_same_codes(theirs, out.aux)
        print(f"{shape}: {(out.pred - expected).abs().max():.1e}")
    if shape == "golden":
        expected = run_mmsa(theirs, batch_of(case))
        torch.testing.assert_close(kept("misa_mmsa")["pred"], expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("variant", VARIANTS)
def test_mmsa_gives_the_same_losses_and_gradients(variant: str) -> None:
    case = replace(
        CASE, settings={**CASE.settings, "variant": variant, "reverse_weight": 0.8, "dropout": 0.0, **WEIGHTS}
    )
    ours = build(case)
    batch = replace(ending_early(batch_of(case)), labels=numbers((4,), 9) * 6)
    theirs = mmsa(case, ours)
    settings = settings_of(case, dataset_name="mosi")
    trainer = trainer_module("MISA").MISA(settings)
    trainer.model = SimpleNamespace(Model=theirs)
    # What its constructor forgets.
    trainer.device, trainer.domain_loss_criterion = "cpu", nn.CrossEntropyLoss()

    pred = run_mmsa(theirs, batch)
    expected = {
        "task": trainer.criterion(pred, batch.labels),
        "sim": 0.3 * (trainer.get_cmd_loss() if settings.use_cmd_sim else trainer.get_domain_loss()),
        "diff": 0.1 * trainer.get_diff_loss(),
        "recon": 0.7 * trainer.get_recon_loss(),
    }
    terms = ours.loss(ours.training_forward(batch), batch)
    assert terms.keys() == expected.keys()
    for name, term in terms.items():
        torch.testing.assert_close(term, expected[name], atol=1e-5, rtol=0)
    sum(expected.values()).backward()
    sum(terms.values()).backward()
    gradients = {name: parameter.grad for name, parameter in theirs.named_parameters()}
    for name, parameter in ours.named_parameters():
        torch.testing.assert_close(parameter.grad, gradients[short_name(name)], atol=1e-5, rtol=1e-4)


WEIGHTS = {"lambda_similarity": 0.3, "lambda_difference": 0.1, "lambda_reconstruction": 0.7}


def test_mmsa_trains_to_the_same_weights(tmp_path: Path) -> None:
    """Three epochs of five batches in steps of two, the fifth left over; entries clipped after every batch."""
    data = data_module(random_corpus(sizes=(20, 8, 8), dims={"text": 768, "audio": 5, "vision": 7}), batch_size=4)
    clip, epochs = 0.02, 3
    chosen = {"hidden": 12, "dropout": 0.0, **WEIGHTS, "lr": 1e-3, "gradient_clip": clip, "accumulate": 2}
    method, before = (MISA(data.spec, **chosen).double() for _ in range(2))
    before.load_state_dict(method.state_dict())
    for model in (method, before):
        for module in model.modules():
            if isinstance(module, nn.Dropout):
                module.p = 0.0
        # Attention has a dropout of its own.
        model.fuse.self_attn.dropout = 0.0
    seen: list[Batch] = []
    vectors = method._vectors

    def recording(batch: Batch) -> dict[str, Tensor]:
        batch = replace(batch, features={m: x.double() for m, x in batch.features.items()})
        if method.training:
            seen.append(batch)
        return vectors(batch)

    method._vectors = recording  # type: ignore[method-assign]
    quiet_trainer(tmp_path, epochs).fit(method, datamodule=data)
    assert len(seen) == 15

    case = replace(CASE, dims=(768, 5, 7), settings=chosen)
    theirs = mmsa(case, before).double()
    for module in theirs.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    theirs.transformer_encoder.layers[0].self_attn.dropout = 0.0
    settings = settings_of(
        case,
        dataset_name="mosi",
        device="cpu",
        KeyEval="Loss",
        learning_rate=1e-3,
        update_epochs=2,
        grad_clip=clip,
        diff_weight=0.1,
        sim_weight=0.3,
        recon_weight=0.7,
        early_stop=epochs - 1,
        model_save_path=tmp_path / "model.pt",
        model_name="misa",
        cur_seed=1,
    )
    trainer = trainer_module("MISA").MISA(settings)
    trainer.do_test = lambda *_, **__: {"Loss": 1.0}
    loaders = iter([seen[:5], seen[5:10], seen[10:]])

    class Replay:
        def __len__(self) -> int:
            return 5

        def __iter__(self) -> Any:
            for batch in next(loaders):
                theirs.bertmodel.states = batch.text
                mask = batch.valid["text"].double()
                yield {
                    "text": torch.stack([mask, mask, mask], dim=1),
                    "audio": batch.audio,
                    "vision": batch.vision,
                    "labels": {"M": batch.labels.double()},
                }

    class Named(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.Model = theirs

        def forward(self, *inputs: Tensor) -> dict[str, Tensor]:
            return self.Model(*inputs)

    trainer.do_train(Named(), {"train": Replay(), "valid": None})
    after = dict(theirs.named_parameters())
    start = dict(before.named_parameters())
    largest = 0.0
    for name, parameter in method.named_parameters():
        torch.testing.assert_close(parameter, after[short_name(name)], atol=1e-7, rtol=0)
        assert not torch.equal(parameter, start[name])
        largest = max(largest, float((parameter - after[short_name(name)]).detach().abs().max()))
    print(f"training: {largest:.1e}")


def official(case: Case, ours: nn.Module, bert: nn.Module, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Their model with our weights and a BERT."""
    with importing(clone("MSABENCH_PARITY_MISA") / "src"):
        models = importlib.import_module("models")
    sizes = dict(zip(("embedding_size", "acoustic_size", "visual_size"), case.dims, strict=True))
    settings = settings_of(case, **sizes, num_classes=1, activation=nn.ReLU)
    with monkeypatch.context() as patched:
        patched.setattr(models.BertConfig, "from_pretrained", lambda *_, **__: None)
        patched.setattr(models.BertModel, "from_pretrained", lambda *_, **__: bert)
        theirs = models.MISA(settings).eval()
    copy_weights(ours, theirs)
    return theirs


def test_official_code_gives_the_same_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Word-aligned clips, longest first, time first."""
    case = CASES["misa_official"]
    stub, ours = GivenText(), build(case)
    theirs = official(case, ours, stub, monkeypatch)
    whole = batch_of(case)
    last = torch.tensor([8, 6, 6, 2])
    mask = torch.arange(9) <= last[:, None]
    short = replace(whole, valid=dict.fromkeys(whole.valid, mask), last=dict.fromkeys(whole.last, last))
    for batch in (whole, short):
        stub.states = (batch.text,)
        valid = batch.valid["text"].float()
        with torch.no_grad():
            time_first = batch.vision.transpose(0, 1), batch.audio.transpose(0, 1), batch.last["text"] + 1
            expected = theirs(None, *time_first, None, None, valid).squeeze(1)
            out = ours(batch)
        torch.testing.assert_close(out.pred, expected, atol=1e-5, rtol=0)
        assert_same_codes(theirs, out.aux)
        if batch is whole:
            torch.testing.assert_close(kept("misa_official")["pred"], expected, atol=1e-5, rtol=0)
        print(f"official: {(out.pred - expected).abs().max():.1e}")
