"""``msabench score``: metrics of predictions that were made elsewhere."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from msabench.data.registry import dataset_info
from msabench.data.registry import named as named_corpus
from msabench.errors import MSABenchError
from msabench.evaluation.cell_table import cell_table
from msabench.evaluation.mask_manifest import MaskManifest, read_manifest
from msabench.evaluation.masks_command import require_size
from msabench.files import sha256_of
from msabench.missingness.conditions import Cell, checked_mask_seeds, distinct, parse_grid
from msabench.missingness.config import MissingConfig
from msabench.missingness.named import naming
from msabench.results.record import EXTERNAL_ORIGIN, JobKey, JobRecord
from msabench.results.scored import UNKNOWN, Scored, content_hash, key_problems
from msabench.results.scored_cells import Place, ScoredCell, arranged, named
from msabench.results.scored_file import ScoredFile, read

if TYPE_CHECKING:
    from msabench.data.datamodule import MSADataModule
    from msabench.results.predictions import CellPredictions, Evaluation

STANDARD_GRID = ("paper",)
STANDARD_MASK_SEEDS = (0, 1, 2)
"""What is expected where neither the user nor a manifest says what there is."""

_SETTINGS = ("git_commit", "git_dirty", "msabench", "versions", "python", "date")
"""What of the scoring's provenance is kept: where it ran says nothing of how the predictions came about."""


@naming()
def score(
    predictions: Path,
    dataset: str,
    name: str,
    masks: Path | None = None,
    regime: str = UNKNOWN,
    selection: Literal["val", "test_best", "unknown"] = "unknown",
    seed: int = 0,
    about: str = "",
    url: str = "",
    store: Path | None = None,
    grid: list[str] | None = None,
    mask_seeds: list[int] | None = None,
    level: Literal["vectors", "tokens"] | None = None,
    lengths: Literal["hide", "keep"] | None = None,
    token_fill: Literal["unk", "zero_embedding"] | None = None,
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
    """Score predictions of the test split that were made elsewhere, and record them as such.

    The file has a row per cell, mask seed and clip, with the columns id, cell, mask_seed and pred (for emotions
    pred_<emotion>_0 and pred_<emotion>_1), see docs/predictions.md. On which masks they were made must be said, by a
    column mask_hash or by masks. Nothing is written unless all of it is right.

    Args:
        predictions: The file, parquet or CSV.
        dataset: Name of the corpus, e.g. mosi.
        name: What the predictions are called; tables show it in small letters, digits and underscores.
        masks: Folder or manifest.json of `msabench masks export` under which they were made. It also says grid, mask
            seeds, level, lengths and features, as far as they are not given.
        regime: Under which missing data the model was trained, as its maker says, e.g. complete.
        selection: How it was chosen; val if no label of the test split had a part in it, test_best if any had.
        seed: Seed of its training.
        about: Who or what made them, in a few sentences.
        url: Where to read on.
        store: Result store to add record and predictions to, e.g. runs/store; None only prints.
        grid: Grids ({grids})
            and cells that must be there; paper if neither this nor masks say.
        mask_seeds: Mask seeds that must be there; 0 1 2 if neither this nor masks say.
        level: Where text was dropped; vectors if not said otherwise.
        lengths: Whether a removed modality's length was hidden or kept; hide if not said otherwise.
        token_fill: What replaced a token dropped at level tokens; unk if not said otherwise.
        features: Feature family, e.g. mmsa-unaligned; the corpus's first if not said otherwise.
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
        A table of all metrics of the corpus, its default metric first, with a line per cell and mask seed.

    Raises:
        MSABenchError: A prediction is missing, unknown, twice there or not finite; it was made on other masks, or
            nobody says on which; what is said of it contradicts itself or the corpus; or it is recorded already.
    """
    from msabench.results.places import store_to_write

    file = read(predictions)
    scored = Scored(name.strip(), sha256_of(predictions), about.strip(), url.strip())
    _refuse(scored.problems())
    store = None if store is None else store_to_write(store)
    manifest = None if masks is None else read_manifest(masks)
    if manifest is None and not file.is_hashed:
        raise MSABenchError(
            f"{predictions} does not say on which masks its predictions were made; give --masks with the folder of "
            "`msabench masks export`, or a column mask_hash"
        )
    given = {"features": features, "level": level, "lengths": lengths, "token_fill": token_fill}
    said = _agreed(file, manifest, {"dataset": named_corpus(dataset_info(dataset), corpus_name).name, **given}, masks)
    if manifest is not None:
        size, length = size or manifest.size, length or manifest.length
    fields: dict[str, Any] = {name: said[name] for name in ("level", "lengths", "token_fill") if said.get(name)}

    from msabench.data.datamodule import MSADataModule

    data = MSADataModule(
        dataset,
        features=said.get("features"),
        path=path,
        root=root,
        missing=MissingConfig(**fields),
        selection="val",
        task=task,
        size=require_size(size),
        length=length,
        clip_labels=clip_labels,
        all_zero=all_zero,
        valid_share=valid_share,
        valid_seed=valid_seed,
        name=corpus_name,
    )
    protocol = data.protocol() | {"regime": regime, "selection": selection}
    for what, theirs in said.items():
        if theirs != protocol[what]:
            raise MSABenchError(
                f"the predictions are of {what} {theirs!r}, and the data opened here have {protocol[what]!r}; give the "
                "file they were made on with --path or --root"
            )
    places = _places(grid, mask_seeds, manifest)
    _require_values(places, manifest)
    evaluation, outside = _evaluation(file, manifest, data, places)
    key = JobKey(
        **protocol,
        method=scored.slug,
        method_version=1,
        variant="default",
        seed=seed,
        config_hash=content_hash(evaluation.ids, [(str(e.cell), e.mask_seed, e.preds) for e in evaluation.cells]),
        origin=EXTERNAL_ORIGIN,
    )
    _refuse(key_problems(key))
    lines = [cell_table(evaluation.records(key.job_id), data.corpus.info.default_metric, ()), ""]
    source = f"the column mask_hash{'' if masks is None else f' and {masks}'}" if file.is_hashed else str(masks)
    lines.append(f"{scored.title} on {data.corpus.info.title}: {len(evaluation.ids)} clips, masks as by {source}")
    if outside:
        low, high = data.corpus.info.label_range
        lines.append(f"note: {outside:,} predictions lie outside of the labels' range from {low:g} to {high:g}")
    if store is not None:
        treated = {"clip_labels": clip_labels or None, "all_zero": all_zero}
        opened = {"size": size, "length": length, **treated, "valid_share": valid_share, "valid_seed": valid_seed}
        corpus = {name: value for name, value in opened.items() if value is not None}
        record = JobRecord(
            key=key,
            config={"data": corpus} if corpus else {},
            provenance={**_scoring(), **scored.provenance()},
            mask_seeds=sorted({seed for _, seed in places if seed is not None}),
            split_sizes=list(data.corpus.split_sizes),
            metric_set=evaluation.metric_set,
        )
        lines.append(f"recorded: {_record(store, record, evaluation)}")
    return "\n".join(lines)


@dataclass(frozen=True)
class _Source:
    """Where something of the protocol is said: its name for messages, and what it says."""

    name: str
    said: Mapping[str, str]


def _agreed(
    file: ScoredFile, manifest: MaskManifest | None, given: Mapping[str, str | None], masks: Path | None
) -> dict[str, str]:
    """What is said of the protocol, once nobody contradicts another.

    Raises:
        MSABenchError: Two say something different.
    """
    options = {name: value for name, value in given.items() if value is not None}
    sources = [_Source(f"--{'/'.join(options)}", options), _Source(str(file.path), file.protocol)]
    if manifest is not None:
        sources.append(_Source(str(masks), manifest.protocol))
    found: dict[str, tuple[str, str]] = {}
    for source in sources:
        for name, value in source.said.items():
            # Without tokens nothing is filled in, whatever is asked for.
            if name == "token_fill" and not value:
                continue
            other, where = found.setdefault(name, (value, source.name))
            if other != value:
                first = f"--{name}" if where.startswith("--") else where
                raise MSABenchError(f"{first} says {name} {other!r}, {source.name} says {value!r}; mend one of them")
    said = {name: value for name, (value, _) in found.items()}
    if said.get("level", "vectors") == "vectors":
        said.pop("token_fill", None)
    return said


def _places(grid: list[str] | None, mask_seeds: list[int] | None, manifest: MaskManifest | None) -> list[Place]:
    """The cells and mask seeds that must be there."""
    cells: Sequence[Cell] = distinct(parse_grid(grid or list(STANDARD_GRID)))
    seeds: Sequence[int] = checked_mask_seeds(STANDARD_MASK_SEEDS if mask_seeds is None else mask_seeds)
    if manifest is not None:
        cells = cells if grid else distinct(cell for cell, _ in manifest.hashes)
        held = sorted({seed for _, seed in manifest.hashes if seed is not None})
        seeds = held if mask_seeds is None and held else seeds
    return [(cell, seed) for cell in cells for seed in (seeds if cell.is_random else (None,))]


def _require_values(places: Sequence[Place], manifest: MaskManifest | None) -> None:
    """Refuse cells in which masks do not say what a model saw, unless it was given the values.

    Raises:
        MSABenchError: A cell alters values, and none were exported.
    """
    altering = [cell for cell, _ in places if cell.alters]
    if altering and (manifest is None or not manifest.corrupted):
        raise MSABenchError(
            f"cell {altering[0]} alters values, which no hash of masks tells; give --masks with the folder of "
            "`msabench masks export --corrupted` under which it was predicted, or leave the cell out"
        )


def _evaluation(
    file: ScoredFile, manifest: MaskManifest | None, data: MSADataModule, places: Sequence[Place]
) -> tuple[Evaluation, int]:
    """The predictions as an evaluation, and how many lie outside of the labels' range.

    Raises:
        MSABenchError: They are not of the test split under the masks of the protocol.
    """
    from msabench.results.predictions import Evaluation

    corpus = data.corpus
    split, info = corpus.splits["test"], corpus.info
    labels = split.labels.cpu().numpy()
    emotions = labels.ndim == 2
    cells = arranged(file, split.ids, places, emotions=emotions, corpus=info.name)
    entries = []
    for cell in cells:
        if cell.labels is not None and not np.array_equal(cell.labels.astype(labels.dtype), labels):
            raise MSABenchError(
                f"{file.path} has labels in {named((cell.cell, cell.mask_seed))} that are not those of {info.name} "
                f"revision {corpus.revision}; the predictions are of other data"
            )
        entries.append(_checked(file, manifest, data, cell))
    low, high = info.label_range
    outside = 0 if emotions else sum(int(((e.preds < low) | (e.preds > high)).sum()) for e in entries)
    return Evaluation(info.metric_set, list(split.ids), labels, entries, seconds=0.0), outside


def _checked(file: ScoredFile, manifest: MaskManifest | None, data: MSADataModule, cell: ScoredCell) -> CellPredictions:
    """One cell's predictions, once they are of its masks."""
    from msabench.missingness.patterns import blind_share, dropped_share, mask_hash
    from msabench.missingness.realised import Realised
    from msabench.results.predictions import CellPredictions

    place = (cell.cell, cell.mask_seed)
    masks = data.cell_masks(cell.cell, cell.mask_seed or 0)
    expected = mask_hash(masks)
    said = {"its mask_hash": cell.mask_hash, "the manifest": manifest.hashes.get(place) if manifest else None}
    for where, given in said.items():
        if given not in (None, expected):
            raise MSABenchError(
                f"{file.path} was predicted on other masks in {named(place)}: {where} says {given}, those of "
                f"{data.info.name} under this protocol have {expected}"
            )
    if cell.mask_hash is None and said["the manifest"] is None:
        raise MSABenchError(f"nobody says on which masks {named(place)} was predicted; the manifest does not have it")
    clips = data.corpus.splits["test"].clips(data.corpus.padding)
    shares, realised = dropped_share(masks, clips), Realised.of(cell.cell, masks, clips)
    return CellPredictions(
        cell.cell,
        cell.mask_seed,
        cell.preds,
        expected,
        shares,
        None,
        blind_share(masks),
        None if realised is None else realised.missing,
        None if realised is None else realised.subsets,
    )


def _record(store: Path, record: JobRecord, evaluation: Evaluation) -> Path:
    """Write predictions and record, or neither."""
    from msabench.evaluation.recording import add_record
    from msabench.results.claims import require_writable
    from msabench.results.store import ResultStore

    key = record.key
    if ResultStore(store).has(key.job_id):
        raise MSABenchError(f"job {key.job_id} is recorded already in {store}; records are never replaced")
    require_writable(store, key)
    return add_record(store, record, evaluation.records(key.job_id), evaluation)


def _scoring() -> dict[str, Any]:
    from msabench.results.provenance import collect

    made = collect()
    return {name: made[name] for name in _SETTINGS}


def _refuse(problems: Any) -> None:
    """Raise the first problem, if there is one."""
    for problem in problems:
        raise MSABenchError(problem)
