"""``msabench regress``: is every method's F1 still what it was?

Each method is trained for a small fixed budget on a small ``synth``, in one process, and its F1 per cell compared with
``benchmarks/regression/expected.json``. The tolerance stands beside each number. It comes from the spread over seeds:
a change of rounding, as another processor brings, may move a run about as far as another seed would, a bug moves it
further.
"""

from __future__ import annotations

import json
import math
import statistics
from pathlib import Path
from typing import Any

from msabench.errors import MSABenchError
from msabench.files import write_text
from msabench.methods.registry import methods as registered
from msabench.packaged import CONFIGS, REGRESSION, packaged
from msabench.runner import measured_before
from msabench.runner.short_training import CELLS, METRIC, OVERRIDES, config_of_method, measure
from msabench.training.method_of_config import info_of

EXPECTED = Path(REGRESSION) / "expected.json"
CHECK_SEEDS = (1, 2)
"""Seeds that a check trains; the expectation is their mean."""
SPREAD_SEEDS = (1, 2, 3, 4, 5)
"""Seeds that ``--update`` trains to learn the spread."""
MIN_TOLERANCE = 0.01
"""Two of 300 clips more or less right; smaller spreads over five seeds are luck."""
MAX_DEVIATIONS = 3.0
MAX_TOLERANCE = 0.15
"""A cell whose seeds differ by more cannot tell a bug from luck; it is held to this, and the seeds are fixed. The
noisiest cells move by up to .13 from one processor to another."""


def regress(
    methods: list[str] | None = None,
    update: bool = False,
    expected: Path | None = None,
    configs: Path = Path(CONFIGS),
    cached: bool = False,
) -> int:
    """Train every method briefly and compare F1 per cell with the expectation.

    Args:
        methods: Methods to check, those from outside included; all of msabench's own if not given.
        update: Rewrite the expectations of these methods, for review; never those that come with an installed msabench.
        expected: File with the expectations; if not given benchmarks/regression/expected.json here, and where there is
            none the one that comes with msabench.
        configs: Folder with ``<method>_synth.yaml``; what it lacks is the config that comes with msabench.
        cached: Take F1 that was measured here before, where sources, config, libraries and processor are equal and it
            is as expected; keep what is measured. Without, all is measured, and nothing kept.

    Returns:
        0 if every F1 is within its tolerance, 1 otherwise.

    Raises:
        MSABenchError: Unknown method, a config or the file of expectations is missing or broken, or ``cached`` along
            with ``update``.
    """
    if cached and update:
        raise MSABenchError("--cached is not allowed with --update, which measures; leave one out")
    names = methods or sorted(registered(external=False))
    for name in names:
        info_of(name, config_of_method(name, configs))
    source = expected or (EXPECTED if EXPECTED.is_file() else packaged(REGRESSION) / EXPECTED.name)
    known = _read(source, missing_is_empty=update)
    failures = []
    for name in names:
        if update:
            known[name] = _expectation([measure(name, seed, configs) for seed in SPREAD_SEEDS])
            print(
                f"{name:<12}"
                + "  ".join(f"{cell} {v['f1']:.3f}+-{v['tolerance']:.3f}" for cell, v in known[name].items())
            )
            continue
        if name not in known:
            print(f"{name:<12}no expectation in {source}; run: msabench regress --methods {name} --update")
            failures.append(name)
            continue
        if cached and _was_right(name, known[name], configs):
            print(f"{name:<12}ok, {len(known[name])} cells within tolerance, as measured before")
            continue
        wrong = _wrong(name, known[name], configs, keep=cached)
        print(f"{name:<12}" + ("; ".join(wrong) if wrong else f"ok, {len(known[name])} cells within tolerance"))
        failures += [name] if wrong else []
    if update:
        target = expected or EXPECTED
        _write(target, known)
        print(f"wrote {target}; review the difference before committing it")
    elif failures:
        print(f"F1 has moved: {', '.join(failures)}")
    return 1 if failures else 0


def _was_right(name: str, expectation: dict[str, Any], configs: Path) -> bool:
    """Whether F1 that was measured before from equal inputs is there, and as expected."""
    known = measured_before.inputs(name, CHECK_SEEDS, configs)
    runs = None if known is None else measured_before.recall(name, known)
    return runs is not None and not compare(expectation, runs)


def _wrong(name: str, expectation: dict[str, Any], configs: Path, keep: bool) -> list[str]:
    """Measure a method, and say what differs from its expectation."""
    before = measured_before.inputs(name, CHECK_SEEDS, configs) if keep else None
    runs = [measure(name, seed, configs) for seed in CHECK_SEEDS]
    wrong = compare(expectation, runs)
    # Sources may have been edited while it trained.
    if before is not None and not wrong and before == measured_before.inputs(name, CHECK_SEEDS, configs):
        measured_before.keep(name, before, runs)
    return wrong


def compare(expectation: dict[str, Any], runs: list[dict[str, float]]) -> list[str]:
    """What differs from an expectation by more than its tolerance, one phrase per cell.

    Args:
        expectation: Cell -> ``f1`` and ``tolerance``.
        runs: Cell -> F1, one per seed of ``CHECK_SEEDS``.
    """
    wrong = []
    if set(expectation) != set(runs[0]):
        return [f"expectations for cells {', '.join(sorted(expectation))}; measured {', '.join(sorted(runs[0]))}"]
    for cell, known in expectation.items():
        f1 = statistics.fmean(run[cell] for run in runs)
        if not abs(f1 - known["f1"]) <= known["tolerance"]:
            wrong.append(f"{cell}: F1 {f1:.4f}, expected {known['f1']:.4f} +- {known['tolerance']:.4f}")
    return wrong


def _expectation(runs: list[dict[str, float]]) -> dict[str, Any]:
    checked = len(CHECK_SEEDS)
    entries = {}
    for cell in runs[0]:
        spread = statistics.stdev(run[cell] for run in runs)
        entries[cell] = {
            "f1": round(statistics.fmean(run[cell] for run in runs[:checked]), 6),
            # Of the difference between two means over the seeds checked.
            "tolerance": round(
                min(MAX_TOLERANCE, max(MIN_TOLERANCE, MAX_DEVIATIONS * spread * math.sqrt(2 / checked))), 6
            ),
            "std_over_seeds": round(spread, 6),
        }
    return entries


def _read(path: Path, *, missing_is_empty: bool) -> dict[str, Any]:
    if not path.is_file():
        if missing_is_empty:
            return {}
        raise MSABenchError(f"there is no file of expectations {path}; msabench regress --update writes one")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        known: dict[str, Any] = content["methods"]
        made_with = {name: content[name] for name in _about()}
    except (json.JSONDecodeError, KeyError, TypeError) as error:
        raise MSABenchError(f"{path} is no file of expectations ({error}); restore it from git") from error
    if made_with != _about():
        different = next(name for name, value in _about().items() if made_with[name] != value)
        if not missing_is_empty:
            raise MSABenchError(
                f"{path} was made with {different} {made_with[different]}, now it is {_about()[different]}; "
                "run msabench regress --update for all methods"
            )
        return {}
    return known


def _about() -> dict[str, Any]:
    return {
        "metric": METRIC,
        "cells": [str(cell) for cell in CELLS],
        "check_seeds": list(CHECK_SEEDS),
        "spread_seeds": list(SPREAD_SEEDS),
        "settings": list(OVERRIDES),
        "tolerance": (
            f"{MAX_DEVIATIONS:g} x std over seeds x sqrt(2 / {len(CHECK_SEEDS)}), "
            f"at least {MIN_TOLERANCE:g}, at most {MAX_TOLERANCE:g}"
        ),
    }


def _write(path: Path, known: dict[str, Any]) -> None:
    text = json.dumps({**_about(), "methods": dict(sorted(known.items()))}, indent=1) + "\n"
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, text)
