"""``msabench masks export``."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Literal

from msabench.errors import MSABenchError, one_of
from msabench.missingness.conditions import checked_mask_seeds, distinct, parse_grid
from msabench.missingness.config import MissingConfig
from msabench.missingness.named import naming

FORMATS = ("npz", "parquet")


@naming()
def export(
    dataset: str,
    out: Path,
    grid: list[str] = ["paper"],  # noqa: B006  the command line shows the default
    mask_seeds: list[int] = [0, 1, 2],  # noqa: B006
    corrupted: bool = False,
    format: Literal["npz", "parquet"] = "npz",
    level: Literal["vectors", "tokens"] = "vectors",
    lengths: Literal["hide", "keep"] = "hide",
    token_fill: Literal["unk", "zero_embedding"] = "unk",
    features: str | None = None,
    path: Path | None = None,
    root: Path | None = None,
    task: Literal["regression", "emotions"] = "regression",
    size: list[int] | None = None,
    length: int | None = None,
    clip_labels: bool = False,
    all_zero: Literal["absent"] | None = None,
    valid_share: float | None = None,
    valid_seed: int | None = None,
    corpus_name: str | None = None,
) -> str:
    """Write what is observed in every cell of a grid on the test split, so that any program can predict under it.

    Predictions come back by `msabench score`. Labels are not written.

    Args:
        dataset: Name of the corpus, e.g. mosi.
        out: Folder to be; new or empty.
        grid: Grids ({grids})
            and cells such as inter/la or random/0.3.
        mask_seeds: Seeds of the masks; cells with random masks get a file for each.
        corrupted: Write the corrupted features as well, as they are in the corpus (not normalised) and 0 where not
            observed; at level tokens the corrupted token ids in place of text features.
        format: npz, or parquet with a row a clip and lists in it.
        level: Where text is dropped.
        lengths: Whether a removed modality's length is hidden or kept.
        token_fill: What replaces a token dropped at level tokens.
        features: Feature family, e.g. mmsa-unaligned; the corpus's first if not given.
        path: Feature file, for the dataset custom or in place of the default location.
        root: Data folder; $MSABENCH_DATA or ./data if not given.
        task: Kind of labels of a custom file.
        size: Clips in train, valid and test of synth.
        length: Steps of the clips of synth.
        clip_labels: Clip labels beyond the corpus's range, where the file is refused otherwise.
        all_zero: absent treats a modality that is zero in all frames of a clip as not there.
        valid_share: Share of the training clips that stands for the validation split of a file without one.
        valid_seed: Which clips that are.
        corpus_name: What a custom corpus is called.

    Returns:
        What was written.

    Raises:
        MSABenchError: A name or number is not allowed, the corpus cannot be opened, the folder is not empty, or the
            disk has too little room.
    """
    if format not in FORMATS:
        raise one_of("format", format, FORMATS)
    cells, seeds = distinct(parse_grid(grid)), checked_mask_seeds(mask_seeds)

    from msabench.data.datamodule import MSADataModule
    from msabench.evaluation.mask_export import Export, places_of

    data = MSADataModule(
        dataset,
        features=features,
        path=path,
        root=root,
        missing=MissingConfig(level=level, lengths=lengths, token_fill=token_fill),
        normalise="none",
        task=task,
        size=require_size(size),
        length=length,
        clip_labels=clip_labels,
        all_zero=all_zero,
        valid_share=valid_share,
        valid_seed=valid_seed,
        name=corpus_name,
    )
    manifest = Export(data, list(places_of(cells, seeds)), format, corrupted, size, length).write(out)
    what = "masks and corrupted features" if corrupted else "masks"
    about = f"{manifest.dataset}, revision {manifest.revision}, features {manifest.features}, level {manifest.level}"
    # What the manifest does not say for itself.
    opened = {
        **{"path": path, "root": root, "task": None if task == "regression" else task, "all_zero": all_zero},
        **{"valid_share": valid_share, "valid_seed": valid_seed, "corpus_name": corpus_name},
    }
    options = [f"--{name} {shlex.quote(str(value))}" for name, value in opened.items() if value is not None]
    options += ["--clip_labels"] if clip_labels else []
    again = " ".join(["--dataset", dataset, *options, "--name", "NAME", "--masks", shlex.quote(str(out))])
    return (
        f"{out}: {what} of {len(manifest.ids)} test clips ({about}) in {len(manifest.cells)} files and manifest.json\n"
        f"next: predict every clip in every file, and "
        f"`msabench score predictions.csv {again}`"
    )


def require_size(size: list[int] | None) -> tuple[int, int, int] | None:
    """Sizes of the splits of a generated corpus, once they are three.

    Raises:
        MSABenchError: They are not.
    """
    if size is None:
        return None
    if len(size) != 3:
        raise MSABenchError(f"size {size} is not allowed; give the clips in train, valid and test, e.g. 128 32 64")
    return size[0], size[1], size[2]
