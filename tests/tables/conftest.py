"""A store of results that tests fill."""

import pytest

from msabench.results.store import ResultStore


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "results"


@pytest.fixture
def store(folder):
    return ResultStore(folder)
