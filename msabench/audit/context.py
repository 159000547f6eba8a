"""What the checks look at."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property

from msabench.audit.claims import Claim
from msabench.audit.printed import Rows, rows_of
from msabench.audit.splits import SplitFacts, split_facts
from msabench.published.numbers import Number


@dataclass
class Context:
    """Numbers under audit, what is claimed about them, and what is known about the corpora.

    Attributes:
        numbers: Printed numbers, in the order of print.
        claims: Claims in prose.
    """

    numbers: Sequence[Number]
    claims: Sequence[Claim] = ()
    _splits: dict[str, SplitFacts | None] = field(default_factory=dict)

    @cached_property
    def rows(self) -> Rows:
        """The numbers of tables by row and column."""
        return rows_of(self.numbers)

    def split(self, dataset: str) -> SplitFacts | None:
        """What is known about a corpus's test split; read once."""
        if dataset not in self._splits:
            self._splits[dataset] = split_facts(dataset)
        return self._splits[dataset]
