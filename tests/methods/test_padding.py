"""A clip is the same whichever side its file pads on; only where MMSA's numbers come from the end, padding stays."""

from __future__ import annotations

from dataclasses import asdict, replace

import pytest
import torch

from msabench.data.corpus import Corpus
from msabench.data.info import DataSpec
from msabench.errors import MSABenchError
from msabench.methods.base import MSAMethod
from msabench.methods.engine.checkpoints import CHECKPOINT_KEY
from msabench.methods.registry import method_class
from msabench.missingness.conditions import MODALITIES, Cell
from msabench.nn.padding import padded, padding_side
from msabench.results.record import JobRecord
from msabench.testing import build, predict
from msabench.testing.corpora import data_module, random_corpus
from tests.support import records

RECURRENT = ("lf_dnn", "tfn", "lmf", "mfn", "graph_mfn", "mfm")
"""Methods that run over all stored steps and are read at the last one."""
REMOVED = ("inter/la", "inter/av", "inter/l")


def in_front(corpus: Corpus) -> Corpus:
    """The same clips in a file that pads in front."""
    splits = {}
    for name, split in corpus.splits.items():
        moved = {m: torch.zeros_like(x) for m, x in split.features.items()}
        for m, x in split.features.items():
            for row, length in enumerate(split.lengths[m].tolist()):
                moved[m][row, x.shape[1] - length :] = x[row, :length]
        splits[name] = replace(split, features=moved)
    return replace(corpus, splits=splits, padding=dict.fromkeys(MODALITIES, "front"))


def talking(steps: int) -> Corpus:
    """Clips of 2 to ``steps`` words that all say the label, with nothing to hear or see."""
    corpus = random_corpus(sizes=(160, 8, 80), steps=dict.fromkeys(MODALITIES, steps))
    for split in corpus.splits.values():
        exists = torch.arange(steps) < split.lengths["text"].unsqueeze(1)
        split.features = {m: torch.zeros_like(x) for m, x in split.features.items()}
        split.features["text"] += (split.labels.unsqueeze(1) * exists).unsqueeze(2)
    return corpus


def trained(corpus: Corpus, padding: str | None) -> MSAMethod:
    """LF-DNN after 60 steps."""
    data = data_module(corpus)
    method = build(method_class("lf_dnn"), data, padding=padding).train()
    batch = data.training_batch(torch.arange(160), 0)
    optimizer = torch.optim.Adam(method.parameters(), lr=1e-2)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        for _ in range(60):
            optimizer.zero_grad()
            method.loss(method(batch), batch)["task"].backward()
            optimizer.step()
    return method


def correlation(method: MSAMethod, corpus: Corpus) -> float:
    """Of test predictions from the text and labels."""
    pred = predict(method, data_module(corpus), Cell("l"))
    return float(torch.corrcoef(torch.stack([pred, corpus.splits["test"].labels]))[0, 1])


def test_the_steps_of_a_clip_come_last_in_order_after_zeros() -> None:
    x = torch.arange(1.0, 6).view(1, 5, 1).expand(5, -1, -1)
    spans = ((0, 5), (0, 2), (3, 5), (1, 3), (0, 0))
    valid = torch.tensor([[first <= step < end for step in range(5)] for first, end in spans])
    rows = [[1, 2, 3, 4, 5], [0, 0, 0, 1, 2], [0, 0, 0, 4, 5], [0, 0, 0, 2, 3], [0, 0, 0, 0, 0]]
    assert padded(x, valid, "front").squeeze(2).tolist() == rows
    assert padded(x, valid, "stored") is x


@pytest.mark.parametrize(
    ("features", "chosen", "side"),
    [
        *(("mmsa-aligned", None, "stored"), ("mmsa-unaligned", None, "stored"), ("mmsa-unaligned", "front", "front")),
        *(("mult-aligned", None, "front"), ("custom", None, "front"), ("synth", None, "front"), (None, None, "front")),
        *(("synth", "stored", "stored"),),
    ],
)
def test_the_feature_family_decides_unless_the_user_does(features: str | None, chosen: str | None, side: str) -> None:
    assert padding_side(DataSpec(features=features), chosen) == side


def test_an_unknown_side_is_refused() -> None:
    with pytest.raises(MSABenchError, match=r"unknown padding 'end'; allowed: front, stored"):
        build(method_class("lf_dnn"), data_module(random_corpus()), padding="end")


@pytest.mark.parametrize("name", RECURRENT)
def test_predictions_do_not_depend_on_the_side_that_a_file_pads(name: str) -> None:
    corpus = random_corpus(steps={"text": 8, "audio": 11, "vision": 8})
    method = build(method_class(name), data_module(corpus))
    for cell in ("inter/lav", *REMOVED):
        end, front = (predict(method, data_module(c), Cell.parse(cell)) for c in (corpus, in_front(corpus)))
        torch.testing.assert_close(end, front, rtol=0, atol=1e-6)


@pytest.mark.parametrize("name", RECURRENT)
def test_files_of_mmsa_are_read_as_they_are_stored(name: str) -> None:
    corpus = replace(random_corpus(), features="mmsa-unaligned")
    data = data_module(corpus)
    default, stored, front = (build(method_class(name), data, padding=side) for side in (None, "stored", "front"))
    assert torch.equal(predict(default, data, Cell()), predict(stored, data, Cell()))
    assert not torch.allclose(predict(default, data, Cell()), predict(front, data, Cell()), atol=1e-4)


def test_what_a_text_says_is_lost_in_the_padding_behind_it_and_not_with_padding_in_front() -> None:
    corpus = talking(steps=60)
    method = trained(corpus, None)
    assert correlation(method, corpus) > 0.99
    assert correlation(method, in_front(corpus)) > 0.99
    assert correlation(trained(corpus, "stored"), corpus) < 0.9  # little more than its sign is left


def test_states_of_a_text_encoder_at_padding_do_not_enter() -> None:
    """At level ``tokens`` they are not zero."""
    states, valid = torch.ones(1, 4, 2), torch.tensor([[True, True, False, False]])
    assert padded(states, valid, "front")[0, :, 0].tolist() == [0, 0, 1, 1]


def test_a_record_says_where_padding_stood_and_older_ones_still_load() -> None:
    assert build(method_class("lf_dnn"), data_module(random_corpus())).padding == "front"
    assert build(method_class("mult"), data_module(random_corpus())).padding == ""
    line = JobRecord(records.key(), padding="front").to_json()
    assert line["padding"] == "front"
    assert JobRecord.from_json(line).padding == "front"
    older = JobRecord(records.key()).to_json()
    assert "padding" not in older
    assert JobRecord.from_json(older).padding is None


def test_a_checkpoint_from_before_feature_families_were_told_still_loads() -> None:
    method = build(method_class("mult"), data_module(random_corpus()))
    checkpoint: dict[str, object] = {}
    method.on_save_checkpoint(checkpoint)
    made_by = checkpoint[CHECKPOINT_KEY]
    assert isinstance(made_by, dict)
    assert made_by["spec"] == asdict(method.spec)
    del made_by["spec"]["features"]
    method.on_load_checkpoint(checkpoint)
    made_by["spec"]["features"] = "mult-aligned"
    with pytest.raises(MSABenchError, match=r"spec\.features 'mult-aligned', the config says 'custom'"):
        method.on_load_checkpoint(checkpoint)
