"""ShaSpec: what stands for a missing modality, what the losses count, and its stages."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn import functional as F

from msabench.data.batch import Batch
from msabench.data.info import DataSpec
from msabench.errors import MSABenchError
from msabench.methods.shaspec import ShaSpec, modality_loss, shared_distance
from msabench.missingness.conditions import MODALITIES
from msabench.testing.corpora import tokens_of
from tests.support.golden_cases import fill
from tests.support.small_bert import save_small_bert

DIMS = {"text": 6, "audio": 3, "vision": 4}
STEPS = {"text": 5, "audio": 11, "vision": 8}
SPEC = DataSpec(DIMS, STEPS, task="regression", metric_set="sentiment")
SUBSETS = ("l", "a", "v", "la", "lv", "av", "lav", "")
LETTERS = dict(zip("lav", MODALITIES, strict=True))
SMALL: dict[str, Any] = {"dim": 8, "heads": 2, "layers": 1, "complete_epochs": 1}


def made(stage: str = "task", spec: DataSpec = SPEC, **arguments: Any) -> ShaSpec:
    method = ShaSpec(spec, **{**SMALL, **arguments}).eval()
    fill(method)
    method.enter_stage(stage)
    return method


def there(*subsets: str) -> torch.Tensor:
    return torch.tensor([[letter in subset for letter in "lav"] for subset in subsets])


def clips(*subsets: str, seed: int = 0) -> Batch:
    n, generator = len(subsets), torch.Generator().manual_seed(seed)
    features, observed = {}, {}
    for column, m in enumerate(MODALITIES):
        seen = there(*subsets)[:, column, None].expand(n, STEPS[m])
        features[m] = torch.randn(n, STEPS[m], DIMS[m], generator=generator) * seen.unsqueeze(2)
        observed[m] = seen
    valid = {m: torch.ones_like(mask) for m, mask in observed.items()}
    last = {m: torch.full((n,), STEPS[m] - 1) for m in MODALITIES}
    return Batch(features, valid, observed, last, labels=torch.linspace(-2, 2, n))


@pytest.mark.parametrize("substitute", ["first", "random", "mean"])
def test_shared_codes_stand_for_what_is_missing(substitute: str) -> None:
    method = made(substitute=substitute)
    s, p = torch.randn(8, 3, 8), torch.randn(8, 3, 8)
    with torch.no_grad():
        f = method.fused(s, p, there(*SUBSETS))
    for row, subset in enumerate(SUBSETS):
        present = [column for column, letter in enumerate("lav") if letter in subset]
        for column in range(3):
            if column in present:
                both = torch.cat([s[row, column], p[row, column]])
                expected = s[row, column] + method.join.weight @ both + method.join.bias
            elif not present:
                expected = s[row, column]
            else:
                expected = s[row, present].mean(0) if substitute == "mean" else s[row, present[0]]
            torch.testing.assert_close(f[row, column], expected)


def test_a_random_substitute_is_drawn_among_what_is_there_in_training_alone() -> None:
    method = made(substitute="random").train()
    torch.manual_seed(0)
    present = there("lv").expand(4000, 3)
    s = torch.arange(3.0)[None, :, None].expand(4000, 3, 8)
    with torch.no_grad():
        taken = method.fused(s, s, present)[:, 1, 0]
        assert set(taken.tolist()) == {0.0, 2.0}
        assert (taken == 0).float().mean().item() == pytest.approx(0.5, abs=0.03)
        assert set(method.eval().fused(s, s, present)[:, 1, 0].tolist()) == {0.0}


def test_a_missing_modality_is_not_joined_with_its_specific_code() -> None:
    method, present = made(), there("lv")
    s, p = torch.randn(1, 3, 8), torch.randn(1, 3, 8, requires_grad=True)
    (gradient,) = torch.autograd.grad(method.fused(s, p, present).sum(), p)
    assert gradient.abs().sum(2).bool().tolist() == present.tolist()


def test_losses_by_hand() -> None:
    s = torch.tensor([[[0.0, 0], [1, 3], [5, 5]], [[0, 0], [0, 0], [2, 2]]])
    everything = torch.ones(2, 3, dtype=torch.bool)
    # Pairs l-a, a-v, v-l: (2 + 0) / 2, (3 + 2) / 2, (5 + 2) / 2.
    assert shared_distance(s, everything).item() == pytest.approx(1 + 2.5 + 3.5)
    # The second clip has no vision, the first no text: l-a from the second, a-v from the first, v-l from nobody.
    assert shared_distance(s, there("av", "la")).item() == pytest.approx(0 + 3)
    logits = torch.log(torch.tensor([[[0.5, 0.25, 0.25], [0.2, 0.6, 0.2], [0.1, 0.1, 0.8]]]))
    each = -torch.log(torch.tensor([0.5, 0.6, 0.8]))
    assert modality_loss(logits, everything[:1]).item() == pytest.approx(each.mean().item())
    assert modality_loss(logits, there("lv")).item() == pytest.approx(each[[0, 2]].mean().item())
    nobody = there("", "")
    assert shared_distance(s, nobody).item() == modality_loss(logits.expand(2, 3, 3), nobody).item() == 0


@pytest.mark.parametrize(("counted", "reached"), [("official", True), ("present", False)])
def test_missing_modalities_count_in_the_losses_or_not(counted: str, reached: bool) -> None:
    method, batch = made(missing_in_losses=counted, lambda_shared=2.0, lambda_specific=3.0), clips("l", "lv", "l")
    out = method.training_forward(batch)
    terms = method.loss(out, batch)
    (terms["shared"] + terms["specific"]).backward()
    audio = any(p.grad is not None and bool(p.grad.any()) for p in method.specific["audio"].parameters())
    assert audio == reached
    present = torch.ones(3, 3, dtype=torch.bool) if reached else there("l", "lv", "l")
    torch.testing.assert_close(terms["shared"], 2 * shared_distance(out.aux["shared"], present))
    torch.testing.assert_close(terms["specific"], 3 * modality_loss(method.which(out.aux["specific"]), present))
    assert set(terms) == {"task", "shared", "specific"}
    torch.testing.assert_close(terms["task"], F.l1_loss(out.pred, batch.labels))


def test_one_encoder_is_shared_and_three_are_not() -> None:
    method = made()
    same = torch.randn(2, 5, 8)
    everything = torch.ones(2, 5, dtype=torch.bool)
    with torch.no_grad():
        codes = [method.specific[m](same, everything) for m in MODALITIES]
    assert not torch.equal(codes[0], codes[1])
    numbers = {part: sum(p.numel() for p in module.parameters()) for part, module in method.named_children()}
    assert numbers["specific"] == 3 * numbers["shared"]


def test_numbers_of_weights() -> None:
    steps = {"text": 50, "audio": 375, "vision": 500}
    mosi = DataSpec({"text": 768, "audio": 5, "vision": 20}, steps, task="regression", metric_set="sentiment")
    assert sum(p.numel() for p in ShaSpec(mosi).parameters()) == 2_066_308


def test_the_first_stage_sees_complete_clips() -> None:
    method = made("complete")
    batch = replace(clips("l", "a", "av"), complete=clips("lav", "lav", "lav", seed=1))
    with torch.no_grad():
        assert torch.equal(method.training_forward(batch).pred, method(batch.complete).pred)
        method.enter_stage("task")
        assert torch.equal(method.training_forward(batch).pred, method(batch).pred)
    assert made(complete_epochs=0).stages == ("task",)


def test_a_removed_text_is_zero_whatever_a_text_encoder_makes_of_its_tokens(tmp_path: Path) -> None:
    method = made(text_encoder=save_small_bert(tmp_path, 6))
    batch = clips("av", "lav")
    del batch.features["text"]
    tokens = [tokens_of(torch.tensor([5, 5]), 5, torch.Generator().manual_seed(seed)) for seed in (0, 1)]
    with torch.no_grad():
        one, other = (method(replace(batch, tokens=ids, text_level="tokens")) for ids in tokens)
    assert torch.equal(one.aux["shared"][0], other.aux["shared"][0])
    assert not torch.equal(one.aux["shared"][1], other.aux["shared"][1])


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"substitute": "all"}, "substitute"),
        ({"missing_in_losses": "none"}, "missing_in_losses"),
        ({"lambda_shared": -1.0}, "lambda_shared -1.0 and lambda_specific 0.02 must not be negative"),
        ({"complete_epochs": -1}, "complete_epochs -1 is not allowed; give 0 for none, or more"),
        ({"dim": 10, "heads": 4}, "dim 10 with 4 heads is not allowed"),
    ],
)
def test_bad_arguments_are_refused(arguments: dict[str, Any], said: str) -> None:
    with pytest.raises(MSABenchError, match=said):
        ShaSpec(SPEC, **arguments)
