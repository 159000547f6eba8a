"""Scores as classes."""

from __future__ import annotations

import pytest
import torch

from msabench.data.info import DataSpec
from msabench.errors import MSABenchError
from msabench.metrics.functional import SIMS_CUTS, binned
from msabench.nn.score_classes import LabelClasses, ScoreClasses

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


def test_polarity_is_that_of_the_two_class_accuracies() -> None:
    labels = torch.tensor([-1.0, 0.0, 0.2])
    assert LabelClasses(SENTIMENT, "polarity").of(labels).tolist() == [[0], [1], [1]]
    assert (
        LabelClasses(SIMS, "polarity").of(labels).tolist()
        == binned(labels.numpy(), SIMS_CUTS["acc2"])[:, None].tolist()
    )


def test_score_of_a_polarity_has_its_sign_and_the_size_of_the_labels_seen() -> None:
    classes = LabelClasses(SENTIMENT, "polarity")
    logits = torch.log(torch.tensor([[[0.1, 0.9]], [[0.75, 0.25]]]))
    assert classes.pred(logits).tolist() == pytest.approx([0.8 * 1.5, -0.5 * 1.5])
    classes.observe(torch.tensor([-2.0, 0.5, 0.0, 0.0]))
    classes.observe(torch.tensor([1.0]))
    mean = (1.5 + 3.5) / 6
    assert classes.pred(logits).tolist() == pytest.approx([0.8 * mean, -0.5 * mean])
    again = LabelClasses(SENTIMENT, "polarity")
    again.load_state_dict(classes.state_dict())
    assert torch.equal(again.pred(logits), classes.pred(logits))


def test_scores_and_emotions_as_questions() -> None:
    classes = LabelClasses(SENTIMENT, "score")
    labels = torch.tensor([-3.0, 1.2])
    assert (classes.questions, classes.n) == (1, 7)
    assert classes.of(labels).tolist() == [[0], [4]]
    logits = torch.randn(2, 1, 7)
    classes.observe(labels)
    torch.testing.assert_close(classes.pred(logits), ScoreClasses(SENTIMENT).score(logits[:, 0]))
    emotions = LabelClasses(DataSpec(task="emotions", label_range=(0.0, 1.0)), "polarity")
    assert (emotions.questions, emotions.n) == (4, 2)
    present = torch.randint(2, (3, 4))
    assert torch.equal(emotions.of(present), present)
    logits = torch.randn(3, 4, 2)
    assert torch.equal(emotions.pred(logits), logits)


def test_labels_without_polarity_or_scores_are_refused() -> None:
    with pytest.raises(MSABenchError, match="have no polarity"):
        LabelClasses(DataSpec(label_range=(0.0, 1.0)), "polarity")
    with pytest.raises(MSABenchError, match="'emotions' has no score"):
        LabelClasses(DataSpec(task="emotions"), "score")
