"""Small feature files in the layouts of MMSA, MulT and our npz, for tests of whatever reads files."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from msabench.data.registry import dataset_info

SPLITS = ("train", "valid", "test")
MODALITIES = ("text", "audio", "vision")
SIZES = (12, 5, 7)

Content = dict[str, Any]
Change = Callable[[Content], None]


def write_mmsa(
    path: Path,
    dataset: str = "mosi",
    aligned: bool = False,
    sizes: tuple[int, int, int] = SIZES,
    *,
    steps: dict[str, int] | None = None,
    dims: dict[str, int] | None = None,
    seed: int = 0,
    protocol: int = 4,
    change: Change | None = None,
) -> Content:
    """Write a pickle in the layout of MMSA, padded at the end, and return what was written.

    Steps and features are those of the real file unless given. ``change`` may damage the content before it is written.
    """
    info = dataset_info(dataset)
    facts = info.file("mmsa-aligned" if aligned else "mmsa-unaligned")
    steps, dims = steps or facts.lengths, dims or facts.dims
    rng = np.random.default_rng(seed)
    low, high = info.label_range
    content: Content = {}
    for name, n in zip(SPLITS, sizes, strict=True):
        words = rng.integers(4, steps["text"] + 1, n)
        lengths = {m: words if aligned or m == "text" else rng.integers(1, steps[m] + 1, n) for m in MODALITIES}
        labels = np.round(rng.uniform(low, high, n), 1).astype(np.float32)
        labels[0] = 0.0
        features = {
            m: _padded(rng.standard_normal((n, steps[m], dims[m])).astype(np.float32), lengths[m]) for m in MODALITIES
        }
        mask = np.arange(steps["text"]) < words[:, None]
        ids = rng.integers(1000, 30000, mask.shape) * mask
        ids[:, 0] = 101
        ids[np.arange(n), words - 1] = 102
        split: Content = {
            "raw_text": [f"words of clip {i}" for i in range(n)],
            "audio": features["audio"],
            "vision": features["vision"],
            "id": [f"video{i // 3}_{name}$_${i % 3}" for i in range(n)],
            "text": features["text"],
            "text_bert": np.stack([ids, mask, np.zeros_like(ids)], axis=1).astype(np.float32),
            "annotations": ["Positive" if label > 0 else "Negative" for label in labels],
            "regression_labels": labels,
        }
        if not aligned:
            split["audio_lengths"] = lengths["audio"].tolist()
            split["vision_lengths"] = lengths["vision"].tolist()
        if dataset == "sims":
            split.update({f"regression_labels_{letter}": labels for letter in "TAV"})
        content[name] = split
    return _write_pickle(path, content, protocol, change)


def write_mult(
    path: Path,
    dataset: str = "mosi",
    aligned: bool = False,
    sizes: tuple[int, int, int] = SIZES,
    *,
    ids: bool | None = None,
    front: tuple[str, ...] = MODALITIES,
    steps: dict[str, int] | None = None,
    dims: dict[str, int] | None = None,
    seed: int = 0,
    protocol: int = 2,
    change: Change | None = None,
) -> Content:
    """Write a pickle in the layout of MulT and return what was written.

    Ids are rows of three byte strings (video, start, end), and missing for IEMOCAP unless asked for. The modalities in
    ``front`` are padded in front, the others at the end; in aligned files all or none should be.
    """
    info = dataset_info(dataset)
    facts = info.file("mult-aligned" if aligned else "mult-unaligned")
    steps, dims = steps or facts.lengths, dims or facts.dims
    rng = np.random.default_rng(seed)
    low, high = info.label_range
    content: Content = {}
    for name, n in zip(SPLITS, sizes, strict=True):
        words = rng.integers(1, steps["text"] + 1, n)
        split: Content = {}
        for m in MODALITIES:
            lengths = words if aligned or m == "text" else rng.integers(1, steps[m] + 1, n)
            values = _padded(rng.standard_normal((n, steps[m], dims[m])).astype(np.float32), lengths)
            split[m] = values[:, ::-1].copy() if m in front else values
        if info.task == "emotions":
            split["labels"] = np.eye(2, dtype=np.int64)[rng.integers(0, 2, (n, 4))]
        else:
            split["labels"] = rng.uniform(low, high, (n, 1, 1)).astype(np.float32)
        if info.task != "emotions" if ids is None else ids:
            split["id"] = np.array([[f"{name}{i // 3}", f"{i}.25", f"{i + 1}.5"] for i in range(n)]).astype("S16")
        content[name] = split
    return _write_pickle(path, content, protocol, change)


def write_npz(
    path: Path,
    sizes: tuple[int, int, int] = SIZES,
    *,
    task: str = "regression",
    steps: dict[str, int] | None = None,
    dims: dict[str, int] | None = None,
    lengths: bool = True,
    tokens: bool = False,
    seed: int = 0,
    change: Change | None = None,
) -> Content:
    """Write our npz and return what was written; clips of the splits are mixed."""
    steps = steps or {"text": 6, "audio": 9, "vision": 7}
    dims = dims or {"text": 8, "audio": 3, "vision": 4}
    rng = np.random.default_rng(seed)
    n = sum(sizes)
    split = np.repeat(SPLITS, sizes)
    rng.shuffle(split)
    content: Content = {"id": np.array([f"clip{i}" for i in range(n)]), "split": split}
    if task == "emotions":
        content["emotion_labels"] = rng.integers(0, 2, (n, 4))
    else:
        content["regression_labels"] = rng.uniform(-3, 3, n).astype(np.float32)
    for m in MODALITIES:
        exist = rng.integers(1, steps[m] + 1, n) if lengths else np.full(n, steps[m])
        content[m] = _padded(rng.standard_normal((n, steps[m], dims[m])).astype(np.float32), exist)
        if lengths:
            content[f"{m}_lengths"] = exist
        if m == "text" and tokens:
            mask = np.arange(steps[m]) < exist[:, None]
            content["text_bert"] = np.stack([mask * 2000, mask, mask * 0], axis=1).astype(np.int64)
    if change is not None:
        change(content)
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez(path, **content)
    return content


def python2_pickle(value: object) -> bytes:
    """Pickle as Python 2 with NumPy 1 did: byte strings as ``str``, modules under their old names."""
    import io

    class Python2Pickler(pickle._Pickler):  # type: ignore[name-defined]
        dispatch = dict(pickle._Pickler.dispatch)  # type: ignore[attr-defined] # noqa: RUF012

        def save_str_of_python2(self, data: bytes) -> None:
            self.write(pickle.BINSTRING + len(data).to_bytes(4, "little") + data)
            self.memoize(data)

        dispatch[bytes] = save_str_of_python2

    stream = io.BytesIO()
    Python2Pickler(stream, protocol=2, fix_imports=True).dump(value)
    return stream.getvalue().replace(b"cnumpy._core.multiarray\n", b"cnumpy.core.multiarray\n")


def _padded(values: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    return values * (np.arange(values.shape[1]) < lengths[:, None])[:, :, None]


def _write_pickle(path: Path, content: Content, protocol: int, change: Change | None) -> Content:
    if change is not None:
        change(content)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(pickle.dumps(content, protocol=protocol))
    return content
