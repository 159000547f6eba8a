"""A program of somebody else: a network of NumPy that predicts from exported files alone, without msabench.

Called with the folder that ``msabench masks export --corrupted`` wrote, the weights, and the CSV to write.
"""

import csv
import json
import sys
from pathlib import Path

import numpy as np

MODALITIES = ("text", "audio", "vision")


def network(weights, features, observed):
    """Scores ``(N,)`` float32: each modality's mean over its observed steps, read linearly, then squashed."""
    parts = []
    for modality in MODALITIES:
        count = np.maximum(observed[modality].sum(1, keepdims=True), 1).astype(np.float32)
        parts.append(features[modality].sum(1, dtype=np.float32) / count)
    return 3 * np.tanh(np.concatenate(parts, axis=1) @ weights)


def read(path, shapes):
    """The arrays of a file by name, and the clip ids."""
    if path.suffix == ".npz":
        arrays = dict(np.load(path))
        return list(arrays.pop("id")), arrays
    import pyarrow.parquet as pq

    table = pq.read_table(path)
    lists = {name: np.array(table[name].to_pylist()) for name in shapes}
    arrays = {name: rows.reshape(len(rows), *shapes[name]) for name, rows in lists.items()}
    floats = {name: arrays[name].astype(np.float32) for name in MODALITIES}
    return table["id"].to_pylist(), arrays | floats


def main(folder, weights, out):
    folder, weights = Path(folder), np.load(weights)
    manifest = json.loads((folder / "manifest.json").read_text())
    with Path(out).open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["id", "cell", "mask_seed", "pred"])
        for entry in manifest["cells"]:
            ids, arrays = read(folder / entry["file"], manifest["shapes"])
            observed = {modality: arrays[f"observed_{modality}"] for modality in MODALITIES}
            seed = "" if entry["mask_seed"] is None else entry["mask_seed"]
            for name, pred in zip(ids, network(weights, arrays, observed), strict=True):
                writer.writerow([name, entry["cell"], seed, pred])


if __name__ == "__main__":
    main(*sys.argv[1:])
