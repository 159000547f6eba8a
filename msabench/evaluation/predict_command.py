"""``msabench predict``, for clips of one's own."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from msabench.errors import MSABenchError, printable
from msabench.files import creating

if TYPE_CHECKING:
    import pandas as pd


def predict_file(
    checkpoint: Path,
    input: Path,
    out: Path | None = None,
    format: Literal["table", "csv"] | None = None,
    cut: bool = False,
    batch_size: int | None = None,
    device: str | None = None,
) -> str:
    """Predict clips of one's own from their features, without labels, splits or corpus.

    With --config and --ckpt_path instead, test predictions for every cell are written, as Lightning does; msabench
    predict --config FILE --help lists its options.

    Args:
        checkpoint: Checkpoint of msabench fit or msabench run, exported folder, or owner/name@revision on the hub.
        input: An npz with text, audio, vision (clips x steps x features), any of them, and optionally id, lengths,
            token ids (docs/predicting.md).
        out: File to write instead of printing, CSV unless --format says otherwise. Nothing is overwritten.
        format: table or csv; table if not given, but csv into a file.
        cut: Cut clips of more steps than the training had to their first ones, instead of refusing them.
        batch_size: Clips per forward pass; 96 if not given.
        device: Where to compute, e.g. cpu or cuda:0; the GPU if there is one and nothing is given.

    Raises:
        MSABenchError: The checkpoint or the clips cannot be read or do not fit, or the file to write is there already.
    """
    if out is not None and out.exists():
        raise MSABenchError(f"{out} is there already and is not overwritten; give another --out")
    if out is not None and not out.absolute().parent.is_dir():
        raise MSABenchError(f"there is no folder {out.parent} to write {out.name} in")
    from msabench.evaluation.clips import predict_clips

    predictions = predict_clips(checkpoint, input, batch_size=batch_size, device=device, cut=cut)
    for note in predictions.notes:
        print(f"msabench: {printable(note)}", file=sys.stderr)
    frame = predictions.frame()
    text = _table(frame) if (format or ("table" if out is None else "csv")) == "table" else frame.to_csv(index=False)
    if out is None:
        return text.removesuffix("\n")
    with creating(out) as stream:
        stream.write(text.encode())
    return f"{len(frame):,} predictions: {out}"


def _table(frame: pd.DataFrame) -> str:
    """Columns side by side: three decimals, yes and no."""
    columns = []
    for name in frame.columns:
        column = [str(name)]
        for value in frame[name].tolist():
            shown = {True: "yes", False: "no"}[value] if isinstance(value, bool) else str(value)
            column.append(f"{value:.3f}" if isinstance(value, float) else printable(shown))
        width = max(map(len, column))
        columns.append([f"{cell:<{width}}" for cell in column])
    return "\n".join("  ".join(row).rstrip() for row in zip(*columns, strict=True)) + "\n"
