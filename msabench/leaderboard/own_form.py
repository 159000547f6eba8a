"""Whether a contributed config is safe to publish as one to be run. Free of torch.

The site hands every admitted config out again, with the command that runs it. What the job's hash leaves out says
nothing about the numbers, so that it is admitted with neutral values alone, and classes are admitted from msabench,
Lightning and torch alone, besides that of a method from outside which whoever admits it has named.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from msabench.errors import first_difference
from msabench.results.job_identity import FILE_ARGUMENTS, IGNORED_KEYS, portable

PACKAGES = ("msabench", "lightning.pytorch", "torch.optim", "torch.nn")
"""Where classes of a config may come from."""

NEUTRAL: dict[str, dict[str, tuple[Any, ...]]] = {
    "": {"config": (None,), "wandb": (None, False)},
    "trainer": {
        "logger": (None, True, False),
        "profiler": (None,),
        "model_registry": (None,),
    },
    "model.init_args": {"spec": (None,)},
}
"""Of the settings that are not hashed, those that name files or code -> values that do neither."""

_IMPORT_PATH = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)+")
_WEIGHTS = re.compile(r"[\w.-]+(/[\w.-]+)?(@[0-9a-f]{12})?")


def form_problems(config: dict[str, Any], method_class: str = "") -> Iterator[str]:
    """What of a recorded config no record of ours would hold.

    Args:
        config: The config.
        method_class: Class path of the method, which whoever admits it has named; empty for one of msabench's.

    Yields:
        One sentence per problem.
    """
    different = first_difference(config, portable(config))
    if different is not None:
        name, theirs, _ = different
        yield f"{name} {theirs!r} is a place on one machine, which records leave out"
    for section, keys in IGNORED_KEYS.items():
        settings = _section(config, section)
        for key in keys:
            value = settings.get(key)
            name = f"{section}.{key}".lstrip(".")
            allowed = NEUTRAL.get(section, {}).get(key)
            if allowed is None and not _is_plain(value):
                yield f"{name} {value!r} is not allowed; give numbers, words or nothing"
            elif allowed is not None and not any(value is one or value == one for one in allowed):
                listed = ", ".join("null" if one is None else str(one) for one in allowed)
                yield f"{name} {value!r} is not allowed in records; allowed: {listed}"
    for name in FILE_ARGUMENTS:
        weights = _section(config, "model.init_args").get(name)
        if weights is not None and not (isinstance(weights, str) and _WEIGHTS.fullmatch(weights)):
            yield f"{name} {weights!r} is not allowed; allowed: a name, or a name with the hash of its weights"
    for word in _words(config.get("trainer")):
        if word.startswith(("/", "~")) or ".." in word.replace("\\", "/").split("/"):
            yield f"trainer holds {word!r}, a place on one machine, which records leave out"
    for path in dict.fromkeys(_classes(config)):
        ours = path.startswith(tuple(f"{package}." for package in PACKAGES)) and ".." not in path
        if not ours and path != method_class:
            yield f"class {path!r} is from elsewhere; allowed: {', '.join(PACKAGES)}"


def _section(config: dict[str, Any], name: str) -> dict[str, Any]:
    found: Any = config
    for word in name.split(".") if name else ():
        found = (found or {}).get(word)
    return found if isinstance(found, dict) else {}


def _is_plain(value: Any) -> bool:
    if isinstance(value, list):
        return all(not isinstance(item, list | dict) for item in value)
    return not isinstance(value, dict)


def _classes(value: Any) -> Iterator[str]:
    """Every class or function that a config names: class paths, and in the trainer whatever looks like one."""
    if isinstance(value, dict):
        if "class_path" in value:
            yield str(value["class_path"])
        for key, item in value.items():
            if key == "trainer":
                yield from (word for word in _words(item) if _IMPORT_PATH.fullmatch(word))
            yield from _classes(item)
    elif isinstance(value, list):
        for item in value:
            yield from _classes(item)


def _words(value: Any) -> Iterator[str]:
    """Every string in a setting."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list):
        for item in value.values() if isinstance(value, dict) else value:
            yield from _words(item)
