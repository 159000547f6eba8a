"""What a run of the tests says of those that it skipped."""

from types import SimpleNamespace

from tests.conftest import untested


def skipped(nodeid: str, reason: str) -> SimpleNamespace:
    return SimpleNamespace(nodeid=nodeid, longrepr=("clones.py", 19, f"Skipped: {reason}"))


def test_skipped_parity_tests_are_counted_by_what_they_lack() -> None:
    reports = [
        skipped("tests/parity/test_parity_gcnet.py::test_a[x]", "needs torch_geometric, of the extra parity"),
        skipped("tests/parity/test_parity_mult.py::test_b", "MSABENCH_PARITY_MULT does not name a local clone"),
        skipped("tests/parity/test_parity_gcnet.py::test_a[y]", "needs torch_geometric, of the extra parity"),
        skipped("tests/methods/test_methods.py::test_c", "by design"),
    ]
    assert untested(reports) == [
        "3 tests of parity with official code were skipped",
        "1 skipped: MSABENCH_PARITY_MULT does not name a local clone",
        "2 skipped: needs torch_geometric, of the extra parity",
    ]
    assert untested(reports[3:]) == []
