"""What a record says of predictions that were made elsewhere and only scored here. Free of torch."""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

import numpy as np

from msabench.errors import MSABenchError, printable
from msabench.methods.registry import methods as registered
from msabench.results.predictions import Floats
from msabench.results.record import SCORED, JobKey, JobRecord, canonical_hash

UNKNOWN = "unknown"
"""What a key says of a training that nobody described."""

SELECTIONS = ("val", "test_best", UNKNOWN)
"""How a model may have been chosen: without any label of the test split, by them, or nobody says."""

MOST_SLUG = 40
"""Characters of a name in tables; of a longer one the end is replaced by a hash."""

MOST_TITLE = 200
MOST_ABOUT = 2000

_REGIME = re.compile(r"[A-Za-z][\w.,:+()-]{0,59}")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_ADDRESS = re.compile(r"https?://[^\s<>\"']{1,500}")


@dataclass(frozen=True)
class Scored:
    """What the maker of some predictions says of them.

    Attributes:
        title: What they are called.
        sha256: The sha256 of the file that was scored, 64 hex digits.
        about: Who or what made them, in a few sentences; may be empty.
        url: Where to read on; may be empty.
    """

    title: str
    sha256: str
    about: str = ""
    url: str = ""

    @property
    def slug(self) -> str:
        """What stands in the place of a method's name: small letters, digits and ``_``, different for every method."""
        return slug_of(self.title)

    def problems(self) -> Iterator[str]:
        """What of it no record may hold; one sentence each."""
        for name, most in (("title", MOST_TITLE), ("about", MOST_ABOUT)):
            text = getattr(self, name)
            if len(text) > most:
                yield f"{name} has {len(text)} characters; allowed are {most}"
            if printable(text) != text or (name == "title" and len(text.splitlines()) > 1):
                yield f"{name} {text[:60]!r} has characters that cannot be printed; leave them out"
        if not self.title.strip():
            yield f"title {self.title!r} is empty; give a name"
        if self.url and not _ADDRESS.fullmatch(self.url):
            yield f"url {self.url[:100]!r} is no address; it begins with http:// or https://"
        if not _SHA256.fullmatch(self.sha256):
            yield f"sha256 {self.sha256[:100]!r} is none; it has 64 hex digits"
        if self.slug in registered():
            yield (
                f"the name {self.title!r} would stand in tables as {self.slug}, which is a method of msabench; give "
                f"another one, e.g. {self.title + ' (theirs)'!r}"
            )

    def provenance(self) -> dict[str, Any]:
        """As a record's provenance has it."""
        return {SCORED: asdict(self)}


def scored_of(job: JobRecord) -> Scored:
    """What a record says of its predictions' making.

    Args:
        job: A record whose key has the origin ``external``.

    Raises:
        MSABenchError: It says nothing, or something else than text.
    """
    given = job.provenance.get(SCORED)
    names = {f.name for f in fields(Scored)}
    if not isinstance(given, dict) or given.keys() != names or not all(isinstance(v, str) for v in given.values()):
        raise MSABenchError(
            f"job {job.key.job_id} does not say what was scored; its provenance needs {SCORED!r} with "
            f"{', '.join(sorted(names))}"
        )
    return Scored(**given)


def slug_of(title: str) -> str:
    """A name for tables, files and command lines, made of a title.

    >>> slug_of("GPT-4o (zero-shot)")
    'gpt_4o_zero_shot'
    """
    plain = unicodedata.normalize("NFKD", title).encode("ascii", "ignore").decode().lower()
    words = re.sub(r"[^a-z0-9]+", "_", plain).strip("_")
    mark = canonical_hash(title, 8)
    if not words:
        # A title in another script.
        return f"{SCORED}_{mark}"
    if not words[0].isalpha():
        words = f"{SCORED}_{words}"
    return words if len(words) <= MOST_SLUG else f"{words[: MOST_SLUG - 9].rstrip('_')}_{mark}"


def content_hash(ids: Sequence[str], cells: Iterable[tuple[str, int | None, Floats]]) -> str:
    """What tells some predictions from others, whatever file they came in: 12 hex digits.

    Args:
        ids: Clip ids, N.
        cells: Cell name, mask seed, and float32 ``(N,)`` or ``(N, 4, 2)`` predictions, in the order of tables.
    """
    digest = hashlib.sha256("\n".join(ids).encode("utf-8", "surrogatepass"))
    for cell, seed, preds in cells:
        digest.update(f"\n{cell}@{seed}:".encode())
        digest.update(np.ascontiguousarray(preds, dtype="<f4").tobytes())
    return digest.hexdigest()[:12]


def key_problems(key: JobKey) -> Iterator[str]:
    """What of a scored job's key cannot be stated; one sentence each."""
    if not _REGIME.fullmatch(key.regime):
        yield f"regime {key.regime[:100]!r} is no name of a training regime; give a word such as complete or mixed"
    if key.selection not in SELECTIONS:
        yield f"selection {key.selection[:100]!r} is not allowed; allowed: {', '.join(SELECTIONS)}"
    if not 0 <= key.seed < 2**32:
        yield f"seed {key.seed} is not allowed; give the training's seed, from 0 to {2**32 - 1}"
    if key.method_version != 1 or key.variant != "default":
        yield f"version {key.method_version} and variant {key.variant!r} are not those of what was only scored"
