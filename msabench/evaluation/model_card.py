"""The card in an exported folder: what the checkpoint is, and what is not claimed of it."""

from __future__ import annotations

from msabench.data.info import DatasetInfo
from msabench.evaluation.origin import Origin
from msabench.methods.base import MSAMethod
from msabench.methods.info import EXTERNAL
from msabench.methods.registry import method_info
from msabench.missingness.conditions import MODALITIES


def model_card(made_by: Origin, method: MSAMethod, info: DatasetInfo) -> str:
    """The text of the card, Markdown.

    It states what is recorded of the training and no result: how good a model is, its evaluation says.

    Args:
        made_by: The job that made the checkpoint.
        method: The method.
        info: The corpus of the training.
    """
    key, finished, spec = made_by.key, made_by.finished, method.spec
    facts = method_info(key.method)
    variant = "" if key.variant == "default" else f", variant {key.variant}"
    published = [*([f"{facts.venue} {facts.year}"] if facts.year else []), *([facts.url] if facts.url else [])]
    paper = f'"{facts.title}"' + (f" ({', '.join(published)})" if published else "")
    shapes = ", ".join(f"{m} {spec.seq_lens[m]} x {spec.feature_dims[m]}" for m in MODALITIES)
    said = {
        EXTERNAL: "a method from outside msabench, whose class must be on the path (`--plugins`)",
        "reference": "a plain model or constant of msabench",
    }
    epoch = "none was selected" if finished.best_epoch is None else f"{finished.best_epoch} of {finished.epochs}"
    lines = [
        "---",
        "library_name: msabench",
        "tags: [multimodal-sentiment-analysis, missing-modalities]",
        "---",
        "",
        f"# {key.method}, trained on {info.title}",
        "",
        f"A checkpoint of msabench: `{key.method}` version "
        f"{key.method_version}{variant}, {paper}; {said.get(facts.fidelity, f'fidelity: {facts.fidelity}')}.",
        "",
        "| | |",
        "|---|---|",
        f"| corpus | {info.title}, features `{key.features}`, revision `{key.revision}` |",
        f"| reads (steps x features) | {shapes}{'; text as token ids' if method.data_needs.tokens else ''} |",
        f"| training regime | {key.regime}; text level {key.level}, lengths {key.lengths} |",
        f"| selected by | {key.selection}, epoch {epoch} (counted from 0) |",
        f"| seed | {key.seed} |",
        f"| trainable parameters | {finished.n_params:,} |",
        f"| job | `{key.job_id}` |",
        "",
        "```",
        "msabench checkpoint info FOLDER",
        "msabench predict --checkpoint FOLDER --input clips.npz",
        "msabench evaluate --checkpoint FOLDER",
        "```",
        "",
        *([f"**Caveat.** {info.caveat}", ""] if info.caveat else []),
        "It predicts from features that were extracted as those of its corpus, and from no others. The corpus is not "
        "part of this folder. No result is stated here: `evaluate` makes one.",
        "",
        "No licence is stated: whoever publishes the folder chooses one, and minds the terms of the corpus"
        + (f" and of the official code ({facts.licence})." if facts.licence else "."),
    ]
    return "\n".join(lines) + "\n"
