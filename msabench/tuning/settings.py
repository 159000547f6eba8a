"""What a config says of the settings that are tuned. Free of torch and Optuna."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from msabench.results.study import Study, Trial


def value_in(config: Mapping[str, Any], name: str) -> Any:
    """What a config has at a dotted key; None if it has nothing there."""
    found: Any = config
    for part in name.split("."):
        found = found.get(part) if isinstance(found, Mapping) else None
    return found


def settings_of(study: Study, trial: Trial) -> dict[str, Any]:
    """A trial's settings, for trial 0 those of the config; None for one that the config leaves to the method."""
    return trial.settings or {name: value_in(study.config, name) for name in study.space}
