"""The verbs fit, validate, test and predict: Lightning's command line over our two base classes."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

from msabench.training.build import MSACLI, one_sentence, with_class_paths


def main(arguments: list[str]) -> int:
    """Run ``fit``, ``validate``, ``test`` or ``predict``.

    Args:
        arguments: Command line, beginning with the verb.
    """
    words = [word for given in arguments for word in given.split("=", 1)]
    config_files = [Path(value) for option, value in pairwise(words) if option == "--config"]
    with one_sentence(config_files):
        MSACLI(args=with_class_paths(arguments))
    return 0
