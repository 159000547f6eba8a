"""Rows and columns of the result tables of five papers, in their order, and of second-hand ones.

Free of torch and pandas.
"""

from __future__ import annotations

from collections.abc import Iterable

from msabench.data.info import EMOTIONS
from msabench.errors import one_of
from msabench.missingness.conditions import MISSING_CONDITIONS
from msabench.published.numbers import PAPERS
from msabench.published.readings import readings
from msabench.published.second_hand import SECOND_HAND
from msabench.published.tables import PaperBlock, PaperColumn, PaperRow, PaperTable

_MISSING = (*(f"inter/{condition}" for condition in MISSING_CONDITIONS), "avg_missing")
_CONDITIONS = (*_MISSING, "inter/lav")
_RATES = tuple(f"intra/0.{tenth}" for tenth in range(10))


def _columns(
    dataset: str, cells: Iterable[str], metrics: Iterable[str], emotions: Iterable[str] = ("",)
) -> tuple[PaperColumn, ...]:
    """Columns of a block: by emotion, then by cell, then by metric."""
    kinds = [(emotion, cell, metric) for emotion in emotions for cell in cells for metric in metrics]
    return tuple(
        PaperColumn(cell, metric, readings(dataset, metric, emotion)[0], emotion) for emotion, cell, metric in kinds
    )


def _methods(names: str) -> tuple[PaperRow, ...]:
    return tuple(map(PaperRow, names.split()))


def _variants(method: str, names: str, cell: str = "") -> tuple[PaperRow, ...]:
    return tuple(PaperRow(method, name, cell) for name in names.split())


def _prlf() -> tuple[PaperTable, ...]:
    baselines = _methods("self_mm misa tetfn mmim umdf hrlf corrkd emoe prlf")
    steps = _variants("prlf", "step1 step2 step3 default step5")

    def on_mosi(label: str, caption: str, rows: tuple[PaperRow, ...], cells: tuple[str, ...]) -> PaperTable:
        return PaperTable("prlf", label, caption, (PaperBlock("mosi", "", rows, _columns("mosi", cells, ["f1"])),))

    return (
        PaperTable(
            "prlf",
            "1",
            "F1 with whole modalities missing at test",
            tuple(PaperBlock(name, "", baselines, _columns(name, _CONDITIONS, ["f1"])) for name in ("mosi", "mosei")),
        ),
        PaperTable(
            "prlf",
            "2",
            "F1 with whole modalities missing at test",
            (
                PaperBlock(
                    "sims",
                    "",
                    _methods("misa self_mm mmim tetfn almt lnln emoe prlf"),
                    _columns("sims", _MISSING, ["f1"]),
                ),
            ),
        ),
        on_mosi("3", "F1 by the number of progressive steps, with frames dropped at test", steps, _RATES),
        on_mosi("4", "F1 by the number of progressive steps, with modalities missing at test", steps, _CONDITIONS),
        on_mosi(
            "5",
            "F1 without single components, with modalities missing at test",
            _variants("prlf", "default wo_cmi wo_fimi wo_amre wo_pi"),
            _CONDITIONS,
        ),
        on_mosi(
            "6",
            "F1 without single loss terms, with modalities missing at test",
            _variants("prlf", "default wo_uni wo_phase"),
            _CONDITIONS,
        ),
    )


def _fsrf() -> tuple[PaperTable, ...]:
    baselines = _methods("self_mm cubemlp dmd mctn transm smil gcnet corrkd fsrf")
    ablations = _variants("fsrf", "default wo_dhf wo_das")
    # The paper names its rates as 0.1 to 1.0, and calls complete modalities a situation of its own.
    situations = ("avg_intra_to_1", "avg_missing", "inter/lav")
    corpora = ("mosi", "mosei")
    return (
        PaperTable(
            "fsrf",
            "I",
            "F1 with whole modalities missing at test",
            tuple(PaperBlock(name, "aligned", baselines, _columns(name, _CONDITIONS, ["f1"])) for name in corpora),
        ),
        PaperTable(
            "fsrf",
            "II",
            "F1 without single components, with frames dropped, modalities missing, and everything there",
            tuple(PaperBlock(name, "aligned", ablations, _columns(name, situations, ["f1"])) for name in corpora),
        ),
    )


def _umdf() -> tuple[PaperTable, ...]:
    baselines = _methods("self_mm cubemlp mctn transm smil gcnet umdf")
    ablations = _variants("umdf", "default wo_fea_loss wo_logits_loss wo_mcim wo_dfim")
    return (
        PaperTable(
            "umdf",
            "1",
            "MAE and F1 with whole modalities missing at test",
            tuple(
                PaperBlock(name, "", baselines, _columns(name, _CONDITIONS, ["mae", "f1"]))
                for name in ("mosi", "mosei")
            ),
        ),
        PaperTable(
            "umdf",
            "2",
            "F1 of each emotion with whole modalities missing at test",
            (
                PaperBlock(
                    "iemocap",
                    "",
                    baselines,
                    _columns("iemocap", _CONDITIONS, ["f1"], ("happy", "sad", "angry", "neutral")),
                ),
            ),
        ),
        PaperTable(
            "umdf",
            "3",
            "F1 without single components, with modalities missing at test",
            (PaperBlock("mosi", "", ablations, _columns("mosi", _CONDITIONS, ["f1"])),),
        ),
    )


def _recap() -> tuple[PaperTable, ...]:
    baselines = _methods("misa self_mm mmim tfr_net cenet tetfn almt bi_mamba lnln mascf tf_mamba recap")
    ablations = _variants(
        "recap",
        "default wo_hcag wo_fid wo_fid_shared wo_fid_unique wo_fid_lv wo_fid_la wo_fid_av wo_reconstructor wo_mir",
    )
    mean = ("avg_intra",)
    pairs = ["acc7", "acc5", "acc2_neg_pos", "acc2_neg_nonneg", "f1_neg_pos", "f1_neg_nonneg", "mae", "corr"]
    return (
        PaperTable(
            "recap",
            "1",
            "means over missing rates; Acc-2 and F1 as negative against positive and negative against non-negative",
            tuple(PaperBlock(name, "", baselines, _columns(name, mean, pairs)) for name in ("mosi", "mosei")),
        ),
        PaperTable(
            "recap",
            "2",
            "means over missing rates",
            (PaperBlock("sims", "", baselines, _columns("sims", mean, ["acc5", "acc3", "acc2", "f1", "mae", "corr"])),),
        ),
        PaperTable(
            "recap",
            "3",
            "without single components; means over missing rates, which the paper does not say of this table",
            (
                PaperBlock("mosi", "", ablations, _columns("mosi", mean, ["acc7", "acc2", "corr"])),
                PaperBlock("sims", "", ablations, _columns("sims", mean, ["f1", "mae", "corr"])),
            ),
        ),
    )


def _kt() -> tuple[PaperTable, ...]:
    scores = ("acc7", "acc2", "f1", "mae", "corr")

    def rows(baselines: str) -> tuple[PaperRow, ...]:
        return (
            *(PaperRow(name, cell="inter/lav") for name in baselines.split()),
            PaperRow("kt", "full_modality", "inter/lav"),
            PaperRow("kt", "vision_only", "inter/v"),
            PaperRow("kt", "language_only", "inter/l"),
            PaperRow("kt", "language_vision", "inter/lv"),
            PaperRow("kt", cell="inter/lv"),
        )

    def main(label: str, caption: str, dataset: str, aligned: str, unaligned: str) -> PaperTable:
        emotional = dataset == "iemocap"
        metrics, emotions = (("acc", "f1"), EMOTIONS[:2]) if emotional else (scores, ("",))
        columns = _columns(dataset, ("",), metrics, emotions)
        blocks = (("aligned", aligned), ("unaligned", unaligned))
        return PaperTable(
            "kt",
            label,
            caption,
            tuple(PaperBlock(dataset, features, rows(baselines), columns) for features, baselines in blocks),
        )

    def on_mosei(label: str, caption: str, variants: str) -> PaperTable:
        block = PaperBlock("mosei", "aligned", _variants("kt", variants, "inter/lv"), _columns("mosei", ("",), scores))
        return PaperTable("kt", label, caption, (block,))

    caption = "audio missing at test, against everything there and against fewer modalities in training and test"
    return (
        main("I", caption, "mosi", "rmfn mfm raven mctn", "ctc_mctn ctc_raven"),
        main("II", caption, "mosei", "graph_mfn raven mctn", "ctc_raven ctc_mctn"),
        main("III", f"{caption}; two of the four emotions", "iemocap", "rmfn mfm raven mctn", "ctc_raven ctc_mctn"),
        on_mosei("IV", "by the cross-modal blocks used", "target_language target_audio target_vision default"),
        on_mosei("V", "by the distance to the teacher", "l1_loss default"),
    )


PAPER_TABLES: tuple[PaperTable, ...] = (*_prlf(), *_fsrf(), *_umdf(), *_recap(), *_kt())
"""Every result table of the five papers."""


def _second_hand() -> tuple[PaperTable, ...]:
    pairs = ["acc7", "acc5", "acc2_neg_nonneg", "acc2_neg_pos", "f1_neg_nonneg", "f1_neg_pos", "mae", "corr"]
    re_run = ["acc7", "f1", "mae", "corr"]
    of_sims = ["acc5", "acc3", "acc2", "f1", "mae", "corr"]
    rates = tuple(f"random-table/0.{tenth}" for tenth in range(8))
    in_two = ("mosi", "mosei")

    def table(paper: str, label: str, what: str, *blocks: PaperBlock) -> PaperTable:
        source = SECOND_HAND[paper]
        caption = f"{what}; {source.protocol}"
        return PaperTable(paper, label, caption, blocks, read_in=source.read_in)

    def block(dataset: str, names: str, cell: str, metrics: Iterable[str]) -> PaperBlock:
        return PaperBlock(dataset, "", _methods(names), _columns(dataset, (cell,), metrics))

    return (
        table(
            "imder",
            "random",
            "Acc-2, F1 and Acc-7 by the rate of missing modalities",
            *(
                PaperBlock(
                    name,
                    "",
                    _methods("dcca dccae mctn mmin imder"),
                    _columns(name, rates, ["acc2", "f1", "acc7"]),
                )
                for name in in_two
            ),
        ),
        table("cyin", "complete", "everything there", block("mosi", "mmin", "inter/lav", re_run)),
        table("cyin", "0.7", "one modality left", block("mosi", "imder", "random/0.7", re_run)),
        table(
            "emt_dlfr",
            "AUILC",
            "areas over the rate of dropped frames",
            block("mosi", "tfn lmf mult misa self_mm mmim tfr_net emt_dlfr", "auilc_1.0", pairs),
            block("mosei", "emt_dlfr", "auilc_1.0", pairs),
            block("sims", "emt_dlfr", "auilc_0.5", of_sims),
        ),
        table("semmsa", "quoted", "P-RMF's row", *(block(name, "p_rmf", "avg_intra", pairs) for name in in_two)),
        table(
            "hitnet", "quoted", "a part of P-RMF's row", block("sims", "p_rmf", "avg_intra", ["acc3", "mae", "corr"])
        ),
        table(
            "tcmr",
            "quoted",
            "P-RMF's row",
            *(block(name, "p_rmf", "avg_intra", pairs) for name in in_two),
            block("sims", "p_rmf", "avg_intra", of_sims),
        ),
    )


SECOND_HAND_TABLES = _second_hand()
"""Tables of numbers that were read elsewhere; ``PAPER_TABLES`` has none of them."""


def paper_tables(paper: str | None = None, label: str | None = None) -> list[PaperTable]:
    """The tables of a paper, one of them, or all.

    Args:
        paper: One of ``numbers.PAPERS``, or a source of ``second_hand``; None takes all of the five papers.
        label: Label of a table of that paper; None takes all.

    Raises:
        MSABenchError: There is no such paper or table.
    """
    if paper is not None and paper not in (*PAPERS, *SECOND_HAND):
        raise one_of("paper", paper, (*PAPERS, *SECOND_HAND))
    tables = SECOND_HAND_TABLES if paper in SECOND_HAND else PAPER_TABLES
    found = [table for table in tables if paper in (None, table.paper)]
    labels = [table.label for table in found]
    if label is not None and label not in labels:
        raise one_of(f"table of {paper}", label, labels)
    return [table for table in found if label in (None, table.label)]
