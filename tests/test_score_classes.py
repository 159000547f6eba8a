"""Scores as classes."""

from __future__ import annotations

import pytest
import torch

from msabench.data.info import DataSpec
from msabench.errors import MSABenchError
from msabench.metrics.functional import SIMS_CUTS, binned
from msabench.nn.score_classes import ScoreClasses

SENTIMENT = DataSpec(label_range=(-3.0, 3.0))
SIMS = DataSpec(metric_set="sims", label_range=(-1.0, 1.0))


def test_seven_classes_are_rounded_labels() -> None:
    classes = ScoreClasses(SENTIMENT)
    assert classes.n == 7
    labels = torch.tensor([-3.0, -2.6, -2.4, -0.5, 0.0, 0.5, 1.5, 2.5, 3.0])
    # Halves go to the even number, as in Acc-7.
    assert classes.of(labels).tolist() == [0, 0, 1, 3, 3, 3, 5, 5, 6]


def test_sims_classes_are_the_bins_of_its_accuracy() -> None:
    classes = ScoreClasses(SIMS)
    labels = torch.arange(-5, 6) / 5
    assert classes.of(labels).tolist() == binned(labels.numpy(), SIMS_CUTS["acc5"]).tolist()
    assert classes.of(torch.tensor([-0.7, -0.1, 0.1, 0.7])).tolist() == [0, 1, 2, 3]
    # The centre of a bin is the mean of the label values in it.
    for number, centre in enumerate(classes.centres):
        assert labels[classes.of(labels) == number].mean().item() == pytest.approx(centre.item())


@pytest.mark.parametrize("spec", [SENTIMENT, SIMS])
def test_score_is_the_expectation(spec: DataSpec) -> None:
    classes = ScoreClasses(spec)
    certain = 100 * torch.eye(classes.n)
    assert torch.allclose(classes.score(certain), classes.centres)
    assert classes.score(torch.zeros(2, 3, classes.n)).abs().max() < 1e-6
    half = torch.log(torch.tensor([0.5, 0.5, *[1e-30] * (classes.n - 2)]))
    assert classes.score(half).item() == pytest.approx((classes.centres[0] + classes.centres[1]).item() / 2)


def test_it_holds_nothing_in_checkpoints_and_refuses_emotions() -> None:
    assert not ScoreClasses(SENTIMENT).state_dict()
    with pytest.raises(MSABenchError, match="'emotions' has no score"):
        ScoreClasses(DataSpec(task="emotions"))
    with pytest.raises(MSABenchError, match="span no two whole numbers"):
        ScoreClasses(DataSpec(label_range=(0.0, 0.5)))
