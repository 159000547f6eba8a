"""Numbers that we did not read where they were printed, and what is known of how they came about. Free of torch.

They are kept apart from those of the five papers: each source has a file and tables of its own, which say where it was
read and what it is a test of, so that numbers of two protocols never stand in one column.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from msabench.published.numbers import Number, published_folder, read_numbers


@dataclass(frozen=True)
class SecondHand:
    """A source of second-hand numbers.

    Attributes:
        title: The paper that the numbers are from.
        venue: Where it appeared; empty if that was not read.
        law: What is missing at test and in training, in words.
        models: For how many of the situations one model was trained.
        selection: Which split chose the checkpoint.
        features: What the models read, as far as it is said.
        read_in: Where the numbers were read.
    """

    title: str
    venue: str
    law: str
    models: str
    selection: str
    features: str
    read_in: str

    @property
    def protocol(self) -> str:
        """What the numbers are a test of, in a sentence without its full stop."""
        return f"{self.law}; {self.models}; selected {self.selection}; {self.features}"


_UNSAID = "features not stated in what was read"
_RATES = "frames dropped at a rate, mean over the rates 0.0 to 0.9"

SECOND_HAND = {
    "imder": SecondHand(
        "Incomplete Multimodality-Diffused Emotion Recognition",
        "NeurIPS 2023",
        "whole modalities removed at a rate, by the table of DiCMoR and IMDer (random-table)",
        "one model for each rate, tested at this rate",
        "on a split that was not stated in what was read",
        _UNSAID,
        "a script in a public repository that plots them beside a later paper's own; not compared with the paper",
    ),
    "cyin": SecondHand(
        "CyIN",
        "NeurIPS 2025",
        "nothing removed, or whole modalities so that one is left (rate 0.7, where both laws are one)",
        "one model for all rates",
        "on a split that was not stated in what was read",
        "ImageBind features",
        "our notes on its tables of methods trained anew; its means over rates are left out, since the law behind them "
        "and the rates that they hold are not said",
    ),
    "emt_dlfr": SecondHand(
        "Efficient Multimodal Transformer with Dual-Level Feature Restoration for Robust Multimodal Sentiment Analysis",
        "arXiv 2208.07589",
        "frames dropped at a rate, area under the metric over the rates 0.0 to 1.0, on CH-SIMS 0.0 to 0.5, where it "
        "must be divided by 0.5",
        "one model for each rate, mean of three runs",
        "on the validation split, by its code",
        "text through BERT, by its code",
        "figures in its official repository, which stand for tables 6 and 7",
    ),
    "semmsa": SecondHand(
        "SemMSA",
        "",
        _RATES,
        "one model for all rates",
        "on the test split",
        _UNSAID,
        "a copy of that paper, which quotes P-RMF's row",
    ),
    "hitnet": SecondHand(
        "HiTNet",
        "",
        _RATES,
        "one model for all rates",
        "on the test split",
        _UNSAID,
        "a paper that quotes a part of HiTNet's row of P-RMF",
    ),
    "tcmr": SecondHand(
        "TCMR",
        "",
        _RATES,
        "one model for all rates, three seeds",
        "on the validation split",
        _UNSAID,
        "a copy of that paper, which trained P-RMF anew",
    ),
}
"""Second-hand sources, in the order in which they are listed."""


def load_second_hand(folder: Path | None = None) -> list[Number]:
    """The second-hand numbers, source by source.

    Args:
        folder: Folder with one file per source; None as in ``published_folder``. A folder of one's own need not have
            them.

    Raises:
        MSABenchError: There is no such folder, or a file in it is malformed.
    """
    place = published_folder(folder)
    files = (place / f"{source}.csv" for source in SECOND_HAND)
    return [number for file in files if file.is_file() for number in read_numbers(file)]
