"""Facts about corpora and their feature files. Free of torch."""

from __future__ import annotations

from dataclasses import dataclass, field

from msabench.errors import MSABenchError, one_of
from msabench.plugins import IMPORT_PATH

EMOTIONS = ("happy", "sad", "angry", "neutral")
"""IEMOCAP's four emotions in the order of our labels, predictions and tables.

The MulT files have neutral, happy, sad, angry; the reader reorders them."""

SPLITS = ("train", "valid", "test")
"""Splits of every corpus, in order."""

METRIC_SETS = ("sentiment", "sims", "emotions")

TASKS = ("regression", "emotions")
"""Kinds of labels."""

NORMALISATIONS = ("none", "zscore")

GENERATOR = "generator"
"""Reader of what is generated, not read."""

LAYOUTS = ("mmsa", "mult", "npz")
"""Layouts of files that msabench reads itself."""

CUSTOM = "custom"
"""Name of the corpus that stands for a user's own file."""


@dataclass(frozen=True)
class DataSpec:
    """What a method's constructor is told about the data.

    Attributes:
        feature_dims: modality -> number of features D_m.
        seq_lens: modality -> number of steps T_m in the file.
        task: ``regression`` or ``emotions``.
        metric_set: Which metrics apply: ``sentiment``, ``sims`` or ``emotions``.
        label_range: Lowest and highest label.
        n_train: Number of training clips.
        features: Feature family and alignment, e.g. ``mmsa-unaligned``; None if it is not known.
    """

    feature_dims: dict[str, int] = field(default_factory=dict)
    seq_lens: dict[str, int] = field(default_factory=dict)
    task: str = "regression"
    metric_set: str = "sentiment"
    label_range: tuple[float, float] = (-3.0, 3.0)
    n_train: int = 0
    features: str | None = None


@dataclass(frozen=True)
class FeatureFile:
    """One feature file of a corpus.

    Attributes:
        features: Name of the feature family and alignment, e.g. ``mmsa-unaligned``.
        reader: ``mmsa``, ``mult`` or ``npz``; ``generator`` where nothing is read; or a function of somebody's own,
            ``my_package.module:function``, that takes the file's path and returns what our npz would hold.
        filename: Path below the data folder, e.g. ``mosei/mosei_senti_data.pkl``; empty if there is no usual place.
        dims: modality -> features, as public listings say; read from the file, a difference is reported.
        lengths: modality -> steps, likewise.
        sha256: Published hash of the file, or empty. Another hash is a warning, since older releases circulate.
        how_to_get: Exact steps to get the file.
        hub_repo: Repository on the Hugging Face hub with a public mirror, or empty.
        hub_files: Files there, joined in this order; a name that ends in ``/`` stands for all files below it.
        reader_version: Raised by whoever changes what a reader of their own makes of the file; part of the revision
            from 2 on.

    Raises:
        MSABenchError: The reader is none of those.
    """

    features: str
    reader: str
    filename: str
    dims: dict[str, int] = field(default_factory=dict)
    lengths: dict[str, int] = field(default_factory=dict)
    sha256: str = ""
    how_to_get: str = ""
    hub_repo: str = ""
    hub_files: tuple[str, ...] = ()
    reader_version: int = 1

    def __post_init__(self) -> None:
        if self.reader not in (*LAYOUTS, GENERATOR) and not self.is_own_reader:
            raise one_of("reader", self.reader, (*LAYOUTS, "or a function, my_package.module:function"))
        if self.reader_version < 1:
            raise MSABenchError(f"reader_version {self.reader_version} is not allowed; give a number from 1 on")

    @property
    def is_own_reader(self) -> bool:
        """Whether the reader is a function of somebody's own."""
        return IMPORT_PATH.fullmatch(self.reader) is not None


@dataclass(frozen=True)
class DatasetInfo:
    """Facts about one corpus.

    Attributes:
        name: Registry key.
        title: Name to print over results, e.g. ``MOSEI-video-898 (pooled)``.
        caveat: What must be said wherever a result on it is shown; empty for the full corpora.
        language: ``en``, ``zh`` or ``none``.
        task: ``regression`` or ``emotions``.
        metric_set: ``sentiment``, ``sims`` or ``emotions``.
        label_range: Lowest and highest label.
        split_sizes: Clips in train, valid, test; empty if any.
        default_metric: The metric that tables show unless asked otherwise.
        normalise: Default normalisation, ``none`` or ``zscore``.
        files: Feature files; the first is the default.
        test_counts: (negative, zero, positive) clips of the test split where known; recounted from files.

    Raises:
        MSABenchError: A word is none of those listed, task and metrics do not fit each other, or the range is empty.
    """

    name: str
    title: str
    caveat: str = ""
    language: str = "en"
    task: str = "regression"
    metric_set: str = "sentiment"
    label_range: tuple[float, float] = (-3.0, 3.0)
    split_sizes: tuple[int, int, int] | None = None
    default_metric: str = "f1_non0"
    normalise: str = "none"
    files: tuple[FeatureFile, ...] = ()
    test_counts: tuple[int, int, int] | None = None

    def __post_init__(self) -> None:
        for what, allowed in (("task", TASKS), ("metric_set", METRIC_SETS), ("normalise", NORMALISATIONS)):
            if getattr(self, what) not in allowed:
                raise one_of(what, getattr(self, what), allowed)
        if (self.task == "emotions") != (self.metric_set == "emotions"):
            raise MSABenchError(
                f"metric_set {self.metric_set} is not allowed for task {self.task}; emotions go with emotions, and "
                "sentiment or sims with regression"
            )
        low, high = self.label_range
        if not low < high:
            raise MSABenchError(f"label_range {self.label_range} is not allowed; give the lowest and the highest label")

    def file(self, features: str | None = None) -> FeatureFile:
        """The feature file of a family, or the default one.

        Raises:
            MSABenchError: The corpus has no such family.
        """
        for candidate in self.files:
            if features in (None, candidate.features):
                return candidate
        raise one_of(f"features of {self.name}", features, [f.features for f in self.files])
