"""Importance of the modalities over training, as in PRLF's figure 7. Imports torch."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from msabench.errors import MSABenchError
from msabench.figures.sheet import COLOURS, COLUMN, LINES, MARKERS, PAGE, Picture, sheet, stem_of
from msabench.results.build import dataset_facts

MOST = 6
ACROSS = 3
MODALITIES = ("text", "audio", "vision")


def importance(checkpoints: Sequence[Path]) -> Picture:
    """Importance of each modality in every epoch up to the selected one, a panel for each checkpoint.

    Lines are medians over training clips, bands their quartiles.

    Args:
        checkpoints: Checkpoints of a method that keeps the importance of modalities, on one corpus.

    Raises:
        MSABenchError: None is given or too many are, one is not usable or keeps no importance, or corpora differ.
    """
    from msabench.methods.checkpoint import load_checkpoint

    if not checkpoints:
        raise MSABenchError(
            "the importance of modalities is kept in checkpoints; give some with --checkpoints, which "
            "`msabench run --suite prlf_smoke --keep-checkpoints` leaves below runs/"
        )
    if len(checkpoints) > MOST:
        raise MSABenchError(f"{len(checkpoints)} checkpoints make too many panels; give at most {MOST}")
    made = []
    for path in checkpoints:
        method, state = load_checkpoint(path)
        history = getattr(method, "importance_history", None)
        if history is None:
            raise MSABenchError(f"{path} is of {method.info.name}, which keeps no importance; give checkpoints of prlf")
        made.append((method, state, history().float().numpy()))
    made.sort(key=lambda item: (item[0].info.name, item[0].variant, item[1]["init_args"]["seed"]))
    datasets = sorted({state["init_args"]["dataset"] for _, state, _ in made})
    if len(datasets) > 1:
        raise MSABenchError(f"the checkpoints are of {' and '.join(datasets)}; give those of one corpus")
    info = dataset_facts(datasets[0])
    across = min(ACROSS, len(made))
    down = -(-len(made) // across)
    methods = list(dict.fromkeys(method.info.name for method, *_ in made))
    said = [
        f"{info.title}. Importance of the modalities for the training clips of {', '.join(methods)}, epochs up to the "
        "one selected on validation. Lines: median over clips; bands: quartiles. One panel for each training.",
        info.caveat,
    ]
    figure, above = sheet(COLUMN if across == 1 else PAGE, 2.2 * down, said)
    axes: Any = above.subplots(down, across, squeeze=False, sharey=True).ravel()
    for spare in axes[len(made) :]:
        spare.set_visible(False)
    for panel, (method, state, values) in zip(axes, made, strict=False):
        _draw(panel, values)
        panel.set_title(f"{method.info.name}/{method.variant}, seed {state['init_args']['seed']}", fontsize=7.5)
    axes[0].set_ylabel("importance")
    handles, names = axes[0].get_legend_handles_labels()
    above.legend(handles, names, loc="outside lower center", ncols=len(MODALITIES))
    return Picture(stem_of("importance", info.name, *methods), figure)


def _draw(panel: Any, values: NDArray[np.float32]) -> None:
    """Quartiles over clips of ``(epochs, clips, 3)``."""
    epochs = np.arange(1, len(values) + 1)
    low, middle, high = np.nanpercentile(values, [25, 50, 75], axis=1)
    for number, modality in enumerate(MODALITIES):
        style = {"color": COLOURS[number], "marker": MARKERS[number], "linestyle": LINES[number]}
        panel.plot(epochs, middle[:, number], label=modality, **style)
        panel.fill_between(epochs, low[:, number], high[:, number], color=COLOURS[number], alpha=0.15, linewidth=0)
    panel.set_xticks(epochs if len(epochs) <= 12 else epochs[:: -(-len(epochs) // 10)])
    panel.set_xlabel("epoch")
