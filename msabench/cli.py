"""The verbs fit, validate, test and predict: Lightning's command line over our two base classes."""

from __future__ import annotations

from msabench.training.build import MSACLI, one_sentence, with_class_paths, with_config_files


def main(arguments: list[str]) -> int:
    """Run ``fit``, ``validate``, ``test`` or ``predict``.

    Args:
        arguments: Command line, beginning with the verb. ``--config`` takes files and names of msabench's configs.

    Raises:
        MSABenchError: A file is missing, a key unknown, a value not allowed.
    """
    with one_sentence():
        MSACLI(args=with_class_paths(with_config_files(arguments)))
    return 0
