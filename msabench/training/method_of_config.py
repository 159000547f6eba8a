"""Methods that only a config names, by the path of their class. Free of torch."""

from __future__ import annotations

from pathlib import Path

from msabench.methods import registry
from msabench.methods.info import MethodInfo


def info_of(method: str, config: Path) -> MethodInfo:
    """Facts of a method; one that nothing else names is looked for where its config says.

    Args:
        method: Its name.
        config: A config of it, which need not exist.

    Raises:
        MSABenchError: No method has this name, or the config's class is not on the path.
    """
    if method not in registry.methods() and config.is_file():
        # Here, since most configs need not be opened, and the reader takes a moment to import.
        from msabench.training.config_files import config_of

        model = config_of(config).get("model")
        given = model.get("class_path") if isinstance(model, dict) else None
        if isinstance(given, str) and "." in given:
            registry.name_of(given)
    return registry.method_info(method)
