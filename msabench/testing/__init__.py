"""Tests that every method must pass, as functions that other packages import; needs pytest only where it says so."""

from msabench.testing.checks import Check, check_method, checks_of, method_tests
from msabench.testing.corpora import data_module, quiet_trainer, random_corpus, with_other_content
from msabench.testing.subject import build, predict, training_batch

__all__ = [
    "Check",
    "build",
    "check_method",
    "checks_of",
    "data_module",
    "method_tests",
    "predict",
    "quiet_trainer",
    "random_corpus",
    "training_batch",
    "with_other_content",
]
