"""``msabench leaderboard build``, ``intervals``, ``readme`` and ``add``. Free of torch."""

from __future__ import annotations

from pathlib import Path

from msabench.published.numbers import published_folder
from msabench.results.places import COMMITTED_STORE, no_records, store_to_read

DEFAULT_README = Path("leaderboard/README.md")


def build(
    out: Path = Path("site"),
    store: Path | None = None,
    published: Path | None = None,
    datasets: list[str] | None = None,
) -> str:
    """Build the leaderboard as a folder of pages that open from disk, without a server or a network.

    Args:
        out: The folder; one that msabench built before is replaced, any other is refused.
        store: Folder of the result store; if not given leaderboard/results here, and where there is none runs/store, or
            what MSABENCH_STORE names.
        published: Folder of published numbers; if not given leaderboard/published here, and where there is none those
            that come with msabench.
        datasets: Only records of these corpora; all in the store if not given.

    Returns:
        The text to print.

    Raises:
        MSABenchError: There are no records, a corpus has none, a file is malformed, a library is lacking, or the folder
            is not ours.
    """
    from msabench.leaderboard.site import build_site

    return build_site(out, _store_of(store), published_folder(published), datasets)


def intervals(store: Path | None = None, datasets: list[str] | None = None, anew: bool = False) -> str:
    """Make the intervals that build and readme show, out of the store's predictions, and keep them beside the records.

    Only what is lacking is made, also of rows that have some; what is there stays as it is. Rows whose predictions are
    not here stay as they are.

    Args:
        store: Folder of the result store; if not given leaderboard/results here, and where there is none runs/store, or
            what MSABENCH_STORE names.
        datasets: Corpora; all in the store if not given.
        anew: Make those that are there anew as well, e.g. since the way to make them has changed; rows whose
            predictions are not here lose theirs.

    Returns:
        The text to print.

    Raises:
        MSABenchError: There is no such store, a corpus has no records, or a file is malformed.
    """
    from msabench.results.store import ResultStore
    from msabench.results.stored_intervals import update_intervals

    return "\n".join(update_intervals(ResultStore(_store_of(store)), datasets, anew))


def readme(store: Path = COMMITTED_STORE, out: Path = DEFAULT_README, check: bool = False) -> str:
    """Write the leaderboard's README from the records.

    Args:
        store: Folder of the result store.
        out: The file.
        check: Write nothing; fail if the file is not what would be written.

    Returns:
        The text to print.

    Raises:
        MSABenchError: There is no such store, a record file is malformed, or the file is out of date.
    """
    from msabench.leaderboard.readme import write_readme

    return write_readme(store_to_read(store), out, check)


def add(records: Path, store: Path = COMMITTED_STORE) -> str:
    """Check a contributor's records and admit them: all of them, or none.

    Args:
        records: Folder of the store to admit, with its predictions.
        store: Folder of the result store that they are to enter.

    Returns:
        The text to print.

    Raises:
        MSABenchError: Something is wrong; one sentence per problem, and nothing was admitted.
    """
    from msabench.leaderboard.admit import admit

    return admit(records, store)


def _store_of(given: Path | None) -> Path:
    """The store to show: in a clone the committed one, elsewhere one's own, unless another is given.

    Raises:
        MSABenchError: There is no such store.
    """
    chosen = store_to_read(given or (COMMITTED_STORE if COMMITTED_STORE.is_dir() else None))
    if not chosen.is_dir():
        raise no_records(chosen)
    return chosen
