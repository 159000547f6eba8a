"""The small fixed training whose F1 ``msabench regress`` compares."""

from __future__ import annotations

import tempfile
from pathlib import Path

from msabench.missingness.conditions import parse_grid
from msabench.packaged import CONFIGS, beside_or_packaged

METRIC = "f1_non0"
CELLS = parse_grid(["inter", "intra/0.5"])
OVERRIDES = (
    "--data.size=[240,60,300]",
    "--data.length=10",
    "--data.batch_size=24",
    "--data.missing.regime=mixed",
    "--trainer.max_epochs=8",
    "--trainer.accelerator=cpu",
    "--trainer.devices=1",
    "--trainer.enable_progress_bar=false",
    "--early_stop=null",
)


def config_of_method(method: str, configs: Path) -> Path:
    """The config that a method is trained with.

    Args:
        method: Its name.
        configs: Folder with its config for ``synth``.

    Returns:
        ``<method>_synth.yaml`` in that folder; without one there, the one that comes with msabench; where neither is,
        the place in the folder.
    """
    name = f"{method}_synth.yaml"
    return beside_or_packaged(name, configs, CONFIGS) or configs / name


def measure(method: str, seed: int, configs: Path) -> dict[str, float]:
    """Train a method once with the fixed budget.

    Args:
        method: Its name.
        seed: Seed of the training.
        configs: Folder with its config for ``synth``; without it, the one that comes with msabench is taken.

    Returns:
        Cell name -> F1 in [0, 1] on the test split, of the epoch selected on validation.

    Raises:
        MSABenchError: There is no such config.
    """
    from msabench.evaluation.evaluate import evaluate_grid
    from msabench.methods.checkpoint import load_checkpoint
    from msabench.metrics.functional import compute
    from msabench.training.build import build

    with tempfile.TemporaryDirectory(prefix="msabench-regress-") as folder:
        overrides = [*OVERRIDES, f"--seed_everything={seed}", f"--trainer.default_root_dir={folder}"]
        built = build([config_of_method(method, configs)], overrides)
        built.trainer.fit(built.model, datamodule=built.datamodule)
        best, _ = load_checkpoint(Path(built.trainer.checkpoint_callback.best_model_path))  # type: ignore[union-attr]
        result = evaluate_grid(best, built.datamodule, CELLS, mask_seeds=(0,))
    return {str(entry.cell): compute(result.metric_set, result.labels, entry.preds)[METRIC] for entry in result.cells}
