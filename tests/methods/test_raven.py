"""RAVEN: frames of words against loops, gates and shifts by hand, and what a prediction depends on."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from msabench.data.batch import Batch
from msabench.data.info import DataSpec
from msabench.errors import MSABenchError
from msabench.methods import raven
from msabench.methods.raven import RAVEN, frames_of_words
from msabench.missingness.conditions import MODALITIES, Cell
from msabench.testing.corpora import DIMS, data_module, random_corpus, with_other_content
from tests.support import golden_cases

SMALL = {"cell": 5, "hidden": 6}


def build(spec: DataSpec, **arguments: object) -> RAVEN:
    torch.manual_seed(0)
    return RAVEN(spec, **{**SMALL, **arguments}).eval()


def spec(text: int = 8, audio: int = 8, vision: int = 8) -> DataSpec:
    return DataSpec(DIMS, {"text": text, "audio": audio, "vision": vision})


def batch_of(valid: dict[str, list[str]], observed: dict[str, list[str]] | None = None, seed: int = 0) -> Batch:
    """Random clips whose existing and observed steps are written as ``"-xx"``."""
    generator = torch.Generator().manual_seed(seed)
    masks = [
        {m: torch.tensor([[c == "x" for c in row] for row in rows]) for m, rows in which.items()}
        for which in (valid, {**valid, **(observed or {})})
    ]
    shapes = {m: (*mask.shape, DIMS[m]) for m, mask in masks[1].items()}
    features = {m: torch.randn(shape, generator=generator) * masks[1][m].unsqueeze(2) for m, shape in shapes.items()}
    steps = {m: torch.arange(mask.shape[1]) for m, mask in masks[0].items()}
    return Batch(features, *masks, {m: (mask * steps[m]).argmax(1) for m, mask in masks[0].items()})


# Which frames belong to a word.


def test_aligned_frames_are_those_of_the_word() -> None:
    batch = batch_of(
        {"text": ["xxx-", "-xxx"], "audio": ["xxx-", "-xxx"], "vision": ["xxx-", "-xxx"]},
        {"audio": ["x-x-", "--xx"]},
    )
    frames, counts = frames_of_words(batch, "audio", 20)
    assert frames.shape == (2, 4, 1, DIMS["audio"])
    assert torch.equal(frames[0, :, 0], batch.audio[0])
    assert torch.equal(frames[1, :3, 0], batch.audio[1, 1:])
    assert counts.tolist() == [[1, 0, 1, 0], [0, 1, 1, 0]]


def test_other_frames_are_dealt_out_evenly() -> None:
    """8 frames to 3 words: 2, 3, 3. 2 frames to 4 words: none, one, none, one. What is padding is nobody's."""
    text = ["xxx-", "xxxx"]
    batch = batch_of({"text": text, "audio": ["-xxxxxxxx-", "xx--------"], "vision": text})
    frames, counts = frames_of_words(batch, "audio", 4)
    assert frames.shape == (2, 4, 4, DIMS["audio"])
    assert counts.tolist() == [[2, 3, 3, 0], [0, 1, 0, 1]]
    for word, own in enumerate([[1, 2], [3, 4, 5], [6, 7, 8], []]):
        assert torch.equal(frames[0, word, : len(own)], batch.audio[0, own])
        assert not frames[0, word, len(own) :].any()
    assert torch.equal(frames[1, 1, 0], batch.audio[1, 0])
    assert torch.equal(frames[1, 3, 0], batch.audio[1, 1])


def test_words_keep_their_first_frames_up_to_the_last_observed() -> None:
    text = ["xx"]
    batch = batch_of({"text": text, "audio": ["xxxxxxxxxx"], "vision": text}, {"audio": ["x-x--xxxxx"]})
    frames, counts = frames_of_words(batch, "audio", 20)
    assert counts.tolist() == [[3, 5]]
    assert not frames[0, 0, 1].any()
    frames, counts = frames_of_words(batch, "audio", 2)
    assert frames.shape == (1, 2, 2, DIMS["audio"])
    assert counts.tolist() == [[1, 2]]


def test_a_missing_modality_has_no_frames() -> None:
    text = ["xx-"]
    batch = batch_of({"text": text, "audio": ["xxxxx"], "vision": ["---"]}, {"audio": ["-----"]})
    for m in ("audio", "vision"):
        assert not frames_of_words(batch, m, 20)[1].any()


# Gates and shifts.


def state_by_hand(part: raven._Nonverbal, frames: Tensor, word: Tensor, rule: str) -> Tensor:
    """The gated state of one word with at least one frame, none of them padding."""
    states, _ = part.lstm(part.resize(frames).unsqueeze(0))
    gate = part.gate.weight[0] @ torch.cat([states[0, -1], word]) + part.gate.bias
    return states[0, -1] * (1 / (1 + torch.exp(-gate)) if rule == "paper" else gate)


@pytest.mark.parametrize("rule", ["code", "paper"])
def test_a_word_reads_its_frames_and_no_others(rule: str) -> None:
    part = build(spec(text=2, vision=9), gate_rule=rule).vision
    torch.manual_seed(1)
    frames, words, counts = torch.randn(2, 2, 3, 7), torch.randn(2, 2, 12), torch.tensor([[3, 1], [0, 2]])
    got = part(frames, counts, words)
    for clip, word in ((0, 0), (0, 1), (1, 1)):
        count = int(counts[clip, word])
        expected = state_by_hand(part, frames[clip, word, :count], words[clip, word], rule)
        torch.testing.assert_close(got[clip, word], expected)
    assert not got[1, 0].any()


@pytest.mark.parametrize("size", [0.1, 30.0])
@pytest.mark.parametrize("rule", ["code", "paper"])
def test_length_of_a_shift(rule: str, size: float) -> None:
    """Raw shifts shorter and longer than 1 and than the words allow."""
    method = build(spec(), shift_rule=rule, shift_weight=0.3)
    with torch.no_grad():
        method.shift.weight *= size
        method.shift.bias *= size
    batch = batch_of(dict.fromkeys(MODALITIES, ["xxxxxxxx"] * 3), {"text": ["xxxx-xxx"] * 3})
    words = batch.text.clone()
    words[0] *= 0.1
    parts = [getattr(method, m)(*frames_of_words(batch, m, 20), words) for m in ("audio", "vision")]
    raw = method.shift(torch.cat(parts, 2))
    shifts = method._shifts(words, batch)
    lengths = raw.square().sum(2).sqrt()
    assert (lengths.min() > 1) if size > 1 else (lengths.max() < 1)
    for clip in range(3):
        for t in range(8):
            limit, s = 0.3 * words[clip, t].square().sum().sqrt(), raw[clip, t]
            by_code, by_paper = limit / max(lengths[clip, t], 1), min(limit / lengths[clip, t], 1)
            expected = s * (by_code if rule == "code" else by_paper)
            torch.testing.assert_close(shifts[clip, t], expected)
            assert shifts[clip, t].square().sum().sqrt() <= limit + 1e-6
    assert not shifts[:, 4].any()  # a missing word stays where it is


def test_prediction_is_from_the_shifted_words_up_to_the_last() -> None:
    method = build(spec())
    rows = ["xxxxxxxx", "xxx-----", "--xxxxxx"]
    batch = batch_of(dict.fromkeys(MODALITIES, rows))
    out = method(batch)
    order = [list(range(8)), list(range(8)), [2, 3, 4, 5, 6, 7, 0, 1]]
    words = torch.stack([batch.text[clip, steps] for clip, steps in enumerate(order)])
    shifted = words + method._shifts(words, batch)
    for clip, n in enumerate((8, 3, 6)):
        state = method.lstm(shifted[clip : clip + 1, :n])[0][0, -1]
        torch.testing.assert_close(out.representation[clip], state)
        torch.testing.assert_close(out.pred[clip], method.head(state)[0])


def test_without_text_a_prediction_is_constant_and_with_it_all_count() -> None:
    corpus = random_corpus()
    data = data_module(corpus)
    method = build(data.spec)

    def predict(of: object, cell: str) -> Tensor:
        with torch.no_grad():
            batch = next(iter(data_module(of).cell_batches(Cell.parse(f"inter/{cell}"), 0)))
            return method(batch).pred

    for cell in ("a", "v", "av"):
        pred = predict(corpus, cell)
        torch.testing.assert_close(pred, pred[:1].expand_as(pred))
    for m in MODALITIES:
        assert (predict(corpus, "lav") - predict(with_other_content(corpus, m), "lav")).abs().min() > 1e-6


def test_side_of_the_padding_does_not_matter() -> None:
    ends = batch_of({m: ["xxx-----", "xxxxxx--"] for m in MODALITIES})
    turn = [torch.arange(8).roll(5), torch.arange(8).roll(2)]
    features = {m: torch.stack([x[clip, steps] for clip, steps in enumerate(turn)]) for m, x in ends.features.items()}
    masks = {m: torch.stack([x[clip, steps] for clip, steps in enumerate(turn)]) for m, x in ends.valid.items()}
    fronts = replace(ends, features=features, valid=masks, observed=masks)
    assert not ends.valid["text"].equal(fronts.valid["text"])
    method = build(spec())
    torch.testing.assert_close(method(ends).pred, method(fronts).pred)


# What is normalised and what is trained.


def test_audio_is_normalised_by_the_place_of_the_word() -> None:
    method = build(spec()).train()
    part = method.audio
    frames = 5 + 3 * torch.randn(6, 8, 2, DIMS["audio"])
    seen: list[Tensor] = []
    part.resize.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    part.dropout.p = 0.0
    part(frames, torch.ones(6, 8, dtype=torch.int64), torch.randn(6, 8, 12))
    torch.testing.assert_close(seen[0].mean((0, 2, 3)), torch.zeros(8), atol=1e-5, rtol=0)
    torch.testing.assert_close(seen[0].std((0, 2, 3), correction=0), torch.ones(8), atol=1e-4, rtol=0)
    assert method.vision.norm is None


def test_detached_shifts_train_the_words_alone() -> None:
    batch = batch_of(dict.fromkeys(MODALITIES, ["xxxxxxxx"] * 3))
    batch.labels = torch.tensor([1.0, -2.0, 0.5])
    reached = {}
    for detach in (False, True):
        method = build(spec(audio=24), detach_shift=detach)
        given = replace(batch, features={**batch.features, "audio": torch.randn(3, 24, DIMS["audio"])})
        given.valid["audio"] = given.observed["audio"] = torch.ones(3, 24, dtype=torch.bool)
        terms = method.loss(method.training_forward(given), given)
        assert set(terms) == {"task"}
        terms["task"].backward()
        reached[detach] = {name for name, p in method.named_parameters() if p.grad is not None and p.grad.any()}
    everything = {name for name, _ in build(spec()).named_parameters()}
    # The vision is aligned: its LSTM runs one step.
    assert reached[False] == everything - {"vision.lstm.weight_hh_l0"}
    ends = ("weight_ih_l0", "weight_hh_l0", "bias_ih_l0", "bias_hh_l0")
    assert reached[True] == {"head.weight", "head.bias", *(f"lstm.{end}" for end in ends)}


def test_loss_is_the_squared_error_unless_told() -> None:
    batch = batch_of(dict.fromkeys(MODALITIES, ["xxxxxxxx"] * 3))
    batch.labels = torch.tensor([1.0, -2.0, 0.5])
    for name, error in {"mse": lambda e: e.square(), "l1": lambda e: e.abs()}.items():
        method = build(spec(), task_loss=name)
        out = method(batch)
        torch.testing.assert_close(method.loss(out, batch)["task"], error(out.pred - batch.labels).mean())
    assert build(spec()).criterion == "mse"


def test_size() -> None:
    """That of the official network without its norm of the vision, which is never used."""
    dims, steps = {"text": 300, "audio": 74, "vision": 47}, {"text": 50, "audio": 50, "vision": 50}
    assert sum(p.numel() for p in RAVEN(DataSpec(dims, steps)).parameters()) == 1_194_953 - 100
    assert sum(p.numel() for p in RAVEN(DataSpec({**dims, "vision": 35}, steps)).parameters()) == 1_193_153 - 100


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"gate_rule": "none"}, "gate_rule"),
        ({"shift_rule": "none"}, "shift_rule"),
        ({"frames_per_word": 0}, "frames_per_word 0"),
        ({"shift_weight": -0.1}, "shift_weight -0.1"),
    ],
)
def test_arguments_are_checked(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(MSABenchError, match=message):
        RAVEN(spec(), **arguments)


@pytest.mark.parametrize("name", ["raven_official", "raven_official_frames"])
def test_numbers_are_those_that_were_in_parity(name: str) -> None:
    golden_cases.assert_as_kept(name)
