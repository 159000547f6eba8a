"""Settings by the dotted keys that studies name them by. Free of torch."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

from msabench.results.study import Study, Trial


def value_at(config: Mapping[str, Any], key: str) -> Any:
    """The value of a dotted key of a config; None where it has none.

    Args:
        config: A config, e.g. ``Study.config``.
        key: Dotted key, e.g. ``model.init_args.lr``.
    """
    found: Any = config
    for word in key.split("."):
        found = found.get(word) if isinstance(found, Mapping) else None
    return found


def with_settings(config: Mapping[str, Any], settings: Mapping[str, Any]) -> dict[str, Any]:
    """A config with other values of some keys.

    Args:
        config: As ``job_identity.what_is_trained`` gives it, which leaves out what is None.
        settings: Dotted key -> value; None takes the key away.
    """
    made = copy.deepcopy(dict(config))
    for key, value in settings.items():
        *sections, name = key.split(".")
        place: dict[str, Any] = made
        for section in sections:
            if not isinstance(place.get(section), dict):
                place[section] = {}
            place = place[section]
        if value is None:
            place.pop(name, None)
        else:
            place[name] = value
    return made


def settings_of(study: Study, trial: Trial) -> dict[str, Any]:
    """A trial's settings, for trial 0 those of the config; None for one that the config leaves to the method."""
    return trial.settings or {key: value_at(study.config, key) for key in study.space}


def chosen_settings(study: Study) -> list[tuple[str, Any, Any]]:
    """The settings of a study's winner beside those of its config.

    Args:
        study: A study with a winner.

    Returns:
        (dotted key, value of the winner, value of the config; None where the config has none), for every key of the
        space, in its order. Where the settings of the config have won, both are the same.
    """
    settings = study.best.settings
    pairs = ((key, value_at(study.config, key)) for key in dict.fromkeys([*study.space, *settings]))
    return [(key, settings.get(key, given), given) for key, given in pairs]
