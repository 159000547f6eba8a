"""``msabench.load``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any, Literal

from msabench.data.datamodule import MSADataModule
from msabench.errors import MSABenchError
from msabench.missingness.config import MissingConfig
from msabench.missingness.named import naming

_PROTOCOL = tuple(field.name for field in fields(MissingConfig))
"""Settings of ``MissingConfig``, which a config has one level deeper."""


@naming()
def load(
    corpus: str | Path,
    *,
    features: str | None = None,
    name: str | None = None,
    regime: str | None = None,
    rate: tuple[float, float] | None = None,
    per: Literal["sample", "modality"] | None = None,
    subsets: Literal["all", "proper"] | None = None,
    only: str | None = None,
    rates: str | None = None,
    level: Literal["vectors", "tokens"] | None = None,
    token_fill: Literal["unk", "zero_embedding"] | None = None,
    lengths: Literal["hide", "keep"] | None = None,
    batch_size: int | None = None,
    seed: int | None = None,
    mask_seed: int | None = None,
    selection: Literal["val", "test_best"] | None = None,
    normalise: Literal["none", "zscore"] | None = None,
    grid: str | Sequence[str] | None = None,
    task: Literal["regression", "emotions"] | None = None,
    size: tuple[int, int, int] | None = None,
    length: int | None = None,
    clip_labels: bool | None = None,
    all_zero: Literal["absent"] | None = None,
    valid_share: float | None = None,
    valid_seed: int | None = None,
    path: str | Path | None = None,
    root: str | Path | None = None,
    cache: str | Path | None = None,
) -> MSADataModule:
    """Open a corpus, or a feature file of one's own.

    What is not given is as in ``MSADataModule``; ``msabench.train`` leaves it to the method's config. A file that was
    never opened before is converted first, which takes minutes for large ones.

    Args:
        corpus: Name of a corpus (``msabench data list``), or the path of a file of one's own, see docs/data.md. Text
            with a folder or an ending in it is a path.
        features: Feature family and alignment, e.g. ``mult-aligned``; by default the corpus's first.
        name: What an own file is called in records and tables: ``custom-<name>``.
        regime: Training regime, e.g. ``mixed``; by default ``complete``.
        rate: Lowest and highest rate of ``intra``, ``aligned`` and ``block``, in [0, 1], and of ``random`` and
            ``random_table``, up to 0.7.
        per: Whether ``intra`` and ``block`` draw a rate per ``sample``, or per sample and ``modality``.
        subsets: Whether ``inter`` draws from ``all`` seven subsets or the six ``proper`` ones.
        only: Letters of the modalities that ``only`` keeps, e.g. ``la``.
        rates: Rates of ``per_modality`` by letter, e.g. ``l=0.2,a=0.5``.
        level: Where text is dropped: ``vectors`` or ``tokens``.
        token_fill: What replaces a dropped token: ``unk`` or ``zero_embedding``.
        lengths: Whether a removed modality's length is hidden (``hide``) or shown (``keep``).
        batch_size: Clips in a training batch.
        seed: Seed of the training order and training masks of ``training_batch`` and ``msabench.masks``;
            ``msabench.train`` has one of its own.
        mask_seed: Seed of validation masks.
        selection: Split that selects the checkpoint: ``val`` or ``test_best``.
        normalise: ``zscore`` or ``none``; by default what the corpus says.
        grid: Grids ({grids})
            and cells that Lightning's test and prediction loops go through; ``msabench.evaluate`` has its own.
        task: Kind of labels of an own file: ``regression`` or ``emotions``.
        size: Clips in train, valid and test of ``synth``.
        length: Steps per clip of ``synth``.
        clip_labels: Whether labels beyond the corpus's range are clipped, where the file is refused otherwise.
        all_zero: ``absent`` treats a modality that is zero in all frames of a clip as not there in that clip.
        valid_share: Share of the training clips, in (0, 1), that becomes the validation split of a file without one,
            whole conversations at a time.
        valid_seed: Which of them; by default 0.
        path: The feature file of a named corpus, instead of its usual place below ``root``.
        root: Data folder; by default the one that MSABENCH_DATA names, else ``data``.
        cache: Folder of converted files; by default the user's cache folder.

    Returns:
        The data module, its corpus open: ``data.corpus`` has the clips, ``data.training_batch`` makes batches.

    Raises:
        MSABenchError: The corpus, its features or a setting is unknown, or the file is missing or cannot be read.

    Example:
        >>> data = load("synth", regime="mixed", size=(24, 8, 10), length=8)
        >>> data.corpus.split_sizes
        (24, 8, 10)
    """
    given: dict[str, Any] = {name: value for name, value in locals().items() if value is not None}
    given["dataset"], own = _dataset_of(given.pop("corpus"))
    if own is not None:
        if path is not None:
            raise MSABenchError(f"{own} and path {path} are two files; give one")
        given["path"] = own
    for place in ("path", "root", "cache"):
        if place in given:
            given[place] = Path(given[place]).expanduser()
    if isinstance(grid, str):
        given["grid"] = [grid]
    elif grid is not None:
        given["grid"] = list(grid)
    missing = {key: given.pop(key) for key in _PROTOCOL if key in given}
    data = MSADataModule(**given, missing=MissingConfig(**missing))
    # Asked for here, so that what is wrong with it is said here.
    _ = data.corpus
    data.given = given | {f"missing.{key}": value for key, value in missing.items()}
    return data


def _dataset_of(corpus: str | Path) -> tuple[str, Path | None]:
    """Name of the corpus and, if it is one's own, its file."""
    path = Path(corpus).expanduser()
    if isinstance(corpus, str) and corpus == path.name and not path.suffix:
        return corpus, None
    if not path.is_file():
        raise MSABenchError(f"there is no file {corpus}; give a feature file of your own, or the name of a corpus")
    return "custom", path


def as_data(data: MSADataModule | str | Path) -> MSADataModule:
    """A data module as it is, anything else as ``load`` opens it.

    Raises:
        MSABenchError: As ``load``.
    """
    return data if isinstance(data, MSADataModule) else load(data)
