"""Settings as words of a command line. Free of torch."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any


def as_words(settings: Mapping[str, Any]) -> tuple[str, ...]:
    """Settings as command-line words: ``{"a.b": [1]}`` -> ``("--a.b=[1]",)``.

    Args:
        settings: Dotted key of a config -> plain value.
    """
    return tuple(f"--{k}={v if isinstance(v, str) else json.dumps(v)}" for k, v in settings.items())
