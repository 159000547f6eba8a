"""What runs ALMT and LNLN beside their official code: names of weights, and a stand-in for what that imports."""

from __future__ import annotations

import re
from collections.abc import Mapping
from types import ModuleType
from typing import Any

from torch import Tensor

_BLOCKS = (
    (r"\.blocks\.(\d+)\.attention\.to_out\.", r".encoder.layers.\1.0.fn.to_out.0."),
    (r"\.blocks\.(\d+)\.attention\.", r".encoder.layers.\1.0.fn."),
    (r"\.blocks\.(\d+)\.norm\.", r".encoder.layers.\1.1.norm."),
    (r"\.blocks\.(\d+)\.norm_", r".encoder.layers.\1.0.norm_"),
    (r"\.blocks\.(\d+)\.feed_forward\.0\.", r".encoder.layers.\1.1.fn.net.0."),
    (r"\.blocks\.(\d+)\.feed_forward\.2\.", r".encoder.layers.\1.1.fn.net.3."),
    (r"\.tokens$", ".extra_token"),
    (r"\.positions$", ".pos_embedding"),
    (r"fusion\.fusion\.encoder\.", "fusion.fusion.CrossTransformerEncoder."),
    (r"fusion\.fusion\.token$", "fusion.fusion.extra_token"),
    (r"fusion\.fusion\.source_positions$", "fusion.fusion.pos_embedding_s"),
    (r"fusion\.fusion\.target_positions$", "fusion.fusion.pos_embedding_t"),
    (r"fusion\.layers\.(\d+)\.norm_language\.", r"fusion.layers.\1.0.norm1."),
    (r"fusion\.layers\.(\d+)\.norm_audio\.", r"fusion.layers.\1.0.norm2."),
    (r"fusion\.layers\.(\d+)\.norm_vision\.", r"fusion.layers.\1.0.norm3."),
    (r"fusion\.layers\.(\d+)\.norm_hyper\.", r"fusion.layers.\1.0.norm4."),
    (r"fusion\.layers\.(\d+)\.to_q\.", r"fusion.layers.\1.0.fn.to_q."),
    (r"fusion\.layers\.(\d+)\.to_([kv])_([av])[a-z]+\.", r"fusion.layers.\1.0.fn.to_\2_t\3."),
    (r"fusion\.layers\.(\d+)\.to_out\.", r"fusion.layers.\1.0.fn.to_out.0."),
    (r"fusion\.hyper$", "h_hyper"),
)
_EMBEDDING = (
    (r"embed\.tokens\.([tav])[a-z]+\.project\.", r"proj_\1.0."),
    (r"embed\.tokens\.([tav])[a-z]+\.transformer\.", r"proj_\1.1."),
    ("proj_t", "proj_l"),
)


def renamed(state: Mapping[str, Tensor], *special: tuple[str, str]) -> dict[str, Tensor]:
    """Our weights, or gradients, under the official names.

    Args:
        state: By our names.
        special: Regular expressions and replacements of one official code, applied last.
    """
    result = {}
    for ours, value in state.items():
        name = ours
        for pattern, replacement in (*_BLOCKS, *_EMBEDDING, *special):
            name = re.sub(pattern, replacement, name)
        result[name] = value
    return result


def einops() -> ModuleType:
    """Stands in for the library of that name, with the patterns that the two official codes use."""
    patterns = {
        "b n (h d) -> b h n d": lambda x, h: x.unflatten(2, (h, -1)).transpose(1, 2),
        "b h n d -> b n (h d)": lambda x: x.transpose(1, 2).flatten(2),
        "b n d -> (b n) d": lambda x: x.flatten(0, 1),
        "1 n d -> b n d": lambda x, b: x.repeat(b, 1, 1),
        "1 1 d -> b 1 d": lambda x, b: x.repeat(b, 1, 1),
    }
    module: Any = ModuleType("einops")
    module.rearrange = module.repeat = lambda x, pattern, **sizes: patterns[pattern](x, **sizes)
    return module
