"""What is known about a method before it is built. Free of torch."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from msabench.errors import one_of

EXTERNAL = "external"
"""In place of the fidelity of methods from outside msabench, which nobody here has read."""

FIDELITY = ("parity", "equations", "reconstructed", "experimental", "reference", EXTERNAL)


@dataclass(frozen=True)
class MethodInfo:
    """Facts about a method. Written as a literal in its file, so that it can be listed without importing torch.

    Attributes:
        name: Registry key and file name.
        title: Title of the paper.
        venue: Where it appeared, e.g. ``"AAAI"``.
        year: Year of publication.
        url: Where to read the paper.
        fidelity: ``parity`` (agrees numerically with official code), ``equations`` (every equation of the paper is
            implemented and tested; not compared with official code), ``reconstructed`` (parts are not in the paper),
            ``experimental`` (known by title), ``reference`` (a plain model or constant), ``external`` (from outside
            msabench, whatever its file says).
        code_url: Official code, or empty.
        code_commit: The commit that was read.
        licence: Licence of the official code, or empty.
        method_version: Raised whenever the computation changes; old records stay and are not mixed with new ones.
        tasks: Kinds of labels it handles: ``regression``, ``emotions``.
        variants: Named ablations and variants besides ``default``.
        trains_with: Training-only inputs it asks for: ``views``, ``complete``.
        reads: Modalities that a prediction of its default variant depends on.
        needs: Those of them without which nothing else is read.
        smoke: Constructor arguments of a tiny instance for tests.
    """

    name: str
    title: str
    venue: str
    year: int
    url: str
    fidelity: str
    code_url: str = ""
    code_commit: str = ""
    licence: str = ""
    method_version: int = 1
    tasks: tuple[str, ...] = ("regression", "emotions")
    variants: tuple[str, ...] = ()
    trains_with: tuple[str, ...] = ()
    reads: tuple[str, ...] = ("text", "audio", "vision")
    needs: tuple[str, ...] = ()
    smoke: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.fidelity not in FIDELITY:
            raise one_of("fidelity", self.fidelity, FIDELITY)
