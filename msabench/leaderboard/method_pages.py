"""What the page of a method says of its records. Free of torch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from msabench.leaderboard import reproduce
from msabench.results.record import SCORED, JobRecord
from msabench.results.scored import UNKNOWN
from msabench.results.tuned import study_of


def venue_of(venue: str, year: int) -> str:
    """Where a paper appeared, e.g. ``AAAI 2024``; empty if nowhere."""
    return f"{venue} {year}" if year else ""


def job_entry(job: JobRecord) -> dict[str, Any]:
    """A job as the template shows it.

    Args:
        job: A finished or failed job.

    Returns:
        ``id``, ``title``, ``failed``, ``error``, ``warnings``, ``command`` (lines; none if it cannot be run),
        ``encoder`` (whether a text encoder has to be put in), ``scored`` (whether its predictions were made elsewhere),
        ``study`` (id of the study that selected its settings, or empty), ``facts`` (name, value).
    """
    key = job.key
    features = "" if key.features == key.dataset else key.features
    variant = "" if key.variant == "default" else key.variant
    parts = (f"{key.dataset} {key.revision}", features, variant, key.regime, key.tuning, f"seed {key.seed}")
    return {
        "id": key.job_id,
        "title": ", ".join(part for part in parts if part),
        "failed": job.status == "failed",
        "error": job.error,
        "warnings": _warnings(job),
        "command": reproduce.commands(job) if reproduce.can_run(job) else [],
        "encoder": reproduce.needed_weights(job),
        "scored": bool(key.origin),
        "study": study_of(job.provenance),
        "facts": [(name, value) for name, value in _facts(job) if value],
    }


def _warnings(job: JobRecord) -> list[str]:
    warnings = []
    if job.provenance.get("git_dirty"):
        warnings.append("uncommitted changes")
    if not job.provenance.get("git_commit"):
        warnings.append("commit unknown")
    if job.key.selection != "val":
        known = job.key.selection != UNKNOWN
        warnings.append(f"selected by {job.key.selection}" if known else "selection unknown")
    return warnings


def _facts(job: JobRecord) -> Sequence[tuple[str, str]]:
    made = job.provenance
    versions = made.get("versions") or {}
    device = ", ".join(str(made[name]) for name in ("device", "device_name") if made.get(name))
    threads = made.get("threads")
    scored = made.get(SCORED) or {}
    return (
        ("Job", job.key.job_id),
        ("Predictions of", str(scored.get("title") or "")),
        ("About them", str(scored.get("about") or "")),
        ("Address", str(scored.get("url") or "")),
        ("Sha256 of their file", str(scored.get("sha256") or "")),
        ("Version of the method", str(job.key.method_version)),
        ("Configuration", job.key.config_hash),
        ("Settings", job.key.tuning),
        ("Data", f"{job.key.dataset}, revision {job.key.revision}, features {job.key.features}"),
        ("Protocol", _protocol(job)),
        ("Padding", job.padding or ""),
        ("Suites", ", ".join(job.suites)),
        ("Date", str(made.get("date") or "")),
        ("Commit", str(made.get("git_commit") or "")),
        ("Device", device + (f", {threads} threads" if threads else "")),
        ("Versions", ", ".join(f"{name} {version}" for name, version in versions.items())),
        ("Epochs", _epochs(job)),
        ("Parameters", "" if job.n_params is None else f"{job.n_params:,}"),
        ("Training", _training(job)),
        ("Mask seeds", ", ".join(map(str, job.mask_seeds))),
    )


def _protocol(job: JobRecord) -> str:
    key = job.key
    fill = f" (fill {key.token_fill})" if key.token_fill else ""
    return f"level {key.level}{fill}, lengths {key.lengths}, selection {key.selection}"


def _training(job: JobRecord) -> str:
    if job.train_seconds is None:
        return ""
    processor = job.train_processor_seconds
    return f"{job.train_seconds:.0f} s" + ("" if processor is None else f", {processor:.0f} s of the processor")


def _epochs(job: JobRecord) -> str:
    if job.epochs is None:
        return ""
    best = "" if job.best_epoch is None else f", checkpoint of epoch {job.best_epoch} (from 0)"
    return f"{job.epochs}{best}"
